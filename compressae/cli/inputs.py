"""What options name: ids, metadata, numbers, sparse rows, embeddings to rerank with."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click
import numpy as np

from compressae.cli.common import TABLE, open_table, option_group
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, table_files
from compressae.retrieval.io.labels import read_labels
from compressae.retrieval.io.parquet import id_values, read_columns
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import local_path

if TYPE_CHECKING:
    from compressae.retrieval.store import CatalogueReader, RerankTable


def load_numbers(path: Path, what: str, kinds: str) -> np.ndarray:
    """Load a .npy file whose dtype is of certain kinds.

    Args:
        path: the file.
        what: its expected content, for the error message.
        kinds: allowed kinds of ``numpy.dtype.kind``.

    Raises:
        InputError: there is no such file, or its dtype is of another kind.
    """
    path = local_path(path, f"a .npy of {what} is read whole")
    check_plain(path, f"expected a .npy of {what}")
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: expected a .npy of {what} ({error})") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in kinds:
        raise InputError(f"{path}: expected a .npy of {what}")
    return loaded


def load_ids(path: Path, column: str | None = None) -> np.ndarray:
    """Load ids (m,): whole numbers or texts from a .npy file or a column of a .parquet, texts from
    the lines of a .txt."""
    if column is not None:
        return id_values(columns_of(path, [column])[column], f"{path}: column {column!r}")
    if path.suffix == ".parquet":
        raise InputError(f"{path}: which column holds the ids? Give --id-column")
    if path.suffix == ".txt":
        return np.array(read_labels(path), dtype=str)
    what = "ids, whole numbers or texts (m,)"
    ids = load_numbers(path, what, "iuU")
    if ids.ndim != 1:
        raise InputError(f"{path}: shape {ids.shape}; expected a .npy of {what}")
    return ids


def columns_of(path: Path, columns: Sequence[str]) -> Any:
    """Read columns of a .parquet file, or of a folder of them, as an Arrow table; of codes in
    shards those of the files that they were made of.

    Raises:
        InputError: it is something else, or has no such column.
    """
    from compressae.retrieval.store.shards import is_sharded, source_files

    files = source_files(path) if is_sharded(path) else table_files(path)
    odd = [file for file in files if file.suffix != ".parquet"]
    if odd:
        raise InputError(f"{odd[0]}: no .parquet file, which has columns; expected one")
    return read_columns(files, columns)


def sparse_rows(path: Path) -> Any:
    """Load sparse rows: saved codes, or a scipy .npz.

    Raises:
        InputError: the file is neither.
    """
    from scipy import sparse

    from compressae.retrieval.codes import SparseCodes, load_codes

    if path.is_dir():
        return load_codes(path)
    path = local_path(path, "a scipy .npz is read whole")
    check_plain(path, "expected codes or a scipy sparse .npz")
    try:
        return SparseCodes.from_scipy(sparse.load_npz(path))
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, OSError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: no sparse rows ({error}); expected codes or a scipy sparse .npz; an index "
            "made with -m MODEL takes dense ones"
        ) from error


#: --metadata, --metadata-columns and --id-column, read by ``ids_and_metadata``.
metadata_options = option_group(
    click.option(
        "--metadata",
        type=TABLE,
        help="A .parquet of a row for each item: its columns, by which 'search --where' filters.",
    ),
    click.option(
        "--metadata-columns",
        help="Columns of the table of embeddings, a .parquet, that are metadata, "
        "comma-separated: in place of --metadata.",
    ),
    click.option(
        "--id-column",
        help="Column that holds the ids, whole numbers or texts: of --ids, or else of "
        "--metadata or the table of embeddings.",
    ),
)


def ids_and_metadata(
    ids: Path | None,
    metadata: Path | None,
    metadata_columns: str | None,
    id_column: str | None,
    table: Path | None,
) -> tuple[np.ndarray | None, Any]:
    """Ids (m,) and the table of metadata, as the options give them; None without.

    Args:
        ids, metadata, metadata_columns, id_column: values of the options.
        table: of embeddings; None where there is none.
    """
    from compressae.retrieval.store.metadata import as_table

    if metadata is not None and metadata_columns is not None:
        raise click.UsageError("--metadata and --metadata-columns: give one of them")
    if table is None and metadata_columns is not None:
        raise click.UsageError("--metadata-columns are of a table of embeddings, which is missing")
    source = metadata or table if ids is None and id_column is not None else ids
    if source is None and id_column is not None:
        raise click.UsageError("--id-column is of --ids, --metadata or a table, which are missing")
    names = None if source is None else load_ids(source, id_column)
    if metadata_columns is not None:
        assert table is not None
        columns = [column.strip() for column in metadata_columns.split(",")]
        return names, as_table(columns_of(table, columns), None)
    return names, None if metadata is None else as_table(metadata, None)


def rerank_id_column_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--rerank-id-column, read by ``rerank_table``."""
    return click.option(
        "--rerank-id-column",
        help="Column of the ids in the table of --rerank, a .parquet.  "
        "[default: row numbers are ids]",
    )(function)


def rerank_table(
    path: Path | None, id_column: str | None, catalogue: "CatalogueReader"
) -> "Embeddings | RerankTable | None":
    """Open the embeddings of --rerank, by the ids of --rerank-id-column where it is given.

    Raises:
        InputError: rows of the catalogue are named by texts, and there is no such column.
    """
    if path is None:
        if id_column is not None:
            raise click.UsageError("--rerank-id-column is of --rerank, which is missing")
        return None
    if id_column is None:
        if catalogue.has_text_ids:
            raise InputError(
                f"--rerank {path}: rows of the index are named by texts; give the column of the "
                "table's ids, --rerank-id-column"
            )
        return open_table(path)

    from compressae.retrieval.store import RerankTable

    return RerankTable(open_table(path), load_ids(path, id_column))
