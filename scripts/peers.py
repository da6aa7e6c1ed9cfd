"""Dense quantisers of faiss and numpy, for the recall-per-byte curve (scripts/reproduce_paper.py).

Each takes training rows (t, d) and the corpus (n, d), both unit float32, and gives the corpus as
that method remembers it (n, d), its code bytes a row, and the bytes of its constants.
"""

from collections.abc import Callable

import faiss
import numpy as np

Remembered = tuple[np.ndarray, float, int]
Peer = Callable[[np.ndarray, np.ndarray], Remembered]


def _coded(quantizer: object, train: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    quantizer.train(train)  # type: ignore[attr-defined]
    return quantizer.decode(quantizer.compute_codes(corpus))  # type: ignore[attr-defined]


def product(m: int) -> Peer:
    """PQ: m subspaces of 8 bits."""

    def run(train: np.ndarray, corpus: np.ndarray) -> Remembered:
        d = corpus.shape[1]
        return _coded(faiss.ProductQuantizer(d, m, 8), train, corpus), m, 4 * 256 * d

    return run


def optimized_product(m: int) -> Peer:
    """OPQ: a learned rotation (faiss's defaults: 50 iterations), then PQ."""

    def run(train: np.ndarray, corpus: np.ndarray) -> Remembered:
        d = corpus.shape[1]
        rotation = faiss.OPQMatrix(d, m)
        rotation.train(train)
        coded = _coded(
            faiss.ProductQuantizer(d, m, 8), rotation.apply(train), rotation.apply(corpus)
        )
        return rotation.reverse_transform(coded), m, 4 * (256 * d + d * d)

    return run


def residual(m: int) -> Peer:
    """RQ: m stages of 8 bits, beam of 5."""

    def run(train: np.ndarray, corpus: np.ndarray) -> Remembered:
        d = corpus.shape[1]
        quantizer = faiss.ResidualQuantizer(d, m, 8)
        quantizer.train_type = faiss.ResidualQuantizer.Train_default
        quantizer.use_beam_LUT = 1
        return _coded(quantizer, train, corpus), m, 4 * 256 * d * m

    return run


def scalar(kind: str, bits: int) -> Peer:
    """SQ: each dimension in 8 or 4 bits, ranges of the training rows."""

    def run(train: np.ndarray, corpus: np.ndarray) -> Remembered:
        d = corpus.shape[1]
        quantizer = faiss.ScalarQuantizer(d, getattr(faiss.ScalarQuantizer, kind))
        return _coded(quantizer, train, corpus), d * bits / 8, 8 * d

    return run


def binary(train: np.ndarray, corpus: np.ndarray) -> Remembered:
    """The sign of each dimension; queries stay dense."""
    return np.sign(corpus).astype(np.float32), corpus.shape[1] / 8, 0


def rabitq(train: np.ndarray, corpus: np.ndarray) -> Remembered:
    """RaBitQ of one bit a dimension after a random rotation, factors included."""
    d = corpus.shape[1]
    rotation = faiss.RandomRotationMatrix(d, d)
    rotation.init(0)
    index = faiss.IndexRaBitQ(d, faiss.METRIC_L2)
    index.train(rotation.apply(train))
    index.add(rotation.apply(corpus))
    coded = index.reconstruct_n(0, len(corpus))
    return rotation.reverse_transform(coded), index.code_size, 4 * (d * d + d)


def principal(dims: int, values: str) -> Peer:
    """The first principal components, in float32 or in int8 with one scale a component."""

    def run(train: np.ndarray, corpus: np.ndarray) -> Remembered:
        d = corpus.shape[1]
        mean = train.mean(0)
        axes = np.linalg.eigh(np.cov(train - mean, rowvar=False))[1][:, ::-1][:, :dims]
        axes = axes.astype(np.float32)
        coded = (corpus - mean) @ axes
        if values == "int8":
            scale = np.abs((train - mean) @ axes).max(0) / 127
            coded = np.clip(np.rint(coded / scale), -127, 127) * scale
        width = dims * (4 if values == "float32" else 1)
        return coded @ axes.T + mean, width, 4 * (d * dims + d)

    return run


PEERS: dict[str, Peer] = {
    **{f"PCA-{k} float32": principal(k, "float32") for k in (8, 16, 32, 64, 128)},
    **{f"PCA-{k} int8": principal(k, "int8") for k in (32, 64, 128, 256)},
    "SQ8": scalar("QT_8bit", 8),
    "SQ4": scalar("QT_4bit", 4),
    "binary": binary,
    "RaBitQ": rabitq,
    **{f"PQ{m}": product(m) for m in (16, 32, 48, 64, 96, 128)},
    **{f"OPQ{m}": optimized_product(m) for m in (32, 64, 128)},
    **{f"RQ{m}": residual(m) for m in (32, 64, 128)},
}
