"""Posting lists of codes: built, saved and opened."""

from typing import Literal

import numpy as np

from compressae.kernels.postings import WINDOW, Postings, build_postings
from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.segments import Build, Segment, Segments
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
        arrays = {"docs": p.docs, "values": p.values, "bounds": p.bounds, "places": p.places}
        arrays["scale"] = np.array([p.step, p.norm, p.error])
    if segment.factors is not None:
        arrays["factors"] = segment.factors
    if segment.ids is not None:
        arrays["ids"] = segment.ids
    return arrays


def open_lists(
    codes: Codes, build: Build, arrays: dict[str, np.ndarray], next_id: int, name: str
) -> Segments:
    """Segments of codes and what ``list_arrays`` gave.

    Args:
        codes: (n, h).
        build: makes the segments of rows to come.
        arrays: of ``list_arrays``, not trusted.
        next_id: id of the next row.
        name: of the index, for error messages.

    Raises:
        InputError: list bounds, row numbers or ids do not fit the codes.
    """
    if "starts" in arrays:
        raise InputError(f"{name}: lists of an older compressae; build the index again")
    if "blocks.docs" in arrays:
        raise InputError(f"{name}: {_OLD_BLOCKS}")
    factors, ids = arrays.get("factors"), arrays.get("ids")
    whole = all(array is None or len(array) == len(codes) for array in (factors, ids))
    if whole and ids is not None:
        whole = bool((np.diff(ids) > 0).all() and ids[0] >= 0)
    lists = None
    if whole and "docs" in arrays:
        lists = _open_postings(arrays, len(codes), codes.latents)
        whole = lists is not None
    if not whole:
        raise InputError(f"{name}: posting lists do not fit {codes.shape}; build the index again")
    return Segments.of(Segment(codes, lists, factors, ids), build, next_id)


def _open_postings(arrays: dict[str, np.ndarray], rows: int, latents: int) -> Postings | None:
    """Posting lists of rows over latents; None where the arrays do not fit."""
    names = ("docs", "values", "bounds", "places", "scale")
    if any(name not in arrays for name in names):
        return None
    # As plain arrays: numba takes longer to look at a memory map than to search it.
    docs, values, bounds, places, scale = (np.asarray(arrays[name]) for name in names)
    windows = -(-rows // WINDOW)
    ends = [*places[1:].tolist(), len(docs)]
    whole = (
        [docs.dtype, bounds.dtype, places.dtype] == [np.uint16, np.uint32, np.int64]
        and values.dtype in (np.int8, np.float32)
        and bounds.shape == (windows, latents + 1)
        and len(places) == windows
        and len(docs) == len(values)
        and not bounds[:, 0].any()
        and not (np.diff(bounds.astype(np.int64)) < 0).any()
        and (places + bounds[:, -1] == ends).all()
        and int(places[0]) == 0
        and int(docs[places[-1] :].max(initial=0)) < rows - WINDOW * (windows - 1)
        and len(scale) == 3
        and bool(np.isfinite(scale).all() and (scale >= 0).all())
    )
    return Postings(docs, values, bounds, places, rows, *scale.tolist()) if whole else None
