"""Typed records on the wire and in files: a `Record` to JSON and back, with every field checked on its way in.

A record's fields may be `bool`, `int`, `float`, `str`, an `Enum` of strings, `Optional`, `List`, `Tuple[…, ...]` and
`Dict[str, …]` of these, another record, and `Any` for JSON that is handed on as it is. Fields that a record does not
know are dropped: they are of a newer version, and nobody here would look at them.
"""

from __future__ import annotations

import enum
import functools
import json
import math
import operator
from typing import TYPE_CHECKING, Any, Dict, Tuple, Type, TypeVar, Union, get_type_hints

__all__ = ["BadRecord", "Record", "decode", "encode", "from_json", "to_json"]

T = TypeVar("T")

INTEGERS = 1 << 63
"""What an integer stays below, with either sign: more fits into no database, and is a mistake or an attack."""
NUMBERS = 1e18


class BadRecord(ValueError):
    """JSON that is not such a record; the message says in which field."""


if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class Record(tuple):
        """The base of all records. It does what `NamedTuple` does, which takes ten times as long to make a class: every
        agent makes some fifty when it starts, and its client waits for it."""

        _fields = ()
        _field_defaults = {}

        def __init_subclass__(cls):
            if Record not in cls.__bases__:  # it adds methods to a record
                return
            cls._fields = tuple(getattr(cls, "__annotations__", ()))
            cls._field_defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for place, name in enumerate(cls._fields):
                setattr(cls, name, property(operator.itemgetter(place)))

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                given = dict(zip(cls._fields, values), **named)  # noqa: B905 - Python 3.8 has no `strict`
                whole = dict(cls._field_defaults, **given)
                if len(given) != len(values) + len(named) or whole.keys() != set(cls._fields):
                    raise TypeError("%s has the fields %s" % (cls.__name__, ", ".join(cls._fields)))
                values = map(whole.__getitem__, cls._fields)
            return tuple.__new__(cls, values)

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return "%s(%s)" % (type(self).__name__, ", ".join("%s=%r" % field for field in self._asdict().items()))

        def _asdict(self):
            return {name: getattr(self, name) for name in self._fields}

        def _replace(self, **changed):
            return type(self)(**dict(self._asdict(), **changed))


def to_json(value: Any) -> Any:
    """The JSON of a record, or of what a record may hold."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: to_json(getattr(value, name)) for name in value._fields}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return value


def from_json(kind: Type[T], data: Any, where: str = "") -> T:
    """The record of type `kind` in `data`. Raises `BadRecord`. Nothing of `data` is kept but through its fields."""
    value: T = _read(kind, data, where or getattr(kind, "__name__", str(kind)))
    return value


def encode(value: Any) -> bytes:
    """The JSON of a record, or of what a record may hold, as bytes."""
    return json.dumps(to_json(value)).encode()


def decode(kind: Type[T], data: bytes) -> T:
    """The record of type `kind` that `encode` wrote. Raises `ValueError` for anything else."""
    try:
        return from_json(kind, json.loads(data))
    except RecursionError:
        raise BadRecord("it is nested too deeply")


def _read(kind: Any, data: Any, where: str) -> Any:
    read = _PLAIN.get(kind)
    if read is not None:
        return read(data, where)
    origin = getattr(kind, "__origin__", None)
    if origin is not None:
        return _read_generic(origin, kind.__args__, data, where)
    if issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            raise _bad(where, data)
    return _read_record(kind, data, where)


def _read_record(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _bad(where, data)
    fields, required = _fields(kind)
    absent = [name for name in required if name not in data]
    if absent:
        raise BadRecord("%s lacks %s" % (where, ", ".join(absent)))
    return kind(**{name: _read(type_, data[name], name) for name, type_ in fields if name in data})


@functools.lru_cache(maxsize=None)
def _fields(kind: Any) -> Tuple[Tuple[Tuple[str, Any], ...], Tuple[str, ...]]:
    """(name and type of each field, the names of those without a default)."""
    hints: Dict[str, Any] = get_type_hints(kind)
    names = kind._fields
    return tuple((name, hints[name]) for name in names), tuple(n for n in names if n not in kind._field_defaults)


def _read_generic(origin: Any, arguments: Any, data: Any, where: str) -> Any:
    if origin is Union:
        if data is None and type(None) in arguments:
            return None
        return _read(arguments[0], data, where)
    if origin in (list, tuple):
        if not isinstance(data, list):
            raise _bad(where, data)
        return origin(_read(arguments[0], item, where) for item in data)
    if origin is dict:
        if not isinstance(data, dict):
            raise _bad(where, data)
        return {_text(name, where): _read(arguments[1], item, where) for name, item in data.items()}
    raise TypeError("a record can't hold %r" % (origin,))


def _integer(data: Any, where: str) -> int:
    if type(data) is not int or not -INTEGERS < data < INTEGERS:
        raise _bad(where, data)
    return data


def _number(data: Any, where: str) -> float:
    if type(data) not in (int, float) or not -NUMBERS < data < NUMBERS or math.isnan(data):
        raise _bad(where, data)
    return data  # type: ignore[no-any-return]


def _text(data: Any, where: str) -> str:
    """Text, or the bytes of a file's name, which `os.fsdecode` writes as surrogates from U+DC80 on; no others."""
    if not isinstance(data, str):
        raise _bad(where, data)
    if not data.isascii():
        try:
            data.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise _bad(where, data)
    return data


def _boolean(data: Any, where: str) -> bool:
    if not isinstance(data, bool):
        raise _bad(where, data)
    return data


_PLAIN: Dict[Any, Any] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _boolean,
    Any: lambda data, where: data,
}


def _bad(where: str, data: Any) -> BadRecord:
    shown = repr(data) if not isinstance(data, int) or -INTEGERS < data < INTEGERS else "a number out of range"
    return BadRecord("%s: %.80s" % (where, shown))
