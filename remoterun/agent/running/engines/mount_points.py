"""Where a mount gets its place in the work tree."""

from __future__ import annotations

import contextlib
import os
from typing import Dict, List, Set

from ...shared.files import remove_tree
from ...shared.paths import SafeFolder
from ...shared.spec import ResolvedMount
from ...shared.tree import Entry, WalkedEntry, hash_file, leads_out, walk
from ...store.blobs import Blobs


def make_folders(work: str, path: str) -> None:
    """Make the folder `path` of a work tree; others may read it, whatever our umask is. There already is fine."""
    parts = path.split("/") if path else []
    for count in range(1, len(parts) + 1):
        folder = os.path.join(work, *parts[:count])
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, 0o755)


def make_mount_point(work: str, place: str, is_file: bool) -> None:
    """Make `place` in the work tree an empty folder (or file): a mount hides what stood there.

    Made by us, or the engine would make it, as root. Raises `TreeError` when a link of the work tree would lead out.
    """
    with SafeFolder(work) as folder:
        descriptor, name = folder.place(place)
        target = os.path.join(work, place)
        if os.path.lexists(target):
            remove_tree(target)
        if is_file:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=descriptor))
        else:
            os.mkdir(name, dir_fd=descriptor)
    parts = place.split("/")
    for count in range(1, len(parts) + (0 if is_file else 1)):  # whatever our umask is
        os.chmod(os.path.join(work, *parts[:count]), 0o755)


def keep_written(work: str, mount: ResolvedMount, blobs: Blobs, started: int) -> List[str]:
    """The paths that a command wrote in a mount whose files lie in the work tree: root may write them, and who owns
    them may allow himself to. Where there are any, all else of the mount is taken away there.

    `started`: when the command was started, in nanoseconds since 1970; what has not changed since then is not read.
    """
    root = os.path.join(work, mount.place)
    if leads_out(work, mount.place) or not os.path.lexists(root):
        return []
    tree = blobs.tree(mount.tree)
    if os.path.islink(root) or not os.path.isdir(root):
        same = (
            mount.file and not os.path.islink(root) and _is_same(root, next(iter(tree)), os.stat(root), blobs, started)
        )
        return [] if same else [mount.place]
    known = {entry.path: entry for entry in tree.entries}
    folders = {path[:at] for path in known for at, letter in enumerate(path) if letter == "/"}
    written: Set[str] = set()
    others: Dict[str, str] = {}
    for found in walk(root, (), [], []):
        if _is_written(root, found, known, folders, blobs, started):
            written.add(found.entry.path)
        else:
            others[found.entry.path] = found.entry.kind
    if written:
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o755)
        for path, kind in others.items():
            (os.rmdir if kind == "d" else os.unlink)(os.path.join(root, path))
        for folder, _, _ in os.walk(root, topdown=False):
            if os.path.relpath(folder, root) not in written:
                with contextlib.suppress(OSError):  # it holds what was written
                    os.rmdir(folder)
    return [mount.place + "/" + path for path in sorted(written)]


def _is_written(
    root: str, found: WalkedEntry, known: Dict[str, Entry], folders: Set[str], blobs: Blobs, started: int
) -> bool:
    entry, before = found.entry, known.get(found.entry.path)
    if before is None:
        return entry.kind != "d" or entry.path not in folders
    if before.kind != "f" or entry.kind != "f":
        return before != entry
    return not _is_same(os.path.join(root, entry.path), before, found.status, blobs, started)


def _is_same(path: str, before: Entry, status: os.stat_result, blobs: Blobs, started: int) -> bool:
    for blob in (blobs.path(before.digest), blobs.path(before.digest, executable=True)):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(blob), status):
                return True
    if status.st_size != before.size:
        return False
    try:
        return status.st_ctime_ns < started or hash_file(path)[0] == before.digest
    except OSError:
        return False
