"""An atlas of latents: which rows have each, at its two ends, and which latents lie near."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressae import pages
from compressae.kernels.topk import abs_topk
from compressae.retrieval.catalogue import Segment
from compressae.retrieval.errors import InputError
from compressae.retrieval.files import check_file_destination, replacing
from compressae.retrieval.inverted import InvertedIndex
from compressae.search import CompressedIndex

#: Nearest latents that are told of each.
NEAREST = 5
#: Rows read at a time, and rows of W whose cosines are held at a time.
_BATCH = 1 << 15
_NEAR_BATCH = 1 << 10
#: Bins of the histogram in a decade.
_BINS = 20
#: Characters of a label that a page keeps.
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
    """What the rows of an index say of its latents.

    A row has a latent where its value is not 0. The m latents listed are those that some row has,
    most used first, ties by smaller number.

    Attributes:
        rows: n, without those that were removed.
        latents: h.
        live: latents that some row has; h − live are dead.
        nonzeros: of a row, on average.
        skew: h·Σ p², p being a latent's share of all nonzeros: the postings that a query touches
            whose latents are drawn as those of rows, over those it would touch if all latents were
            used alike, which is 1. 0 without a nonzero.
        edges, bins: (b + 1,) float64 shares of rows, twenty to a decade, and (b,) int64 how many
            live latents' shares lie between; b = 0 without a live latent.
        numbers: (m,) int64 latents listed.
        counts: (m,) int64 rows that have each.
        means: (m,) float64 mean |value| over those rows.
        positive, negative: the rows of largest and of smallest value, (m, T) each.
        near: (m, c) int64 listed latents whose rows of W have the largest |cosine| with a latent's,
            largest first, ties by smaller number, c = min(5, m − 1); None where the index has no
            model.
        cosines: (m, c) float32 of them, signed.
        labels: {id: label} of the rows at any end; None where no labels were given.
    """

    rows: int
    latents: int
    live: int
    nonzeros: float
    skew: float
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
        """(m,) float64 shares of rows that have each latent listed."""
        return self.counts / self.rows


def atlas(
    index: CompressedIndex | InvertedIndex,
    labels: Sequence[str] | None = None,
    top: int = 8,
    latents: int | None = None,
) -> Atlas:
    """Look through an index's codes once, a batch of rows at a time; the index stays as it is.

    Args:
        index: of either kind; one without a model has no W, and its latents no nearest ones.
        labels: ``labels[i]`` names the row of id i.
        top: T, rows told of at each end of a latent.
        latents: list this many, the most used; all live ones when None.

    Raises:
        InputError: no row is left; labels that are not one for each id; top or latents below 1.
    """
    for name, count in (("top", top), ("latents", latents)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: expected at least 1")
    segments, _ = index.catalogue.snapshot(None)
    n, h = sum(map(len, segments)), segments[0].codes.latents
    if not n:
        raise InputError("no row is left in the index; add some first")
    if labels is not None:
        _check_labels(labels, segments, index.catalogue.next_id)
    counts, sums = np.zeros(h, np.int64), np.zeros(h)
    ends = _Farthest(h, top), _Farthest(h, top)
    for segment in segments:
        for start in range(0, len(segment.codes), _BATCH):
            here, values, ids = _entries(segment, start)
            counts += np.bincount(here, minlength=h)
            sums += np.bincount(here, np.abs(values), minlength=h)
            for end, size in zip(ends, (values, -values), strict=True):
                end.keep(here, size, ids)
    live = np.flatnonzero(counts)
    numbers = live[np.argsort(-counts[live], kind="stable")][:latents]
    total = int(counts.sum())
    skew = h * float(np.square(counts / total).sum()) if total else 0.0
    edges, bins = _histogram(counts[live] / n)
    near = cosines = None
    if isinstance(index, CompressedIndex):
        near, cosines = _nearest(index.model.decoder.detach().cpu().numpy(), numbers)
    positive, negative = (
        End(end.ids[numbers], sign * end.sizes[numbers])
        for end, sign in zip(ends, (np.float32(1), np.float32(-1)), strict=True)
    )
    named = None
    if labels is not None:
        shown = np.unique(np.concatenate([positive.ids, negative.ids]))
        named = {int(i): labels[int(i)] for i in shown[shown >= 0]}
    return Atlas(
        n, h, len(live), total / n, skew, edges, bins, numbers, counts[numbers],
        sums[numbers] / counts[numbers], positive, negative, near, cosines, named,
    )  # fmt: skip


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
    """Latents int64, values float32 and ids int64 of the nonzeros of a batch of rows; rows that
    are removed have none."""
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
        """Take in entries (e,), of which those of size ≤ 0 are passed over."""
        # Most entries of later batches end here: they cannot displace the T of their latent.
        fit = (sizes > 0) & (sizes >= self.sizes[latents, -1])
        latents, sizes, ids = latents[fit], sizes[fit], ids[fit]
        met = np.zeros(len(self.ids), bool)
        met[latents] = True
        rows, columns = np.nonzero(met[:, None] & (self.ids >= 0))
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
        places, found = abs_topk(products, count + 1)
        near[start : start + len(own)] = order[places[:, 1:]]
        cosines[start : start + len(own)] = found[:, 1:]
    back = np.searchsorted(order, numbers)
    return near[back], np.clip(cosines[back], -1, 1)


def read_labels(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, compressed where its name ends in .gz.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    path = Path(path)
    try:
        held = path.read_bytes()
        if path.suffix == ".gz":
            held = gzip.decompress(held)
    except (OSError, EOFError, zlib.error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path}: could not be read ({what}); expected a text file of one label a line"
        ) from error
    try:
        text = held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line} is not UTF-8; save the labels as UTF-8 text"
        ) from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def write_atlas(found: Atlas, path: str | Path, title: str = "Atlas of latents") -> None:
    """Write an atlas as one HTML page that fetches nothing, at once or not at all.

    Args:
        found: the atlas. Labels are cut to 300 characters, and values to 4 digits.
        path: the file; another that stands there is replaced.
        title: of the page.

    Raises:
        InputError: the file cannot be written; what stood there still stands.
    """
    check_file_destination(path)
    text = pages.render("atlas", title, _page_data(found))
    with replacing(path) as temporary:
        # A label may hold half a surrogate pair, which no file can.
        temporary.write_bytes(text.encode("utf-8", "replace"))


def _page_data(found: Atlas) -> dict[str, Any]:
    """What pages/atlas.js reads. Rows are named by their place in ``ids``, each once."""
    ids, places = np.unique(
        np.concatenate([found.positive.ids, found.negative.ids]), return_inverse=True
    )
    places = places.reshape(2, *found.positive.ids.shape) - int((ids < 0).any())
    ids = ids[ids >= 0]
    labels = None
    if found.labels is not None:
        labels = [_cut(found.labels[int(i)]) for i in ids]
    near = None
    if found.near is not None and found.cosines is not None:
        near = _pairs(found.near, found.cosines)
    return {
        "rows": found.rows,
        "latents": found.latents,
        "live": found.live,
        "nonzeros": _short(found.nonzeros),
        "skew": _short(found.skew),
        "edges": [_short(edge) for edge in found.edges],
        "bins": found.bins.tolist(),
        "ids": [str(i) if i > _SAFE else i for i in ids.tolist()],
        "labels": labels,
        "numbers": found.numbers.tolist(),
        "counts": found.counts.tolist(),
        "means": [_short(mean) for mean in found.means],
        "positive": _pairs(places[0], found.positive.values),
        "negative": _pairs(places[1], found.negative.values),
        "near": near,
    }


def _pairs(names: np.ndarray, values: np.ndarray) -> list[list[float]]:
    """For each latent its names and values in turn, padding left out."""
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
