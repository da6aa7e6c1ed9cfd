"""BET over recommenders: it works with each model, goes on, and refuses in one line."""

import json
from dataclasses import replace
from functools import partial
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from benchmarks.gowalla.command import main
from click.testing import CliRunner
from recommenders.bet import (
    VARIANTS,
    Settings,
    begun,
    masked,
    principal_axes,
    quality,
    search_and_retrain,
    tuning_recipe,
)
from recommenders.interactions import bet_split, read_split
from recommenders.models import MF, MODELS, NCF, recommender
from recommenders.ranking import evaluate
from recommenders.training import Run, recipe_for

from compressae.retrieval.errors import InputError
from compressae.tables import BudgetedTable, FullTable, uniform_widths

N, D, ENTRIES = 200, 16, 640
SMALL = {"epochs": 6, "batch": 256, "candidates": 64, "check_every": 2, "learning_rate": 0.02}
FEW = Settings(iterations=6, candidates=8, tune_rate=0.02, retrain=2)


@pytest.fixture(scope="module")
def split(pairs_split):
    return bet_split(pairs_split, 0)


def maker(model, loss="softmax"):
    unit = "users" if loss == "softmax" else "none"
    return lambda table, train: recommender(model, table, train, unit, 2)


def trained(model, split, **settings):
    recipe = recipe_for(model, **{**SMALL, "epochs": 20, **settings})
    torch.manual_seed(0)
    full = maker(model, recipe.loss)(FullTable(N, D, std=0.1), split.train)
    Run(full, split, recipe).fit()
    return full, maker(model, recipe.loss), replace(recipe, epochs=SMALL["epochs"])


@pytest.mark.parametrize("model", MODELS)
def test_each_model_gets_a_table_within_the_budget(split, tmp_path, model):
    full, make, recipe = trained(model, split)
    before = {name: value.clone() for name, value in full.state_dict().items()}
    told = []
    found = search_and_retrain(
        split, make, full, ENTRIES, recipe, tmp_path, lambda *now: told.append(now), FEW
    )
    assert all(torch.equal(full.state_dict()[name], value) for name, value in before.items())
    table = found.model.table
    assert isinstance(table, BudgetedTable) and type(found.model) is type(full)
    assert table.num_parameters == ENTRIES == found.chosen.widths.sum()
    np.testing.assert_array_equal(table.widths.numpy(), found.chosen.widths)
    assert [now[:3] for now in told[:6]] == [("search", i, 6) for i in range(1, 7)]
    assert told[-1][:3] == ("retrain 2 of 2", 6, 6)

    users = np.flatnonzero(np.diff(split.valid.indptr))
    assert found.full_quality == pytest.approx(quality(full, split, users))
    assert found.chosen.quality == pytest.approx(quality(found.model, split, users))
    assert found.chosen.quality == max(one.quality for one in found.retrained)
    ranked = sorted(found.trials, key=lambda trial: -trial.fitness)
    assert ranked[-1].fitness > 0 and len(found.trials) == 6
    for one, trial in zip(found.retrained, ranked, strict=False):
        np.testing.assert_array_equal(one.widths, trial.widths)
    record = json.loads(json.dumps(found.record()))
    assert [t["fitness"] for t in record["trials"]] == [t.fitness for t in found.trials]
    assert record["chosen"] in [one["trial"] for one in record["retrained"]]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variants_of_the_search(split, untrained, tmp_path, variant):
    full, make, recipe = untrained
    settings = replace(FEW, variant=variant, tune_epochs=0, iterations=5, retrain=1)
    found = search_and_retrain(split, make, full, ENTRIES, recipe, tmp_path, settings=settings)
    choices = [trial.choice for trial in found.trials]
    assert choices == list(islice(cycle(VARIANTS[variant]["choices"]), 5))
    items = split.train.sum(axis=0)
    order = np.argsort(items)
    rises = np.diff(items[order]) > 0
    falls = [(np.diff(t.widths[120:][order])[rises] < 0).any() for t in found.trials]
    assert any(falls) == (variant == "unsorted")
    resumed = replace(settings, variant="unsorted" if variant == "paper" else "paper")
    with pytest.raises(InputError, match="checkpoint of"):
        search_and_retrain(
            split, make, full, ENTRIES, recipe, tmp_path, settings=resumed, resume=True
        )


def test_fitness_is_the_quality_of_the_tuned_mask_over_the_full_models(split, tmp_path):
    full, make, recipe = trained("mf", split)
    found = search_and_retrain(
        split, make, full, ENTRIES, recipe, tmp_path, settings=replace(FEW, tune_epochs=0)
    )
    users = np.flatnonzero(np.diff(split.valid.indptr))
    parts = [
        evaluate(full.scorer(), split.valid, split.train, K) for K in (5, 10, 20)
    ]  # fmt: skip
    assert quality(full, split, users) == pytest.approx(
        np.mean([[part.recall, part.ndcg] for part in parts])
    )
    rows, trial = full.table.rows().detach(), found.trials[0]
    mask = np.arange(D) < trial.widths[:, None]
    plain = make(FullTable.from_dense(rows * torch.from_numpy(mask)), split.train)
    assert trial.fitness == pytest.approx(quality(plain, split, users) / found.full_quality)


def test_all_that_is_learned_beside_the_table_is_kept(split):
    full, make, _ = trained("ncf", split, epochs=2)
    rows, widths = full.table.rows().detach(), np.full(N, D)
    same = masked(make, full, rows, widths, split.train)
    torch.testing.assert_close(same.final(), full.final())
    users = np.arange(5)
    np.testing.assert_allclose(same.scorer()(users), full.scorer()(users), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_a_try_reaches_the_rate_that_it_was_given(split, epochs):
    tuning = tuning_recipe(
        split, recipe_for("mf", **SMALL), Settings(tune_epochs=epochs, tune_rate=0.03)
    )
    run = Run(MF(FullTable(N, D), split.train, "users"), split.without_validation(), tuning)
    taken, step = [], run._adam.step
    run._adam.step = lambda: (taken.append(run._adam.param_groups[0]["lr"]), step())
    run.fit()
    assert run.outcome.epochs == epochs and max(taken) == pytest.approx(0.03)
    assert taken[0] < max(taken) and (epochs == 1 or taken[-1] < max(taken))


def test_retraining_starts_small_and_at_random_or_from_the_dense_rows(split):
    full, make, recipe = trained("lightgcn", split, epochs=2)
    rows, widths = full.table.rows().detach(), uniform_widths(N, D, ENTRIES)
    start = partial(begun, make, full, widths, split.train, recipe)
    one, same = (start(Settings(std=0.01)).table.values for _ in range(2))
    assert torch.equal(one, same) and 0.008 < one.std() < 0.012
    dense = start(Settings(start="dense")).table.rows()
    torch.testing.assert_close(dense, rows * (torch.arange(D) < torch.tensor(widths)[:, None]))


def test_principal_axes_keep_products_and_put_the_most_first(split, tmp_path):
    full, make, recipe = trained("lightgcn", split)
    rows = full.table.rows().detach()
    turned = principal_axes(rows)
    torch.testing.assert_close(turned @ turned.T, rows @ rows.T, rtol=1e-4, atol=1e-5)
    lengths = (turned**2).sum(0)
    assert (lengths.diff() <= 1e-6).all() and lengths[:4].sum() > (rows**2).sum(0)[:4].sum()
    users = np.flatnonzero(np.diff(split.valid.indptr))
    whole = make(FullTable.from_dense(turned), split.train)
    assert quality(whole, split, users) == pytest.approx(quality(full, split, users), rel=0.01)

    principal = replace(FEW, axes="principal", tune_epochs=0, iterations=2, retrain=1)
    for folder in ("turned", "given"):
        (tmp_path / folder).mkdir()
    found = search_and_retrain(
        split, make, full, ENTRIES, recipe, tmp_path / "turned", settings=principal
    )
    given = search_and_retrain(
        split, make, full, ENTRIES, recipe, tmp_path / "given",
        settings=replace(principal, axes="given"),
    )  # fmt: skip
    assert found.trials[0].fitness > given.trials[0].fitness  # The same widths of both.
    np.testing.assert_array_equal(found.trials[0].widths, given.trials[0].widths)
    with pytest.raises(InputError, match="axes 'principal' change the scores of NCF"):
        ncf = NCF(FullTable(N, D), split.train)
        search_and_retrain(split, make, ncf, ENTRIES, recipe, tmp_path, settings=principal)


@pytest.fixture(scope="module")
def untrained(split):
    return trained("mf", split, epochs=2)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(split, tmp_path_factory):
    """(make, recipe, a search to run, the same run without a stop)."""
    full, make, recipe = trained("mf", split, epochs=4)
    run = partial(search_and_retrain, split, make, full, ENTRIES, recipe)
    return make, recipe, run, run(tmp_path_factory.mktemp("whole"), settings=FEW)


@pytest.mark.parametrize("stage", [("search", 3), ("retrain 1 of 2", 2), ("retrain 2 of 2", 5)])
def test_going_on_equals_not_stopping(split, uninterrupted, tmp_path, stage):
    make, recipe, run, whole = uninterrupted
    (tmp_path / "parts").mkdir()

    def interrupt(*now):
        if now[:2] == stage:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "parts", interrupt, FEW)
    told = []
    again = run(tmp_path / "parts", lambda *now: told.append(now[:2]), FEW, resume=True)
    assert stage not in told and told[0] == (stage[0], stage[1] + 1)
    assert [t.fitness for t in again.trials] == [t.fitness for t in whole.trials]
    np.testing.assert_array_equal(again.chosen.widths, whole.chosen.widths)
    assert torch.equal(again.model.final(), whole.model.final())

    longer = run(tmp_path / "parts", settings=replace(FEW, iterations=7), resume=True)
    assert [t.fitness for t in longer.trials[:6]] == [t.fitness for t in whole.trials]
    with pytest.raises(InputError, match="checkpoint of tune_epochs = 1, but 2 was asked for"):
        run(tmp_path / "parts", settings=replace(FEW, tune_epochs=2), resume=True)
    other, *_ = trained("mf", split, epochs=3)
    with pytest.raises(InputError, match="checkpoint of full_rows"):
        search_and_retrain(
            split, make, other, ENTRIES, recipe, tmp_path / "parts", settings=FEW, resume=True
        )


def test_what_cannot_be_searched_is_refused(split, tmp_path):
    full = MF(FullTable(N, D, std=0.1), split.train, "users")
    recipe = recipe_for("mf", **SMALL)
    with pytest.raises(InputError, match="199 entries for 200 rows of 1 at least"):
        search_and_retrain(split, maker("mf"), full, 199, recipe, tmp_path)
    with pytest.raises(InputError, match="no validation pair; expected some to search by"):
        none = split.without_validation()
        search_and_retrain(none, maker("mf"), full, ENTRIES, recipe, tmp_path)
    few, unknown = {"iterations": 0}, {"variant": "x"}
    for wrong in (few, {"tune_epochs": -1}, {"start": "warm"}, {"axes": "x"}, unknown):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} .*; expected"):
            Settings(**wrong)


def script(*arguments):
    return CliRunner().invoke(main, ["widths", *map(str, arguments)])


QUICK = ("--dim", 16, "--keep", 0.2, "--epochs", 4, "--batch", 256, "--iterations", 3,
         "--draws", 5, "--retrain", 2, "--candidates", 64, "--temperature", 0.1)  # fmt: skip


@pytest.mark.parametrize("protocol", ["bet", "lightgcn"])
def test_the_script_writes_what_it_says(data, tmp_path, protocol):
    out = tmp_path / "out"
    done = script(data, "-o", out, *QUICK, "--protocol", protocol)
    assert done.exit_code == 0, done.output
    widths, table = np.load(out / "widths.npy"), np.load(out / "table.npy")
    assert widths.dtype == np.int64 and widths.sum() == 640 == np.count_nonzero(table)
    assert (table[np.arange(16) >= widths[:, None]] == 0).all()
    metrics = json.loads((out / "metrics.json").read_text())
    split = read_split(data) if protocol == "lightgcn" else bet_split(read_split(data), 0)
    rebuilt = maker("lightgcn")(FullTable.from_dense(table), split.train)
    rebuilt.layers = 3
    judged = evaluate(rebuilt.scorer(), split.test, split.train)
    assert metrics["recall20"] == pytest.approx(judged.recall, abs=1e-3)
    assert metrics["ndcg20"] == pytest.approx(judged.ndcg, abs=1e-3)
    assert f"Recall@20 {metrics['recall20']:.4f}" in done.stdout and "640 of 3,200" in done.stdout
    recipe, searched = metrics["settings"]["recipe"], metrics["settings"]["search"]
    assert recipe["temperature"] == 0.1 and recipe["decay"] == pytest.approx(1.5 * 0.2**0.5)
    assert recipe["candidates"] == 64 and searched["candidates"] == 5
    assert metrics["entries"] == 640 and metrics["nbytes"] == 640 * 4 + 200 + 4 * 8
    assert len([*out.glob("retrain-whole-*")]) == (protocol == "lightgcn")
    found = json.loads((out / "search.json").read_text())
    assert len(found["trials"]) == 3 and len(found["retrained"]) == 2
    assert {"family", "parameter", "entries"} == set(found["trials"][0]["drawn"][0])
    lines = [line for line in done.stderr.splitlines() if line.startswith("search ")]
    assert len(lines) == 3 and "fitness" in lines[0]

    again = script(data, "-o", out, *QUICK, "--protocol", protocol, "--resume")
    assert again.exit_code == 0 and again.stderr == ""  # Nothing is left to do.
    resumed = json.loads((out / "metrics.json").read_text())
    assert "--resume" in resumed.pop("command") and metrics.pop("command") and resumed == metrics
    taken = script(data, "-o", tmp_path / "other", *QUICK, "--protocol", protocol, "--no-test",
                   "--full", out / "full")  # fmt: skip
    assert taken.exit_code == 0, taken.output
    np.testing.assert_array_equal(np.load(tmp_path / "other" / "widths.npy"), widths)
    assert "Recall" not in taken.stdout and not (tmp_path / "other" / "full").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--keep", 0.05), "keep 0.05 of 200 rows of 16; expected 0.0625 to 1"),
        (("--keep", 2), "keep 2.0 of 200 rows"),
        (("--keep", "nan"), "keep nan of 200 rows"),
        (("--protocol", "lightgcn", "--validation", 0), "validation share 0.0: expected one that"),
        (("--iterations", 0), "iterations 0; expected 1 or more"),
        (("--tune-rate", -1), "tune_rate -1.0; expected a positive number"),
        (("--full", "nowhere"), "nowhere: no such folder"),
        (("--axes", "principal", "--model", "ncf"), "axes 'principal' change"),
    ],
)
def test_bad_input_is_one_line_and_no_work(data, tmp_path, changed, message):
    done = script(data, "-o", tmp_path / "out", *QUICK, *changed)
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"Error: {message}") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_other_settings_and_places_are_one_line(data, tmp_path):
    out = tmp_path / "out"
    assert script(data, "-o", out, *QUICK, "--no-test").exit_code == 0
    refused = script(data, "-o", out, *QUICK, "--no-test", "--resume", "--tune-epochs", 2)
    assert refused.exit_code == 1 and "checkpoint of tune_epochs = 1" in refused.stderr
    unwritable = script(data, "-o", data / "out", *QUICK)
    assert unwritable.exit_code == 1 and unwritable.stderr.startswith("Error: [Errno")
    missing = script(tmp_path / "none.npz", "-o", tmp_path / "other", *QUICK)
    assert missing.exit_code == 1 and "no such file" in missing.stderr
