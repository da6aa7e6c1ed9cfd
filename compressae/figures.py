"""How well a model codes some rows, in figures that can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from compressae.coding import Coder
from compressae.kernels.decode import decode
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import unit_rows

#: Rows of the smallest corpus that recall is measured in; the others have twice as many each.
LEAST_CORPUS = 100
TOP = 10
#: Queries of each corpus size, about.
QUERIES = 1000
#: The share of rows below the low cosine.
LOW = 0.05
_BATCH_NUMBERS = 1 << 24
_TIE = 1e-6


@dataclass(frozen=True)
class Figures:
    """What was measured of some rows; estimates are pairs (value, standard error).

    Codes have the latents that ``compress`` picks at the model's k, with plain least-squares values
    that are not rounded: the metric and the levels of a small batch would be fitted to it alone.

    Attributes:
        rows: m.
        cosine: mean of cos(x, x̂).
        low: 5th percentile of cos(x, x̂).
        skew: h·Σ_l p_l², p_l latent l's share of all nonzeros, over pairs of different rows, so
            that it does not depend on m: h·Σ_l f_l(f_l − 1) / (m(m − 1)k²) where f_l rows use l.
            1 is even; a search reads so many times as many postings.
        uses: (f, number of latents that f rows use), f ≥ 1 ascending.
        recall: (c, recall@10, its standard error): queries are rows and search the c − 1 other rows
            of their block by x·ŷ, against exact cosine.
    """

    rows: int
    cosine: tuple[float, float]
    low: tuple[float, float]
    skew: tuple[float, float]
    uses: list[tuple[int, int]]
    recall: list[tuple[int, float, float]]

    def live(self, rows: int, latents: int) -> tuple[float, float]:
        """Share of h latents that so many of the rows, m at most, drawn at random, use.

        Equal to the mean over all draws, Σ_l 1 − C(m − f_l, rows) / C(m, rows), divided by h.
        """
        f, count = np.array(self.uses, np.float64).T
        rest, m = self.rows - f, self.rows
        unused = np.zeros(len(f))
        some = rest >= rows
        unused[some] = np.exp(
            gammaln(rest[some] + 1) - gammaln(rest[some] - rows + 1)
            + gammaln(m - rows + 1) - gammaln(m + 1)
        )  # fmt: skip
        missed = np.exp(-f * rows / m)  # Not zero at rows = m, where ``unused`` is.
        error = np.sqrt((count * missed * (1 - missed)).sum())
        return float((count * (1 - unused)).sum() / latents), float(error / latents)


def measure(model: CompresSAE, x: np.ndarray, corpora: Sequence[int] | None = None) -> Figures:
    """Code rows and measure their codes.

    Args:
        model: as trained.
        x: (m, d) float32, m ≥ 100, in random order.
        corpora: corpus sizes of recall, each at most m; when None 100, 200, 400 … to m.
    """
    x = unit_rows(x)
    m, h, k = len(x), model.latents, model.nonzeros
    if corpora is None:
        corpora = [LEAST_CORPUS << i for i in range((m // LEAST_CORPUS).bit_length())]
    coder = Coder(model, np.eye(x.shape[1], dtype=np.float32), pursuit=True)
    ids, near = np.empty((m, k), np.int32), np.empty_like(x)
    size = max(1, _BATCH_NUMBERS // h)
    for start in range(0, m, size):
        part = slice(start, start + size)
        ids[part], values = coder.code(x[part], k)
        near[part] = decode(ids[part], values, coder.decoder)
    dots = np.einsum("nd,nd->n", x, near, dtype=np.float64)
    length = np.sqrt(np.einsum("nd,nd->n", near, near, dtype=np.float64))
    cosines = np.divide(dots, length, out=np.zeros(m), where=length > 0)
    f = np.bincount(ids.ravel(), minlength=h)
    shared, noise = _mean(h * (f[ids] - 1).mean(1) / ((m - 1) * k))
    used, number = np.unique(f[f > 0], return_counts=True)
    return Figures(
        rows=m,
        cosine=_mean(cosines),
        low=_percentile(cosines, LOW),
        skew=(shared, 2 * noise),  # A row stands on both sides of its pairs.
        uses=list(zip(used.tolist(), number.tolist(), strict=True)),
        recall=[(c, *_recall(x, near, c)) for c in corpora],
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _percentile(values: np.ndarray, share: float) -> tuple[float, float]:
    """A percentile; its error from those one binomial standard error of the share away."""
    step = np.sqrt(share * (1 - share) / len(values))
    low, middle, high = np.quantile(values, [max(share - step, 0), share, share + step])
    return float(middle), float(high - low) / 2


def _recall(x: np.ndarray, near: np.ndarray, corpus: int) -> tuple[float, float]:
    """Recall@10 in blocks of so many unit rows x (m, d), whose codes stand for ``near`` (m, d).

    A row found counts if its cosine is that of the tenth: which of equal rows come first is chance.
    """
    blocks = len(x) // corpus
    queries = min(corpus, -(-QUERIES // blocks))
    own = np.arange(queries)
    shares = []
    for start in range(0, blocks * corpus, corpus):
        rows = slice(start, start + corpus)
        true, guessed = x[rows][:queries] @ x[rows].T, x[rows][:queries] @ near[rows].T
        true[own, own] = guessed[own, own] = -np.inf
        tenth = np.partition(true, -TOP, axis=1)[:, -TOP, None]
        found = np.argpartition(guessed, -TOP, axis=1)[:, -TOP:]
        shares.append((np.take_along_axis(true, found, 1) >= tenth - _TIE).mean(1))
    return _mean(np.concatenate(shares))
