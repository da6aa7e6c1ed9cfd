"""How well a model codes a sample of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from compressae.coding.coder import Coder
from compressae.kernels.decode import decode
from compressae.model import CompresSAE
from compressae.retrieval.io.embeddings import split_lengths

#: Rows of the smallest corpus that recall is measured in; each next one has twice as many.
LEAST_CORPUS = 100
TOP = 10
#: Queries of each corpus size, about.
QUERIES = 1000
#: Share of rows below the low cosine.
LOW = 0.05
_BATCH_NUMBERS = 1 << 24
_TIE = 1e-6


@dataclass(frozen=True)
class Quality:
    """Quality of the codes of some rows; estimates are pairs (value, standard error).

    Codes have the latents that ``compress`` picks at the model's k, with plain least-squares values
    that are not quantised: the error weighting and the levels of a small batch would be fitted to
    it alone.

    Attributes:
        rows: m.
        cosine: mean cos(x, x̂).
        low: 5th percentile of cos(x, x̂).
        list_imbalance: h·Σ_l p_l², p_l latent l's share of all nonzeros, over pairs of different
            rows, so that it does not depend on m: h·Σ_l f_l(f_l − 1) / (m(m − 1)k²) where f_l rows
            use l. 1 is even; a search reads that many times as many postings.
        uses: (f, number of latents that f rows use), f ≥ 1 ascending.
        recall: (c, recall@10, its standard error): queries are rows and search the c − 1 other rows
            of their block by x·ŷ, against exact cosine; for a model trained for dot products, with
            rows of their own lengths against exact dot products.
        fvu: fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖²; None where a saved reference
            has none.
    """

    rows: int
    cosine: tuple[float, float]
    low: tuple[float, float]
    list_imbalance: tuple[float, float]
    uses: list[tuple[int, int]]
    recall: list[tuple[int, float, float]]
    fvu: tuple[float, float] | None = None

    def live(self, rows: int, latents: int) -> tuple[float, float]:
        """Estimate the share of h latents in use, not dead, in a draw of ``rows`` of the m rows.

        Equal to the mean over all draws, Σ_l 1 − C(m − f_l, rows) / C(m, rows), divided by h.
        """
        f, count = np.array(self.uses, np.float64).T
        others, m = self.rows - f, self.rows
        unused = np.zeros(len(f))
        some = others >= rows
        log_unused = gammaln(others[some] + 1) - gammaln(others[some] - rows + 1)
        unused[some] = np.exp(log_unused + gammaln(m - rows + 1) - gammaln(m + 1))
        missed = np.exp(-f * rows / m)  # Not zero at rows = m, where ``unused`` is.
        error = np.sqrt((count * missed * (1 - missed)).sum())
        return float((count * (1 - unused)).sum() / latents), float(error / latents)


def measure_quality(
    model: CompresSAE, x: np.ndarray, corpora: Sequence[int] | None = None
) -> Quality:
    """Measure the quality of a model's codes of rows.

    Args:
        model: a trained model.
        x: (m, d) float32, m ≥ 100, in random order, none zero.
        corpora: corpus sizes of recall, each at most m; when None 100, 200, 400 … to m.

    >>> x = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    >>> quality = measure_quality(CompresSAE(dim=4, latents=16, nonzeros=4), x)
    >>> round(quality.cosine[0], 3), round(quality.fvu[0], 3)
    (1.0, 0.0)
    """
    x, lengths = split_lengths(x)
    if model.similarity == "cosine":
        lengths[:] = 1
    m, h, k = len(x), model.latents, model.nonzeros
    if corpora is None:
        corpora = [LEAST_CORPUS << i for i in range((m // LEAST_CORPUS).bit_length())]
    coder = Coder(model, np.eye(x.shape[1], dtype=np.float32), pursuit=True)
    ids, decoded = np.empty((m, k), np.int32), np.empty_like(x)
    size = max(1, _BATCH_NUMBERS // h)
    for start in range(0, m, size):
        part = slice(start, start + size)
        ids[part], values = coder.code(x[part], k)
        decoded[part] = decode(ids[part], values, coder.decoder)
    dots = np.einsum("nd,nd->n", x, decoded, dtype=np.float64)
    length = np.sqrt(np.einsum("nd,nd->n", decoded, decoded, dtype=np.float64))
    cosines = np.divide(dots, length, out=np.zeros(m), where=length > 0)
    f = np.bincount(ids.ravel(), minlength=h)
    shared, noise = _mean(h * (f[ids] - 1).mean(1) / ((m - 1) * k))
    uses, number = np.unique(f[f > 0], return_counts=True)
    return Quality(
        rows=m,
        cosine=_mean(cosines),
        low=_percentile(cosines, LOW),
        list_imbalance=(shared, 2 * noise),  # A row stands on both sides of its pairs.
        uses=list(zip(uses.tolist(), number.tolist(), strict=True)),
        recall=[(c, *_recall(x, lengths, decoded, c)) for c in corpora],
        fvu=_unexplained(x, decoded),
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _unexplained(x: np.ndarray, decoded: np.ndarray) -> tuple[float, float]:
    """Fraction of the variance of x (m, d) that reconstructions (m, d) leave unexplained."""
    errors = np.square(x - decoded, dtype=np.float64).sum(1)
    variances = np.square(x - x.mean(0, dtype=np.float64), dtype=np.float64).sum(1)
    mean = max(variances.mean(), np.finfo(np.float32).tiny)  # Rows may all be equal.
    share = errors.mean() / mean
    return float(share), _mean((errors - share * variances) / mean)[1]  # Error of a ratio of means.


def _percentile(values: np.ndarray, share: float) -> tuple[float, float]:
    """A percentile; its error from those one binomial standard error of the share away."""
    step = np.sqrt(share * (1 - share) / len(values))
    low, middle, high = np.quantile(values, [max(share - step, 0), share, share + step])
    return float(middle), float(high - low) / 2


def _recall(
    x: np.ndarray, lengths: np.ndarray, decoded: np.ndarray, corpus: int
) -> tuple[float, float]:
    """Recall@10 in blocks of ``corpus`` unit rows x (m, d), reconstructed as ``decoded`` (m, d).

    Scores are multiplied by the lengths (m,) of the rows that are found. A result counts if its
    score is at least that of the tenth: which of equal rows come first is chance.
    """
    blocks = len(x) // corpus
    queries = min(corpus, -(-QUERIES // blocks))
    own = np.arange(queries)
    shares = []
    for start in range(0, blocks * corpus, corpus):
        rows = slice(start, start + corpus)
        true = x[rows][:queries] @ x[rows].T * lengths[rows]
        estimated = x[rows][:queries] @ decoded[rows].T * lengths[rows]
        true[own, own] = estimated[own, own] = -np.inf
        tenth = np.partition(true, -TOP, axis=1)[:, -TOP, None]
        hits = np.argpartition(estimated, -TOP, axis=1)[:, -TOP:]
        shares.append((np.take_along_axis(true, hits, 1) >= tenth - _TIE * lengths.max()).mean(1))
    return _mean(np.concatenate(shares))
