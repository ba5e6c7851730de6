"""What was asked of a run, as both sides understand it: the types, their JSON, and the checks on the way in.

The client makes a `RunSpec`, the agent saves it as spec.json, and nobody changes it afterwards. `Submission` (in
submission.py) adds what else is handed over.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Mapping, Optional, Tuple

from .asked import HandedOn, Packages
from .asked import PortSpec as PortSpec
from .records import BadRecord, Record, from_json, parse, to_json
from .tree import TreeError, check_path, is_digest, show

FORMAT = 2
"""Format 1 held the values of the user's variables in `env`, and what was found for each mount in `mounts`."""
BASE_IMAGE = "python:3.12-slim"
"""The image under the bundled one, unless the machine has another."""
TENSORFLOW, PYTHON, NONE = "tensorflow", "python", "none"
FRAMEWORKS = (NONE, PYTHON, TENSORFLOW)
"""What an environment holds before the user's packages: nothing at all, Python with pip, or TensorFlow, matplotlib and
the trainer."""
MOST_BYTES = 16 << 20
"""Bytes of a spec's JSON."""
MOST_VALUE = 128 << 10
"""Bytes of NAME=VALUE with its final zero byte: the kernel hands no longer string to a program (MAX_ARG_STRLEN)."""

KEY = re.compile(r"[0-9a-z]{8,40}\Z")
"""A run's key."""
UPLOAD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
"""The name of an environment variable."""
BUCKET = re.compile(r"[a-z0-9]{1,20}://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
IMAGE_NAME = re.compile(r"remoterun-(base|env):[0-9a-f]{16}\Z")
"""An image that was built (see environment.py)."""
_WORD = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
PRINTABLE = re.compile(r"[ -~]*\Z")


class SpecError(ValueError):
    """A spec, or a part of one, that can't be right. The message is one line without a full stop."""


class ResourceRef(Record):
    """An upload or a run's outputs as the agent finds them; `sub` is a path below it.

    An upload has a name, and optionally the version or the digest that is meant; a run has a key, and the number by
    which its client calls it. "source" is what a run was given, "tree" any tree that the home keeps, by its digest.
    """

    kind: str  # "upload", "run", "source" or "tree"
    name: str = ""
    key: str = ""
    number: int = 0
    sub: str = ""
    digest: Optional[str] = None

    @property
    def typed(self) -> str:
        """As a user types it."""
        if self.kind == "tree":
            top = "the tree %s" % (self.digest or "")[:12]
        else:
            top = "uploads/" + self.name if self.kind == "upload" else "runs/%s" % (self.number or self.key)
        return top + ("/" + self.sub if self.sub else "")

    def check(self) -> "ResourceRef":
        """Itself. Raises `SpecError`."""
        named = {"upload": self.name, "run": self.key, "source": self.key, "tree": self.digest}
        require(self.kind in named, "a resource is an upload or a run, and not %s" % show(self.kind[:80]))
        require(bool(named[self.kind]), "a resource without a name")
        require(self.digest is None or is_digest(self.digest), "a resource with something else than a digest")
        _check_path(self.sub)
        return self


class MountSpec(Record):
    """A mount as the user asked for it. `place` is absolute, or relative to the top of the work tree; `path` is the
    same as typed."""

    typed: str
    path: str
    place: str
    resource: ResourceRef

    @property
    def is_absolute(self) -> bool:
        return self.place.startswith("/")


class ResolvedMount(Record):
    """What the agent found for a mount: the tree that is mounted, kept as a blob, and `file`, the name of the one file
    that the tree holds when a file is mounted ("" for a folder)."""

    place: str
    tree: str
    file: str = ""

    @property
    def is_absolute(self) -> bool:
        return self.place.startswith("/")


class EnvironmentSpec(Packages):
    base: str
    """The image under the bundled one, such as python:3.12-slim; `image` is the one that the user named."""
    variant: str
    """Which requirements the bundled image installs, unless the GPUs need others (see `ResolvedEnvironment`): "cpu" or
    "gpu"; or the framework, where that is not TensorFlow: "python" or "none"."""
    context: str
    """The digest of the tree that holds docker/ and trainer/."""

    @property
    def framework(self) -> str:
        """One of `FRAMEWORKS`."""
        return self.variant if self.variant in (NONE, PYTHON) else TENSORFLOW


class ResolvedEnvironment(Record):
    """What the agent found for the bundled environment that was asked for: the `variant` whose requirements fit the
    run's GPUs, and the image `base` under it."""

    variant: str
    base: str


class GitState(Record):
    """The commit that was checked out. `dirty`: there were uncommitted changes; `diff` is the digest of the blob that
    holds them."""

    commit: str
    branch: Optional[str] = None
    remote: Optional[str] = None
    dirty: bool = False
    diff: Optional[str] = None


class After(Record):
    """Another run of the same home, which must have ended before this one starts: completed, or with `any` however it
    ended."""

    key: str
    number: int
    any: bool = False


class Scheduling(Record):
    """The settings of a machine for its scheduler, in the words of that; "" for what is left to it."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: Optional[float] = None
    """The time limit of a run that has none of its own, in seconds."""
    setup: str = ""
    """Lines for the shell in which a job starts, such as `module load cuda`."""
    slurm: str = ""
    """More options of sbatch."""
    build: str = ""
    """"login": environments are built on the login node, before a run has its job; "": in the job."""


class RunSpec(HandedOn):
    """One run as it was asked for."""

    key: str
    number: int
    """By which its client calls it."""
    created: float
    """In seconds since 1970."""
    machine: str
    command: str
    """Text for `sh -c`."""
    environment: EnvironmentSpec
    workdir: str = ""
    """The folder of the source in which the command starts; "" is its top."""
    source: str = ""
    """The digest of the source tree."""
    mounts: Tuple[MountSpec, ...] = ()
    env: Dict[str, str] = {}
    """The variables that remoterun sets."""
    asked_env: Tuple[str, ...] = ()
    """The names of the variables that the user set."""
    secrets: Dict[str, str] = {}
    """For those of them that come from a secret of the user's, its name."""
    engine: str = "auto"
    gpus: int = 0
    slots: Optional[int] = None
    queue: str = ""
    """Where it waits, and what starts it: a scheduler of its host, or "", the line that remoterun keeps there."""
    scheduling: Optional[Scheduling] = None
    git: Optional[GitState] = None
    bucket: str = ""
    """What gets the outputs, the log and the records of the run before it is final: "s3://NAME", or ""."""
    until: Optional[float] = None
    """When the command is ended as by `timeout`, in seconds since 1970: its host goes away a while later."""
    attempt: int = 1
    """Counts the hosts that the run was given to, from 1 on."""
    log_before: int = 0
    """Bytes of the log that earlier attempts wrote, which the bucket has: what this host adds comes after them."""
    err_before: int = 0
    """The same of its stderr, where that is apart."""
    attempts: int = 1
    """How often this host may start the command, if the host goes down under it or its engine loses it."""
    again: str = ""
    """The key of the run that this one repeats."""
    stdin: str = ""
    """The file of the work tree that the command reads as its standard input, which else is empty."""
    notify: Tuple[str, ...] = ()
    """Who gets word when it ends: each by what may be shown of the address."""
    after: Tuple[After, ...] = ()
    params: Dict[str, str] = {}
    """Its parameters, as far as variables `REMOTERUN_PARAM_NAME` of the user name them."""
    of: str = ""
    """The key of the first run of the set that it is one of."""
    at_once: int = 0
    """How many runs of that set may be at work at the same time; 0 for any number."""

    def to_record(self) -> Dict[str, Any]:
        """As JSON, for spec.json, the wire and `info --json`."""
        return dict(to_json(self), format=FORMAT)

    @classmethod
    def from_record(cls, record: Any) -> "RunSpec":
        """The spec that `to_record` made. Raises `SpecError`."""
        format = record.get("format") if isinstance(record, dict) else None
        if isinstance(format, int) and format > FORMAT:
            raise SpecError("spec format %d is of a newer remoterun: upgrade this one" % min(format, 10**9))
        require(format == FORMAT, "it has no format that a spec can have")
        try:
            return from_json(cls, record).check()
        except BadRecord as error:
            raise SpecError(str(error))

    def check(self) -> "RunSpec":
        """Itself, if every field can be right. Raises `SpecError`."""
        require(not has_zero_byte(self), "a text with a zero byte")
        require(bool(KEY.match(self.key)), "%s is not the key of a run" % show(self.key[:80]))
        require(self.number >= 0 and self.created >= 0, "the number and the time of a run are not below 0")
        _check_path(self.workdir)
        require(not self.source or is_digest(self.source), "the source is not a digest")
        check_variables(self.env)
        for name in (*self.asked_env, *self.secrets.values()):
            _check_name(name)
        require(set(self.secrets) <= set(self.asked_env), "a secret for a variable that was not asked for")
        require(bool(_WORD.match(self.engine)), "%s is not the name of an engine" % show(self.engine[:80]))
        require(not self.queue or bool(_WORD.match(self.queue)), "%s is not a queue" % show(self.queue[:80]))
        require(self.gpus >= 0, "the GPUs of a run are not below 0")
        require(self.slots is None or self.slots > 0, "a machine has a slot at least")
        require(not self.bucket or bool(BUCKET.match(self.bucket)), "%s is not a bucket" % show(self.bucket[:80]))
        require(self.attempt > 0 and self.attempts > 0, "the attempts of a run count from 1 on")
        require(not self.again or bool(KEY.match(self.again)), "%s is not the key of a run" % show(self.again[:80]))
        require(not self.of or bool(KEY.match(self.of)), "%s is not the key of a run" % show(self.of[:80]))
        require(0 <= self.at_once <= bool(self.of) * 10**6, "some runs at once, of no set")
        require(self.log_before >= 0 and self.err_before >= 0, "no log has less than 0 bytes")
        for other in self.after:
            require(bool(KEY.match(other.key)) and other.number > 0, "a run waits for something that is not a run")
            require(other.key != self.key, "a run does not wait for itself")
        require(not (self.beside and self.gpus), "a run beside the others has no GPUs")
        _check_path(self.stdin)
        for shown in self.notify:
            require(bool(PRINTABLE.match(shown)) and len(shown) < 300, "who gets word of it has no such name")
        for mount in self.mounts:
            require(bool(mount.place), "a mount without a place")
            _check_path(mount.place[1:] if mount.place.startswith("/") else mount.place)
            mount.resource.check()
        about = self.environment
        known = about.variant in ("cpu", "gpu", PYTHON, NONE)
        require(known, "%s is not a variant of the environment" % show(about.variant[:80]))
        bare = about.variant != NONE or not (about.pip or about.requirements)
        require(bare, "without a framework no Python packages are installed")
        require(is_digest(about.context), "the environment's context is not a digest")
        for part in (self, about):
            for name, option in part._options.items():
                wrong = option.wrong(getattr(part, name))
                require(not wrong, wrong)
        require(self.git is None or self.git.diff is None or is_digest(self.git.diff), "the diff is not a digest")
        return self

    def encode(self) -> bytes:
        """Raises `SpecError` for a spec that is too large, or that `decode` would refuse."""
        self.check()
        data = json.dumps(self.to_record()).encode()
        if len(data) > MOST_BYTES:
            raise SpecError("the run's spec has %d MiB, and %d are allowed" % (len(data) >> 20, MOST_BYTES >> 20))
        return data

    @classmethod
    def decode(cls, data: bytes) -> "RunSpec":
        """Raises `SpecError`."""
        try:
            record = parse(data)
        except ValueError as error:
            raise SpecError("it is not JSON: %s" % error)
        return cls.from_record(record)


def check_variables(variables: Mapping[str, str]) -> None:
    """Raises `SpecError` for what can't be an environment, which names no value: it may be a secret."""
    for name, value in variables.items():
        _check_name(name)
        is_text = isinstance(value, str) and "\0" not in value  # a user of the library may pass anything
        require(is_text, "the value of %s is not a text without zero bytes" % name)
        if len(name) + len(value.encode("utf-8", "surrogatepass")) + 2 > MOST_VALUE:
            raise SpecError("the value of %s has more than %d KiB" % (name, MOST_VALUE >> 10))


def _check_name(name: str) -> None:
    is_name = isinstance(name, str) and VARIABLE.match(name)
    require(bool(is_name), "%s is not the name of an environment variable" % show(str(name)[:80]))


def _check_path(path: str) -> None:
    try:
        if path:
            check_path(path)
    except TreeError as error:
        raise SpecError(str(error))


def require(right: bool, message: str) -> None:
    if not right:
        raise SpecError(message)


def has_zero_byte(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(has_zero_byte, value)) or any(map(has_zero_byte, value.values()))
    return isinstance(value, tuple) and any(map(has_zero_byte, value))
