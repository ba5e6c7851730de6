"""Data, on stdout: lines, tables, JSON, bytes; and what happens when nobody reads it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.cli.render.terminal import (
    Styled,
    Text,
    clean,
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


_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of a table, and what may happen to it where the terminal is too narrow."""

    head: str
    right: bool = False
    least: int | None = None
    """The width to which it may be cut; None: it is never cut."""
    drop: int = 0
    """Columns are left out in this order, 1 first; 0: never."""


def table(heads: Sequence[Column], rows: Sequence[Sequence[Text]], notes: Sequence[str] = ()) -> None:
    """A line for the heads and one for each row; nothing without a row. Nothing is cut unless stdout is a terminal.

    Below each row comes its note, if it has one, from the second column on.
    """
    if not rows:
        return
    lines: list[Sequence[Text]] = [[paint(column.head, "1") for column in heads], *rows]
    natural = _natural(lines)
    blank = [not any(plain(row[index]) for row in rows) for index in range(len(heads))]
    room = terminal_width(sys.stdout)
    widths = fitted(heads, natural, room, blank)
    for number, line in enumerate(lines):
        cells = [
            _cell(text, width, column.right)
            for text, width, column in zip(line, widths, heads, strict=True)
            if width is not None
        ]
        while cells and not plain(cells[-1]).strip():
            cells.pop()
        if cells:
            last = cells[-1]
            cells[-1] = last.rstrip() if isinstance(last, str) else Styled(last.text.rstrip(), last.code)
        out(*[part for cell in cells for part in (cell, "")][:-1])
        if number and notes and notes[number - 1]:
            indent = (widths[0] or 0) + _GAP
            out(" " * indent + shortened(clean(notes[number - 1]), (room or 80) - indent))


def fits(heads: Sequence[Column], rows: Sequence[Sequence[Text]]) -> bool:
    """Whether such a table is whole where stdout goes."""
    room = terminal_width(sys.stdout)
    return (
        not rows
        or room is None
        or _total(_natural([[column.head for column in heads], *rows]), range(len(heads))) <= room
    )


def _natural(lines: Sequence[Sequence[Text]]) -> list[int]:
    """The width of each column in which nothing is cut."""
    return [max(columns(plain(line[index])) for line in lines) for index in range(len(lines[0]))]


def fitted(
    heads: Sequence[Column], natural: Sequence[int], room: int | None, blank: Sequence[bool]
) -> list[int | None]:
    """The width of each column in `room` columns of a terminal; None for one that is left out.

    Where not all is whole, columns that hold nothing are left out, and then others, until what is kept can be cut to
    the room; those that stand first get most of it.
    """
    if room is None or _total(natural, range(len(heads))) <= room:
        return list(natural)
    least = [
        width if head.least is None else min(width, head.least) for head, width in zip(heads, natural, strict=True)
    ]
    kept = [index for index, head in enumerate(heads) if not (blank[index] and head.drop)]
    while _total(least, kept) > room and any(heads[index].drop for index in kept):
        kept.remove(min((index for index in kept if heads[index].drop), key=lambda index: heads[index].drop))
    spare = max(room - _total(least, kept), 0)
    widths: list[int | None] = [None] * len(heads)
    for index in kept:
        more = min(natural[index] - least[index], spare)
        spare -= more
        widths[index] = least[index] + more
    return widths


def _total(widths: Sequence[int], kept: Collection[int]) -> int:
    return sum(widths[index] for index in kept) + _GAP * (len(kept) - 1)


def _cell(text: Text, width: int, right: bool) -> Text:
    """`text` in exactly `width` columns, in its colour."""
    cut = shortened(plain(text), width)
    space = " " * (width - columns(cut))
    padded = space + cut if right else cut + space
    return Styled(padded, text.code) if isinstance(text, Styled) else padded
