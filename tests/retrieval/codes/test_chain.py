"""Residual codes that are a chain: what they decode to, what is searched, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressae import CompresSAE, InputError, compress
from compressae.kernels.backend import use
from compressae.kernels.chain import Chain, encode_chain, reference
from compressae.kernels.matmul import Centroids, nearest_centroids
from compressae.retrieval import CompressedIndex, GpuIndex
from compressae.retrieval.codes import load_codes
from compressae.retrieval.codes.residual import fit_residual

N, D, H, BYTES = 4200, 24, 64, 8


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N, D)) * np.geomspace(3, 1, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(D, H, 3, seed=1)
    model.settings = {"recipe": "pursuit"}
    return model


@pytest.fixture(scope="module")
def codes(model, table):
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    return compress(model, table, residual_bytes=BYTES)


def residuals(quantizer, codes):
    """The residuals (n, d) that codes stand for, by the definition of a chain."""
    return reference.decode(codes, quantizer.codebooks) @ quantizer.restore.T


def test_codes_decode_to_sums_of_two_centroids(codes):
    quantizer, bytes_of_rows = codes.quantizer, codes.residual_codes()[:50]
    assert quantizer.is_chain and quantizer.codebooks.shape == (BYTES, 256, 2 * D // BYTES)
    expected = residuals(quantizer, bytes_of_rows)
    found = quantizer.decode_residual(bytes_of_rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    by_tensors = quantizer.decode_residual(torch.from_numpy(bytes_of_rows))
    np.testing.assert_allclose(by_tensors.numpy(), expected, atol=1e-5)


def test_a_chain_whose_last_parts_are_padding(table):
    """9 bytes of 2 dimensions for 10: columns of zeros, in the parts of least variance."""
    model, rows = CompresSAE(10, H, 3, seed=1), table[:, :10]
    model.settings = {"recipe": "pursuit"}
    codes = compress(model, rows, residual_bytes=9)
    assert codes.quantizer.is_chain and codes.quantizer.codebooks.shape == (9, 256, 4)
    error, error_of_fewer = (
        np.square(each.reconstruct(model.decoder.detach().numpy()) - units(rows)).sum()
        for each in (codes, compress(model, rows, residual_bytes=8))
    )
    assert error < error_of_fewer
    found = CompressedIndex(model.projection, codes).search(rows[:20], 1, candidates="all")
    assert np.array_equal(found.ids[:, 0], np.arange(20))


def units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_look_up_tables_add_up_to_products_with_what_codes_decode_to(codes, table):
    bytes_of_rows, queries = codes.residual_codes()[:50], table[:4]
    tables = codes.query_tables(queries)
    sums = tables[:, np.arange(BYTES), bytes_of_rows].sum(2)
    expected = queries @ residuals(codes.quantizer, bytes_of_rows).T
    np.testing.assert_allclose(sums, expected, atol=2e-3 * np.abs(expected).max())


def test_each_byte_decodes_by_itself_from_the_residual_arrays(codes):
    restore, codebooks = codes.residual_arrays()
    bytes_of_rows = codes.residual_codes()[:50]
    parts = codebooks[np.arange(BYTES), bytes_of_rows].reshape(50, -1)
    expected = residuals(codes.quantizer, bytes_of_rows)
    np.testing.assert_allclose(parts @ restore.T, expected, atol=1e-5)


def error_of_parts(rows, rotation, codebooks):
    parts = rows @ rotation
    nearest = nearest_centroids(parts, Centroids.of(codebooks))
    decoded = codebooks[np.arange(len(codebooks)), nearest].reshape(parts.shape)
    return np.square(parts - decoded).sum()


def error_of_chain(rows, rotation, codebooks):
    parts = rows @ rotation
    codes = encode_chain(parts, Chain.of(codebooks))
    return np.square(parts - reference.decode(codes, codebooks)).sum()


def test_a_chain_leaves_less_error_than_parts_alone(table):
    """On rows that it was fitted to, and on unseen ones."""
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    unseen = np.random.default_rng(9).standard_normal((500, D)).astype(np.float32)
    unseen *= np.geomspace(3, 1, D).astype(np.float32)
    chain = fit_residual(table, BYTES)
    alone = fit_residual(table[:4000], BYTES)  # Too few rows for a chain.
    assert chain[1].shape[2] == 2 * alone[1].shape[2]
    for rows in (table, unseen):
        assert error_of_chain(rows, *chain) < 0.9 * error_of_parts(rows, *alone)


def test_a_saved_chain_answers_as_before(codes, model, table, tmp_path):
    codes.save(tmp_path / "codes")
    loaded = load_codes(tmp_path / "codes")
    hits, again = (
        CompressedIndex(model.projection, rows).search(table[:5], 9) for rows in (codes, loaded)
    )
    np.testing.assert_array_equal(hits.ids, again.ids)
    np.testing.assert_array_equal(hits.scores, again.scores)
    assert (hits.ids[:, 0] == np.arange(5)).all()


def test_a_search_holds_a_chain_in_8_bits(codes):
    quantizer = codes.quantizer
    restore, columns = D * 64 + 4 * D, BYTES * 256 * 2 * (D // BYTES)
    levels = quantizer.levels.nbytes + quantizer.gains.nbytes + quantizer.scales.nbytes
    assert quantizer.nbytes == levels + restore + columns + 4 * BYTES


def test_tensors_on_the_cpu_are_encoded_as_arrays(codes):
    residual = np.random.default_rng(2).standard_normal((40, D)).astype(np.float32) / 5
    found = codes.quantizer.encode_residual(torch.from_numpy(residual))
    np.testing.assert_array_equal(found.numpy(), codes.quantizer.encode_residual(residual))


def test_rows_of_few_axes_leave_less_error_than_by_parts_alone():
    """16 bytes for 10 axes: six parts hold nothing."""
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    rows = np.zeros((5000, 48), np.float32)
    rows[:, :10] = np.random.default_rng(0).standard_normal((5000, 10))
    chain, alone = (fit_residual(x, 16) for x in (rows, rows[:4000]))
    assert error_of_chain(rows, *chain) < error_of_parts(rows, *alone)


def test_centroids_whose_products_are_not_finite_are_refused(codes):
    with pytest.raises(InputError, match=r"centroids of up to .*; expected at most 1e\+15"):
        replace(codes.quantizer, codebooks=codes.quantizer.codebooks * np.float32(1e30))


@pytest.mark.parametrize(
    "broken",
    [
        lambda q: dict(codebooks=q.codebooks + np.float32(1)),  # The last one's next part.
        lambda q: dict(codebooks=np.tile(q.codebooks, (1, 1, 2))),
        lambda q: dict(codebooks=q.codebooks[:, :, :5]),
        lambda q: dict(restore=q.restore[:, :12]),
        lambda q: dict(codebooks=q.codebooks[:7]),
    ],
)
def test_chains_that_do_not_fit_together_are_refused(codes, broken):
    with pytest.raises(InputError, match="do not fit together; encode the table again"):
        replace(codes.quantizer, **broken(codes.quantizer))


def test_a_gpu_encodes_and_searches_chains(device, codes, model, table):
    quantizer = codes.quantizer
    residual = np.random.default_rng(2).standard_normal((40, D)).astype(np.float32) / 5
    found = quantizer.encode_residual(torch.from_numpy(residual).to(device)).cpu().numpy()
    errors = [
        np.square(residual @ quantizer.project - reference.decode(c, quantizer.codebooks)).sum()
        for c in (found, quantizer.encode_residual(residual))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    some = codes.take(np.arange(300))
    index = CompressedIndex(model.projection, some, projection_type="float32")
    with use("numba"):
        expected = index.search(table[:2], 10, candidates="all")
    hits = GpuIndex(index, device).search(table[:2], 10)
    np.testing.assert_array_equal(hits.ids, expected.ids)
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-4)
