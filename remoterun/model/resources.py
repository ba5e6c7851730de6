"""Paths that users type: uploads, runs, and where they are mounted; versions of uploads, and where they lie."""

from __future__ import annotations

import difflib
import posixpath
import re
from dataclasses import dataclass, field
from typing import Any

from remoterun.agent.shared.api import UploadVersion
from remoterun.agent.shared.spec import UPLOAD_NAME
from remoterun.agent.shared.tree import TreeError, check_path, is_digest, show
from remoterun.errors import HostError, UsageError
from remoterun.model.runs import check_time
from remoterun.sizes import iso

LAST = "last"


@dataclass(frozen=True)
class Resource:
    """A path that a user types: `uploads/NAME[@VERSION][/sub]` or `runs/N[/sub]`, also without its `runs/`. `name` is
    the upload's name or the run number; without a `version` the newest one is meant.

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
        if kind == LAST or kind.isdecimal():
            kind, rest = "runs", text
        if kind not in ("uploads", "runs"):
            close = difflib.get_close_matches(kind, ["uploads", "runs"], 1, 0.6)
            meant = f"{close[0]}/…" if close else f"uploads/{text}" if UPLOAD_NAME.match(kind) else ""
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
            hint=hint or f"name={fixed[:100] or 'NAME'}",
        )
    return name


@dataclass(frozen=True)
class Mount:
    """`RESOURCE[:PATH]`. `path` as typed: relative to the working directory, or absolute. `local`: what is here, and
    becomes a version of the resource first."""

    resource: Resource
    path: str
    local: str = ""

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
        hint = f'mounts=["{self.resource}:data"]'
        if self.path.startswith("/"):
            place = "/" + posixpath.normpath(self.path).lstrip("/")
            if place in ("/", "/remoterun") or place.startswith("/.remoterun"):
                raise UsageError(f"nothing can be mounted at `{show(self.path)}`", hint=hint)
            return place
        place = posixpath.normpath(posixpath.join(workdir, self.path))
        if place == "." or place == ".." or place.startswith("../"):
            raise UsageError(
                f"nothing can be mounted at `{show(self.path)}`: a relative path lies below the working directory",
                hint=hint,
            )
        try:
            return check_path(place)
        except TreeError as error:
            raise UsageError(str(error))


@dataclass(frozen=True)
class UploadCopy:
    """Where a version of an upload lies. `seen`: when that machine was last asked, in seconds since 1970; `fault`: why
    it could not be asked just now."""

    machine: str
    seen: float | None = None
    fault: HostError | None = None


@dataclass(frozen=True)
class Upload:
    """A version of a named data set. Its `digest` is the identity."""

    name: str
    version: int
    """The number that this client gave it; in what a home reports, that of the client which uploaded it."""
    digest: str
    size: int
    """Bytes."""
    files: int
    created: float
    """Seconds since 1970."""
    machine: str
    """Has it, and so have all of `copies`."""
    home_id: str
    path: str | None = None
    """From where this client uploaded it."""
    damaged: bool = field(default=False, compare=False)
    for_mount: bool = field(default=False, compare=False)
    """It was copied to that machine for a run that mounts it."""
    ours: bool = field(default=False, compare=False)  # this client uploaded it
    copies: tuple[UploadCopy, ...] = field(default=(), compare=False)
    runs: tuple[int, ...] = field(default=(), compare=False)
    """The numbers of those that read it, as far as this client knows."""

    @classmethod
    def told(cls, name: str, item: UploadVersion, machine: str, home_id: str, clock_skew: float = 0.0) -> Upload:
        """The version that a home reports, whose clock is ahead of ours by `clock_skew` seconds.

        Raises `ValueError` for what makes no sense.
        """
        for number in ("version", "size", "files"):
            if getattr(item, number) < 0:
                raise ValueError(f"{number}: {getattr(item, number)}")
        if not is_digest(item.digest):
            raise ValueError(f"digest: {item.digest[:80]!r}")
        created = max(check_time(item.created) - clock_skew, 0.0)
        told = (item.version, item.digest, item.size, item.files, created)
        return cls(name, *told, machine, home_id, damaged=item.damaged, for_mount=item.for_mount)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("name", "version", "digest", "size", "files", "created", "machine", "path")
        copies = [
            {"machine": copy.machine, "last_seen": iso(copy.seen), "reachable": copy.fault is None}
            for copy in self.copies
        ]
        record = {name: getattr(self, name) for name in names}
        return {**record, "created": iso(self.created), "copies": copies, "runs": list(self.runs)}
