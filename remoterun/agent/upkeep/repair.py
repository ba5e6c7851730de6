"""Is a file whole, and how a whole one gets its place again, in blobs/ and in folders of uploads and outputs.

Everything appears whole: temporary name, fsync, rename.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import Callable, Iterator, List, Set, Tuple

from ..shared.files import DISK_FULL, locked, private_copy, read_bytes, write_whole
from ..shared.tree import Entry, Manifest, TreeError, hash_file, walk
from ..store.errors import HomeError
from ..store.home import Home
from .references import Referrer, gone

WHOLE, DAMAGED, ABSENT = "whole", "damaged", "absent"


def state_of(path: str, digest: str, read: Callable[[int], None] = lambda count: None) -> str:
    """WHOLE, DAMAGED (also if it can't be read), or ABSENT. `read` is told of bytes as they are read."""
    try:
        return WHOLE if hash_file(path, read)[0] == digest else DAMAGED
    except FileNotFoundError:
        return ABSENT
    except (OSError, TreeError):
        return DAMAGED


def is_whole(path: str, digest: str) -> bool:
    return state_of(path, digest) == WHOLE


def restore(home: Home, source: str, digest: str, executable: bool) -> None:
    """Make a file of a blob from the file `source`, or from a copy if that has another mode. Raises `OSError`, also if
    the source is damaged."""
    target, mode = home.blobs.path(digest, executable), 0o555 if executable else 0o444
    with home.temporary("mend") as folder:
        copy = os.path.join(folder, "blob")
        if stat.S_IMODE(os.stat(source).st_mode) == mode:
            _link(source, copy, mode)
        else:
            private_copy(source, copy, mode)
        if not is_whole(copy, digest):
            raise OSError(errno.EIO, "%s is damaged, too" % source)
        _flush(copy)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        os.replace(copy, target)
        _flush(os.path.dirname(target))


def restore_list(home: Home, referrer: Referrer) -> str:
    """Write the list of files of an upload's version anew; from what, or "" if nothing here has it."""
    if referrer.kind != "upload":
        return ""
    try:
        if is_whole(home.blobs.path(referrer.digest), referrer.digest):
            data, words = read_bytes(home.blobs.path(referrer.digest)), "its blob"
        else:
            data, words = _list_of(referrer.folder), "the files of the folder"
        if hashlib.sha256(data).hexdigest() != referrer.digest:
            return ""
        write_whole(referrer.manifest, data)
    except (OSError, TreeError):
        return ""
    return words


def place(home: Home, referrer: Referrer, digests: Set[str], paths: Set[str]) -> Iterator[Tuple[str, str, str]]:
    """Give each entry of a referrer's folder that has one of `digests`, or is one of `paths`, its blob's file again,
    unless it has that content; the path "" stands for the folder. (path, digest, why it could not be or "") of each.
    """
    if "" in paths:
        yield "", "", _rebuild(home, referrer)
        return
    wanted = [
        entry for entry in referrer.entries() if entry.path in paths or (entry.digest and entry.digest in digests)
    ]
    if not wanted:
        return
    with _lock_of(home, referrer):
        if gone(home, referrer):
            return
        for entry in wanted:
            try:
                _place_entry(home, referrer, entry)
                why = ""
            except HomeError as error:
                why = error.message
            except OSError as error:
                why = reason(error)
            yield entry.path, entry.digest, why


def reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return "the disk is full" if error.errno in DISK_FULL else (error.strerror or str(error))
    return str(error)


def _list_of(folder: str) -> bytes:
    entries = []
    for found in walk(folder):
        entry = found.entry
        if entry.kind == "f":
            entry = entry._replace(digest=hash_file(os.path.join(folder, entry.path))[0])
        entries.append(entry)
    return Manifest(entries).encode()


def _rebuild(home: Home, referrer: Referrer) -> str:
    """Make the folder of a referrer anew; why not, or ""."""
    try:
        with _lock_of(home, referrer), home.temporary("mend") as temporary:
            if gone(home, referrer) or os.path.isdir(referrer.folder):
                return ""
            tree = os.path.join(temporary, "tree")
            home.checkout(Manifest.decode(read_bytes(referrer.manifest)), tree, private=False)
            os.rename(tree, referrer.folder)
    except HomeError as error:
        return error.message
    except (OSError, TreeError) as error:
        return reason(error)
    return ""


def _place_entry(home: Home, referrer: Referrer, entry: Entry) -> None:
    path = os.path.join(referrer.folder, entry.path)
    there = os.path.lexists(path)
    if not there and not referrer.whole:
        return  # mounts are there while a run needs them only
    if entry.kind == "f":
        source = home.blobs.path(entry.digest)
        if not is_whole(source, entry.digest):
            raise HomeError("missing_blob", "its blob is not here")
        if there and is_whole(path, entry.digest) and not os.path.islink(path):
            return
        if entry.executable:
            source = home.blobs.executable_twin(entry.digest)
    with _writable(referrer.folder, os.path.dirname(entry.path)) as folder:
        if entry.kind == "d":
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o555)
            return
        temporary = os.path.join(folder, ".%s.remoterun" % secrets.token_hex(6))
        try:
            if entry.kind == "l":
                os.symlink(entry.target, temporary)
            else:
                _link(source, temporary, 0o555 if entry.executable else 0o444)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        _flush(folder)


@contextlib.contextmanager
def _writable(top: str, below: str) -> Iterator[str]:
    """The folder `below` in `top`, made where it is missing; we may write it, and those above, until the end."""
    modes: List[Tuple[str, int]] = []
    path = top
    try:
        for part in [""] + (below.split("/") if below else []):
            path = os.path.join(path, part) if part else path
            if not os.path.lexists(path):
                os.mkdir(path, 0o755)
                modes.append((path, 0o555))
                continue
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
                os.chmod(path, 0o755)
                modes.append((path, stat.S_IMODE(status.st_mode)))
        yield path
    finally:
        for path, mode in reversed(modes):
            os.chmod(path, mode)


def _link(source: str, target: str, mode: int) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
            raise
        private_copy(source, target, mode)
        _flush(target)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock_of(home: Home, referrer: Referrer) -> Iterator[None]:
    if referrer.kind == "upload":
        with locked(home.lock("upload-" + referrer.name)):
            yield
    else:
        yield
