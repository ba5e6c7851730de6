"""Files that appear whole: temporary name, fsync, rename. Standard library only; Python >= 3.8."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
from typing import Any, Dict, Iterator

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path` so that a reader, now or after a crash, sees the old content or the new, whole."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
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


def read_json(path: str) -> Any:
    with open(path, "rb") as file:
        return json.loads(file.read())


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; blocks. The lock ends with the process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    """Delete a folder with all in it, read-only folders too; what is absent is removed. Links are not followed."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    for folder, _, _ in os.walk(path):
        try:
            os.chmod(folder, stat.S_IRWXU)
        except OSError:
            pass
    shutil.rmtree(path, ignore_errors=True)
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


def private_copy(source: str, target: str) -> None:
    """Copy a file's content; shares the blocks where the file system can."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), 0x40049409, reader.fileno())  # FICLONE: btrfs, XFS
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)
