"""The command that says whether a model still fits."""

import json
import re

import numpy as np
import pytest
from commands import call

from compressae import CompresSAE
from compressae.evaluation.drift import check


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, new rows that fit it and others that do not."""
    folder = tmp_path_factory.mktemp("check")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, 30, 16))
    for name, which, count in (("table", 0, 1500), ("same", 0, 300), ("other", 1, 300)):
        rows = centres[which][rng.integers(0, 30, count)] + 0.3 * rng.standard_normal((count, 16))
        np.save(folder / f"{name}.npy", rows.astype(np.float32))
    settings = ("--latents", 64, "--nonzeros", 4, "--steps", 12, "--hold-out", 300)
    code, _, err = call("train", folder / "table.npy", "-o", folder / "model", *settings)
    assert code == 0, err
    old = CompresSAE.load(folder / "model")
    del old.settings["reference"]
    old.save(folder / "old")
    return folder


def test_a_batch_that_fits(made):
    before = sorted(path.name for path in made.iterdir())
    code, out, err = call("check", made / "model", made / "same.npy")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "reference: 300 held-out rows; now: 300 of 300 rows"
    assert lines[-1] == "fits" and len(lines) == 7
    for line, name in zip(
        lines[1:-1], ["mean cosine", "low", "recall@10", "live", "list"], strict=True
    ):
        assert line.startswith(name) and line.endswith(": fits")
    figures = r"0\.\d+ \(FVU 0\.\d+\)"
    assert re.fullmatch(rf"mean cosine: {figures}, now {figures}, limit 0\.\d+: fits", lines[1])
    assert sorted(path.name for path in made.iterdir()) == before


def test_a_batch_that_does_not(made):
    code, out, _ = call("check", made / "model", made / "other.npy")
    lines = out.splitlines()
    assert code == 3 and lines[1].endswith(": worse")
    assert lines[-1].startswith("retrain: mean cosine fell from 0.")


@pytest.mark.parametrize(("batch", "expected"), [("same", 0), ("other", 3)])
def test_json(made, batch, expected):
    code, out, _ = call("check", made / "model", made / f"{batch}.npy", "--json")
    said = json.loads(out)
    assert code == expected and set(said) == {
        "rows",
        "measured",
        "source",
        "reference_rows",
        "findings",
        "fvu",
        "retrain",
        "verdict",
    }
    assert all(
        set(one) == {"name", "reference", "now", "limit", "worse"} for one in said["findings"]
    )
    found = check(CompresSAE.load(made / "model"), np.load(made / f"{batch}.npy"))
    assert said["retrain"] is found.retrain and said["verdict"] == found.verdict
    assert [one["now"] for one in said["findings"]] == [one.now for one in found.findings]


def test_a_model_without_figures_takes_a_table(made):
    code, out, err = call("check", made / "old", made / "same.npy")
    assert (code, out) == (1, "") and "--reference TABLE" in err and err.count("\n") == 1
    table = ("--reference", made / "table.npy")
    code, out, _ = call("check", made / "old", made / "same.npy", *table)
    kept = call("check", made / "model", made / "same.npy")[1]
    number = r"\d+\.\d+"  # A model keeps six digits, which may round another way.
    assert code == 0 and re.sub(number, "", out) == re.sub(number, "", kept)
    figures = [np.array(re.findall(number, text), float) for text in (out, kept)]
    np.testing.assert_allclose(*figures, atol=1.1e-3)
    assert call("check", made / "old", made / "other.npy", *table)[0] == 3
    code, out, _ = call(
        "check", made / "model", made / "same.npy", "--reference", made / "other.npy"
    )
    assert "reference: 300 rows of another table" in out


def test_bad_input_is_one_line(made, tmp_path):
    rows = np.load(made / "same.npy")
    bad = rows.copy()
    bad[17, 2] = np.nan
    for name, table in [("few", rows[:99]), ("narrow", rows[:, :9]), ("nan", bad)]:
        np.save(tmp_path / f"{name}.npy", table)
    for name, said in [
        ("few", "99 rows; a batch is judged from 100 rows on"),
        ("narrow", "rows of 9 columns, but the model was trained on 16"),
        ("nan", "row 17 holds NaN"),
        ("absent", "no such file"),
    ]:
        code, out, err = call("check", made / "model", tmp_path / f"{name}.npy")
        assert (code, out) == (1, "") and said in err and err.count("\n") == 1, err
    assert call("check", tmp_path / "none", made / "same.npy")[0] == 1
    assert call("check", made / "model")[0] == 2
    assert call("check", made / "model", made / "same.npy", "--magic")[0] == 2
