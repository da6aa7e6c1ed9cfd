"""Bit-packed rows, compiled by numba.

A row is [residual bytes][gain byte][nonzeros as a little-endian bit stream, padded to a byte]. The
r-th nonzero starts at bit shifts[r]: its id in id_bits bits, then the number of its level in
value_bits[r] bits.
"""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def _start(row, stride, blocks, counts, lengths, block):
    """First byte of a row: by multiplication, or from its block's start where rows differ in k."""
    if stride:
        return row * stride
    place = blocks[row // block]
    for r in range(row - row % block, row):
        place += lengths[counts[r]]
    return place


@numba.njit(nogil=True, cache=True)
def _word(data, place, bit):
    """At least 25 bits of the stream at ``bit`` after byte ``place``, lowest first."""
    at = place + (bit >> 3)
    word = (
        np.uint32(data[at])
        | (np.uint32(data[at + 1]) << np.uint32(8))
        | (np.uint32(data[at + 2]) << np.uint32(16))
        | (np.uint32(data[at + 3]) << np.uint32(24))
    )
    return word >> np.uint32(bit & 7)


@numba.njit(nogil=True, cache=True)
def pack(head, ids, codes, shifts, id_bits, out):
    """n rows of k nonzeros into zeros (n, bytes); head (n, fixed) uint8 are their first bytes."""
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
    data, stride, blocks, counts, lengths, block, fixed, shifts, id_bits, masks, indptr,
    ids, codes, start, stop,
):  # fmt: skip
    """Ids and level numbers of rows start..stop into flat arrays at indptr."""
    id_mask = np.uint32((1 << id_bits) - 1)
    for i in range(start, stop):
        place = _start(i, stride, blocks, counts, lengths, block) + fixed
        for r in range(indptr[i + 1] - indptr[i]):
            word = _word(data, place, shifts[r])
            ids[indptr[i] + r] = word & id_mask
            codes[indptr[i] + r] = (word >> np.uint32(id_bits)) & masks[r]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def rescore(
    data, stride, blocks, counts, lengths, block, residual_bytes, gains, shifts, id_bits, masks,
    levels, dense_query, tables, k, rows, out,
):  # fmt: skip
    """(q'·s + residual) · gain of given rows (all where ``rows`` is empty)."""
    id_mask = np.uint32((1 << id_bits) - 1)
    for r in range(out.shape[0]):
        row = rows[r] if rows.shape[0] else r
        place = _start(row, stride, blocks, counts, lengths, block)
        total = np.float32(0)
        for b in range(residual_bytes):
            total += tables[b, data[place + b]]
        place += residual_bytes
        gain = gains[data[place]]
        place += 1
        for j in range(k if stride else counts[row]):
            word = _word(data, place, shifts[j])
            total += (
                dense_query[word & id_mask] * levels[j, (word >> np.uint32(id_bits)) & masks[j]]
            )
        out[r] = total * gain
