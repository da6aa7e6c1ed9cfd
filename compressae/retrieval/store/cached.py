"""CachedSearch: a catalogue's searches, with the results of the last queries kept."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.store.counters import Counters
from compressae.retrieval.store.reader import CatalogueReader

#: Most bytes of the results that are kept, unless told.
_MOST_BYTES = 1 << 28
#: Ids and scores (K,) of one query.
_Row = tuple[np.ndarray, np.ndarray]


class CachedSearch:
    """Search a catalogue, answer repeated queries from a cache, and count.

    A result is kept for a query, the options of its search and the version of the catalogue, of
    shards the versions of all; a new version empties the cache. What is not seen to be equal is
    searched: queries that are no array and no scipy matrix, and options that are objects of other
    kinds, but for ``rerank`` and ``on``, which are told apart as objects (not so a path, whose file
    may change, an array or a pair: give ``Embeddings`` or a ``RerankTable``). Threads may share it.

    Args:
        catalogue: to search, a ``Catalogue`` or ``ShardedCatalogue``; it moves to another version
            by its own ``refresh`` or changes.
        entries: results of one query that are kept, the most recently used ones; 0 for none.
        nbytes: most bytes of the ids, scores and keys that are kept.

    Attributes:
        catalogue: as given; a later version of it may take its place.
        counters: of all searches.

    >>> import tempfile
    >>> from compressae.retrieval.store import Catalogue
    >>> rows = sparse.csr_array(np.eye(3, dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = Catalogue.create(f"{folder}/lists", None, rows)
    ...     cached = CachedSearch(catalogue, entries=100)
    ...     once, again = cached.search(rows[[1]], 1), cached.search(rows[[1]], 1)
    ...     catalogue.remove([1])
    ...     cached.search(rows[[1]], 1).ids.tolist(), cached.counters.hits, cached.counters.misses
    ([[0]], 1, 2)
    """

    def __init__(self, catalogue: CatalogueReader, entries: int, nbytes: int = _MOST_BYTES) -> None:
        if entries < 0 or nbytes < 0:
            raise InputError(f"{min(entries, nbytes)} entries or bytes of a cache; expected ≥ 0")
        self.catalogue, self.counters = catalogue, Counters()
        self._entries, self._most_bytes = entries, nbytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()
        self._version: Any = catalogue.version  # Of shards a tuple, which grows in its order.
        # Numbers of objects among options, as long as they live.
        self._tokens: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._next_token = 0

    def __len__(self) -> int:
        """Results that are kept."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the ids, scores and keys that are kept."""
        return self._bytes

    def search(self, queries: Any, K: int, **options: Any) -> Hits:
        """Find the K best rows of each query; see ``Catalogue.search``."""
        return self.answer(queries, K, **options)[0]

    def answer(self, queries: Any, K: int, **options: Any) -> tuple[Hits, CatalogueReader]:
        """Search; the catalogue that is returned too stays at the version that was searched."""
        started = time.perf_counter()
        catalogue = self.catalogue.pin()
        keys = self._keys(queries, K, options) if self._entries else None
        if keys is None:
            hits, found = catalogue.search(queries, K, **options), 0
        else:
            hits, found = self._search(catalogue, keys, queries, K, options)
        seconds = time.perf_counter() - started
        self.counters.count(len(hits), found, hits.rows_scored, seconds)
        return hits, catalogue

    def _search(
        self,
        catalogue: CatalogueReader,
        keys: list[bytes],
        queries: Any,
        K: int,
        options: dict[str, Any],
    ) -> tuple[Hits, int]:
        """Hits, and how many queries were answered from the cache."""
        rows = self._kept(catalogue.version, keys)
        missing = [i for i, row in enumerate(rows) if row is None]
        if len(missing) == len(keys):  # As they are: the usual case of one query.
            hits = catalogue.search(queries, K, **options)
            self._keep(catalogue.version, keys, hits)
            return hits, 0
        scored = 0
        if missing:
            exclude = options.get("exclude")
            if exclude is not None:
                is_matrix = sparse.issparse(exclude)
                some = exclude[missing] if is_matrix else [exclude[i] for i in missing]
                options = options | {"exclude": some}
            hits = catalogue.search(queries[missing], K, **options)
            self._keep(catalogue.version, [keys[i] for i in missing], hits)
            scored = hits.rows_scored
            for place, i in enumerate(missing):
                rows[i] = hits.ids[place], hits.scores[place]
        ids = np.stack([row[0] for row in rows if row is not None])
        scores = np.stack([row[1] for row in rows if row is not None])
        return Hits(ids, scores, scored), len(keys) - len(missing)

    def _kept(self, version: Any, keys: Sequence[bytes]) -> list[_Row | None]:
        """Results that are kept for each key, None for others; all go with a newer version."""
        with self._lock:
            if version > self._version:
                self._rows.clear()
                self._bytes, self._version = 0, version
            if version < self._version:  # Of a search that began before the newest version.
                return [None] * len(keys)
            for key in keys:
                if key in self._rows:
                    self._rows.move_to_end(key)
            return [self._rows.get(key) for key in keys]

    def _keep(self, version: Any, keys: Sequence[bytes], hits: Hits) -> None:
        """Keep hits of a version, if none newer was searched since."""
        with self._lock:
            if version != self._version:
                return
            for key, ids, scores in zip(keys, hits.ids, hits.scores, strict=True):
                if key in self._rows:
                    self._bytes -= _size(key, self._rows.pop(key))
                self._rows[key] = ids.copy(), scores.copy()
                self._bytes += _size(key, self._rows[key])
            while len(self._rows) > self._entries or self._bytes > self._most_bytes:
                self._bytes -= _size(*self._rows.popitem(last=False))

    def _keys(self, queries: Any, K: int, options: dict[str, Any]) -> list[bytes] | None:
        """What tells each query and its options from others; None if that cannot be said."""
        if sparse.issparse(queries) and queries.ndim == 2:
            own = _sparse_rows(queries)
        elif isinstance(queries, np.ndarray) and queries.ndim == 2 and queries.dtype.kind == "f":
            own = [row.tobytes() for row in queries]
        else:
            return None
        shared = [repr((K, queries.dtype.str, queries.shape[1]))]
        for name, value in sorted(options.items()):
            if name == "exclude" and value is not None:
                if sparse.issparse(value) and value.shape[0] == len(own):
                    parts = _sparse_rows(value)
                elif isinstance(value, Sequence) and len(value) == len(own):
                    parts = [repr(list(ids)).encode() for ids in value]
                else:
                    return None
                own = [row + b"|" + part for row, part in zip(own, parts, strict=True)]
            elif name in ("rerank", "on") and value is not None:
                if isinstance(value, str | Path | tuple | np.ndarray):
                    return None
                with self._lock:
                    token = self._tokens.setdefault(value, self._next_token)
                    self._next_token = max(self._next_token, token + 1)
                shared.append(f"{name}={token}")
            elif value is None or isinstance(value, str | int | float | bool):
                shared.append(f"{name}={value!r}")
            elif isinstance(value, np.ndarray) and value.dtype.kind in "biuU":
                digest = hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
                shared.append(f"{name}={value.dtype.str}{value.shape}{digest}")
            else:
                return None
        head = "|".join(shared).encode()
        return [hashlib.blake2b(head + b"|" + row, digest_size=16).digest() for row in own]


def _size(key: bytes, row: _Row) -> int:
    """Bytes of a result that is kept."""
    return len(key) + sum(array.nbytes for array in row)


def _sparse_rows(matrix: Any) -> list[bytes]:
    """The nonzeros of each row as bytes."""
    rows = sparse.csr_array(matrix)
    parts = []
    for start, stop in pairwise(rows.indptr):
        ids, values = rows.indices[start:stop].astype(np.int64), rows.data[start:stop]
        parts.append(np.int64(len(ids)).tobytes() + ids.tobytes() + values.tobytes())
    return parts
