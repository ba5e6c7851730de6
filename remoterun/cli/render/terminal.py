"""What a terminal is, and how text fits it: colours, columns, and nothing that it would obey."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from typing import Any


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def lively(stream: Any) -> bool:
    """Whether what is drawn on it can be drawn again: spinners, bars."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def person_there() -> bool:
    """Whether somebody can be asked."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def coloured(stream: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") or os.environ.get("FORCE_COLOR"):
        return True
    return lively(stream)


def paint(text: str, code: str, stream: Any = None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream or sys.stderr) else text


def clean(text: str) -> str:
    """`text` as one line that does nothing to a terminal: what can't be seen is escaped. Names, commands and logs'
    tails come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _seen(char) for char in text)


def _seen(char: str) -> str:
    return {"\n": "⏎ ", "\t": "    "}.get(char) or char.encode("unicode_escape").decode()


def terminal_width(stream: Any) -> int | None:
    if not is_terminal(stream):
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or None
    return None


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def shortened(text: str, room: int) -> str:
    """`text`, cut with an ellipsis where it takes more than `room` columns."""
    if columns(text) <= room:
        return text
    while columns(text) > room - 1:
        text = text[: len(text) - max((columns(text) - room) // 2, 1)]
    return text + "…"
