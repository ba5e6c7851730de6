"""What a test session that was killed leaves on this machine, processes and mounts, and how the next one removes it.

A session has a folder for its temporary files (pytest's `basetemp`). A process that it starts has that folder in its
variables (`PYTEST_SESSION`), its words or its current folder, or is a child of such a one; what it mounts lies there. A
record of the session, a file that is named after the pytest process, is written before anything is started and removed
at the end. The hosts of the lab have records of their own: see `record.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.error import LabError
from tests.lab.process import PATIENCE, birth, kill, until

VARIABLE = "PYTEST_SESSION"
"""The variable that names a session's folder to all that it starts."""


def records() -> Path:
    """Where the records of this user's sessions are."""
    folder = Path(tempfile.gettempdir(), f"remoterun-tests-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


@contextmanager
def recorded(basetemp: Path, folder: Path | None = None) -> Iterator[None]:
    """Record this process's session, whose temporary files are in `basetemp`, for as long as the block lasts. What
    sessions left that were killed is removed first. `folder`: where the records are, instead of `records()`."""
    folder = folder or records()
    sweep(folder)
    path = folder / f"{os.getpid()}-{birth(os.getpid())}"
    path.write_text(str(basetemp))
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(basetemp)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> list[Path]:
    """Remove what dead sessions left, but for their files; returns their folders. May run twice at once."""
    swept = []
    for path in folder.glob("*-*"):
        pid, born = path.name.split("-")
        if birth(int(pid)) == int(born):
            continue
        try:
            basetemp = Path(path.read_text())
            if basetemp.is_absolute():  # else it was killed as it wrote its record, before it started anything
                end(basetemp)
                unmount(basetemp)
                swept.append(basetemp)
        except FileNotFoundError:  # another session removes it at the same time
            continue
        except LabError as error:  # a process that the kernel does not let go: the next session tries again
            print(f"what a session left that was killed is still there: {error}", file=sys.stderr)
            continue
        path.unlink(missing_ok=True)
    return swept


def end(basetemp: Path) -> None:
    """Kill every process of a session, and what these have started. Those may start more until they are dead."""

    def gone() -> bool:
        parents = {pid: parent(pid) for pid in pids()}
        found = {pid for pid in parents if belongs(pid, basetemp)}
        while more := {pid for pid, of in parents.items() if of in found} - found:
            found |= more
        kill(found)
        return not found

    until(gone, PATIENCE, f"every process of {basetemp} is dead", pause=0.05)


def pids() -> Iterator[int]:
    """Every process but this one."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def parent(pid: int) -> int:
    """The process that started another one, if it still runs; 0 where that is dead."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def belongs(pid: int, basetemp: Path) -> bool:
    """Whether a process names a session's folder, or works in it. False where it is dead, or somebody else's."""
    inside = os.fsencode(basetemp) + b"/"
    process = Path(f"/proc/{pid}")
    with suppress(OSError):
        if birth(pid) is None:
            return False
        words = [*process.joinpath("environ").read_bytes().split(b"\0")]
        words += process.joinpath("cmdline").read_bytes().split(b"\0")
        return any(inside in word + b"/" for word in (*words, os.fsencode(os.readlink(process / "cwd"))))
    return False


def unmount(basetemp: Path) -> None:
    """Unmount everything below a folder, the innermost first; what is in use goes when it no longer is."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split(" ")[1].encode().decode("unicode_escape") for line in lines]
    for place in reversed(places):
        if place.startswith(f"{basetemp}/"):
            subprocess.run(["umount", "-l", place], check=False)
