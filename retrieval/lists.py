"""Posting lists of codes: built, saved and opened."""

from typing import Literal

import numpy as np

from compressae.kernels.postings import WINDOW, Postings, build_postings
from compressae.retrieval.catalogue import Build, Catalogue, Codes, Segment
from compressae.retrieval.errors import InputError

Similarity = Literal["dot", "cosine"]
Stored = Literal["int8", "float32"]


def build_lists(
    codes: Codes, similarity: Similarity, values: Stored, threads: int | None
) -> tuple[Postings, np.ndarray | None]:
    """Posting lists of codes, and for "cosine" the factor 1/‖s‖ of each row, 0 for an empty one."""
    factors = None
    largest = codes.largest
    if similarity == "cosine":
        norms = codes.norms()
        factors = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0, dtype=np.float32)
        largest = 1.0

    def read(start: int, stop: int) -> tuple:
        indptr, ids, numbers, scales = codes.read(start, stop)
        if factors is not None:
            own = factors[start:stop]
            scales = own if scales is None else scales * own
        return indptr, ids, numbers, scales

    kind = np.int8 if values == "int8" else np.float32
    return build_postings(read, codes.nonzeros, codes.latents, largest, kind, threads), factors


def list_bytes(rows: int, nonzeros: int, latents: int) -> int:
    """``InvertedIndex.list_nbytes`` of int8 lists with ``nonzeros`` in all their rows."""
    windows = -(-rows // WINDOW)
    return 3 * nonzeros + windows * (4 * (latents + 1) + 8)


def list_arrays(segment: Segment) -> dict[str, np.ndarray]:
    """What a saved folder holds of a segment beside its codes."""
    arrays = {}
    if segment.lists is not None:
        p = segment.lists
        arrays = {"docs": p.docs, "values": p.values, "bounds": p.bounds, "places": p.places}
        arrays["scale"] = np.array([p.step, p.norm, p.error])
    if segment.factors is not None:
        arrays["factors"] = segment.factors
    if segment.ids is not None:
        arrays["ids"] = segment.ids
    return arrays


def open_lists(codes: Codes, build: Build, arrays: dict[str, np.ndarray], name: str) -> Catalogue:
    """A catalogue of codes and what ``list_arrays`` gave; ``name`` is for the error message.

    Raises:
        InputError: list bounds, row numbers or ids do not fit the codes.
    """
    if "starts" in arrays:
        raise InputError(f"{name}: lists of an older compressae; build the index again")
    lists, factors, ids = None, arrays.get("factors"), arrays.get("ids")
    whole = all(array is None or len(array) == len(codes) for array in (factors, ids))
    whole = whole and (ids is None or bool((np.diff(ids) > 0).all() and ids[0] >= 0))
    if "docs" in arrays:
        n, windows = len(codes), -(-len(codes) // WINDOW)
        docs, bounds, places = arrays["docs"], arrays["bounds"], arrays["places"]
        ends = [*places[1:].tolist(), len(docs)]
        whole = (
            whole
            and bounds.shape == (windows, codes.latents + 1)
            and len(places) == windows
            and len(docs) == len(arrays["values"])
            and not bounds[:, 0].any()
            and not (np.diff(bounds.astype(np.int64)) < 0).any()
            and (places + bounds[:, -1] == ends).all()
            and int(places[0]) == 0
            and int(docs[places[-1] :].max(initial=0)) < n - WINDOW * (windows - 1)
            and len(arrays["scale"]) == 3
        )
        if whole:
            step, norm, error = arrays["scale"].tolist()
            values = arrays["values"]
            lists = Postings(docs, values, bounds, places, n, step, norm, error)
    if not whole:
        raise InputError(f"{name}: posting lists do not fit {codes.shape}; build the index again")
    return Catalogue(codes, build, ids, (lists, factors))


def whole_segment(catalogue: Catalogue) -> Segment:
    """The one segment of a compacted catalogue.

    Raises:
        InputError: no row is left.
    """
    catalogue.compact()
    if not len(catalogue):
        raise InputError("no row is left in the index; add some before it is saved")
    return catalogue.segments[0]
