"""Counters of searches: how many, from where, how long they took."""

import bisect
import threading
from dataclasses import dataclass, field

#: Upper bounds of the histogram's buckets, in seconds: 20 µs to 10 s, three a decade and more.
BUCKETS = (
    2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 2e-2,
    3e-2, 5e-2, 7e-2, 1e-1, 2e-1, 5e-1, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


@dataclass(eq=False)
class Counters:
    """What a service counts of its searches; any thread may count.

    Attributes:
        searches: calls.
        queries: queries in them.
        hits: queries answered from the cache.
        misses: queries that were searched.
        rows_scored: rows whose codes were scored.
        seconds: sum of the times of calls.
        latencies: calls by time: those of at most ``BUCKETS[i]`` seconds and more than the bucket
            before; the last entry counts longer ones.

    >>> counters = Counters()
    >>> for milliseconds in (0.4, 0.4, 0.4, 4):
    ...     counters.count(queries=1, hits=0, rows_scored=3000, seconds=milliseconds / 1e3)
    >>> counters.quantile(0.5), counters.quantile(0.99)
    (0.0005, 0.005)
    """

    searches: int = 0
    queries: int = 0
    hits: int = 0
    misses: int = 0
    rows_scored: int = 0
    seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, queries: int, hits: int, rows_scored: int, seconds: float) -> None:
        """Count one call."""
        with self._lock:
            self.searches += 1
            self.queries += queries
            self.hits += hits
            self.misses += queries - hits
            self.rows_scored += rows_scored
            self.seconds += seconds
            self.latencies[bisect.bisect_left(BUCKETS, seconds)] += 1

    def quantile(self, share: float) -> float:
        """Upper bound in seconds of the bucket that holds a quantile of the calls; 0 without calls,
        infinity above the last bound."""
        with self._lock:
            left = share * self.searches
            for bound, count in zip((*BUCKETS, float("inf")), self.latencies, strict=True):
                left -= count
                if left <= 0 and self.searches:
                    return bound
        return 0.0
