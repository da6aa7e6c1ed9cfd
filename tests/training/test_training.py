from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from compressae import CompresSAE, InputError, TrainConfig, train
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.training.checkpoint import save_checkpoint
from compressae.training.config import held_out_rows
from compressae.training.gradient import GradientRun, take_gradients

CONFIG = TrainConfig(latents=64, nonzeros=4, recipe="autoencoder", steps=60, batch=64, seed=5)

RESUMED = TrainConfig(
    latents=64, nonzeros=2, recipe="autoencoder", steps=80, batch=64, resample_every=3, seed=1
)
PURSUIT = TrainConfig(latents=64, nonzeros=4, steps=12, batch=64, seed=5, whitening=0.4)
DROPPED = replace(PURSUIT, latent_dropout=0.3)


@pytest.fixture(scope="module")
def table():
    """400 rows around 30 directions, so that there is something to learn."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 16))
    rows = centres[rng.integers(0, 30, 400)] + 0.3 * rng.standard_normal((400, 16))
    return rows.astype(np.float32)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def cosine(model, table):
    x = torch.from_numpy(table)
    return torch.cosine_similarity(x, model(x, wide=False).reconstruction).mean().item()


@pytest.mark.parametrize("recipe", ["autoencoder", "paper"])
def test_training_lowers_the_loss_and_keeps_the_decoder_unit(table, recipe):
    losses = []
    config = TrainConfig(latents=64, nonzeros=4, recipe=recipe, steps=150, batch=64)
    model = train(table, config, progress=lambda now: losses.append(now.loss))
    assert len(losses) == 150
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    assert cosine(model, table) > {"autoencoder": 0.85, "paper": 0.7}[recipe]
    torch.testing.assert_close(model.decoder.detach().norm(dim=1), torch.ones(64))
    assert model.settings["recipe"] == recipe and model.settings["rows"] == 400


@pytest.mark.parametrize("config", [CONFIG, PURSUIT, DROPPED])
def test_the_same_seed_gives_the_same_files_and_another_seed_others(table, tmp_path, config):
    for name in ("first", "second"):
        train(table, config).save(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    other = train(table, replace(config, seed=6))
    first = CompresSAE.load(tmp_path / "first")
    assert not torch.equal(weights(other), weights(first))


@pytest.mark.parametrize("config", [RESUMED, PURSUIT, DROPPED])
@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(table, tmp_path, config, stop_at):
    whole = train(table, config)

    def interrupt(now):
        if now.step == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(table, config, progress=interrupt, checkpoint=tmp_path / "state")
    seen = []
    resumed = train(
        table, config, checkpoint=tmp_path / "state", resume=True,
        progress=lambda now: seen.append(now.step),
    )  # fmt: skip
    assert seen[0] == stop_at + 1
    assert torch.equal(weights(resumed), weights(whole))


def test_resuming_refuses_other_settings_and_tables(table, tmp_path):
    def interrupt(now):
        raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(table, CONFIG, progress=interrupt, checkpoint=state)
    other = replace(CONFIG, nonzeros=5)
    with pytest.raises(InputError, match="nonzeros = 4, but 5 was asked for"):
        train(table, other, checkpoint=state, resume=True)
    with pytest.raises(InputError, match="rows = 400, but 399"):
        train(table[:399], CONFIG, checkpoint=state, resume=True)
    with pytest.raises(InputError, match="nowhere"):
        train(table, CONFIG, checkpoint=tmp_path / "nowhere", resume=True)


def test_a_checkpoint_from_before_whitening_goes_on_without_it(table, tmp_path, monkeypatch):
    def interrupt(now):
        raise KeyboardInterrupt

    def of_before(config):
        return {name: value for name, value in asdict(config).items() if name != "whitening"}

    state, plain = tmp_path / "state", replace(PURSUIT, whitening=0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("compressae.training.checkpoint.asdict", of_before)
        train(table, plain, progress=interrupt, checkpoint=state)
    with pytest.raises(InputError, match="whitening = 0.0, but 0.4 was asked for"):
        train(table, PURSUIT, checkpoint=state, resume=True)
    either = replace(PURSUIT, whitening=None)
    for resumed in (train(table, c, checkpoint=state, resume=True) for c in (plain, either)):
        assert torch.equal(weights(resumed), weights(train(table, plain)))
    assert not torch.equal(weights(resumed), weights(train(table, PURSUIT)))


@pytest.mark.parametrize("power", [None, "0.4", True, 0.6])
def test_a_checkpoint_of_no_whitening_is_refused(table, tmp_path, power):
    save_checkpoint(tmp_path / "state", 1, PURSUIT, table.shape, {})
    artifact = load_artifact(tmp_path / "state", "checkpoint")
    artifact.settings["config"]["whitening"] = power
    save_artifact(tmp_path / "other", "checkpoint", artifact.settings, artifact.tensors)
    with pytest.raises(InputError, match="whitening = .*expected 0 to 0.5"):
        train(table, replace(PURSUIT, whitening=None), checkpoint=tmp_path / "other", resume=True)


def test_dead_latents_are_resampled_unless_the_recipe_is_the_papers(table):
    """Half of the latents point where no data lies; only replacement brings them to use."""
    live = {}
    for recipe in ("autoencoder", "paper"):
        config = TrainConfig(
            latents=256, nonzeros=1, recipe=recipe, steps=400, batch=64, resample_every=20
        )
        model = train(table, config)
        ids, _ = model.encode(torch.from_numpy(table))
        live[recipe] = len(ids.unique())
    assert live["autoencoder"] > live["paper"]


@pytest.mark.parametrize("config", [CONFIG, PURSUIT])
def test_held_out_rows_are_never_read(table, config):
    held, kept = held_out_rows(400, 50)
    assert sorted([*held, *kept]) == list(range(400))
    expected = np.random.default_rng(0).permutation(400)[:50]
    np.testing.assert_array_equal(held, expected)
    config = replace(config, hold_out=50)
    changed = table.copy()
    changed[held] = np.random.default_rng(9).standard_normal((50, 16))
    assert torch.equal(weights(train(table, config)), weights(train(changed, config)))


@pytest.mark.parametrize("recipe", ["pursuit", "autoencoder", "paper"])
def test_fewer_rows_than_latents_or_than_a_batch(table, recipe):
    config = TrainConfig(latents=64, nonzeros=4, recipe=recipe, steps=5, batch=1024)
    assert torch.isfinite(weights(train(table[:10], config))).all()


def test_a_bad_row_is_named_before_training(table):
    bad = table.copy()
    bad[123, 4] = np.nan
    with pytest.raises(InputError, match="row 123 holds NaN"):
        train(bad, CONFIG, progress=lambda now: pytest.fail("trained on a NaN row"))


def test_a_diverging_run_is_stopped_with_the_cure(table):
    config = replace(CONFIG, steps=300, learning_rate=1e30)
    with pytest.raises(InputError, match="lower the learning rate"):
        train(table, config)


def test_too_few_rows(table):
    with pytest.raises(InputError, match="at least 2 rows to train on"):
        train(table[:5], TrainConfig(latents=8, nonzeros=2, hold_out=4))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch": 0}, {"decay": 1.5}, {"learning_rate": 0.0}, {"nonzeros": 0},
              {"nonzeros": 5000}, {"recipe": "other"}, {"warmup": -1}, {"hold_out": -1}]
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = .*expected"):
        TrainConfig(**{"recipe": "autoencoder", **wrong})


def test_the_learning_rate_rises_holds_and_falls():
    config = TrainConfig(recipe="autoencoder", steps=100, learning_rate=1.0, warmup=10, decay=0.5)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_a_resampled_latent_is_the_residual_of_a_row_and_starts_without_momentum(table):
    run = GradientRun(as_embeddings(table), CONFIG, torch.device("cpu"))
    for _ in range(3):
        run.advance()
    dead = torch.tensor([3, 9])
    run.step, run.last_used[:] = 100, 100
    run.last_used[dead] = 0
    x = run.next_batch()
    step = take_gradients(run.model, x, 0.0)
    before = run.model.decoder.detach().clone()
    run._resample_dead(*run._residuals(x, step))

    near = torch.nn.functional.normalize(run.model.decode(step.indices, step.values).detach())
    residual = torch.nn.functional.normalize(x - (x * near).sum(1, keepdim=True) * near)
    changed = (run.model.decoder != before).any(1).nonzero().flatten()
    assert torch.equal(changed, dead)
    for latent in dead:
        assert (residual @ run.model.decoder[latent]).max() > 0.9999
    assert torch.equal(run.model.encoder[dead], run.model.decoder[dead])
    for parameter in run.model.parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            moments = run.optimizer.state[parameter][key]
            assert not moments[dead].any() and moments.any()
    assert run.dead_latents() == 0
