"""Fit the quantiser of residuals: a rotation to parts, and the centroids of each byte.

Product quantisation gives a part 256 centroids (Jégou et al. 2011). From 8 bytes on they are a
chain: a byte's centroid covers its own part and the next one, see ``compressae.kernels.chain``.
"""

import numpy as np
from scipy import sparse

from compressae.kernels.chain import Chain, encode_chain
from compressae.kernels.product import LARGEST
from compressae.retrieval.codes.size import CENTROIDS, is_chain

#: Share of a chain's first variance that the own part's centroids take, the byte before the rest.
_OWN_SHARE = 0.6
#: Rounds of encoding and fitting on a quarter of the rows, and on all.
_ROUNDS = 4, 2
#: Rows' weight by which a chain's centroids keep to those of the round before.
_DAMPING = 0.1


def fit_residual(weighted: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a quantiser of weighted residuals r·A: a rotation and centroids.

    Residuals are rotated by ``principal_parts``, and faiss trains the centroids of each part. With
    enough bytes and rows they become a chain: bytes and centroids are fitted by turns, centroids
    by least squares. They are rounded to 8 bits: to 127 steps up to the largest of the part.

    Args:
        weighted: (n, d) float32, n ≥ 256.
        m: parts, one byte each, at most d.

    Returns:
        rotation (d, m·s) float32, s = ⌈d / m⌉, and codebooks (m, 256, s) float32, or (m, 256, 2·s)
        of a chain.

    >>> residuals = np.random.default_rng(0).standard_normal((300, 6), dtype=np.float32)
    >>> rotation, codebooks = fit_residual(residuals, m=2)
    >>> rotation.shape, codebooks.shape
    ((6, 6), (2, 256, 3))
    """
    import faiss

    rotation = principal_parts(weighted, m)
    part = rotation.shape[1] // m
    quantizer = faiss.ProductQuantizer(m * part, m, 8)
    quantizer.cp.min_points_per_centroid = 1
    parts = np.ascontiguousarray(weighted @ rotation)
    quantizer.train(parts)
    codebooks = faiss.vector_to_array(quantizer.centroids).reshape(m, CENTROIDS, part)
    if is_chain(len(weighted), weighted.shape[1], m):
        codebooks = _fit_chain(parts, codebooks)
    return rotation, rounded(codebooks, (1, 2))


def _fit_chain(parts: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Fit codebooks (m, 256, 2·s) of a chain to parts (n, m·s), from those of parts alone.

    The byte before begins with numbers like the part's, each axis in an order of its own.
    """
    m, _, s = codebooks.shape
    others = np.random.default_rng(0).permuted(codebooks[1:], axis=1)
    chain = np.zeros((m, CENTROIDS, 2 * s), np.float32)
    chain[0, :, :s] = codebooks[0]
    chain[1:, :, :s] = codebooks[1:] * np.sqrt(_OWN_SHARE)
    chain[:-1, :, s:] = others * np.sqrt(1 - _OWN_SHARE)
    for rounds, x in zip(_ROUNDS, (np.ascontiguousarray(parts[::4]), parts), strict=True):
        for _ in range(rounds):
            _refit_chain(x, encode_chain(x, Chain.of(chain)), chain)
    return chain


def _refit_chain(parts: np.ndarray, codes: np.ndarray, chain: np.ndarray) -> None:
    """Move the centroids of a chain, in place, to the least squares of parts and their codes.

    Each part is a regression on two bytes: of 512 unknown centroids, each row has two.
    """
    n, m = codes.shape
    s = chain.shape[2] // 2
    numbers = codes.astype(np.int32)
    for t in range(m):
        bytes_of_part = [numbers[:, t]]
        centroids = [chain[t, :, :s]]
        if t:
            bytes_of_part.append(CENTROIDS + numbers[:, t - 1])
            centroids.append(chain[t - 1, :, s:])
        k = len(centroids)
        columns = np.stack(bytes_of_part, 1).ravel()
        starts = np.arange(0, k * n + 1, k)
        chosen = sparse.csr_array((np.ones(k * n, np.float32), columns, starts), (n, k * CENTROIDS))
        moments = (chosen.T @ chosen).toarray().astype(np.float64)
        moments[np.diag_indices(len(moments))] += _DAMPING
        sums = chosen.T @ parts[:, t * s : (t + 1) * s]
        fitted = np.linalg.solve(moments, sums + _DAMPING * np.concatenate(centroids))
        for old, new in zip(centroids, np.split(fitted, k), strict=True):
            old[:] = new


def least_error(residual: np.ndarray, nbytes: int) -> float:
    """Mean squared error below which no code of m bytes brings Gaussian residuals of this moment.

    The rate–distortion function (Cover and Thomas, section 10.3.3): directions of more variance
    than a level are coded to that level, the others not at all.

    Args:
        residual: (n, d) float32.
        nbytes: m.

    >>> residual = np.sqrt([[32, 0], [0, 2]]).astype(np.float32)  # Variances of 16 and 1.
    >>> round(least_error(residual, nbytes=0), 4), round(least_error(residual, nbytes=1), 4)
    (17.0, 0.0312)
    """
    moment = (residual.T @ residual / len(residual)).astype(np.float64)
    variance = np.maximum(np.linalg.eigvalsh(moment)[::-1], 1e-30)
    coded = np.arange(1, len(variance) + 1)
    levels = np.exp((np.cumsum(np.log(variance)) - 16 * np.log(2) * nbytes) / coded)
    count = np.count_nonzero(levels < variance)  # So long as the last one of them is worth it.
    return float(count * levels[count - 1] + variance[count:].sum())


def rounded_columns(matrix: np.ndarray) -> np.ndarray:
    """Round each column of a matrix (d, c) float32 to 8 bits: 127 steps up to its largest number.

    >>> rounded_columns(np.array([[127, 1], [0.6, -1.27]], np.float32))
    array([[127.  ,   1.  ],
           [  1.  ,  -1.27]], dtype=float32)
    """
    return rounded(matrix, (0,))


def rounded(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Round to whole steps, of which 127 are the largest |number| along axes."""
    steps = np.expand_dims(steps_of(array, axes), axes)
    return np.rint(array / steps) * steps + np.float32(0)  # No −0.


def steps_of(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The step that makes the largest |number| along axes 127; 1 where all are 0."""
    steps = np.abs(array).max(axes, initial=0) / np.float32(LARGEST)
    return np.where(steps > 0, steps, np.float32(1))


def principal_parts(x: np.ndarray, m: int) -> np.ndarray:
    """Rotate to principal axes in m parts of nearly equal products of variances (d, m·s) float32.

    Eigenvalue allocation, the parametric form of OPQ (Ge et al. 2013). Columns are orthonormal, or
    zero where m·s, s = ⌈d / m⌉, is more than d.

    Args:
        x: (n, d) float32.
        m: parts, at most d.

    >>> x = np.diag([8, 4, 2, 1]).astype(np.float32)
    >>> np.abs(principal_parts(x, 2)).argmax(0)  # 8 and 1 in one part, 4 and 2 in the other.
    array([0, 3, 1, 2])
    """
    d = x.shape[1]
    variance, axes = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64))
    # Each axis, by descending variance, goes to the part of least log product so far.
    part = -(-d // m)
    members: list[list[int]] = [[] for _ in range(m)]
    log_product = np.zeros(m)
    floor = max(float(variance[-1]), 1e-30) * 1e-9
    for axis in range(d - 1, -1, -1):
        open_parts = [p for p in range(m) if len(members[p]) < part]
        p = min(open_parts, key=lambda p: log_product[p])
        members[p].append(axis)
        log_product[p] += np.log(max(float(variance[axis]), floor) / floor)
    # The columns of a part are its axes; a part with fewer than s axes has zero columns.
    rotation = np.zeros((d, m * part), np.float32)
    for p, part_axes in enumerate(members):
        rotation[:, p * part : p * part + len(part_axes)] = axes[:, part_axes]
    return rotation
