"""Sketches of rows: their directions and the steps that they are rounded by."""

import numpy as np
import pytest
import torch

from compressae import CompresSAE, compress
from compressae.kernels.scan import plain_planes
from compressae.retrieval.index.sketch import Sketch, _decoded, _unit, directions_of

H, D = 40, 20


def sketched(device, share, scale=1.0):
    """A sketch with lengths of 300 rows of two nonzeros, so many of them zero, and the rows."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(H)[:2] for _ in range(300)]).astype(np.uint16)
    values = scale * rng.standard_normal((300, 2)).astype(np.float32)
    values[: int(300 * share)] = 0
    decoder = torch.from_numpy(rng.standard_normal((H, D)).astype(np.float32))
    indptr = np.arange(301, dtype=np.int64) * 2
    planes = plain_planes(indptr, ids.ravel(), values.ravel(), None, H).to(device)
    rows = (values[:, :, None] * decoder.numpy()[ids]).sum(1)
    return Sketch.of(planes, decoder.to(device), None, None, True), rows


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_rows_of_zeros_make_no_others_coarse(device, share):
    sketch, rows = sketched(device, share)
    kept = sketch.rows.cpu().numpy()[np.abs(rows).max(1) > 0]
    numbers = np.stack([kept & 15, (kept >> 4) & 15])
    ends = np.isin(numbers, (0, 15)).mean()
    assert 0.001 < ends < 0.08  # Of a normal distribution 2.5 % are at either end.
    np.testing.assert_allclose(
        sketch.lengths.cpu().numpy(), np.linalg.norm(rows, axis=1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_lengths_whose_squares_leave_float32(device, scale):
    sketch, rows = sketched(device, 0.0, scale)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(sketch.lengths.cpu().numpy(), lengths, rtol=1e-4)
    assert sketch.directions.isfinite().all()


def test_directions_are_orthonormal_for_any_width():
    for d in (3, 50, 200):
        sample = torch.randn(500, d, generator=torch.Generator().manual_seed(d))
        directions = directions_of(sample)
        whole = min(d, 128)
        products = directions.T @ directions if d > 128 else directions @ directions.T
        torch.testing.assert_close(products, torch.eye(whole), atol=1e-4, rtol=0)


def test_unit_rows_of_zeros_stay():
    x, lengths = _unit(torch.tensor([[0.0, 0.0], [3e-30, 4e-30]]))
    assert x[0].tolist() == [0, 0] and lengths[0] == 0
    torch.testing.assert_close(x[1], torch.tensor([0.6, 0.8]))


def test_sketches_are_of_the_rows_with_their_scaled_residuals(device):
    items = np.random.default_rng(1).standard_normal((400, D)).astype(np.float32)
    model = CompresSAE(D, H, 3)
    codes = compress(model, items, residual_bytes=4)
    assert codes.quantizer.is_scaled
    restore, centroids = (torch.from_numpy(a).to(device) for a in codes.residual_arrays())
    parts, _, s = centroids.shape
    tables = torch.einsum("bcs,dbs->bcd", centroids, restore.reshape(D, parts, s))
    planes, decoder = codes.gpu_planes(0, 400).to(device), model.decoder.detach()
    found = _decoded(planes, 0, planes.blocks, decoder.to(device), tables)[:400]
    np.testing.assert_allclose(found.cpu(), codes.reconstruct(decoder.numpy()), atol=1e-5)
