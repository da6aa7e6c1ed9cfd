"""Packed codes in parquet: a row an item, its id and its bytes, as jobs on a lake pass them on."""

from pathlib import Path
from typing import Any

import numpy as np

from compressae.kernels.packed import SPARE
from compressae.retrieval.codes import FittedQuantizer, PackedCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.embeddings import table_files
from compressae.retrieval.io.parquet import id_values, parquet_schema, read_columns, require_pyarrow
from compressae.retrieval.io.remote import RemotePath

PACKED, NONZEROS, ID = "packed", "nonzeros", "id"
#: Key of the quantiser's checksum in a file's schema metadata.
_KEY = b"compressae.quantizer"
_CURE = "encode the table again"
#: Rows of a row group.
_GROUP = 1 << 16


def write_packed_table(path: Path, codes: PackedCodes, ids: np.ndarray | None) -> None:
    """Write packed codes as a .parquet file, whole or not at all.

    Columns: ``id`` (int64 or string), ``packed`` (binary: a row's bytes) and, where rows differ in
    k, ``nonzeros`` (uint8). The quantiser is an artifact of its own; its checksum is in the file.

    Args:
        path: the file; an older one is replaced.
        codes: n rows.
        ids: (n,) whole numbers or texts; row numbers when None.

    Raises:
        InputError: the file cannot be written; what was there is unchanged.
        MissingExtraError: pyarrow is not installed.
    """
    pa = require_pyarrow(str(path))
    import pyarrow.parquet as pq

    check_writable(path)
    fields = [(ID, pa.string() if ids is not None and ids.dtype.kind == "U" else pa.int64())]
    fields.append((PACKED, pa.binary()))
    if codes.counts is not None:
        fields.append((NONZEROS, pa.uint8()))
    schema = pa.schema(fields, metadata={_KEY: codes.fitted.checksum})
    with replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(codes), _GROUP):
            stop = min(start + _GROUP, len(codes))
            bounds, data = codes.row_bytes(start, stop)
            offsets = pa.py_buffer(bounds.astype(np.int32))
            rows = pa.BinaryArray.from_buffers(
                pa.binary(), stop - start, [None, offsets, pa.py_buffer(np.array(data))]
            )
            own = np.arange(start, stop) if ids is None else ids[start:stop]
            columns = [pa.array(own.tolist(), fields[0][1]), rows]
            if codes.counts is not None:
                columns.append(pa.array(codes.counts[start:stop]))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def is_packed_table(path: Path | RemotePath) -> bool:
    """Whether a path is a .parquet file, or a folder of them, with a binary column ``packed``.

    Raises:
        InputError: no table.
    """
    if path.suffix != ".parquet" and not (path.is_dir() and not (path / "config.json").exists()):
        return False
    files = table_files(path)
    if files[0].suffix != ".parquet":
        return False
    schema = parquet_schema(files[0])
    return PACKED in schema.names and "binary" in str(schema.field(PACKED).type)


def read_packed_table(
    path: Path | RemotePath, fitted: FittedQuantizer, id_column: str | None = None
) -> tuple[PackedCodes, np.ndarray | None]:
    """Read what ``write_packed_table`` wrote, or an engine with the same columns did.

    Args:
        path: a .parquet file, or a folder of them, in the natural order of their names.
        fitted: the quantiser of the codes.
        id_column: name of the ids' column; when None ``id`` if there is one.

    Returns:
        The codes, and ids (n,); None where the files have none.

    Raises:
        InputError: codes of another quantiser, or bytes that are no rows of it; the message names
            the file and the row.
        MissingExtraError: pyarrow is not installed.
    """
    files = table_files(path)
    lengths = fitted.quantizer.layout.lengths
    parts, counts, ids = [], [], []
    for file in files:
        schema = parquet_schema(file)
        known = (schema.metadata or {}).get(_KEY)
        if known is not None and known.decode("ascii", "replace") != fitted.checksum:
            raise InputError(f"{file}: codes of another quantiser; give theirs (--like)")
        column = id_column or (ID if ID in schema.names else None)
        names = [
            PACKED,
            *([NONZEROS] if NONZEROS in schema.names else []),
            *([column] if column else []),
        ]
        table = read_columns([file], names)
        if not len(table):
            continue
        data, sizes = _bytes_of(table[PACKED], str(file))
        parts.append(data)
        own = table[NONZEROS] if NONZEROS in table.column_names else None
        counts.append(_counts(sizes, lengths, own, str(file)))
        if column is not None:
            ids.append(id_values(table[column], f"{file}: column {column!r}"))
    if not parts:
        raise InputError(f"{path}: no rows; expected packed codes")
    all_counts = np.concatenate(counts)
    is_even = bool((all_counts == fitted.quantizer.nonzeros).all()) and fitted.least_benefit is None
    data = np.concatenate([*parts, np.zeros(SPARE, np.uint8)])
    codes = PackedCodes(
        data,
        None if is_even else all_counts.astype(np.uint8),
        fitted.quantizer,
        fitted.model_id,
        fitted.settings,
    )
    kinds = {part.dtype.kind for part in ids}
    if len(kinds & {"U"}) and len(kinds) > 1:
        raise InputError(f"{path}: ids are texts in some files, whole numbers in others")
    return codes, np.concatenate(ids) if ids else None


def _bytes_of(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of all rows (b,) uint8, and the bytes of each row (n,) int64.

    Raises:
        InputError: a row is null.
    """
    import pyarrow as pa

    array = column.cast(pa.large_binary()).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{name}: row {row} has no {PACKED} bytes; {_CURE}")
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    whole = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return whole[bounds[0] : bounds[-1]], np.diff(bounds)


def _counts(sizes: np.ndarray, lengths: np.ndarray, column: Any, name: str) -> np.ndarray:
    """Nonzeros of each row (n,) int64.

    Args:
        sizes: bytes of each row.
        lengths: (K + 1,) bytes of a row of 0, 1, …, K nonzeros.
        column: nonzeros as the file says them; None where it does not.
        name: of the file, for the error message.

    Raises:
        InputError: a row is of another size, or several numbers of nonzeros take its bytes.
    """
    if column is not None:
        counts = column.to_numpy().astype(np.int64)
    else:
        is_last = sizes == lengths[-1]
        counts = np.where(is_last, len(lengths) - 1, np.searchsorted(lengths, sizes))
        unsure = ~is_last & (np.searchsorted(lengths, sizes, "right") - counts > 1)
        if unsure.any():
            raise InputError(
                f"{name}: row {int(np.argmax(unsure))} may have several numbers of nonzeros; "
                f"expected a column {NONZEROS!r}; {_CURE}"
            )
    is_wrong = (counts < 0) | (counts >= len(lengths))
    is_wrong |= lengths[np.clip(counts, 0, len(lengths) - 1)] != sizes
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise InputError(
            f"{name}: row {row} has {sizes[row]} bytes, which are no row of this quantiser "
            f"({lengths[1]} to {lengths[-1]} bytes); give the quantiser of these codes"
        )
    return counts
