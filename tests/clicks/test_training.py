"""Made-up clicks, metrics, models and training."""

import numpy as np
import pytest
import torch
from clicks.metrics import auc, log_loss
from clicks.models import DCN, DLRM, click_model
from clicks.planted import CRITEO_ROWS, planted, planted_rows
from clicks.training import Recipe, evaluate, fit
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable, TableCollection


def test_made_up_clicks_are_those_of_their_probabilities(clicks):
    assert clicks.facts["made_up"] and clicks.probabilities is not None
    drawn, wanted = clicks.labels.mean(), clicks.probabilities.mean()
    assert abs(drawn - wanted) < 4 * (0.25 / len(clicks.labels)) ** 0.5
    # Calibrated in each fifth, and far better than the mean.
    for part in np.array_split(np.argsort(clicks.probabilities), 5):
        assert abs(clicks.labels[part].mean() - clicks.probabilities[part].mean()) < 0.05
    true = log_loss(clicks.probabilities, clicks.labels)
    assert true < 0.85 * log_loss(np.full(len(clicks.labels), drawn), clicks.labels)
    entropy = -(p := clicks.probabilities.astype(np.float64)) * np.log(p) - (1 - p) * np.log1p(-p)
    assert true == pytest.approx(entropy.mean(), abs=0.02)


def test_made_up_clicks_have_the_shape_of_criteo(clicks):
    assert clicks.ids.shape == (6000, 26) and clicks.dense.shape == (6000, 13)
    assert planted_rows(max(CRITEO_ROWS)) == CRITEO_ROWS
    assert max(planted_rows(500)) == 500 and min(planted_rows(500)) == 3
    for column, name in enumerate(clicks.features):
        assert 0 <= clicks.ids[:, column].min() <= clicks.ids[:, column].max() < clicks.rows[name]
    counts = clicks.frequencies()["C3"]
    assert counts.sum() == len(clicks.parts["train"]) and counts[1:].min() >= 2
    assert counts[1:].max() > 20 * np.median(counts[1:])  # A long tail.
    again = planted(6000, 500)
    assert np.array_equal(again.ids, clicks.ids) and np.array_equal(again.labels, clicks.labels)
    assert not np.array_equal(planted(6000, 500, seed=1).labels, clicks.labels)


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200) / 20, rng.integers(0, 2, 200)
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert auc(scores, labels) == pytest.approx(wins)
    assert auc(labels, labels) == 1 and auc(1 - labels, labels) == 0


def test_log_loss_is_torchs():
    rng = np.random.default_rng(0)
    p, labels = rng.random(100), rng.integers(0, 2, 100).astype(np.float64)
    wanted = nn.functional.binary_cross_entropy(torch.from_numpy(p), torch.from_numpy(labels))
    assert log_loss(p, labels) == pytest.approx(float(wanted))
    assert np.isfinite(log_loss(np.array([0.0, 1]), np.array([1, 0])))


def tables(clicks, dim=4, kind="quotient-remainder", **rule):
    rule = rule or {"collisions": 4}
    return TableCollection(clicks.rows, dim, kind, std=0.1, **rule)


def test_dlrm_is_its_definition(clicks):
    torch.manual_seed(0)
    model = DLRM(tables(clicks), 13, (5,), (7,))
    batch = clicks.batch(np.array([3, 8]))
    logits = model(batch)
    for example in range(2):
        rows = [model.bottom(batch.dense)[example]]
        rows += [model.tables[name](batch.features[name])[example] for name in clicks.features]
        products = [rows[i] @ rows[j] for i in range(27) for j in range(i)]
        wanted = model.top(torch.cat([rows[0], torch.stack(products)]))[0]
        torch.testing.assert_close(logits[example], wanted)


def test_dcn_is_its_definition(clicks):
    torch.manual_seed(0)
    model = DCN(tables(clicks), 13, cross=2, rank=3, deep=(5,))
    batch = clicks.batch(np.array([3, 8]))
    first = torch.cat(
        [model.tables[name](batch.features[name]) for name in clicks.features] + [batch.dense], 1
    )
    crossed = first
    for down, up in zip(model.down, model.up, strict=True):
        crossed = first * (crossed @ down.weight.T @ up.weight.T + up.bias) + crossed
    wanted = model.output(torch.cat([crossed, torch.relu(model.deep[0](first))], 1))[:, 0]
    torch.testing.assert_close(model(batch), wanted)


@pytest.mark.parametrize("optimizer", ["adagrad", "amsgrad"])
@pytest.mark.parametrize("name", ["dlrm", "dcn"])
def test_training_beats_the_mean_and_keeps_the_best(clicks, name, optimizer):
    torch.manual_seed(0)
    model = click_model(name, tables(clicks), 13, small=True)
    rate = 0.05 if optimizer == "adagrad" else 0.01
    seen = []
    outcome = fit(
        model,
        clicks,
        Recipe(optimizer, rate, epochs=4, batch=128, checks=2, patience=2),
        lambda *progress: seen.append(progress),
    )
    quality = evaluate(model, clicks, "valid")
    losses = {step: valid for step, _, valid in outcome.curve}
    assert quality.log_loss == pytest.approx(min(losses.values()))
    assert losses[outcome.steps] == min(losses.values()) and len(seen) == len(losses)
    labels = clicks.labels[clicks.parts["test"]]
    mean = log_loss(np.full(len(labels), clicks.labels.mean()), labels)
    test = evaluate(model, clicks, "test")
    assert test.log_loss < mean - 0.01 and test.auc > 0.6


def test_training_stops_early(clicks):
    torch.manual_seed(0)
    model = click_model("dlrm", tables(clicks, kind="full", threshold=0), 13, small=True)
    recipe = Recipe(learning_rate=0.2, epochs=30, batch=128, checks=1, patience=2)
    outcome = fit(model, clicks, recipe)
    steps = [step for step, _, _ in outcome.curve]
    assert steps[-1] == outcome.steps + 2 * 38 < 30 * 38  # 4,800 examples are 38 steps an epoch.


def test_a_trained_model_that_gets_no_better_stays(clicks):
    torch.manual_seed(0)
    model = click_model("dlrm", tables(clicks), 13, small=True)
    fit(model, clicks, Recipe(learning_rate=0.05, epochs=3, batch=128))
    before = evaluate(model, clicks, "valid").log_loss
    recipe = Recipe(learning_rate=5.0, epochs=1, batch=128, patience=1)
    outcome = fit(model, clicks, recipe, starts_trained=True)
    assert outcome.steps == 0 and evaluate(model, clicks, "valid").log_loss == before


def test_sparse_gradients_train_the_same_model(clicks):
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = click_model("dlrm", tables(clicks, collisions=4, sparse=sparse), 13, small=True)
        fit(model, clicks, Recipe(learning_rate=0.05, epochs=1, batch=256, checks=1))
        found.append(evaluate(model, clicks, "test").log_loss)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_mixed_precision_trains_nearly_the_same_model(clicks):
    found = []
    for autocast in (False, True):
        torch.manual_seed(0)
        model = click_model("dlrm", tables(clicks), 13, small=True)
        recipe = Recipe(learning_rate=0.05, epochs=1, batch=256, checks=1)
        fit(model, clicks, recipe, autocast=autocast)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        found.append(evaluate(model, clicks, "test").log_loss)
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], rel=0.01)


def test_a_training_that_diverges_is_refused(clicks):
    model = click_model("dlrm", tables(clicks), 13, small=True)
    with torch.no_grad():
        model.top[0].weight.fill_(float("nan"))
    with pytest.raises(InputError, match="training diverged at learning rate 0.01; choose a lower"):
        fit(model, clicks, Recipe(epochs=1, batch=2000))


@pytest.mark.parametrize(
    "wrong", [dict(optimizer="sgd"), dict(batch=0), dict(learning_rate=-1.0), dict(patience=0)]
)
def test_recipes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        Recipe(**wrong)


def test_tables_of_several_dimensions_are_refused():
    mixed = TableCollection.of({"a": FullTable(2, 3), "b": FullTable(2, 4)})
    with pytest.raises(InputError, match=r"tables of \[3, 4\] dimensions; expected one number"):
        click_model("dcn", mixed, 0)


def test_models_without_dense_features(clicks):
    from dataclasses import replace

    without = replace(clicks, dense=np.zeros((6000, 0), np.float32))
    for name in ("dlrm", "dcn"):
        logits = click_model(name, tables(clicks), 0, small=True)(without.batch(np.arange(5)))
        assert logits.shape == (5,) and logits.isfinite().all()
