"""What users name: resources, mounts, runs, uploads, machine types. Nothing here touches a disk.

Longer than other files: these nouns refer to each other, and whoever looks for one finds all of them here.
"""

from __future__ import annotations

import difflib
import posixpath
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from remoterun.agent.shared.api import UploadVersion
from remoterun.agent.shared.spec import BASE_IMAGE, UPLOAD_NAME, PortSpec
from remoterun.agent.shared.states import ENDINGS, FINAL, Reason, RunEvent, RunState, RunStatus
from remoterun.agent.shared.tree import TreeError, check_path, is_digest, show
from remoterun.errors import HostError, UsageError

LAST = "last"
ALL_GPUS = -1
"""In place of a number of GPUs: as many as the machine has."""
_KEY_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class Resource:
    """A path that a user types: `uploads/NAME[@VERSION][/sub]` or `runs/N[/sub]`. `name` is the upload's name or the
    run number; without a `version` the newest one is meant.

    `trailing` tells whether it was typed with a slash at its end.
    """

    kind: str  # "uploads" or "runs"
    name: str = ""
    sub: str = ""
    trailing: bool = field(default=False, compare=False)
    version: int | None = None

    def __str__(self) -> str:
        version = f"@{self.version}" if self.version is not None else ""
        return "/".join(part for part in (self.kind, self.name + version, self.sub) if part)

    @classmethod
    def parse(cls, text: str, *, whole_kind: bool = False) -> Resource:
        """The resource in `text`; `whole_kind` allows a bare `uploads` or `runs`. Raises `UsageError`."""
        form = "a resource is uploads/NAME[@VERSION][/path] or runs/N[/path]"
        if text.startswith("/"):
            raise UsageError(f"`{show(text)}` is not a resource: it starts with a slash", hint=form)
        kind, _, rest = text.partition("/")
        if kind not in ("uploads", "runs"):
            close = difflib.get_close_matches(kind, ["uploads", "runs"], 1, 0.6)
            meant = f"{close[0]}/…" if close else ""
            if not close and (kind == LAST or kind.isdecimal()):
                meant = f"runs/{text}"
            elif not close and UPLOAD_NAME.match(kind):
                meant = f"uploads/{text}"
            hint = f"did you mean `{meant}`? {form}" if meant else form
            raise UsageError(f"`{show(text)}` is not a resource", hint=hint)
        name, _, sub = rest.partition("/")
        trailing = rest.endswith("/")
        sub = sub.rstrip("/")
        if not name:
            if whole_kind:
                return cls(kind)
            raise UsageError(f"`{show(text)}` names no {kind[:-1]}", hint=form)
        version = None
        if kind == "runs":
            if name != LAST and not name.isdecimal():
                raise UsageError(f"`{show(name)}` is not a run number", hint="remoterun ps")
        else:
            name, at, number = name.partition("@")
            check_upload_name(name, "remoterun ls uploads")
            version = parse_version(number, name) if at else None
        if sub:
            try:
                check_path(sub)
            except TreeError as error:
                raise UsageError(str(error), hint=form)
        return cls(kind, name, sub, trailing, version)

    @classmethod
    def is_one(cls, text: str) -> bool:
        """Whether `text` is meant as a resource rather than as a local path."""
        return text.split("/", 1)[0] in ("uploads", "runs")


def parse_version(text: str, name: str) -> int:
    """The number of a version in `3` or `v3`, of the upload `name`. Raises `UsageError`."""
    digits = text.removeprefix("v")
    if not re.fullmatch("0*[1-9][0-9]{0,8}", digits):
        raise UsageError(
            f"`{show(text)}` is not the number of a version", hint=f"remoterun ls uploads/{name} --versions"
        )
    return int(digits)


def check_upload_name(name: str, hint: str | None = None) -> str:
    """`name` if an upload may be called so. Raises `UsageError`, by default with a name that would do as its hint."""
    if not UPLOAD_NAME.match(name):
        fixed = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
        raise UsageError(
            f"`{show(name)}` is not a name for an upload: it has up to 100 letters, digits, `.`, `_` and `-`",
            hint=hint or f"--name {fixed[:100] or 'NAME'}",
        )
    return name


@dataclass(frozen=True)
class Mount:
    """`RESOURCE[:PATH]`. `path` as typed: relative to the working directory, or absolute."""

    resource: Resource
    path: str

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Raises `UsageError`. Without a path it is the resource's base name."""
        typed, colon, path = text.partition(":")
        resource = Resource.parse(typed)
        if colon and (not path or ":" in path):
            raise UsageError(
                f"`{show(text)}` is not a mount", hint="a mount is RESOURCE[:PATH], such as uploads/doom:data"
            )
        if not path:
            path = posixpath.basename(resource.sub or resource.name)
        if "\0" in path or "," in path:
            raise UsageError(f"`{show(path)}` can't be the path of a mount")
        return cls(resource, path)

    def place(self, workdir: str) -> str:
        """Where it goes: absolute, or relative to the top of the work tree. Raises `UsageError` if it leaves that."""
        if self.path.startswith("/"):
            place = "/" + posixpath.normpath(self.path).lstrip("/")
            if place in ("/", "/.remoterun", "/remoterun") or place.startswith("/.remoterun/"):
                raise UsageError(f"nothing can be mounted at `{show(self.path)}`", hint=f"-m {self.resource}:data")
            return place
        place = posixpath.normpath(posixpath.join(workdir, self.path))
        if place == "." or place == ".." or place.startswith("../"):
            raise UsageError(
                f"nothing can be mounted at `{show(self.path)}`: a relative path lies below the working directory",
                hint=f"-m {self.resource}:data",
            )
        try:
            return check_path(place)
        except TreeError as error:
            raise UsageError(str(error))


@dataclass(frozen=True)
class Rental:
    """What is asked of a provider, for a machine type whose host is rented for a run. `types` are tried in their order.

    `disk` in GB, `idle` in seconds, `max_hours` in hours, `max_cost` in US dollars; None: what the provider's defaults
    say. `attempts`: hosts that one run may be given, one after the other. `instead_of` is the type that was asked for
    where the provider has no such machine any more ("k80").
    """

    provider: str
    types: tuple[str, ...]
    region: str | None = None
    spot: bool = False
    disk: int | None = None
    idle: float | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    image: str | None = None
    attempts: int | None = None
    instead_of: str | None = None


@dataclass(frozen=True)
class MachineType:
    """What `-t` names, resolved. `host` is None for the machine in front of us, else what ssh would be given.

    One with a `rental` has no host before a provider gave one for a run; that host is another `MachineType`, whose
    `rented` is the token by which its provider knows it, and whose `ssh_config` is read instead of the user's. One with
    a `bucket` ("s3://NAME") is a home without a machine. One with a `pool` stands for the machines of these names: a
    run on it goes to one of them.
    """

    name: str
    host: str | None = None
    engine: str = "auto"
    gpus: int = 0
    slots: int | None = None
    base_image: str = BASE_IMAGE
    home: str | None = None
    python: str | None = None
    connect_timeout: float = 10.0
    rental: Rental | None = None
    rented: str | None = None
    ssh_config: str | None = None
    bucket: str | None = None
    pool: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where its home is: machine types that differ in other things share one."""
        return self.host, self.home, self.bucket

    @property
    def reached_by(self) -> str:
        """The kind of host that it is, a key of `hosts.HOSTS`. Not of one that has yet to be rented, or of a pool."""
        if self.bucket is not None:
            return "bucket"
        return "local" if self.host is None else "ssh"

    def record(self) -> dict[str, Any]:
        """As JSON, for the registry: a run must be found again when the configuration has changed."""
        known = {name: value for name, value in self.__dict__.items() if value not in (None, ())}
        if self.rental is not None:
            known["rental"] = {name: value for name, value in self.rental.__dict__.items() if value is not None}
        return known

    @classmethod
    def of(cls, record: dict[str, Any]) -> MachineType:
        known = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        rental = known.get("rental")
        if isinstance(rental, dict):
            fields = {name: value for name, value in rental.items() if name in Rental.__dataclass_fields__}
            known["rental"] = Rental(**{**fields, "types": tuple(fields.get("types", ()))})
        return cls(**{**known, "pool": tuple(known.get("pool", ()))})


@dataclass(frozen=True)
class Placement:
    """A host that was got for a run: the machine to open, and the home on it that has the run."""

    machine: MachineType
    home_id: str


@dataclass(frozen=True)
class HostUse:
    """A rented host as one run had it. `token` is that of the host, which may have been rented for an earlier run;
    `id`, `type` and `zone` are its provider's words; `price` in US dollars an hour, `limit` what an hour can come to.
    Times in seconds since 1970; `ended` is None while the run has it. The host stays `idle` seconds for another run,
    and is gone by its `deadline`."""

    token: str
    id: str
    type: str
    zone: str
    price: float | None
    began: float
    ended: float | None = None
    limit: float | None = None
    idle: float = 0.0
    deadline: float = 0.0

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far, without the host's disk and its traffic: as its price was when it began, or `at_most`."""
        price = self.price if self.limit is None or not at_most else self.limit
        return None if price is None else max((self.ended or now) - self.began, 0.0) / 3600 * price

    @property
    def stays_until(self) -> float | None:
        """When it ends if no other run comes; None while the run has it."""
        return None if self.ended is None else max(min(self.ended + self.idle, self.deadline), self.ended)

    @property
    def idle_cost(self) -> float | None:
        """US dollars that it costs at the most from the end of the run until then."""
        until = self.stays_until
        if until is None or self.ended is None or self.price is None:
            return None
        return (until - self.ended) / 3600 * (self.limit or self.price)


@dataclass(frozen=True)
class Renting:
    """What is known of the hosts that a run has had, newest last. `deadline` (seconds since 1970) is for all of its
    `attempts` together. `bucket` ("s3://NAME") keeps what it leaves, in the home `bucket_home`, into which its
    host may write until `grant_ends`. `log_before`: bytes of the log that earlier attempts wrote, and
    `err_before` of stderr where that is apart. `asked`: the digest
    of what the user asked for, as a host that is in other hands may write another spec there."""

    deadline: float
    attempts: int = 1
    attempt: int = 1
    bucket: str = ""
    bucket_home: str = ""
    grant_ends: float = 0.0
    log_before: int = 0
    err_before: int = 0
    asked: str = ""
    hosts: tuple[HostUse, ...] = ()

    def cost(self, now: float, at_most: bool = False) -> float | None:
        """US dollars so far; None where the price of a host is not known. See `HostUse.cost`."""
        costs = [host.cost(now, at_most) for host in self.hosts]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def left_at(self, moment: float) -> Renting:
        """Without a host from then on."""
        *earlier, last = self.hosts
        return replace(self, hosts=(*earlier, replace(last, ended=moment)))

    def record(self) -> dict[str, Any]:
        """As JSON, for the registry."""
        return {**self.__dict__, "hosts": [host.__dict__ for host in self.hosts]}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Renting:
        known = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        fields = HostUse.__dataclass_fields__
        hosts = [HostUse(**{name: host[name] for name in host if name in fields}) for host in known.get("hosts", ())]
        return cls(**{**known, "hosts": tuple(hosts)})


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for, before it becomes a run. `command` is text for `sh -c`; `secrets` are pairs (variable, name
    of the secret that is its value); `framework` is "none", "python" or "tensorflow", None for the one that the code
    needs; `options`, those of `remoterun run` that ask for the same again, are told to it; `timeout` in seconds;
    `stdin` is a file that the command reads as its standard input; with `split` what it writes to stderr is not in the
    log, but apart; `beside` the other runs of its machine it takes no slot, and waits for none; `notify`: who gets word
    when it ends, addresses or names of secrets, None as config.toml says. `spot`, `attempts`, `max_hours` and
    `max_cost` stand in the place of those of a `Rental`, `gpus` (a number, or `ALL_GPUS`) in that of the machine
    type's; `ports` are forwarded while a client follows the run. It starts when the runs `after` have completed, and
    `after_any` have ended, which are on its machine. `Runs.prepare` refuses what can't be asked for."""

    command: str
    mounts: tuple[Mount, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[tuple[str, str], ...] = ()
    pip: tuple[str, ...] = ()
    requirements: str = ""
    apt: tuple[str, ...] = ()
    image: str | None = None
    framework: str | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    timeout: float | None = None
    options: str = ""
    stdin: Path | None = None
    split: bool = False
    beside: bool = False
    spot: bool = False
    attempts: int | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    gpus: int | None = None
    after: tuple[int, ...] = ()
    after_any: tuple[int, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    notify: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Mounts may be given as they are typed: "uploads/doom:data". Raises `UsageError`."""
        parsed = tuple(Mount.parse(each) if isinstance(each, str) else each for each in self.mounts)
        object.__setattr__(self, "mounts", parsed)


@dataclass(frozen=True)
class Line:
    """Where a run that waits stands: at `place` (1 is the next) `of` those that wait on `machine`.

    `holders`: the numbers of the runs that have what it waits for, None for one of another client; `others`: processes
    of others, in words. `starts_in`: seconds, a guess from earlier runs of the same command; None without one."""

    machine: str
    place: int
    of: int
    starts_in: float | None = None
    holders: tuple[int | None, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people: `2nd of 3 on box, starts in about 20 min; run 12 is running`."""
        where = f"next in line on {self.machine}" if self.of == 1 else f"{self._place} on {self.machine}"
        when = "" if self.starts_in is None else f", starts in {about(self.starts_in)}"
        numbers = sorted(number for number in self.holders if number is not None)
        names = [f"run {numbers[0]}" if len(numbers) == 1 else f"runs {listed(map(str, numbers))}"] if numbers else []
        foreign = len(self.holders) - len(numbers)
        if foreign:
            names.append("a run of another client" if foreign == 1 else f"{foreign} runs of other clients")
        running = f"; {listed(names)} {'is' if len(self.holders) == 1 else 'are'} running" if names else ""
        return where + when + running + "".join(f"; {each}" for each in self.others)

    @property
    def brief(self) -> str:
        """For a table: `2nd of 3, about 20 min`."""
        when = "" if self.starts_in is None else f", {about(self.starts_in)}"
        return ("next in line" if self.of == 1 else self._place) + when

    @property
    def _place(self) -> str:
        return f"{_ordinal(self.place)} of {self.of}"


@dataclass(frozen=True)
class Run:
    """One run as the registry knows it, corrected by its host when that was asked. Times in seconds since 1970.

    `machine` is what was asked for, `placement` the host that was got, None before that. `steps`: when this client
    began what it does for the run (PROVISIONING, UPLOADING). `renting`: of a run on rented hosts.
    """

    number: int
    key: str
    machine: MachineType
    state: RunState
    command: str
    created: float
    reason: Reason | None = None
    code: int | None = None
    message: str | None = None
    note: str | None = None
    started: float | None = None
    ended: float | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    engine: str | None = None
    outputs: dict[str, int] | None = None
    stopping: bool = False
    last_seen: float | None = None
    placement: Placement | None = None
    steps: tuple[tuple[RunState, float], ...] = ()
    renting: Renting | None = None
    line: Line | None = field(default=None, compare=False)
    """Where it stood in the line just now."""
    fault: HostError | None = field(default=None, compare=False)
    """Why its machine could not be asked just now; the rest is what was known before."""

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def reachable(self) -> bool:
        return self.fault is None

    @property
    def unreached(self) -> str | None:
        """The fault, in a line."""
        return None if self.fault is None else self.fault.message

    @property
    def host(self) -> MachineType:
        """The machine to ask about it."""
        return self.placement.machine if self.placement is not None else self.machine

    @property
    def where(self) -> str:
        """The name of the machine that was asked for, for people; of a pool with the machine that was got."""
        if not self.machine.pool or self.placement is None:
            return self.machine.name
        return f"{self.machine.name} ({self.placement.machine.name})"

    @property
    def home_id(self) -> str | None:
        return self.placement.home_id if self.placement is not None else None

    def cost(self, now: float) -> float | None:
        """US dollars that its hosts have cost while it had them, also those that never came to serve it; None for a
        run that rents none, or if that is not known."""
        return None if self.renting is None else self.renting.cost(self.ended if self.final and self.ended else now)

    @property
    def words(self) -> str | None:
        """Why it ended, for people."""
        if self.reason is Reason.HOST_LOST and self.renting is not None:
            return "its host was lost"
        return ENDINGS[self.reason].words if self.reason else None

    @property
    def exit_status(self) -> int:
        """What `remoterun run` returns for it: the command's own code; 137 if killed; 125 if there is no code, or if
        the command did well and what it made could not be saved."""
        if self.code is not None and not (self.code == 0 and self.state is RunState.FAILED):
            return self.code
        if self.reason in (Reason.KILLED, Reason.STOPPED):
            return 137 if self.reason is Reason.KILLED else 143
        return 125

    def with_status(self, status: RunStatus, now: float) -> Run:
        """This run as its host says it is."""
        return replace(
            self,
            state=status.state,
            reason=status.reason,
            code=status.code,
            message=status.message,
            note=status.note,
            started=status.started,
            ended=status.ended,
            engine=status.engine,
            outputs=None if status.outputs is None else status.outputs._asdict(),
            stopping=status.stopping,
            last_seen=now,
        )

    def with_event(self, event: RunEvent) -> Run:
        """This run as it was at an event of its folder, which has a state."""
        return replace(self, **{**event_fields(event), "state": event.state, "reason": event.reason})

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "number": self.number,
            "key": self.key,
            "machine": self.machine.name,
            "host": None if self.placement is None else self.placement.machine.name,
            "state": self.state.value,
            "reason": self.reason.value if self.reason else None,
            "exit_status": self.code,
            "command": self.command,
            "description": self.description,
            "labels": list(self.labels),
            "engine": self.engine,
            "created": self.created,
            **{step.value: moment for step, moment in self.steps},
            "started": self.started,
            "ended": self.ended,
            "message": self.message,
            "note": self.note,
            "line": None if self.line is None else self.line.__dict__,
            "outputs": self.outputs,
            "stopping": self.stopping,
            "reachable": self.reachable,
            "last_seen": self.last_seen,
            **({} if self.renting is None else {"renting": self.renting.record(), "cost": self.cost(time.time())}),
        }


@dataclass(frozen=True)
class RunFilter:
    """Which runs are meant: those in one of the `states`, with one of the `labels`, of the `machine`, made `since` then
    (seconds since 1970), with all of `words` in their commands or descriptions, in any case of letters. What is empty
    excludes none."""

    states: frozenset[RunState] = frozenset()
    labels: tuple[str, ...] = ()
    machine: str | None = None
    since: float | None = None
    words: tuple[str, ...] = ()

    def fits(self, run: Run) -> bool:
        return self.may_fit(run) and (not self.states or run.state in self.states)

    def may_fit(self, run: Run) -> bool:
        """Whether it fits as soon as it is in one of the states: one that goes on may be in another one by now."""
        text = f"{run.command}\n{run.description or ''}".lower()
        return (
            (not self.states or not run.final or run.state in self.states)
            and (not self.labels or not set(self.labels).isdisjoint(run.labels))
            and (self.machine is None or self.machine in (run.machine.name, run.host.name))
            and (self.since is None or run.created >= self.since)
            and all(word.lower() in text for word in self.words)
        )


EVERY_RUN = RunFilter()


@dataclass(frozen=True)
class UploadCopy:
    """Where a version of an upload lies. `seen`: when that machine was last asked, in seconds since 1970; `fault`: why
    it could not be asked just now."""

    machine: str
    seen: float | None = None
    fault: HostError | None = None


@dataclass(frozen=True)
class Upload:
    """A version of a named data set. `version` is the number that this client gave it (a `Session` tells the home's
    own); `machine` has it, and so have all of `copies`. `created` in seconds since 1970, `size` in bytes. `brought`: it
    came there for a run that mounts it. `runs`: the numbers of those that read it, as far as this client knows."""

    name: str
    version: int
    digest: str
    size: int
    files: int
    created: float
    machine: str
    home_id: str
    path: str | None = None
    damaged: bool = field(default=False, compare=False)
    brought: bool = field(default=False, compare=False)
    copies: tuple[UploadCopy, ...] = field(default=(), compare=False)
    runs: tuple[int, ...] = field(default=(), compare=False)

    @classmethod
    def told(cls, name: str, item: UploadVersion, machine: str, home_id: str, clock_skew: float = 0.0) -> Upload:
        """The version that a host describes, whose clock is ahead of ours by `clock_skew` seconds.

        Raises `ValueError` for what makes no sense.
        """
        for number in ("version", "size", "files"):
            if getattr(item, number) < 0:
                raise ValueError(f"{number}: {getattr(item, number)}")
        if not is_digest(item.digest):
            raise ValueError(f"digest: {item.digest[:80]!r}")
        created = max(check_time(item.created) - clock_skew, 0.0)
        told = (item.version, item.digest, item.size, item.files, created)
        return cls(name, *told, machine, home_id, damaged=item.damaged, brought=item.brought)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("name", "version", "digest", "size", "files", "created", "machine", "path")
        copies = [
            {"machine": copy.machine, "last_seen": copy.seen, "reachable": copy.fault is None} for copy in self.copies
        ]
        return {**{name: getattr(self, name) for name in names}, "copies": copies, "runs": list(self.runs)}


def new_key(now: float | None = None) -> str:
    """A run's global key: 26 digits of base 32, sortable by time, 80 of its bits random (the form of a ULID)."""
    value = (int((time.time() if now is None else now) * 1000) << 80) | secrets.randbits(80)
    digits = []
    for _ in range(26):
        digits.append(_KEY_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))


_YEAR_10000 = 253_402_300_800  # seconds since 1970; Python's dates end there
_MOMENTS = ("t", "created", "queued", "started", "ended")
_TEXTS = ("message", "note", "engine", "evidence", "hint")
_TEXT = 10_000  # characters of a text that are kept

Told = TypeVar("Told", RunStatus, RunEvent)


def by_our_clock(record: Told, clock_skew: float = 0.0) -> Told:
    """A status or an event of a host whose clock is ahead of ours by `clock_skew` seconds, with its times by our clock.

    Raises `ValueError` for what no run can have. Of texts the beginning is kept, in characters that UTF-8 has.
    """
    if record.code is not None and not -256 < record.code < 256:
        raise ValueError(f"code: {record.code}")
    if record.outputs is not None and min(record.outputs) < 0:
        raise ValueError(f"outputs: {record.outputs}")
    changed: dict[str, Any] = {}
    for name in _MOMENTS:
        moment = getattr(record, name, None)
        if moment is not None:
            changed[name] = max(check_time(moment) - clock_skew, 0.0)
    for name in _TEXTS:
        text = getattr(record, name, None)
        if text is not None:
            changed[name] = text[:_TEXT].encode("utf-8", "replace").decode()
    return record._replace(**changed)


def event_fields(event: RunEvent) -> dict[str, Any]:
    """What of a run's status an event with a state tells."""
    found: dict[str, Any] = {
        name: getattr(event, name)
        for name in ("reason", "code", "message", "engine")
        if getattr(event, name) is not None
    }
    if event.outputs is not None:
        found["outputs"] = event.outputs._asdict()
    if event.state is RunState.RUNNING:
        found["started"] = event.t
    if event.state in FINAL:
        found["ended"] = event.t
    return found


def check_time(value: Any) -> float:
    """`value` if it can be a moment, in seconds since 1970. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _YEAR_10000:
        raise ValueError(f"{value!r} is not a time")
    return value


def about(seconds: float) -> str:
    """A guess at a stretch of time, for people: `less than a minute`, `about 20 min`, `about 3 h`, `about 2 days`."""
    if seconds < 45:
        return "less than a minute"
    if seconds < 90 * 60:
        return f"about {max(round(seconds / 60), 1)} min"
    if seconds < 36 * 3600:
        return f"about {round(seconds / 3600)} h"
    return f"about {round(seconds / 86400)} days"


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
