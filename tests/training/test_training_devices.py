"""Training by Triton's kernels, and by several processes."""

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from compressae import CompresSAE, InputError, TrainConfig, train
from compressae.kernels.backend import use
from compressae.kernels.cosine import code_gradients
from compressae.retrieval.io.embeddings import Embeddings, as_embeddings
from compressae.training import batches, gradient
from compressae.training.distributed import launched
from compressae.training.gradient import GradientRun, take_gradients


@pytest.fixture(scope="module")
def table():
    """300 rows around 20 directions, so that there is something to learn."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 16))
    rows = centres[rng.integers(0, 20, 300)] + 0.3 * rng.standard_normal((300, 16))
    return rows.astype(np.float32)


@pytest.fixture
def exact_products(monkeypatch):
    """A GPU's products in float32: in bfloat16 close latents change places."""
    exact = partial(code_gradients, products=torch.float32)
    monkeypatch.setattr(gradient, "code_gradients", exact)


@pytest.mark.parametrize("wide_weight", [0.0, 0.125])
def test_gradients_by_kernels_equal_autograds(device, table, wide_weight, exact_products):
    model = CompresSAE(16, 48, 3, seed=1)
    x = torch.nn.functional.normalize(torch.from_numpy(table[:12]))
    with use("numba"):
        step = take_gradients(model, x, wide_weight)
    expected = [p.grad.clone() for p in model.parameters()]  # Gradients move with the model.
    model.to(device)
    found = take_gradients(model, x.to(device), wide_weight)
    torch.testing.assert_close(found.loss.cpu(), step.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.cosines.cpu(), step.cosines, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.indices.cpu(), step.indices)
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), wanted, rtol=1e-4, atol=1e-6)


def test_a_model_is_differentiable_by_kernels(device, table):
    """Any loss of ``model(x)``, as a user's own training loop has."""
    grads = []
    for place, backend in (("cpu", "numba"), (device, "triton")):
        model = CompresSAE(16, 48, 3, seed=1).to(place)
        x = torch.from_numpy(table[:6]).to(place).requires_grad_()
        with use(backend):
            output = model(x)
            loss = (output.reconstruction**3).sum() + output.wide_reconstruction.sin().sum()
            loss.backward()
        grads.append([t.grad.cpu() for t in (x, *model.parameters())])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_steps_by_kernels_equal_steps_by_autograd(device, table, exact_products):
    config = TrainConfig(
        latents=32, nonzeros=3, recipe="autoencoder", steps=9, batch=8, warmup=0, resample_every=2
    )
    runs = []
    for place, backend in (("cpu", "numba"), (device, "triton")):
        with use(backend):
            run = GradientRun(as_embeddings(table), config, torch.device(place))
            run.last_used[:] = -100  # Latents that neither step uses are dead at the second.
            start = run.model.decoder.detach().clone()
            for _ in range(2):
                run.advance()
            runs.append([p.detach().cpu() for p in run.model.parameters()])
            moved = (run.model.decoder.detach() - start).norm(dim=1)
            assert (moved > 0.3).any() and (moved < 0.1).any()  # Some were revived.
    for expected, found in zip(*runs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_table_held_on_the_device_gives_the_same_model(table, monkeypatch):
    """What a GPU with room does, on the CPU."""
    config = TrainConfig(latents=32, nonzeros=3, recipe="autoencoder", steps=9, batch=50)
    models = [train(table, config, "cpu")]
    taken = []
    take = Embeddings.take
    monkeypatch.setattr(
        Embeddings, "take", lambda self, rows: taken.append(rows) or take(self, rows)
    )
    monkeypatch.setattr(batches, "_free_bytes", lambda device: 1 << 30)
    models.append(train(table, config, "cpu"))
    torch.testing.assert_close(models[0].decoder, models[1].decoder)
    torch.testing.assert_close(models[0].encoder, models[1].encoder)
    assert not any(len(rows) == 50 for rows in taken)  # No batch was read from the table.


def torchrun(processes, *command):
    """``torchrun`` of a module (-m NAME …) or a script."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_trains(table, tmp_path):
    """Batches of 51 rows, shares of 25 and 26; latents are revived on the way."""
    np.save(tmp_path / "items.npy", table)
    settings = "--latents 64 --nonzeros 3 --steps 40 --batch 51 --recipe autoencoder --device cpu"
    command = ["-m", "compressae", "train", tmp_path / "items.npy", "-o", tmp_path / "two"]
    done = torchrun(2, *command, *settings.split(), "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    said = json.loads("".join(lines))  # One process spoke.
    assert said["latents"] == 64
    config = TrainConfig(latents=64, nonzeros=3, steps=40, batch=51, recipe="autoencoder")
    one, two = train(table, config, "cpu"), CompresSAE.load(tmp_path / "two")
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


INTERRUPTED = """
import sys, numpy as np
from compressae import TrainConfig, train
from compressae.training import batches, gradient
from compressae.training.distributed import Replicas, launched

folder = sys.argv[1]
gradient._DEAD_AFTER = 2  # Latents are revived at steps 3 and 6.
config = TrainConfig(
    latents=128, nonzeros=3, steps=12, batch=51, recipe="autoencoder", resample_every=3
)
cosines = []

def stop(now):
    cosines.append(now.cosine)
    if Replicas.here().rank == 1 and now.step == 5:
        raise KeyboardInterrupt

with launched("auto") as device:
    shared = dict(replicas=Replicas.here(), device=device, checkpoint=folder + "/state")
    items = np.load(folder + "/items.npy")
    try:
        train(items, config, progress=stop, **shared)
    except KeyboardInterrupt:
        open(f"{folder}/stopped{Replicas.here().rank}", "x").close()
    assert len(cosines) == 5
    note = lambda now: cosines.append(now.cosine)
    model = train(items, config, progress=note, resume=True, **shared)
    np.save(f"{folder}/cosines{Replicas.here().rank}", cosines)
    model.save(f"{folder}/resumed{Replicas.here().rank}")
"""


@pytest.mark.slow
def test_an_interrupt_of_one_process_stops_all_at_one_step(table, tmp_path, monkeypatch):
    """And all go on from the one checkpoint to the model of a run that was not interrupted."""
    monkeypatch.setattr(gradient, "_DEAD_AFTER", 2)
    np.save(tmp_path / "items.npy", table)
    (tmp_path / "script.py").write_text(INTERRUPTED)
    done = torchrun(2, tmp_path / "script.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stopped0").exists() and (tmp_path / "stopped1").exists()
    config = TrainConfig(
        latents=128, nonzeros=3, steps=12, batch=51, recipe="autoencoder", resample_every=3
    )
    cosines, revived, revive = [], [], GradientRun._resample_dead

    def note(self, dead, lacking):
        revived.append(len(dead))
        revive(self, dead, lacking)

    monkeypatch.setattr(GradientRun, "_resample_dead", note)
    one = train(table, config, "cpu", lambda now: cosines.append(now.cosine))
    assert sum(revived) > 20
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"cosines{rank}.npy"), cosines, rtol=1e-4)
    first, second = (CompresSAE.load(tmp_path / f"resumed{rank}") for rank in (0, 1))
    for mine, theirs, alone in zip(*(m.parameters() for m in (first, second, one)), strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_pursuit_is_refused_for_several_processes(table, tmp_path):
    np.save(tmp_path / "items.npy", table)
    command = ["-m", "compressae", "train", tmp_path / "items.npy", "-o", tmp_path / "two"]
    done = torchrun(2, *command, "--device", "cpu")
    assert done.returncode != 0
    assert "recipe 'pursuit' trains in one process" in done.stderr
    assert not (tmp_path / "two").exists()


def test_devices_that_several_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = "device 'cuda:1' for 2 processes; expected cuda"
    with pytest.raises(InputError, match=expected), launched("cuda:1"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "9999")
    with pytest.raises(InputError, match="process 9999 of this machine"), launched("cuda"):
        pass
