"""Lines that are longer than the terminal: broken between words, and never within a command that is to be copied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from remoterun.cli.render.terminal import Styled, Text, columns, plain, shown, terminal_width

NARROWEST = 20
"""Columns below which nothing is wrapped."""
_PROGRAMS = frozenset(
    "remoterun aws cat cd chmod curl docker export git ls mv npm pip rm ssh ssh-copy-id ssh-keygen sudo".split()  # noqa: SIM905
)
_WHOLE = re.compile(r"`[^`]*`")
"""What is to be copied, in a sentence."""
_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
_BESIDE = re.compile(r"(?<=\S) {3,}(?=\S)")
"""Between a command and what it does."""


def is_command(text: str) -> bool:
    """Whether a line of a hint is a command, and not a sentence."""
    return text.split(" ", 1)[0] in _PROGRAMS


def laid_out(parts: Sequence[Text], stream: Any, hang: int | None = None, command: bool = False) -> str:
    """`parts` with a space between them, as they are written to `stream`.

    On a terminal that is too narrow, a line is broken between words, and goes on below its text: `hang` columns from
    the left, or below what a gap sets apart. What stands in backticks is one word; so is the command before three
    spaces, and with `command` all that follows the first `hang` columns.
    """
    width = terminal_width(stream)
    text = " ".join(plain(part) for part in parts)
    if width is None or width < NARROWEST or columns(text) <= width:
        return " ".join(shown(part, stream) for part in parts)
    return "\n".join(
        " " * indent + _slice(parts, stream, start, end) for indent, start, end in _lines(text, width, hang, command)
    )


def _lines(text: str, width: int, hang: int | None, command: bool) -> Iterator[tuple[int, int, int]]:
    """(spaces before it, its start and end in `text`) of each line."""
    first = len(text) - len(text.lstrip(" "))
    beside = _BESIDE.search(text, hang or first)
    gap = _GAP.search(text, hang or first)
    below = hang if hang is not None else first + 4
    apart = None
    """Where what the command does begins, when it gets a line of its own."""
    if gap is not None and columns(text[: gap.end()]) <= width // 3:
        below = columns(text[: gap.end()])
    elif beside is not None:
        apart, below = beside.end(), below + (0 if hang is None else 2)
    whole = [match.span() for match in _WHOLE.finditer(text)]
    if beside is not None:
        whole.append((hang or first, beside.start()))
    elif command:
        whole.append((hang or 0, len(text)))
    indent = start = end = first
    for word in _words(text, first, whole):
        fits = indent + columns(text[start : word[1]]) <= width and word[0] != apart
        if end == start or not fits:
            if end > start:
                yield indent, start, end
                indent = below
            start = word[0]
            if indent + columns(text[start : word[1]]) > width:
                indent = 0
        end = word[1]
    yield indent, start, end


def _words(text: str, start: int, whole: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Start and end of each word from `start` on."""
    begun = start
    for space in re.finditer(r" +", text[start:].rstrip(" ")):
        place = start + space.start()
        if not any(low <= place < high for low, high in whole):
            yield begun, place
            begun = start + space.end()
    yield begun, len(text.rstrip(" "))


def _slice(parts: Sequence[Text], stream: Any, start: int, end: int) -> str:
    """What of `parts`, joined, lies between two places, each in its style."""
    found, place = [], 0
    for part in parts:
        text = plain(part)
        cut = text[max(start - place, 0) : max(end - place, 0)]
        if cut:
            found.append(shown(Styled(cut, part.code), stream) if isinstance(part, Styled) else cut)
        place += len(text)
        if start <= place < end:
            found.append(" ")
        place += 1
    return "".join(found)
