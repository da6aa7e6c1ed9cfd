"""A scipy CSR matrix: one .npz file, of the ids too."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compressae.retrieval.export.rows import ExportRows
from compressae.retrieval.export.signs import Signs
from compressae.retrieval.io.atomic import check_new_file, replacing
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path
from compressae.retrieval.store.catalogue import Catalogue


def to_scipy(
    catalogue: Catalogue,
    path: str | Path,
    *,
    signs: Signs = "both",
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a .npz that ``scipy.sparse.load_npz`` reads as a float32 CSR matrix (n, h), or
    (n, 2h) with signs "halves".

    The same file has ``ids`` (n,), int64 or texts, and ``version``, which ``numpy.load`` reads.

    Args:
        catalogue: the version that it has open is written.
        path: the file, its name as given; scipy expects one that ends in ``.npz``.
        signs: "halves" for values without signs; see ``ExportRows``.
        overwrite: replace an older file.
        progress: called with (rows done, rows).

    Returns:
        Rows written.

    Raises:
        InputError: something else at the path, or the disk failed. What was there is unchanged.

    >>> import tempfile
    >>> from scipy import sparse
    >>> rows = sparse.csr_array(np.array([[0, 2.0, 0], [1, 0, -1]], np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = Catalogue.create(f"{folder}/c", None, rows, ids=["a", "b"])
    ...     count = to_scipy(catalogue, f"{folder}/rows.npz")
    ...     matrix = sparse.load_npz(f"{folder}/rows.npz")
    ...     ids = np.load(f"{folder}/rows.npz")["ids"]
    >>> matrix.toarray(), ids
    (array([[ 0.,  2.,  0.],
           [ 1.,  0., -1.]], dtype=float32), array(['a', 'b'], dtype='<U1'))
    """
    path = local_path(path, REMOTE_OUTPUT)
    rows = ExportRows(catalogue, columns=(), signs=signs)
    check_new_file(path, overwrite)
    n = len(rows)
    ids: list[np.ndarray] = [np.empty(0, "U1" if rows.has_text_ids else np.int64)]
    counts = [np.zeros(1, np.int64)]
    for batch in rows.batches():
        ids.append(batch.ids)
        counts.append(np.diff(batch.bounds))
    bounds = np.cumsum(np.concatenate(counts))
    nnz = int(bounds[-1])
    width = np.dtype(np.int32 if max(nnz, rows.width) < 1 << 31 else np.int64)

    def latents() -> Iterator[np.ndarray]:
        for batch in rows.batches():
            yield batch.latents.astype(width)

    def values() -> Iterator[np.ndarray]:
        for batch in rows.batches(progress):
            yield batch.values

    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        small = {
            "format": np.array(b"csr"),
            "_is_array": np.array(True),  # sparse.csr_array, as newer code expects.
            "shape": np.array([n, rows.width], np.int64),
            "indptr": bounds.astype(width),
            "ids": np.concatenate(ids),
            "version": np.array(rows.catalogue.version),
        }
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        _stream(archive, "indices", width, nnz, latents())
        _stream(archive, "data", np.dtype(np.float32), nnz, values())
    return n


def _stream(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, count: int, parts: Iterator[np.ndarray]
) -> None:
    """Write an array (count,) of its parts."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count,),
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(part.tobytes())
