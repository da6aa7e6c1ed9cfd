"""SparseCodes: rows of signed nonzeros, the compressed form of a table."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import norm as sparse_norm

from compressae.kernels.postings import LARGEST, canonical_rows, repeated_latent
from compressae.kernels.quantize import quantize_rows
from compressae.kernels.rescore import rescore
from compressae.retrieval.codes.base import Codes
from compressae.retrieval.errors import InputError

ValueType = Literal["float32", "float16", "int8"]
VALUE_TYPES: tuple[ValueType, ...] = ("float32", "float16", "int8")


def id_dtype(latents: int) -> np.dtype:
    """The narrowest of uint16 and uint32 that holds the ids of h latents."""
    return np.dtype(np.uint16 if latents <= 1 << 16 else np.uint32)


class CsrRows(NamedTuple):
    """Sparse rows as arrays: bounds (n + 1,) int64, ids (nnz,) uint16 or uint32, distinct within a
    row, and finite values (nnz,) float32."""

    indptr: np.ndarray
    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, latents: int) -> Any:
        """CSR arrays as they are, or None where they repeat a latent or hold a zero."""
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

    Row i is ``indices[indptr[i]:indptr[i + 1]]`` with values alike, in the order they were given;
    its numbers are ``values`` times ``scales[i]`` where there are scales.

    Attributes:
        indptr: (n + 1,) int64. Rows all of one length k need none, and it is neither saved nor
            counted for them.
        indices: (nnz,) uint16, or uint32 above 65,536 latents; distinct within a row.
        values: (nnz,) float32, float16 or int8.
        scales: (n,) float32 with int8 values, else None.
        latents: h.
        model_id: fingerprint of the model that made the codes, if one did.
        settings: how they were made.

    Raises:
        InputError: the parts do not fit together, an index is outside 0…h − 1, or a value is not
            finite.
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
        if len(self.indptr) < 2:
            raise InputError("codes: no rows; expected at least one")
        ends = (int(self.indptr[0]), int(self.indptr[-1]))
        if ends != (0, nnz) or len(self.values) != nnz or (np.diff(self.indptr) < 0).any():
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
        if self.scales is not None and len(self.scales) != len(self):
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
        """Codes of CSR arrays: indptr (n + 1,), indices (nnz,) below h, values (nnz,) float.

        Raises:
            InputError: see the class; or a value is beyond ``value_type``.
        """
        if value_type not in VALUE_TYPES:
            raise InputError(f"values {value_type!r}: expected one of {', '.join(VALUE_TYPES)}")
        indptr, scales = np.asarray(indptr, np.int64), None
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= latents):
            raise InputError(
                f"codes: ids from {indices.min()} to {indices.max()}; expected 0 to {latents - 1}"
            )
        with np.errstate(over="ignore"):  # What overflows is refused by name as infinite.
            kept = np.ascontiguousarray(values, np.float32)
            if value_type == "float16":
                kept = kept.astype(np.float16)
        if value_type == "int8":
            if not np.isfinite(kept).all():
                raise InputError("codes: values hold NaN or infinity; expected finite numbers")
            kept, scales = quantize_rows(kept, indptr)
        ids = np.ascontiguousarray(indices, id_dtype(latents))
        return cls(indptr, ids, kept, scales, latents, model_id, settings or {})

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
        """Codes of n rows with k nonzeros each: indices (n, k) and values (n, k)."""
        n, k = indices.shape
        indptr = np.arange(n + 1, dtype=np.int64) * k
        flat_ids, flat = indices.reshape(-1), values.reshape(-1)
        return cls.from_arrays(indptr, flat_ids, flat, latents, value_type, model_id, settings)

    @classmethod
    def from_scipy(cls, matrix: Any, value_type: ValueType = "float32") -> "SparseCodes":
        """Codes of any scipy sparse matrix (n, h); zeros are dropped and duplicates summed.

        Raises:
            InputError: not a 2-d scipy sparse matrix with a row; NaN or infinity in it.
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
        """Codes of a sparse torch tensor (n, h) of any layout and device, such as
        ``SparseEncoder.encode`` of sentence-transformers gives.

        Raises:
            InputError: as of ``from_scipy``; or the tensor is not sparse.
        """
        if not hasattr(tensor, "to_sparse_coo") or str(tensor.layout) == "torch.strided":
            raise InputError(f"{type(tensor).__name__}: expected a sparse torch tensor")
        coo = tensor.detach().to_sparse_coo().coalesce().cpu()
        places = tuple(coo.indices().numpy())
        matrix = sparse.coo_array((coo.values().float().numpy(), places), shape=tuple(coo.shape))
        return cls.from_scipy(matrix, value_type)

    def to_scipy(self) -> sparse.csr_array:
        """The dequantised codes as a float32 CSR matrix (n, h); rows keep their order."""
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
        return len(self.indices)

    @property
    def value_type(self) -> str:
        return str(self.values.dtype)

    @property
    def uniform(self) -> int | None:
        """k where every row has k nonzeros, else None."""
        k = int(self.indptr[1])
        return k if k * len(self) == self.nnz and (np.diff(self.indptr) == k).all() else None

    @cached_property
    def _longest(self) -> int:
        return int(np.diff(self.indptr).max())

    @property
    def nbytes(self) -> int:
        """Bytes of the codes: ids, values, scales, and row bounds where rows differ in length."""
        bounds = 0 if self.uniform is not None else self.indptr.nbytes
        scales = 0 if self.scales is None else self.scales.nbytes
        return self.indices.nbytes + self.values.nbytes + scales + bounds

    @property
    def nonzeros(self) -> np.ndarray:
        """(n,) int64 nonzeros of each row."""
        return np.diff(self.indptr)

    @property
    def largest(self) -> float:
        """The largest |value|, scales applied; 0 without a nonzero."""
        if self.scales is not None:
            return float(LARGEST * np.abs(self.scales).max())
        return max(float(self.values.max()), -float(self.values.min())) if self.nnz else 0.0

    def row_factors(
        self, factors: np.ndarray | None, start: int = 0, stop: int | None = None
    ) -> np.ndarray | None:
        own = self.scales if factors is None else factors
        return None if own is None else own[start:stop]

    def read(
        self, start: int, stop: int, factors: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows start..stop as CSR; nothing is copied, float16 apart. See ``Codes.read``."""
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
        """The given rows (m,), m ≥ 1, in that order."""
        counts = self.nonzeros[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        place = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return replace(
            self,
            indptr=indptr,
            indices=self.indices[place],
            values=self.values[place],
            scales=None if self.scales is None else self.scales[rows],
        )

    def join(self, others: "list[SparseCodes]") -> "SparseCodes":
        """These rows and then the others', which ``check_compatible`` accepts."""
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
            InputError: of another kind, another h or another model.
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
        """The values with their scales applied: (nnz,) float32."""
        values = self.values.astype(np.float32)
        if self.scales is not None:
            values *= np.repeat(self.scales, np.diff(self.indptr))
        return values

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Row i: latents and float32 values."""
        here = slice(self.indptr[i], self.indptr[i + 1])
        scale = np.float32(1) if self.scales is None else self.scales[i]
        return self.indices[here], self.values[here].astype(np.float32) * scale

    def norms(self, dtype: Any = np.float32) -> np.ndarray:
        """‖s‖ of every row: (n,)."""
        return sparse_norm(self.to_scipy().astype(np.float64), axis=1).astype(dtype)

    def with_values(self, value_type: ValueType) -> "SparseCodes":
        """The same codes with values stored in another way."""
        if value_type == self.value_type:
            return self
        made = SparseCodes.from_arrays(
            self.indptr, self.indices, self.row_values(), self.latents, value_type
        )
        return replace(made, model_id=self.model_id, settings=self.settings)

    def like_these(self, other: Codes) -> Codes:
        """Other rows with values stored as these are, where neither is of a model."""
        if not isinstance(other, SparseCodes) or (self.model_id, other.model_id) != (None, None):
            return other
        return other.with_values(self.value_type)  # type: ignore[arg-type]

    def artifact_settings(self) -> dict[str, Any]:
        """What a saved folder records beside the arrays."""
        return {
            "rows": len(self),
            "latents": self.latents,
            "uniform": self.uniform,
            "model_id": self.model_id,
            "made": self.settings,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a saved folder holds."""
        arrays = {"indices": self.indices, "values": self.values}
        if self.uniform is None:
            arrays["indptr"] = self.indptr
        if self.scales is not None:
            arrays["scales"] = self.scales
        return arrays

    @classmethod
    def from_parts(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "SparseCodes":
        """Codes of what ``artifact_settings`` and ``arrays`` gave."""
        indptr = arrays.get("indptr")
        if indptr is None:
            indptr = np.arange(settings["rows"] + 1, dtype=np.int64) * settings["uniform"]
        return cls(
            indptr,
            arrays["indices"],
            arrays["values"],
            arrays.get("scales"),
            settings["latents"],
            settings["model_id"],
            settings["made"],
        )
