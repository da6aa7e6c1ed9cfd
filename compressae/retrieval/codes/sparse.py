"""SparseCodes: plain sparse codes, as CSR arrays of signed nonzeros."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import norm as sparse_norm

from compressae.kernels.pages import read_ahead
from compressae.kernels.postings import LARGEST, canonical_rows, repeated_latent
from compressae.kernels.quantize import quantize_rows
from compressae.kernels.rescore import rescore
from compressae.retrieval.codes.base import Codes, CodesSettings
from compressae.retrieval.errors import InputError

ValueType = Literal["float32", "float16", "int8"]
VALUE_TYPES: tuple[ValueType, ...] = ("float32", "float16", "int8")


def id_dtype(latents: int) -> np.dtype:
    """The narrower of uint16 and uint32 that holds the ids of h latents.

    >>> id_dtype(4096), id_dtype(1 << 17)
    (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype(np.uint16 if latents <= 1 << 16 else np.uint32)


class CsrRows(NamedTuple):
    """Sparse rows as CSR arrays.

    Attributes:
        indptr: row bounds (n + 1,) int64.
        ids: (nnz,) uint16 or uint32, distinct within a row.
        values: (nnz,) float32, finite.
    """

    indptr: np.ndarray
    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, latents: int) -> Any:
        """Wrap CSR arrays, or return None if a row repeats a latent or holds a zero.

        Raises:
            InputError: an id is outside 0…h − 1, or a value is NaN or infinite.
        """
        numbers = values
        if values.dtype != np.float32 or not values.flags.c_contiguous:
            with np.errstate(over="ignore"):  # Infinite values are refused below.
                numbers = np.ascontiguousarray(values, np.float32)
        fault = canonical_rows(indptr, indices, numbers, latents)
        if fault == "not finite":
            raise InputError("queries: values hold NaN or infinity; expected finite numbers")
        if fault == "out of range":
            raise InputError(
                f"queries: ids from {indices.min()} to {indices.max()}; expected 0 to {latents - 1}"
            )
        if fault:
            return None
        bounds = np.asarray(indptr, np.int64)
        return cls(bounds, np.ascontiguousarray(indices, id_dtype(latents)), numbers)


@dataclass(frozen=True, eq=False, repr=False)
class SparseCodes(Codes):
    """n rows of (latent, value) pairs over h latents. Rows may differ in length.

    Row i has the latents ``indices[a:b]`` and the values ``values[a:b]`` with a, b =
    ``indptr[i : i + 2]``, in the order of the input. int8 values are multiplied by ``scales[i]``.

    Attributes:
        indptr: (n + 1,) int64. It is neither saved nor counted if all rows have the same length.
        indices: (nnz,) uint16, or uint32 above 65,536 latents; distinct within a row.
        values: (nnz,) float32, float16 or int8.
        scales: (n,) float32 with int8 values, else None.
        latents: h.
        model_id: fingerprint of the model that made the codes, or None.
        settings: how they were made.

    Raises:
        InputError: the parts do not fit together, an index is outside 0…h − 1, or a value is not
            finite.

    >>> import scipy.sparse
    >>> matrix = scipy.sparse.csr_array([[0, 2.0, 0, -1.0], [0.5, 0, 0, 0]])
    >>> codes = SparseCodes.from_scipy(matrix, value_type="int8")
    >>> codes
    SparseCodes(2 rows over 4 latents, 20.5 bytes a row)
    >>> codes.nonzeros, codes.norms().round(2)
    (array([2, 1]), array([2.24, 0.5 ], dtype=float32))
    >>> codes.dots(np.array([1, 1, 0, 0], np.float32))
    array([2. , 0.5], dtype=float32)
    """

    stem: ClassVar[str] = "codes"

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    scales: np.ndarray | None
    latents: int
    model_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nnz = len(self.indices)
        arrays = (self.indptr, self.indices, self.values, self.scales)
        if self.indptr.dtype != np.int64 or any(a is not None and a.ndim != 1 for a in arrays):
            shapes = [None if a is None else (str(a.dtype), a.shape) for a in arrays]
            raise InputError(f"codes: arrays {shapes} do not fit together; build them again")
        if len(self.indptr) < 2:
            raise InputError("codes: no rows; expected at least one")
        ends = (int(self.indptr[0]), int(self.indptr[-1]))
        if (
            ends != (0, nnz)
            or len(self.values) != nnz
            or (self.indptr[1:] < self.indptr[:-1]).any()
        ):
            raise InputError(
                f"codes: row bounds {ends}, {nnz} indices and {len(self.values)} values do not fit "
                "together; save or build them again"
            )
        if self.value_type not in VALUE_TYPES or self.indices.dtype != id_dtype(self.latents):
            raise InputError(
                f"codes: {self.indices.dtype} ids and {self.value_type} values; expected "
                f"{id_dtype(self.latents)} and one of {', '.join(VALUE_TYPES)}"
            )
        if nnz and int(self.indices.max()) >= self.latents:
            raise InputError(
                f"codes: latent {self.indices.max()} of {self.latents}; expected ids below "
                f"{self.latents}; save or build them again"
            )
        row = repeated_latent(self.indptr, self.indices, self.latents)
        if row >= 0:
            raise InputError(f"codes: row {row} holds a latent twice; sum its values first")
        if (self.scales is not None) != (self.value_type == "int8"):
            raise InputError("codes: scales go with int8 values and with no others")
        for name, numbers in (("values", self.values), ("scales", self.scales)):
            if numbers is not None and not np.isfinite(numbers).all():
                raise InputError(f"codes: {name} hold NaN or infinity; expected finite numbers")
        if self.scales is not None and (
            len(self.scales) != len(self) or self.scales.dtype != np.float32
        ):
            raise InputError(f"codes: {len(self.scales)} scales for {len(self)} rows")

    @classmethod
    def from_arrays(
        cls,
        indptr: np.ndarray,
        indices: np.ndarray,
        values: np.ndarray,
        latents: int,
        value_type: ValueType = "float32",
        model_id: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> "SparseCodes":
        """Make codes from CSR arrays.

        Args:
            indptr: row bounds (n + 1,).
            indices: (nnz,) latents, distinct within a row.
            values: (nnz,) floats.
            latents: h.
            value_type: how the values are stored; "int8" adds a float32 scale per row.
            model_id: fingerprint of the model that made the codes.
            settings: how they were made.

        Raises:
            InputError: see the class; or a value overflows ``value_type``.

        >>> indptr, indices = np.array([0, 2, 3]), np.array([3, 1, 0])
        >>> codes = SparseCodes.from_arrays(indptr, indices, np.array([-1, 2, 0.5]), latents=4)
        >>> codes.row(0)
        (array([3, 1], dtype=uint16), array([-1.,  2.], dtype=float32))
        """
        if value_type not in VALUE_TYPES:
            raise InputError(f"values {value_type!r}: expected one of {', '.join(VALUE_TYPES)}")
        indptr, scales = np.asarray(indptr, np.int64), None
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= latents):
            raise InputError(
                f"codes: ids from {indices.min()} to {indices.max()}; expected 0 to {latents - 1}"
            )
        with np.errstate(over="ignore"):  # Values that overflow become infinite, refused below.
            numbers = np.ascontiguousarray(values, np.float32)
            if value_type == "float16":
                numbers = numbers.astype(np.float16)
        if value_type == "int8":
            if not np.isfinite(numbers).all():
                raise InputError("codes: values hold NaN or infinity; expected finite numbers")
            numbers, scales = quantize_rows(numbers, indptr)
        ids = np.ascontiguousarray(indices, id_dtype(latents))
        return cls(indptr, ids, numbers, scales, latents, model_id, settings or {})

    @classmethod
    def from_rows(
        cls,
        indices: np.ndarray,
        values: np.ndarray,
        latents: int,
        value_type: ValueType = "float32",
        model_id: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> "SparseCodes":
        """Make codes of n rows with k nonzeros each from indices (n, k) and values (n, k).

        Raises:
            InputError: see ``from_arrays``.

        >>> SparseCodes.from_rows(np.array([[3, 1]]), np.array([[-1.0, 2.0]]), latents=4).uniform
        2
        """
        n, k = indices.shape
        indptr = np.arange(n + 1, dtype=np.int64) * k
        flat_ids, flat = indices.reshape(-1), values.reshape(-1)
        return cls.from_arrays(indptr, flat_ids, flat, latents, value_type, model_id, settings)

    @classmethod
    def from_scipy(cls, matrix: Any, value_type: ValueType = "float32") -> "SparseCodes":
        """Make codes from a scipy sparse matrix (n, h); drop zeros and sum duplicates.

        Raises:
            InputError: it is no 2-d scipy sparse matrix of real numbers, it has no row, or it holds
                NaN or infinity.
        """
        if not sparse.issparse(matrix) or matrix.ndim != 2:
            raise InputError(f"{type(matrix).__name__}: expected a 2-d scipy sparse matrix")
        if matrix.dtype.kind not in "fiub":
            raise InputError(f"sparse matrix of {matrix.dtype}: expected real numbers")
        csr = sparse.csr_array(matrix, copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        return cls.from_arrays(csr.indptr, csr.indices, csr.data, csr.shape[1], value_type)

    @classmethod
    def from_torch(cls, tensor: Any, value_type: ValueType = "float32") -> "SparseCodes":
        """Make codes from a sparse torch tensor (n, h) of any layout and device.

        ``SparseEncoder.encode`` of sentence-transformers returns such a tensor.

        Raises:
            InputError: see ``from_scipy``; or the tensor is not sparse.
        """
        if not hasattr(tensor, "to_sparse_coo") or str(tensor.layout) == "torch.strided":
            raise InputError(f"{type(tensor).__name__}: expected a sparse torch tensor")
        coo = tensor.detach().to_sparse_coo().coalesce().cpu()
        indices = tuple(coo.indices().numpy())
        matrix = sparse.coo_array((coo.values().float().numpy(), indices), shape=tuple(coo.shape))
        return cls.from_scipy(matrix, value_type)

    def to_scipy(self) -> sparse.csr_array:
        """Dequantise to a float32 CSR matrix (n, h); the nonzeros of a row keep their order."""
        return sparse.csr_array(
            (self.row_values(), self.indices.astype(np.int64), self.indptr), shape=self.shape
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def constant_nbytes(self) -> int:
        return 0

    @property
    def residual_bytes(self) -> int:
        return 0

    @property
    def nnz(self) -> int:
        """Nonzeros of all rows."""
        return len(self.indices)

    @property
    def value_type(self) -> str:
        """How values are stored: "float32", "float16" or "int8"."""
        return str(self.values.dtype)

    @property
    def uniform(self) -> int | None:
        """k if every row has k nonzeros, else None."""
        k = int(self.indptr[1])
        return k if k and k * len(self) == self.nnz and (np.diff(self.indptr) == k).all() else None

    @cached_property
    def _longest(self) -> int:
        """Nonzeros of the longest row."""
        return int(np.diff(self.indptr).max())

    @property
    def nbytes(self) -> int:
        """Bytes of ids, values and scales, and of row bounds if rows differ in length."""
        bounds = 0 if self.uniform is not None else self.indptr.nbytes
        scales = 0 if self.scales is None else self.scales.nbytes
        return self.indices.nbytes + self.values.nbytes + scales + bounds

    @property
    def nonzeros(self) -> np.ndarray:
        """Nonzeros of each row (n,) int64."""
        return np.diff(self.indptr)

    @property
    def largest(self) -> float:
        """The largest |value|, scales applied; 0 if there are no nonzeros."""
        if self.scales is not None:
            return float(LARGEST * np.abs(self.scales).max())
        return max(float(self.values.max()), -float(self.values.min())) if self.nnz else 0.0

    def row_factors(
        self, factors: np.ndarray | None, start: int = 0, stop: int | None = None
    ) -> np.ndarray | None:
        row_scales = self.scales if factors is None else factors
        return None if row_scales is None else row_scales[start:stop]

    def read(
        self, start: int, stop: int, factors: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Read rows start..stop as CSR; only float16 values are copied. See ``Codes.read``."""
        bounds = self.indptr[start : stop + 1]
        ids = self.indices[bounds[0] : bounds[-1]]
        values = self.values[bounds[0] : bounds[-1]]
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        return bounds - bounds[0], ids, values, self.row_factors(factors, start, stop)

    def dots(
        self,
        dense_query: np.ndarray,
        rows: np.ndarray | None = None,
        factors: np.ndarray | None = None,
    ) -> np.ndarray:
        """Dot products (m,) float32, summed in float64 and rounded once; see ``Codes.dots``."""
        scales = self.row_factors(factors)
        return rescore(self.indptr, self.indices, self.values, scales, dense_query, rows)

    def query_tables(self, x: np.ndarray) -> None:
        return None

    def scores(
        self, projected: np.ndarray, table: np.ndarray | None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        return self.dots(projected, rows)

    def read_ahead(self, rows: np.ndarray) -> None:
        for data in (self.indices, self.values):
            read_ahead(data, self.indptr[rows], self.indptr[rows + 1])
        if self.scales is not None:
            read_ahead(self.scales, rows, rows + 1)

    def inverse_norms(self) -> np.ndarray:
        norms = self.norms(np.float64)
        factors = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        return factors if self.scales is None else factors * self.scales

    def reconstruct(self, decoder: np.ndarray) -> np.ndarray:
        return np.asarray(self.to_scipy() @ decoder, np.float32)

    def gpu_planes(self, start: int, stop: int) -> Any:
        from compressae.kernels.scan import plain_planes

        return plain_planes(
            self.indptr,
            self.indices,
            self.values,
            self.scales,
            self.latents,
            start,
            stop,
            self._longest,
        )

    def take(self, rows: np.ndarray) -> "SparseCodes":
        """Select rows (m,), m ≥ 1, in that order."""
        counts = self.nonzeros[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        sources = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return replace(
            self,
            indptr=indptr,
            indices=self.indices[sources],
            values=self.values[sources],
            scales=None if self.scales is None else self.scales[rows],
        )

    def join(self, others: "list[SparseCodes]") -> "SparseCodes":
        """Append the rows of others, which ``check_compatible`` accepts."""
        parts = [self, *others]
        counts = np.concatenate([part.nonzeros for part in parts])
        scales = None
        if self.scales is not None:
            scales = np.concatenate([part.scales for part in parts])  # type: ignore[misc]
        return replace(
            self,
            indptr=np.concatenate([[0], np.cumsum(counts)]),
            indices=np.concatenate([part.indices for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            scales=scales,
        )

    def check_compatible(self, other: Any) -> None:
        """Refuse codes that cannot stand in one index with these.

        Raises:
            InputError: another kind, another h, another value type or another model.
        """
        if not isinstance(other, SparseCodes) or other.latents != self.latents:
            raise InputError(
                f"{type(other).__name__} over {getattr(other, 'latents', '?')} latents; expected "
                f"SparseCodes over {self.latents}, as in the index"
            )
        if other.value_type != self.value_type or other.model_id != self.model_id:
            raise InputError(
                f"codes with {other.value_type} values of model {other.model_id}; expected "
                f"{self.value_type} of model {self.model_id}, as in the index"
            )

    def row_values(self) -> np.ndarray:
        """Dequantise the values: (nnz,) float32."""
        values = self.values.astype(np.float32)
        if self.scales is not None:
            values *= np.repeat(self.scales, np.diff(self.indptr))
        return values

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Dequantise row i: latents (k,) and values (k,) float32."""
        row_slice = slice(self.indptr[i], self.indptr[i + 1])
        scale = np.float32(1) if self.scales is None else self.scales[i]
        return self.indices[row_slice], self.values[row_slice].astype(np.float32) * scale

    def norms(self, dtype: Any = np.float32) -> np.ndarray:
        """‖s‖ of every row (n,)."""
        return sparse_norm(self.to_scipy().astype(np.float64), axis=1).astype(dtype)

    def with_values(self, value_type: ValueType) -> "SparseCodes":
        """Convert the values to another value type.

        Raises:
            InputError: a value overflows ``value_type``.

        >>> codes = SparseCodes.from_rows(np.array([[3, 1]]), np.array([[-1, 0.25]]), latents=4)
        >>> codes.with_values("int8").values
        array([-127,   32], dtype=int8)
        """
        if value_type == self.value_type:
            return self
        converted = SparseCodes.from_arrays(
            self.indptr, self.indices, self.row_values(), self.latents, value_type
        )
        return replace(converted, model_id=self.model_id, settings=self.settings)

    def like_these(self, other: Codes) -> Codes:
        """Convert other rows to the value type of these, if no model made either."""
        if not isinstance(other, SparseCodes) or (self.model_id, other.model_id) != (None, None):
            return other
        return other.with_values(self.value_type)  # type: ignore[arg-type]

    def artifact_settings(self) -> dict[str, Any]:
        """Settings that a saved folder records beside the arrays."""
        return {
            "rows": len(self),
            "latents": self.latents,
            "uniform": self.uniform,
            "model_id": self.model_id,
            "made": self.settings,
        }

    def row_arrays(self) -> dict[str, np.ndarray]:
        arrays = {"indices": self.indices, "values": self.values}
        if self.uniform is None:
            arrays["indptr"] = self.indptr
        if self.scales is not None:
            arrays["scales"] = self.scales
        return arrays

    @classmethod
    def from_parts(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "SparseCodes":
        """Make codes from the settings and arrays of a saved folder.

        Raises:
            InputError: see the class.
        """
        return cls.prototype(settings, {}).with_rows(CodesSettings.of(settings).rows, arrays)

    @classmethod
    def prototype(cls, settings: dict[str, Any], shared: dict[str, np.ndarray]) -> "SparseCodes":
        own = CodesSettings.of(settings)
        if shared:
            raise InputError(f"codes: unknown arrays {sorted(shared)}; save or build them again")
        ids, values = np.empty(0, id_dtype(own.latents)), np.empty(0, np.float32)
        return cls(np.zeros(2, np.int64), ids, values, None, own.latents, own.model_id, own.made)

    def with_rows(self, rows: int, arrays: dict[str, np.ndarray]) -> "SparseCodes":
        indptr, indices, values, scales = _row_parts(rows, arrays)
        return replace(self, indptr=indptr, indices=indices, values=values, scales=scales)


def _row_parts(
    rows: int, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Row bounds, indices, values and scales of ``rows`` rows from the arrays of a file.

    Raises:
        InputError: some are missing or unknown, or there are not so many rows.
    """
    if not {"indices", "values"} <= set(arrays) <= {"indices", "values", "indptr", "scales"}:
        raise InputError(f"codes: arrays {sorted(arrays)}; save or build them again")
    indices, indptr = arrays["indices"], arrays.get("indptr")
    if indptr is None:  # Every row has as many nonzeros.
        each, rest = divmod(len(indices), rows)
        if rest or not each:
            raise InputError(
                f"codes: {len(indices)} indices for {rows} rows; save or build them again"
            )
        indptr = np.arange(rows + 1, dtype=np.int64) * each
    if len(indptr) != rows + 1:
        raise InputError(f"codes: {len(indptr)} row bounds for {rows} rows; build them again")
    return indptr, indices, arrays["values"], arrays.get("scales")
