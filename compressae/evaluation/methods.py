"""What can be evaluated: baselines and the scorings of compressed search, with their settings."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from compressae.compress import PACKED_TYPES
from compressae.kernels.packed import Layout
from compressae.model import CompresSAE
from compressae.retrieval.baselines import BASELINES, Baseline
from compressae.retrieval.baselines import build as build_baseline
from compressae.retrieval.errors import InputError
from compressae.retrieval.quantizer import id_bits
from compressae.retrieval.searcher import Hits
from compressae.search import CompressedIndex

#: Scorings of compressed search: what each is, and its part of the settings of a search.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "asymmetric": ("x·ŷ, candidates from the posting lists", {"scoring": "asymmetric"}),
    "asymmetric-all": ("x·ŷ of every item, by a scan of the codes",
                       {"scoring": "asymmetric", "candidates": "all"}),
    "reconstructed": ("x̂·ŷ, candidates from the posting lists", {"scoring": "reconstructed"}),
    "sparse": ("cos(s_x, s_y) by posting lists, the query coded as the items are",
               {"scoring": "sparse"}),
    "sparse-wide": ("the same with 8k nonzeros in the query, which is not stored",
                    {"scoring": "sparse", "wide": True}),
}  # fmt: skip
_CODE_SETTINGS = {"code_bytes": 64, "nonzeros": None, "residual_bytes": None, "values": None}
_SEARCH_SETTINGS = {"candidates": None, "query_nonzeros": None}
#: Candidates that an evaluation tries of "asymmetric" unless told.
_CANDIDATES = (1000, 3000)

FAMILY = "compressae"
METHODS = {name: entry.what for name, entry in BASELINES.items()} | {
    name: what for name, (what, _) in OURS.items()
}
#: Fewer bytes than this that are left over go to nonzeros, not to a residual code.
_LEAST_RESIDUAL = 8
#: Settings without a default that are words, and the largest number that a library takes.
_WORDS = ("values",)
_LARGEST = (1 << 31) - 1


@dataclass(frozen=True)
class Method:
    """A name and settings; a setting that is a tuple stands for each of its values."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_model(self) -> bool:
        """Whether it can be measured with a model, and only with one."""
        try:
            return self.name in OURS and bool(list(variants(self, (64,))))
        except InputError:
            return False


def parse(asked: str | Sequence[Any]) -> list[Method]:
    """Methods from text, "pq, hnsw:links=32:ef=50/100", or from a list as YAML has it: names, such
    texts, or {name: {setting: value or list of values}}, and ``Method``s are taken as they are.
    "all" stands for every method.

    Raises:
        InputError: text of another form. Unknown names are kept: they fail when they are built.
    """
    parts: list[Any] = []
    for part in [asked] if isinstance(asked, str) else asked:
        parts += part.split(",") if isinstance(part, str) else [part]
    found: list[Method] = []
    for part in parts:
        if isinstance(part, Method):
            found.append(part)
        elif isinstance(part, Mapping):
            found += [_from_mapping(str(name), settings) for name, settings in part.items()]
        elif not isinstance(part, str):
            raise InputError(f"method {part!r}: expected a name, or a name and its settings")
        elif part.strip() == "all":
            found += [Method(name) for name in METHODS]
        elif part.strip():
            found.append(_from_text(part.strip()))
    if not found:
        raise InputError(f"methods {asked!r}: expected some of {', '.join(METHODS)}")
    return found


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
        for one in values if isinstance(values, tuple) else (values,):
            if not (one is None or isinstance(one, str | int | float)):
                raise InputError(f"method {name}, {key}: {one!r}; expected a number or a word")
        read[str(key)] = values
    return Method(name, read)


def _values(text: str) -> Any:
    """The value of a text, or a tuple of those with "/" between."""
    several = tuple(_value(one.strip()) for one in text.split("/"))
    return several if len(several) > 1 else several[0]


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
    """(settings to build with, settings to search with, one after another) of a method.

    Args:
        method: what is asked.
        code_bytes: sizes of a method that takes one and was not told.

    Raises:
        InputError: an unknown name, or a setting that it does not have.
    """
    name = method.name
    if name in OURS:
        known, later = {**_CODE_SETTINGS, **_SEARCH_SETTINGS}, dict(_SEARCH_SETTINGS)
        fixed = OURS[name][1]
        for setting in ("candidates", "query_nonzeros"):
            if setting in fixed or (fixed["scoring"] == "sparse" and setting == "candidates"):
                del known[setting], later[setting]
        tried: dict[str, Any] = {"candidates": _CANDIDATES} if name == "asymmetric" else {}
    elif name in BASELINES:
        known = BASELINES[name].settings()
        later = dict.fromkeys(BASELINES[name].while_searching)
        tried = dict(BASELINES[name].while_searching)
    else:
        raise InputError(f"unknown method; expected one of {', '.join(METHODS)}")
    for setting, value in method.settings.items():
        if setting not in known:
            raise InputError(f"no setting {setting!r}; it has {', '.join(known) or 'none'}")
        for one in value if isinstance(value, tuple) else (value,):
            _check(setting, one, known[setting])
        if value == ():
            raise InputError(f"{setting}: no value")
    # Nonzeros or residual bytes that were asked for say the size themselves.
    if "code_bytes" in known and not {"nonzeros", "residual_bytes"} & set(method.settings):
        tried["code_bytes"] = tuple(code_bytes)
    settings = {**tried, **method.settings}
    while_building = {k: v for k, v in settings.items() if k not in later}
    while_searching = list(_each({k: v for k, v in settings.items() if k in later}))
    for one in _each(while_building):
        yield one, while_searching


@dataclass
class Builder:
    """Builds methods over items; codes that several share are made once.

    Attributes:
        items: (n, d) embeddings.
        model: of compressed search; None where no method needs it.
    """

    items: Any
    model: CompresSAE | None
    _made: dict[tuple[Any, ...], tuple[CompressedIndex, float]] = field(default_factory=dict)

    def build(self, name: str, settings: dict[str, Any]) -> tuple[Baseline, float]:
        """A method over the items, ready to search, and the seconds that took.

        Raises:
            InputError: settings or items that do not suit it, or a missing library.
        """
        started = time.perf_counter()
        if name in BASELINES:
            built = build_baseline(name, self.items, **settings)
            return built, time.perf_counter() - started
        if self.model is None:
            raise InputError("compressed search without a model; give one")
        scoring = OURS[name][1]["scoring"]
        form = form_of(self.model, **settings, residual=scoring != "sparse")
        key = tuple(form.values())
        if key not in self._made:
            codes = self.model.compress(self.items, **form)
            index = CompressedIndex(self.model, codes)
            self._made[key] = index, time.perf_counter() - started
        index, seconds = self._made[key]
        return Compressed(index, **OURS[name][1]), seconds


def _check(setting: str, value: Any, default: Any) -> None:
    """Refuse a value that is not of its default's kind, before a library says so in its own way.

    Raises:
        InputError: neither that, nor None or "all" where the default is None.
    """
    if isinstance(default, str) or setting in _WORDS:
        if not isinstance(value, str):
            raise InputError(f"{setting}={value!r}: expected a word")
        return
    if default is None and (value is None or (value, setting) == ("all", "candidates")):
        return
    least = 0 if setting == "residual_bytes" else 1
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= _LARGEST:
        raise InputError(f"{setting}={value!r}: expected a whole number from {least} on")


def _each(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of settings that have several."""
    several = [v if isinstance(v, tuple) else (v,) for v in settings.values()]
    for values in product(*several):
        yield dict(zip(settings, values, strict=True))


def form_of(
    model: CompresSAE,
    code_bytes: int | None = None,
    nonzeros: int | None = None,
    residual_bytes: int | None = None,
    values: str | None = None,
    residual: bool = True,
) -> dict[str, Any]:
    """Arguments of ``compress`` for codes of at most so many bytes a row.

    The model's nonzeros, or those given, and a residual code in the rest; where that would be less
    than 8 bytes, or a scoring has no use for it (``residual=False``), as many nonzeros as fit.
    Without ``code_bytes`` all is as given.

    Raises:
        InputError: not one nonzero fits, or not those given; values that are not packed.
    """
    if code_bytes is None:
        return {"nonzeros": nonzeros, "residual_bytes": residual_bytes or 0, "values": values}
    values = values or "int2"
    if values not in PACKED_TYPES or residual_bytes is not None:
        raise InputError(
            f"code_bytes with values {values} and residual_bytes {residual_bytes}; expected one of "
            f"{', '.join(PACKED_TYPES)}, and the residual to be the rest; or no code_bytes"
        )
    most = min(255, model.latents)
    bits = np.full(most, int(values[3:]))
    sizes = Layout(id_bits(model.latents), bits, 1).lengths[1:]  # Of 1, 2, … nonzeros.
    fit = int(np.searchsorted(sizes, code_bytes, "right"))
    if fit < (nonzeros or 1):
        least = nonzeros or 1
        raise InputError(
            f"{code_bytes} bytes a row: {least} nonzeros take {sizes[min(least, most) - 1]}; "
            "give more"
        )
    k = nonzeros or min(fit, model.nonzeros)
    rest = code_bytes - int(sizes[k - 1])
    if rest < _LEAST_RESIDUAL or not residual:
        return {"nonzeros": nonzeros or fit, "residual_bytes": 0, "values": values}
    return {"nonzeros": k, "residual_bytes": min(rest, model.dim), "values": values}


class Compressed:
    """Compressed search in one scoring, as a baseline is: what it reads counts, no more."""

    def __init__(
        self,
        index: CompressedIndex,
        scoring: Any,
        candidates: Any = None,
        wide: bool = False,
    ) -> None:
        self.index, self.scoring, self.candidates = index, scoring, candidates
        model, codes = index.model, index.codes
        self.query_nonzeros = min(8 * model.nonzeros, model.latents) if wide else None
        self.code_nbytes = codes.nbytes
        self._with_lists = index.nbytes_for(scoring)
        self.constant_nbytes = index.constant_nbytes_for(scoring)
        self.form = {"latents": model.latents, **_shape_of(codes)}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and, unless they are scanned, of the lists."""
        return self.code_nbytes if self.candidates == "all" else self._with_lists

    def search(self, queries: Any, K: int) -> Hits:
        """The K best items of each dense query (q, d)."""
        C = self.candidates
        if isinstance(C, int) and len(self) <= C:
            C = "all"  # More than there are.
        return self.index.search(queries, K, self.scoring, C, self.query_nonzeros)


def _shape_of(codes: Any) -> dict[str, Any]:
    return {
        name: codes.settings[name]
        for name in ("nonzeros", "residual_bytes", "values")
        if name in codes.settings
    }
