"""Data, on stdout: lines, JSON, bytes; and what happens when nobody reads it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from remoterun.cli.render.terminal import Text, cursor, is_terminal, paint, shown
from remoterun.cli.render.wrapping import laid_out
from remoterun.errors import RemoterunError


class ReaderGone(Exception):
    """Nobody reads stdout any more: `remoterun logs 16 | head`."""


def out(*parts: Text) -> None:
    """One line of data, its parts with a space between them."""
    _write(" ".join(shown(part, sys.stdout) for part in parts))


def out_text(*parts: Text, hang: int, command: bool = False) -> None:
    """As `out`; on a terminal a longer line is broken between words, and goes on at column `hang`, where a `command`
    begins that is not broken."""
    _write(laid_out(parts, sys.stdout, hang, command))


def heading(name: str, first: bool) -> None:
    """Above what is said of one of several machines."""
    if not first:
        out("")
    out(paint(name, "1"))


MOMENTS = frozenset(
    """
    created queued started ended last_seen requested provisioning uploading
    deadline grant_ends until began ends_at idle_since set t
    """.split()  # noqa: SIM905 - they are read more easily so
)
"""Fields that are seconds since 1970 inside, and in JSON a text that every program reads: ISO 8601, in UTC."""


def iso(moment: float) -> str:
    """`2026-11-26T22:01:37.250Z`."""
    found = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_iso(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: iso(each)
            if name in MOMENTS and isinstance(each, int | float) and not isinstance(each, bool)
            else _with_iso(each)
            for name, each in value.items()
        }
    return [_with_iso(each) for each in value] if isinstance(value, list | tuple) else value


def out_json(value: Any) -> None:
    _write(json.dumps(_with_iso(value), indent=2).replace("\x7f", "\\u007f"))


def new_page() -> None:
    """What is shown next takes the place of what a terminal shows; elsewhere an empty line comes before it."""
    with _writing():
        if is_terminal(sys.stdout):
            # Of a screen that is erased from its first line on, terminals keep a copy above it: only of what was there.
            sys.stdout.write("\x1b[H\x1b[K\n\x1b[J\x1b[H" if _Page.begun else "\x1b[H\x1b[J")
        elif _Page.begun:
            print()
        _Page.begun = True


class _Page:
    begun = False


def out_bytes(data: bytes) -> None:
    """Bytes of a command, at once and as they are."""
    with _writing():
        sys.stdout.flush()
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
    cursor.wrote(data)


def _write(line: str) -> None:
    with _writing():
        print(line)


def finish() -> None:
    """Write what is still buffered."""
    with _writing():
        sys.stdout.flush()


def drop_stdout() -> None:
    """Discard what is written to stdout from now on: buffered data must not raise again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        drop_stdout()
        raise ReaderGone
    except OSError as error:
        drop_stdout()
        raise RemoterunError(f"stdout can't be written: {error.strerror}")
