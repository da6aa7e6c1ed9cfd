"""Bytes of packed rows: what so many nonzeros and residual bytes take, and what fits so many bytes.

A packed row is [residual code][gain][nonzeros], a nonzero ⌈log2 h⌉ bits of latent id and, on
average over the row, ``value_bits`` bits of value.
"""

import re
from typing import Literal

import numpy as np

from compressae.kernels.packed import MAX_BITS, ROW_BLOCK, SPARE, Layout
from compressae.kernels.postings import WINDOW
from compressae.kernels.product import padded
from compressae.retrieval.errors import InputError

PackedType = Literal["int4", "int3", "int2"]
PACKED_TYPES: tuple[PackedType, ...] = ("int4", "int3", "int2")

#: Centroids of a byte of a residual code.
CENTROIDS = 256
#: Fewest bytes of a residual code that is a chain, and rows that it is fitted to: with fewer its
#: centroids fit these rows, not their kind. With a byte for each dimension it is none: the errors
#: left are near the rounding of its search.
_CHAIN_BYTES, _CHAIN_ROWS = 8, 1 << 12
#: Most nonzeros of a packed row: their count is one byte.
MOST_NONZEROS = 255
#: Fewer bytes than this that are left over go to nonzeros, not to a residual code.
_LEAST_RESIDUAL = 8

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000 ** (i + 1) for i, prefix in enumerate("KMGT")}
_UNITS |= {f"{prefix}iB": 1024 ** (i + 1) for i, prefix in enumerate("KMGT")}


def parse_bytes(size: str | int, rows: int, name: str = "budget") -> int:
    """Parse a number of bytes: a number, "4 GB", "512 MiB" or "48 B/row".

    Args:
        size: the number or text.
        rows: n, by which a size a row is multiplied.
        name: what the error message calls it.

    Raises:
        InputError: it is none of these, or not above 0.

    >>> parse_bytes("48 B/row", rows=1000), parse_bytes("1.5 KiB", rows=1)
    (48000, 1536)
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?i?B?)\s*(/\s*row)?\s*", str(size))
    if parts is None or parts[2].replace("k", "K") not in _UNITS or float(parts[1]) <= 0:
        raise InputError(
            f"{name} {size!r}: expected bytes above 0, such as 4000000, '4 GB', '512 MiB' or "
            "'48 B/row'"
        )
    unit = _UNITS[parts[2].replace("k", "K")]
    return int(float(parts[1]) * unit * (rows if parts[3] else 1))


def id_bits(latents: int) -> int:
    """Bits of a latent id: ⌈log2 h⌉.

    >>> id_bits(4096), id_bits(4097)
    (12, 13)
    """
    return max(1, (latents - 1).bit_length())


def value_bits(value_type: str) -> int:
    """Average bits of a value of packed codes: 2 of "int2".

    Raises:
        InputError: no packed value type.
    """
    if value_type not in PACKED_TYPES:
        raise InputError(f"values {value_type!r}: expected one of {', '.join(PACKED_TYPES)}")
    return int(value_type[3:])


def check_latents(latents: int) -> None:
    """Refuse more latents than packed ids can name beside values of 8 bits.

    Raises:
        InputError: see above.
    """
    if id_bits(latents) + 8 > MAX_BITS:
        raise InputError(
            f"{latents} latents: packed codes name at most {1 << (MAX_BITS - 8)}; "
            "store the values as int8"
        )


def row_lengths(latents: int, bits: int, residual_bytes: int, most: int) -> np.ndarray:
    """Bytes (most + 1,) int64 of a packed row of 0, 1, …, ``most`` nonzeros.

    Args:
        latents: h.
        bits: of a value, on average.
        residual_bytes: of a row.
        most: nonzeros of the longest row.

    >>> row_lengths(4096, bits=2, residual_bytes=16, most=4)
    array([17, 19, 21, 23, 24])
    """
    return Layout(id_bits(latents), np.full(most, bits), residual_bytes + 1).lengths


def ragged_bytes(rows: int) -> int:
    """Bytes beside the rows of packed codes that differ in k: counts, block starts, padding."""
    return SPARE + rows + 8 * -(-rows // ROW_BLOCK)


def mean_nonzeros(nbytes: float, latents: int, bits: int, residual_bytes: int = 0) -> float:
    """Nonzeros of a row of ``nbytes`` bytes, as a real number: the mean under a budget.

    >>> mean_nonzeros(29, latents=4096, bits=2)
    16.0
    """
    return 8 * (nbytes - residual_bytes - 1) / (id_bits(latents) + bits)


def fit_row(
    nbytes: int,
    latents: int,
    bits: int,
    dim: int,
    usual: int,
    nonzeros: int | None = None,
    residual: bool = True,
) -> tuple[int, int]:
    """Nonzeros and residual bytes of a packed row that takes at most ``nbytes`` bytes.

    Args:
        nbytes: of a row.
        latents: h.
        bits: of a value, on average.
        dim: d, the most residual bytes.
        usual: nonzeros where they fit and none are given.
        nonzeros: exactly these; None to choose.
        residual: spend what is left on a residual code. Where that is less than 8 bytes, or with
            ``residual=False``, as many nonzeros are taken as fit.

    Returns:
        (nonzeros, residual bytes).

    Raises:
        InputError: not one nonzero fits, or not those given.

    >>> fit_row(64, latents=4096, bits=2, dim=384, usual=16)
    (16, 35)
    """
    most = min(MOST_NONZEROS, latents)
    lengths = row_lengths(latents, bits, 0, most)[1:]
    fitting = int(np.searchsorted(lengths, nbytes, "right"))
    least = nonzeros or 1
    if fitting < least:
        raise InputError(
            f"{nbytes} bytes a row: {least} nonzeros take {lengths[min(least, most) - 1]}; "
            "give more"
        )
    k = nonzeros or min(fitting, usual)
    rest = nbytes - int(lengths[k - 1])
    if rest < _LEAST_RESIDUAL or not residual:
        return nonzeros or fitting, 0
    return k, min(rest, dim)


def list_bytes(rows: int, nonzeros: int, latents: int) -> int:
    """Bytes of the int8 posting lists of rows that hold ``nonzeros`` in all."""
    return 3 * nonzeros + 2 * latents * (4 * (-(-rows // WINDOW) + 1) + 8)


def decoder_bytes(dim: int, latents: int) -> int:
    """Bytes of a decoder of 4 bits an entry, as a search holds it.

    >>> decoder_bytes(384, latents=4096)
    802816
    """
    return latents * (padded(dim) // 2 + 4)


def is_chain(rows: int, dim: int, residual_bytes: int) -> bool:
    """Whether residual codes that are fitted to so many rows are a chain (``kernels.chain``).

    >>> [is_chain(50_000, 384, m) for m in (4, 16, 383, 384)]
    [False, True, True, False]
    """
    return rows >= _CHAIN_ROWS and _CHAIN_BYTES <= residual_bytes < dim


def quantizer_bytes(rows: int, dim: int, nonzeros: int, residual_bytes: int) -> int:
    """Most bytes of a row quantiser's arrays that a search holds.

    >>> quantizer_bytes(100_000, 384, nonzeros=8, residual_bytes=16)
    355904
    """
    part = -(-dim // residual_bytes) if residual_bytes else 0
    columns = part * residual_bytes
    # A rank may have all of 256 levels; and there are gains and scales.
    levels = 4 * 256 * (nonzeros + 1 + (residual_bytes > 0))
    centroids = CENTROIDS * columns * (1 + is_chain(rows, dim, residual_bytes))
    return levels + columns * (padded(dim) + 4) + centroids + 4 * residual_bytes
