"""RowQuantizer: quantise the nonzeros and the residual of a row to bytes, and decode them."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from compressae.kernels.backend import beside, namespace, uses_triton
from compressae.kernels.chain import Chain, encode_chain
from compressae.kernels.matmul import Centroids, Panels, matmul, nearest_centroids
from compressae.kernels.packed import MAX_BITS, Layout, look_up_tables
from compressae.kernels.product import IntMatrix, product
from compressae.retrieval.codes.residual import rounded, steps_of
from compressae.retrieval.codes.size import CENTROIDS, id_bits
from compressae.retrieval.errors import InputError

#: Power of the queries' second moment in the error weighting, and the ridge added to a moment as a
#: share of its largest eigenvalue; chosen on WordNet (docs/results/recall_per_byte.md).
_WEIGHTING = 0.75
_RIDGE = 1e-2
#: Gains that are left for rows longer than those of the table, and how much longer they may be.
_LONGER, _HEADROOM = 16, 4.0
#: Least gain of rows that are not zeros.
_SMALLEST_GAIN = 1e-6
#: Gains that are drawn to fit those of dot products.
_GAIN_SAMPLE = 1 << 14
#: Share of the weight of lengths that is the same for each, not by its square.
_EQUAL_SHARE = 0.02
#: Bins of equal share that tell how dense numbers are.
_BINS = 1 << 10
#: Largest number of a chain's centroids, whose products are finite.
_LARGEST_CENTROID = 1e15
#: Names of the arrays in saved files, where format 2 uses another name.
_STORED_AS = {"error_weighting": "metric"}


#: Number of axes of each array of a quantiser.
_AXES = {
    "error_weighting": 2,
    "levels": 2,
    "value_bits": 1,
    "gains": 1,
    "project": 2,
    "restore": 2,
    "codebooks": 3,
    "scales": 1,
}
#: Arrays that lie in files in 8 bits, and the axes over which numbers have one step.
_IN_STEPS: dict[str, tuple[int, ...]] = {"restore": (0,), "codebooks": (1, 2)}
_NUMBERS, _STEPS = "{}_8_bits", "{}_steps"


@dataclass(frozen=True, eq=False)
class RowQuantizer:
    """Quantiser of packed rows: levels of the values, and a quantiser of the residual.

    The nonzeros of a row are ordered by descending |value|. The r-th takes one of the levels of
    rank r, so that no scale and no sign is stored. The residual r = x − x̂ is projected to
    y = r·project and cut into m parts. Each part is replaced by the nearest of 256 centroids
    (product quantisation, Jégou et al. 2011), or in a chain by the sum of one for its own byte and
    one for the byte before. Since r ≈ ŷ·restoreᵀ, q·r takes m table look-ups.
    A gain byte scales the row to the length of least error, and for dot products to that of the row
    itself: no byte is added for row lengths. For cosine, where gains are nearly equal, it says the
    scale of the residual, too: residuals are coded as directions (shape-gain quantisation, Gersho
    and Gray 1992), so that y = gain·(x̂ + scale·r̂). For dot products x is a row over the
    gain nearest to its length, so that its residual makes up for the rounding.

    Files and searches hold ``restore`` and the codebooks in 8 bits if they were rounded to 8 bits,
    by ``fit_residual`` and ``rounded_columns``; otherwise in float32.

    Attributes:
        latents: h.
        error_weighting: (d, d) float32 A: quantisation minimises ‖(x − x̂)·A‖.
        levels: (K, L) float32; rank r uses the first 2^value_bits[r].
        value_bits: (K,) int64 bits of a level number.
        gains: (256,) float32: the factor that each gain byte stands for. They ascend where all
            scales are 1. For dot products they include the row's length, and the first is 0, of
            rows of zeros.
        project, restore: (d, m·s) float32, s dimensions a part; m = 0 without residual codes.
        codebooks: (m, 256, s) float32; (m, 256, 2·s) of a chain, whose centroids cover their own
            part and the next one (see ``compressae.kernels.chain``), zeros in the last one's next.
        scales: (256,) float32: the factor of the residual that each gain byte stands for. All are 1
            for dot products, without residual codes and in older codes: then residuals are coded
            as they are.

    Raises:
        InputError: the shapes do not fit together; an id and a level number take more than 25 bits;
            or an array holds NaN or infinity.

    >>> quantizer = RowQuantizer(
    ...     latents=4096,
    ...     error_weighting=np.eye(2, dtype=np.float32),
    ...     levels=np.array([[-1, -0.5, 0.5, 1], [-0.3, 0.3, np.inf, np.inf]], np.float32),
    ...     value_bits=np.array([2, 1]),
    ...     gains=np.linspace(0.5, 1.5, 256, dtype=np.float32),
    ...     project=np.empty((2, 0), np.float32),
    ...     restore=np.empty((2, 0), np.float32),
    ...     codebooks=np.empty((0, 256, 0), np.float32),
    ...     scales=np.ones(256, np.float32),
    ... )
    >>> quantizer.values_of(np.array([[3, 0]], np.uint8))
    array([[ 1. , -0.3]], dtype=float32)
    >>> quantizer.encode_gain(np.array([0.5, 0.9, 2.0], np.float32))
    array([  0, 102, 255], dtype=uint8)
    >>> quantizer.layout.lengths  # Bytes of a row of 0, 1 and 2 nonzeros.
    array([1, 3, 5])
    """

    latents: int
    error_weighting: np.ndarray
    levels: np.ndarray
    value_bits: np.ndarray
    gains: np.ndarray
    project: np.ndarray
    restore: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray

    def __post_init__(self) -> None:
        d, (ranks, widest), (m, centroids, _) = self.dim, self.levels.shape, self.codebooks.shape
        is_consistent = (
            self.error_weighting.shape == (d, d)
            and self.value_bits.shape == (ranks,)
            and ranks >= 1
            and self.value_bits.dtype == np.int64
            and 1 <= int(self.value_bits.min()) <= int(self.value_bits.max()) <= 8
            and widest == 1 << int(self.value_bits.max()) <= 256
            and self.gains.shape == self.scales.shape == (256,)
            and (self.is_scaled or not bool((self.gains[1:] < self.gains[:-1]).any()))
            and not (self.is_scaled and (self.says_lengths or m == 0))
            and centroids == CENTROIDS
            and m <= d  # An array without entries may have an axis of any length.
            and self.project.shape == self.restore.shape == (d, m * self._part)
            and self.codebooks.shape[2] in (self._part, 2 * self._part)
            and not (self.is_chain and self.codebooks[-1, :, self._part :].any())
            and (m > 0) == (self._part > 0)
        )
        if not is_consistent:
            shapes = {name: array.shape for name, array in self.arrays().items()}
            raise InputError(f"row quantiser: {shapes} do not fit together; encode the table again")
        if id_bits(self.latents) + int(self.value_bits.max()) > MAX_BITS:
            raise InputError(
                f"row quantiser: {self.latents} latents and values of {self.value_bits.max()} bits;"
                f" expected at most {MAX_BITS} bits together; encode the table again"
            )
        # Levels beyond a rank's 2^value_bits are padding and may be infinite.
        numbers = [self.error_weighting, self.gains, self.scales]
        numbers += [self.project, self.restore, self.codebooks]
        numbers += [
            row[: 1 << bits] for row, bits in zip(self.levels, self.value_bits, strict=True)
        ]
        if not all(np.isfinite(array).all() for array in numbers):
            raise InputError("row quantiser: NaN or infinity in its arrays; encode the table again")
        if self.is_chain and (largest := float(np.abs(self.codebooks).max())) > _LARGEST_CENTROID:
            raise InputError(
                f"row quantiser: centroids of up to {largest:.1e}; expected at most "
                f"{_LARGEST_CENTROID:.0e}, whose products are finite; encode the table again"
            )

    def __getstate__(self) -> dict[str, Any]:
        """The arrays: what they are laid out to is made anew."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def dim(self) -> int:
        """d."""
        return len(self.error_weighting)

    @property
    def nonzeros(self) -> int:
        """K, the largest number of nonzeros of a row."""
        return len(self.value_bits)

    @property
    def _part(self) -> int:
        """s, dimensions of a part; 0 without residual codes."""
        return self.restore.shape[1] // max(len(self.codebooks), 1)

    @property
    def is_chain(self) -> bool:
        """Whether a centroid covers its own part and the next one."""
        return self.codebooks.shape[2] > self._part

    @property
    def says_lengths(self) -> bool:
        """Whether gains include row lengths, as for dot products."""
        return float(self.gains[0]) == 0

    @property
    def is_scaled(self) -> bool:
        """Whether residuals are coded as directions, and gain bytes say their scales."""
        return bool((self.scales != 1).any())

    @property
    def residual_bytes(self) -> int:
        """m, the bytes of a row's residual code."""
        return len(self.codebooks)

    @cached_property
    def _columns(self) -> np.ndarray:
        """Codebooks (m, s, 256), one centroid a column, in ``_steps``: int8, or float32."""
        columns = self.codebooks.transpose(0, 2, 1)
        if self._is_rounded:
            columns = np.rint(columns / self._steps[:, None, None]).astype(np.int8)
        return np.ascontiguousarray(columns)

    @cached_property
    def _steps(self) -> np.ndarray:
        """What each part's columns are multiplied with (m,) float32."""
        steps = steps_of(self.codebooks, (1, 2))
        return steps if self._is_rounded else np.ones_like(steps)

    @cached_property
    def _restore(self) -> IntMatrix | np.ndarray:
        """``restore``: in int8 transposed (m·s, d), or float32."""
        return IntMatrix.of(self.restore.T) if self._is_rounded else self.restore

    @cached_property
    def _is_rounded(self) -> bool:
        """Whether ``restore`` and the codebooks are whole steps, of which 127 are the largest."""
        is_whole = True
        for array, axes in ((self.restore, (0,)), (self.codebooks, (1, 2))):
            is_whole = is_whole and np.allclose(rounded(array, axes), array, 1e-6, 0)
        return is_whole

    @cached_property
    def _panels(self) -> dict[str, Panels]:
        """Matrices that arrays of rows are multiplied with."""
        matrices = {
            "project": self.project,
            "restore": self.restore.T,
            "weighted_restore": self.weighted_restore.T,
        }
        return {name: Panels.of(matrix) for name, matrix in matrices.items()}

    @cached_property
    def _centroids(self) -> Centroids:
        """Codebooks as rows are compared with them."""
        return Centroids.of(self.codebooks)

    @cached_property
    def _chain(self) -> Chain:
        """Codebooks of a chain as rows are compared with them."""
        return Chain.of(self.codebooks)

    @cached_property
    def _copies(self) -> dict[tuple[str, str], Any]:
        """Copies of arrays on devices, by (array name, device)."""
        return {}

    def _beside(self, name: str, data: Any) -> Any:
        """Return the array ``name`` on the device of ``data``; each device caches its copy."""
        if isinstance(data, np.ndarray):
            return getattr(self, name)
        key = name, str(data.device)
        if key not in self._copies:
            self._copies[key] = beside(getattr(self, name), data)
        return self._copies[key]

    @cached_property
    def layout(self) -> Layout:
        """Bit layout of a packed row."""
        return Layout(id_bits(self.latents), self.value_bits, self.residual_bytes + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that a search reads; independent of n."""
        arrays = (self.levels, self.gains, self._restore, self._columns, self._steps)
        scales = self.scales.nbytes if self.is_scaled else 0
        return sum(array.nbytes for array in arrays) + scales

    def values_of(self, codes: Any) -> Any:
        """Dequantise level numbers (n, k) uint8 to values (n, k) float32.

        A numpy array returns a numpy array, a tensor a tensor on its device.
        """
        return level_values(self.levels, codes)

    def encode_residual(self, residual: Any) -> Any:
        """Encode residuals (n, d) to codes (n, m) uint8; an array or a tensor like the input."""
        xp, m, s = namespace(residual), self.residual_bytes, self._part
        if not m:
            return xp.asarray(residual[:, :0], dtype=xp.uint8)
        if isinstance(residual, np.ndarray):
            parts = matmul(residual, self._panels["project"])
            if self.is_chain:
                return encode_chain(parts, self._chain)
            return nearest_centroids(parts, self._centroids)
        if self.is_chain and not uses_triton(residual):
            return xp.from_numpy(self.encode_residual(residual.numpy()))
        parts = residual @ self._beside("project", residual)
        books = self._beside("codebooks", residual)
        if self.is_chain:
            from compressae.kernels.chain.gpu import encode_chain as encode_tensors

            return encode_tensors(parts, books)
        # The centroid of least ‖y − c‖² is that of least ‖c‖²/2 − y·c.
        parts = parts.reshape(-1, m, s)
        half_norms = xp.einsum("mcs,mcs->mc", books, books) / 2
        nearest = [(half_norms[p] - parts[:, p] @ books[p].T).argmin(1) for p in range(m)]
        return xp.asarray(xp.stack(nearest, 1), dtype=xp.uint8)

    def decode_residual(self, codes: Any, weighted: bool = False) -> Any:
        """Decode codes (n, m) to residuals (n, d) float32; an array or a tensor like the input.

        With ``weighted`` they are multiplied by the error weighting.
        """
        books, s = self._beside("codebooks", codes), self._part
        parts = level_values(books[:, :, :s], codes)
        if self.is_chain:
            parts[:, 1:] += level_values(books[:-1, :, s:], codes[:, :-1])
        parts = parts.reshape(len(codes), -1)
        name = "weighted_restore" if weighted else "restore"
        if isinstance(codes, np.ndarray):
            return matmul(parts, self._panels[name])
        return parts @ self._beside(name, codes).T

    @cached_property
    def weighted_restore(self) -> np.ndarray:
        """``restore`` (d, m·s) times the error weighting."""
        return self.error_weighting.T @ self.restore

    def tables(self, x: np.ndarray) -> np.ndarray:
        """Compute look-up tables (q, m, 256) float32: queries x (q, d) times each centroid."""
        matrix = self._restore
        parts = product(matrix, x) if isinstance(matrix, IntMatrix) else x @ matrix
        return look_up_tables(parts, self._columns, self._steps)

    def residual_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Arrays restore (d, m·s') and codebooks (m, 256, s') that decode each byte by itself.

        A byte's part of the residual is ``codebooks[t, byte] @ restore[:, t·s' : (t + 1)·s'].T``.
        Those of a chain hold the columns of its own part and of the next one.
        """
        if not self.is_chain:
            return self.restore, self.codebooks
        own = self.restore.reshape(self.dim, self.residual_bytes, self._part)
        both = np.concatenate([own, np.roll(own, -1, axis=1)], axis=2)
        return both.reshape(self.dim, -1), self.codebooks

    def encode_gain(self, gains: Any) -> Any:
        """Quantise gains (n,) to gain bytes (n,) uint8: the index of the nearest of ``self.gains``.

        A numpy array returns a numpy array, a tensor a tensor on its device.
        """
        xp = namespace(gains)
        if not self.says_lengths:  # Evenly spaced.
            low, high = float(self.gains[0]), float(self.gains[-1])
            step = max((high - low) / 255, 1e-9)
            return xp.asarray(((gains.clip(low, high) - low) / step).round(), dtype=xp.uint8)
        return length_codes(self.gains, gains)

    def encode_scaled_gain(self, products: Any) -> Any:
        """Gain bytes (n,) uint8 of least ‖x − gain·(c + scale·r)‖.

        Args:
            products: (n, 5) float32 c·c, c·r, r·r, x·c and x·r of weighted rows x, of what their
                quantised nonzeros give, c, and of their decoded directions, r: an array, or a
                tensor, which returns one on its device.
        """
        xp = namespace(products)
        if isinstance(products, np.ndarray):
            errors = matmul(products, self._gain_panels)
        else:
            errors = products @ self._beside("_gain_errors", products)
        return xp.asarray(errors.argmin(1), dtype=xp.uint8)

    @cached_property
    def _gain_errors(self) -> np.ndarray:
        """What the products of ``encode_scaled_gain`` (n, 5) are multiplied with for squared errors
        (n, 256), ‖x‖² left out."""
        g, s = self.gains, self.scales
        return np.stack([g * g, 2 * g * g * s, (g * s) ** 2, -2 * g, -2 * g * s])

    @cached_property
    def _gain_panels(self) -> Panels:
        return Panels.of(self._gain_errors)

    def prefix(self, k: int) -> "RowQuantizer":
        """Cut the quantiser to rows of their first k nonzeros, without a residual code."""
        widest = 1 << int(self.value_bits[:k].max())
        no_projection = np.empty((self.dim, 0), np.float32)
        return replace(
            self,
            levels=self.levels[:k, :widest].copy(),
            value_bits=self.value_bits[:k].copy(),
            project=no_projection,
            restore=no_projection,
            codebooks=np.empty((0, CENTROIDS, 0), np.float32),
            scales=np.ones_like(self.scales),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name; without scales where all are 1, as in files before format 7."""
        return {
            _STORED_AS.get(f.name, f.name): getattr(self, f.name)
            for f in fields(self)
            if f.name != "latents" and (f.name != "scales" or self.is_scaled)
        }

    def stored_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a saved folder: those in whole steps as int8 beside their steps."""
        arrays = self.arrays()
        for name, axes in _IN_STEPS.items():
            steps = steps_of(arrays[name], axes)
            numbers = np.rint(arrays[name] / np.expand_dims(steps, axes)).astype(np.int8)
            # To the bit: a checksum is of the arrays, and −0 would come back as 0.
            if numbers.size and _in_steps(numbers, steps, axes).tobytes() == arrays[name].tobytes():
                del arrays[name]
                arrays |= {_NUMBERS.format(name): numbers, _STEPS.format(name): steps}
        return arrays

    @classmethod
    def from_arrays(cls, latents: int, arrays: dict[str, np.ndarray]) -> "RowQuantizer":
        """Make a quantiser from its arrays, stored or not.

        Raises:
            InputError: an array is missing or unknown, or they do not fit together.
        """
        arrays = {"scales": np.ones(256, np.float32)} | _without_steps(arrays)
        names = {_STORED_AS.get(f.name, f.name): f.name for f in fields(cls) if f.name != "latents"}
        if set(arrays) != set(names):
            raise InputError(
                f"row quantiser: arrays {sorted(arrays)}; expected {sorted(names)}; encode the "
                "table again"
            )
        own = {names[name]: np.array(array) for name, array in arrays.items()}
        for name, axes in _AXES.items():
            dtype = np.dtype(np.int64 if name == "value_bits" else np.float32)
            if own[name].ndim != axes or own[name].dtype != dtype:
                raise InputError(
                    f"row quantiser: {name} is {own[name].dtype} of shape {own[name].shape}; "
                    f"expected {dtype} of {axes} axes; encode the table again"
                )
        return cls(latents, **own)


def _in_steps(numbers: np.ndarray, steps: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Numbers int8 times their steps, one for all numbers along ``axes``; infinite of bad files."""
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers * np.expand_dims(steps, axes)


def _without_steps(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stored arrays, not trusted, with those in 8 bits as float32."""
    arrays = dict(arrays)
    for name, axes in _IN_STEPS.items():
        both = _NUMBERS.format(name), _STEPS.format(name)
        if name in arrays or not set(both) <= set(arrays):
            continue
        numbers, steps = (arrays.pop(each) for each in both)
        shape = tuple(size for axis, size in enumerate(numbers.shape) if axis not in axes)
        own = numbers.ndim, numbers.dtype, steps.dtype, steps.shape
        if own != (_AXES[name], np.int8, np.float32, shape):  # Else the product would be stretched.
            raise InputError(
                f"row quantiser: {name} in {numbers.dtype} of shape {numbers.shape}, in "
                f"{steps.dtype} steps of shape {steps.shape}; expected int8 of {_AXES[name]} axes "
                f"and float32 steps of shape {shape}; encode the table again"
            )
        arrays[name] = _in_steps(numbers, steps, axes)
    return arrays


def directions(x: Any) -> Any:
    """Rows (n, d) of unit length; those of zeros stay. An array or a tensor like the input."""
    return x / namespace(x).linalg.norm(x, axis=1).clip(min=1e-12)[:, None]


def level_values(levels: Any, codes: Any) -> Any:
    """Look up the level of each rank's number: equal to ``levels[arange(k), codes]``.

    Args:
        levels: (≥ k, L) array; entries may be vectors, as in codebooks (m, 256, s).
        codes: (n, k) uint8.

    Returns:
        (n, k), or (n, k, s) of vectors: an array, or a tensor on the device of ``codes``.

    >>> level_values(np.array([[-1, 1], [-2, 2]]), np.array([[0, 1], [1, 1]], np.uint8))
    array([[-1,  2],
           [ 1,  2]])
    """
    ranks = np.arange(codes.shape[1])
    if isinstance(codes, np.ndarray):
        return levels[ranks, codes]
    return beside(levels, codes)[beside(ranks, codes), codes.long()]


def fit_error_weighting(queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Fit an error weighting: a symmetric positive matrix A (d, d) float32.

    Over queries of second moment S, the expected squared error of q·x̂ is eᵀSe with e = x − x̂, not
    eᵀe (Guo et al., "Quantization based fast inner product search", AISTATS 2016). A² is S to a
    power below 1, a compromise between the two, because the nearest rows matter more than the mean
    row. A is scaled so that rows have a mean squared length of 1 after weighting.

    Args:
        queries: (q, d) float32 rows like the queries.
        rows: (n, d) float32 unit rows of the table; the queries when None.

    >>> queries = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    >>> fit_error_weighting(queries).round(2)
    array([[1.08, 0.  ],
           [0.  , 0.72]], dtype=float32)
    """
    moment, axes = ridged_moment(queries)
    weight = moment ** (_WEIGHTING / 2)
    rows = queries if rows is None else rows
    weight /= np.sqrt(np.mean(((rows @ axes) * weight) ** 2) * len(axes))
    return ((axes * weight) @ axes.T).astype(np.float32)


def ridged_moment(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (d,) and axes (d, d) of the second moment of rows (n, d), float64: shares of the
    largest, with a ridge added."""
    moment, axes = np.linalg.eigh((rows.T @ rows / len(rows)).astype(np.float64))
    return np.maximum(moment, 0) / moment[-1] + _RIDGE, axes


def fit_gains(gains: np.ndarray) -> np.ndarray:
    """Fit the gains (256,) that gain bytes stand for: evenly spaced, without the extremes.

    Args:
        gains: (m,) gains of a sample.
    """
    low, high = np.quantile(gains, [0.001, 0.999])
    return np.linspace(low, max(high, low + 1e-6), 256).astype(np.float32)


def fit_scaled_gains(
    gains: np.ndarray, scales: np.ndarray, energy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the gains and the scales (256,) that gain bytes stand for.

    All pairs of 2^b gains and 2^(8 − b) scales, each a Lloyd–Max quantiser, with the b of least
    squared error.

    Args:
        gains, scales: (m,) of a sample, m ≥ 1, in rows of squared length 1.
        energy: typical squared length of what is multiplied by gain and scale.

    >>> pair = fit_scaled_gains(np.linspace(0.9, 1, 512), np.linspace(0.1, 0.5, 512), energy=0.5)
    >>> [len(np.unique(numbers)) for numbers in pair]  # The scales differ more.
    [8, 32]
    """
    columns = [np.sort(column.astype(np.float64)) for column in (gains, scales)]
    fitted = []
    for b in range(9):
        own, own_error = _lloyd(columns[0], _companded(columns[0], 1 << b))
        others, error = _lloyd(columns[1], _companded(columns[1], 256 >> b))
        fitted.append((own_error + energy * error, own, others))
    _, own, others = min(fitted, key=lambda pair: pair[0])
    grid = np.meshgrid(np.maximum(own, _SMALLEST_GAIN), np.maximum(others, 0), indexing="ij")
    return grid[0].ravel().astype(np.float32), grid[1].ravel().astype(np.float32)


def fit_length_gains(gains: np.ndarray, longest: float) -> np.ndarray:
    """Fit the gains (256,) that gain bytes stand for where they include row lengths.

    The first is 0, of rows of zeros, most are ``length_levels``, and the last ones leave room for
    longer rows to come.

    Args:
        gains: (m,) gains of a sample, lengths included, above 0.
        longest: about the largest gain of the table.

    >>> gains = fit_length_gains(np.array([1.0, 2.0, 4.0]), longest=4.0)
    >>> len(gains), float(gains[0]), float(gains[-1])
    (256, 0.0, 16.0)
    """
    usual = length_levels(gains, 255 - _LONGER)
    longest = max(longest, float(usual[-1]))
    longer = np.geomspace(longest, _HEADROOM * longest, _LONGER)
    return np.concatenate([[0], usual, longer]).astype(np.float32)


def length_levels(lengths: np.ndarray, count: int) -> np.ndarray:
    """Fit levels (count,) float64, ascending, to lengths (m,) above 0.

    A Lloyd–Max quantiser of their logarithms, weighted by their squares: a step is a share of a
    length, and finer where long rows are many, since those have the largest dot products. A small
    share of all weight is the same for each row: one far longer than the others leaves them some.

    >>> length_levels(np.array([1.0, 1.0, 4.0]), count=2).round(3)
    array([1., 4.])
    """
    # Draw lengths with probability in proportion to their squares, by quantiles.
    ascending = np.sort(lengths.astype(np.float64))
    squares = np.square(ascending / ascending[-1])
    share = np.cumsum((1 - _EQUAL_SHARE) * squares / squares.sum() + _EQUAL_SHARE / len(squares))
    places = (np.arange(_GAIN_SAMPLE) + 0.5) / _GAIN_SAMPLE * share[-1]
    drawn = ascending[np.minimum(np.searchsorted(share, places), len(share) - 1)]
    logs = np.log(drawn)
    # Of many levels rounds move none far: they begin where they are to be.
    return np.exp(_lloyd(logs, _companded(logs, count))[0])


def length_codes(levels: np.ndarray, lengths: Any) -> Any:
    """Numbers (n,) uint8 of the levels nearest to lengths (n,); only 0 has level 0, which is 0.

    Args:
        levels: (256,) float32, ascending.
        lengths: an array, or a tensor, which returns one on its device.

    >>> length_codes(np.array([0, 1, 4], np.float32), np.array([0, 0.1, 3], np.float32))
    array([0, 1, 2], dtype=uint8)
    """
    xp = namespace(lengths)
    codes = xp.searchsorted(beside((levels[1:] + levels[:-1]) / 2, lengths), lengths)
    return xp.asarray(xp.where(lengths > 0, codes.clip(1), codes), dtype=xp.uint8)


def fit_levels(values: np.ndarray, bits: float, typical: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the quantisation levels of each rank and allocate bits to ranks by squared error.

    The levels of a rank are a Lloyd–Max quantiser of its values (Lloyd 1982). Each rank starts with
    one bit. Further bits go one at a time to the rank whose error falls most, until a row of
    ``typical`` nonzeros has ``bits`` a nonzero on average, or no bit reduces the error.

    Args:
        values: (n, K) float32, row by row in descending |value|.
        bits: on average, at least 1.
        typical: nonzeros of most rows, at most K.

    Returns:
        levels (K, L) float32, unused ones infinite, and value_bits (K,) int64, 1 to 8.

    >>> values = np.array([[8, 1], [4, 1], [-4, 1], [-8, 1]], np.float32)
    >>> levels, value_bits = fit_levels(values, bits=1.5, typical=2)
    >>> levels, value_bits
    (array([[-8., -4.,  4.,  8.],
           [ 1.,  1., inf, inf]], dtype=float32), array([2, 1]))
    """
    ranks = values.shape[1]
    columns = np.sort(values.astype(np.float64), axis=0).T
    # quantizers[r][b - 1]: levels and error of rank r with b bits, fitted up to one bit ahead.
    quantizers = [[_lloyd(c, _quantiles(c, count)) for count in (2, 4)] for c in columns]
    value_bits = np.ones(ranks, np.int64)
    for _ in range(round((bits - 1) * typical)):
        # By how much one more bit would reduce the error of each rank.
        reductions = [
            quantizers[r][value_bits[r] - 1][1] - quantizers[r][value_bits[r]][1]
            if value_bits[r] < 8
            else -1.0
            for r in range(ranks)
        ]
        r = int(np.argmax(reductions))
        if reductions[r] <= 0:
            break
        value_bits[r] += 1
        if value_bits[r] < 8 and len(quantizers[r]) <= value_bits[r]:
            begin = _quantiles(columns[r], 2 << int(value_bits[r]))
            quantizers[r].append(_lloyd(columns[r], begin))
    levels = np.full((ranks, 1 << int(value_bits.max())), np.inf, np.float32)
    for r in range(ranks):
        rank_levels = quantizers[r][value_bits[r] - 1][0]
        levels[r, : len(rank_levels)] = rank_levels
    return levels, value_bits


def _quantiles(column: np.ndarray, count: int) -> np.ndarray:
    """Levels (count,) of equal shares of numbers."""
    return np.quantile(column, (np.arange(count) + 0.5) / count)


def _companded(column: np.ndarray, count: int) -> np.ndarray:
    """Levels (count,) as dense as the cube root of the density of numbers, the least squared error
    of many levels (Panter and Dite 1951)."""
    edges = np.quantile(column, np.linspace(0, 1, _BINS + 1))  # Density is 1 / width.
    shares = np.concatenate([[0], np.cumsum(np.diff(edges) ** (2 / 3))])
    return np.interp((np.arange(count) + 0.5) / count * shares[-1], shares, edges)


def _lloyd(column: np.ndarray, levels: np.ndarray, rounds: int = 40) -> tuple[np.ndarray, float]:
    """Move levels (L,) to Lloyd–Max levels of sorted numbers, and their mean squared error."""
    sums, squares = (np.concatenate([[0], np.cumsum(c)]) for c in (column, column**2))
    for _ in range(rounds):
        edges = np.searchsorted(column, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(column)]])
        sizes = np.diff(bounds)
        total = np.diff(sums[bounds])
        levels = np.sort(np.where(sizes > 0, total / np.maximum(sizes, 1), levels))
    error = np.diff(squares[bounds]) - 2 * levels * total + sizes * levels**2
    return levels, float(max(error.sum(), 0) / len(column))
