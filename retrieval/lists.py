"""Posting lists of codes: built, saved and opened."""

from typing import Literal

import numpy as np

from compressae.kernels.postings import WINDOW, Postings, build_postings
from compressae.retrieval.blocks import SIZE, Blocks, build_blocks, similar_order
from compressae.retrieval.catalogue import Build, Catalogue, Codes, Segment
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes

Similarity = Literal["dot", "cosine"]
Stored = Literal["int8", "float32"]


def build_segment(
    codes: Codes,
    ids: np.ndarray | None,
    similarity: Similarity,
    values: Stored,
    threads: int | None,
    blocks: bool = False,
) -> Segment:
    """Codes with their posting lists and, for "cosine", the factor 1/‖s‖ of each row's values, 0
    for an empty one.

    Args:
        codes, ids: see ``catalogue.Build``.
        similarity, values: of the lists.
        threads: processors to use.
        blocks: order rows by similarity and add bounds of blocks (not for packed codes).
    """
    by_id = layer = factors = None
    if blocks and isinstance(codes, SparseCodes):
        order = similar_order(codes)
        codes, ids = codes.take(order), order if ids is None else ids[order]
        by_id = np.argsort(ids).astype(np.uint32)
    largest = codes.largest
    if similarity == "cosine":
        norms = codes.norms(np.float64)
        factors = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        largest = 1.0
        if isinstance(codes, SparseCodes) and codes.scales is not None:
            factors *= codes.scales

    def read(start: int, stop: int) -> tuple:
        indptr, latents, numbers, scales = codes.read(start, stop)
        if factors is not None:
            own = factors[start:stop]
            scales = own * scales if isinstance(codes, PackedCodes) else own
        return indptr, latents, numbers, scales

    kind = np.int8 if values == "int8" else np.float32
    lists = build_postings(read, codes.nonzeros, codes.latents, largest, kind, threads)
    if by_id is not None and isinstance(codes, SparseCodes):
        layer = build_blocks(codes, factors, threads)
    return Segment(codes, lists, factors, ids, by_id, layer)


def list_bytes(rows: int, nonzeros: int, latents: int) -> int:
    """``InvertedIndex.list_nbytes`` of int8 lists with ``nonzeros`` in all their rows."""
    windows = -(-rows // WINDOW)
    return 3 * nonzeros + windows * (4 * (latents + 1) + 8)


def list_arrays(segment: Segment) -> dict[str, np.ndarray]:
    """What a saved folder holds of a segment beside its codes."""
    arrays: dict[str, np.ndarray] = {}
    bounds = None if segment.blocks is None else segment.blocks.bounds
    for prefix, p in (("", segment.lists), ("blocks.", bounds)):
        if p is not None:
            made = {"docs": p.docs, "values": p.values, "bounds": p.bounds, "places": p.places}
            made["scale"] = np.array([p.step, p.norm, p.error])
            arrays |= {prefix + name: array for name, array in made.items()}
    if segment.factors is not None:
        arrays["factors"] = segment.factors
    if segment.ids is not None:
        arrays["ids"] = segment.ids
    return arrays


def open_lists(
    codes: Codes, build: Build, arrays: dict[str, np.ndarray], next_id: int, name: str
) -> Catalogue:
    """A catalogue of codes and what ``list_arrays`` gave; ``name`` is for the error message.

    Raises:
        InputError: list bounds, row numbers or ids do not fit the codes.
    """
    if "starts" in arrays:
        raise InputError(f"{name}: lists of an older compressae; build the index again")
    factors, ids = arrays.get("factors"), arrays.get("ids")
    by_id = None
    whole = all(array is None or len(array) == len(codes) for array in (factors, ids))
    if whole and ids is not None:
        if not (np.diff(ids) > 0).all():
            by_id = np.argsort(ids).astype(np.uint32)
        ordered = ids if by_id is None else ids[by_id]
        whole = bool((np.diff(ordered) > 0).all() and ordered[0] >= 0)
    lists = blocks = None
    if whole and "docs" in arrays:
        lists = _open_postings(arrays, "", len(codes), codes.latents)
        whole = lists is not None
    if whole and "blocks.docs" in arrays:
        rows = -(-len(codes) // SIZE)
        bounds = _open_postings(arrays, "blocks.", rows, 2 * codes.latents)
        whole = bounds is not None and isinstance(codes, SparseCodes)
        blocks = None if bounds is None else Blocks(bounds)
    if not whole:
        raise InputError(f"{name}: posting lists do not fit {codes.shape}; build the index again")
    return Catalogue.of(Segment(codes, lists, factors, ids, by_id, blocks), build, next_id)


def _open_postings(
    arrays: dict[str, np.ndarray], prefix: str, rows: int, latents: int
) -> Postings | None:
    """Lists of rows over latents; None where the arrays do not fit."""
    names = ("docs", "values", "bounds", "places", "scale")
    if any(prefix + name not in arrays for name in names):
        return None
    docs, values, bounds, places, scale = (arrays[prefix + name] for name in names)
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


def whole_segment(catalogue: Catalogue) -> Segment:
    """The one segment of a compacted catalogue.

    Raises:
        InputError: no row is left.
    """
    segment = catalogue.compact()
    if not len(segment):
        raise InputError("no row is left in the index; add some before it is saved")
    return segment
