"""Files that appear whole: temporary name, fsync, rename; and where the last lines of one begin."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from typing import Any, Callable, Dict, Iterator, Optional, Union

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LITTLE_ROOM, FEW_INODES = 1 << 20, 32
"""Bytes, and inodes: a disk that has less is full."""
TAIL_BLOCK = 1 << 18
"""Bytes in which the end of a log is searched for lines."""


def token(size: int = 4) -> str:
    """So many random bytes, in hex, for a name that nobody else has."""
    return os.urandom(size).hex()


def write_whole(path: str, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """Write `data` to `path` so that a reader, now or after a crash, sees the old content or the new, whole; without
    `sync` not so after a power loss."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def append_line(path: str, record: Dict[str, Any]) -> None:
    """Append one JSON line and flush it to the disk: all of it, or `OSError`. A line cut by an earlier crash is ended
    first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_whole(path: str, data: bytes, unit: int = 1) -> None:
    """Append `data`, all of it or `OSError`, to a file of records of `unit` bytes, of which a crash may have cut the
    last one."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell() // unit * unit
        file.truncate(size)
        if (file.write(data) or 0) < len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def write_all(descriptor: int, data: Union[bytes, bytearray, memoryview]) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def no_room(path: str) -> str:
    """Why the disk that holds `path` takes nothing more; "" where it does, or where that is not known."""
    with contextlib.suppress(OSError):
        about = os.statvfs(path)
        if about.f_files and about.f_favail < FEW_INODES:
            return "the disk that holds %s is out of inodes: it has too many files" % path
        if about.f_bavail * about.f_frsize < LITTLE_ROOM:
            return "the disk that holds %s is full" % path
    return ""


def size_of(path: str) -> int:
    """Bytes of a file; 0 where none is, or something else than a file, such as a link."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


_UNTRUSTED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_regular(path: str, folder: Optional[int] = None) -> int:
    """A descriptor to read a file from a place where others may write; `folder`: what `path` is relative to.

    Does not block. Raises `FileNotFoundError` where something else than a regular file is there, such as a link, and
    `OSError`.
    """
    if stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode):
        descriptor = os.open(path, _UNTRUSTED, dir_fd=folder)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may have become another one
            return descriptor
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def text_of(path: str) -> str:
    """What a file of the system says; "" where it can't be read."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def read_settings(path: str) -> bytes:
    """The content of a file that people write, which is a regular one of 1 MiB at the most: a link of a
    repository may lead to a device without an end, or to a pipe on which one waits for ever. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        data = file.read((1 << 20) + 1)
    if len(data) > 1 << 20:
        raise OSError(errno.EFBIG, "it has more than 1 MiB", path)
    return data


def is_same(file: Union[int, str], path: str) -> bool:
    """Whether a path is that of this file, by its path or its descriptor. Not where it is gone."""
    try:
        return os.path.samefile(file, path)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))


@contextlib.contextmanager
def temporary_folder(parent: str, label: str) -> Iterator[str]:
    """A new folder in `parent`, deleted at the end. Its name has the number of the process that made it."""
    path = os.path.join(parent, "%s-%d-%s" % (label, os.getpid(), token()))
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        remove_tree(path)


@contextlib.contextmanager
def locked(
    path: str,
    shared: bool = False,
    patience: Optional[float] = None,
    waiting: Optional[Callable[[], None]] = None,
) -> Iterator[int]:
    """Hold a lock on the file `path`, as its descriptor: alone, or `shared` with other such holders. It ends with the
    process, however that ends.

    Blocks; `waiting` is called now and then meanwhile, and may raise. Raises `TimeoutError` where others hold it for
    `patience` seconds (None: for ever).
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if patience is None and waiting is None:
            fcntl.flock(descriptor, kind)  # the kernel wakes those that wait
        else:
            _await_lock(descriptor, kind, float("inf") if patience is None else patience, waiting)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unless_held(path: str, patience: float = 0.0) -> Iterator[Optional[int]]:
    """Hold a lock alone, as its descriptor; None where others hold it for `patience` seconds."""
    with contextlib.ExitStack() as stack:
        lock: Optional[int] = None
        with contextlib.suppress(TimeoutError):
            lock = stack.enter_context(locked(path, patience=patience))
        yield lock


def _await_lock(descriptor: int, kind: int, patience: float, waiting: Optional[Callable[[], None]]) -> None:
    deadline, pause = time.monotonic() + patience, 0.005
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        if time.monotonic() > deadline:
            raise TimeoutError
        if waiting is not None:
            waiting()
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def remove_tree(path: str) -> None:
    """Delete a folder with all in it, read-only folders too; what is absent is removed. Links are not followed."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    import shutil

    with contextlib.suppress(RecursionError):
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(folder, stat.S_IRWXU)
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):  # such as a thousand folders, one in the other
        import subprocess

        subprocess.run(["rm", "-rf", "--", path], stderr=subprocess.DEVNULL)
    if os.path.lexists(path):
        shutil.rmtree(path)


def own_bytes(path: str) -> int:
    """What the disk gets back when a file, or a folder with all in it, is deleted: what is linked elsewhere is not."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size if status.st_nlink == 1 else 0
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                size += status.st_size if status.st_nlink == 1 else 0
    return size


def private_copy(
    source: str,
    target: str,
    mode: Optional[int] = None,
    source_folder: Optional[int] = None,
    target_folder: Optional[int] = None,
    check: Callable[[int], None] = lambda count: None,
) -> None:
    """Copy a file's content; shares the blocks where the file system can. The folders are descriptors, if paths are
    relative to them. `check`, which may raise, is called for each piece."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC, dir_fd=source_folder)
    try:
        writer = os.open(target, flags, 0o666, dir_fd=target_folder)
        try:
            if mode is not None:
                os.fchmod(writer, mode)
            try:
                fcntl.ioctl(writer, _FICLONE, reader)
            except OSError:
                _copy(reader, writer, check)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


_FICLONE = 0x40049409
"""Share a file's blocks: btrfs, XFS."""


def _copy(reader: int, writer: int, check: Callable[[int], None]) -> None:
    piece = min(os.fstat(reader).st_size + 1, 1 << 20)
    while True:
        data = os.read(reader, piece)
        if not data:
            return
        write_all(writer, data)
        check(len(data))


def tail_start(size: int, lines: int, read: Callable[[int, int], bytes]) -> int:
    """Where the last `lines` lines begin of a log of `size` bytes, of which `read` gives those between two places; a
    last line without an end counts. No more than 1 MiB for each line is read."""
    at, left, seen = size, lines, 0
    while at > 0 and left > 0 and seen < (lines + 1) << 20:
        start = max(0, at - TAIL_BLOCK)
        block = read(start, at)
        position = len(block) - 1 if not seen and block.endswith(b"\n") else len(block)
        seen += len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            left -= 1
            if not left:
                return start + position + 1
        at = start
    return at
