"""Names: ids that are texts, of the rows of a segment."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.segments import check_ids

#: Most bytes of a name in UTF-8.
LONGEST = 255


@dataclass(frozen=True, eq=False)
class Names:
    """Names of n rows, and the order in which they are looked up.

    Attributes:
        texts: (n, w) uint8, each name in UTF-8, padded with zeros.
        order: (n,) uint32 row numbers by ascending name.

    >>> names = Names.of(["pear", "apple", "fig"])
    >>> names.rows_of(encoded(["fig", "plum", "pear"]))
    array([ 2, -1,  0])
    >>> decoded(names.take(np.array([1, 0])))
    array(['apple', 'pear'], dtype='<U5')
    """

    texts: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, names: Any) -> "Names":
        """Order names (n,): texts, or what ``encoded`` gave."""
        flat = (
            names if isinstance(names, np.ndarray) and names.dtype.kind == "S" else encoded(names)
        )
        width = max(flat.dtype.itemsize, 1)
        texts = np.ascontiguousarray(flat.astype(f"S{width}")).view(np.uint8).reshape(-1, width)
        return cls(texts, np.argsort(flat, kind="stable").astype(np.uint32))

    def __len__(self) -> int:
        """n."""
        return len(self.texts)

    @cached_property
    def _flat(self) -> np.ndarray:
        """(n,) bytes."""
        n, width = self.texts.shape
        return np.asarray(self.texts).reshape(-1).view(f"S{width}").reshape(n)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Names of rows (m,), as ``encoded`` gives them."""
        return self._flat[rows]

    def rows_of(self, names: np.ndarray) -> np.ndarray:
        """Rows (m,) int64 of encoded names (m,); −1 for names that no row has."""
        place = np.searchsorted(self._flat, names, sorter=self.order)
        rows = self.order[np.minimum(place, len(self) - 1)].astype(np.int64)
        return np.where(self._flat[rows] == names, rows, -1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a saved file."""
        return {"texts": self.texts, "order": self.order}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], rows: int, name: str) -> "Names":
        """Names of what ``arrays`` gave, not trusted.

        Raises:
            InputError: the arrays do not fit.
        """
        texts, order = arrays.get("texts"), arrays.get("order")
        if (
            texts is None
            or order is None
            or (texts.dtype, order.dtype) != (np.uint8, np.uint32)
            or (texts.ndim, order.shape) != (2, (rows,))
            or len(texts) != rows
            or not 1 <= texts.shape[1] <= LONGEST
            or int(order.max()) >= rows
        ):
            raise InputError(f"{name}: names do not fit {rows} rows; copy the catalogue again")
        return cls(np.asarray(texts), np.asarray(order))


def is_texts(ids: Any) -> bool:
    """Whether ids (m,) are texts.

    >>> is_texts(["a", "b"]), is_texts([3, 4])
    (True, False)
    """
    array = np.asarray(ids)
    return array.dtype.kind == "U" or (
        array.dtype.kind == "O" and array.size > 0 and isinstance(array.flat[0], str)
    )


def encoded(names: Any) -> np.ndarray:
    """Encode texts (n,) as bytes (n,), dtype S.

    Raises:
        InputError: they are no texts; one is empty, too long or holds a zero character.

    >>> encoded(["a", "é"])
    array([b'a', b'\\xc3\\xa9'], dtype='|S2')
    """
    if not isinstance(names, np.ndarray):  # An array has room for the longest in each of them.
        longest = max((name for name in names if isinstance(name, str)), key=len, default="")
        if len(longest) > LONGEST:
            raise InputError(
                f"ids: {longest[:20]!r}… takes {len(longest.encode(errors='replace'))} bytes; "
                f"expected 1 to {LONGEST}"
            )
        if any("\0" in str(name) for name in names):
            raise InputError("ids: one holds the character of code 0, with which texts are padded")
    array = np.atleast_1d(np.asarray(names, dtype=None if len(names) else "U1"))
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array):
        array = array.astype("U")
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(f"ids: {array.dtype} of shape {array.shape}; expected texts (m,)")
    try:
        flat: np.ndarray = np.char.encode(array, "utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"ids: {str(error.object)!r} is no UTF-8 text ({error.reason})") from error
    lengths = np.char.str_len(flat) if len(flat) else np.empty(0, int)
    wrong = np.flatnonzero((lengths == 0) | (lengths > LONGEST))
    if len(wrong):
        raise InputError(
            f"ids: {str(array[wrong[0]])!r} takes {lengths[wrong[0]]} bytes; expected 1 to "
            f"{LONGEST}"
        )
    return flat


def decoded(names: np.ndarray) -> np.ndarray:
    """Texts (n,) of encoded names (n,)."""
    return np.char.decode(names, "utf-8", "backslashreplace")


def check_distinct(names: np.ndarray) -> None:
    """Refuse encoded names of which two are equal.

    Raises:
        InputError: see above.
    """
    distinct, counts = np.unique(names, return_counts=True)
    if len(counts) and counts.max() > 1:
        raise InputError(f"id {str(decoded(distinct)[counts.argmax()])!r} is given more than once")


def check_row_ids(ids: Any, rows: int) -> np.ndarray | None:
    """Check ids of rows, before long work starts.

    Returns:
        Encoded ids (rows,) where they are texts; None where they are numbers or not given.

    Raises:
        InputError: they are not as many distinct texts or whole numbers from 0 to 2⁶³ − 2.
    """
    if ids is None:
        return None
    if not is_texts(ids):
        check_ids(ids, rows)
        return None
    names = encoded(ids)
    if len(names) != rows:
        raise InputError(f"{len(names)} ids for {rows} rows; expected one a row")
    check_distinct(names)
    return names
