"""What comes on our standard input, for the command of a run: sent where that is asked for, else spoken of."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from remoterun.cli import render
from remoterun.errors import UsageError


@contextlib.contextmanager
def standard_input(wanted: bool) -> Iterator[Path | None]:
    """A file with all of it, while the block runs; None where it is not `wanted`, with a warning if there is some.

    Blocks until its end. Raises `UsageError` where it can't be read, or can't be kept.
    """
    if not wanted:
        if _holds_something():
            render.warning("what comes on standard input is not sent: --stdin sends it to the command")
        yield None
        return
    if sys.stdin.isatty():
        render.line("Type what the command shall read; ^D in a line of its own ends it.")
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
        path = Path(folder) / "stdin"
        try:
            # without a buffer, which would ask a terminal for ^D a second time
            with open(path, "wb") as file, open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as typed:
                shutil.copyfileobj(typed, file)
        except OSError as error:
            raise UsageError(
                f"standard input can't be read: {error.strerror}", hint="cat FILE | remoterun run --stdin …"
            )
        yield path


def _holds_something() -> bool:
    """Whether somebody meant to send it: bytes wait in a pipe, or it is a file that is not empty."""
    try:
        status = os.fstat(sys.stdin.fileno())
        if stat.S_ISREG(status.st_mode):
            return status.st_size > os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR)
        if not stat.S_ISFIFO(status.st_mode):
            return False
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return bool(ready) and not _at_end(sys.stdin.fileno())
    except (OSError, ValueError):
        return False


def _at_end(pipe: int) -> bool:
    """Whether its writer has closed it without a byte in it."""
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return not count[0]
