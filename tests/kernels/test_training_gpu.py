"""Triton's encoder and cosine losses against their references."""

import numpy as np
import pytest
import torch

from compressae.kernels.cosine import code_gradients, cosine_gradients
from compressae.kernels.cosine import reference as cosine
from compressae.kernels.encode import encode
from compressae.kernels.encode import reference as encoder

gpu = pytest.importorskip("compressae.kernels.cosine.gpu", reason="needs triton (Linux)")
dense = pytest.importorskip("compressae.kernels.cosine.dense", reason="needs triton (Linux)")


def codes(n, w, h, d, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(h, dtype=np.int32), (n, 1)), axis=1)[:, :w].copy()
    return ids, *(rng.standard_normal(s, dtype=np.float32) for s in [(n, w), (h, d), (n, d)])


@pytest.mark.parametrize("widest", [2048, 1])
@pytest.mark.parametrize(
    ("n", "w", "k", "h", "d"), [(1, 1, 1, 1, 1), (5, 12, 3, 40, 33), (3, 7, 7, 9, 20)]
)
def test_cosine_gradients_equal_the_reference(device, monkeypatch, widest, n, w, k, h, d):
    monkeypatch.setattr(gpu, "_WIDEST", widest)
    arrays = codes(n, w, h, d)
    weight = 0.0 if w == k else 0.3
    found = cosine_gradients(*(torch.from_numpy(a).to(device) for a in arrays), k, weight)
    for mine, expected in zip(found, cosine.cosine_gradients(*arrays, k, weight), strict=True):
        np.testing.assert_allclose(mine.cpu().numpy(), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("widest", [2048, 1])
def test_zero_rows_and_reconstructions_have_no_slope(device, monkeypatch, widest):
    monkeypatch.setattr(gpu, "_WIDEST", widest)
    ids, values, weights, x = codes(3, 4, 9, 10)
    values[0], x[1] = 0, 0
    given = (torch.from_numpy(a).to(device) for a in (ids, values, weights, x))
    cosines, to_values, gradients = (t.cpu() for t in cosine_gradients(*given, 2, 0.5))
    assert not cosines[:, :2].any() and not to_values[:2].any() and not gradients[:, :2].any()
    assert cosines[:, 2].all() and to_values[2].all()


def test_cosine_gradients_equal_autograd(device):
    ids, values, weights, x = (torch.from_numpy(a) for a in codes(6, 12, 50, 24))
    v = values.double().requires_grad_()
    near, far = ((v[:, :w, None] * weights.double()[ids[:, :w].long()]).sum(1) for w in (4, 12))
    loss = 2 - 1 + 0.25
    loss = loss - torch.cosine_similarity(x, near).mean()
    loss = loss - 0.25 * torch.cosine_similarity(x, far).mean()
    loss.backward()
    given = (t.to(device) for t in (ids, values, weights, x))
    found = cosine_gradients(*given, 4, 0.25)[1].cpu()
    torch.testing.assert_close(found, v.grad.float(), rtol=1e-4, atol=1e-6)


def loss_gradients(x, encoder, bias, decoder, k, w, weight):
    """Cosines, ids at k and gradients of the three parameters by autograd in float64."""
    parameters = [t.double().requires_grad_() for t in (encoder, bias, decoder)]
    entries = x.double() @ parameters[0].T + parameters[1]
    order = entries.abs().argsort(dim=1, descending=True, stable=True)
    cosines = []
    for count in (k, w):
        ids = order[:, :count]
        code = torch.zeros_like(entries).scatter(1, ids, entries.gather(1, ids))
        cosines.append(torch.cosine_similarity(x.double(), code @ parameters[2]))
    loss = 1 - cosines[0].mean() + weight * (1 - cosines[1].mean())
    return torch.stack(cosines), order[:, :k], *torch.autograd.grad(loss, parameters)


def parameters(n, h, d, seed=0):
    """Unit rows x (n, d), encoder (h, d), bias (h,) and decoder (h, d)."""
    generator = torch.Generator().manual_seed(seed)
    x, bias, *both = (
        torch.randn(shape, generator=generator) for shape in [(n, d), (h,), (h, d), (h, d)]
    )
    x, encoder, decoder = (torch.nn.functional.normalize(t) for t in (x, *both))
    return x, encoder, 0.1 * bias, decoder


@pytest.mark.parametrize("is_dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("n", "k", "w", "h", "d"),
    [(1, 1, 1, 1, 1), (13, 3, 12, 60, 17), (9, 7, 7, 50, 20), (5, 1, 4, 300, 8), (4, 9, 9, 9, 3)],
)
def test_code_gradients_equal_autograd(device, monkeypatch, is_dense, n, k, w, h, d):
    monkeypatch.setattr("compressae.kernels.decode.gpu.dense_is_cheaper", lambda k, h: is_dense)
    monkeypatch.setattr(dense, "_TILE", 5 * h)  # Tiles of 5 rows at most.
    arrays = parameters(n, h, d)
    found = code_gradients(*(t.to(device) for t in arrays), k, w, 0.3, torch.float32)
    cosines, ids, *expected = loss_gradients(*arrays, k, w, 0.3)
    torch.testing.assert_close(found.cosines.cpu(), cosines[: 1 + (w > k)].float())
    assert torch.equal(found.ids.cpu().long(), ids)
    for mine, wanted in zip((found.encoder, found.bias, found.decoder), expected, strict=True):
        torch.testing.assert_close(mine.cpu(), wanted.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_bfloat16_gradients_point_where_float32_ones_do():
    x, encoder, bias, decoder = (t.to("cuda") for t in parameters(2000, 512, 64))
    found = code_gradients(x, encoder, bias, decoder, 8, 32, 0.125)
    exact = code_gradients(x, encoder, bias, decoder, 8, 32, 0.125, torch.float32)
    torch.testing.assert_close(found.cosines.mean(1), exact.cosines.mean(1), rtol=0, atol=1e-3)
    for name in ("encoder", "bias", "decoder"):
        mine, wanted = getattr(found, name), getattr(exact, name)
        assert torch.cosine_similarity(mine.flatten(), wanted.flatten(), dim=0) > 0.98, name


def test_a_parameter_that_is_nan_makes_the_loss_nan(device):
    x, encoder, bias, decoder = (t.to(device) for t in parameters(3, 20, 6))
    for poisoned in (encoder, decoder):
        poisoned[:] = float("nan")
        assert code_gradients(x, encoder, bias, decoder, 2, 8, 0.1).cosines.isnan().all()


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "h", "d", "k"), [(1, 5, 3, 5), (20, 300, 40, 12), (4, 33, 64, 1)])
def test_encode_equals_the_reference(device, products, n, h, d, k):
    rng = np.random.default_rng(k)
    x, w, b = (rng.standard_normal(s, dtype=np.float32) for s in [(n, d), (h, d), (h,)])
    ids, values = encode(*(torch.from_numpy(a).to(device) for a in (x, w, b)), k, products)
    expected_ids, expected = encoder.encode(x, w, b, k)
    np.testing.assert_array_equal(ids.cpu().numpy(), expected_ids)
    np.testing.assert_allclose(values.cpu().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_entries_that_only_bfloat16_tells_apart_go_by_id(device):
    """Both are 64.3125; of weights rounded to 8 bits the first is 64, the second 64.5."""
    w = np.zeros((3, 65), np.float32)
    w[0] = [1 + 2**-9] * 64 + [0.1875]
    w[1] = [1] * 48 + [1 + 2**-7] * 16 + [0.1875]
    x, b = np.ones((1, 65), np.float32), np.zeros(3, np.float32)
    ids, values = encode(*(torch.from_numpy(a).to(device) for a in (x, w, b)), 2)
    assert ids.tolist() == [[0, 1]] and values.tolist() == [[64.3125, 64.3125]]


def test_values_are_float32_products_and_latents_nearly_the_best(device):
    """Close entries, which bfloat16 confuses: the k-th found is hardly below the k-th best."""
    rng = np.random.default_rng(0)
    w = (1 + 0.01 * rng.standard_normal((500, 16))).astype(np.float32)
    x, b = rng.standard_normal((4, 16), dtype=np.float32), np.zeros(500, np.float32)
    ids, values = (
        t.cpu().numpy() for t in encode(*(torch.from_numpy(a).to(device) for a in (x, w, b)), 8)
    )
    np.testing.assert_allclose(values, np.take_along_axis(x @ w.T, ids, 1), rtol=1e-4, atol=1e-5)
    best = encoder.encode(x, w, b, 8)[1]
    assert (np.abs(values[:, -1]) >= np.abs(best[:, -1]) * (1 - 2**-7)).all()
    assert all(len(set(row)) == 8 for row in ids.tolist())


def test_bad_k_is_refused(device):
    x, w, b = torch.zeros(2, 4, device=device), torch.zeros(9, 4, device=device), torch.zeros(9)
    with pytest.raises(ValueError, match="k = 10 of 9 latents"):
        encode(x, w, b, 10)
    ids = torch.zeros(2, 3, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="k = 4 of 3 nonzeros"):
        cosine_gradients(ids, ids.float(), w, x, 4, 0.0)
    with pytest.raises(ValueError, match="k = 3, w = 10: expected"):
        code_gradients(x, w, b, w, 3, 10, 0.1)
