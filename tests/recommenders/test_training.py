"""Training: each model learns planted groups, stops in time, and goes on from a checkpoint."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.gowalla.command import main
from click.testing import CliRunner
from recommenders.interactions import hold_out, read_split
from recommenders.models import MF, NCF, NGCF, LightGCN
from recommenders.ranking import evaluate
from recommenders.training import Recipe, Run

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable

SMALL = Recipe(epochs=30, batch=256, candidates=64, check_every=5, learning_rate=0.02)


@pytest.fixture(scope="module")
def split(pairs_split):
    return hold_out(pairs_split, 0.2, 0)


def started(kind, split, recipe, unit="users", seed=0):
    recipe = replace(recipe, decay=0.0) if recipe.loss == "bpr" else recipe
    torch.manual_seed(seed)
    return Run(kind(FullTable(200, 16, std=0.1), split.train, unit), split, recipe)


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
@pytest.mark.parametrize("kind", [MF, NCF, LightGCN, NGCF])
def test_each_model_finds_the_groups_and_popularity_does_not(split, kind, loss):
    popular = split.train.sum(axis=0)
    floor = evaluate(lambda users: np.tile(popular, (len(users), 1)), split.test, split.train, 10)
    assert 0.1 < floor.recall < 0.5
    run = started(
        kind,
        split,
        replace(SMALL, loss=loss, batch=128),
        unit="users" if loss == "softmax" else "none",
    )
    before = evaluate(run.model.scorer(), split.test, split.train, 10)
    outcome = run.fit()
    found = evaluate(run.model.scorer(), split.test, split.train, 10)
    assert found.recall > max(1.5 * floor.recall, 2 * before.recall), (before, floor, found)
    assert found.ndcg > 1.5 * floor.ndcg
    best = max(outcome.curve, key=lambda point: point.ndcg)
    assert best.epoch == outcome.best_epoch
    held = evaluate(run.model.scorer(), split.valid, split.train)
    assert (held.recall, held.ndcg) == pytest.approx((best.recall, best.ndcg))


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
@pytest.mark.parametrize("kind", [NCF, LightGCN, partial(NGCF, dropout=(0.1, 0.1))])
def test_going_on_equals_not_stopping(split, kind, loss, tmp_path):
    recipe = replace(SMALL, epochs=6, loss=loss, check_every=2)
    whole = started(kind, split, recipe)
    whole.fit()
    started(kind, split, recipe).fit(tmp_path / "state", stop_after=3)
    again = started(kind, split, recipe, seed=9)  # Another beginning, which the file replaces.
    again.resume(tmp_path / "state")
    assert again.outcome.epochs == 3
    again.fit(tmp_path / "state")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    for one, other in zip(whole.outcome.curve, again.outcome.curve, strict=True):
        assert replace(one, seconds=0) == replace(other, seconds=0)
    finished = started(kind, split, recipe)
    finished.resume(tmp_path / "state")
    assert finished.fit().epochs == 6  # Nothing is left to do; the best state is in the model.
    assert torch.equal(finished.model.final(), whole.model.final())


def test_checkpoints_of_other_settings_are_refused(split, tmp_path):
    started(MF, split, replace(SMALL, epochs=1)).fit(tmp_path / "state")
    with pytest.raises(InputError, match="checkpoint of epochs = 1, but 2 was asked for"):
        started(MF, split, replace(SMALL, epochs=2)).resume(tmp_path / "state")
    with pytest.raises(InputError, match="checkpoint of model = MF, but LightGCN was asked for"):
        started(LightGCN, split, replace(SMALL, epochs=1)).resume(tmp_path / "state")
    with pytest.raises(InputError, match="checkpoint of train_pairs"):
        started(MF, split.whole(), replace(SMALL, epochs=1)).resume(tmp_path / "state")


def test_it_stops_when_validation_gets_no_better(split):
    run = started(MF, split, replace(SMALL, epochs=400, check_every=1, patience=2))
    outcome = run.fit()
    assert outcome.epochs == outcome.best_epoch + 2 < 400


def test_without_validation_pairs_the_last_epoch_is_kept(split):
    run = started(MF, split.whole(), replace(SMALL, epochs=3))
    told = []
    outcome = run.fit(report=lambda *now: told.append(now))
    assert (outcome.epochs, outcome.best_epoch, outcome.curve) == (3, 3, [])
    assert [now[:2] for now in told] == [(1, 3), (2, 3), (3, 3)]


def test_seeds_decide(split):
    runs = [started(LightGCN, split, replace(SMALL, epochs=2, seed=seed)) for seed in (0, 0, 1)]
    finals = [(run.fit(), run.model.final())[1] for run in runs]
    assert torch.equal(finals[0], finals[1]) and not torch.equal(finals[0], finals[2])


def test_validation_users_are_a_sample(split):
    run = started(MF, split, replace(SMALL, check_users=17))
    assert len(run.checked_users) == 17 and np.diff(split.valid.indptr)[run.checked_users].all()
    assert len(started(MF, split, replace(SMALL, check_users=0)).checked_users) == 120


@pytest.mark.parametrize(
    "setting", [{"loss": "mse"}, {"epochs": 0}, {"temperature": 0.0}, {"decay": -1.0}]
)
def test_recipes_check_themselves(setting):
    with pytest.raises(InputError, match=f"{next(iter(setting))} .*; expected"):
        Recipe(**setting)


def test_divergence_is_said(split):
    run = started(MF, split, replace(SMALL, loss="bpr", learning_rate=1e30), unit="none")
    with pytest.raises(InputError, match="training diverged at learning rate 1e\\+30"):
        run.fit()


def script(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_the_script_writes_what_it_says(data, tmp_path):
    settings = ("--dim", 16, "--epochs", 8, "--batch", 256, "--candidates", 64)
    done = script(data, "-o", tmp_path / "out", *settings)
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    split = read_split(data)
    final, table = (np.load(tmp_path / "out" / f"{name}.npy") for name in ("final", "table"))
    scores = final[:120] @ final[120:].T
    found = evaluate(lambda users: scores[users].copy(), split.test, split.train)
    assert metrics["recall20"] == pytest.approx(found.recall, abs=1e-3)
    assert metrics["ndcg20"] == pytest.approx(found.ndcg, abs=1e-3)
    assert f"Recall@20 {metrics['recall20']:.4f}" in done.stdout
    rebuilt = LightGCN(FullTable(200, 16, std=0.1), split.train, unit="users")
    rebuilt.table.weight.data = torch.from_numpy(table)
    np.testing.assert_allclose(rebuilt.final().numpy(), final, atol=1e-6)
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [point["epoch"] for point in curve] == [4, 8]
    best = max(curve, key=lambda point: point["ndcg"])
    assert metrics["epochs"] == best["epoch"]
    assert set(curve[0]) == {"epoch", "seconds", "loss", "recall", "ndcg"}

    again = script(data, "-o", tmp_path / "out", *settings, "--resume")
    assert again.exit_code == 0 and "1/8" not in again.stderr
    resumed = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert resumed.pop("command") == f"{metrics.pop('command')} --resume" and resumed == metrics

    refused = script(data, "-o", tmp_path / "out", "--epochs", 9, "--resume")
    assert refused.exit_code == 1 and "checkpoint of epochs = 8" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_script_under_bets_protocol(data, tmp_path):
    done = script(data, "-o", tmp_path / "out", "--protocol", "bet", "--model", "mf", "--loss",
                  "bpr", "--dim", 8, "--epochs", 4, "--batch", 256)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "bet split" in done.stdout and not (tmp_path / "out" / "refit").exists()
    missing = script(tmp_path / "none.npz", "-o", tmp_path / "other")
    assert missing.exit_code == 1 and "no such file" in missing.stderr
    unwritable = script(data, "-o", data / "out")
    assert unwritable.exit_code == 1 and unwritable.stderr.startswith("Error: [Errno")
    assert not (tmp_path / "other").exists()


def test_ngcf_by_bpr_with_l2_and_dropout_is_one_command(data, tmp_path):
    options = ("--model", "ngcf", "--loss", "bpr", "--l2", 0.001, "--dropout", 0.1, 0.2)
    small = ("--dim", 8, "--layers", 2, "--epochs", 2, "--batch", 500, "--protocol", "bet")
    done = script(data, "-o", tmp_path / "out", *options, *small)
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    settings = metrics["settings"]
    assert settings["dropout"] == [0.1, 0.2] and settings["l2"] == 0.001
    assert "--model ngcf" in metrics["command"] and "--dropout 0.1 0.2" in metrics["command"]
    assert np.load(tmp_path / "out" / "final.npy").shape == (200, 24)
