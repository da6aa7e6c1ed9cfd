"""Triton's scan against the reference, in every form in which rows and queries come."""

import numpy as np
import pytest
import torch

from compressae.kernels import scan
from compressae.kernels.packed import SPARE, Layout, Rows, pack
from compressae.kernels.scan import SCAN_BLOCK, reference

RNG = np.random.default_rng


def plain(n, h, longest, dtype, seed=0, even=False):
    """Planes of random CSR rows and the same rows dense (n, h), factors, residual codes, scales."""
    rng = RNG(seed)
    counts = np.full(n, longest) if even else rng.integers(0, longest + 1, n)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ids = np.concatenate([rng.permutation(h)[:c] for c in counts])
    numbers = rng.integers(-127, 128, len(ids)) / (1 if dtype == np.int8 else 64)
    factors = rng.random(n).astype(np.float32) if dtype == np.int8 else None
    kind = np.uint16 if h <= 1 << 16 else np.uint32
    planes = scan.plain_planes(indptr, ids.astype(kind), numbers.astype(dtype), factors, h)
    dense = np.zeros((n, h))
    dense[np.repeat(np.arange(n), counts), ids] = numbers
    factors = np.ones(n) if factors is None else factors
    return planes, dense, factors, np.zeros((n, 0), np.uint8), 1.0


def packed(n, h, value_bits, m, ragged, seed=0, scaled=False):
    """The same of packed rows."""
    rng = RNG(seed)
    K, bits = len(value_bits), np.array(value_bits)
    levels = np.full((K, 1 << bits.max()), np.inf, np.float32)
    for r, b in enumerate(bits):
        levels[r, : 1 << b] = rng.integers(-64, 64, 1 << b) / 64
    gains = np.linspace(0.5, 1.5, 256, dtype=np.float32)
    scales = rng.random(256).astype(np.float32) if scaled else None
    layout = Layout(max(1, (h - 1).bit_length()), bits, m + 1)
    head = rng.integers(0, 256, (n, m + 1)).astype(np.uint8)
    ids = np.stack([rng.permutation(h)[:K] for _ in range(n)]).astype(np.int32)
    numbers = np.stack([rng.integers(0, 1 << b, n) for b in bits], 1).astype(np.uint8)
    counts = rng.integers(1, K + 1, n).astype(np.uint8) if ragged else np.full(n, K, np.uint8)
    rows = [
        pack(head[i : i + 1], ids[i : i + 1, :c], numbers[i : i + 1, :c], layout)[0]
        for i, c in enumerate(counts)
    ]
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    data = np.concatenate([*rows, np.zeros(SPARE, np.uint8)])
    held = Rows(data, layout, counts if ragged else None, starts[::64].astype(np.int64))
    dense = np.zeros((n, h))
    for i, c in enumerate(counts):
        dense[i, ids[i, :c]] = levels[np.arange(c), numbers[i, :c]]
    planes = scan.packed_planes(held, levels, gains, scales, h)
    of_rows = scales[head[:, m]] if scaled else 1.0
    return planes, dense, gains[head[:, m]], head[:, :m], of_rows


def questions(q, h, m, seed=1):
    rng = RNG(seed)
    tables = rng.standard_normal((q, m, 256), dtype=np.float32)
    return rng.standard_normal((q, h), dtype=np.float32), tables


def check(device, made, q, K, mask=None, **settings):
    planes, dense, factors, residual, scales = made
    queries, tables = questions(q, dense.shape[1], residual.shape[1])
    expected = reference.scores(
        dense, factors, queries.astype(np.float64), residual, tables, scales
    )
    allowed = np.ones(len(dense), bool) if mask is None else mask
    want_ids, want = reference.scan(expected, K, allowed)
    ids, scores = scan.scan(
        planes.to(device),
        torch.from_numpy(queries).to(device),
        torch.from_numpy(tables).to(device) if residual.shape[1] else None,
        K,
        None if mask is None else torch.from_numpy(mask).to(device),
        **settings,
    )
    ids, scores = ids.cpu().numpy(), scores.cpu().numpy()
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_allclose(scores, want, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(ids >= 0, want_ids >= 0)
    gaps = -np.diff(np.maximum(want, -1e30), axis=1, prepend=1e30, append=-2e30)
    clear = np.minimum(gaps[:, :-1], gaps[:, 1:]) > 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(ids[clear], want_ids[clear])
    assert clear.any() or not allowed.any()
    for i, s in zip(ids, scores, strict=True):
        level = np.flatnonzero((s[1:] == s[:-1]) & (i[1:] >= 0))
        assert (i[level] < i[level + 1]).all()


PACKED = {
    "ids and levels in 16 bits": lambda: packed(1500, 500, [4, 3, 3, 2, 1], 0, False),
    "levels apart, residual codes": lambda: packed(1100, 5000, [6, 4, 1], 3, False),
    "rows of different lengths": lambda: packed(1300, 100, [3, 2, 2, 1, 1, 1], 2, True),
    "scaled residual codes": lambda: packed(1300, 100, [2, 2, 2], 3, True, scaled=True),
}
PLAIN = {
    "float32": lambda: plain(1300, 90, 7, np.float32),
    "float16": lambda: plain(1025, 1000, 5, np.float16, even=True),
    "int8": lambda: plain(1024, 64, 64, np.int8, even=True),
    "wide": lambda: plain(300, 70_000, 4, np.float32),
}
ALL = {**PACKED, **PLAIN}


@pytest.mark.parametrize(
    ("name", "q"),
    [*((name, 4) for name in [*PACKED, "int8"]), *((name, 1) for name in ["float16", "wide"])],
)
def test_scan_equals_the_reference(device, name, q):
    made = ALL[name]()
    check(device, made, q, max(1, made[0].blocks - 2))


@pytest.mark.parametrize("form", ["shared", "cached", "together"])
@pytest.mark.parametrize(
    "name", ["levels apart, residual codes", "scaled residual codes", "float32"]
)
def test_both_launches_give_a_row_the_same_bits(device, name, form):
    from compressae.kernels.scan import gpu

    planes, dense, _, residual, _ = ALL[name]()
    queries, tables = questions(2, dense.shape[1], residual.shape[1])
    planes, queries = planes.to(device), torch.from_numpy(queries).to(device)
    tables = torch.from_numpy(tables).to(device) if residual.shape[1] else None
    maxima = gpu.block_maxima(planes, queries, tables, form=form)
    every = torch.arange(planes.blocks, device=device).expand(2, -1)
    scores = gpu.scores(planes, queries, tables, every, each=SCAN_BLOCK)
    assert torch.equal(maxima, scores.view(2, -1, SCAN_BLOCK).amax(2))


@pytest.mark.parametrize("q", [1, 4])
def test_only_allowed_rows_are_found(device, q):
    made = PACKED["rows of different lengths"]()
    check(device, made, q, 4, RNG(0).random(1300) < 0.05)


def test_one_allowed_row(device):
    check(device, PACKED["rows of different lengths"](), 1, 2, np.arange(1300) == 700)


@pytest.mark.parametrize("K", [6, 1100, 1110])
def test_all_rows_and_more(device, K):
    check(device, PACKED["levels apart, residual codes"](), 2, K)


def test_one_row(device):
    check(device, plain(1, 5, 3, np.float32, even=True), 1, 2)


def test_equal_scores_go_to_the_smaller_row(device):
    """Every row three blocks long the same: the best of each block tie."""
    indptr = np.arange(3 * SCAN_BLOCK + 1, dtype=np.int64)
    ids = np.tile(np.arange(SCAN_BLOCK) % 8, 3).astype(np.uint16)
    planes = scan.plain_planes(indptr, ids, np.ones(len(ids), np.float32), None, 8).to(device)
    query = torch.arange(8.0, device=device)[None]
    for q, K in ((1, 2), (4, 1), (1, 40)):
        found, scores = scan.scan(planes, query.expand(q, 8), None, K)
        assert (scores == 7).all()
        np.testing.assert_array_equal(found.cpu().numpy(), np.tile(7 + 8 * np.arange(K), (q, 1)))


def test_equal_scores_in_blocks_of_different_maxima(device):
    values = np.zeros(4 * SCAN_BLOCK, np.float32)
    values[[7, 9, SCAN_BLOCK, SCAN_BLOCK + 1, 3 * SCAN_BLOCK]] = 5, 3, 9, 3, 3
    indptr, ids = np.arange(len(values) + 1, dtype=np.int64), np.zeros(len(values), np.uint16)
    planes = scan.plain_planes(indptr, ids, values, None, 1).to(device)
    rows, scores = scan.scan(planes, torch.ones(1, 1, device=device), None, 3)
    assert rows.tolist() == [[SCAN_BLOCK, 7, 9]] and scores.tolist() == [[9, 5, 3]]


@pytest.mark.parametrize(
    "name", ["levels apart, residual codes", "scaled residual codes", "float32", "int8"]
)
def test_blocks_chosen_in_half_precision(device, name):
    check(device, ALL[name](), 4, 1, half=True)
    check(device, ALL[name](), 4, 1, RNG(2).random(ALL[name]()[0].n) < 0.01, half=True)


def test_a_row_that_half_precision_hides_is_found(device):
    """Float16 rounds the best row's product down, and those of other blocks up."""
    n = 6 * SCAN_BLOCK
    ids = np.zeros(n, np.uint16)
    ids[5 * SCAN_BLOCK :] = 1  # The last block reads the other entry.
    planes = scan.plain_planes(
        np.arange(n + 1, dtype=np.int64), ids, np.ones(n, np.float32), None, 2
    )
    queries = torch.tensor([[1 + 2**-11 + 2**-20, 1 + 2**-10 + 2**-11 - 2**-20]] * 4)
    queries[1] = queries[1].flip(0)  # Four are read side by side.
    given = planes.to(device), queries.to(device)
    rounded = queries.half().float()
    assert rounded[0, 0] == rounded[0, 1]  # So that the first block would win.
    found = scan.scan(*given, None, 1, half=True)
    expected = scan.scan(*given, None, 1, half=False)
    assert found[0].tolist() == expected[0].tolist()
    assert found[0][:2].tolist() == [[5 * SCAN_BLOCK], [0]] and torch.equal(found[1], expected[1])


def test_queries_are_tiled(device, monkeypatch):
    monkeypatch.setattr(scan, "_SCRATCH", 4 * (6 + 3 * 3 * SCAN_BLOCK) * 2)
    check(device, PLAIN["float32"](), 3, 3)


@pytest.mark.parametrize("each", [1, 32, SCAN_BLOCK])
def test_the_best_of_a_querys_own_rows(device, each):
    planes, dense, factors, residual, scales = PACKED["scaled residual codes"]()
    queries, tables = questions(3, 100, 3)
    runs = np.stack([np.sort(RNG(q).permutation(-(-1300 // each))[:4]) for q in range(3)])
    given = (torch.from_numpy(x).to(device) for x in (queries, tables))
    own = torch.from_numpy(runs).to(device)
    ids, scores = scan.best_of_runs(planes.to(device), *given, 5, own, each)
    sums = reference.scores(dense, factors, queries.astype(np.float64), residual, tables, scales)
    for q in range(3):
        rows = (runs[q][:, None] * each + np.arange(each)).ravel()
        rows = rows[rows < 1300]
        best = rows[np.argsort(-sums[q, rows], kind="stable")[:5]]
        np.testing.assert_array_equal(ids[q, : len(best)].cpu(), best)
        np.testing.assert_allclose(scores[q, : len(best)].cpu(), sums[q, best], rtol=1e-4)
        assert (ids[q, len(best) :] == -1).all() and scores[q, len(best) :].isneginf().all()


@pytest.mark.parametrize("name", ALL)
def test_nonzeros_and_factors_are_the_rows(name):
    planes, dense, factors, _, scales = ALL[name]()
    ids, values = (part.numpy()[: len(planes)] for part in planes.nonzeros(0, planes.blocks))
    rows = np.zeros((len(planes), dense.shape[1]))
    np.add.at(rows, (np.arange(len(planes))[:, None], ids * (values != 0)), values)
    np.testing.assert_allclose(rows, dense, rtol=1e-6)
    mine = planes.row_factors(0, planes.blocks)
    if mine is not None:
        np.testing.assert_allclose(mine.numpy()[: len(planes)], factors, rtol=1e-6)
    of_residuals = planes.residual_scales(0, planes.blocks)
    assert (of_residuals is None) == (isinstance(scales, float))
    if of_residuals is not None:
        np.testing.assert_array_equal(of_residuals.numpy()[: len(planes)], scales)


@pytest.mark.parametrize("name", ["levels apart, residual codes", "float32"])
def test_a_damaged_slot_reads_within_the_query(device, name):
    """Ids beyond h are cut to its bits, wherever the values are."""
    planes = ALL[name]()[0]
    planes.slots[:] = torch.iinfo(planes.slots.dtype).max
    parts = 0 if planes.residual is None else planes.residual.shape[1]
    queries, tables = questions(1, planes.latents, parts)
    found = scan.scan(
        planes.to(device),
        torch.from_numpy(queries).to(device),
        torch.from_numpy(tables).to(device) if parts else None,
        3,
    )
    assert found[1].isfinite().all()


def test_factors_in_place_of_gains_and_residual_codes(device):
    planes, dense, *_ = PACKED["scaled residual codes"]()
    factors = RNG(3).random(1300).astype(np.float32)
    scaled = planes.scaled(torch.from_numpy(factors))
    check(device, (scaled, dense, factors, np.zeros((1300, 0), np.uint8), 1.0), 1, 3)
    assert scaled.nbytes == planes.slots.nbytes + planes.counts.nbytes + 4 * 6 * SCAN_BLOCK


@pytest.mark.parametrize("name", [*PACKED, "float16"])
def test_layout_and_windows_in_parts(device, monkeypatch, name):
    """Rows that are laid out by parts, and held in windows, are those laid out at once."""
    from compressae.kernels.scan import planes, windows

    whole = ALL[name]()[0]
    monkeypatch.setattr(planes, "_PART", 2 * SCAN_BLOCK)
    monkeypatch.setattr(windows, "_PART", 1)
    parts = ALL[name]()[0]
    held = {f: t for f, t in vars(whole).items() if isinstance(t, torch.Tensor)}
    assert all(torch.equal(t, getattr(parts, f)) for f, t in held.items())

    def build(start, stop):
        cut = slice(start // SCAN_BLOCK, -(-stop // SCAN_BLOCK))
        shared = ("levels", "gain_table", "scale_table")
        own = {f: t if f in shared else t[cut] for f, t in held.items()}
        return scan.Planes(stop - start, whole.latents, **own)

    place = torch.device(device)
    for memory, rooms in ((None, 0), (whole.nbytes * 4 // 5, 2)):
        kept = scan.Windows(build, len(whole), place, memory)
        assert kept.streams == bool(rooms) and kept.nbytes <= (memory or whole.nbytes)
        for _ in range(2):
            end = 0
            for first, window in kept:
                assert first == end and first % SCAN_BLOCK == 0
                want, end = build(first, first + len(window)), first + len(window)
                for f in held:
                    assert torch.equal(getattr(window, f).cpu(), getattr(want, f))
            assert end == len(whole)
    with pytest.raises(ValueError, match="memory of 99 bytes: expected at least"):
        scan.Windows(build, len(whole), place, 99)


def test_bytes_count_what_fills_the_last_block(device):
    planes = PACKED["ids and levels in 16 bits"]()[0]
    assert planes.slots.dtype == torch.int16 and planes.values is None
    assert planes.nbytes == 6 * SCAN_BLOCK * (2 * 5 + 1)


def test_what_does_not_fit_is_refused(device):
    planes = PACKED["levels apart, residual codes"]()[0].to(device)
    queries, tables = (torch.from_numpy(x).to(device) for x in questions(2, 5000, 3))
    with pytest.raises(ValueError, match=r"queries \(2, 4999\): expected \(q, 5000\)"):
        scan.scan(planes, queries[:, 1:], tables, 3)
    with pytest.raises(ValueError, match=r"tables None: expected \(2, 3, 256\)"):
        scan.best_of_runs(planes, queries, None, 1, torch.zeros(2, 1, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="K = 0"):
        scan.scan(planes, queries, tables, 0)
    with pytest.raises(ValueError, match=r"mask of shape \(3,\): expected \(1100,\)"):
        scan.scan(planes, queries, tables, 1, torch.ones(3, dtype=torch.bool, device=device))
