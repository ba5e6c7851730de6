"""`check` of a machine's home: the agent verifies it, and what it can't mend is brought from wherever it is whole.

A host may name any digest as damaged. If that were enough, a guess would get it content that it never held. So a home
gets only what is recorded for it: the files of uploads that this client has made in that very home, by lists of files
that have the recorded digest; and what every home gets, the files of this installation. Anything else is reported.
What is sent is verified by the home that gets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Nothing
from remoterun.agent.shared.frames import PIECE, Body, Frame
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import Manifest, TreeError, hash_file, is_digest, show
from remoterun.client.upkeep import Checked, Damage, rows, run_numbers
from remoterun.environments import context
from remoterun.errors import AgentError, HostError, RemoterunError, TransferError
from remoterun.model import MachineType
from remoterun.registry import Registry
from remoterun.session import Session
from remoterun.transfer import Progress
from remoterun.transfer.memory import each_content

MOST_FINDINGS = 20_000
MOST_MANIFEST = 1 << 29
NOT_RECORDED = "this client has not sent it to that home"


class OtherSources:
    """Where else a content may be: what the registry remembers, and other machines.

    `open` opens a machine; `note` is called with a line for each one that can't be asked, once.
    """

    def __init__(
        self,
        registry: Registry,
        machines: Iterable[MachineType],
        open: Callable[[MachineType], Session],
        note: Callable[[str], None],
    ) -> None:
        self.registry = registry
        self._machines = list(machines)
        self._open = open
        self._note = note

    def sessions(self, home_id: str) -> Iterator[Session]:
        """With other homes than this one, opened when they are needed."""
        for machine in tuple(self._machines):
            try:
                session = self._open(machine)
            except RemoterunError as error:
                self.give_up(machine, error)
                continue
            if session.home_id != home_id:
                yield session

    def give_up(self, machine: MachineType, error: RemoterunError) -> None:
        """Ask that machine no more."""
        self._machines = [known for known in self._machines if known != machine]
        self._note(f"{machine.name} could not be asked: {error.message}")


@dataclass
class Recorded:
    """A content that belongs in a home. `paths`: where it may be on this machine; `content`, if it is known."""

    size: int = 0
    paths: list[str] = field(default_factory=list)
    content: bytes | None = None


def check(session: Session, elsewhere: OtherSources, repair: bool, progress: Progress) -> Checked:
    """Verify a home; with `repair`, mend it. Blocks for as long as it takes to read the whole home. May be repeated.
    Raises `HostError`.
    """
    totals, found = _detect(session, repair, progress)
    if repair:
        found, lists_are_back = _bring(session, found, elsewhere, progress)
        if lists_are_back:  # are the files there that they name?
            totals, more = _detect(session, repair, progress)
            found = [damage for damage in found if damage.mended] + _bring(session, more, elsewhere, progress)[0]
    numbers = run_numbers(elsewhere.registry)
    damage = tuple(replace(each, places=tuple(_numbered(each.places, numbers))) for each in found)
    return Checked(session.machine.name, totals.blobs, totals.size, damage, totals.more)


def others(machines: Iterable[MachineType], than: MachineType) -> tuple[MachineType, ...]:
    """Each other machine of one's own once."""
    found: dict[tuple[str | None, ...], MachineType] = {}
    for machine in machines:
        if not machine.pool and machine.rental is None and machine.bucket is None and machine.place != than.place:
            found.setdefault(machine.place, machine)
    return tuple(found.values())


def _detect(session: Session, repair: bool, progress: Progress) -> tuple[api.CheckTotals, list[Damage]]:
    found = []
    with session.stream(api.check, api.CheckHome(repair)) as stream:
        stream.end()
        for row in rows(session, _after_progress(session, stream, progress), MOST_FINDINGS):
            with session.understood():
                found.append(_told(row["finding"]))
        return session.result(api.check, stream), found


def _after_progress(session: Session, stream: Stream, progress: Progress) -> Iterator[Frame]:
    """The frames that are findings; the others say how far it is."""
    phase = ""
    for frame in stream:
        if "at" not in frame.header:
            yield frame
            continue
        with session.understood():
            at = dict(frame.header["at"])
            if at["phase"] != "blobs":
                continue  # the others take no time beside it
            if phase != "blobs":
                phase = "blobs"
                progress.start("checking", int(at["files_total"]), int(at["bytes_total"]))
            progress.add(int(at["bytes"]) - progress.bytes_done, int(at["files"]) - progress.files_done)


def _told(finding: dict[str, Any]) -> Damage:
    """What the agent tells of a damage. Raises `ValueError`, `TypeError`, `LookupError` for what makes no sense."""
    places = [dict(place) for place in finding["users"]]
    for place in places:
        for name in ("upload", "run", "path"):
            if not isinstance(place.get(name, ""), str):
                raise ValueError(f"{name}: {place[name]!r}")
        if "upload" in place:
            place.setdefault("path", "")
    what, problem, digest, mended, why = (str(finding[name]) for name in ("what", "problem", "digest", "mended", "why"))
    return Damage(what, problem, digest, int(finding["size"]), tuple(places), int(finding["more"]), mended, why)


def _numbered(places: Iterable[dict[str, Any]], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Places with the numbers of runs beside their keys."""
    for place in places:
        yield {**place, "run": numbers.get(place["run"]), "key": place["run"]} if "run" in place else place


def _bring(
    session: Session, found: Sequence[Damage], elsewhere: OtherSources, progress: Progress
) -> tuple[list[Damage], bool]:
    """Bring what is damaged from wherever it is whole: (what was found, as it is then, whether a list of files came
    back)."""
    after = list(found)
    left = {
        damage.digest: index
        for index, damage in enumerate(found)
        if not damage.mended and is_digest(damage.digest) and damage.places
    }
    recorded = _recorded(session, set(left), elsewhere)
    brought: dict[str, str] = {}
    for digest, content in recorded.items():
        source = _on_this_machine(digest, content)
        if source is not None and _put(session, digest, *source[1:], progress):
            brought[digest] = source[0]
    others = elsewhere.sessions(session.home_id)
    while (absent := [digest for digest in recorded if digest not in brought]) and (other := next(others, None)):
        try:
            for digest in _copy_blobs(other, session, absent, progress):
                brought[digest] = other.machine.name
        except RemoterunError as error:
            elsewhere.give_up(other.machine, error)
    for digest in left.keys() - recorded.keys():
        after[left[digest]] = replace(after[left[digest]], why=after[left[digest]].why or NOT_RECORDED)
    if not brought:
        return after, False
    with session.stream(api.mend, Nothing()) as stream:
        stream.send(bytes.fromhex("".join(brought)))
        stream.end()
        for frame in stream:
            mended, failed = str(frame.header.get("mended")), str(frame.header.get("failed"))
            if mended in brought:
                after[left[mended]] = replace(after[left[mended]], mended=brought[mended], why="")
            elif failed in left:
                after[left[failed]] = replace(after[left[failed]], why=str(frame.header.get("why", "")))
    return after, any(after[left[digest]].what == "list" and after[left[digest]].mended for digest in brought)


def _recorded(session: Session, digests: set[str], elsewhere: OtherSources) -> dict[str, Recorded]:
    """The contents with these digests that this client has recorded for the home of `session`."""
    ours = context()[1]
    found = {digest: Recorded(len(ours[digest]), content=ours[digest]) for digest in digests if digest in ours}
    for upload, _ in elsewhere.registry.uploads.versions():
        if not digests - found.keys():
            break
        if upload.home_id != session.home_id or upload.path is None:
            continue
        manifest = _manifest(session, upload.digest, elsewhere)
        if manifest is None:
            continue
        if upload.digest in digests:
            data = manifest.encode()
            found[upload.digest] = Recorded(len(data), content=data)
        for entry in manifest.files:
            if entry.digest in digests:
                content = found.setdefault(entry.digest, Recorded(entry.size))
                content.paths += [os.path.join(upload.path, entry.path), upload.path]
    return found


def _manifest(session: Session, digest: str, elsewhere: OtherSources) -> Manifest | None:
    """The list of files of that digest, from the home itself or from another one; verified."""
    for source in itertools.chain([session], elsewhere.sessions(session.home_id)):
        with contextlib.suppress(RemoterunError, TreeError):
            for _, size, pieces in each_content(source, [digest]):
                text = b"".join(pieces) if size <= MOST_MANIFEST else b""
                if hashlib.sha256(text).hexdigest() == digest:
                    return Manifest.decode(text)
    return None


def _on_this_machine(digest: str, recorded: Recorded) -> tuple[str, int, Iterator[bytes]] | None:
    """(where it is, size, content) of what this machine has: our own, or the file that was uploaded."""
    if recorded.content is not None:
        return "this installation", recorded.size, iter([recorded.content])
    for path in dict.fromkeys(recorded.paths):
        try:
            status = os.lstat(path)
            same_size = stat.S_ISREG(status.st_mode) and status.st_size == recorded.size
            if same_size and hash_file(path)[0] == digest:
                return show(path), status.st_size, _pieces(path)
        except (OSError, TreeError):
            continue
    return None


def _pieces(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while data := file.read(PIECE):
                yield data
    except OSError as error:
        raise TransferError(f"`{show(path)}` can't be read: {error.strerror}")


def _copy_blobs(source: Session, target: Session, digests: list[str], progress: Progress) -> Iterator[str]:
    """Pass blobs on that `source` has; the digest of each that arrived whole."""
    for digest, size, pieces in each_content(source, digests):
        if _put(target, digest, size, pieces, progress):
            yield digest


def _put(session: Session, digest: str, size: int, pieces: Iterable[Body], progress: Progress) -> bool:
    """Whether the home took it: it refuses what has another hash, such as a file that has changed just now."""
    progress.start("mending", 1, size)
    header: dict[str, Any] = {"d": digest, "s": size, "o": 0, "k": digest}
    rest = iter(pieces)
    try:
        with session.stream(api.put, Nothing()) as stream:
            for piece in rest:
                stream.send(piece, **header)
                header = {}
                progress.add(len(piece))
            if header:
                stream.send(b"", **header)
            stream.end()
            stream.finish()
    except HostError as error:
        if not isinstance(error, AgentError):
            raise
        return False
    except RemoterunError:
        for _ in rest:  # what still comes of it is not the next one's
            pass
        return False
    progress.add(0, 1)
    return True
