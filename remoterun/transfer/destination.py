"""Where fetched files go: below one folder, each under a temporary name until it is whole and verified."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from remoterun.agent.shared.files import write_all
from remoterun.agent.shared.frames import Bytes
from remoterun.agent.shared.packs import LARGE
from remoterun.agent.shared.paths import SafeFolder, TreeError, show
from remoterun.agent.shared.records import Record
from remoterun.agent.shared.tree import Entry, Manifest, ManifestBuilder
from remoterun.errors import TransferError, UnsafePath
from remoterun.sizes import size as readable
from remoterun.source.git import Git
from remoterun.source.repository import is_tracked, top_of
from remoterun.transfer.progress import Progress

MOST_WARNINGS = 100
WORTH_COPYING = 4096
"""Bytes from which on it pays."""
SPARE = 1 << 30
"""Bytes, or a twentieth of a smaller disk, that stay free where files grow while they are copied."""
LEFT_FREE = 16 << 20
"""The same where nothing grows."""
ABANDONED = 60.0
"""Seconds after which nobody writes a part any more."""
MOST_REMEMBERED = 200_000
"""Contents that are remembered."""


class Duplicates:
    """Files of one download that have the same content: it comes once, and is copied here."""

    def __init__(self) -> None:
        self._first: dict[bytes, Entry] = {}
        self._duplicates: list[tuple[Entry, Entry]] = []

    def without(self, files: Iterable[Entry]) -> Iterator[Entry]:
        """The files, but for repetitions: these are noted."""
        for entry in files:
            if entry.size >= WORTH_COPYING and entry.digest:
                digest = bytes.fromhex(entry.digest)
                first = self._first.get(digest)
                if first is not None and first.size == entry.size:
                    self._duplicates.append((entry, first))
                    continue
                if len(self._first) < MOST_REMEMBERED:
                    self._first[digest] = entry
            yield entry

    def copy(self, destination: Destination) -> list[Entry]:
        """Copy the repetitions. Those that can't be, as their first has not come, or was changed meanwhile."""
        return [entry for entry, first in self._duplicates if not _copy(entry, first, destination)]


@dataclass
class Fetched:
    """What a transfer from a host did."""

    files: int = 0
    size: int = 0
    there: int = 0
    """Of these bytes, those that were here already: of a cut try, or of a file that was replaced."""
    skipped: list[str] = field(default_factory=list)
    unchanged: int = 0
    warnings: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Paths of files that are not what they were when they were saved; the others were copied."""
    more_warnings: int = 0
    """Warnings that are counted only: a host could name a million links that point outside."""
    place: str = ""
    """The folder here in which they are, or the one file."""
    written: list[str] = field(default_factory=list)
    """Paths here of the files and links that came."""
    listed: int = 0
    """Files, links and empty folders that were asked for."""
    live: bool = False
    """Whether they are of a run that goes on."""

    def warn(self, text: str) -> None:
        """Keep a line for people."""
        if len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(text)
        else:
            self.more_warnings += 1


@dataclass
class Destination:
    """Where fetched files go: below `root`, the one file under `name` if that is set. `at_rest`: nothing of it may
    have changed since it was listed. `final`: a file that changes while it is read is taken as it came, and named in a
    warning."""

    root: SafeFolder
    target: Path
    name: str | None
    result: Fetched
    progress: Progress
    at_rest: bool = True
    final: bool = False
    counting: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def of_thread(self) -> Iterator[Destination]:
        """The same, for another thread."""
        with SafeFolder(str(self.target)) as root:
            yield replace(self, root=root)

    def place(self, entry: Entry) -> tuple[int, str]:
        return self.root.place(self.name or entry.path)

    def changed(self, entry: Entry) -> bool:
        """Whether to take a file that changed."""
        if self.final:
            self.result.warn(f"`{show(entry.path)}` changed while it was copied: here is what was read")
        return self.final

    def came(self, size: int, there: int = 0) -> None:
        with self.counting:
            self.progress.add(size, there=there)

    def land(self, entry: Entry, content: Bytes) -> None:
        """Make a file whose whole content is at hand, if it is the right one."""
        if hashlib.sha256(content).hexdigest() != entry.digest:
            self.damaged(entry)
            return
        folder, name = self.place(entry)
        with NewFile(folder, entry.executable) as file:
            file.write(content)
            file.keep(name, sync=False)
        self.took(entry, entry.size)

    def damaged(self, entry: Entry) -> None:
        """Note a file that is left out: the others are as good as they were."""
        with self.counting:
            self.result.damaged.append(entry.path)

    def took(self, entry: Entry, came: int = 0) -> None:
        """A file is whole; so many bytes of it had not been told of by `came`."""
        with self.counting:
            self.result.files += 1
            self.result.size += entry.size
            self.progress.add(came, 1)


def require_room(target: Path, size: int, what: str, spare: int = LEFT_FREE) -> None:
    """Raises `TransferError` where `size` bytes would leave less than `spare` of the disk here, or than a twentieth of
    a smaller one. `what`: what they are, for people."""
    disk = os.statvfs(next(each for each in (target.absolute(), *target.absolute().parents) if each.is_dir()))
    room = max(disk.f_bavail * disk.f_frsize - min(spare, disk.f_blocks * disk.f_frsize // 20), 0)
    if size > room and disk.f_blocks:  # a file system without blocks does not say
        raise TransferError(
            f"the disk that holds `{show(str(target))}` is too full: {what}, and {readable(room)} fit there",
            hint="free some space, or name a folder on another disk, after the resource",
        )


def bytes_here(files: Iterable[Entry], target: Path) -> int:
    """Bytes of large files that earlier tries left here."""
    here = 0
    for entry in files:
        if entry.size > LARGE:
            with contextlib.suppress(OSError, ValueError):
                part = os.lstat(target / os.path.dirname(entry.path) / part_name(entry))
                here += min(part.st_blocks * 512, entry.size)
    return here


def part_name(entry: Entry) -> str:
    """What a large file is called until it is whole: the next try finds what came of it."""
    return f".{entry.digest[:24]}.remoterun"


_PARTS = "head|objects|refs|commondir|config|hooks"
_DOT_GIT = re.compile(
    rf"(?i)(?:(?:\A|[/\\])(?:\.git|git~1)|\\(?:{_PARTS}))[. ]*(?:\Z|[/\\:])|(?:\A|/)(?:{_PARTS})[. ]*\\"
)
_PART = re.compile(rf"(?:\A|/)({_PARTS})[. ]*(?=\Z|[/:])", re.IGNORECASE)


def in_git_folder(path: str) -> bool:
    """Whether a part of a relative path is `.git`, or a name that a file system takes for it: git runs what it finds in
    `.git/hooks` and `.git/config`, so hosts may send none of it.

    The name is recognised as git does it (`verify_path`): with any case; as NTFS takes it (`git~1`, dots and blanks at
    its end, a stream such as `.git::$INDEX_ALLOCATION`, backslashes between folders); and as a Mac's disk takes it,
    which ignores some invisible characters. All of these are refused on every disk: a folder may be copied on to
    another one. So are parts of a bare repository between backslashes.
    """
    if not path.isascii():
        path = "".join(char for char in path if unicodedata.category(char) != "Cf").casefold()
    return _DOT_GIT.search(path) is not None


def _bare_repositories(manifest: Manifest, target: Path) -> set[str]:
    """Folders that git takes for a repository without a work tree, by what they hold: git runs what their `config` and
    their `hooks` name. What lies below `target` already counts: it may come in two copies."""
    found: set[str] = set()
    # Folders that the path lies in, from the top, their parts, and whether they are there; not those of a whole tree.
    inside = {"": _on_disk(target)}
    for entry in manifest:
        while (folder := next(reversed(inside))) and not entry.path.startswith(folder + "/"):
            del inside[folder]
        for part in _PART.finditer(entry.path):
            folder = entry.path[: part.start()]
            if folder not in inside:
                there = next(reversed(inside.values()))[1]
                inside[folder] = _on_disk(target / folder) if there else (set(), False)
            names = inside[folder][0]
            names.add(part[1].lower())
            if "head" in names and ("commondir" in names or {"objects", "refs"} <= names):
                found.add(folder)
    return found


def _on_disk(folder: Path) -> tuple[set[str], bool]:
    with contextlib.suppress(OSError, ValueError):
        return {name.lower() for name in os.listdir(folder)}, True
    return set(), False


def _read_by_git(target: Path) -> list[str]:
    """What git runs, or takes for its settings, below `target` though in no folder of its own: `core.hooksPath` of the
    repository, and the settings of its user."""
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path.home() / ".gitconfig", settings / "git"]
    top = top_of(str(next(each for each in (target.absolute(), *target.absolute().parents) if each.is_dir())))
    if top is not None:
        named = Git(top).attempt("config", "--type=path", "--get-all", "core.hooksPath").output
        places += [Path(top, os.fsdecode(line)) for line in named.splitlines()]
    below = target.resolve()
    found = (os.path.relpath(place.resolve(), below) for place in places if place.resolve().is_relative_to(below))
    return [path.casefold() for path in found if path != os.curdir]


def without_git_folders(manifest: Manifest, target: Path) -> tuple[Manifest, list[str]]:
    """The manifest without the entries of git folders, links to such ones, bare repositories below `target`, and what
    else git reads there; their paths."""
    text = manifest.encode().lower()
    places = _read_by_git(target)
    names = (b"git", b"\\u", *_PARTS.encode().split(b"|"))
    if not places and not any(name in text for name in names):  # as nearly always; "\\u": a character that is not ASCII
        return manifest, []
    bare = _bare_repositories(manifest, target)
    left_out, build = [], ManifestBuilder()
    for entry in manifest:
        parts = _PART.finditer(entry.path) if bare else ()
        if (
            in_git_folder(entry.path)
            or in_git_folder(entry.target)
            or any(entry.path[: part.start()] in bare for part in parts)
            or any(f"{entry.path}/".casefold().startswith(f"{place}/") for place in places)
        ):
            left_out.append(entry.path)
        else:
            build.add(entry)
    return Manifest.built(build), left_out


class WayOut(Record):
    """`link` leads to `goal`. `to_git`: that is git's own. `tracked`: a repository made it; None: nobody knows."""

    link: str
    goal: str
    to_git: bool
    tracked: bool | None


def way_out(path: str) -> WayOut | None:
    """The first link on the way to `path` that leads out of the repository in which it lies, or to git's own: who types
    `data` may not know that it is one. Without a repository the current folder counts as one."""
    current = os.path.realpath(os.curdir)
    here = "/" if path.startswith("/") else current
    for part in path.split("/"):
        place = os.path.join(here, part)
        goal = os.path.realpath(place)
        if os.path.islink(place):
            tracked = is_tracked(here, part)
            top = Path(top_of(here) or (here if tracked else current if Path(here).is_relative_to(current) else "/"))
            to_git = in_git_folder(goal) or any(os.path.isfile(f"{goal}/{bare}") for bare in ("HEAD", "../HEAD"))
            if not Path(goal).is_relative_to(top) or to_git and top != Path("/"):
                return WayOut(place, goal, to_git, tracked)
        here = goal
    return None


_ACCENTED = "\N{LATIN SMALL LETTER E WITH ACUTE}"
_ALIKE = (("a", "A"), (_ACCENTED, unicodedata.normalize("NFD", _ACCENTED)), ("a", "a."))
"""Pairs of names, of which a disk takes one at least for one name, or none at all."""


def refuse_twins(entries: Iterable[Entry], target: Path) -> None:
    """Names that are one name on the disk of the folder `target`, as Macs' and USB sticks' take no notice of case, of
    how an accent is written, or of a dot at the end: one file would silently take the other's place, or stand where a
    folder is to be. Two folders are not such names: what is in them comes into one. Raises `UnsafePath`."""
    if not any(_are_one(target, *names) for names in _ALIKE):
        return
    met: dict[str, dict[str, bool]] = {}
    """Paths, and whether each is a folder, by what they may be one with."""
    for entry in entries:
        path, is_folder = entry.path, entry.kind == "d"
        while path:
            alike = met.setdefault(_folded(path), {})
            for other, other_is_folder in alike.items():
                if other != path and not (is_folder and other_is_folder) and _are_one(target, other, path):
                    raise _twins(other, path, target)
            if path in alike:
                break
            alike[path] = is_folder
            path, is_folder = path.rpartition("/")[0], True


def _folded(path: str) -> str:
    parts = (part.rstrip(".") or part for part in path.split("/"))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", "/".join(parts)).casefold())


def _are_one(target: Path, one: str, other: str) -> bool:
    """Whether two paths are one to the disk of a folder. Looked up by making a file; False if none can be."""
    names = [pair for pair in zip(one.split("/"), other.split("/"), strict=True) if pair[0] != pair[1]]
    try:
        with tempfile.TemporaryDirectory(suffix=".remoterun", prefix=".", dir=target) as folder:
            for number, (name, spelling) in enumerate(names):
                probe = Path(folder, str(number))
                probe.mkdir()
                (probe / name).touch()
                if not os.path.lexists(probe / spelling):
                    return False
    except (OSError, UnicodeError):
        return False
    return True


def _twins(one: str, other: str, target: Path) -> UnsafePath:
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        one, other = ascii(one)[1:-1], ascii(other)[1:-1]
    return UnsafePath(
        f"`{show(one)}` and `{show(other)}` are one name on the disk that holds `{show(str(target))}`",
        hint="copy into a folder on another disk, or each of them by itself, under another name",
    )


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class NewFile:
    """A file that comes piece by piece, and is hashed as it comes. Nobody knows its name until it gets its own by
    `keep`; if it gets none it is gone when the context is left."""

    def __init__(self, folder: int, executable: bool) -> None:
        """`folder`: a descriptor."""
        self._folder = folder
        self._name = temporary_name()
        self._file = os.open(self._name, _FLAGS, 0o777 if executable else 0o666, dir_fd=folder)
        self._hashed = hashlib.sha256()
        self._kept = False
        self.size = 0

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if not self._kept:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)

    def write(self, data: Bytes) -> None:
        self._hashed.update(data)
        self.size += len(data)
        write_all(self._file, data)

    @property
    def digest(self) -> str:
        """SHA-256 in hex of what was written."""
        return self._hashed.hexdigest()

    def keep(self, name: str, sync: bool = True) -> None:
        """Give it its name; `sync`: it is on the disk before."""
        if sync:
            os.fsync(self._file)
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._kept = True


def _copy(entry: Entry, first: Entry, destination: Destination) -> bool:
    folder, name = destination.place(first)
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        folder, name = destination.place(entry)
        with NewFile(folder, entry.executable) as file:
            while file.size < entry.size and (data := os.read(source, min(1 << 20, entry.size - file.size))):
                file.write(data)
            if file.digest != entry.digest:
                return False
            file.keep(name, sync=False)
    finally:
        os.close(source)
    destination.came(entry.size, there=entry.size)
    destination.took(entry)
    return True


def temporary_name() -> str:
    return f".{os.getpid()}-{next(_names)}.remoterun"


def remove_parts(target: Path, folders: Iterable[str]) -> None:
    """Remove what copies that were killed have left in folders below `target`: what has such a name, of a process that
    is gone, and is not written any more: on a shared disk, the process may be another machine's."""
    with SafeFolder(str(target), make=False) as root:
        for folder in folders:
            with contextlib.suppress(OSError, TreeError), os.scandir(opened := root.folder(folder)) as found:
                for each in found:
                    named = _TEMPORARY.fullmatch(each.name)
                    if named and time.time() - each.stat(follow_symlinks=False).st_mtime > ABANDONED:
                        try:
                            os.kill(int(named[1]), 0)
                        except ProcessLookupError:
                            os.unlink(each.name, dir_fd=opened)


_TEMPORARY = re.compile(r"\.([1-9][0-9]{0,8})-[0-9]+\.remoterun")


_names = itertools.count()
