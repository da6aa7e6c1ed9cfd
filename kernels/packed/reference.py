"""The definition of packed rows, with Python's integers."""

import numpy as np


def pack(
    head: np.ndarray, indices: np.ndarray, codes: np.ndarray, id_bits: int, value_bits: np.ndarray
) -> list[bytes]:
    """Each row as [head][nonzeros: id, then level, lowest bits first]."""
    rows = []
    for first, ids, numbers in zip(head, indices, codes, strict=True):
        stream = place = 0
        for i, c, bits in zip(ids.tolist(), numbers.tolist(), value_bits.tolist(), strict=False):
            stream |= (i | c << id_bits) << place
            place += id_bits + bits
        rows.append(first.tobytes() + stream.to_bytes((place + 7) // 8, "little"))
    return rows


def rescore(
    row: bytes,
    k: int,
    id_bits: int,
    value_bits: np.ndarray,
    levels: np.ndarray,
    gains: np.ndarray,
    dense_query: np.ndarray,
    tables: np.ndarray,
) -> float:
    """The score of one row of k nonzeros, in float64."""
    m = len(tables)
    total = sum(float(tables[b, row[b]]) for b in range(m))
    stream = int.from_bytes(row[m + 1 :], "little")
    for r in range(k):
        latent = stream & ((1 << id_bits) - 1)
        stream >>= id_bits
        level = stream & ((1 << int(value_bits[r])) - 1)
        stream >>= int(value_bits[r])
        total += float(dense_query[latent]) * float(levels[r, level])
    return total * float(gains[row[m]])


def look_up_tables(parts: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """(q, m, 256) float32 of parts (q, m, s) and codebooks (m, s, 256)."""
    return np.einsum("qms,msc->qmc", parts, codebooks)
