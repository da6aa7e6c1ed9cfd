"""An atlas of latents: the rows at the two ends of each, and its nearest latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressae.evaluation import pages
from compressae.kernels.topk import abs_topk
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.segments import Segment
from compressae.retrieval.io.atomic import check_file_destination, replacing

#: Nearest latents shown of each.
NEAREST = 5
#: Rows read at a time, and rows of W whose cosines are held at a time.
_BATCH = 1 << 15
_NEAR_BATCH = 1 << 10
#: Bins of the histogram in a decade.
_BINS = 20
#: Most characters of a label in a page.
_LABEL = 300
#: Whole numbers beyond this lose digits in a browser.
_SAFE = (1 << 53) - 1


@dataclass(frozen=True, eq=False)
class End:
    """The rows at one end of each of m latents, farthest first, ties by smaller id.

    Attributes:
        ids: (m, T) int64 ids of rows; −1 where fewer than T rows are at this end.
        values: (m, T) float32 signed values of the latent in them; 0 there.
    """

    ids: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Atlas:
    """The latents of an index, as its rows use them.

    A row has a latent where its value is not 0. The m latents listed are those that some row has,
    most used first, ties by smaller number.

    Attributes:
        rows: n, without removed ones.
        latents: h.
        live: latents that some row has; h − live are dead.
        nonzeros: mean nonzeros of a row.
        list_imbalance: h·Σ p², p a latent's share of all nonzeros: postings that a query touches
            whose latents are drawn as those of rows are, over those that even use would give. 1 is
            even; 0 without a nonzero.
        edges, bins: (b + 1,) float64 shares of rows, twenty to a decade, and (b,) int64 how many
            live latents' shares lie between; b = 0 where all latents are dead.
        numbers: (m,) int64 latents listed.
        counts: (m,) int64 rows that have each.
        means: (m,) float64 mean |value| over those rows.
        positive, negative: rows of largest and of smallest value, (m, T) each.
        near: (m, c) int64 listed latents whose rows of W have the largest |cosine| with a latent's,
            largest first, ties by smaller number, c = min(5, m − 1); None where the index has no
            model.
        cosines: (m, c) float32 of them, signed.
        labels: {id: label} of the rows at any end; None without labels.
    """

    rows: int
    latents: int
    live: int
    nonzeros: float
    list_imbalance: float
    edges: np.ndarray
    bins: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    means: np.ndarray
    positive: End
    negative: End
    near: np.ndarray | None
    cosines: np.ndarray | None
    labels: dict[int, str] | None

    @property
    def shares(self) -> np.ndarray:
        """Shares of rows (m,) float64 that have each latent listed."""
        return self.counts / self.rows


def atlas(
    index: CompressedIndex | InvertedIndex,
    labels: Sequence[str] | None = None,
    top: int = 8,
    latents: int | None = None,
) -> Atlas:
    """Collect the rows and neighbours of each latent in one pass over an index's codes.

    Args:
        index: of either kind; without a model there is no W, and no nearest latents.
        labels: ``labels[i]`` names the row of id i.
        top: T, rows shown at each end of a latent.
        latents: list this many, the most used; all that are not dead when None.

    Raises:
        InputError: no row is left; labels that are not one for each id; top or latents below 1.

    >>> from scipy import sparse
    >>> rows = sparse.csr_array(np.array([[0.5, 0, 2], [0.9, 0, 0]], np.float32))
    >>> collected = atlas(InvertedIndex(rows), labels=["tea", "coffee"])
    >>> collected.numbers, collected.counts, collected.latents - collected.live
    (array([0, 2]), array([2, 1]), 1)
    >>> [collected.labels[int(row)] for row in collected.positive.ids[0, :2]]
    ['coffee', 'tea']
    """
    for name, count in (("top", top), ("latents", latents)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: expected at least 1")
    segments, _ = index.segments.snapshot(None)
    n, h = sum(map(len, segments)), segments[0].codes.latents
    if not n:
        raise InputError("no row is left in the index; add some first")
    if labels is not None:
        _check_labels(labels, segments, index.segments.next_id)

    # One pass over the codes: uses of each latent, and the rows farthest at its two ends.
    counts, sums = np.zeros(h, np.int64), np.zeros(h)
    ends = _Farthest(h, top), _Farthest(h, top)
    for segment in segments:
        for start in range(0, len(segment.codes), _BATCH):
            used, values, ids = _entries(segment, start)
            counts += np.bincount(used, minlength=h)
            sums += np.bincount(used, np.abs(values), minlength=h)
            for end, size in zip(ends, (values, -values), strict=True):
                end.keep(used, size, ids)

    # The latents to list, most used first, and how evenly all are used.
    live = np.flatnonzero(counts)
    numbers = live[np.argsort(-counts[live], kind="stable")][:latents]
    total = int(counts.sum())
    list_imbalance = h * float(np.square(counts / total).sum()) if total else 0.0
    edges, bins = _histogram(counts[live] / n)

    # Nearest latents by W, and the labels of the rows that are shown.
    near = cosines = None
    if isinstance(index, CompressedIndex):
        near, cosines = _nearest(index.projection.decoder, numbers)
    positive, negative = (
        End(end.ids[numbers], sign * end.sizes[numbers])
        for end, sign in zip(ends, (np.float32(1), np.float32(-1)), strict=True)
    )
    shown_labels = None
    if labels is not None:
        shown = np.unique(np.concatenate([positive.ids, negative.ids]))
        shown_labels = {int(i): labels[int(i)] for i in shown[shown >= 0]}
    return Atlas(
        rows=n,
        latents=h,
        live=len(live),
        nonzeros=total / n,
        list_imbalance=list_imbalance,
        edges=edges,
        bins=bins,
        numbers=numbers,
        counts=counts[numbers],
        means=sums[numbers] / counts[numbers],
        positive=positive,
        negative=negative,
        near=near,
        cosines=cosines,
        labels=shown_labels,
    )


def _check_labels(labels: Sequence[str], segments: tuple[Segment, ...], next_id: int) -> None:
    n, last = sum(map(len, segments)), max(segment.last_id for segment in segments)
    if len(labels) <= last:
        raise InputError(
            f"{len(labels)} labels for ids up to {last}; expected at least {last + 1}: give one "
            "for each row of the table that was indexed"
        )
    # Ids without a gap are the rows of a whole table: more labels are those of another.
    if n == next_id and len(labels) > n:
        raise InputError(
            f"{len(labels)} labels for {n} rows; expected {n}: give one for each row of the table "
            "that was indexed"
        )


def _entries(segment: Segment, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents int64, values float32 and ids int64 of the nonzeros of a batch of rows; removed rows
    have none."""
    stop = min(start + _BATCH, len(segment.codes))
    indptr, latents, values, factors = segment.codes.read(start, stop)
    lengths = np.diff(indptr)
    numbers = values.astype(np.float32)
    if factors is not None:
        numbers *= np.repeat(factors, lengths)
    present = numbers != 0
    if segment.alive is not None:
        present &= np.repeat(segment.alive[start:stop], lengths)
    ids = np.repeat(segment.ids_of(np.arange(start, stop)), lengths)
    return latents[present].astype(np.int64), numbers[present], ids[present]


class _Farthest:
    """The T entries of largest size > 0 of each latent so far, ties by smaller id.

    Attributes:
        ids: (h, T) int64, −1 where there are fewer.
        sizes: (h, T) float32, 0 there.
    """

    def __init__(self, latents: int, top: int) -> None:
        self.ids = np.full((latents, top), -1, np.int64)
        self.sizes = np.zeros((latents, top), np.float32)

    def keep(self, latents: np.ndarray, sizes: np.ndarray, ids: np.ndarray) -> None:
        """Merge entries (e,); those of size ≤ 0 are ignored."""
        # Most entries of later batches end here: they cannot displace the T of their latent.
        large = (sizes > 0) & (sizes >= self.sizes[latents, -1])
        latents, sizes, ids = latents[large], sizes[large], ids[large]
        touched = np.zeros(len(self.ids), bool)
        touched[latents] = True
        rows, columns = np.nonzero(touched[:, None] & (self.ids >= 0))
        latents = np.concatenate([latents, rows])
        sizes = np.concatenate([sizes, self.sizes[rows, columns]])
        ids = np.concatenate([ids, self.ids[rows, columns]])
        order = np.lexsort((ids, -sizes, latents))
        latents = latents[order]
        ranks = np.arange(len(latents)) - np.searchsorted(latents, latents)
        best = ranks < self.ids.shape[1]
        places = latents[best], ranks[best]
        self.ids[places], self.sizes[places] = ids[order][best], sizes[order][best]


def _histogram(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (b + 1,) and counts (b,) of shares (m,) above 0."""
    if not len(shares):
        return np.empty(0), np.empty(0, np.int64)
    last = int(np.ceil(_BINS * np.log10(shares.max())))
    first = min(int(np.floor(_BINS * np.log10(shares.min()))), last - 1)
    edges = 10 ** (np.arange(first, last + 1) / _BINS)
    # Rounding of the logarithms must not put the extremes outside.
    edges[0], edges[-1] = min(edges[0], shares.min()), max(edges[-1], shares.max())
    return edges, np.histogram(shares, edges)[0].astype(np.int64)


def _nearest(decoder: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``Atlas.near`` and ``Atlas.cosines`` of latents (m,), from W (h, d)."""
    order = np.sort(numbers)  # Ties go to the smaller place, which is then the smaller number.
    weights = decoder[order].astype(np.float32)
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    weights = np.divide(weights, norms, where=norms > 0, out=np.zeros_like(weights))
    m = len(order)
    count = min(NEAREST, max(m - 1, 0))
    near, cosines = np.empty((m, count), np.int64), np.empty((m, count), np.float32)
    for start in range(0, m if count else 0, _NEAR_BATCH):
        products = weights[start : start + _NEAR_BATCH] @ weights.T
        own = np.arange(len(products))
        products[own, start + own] = 9  # Its own place comes first, and is left out.
        places, largest = abs_topk(products, count + 1)
        near[start : start + len(own)] = order[places[:, 1:]]
        cosines[start : start + len(own)] = largest[:, 1:]
    back = np.searchsorted(order, numbers)
    return near[back], np.clip(cosines[back], -1, 1)


def write_atlas(collected: Atlas, path: str | Path, title: str = "Atlas of latents") -> None:
    """Write an atlas as one HTML page that fetches nothing, whole or not at all.

    Args:
        collected: the atlas. Labels are cut to 300 characters, and values to 4 digits.
        path: the file; an older one is replaced.
        title: title of the page.

    Raises:
        InputError: the file cannot be written; what was there is unchanged.

    >>> import tempfile
    >>> from scipy import sparse
    >>> rows = sparse.csr_array(np.eye(3, dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atlas(atlas(InvertedIndex(rows)), f"{folder}/atlas.html")
    ...     Path(f"{folder}/atlas.html").read_text("utf-8")[:15]
    '<!doctype html>'
    """
    check_file_destination(path)
    text = pages.render("atlas", title, _page_data(collected))
    with replacing(path) as temporary:
        # A label may hold half a surrogate pair, which no file can.
        temporary.write_bytes(text.encode("utf-8", "replace"))


def _page_data(collected: Atlas) -> dict[str, Any]:
    """Data of pages/atlas.js. Rows are named by their place in ``ids``, each once."""
    ids, places = np.unique(
        np.concatenate([collected.positive.ids, collected.negative.ids]), return_inverse=True
    )
    places = places.reshape(2, *collected.positive.ids.shape) - int((ids < 0).any())
    ids = ids[ids >= 0]
    labels = None
    if collected.labels is not None:
        labels = [_cut(collected.labels[int(i)]) for i in ids]
    near = None
    if collected.near is not None and collected.cosines is not None:
        near = _pairs(collected.near, collected.cosines)
    return {
        "rows": collected.rows,
        "latents": collected.latents,
        "live": collected.live,
        "nonzeros": _short(collected.nonzeros),
        "list_imbalance": _short(collected.list_imbalance),
        "edges": [_short(edge) for edge in collected.edges],
        "bins": collected.bins.tolist(),
        "ids": [str(i) if i > _SAFE else i for i in ids.tolist()],
        "labels": labels,
        "numbers": collected.numbers.tolist(),
        "counts": collected.counts.tolist(),
        "means": [_short(mean) for mean in collected.means],
        "positive": _pairs(places[0], collected.positive.values),
        "negative": _pairs(places[1], collected.negative.values),
        "near": near,
    }


def _pairs(names: np.ndarray, values: np.ndarray) -> list[list[float]]:
    """Names and values of each latent in turn, padding left out."""
    return [
        [part for name, value in zip(row, own, strict=True) if value for part in (name, value)]
        for row, own in zip(names.tolist(), _short_all(values), strict=True)
    ]


def _short_all(values: np.ndarray) -> list[list[float]]:
    return [[_short(value) for value in row] for row in values.tolist()]


def _short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def _cut(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"
