"""What was asked of a run, as both sides understand it: the types, their JSON, and the checks on the way in.

The client makes a `RunSpec`, the agent keeps it as spec.json, and nobody changes it afterwards. What else a run needs
lies beside it: the values of the user's variables, which may be secrets, and what the agent resolves of each mount.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from .tree import TreeError, check_path, is_digest, show

FORMAT = 2
"""Format 1 held the values of the user's variables, and the resolved mounts, in the spec itself."""
MOST_BYTES = 64 << 20
"""Bytes of a spec's JSON."""
MOST_VALUE = 128 << 10
"""Bytes of NAME=VALUE with its final zero byte: the kernel hands no longer string to a program (MAX_ARG_STRLEN)."""

APT_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?\Z")
"""The name of a Debian package, optionally with an architecture and a version."""
KEY = re.compile(r"[0-9a-z]{8,40}\Z")
"""A run's key."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
"""The name of an environment variable."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")


class SpecError(ValueError):
    """A spec, or a part of one, that can't be right. The message is one line without a full stop."""


class ResourceRef(NamedTuple):
    """An upload or a run's outputs as the agent finds them; `sub` is a path below it.

    An upload has a name, and optionally the version or the digest that is meant; a run has a key, and the number by
    which its client calls it.
    """

    kind: str  # "upload" or "run"
    name: str = ""
    key: str = ""
    number: int = 0
    sub: str = ""
    version: Optional[int] = None
    digest: Optional[str] = None

    @property
    def typed(self) -> str:
        """As a user types it."""
        top = "uploads/" + self.name if self.kind == "upload" else "runs/%s" % (self.number or self.key)
        return top + ("/" + self.sub if self.sub else "")

    def to_record(self) -> Dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value not in ("", 0, None)}

    @classmethod
    def from_record(cls, record: Any) -> "ResourceRef":
        """Raises `SpecError`."""
        fields = _Fields(record, "resource")
        kind = fields.text("kind")
        if kind not in ("upload", "run"):
            raise SpecError("resource.kind is neither upload nor run: %s" % show(kind[:80]))
        return cls(
            kind,
            fields.text("name", "" if kind == "run" else None),
            fields.text("key", "" if kind == "upload" else None),
            fields.whole("number", 0),
            fields.path("sub"),
            fields.optional("version", fields.whole),
            fields.optional("digest", fields.digest),
        )


class MountSpec(NamedTuple):
    """A mount as the user asked for it. `place` is absolute, or relative to the top of the work tree; `path` is the
    same as typed."""

    typed: str
    path: str
    place: str
    resource: ResourceRef

    @property
    def is_absolute(self) -> bool:
        return self.place.startswith("/")

    def to_record(self) -> Dict[str, Any]:
        return dict(self._asdict(), resource=self.resource.to_record())

    @classmethod
    def from_record(cls, record: Any) -> "MountSpec":
        """Raises `SpecError`."""
        fields = _Fields(record, "mount")
        place = fields.text("place")
        _check_place(place)
        return cls(
            fields.text("typed", ""),
            fields.text("path", place),
            place,
            ResourceRef.from_record(fields.record.get("resource")),
        )


class ResolvedMount(NamedTuple):
    """What the agent found for a mount: the tree that is mounted, kept as a blob, and `file`, the name of the one file
    that the tree holds when a file is mounted ("" for a folder)."""

    place: str
    tree: str
    file: str = ""

    @property
    def is_absolute(self) -> bool:
        return self.place.startswith("/")

    @classmethod
    def from_record(cls, record: Any) -> "ResolvedMount":
        """Raises `SpecError`."""
        fields = _Fields(record, "mount")
        place = fields.text("place")
        _check_place(place)
        return cls(place, fields.digest("tree"), fields.text("file", ""))


class EnvironmentSpec(NamedTuple):
    """`image` is a base image that the user named, or None for the bundled one; `base` the image under the bundled one,
    such as python:3.12-slim; `variant` "cpu" or "gpu": which requirements the bundled image installs; `context` the
    digest of the tree that holds docker/ and trainer/; `requirements` the text of a requirements file."""

    image: Optional[str]
    base: str
    variant: str
    context: str
    apt: Tuple[str, ...] = ()
    pip: Tuple[str, ...] = ()
    requirements: str = ""

    def to_record(self) -> Dict[str, Any]:
        return dict(self._asdict(), apt=list(self.apt), pip=list(self.pip))

    @classmethod
    def from_record(cls, record: Any) -> "EnvironmentSpec":
        """Raises `SpecError`."""
        fields = _Fields(record, "environment")
        variant = fields.text("variant")
        if variant not in ("cpu", "gpu"):
            raise SpecError("environment.variant is neither cpu nor gpu: %s" % show(variant[:80]))
        apt = fields.texts("apt")
        for name in apt:
            if not APT_NAME.match(name):
                raise SpecError("%s is not the name of a Debian package" % show(name[:80]))
        return cls(
            fields.optional("image", fields.text),
            fields.text("base"),
            variant,
            fields.digest("context"),
            apt,
            fields.texts("pip"),
            fields.text("requirements", ""),
        )


class GitState(NamedTuple):
    """The commit that was checked out. `dirty`: there were uncommitted changes; `diff` is the digest of the blob that
    holds them."""

    commit: str
    branch: Optional[str] = None
    remote: Optional[str] = None
    dirty: bool = False
    diff: Optional[str] = None

    def to_record(self) -> Dict[str, Any]:
        return dict(self._asdict())

    @classmethod
    def from_record(cls, record: Any) -> "GitState":
        """Raises `SpecError`."""
        fields = _Fields(record, "git")
        return cls(
            fields.text("commit"),
            fields.optional("branch", fields.text),
            fields.optional("remote", fields.text),
            fields.flag("dirty"),
            fields.optional("diff", fields.digest),
        )


class RunSpec(NamedTuple):
    """One run as it was asked for. `source` is the digest of the source tree, `workdir` the folder of it in which the
    command starts ("" is its top). `env` holds the variables that remoterun sets; of those that the user set,
    `asked_env` holds the names only. `timeout` is in seconds, `created` in seconds since 1970."""

    key: str
    number: int
    created: float
    machine: str
    command: str
    environment: EnvironmentSpec
    workdir: str = ""
    source: str = ""
    mounts: Tuple[MountSpec, ...] = ()
    env: Tuple[Tuple[str, str], ...] = ()
    asked_env: Tuple[str, ...] = ()
    engine: str = "auto"
    gpus: int = 0
    slots: Optional[int] = None
    timeout: Optional[float] = None
    description: Optional[str] = None
    labels: Tuple[str, ...] = ()
    git: Optional[GitState] = None

    def to_record(self) -> Dict[str, Any]:
        """As JSON, for spec.json, the wire and `info --json`."""
        record: Dict[str, Any] = {"format": FORMAT}
        record.update(self._asdict())
        record.update(
            environment=self.environment.to_record(),
            mounts=[mount.to_record() for mount in self.mounts],
            env=dict(self.env),
            asked_env=list(self.asked_env),
            labels=list(self.labels),
            git=self.git.to_record() if self.git is not None else None,
        )
        return record

    @classmethod
    def from_record(cls, record: Any) -> "RunSpec":
        """The spec that `to_record` made, also one of an older format. Every field is checked. Raises `SpecError`."""
        fields = _Fields(record, "spec")
        format = fields.whole("format", 1)
        if format > FORMAT:
            raise SpecError("spec format %d is of a newer remoterun: upgrade this one" % format)
        if format == 1:
            fields = _Fields(_accepted_in_format_1(fields.record), "spec")
        key = fields.text("key")
        if not KEY.match(key):
            raise SpecError("%s is not the key of a run" % show(key[:80]))
        asked = fields.texts("asked_env")
        env = check_variables(fields.mapping("env"))
        engine = fields.text("engine", "auto")
        if not _WORD.match(engine):
            raise SpecError("%s is not the name of an engine" % show(engine[:80]))
        for name in asked:
            _check_name(name)
        return cls(
            key,
            fields.whole("number", 0),
            fields.number("created", 0.0),
            fields.text("machine", ""),
            fields.text("command"),
            EnvironmentSpec.from_record(fields.record.get("environment")),
            fields.path("workdir"),
            fields.digest("source") if fields.record.get("source") else "",
            tuple(MountSpec.from_record(mount) for mount in fields.items("mounts")),
            tuple((name, value) for name, value in sorted(env.items()) if name not in asked),
            asked,
            engine,
            fields.whole("gpus", 0),
            fields.optional("slots", fields.positive),
            fields.optional("timeout", fields.duration),
            fields.optional("description", fields.text),
            fields.texts("labels"),
            fields.optional_record("git", GitState.from_record),
        )

    def encode(self) -> bytes:
        """Raises `SpecError` for a spec that is too large, or that `decode` would refuse."""
        record = self.to_record()
        RunSpec.from_record(record)
        data = json.dumps(record).encode()
        if len(data) > MOST_BYTES:
            raise SpecError("the run's spec has %d MiB, and %d are allowed" % (len(data) >> 20, MOST_BYTES >> 20))
        return data

    @classmethod
    def decode(cls, data: bytes) -> "RunSpec":
        """Raises `SpecError`."""
        return cls.from_record(_json(data))


class Submission(NamedTuple):
    """The body of the request `submit`: the spec, the values of the user's variables, and the source's manifest, each
    but the last with its length before it (u32)."""

    spec: RunSpec
    values: Mapping[str, str]
    source: bytes

    def encode(self) -> bytes:
        """Raises `SpecError`."""
        spec, values = self.spec.encode(), encode_values(self.values)
        return _LENGTH.pack(len(spec)) + spec + _LENGTH.pack(len(values)) + values + self.source

    @classmethod
    def decode(cls, body: bytes) -> "Submission":
        """Raises `SpecError`."""
        spec, rest = _part(body)
        values, source = _part(rest)
        return cls(RunSpec.decode(spec), decode_values(values), source)


_LENGTH = struct.Struct("!I")


def _part(body: bytes) -> Tuple[bytes, bytes]:
    size = _LENGTH.size
    length = _LENGTH.unpack(body[:size])[0] if len(body) >= size else 0
    if not 0 < length <= min(MOST_BYTES, len(body) - size):
        raise SpecError("a spec of %d bytes where %d bytes came" % (length, len(body)))
    return body[size : size + length], body[size + length :]


def encode_values(values: Mapping[str, str]) -> bytes:
    """The values of the user's variables as JSON. Raises `SpecError`."""
    return json.dumps(check_variables(values)).encode()


def decode_values(data: bytes) -> Dict[str, str]:
    """Raises `SpecError`."""
    return check_variables(_json(data))


def encode_resolved(mounts: Tuple[ResolvedMount, ...]) -> bytes:
    return json.dumps([dict(mount._asdict()) for mount in mounts]).encode()


def decode_resolved(data: bytes) -> Tuple[ResolvedMount, ...]:
    """Raises `SpecError`."""
    return tuple(ResolvedMount.from_record(mount) for mount in _list(_json(data), "mounts"))


def _accepted_in_format_1(record: Dict[str, Any]) -> Dict[str, Any]:
    """`record` without what format 1 accepted and later ones refuse: runs of that time must stay readable."""
    timeout, labels, env = record.get("timeout"), record.get("labels"), record.get("env")
    if isinstance(timeout, (int, float)) and timeout <= 0:
        timeout = None
    if isinstance(labels, list):
        labels = [str(label) for label in labels]
    if isinstance(env, dict):
        env = {name: value for name, value in env.items() if VARIABLE.match(name) and isinstance(value, str)}
    return dict(record, timeout=timeout, labels=labels, env=env)


def values_of_format_1(data: bytes) -> Dict[str, str]:
    """The user's variables that a spec.json of format 1 holds; none in one of another format. Raises `SpecError`."""
    fields = _Fields(_json(data), "spec")
    if fields.whole("format", 1) != 1:
        return {}
    asked = fields.texts("asked_env")
    return {name: value for name, value in fields.mapping("env").items() if name in asked}


def resolved_of_format_1(data: bytes) -> Tuple[ResolvedMount, ...]:
    """The mounts that a spec.json of format 1 holds as the agent resolved them. Raises `SpecError`."""
    fields = _Fields(_json(data), "spec")
    return tuple(ResolvedMount.from_record(mount) for mount in fields.items("mounts"))


def check_variables(variables: Any) -> Dict[str, str]:
    """`variables` if they can be an environment. Raises `SpecError`, which names no value: it may be a secret."""
    if not isinstance(variables, Mapping):
        raise SpecError("the variables are not a table")
    for name, value in variables.items():
        _check_name(name)
        if not isinstance(value, str) or "\0" in value:
            raise SpecError("the value of %s is not a text without zero bytes" % name)
        if len(name) + len(value.encode("utf-8", "surrogatepass")) + 2 > MOST_VALUE:
            raise SpecError("the value of %s has more than %d KiB" % (name, MOST_VALUE >> 10))
    return dict(variables)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not VARIABLE.match(name):
        raise SpecError("%s is not the name of an environment variable" % show(str(name)[:80]))


def _check_place(place: str) -> None:
    try:
        check_path(place[1:] if place.startswith("/") else place)
    except TreeError as error:
        raise SpecError("mount.place: %s" % error)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SpecError("it is not JSON: %s" % error)


def _list(value: Any, what: str) -> List[Any]:
    if not isinstance(value, (list, tuple)):
        raise SpecError("%s is not a list" % what)
    return list(value)


_T = TypeVar("_T")


class _Fields:
    """The fields of a JSON object that nobody has checked yet. Each method returns one, or raises `SpecError`."""

    def __init__(self, record: Any, what: str) -> None:
        if not isinstance(record, dict):
            raise SpecError("%s is not an object" % what)
        self.record: Dict[str, Any] = record
        self._what = what

    def text(self, name: str, default: Optional[str] = None) -> str:
        value = self.record.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or "\0" in value:
            raise self._wrong(name, "a text without zero bytes")
        return value

    def texts(self, name: str) -> Tuple[str, ...]:
        values = self.items(name)
        if not all(isinstance(value, str) and "\0" not in value for value in values):
            raise self._wrong(name, "a list of texts without zero bytes")
        return tuple(values)

    def whole(self, name: str, default: Optional[int] = None) -> int:
        value = self.record.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise self._wrong(name, "a whole number from 0 on")
        return value

    def positive(self, name: str) -> int:
        value = self.whole(name)
        if not value:
            raise self._wrong(name, "a whole number from 1 on")
        return value

    def number(self, name: str, default: Optional[float] = None) -> float:
        value = self.record.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1 << 40:
            raise self._wrong(name, "a number from 0 on")
        return float(value)

    def duration(self, name: str) -> float:
        value = self.number(name)
        if not value:
            raise self._wrong(name, "a time above 0 s")
        return value

    def flag(self, name: str) -> bool:
        value = self.record.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def digest(self, name: str) -> str:
        value = self.text(name)
        if not is_digest(value):
            raise self._wrong(name, "a digest")
        return value

    def path(self, name: str) -> str:
        """A path inside a tree; "" is its top."""
        value = self.text(name, "")
        try:
            return check_path(value) if value else ""
        except TreeError as error:
            raise SpecError("%s.%s: %s" % (self._what, name, error))

    def items(self, name: str) -> List[Any]:
        value = self.record.get(name)
        return [] if value is None else _list(value, "%s.%s" % (self._what, name))

    def mapping(self, name: str) -> Any:
        value = self.record.get(name)
        return {} if value is None else value

    def optional(self, name: str, read: Callable[[str], _T]) -> Optional[_T]:
        return None if self.record.get(name) is None else read(name)

    def optional_record(self, name: str, read: Callable[[Any], _T]) -> Optional[_T]:
        value = self.record.get(name)
        return None if value is None else read(value)

    def _wrong(self, name: str, wanted: str) -> SpecError:
        return SpecError("%s.%s is not %s" % (self._what, name, wanted))
