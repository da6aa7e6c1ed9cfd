"""Posting lists of codes: built, saved and opened."""

from dataclasses import replace
from typing import Literal

import numpy as np

from compressae.kernels.postings import WINDOW, Postings, build_postings
from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.segments import LAST_ID, Segment
from compressae.retrieval.io.embeddings import Similarity

ListType = Literal["int8", "float32"]

_OLD_BLOCKS = "bounds of blocks, which were removed from the package; build the index again"


def build_segment(
    codes: Codes,
    ids: np.ndarray | None,
    similarity: Similarity,
    list_type: ListType,
    threads: int | None,
) -> Segment:
    """Build the posting lists of codes.

    Args:
        codes, ids: see ``segments.Build``.
        similarity: "cosine" divides each row's values by ‖s‖; an empty row scores 0.
        list_type: dtype of the lists' values.
        threads: processors to use.
    """
    factors, largest = None, codes.largest
    if similarity == "cosine":
        factors, largest = codes.inverse_norms(), 1.0
    lists = build_postings(
        lambda start, stop: codes.read(start, stop, factors),
        codes.nonzeros,
        codes.latents,
        largest,
        np.int8 if list_type == "int8" else np.float32,
        threads,
    )
    return Segment(codes, lists, factors, ids)


def list_arrays(segment: Segment) -> dict[str, np.ndarray]:
    """The arrays of a saved folder beside the codes."""
    arrays: dict[str, np.ndarray] = {}
    if (p := segment.lists) is not None:
        arrays = {"docs": p.docs, "values": p.values, "bounds": p.bounds}
        arrays["scale"] = np.array([p.step, p.norm, p.error])
    if segment.factors is not None:
        arrays["factors"] = segment.factors
    if segment.ids is not None:
        arrays["ids"] = segment.ids
    return arrays


def open_segment(
    codes: Codes, arrays: dict[str, np.ndarray], name: str, threads: int | None = None
) -> Segment:
    """A segment of codes and what ``list_arrays`` gave.

    Args:
        codes: (n, h).
        arrays: of ``list_arrays``, not trusted: a search of them reads and writes nothing out of
            bounds.
        name: of the index, for error messages.
        threads: processors to use.

    Raises:
        InputError: list bounds, row numbers or ids do not fit the codes.
    """
    if "starts" in arrays or "places" in arrays:
        raise InputError(f"{name}: lists of an older compressae; build the index again")
    if "blocks.docs" in arrays:
        raise InputError(f"{name}: {_OLD_BLOCKS}")
    # As plain arrays: numba takes longer to look at a memory map than to search it.
    arrays = {key: np.asarray(array) for key, array in arrays.items()}
    factors, ids = arrays.get("factors"), arrays.get("ids")
    n, whole = len(codes), True
    if ids is not None:
        whole = ids.dtype == np.int64 and ids.shape == (n,)
        whole = whole and bool((ids[1:] > ids[:-1]).all()) and 0 <= ids[0] <= ids[-1] <= LAST_ID
    if factors is not None and whole:
        whole = factors.dtype == np.float64 and factors.shape == (n,)
        whole = whole and bool(np.isfinite(factors).all())
    lists, is_older = None, "offsets" in arrays
    if whole and ("docs" in arrays or is_older):
        lists = _open_postings(arrays, len(codes), codes.latents * (1 if is_older else 2))
        whole = lists is not None
    if not whole:
        raise InputError(f"{name}: posting lists do not fit {codes.shape}; build the index again")
    if lists is not None and is_older:  # Format 3, of one list a latent: they are built again.
        similarity: Similarity = "dot" if factors is None else "cosine"
        list_type: ListType = "int8" if lists.values.dtype == np.int8 else "float32"
        segment = build_segment(codes, ids, similarity, list_type, threads)
        return replace(segment, has_older_lists=True)
    return Segment(codes, lists, factors, ids)


def _open_postings(arrays: dict[str, np.ndarray], rows: int, count: int) -> Postings | None:
    """``count`` posting lists of rows; None where the arrays do not fit."""
    names = ("docs", "values", "bounds", "scale")
    if any(name not in arrays for name in names):
        return None
    docs, values, bounds, scale = (arrays[name] for name in names)
    windows = -(-rows // WINDOW)
    # Row numbers are not read: a search looks at none beyond the last row.
    whole = (
        [docs.dtype, bounds.dtype] == [np.uint16, np.uint32]
        and (docs.ndim, scale.shape, scale.dtype) == (1, (3,), np.float64)
        and values.dtype in (np.int8, np.float32)
        and bounds.shape == (count, windows + 1)
        and docs.shape == values.shape
        and not bounds[:, 0].any()
        and not (bounds[:, 1:] < bounds[:, :-1]).any()
        and int(bounds[:, -1].sum(dtype=np.int64)) == len(docs)
        and bool(np.isfinite(scale).all() and (scale >= 0).all())
    )
    if not whole:
        return None
    return Postings(docs, values, bounds, Postings.offsets_of(bounds), rows, *scale.tolist())
