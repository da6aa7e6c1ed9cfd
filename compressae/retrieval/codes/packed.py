"""PackedCodes: bit-packed sparse codes and residual codes, a few bytes a row."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from compressae.kernels import packed
from compressae.kernels.packed import ROW_BLOCK, SPARE, Rows
from compressae.retrieval.codes.base import Codes, CodesSettings
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.codes.quantizer import RowQuantizer
from compressae.retrieval.codes.sparse import SparseCodes, ValueType, id_dtype
from compressae.retrieval.errors import InputError

#: Rows that ``norms`` unpacks at a time.
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, eq=False, repr=False)
class PackedCodes(Codes):
    """n rows of latent ids in ⌈log2 h⌉ bits, quantised values, a residual code and a gain byte.

    Rows may differ in k: a budget allots more nonzeros to some. They are scored without unpacking:
    q·y ≈ gain·(q'·s + scale·Σ_b tables[b, residual_b]), with q' = W·q. The gain byte says both.

    Attributes:
        data: uint8, the concatenated rows and ``SPARE`` padding bytes; see
            ``compressae.kernels.packed``.
        counts: (n,) uint8 nonzeros of each row, or None if all rows have K.
        quantizer: the quantiser of all rows; not counted in ``nbytes``.
        model_id: fingerprint of the model that made the codes, or None.
        settings: how they were made.
        rows: data, layout and counts as the kernels take them.

    Raises:
        InputError: the parts do not fit together.

    >>> from compressae import CompresSAE, compress
    >>> items = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    >>> model = CompresSAE(dim=8, latents=32, nonzeros=4)
    >>> codes = compress(model, items, residual_bytes=2)
    >>> codes.shape, codes.residual_bytes, codes.nbytes
    ((300, 32), 2, 2104)
    >>> codes.reconstruct(model.projection.decoder).shape
    (300, 8)
    >>> codes.unpack("int8").nonzeros[:3]
    array([4, 4, 4])
    """

    stem: ClassVar[str] = "packed"

    data: np.ndarray
    counts: np.ndarray | None
    quantizer: RowQuantizer
    model_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rows: Rows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layout = self.quantizer.layout
        for array in (self.data, self.counts):
            if array is not None and (array.dtype != np.uint8 or array.ndim != 1):
                raise InputError(
                    f"packed codes: {array.dtype} of shape {array.shape}; expected bytes (m,); "
                    "encode the table again"
                )
        lengths, size = layout.lengths, len(self.data) - SPARE
        blocks = np.empty(0, np.int64)
        if self.counts is not None:
            if len(self.counts) and int(self.counts.max()) > self.quantizer.nonzeros:
                raise InputError(
                    f"packed codes: a row of {self.counts.max()} nonzeros; expected at most "
                    f"{self.quantizer.nonzeros}; encode the table again"
                )
            ends = np.cumsum(lengths[self.counts])
            blocks = np.concatenate([[0], ends[ROW_BLOCK - 1 : -1 : ROW_BLOCK]]).astype(np.int64)
            is_whole = len(self.counts) > 0 and size == int(ends[-1])
        else:
            is_whole = size > 0 and size % int(lengths[-1]) == 0
        if not is_whole:
            raise InputError(
                f"packed codes: {len(self.data)} bytes of {self.data.dtype} do not fit rows of "
                f"{lengths.min()} to {lengths[-1]} bytes; encode the table again"
            )
        object.__setattr__(self, "rows", Rows(self.data, layout, self.counts, blocks))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latents(self) -> int:  # type: ignore[override]
        """h."""
        return self.quantizer.latents

    @property
    def constant_nbytes(self) -> int:
        return self.quantizer.nbytes

    @property
    def residual_bytes(self) -> int:
        return self.quantizer.residual_bytes

    @property
    def residual_dim(self) -> int:
        return self.quantizer.dim if self.residual_bytes else 0

    @property
    def fitted(self) -> FittedQuantizer:
        """What other rows share with these, for ``compress(…, like=…)``."""
        longest = float(self.quantizer.gains[-1]) if self.quantizer.says_lengths else 1.0
        return FittedQuantizer(self.quantizer, self.model_id, self.settings, longest=longest)

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n: the rows and, if they differ in k, counts and block offsets."""
        counts = 0 if self.counts is None else self.counts.nbytes
        return self.data.nbytes + counts + self.rows.blocks.nbytes

    @property
    def nonzeros(self) -> np.ndarray:
        """Nonzeros of each row (n,) int64."""
        return self.rows.nonzeros

    @property
    def largest(self) -> float:
        """An upper bound of every |value|, gains applied."""
        q = self.quantizer
        levels = max(
            np.abs(row[: 1 << bits]).max() for row, bits in zip(q.levels, q.value_bits, strict=True)
        )
        return float(levels * np.abs(self.gains()).max())

    def row_factors(
        self, factors: np.ndarray | None, start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        gains = self.gains(start, stop)
        return gains if factors is None else factors[start:stop] * gains

    def read(
        self, start: int, stop: int, factors: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Decode rows start..stop to CSR; see ``Codes.read``.

        Raises:
            InputError: a latent is h or more: the codes are damaged.
        """
        indptr, ids, codes = packed.unpack(self.rows, start, stop, threads=1)
        if len(ids) and int(ids.max()) >= self.latents:
            raise InputError(
                f"packed codes: latent {ids.max()} of {self.latents}; encode the table again"
            )
        ranks = np.arange(len(ids)) - np.repeat(indptr[:-1], np.diff(indptr))
        values = self.quantizer.levels[ranks, codes]
        return indptr, ids, values, self.row_factors(factors, start, stop)

    def row_bytes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.rows.layout.lengths
        if self.counts is None:
            bounds = np.arange(stop - start + 1, dtype=np.int64) * int(lengths[-1])
            begin = start * int(lengths[-1])
        else:
            block = start // ROW_BLOCK
            begin = int(self.rows.blocks[block]) if len(self.rows.blocks) > block else 0
            begin += int(lengths[self.counts[block * ROW_BLOCK : start]].sum())
            bounds = np.concatenate([[0], np.cumsum(lengths[self.counts[start:stop]])])
        return bounds, self.data[begin : begin + int(bounds[-1])]

    def unpack(self, values: ValueType = "float32") -> SparseCodes:
        """Unpack the nonzeros to plain codes, gains applied; residual codes are left out.

        Args:
            values: the value type of the plain codes.
        """
        indptr, ids, numbers, gains = self.read(0, len(self))
        numbers *= np.repeat(gains, np.diff(indptr))
        ids = ids.astype(id_dtype(self.latents))
        return SparseCodes.from_arrays(
            indptr, ids, numbers, self.latents, values, self.model_id, self.settings
        )

    def norms(self, dtype: Any = np.float32) -> np.ndarray:
        """‖s‖ of every row (n,), gains applied."""
        norms = np.empty(len(self), dtype)
        for start in range(0, len(self), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(self))
            indptr, _, numbers, gains = self.read(start, stop)
            sums = np.concatenate([[0], np.cumsum(numbers.astype(np.float64) ** 2)])
            norms[start:stop] = gains * np.sqrt(np.diff(sums[indptr]))
        return norms

    def dots(
        self,
        dense_query: np.ndarray,
        rows: np.ndarray | None = None,
        factors: np.ndarray | None = None,
    ) -> np.ndarray:
        """Dot products (m,) float32 with the nonzeros, summed in float32; see ``Codes.dots``."""
        tables = np.zeros((self.residual_bytes, 256), np.float32)
        scores = self.scores(np.asarray(dense_query, np.float32), tables, rows)
        if factors is None:
            return scores
        return (scores * (factors if rows is None else factors[rows])).astype(np.float32)

    def query_tables(self, x: np.ndarray) -> np.ndarray:
        """Look-up tables (q, residual_bytes, 256) float32 of queries x (q, d)."""
        return self.quantizer.tables(x)

    def inverse_norms(self) -> np.ndarray:
        norms = self.norms(np.float64)
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def to_scipy(self) -> sparse.csr_array:
        return self.unpack().to_scipy()

    def residual_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.quantizer.residual_arrays()

    def gpu_planes(self, start: int, stop: int) -> Any:
        from compressae.kernels.scan import packed_planes

        q = self.quantizer
        scales = q.scales if q.is_scaled else None
        return packed_planes(self.rows, q.levels, q.gains, scales, self.latents, start, stop)

    def take(self, rows: np.ndarray) -> "PackedCodes":
        """Select rows (m,), m ≥ 1, in that order."""
        if self.counts is None:  # Rows of one length: no place of a byte is worked out.
            stride = int(self.rows.layout.lengths[-1])
            whole = self.data[:-SPARE].reshape(-1, stride)
            data = np.zeros(len(rows) * stride + SPARE, np.uint8)
            np.take(whole, rows, 0, out=data[:-SPARE].reshape(-1, stride))
            return replace(self, data=data)
        lengths = self.rows.layout.lengths[self.nonzeros]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[rows]
        lengths = lengths[rows]
        ends = np.cumsum(lengths)
        sources = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
        data = np.concatenate([self.data[sources], np.zeros(SPARE, np.uint8)])
        counts = None if self.counts is None else self.counts[rows]
        return replace(self, data=data, counts=counts)

    def join(self, others: "list[PackedCodes]") -> "PackedCodes":
        """Append the rows of others, which ``check_compatible`` accepts."""
        parts = [self, *others]
        data = [part.data[:-SPARE] for part in parts]
        counts = None
        if any(part.counts is not None for part in parts):
            counts = np.concatenate([part.nonzeros for part in parts]).astype(np.uint8)
        return replace(self, data=np.concatenate([*data, np.zeros(SPARE, np.uint8)]), counts=counts)

    def check_compatible(self, other: Any) -> None:
        """Refuse codes that cannot stand in one index with these.

        Raises:
            InputError: another kind, another model or another quantiser.
        """
        if not isinstance(other, PackedCodes):
            raise InputError(
                f"{type(other).__name__}: expected packed codes, as in the index; make them with "
                "encode_like(model, rows, like=index.codes)"
            )
        arrays, other_arrays = self.quantizer.arrays(), other.quantizer.arrays()
        is_same = arrays.keys() == other_arrays.keys() and all(
            np.array_equal(arrays[name], other_arrays[name]) for name in arrays
        )
        if not is_same or other.latents != self.latents or other.model_id != self.model_id:
            raise InputError(
                "packed codes of another model or quantiser than the index's; make them with "
                "encode_like(model, rows, like=index.codes)"
            )

    def residual_codes(self) -> np.ndarray:
        """Residual codes (n, residual_bytes) uint8."""
        return packed.heads(self.rows)[:, :-1]

    def gains(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Gains (m,) float32 of rows start..stop; of all rows by default."""
        return self.quantizer.gains[packed.heads(self.rows, start, stop)[:, -1]]

    def reconstruct(self, decoder: np.ndarray) -> np.ndarray:
        """Reconstruct rows (n, d) float32 from the model's decoder (h, d) and residual codes."""
        q, numbers = self.quantizer, packed.heads(self.rows)[:, -1]
        nonzeros = np.asarray(self.to_scipy() @ decoder, np.float32)
        factors = (q.gains * q.scales)[numbers, None]
        return nonzeros + factors * q.decode_residual(self.residual_codes())

    def scores(
        self, projected: np.ndarray, table: np.ndarray | None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores (m,) float32 of rows (m,), of all rows when None; see ``Codes.scores``.

        Args:
            projected: q' = W·x (h,) float32.
            table: (residual_bytes, 256) float32, an entry of ``query_tables``.
            rows: (m,) int64.
        """
        q = self.quantizer
        if table is None:
            table = np.zeros((q.residual_bytes, 256), np.float32)
        addressable = 1 << q.layout.id_bits
        if len(projected) < addressable:  # An id in damaged codes must not read beyond the end.
            padding = np.zeros(addressable - self.latents, np.float32)
            projected = np.concatenate([projected, padding])
        return packed.rescore(self.rows, q.levels, q.gains, q.scales, projected, table, rows)

    def read_ahead(self, rows: np.ndarray) -> None:
        packed.read_rows_ahead(self.rows, rows)

    def prefix(self, nonzeros: int) -> "PackedCodes":
        """Cut rows to their first k nonzeros: codes of a smaller k without encoding again.

        The first nonzeros of a row are those of largest |value| before quantisation.

        Args:
            nonzeros: k.

        Raises:
            InputError: k is outside 1…K; or the rows have residual codes, which are fitted to all
                of their nonzeros.
        """
        if not 1 <= nonzeros <= self.quantizer.nonzeros:
            raise InputError(
                f"{nonzeros} nonzeros: expected 1 to {self.quantizer.nonzeros}, those of the codes"
            )
        if self.quantizer.residual_bytes:
            raise InputError(
                "these codes carry residual codes of all their nonzeros and cannot be cut; encode "
                f"again with {nonzeros} nonzeros"
            )
        # Copy the first bytes of each row.
        quantizer = self.quantizer.prefix(nonzeros)
        old_counts = self.rows.nonzeros
        starts = np.concatenate([[0], np.cumsum(self.rows.layout.lengths[old_counts])[:-1]])
        new_counts = np.minimum(old_counts, nonzeros)
        lengths = quantizer.layout.lengths[new_counts]
        ends = np.cumsum(lengths)
        data = np.zeros(int(ends[-1]) + SPARE, np.uint8)
        offsets = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
        data[: int(ends[-1])] = self.data[offsets + np.repeat(starts, lengths)]
        # Clear the bits of the next nonzero in the last byte of a row.
        surplus_bits = (8 * (lengths - 1) - quantizer.layout.shifts[new_counts]) % 8
        data[ends - 1] &= (255 >> surplus_bits).astype(np.uint8)
        counts = None if self.counts is None else new_counts.astype(np.uint8)
        settings = {**self.settings, "nonzeros": nonzeros}
        return PackedCodes(data, counts, quantizer, self.model_id, settings)

    def artifact_settings(self) -> dict[str, Any]:
        """Settings that a saved folder records beside the arrays."""
        return {
            "rows": len(self),
            "latents": self.latents,
            "model_id": self.model_id,
            "made": self.settings,
        }

    def row_arrays(self) -> dict[str, np.ndarray]:
        counts = {} if self.counts is None else {"counts": self.counts}
        return {"data": self.data, **counts}

    def shared_arrays(self) -> dict[str, np.ndarray]:
        stored = self.quantizer.stored_arrays()
        return {f"quantizer.{name}": array for name, array in stored.items()}

    def with_rows(self, rows: int, arrays: dict[str, np.ndarray]) -> "PackedCodes":
        if not {"data"} <= set(arrays) <= {"data", "counts"}:
            raise InputError(f"packed codes: arrays {sorted(arrays)}; encode the table again")
        codes = replace(self, data=arrays["data"], counts=arrays.get("counts"))
        if len(codes) != rows:
            raise InputError(f"packed codes: {len(codes)} rows; expected {rows}")
        return codes

    @classmethod
    def from_parts(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "PackedCodes":
        """Make codes from the settings and arrays of a saved folder.

        Raises:
            InputError: a setting or an array is missing, or they do not fit together.
        """
        shared = {name: array for name, array in arrays.items() if name.startswith("quantizer.")}
        rows = {name: array for name, array in arrays.items() if name not in shared}
        return cls.prototype(settings, shared).with_rows(CodesSettings.of(settings).rows, rows)

    @classmethod
    def prototype(cls, settings: dict[str, Any], shared: dict[str, np.ndarray]) -> "PackedCodes":
        own = CodesSettings.of(settings)
        arrays = {name.removeprefix("quantizer."): array for name, array in shared.items()}
        quantizer = RowQuantizer.from_arrays(own.latents, arrays)
        data = np.zeros(int(quantizer.layout.lengths[-1]) + SPARE, np.uint8)
        return cls(data, None, quantizer, own.model_id, own.made)
