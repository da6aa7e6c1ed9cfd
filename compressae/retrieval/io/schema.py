"""Check what files say, which is not trusted, against typed dataclasses.

Types are strict: a whole number is no float, true is no number, an unknown or missing name is an
error. Numbers have a range and texts a pattern where ``Annotated`` says so.
"""

import json
import re
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from compressae.retrieval.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Bounds of a whole number, both included."""

    low: int
    high: int = (1 << 62) - 1


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a text matches as a whole."""

    text: str


#: Whole numbers that count something, and those that count at least one.
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
#: A SHA-256 in hexadecimal.
Sha256 = Annotated[str, Pattern("[0-9a-f]{64}")]


def from_json(raw: bytes, kind: type[T], name: str, cure: str) -> T:
    """Decode JSON as a type.

    Args:
        raw: the text.
        kind: what it must be: a dataclass, or what ``checked`` takes.
        name: for the error message.
        cure: what to do, for the error message.

    Raises:
        InputError: it is no such JSON.

    >>> from_json(b'{"rows": 3}', dict[str, Count], "config.json", "save it again")
    {'rows': 3}
    >>> from_json(b'{"rows": -3}', dict[str, Count], "config.json", "save it again")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: config.json: damaged or not of compressae (rows: -3; \
expected 0 or more); save it again
    """
    try:
        return _built(json.loads(raw, parse_constant=_refuse), kind, "")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: damaged or not of compressae ({error}); {cure}") from error


def checked(value: Any, kind: type[T], name: str, cure: str) -> T:
    """Convert decoded JSON to a type.

    Args:
        value: of dictionaries, lists, texts, numbers, booleans and None.
        kind: a dataclass, or built of them, of list, tuple, dict, Literal, ``|`` and Any.
        name, cure: see ``from_json``.

    Raises:
        InputError: the value is another.

    >>> @dataclass
    ... class Settings:
    ...     rows: Positive
    ...     model_id: str | None = None
    >>> checked({"rows": 5}, Settings, "codes", "encode the table again")
    Settings(rows=5, model_id=None)
    >>> checked({"rows": True}, Settings, "codes", "encode the table again")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: codes: settings are damaged (rows: True; expected int);\
 encode the table again
    """
    try:
        return _built(value, kind, "")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: settings are damaged ({error}); {cure}") from error


def as_type(value: Any, kind: type[T]) -> T:
    """Convert decoded JSON to a type; see ``checked``.

    Raises:
        ValueError: the value is another.
    """
    built: T = _built(value, kind, "")
    return built


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _built(value: Any, kind: Any, place: str) -> Any:
    """``value`` as a type; ``place`` names it in errors.

    Raises:
        ValueError: it is another.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        built = _built(value, arguments[0], place)
        for limit in arguments[1:]:
            _check_limit(built, limit, place)
        return built
    if origin is UnionType or origin is Union:
        if value is None and NoneType in arguments:
            return None
        *others, last = [argument for argument in arguments if argument is not NoneType]
        for other in others:
            with suppress(ValueError):
                return _built(value, other, place)
        return _built(value, last, place)
    if origin is Literal:
        if not any(
            value is choice or (value == choice and type(value) is str) for choice in arguments
        ):
            raise ValueError(f"{place}: {_short(value)}; expected one of {arguments}")
        return value
    if is_dataclass(kind):
        return _object(value, kind, place)
    outer = origin or kind
    wanted = list if outer is tuple else outer
    if wanted is float and type(value) is int:
        return value
    if type(value) is not wanted:
        raise ValueError(f"{place or 'content'}: {_short(value)}; expected {wanted.__name__}")
    if not arguments:
        return value
    if isinstance(value, dict):
        return {
            _built(key, arguments[0], f"{place} key"): _built(item, arguments[1], key)
            for key, item in value.items()
        }
    if outer is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            raise ValueError(f"{place}: {len(value)} entries; expected {len(arguments)}")
        pairs = zip(value, arguments, strict=True)
        return tuple(_built(item, argument, place) for item, argument in pairs)
    return outer(_built(item, arguments[0], place) for item in value)


def _object(value: Any, kind: Any, place: str) -> Any:
    """A dataclass of a dictionary."""
    if type(value) is not dict:
        raise ValueError(f"{place or 'content'}: {_short(value)}; expected an object")
    known: dict[str, Field] = {field.name: field for field in fields(kind) if field.init}
    hints = get_type_hints(kind, include_extras=True)
    for name in value:
        if name not in known:
            raise ValueError(f"{_short(name)} is unknown")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**{name: _built(item, hints[name], name) for name, item in value.items()})


def _check_limit(value: Any, limit: Any, place: str) -> None:
    """Refuse a number outside a range, or a text that does not match."""
    if isinstance(limit, Range) and not limit.low <= value <= limit.high:
        high = "more" if limit.high >= (1 << 62) - 1 else str(limit.high)
        joint = "or" if high == "more" else "to"
        raise ValueError(f"{place}: {_short(value)}; expected {limit.low} {joint} {high}")
    if isinstance(limit, Pattern) and not re.fullmatch(limit.text, value):
        raise ValueError(f"{place}: {_short(value)}; expected a text like {limit.text}")


def _short(value: Any) -> str:
    """A value of a file as an error shows it: short, control characters escaped."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
