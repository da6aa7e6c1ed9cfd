"""A report's table, files and the places it refuses."""

import json
import os
import sys

import pytest

from compressae import InputError
from compressae.evaluation import report
from compressae.evaluation.protocol import Evaluation, Record

GOOD = Record(
    "asymmetric",
    {"scoring": "asymmetric"},
    code_bytes=100.0,
    bytes_an_item=1262.4,
    constant_bytes=6_300_000,
    build_seconds=0.66,
    p50_ms=0.789,
    p99_ms=1.25,
    queries_per_second=2377.4,
    recall10=[1.0, 0.5],
    recall100=[0.8, 0.9],
    found=[[3, 1], [2, -1]],
)
FAILED = Record("sparse", {}, error="no room")


@pytest.fixture
def evaluation():
    about = {"table": "items.npy", "items": 19000, "dim": 384, "queries": 2, "odd": float("nan")}
    return Evaluation(about, [GOOD, FAILED])


def names(folder):
    return sorted(os.listdir(folder))


def test_cells(evaluation):
    good, failed = report.rows(evaluation)
    assert dict(zip(report.HEADER, good, strict=True)) == {
        "method": "asymmetric", "code B/item": "100", "held B/item": "1,262",
        "constant MB": "6.3", "recall@10": "0.750", "recall@100": "0.850", "build s": "0.7",
        "p50 ms": "0.79", "p99 ms": "1.25", "queries/s": "2,377",
    }  # fmt: skip
    assert failed == ["sparse", "failed: no room"] + [""] * (len(report.HEADER) - 2)


def test_markdown_is_a_table_with_its_legend(evaluation):
    lines = report.markdown(evaluation).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 and {line.count("|") for line in table} == {len(report.HEADER) + 1}
    assert "19,000 items of 384 dimensions from items.npy" in "\n".join(lines)
    assert any(line.startswith("- asymmetric: x·ŷ") for line in lines)


def test_print_table(evaluation, capsys):
    report.print_table(evaluation)
    out = capsys.readouterr().out
    assert "0.850" in out and "failed: no room" in out


def test_write_gives_three_files(evaluation, tmp_path):
    assert report.write(evaluation, tmp_path / "report") is True
    assert names(tmp_path) == ["report"]
    assert names(tmp_path / "report") == ["report.json", "report.md", "report.png"]
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "report.md").read_text() == report.markdown(evaluation)
    raw = json.loads((tmp_path / "report" / "report.json").read_text())
    assert raw["about"]["odd"] is None and raw["records"][1]["p50_ms"] is None
    assert raw["records"][0]["found"] == GOOD.found
    assert raw["records"][0]["recall100"] == GOOD.recall100


def test_without_matplotlib_there_is_no_picture(evaluation, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("matplotlib")] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert report.write(evaluation, tmp_path / "report") is False
    assert names(tmp_path / "report") == ["report.json", "report.md"]


def test_an_older_report_is_replaced(evaluation, tmp_path):
    report.write(evaluation, tmp_path / "report")
    report.write(Evaluation(evaluation.about, [FAILED]), tmp_path / "report")
    raw = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [record["method"] for record in raw["records"]] == ["sparse"]
    assert names(tmp_path) == ["report"]


def test_a_failure_leaves_the_older_report_whole(evaluation, tmp_path, monkeypatch):
    report.write(evaluation, tmp_path / "report")
    before = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "draw", full)
    with pytest.raises(InputError, match="No space left on device"):
        report.write(Evaluation(evaluation.about, [FAILED]), tmp_path / "report")
    assert {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()} == before
    assert names(tmp_path) == ["report"]


@pytest.mark.parametrize("place", ["beside ours", "of another program", "damaged", "letters"])
def test_folders_with_anything_else_are_left_alone(evaluation, tmp_path, place):
    folder = tmp_path / "folder"
    if place == "beside ours":
        report.write(evaluation, folder)
        (folder / "notes.txt").write_text("mine")
    else:
        folder.mkdir()
        name = "dear.txt" if place == "letters" else "report.json"
        (folder / name).write_text("{" if place == "damaged" else '{"tests": 3}')
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for refuse in (report.check_report_destination, lambda f: report.write(evaluation, f)):
        with pytest.raises(InputError, match="left as it is"):
            refuse(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert names(tmp_path) == ["folder"]


def test_a_file_and_a_missing_parent_are_refused(evaluation, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file stands there"):
        report.write(evaluation, tmp_path / "file")
    with pytest.raises(InputError, match="does not exist; create it"):
        report.write(evaluation, tmp_path / "no" / "report")
    assert names(tmp_path) == ["file"]
