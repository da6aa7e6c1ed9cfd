"""Read dense tables in row batches: `.npy`, `.safetensors`, `.parquet`, a folder, or an array.

Files are mapped for each read and unmapped after it, or decoded a few MiB at a time, so that
resident memory stays at one batch for a table of any size.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.parquet import KeptGroups, ParquetColumn, arrow_vectors
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import HEADER_AHEAD, RemotePath, as_path
from compressae.retrieval.io.tensorfile import TensorPlace, read_places

#: How a query and a row are compared: "cosine", or "dot", the dot product, in which lengths count.
Similarity = Literal["cosine", "dot"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dot")

#: Float32 numbers of one batch, about (64 MiB).
BATCH_NUMBERS = 1 << 24
_FLOATS = ("float16", "bfloat16", "float32", "float64")
#: Kinds of files.
_SUFFIXES = (".npy", ".safetensors", ".parquet")
_KINDS = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
_EXPECTED = f"expected a 2-d table of {', '.join(_FLOATS)}"


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a table: an array in memory, or a region of a file.

    Attributes:
        name: used in error messages.
        shape: (n, d).
        dtype_name: the stored dtype.
        source: the numbers; bfloat16 as uint16 bits.
    """

    name: str
    shape: tuple[int, int]
    dtype_name: str
    source: np.ndarray | TensorPlace | ParquetColumn

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read rows (m,) as a new float32 array (m, d), row by row in memory."""
        source = self.source
        numbers = source[rows] if isinstance(source, np.ndarray) else source.read(rows)
        if self.dtype_name == "bfloat16":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf; check_rows refuses.
            return numbers.astype(np.float32, order="C")


class Embeddings:
    """A dense table (n, d), read as float32 row batches. Every row is checked when it is read.

    Make one with ``open_embeddings`` or ``as_embeddings``.

    Attributes:
        name: used in error messages.
        shape: (n, d).
        dtype_name: the stored dtype, or "mixed" if shards differ.
        similarity: what rows are read for (see ``compared_by``); None as they are stored.
        shards: the arrays or files that hold the rows, in order, those without rows left out.

    >>> table = as_embeddings(np.eye(4, dtype=np.float16))
    >>> table
    Embeddings('array', shape=(4, 4), dtype=float16)
    >>> [(start, rows.shape) for start, rows in table.batches(3)]
    [(0, (3, 4)), (3, (1, 4))]
    >>> table.subset(np.array([3, 1])).take(np.array([0]))
    array([[0., 0., 0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        shards: list[Shard],
        name: str,
        rows: np.ndarray | None = None,
        similarity: Similarity | None = None,
    ) -> None:
        self.name, self.similarity = name, similarity
        self.shards = shards
        self._rows = rows
        self._starts = np.array([0, *accumulate(shard.shape[0] for shard in shards)])
        n = int(self._starts[-1]) if rows is None else len(rows)
        self.shape = (n, shards[0].shape[1])
        names = {shard.dtype_name for shard in shards}
        self.dtype_name = names.pop() if len(names) == 1 else "mixed"

    @property
    def nbytes(self) -> int:
        """Bytes of the stored numbers."""
        widths = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
        stored = sum(s.shape[0] * widths[s.dtype_name] for s in self.shards) * self.shape[1]
        return stored * len(self) // max(int(self._starts[-1]), 1)

    def __len__(self) -> int:
        """n."""
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Embeddings({self.name!r}, shape={self.shape}, dtype={self.dtype_name})"

    def subset(self, rows: np.ndarray) -> "Embeddings":
        """Select rows (m,), in that order, as a table; nothing is copied."""
        rows = np.asarray(rows, np.int64)
        rows = rows if self._rows is None else self._rows[rows]
        return Embeddings(self.shards, self.name, rows, self.similarity)

    def compared_by(self, similarity: Similarity) -> "Embeddings":
        """The same table, read as rows whose dot product with a query is the similarity.

        For "cosine" rows are read with unit length. For "dot" they are read as they are, and rows
        of zeros, as of an item without interactions or of ``padding_idx``, are allowed.

        Raises:
            InputError: no such similarity.

        >>> table = as_embeddings(np.array([[3, 4], [0, 0]], np.float32))
        >>> table.compared_by("dot").to_array()
        array([[3., 4.],
               [0., 0.]], dtype=float32)
        >>> table.subset(np.array([0])).compared_by("cosine").to_array()
        array([[0.6, 0.8]], dtype=float32)
        """
        check_similarity(similarity)
        return Embeddings(self.shards, self.name, self._rows, similarity)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read rows (m,) by number: (m, d) float32.

        Raises:
            InputError: a row holds NaN or infinity, or only zeros.
        """
        rows = np.asarray(rows, np.int64)
        return self._read(rows if self._rows is None else self._rows[rows])

    def batches(
        self, size: int | None = None, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Iterate over (first row, rows (m, d) float32) in order.

        Args:
            size: rows of a batch; as many as take 64 MiB when None.
            first: where to begin.
            last: where to end; n when None.

        Raises:
            InputError: a row holds NaN or infinity, or only zeros.
        """
        n, d = self.shape
        size, last = size or max(1, BATCH_NUMBERS // d), n if last is None else last
        for start in range(first, last, size):
            stop = min(start + size, last)
            rows = slice(start, stop) if self._rows is None else self._rows[start:stop]
            yield start, self._read(rows)

    def to_array(self) -> np.ndarray:
        """Read the whole table (n, d) float32."""
        out = np.empty(self.shape, np.float32)
        for start, batch in self.batches():
            out[start : start + len(batch)] = batch
        return out

    def check(self) -> None:
        """Read every row once.

        Raises:
            InputError: a row holds NaN or infinity, or only zeros; the message names the first.
        """
        for _ in self.batches():
            pass

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read and check rows, numbered over all shards."""
        # A slice reads the overlap with each shard.
        if isinstance(rows, slice):
            parts = []
            for shard, first in zip(self.shards, self._starts[:-1], strict=True):
                start, stop = max(rows.start - first, 0), min(rows.stop - first, shard.shape[0])
                if start < stop:
                    numbers = np.arange(start, stop)
                    parts.append(self._checked(shard, shard.read(slice(start, stop)), numbers))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return self._read(slice(int(rows[0]), int(rows[-1]) + 1))
        # Row numbers are grouped by shard.
        out = np.empty((len(rows), self.shape[1]), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for s in np.unique(owner):
            positions = np.flatnonzero(owner == s)
            local_rows = rows[positions] - self._starts[s]
            shard = self.shards[s]
            out[positions] = self._checked(shard, shard.read(local_rows), local_rows)
        return out

    def _checked(self, shard: Shard, x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Check rows x (m, d) of a shard, their numbers (m,) there, and make them comparable."""
        check_rows(x, shard.name, numbers, zeros=self.similarity == "dot")
        return unit_rows(x) if self.similarity == "cosine" else x


def check_similarity(similarity: str) -> None:
    """Refuse anything but "cosine" and "dot".

    Raises:
        InputError: see above.
    """
    if similarity not in SIMILARITIES:
        raise InputError(f"similarity {similarity!r}: expected {' or '.join(SIMILARITIES)}")


def check_rows(
    x: np.ndarray, name: str, row_numbers: np.ndarray | None = None, zeros: bool = False
) -> None:
    """Refuse rows that cannot be compared.

    Args:
        x: (m, d) float32.
        name: name of the table in the error message.
        row_numbers: (m,) row numbers in the error message; 0…m − 1 when None.
        zeros: allow rows of zeros, which have no cosine, but a dot product.

    Raises:
        InputError: a row holds NaN or infinity, or only zeros.

    >>> check_rows(np.array([[1, 2], [0, 0]], np.float32), "items")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: items: row 1 is all zeros (of 1 such rows in this \
batch); a zero row has no cosine with anything; drop these rows, or compare by dot product
    """
    numbers = np.arange(len(x)) if row_numbers is None else row_numbers
    peak = np.abs(x).max(axis=1, initial=0)  # NaN and infinity pass through max.
    rows = np.flatnonzero(~np.isfinite(peak))
    if len(rows):
        raise InputError(
            f"{name}: row {numbers[rows[0]]} holds NaN or infinity (of {len(rows)} such rows in "
            "this batch); expected finite float32 numbers; drop or repair these rows"
        )
    rows = np.flatnonzero(peak == 0)
    if len(rows) and not zeros:
        raise InputError(
            f"{name}: row {numbers[rows[0]]} is all zeros (of {len(rows)} such rows in this "
            "batch); a zero row has no cosine with anything; drop these rows, or compare by dot "
            "product"
        )


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Normalise rows x (m, d) float32 to unit length; rows must be finite and not zero.

    >>> unit_rows(np.array([[3, 4], [0, -2]], np.float32))
    array([[ 0.6,  0.8],
           [ 0. , -1. ]], dtype=float32)
    """
    scaled = x / np.abs(x).max(axis=1, keepdims=True)  # Squares of huge or tiny rows stay finite.
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled


def dots(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products (c,) of rows (c, d) with a query (d,), each the same whatever other rows are.

    A BLAS product adds a row up by its place in the block, so that a catalogue and its shards gave
    an item scores that differ by a rounding. For the candidates of a query this is as fast. Rows
    are C-contiguous, and d is at most 8,192, the buffer of numpy.

    >>> dots(np.array([[1, 0], [0, 2]], np.float32), np.array([3, 4], np.float32))
    array([3., 8.], dtype=float32)
    """
    return np.einsum("ij,j->i", rows, query)


def split_lengths(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split finite rows x (m, d) float32 into unit rows and lengths (m,) float32.

    A row of zeros stays one, with length 0.

    >>> split_lengths(np.array([[3, 4], [0, 0]], np.float32))
    (array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32), array([5., 0.], dtype=float32))
    """
    peak = np.abs(x).max(axis=1, keepdims=True)
    unit = x / np.where(peak > 0, peak, 1)
    length = np.sqrt(np.einsum("ij,ij->i", unit, unit))
    unit /= np.where(length > 0, length, 1)[:, None]
    return unit, length * peak[:, 0]


def as_embeddings(table: Any, name: str = "array", column: str | None = None) -> Embeddings:
    """Convert a dense table (n, d) to ``Embeddings``.

    Args:
        table: ``Embeddings``, a path or URL, a numpy array, a torch tensor, or whatever exports an
            Arrow stream with a column of lists: a table of pyarrow, polars, pandas, datasets …
        name: name of an array, tensor or Arrow table in error messages.
        column: of an Arrow table or parquet file; see ``open_embeddings``.

    Raises:
        InputError: the table is not 2-d, has no rows or holds no floats; or see
            ``open_embeddings``.

    >>> as_embeddings(np.ones((3, 2), np.float32), "items")
    Embeddings('items', shape=(3, 2), dtype=float32)
    """
    if isinstance(table, Embeddings):
        return table
    if isinstance(table, str | Path | RemotePath):
        return open_embeddings(table, column)
    if hasattr(table, "__arrow_c_stream__"):
        name = "table" if name == "array" else name
        parts = arrow_vectors(table, column, name)
        return Embeddings([Shard(name, p.shape, p.dtype.name, p) for p in parts], name)
    if type(table).__module__.split(".")[0] == "torch":
        table = table.detach().float().cpu().numpy()
    array = np.asarray(table)
    _check_shape(array.shape, array.dtype.name, name)
    return Embeddings([Shard(name, array.shape, array.dtype.name, array)], name)


def as_compared(items: Any, name: str = "array") -> Embeddings:
    """``as_embeddings``, read for cosine unless the table already says otherwise.

    >>> as_compared(np.array([[3, 4]], np.float32)).to_array()
    array([[0.6, 0.8]], dtype=float32)
    """
    table = as_embeddings(items, name)
    return table.compared_by("cosine") if table.similarity is None else table


def open_embeddings(path: str | Path | RemotePath, column: str | None = None) -> Embeddings:
    """Open a table (n, d) of float16, bfloat16, float32 or float64 without reading it.

    Args:
        path: a ``.npy`` file; a ``.safetensors`` file with one 2-d float tensor, or with one named
            ``embeddings`` among several; a ``.parquet`` file with a column of lists of floats, of
            fixed or equal size; or a folder of such files, in the natural order of their names
            (``part-2`` before ``part-10``). Or the URL of one: ``s3://``, ``gs://``, ``hf://``,
            ``https://`` and what else fsspec opens. Rows in order then come in ranges of some MiB,
            rows by number in a request a run of them: give ``filecache::s3://…`` to keep a copy on
            the disk where many are read by number, as training does.
        column: the column of parquet files. When None the only one of lists of floats, or the one
            that is named embedding, embeddings or vector.

    Raises:
        InputError: it is no such table, or its shards differ in width; the message names the file.
        FileNotFoundError: there is no such file or folder.
        MissingExtraError: a URL without fsspec, or a .parquet without pyarrow.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/part-1.npy", np.eye(3, 2, dtype=np.float16)[:2])
    ...     np.save(f"{folder}/part-2.npy", np.ones((1, 2), np.float32))
    ...     items = open_embeddings(folder)
    ...     items.to_array()
    array([[1., 0.],
           [0., 1.],
           [1., 1.]], dtype=float32)
    >>> items.shape, items.dtype_name
    ((3, 2), 'mixed')
    """
    path = as_path(path)
    files = table_files(path)
    kept = KeptGroups()
    shards = [_open_shard(file, column, kept) for file in files]
    # Jobs that write parquet leave files without rows.
    shards = [s for s in shards if s.shape[0] or not isinstance(s.source, ParquetColumn)] or shards
    for shard in shards:
        _check_shape(shard.shape, shard.dtype_name, shard.name)
    for shard in shards:
        if shard.shape[1] != shards[0].shape[1]:
            raise InputError(
                f"{shard.name}: {shard.shape[1]} columns, but {shards[0].name} has "
                f"{shards[0].shape[1]}; expected shards of one width"
            )
    return Embeddings(shards, str(path))


def table_files(path: Path | RemotePath) -> list[Path | RemotePath]:
    """Files of a table: the file itself, or those of a folder in the natural order of their names.

    Raises:
        InputError: a folder of something else.
        FileNotFoundError: there is no such file or folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    entries: Iterable[Path | RemotePath] = path.iterdir()
    files = sorted((p for p in entries if p.suffix in _SUFFIXES), key=_natural)
    if not files or (path / "config.json").exists():
        what = "a saved artifact" if files else f"no {_KINDS} file in it"
        raise InputError(f"{path}: {what}; expected a folder of embedding shards")
    return files


def _open_shard(path: Path | RemotePath, column: str | None, kept: KeptGroups) -> Shard:
    if isinstance(path, Path):
        check_plain(path, _EXPECTED)
    if path.suffix == ".parquet":
        vectors = ParquetColumn(path, column, kept)
        return Shard(str(path), vectors.shape, vectors.dtype_name, vectors)
    if path.suffix == ".npy":
        place = _npy_place(path)
        dtype_name = place.dtype_name
    elif path.suffix == ".safetensors":
        place = _safetensors_place(path)
        dtype_name = {"BF16": "bfloat16"}.get(place.dtype_name, place.dtype.name)
    else:
        raise InputError(f"{path}: unknown kind of file; expected {_KINDS} or a folder of them")
    _check_shape(place.shape, dtype_name, str(path))
    return Shard(str(path), (place.shape[0], place.shape[1]), dtype_name, place)


class _NpyPlace(TensorPlace):
    """The array of a .npy file, whose ``dtype_name`` is numpy's name."""

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.dtype_name)


def _npy_place(path: Path | RemotePath) -> TensorPlace:
    try:
        if isinstance(path, RemotePath):
            dtype, shape, offset, in_rows = _remote_npy(path)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            dtype, shape, offset = array.dtype, array.shape, getattr(array, "offset", 0)
            in_rows = isinstance(array, np.memmap) and (array.ndim != 2 or array.flags.c_contiguous)
    except (PermissionError, FileNotFoundError, InputError):
        raise
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"{path}: not a whole .npy file ({error}); write or copy it again"
        ) from error
    if not in_rows:
        raise InputError(
            f"{path}: rows do not lie one after another; save numpy.ascontiguousarray of it"
        )
    if dtype.byteorder == ">":
        raise InputError(f"{path}: big-endian {dtype}; save it as little-endian")
    return _NpyPlace(path, dtype.name, shape, offset)


def _remote_npy(path: RemotePath) -> tuple[np.dtype, tuple[int, ...], int, bool]:
    """Dtype, shape and offset of a .npy behind a URL, and whether rows lie one after another."""
    with path.open(HEADER_AHEAD) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if offset + math.prod(shape) * dtype.itemsize > path.size:
        raise ValueError(f"{path.size} bytes, too few for {dtype} of shape {shape}")
    return dtype, shape, offset, not is_fortran or len(shape) != 2


def _safetensors_place(path: Path | RemotePath) -> TensorPlace:
    places = read_places(path)
    tables = {name: place for name, place in places.items() if len(place.shape) == 2}
    if len(tables) > 1 and "embeddings" in tables:
        tables = {"embeddings": tables["embeddings"]}
    if len(tables) != 1:
        contents = ", ".join(f"{name} {place.shape}" for name, place in places.items())
        raise InputError(
            f"{path}: holds {contents or 'nothing'}; expected one 2-d tensor, or one named "
            "'embeddings'"
        )
    return next(iter(tables.values()))


def _check_shape(shape: tuple[int, ...], dtype_name: str, name: str) -> None:
    if dtype_name not in _FLOATS:
        raise InputError(f"{name}: {dtype_name} numbers; {_EXPECTED}; convert it")
    if len(shape) != 2:
        raise InputError(f"{name}: {len(shape)}-d, shape {shape}; {_EXPECTED}; reshape it")
    if 0 in shape:
        raise InputError(f"{name}: empty, shape {shape}; {_EXPECTED} with at least one row")


def _natural(path: Path | RemotePath) -> list[tuple[int, int, str]]:
    """Sort key that compares numbers inside names as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
