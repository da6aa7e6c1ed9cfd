"""RowQuantizer: what turns the nonzeros and the residual of a row into bytes, and back."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from compressae.kernels.backend import beside, namespace
from compressae.kernels.packed import MAX_BITS, Layout, look_up_tables
from compressae.retrieval.codes.size import id_bits
from compressae.retrieval.errors import InputError

_CENTROIDS = 256
#: Power of the queries' second moment by which errors are weighed, and the ridge under it as a
#: share of its largest eigenvalue; chosen on WordNet (docs/results/recall_per_byte.md).
_WEIGHTING = 0.75
_RIDGE = 1e-2
#: Names of arrays in saved files, where they differ: format 2 has them so.
_STORED_AS = {"error_weighting": "metric"}


@dataclass(frozen=True, eq=False)
class RowQuantizer:
    """Levels of the values, and a product quantiser of what they leave.

    Nonzeros of a row are ordered by descending |value| before quantisation; the r-th takes one of
    its own rank's levels, so that neither a scale nor a sign needs to be stored. The residual
    r = x − x̂ is kept as y = r·project cut into m parts, each replaced by its nearest of 256
    centroids (product quantisation, Jégou et al. 2011); r ≈ ŷ·restoreᵀ, so that q·r is m look-ups.
    One more byte scales the whole row to its least-squares length.

    Attributes:
        latents: h.
        error_weighting: (d, d) float32 A: quantisation minimises ‖(x − x̂)·A‖.
        levels: (K, L) float32; rank r uses its first 2^value_bits[r].
        value_bits: (K,) int64.
        gains: (256,) float32, ascending and even: what a row's gain byte multiplies its score by.
        project, restore: (d, m·s) float32, s dimensions a part; m = 0 without residual codes.
        codebooks: (m, 256, s) float32.
    """

    latents: int
    error_weighting: np.ndarray
    levels: np.ndarray
    value_bits: np.ndarray
    gains: np.ndarray
    project: np.ndarray
    restore: np.ndarray
    codebooks: np.ndarray

    def __post_init__(self) -> None:
        d, (ranks, widest), (m, centroids, s) = self.dim, self.levels.shape, self.codebooks.shape
        fits = (
            self.error_weighting.shape == (d, d)
            and self.value_bits.shape == (ranks,)
            and int(self.value_bits.min()) >= 1
            and widest == 1 << int(self.value_bits.max()) <= 256
            and self.gains.shape == (256,)
            and centroids == _CENTROIDS
            and self.project.shape == self.restore.shape == (d, m * s)
        )
        if not fits:
            shapes = {name: array.shape for name, array in self.arrays().items()}
            raise InputError(f"row quantiser: {shapes} do not fit together; encode the table again")
        if id_bits(self.latents) + int(self.value_bits.max()) > MAX_BITS:
            raise InputError(
                f"row quantiser: {self.latents} latents and values of {self.value_bits.max()} bits;"
                f" expected at most {MAX_BITS} bits together; encode the table again"
            )
        read = [self.error_weighting, self.gains, self.project, self.restore, self.codebooks]
        read += [row[: 1 << bits] for row, bits in zip(self.levels, self.value_bits, strict=True)]
        if not all(np.isfinite(array).all() for array in read):
            raise InputError("row quantiser: NaN or infinity in its arrays; encode the table again")

    @property
    def dim(self) -> int:
        return len(self.error_weighting)

    @property
    def nonzeros(self) -> int:
        """K, the most nonzeros of a row."""
        return len(self.value_bits)

    @property
    def residual_bytes(self) -> int:
        return len(self.codebooks)

    @cached_property
    def _columns(self) -> np.ndarray:
        """(m, s, 256): the codebooks, one centroid a column."""
        return np.ascontiguousarray(self.codebooks.transpose(0, 2, 1))

    @cached_property
    def _copies(self) -> dict[tuple[str, str], Any]:
        return {}

    def _beside(self, name: str, data: Any) -> Any:
        """One of the larger arrays where ``data`` is; what a device was given once stays there."""
        if isinstance(data, np.ndarray):
            return getattr(self, name)
        place = name, str(data.device)
        if place not in self._copies:
            self._copies[place] = beside(getattr(self, name), data)
        return self._copies[place]

    @cached_property
    def layout(self) -> Layout:
        """Where the parts of a row are."""
        return Layout(id_bits(self.latents), self.value_bits, self.residual_bytes + 1)

    @property
    def nbytes(self) -> int:
        """Bytes that search needs of it, whatever the number of rows."""
        return self.levels.nbytes + self.gains.nbytes + self.restore.nbytes + self.codebooks.nbytes

    def values_of(self, codes: Any) -> Any:
        """Values (n, k) float32 of level numbers (n, k) uint8, an array or a tensor like them."""
        return level_values(self.levels, codes)

    def encode_residual(self, residual: Any) -> Any:
        """(n, m) uint8 codes of residuals (n, d), an array or a tensor like them."""
        xp, (m, _, s) = namespace(residual), self.codebooks.shape
        if not m:
            return xp.asarray(residual[:, :0], dtype=xp.uint8)
        if xp is not np:  # ‖y − c‖² is least where ‖c‖²/2 − y·c is.
            parts = (residual @ self._beside("project", residual)).reshape(-1, m, s)
            books = self._beside("codebooks", residual)
            halves = books.square().sum(2) / 2
            found = [(halves[p] - parts[:, p] @ books[p].T).argmin(1) for p in range(m)]
            return xp.stack(found, 1).to(xp.uint8)
        import faiss

        quantizer = faiss.ProductQuantizer(m * s, m, 8)
        faiss.copy_array_to_vector(self.codebooks.reshape(-1), quantizer.centroids)
        return quantizer.compute_codes(np.ascontiguousarray(residual @ self.project))

    def decode_residual(self, codes: Any) -> Any:
        """(n, d) float32 residuals of codes (n, m), an array or a tensor like them."""
        books = self._beside("codebooks", codes)
        parts = level_values(books, codes).reshape(len(codes), -1)
        return parts @ self._beside("restore", codes).T

    def tables(self, x: np.ndarray) -> np.ndarray:
        """Look-up tables (q, m, 256) float32 of queries x (q, d): x · centroid."""
        m, _, s = self.codebooks.shape
        return look_up_tables((x @ self.restore).reshape(len(x), m, s), self._columns)

    def encode_gain(self, gains: Any) -> Any:
        """(n,) uint8: the nearest of ``self.gains``; an array or a tensor like ``gains``."""
        low, high = float(self.gains[0]), float(self.gains[-1])
        step = max((high - low) / 255, 1e-9)
        xp = namespace(gains)
        return xp.asarray(((gains.clip(low, high) - low) / step).round(), dtype=xp.uint8)

    def prefix(self, k: int) -> "RowQuantizer":
        """The quantiser of rows cut to their first k nonzeros, without residual."""
        widest = 1 << int(self.value_bits[:k].max())
        none = np.empty((self.dim, 0), np.float32)
        return replace(
            self,
            levels=self.levels[:k, :widest].copy(),
            value_bits=self.value_bits[:k].copy(),
            project=none,
            restore=none,
            codebooks=np.empty((0, _CENTROIDS, 0), np.float32),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a saved folder holds."""
        return {
            _STORED_AS.get(f.name, f.name): getattr(self, f.name)
            for f in fields(self)
            if f.name != "latents"
        }

    @classmethod
    def from_arrays(cls, latents: int, arrays: dict[str, np.ndarray]) -> "RowQuantizer":
        """A quantiser of what ``arrays`` gave."""
        names = {_STORED_AS.get(f.name, f.name): f.name for f in fields(cls) if f.name != "latents"}
        if set(arrays) != set(names):
            raise InputError(
                f"row quantiser: arrays {sorted(arrays)}; expected {sorted(names)}; encode the "
                "table again"
            )
        return cls(latents, **{names[name]: np.array(array) for name, array in arrays.items()})


def level_values(levels: Any, codes: Any) -> Any:
    """Equal to ``levels[arange(k), codes]`` of codes (n, k) uint8, an array or a tensor like
    them."""
    ranks = np.arange(codes.shape[1])
    if isinstance(codes, np.ndarray):
        return levels[ranks, codes]
    return beside(levels, codes)[beside(ranks, codes), codes.long()]


def fit_error_weighting(queries: np.ndarray) -> np.ndarray:
    """Weights of errors: a symmetric positive (d, d) float32 matrix A.

    The expected squared error of q·x̂ over queries of second moment S is eᵀSe with e = x − x̂, not
    eᵀe (Guo et al., "Quantization based fast inner product search", AISTATS 2016). A² is a power of
    S between the two, which does best where the nearest rows matter more than all.

    Args:
        queries: (n, d) float32 rows like the queries.
    """
    moment, axes = np.linalg.eigh((queries.T @ queries / len(queries)).astype(np.float64))
    weight = (np.maximum(moment, 0) / moment[-1] + _RIDGE) ** (_WEIGHTING / 2)
    weight /= np.sqrt(np.mean(((queries @ axes) * weight) ** 2) * len(axes))
    return ((axes * weight) @ axes.T).astype(np.float32)


def fit_levels(values: np.ndarray, bits: float, typical: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels of each rank, with bits shared out so that the squared error is least.

    Each rank's levels are Lloyd–Max quantisers of its values (Lloyd 1982); from one bit each, bits
    go one by one to the rank whose error falls most, until a row of ``typical`` nonzeros has
    ``bits`` a nonzero on average, or no error is left.

    Args:
        values: (n, K) float32, row by row in descending |value|.
        bits: on average, at least 1.
        typical: nonzeros of most rows, at most K.

    Returns:
        levels (K, L) float32, unused ones infinite, and value_bits (K,) int64, 1 to 8.
    """
    ranks = values.shape[1]
    columns = np.sort(values.astype(np.float64), axis=0).T
    made = [[_lloyd(column, 2), _lloyd(column, 4)] for column in columns]
    chosen = np.ones(ranks, np.int64)
    for _ in range(round((bits - 1) * typical)):
        gains = [
            made[r][chosen[r] - 1][1] - made[r][chosen[r]][1] if chosen[r] < 8 else -1.0
            for r in range(ranks)
        ]
        r = int(np.argmax(gains))
        if gains[r] <= 0:
            break
        chosen[r] += 1
        if chosen[r] < 8 and len(made[r]) <= chosen[r]:
            made[r].append(_lloyd(columns[r], 2 << int(chosen[r])))
    levels = np.full((ranks, 1 << int(chosen.max())), np.inf, np.float32)
    for r in range(ranks):
        found = made[r][chosen[r] - 1][0]
        levels[r, : len(found)] = found
    return levels, chosen


def _lloyd(column: np.ndarray, count: int, rounds: int = 40) -> tuple[np.ndarray, float]:
    """``count`` levels of sorted numbers and their mean squared error."""
    sums, squares = (np.concatenate([[0], np.cumsum(c)]) for c in (column, column**2))
    levels = np.quantile(column, (np.arange(count) + 0.5) / count)
    for _ in range(rounds):
        edges = np.searchsorted(column, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(column)]])
        sizes = np.diff(bounds)
        total = np.diff(sums[bounds])
        levels = np.sort(np.where(sizes > 0, total / np.maximum(sizes, 1), levels))
    error = np.diff(squares[bounds]) - 2 * levels * total + sizes * levels**2
    return levels, float(max(error.sum(), 0) / len(column))


def fit_residual(weighted: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """A product quantiser of weighted residuals (r·A): a rotation and its parts' centroids.

    Residuals are turned to their principal axes, which go to the m parts so that the product of
    variances is even (eigenvalue allocation, the parametric form of OPQ: Ge et al. 2013); faiss
    trains the centroids.

    Args:
        weighted: (n, d) float32, n ≥ 256.
        m: parts, one byte each, at most d.

    Returns:
        rotation (d, m·s) float32 with orthonormal or zero columns and codebooks (m, 256, s)
        float32, s = ⌈d / m⌉.
    """
    import faiss

    d = weighted.shape[1]
    variance, turn = np.linalg.eigh((weighted.T @ weighted / len(weighted)).astype(np.float64))
    part = -(-d // m)
    members: list[list[int]] = [[] for _ in range(m)]
    spread = np.zeros(m)
    floor = max(float(variance[-1]), 1e-30) * 1e-9
    for axis in range(d - 1, -1, -1):
        open_parts = [p for p in range(m) if len(members[p]) < part]
        p = min(open_parts, key=lambda p: spread[p])
        members[p].append(axis)
        spread[p] += np.log(max(float(variance[axis]), floor) / floor)
    rotation = np.zeros((d, m * part), np.float32)
    for p, mine in enumerate(members):
        rotation[:, p * part : p * part + len(mine)] = turn[:, mine]
    quantizer = faiss.ProductQuantizer(m * part, m, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(np.ascontiguousarray(weighted @ rotation))
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(m, _CENTROIDS, part)
    return rotation, np.ascontiguousarray(centroids)
