"""Bit-packed rows, compiled by numba.

A row is [residual bytes][gain byte][nonzeros as a little-endian bit stream, padded to a byte]. The
r-th nonzero starts at bit shifts[r]: its latent in id_bits bits, then its level number in
value_bits[r] bits.
"""

import numba
import numpy as np

from compressae.kernels.intrinsics import load_u32, prefetch

#: Rows scored in lockstep, rank by rank, so that the loop over rows vectorises.
_TOGETHER = 64


@numba.njit(nogil=True, cache=True)
def _start(row, stride, blocks, counts, lengths, block):
    """First byte of a row: from the stride, or from the start of its block if rows differ in k."""
    if stride:
        return row * stride
    place = blocks[row // block]
    for r in range(row - row % block, row):
        place += lengths[counts[r]]
    return place


@numba.njit(nogil=True, cache=True)
def pack(head, ids, codes, shifts, id_bits, out):
    """Pack n rows of k nonzeros into zeros out (n, bytes), after head (n, fixed) uint8."""
    fixed = head.shape[1]
    for i in range(ids.shape[0]):
        for b in range(fixed):
            out[i, b] = head[i, b]
        for r in range(ids.shape[1]):
            word = np.uint64(ids[i, r]) | (np.uint64(codes[i, r]) << np.uint64(id_bits))
            word <<= np.uint64(shifts[r] & 7)
            at = fixed + (shifts[r] >> 3)
            while word:
                out[i, at] |= np.uint8(word & np.uint64(255))
                word >>= np.uint64(8)
                at += 1


@numba.njit(nogil=True, cache=True)
def unpack(
    data, stride, blocks, counts, lengths, block, fixed, shifts, id_bits, masks, first, indptr,
    ids, codes, start, stop,
):  # fmt: skip
    """Unpack rows first + (start..stop): latents and level numbers into flat arrays at indptr."""
    id_mask = np.uint32((1 << id_bits) - 1)
    for i in range(start, stop):
        place = _start(first + i, stride, blocks, counts, lengths, block) + fixed
        for r in range(indptr[i + 1] - indptr[i]):
            word = load_u32(data, place + (shifts[r] >> 3)) >> np.uint32(shifts[r] & 7)
            ids[indptr[i] + r] = word & id_mask
            codes[indptr[i] + r] = (word >> np.uint32(id_bits)) & masks[r]


@numba.njit(nogil=True, cache=True)
def unpack_at(data, starts, counts, fixed, shifts, id_bits, masks, ids, codes):
    """Unpack rows at bytes starts (m,): latents and level numbers into flat arrays, row by row."""
    id_mask, at = np.uint32((1 << id_bits) - 1), 0
    for i in range(starts.shape[0]):
        place = starts[i] + fixed
        for r in range(counts[i]):
            word = load_u32(data, place + (shifts[r] >> 3)) >> np.uint32(shifts[r] & 7)
            ids[at] = word & id_mask
            codes[at] = (word >> np.uint32(id_bits)) & masks[r]
            at += 1


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def rescore(
    data, stride, blocks, counts, lengths, block, residual_bytes, gains, scales, shifts, id_bits,
    masks, levels, dense_query, tables, k, rows, out,
):  # fmt: skip
    """Score (q'·s + residual · scale) · gain of rows, all if ``rows`` is empty, into out (m,)."""
    id_mask, ids_end = np.uint32((1 << id_bits) - 1), np.uint32(id_bits)
    place, filled = np.empty(_TOGETHER, np.int64), np.empty(_TOGETHER, np.int64)
    total = np.empty(_TOGETHER, np.float32)
    last, ends = np.int64(-2), np.int64(0)  # Previous row and its end.
    for first in range(0, out.shape[0], _TOGETHER):
        count = min(_TOGETHER, out.shape[0] - first)

        # Locate and prefetch the rows. A row after its predecessor starts where that one ends.
        for i in range(count):
            row = rows[first + i] if rows.shape[0] else first + i
            filled[i] = k if stride else counts[row]
            if row != last + 1 or stride:
                ends = _start(row, stride, blocks, counts, lengths, block)
            place[i] = ends
            prefetch(data, ends)
            prefetch(data, ends + 63)
            if not stride:
                last, ends = row, ends + lengths[filled[i]]
            total[i] = 0

        # Residual codes: one table lookup each.
        for b in range(residual_bytes):
            table = tables[b]
            for i in range(count):
                total[i] += table[data[place[i] + b]]
        if residual_bytes:
            for i in range(count):
                total[i] *= scales[data[place[i] + residual_bytes]]

        # Nonzeros, rank by rank: extract latent and level from the bit stream.
        for j in range(k):
            at, shift = residual_bytes + 1 + (shifts[j] >> 3), np.uint32(shifts[j] & 7)
            mask, level = masks[j], levels[j]
            for i in range(count):
                if j < filled[i]:
                    word = load_u32(data, place[i] + at) >> shift
                    total[i] += dense_query[word & id_mask] * level[(word >> ids_end) & mask]

        for i in range(count):
            out[first + i] = total[i] * gains[data[place[i] + residual_bytes]]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def look_up_tables(x, codebooks, steps, out):
    """Dot products of parts of x (q, m·s) and codebooks (m, w, 256) in steps: out (q, m, 256)."""
    count, width, _ = codebooks.shape
    part = x.shape[1] // max(count, 1)
    for q in range(out.shape[0]):
        for m in range(out.shape[1]):
            table = out[q, m]
            table[:] = 0
            for s in range(min(width, x.shape[1] - m * part)):
                number, column = x[q, m * part + s] * steps[m], codebooks[m, s]
                for c in range(table.shape[0]):
                    table[c] += number * np.float32(column[c])
