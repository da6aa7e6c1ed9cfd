"""Tables of codes, codebooks and rotation, quantised by faiss from trained rows.

Codes are fixed; codebooks and rotation are parameters. ``export`` stores them in float16, and that
is what ``bytes_of`` counts.
"""

import copy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from compressae.tables import Table

#: Entries of a codebook: a code is one byte.
ENTRIES = 256
#: faiss's own number.
OPQ_ITERATIONS = 50


def owners(width: int, m: int) -> np.ndarray:
    """Subspace of each dimension (width,): m subspaces that differ by one dimension at most.

    faiss needs subspaces of equal width; in training the narrower ones are padded by a dimension
    of zeros, which is not stored. So m need not divide the dimensions.
    """
    return np.sort(np.arange(width) % m)


class _Quantised(Table):
    codes: Tensor

    def export(self) -> Self:
        """A copy as it is stored: floats in float16, no gradients."""
        return copy.deepcopy(self).half().requires_grad_(False)


class ProductTable(_Quantised):
    """Row i is ``codebook[codes[i, owner[c]], c]`` over columns c, times ``rotation``.

    Product quantisation (Jégou et al., TPAMI 2011), with a rotation OPQ (Ge et al., CVPR 2013).

    Args:
        codes: (n, m) uint8.
        codebook: (256, w) float32, centroids of the subspaces side by side, as in ``owners``.
        rotation: (w, d) float32 with orthonormal columns, w ≥ d; None for none, and w = d.
    """

    rotation: Tensor | None

    def __init__(self, codes: Tensor, codebook: Tensor, rotation: Tensor | None = None) -> None:
        width = codebook.shape[1]
        super().__init__(len(codes), width if rotation is None else rotation.shape[1])
        self.register_buffer("codes", codes)
        self.codebook = nn.Parameter(codebook)
        self.register_parameter("rotation", None if rotation is None else nn.Parameter(rotation))
        self._owners = torch.from_numpy(owners(width, codes.shape[1]))

    @staticmethod
    def bytes_of(n: int, d: int, m: int, rotated: bool = False) -> int:
        """``nbytes`` of n exported rows of d dimensions in m bytes each."""
        width = m * -(-d // m) if rotated else d
        return n * m + 2 * ENTRIES * width + (2 * width * d if rotated else 0)

    @classmethod
    def fit(
        cls,
        rows: np.ndarray,
        m: int,
        rotated: bool = False,
        seed: int = 0,
        iterations: int = OPQ_ITERATIONS,
    ) -> "ProductTable":
        """Quantise rows (n, d) float32, n ≥ 256, to m bytes each, 1 ≤ m ≤ d; all rows train.

        With a rotation, learned in so many iterations, d may grow to the next multiple of m.
        """
        import faiss

        n, d = rows.shape
        step = -(-d // m)
        rotation = None
        if rotated:
            turn = faiss.OPQMatrix(d, m, m * step)
            turn.max_train_points, turn.niter = n, iterations
            inner = _quiet(faiss.ProductQuantizer(m * step, m, 8), n, seed)
            turn.pq = inner
            turn.train(rows)
            rotation = faiss.vector_to_array(turn.A).reshape(m * step, d)
            rows = rows @ rotation.T
        owner = owners(rows.shape[1], m)
        inside = np.arange(len(owner)) - np.searchsorted(owner, owner)
        spread = np.zeros((n, m, step), np.float32)
        spread[:, owner, inside] = rows
        quantizer = _quiet(faiss.ProductQuantizer(m * step, m, 8), n, seed)
        quantizer.train(spread.reshape(n, -1))
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(m, ENTRIES, step)
        codes = torch.from_numpy(quantizer.compute_codes(spread.reshape(n, -1)))
        codebook = torch.from_numpy(np.ascontiguousarray(centroids[owner, :, inside].T))
        return cls(codes, codebook, None if rotation is None else torch.from_numpy(rotation.copy()))

    def _lookup(self, ids: Tensor) -> Tensor:
        width = self.codebook.shape[1]
        places = self.codes[ids].long()[:, self._owners] * width + torch.arange(width)
        rows = self.codebook.float().flatten().index_select(0, places.flatten()).view(-1, width)
        return rows if self.rotation is None else rows @ self.rotation.float()


class NormedTable(_Quantised):
    """Row i is ``norms[norm_codes[i]]`` times row i of ``directions``.

    Norm-explicit quantisation for inner products (Dai et al., AAAI 2020): directions by PQ, and a
    byte for the row's norm relative to that of its quantised direction.

    Args:
        directions: the unit rows, quantised.
        norm_codes: (n,) uint8.
        norms: (256,) float32.
    """

    norm_codes: Tensor

    def __init__(self, directions: ProductTable, norm_codes: Tensor, norms: Tensor) -> None:
        super().__init__(len(norm_codes), directions.embedding_dim)
        self.directions = directions
        self.register_buffer("norm_codes", norm_codes)
        self.norms = nn.Parameter(norms)

    @staticmethod
    def bytes_of(n: int, d: int, m: int) -> int:
        """``nbytes`` of n exported rows of d dimensions in m + 1 bytes each."""
        return ProductTable.bytes_of(n, d, m) + n + 2 * ENTRIES

    @classmethod
    def fit(cls, rows: np.ndarray, m: int, seed: int = 0) -> "NormedTable":
        """Quantise rows (n, d) float32, n ≥ 256, to m + 1 bytes each, 1 ≤ m ≤ d; all rows train."""
        import faiss

        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        directions = ProductTable.fit(rows / np.maximum(lengths, 1e-12), m, seed=seed)
        reconstructed = directions.rows().detach().norm(dim=1, keepdim=True).numpy()
        ratios = lengths / np.maximum(reconstructed, 1e-12)
        quantizer = _quiet(faiss.ProductQuantizer(1, 1, 8), len(rows), seed)
        quantizer.train(ratios)
        codes = torch.from_numpy(quantizer.compute_codes(ratios)[:, 0].copy())
        norms = torch.from_numpy(faiss.vector_to_array(quantizer.centroids).copy())
        return cls(directions, codes, norms)

    def _lookup(self, ids: Tensor) -> Tensor:
        return self.directions(ids) * self.norms.float()[self.norm_codes[ids].long()][:, None]


class ResidualTable(_Quantised):
    """Row i is the sum of ``codebooks[j, codes[i, j]]`` over stages j.

    Residual quantisation with a beam of 5 (Chen et al., Sensors 2010).

    Args:
        codes: (n, m) uint8.
        codebooks: (m, 256, d) float32.
    """

    def __init__(self, codes: Tensor, codebooks: Tensor) -> None:
        super().__init__(len(codes), codebooks.shape[2])
        self.register_buffer("codes", codes)
        self.codebooks = nn.Parameter(codebooks)

    @staticmethod
    def bytes_of(n: int, d: int, m: int) -> int:
        """``nbytes`` of n exported rows of d dimensions in m bytes each."""
        return m * (n + 2 * ENTRIES * d)

    @classmethod
    def fit(cls, rows: np.ndarray, m: int, seed: int = 0) -> "ResidualTable":
        """Quantise rows (n, d) float32, n ≥ 256, by m ≥ 1 stages; all rows train."""
        import faiss

        d = rows.shape[1]
        quantizer = _quiet(faiss.ResidualQuantizer(d, m, 8), len(rows), seed)
        quantizer.train_type = faiss.ResidualQuantizer.Train_default
        quantizer.use_beam_LUT = 1
        quantizer.train(rows)
        codes = torch.from_numpy(quantizer.compute_codes(rows))
        codebooks = faiss.vector_to_array(quantizer.codebooks).reshape(m, ENTRIES, d)
        return cls(codes, torch.from_numpy(codebooks.copy()))

    def _lookup(self, ids: Tensor) -> Tensor:
        codes = self.codes[ids].long()
        books = self.codebooks.float()
        rows = books[0].index_select(0, codes[:, 0])
        for j in range(1, len(books)):
            rows = rows + books[j].index_select(0, codes[:, j])
        return rows


def _quiet(quantizer: Any, n: int, seed: int) -> Any:
    """Let a quantiser train on all n rows, however few, without warnings."""
    quantizer.cp.seed = seed + 1
    quantizer.cp.min_points_per_centroid, quantizer.cp.max_points_per_centroid = 1, n
    return quantizer
