"""PackedCodes: sparse codes and residual codes in a few bytes a row."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from compressae.kernels import packed
from compressae.kernels.packed import ROW_BLOCK, SPARE, Rows
from compressae.retrieval.codes.base import Codes
from compressae.retrieval.codes.quantizer import RowQuantizer
from compressae.retrieval.codes.sparse import SparseCodes, ValueType, id_dtype
from compressae.retrieval.errors import InputError

#: Rows unpacked at a time.
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, eq=False, repr=False)
class PackedCodes(Codes):
    """n rows of latents in ⌈log2 h⌉ bits, quantised values, a residual code and a gain.

    Rows may differ in k (a budget gives more nonzeros to some). They are scored where they lie:
    q·y ≈ gain·(q'·s + Σ_b tables[b, residual_b]), with q' = W·q.

    Attributes:
        data: uint8, all rows and ``SPARE`` bytes; see ``compressae.kernels.packed``.
        counts: (n,) uint8 nonzeros of each row, or None where all have the quantiser's K.
        quantizer: what made the rows; the same for every row, and not counted in ``nbytes``.
        model_id: fingerprint of the model that made the codes.
        settings: how they were made.

    Raises:
        InputError: the parts do not fit together.
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
            whole = len(self.counts) > 0 and size == int(ends[-1])
        else:
            whole = size > 0 and size % int(lengths[-1]) == 0
        if self.data.dtype != np.uint8 or not whole:
            raise InputError(
                f"packed codes: {len(self.data)} bytes of {self.data.dtype} do not fit rows of "
                f"{lengths.min()} to {lengths[-1]} bytes; encode the table again"
            )
        object.__setattr__(self, "rows", Rows(self.data, layout, self.counts, blocks))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latents(self) -> int:  # type: ignore[override]
        return self.quantizer.latents

    @property
    def constant_nbytes(self) -> int:
        return self.quantizer.nbytes

    @property
    def residual_bytes(self) -> int:
        return self.quantizer.residual_bytes

    @property
    def nbytes(self) -> int:
        """Every byte that grows with n: rows, their counts and blocks where they differ in k."""
        counts = 0 if self.counts is None else self.counts.nbytes
        return self.data.nbytes + counts + self.rows.blocks.nbytes

    @property
    def nonzeros(self) -> np.ndarray:
        """(n,) int64 nonzeros of each row."""
        return self.rows.nonzeros

    @property
    def largest(self) -> float:
        """No |value|, gains applied, is larger."""
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
            InputError: a latent is outside the codes: they are damaged.
        """
        indptr, ids, codes = packed.unpack(self.rows, start, stop, threads=1)
        if len(ids) and int(ids.max()) >= self.latents:
            raise InputError(
                f"packed codes: latent {ids.max()} of {self.latents}; encode the table again"
            )
        ranks = np.arange(len(ids)) - np.repeat(indptr[:-1], np.diff(indptr))
        values = self.quantizer.levels[ranks, codes]
        return indptr, ids, values, self.row_factors(factors, start, stop)

    def unpack(self, values: ValueType = "float32") -> SparseCodes:
        """The nonzeros as CSR codes, gains multiplied in; residual codes are left out."""
        indptr, ids, numbers, gains = self.read(0, len(self))
        numbers *= np.repeat(gains, np.diff(indptr))
        flat = ids.astype(id_dtype(self.latents))
        return SparseCodes.from_arrays(
            indptr, flat, numbers, self.latents, values, self.model_id, self.settings
        )

    def norms(self, dtype: Any = np.float32) -> np.ndarray:
        """‖s‖ of every row, gains applied: (n,)."""
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
        """Dot products (m,) with the nonzeros, summed in float32; see ``Codes.dots``."""
        tables = np.zeros((self.residual_bytes, 256), np.float32)
        scores = self.scores(np.asarray(dense_query, np.float32), tables, rows)
        if factors is None:
            return scores
        return (scores * (factors if rows is None else factors[rows])).astype(np.float32)

    def query_tables(self, x: np.ndarray) -> np.ndarray:
        return self.quantizer.tables(x)

    def inverse_norms(self) -> np.ndarray:
        norms = self.norms(np.float64)
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def to_scipy(self) -> sparse.csr_array:
        return self.unpack().to_scipy()

    def residual_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.quantizer.restore, self.quantizer.codebooks

    def gpu_planes(self, start: int, stop: int) -> Any:
        from compressae.kernels.scan import packed_planes

        q = self.quantizer
        return packed_planes(self.rows, q.levels, q.gains, self.latents, start, stop)

    def take(self, rows: np.ndarray) -> "PackedCodes":
        """The given rows (m,), m ≥ 1, in that order."""
        lengths = self.rows.layout.lengths[self.nonzeros]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[rows]
        taken = lengths[rows]
        ends = np.cumsum(taken)
        place = np.arange(ends[-1]) + np.repeat(starts - ends + taken, taken)
        data = np.concatenate([self.data[place], np.zeros(SPARE, np.uint8)])
        counts = None if self.counts is None else self.counts[rows]
        return replace(self, data=data, counts=counts)

    def join(self, others: "list[PackedCodes]") -> "PackedCodes":
        """These rows and then the others', which ``check_compatible`` accepts."""
        parts = [self, *others]
        data = [part.data[:-SPARE] for part in parts]
        counts = None
        if any(part.counts is not None for part in parts):
            counts = np.concatenate([part.nonzeros for part in parts]).astype(np.uint8)
        return replace(self, data=np.concatenate([*data, np.zeros(SPARE, np.uint8)]), counts=counts)

    def check_compatible(self, other: Any) -> None:
        """Refuse codes that cannot stand in one index with these.

        Raises:
            InputError: of another kind, or packed by another quantiser.
        """
        if not isinstance(other, PackedCodes):
            raise InputError(
                f"{type(other).__name__}: expected packed codes, as in the index; make them with "
                "encode_like(model, rows, like=index.codes)"
            )
        mine, its = self.quantizer.arrays(), other.quantizer.arrays()
        same = all(np.array_equal(mine[name], its[name]) for name in mine)
        if not same or other.latents != self.latents or other.model_id != self.model_id:
            raise InputError(
                "packed codes of another model or quantiser than the index's; make them with "
                "encode_like(model, rows, like=index.codes)"
            )

    def residual_codes(self) -> np.ndarray:
        """(n, residual_bytes) uint8."""
        return packed.heads(self.rows)[:, :-1]

    def gains(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(m,) float32 factors of rows start..stop, of all when they are not given."""
        return self.quantizer.gains[packed.heads(self.rows, start, stop)[:, -1]]

    def reconstruct(self, decoder: np.ndarray) -> np.ndarray:
        """Reconstruct rows (n, d) float32 from the model's decoder (h, d), residual included."""
        gains = self.gains()[:, None]
        nonzeros = np.asarray(self.to_scipy() @ decoder, np.float32)
        return nonzeros + gains * self.quantizer.decode_residual(self.residual_codes())

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
        addressable = 1 << q.layout.id_bits
        if len(projected) < addressable:  # No id, even a damaged one, reads beyond the end.
            padding = np.zeros(addressable - self.latents, np.float32)
            projected = np.concatenate([projected, padding])
        return packed.rescore(self.rows, q.levels, q.gains, projected, table, rows)

    def prefix(self, nonzeros: int) -> "PackedCodes":
        """The same rows cut to their first k nonzeros, those of largest |value| before
        quantisation: codes of a smaller k without encoding.

        Raises:
            InputError: k is not within 1…K; or rows carry residual codes, which belong to all of
                their nonzeros.
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
        quantizer = self.quantizer.prefix(nonzeros)
        lengths = self.rows.layout.lengths
        old = self.rows.nonzeros
        starts = np.concatenate([[0], np.cumsum(lengths[old])[:-1]])
        kept = np.minimum(old, nonzeros)
        cut = quantizer.layout.lengths[kept]
        ends = np.cumsum(cut)
        data = np.zeros(int(ends[-1]) + SPARE, np.uint8)
        place = np.arange(int(ends[-1])) - np.repeat(ends - cut, cut) + np.repeat(starts, cut)
        data[: int(ends[-1])] = self.data[place]
        spare = (8 * (cut - 1) - quantizer.layout.shifts[kept]) % 8  # Bits of the next nonzero.
        data[ends - 1] &= (255 >> spare).astype(np.uint8)
        counts = None if self.counts is None else kept.astype(np.uint8)
        settings = {**self.settings, "nonzeros": nonzeros}
        return PackedCodes(data, counts, quantizer, self.model_id, settings)

    def artifact_settings(self) -> dict[str, Any]:
        """What a saved folder records beside the arrays."""
        return {
            "rows": len(self),
            "latents": self.latents,
            "model_id": self.model_id,
            "made": self.settings,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a saved folder holds."""
        made = {f"quantizer.{name}": array for name, array in self.quantizer.arrays().items()}
        counts = {} if self.counts is None else {"counts": self.counts}
        return {"data": self.data, **counts, **made}

    @classmethod
    def from_parts(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "PackedCodes":
        """Codes of what ``artifact_settings`` and ``arrays`` gave."""
        made = {
            name.removeprefix("quantizer."): array
            for name, array in arrays.items()
            if name.startswith("quantizer.")
        }
        lacking = {"latents", "model_id", "made", "rows"} - set(settings)
        if lacking or "data" not in arrays:
            raise InputError(
                f"packed codes: {', '.join(sorted(lacking)) or 'data'} missing; encode the table "
                "again"
            )
        quantizer = RowQuantizer.from_arrays(settings["latents"], made)
        codes = cls(
            arrays["data"], arrays.get("counts"), quantizer, settings["model_id"], settings["made"]
        )
        if len(codes) != settings["rows"]:
            raise InputError(f"packed codes: {len(codes)} rows; expected {settings['rows']}")
        return codes
