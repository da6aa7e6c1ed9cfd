"""Coding and dictionary learning as tensors, by the kernels of a GPU, beside the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from code_forms import make_codes

from compressae import CompresSAE, InputError, TrainConfig, encode_like, train
from compressae.coding.coder import Coder, fit_row_quantizer
from compressae.kernels.backend import fetch, put, tensors_on, use
from compressae.retrieval.devices import pick_device
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows
from compressae.training.pursuit import PursuitRun

N, D, H, K = 260, 16, 64, 3


@pytest.fixture(scope="module")
def table():
    """Rows made of 3 of 64 directions, and a little noise."""
    rng = np.random.default_rng(0)
    rows = np.einsum(
        "nk,nkd->nd", rng.uniform(0.5, 1.5, (N, K)), directions()[rng.integers(0, H, (N, K))]
    )
    return (rows + 0.01 * rng.standard_normal((N, D))).astype(np.float32)


def directions():
    return unit_rows(np.random.default_rng(1).standard_normal((H, D)).astype(np.float32))


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(D, H, K)
    with torch.no_grad():
        model.decoder.copy_(torch.from_numpy(directions()))
        model.encoder.copy_(model.decoder)
    return model


def of_arrays(model, table, **form):
    """The CPU's codes, whatever "auto" means in the test."""
    with use("auto"):
        return make_codes(model, table, device="cpu", **form)


def choose_exactly(monkeypatch):
    """Pursuit with float32 products on either side: bfloat16 decides some choices otherwise."""
    monkeypatch.setattr("compressae.kernels.pursuit.fast_dtype", lambda: torch.float32)
    monkeypatch.setattr("compressae.kernels.pursuit.gpu.interprets", lambda: True)


def errors(codes, model, table):
    near = codes.reconstruct(model.decoder.detach().numpy())
    return ((unit_rows(table) - near) ** 2).sum(1)


@pytest.mark.parametrize("form", [{}, {"budget": "8 B/row"}, {"similarity": "dot"}])
def test_rows_that_share_a_quantiser(device, model, table, form, monkeypatch):
    """Residual codes and gains too; on equal choices the bytes are equal."""
    # A GPU chooses latents by correlation: let the CPU do so too.
    monkeypatch.setattr("compressae.coding.coder.Dictionary.fits", lambda latents: False)
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    known = of_arrays(model, table, values="int3", residual_bytes=4, **form)
    some = table[:24]
    ours, theirs = (
        code(model, some, like=known, budget=form.get("budget"))
        for code in (compress_on(device), of_arrays)
    )
    np.testing.assert_array_equal(ours.rows.nonzeros, theirs.rows.nonzeros)
    assert (ours.data == theirs.data).mean() > 0.9
    ours, theirs = errors(ours, model, some), errors(theirs, model, some)
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.05)


def compress_on(device):
    return lambda model, table, **form: make_codes(model, table, device=device, **form)


def test_a_quantiser_fitted_on_the_device(device, model, table):
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    x, metric = unit_rows(table[:256]), np.eye(D, dtype=np.float32)
    ours = fit_row_quantizer(Coder(model, metric, True, True, torch.device(device)), x, 1, 2, 2)
    theirs = fit_row_quantizer(Coder(model, metric, True), x, 1, 2, 2)
    np.testing.assert_array_equal(ours.value_bits, theirs.value_bits)
    np.testing.assert_allclose(ours.levels, theirs.levels, atol=0.05)
    assert ours.codebooks.shape == theirs.codebooks.shape == (2, 256, 8)
    np.testing.assert_allclose(ours.gains, theirs.gains, atol=0.05)
    codes = make_codes(model, table[:8], device=device)
    expected = errors(of_arrays(model, table[:8]), model, table[:8])
    np.testing.assert_allclose(errors(codes, model, table[:8]), expected, atol=0.02)


@pytest.mark.parametrize("recipe", ["pursuit", "autoencoder", "paper"])
@pytest.mark.parametrize("values", ["float32", "int8"])
def test_plain_codes(device, model, table, recipe, values, monkeypatch):
    """Latents by pursuit or by the encoder, values fitted or its own."""
    choose_exactly(monkeypatch)
    monkeypatch.setitem(model.settings, "recipe", recipe)
    some = table[:3]
    ours, theirs = (code(model, some, values=values) for code in (compress_on(device), of_arrays))
    assert ours.settings == theirs.settings and model.encoder.device.type == "cpu"
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    a, b = (codes.to_scipy().toarray() for codes in (ours, theirs))
    np.testing.assert_allclose(a, b, atol=2e-3 if values == "float32" else 2e-2)


def test_rows_beside_plain_codes(device, model, table):
    known = of_arrays(model, table, values="float32")
    more = encode_like(model, table[:5], known)
    np.testing.assert_allclose(
        more.to_scipy().toarray(), known.take(np.arange(5)).to_scipy().toarray(), atol=0.05
    )


LEARNED = TrainConfig(latents=32, nonzeros=2, steps=5, batch=24, seed=2, whitening=0.4)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_dictionary_learned_on_the_device(device, table, tmp_path, monkeypatch, dropout):
    """As good step by step, also when it goes on from the other's checkpoint."""
    choose_exactly(monkeypatch)
    items, where = as_embeddings(table[:96]), torch.device(device)
    config = replace(LEARNED, latent_dropout=dropout)
    ours = PursuitRun(items, config, where)
    with use("auto"):
        theirs = PursuitRun(items, config)
    for _ in range(3):
        loss, cosine = ours.advance()
        with use("auto"):
            expected = theirs.advance()
        assert (loss, cosine) == pytest.approx(expected, rel=0.05)
    assert isinstance(ours.weights, torch.Tensor) and ours.dead_latents() == theirs.dead_latents()
    decoder = ours.model.decoder.detach()
    torch.testing.assert_close(decoder.norm(dim=1), torch.ones(32), rtol=0, atol=1e-5)

    ours.save(tmp_path / "state")
    with use("auto"):
        theirs.restore(tmp_path / "state")
        np.testing.assert_array_equal(theirs.weights, fetch(ours.weights))
        theirs.advance()
        theirs.save(tmp_path / "state")
    ours.restore(tmp_path / "state")
    np.testing.assert_array_equal(theirs.values, fetch(ours.values))
    with use("auto"):
        expected = theirs.advance()
    assert ours.step == 4 and ours.advance() == pytest.approx(expected, rel=0.05)


def test_training_on_the_device(device, table):
    config = TrainConfig(latents=32, nonzeros=1, steps=1)
    model = train(table[:40], config, device=device)
    assert model.settings["device"] == device and model.decoder.device.type == "cpu"


def test_arrays_and_tensors(monkeypatch):
    rows = np.arange(3)
    assert tensors_on(torch.device("cpu")) is None and put(rows, None) is rows
    with use("triton"):
        assert tensors_on(torch.device("cpu")) == torch.device("cpu")
    np.testing.assert_array_equal(fetch(put(rows, torch.device("cpu"))), rows)


def test_auto_takes_a_gpu_that_kernels_run_on(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="torch finds no GPU here; expected cpu or auto"):
        pick_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("auto").type == "cuda" and pick_device("cuda:1").index == 1
    with pytest.raises(InputError, match="device 'cuda:2': torch finds 2 GPUs here"):
        pick_device("cuda:2")
    monkeypatch.setattr("compressae.retrieval.devices.has_triton", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(
        InputError, match=r"'cuda' .* needs triton; pip install 'compressae\[gpu\]'"
    ):
        pick_device("cuda")
    with pytest.raises(InputError, match="device 'tpu': expected auto, cpu, cuda"):
        pick_device("tpu")


def test_an_absent_device_is_refused(model, table, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for work in (
        lambda: make_codes(model, table, device="cuda"),
        lambda: train(table, device="cuda"),
    ):
        with pytest.raises(InputError, match="torch finds no GPU"):
            work()
