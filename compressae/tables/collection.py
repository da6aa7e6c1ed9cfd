"""Tables of many features under one rule: thresholds, collisions, or bytes shared out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, Literal, Self, Unpack, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables.bag import Mode, TableBag
from compressae.tables.base import Table, TableSettings, dense_rows, padding_of
from compressae.tables.coded import CodedTable
from compressae.tables.compositional import Combine, CompositionalTable
from compressae.tables.full import FullTable
from compressae.tables.hashed import HashedTable
from compressae.tables.partitioner import Partitions, partition
from compressae.tables.path import PathTable
from compressae.tables.pruned import PrunedTable
from compressae.tables.quantized import QuantizedTable

#: Kinds of tables that are trained from the start.
Kind = Literal[
    "full", "hashing", "quotient-remainder", "mixed-radix", "chinese-remainder", "path", "int8",
    "int4",
]  # fmt: skip
#: Kinds of tables that are made from trained rows.
TrainedKind = Literal["codes", "pruned", "int8", "int4"]
#: Kinds whose size is that of their rows.
_FIXED = ("full", "int8", "int4")
#: Latents of codes under a tight budget, as ``CodedTable.least_bytes`` counts.
_LEAST_LATENTS = 16
#: Bytes that the levels of codes may take, which ``CodedTable.least_bytes`` leaves out.
_LEVELS = 512
#: Steps of a search for a size.
_STEPS = 60
#: Ratio of successive numbers of collisions, among which the smallest table is searched.
_RATIO = 1.1


class TableCollection(nn.ModuleDict):
    """A table for each of many features, called like an ``nn.ModuleDict`` of ``nn.EmbeddingBag``.

    All features follow one rule (Shi et al., arXiv 1909.02107): those with fewer rows than
    ``threshold`` have a full table, all others a table of ``kind``. So has a feature whose table of
    that kind would not be smaller than the full one (quotient and remainder of three ids are four
    rows). Values of the dictionary are tables; with kind "full" its ``state_dict`` is that of
    ``nn.EmbeddingBag`` modules.

    Args:
        rows: {feature: number of ids}.
        embedding_dim: d, the same for all features.
        kind: "full", "hashing", "quotient-remainder", "mixed-radix", "chinese-remainder", "path",
            "int8" or "int4" (trained by quantisation-aware training).
        collisions: c ≥ 1, ids that share a row (of the first of several partitions): ⌈n/c⌉ rows.
            Not for "full", "int8" and "int4".
        budget: in place of ``collisions``: bytes of all tables. The least c, equal for all
            features, whose tables fit is searched; ``nbytes`` is never larger. (Two tables to
            concatenate have half the full table's bytes at most.)
        threshold: features with fewer rows keep a full table.
        combine: "concat", "add" or "product", of compositional tables.
        parts: partitions of "mixed-radix" and "chinese-remainder".
        hidden: width of the hidden layer of "path".
        mode: how bags are pooled: "sum", "mean" or "max".
        **settings: of each table: padding_idx (−1: the last id of each), sparse, std, device and
            dtype: see ``Table``.

    Raises:
        InputError: no feature, a name that ``nn.ModuleDict`` cannot hold, another kind, a rule that
            is incomplete, or a budget too small for the smallest tables.

    >>> collection = TableCollection({"user": 1000, "genre": 19}, 8, collisions=4, threshold=20)
    >>> pooled = collection({
    ...     "user": torch.tensor([7, 999]),  # One id an example.
    ...     "genre": (torch.tensor([3, 5, 3]), torch.tensor([0, 2])),  # Ids and offsets of bags.
    ... })
    >>> pooled["user"].shape, pooled["genre"].shape, collection.nbytes
    (torch.Size([2, 8]), torch.Size([2, 8]), 8736)
    >>> TableCollection({"user": 1000, "genre": 19}, 8, budget=5000).nbytes
    4992
    """

    mode: Mode

    def __init__(
        self,
        rows: Mapping[str, int],
        embedding_dim: int,
        kind: Kind = "quotient-remainder",
        *,
        collisions: float | None = None,
        budget: int | None = None,
        threshold: int = 0,
        combine: Combine = "product",
        parts: int = 2,
        hidden: int = 16,
        mode: Mode = "sum",
        **settings: Unpack[TableSettings],
    ) -> None:
        if kind not in get_args(Kind):
            raise InputError(f"kind {kind!r}: expected one of {', '.join(get_args(Kind))}")
        if kind in _FIXED and collisions is not None:
            raise InputError(
                f"collisions {collisions} with kind {kind!r}: expected none, no rows are shared"
            )
        if kind not in _FIXED and (collisions is None) == (budget is None):
            raise InputError(
                f"kind {kind!r}, collisions {collisions}, budget {budget}: expected one of the two "
                "sizes"
            )
        if collisions is not None and not 1 <= collisions < float("inf"):
            raise InputError(f"collisions {collisions}: expected a finite number of 1 or more")
        parts = parts if kind in ("mixed-radix", "chinese-remainder") else 2
        rule = _Rule(kind, embedding_dim, threshold, combine, parts, hidden, dict(settings))
        rule.check(rows)
        shared = dict.fromkeys(rows, collisions or 1.0)
        if budget is not None:
            shared = rule.share(rows, budget)
        self._assemble({name: rule.table(n, shared[name]) for name, n in rows.items()}, mode)

    @classmethod
    def of(cls, tables: Mapping[str, Table], mode: Mode = "sum") -> Self:
        """Collect tables that are made already, of any kinds, of one dimension or several.

        Raises:
            InputError: no feature, something that is no table, or a name that ``nn.ModuleDict``
                cannot hold.

        >>> TableCollection.of({"day": FullTable(7, 4)})({"day": torch.tensor([6])})["day"].shape
        torch.Size([1, 4])
        """
        collection = cls.__new__(cls)
        collection._assemble(tables, mode)
        return collection

    @classmethod
    def from_dense(
        cls,
        sources: Mapping[str, Any],
        kind: TrainedKind = "codes",
        *,
        budget: int | None = None,
        threshold: int = 0,
        importance: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        seed: int = 0,
    ) -> Self:
        """Compress trained tables, those of fewer rows than ``threshold`` copied in full.

        Rows of codes and of pruned tables get an equal number of bytes, as many as fit the budget,
        beyond the least that their table needs (codes have a decoder for each feature). A feature
        whose full table would take no more keeps it. int8 and int4 tables are those of
        ``QuantizedTable``, to be tuned through the rounding or exported as they are.

        Args:
            sources: {feature: trained rows}, such as a collection; rows as in ``dense_rows``.
            kind: "codes" (``CodedTable``), "pruned" (``PrunedTable``), "int8" or "int4".
            budget: bytes of all tables after ``export``; needed for codes and pruned tables.
            threshold: features with fewer rows keep a full table.
            importance: {feature: weights of its rows (n,)} for codes, such as their frequencies.
            mode: how bags are pooled; None: as in ``sources``, or "sum".
            seed: of the dictionaries.

        Raises:
            InputError: no budget, or one too small; another kind; importance of other features.

        >>> trained = TableCollection({"user": 2000, "day": 7}, 8, "full")
        >>> coded = TableCollection.from_dense(trained, "codes", budget=16_000)
        >>> coded.export().nbytes <= 16_000 < trained.nbytes == 64_224
        True
        """
        if kind not in get_args(TrainedKind):
            raise InputError(f"kind {kind!r}: expected one of {', '.join(get_args(TrainedKind))}")
        if budget is None and kind in ("codes", "pruned"):
            raise InputError(f"kind {kind!r} without a size: expected budget=, bytes of all tables")
        if importance is not None and (unknown := sorted(set(importance) - set(sources))):
            raise InputError(
                f"importance of {', '.join(unknown)}: expected features of the sources, "
                f"{', '.join(sources)}"
            )
        rows = {}
        for name, source in sources.items():
            try:
                rows[name] = dense_rows(source)
            except InputError as error:
                raise InputError(f"feature {name!r}: {error}") from error
        sizes = {name: (len(x), x.shape[1], x.element_size()) for name, x in rows.items()}
        shares = _share_rows(sizes, kind, budget, threshold)
        tables: dict[str, Table] = {}
        for name, x in rows.items():
            weights = None if importance is None else importance.get(name)
            padding_idx = padding_of(sources[name], None)
            try:
                tables[name] = _from_rows(x, kind, shares[name], weights, padding_idx, seed)
            except InputError as error:
                raise InputError(f"feature {name!r}: {error}") from error
        own = sources.mode if isinstance(sources, TableCollection) else "sum"
        return cls.of(tables, own if mode is None else mode)

    def forward(
        self, features: Any, per_sample_weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Look up and pool: {feature: rows (B, d)}, in the order of the collection.

        Args:
            features: {feature: ids}, where ids int32 or int64 are (B,), one an example; (B, L),
                bags of L of which the padding id does not count; or a pair of ids (T,) and offsets
                (B,), as in ``nn.EmbeddingBag``. Or an object shaped like torchrec's
                ``KeyedJaggedTensor``, one number of examples for all keys: ``keys()``, ``values()``
                (T,) by feature, and ``lengths()`` (features · B,) or ``offsets()`` (features · B +
                1,), with ``weights_or_none()`` (T,) if ids have weights.
            per_sample_weights: {feature: weights of the shape of its ids}, for mode "sum"; features
                without stay unweighted.

        Raises:
            InputError: a feature that is missing or unknown, or has another number of examples than
                the first; ids, offsets or weights that a ``TableBag`` refuses.
        """
        if isinstance(features, Mapping):
            bags = {name: _ids_and_offsets(name, ids) for name, ids in features.items()}
            weights = dict(per_sample_weights or {})
        else:
            if per_sample_weights is not None:
                raise InputError(
                    "per_sample_weights beside keyed jagged ids: expected them in weights_or_none()"
                )
            bags, weights = _keyed_bags(features)
        self._check_names(bags, weights)
        pooled: dict[str, Tensor] = {}
        for name, table in self._tables():
            ids, offsets = bags[name]
            try:
                pooled[name] = self._pool(table, ids, offsets, weights.get(name))
            except InputError as error:
                raise InputError(f"feature {name!r}: {error}") from error
        counts = {name: len(rows) for name, rows in pooled.items()}
        first = next(iter(counts))
        for name, count in counts.items():
            if count != counts[first]:
                raise InputError(
                    f"feature {name!r}: {count} examples, {counts[first]} of {first!r}; expected "
                    "as many of every feature"
                )
        return pooled

    def export(self) -> Self:
        """Collect the tables as they are stored: those with ``export`` exported, others shared.

        ``nbytes`` of both is the same, but for codes, whose decoders are rounded to 4 bits.
        """
        tables = {
            name: export() if (export := getattr(table, "export", None)) else table
            for name, table in self._tables()
        }
        return type(self).of(tables, self.mode)

    @property
    def rows(self) -> dict[str, int]:
        """{feature: number of ids}."""
        return {name: table.num_embeddings for name, table in self._tables()}

    @property
    def embedding_dims(self) -> dict[str, int]:
        """{feature: d}."""
        return {name: table.embedding_dim for name, table in self._tables()}

    @property
    def num_parameters(self) -> int:
        """Count the trainable numbers of all tables."""
        return sum(table.num_parameters for _, table in self._tables())

    @property
    def nbytes(self) -> int:
        """Count the bytes of all tables: see ``Table.nbytes``."""
        return sum(table.nbytes for _, table in self._tables())

    def _assemble(self, tables: Mapping[str, Table], mode: Mode) -> None:
        """Initialise the dictionary."""
        if mode not in get_args(Mode):
            raise InputError(f"mode {mode!r}: expected sum, mean or max")
        if not tables:
            raise InputError("no features: expected one or more")
        super().__init__()
        self.mode = mode
        for name, table in tables.items():
            if not isinstance(table, Table):
                raise InputError(f"feature {name!r}: {type(table).__name__}; expected a table")
            try:
                self[name] = table
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"feature name {name!r}: {error.args[0]}; expected a name that a module can "
                    "hold: rename the feature"
                ) from error

    def _tables(self) -> Iterator[tuple[str, Table]]:
        yield from cast(Iterator[tuple[str, Table]], self.items())

    def _check_names(self, bags: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        for what, names in (("unknown feature", bags), ("weights of an unknown feature", weights)):
            if unknown := [str(name) for name in names if name not in self]:
                raise InputError(
                    f"{what} {', '.join(unknown)}: expected {', '.join(self)}; leave it out, or "
                    "make the collection with it"
                )
        if missing := [name for name in self if name not in bags]:
            raise InputError(
                f"missing feature {', '.join(missing)}: expected ids of {', '.join(self)}"
            )

    def _pool(
        self, table: Table, ids: Tensor, offsets: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        """Pool rows (B, d) of a feature; one id an example needs no bag."""
        if offsets is None and ids.ndim == 1:
            if weights is None:
                return table(ids)
            offsets = torch.arange(len(ids), device=ids.device)
        return TableBag(table, self.mode)(ids, offsets, weights)


@dataclass(frozen=True)
class _Rule:
    """How tables of features are made; fields as in ``TableCollection``."""

    kind: Kind
    dim: int
    threshold: int
    combine: Combine
    parts: int
    hidden: int
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, rows: Mapping[str, int]) -> None:
        """Refuse what no table can be made of, by feature."""
        if self.kind in ("mixed-radix", "chinese-remainder") and self.parts < 2:
            raise InputError(f"{self.parts} parts, {self.kind}: expected 2 or more")
        for name, n in rows.items():
            if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
                raise InputError(
                    f"feature {name!r}: {n!r} rows; expected a whole number, 1 or more"
                )

    def table(self, n: int, collisions: float) -> Table:
        """Make the table of n ids: full below the threshold, and where that is not larger."""
        n, d, kind, settings = int(n), self.dim, self.kind, self.settings
        if not self.is_compressed(n, collisions):
            return FullTable(n, d, **settings)
        if kind in ("int8", "int4"):
            return QuantizedTable(n, d, _bits(kind), **settings)
        partitions = self.partitions(n, collisions)
        if kind == "hashing":
            return HashedTable(n, d, partitions.sizes[0], **settings)
        if kind == "path":
            return PathTable(n, d, partitions, self.hidden, **settings)
        return CompositionalTable(n, d, partitions, self.combine, **settings)

    def partitions(self, n: int, collisions: float) -> Partitions:
        """Partition n ids."""
        if self.kind == "hashing":
            return Partitions("hashing", (ceil(n / collisions),))
        rule: Any = "quotient-remainder" if self.kind == "path" else self.kind
        return partition(n, rule, self.parts, collisions=collisions)

    def is_compressed(self, n: int, collisions: float) -> bool:
        """Whether n ids have a table of ``kind``."""
        if n < self.threshold or self.kind == "full":
            return False
        if self.kind not in _FIXED and self.partitions(n, collisions).sizes[0] >= n:
            return False
        return self._compressed_nbytes(n, collisions) < n * self.dim * self._number

    def nbytes(self, n: int, collisions: float) -> int:
        """Count the bytes of ``table``, without making it."""
        if self.is_compressed(n, collisions):
            return self._compressed_nbytes(n, collisions)
        return n * self.dim * self._number

    @property
    def _number(self) -> int:
        """Bytes of a number."""
        return (self.settings.get("dtype") or torch.get_default_dtype()).itemsize

    def _compressed_nbytes(self, n: int, collisions: float) -> int:
        if self.kind in ("int8", "int4"):
            return n * QuantizedTable.row_bytes(self.dim, _bits(self.kind))
        partitions = self.partitions(n, collisions)
        if self.kind == "path":
            entries = PathTable.entries_of(partitions, self.dim, self.hidden)
        else:
            entries = CompositionalTable.entries_of(partitions, self.dim, self.combine)
        return self._number * entries

    def share(self, rows: Mapping[str, int], budget: int) -> dict[str, float]:
        """Collisions of each feature, as few as the budget in bytes allows."""
        # Beyond some number of collisions the other partitions make a table larger again.
        most: dict[int, float] = {}
        if self.kind not in _FIXED:
            for n in set(rows.values()):
                steps = int(np.log(n) / np.log(_RATIO)) + 1
                grid = [*(min(_RATIO**step, float(n)) for step in range(steps)), float(n)]
                most[n] = min(grid, key=lambda collisions: self.nbytes(n, collisions))

        def choose(level: float) -> dict[str, float]:
            return {name: min(level, most.get(n, 1.0)) for name, n in rows.items()}

        def total(level: float) -> int:
            chosen = choose(level)
            return sum(self.nbytes(n, chosen[name]) for name, n in rows.items())

        highest = max(most.values(), default=1.0)
        level = _largest(total, highest, budget)
        if level is None:
            raise InputError(
                f"budget of {budget} bytes for {len(rows)} features of {sum(rows.values())} rows: "
                f"expected {total(highest)} or more; give more, a lower threshold "
                f"({self.threshold}), fewer dimensions ({self.dim}), or another kind ({self.kind})"
            )
        return choose(level)


def _largest(total: Callable[[float], int], highest: float, budget: int) -> float | None:
    """Level from 1 to ``highest`` of the largest total within the budget; None if none is.

    Totals fall with the level but for small steps, so the largest of those seen in a bisection is
    kept.
    """
    best: tuple[int, float] | None = None
    low, high, level = 1.0, highest, 1.0
    for step in range(_STEPS):
        used = total(level)
        if used <= budget and (best is None or used > best[0]):
            best = used, level
        if used <= budget:
            high = level
        else:
            low = level
        level = highest if step == 0 else (low * high) ** 0.5
    return None if best is None else best[1]


def _share_rows(
    sizes: Mapping[str, tuple[int, int, int]], kind: str, budget: int | None, threshold: int
) -> dict[str, int | None]:
    """Bytes of each feature's compressed table, None for a full one, within the budget in all.

    All compressed rows get an equal number of bytes beyond the least, as many as fit.

    Args:
        sizes: {feature: (n, d, bytes a number)}.
    """
    full = {name: prod(size) for name, size in sizes.items()}

    def least(n: int, d: int, number: int) -> int:
        if kind == "codes":
            return CodedTable.least_bytes(n, d) + _LEVELS
        if kind == "pruned":
            return PrunedTable.bytes_of(n, d, n, number)
        return n * QuantizedTable.row_bytes(d, _bits(kind))

    smallest = {name: least(*size) for name, size in sizes.items()}

    def shares(bytes_a_row: float) -> dict[str, int | None]:
        chosen: dict[str, int | None] = {}
        for name, (n, _, _) in sizes.items():
            share = smallest[name]
            if kind in ("codes", "pruned"):
                share += int(bytes_a_row * n)
            compressed = n >= threshold and share < full[name]
            chosen[name] = share if compressed else None
        return chosen

    def total(chosen: dict[str, int | None]) -> int:
        return sum(full[name] if share is None else share for name, share in chosen.items())

    fewest = shares(0)
    if budget is None:
        return fewest
    if total(fewest) > budget:
        raise InputError(
            f"budget of {budget} bytes for {len(sizes)} features: expected {total(fewest)} or "
            f"more; give more, or a lower threshold ({threshold})"
        )
    low, high = 0.0, float(max(size[1] * size[2] for size in sizes.values()) + 1)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if total(shares(middle)) <= budget else (low, middle)
    return shares(low)


def _from_rows(
    rows: Tensor,
    kind: str,
    nbytes: int | None,
    importance: Any,
    padding_idx: int | None,
    seed: int,
) -> Table:
    """Make the table of trained rows (n, d); a full one where ``nbytes`` is None."""
    if nbytes is None:
        return FullTable.from_dense(rows, padding_idx=padding_idx)
    if kind == "codes":
        settings: dict[str, Any] = dict(importance=importance, padding_idx=padding_idx, seed=seed)
        try:
            return CodedTable.from_dense(rows, nbytes, **settings)
        except InputError:  # A tight budget: the smallest decoder, values of the fewest bits.
            return CodedTable.from_dense(rows, nbytes, _LEAST_LATENTS, "int2", **settings)
    if kind == "pruned":
        n, d = rows.shape
        entries = PrunedTable.most_entries(n, d, nbytes, rows.element_size())
        return PrunedTable.from_dense(rows, entries, padding_idx=padding_idx)
    return QuantizedTable.from_dense(rows, _bits(kind), padding_idx=padding_idx)


def _bits(kind: str) -> int:
    """Bits of "int8" or "int4"."""
    return int(kind.removeprefix("int"))


def _ids_and_offsets(name: str, ids: Any) -> tuple[Tensor, Tensor | None]:
    """Ids of a feature, and offsets if they are a pair."""
    pair = tuple(ids) if isinstance(ids, tuple | list) else (ids, None)
    tensors = len(pair) == 2 and isinstance(pair[0], Tensor)
    if not tensors or not (pair[1] is None or isinstance(pair[1], Tensor)):
        raise InputError(
            f"feature {name!r}: ids of {type(ids).__name__}; expected a tensor (B,) or (B, L), "
            "or a pair of tensors, ids (T,) and offsets (B,)"
        )
    first, offsets = pair
    if offsets is None and first.ndim not in (1, 2):
        raise InputError(f"feature {name!r}: ids {tuple(first.shape)}; expected (B,) or (B, L)")
    return first, offsets


def _keyed_bags(
    jagged: Any,
) -> tuple[dict[str, tuple[Tensor, Tensor | None]], dict[str, Tensor]]:
    """Split keyed jagged ids by feature: {feature: (ids, offsets)}, {feature: weights}."""
    has = {name: callable(getattr(jagged, name, None)) for name in ("keys", "values", "lengths")}
    has_offsets = callable(getattr(jagged, "offsets", None))
    if not (has["keys"] and has["values"] and (has["lengths"] or has_offsets)):
        raise InputError(
            f"features of {type(jagged).__name__}: expected {{feature: ids}}, or keyed jagged ids "
            "with keys(), values(), and lengths() or offsets()"
        )
    names, values = list(map(str, jagged.keys())), jagged.values()
    lengths = jagged.lengths() if has["lengths"] else jagged.offsets().diff()
    counts = lengths.long()
    if not names or len(counts) % len(names) or len(set(names)) != len(names):
        raise InputError(
            f"{len(counts)} lengths for {len(names)} keys: expected as many for each key, one an "
            "example, and keys that differ"
        )
    strides = getattr(jagged, "stride_per_key", None)
    if callable(strides) and len(set(strides())) > 1:
        raise InputError(f"examples of each key {list(strides())}: expected as many of every key")
    if int(counts.sum()) != len(values) or bool((counts < 0).any()):
        raise InputError(
            f"lengths that sum to {int(counts.sum())} for {len(values)} values: expected lengths "
            "of 0 or more that sum to as many"
        )
    read_weights = getattr(jagged, "weights_or_none", None)
    all_weights = read_weights() if callable(read_weights) else None
    bags: dict[str, tuple[Tensor, Tensor | None]] = {}
    weights: dict[str, Tensor] = {}
    by_key = counts.view(len(names), -1)
    sizes = by_key.sum(1).tolist()
    for number, (name, ids) in enumerate(zip(names, values.split(sizes), strict=True)):
        bags[name] = ids, by_key[number].cumsum(0) - by_key[number]
        if all_weights is not None:
            weights[name] = all_weights.split(sizes)[number]
    return bags, weights
