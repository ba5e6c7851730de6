"""Data, on stdout: lines, JSON, bytes, tables; and what happens when nobody reads it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from remoterun.cli.render.terminal import clean, columns, paint, shortened, terminal_width
from remoterun.errors import RemoterunError


class ReaderGone(Exception):
    """Nobody reads stdout any more: `remoterun logs 16 | head`."""


def out(text: str) -> None:
    """One line of data."""
    with _writing():
        print(text)


def out_json(value: Any) -> None:
    out(json.dumps(value, indent=2))


def out_bytes(data: bytes) -> None:
    """Bytes of data, at once."""
    with _writing():
        sys.stdout.flush()
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), colours: Any = None) -> None:
    """A table: aligned; the last column may be cut to the terminal's width, never elsewhere."""
    if not rows:
        return
    width = terminal_width(sys.stdout)
    cells = [list(heads), *[[clean(text) for text in row] for row in rows]]
    widths = [max(columns(row[column]) for row in cells) for column in range(len(heads))]
    room = width - sum(widths[:-1]) - 2 * (len(heads) - 1) if width else None
    for number, row in enumerate(cells):
        parts = []
        for column, text in enumerate(row):
            last = column == len(row) - 1
            if last and room is not None:
                text = shortened(text, max(room, 10))
            space = " " * (widths[column] - columns(text))
            padded = space + text if column in right else text if last else text + space
            if number == 0:
                padded = paint(padded, "1", sys.stdout)
            elif colours is not None:
                code = colours(number - 1, column)
                padded = paint(padded, code, sys.stdout) if code else padded
            parts.append(padded)
        out("  ".join(parts).rstrip())


def finish() -> None:
    """Write what is still buffered."""
    with _writing():
        sys.stdout.flush()


def drop_stdout() -> None:
    """From now on stdout is written nowhere: what is buffered must not raise once more when we end."""
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
