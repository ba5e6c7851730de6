"""Typed records on the wire and in files: a `Record` to JSON and back, with every field checked on its way in.

A record's fields may be `bool`, `int`, `float`, `str`, an `Enum` of strings, `Optional`, `List`, `Tuple[…, ...]` and
`Dict[str, …]` of these, another record, and `Any` for JSON that is handed on as it is. Fields that a record does not
know are dropped: they are of a newer version, and nobody here would look at them.
"""

from __future__ import annotations

import enum
import functools
import itertools
import json
import math
import operator
import re
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ClassVar,
    Dict,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
    get_type_hints,
)

from .paths import show

T = TypeVar("T")

INTEGERS = 1 << 63
"""What an integer stays below, with either sign: more fits into no database, and is a mistake or an attack."""
NUMBERS = 1e18
MOST_VALUES = 1 << 20
"""Brackets, commas and strings of one JSON text: each stands for up to 64 bytes of memory, and `[],` are two."""


class BadRecord(ValueError):
    """JSON that is not such a record; the message says in which field."""


REQUIRED: Any = object()
"""In place of the default of a field that has none."""


class Described:
    """The default of a field, and what is said of it besides: an `Option`, or a `Fact`."""

    def __init__(self, value: Any, about: Any) -> None:
        self.value, self.about = value, about


if TYPE_CHECKING:
    from typing import Self, dataclass_transform  # novm

    @dataclass_transform(frozen_default=True)
    class Record(Tuple[Any, ...]):
        _fields: ClassVar[Tuple[str, ...]]
        _field_defaults: ClassVar[Dict[str, Any]]
        _options: ClassVar[Dict[str, "Option"]]
        _facts: ClassVar[Dict[str, Any]]

        def __init_subclass__(cls, kw_only: bool = False) -> None: ...
        def _replace(self, **changed: Any) -> Self: ...
        def _asdict(self) -> Dict[str, Any]: ...

else:

    class Record(tuple):
        """The base of all records: a frozen dataclass to a type checker, and a tuple at run time. A dataclass, or a
        `NamedTuple`, takes ten times as long to make: every agent makes some fifty when it starts, and its client waits
        for it.

        A record has the fields of the records that it is made of, too. Those of a class with `kw_only` come last, and
        are given by name. `_options` has the fields that are options of a user, or `_facts` the facts of a run.
        """

        _fields = ()
        _field_defaults = {}
        _options = _facts = {}
        _by_name = frozenset()
        _or_required = ()

        def __init_subclass__(cls, kw_only=False):
            names, defaults, by_name, described = [], {}, set(), {}
            for base in cls.__bases__:
                names += (name for name in base._fields if name not in names)
                defaults.update(base._field_defaults)
                by_name.update(base._by_name)
            own = [name for name in getattr(cls, "__annotations__", ()) if name not in names]
            if kw_only:
                by_name.update(own)
            for name in own:
                if name in cls.__dict__:
                    value = cls.__dict__[name]
                    if isinstance(value, Described):
                        value, described[name] = value.value, value.about
                    if value is not REQUIRED:
                        defaults[name] = value
            names = sorted(names + own, key=by_name.__contains__)
            cls._fields, cls._field_defaults = tuple(names), defaults
            cls._or_required = tuple(defaults.get(name, REQUIRED) for name in names)
            for base in cls.__bases__:
                described.update(base._options)
            cls._by_name, cls._options, cls._facts = frozenset(by_name), described, described
            for place, name in enumerate(names):
                setattr(cls, name, property(operator.itemgetter(place)))

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                rest = cls._or_required[len(values) :]
                values += tuple(map(named.pop, cls._fields[len(values) :], rest)) if named else rest
                if named or len(values) > len(cls._fields) or REQUIRED in values:
                    raise TypeError("%s has the fields %s" % (cls.__name__, ", ".join(cls._fields)))
            return tuple.__new__(cls, values)

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            hidden = [name for name, option in self._options.items() if getattr(option, "secret", False)]
            shown = ("%s=%r" % field for field in self._asdict().items() if field[0] not in hidden)
            return "%s(%s)" % (type(self).__name__, ", ".join(shown))

        def _asdict(self):
            return {name: getattr(self, name) for name in self._fields}

        def _replace(self, **changed):
            whole = tuple.__new__(type(self), map(changed.pop, self._fields, self))
            if changed:
                raise TypeError("%s has the fields %s" % (type(self).__name__, ", ".join(self._fields)))
            return whole


class Option(Record):
    """What a user meets of a field: an option of `run` and `rerun`, a key of `rerun --edit` and of `remoterun.toml`, an
    entry of the reference."""

    usage: str
    """The flags and the name of the value: "-t --machine-type NAME"."""
    help: str
    """One sentence."""
    again: Optional[str] = ""
    """Its help in `rerun`: "" for the same, None where `rerun` does not have it."""
    form: str = ""
    """How the client reads and shows its words, where neither the field's name nor its type says so."""
    choices: Tuple[str, ...] = ()
    """The only words for it."""
    right: Optional[Callable[[Any], Any]] = None
    """Whether a value can be right; of a list, one of its values."""
    what: str = ""
    """What a right value is, as in "`x` is not the name of a Debian package"."""
    example: str = ""
    """What follows the flag in a hint."""
    first: bool = False
    """`run --help` shows it above *More*."""
    shared: bool = True
    """A repository may ask for it, in its `remoterun.toml`."""
    secret: bool = False
    """Its value stands in no text that shows the record."""

    @property
    def flag(self) -> str:
        """The one that is shown."""
        return self.usage.split()[0]

    def wrong(self, value: Any) -> str:
        """What is wrong with a value of the field; "" for nothing."""
        for each in value if type(value) is tuple else (value,):
            right = not self.choices or each in self.choices
            if each is not None and each != "" and not (right and (self.right is None or self.right(each))):
                return "`%s` is not %s" % (show(str(each)[:80]), self.what or "one of " + ", ".join(self.choices))
        return ""


def option(default: T, usage: str, help: str, **more: Any) -> T:
    """The default of a field that a user meets as an option. `more`: the other fields of `Option`."""
    return cast(T, Described(default, Option(usage, help, **more)))


def options_in(kind: Type[Record]) -> Dict[str, Option]:
    """The options of a kind of record, by the names of their fields."""
    return kind._options


def same_fields(kind: Type[Record], *others: Record) -> Dict[str, Any]:
    """The values of the fields of `kind` that these records have."""
    return {name: getattr(other, name) for other in others for name in kind._fields if name in other._fields}


def to_json(value: Any) -> Any:
    """The JSON of a record or a dataclass, or of what these may hold."""
    names = _names(value)
    if names is not None:
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return value


def from_json(kind: Type[T], data: Any, where: str = "") -> T:
    """The record or dataclass of type `kind` in `data`. Raises `BadRecord`. What its fields don't name is
    dropped."""
    value: T = _read(kind, data, where or getattr(kind, "__name__", str(kind)))
    return value


def encode(value: Any) -> bytes:
    """The JSON of a record, or of what a record may hold, as bytes."""
    return json.dumps(to_json(value)).encode()


def decode(kind: Type[T], data: bytes) -> T:
    """The record of type `kind` that `encode` wrote. Raises `ValueError` for anything else."""
    return from_json(kind, parse(data))


def parse(data: bytes, most: int = MOST_VALUES) -> Any:
    """JSON that another machine may have written. Raises `ValueError` for anything else, and for more than `most`
    brackets, commas and strings, before these take any memory."""
    if data.count(b'"') // 2 + sum(map(data.count, (b",", b"[", b"{"))) > most:  # some of them may stand in strings
        marks = _MARK.finditer(data.replace(b"\\\\", b"").replace(b'\\"', b""))
        if next(itertools.islice(marks, most, None), None):
            raise BadRecord("it has more than %d values" % most)
    try:
        return json.loads(data)
    except RecursionError:
        raise BadRecord("it is nested too deeply")


_MARK = re.compile(rb'"[^"]*"|[,[{]')


def _read(kind: Any, data: Any, where: str) -> Any:
    read = _PLAIN.get(kind)
    if read is not None:
        return read(data, where)
    origin = getattr(kind, "__origin__", Union if hasattr(kind, "__args__") else None)  # of `int | None` there is none
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
    names = _names(kind)
    if hasattr(kind, "_fields"):
        required = [name for name in names if name not in kind._field_defaults]
    else:
        required = [name for name in names if not hasattr(kind, name)]  # of a dataclass the class has the defaults
    return tuple((name, hints[name]) for name in names), tuple(required)


def _names(thing: Any) -> Any:
    """The fields of a record or a dataclass; None for what is neither."""
    return getattr(thing, "_fields", getattr(thing, "__dataclass_fields__", None))


def _read_generic(origin: Any, arguments: Any, data: Any, where: str) -> Any:
    if origin is Union:
        if data is None and type(None) in arguments:
            return None
        return _read(arguments[0], data, where)
    if origin in (list, tuple):
        if not isinstance(data, list):
            raise _bad(where, data)
        if arguments[0] is float and all(type(item) is float and -NUMBERS < item < NUMBERS for item in data):
            return origin(data)  # as a listing of runs has many
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
