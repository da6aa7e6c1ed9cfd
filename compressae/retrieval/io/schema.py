"""Check what files say, which is not trusted, against typed dataclasses.

Types are strict: a whole number is no float, true is no number, an unknown or missing name is an
error. Numbers have a range and texts a pattern where ``Annotated`` says so.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
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
#: Converts decoded JSON, given what names it in errors.
_Reader = Callable[[Any, str], Any]


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
    return _reader(kind)(value, place)


@cache
def _reader(kind: Any) -> _Reader:
    """What ``_built`` does for a type: looked at once, since a file has many entries of one."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value, place: value
    if origin is Annotated:
        return _limited(_reader(arguments[0]), arguments[1:])
    if origin is UnionType or origin is Union:
        return _union(arguments)
    if origin is Literal:
        return _literal(arguments)
    if is_dataclass(kind):
        return _object(kind)
    outer = origin or kind
    if not arguments:
        return _plain(outer)
    if outer is dict:
        return _dictionary(*map(_reader, arguments))
    if outer is tuple and Ellipsis not in arguments:
        return _pair([_reader(argument) for argument in arguments])
    return _sequence(outer, _reader(arguments[0]))


def _limited(reader: _Reader, limits: tuple) -> _Reader:
    def read(value: Any, place: str) -> Any:
        built = reader(value, place)
        for limit in limits:
            _check_limit(built, limit, place)
        return built

    return read


def _union(arguments: tuple) -> _Reader:
    *others, last = [_reader(argument) for argument in arguments if argument is not NoneType]
    has_none = NoneType in arguments

    def read(value: Any, place: str) -> Any:
        if value is None and has_none:
            return None
        for other in others:
            with suppress(ValueError):
                return other(value, place)
        return last(value, place)

    return read


def _literal(choices: tuple) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if not any(
            value is choice or (value == choice and type(value) is str) for choice in choices
        ):
            raise ValueError(f"{place}: {_short(value)}; expected one of {choices}")
        return value

    return read


def _check_type(value: Any, kind: type, place: str) -> None:
    """Refuse what is not of a type of JSON."""
    if type(value) is not kind:
        raise ValueError(f"{place or 'content'}: {_short(value)}; expected {kind.__name__}")


def _plain(kind: type) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if not (kind is float and type(value) is int):
            _check_type(value, kind, place)
        return value

    return read


def _dictionary(key_reader: _Reader, item_reader: _Reader) -> _Reader:
    def read(value: Any, place: str) -> dict:
        _check_type(value, dict, place)
        key_place = f"{place} key"
        return {key_reader(key, key_place): item_reader(item, key) for key, item in value.items()}

    return read


def _pair(readers: list[_Reader]) -> _Reader:
    """A tuple of a fixed length."""

    def read(value: Any, place: str) -> tuple:
        _check_type(value, list, place)
        if len(value) != len(readers):
            raise ValueError(f"{place}: {len(value)} entries; expected {len(readers)}")
        return tuple(reader(item, place) for item, reader in zip(value, readers, strict=True))

    return read


def _sequence(kind: Any, reader: _Reader) -> _Reader:
    """A list, or a tuple of any length."""

    def read(value: Any, place: str) -> Any:
        _check_type(value, list, place)
        return kind(reader(item, place) for item in value)

    return read


def _object(kind: Any) -> _Reader:
    """A dataclass of a dictionary."""
    hints = get_type_hints(kind, include_extras=True)
    known = [field for field in fields(kind) if field.init]
    readers = {field.name: _reader(hints[field.name]) for field in known}
    needed = [
        field.name
        for field in known
        if field.default is MISSING and field.default_factory is MISSING
    ]

    def read(value: Any, place: str) -> Any:
        if type(value) is not dict:
            raise ValueError(f"{place or 'content'}: {_short(value)}; expected an object")
        for name in value:
            if name not in readers:
                raise ValueError(f"{_short(name)} is unknown")
        for name in needed:
            if name not in value:
                raise ValueError(f"{name} is missing")
        return kind(**{name: readers[name](item, name) for name, item in value.items()})

    return read


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
