"""The methods of an evaluation: baselines and the scorings of compressed search, with settings."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from compressae.coding.compress import compress, encode, encode_like
from compressae.model import CompresSAE
from compressae.retrieval.baselines import (
    BASELINES,
    MAY_HOLD_LENGTHS,
    QUANTISERS,
    Baseline,
    check_settings,
)
from compressae.retrieval.baselines import build as build_baseline
from compressae.retrieval.baselines.sample import TRAIN_ROWS, sample_rows, training_rows
from compressae.retrieval.baselines.weighted import Weighted
from compressae.retrieval.codes import Codes
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.codes.size import PACKED_TYPES, fit_row, value_bits
from compressae.retrieval.codes.sparse import VALUE_TYPES
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.paper import scoring_constant_nbytes, scoring_nbytes
from compressae.retrieval.io.embeddings import Embeddings, as_compared, as_embeddings, split_lengths

FAMILY = "compressae"


@dataclass(frozen=True)
class Scoring:
    """A way to score compressed search.

    Attributes:
        name: what a reader of the report calls it.
        what: description for a legend.
        search: arguments of ``Compressed`` that make it this scoring.
        search_settings: settings of a search that may be chosen, and the values tried by default.
    """

    name: str
    what: str
    search: dict[str, Any]
    search_settings: dict[str, tuple[int, ...] | None]


#: Scorings of compressed search.
OURS = {
    "asymmetric": Scoring(
        "lists",
        "x·ŷ, candidates from the posting lists",
        {"scoring": "asymmetric"},
        {"candidates": (1000, 3000), "query_nonzeros": None},
    ),
    "asymmetric-all": Scoring(
        "scan",
        "x·ŷ of every item, by a scan of the codes",
        {"scoring": "asymmetric", "candidates": "all"},
        {"query_nonzeros": None},
    ),
    "reconstructed": Scoring(
        "reconstructed queries",
        "x̂·ŷ, candidates from the posting lists",
        {"scoring": "reconstructed"},
        {"candidates": None, "query_nonzeros": None},
    ),
    "sparse": Scoring(
        "sparse queries",
        "cos(s_x, s_y) by posting lists, the query coded as the items are",
        {"scoring": "sparse"},
        {"query_nonzeros": None},
    ),
    "sparse-wide": Scoring(
        "wide sparse queries",
        "the same with 8k nonzeros in the query, which is not stored",
        {"scoring": "sparse", "wide": True},
        {"query_nonzeros": None},
    ),
}
METHODS = {name: entry.what for name, entry in BASELINES.items()} | {
    name: scoring.what for name, scoring in OURS.items()
}

_CODE_SETTINGS = {
    "code_bytes": 64,
    "nonzeros": None,
    "residual_bytes": None,
    "values": None,
    "budget": None,
}
#: Settings without a default whose values are words.
_WORDS = ("values",)
#: The largest number that a library takes.
_LARGEST = (1 << 31) - 1


@dataclass(frozen=True)
class Method:
    """A method and its settings; a tuple stands for each of its values.

    >>> Method("pq", {"code_bytes": (32, 64)}) == parse("pq:code_bytes=32/64")[0]
    True
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_model(self) -> bool:
        """Whether it is compressed search whose settings can be read."""
        try:
            return self.name in OURS and bool(list(variants(self, (64,))))
        except InputError:
            return False


def parse(methods: str | Sequence[Any]) -> list[Method]:
    """Parse methods of an evaluation; "all" stands for every method that is not
    slow to train.

    Args:
        methods: text, "pq, hnsw:links=32:ef=50/100", or a list as YAML has it: names, such texts,
            {name: {setting: value or list of values}}, and ``Method``s.

    Raises:
        InputError: text of another form. Unknown names are kept: they fail when they are built.

    >>> parse("dense, hnsw:links=32:ef=50/100")[1]
    Method(name='hnsw', settings={'links': 32, 'ef': (50, 100)})
    """
    parts: list[Any] = []
    for part in [methods] if isinstance(methods, str) else methods:
        parts += part.split(",") if isinstance(part, str) else [part]
    parsed: list[Method] = []
    for part in parts:
        if isinstance(part, Method):
            parsed.append(part)
        elif isinstance(part, Mapping):
            parsed += [_from_mapping(str(name), settings) for name, settings in part.items()]
        elif not isinstance(part, str):
            raise InputError(f"method {part!r}: expected a name, or a name and its settings")
        elif part.strip() == "all":
            slow = {name for name, entry in BASELINES.items() if entry.slow}
            parsed += [Method(name) for name in METHODS if name not in slow]
        elif part.strip():
            parsed.append(_from_text(part.strip()))
    if not parsed:
        raise InputError(f"methods {methods!r}: expected some of {', '.join(METHODS)}")
    return parsed


def _from_text(text: str) -> Method:
    name, *settings = text.split(":")
    if name.strip() == "all":
        raise InputError(f"method {text!r}: 'all' takes no settings; name the method")
    read: dict[str, Any] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key.strip() or not values.strip() or key.strip() in read:
            raise InputError(
                f"method {text!r}: expected NAME:SETTING=VALUE, each setting once, more values "
                "with / between"
            )
        read[key.strip()] = _values(values)
    return Method(name.strip(), read)


def _from_mapping(name: str, settings: Any) -> Method:
    if settings is None:
        return Method(name)
    if not isinstance(settings, Mapping):
        raise InputError(f"method {name}: {settings!r}; expected settings by name")
    read = {}
    for key, value in settings.items():
        values = tuple(value) if isinstance(value, list) else value
        if isinstance(value, str):
            values = _values(value)
        for choice in values if isinstance(values, tuple) else (values,):
            if not (choice is None or isinstance(choice, str | int | float)):
                raise InputError(f"method {name}, {key}: {choice!r}; expected a number or a word")
        read[str(key)] = values
    return Method(name, read)


def _values(text: str) -> Any:
    """Parse a value, or a tuple of values with "/" between."""
    values = tuple(_value(part.strip()) for part in text.split("/"))
    return values if len(values) > 1 else values[0]


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def variants(
    method: Method, code_bytes: Sequence[int]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield what a method builds, and what it then searches with: (settings, [settings, …]).

    Args:
        method: the method.
        code_bytes: sizes of a method that takes one and does not name any.

    Raises:
        InputError: an unknown name, or a setting that it does not have.
    """
    name = method.name
    defaults: dict[str, Any]
    if name in OURS:
        search_settings: Mapping[str, Any] = OURS[name].search_settings
        known = _CODE_SETTINGS | dict.fromkeys(search_settings)
        defaults = {key: values for key, values in search_settings.items() if values}
    elif name in BASELINES:
        search_settings = BASELINES[name].search_settings
        known = BASELINES[name].settings()
        if BASELINES[name].family == QUANTISERS:
            known["weighted"] = None
            if name in MAY_HOLD_LENGTHS:
                known["length"] = None
        defaults = dict(search_settings)
    else:
        raise InputError(f"unknown method; expected one of {', '.join(METHODS)}")
    check_settings(name, method.settings, known)
    for setting, value in method.settings.items():
        for choice in value if isinstance(value, tuple) else (value,):
            _check(setting, choice, known[setting])
        if value == ():
            raise InputError(f"{setting}: no value")
    # Nonzeros, residual bytes or a budget already say the size.
    if "code_bytes" in known and not {"nonzeros", "residual_bytes", "budget"} & set(
        method.settings
    ):
        defaults["code_bytes"] = tuple(code_bytes)
    settings = {**defaults, **method.settings}
    searches = list(_each({k: v for k, v in settings.items() if k in search_settings}))
    for choice in _each({k: v for k, v in settings.items() if k not in search_settings}):
        yield choice, searches


class Builder:
    """Builds methods over items; codes that several share are made once.

    Args:
        items: (n, d) embeddings.
        model: of compressed search; None where no method needs it.
        train_rows: rows that everything is learned from, those of ``sample_rows(n, train_rows)``;
            each method's own choice when None.
        query_sample: (m, d) queries by which errors are weighted; the items' own when None.
        importance: (n,) of the items under a budget; equal when None.

    Attributes:
        items: as given, read as rows to compare.
    """

    def __init__(
        self,
        items: Any,
        model: CompresSAE | None,
        train_rows: int | None = None,
        query_sample: Any = None,
        importance: Any = None,
    ) -> None:
        self.items: Embeddings = as_compared(items)
        self.model, self.train_rows = model, train_rows
        self.query_sample, self.importance = query_sample, importance
        self._indexes: dict[tuple[Any, ...], tuple[CompressedIndex, float]] = {}

    def key(self, name: str, settings: dict[str, Any]) -> tuple[Any, ...]:
        """What settings end in: equal for the same index."""
        if name in BASELINES:
            size = BASELINES[name].code_size(self.items.shape[1], settings)
            return tuple({**settings, "code_bytes": size}.items())
        if self.model is None:
            raise InputError("compressed search without a model; give one")
        residual = OURS[name].search["scoring"] != "sparse"
        return tuple(form_of(self.model, **settings, residual=residual).items())

    def build(self, name: str, settings: dict[str, Any]) -> tuple[Baseline, float]:
        """Build a method over the items, ready to search; returns it and the seconds taken.

        Raises:
            InputError: settings or items that do not suit it, or a missing library.
        """
        started = time.perf_counter()
        if name in BASELINES:
            if self.train_rows is not None and "train_rows" in BASELINES[name].settings():
                most = settings.get("train_rows") or self.train_rows
                settings = {**settings, "train_rows": min(most, self.train_rows)}
            settings = dict(settings)
            weighted, length = settings.pop("weighted", None), settings.pop("length", None)

            def make(items: Any) -> Baseline:
                return build_baseline(name, items, **settings)

            baseline = make(self.items) if not weighted else self._weighted(make)
            if length:
                from compressae.retrieval.baselines.lengths import WithLengths  # Needs faiss.

                baseline = WithLengths(baseline, self.items)
            return baseline, time.perf_counter() - started
        key = self.key(name, settings)
        assert self.model is not None
        if key not in self._indexes:
            codes = self._codes(self.model, **dict(key))
            index = CompressedIndex(self.model.projection, codes)
            self._indexes[key] = index, time.perf_counter() - started
        index, seconds = self._indexes[key]
        return Compressed(index, self._trained_rows(self.model), **OURS[name].search), seconds

    def _weighted(self, make: Callable[[Any], Baseline]) -> Baseline:
        """A baseline with the error weighting that compressed search would have."""
        sample = training_rows(self.items, self.train_rows or TRAIN_ROWS)
        rows = split_lengths(sample)[0]
        queries = rows
        if self.query_sample is not None:
            queries = split_lengths(
                as_embeddings(self.query_sample, "queries").compared_by("dot").to_array()
            )[0]
        return Weighted(make, self.items, fit_error_weighting(queries, rows))

    def _codes(
        self,
        model: CompresSAE,
        nonzeros: int | None,
        residual_bytes: int,
        value_type: Any,
        budget: int | None = None,
    ) -> Codes:
        """Codes of a form of ``form_of``: packed, or plain where its values are."""
        if value_type in VALUE_TYPES and residual_bytes:
            raise InputError(
                f"values {value_type!r} with residual bytes, which are for packed values; expected "
                "int4, int3 or int2"
            )
        n = len(self.items)
        rows = sample_rows(n, n if self.train_rows is None else self.train_rows)
        sample = self.items if len(rows) == n else self.items.subset(rows)
        codes: Codes
        if value_type in VALUE_TYPES:
            codes = encode(model, sample, value_type, nonzeros, similarity=sample.similarity)
        else:
            codes = compress(
                model,
                sample,
                value_type,
                nonzeros,
                residual_bytes,
                None if budget is None else f"{budget} B/row",
                self.importance if budget is not None and sample is self.items else None,
                similarity=sample.similarity,
                queries=self.query_sample,
            )
        # The quantiser is that of the sample: it has not seen the other rows.
        return codes if sample is self.items else encode_like(model, self.items, codes)

    def _trained_rows(self, model: CompresSAE) -> int:
        """Rows that the model was trained on, as it keeps them, or else its quantiser's."""
        rows = model.settings.get("rows")
        if rows is not None:
            return int(rows) - int(model.settings.get("hold_out") or 0)
        return min(len(self.items), self.train_rows or len(self.items))


def _check(setting: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default, before a library says so in its own way.

    Raises:
        InputError: neither that, nor None or "all" where the default is None.
    """
    if isinstance(default, str) or setting in _WORDS:
        if not isinstance(value, str):
            raise InputError(f"{setting}={value!r}: expected a word")
        return
    if default is None and (value is None or (value, setting) == ("all", "candidates")):
        return
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{setting}={value!r}: expected a number from 0 to 1")
        return
    least = 0 if setting in ("residual_bytes", "iterations") else 1
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= _LARGEST:
        raise InputError(f"{setting}={value!r}: expected a whole number from {least} on")


def _each(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of settings that have several."""
    choices = [v if isinstance(v, tuple) else (v,) for v in settings.values()]
    for values in product(*choices):
        yield dict(zip(settings, values, strict=True))


def form_of(
    model: CompresSAE,
    code_bytes: int | None = None,
    nonzeros: int | None = None,
    residual_bytes: int | None = None,
    values: str | None = None,
    residual: bool = True,
    budget: int | None = None,
) -> dict[str, Any]:
    """Arguments of ``compress`` for codes of at most ``code_bytes`` bytes a row.

    The nonzeros are the model's, or those given, and a residual code takes the rest; where that
    would be less than 8 bytes, or with ``residual=False``, as many nonzeros as fit. Without
    ``code_bytes`` the arguments are as given; ``budget`` is bytes a row that rows share unevenly.

    Raises:
        InputError: not one nonzero fits, or not those given; values that are not packed.

    >>> form_of(CompresSAE(dim=48, latents=4096, nonzeros=16), code_bytes=64)
    {'nonzeros': 16, 'residual_bytes': 35, 'value_type': 'int2'}
    """
    if code_bytes is None:
        form = {"nonzeros": nonzeros, "residual_bytes": residual_bytes or 0, "value_type": values}
        return form if budget is None else {**form, "budget": budget}
    if budget is not None:
        raise InputError(f"code_bytes {code_bytes} and budget {budget}: give one of them")
    values = values or "int2"
    if values not in PACKED_TYPES or residual_bytes is not None:
        raise InputError(
            f"code_bytes with values {values} and residual_bytes {residual_bytes}; expected one of "
            f"{', '.join(PACKED_TYPES)}, and the residual to be the rest; or no code_bytes"
        )
    k, m = fit_row(
        code_bytes,
        model.latents,
        value_bits(values),
        model.dim,
        model.nonzeros,
        nonzeros,
        residual,
    )
    return {"nonzeros": k, "residual_bytes": m, "value_type": values}


class Compressed:
    """Compressed search in one scoring as a ``Baseline``: only what the scoring reads counts.

    Its search takes ``exclude``, which ``excludes`` says.

    Args:
        index: the index.
        trained_rows: rows that model and quantiser were learned from.
        scoring, candidates: as of ``CompressedIndex.search``; ``candidates`` and
            ``query_nonzeros`` may be changed later.
        wide: search with 8k nonzeros in the query.
    """

    excludes = True

    def __init__(
        self,
        index: CompressedIndex,
        trained_rows: int,
        scoring: Any,
        candidates: Any = None,
        wide: bool = False,
    ) -> None:
        self.index, self.scoring, self.candidates = index, scoring, candidates
        self.trained_rows = trained_rows
        projection, codes = index.projection, index.codes
        self.query_nonzeros = min(8 * projection.nonzeros, projection.latents) if wide else None
        self.code_nbytes = codes.nbytes
        self._with_lists = scoring_nbytes(index, scoring)
        self.constant_nbytes = scoring_constant_nbytes(index, scoring)
        self.form: dict[str, Any] = {"latents": projection.latents}
        is_even = "budget" not in codes.settings
        for name in ("nonzeros", "residual_bytes", "values"):
            if name in codes.settings and (is_even or name != "nonzeros"):
                self.form[name] = codes.settings[name]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and, unless they are scanned, of the lists."""
        return self.code_nbytes if self.candidates == "all" else self._with_lists

    def search(self, queries: Any, K: int, exclude: Any = None) -> Hits:
        """Find the K best items of each dense query (q, d)."""
        candidates = self.candidates
        if isinstance(candidates, int) and len(self) <= candidates:
            candidates = "all"
        return self.index.search(
            queries, K, self.scoring, candidates, self.query_nonzeros, exclude=exclude
        )
