from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressae.kernels.packed import (
    MAX_BITS,
    ROW_BLOCK,
    SPARE,
    Layout,
    Rows,
    gpu,
    look_up_tables,
    pack,
    reference,
    rescore,
    unpack,
    unpack_at,
)


@st.composite
def tables(draw):
    """Random rows of one k or of several, as (rows, heads, [(ids, codes) of each row])."""
    id_bits = draw(st.integers(1, 17))
    bits = draw(st.lists(st.integers(1, min(8, MAX_BITS - id_bits)), min_size=1, max_size=9))
    layout = Layout(id_bits, np.array(bits), draw(st.integers(1, 4)))
    n, ragged = draw(st.integers(1, 2 * ROW_BLOCK + 3)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = rng.integers(0, len(bits) + 1, n) if ragged else np.full(n, len(bits))
    heads = rng.integers(0, 256, (n, layout.fixed)).astype(np.uint8)
    nonzeros = []
    for k in counts:
        ids = rng.integers(0, 1 << id_bits, k).astype(np.int32)
        codes = np.array([rng.integers(0, 1 << b) for b in bits[:k]], np.uint8)
        nonzeros.append((ids, codes))
    packed = [
        pack(heads[i : i + 1], ids[None], codes[None], layout)[0]
        for i, (ids, codes) in enumerate(nonzeros)
    ]
    data = np.concatenate([*packed, np.zeros(SPARE, np.uint8)])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in packed])[:-1]])
    blocks = starts[::ROW_BLOCK].astype(np.int64)
    rows = Rows(data, layout, counts.astype(np.uint8) if ragged else None, blocks)
    return rows, heads, nonzeros


@given(tables())
def test_packing_is_the_reference_and_unpacking_gives_it_back(table):
    rows, heads, nonzeros = table
    layout, place = rows.layout, 0
    for head, (ids, codes) in zip(heads, nonzeros, strict=True):
        expected = reference.pack(
            head[None], ids[None], codes[None], layout.id_bits, layout.value_bits
        )[0]
        assert len(expected) == layout.lengths[len(ids)]
        assert rows.data[place : place + len(expected)].tobytes() == expected
        place += len(expected)
    indptr, ids, codes = unpack(rows)
    assert len(rows) == len(nonzeros)
    for (start, stop), (expected_ids, expected_codes) in zip(
        pairwise(indptr), nonzeros, strict=True
    ):
        np.testing.assert_array_equal(ids[start:stop], expected_ids)
        np.testing.assert_array_equal(codes[start:stop], expected_codes)
    start, stop = len(rows) // 3, len(rows) - len(rows) // 4
    part_indptr, part_ids, part_codes = unpack(rows, start, stop, threads=1)
    here = slice(indptr[start], indptr[stop])
    np.testing.assert_array_equal(part_indptr, indptr[start : stop + 1] - indptr[start])
    np.testing.assert_array_equal(part_ids, ids[here])
    np.testing.assert_array_equal(part_codes, codes[here])


@given(tables(), st.integers(0, 2**32))
@pytest.mark.parametrize("function", [unpack_at, gpu.unpack_at], ids=["numba", "torch"])
def test_unpacking_by_start_is_the_reference(function, table, seed):
    rows, _, nonzeros = table
    layout, rng = rows.layout, np.random.default_rng(seed)
    lengths = layout.lengths[[len(ids) for ids, _ in nonzeros]]
    chosen = rng.integers(0, len(rows), 9)
    starts = (np.cumsum(lengths) - lengths)[chosen]
    counts = np.array([rng.integers(0, len(nonzeros[i][0]) + 1) for i in chosen])
    ids, codes = function(
        torch.from_numpy(rows.data), torch.from_numpy(starts), torch.from_numpy(counts), layout
    )
    expected = [
        reference.unpack(
            rows.data[start : start + lengths[i]].tobytes(), k, layout.id_bits, layout.value_bits,
            layout.fixed,
        )
        for i, start, k in zip(chosen, starts, counts, strict=True)
    ]  # fmt: skip
    assert (ids.dtype, codes.dtype) == (torch.int32, torch.uint8)
    assert ids.tolist() == [i for row_ids, _ in expected for i in row_ids]
    assert codes.tolist() == [c for _, row_codes in expected for c in row_codes]


@pytest.mark.parametrize(
    ("start", "count"), [(-1, 1), (1, 2), (2, 1), (2**63 - 1, 1), (0, 3), (0, -1)]
)
def test_unpacking_rows_outside_the_data_is_refused(start, count):
    layout = Layout(4, np.array([4, 4]), 1)
    data = np.zeros(3 + SPARE, np.uint8)
    with pytest.raises(ValueError, match="rows outside 3 bytes or of more than 2 nonzeros"):
        unpack_at(data, np.array([0, start]), np.array([2, count]), layout)


@given(tables(), st.integers(0, 2**32))
def test_rescoring_is_the_reference_for_any_rows(table, seed):
    rows, _, nonzeros = table
    layout, rng = rows.layout, np.random.default_rng(seed)
    levels, gains, scales, query, lookups = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (
            (len(layout.value_bits), 1 << int(layout.value_bits.max())), 256, 256,
            1 << layout.id_bits, (layout.fixed - 1, 256),
        )
    )  # fmt: skip
    lengths = layout.lengths[[len(ids) for ids, _ in nonzeros]]
    ends = np.cumsum(lengths)
    expected = np.array([
        reference.rescore(
            rows.data[end - length : end].tobytes(), len(ids), layout.id_bits, layout.value_bits,
            levels, gains, scales, query, lookups,
        )
        for end, length, (ids, _) in zip(ends, lengths, nonzeros, strict=True)
    ])  # fmt: skip
    scores = rescore(rows, levels, gains, scales, query, lookups, None)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    some = rng.integers(0, len(rows), 5)
    for which, wanted in ((some, scores[some]), (np.empty(0, np.int64), np.empty(0))):
        found = rescore(rows, levels, gains, scales, query, lookups, which)
        np.testing.assert_array_equal(found, wanted)


def test_a_nonzero_of_more_bits_than_four_bytes_hold_is_refused():
    with pytest.raises(ValueError, match="18 bits an id and 8 a value: expected at most 25"):
        Layout(18, np.array([8]), 1)


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize(("q", "m", "s"), [(1, 1, 1), (3, 5, 7), (2, 0, 0)])
def test_look_up_tables_are_the_reference(q, m, s, overlap):
    rng = np.random.default_rng(m)
    parts = rng.standard_normal((q, m * s)).astype(np.float32)
    codebooks = rng.integers(-127, 128, (m, overlap * s, 256)).astype(np.int8)
    steps = (rng.random(m) / 100).astype(np.float32)
    np.testing.assert_allclose(
        look_up_tables(parts, codebooks, steps),
        reference.look_up_tables(parts, codebooks, steps),
        atol=1e-5,
    )
