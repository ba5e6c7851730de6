"""The outputs of a run: every new or changed file of its work tree."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from ..shared.files import private_copy, read_bytes, remove_tree, write_whole
from ..shared.tree import Entry, Manifest, WalkedEntry, hash_file, walk
from .checkout import StoredTree
from .home import Home
from .run_folder import RunFolder

Check = Callable[[int], None]
MOST_ENTRIES = 50_000
"""Of a work tree in which files of metrics are searched."""


def save(home: Home, run: RunFolder, check: Check = lambda count: None) -> Tuple[Manifest, List[str]]:
    """Turn new and changed files of the work tree into the tree of outputs: (manifest, names of special files). What
    mounts have put there is no output, unless the command has changed it.

    Files become blobs by hard links: no data is copied. May be repeated after a crash at any point. What can't be
    read, since it belongs to another user, counts as special too, and the work tree stays, for it is there only.
    `check`, which may raise, is called for each file and each piece that is read: holes may take hours.
    """
    source = {entry.path: entry for entry in Manifest.decode(read_bytes(run.source_file))}
    mounted = _mounted(home, run)
    since = started(run)
    _open_up(run.work)
    special: List[str] = []
    unreadable: List[str] = []
    entries = []
    with home.lease() as lease:
        for found in walk(run.work, (), special, unreadable):
            check(0)
            entry, before = found.entry, mounted.get(found.entry.path)
            if before is not None and _is_as_mounted(home, before, found, since):
                continue
            known = source.get(entry.path) if before is None else before
            if entry.kind == "f":
                path = os.path.join(run.work, entry.path)
                try:
                    digest = _hash_ours(path, check)
                except PermissionError:
                    unreadable.append(entry.path)
                    continue
                entry = entry._replace(digest=digest)
                if known == entry or (before is not None and before.digest == digest):
                    continue
                lease.add(bytes.fromhex(digest))
                _adopt(home, path, entry, found.status, check)
            elif known == entry:
                continue
            entries.append(entry)
        manifest = Manifest(entries)
        with home.temporary("outputs") as temporary:
            tree = os.path.join(temporary, "out")
            home.checkout(manifest, tree, private=False)
            remove_tree(run.out)
            os.rename(tree, run.out)
        write_whole(run.outputs_file, manifest.encode())
        if not unreadable:
            with contextlib.suppress(PermissionError):  # a folder of another user: what is in it stays beside its copy
                remove_tree(run.work)
        return manifest, special + unreadable


def saved(run: RunFolder) -> Optional[StoredTree]:
    """The saved outputs, or None while the run hasn't saved any."""
    if not os.path.exists(run.outputs_file):
        return None
    return StoredTree(run.outputs_file, run.out, {})


def started(run: RunFolder) -> int:
    """When the command was started, in nanoseconds since 1970."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(run.wrapper_file).st_mtime_ns
    return 0


def written(root: str, since: int, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, int]]:
    """(path, when it was written, in nanoseconds since 1970) of the files below `root` that were not written before
    `since`, and whose names are `wanted`. Links are not followed. Of a large tree, what is near its root."""
    folders, left = deque([""]), MOST_ENTRIES
    while folders and left > 0:
        folder = folders.popleft()
        with contextlib.suppress(OSError), os.scandir(os.path.join(root, folder)) as entries:
            for entry in sorted(itertools.islice(entries, left), key=lambda entry: entry.name):
                left -= 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(folder + entry.name + "/")
                elif wanted(entry.name) and entry.is_file(follow_symlinks=False):
                    at = entry.stat(follow_symlinks=False).st_mtime_ns
                    if at >= since:
                        yield folder + entry.name, at


def all_readable(root: str) -> bool:
    """Whether we may read every file and folder below `root`."""
    paths = (os.path.join(folder, name) for folder, names, files in os.walk(root) for name in names + files)
    return all(os.path.islink(path) or os.access(path, os.R_OK) for path in paths)


def _mounted(home: Home, run: RunFolder) -> Dict[str, Entry]:
    """By its path, what mounts have put into the work tree, and each folder that was made for one or for the command.
    In a container's work tree there is but an empty file or folder for each of them."""
    found: Dict[str, Entry] = {}
    folders = [run.spec().workdir]
    for mount in run.mounts():
        at = os.path.join(run.work, mount.place)
        if mount.is_absolute or not os.path.exists(at):
            continue
        if mount.file and not os.path.getsize(at):
            found[mount.place] = Entry("f", mount.place)
        elif mount.file or not os.path.isdir(at) or os.listdir(at):
            for entry in home.blobs.tree(mount.tree):
                path = mount.place if mount.file else mount.place + "/" + entry.path
                found[path] = entry._replace(path=path)
        folders.append(mount.place)
    for path in [*found, *folders]:
        for end in [at for at, letter in enumerate(path + "/") if letter == "/" and at]:
            found.setdefault(path[:end], Entry("d", path[:end]))
    return found


def _is_as_mounted(home: Home, before: Entry, found: WalkedEntry, started: int) -> bool:
    """Whether it is plain, without reading it, that the command has not changed this part of a mount."""
    if before.kind != "f" or found.entry.kind != "f":
        return before == found.entry
    if before.size == found.status.st_size and found.status.st_ctime_ns < started:
        return True
    for blob in (home.blobs.path(before.digest), home.blobs.path(before.digest, executable=True)):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(blob), found.status):
                return True
    return False


def _adopt(home: Home, path: str, entry: Entry, status: os.stat_result, check: Check) -> None:
    if status.st_uid == os.geteuid() and status.st_nlink == 1 and not entry.executable:
        home.blobs.adopt(path, entry.digest)
    elif not home.blobs.has(entry.digest):
        # A blob is not executable and a hard link shares its mode: a repetition after a crash would lose the bit.
        # What belongs to another user, such as root, can't be made read-only; and what has a name elsewhere, too,
        # must not be: it may be written by that name.
        with home.temporary("out") as folder:
            copy = os.path.join(folder, "x")
            private_copy(path, copy, check=check)
            home.blobs.adopt(copy, entry.digest)


def _hash_ours(path: str, check: Check) -> str:
    """The digest of a file that we may read, or may allow ourselves to. Raises `PermissionError`."""
    try:
        return hash_file(path, check)[0]
    except PermissionError:
        os.chmod(path, 0o600)
        return hash_file(path, check)[0]


def _open_up(root: str) -> None:
    """Let us read every folder below `root`, whatever a command has done to their modes."""
    for folder, names, _ in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)
