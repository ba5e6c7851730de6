"""What the archive asks of whatever stores its objects, and which class that is for a bucket."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Protocol

from remoterun.agent.shared.archive import IDENTITY
from remoterun.agent.shared.frames import Bytes
from remoterun.agent.shared.tree import LARGEST, show
from remoterun.clouds import ARCHIVE
from remoterun.config import ArchivePlace
from remoterun.errors import AuthenticationError, ConfigError, HostError, HostUnreachable

SCHEME = "s3://"
"""How the address of a bucket begins where the configuration has a name alone."""
FOLDER = "file://"
"""How that of a folder does."""
KINDS = {SCHEME: "remoterun.archive.s3:S3", FOLDER: "remoterun.archive.folder:ObjectFolder"}
"""How the address of a bucket begins → the class of its `Objects`, which is made from a place and `patience`."""
LOGINS = {SCHEME: ARCHIVE}
"""How it begins → the provider whose login its requests need; those of another kind need none that is known here."""
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
OWNED = re.compile(r"remoterun-([0-9]{12})(?:-|\Z)")
"""The name of a bucket that `creation` made, with its account. Every request names that, so that the bucket of somebody
else, who took the name since ours was deleted, gives and takes nothing."""
UNFINISHED = ".new/"
"""How the keys begin of what is being written, or was when its client was killed, where the store shows that."""
PATIENCE = 30.0
"""Seconds for which a request is repeated that may do better later."""


class NoBucket(HostError):
    """No bucket has that name."""


class Unsigned(HostError):
    """The store gives no addresses to hosts without a login."""


class Absent(Exception):
    """No object has that key."""


class Damaged(HostError):
    """An object that is not what it should be."""


class Denied(AuthenticationError):
    """The credentials are right, and do not allow this `action`, in the words of the store."""

    action = ""


@dataclass(frozen=True)
class BucketPlace:
    """Which bucket is meant, and how it is reached; None: what the variables and files of its own tools say."""

    name: str
    region: str | None = None
    endpoint: str | None = None
    """The address of another store than the usual one of its kind."""
    profile: str | None = None
    """A section of those files."""
    scheme: str = SCHEME

    @classmethod
    def of(cls, address: str, named: ArchivePlace = ArchivePlace()) -> BucketPlace:  # noqa: B008 - it is frozen
        """The place of "s3://NAME", or "file:///FOLDER". Raises `ConfigError`."""
        scheme = next((each for each in KINDS if address.startswith(each)), "")
        name = address.removeprefix(scheme)
        if not scheme or not (name.startswith("/") if scheme == FOLDER else NAME.fullmatch(name)):
            raise ConfigError(f"`{address[:80]}` is not the address of a bucket", hint=f"{SCHEME}NAME, {FOLDER}/FOLDER")
        return cls(name, named.region, named.endpoint, named.profile, scheme)

    @property
    def address(self) -> str:
        return self.scheme + self.name


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing names it. `modified` in seconds since 1970, by the store's clock."""

    key: str
    size: int
    modified: float


class Objects(Protocol):
    """What lies in one bucket. Any thread may call any method, each may be repeated, and all that ask the store raise
    `HostUnreachable`, `AuthenticationError`, `HostError`."""

    place: BucketPlace
    patience: float
    closed: threading.Event

    def close(self) -> None:
        """End what still waits. May be called twice."""

    def get(self, key: str, most: int) -> bytes:
        """An object of `most` bytes at the most. Raises `Absent`, and `Damaged` for a longer one."""
        data = self.get_range(key, 0, most + 1)
        if len(data) > most:
            raise self.bad(key, f"it has more than the {most:,} bytes that are allowed")
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """So many bytes of an object, or those of them that there are. Raises `Absent`."""

    def head(self, key: str) -> tuple[int, str] | None:
        """(size, SHA-256 in hex as the store has verified it, or ""); None where no object has that key."""

    def put(self, key: str, data: Bytes, digest: str = "") -> None:
        """Write an object, which appears whole. `digest`: its SHA-256, if that is known. Raises `TransferError` if
        other bytes arrive."""

    def put_new(self, key: str, data: Bytes) -> bool:
        """Write an object, unless one has that key; whether none had. An earlier try, whose answer was lost, counts."""

    def list(self, prefix: str, after: str = "", most: int = ...) -> Iterator[StoredObject]:
        """All objects whose keys begin with `prefix` and come after `after`, in the order of the keys. Raises `Damaged`
        for more than `most`."""

    def folders(self, prefix: str) -> Iterator[str]:
        """The names that follow `prefix` and end in a slash, in their order."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; what is not there is fine."""

    def find_region(self) -> str:
        """The region where the bucket is, which is asked for once, before anything is signed; "" where it has none."""
        return ""

    def free(self) -> int:
        """Bytes for which there is room. Raises `HostUnreachable` for a folder that is not an archive any more."""
        return LARGEST

    def monthly(self, size: int) -> float | None:
        """US dollars a month for so many bytes; None where nobody knows."""

    def bad(self, key: str, why: str) -> Damaged:
        what = f"`{show(key[:300])}` in {self.place.address}"
        return Damaged(f"{what} is damaged: {why}", hint=f"remoterun machines check {ARCHIVE}")

    # -- of a kind that hosts without credentials can reach: by addresses and forms, made without asking the store

    def presigned_get(self, key: str, seconds: float, part: tuple[int, int] | None = None) -> str:
        """An address that gives the object to whoever asks, or only a part (offset, bytes) of it, for so many
        seconds."""
        raise Unsigned(f"a host without a login can't reach {self.place.address}")

    def presigned_post(self, prefix: str, seconds: float, most: int) -> tuple[str, dict[str, str]]:
        """(address, fields) of a form by which whoever has them writes objects of up to `most` bytes below `prefix`."""
        raise Unsigned(f"a host without a login can't reach {self.place.address}")

    def credentials_end(self) -> float | None:
        """When the credentials surely hold until, in seconds since 1970; None for a user's own, which do not end."""

    # -- of a kind whose buckets are made, named and removed from here

    def create(self) -> None:
        """Make the bucket; one of ours that is there is fine. Raises `AlreadyExists` for a name that is taken."""
        raise HostError(f"{self.place.address} is of a kind that is not made from here")

    def tag(self, labels: dict[str, str]) -> None:
        """Let the bucket have these tags, too."""

    def names(self) -> Sequence[str]:
        """All buckets of the account. Raises `Denied` for credentials that may not list them."""
        raise HostError(f"{self.place.address} is of a kind that is not made from here")

    def remove(self) -> None:
        """Delete the bucket, with every version of every object. Raises `NoBucket`."""
        raise HostError(f"{self.place.address} is of a kind that is not made from here")


def missing(place: BucketPlace) -> HostUnreachable:
    """For a folder that was an archive, and has no mark."""
    why = f"the archive in {place.name} is not there: `{IDENTITY}` is missing"
    return HostUnreachable(why, hint="is its disk not mounted? another folder is named under [archive] in config.toml")


def opened(place: BucketPlace, patience: float = PATIENCE) -> Objects:
    """What lies in a bucket; nothing is asked of it yet. `patience` in seconds."""
    made: Objects = resolve_name(KINDS[place.scheme])(place, patience)
    return made
