"""Trees: the manifest of a folder, its canonical form and digest, and how a folder is walked (paths: see paths.py).

A manifest lists files, symbolic links and empty folders, sorted by path. Its canonical form is

    remoterun-tree 1\\n
    ["f","path/of/file",size,"sha256 in hex",0 or 1 for executable]\\n
    ["l","path/of/link","target"]\\n
    ["d","path/of/empty/folder"]\\n

in JSON with every non-ASCII character escaped; names that are no UTF-8 travel as surrogates (`os.fsdecode`). The
SHA-256 of that text names the tree. Owner and times are not part of it.

Longer than other files: reading and writing the canonical form must agree to the byte, and so they stand together.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import posixpath
import re
import stat
from typing import IO, Callable, Iterable, Iterator, List, Optional, Set, Tuple, Union

from .frames import Bytes
from .paths import ODD_PART, raw_path
from .paths import TreeError as TreeError
from .paths import check_path as check_path
from .paths import link_stays_inside as link_stays_inside
from .paths import show as show
from .records import Record

HEADER = b"remoterun-tree 1\n"
READ_SIZE = 1 << 20
LONGEST_LINE = 1 << 16
"""Bytes of a line: a path and a target of 4096 bytes each, all of them escaped, are 49,152."""

DEEPEST = 200
"""Folders, one in the other, that a tree may have, and that a walk goes down: each is open meanwhile."""
MOST_ENTRIES = 3 << 19
"""Files, links and empty folders of a tree, and folders that hold some: each has a place in memory and on a disk."""
LARGEST = (1 << 63) - 1
"""Bytes that a file may have."""


class Entry(Record):
    """One line of a manifest. `kind` is "f", "l" or "d"; `digest` is SHA-256 in hex ("" while not hashed)."""

    kind: str
    path: str
    size: int = 0
    digest: str = ""
    executable: bool = False
    target: str = ""


class ChangedWhileRead(TreeError):
    """A file whose content moved under the reader."""


class Manifest:
    """An immutable, checked, sorted list of entries. It is kept as its canonical text, some 130 bytes an entry, and
    parsed as it is read, so that a million entries have room.

    The constructor raises `TreeError` for paths that are unsafe or occur twice, and for entries below a file or a link.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        build = ManifestBuilder()
        for entry in sorted(entries, key=lambda entry: raw_path(entry.path)):
            build.add(entry)
        self._take(build)

    @classmethod
    def built(cls, build: "ManifestBuilder") -> "Manifest":
        """What was added to `build`, which is used up."""
        manifest = cls.__new__(cls)
        manifest._take(build)
        return manifest

    @classmethod
    def checked_before(cls, text: bytes, files: int, size: int) -> "Manifest":
        """What `text` was when a manifest was made of it: its digest tells that it is the same."""
        manifest = cls.__new__(cls)
        manifest._set(text, text.count(b"\n") - 1, files, size)
        return manifest

    def _take(self, build: "ManifestBuilder") -> None:
        self._set(build.text(), build.count, build.files, build.size)

    def _set(self, text: bytes, count: int, files: int, size: int) -> None:
        self._text = text
        self.count = count
        self.file_count = files
        self.size = size
        """Bytes of all files."""
        self._digest = ""

    def __iter__(self) -> Iterator[Entry]:
        """The entries, each parsed when it is wanted."""
        lines = io.BytesIO(self._text)
        lines.seek(len(HEADER))
        return map(parse_line, lines)

    @property
    def files(self) -> Iterator[Entry]:
        return (entry for entry in self if entry.kind == "f")

    def encode(self) -> bytes:
        return self._text

    @property
    def digest(self) -> str:
        if not self._digest:
            self._digest = hashlib.sha256(self._text).hexdigest()
        return self._digest

    @classmethod
    def decode(cls, data: Union[Bytes, IO[bytes]], hashed: bool = True) -> "Manifest":
        """The manifest in `data`, every field checked. `hashed=False` allows files without a digest."""
        lines = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
        header = lines.readline(len(HEADER))
        if header != HEADER:
            raise TreeError("not a manifest of this version: %.40r" % header)
        build = ManifestBuilder()
        for line in lines:
            build.add_line(line, hashed)
        return cls.built(build)

    def below(self, sub: str) -> "Manifest":
        """The part under `sub`, its paths relative to it; one file keeps its base name. Raises `KeyError` if absent."""
        if not sub:
            return self
        build = ManifestBuilder()
        for entry in self:
            if entry.path == sub:
                if entry.kind != "d":
                    build.add(entry._replace(path=posixpath.basename(sub)))
                return Manifest.built(build)
            if entry.path.startswith(sub + "/"):
                build.add(entry._replace(path=entry.path[len(sub) + 1 :]))
        if not build.count:
            raise KeyError(sub)
        return Manifest.built(build)

    def find(self, path: str) -> Optional[Entry]:
        return next((entry for entry in self if entry.path == path), None)


def laid_over(below: Manifest, above: Manifest) -> Manifest:
    """Both trees as one: what is in `above` stands in the place of what is at its path in `below`."""
    kinds = {entry.path: entry.kind for entry in above}
    folders = {path[:at] for path in kinds for at, letter in enumerate(path) if letter == "/"}
    entries = list(above)
    for entry in below:
        parents = [entry.path[:at] for at, letter in enumerate(entry.path) if letter == "/"]
        hidden = entry.path in kinds or entry.path in folders
        if not hidden and all(kinds.get(parent, "d") == "d" for parent in parents):
            entries.append(entry)
    return Manifest(entries)


class ManifestBuilder:
    """A manifest as it grows, entry by entry in the order of their paths (as bytes). Each is checked as it comes.

    `add` and `add_line` raise `TreeError`, as the constructor of `Manifest` does, and for an entry out of order.
    """

    def __init__(self) -> None:
        self.count = self.files = self.size = self._folders = 0
        self._text = io.BytesIO()
        self._text.write(HEADER)
        self._last = b""
        self._last_parent = b""
        # Files and links that are a string prefix of the last path, and so of each other: whatever lies below one of
        # them follows while it is here.
        self._leaves: List[bytes] = []
        self._leaf_set: Set[bytes] = set()

    def add(self, entry: Entry) -> None:
        kind, name, size, digest, executable, target = entry
        path = raw_path(name)
        if not 0 < len(path) < 256 or b"\0" in path or ODD_PART.search(path):
            check_path(name)  # it may be right all the same
        if target:
            raw_path(target)
        self._append(path, kind, size, _line(kind, name, size, digest, executable, target))

    def add_line(self, line: bytes, hashed: bool = True) -> None:
        """A line of the canonical form, as it came from elsewhere."""
        match = _PLAIN_FILE.match(line)
        if match and len(match[1]) < 256 and not ODD_PART.search(match[1]):
            self._append(match[1], "f", int(match[2]), line)
            return
        entry = _decode_line(line, hashed)
        check_path(entry.path)
        raw_path(entry.target)
        self._append(raw_path(entry.path), entry.kind, entry.size, _line(*entry))

    def text(self) -> bytes:
        """The canonical form; nothing can be added any more."""
        return self._text.getvalue()

    def _append(self, path: bytes, kind: str, size: int, line: bytes) -> None:
        if path <= self._last and self.count:
            if path == self._last:
                raise TreeError("%s occurs twice" % show(os.fsdecode(path)))
            raise TreeError("%s is out of order" % show(os.fsdecode(path)))
        leaves = self._leaves
        while leaves and not path.startswith(leaves[-1]):
            self._leaf_set.discard(leaves.pop())
        parent = path.rpartition(b"/")[0]
        if parent != self._last_parent:
            folder, last = parent and parent + b"/", self._last_parent + b"/"
            self._folders += folder.count(b"/", len(os.path.commonprefix([folder, last])))
            if leaves:
                self._check_parents(path, parent)
        if max(self.count, self._folders) >= MOST_ENTRIES or parent.count(b"/") >= DEEPEST:
            raise TreeError("more than %d files, or more than %d folders in each other" % (MOST_ENTRIES, DEEPEST))
        self._last, self._last_parent = path, parent
        if kind != "d":
            leaves.append(path)
            self._leaf_set.add(path)
        self._text.write(line)
        self.count += 1
        if kind == "f":
            self.files += 1
            self.size += size

    def _check_parents(self, path: bytes, parent: bytes) -> None:
        while parent:
            if parent in self._leaf_set:
                shown = show(os.fsdecode(path)), show(os.fsdecode(parent))
                raise TreeError("%s lies below %s, which is not a folder" % shown)
            parent = parent.rpartition(b"/")[0]


_quoted = json.encoder.encode_basestring_ascii

# A file whose path needs no escape: what nearly every line is.
_PLAIN_FILE = re.compile(rb'\["f","([ !#-\[\]-~]+)",(0|[1-9][0-9]{0,17}),"([0-9a-f]{64})",([01])\]\n\Z')


def _line(kind: str, path: str, size: int, digest: str, executable: bool, target: str) -> bytes:
    """One line of the canonical form: JSON without blanks, ASCII."""
    if kind == "f":
        text = '["f",%s,%d,%s,%d]\n' % (_quoted(path), size, _quoted(digest), executable)
    elif kind == "l":
        text = '["l",%s,%s]\n' % (_quoted(path), _quoted(target))
    else:
        text = '["d",%s]\n' % _quoted(path)
    return text.encode("ascii")


def read_entries(path: str) -> Iterator[Entry]:
    """The entries of the manifest in a file, parsed as they are read: no more than one is in memory.

    Raises `TreeError` for a line that is none, and `OSError`.
    """
    with open(path, "rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise TreeError("%s is not a manifest of this version" % show(path))
        for line in file:
            yield parse_line(line, hashed=True)


def parse_line(line: bytes, hashed: bool = False) -> Entry:
    """An entry of a manifest; its path is not checked. Raises `TreeError` for what is none. `hashed`: it must have a
    digest if it is a file."""
    match = _PLAIN_FILE.match(line)
    if match:
        name, size, digest, executable = match.groups()
        return Entry("f", str(name, "ascii"), int(size), str(digest, "ascii"), executable == b"1")
    return _decode_line(line, hashed)


def _decode_line(line: bytes, hashed: bool) -> Entry:
    try:
        row = json.loads(line if len(line) < LONGEST_LINE else b"")
        kind = row[0]
        if kind == "f":
            _, path, size, digest, executable = row
            valid = (
                isinstance(path, str)
                and type(size) is int
                and 0 <= size <= LARGEST
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
    raise TreeError("not a line of a manifest: %.120r" % line[:120])


def is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def hash_file(path: Union[str, int], read: Callable[[int], None] = lambda count: None) -> Tuple[str, os.stat_result]:
    """SHA-256 in hex of a file, and its status; raises `ChangedWhileRead` when it changed meanwhile. `path`: or an open
    descriptor, which is closed.

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
        raise ChangedWhileRead("%s changed while it was read" % show(str(path)))
    return digest.hexdigest(), after


class WalkedEntry(Record):
    """Something met on a walk: `entry` (not hashed) and its status."""

    entry: Entry
    status: os.stat_result


def walk(
    root: str, skip: Iterable[str], special: List[str], unreadable: Optional[List[str]] = None
) -> Iterator[WalkedEntry]:
    """Every file, link and empty folder below `root`, unhashed, in the order of a manifest. Links are not followed,
    also where others change the tree meanwhile.

    Paths in `skip` are left out with all below them. Sockets, pipes and devices are appended to `special`. Folders that
    can't be read are appended to `unreadable`; without that list they raise `OSError`. What vanishes during the walk is
    left out. Of a folder, only the names are in memory.
    """
    left_out = frozenset(skip)
    levels: List[_Level] = []
    try:
        _enter(levels, root, "", unreadable)
        while levels:
            folder, prefix, items = levels[-1]
            item = next(items, None)
            if item is None:
                os.close(levels.pop()[0])
                continue
            path = prefix + item.name
            if path in left_out:
                continue
            try:
                status = item.stat(follow_symlinks=False)
                mode = status.st_mode
                if stat.S_ISDIR(mode):
                    if _enter(levels, item.name, path, unreadable):
                        yield WalkedEntry(Entry("d", path), status)
                elif stat.S_ISREG(mode):
                    yield WalkedEntry(Entry("f", path, status.st_size, "", bool(mode & 0o100)), status)
                elif stat.S_ISLNK(mode):
                    yield WalkedEntry(Entry("l", path, target=os.readlink(item.name, dir_fd=folder)), status)
                else:
                    special.append(path)
            except FileNotFoundError:
                continue
    finally:
        for level in levels:
            os.close(level[0])


_Level = Tuple[int, str, "Iterator[os.DirEntry[str]]"]
"""A folder that a walk is in: its descriptor, how the paths in it begin, what is still to come of it."""


def _enter(levels: List[_Level], name: str, path: str, unreadable: Optional[List[str]]) -> bool:
    """Go down into a folder of the last level, if that can be read. Whether it is empty."""
    try:
        if len(levels) > DEEPEST:
            raise OSError(errno.ENAMETOOLONG, "it lies below more than %d folders" % DEEPEST, show(path))
        folder = _open_folder(name, levels[-1][0] if levels else None)
        listing: "List[os.DirEntry[str]]" = []
        levels.append((folder, path + "/" if path else "", iter(listing)))
        with os.scandir(folder) as found:
            listing += sorted(found, key=lambda item: _order(item, folder))
        return not listing
    except OSError as error:
        if error.errno == errno.ENOENT or (levels and error.errno in (errno.ENOTDIR, errno.ELOOP)):
            return False  # it vanished
        if unreadable is None or error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        unreadable.append(path)
        return False


def _open_folder(name: str, above: Optional[int]) -> int:
    """`above`: the folder that holds it; None for the root of a walk, which may be a link."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if above is not None else 0), dir_fd=above)


def _order(item: "os.DirEntry[str]", above: int) -> bytes:
    """An empty folder stands under its own name, what is in one under names that go on with a slash."""
    with contextlib.suppress(OSError):
        if item.is_dir(follow_symlinks=False):
            folder = _open_folder(item.name, above)
            try:
                with os.scandir(folder) as found:
                    return os.fsencode(item.name) + b"/" * any(True for _ in found)
            finally:
                os.close(folder)
    return os.fsencode(item.name)
