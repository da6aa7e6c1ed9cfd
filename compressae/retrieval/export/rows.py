"""Rows of a catalogue's version, read in batches, as every target of an export takes them."""

import json
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.export.signs import Signs, as_halves, check_signs
from compressae.retrieval.io.artifacts import library_version
from compressae.retrieval.store.catalogue import Catalogue
from compressae.retrieval.store.files import Stored
from compressae.retrieval.store.names import decoded

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of a batch, at most, and nonzeros that it has on average, at most.
BATCH_ROWS, _BATCH_NONZEROS = 1 << 16, 1 << 24


class ResidualWarning(UserWarning):
    """Rows have residual codes, which another engine cannot score."""


class Packed(NamedTuple):
    """Packed bytes of m rows: row i has ``data[bounds[i] : bounds[i + 1]]``."""

    bounds: np.ndarray
    data: np.ndarray


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows of a catalogue.

    Attributes:
        ids: (m,) int64, or texts.
        bounds: (m + 1,) int64: row i has the latents ``latents[bounds[i] : bounds[i + 1]]``.
        latents: (nnz,) int32, ascending within a row; below 2h with signs "halves".
        values: (nnz,) float32, none of them zero.
        metadata: m rows of the chosen columns, or None without any.
        packed: packed bytes of the rows, if asked for.
    """

    ids: np.ndarray
    bounds: np.ndarray
    latents: np.ndarray
    values: np.ndarray
    metadata: "pa.Table | None"
    packed: Packed | None

    def __len__(self) -> int:
        """m."""
        return len(self.ids)


class ExportRows:
    """Rows of the version that a catalogue has open, removed ones left out.

    Values are those that a search scores with: q'·s with q' = W·x is the score of a row for a dense
    query x (of unit length for cosine). So gains and scales are applied, and rows of lists for
    cosine have unit length. Residual codes are left out, with a ``ResidualWarning``.

    Args:
        catalogue: stays free to move on meanwhile.
        columns: names of the metadata columns that go along; all when None.
        packed: read the packed bytes of rows too.
        reserved: names that a column must not have, those of the target's own.
        signs: "halves" for a target that takes no negative values: a row s (h,) becomes
            [max(s, 0), max(−s, 0)] (2h,), for queries of ``sparse_query`` with the same signs.

    Attributes:
        catalogue: pinned to its version.
        columns, signs: as chosen.

    Raises:
        InputError: no such column, one of a reserved name, packed bytes of plain codes, or unknown
            signs.

    >>> import tempfile
    >>> rows = np.array([[0, 2.0, 0, -1.0], [0.5, 0, 0, 0]], np.float32)
    >>> from scipy import sparse
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = Catalogue.create(f"{folder}/c", None, sparse.csr_array(rows), ["a", "b"])
    ...     for batch in ExportRows(catalogue).batches():
    ...         print(batch.ids, batch.bounds, batch.latents, batch.values)
    ['a' 'b'] [0 2 3] [1 3 0] [ 2.  -1.   0.5]
    """

    def __init__(
        self,
        catalogue: Catalogue,
        columns: Sequence[str] | None = None,
        packed: bool = False,
        reserved: Sequence[str] = (),
        signs: Signs = "both",
    ) -> None:
        check_signs(signs)
        self.signs = signs
        if not isinstance(catalogue, Catalogue):
            raise InputError(
                f"export: {type(catalogue).__name__}; expected a Catalogue: Catalogue.open(path)"
            )
        self.catalogue = catalogue.pin()
        known = self.catalogue.columns
        self.columns = list(known if columns is None else columns)
        for name in self.columns:
            if name not in known:
                raise InputError(
                    f"no column {name!r} in the metadata; expected some of "
                    f"{', '.join(known) or 'none'}"
                )
            if name.lower() in reserved:
                raise InputError(
                    f"metadata column {name!r} has the name of one of the export's own; leave it "
                    "out: name the others by columns (--columns)"
                )
        self._packed = packed
        if packed and self.catalogue.like.row_bytes(0, 1) is None:
            raise InputError(
                "packed bytes of plain codes: there are none; expected a catalogue of packed codes"
            )
        warning = residual_warning(catalogue)
        if warning is not None:
            warnings.warn(warning, ResidualWarning, stacklevel=3)

    def __len__(self) -> int:
        """n, without removed rows."""
        return len(self.catalogue)

    @property
    def latents(self) -> int:
        """h."""
        return self.catalogue.like.latents

    @property
    def width(self) -> int:
        """Columns of the rows: h, or 2h with signs "halves"."""
        return self.latents * (2 if self.signs == "halves" else 1)

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts."""
        return self.catalogue.has_text_ids

    @property
    def description(self) -> dict[str, Any]:
        """What the output says of its source, where its format has a place for that."""
        catalogue = self.catalogue
        return {
            "compressae": library_version(),
            "version": catalogue.version,
            "rows": len(self),
            "latents": self.latents,
            "signs": self.signs,
            "similarity": catalogue.index.similarity,
            "model_id": catalogue.like.model_id,
            "residual_bytes": catalogue.like.residual_bytes,
        }

    @property
    def schema(self) -> "pa.Schema | None":
        """Names and Arrow types of the chosen columns; None without any."""
        if not self.columns:
            return None
        import pyarrow as pa

        metadata = self.catalogue.stored[0].metadata
        assert metadata is not None
        return pa.schema([metadata.dataset.schema.field(name) for name in self.columns])

    def batches(
        self, progress: Callable[[int, int], Any] | None = None, size: int | None = None
    ) -> Iterator[RowBatch]:
        """Iterate over all rows, in the order in which they are stored.

        Args:
            progress: called with (rows done, rows) after each batch.
            size: rows of a batch, at most; chosen by their nonzeros when None.

        Raises:
            InputError: the catalogue's files are damaged.
        """
        done = 0
        for part in self.catalogue.stored:
            codes = part.segment.codes
            n = len(codes)
            step = size
            if step is None:
                mean = max(1, int(codes.nonzeros.sum()) // n)
                step = max(1, min(BATCH_ROWS, _BATCH_NONZEROS // mean))
            for start in range(0, n, step):
                batch = self._batch(part, start, min(start + step, n))
                if len(batch):
                    yield batch
                    done += len(batch)
                    if progress is not None:
                        progress(done, len(self))

    def _batch(self, part: Stored, start: int, stop: int) -> RowBatch:
        """Rows start..stop of a segment, without removed ones."""
        segment = part.segment
        rows = np.arange(start, stop)
        keep = None
        if segment.alive is not None:
            keep = np.asarray(segment.alive[start:stop])
            rows = rows[keep]
        bounds, latents, values = _nonzeros(segment.codes, start, stop, segment.factors, keep)
        if self.signs == "halves":
            latents, values = as_halves(bounds, latents, values, self.latents)
        ids = segment.ids_of(rows) if part.names is None else decoded(part.names.take(rows))
        metadata = None
        if self.columns and len(rows):
            assert part.metadata is not None
            metadata = part.metadata.take(rows).select(self.columns)
        packed = None
        if self._packed:
            packed = Packed(*segment.codes.row_bytes(start, stop))  # type: ignore[misc]
            if keep is not None:
                packed = Packed(*_keep(packed.bounds, keep, packed.data))
        return RowBatch(np.asarray(ids), bounds, latents, values, metadata, packed)


def check_older(collection: str, older: str | None, form: str, overwrite: bool) -> None:
    """Refuse a collection's name that stands for something that an export may not replace.

    Args:
        collection: the name.
        older: the collection that it is an alias of; None if it is a collection's own.
        form: regular expression of the names that exports give.
        overwrite: replace an older export.

    Raises:
        InputError: see above; it is left as it is.
    """
    if older is None:
        raise InputError(
            f"{collection}: a collection that no export wrote stands there; it is left as it is; "
            "choose another name"
        )
    if re.fullmatch(form, older) is None:
        raise InputError(
            f"{collection}: an alias of {json.dumps(older)}, which no export wrote; it is left as "
            "it is; choose another name"
        )
    if not overwrite:
        raise InputError(
            f"{collection}: an older export is there; overwrite it (--overwrite), or choose "
            "another name"
        )


def residual_warning(catalogue: Catalogue) -> str | None:
    """What an export of a catalogue loses, in a line; None if nothing."""
    count = catalogue.like.residual_bytes
    if not count:
        return None
    return (
        f"rows have residual codes of {count} bytes, which are left out: another engine scores "
        "the nonzeros alone; rerank its candidates by Catalogue.search(…, allowed=ids)"
    )


def as_python(metadata: "pa.Table", as_json: Collection[str] = ()) -> list[list[Any]]:
    """Columns of metadata as lists of Python values; times to the microsecond.

    Args:
        metadata: m rows.
        as_json: names of columns whose values are brought to what JSON holds: dates as ISO 8601,
            decimals as numbers, NaN as None.

    Raises:
        InputError: a value that Python, or JSON, does not hold.
    """
    import pyarrow as pa

    lists = []
    for field, column in zip(metadata.schema, metadata.columns, strict=True):
        finest, coarser = str(field.type), None
        if pa.types.is_timestamp(field.type):
            coarser = pa.timestamp("us", field.type.tz)
        elif pa.types.is_duration(field.type):
            coarser = pa.duration("us")
        elif finest == "time64[ns]":
            coarser = pa.time64("us")
        try:
            if coarser is not None:
                column = column.cast(coarser, safe=False)
            values = column.to_pylist()
            if field.name in as_json:
                values = [_jsonable(value) for value in values]
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
            raise InputError(
                f"metadata column {field.name!r}, {finest}: {error}; leave it out: name the others "
                "by columns (--columns)"
            ) from error
        lists.append(values)
    return lists


def _jsonable(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, dict):
        return {name: _jsonable(part) for name, part in value.items()}
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(f"JSON holds no {type(value).__name__}")


def _nonzeros(
    codes: Any, start: int, stop: int, factors: np.ndarray | None, keep: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR arrays of rows start..stop as they are scored: latents ascend, no value is zero."""
    bounds, latents, stored, row_factors = codes.read(start, stop, factors)
    counts = np.diff(bounds)
    values = stored.astype(np.float32)
    if row_factors is not None:
        values *= np.repeat(row_factors, counts).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError("codes hold NaN or infinity: damaged; copy the catalogue again")
    row_of = np.repeat(np.arange(len(counts)), counts)
    is_used = values != 0
    if keep is not None:
        is_used &= keep[row_of]
    row_of, latents, values = row_of[is_used], latents[is_used], values[is_used]
    order = np.lexsort((latents, row_of))
    counts = np.bincount(row_of, minlength=len(counts))
    if keep is not None:
        counts = counts[keep]
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return bounds, latents[order].astype(np.int32), values[order]


def _keep(bounds: np.ndarray, keep: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds and data of the rows to keep."""
    counts = np.diff(bounds)
    left = data[np.repeat(keep, counts)]
    return np.concatenate([[0], np.cumsum(counts[keep])]), left
