"""Everything about the bytes of a row: plain and packed codes, their quantiser, their sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from compressae.retrieval.codes.base import KIND, Codes
from compressae.retrieval.codes.fitted import KIND as QUANTIZER
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.codes.packed import PackedCodes
from compressae.retrieval.codes.sparse import CsrRows, SparseCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, read_config

__all__ = [
    "FORMS",
    "KIND",
    "QUANTIZER",
    "Codes",
    "FittedQuantizer",
    "PackedCodes",
    "SparseCodes",
    "as_codes",
    "load_codes",
    "load_like",
    "open_codes",
    "query_rows",
]

#: The forms of codes, by the stems of their files.
FORMS: dict[str, type[Codes]] = {form.stem: form for form in (PackedCodes, SparseCodes)}


def load_codes(path: str | Path, verify: bool = True) -> Codes:
    """Open saved codes of either form, memory-mapped.

    Args:
        path: the folder.
        verify: compare each file with its checksum, which reads it once.

    Raises:
        InputError: no whole codes; the message names the file.
    """
    artifact = load_artifact(path, KIND, verify)
    return open_codes(dict.fromkeys(FORMS, artifact.settings), artifact.tensors, path)


def load_like(path: str | Path) -> PackedCodes | FittedQuantizer:
    """Open packed codes, or a fitted quantiser, whose quantiser other rows are to share.

    Raises:
        InputError: something else; the message names the file.
    """
    if read_config(path).kind == QUANTIZER:
        return FittedQuantizer.load(path)
    return PackedCodes.load(path)


def open_codes(
    settings: dict[str, Any], tensors: dict[str, dict[str, Any]], path: str | Path
) -> Codes:
    """Codes of either form among the files of an artifact.

    Args:
        settings: of the artifact, those of the codes under the stem of their file.
        tensors: {file stem: {name: array}}.
        path: for the error message.

    Raises:
        InputError: no codes there, or damaged ones.
    """
    for stem, form in FORMS.items():
        if stem in tensors and stem in settings:
            # As plain arrays: numba takes longer to look at a memory map than to search it.
            arrays = {name: np.asarray(array) for name, array in tensors[stem].items()}
            return form.from_parts(settings[stem], arrays)
    raise InputError(f"{path}: holds no codes (an older compressae?); build it again")


def as_codes(rows: Any, name: str) -> Codes:
    """Codes of any sparse rows: codes, a scipy sparse matrix or a sparse torch tensor.

    Raises:
        InputError: dense or unknown rows.
    """
    if isinstance(rows, Codes):
        return rows
    if scipy.sparse.issparse(rows):
        return SparseCodes.from_scipy(rows)
    if hasattr(rows, "to_sparse_coo") and str(rows.layout) != "torch.strided":
        return SparseCodes.from_torch(rows)
    raise InputError(
        f"{name}: {type(rows).__name__}; expected a scipy sparse matrix, a sparse torch tensor or "
        "SparseCodes (dense queries go to CompressedIndex)"
    )


def query_rows(queries: Any, latents: int) -> CsrRows:
    """CSR arrays of sparse queries (q, h), checked; those of a clean CSR matrix are not copied.

    Args:
        queries: as of ``as_codes``.
        latents: h, the width that is expected.

    Raises:
        InputError: dense or unknown rows, another width, NaN or infinity.
    """
    shape = getattr(queries, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != latents:
        as_codes(queries, "queries")  # Rows of an unknown kind are refused as such.
        width = shape[-1] if shape else "?"
        raise InputError(f"queries: {width} latents; expected {latents}, those of the index")
    rows = None
    if getattr(queries, "format", None) == "csr" and queries.dtype.kind in "fiub":
        rows = CsrRows.of(queries.indptr, queries.indices, queries.data, latents)
    elif str(getattr(queries, "layout", None)) == "torch.sparse_csr":
        csr = queries.detach().cpu()
        rows = CsrRows.of(
            csr.crow_indices().numpy(),
            csr.col_indices().numpy(),
            csr.values().float().numpy(),
            latents,
        )
    elif str(getattr(queries, "layout", None)) == "torch.sparse_coo":
        coo = queries.detach().coalesce()
        row, column = coo.indices().cpu().numpy()
        indptr = np.searchsorted(row, np.arange(shape[0] + 1))
        rows = CsrRows.of(indptr, column, coo.values().float().cpu().numpy(), latents)
    if rows is not None:
        return rows
    codes = as_codes(queries, "queries")
    plain = codes.unpack() if isinstance(codes, PackedCodes) else codes
    assert isinstance(plain, SparseCodes)
    return CsrRows(plain.indptr, plain.indices, plain.row_values())
