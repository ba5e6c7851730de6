"""Data, on stdout: lines, tables, JSON, bytes; and what happens when nobody reads it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.cli.render.terminal import (
    Styled,
    Text,
    clean,
    coloured,
    columns,
    cursor,
    is_terminal,
    laid_out,
    paint,
    plain,
    shortened,
    shown,
    terminal_width,
)
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


def out_json(value: Any) -> None:
    _write(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


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


GAP = 2
"""Columns of the terminal between two of a table."""
_STYLES = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow", "36": "cyan"}
"""Colours of ours, as rich names them."""


@dataclass(frozen=True)
class Column:
    """A column of a table, and what may happen to it where the terminal is too narrow."""

    head: str
    right: bool = False
    least: int | None = None
    """The width to which it may be cut before columns are left out; None: it is never cut."""
    drop: int = 0
    """Columns are left out in this order, 1 first; 0: never. One that is empty is left out anywhere, unless it is 0."""


def table(heads: Sequence[Column], rows: Sequence[Sequence[Text]], notes: Sequence[str] = ()) -> None:
    """A line for the heads and one for each row; nothing without a row. Nothing is cut unless stdout is a terminal.

    Below each row comes its note, if it has one, from the second column on.
    """
    if not rows:
        return
    width = terminal_width(sys.stdout)
    for number, line in enumerate(_lines_of(heads, rows, width)):
        _write(line)
        if number and notes and notes[number - 1]:
            indent = " " * (max(len(heads[0].head), *(columns(plain(row[0])) for row in rows)) + GAP)
            out(indent + shortened(clean(notes[number - 1]), (width or 80) - len(indent)))


def _lines_of(heads: Sequence[Column], rows: Sequence[Sequence[Text]], width: int | None) -> list[str]:
    written = io.StringIO()
    room = width or sum(_natural(heads, rows)) + GAP * len(heads)
    console_of(written, coloured(sys.stdout), room).print(drawn_table(heads, rows, width))
    return [line.rstrip(" ") for line in written.getvalue().removesuffix("\n").split("\n")]


def console_of(file: Any, colours: bool, width: int | None = None) -> Any:
    """Where rich draws."""
    from rich.console import Console

    system: Any = "standard" if colours else None
    return Console(file=file, width=width, force_terminal=True, color_system=system, no_color=not colours)


def drawn_table(heads: Sequence[Column], rows: Sequence[Sequence[Text]], width: int | None) -> Any:
    """A table as rich draws it, for a terminal of that width (None: none)."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="")
    kept = _that_fit(heads, _natural(heads, rows), rows, width)
    for index in kept:
        head = heads[index]
        justify: Any = "right" if head.right else "left"
        drawn.add_column(_cell(paint(head.head, "1")), justify=justify, no_wrap=head.least is None)
    for row in rows:
        drawn.add_row(*(_cell(row[index]) for index in kept))
    return drawn


def _natural(heads: Sequence[Column], rows: Sequence[Sequence[Text]]) -> list[int]:
    """The width of each column in which nothing is cut."""
    return [max(len(head.head), *(columns(plain(row[index])) for row in rows)) for index, head in enumerate(heads)]


def _that_fit(
    heads: Sequence[Column], natural: Sequence[int], rows: Sequence[Sequence[Text]], width: int | None
) -> list[int]:
    """The columns that are shown: those that hold something, and can be cut to the width of the terminal."""
    kept = [index for index, head in enumerate(heads) if not head.drop or any(plain(row[index]) for row in rows)]
    least = [min(head.least or wide, wide) for head, wide in zip(heads, natural, strict=True)]
    while width is not None and sum(least[index] + GAP for index in kept) - GAP > width:
        droppable = [index for index in kept if heads[index].drop]
        if not droppable:
            break
        kept.remove(min(droppable, key=lambda index: heads[index].drop))
    return kept


def _cell(text: Text) -> Any:
    from rich.text import Text as RichText

    cell = RichText(no_wrap=True, overflow="ellipsis")
    return cell.append(plain(text), _STYLES[text.code] if isinstance(text, Styled) else None)
