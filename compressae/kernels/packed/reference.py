"""Definition of packed rows, with Python integers."""

import numpy as np


def pack(
    head: np.ndarray, indices: np.ndarray, codes: np.ndarray, id_bits: int, value_bits: np.ndarray
) -> list[bytes]:
    """Pack each row as [head][nonzeros: id, then level, lowest bits first]."""
    rows = []
    for first, ids, numbers in zip(head, indices, codes, strict=True):
        stream = offset = 0
        for i, c, bits in zip(ids.tolist(), numbers.tolist(), value_bits.tolist(), strict=False):
            stream |= (i | c << id_bits) << offset
            offset += id_bits + bits
        rows.append(first.tobytes() + stream.to_bytes((offset + 7) // 8, "little"))
    return rows


def unpack(
    row: bytes, k: int, id_bits: int, value_bits: np.ndarray, fixed: int
) -> tuple[list[int], list[int]]:
    """Unpack k latents and level numbers of one row, the inverse of ``pack``."""
    stream = int.from_bytes(row[fixed:], "little")
    ids, codes = [], []
    for bits in value_bits[:k].tolist():
        ids.append(stream & ((1 << id_bits) - 1))
        codes.append(stream >> id_bits & ((1 << bits) - 1))
        stream >>= id_bits + bits
    return ids, codes


def rescore(
    row: bytes,
    k: int,
    id_bits: int,
    value_bits: np.ndarray,
    levels: np.ndarray,
    gains: np.ndarray,
    scales: np.ndarray,
    dense_query: np.ndarray,
    tables: np.ndarray,
) -> float:
    """Score one row of k nonzeros, in float64."""
    m = len(tables)
    total = sum(float(tables[b, row[b]]) for b in range(m)) * float(scales[row[m]])
    ids, codes = unpack(row, k, id_bits, value_bits, m + 1)
    total += sum(
        float(dense_query[i]) * float(levels[r, c])
        for r, (i, c) in enumerate(zip(ids, codes, strict=True))
    )
    return total * float(gains[row[m]])


def look_up_tables(x: np.ndarray, codebooks: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Look-up tables (q, m, 256) of x (q, m·s), codebooks (m, w, 256) and their steps (m,)."""
    m, width, _ = codebooks.shape
    s = x.shape[1] // max(m, 1)
    padded = np.pad(x, ((0, 0), (0, width)))
    out = np.empty((len(x), m, 256))
    for i in range(m):
        out[:, i] = padded[:, i * s : i * s + width] @ (codebooks[i] * steps[i])
    return out
