"""Codes: what plain and packed codes have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.retrieval.io.embeddings import Similarity, check_similarity
from compressae.retrieval.io.schema import Count, Positive, Range, checked

KIND = "codes"
#: Largest weight of the error along a row in a file, whose products are finite.
_LARGEST_WEIGHT = 100


@dataclass(frozen=True)
class CodesSettings:
    """What a file says of codes beside their arrays."""

    rows: Positive
    latents: Annotated[int, Range(1, 1 << 31)]
    model_id: str | None
    made: dict[str, Any]
    uniform: Count | None = None  # Nonzeros of each row of plain codes, where equal.

    @classmethod
    def of(cls, settings: Any) -> "CodesSettings":
        """Check settings of a file.

        Raises:
            InputError: they are others.
        """
        name, cure = "codes", "encode the table again"
        own = checked(settings, cls, name, cure)
        check_made(own.made, name, cure)
        return own


def check_made(made: dict[str, Any], name: str, cure: str) -> None:
    """Check what settings in a file say of how codes were made.

    Args:
        made: not trusted.
        name, cure: the file and what helps, for messages.

    Raises:
        InputError: an unknown similarity, or no weight of the error along a row.
    """
    check_similarity(made.get("similarity", "cosine"))
    check_parallel_weight(parallel_weight_of(made), name, cure)


def parallel_weight_of(made: dict[str, Any]) -> Any:
    """How much more the gains of codes weigh the error along a row, as their settings say; 0 where
    they do not, as those of plain and of older codes.

    >>> parallel_weight_of({"values": "int2", "parallel_weight": 0.3}), parallel_weight_of({})
    (0.3, 0.0)
    """
    return made.get("parallel_weight", 0.0)


def check_parallel_weight(weight: Any, name: str, cure: str) -> float:
    """Refuse a weight of the error along a row that is no number from 0 to 100.

    >>> check_parallel_weight(101, "fit_quantizer", "give one of them, or None")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: fit_quantizer: parallel_weight is 101; expected a \
number from 0 to 100; give one of them, or None
    """
    is_number = isinstance(weight, Real) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= _LARGEST_WEIGHT:
        raise InputError(
            f"{name}: parallel_weight is {weight!r}; expected a number from 0 to "
            f"{_LARGEST_WEIGHT}; {cure}"
        )
    return float(weight)


class Codes(ABC):
    """n rows of signed nonzeros over h latents, as a search reads them.

    Rows are scored where they lie: the score of a row for a dense query x is q'·s, with q' = W·x,
    plus what its residual code adds, times its gain or scale.

    Attributes:
        stem: name of the file of such codes in a saved folder.
        latents: h.
        model_id: fingerprint of the model that made the codes, or None.
        settings: how they were made.
    """

    stem: ClassVar[str]
    latents: int
    model_id: str | None
    settings: dict[str, Any]

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @property
    def similarity(self) -> Similarity:
        """What scores of a dense query estimate: its cosine with a row, or its dot product."""
        similarity: Similarity = self.settings.get("similarity", "cosine")
        return similarity

    @property
    def shape(self) -> tuple[int, int]:
        """(n, h)."""
        return len(self), self.latents

    def __repr__(self) -> str:
        model = "" if self.model_id is None else f", model {self.model_id}"
        each = self.nbytes / max(len(self), 1)
        return (
            f"{type(self).__name__}({len(self):,} rows over {self.latents:,} latents, "
            f"{each:.4g} bytes a row{model})"
        )

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that grow with n."""

    @property
    @abstractmethod
    def constant_nbytes(self) -> int:
        """Bytes of what all rows share and a search needs: levels, gains, codebooks."""

    @property
    @abstractmethod
    def residual_bytes(self) -> int:
        """Bytes of a row's residual code."""

    @property
    def residual_dim(self) -> int:
        """d of the rows that residual codes decode to; 0 without residual codes."""
        return 0

    @property
    @abstractmethod
    def nonzeros(self) -> np.ndarray:
        """Nonzeros of each row (n,) int64."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """An upper bound of every |value|, gains and scales applied."""

    @abstractmethod
    def read(
        self, start: int, stop: int, factors: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Decode rows start..stop to CSR: bounds (m + 1,), latents, values, ``row_factors``."""

    def row_bytes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Packed bytes of rows start..stop: bounds (m + 1,) int64 and bytes (b,) uint8, residual
        codes included; None for plain codes."""
        return None

    @abstractmethod
    def row_factors(
        self, factors: np.ndarray | None, start: int = 0, stop: int | None = None
    ) -> np.ndarray | None:
        """Factors (m,) by which stored values of rows start..stop are multiplied, or None for 1.

        Args:
            factors: (n,) as ``dots`` takes them; the rows' own gains or scales when None.
            start, stop: rows; all when not given.
        """

    @abstractmethod
    def dots(
        self,
        dense_query: np.ndarray,
        rows: np.ndarray | None = None,
        factors: np.ndarray | None = None,
    ) -> np.ndarray:
        """Dot products q·s (m,) float32 with the nonzeros of rows (m,), of all rows when None.

        Args:
            dense_query: q (h,).
            rows: (m,) int64.
            factors: (n,) from ``inverse_norms``.
        """

    @abstractmethod
    def query_tables(self, x: np.ndarray) -> np.ndarray | None:
        """Look-up tables of the residual codes for queries x (q, d), or None where there are none
        to look up."""

    @abstractmethod
    def scores(
        self, projected: np.ndarray, table: np.ndarray | None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores (m,) float32 of rows (m,), of all rows when None.

        Args:
            projected: q' = W·x (h,) float32.
            table: the query's entry of ``query_tables``.
            rows: (m,) int64.
        """

    @abstractmethod
    def read_ahead(self, rows: np.ndarray) -> None:
        """Ask the system for the pages of rows (m,) integers, ascending, where codes are mapped."""

    @abstractmethod
    def norms(self, dtype: Any = np.float32) -> np.ndarray:
        """‖s‖ of every row (n,)."""

    @abstractmethod
    def inverse_norms(self) -> np.ndarray:
        """Factors (n,) float64 with which ``dots`` gives q·s / ‖s‖; 0 for an empty row."""

    @abstractmethod
    def reconstruct(self, decoder: np.ndarray) -> np.ndarray:
        """Reconstruct rows (n, d) float32 from the model's decoder (h, d)."""

    @abstractmethod
    def to_scipy(self) -> sparse.csr_array:
        """The dequantised nonzeros as a float32 CSR matrix (n, h); residual codes are left out."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Self:
        """Rows (m,), m ≥ 1, in that order."""

    @abstractmethod
    def join(self, others: list[Self]) -> Self:
        """These rows and then the others', which ``check_compatible`` accepts."""

    @abstractmethod
    def check_compatible(self, other: Any) -> None:
        """Refuse codes that cannot stand in one index with these.

        Raises:
            InputError: another kind, another h, another model or another quantiser.
        """

    def like_these(self, other: "Codes") -> "Codes":
        """Other rows in the form of these, where that loses nothing that they have."""
        return other

    def residual_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Arrays (d, m·s) and (m, 256, s) that decode; see ``RowQuantizer.residual_arrays``."""
        return np.empty((0, 0), np.float32), np.empty((0, 256, 0), np.float32)

    @abstractmethod
    def gpu_planes(self, start: int, stop: int) -> Any:
        """Rows start..stop as ``kernels.scan.Planes`` for a GPU; imports torch."""

    @abstractmethod
    def artifact_settings(self) -> dict[str, Any]:
        """What a saved folder records beside the arrays."""

    @abstractmethod
    def row_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that grow with n, by their names in a file."""

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that all rows share, by their names in a file: those of a quantiser."""
        return {}

    @abstractmethod
    def with_rows(self, rows: int, arrays: dict[str, np.ndarray]) -> Self:
        """Codes of other rows that share all else with these.

        Args:
            rows: their number.
            arrays: what ``row_arrays`` gave.

        Raises:
            InputError: the arrays do not fit.
        """

    @classmethod
    @abstractmethod
    def prototype(cls, settings: dict[str, Any], shared: dict[str, np.ndarray]) -> Self:
        """One row of no meaning, of which ``with_rows`` makes codes.

        Args:
            settings: what ``artifact_settings`` gave of any rows.
            shared: what ``shared_arrays`` gave.

        Raises:
            InputError: the parts do not fit together.
        """

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a saved folder."""
        return {**self.row_arrays(), **self.shared_arrays()}

    @classmethod
    @abstractmethod
    def from_parts(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Codes of what ``artifact_settings`` and ``arrays`` gave.

        Raises:
            InputError: the parts do not fit together.
        """

    def save(self, path: str | Path) -> None:
        """Write the codes as a folder, whole or not at all.

        Raises:
            InputError: the folder cannot be written; what was there is unchanged.
        """
        save_artifact(path, KIND, self.artifact_settings(), {self.stem: self.arrays()})

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> Self:
        """Open saved codes of this kind, memory-mapped.

        Args:
            path: the folder.
            verify: compare each file with its checksum, which reads it once.

        Raises:
            InputError: no whole codes of this kind; the message names the file.
        """
        artifact = load_artifact(path, KIND, verify)
        if cls.stem not in artifact.tensors:
            raise InputError(
                f"{path}: holds no {cls.__name__}; open it with compressae.retrieval.load_codes"
            )
        return cls.from_parts(artifact.settings, artifact.tensors[cls.stem])
