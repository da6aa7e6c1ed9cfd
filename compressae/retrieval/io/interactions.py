"""Read interactions: pairs of a user, or a query, and an item."""

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import local_path

_EXPECTED = "expected a scipy sparse .npz, an .npz or .parquet of integers 'user' and 'item'"
#: Ids from here on would make a matrix that nothing can hold.
_LAST_ID = (1 << 31) - 2


def read_interactions(
    path: str | Path, users: int | None = None, items: int | None = None
) -> sparse.csr_array:
    """Read interactions as a matrix (users, items) of float32 ones.

    Args:
        path: a scipy sparse matrix (``scipy.sparse.save_npz``), whose nonzeros are the pairs; or an
            ``.npz`` or ``.parquet`` of two columns ``user`` and ``item``, integers from 0: pair p
            is (user[p], item[p]), in any order, repetitions allowed.
        users: number of users; what the file says when None.
        items: number of items; what the file says when None.

    Raises:
        InputError: no such file, of another form, or with ids outside those numbers.
        MissingExtraError: parquet without pyarrow.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/pairs.npz", user=np.array([0, 2, 2]), item=np.array([5, 1, 5]))
    ...     read_interactions(f"{folder}/pairs.npz", items=8).toarray().sum(1)
    array([1., 0., 2.], dtype=float32)
    """
    path = local_path(path, "pairs are read from a local file")
    if path.suffix == ".parquet":
        user, item, shape = *_parquet(path), (0, 0)
    else:
        user, item, shape = _npz(path)
    for name, ids in (("user", user), ("item", item)):
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) != len(user):
            raise InputError(
                f"{path}: {name} is {ids.dtype} of shape {ids.shape}; expected integers (m,), as "
                "many users as items"
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= _LAST_ID:
            raise InputError(
                f"{path}: {name}s from {ids.min()} to {ids.max()}; expected 0 to {_LAST_ID}"
            )
    counts = []
    for name, ids, given, own in (("user", user, users, shape[0]), ("item", item, items, shape[1])):
        count = max(int(ids.max(initial=-1)) + 1, own)
        if given is not None and count > given:
            raise InputError(
                f"{path}: {count} {name}s; expected at most {given}, the rows of the {name}s' table"
            )
        counts.append(count if given is None else given)
    ones = np.ones(len(user), np.float32)
    pairs = sparse.coo_array((ones, (user, item)), shape=tuple(counts)).tocsr()
    pairs.data[:] = 1  # Repeated pairs were summed.
    pairs.sort_indices()
    return pairs


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Users, items and shape of a scipy matrix, or of two arrays, which have none: (0, 0)."""
    check_plain(path, _EXPECTED)
    try:
        with np.load(path, allow_pickle=False) as file:
            if "format" not in file:
                return file["user"], file["item"], (0, 0)
        matrix: Any = sparse.load_npz(path)
        pairs = sparse.coo_array(matrix)
        pairs.eliminate_zeros()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_EXPECTED}") from None
    except (
        ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, IndexError, BadZipFile,
        zlib.error,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: no interactions ({error}); {_EXPECTED}") from error
    row, column = pairs.coords
    return row, column, (int(pairs.shape[0]), int(pairs.shape[1]))


def _parquet(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Columns ``user`` and ``item`` of a parquet file."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", f"{path}") from error
    if not path.is_dir():  # Of parts.
        check_plain(path, _EXPECTED)
    try:
        table = parquet.read_table(path, columns=["user", "item"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_EXPECTED}") from None
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no interactions ({error}); {_EXPECTED}") from error
    columns = []
    for name in ("user", "item"):
        column = table.column(name) if name in table.column_names else None
        if column is None or column.null_count:
            what = f"no column {name}" if column is None else f"nulls in column {name}"
            raise InputError(f"{path}: {what}; {_EXPECTED}")
        columns.append(column.to_numpy())
    return columns[0], columns[1]
