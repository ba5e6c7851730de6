"""Trees: the manifest of a folder, its canonical form and digest, and paths that can't leave a folder.

A manifest lists files, symbolic links and empty folders, sorted by path. Its canonical form is

    remoterun-tree 1\\n
    ["f","path/of/file",size,"sha256 in hex",0 or 1 for executable]\\n
    ["l","path/of/link","target"]\\n
    ["d","path/of/empty/folder"]\\n

in JSON with every non-ASCII character escaped; names that are no UTF-8 travel as surrogates (`os.fsdecode`). The
SHA-256 of that text names the tree. Owner and times are no part of it.

Standard library only; Python >= 3.8; used by both sides.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

HEADER = b"remoterun-tree 1\n"
READ_SIZE = 1 << 20


class Entry(NamedTuple):
    """One line of a manifest. `kind` is "f", "l" or "d"; `digest` is SHA-256 in hex ("" while not hashed)."""

    kind: str
    path: str
    size: int = 0
    digest: str = ""
    executable: bool = False
    target: str = ""


class TreeError(Exception):
    """A manifest, a path or a folder that can't be a tree. The message names the path."""


class SpecialFile(TreeError):
    """A socket, a pipe or a device: no tree holds it."""


class ChangedWhileRead(TreeError):
    """A file whose content moved under the reader."""


class Manifest:
    """An immutable, checked, sorted list of entries.

    The constructor raises `TreeError` for paths that are unsafe or occur twice, and for entries below a file or a link.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: Tuple[Entry, ...] = tuple(sorted(entries, key=lambda entry: _raw(entry.path)))
        _check(self.entries)

    @property
    def files(self) -> List[Entry]:
        return [entry for entry in self.entries if entry.kind == "f"]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    def encode(self) -> bytes:
        lines = [HEADER]
        for entry in self.entries:
            row: List[Any]
            if entry.kind == "f":
                row = ["f", entry.path, entry.size, entry.digest, int(entry.executable)]
            elif entry.kind == "l":
                row = ["l", entry.path, entry.target]
            else:
                row = ["d", entry.path]
            lines.append(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        return b"".join(lines)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, data: bytes, hashed: bool = True) -> "Manifest":
        """The manifest in `data`, every field checked. `hashed=False` allows files without a digest."""
        if not data.startswith(HEADER):
            raise TreeError("not a manifest of this version: %.40r" % data[:40])
        return cls(_decode_line(line, hashed) for line in data[len(HEADER) :].splitlines())

    def below(self, sub: str) -> "Manifest":
        """The part under `sub`, its paths relative to it; one file keeps its base name. Raises `KeyError` if absent."""
        if not sub:
            return self
        found = []
        for entry in self.entries:
            if entry.path == sub:
                if entry.kind == "d":
                    return Manifest([])
                return Manifest([entry._replace(path=posixpath.basename(sub))])
            if entry.path.startswith(sub + "/"):
                found.append(entry._replace(path=entry.path[len(sub) + 1 :]))
        if not found:
            raise KeyError(sub)
        return Manifest(found)

    def find(self, path: str) -> Optional[Entry]:
        for entry in self.entries:
            if entry.path == path:
                return entry
        return None


def _decode_line(line: bytes, hashed: bool) -> Entry:
    try:
        row = json.loads(line)
        kind = row[0]
        if kind == "f":
            _, path, size, digest, executable = row
            valid = (
                isinstance(path, str)
                and type(size) is int
                and size >= 0
                and isinstance(digest, str)
                and (is_digest(digest) or (not hashed and digest == ""))
                and executable in (0, 1)
            )
            if valid:
                return Entry("f", path, size, digest, bool(executable))
        elif kind == "l":
            _, path, target = row
            if isinstance(path, str) and isinstance(target, str) and target and "\0" not in target:
                return Entry("l", path, target=target)
        elif kind == "d":
            _, path = row
            if isinstance(path, str):
                return Entry("d", path)
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise TreeError("not a line of a manifest: %.120r" % line)


def _check(entries: Tuple[Entry, ...]) -> None:
    kinds: Dict[str, str] = {}
    for entry in entries:
        check_path(entry.path)
        _raw(entry.target)
        if entry.path in kinds:
            raise TreeError("%s occurs twice" % show(entry.path))
        kinds[entry.path] = entry.kind
    for entry in entries:
        parent = posixpath.dirname(entry.path)
        while parent:
            kind = kinds.get(parent)
            if kind in ("f", "l"):
                raise TreeError("%s lies below %s, which is no folder" % (show(entry.path), show(parent)))
            parent = posixpath.dirname(parent)


def check_path(path: str) -> str:
    """`path` itself if it is relative, normal and stays inside its folder; raises `TreeError` otherwise."""
    raw = _raw(path)
    if not raw or b"\0" in raw or len(raw) > 4096:
        raise TreeError("a path that is empty, too long, or holds a zero byte: %s" % show(path[:80]))
    for part in raw.split(b"/"):
        if part in (b"", b".", b"..") or len(part) > 255:
            raise TreeError("a path that leaves its folder or is not normal: %s" % show(path))
    return path


def _raw(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise TreeError("a name that is no file name: %s" % show(name[:80]))


def link_stays_inside(path: str, target: str) -> bool:
    """Whether the link `path`, by its text alone, points at something inside the tree that holds it."""
    if target.startswith("/"):
        return False
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return reached != ".." and not reached.startswith("../")


def show(path: str) -> str:
    """`path` for a message: quoted where it holds something that a terminal would not show as it is."""
    printable = path.isprintable() and not any("\ud800" <= char <= "\udfff" for char in path)
    return path if printable else json.dumps(path)


def is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def hash_file(path: str, read: Callable[[int], None] = lambda count: None) -> Tuple[str, os.stat_result]:
    """SHA-256 in hex of a file, and its status; raises `ChangedWhileRead` when it changed meanwhile.

    `read` is told of each piece that was read: its bytes.
    """
    digest = hashlib.sha256()
    buffer = bytearray(READ_SIZE)
    view = memoryview(buffer)
    total = 0
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        while True:
            count = file.readinto(buffer)
            if not count:
                break
            total += count
            digest.update(view[:count])
            read(count)
        after = os.fstat(file.fileno())
    if total != before.st_size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise ChangedWhileRead("%s changed while it was read" % show(path))
    return digest.hexdigest(), after


class Found(NamedTuple):
    """Something met on a walk: `entry` (not hashed) and its status."""

    entry: Entry
    status: os.stat_result


def walk(
    root: str,
    skip: Iterable[str] = (),
    special: Optional[List[str]] = None,
    unreadable: Optional[List[str]] = None,
) -> Iterator[Found]:
    """Every file, link and empty folder below `root`, unhashed, in no order; links are not followed.

    Paths in `skip` are left out with all below them. Sockets, pipes and devices are appended to `special`; without
    that list they raise `SpecialFile`. Folders that can't be read are appended to `unreadable`; without that list they
    raise `PermissionError`. What vanishes during the walk is left out.
    """
    left_out = frozenset(skip)
    folders = [""]
    while folders:
        folder = folders.pop()
        empty = True
        try:
            listing = list(os.scandir(os.path.join(root, folder) if folder else root))
        except FileNotFoundError:
            continue
        except PermissionError:
            if unreadable is None:
                raise
            unreadable.append(folder)
            continue
        for item in listing:
            path = folder + "/" + item.name if folder else item.name
            empty = False
            if path in left_out:
                continue
            try:
                status = item.stat(follow_symlinks=False)
                mode = status.st_mode
                if stat.S_ISDIR(mode):
                    folders.append(path)
                elif stat.S_ISREG(mode):
                    yield Found(Entry("f", path, status.st_size, "", bool(mode & 0o100)), status)
                elif stat.S_ISLNK(mode):
                    yield Found(Entry("l", path, target=os.readlink(item.path)), status)
                elif special is None:
                    raise SpecialFile("%s is a socket, a pipe or a device" % show(path))
                else:
                    special.append(path)
            except FileNotFoundError:
                continue
        if empty and folder:
            yield Found(Entry("d", folder), os.stat_result((0,) * 10))


class Landing:
    """A folder into which untrusted paths are written: nothing ever lands outside it.

    Each step into a sub-folder is opened with O_NOFOLLOW relative to the one before, so neither a path nor a link that
    stands (or appears) below the folder leads out. Use as a context manager; not for several threads.
    """

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._last: Tuple[str, int] = ("", self._root)

    def __enter__(self) -> "Landing":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        os.close(self._root)

    def folder(self, path: str) -> int:
        """A descriptor of the sub-folder `path` ("" is the root), made where missing; valid until the next call."""
        if path == self._last[0]:
            return self._last[1]
        current = os.dup(self._root)
        try:
            for part in check_path(path).split("/") if path else ():
                try:
                    os.mkdir(part, 0o777, dir_fd=current)
                except FileExistsError:
                    pass
                try:
                    below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                except OSError:
                    raise TreeError("%s is in the way: %s is no folder" % (show(path), show(part)))
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        self._drop()
        self._last = (path, current)
        return current

    def place(self, path: str) -> Tuple[int, str]:
        """(descriptor of the parent folder, base name) for `path`; parents are made."""
        check_path(path)
        parent, _, name = path.rpartition("/")
        return self.folder(parent), name

    def _drop(self) -> None:
        if self._last[1] != self._root:
            os.close(self._last[1])
        self._last = ("", self._root)
