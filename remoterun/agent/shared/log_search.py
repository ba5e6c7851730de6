"""The lines of a log that hold a text: the machine's own `grep` reads 1 GB in a second."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from typing import BinaryIO, List, Tuple

from .api import Hit, Hits
from .files import open_regular
from .logs import LogFile, place_of
from .protocol import RemoteError

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


def search(log: LogFile, text: str, start: int, most: int) -> Hits:
    """The lines from `start` on that hold `text`. Case counts for no letter of ASCII. Blocks for `PATIENCE` seconds at
    the most. Raises `RemoteError`."""
    wanted = text.encode("utf-8", "surrogatepass")
    if not text or len(text) > 1000 or set(text) & set("\0\n"):
        raise RemoteError("bad_request", "a search is for a text of one line, of 1,000 characters at most")
    try:
        file = open(open_regular(log.path), "rb")
    except FileNotFoundError:
        return Hits([], log.before, log.before)
    with file:
        total = os.fstat(file.fileno()).st_size
        begin = os.lseek(file.fileno(), place_of(log, start, total), os.SEEK_SET)
        found, end = _grep(file, wanted, min(max(most, 1), MOST_HITS), begin, total)
    hits = [Hit(log.before + begin + at, line) for at, line in found]
    return Hits(hits, log.before + min(end, total), log.before + total)


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
        raise RemoteError("os_error", "the machine's `grep` can't search the log")
    return hits, total
