"""A report's table, files and the places it refuses."""

import io
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
import rich.console

from compressae import InputError
from compressae.evaluation import report
from compressae.evaluation.plots import frontier
from compressae.evaluation.protocol import Evaluation, Record
from compressae.evaluation.summary import full_name, label, summarise, training, verdict
from compressae.retrieval import Hits

TRUTH = np.tile(np.arange(100), (2, 1))


def record(method, settings, shift, **figures):
    """A record that finds all but the best ``shift`` of each query."""
    ids = TRUTH + shift
    scores = np.linspace(0.9, 0.1, 200, dtype=np.float32).reshape(100, 2).T
    return Record(
        method,
        settings,
        build_seconds=0.66,
        times_ms=np.linspace(0.5, 1.5, 101),
        hits=Hits(ids, scores),
        exact=scores / 2,
        **figures,
    )


def asymmetric(C, shift, speed):
    settings = {
        "code_bytes": 64,
        "latents": 4096,
        "nonzeros": 16,
        "residual_bytes": 35,
        "values": "int2",
        "candidates": C,
    }
    sizes = dict(code_bytes=64.0, bytes_an_item=1262.4, constant_bytes=6_300_000)
    return record(
        "asymmetric", settings, shift, queries_per_second=speed, trained_rows=19_000, **sizes
    )


GOOD = asymmetric(1000, 5, 2377.4)
DENSE = record("dense", {}, 0, code_bytes=1536.0, bytes_an_item=1536.0, queries_per_second=900.0)
FAILED = Record("sparse", {}, error="no room for <b>it</b> | at all")


@pytest.fixture
def evaluation():
    about = {"table": "items.npy", "items": 19000, "dim": 384, "queries": 2, "odd": float("nan")}
    truth = Hits(TRUTH, TRUTH.astype(np.float32))
    records = [GOOD, asymmetric(3000, 2, 1200.0), DENSE, FAILED]
    return Evaluation(about, truth, np.array([7, 9]), records)


def names(folder):
    return sorted(os.listdir(folder))


def test_cells(evaluation):
    good, _, _, failed = report.rows(summarise(evaluation))
    assert dict(zip(report.header(summarise(evaluation)), good, strict=True)) == {
        "method": "asymmetric k=16 residual=35 C=1000",
        "code B/item": "64",
        "held B/item": "1,262",
        "constant MB": "6.3",
        "all B/item": "1,594",
        "recall@1": "0.000 ±.000",
        "recall@10": "0.500 ±.000",
        "recall@100": "0.950 ±.000",
        "score r": "1.000 ±.000",
        "build s": "0.7",
        "p50 ms": "1.00",
        "p99 ms": "1.49",
        "queries/s": "2,377",
    }
    assert failed[:2] == ["sparse", "failed: no room for <b>it</b> | at all"]
    assert len(failed) == len(good)


def test_figures_have_intervals(evaluation):
    truth = evaluation.truth.ids.copy()
    truth[1] += 1000
    half = Evaluation(evaluation.about, Hits(truth, evaluation.truth.scores), np.arange(2), [DENSE])
    (entry,) = summarise(half)["methods"]
    assert entry["metrics"]["recall@10"] == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert entry["family"] == "dense rows" and entry["error"] is None
    assert report.rows(summarise(half))[0][5] == "0.500 ±.500"
    shown = Record("truncate", {"code_bytes": 16, "values": "float16"})
    assert label(shown) == "truncate B=16 values=float16"


@pytest.mark.parametrize(
    ("method", "settings", "name"),
    [
        (
            "asymmetric-all",
            {"nonzeros": 16, "residual_bytes": 31},
            "scan, 16 nonzeros + 31 residual bytes",
        ),
        ("asymmetric", {"nonzeros": 8, "candidates": 3000}, "lists, 3,000 candidates, 8 nonzeros"),
        ("sparse", {"nonzeros": 36, "residual_bytes": 0}, "sparse queries, 36 nonzeros"),
        ("asymmetric-all", {"nonzeros": 5, "values": "int4"}, "scan, 5 nonzeros, int4 values"),
    ],
)
def test_our_rows_are_named_by_what_was_chosen(method, settings, name):
    assert full_name(Record(method, settings)) == f"compressae, {name}"


def scan(shift, settings=None, **sizes):
    sizes = {"code_bytes": 64.0, "bytes_an_item": 64.0, "constant_bytes": 1000, **sizes}
    settings = {"code_bytes": 64} if settings is None else settings
    return record("asymmetric-all", settings, shift, queries_per_second=1.0, **sizes)


def rival(method, shift, held=64.0, constants=1000):
    sizes = dict(code_bytes=held, bytes_an_item=held, constant_bytes=constants)
    return record(method, {}, shift, queries_per_second=1.0, **sizes)


START = "At 64 B, compressae keeps 91 % of the exact top 100; "
BEST = START + "the best other method at about the same bytes (rq) keeps "
NONE = "no other method was measured at about the same bytes."
CONSTANTS = "Constants, whatever the number of items, add "


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([scan(9), rival("rq", 12), rival("pq", 30), DENSE], [BEST + "88 %."]),
        (
            [scan(9), rival("rq", 5, held=70.0)],
            [START + "another method at about the same bytes (rq) keeps 95 % and is ahead."],
        ),
        ([scan(9), rival("rq", 9)], [BEST + "91 %: no clear difference."]),
        ([scan(9), rival("rq", 5, held=71.0)], [START + NONE]),
        (
            [scan(9, constant_bytes=121_700), rival("rq", 12, constants=25_000_000)],
            [
                BEST + "88 %.",
                CONSTANTS + "0.1 MB for compressae (10 % of its codes) and 25.0 MB for rq (2,056 % "
                "of its codes).",
            ],
        ),
        (
            [scan(30, {"nonzeros": 5}, code_bytes=6.01, bytes_an_item=6.01), scan(9), GOOD],
            [
                "At 6 B, compressae keeps 70 % of the exact top 100; " + NONE,
                "At 64 B of codes (1,262 B with posting lists), compressae keeps 95 % of the exact "
                "top 100; " + NONE,
                CONSTANTS + "6.3 MB for compressae (518 % of its codes).",
            ],
        ),
        ([DENSE], ["compressae was not measured."]),
        ([DENSE, FAILED], ["compressae failed."]),
    ],
    ids=["ahead", "behind", "equal", "larger", "constants", "two sizes", "without", "failed"],
)
def test_the_verdict_is_said_in_words(evaluation, records, said):
    assert verdict(replace(evaluation, records=records)) == said


def test_figures_of_training_rows(evaluation):
    records = [replace(GOOD, trained_rows=500), replace(rival("pq", 3), trained_rows=500), DENSE]
    summary = summarise(replace(evaluation, records=records))
    assert training(summary) == [
        "Trained on 500 rows: asymmetric, pq.",
        "Not trained: dense.",
    ]
    summary["about"]["train_rows"] = 500
    assert "Everything is learned from the same 500 of these rows" in report.markdown(summary)


@pytest.mark.parametrize(("width", "gone"), [(300, 0), (120, 6), (60, 8)])
def test_a_narrow_terminal_has_fewer_columns_and_whole_cells(evaluation, monkeypatch, width, gone):
    class Terminal(rich.console.Console):
        def __init__(self, width=width, **options):
            super().__init__(width=width, force_terminal=True, color_system=None, **options)

    monkeypatch.setattr("rich.console.Console", Terminal)
    with redirect_stdout(io.StringIO()) as out:
        report.print_table(summarise(evaluation))
    lines = out.getvalue().splitlines()
    assert lines[1].count("┃") == len(report.header(summarise(evaluation))) - gone + 1
    assert "asymmetric k=16 residual=35 C=1000" in out.getvalue() and "…" not in out.getvalue()


def test_markdown_is_a_table_with_its_legend(evaluation):
    lines = report.markdown(summarise(evaluation)).splitlines()
    table = [line.replace("\\|", "/") for line in lines if line.startswith("|")]
    columns = len(report.header(summarise(evaluation)))
    assert len(table) == 6 and {line.count("|") for line in table} == {columns + 1}
    assert "19,000 items of 384 dimensions from items.npy" in "\n".join(lines)
    assert any(line.startswith("- asymmetric: x·ŷ") for line in lines)
    assert lines[2] == f"**{' '.join(verdict(evaluation))}**"
    assert "Trained on 19,000 rows: asymmetric." in lines and "Not trained: dense." in lines
    assert "- odd: null" in lines


def test_print_table(evaluation, capsys):
    report.print_table(summarise(evaluation))
    out = capsys.readouterr().out
    assert "Trained on 19,000 rows: asymmetric.\nNot trained: dense.\nAt 64 B of codes" in out
    assert "0.950 ±.000" in out and "sparse failed: no room for <b>it</b> | at all" in out


def test_write_gives_five_files(evaluation, tmp_path):
    assert report.write(evaluation, tmp_path / "report") is True
    assert names(tmp_path) == ["report"]
    assert names(tmp_path / "report") == [
        "hits.npz",
        "report.html",
        "report.json",
        "report.md",
        "report.png",
    ]
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "report.md").read_text() == report.markdown(summarise(evaluation))
    raw = json.loads((tmp_path / "report" / "report.json").read_text())
    assert raw["about"]["odd"] is None and raw["methods"][3]["error"].startswith("no room")
    assert raw == json.loads(json.dumps(summarise(evaluation)))
    with np.load(tmp_path / "report" / "hits.npz") as held:
        np.testing.assert_array_equal(held["queries"], [7, 9])
        np.testing.assert_array_equal(held["truth_ids"], TRUTH)
        np.testing.assert_array_equal(held["0_ids"], GOOD.hits.ids)
        np.testing.assert_array_equal(held["2_scores"], DENSE.hits.scores)
        np.testing.assert_array_equal(held["0_times_ms"], GOOD.times_ms)
        assert not any(name.startswith("3_") for name in held)


def test_without_matplotlib_there_is_no_picture(evaluation, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("matplotlib")] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert report.write(evaluation, tmp_path / "report") is False
    assert "report.png" not in names(tmp_path / "report")


def test_an_older_report_is_replaced(evaluation, tmp_path):
    report.write(evaluation, tmp_path / "report")
    only = Evaluation(evaluation.about, evaluation.truth, evaluation.queries, [FAILED])
    report.write(only, tmp_path / "report")
    raw = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [method["method"] for method in raw["methods"]] == ["sparse"]
    assert names(tmp_path) == ["report"]


def test_a_failure_leaves_the_older_report_whole(evaluation, tmp_path, monkeypatch):
    report.write(evaluation, tmp_path / "report")
    before = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "draw", full)
    with pytest.raises(InputError, match="No space left on device"):
        report.write(evaluation, tmp_path / "report")
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


def test_the_frontier_is_what_nothing_beats():
    points = [(1, 0.2), (2, 0.5), (2, 0.4), (3, 0.5), (4, 0.9), (5, 0.1), (4, 0.9)]
    assert frontier(points, low=True) == [(1, 0.2), (2, 0.5), (4, 0.9)]
    assert frontier(points, low=False) == [(4, 0.9), (5, 0.1)]


@pytest.fixture
def page(evaluation, tmp_path, open_page):
    report.write(evaluation, tmp_path / "report")
    return open_page(tmp_path / "report" / "report.html")


def test_the_page_draws_every_method_and_says_what_failed(page):
    assert page.title() == "Evaluation of items.npy"
    assert page.locator("#size-chart .mark").count() == 3
    assert page.locator("#speed-chart .mark").count() == 3
    assert page.locator("tbody tr").count() == 4
    assert "failed: no room for <b>it</b> | at all" in page.locator("tbody tr").nth(3).inner_text()
    assert page.locator("tbody b").count() == 0
    assert page.locator("tbody tr.ours").count() == 3
    # Fewer bytes, or no other as good: GOOD and the slower one have equal bytes.
    assert page.locator("#size-chart .mark.best").count() == 2
    assert page.locator("#speed-chart .mark.best").count() == 3


def test_the_page_opens_with_the_verdict_and_fits_a_screen(page, evaluation):
    sentences = page.locator("main > .verdict p").all_text_contents()
    assert sentences == verdict(evaluation) and len(sentences) == 2
    assert page.locator("main > *").nth(1).get_attribute("class") == "verdict"
    page.set_viewport_size({"width": 1300, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "(box => box.scrollWidth <= box.clientWidth)(document.querySelector('.scroll'))"
    )


def test_pointing_at_a_mark_shows_its_settings(page):
    tip, marks = page.locator("#tip"), page.locator("#size-chart .mark")
    assert not tip.is_visible()
    marks.nth(1).hover()
    said = tip.inner_text()
    assert said.startswith("compressae, lists, 3,000 candidates, 16 nonzeros + 35 residual bytes\n")
    assert "asymmetric k=16 residual=35 C=3000" in said and "1,200 queries/s" in said
    assert "trained on 19,000 rows" in said
    assert "recall@10 0.800 [0.800, 0.800]" in said
    page.mouse.move(5, 5)
    assert not tip.is_visible()
    marks.nth(2).focus()
    assert "dense" in tip.inner_text()


def test_quality_size_and_families_can_be_chosen(page):
    def height(n):
        return page.locator("#size-chart .mark").nth(n).bounding_box()["y"]

    before = height(0)
    page.select_option("#metric", "recall@100")
    assert height(0) < before  # .95 is drawn above .50.
    page.select_option("#size", "code bytes an item")
    assert "code bytes an item" in page.locator("#size-chart").inner_text()
    page.get_by_role("button", name="dense rows").click()
    assert page.locator("#size-chart .mark").count() == 2
    page.get_by_role("button", name="compressae").click()
    assert "Nothing to show." in page.locator("#speed-chart").inner_text()


def test_the_table_sorts_by_any_column_with_failures_last(page):
    def column(n):
        rows = page.locator("tbody tr")
        return [rows.nth(i).locator("td").nth(n).inner_text() for i in range(3 if n else 4)]

    ours = [
        f"compressae, lists, {C} candidates, 16 nonzeros + 35 residual bytes"
        for C in ("1,000", "3,000")
    ]
    assert [cell.split("\n")[0] for cell in column(0)] == [
        *ours,
        "dense",
        "compressae, sparse queries",
    ]
    page.get_by_role("button", name="queries/s").click()
    assert column(12) == ["2,377", "1,200", "900"] and column(0)[3] == "compressae, sparse queries"
    page.get_by_role("button", name="queries/s").click()
    assert column(12) == ["900", "1,200", "2,377"] and column(0)[3] == "compressae, sparse queries"
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
