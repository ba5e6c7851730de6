"""Parts of a log, and the lines of it that hold a text: the host's own `grep` reads 1 GB in a second."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from typing import BinaryIO, List, Tuple

from ..shared.files import open_regular
from ..store.errors import HomeError
from ..store.run_folder import RunFolder

MOST_PART = 8 << 20
"""Bytes of a log that come at once."""
MOST_HITS, MOST_LINE = 2000, 300
"""Lines that are found at once, and characters of each."""
PATIENCE = 20.0
"""Seconds for a search."""
STEP_BACK = 1 << 20
"""Bytes that `grep` may have read, and not searched, when its time is up."""
_GREP = 'ulimit -v 2000000 2>/dev/null; exec grep --line-buffered -a -b -i "$1" -e "$2"'
"""A log may be one line, which `grep` holds in memory. What it has found is here also when it is killed."""
_COLOURS = b"(\x1b\\[[0-9;]*m)*"
"""What a terminal does not show may stand on both sides of a space."""


def read_part(run: RunFolder, name: str, start: int, size: int, before: int) -> Tuple[int, int, bytes]:
    """(where the bytes begin, how many the log has, the bytes). `before`: how many an earlier host wrote, which are not
    here; where it has `start`, what comes begins after them. `name` as for `RunFolder.written`."""
    try:
        file = open(open_regular(run.written(name)[0]), "rb")
    except FileNotFoundError:
        return before, before, b""
    with file:
        total = os.fstat(file.fileno()).st_size
        begin = _place(start, before, total)
        size = min(max(size, 0), MOST_PART, total - begin)
        return before + begin, before + total, os.pread(file.fileno(), size, begin)


def search(
    run: RunFolder, name: str, text: str, start: int, most: int, before: int
) -> Tuple[List[Tuple[int, str]], int, int]:
    """(where each line begins that holds `text`, from `start` on, with its first characters; up to where was searched;
    how many bytes the log has). Case counts for no letter of ASCII. Blocks for `PATIENCE` seconds at the most."""
    wanted = text.encode("utf-8", "surrogatepass")
    if not text or len(text) > 1000 or set(text) & set("\0\n"):
        raise HomeError("bad_request", "a search is for a text of one line, of 1,000 characters at most")
    try:
        file = open(open_regular(run.written(name)[0]), "rb")
    except FileNotFoundError:
        return [], before, before
    with file:
        total = os.fstat(file.fileno()).st_size
        begin = os.lseek(file.fileno(), _place(start, before, total), os.SEEK_SET)
        hits, end = _grep(file, wanted, min(max(most, 1), MOST_HITS), begin, total)
    return [(before + begin + at, line) for at, line in hits], before + min(end, total), before + total


def _place(start: int, before: int, total: int) -> int:
    """The byte of the file of `total` bytes at which `start` is; one below 0 counts from the end."""
    return min(max(start + total if start < 0 else start - before, 0), total)


def _grep(file: BinaryIO, text: bytes, most: int, begin: int, total: int) -> Tuple[List[Tuple[int, str]], int]:
    """(for each line: where it begins, after `begin`, and its first characters; up to where was searched)."""
    hits: List[Tuple[int, str]] = []
    searched = begin
    words = [re.sub(rb"[\[\\.*^$(){}+?|]", rb"\\\g<0>", word) for word in text.split(b" ")]
    wanted = [b"-F", text] if len(words) == 1 else [b"-E", (_COLOURS + b" " + _COLOURS).join(words)]
    process = subprocess.Popen(
        ["/bin/sh", "-c", _GREP, "sh", *wanted],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, LC_ALL="C"),
    )
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    with process:
        while len(hits) < most:
            offset, colon, line = process.stdout.readline(4 * MOST_LINE + 20).partition(b":")
            if not colon or begin + int(offset) >= total:  # the log has grown meanwhile
                break
            hits.append((int(offset), line.decode("utf-8", "replace").rstrip("\n")[:MOST_LINE]))
            searched = begin + int(offset) + len(line)
            while line and not line.endswith(b"\n"):
                line = process.stdout.readline(1 << 16)
                searched += len(line)
        else:
            process.kill()
            timer.cancel()
            return hits, searched
    timer.cancel()
    if process.returncode == -signal.SIGKILL:
        return hits, max(searched, os.lseek(file.fileno(), 0, os.SEEK_CUR) - STEP_BACK)
    if process.returncode not in (0, 1, -signal.SIGPIPE):
        raise HomeError("os_error", "the machine's `grep` can't search the log")
    return hits, total
