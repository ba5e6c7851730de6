"""A disk that takes some names for one, as those of Macs and USB sticks do: a folder of this machine, through FUSE.

    with folding(store, mount, Disk.APFS):
        (mount / "A.txt").touch()
        assert (mount / "a.txt").exists()

What is written below `mount` stands in `store`, under the name it was made with. The file system is a process of its
own, and ends with its owner. Needs /dev/fuse and the package `fuse3`; `missing()` says what is absent.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from enum import Enum
from pathlib import Path
from typing import Any

from tests.lab.error import LabError, LabUnavailable
from tests.lab.process import run, until

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 10.0
END_SECONDS = 10.0


class Disk(Enum):
    """What is one name to it."""

    APFS = "apfs"
    """Whatever the case, and however an accent is written."""
    EXFAT = "exfat"
    """Whatever the case; an accent written in another way makes another name."""
    VFAT = "vfat"
    """As Linux mounts a USB stick: the case of A to Z makes no difference, and dots at the end don't."""
    HFSX = "hfsx"
    """However an accent is written; the case makes a difference."""

    def key(self, name: str) -> str | bytes:
        """The same for two names that are one."""
        if self is Disk.APFS:
            return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        if self is Disk.EXFAT:
            return name.casefold()
        if self is Disk.VFAT:
            return os.fsencode(name).lower().rstrip(b".")
        return unicodedata.normalize("NFD", name)


def missing() -> str | None:
    """What this machine lacks; None if nothing."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse can't be used: {error.strerror}"
    if shutil.which("fusermount3") is None or not (find_library("fuse3") or find_library("fuse")):
        return "fuse3 is not installed"
    return None


@contextmanager
def folding(store: Path, mount: Path, disk: Disk = Disk.APFS) -> Iterator[Path]:
    """Mount `store` at the folder `mount`, which is what it gives; unmounted at the end, also when files are open.

    Raises `LabUnavailable` if it can't be mounted, and `LabError` if that or the end takes too long.
    """
    store, mount = store.resolve(), mount.resolve()
    words = [sys.executable, "-m", "tests.lab.folding", str(store), str(mount), disk.value]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
            start_new_session=True,  # a ^C is for its owner, whose end is its end
        )

        def said() -> str:
            log.seek(0)
            return log.read()

        try:
            what = f"the file system for {mount} is there"
            until(lambda: _is_mounted(mount) or process.poll() is not None, START_SECONDS, what, said)
            if process.poll() is not None:
                raise LabUnavailable("no file system can be mounted through FUSE", said())
            yield mount
        finally:
            assert process.stdin is not None
            alive = process.poll() is None
            process.stdin.close()
            try:
                ended = process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                ended = process.wait()
            if _is_mounted(mount):
                run(["fusermount3", "-u", "-z", str(mount)])
        if not alive or ended:
            when = "at" if alive else "before"
            raise LabError(f"the file system for {mount} ended with {ended} {when} its end", said())


def _is_mounted(mount: Path) -> bool:
    """Asks the kernel, not the file system, which may be dead or not answer yet."""
    shown = os.fsencode(mount).replace(b"\\", b"\\134").replace(b" ", b"\\040")
    return any(line.split(b" ")[4] == shown for line in Path("/proc/self/mountinfo").read_bytes().splitlines())


def _of_path(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, path, *more: function(self._place(path), *more)


def _of_file(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of an open file, whose number comes last."""
    return lambda self, path, *more: function(more[-1], *more[:-1])


class FileSystem:
    """What mfusepy calls. Every path begins with `/`; an `OSError` becomes the caller's.

    The names below `store` are as they were made; one that is asked for is that of which it is another spelling.
    """

    use_ns = True

    def __init__(self, store: str, disk: Disk) -> None:
        self._store, self._disk = store, disk

    def _place(self, path: str) -> str:
        place = self._store
        for part in path.split("/"):
            if part:
                place = os.path.join(place, self._found(place, part))
        return place

    def _found(self, folder: str, name: str) -> str:
        """The name in the folder that is one with `name`; itself if there is none."""
        if os.path.lexists(os.path.join(folder, name)):
            return name
        try:
            there = os.listdir(folder)
        except OSError:
            return name
        key = self._disk.key(name)
        return next((other for other in there if self._disk.key(other) == key), name)

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._place(path), flags | os.O_CREAT | os.O_CLOEXEC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._place(path), flags | os.O_CLOEXEC)

    def truncate(self, path: str, length: int, file: int | None = None) -> None:
        os.truncate(self._place(path) if file is None else file, length)

    def readdir(self, path: str, _: int) -> list[str]:
        return [".", "..", *os.listdir(self._place(path))]

    def rename(self, old: str, new: str) -> None:
        """The new name is spelt as it is given, also where another spelling of it was there."""
        source, there = self._place(old), self._place(new)
        os.rename(source, there)
        wanted = os.path.join(os.path.dirname(there), os.path.basename(new))
        if wanted != there:
            os.rename(there, wanted)

    def link(self, new: str, old: str) -> None:
        os.link(self._place(old), self._place(new), follow_symlinks=False)

    def symlink(self, new: str, target: str) -> None:
        os.symlink(target, self._place(new))

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        status = os.lstat(self._place(path)) if file is None else os.fstat(file)
        known = {name: int(getattr(status, name)) for name in dir(status) if re.fullmatch(r"st_[a-z]+", name)}
        return known | {f"st_{which}": getattr(status, f"st_{which}_ns") for which in ("atime", "mtime", "ctime")}

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._place(path), ns=times or (time.time_ns(),) * 2, follow_symlinks=False)

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._place(path))
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_") and name != "f_fsid"}

    read = _of_file(os.pread)
    write = _of_file(os.pwrite)
    flush = _of_file(lambda file: os.close(os.dup(file)))
    fsync = _of_file(lambda file, data_only: os.fsync(file))
    release = _of_file(os.close)
    mkdir, rmdir, unlink = _of_path(os.mkdir), _of_path(os.rmdir), _of_path(os.unlink)
    readlink, chmod, chown = _of_path(os.readlink), _of_path(os.chmod), _of_path(os.lchown)


def _end_with_owner(mount: str) -> None:
    """Unmount when nobody holds the other end of stdin any more; that ends the file system."""
    os.read(0, 1)
    subprocess.run(["fusermount3", "-u", "-z", mount], check=False)


def main() -> None:
    import mfusepy

    store, mount, disk = sys.argv[1:]
    os.umask(0)  # the caller's is in the modes already
    threading.Thread(target=_end_with_owner, args=(mount,), daemon=True).start()
    options: dict[str, Any] = {"foreground": True, "nothreads": True, "fsname": "folding", "use_ino": True}
    # Two spellings are two files to the kernel: it may remember nothing of either.
    options |= {"entry_timeout": 0, "attr_timeout": 0, "negative_timeout": 0}
    mfusepy.FUSE(FileSystem(store, Disk(disk)), mount, **options)


if __name__ == "__main__":
    main()
