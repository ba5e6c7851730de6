"""What a terminal is, and how text is made ready for it: colours, columns, lines, and nothing that it would obey."""

from __future__ import annotations

import codecs
import contextlib
import datetime
import fcntl
import os
import re
import shlex
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remoterun.agent.shared.tree import show
from remoterun.clouds import PROVIDERS
from remoterun.sizes import clock
from remoterun.sizes import counted as counted
from remoterun.sizes import dollars as dollars
from remoterun.sizes import duration as duration
from remoterun.sizes import hourly as hourly
from remoterun.sizes import size as size

name = show
"""A path for people: quoted where a terminal would not show it as it is."""
word = shlex.quote
"""Text as one word of a shell line."""


@dataclass(frozen=True)
class Styled:
    """Text in a colour; `code` as terminals number them. It becomes an escape sequence only on its way out."""

    text: str
    code: str


Text = str | Styled
"""What `line`, `out` and `table` take. A `str` holds no style: what a terminal would obey in it is made visible."""
paint = Styled

DONE, FAILED, NOT_NEEDED = paint("✓", "32"), paint("✗", "31"), paint("–", "2")


def shown(text: Text, stream: Any) -> str:
    """`text` as it is written to `stream`: the one place where an escape sequence is made."""
    if isinstance(text, str):
        return clean(text)
    return f"\x1b[{text.code}m{clean(text.text)}\x1b[0m" if coloured(stream) else clean(text.text)


def plain(text: Text) -> str:
    """`text` without its style, cleaned: what its columns are counted by."""
    return clean(text if isinstance(text, str) else text.text)


def clean(text: str) -> str:
    """`text` as one line that does nothing to a terminal: what can't be seen is escaped.

    That is every control character (C0, DEL, C1), every character that changes the direction of text or has no width,
    and half a surrogate pair. Names, commands, a host's answers and logs' tails come from elsewhere.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _visible(char) for char in text)
    return text if text.isascii() else _UNSEEN.sub(lambda found: _visible(found[0]), text)


def _visible(char: str) -> str:
    return {"\n": "⏎ ", "\t": "    "}.get(char) or char.encode("unicode_escape").decode()


_UNSEEN = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]")
"""What has no width and counts as printable; not U+FE0F, which makes an emoji of a symbol."""
_STRING = r"\x1b[]PX^_][^\x07\x1b\x9c\n]{0,4096}"
"""An operating system command (OSC) or another of its family (DCS, SOS, PM, APC), without its end."""
_OBEYED = re.compile(
    r"(\x1b\[[\d;:]{0,64}[mCDGK])"  # a colour; the cursor, or erasing, within the line
    rf"|{_STRING}(?:\x07|\x1b\\|\x9c)|\x1b\[[0-?]{{0,64}}[ -/]{{0,9}}[@-~]|\x1b[ -/]{{0,9}}[0-Z\\-~]"
    r"|[\0-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\udc80-\udc9f]"
)
_UNFINISHED = re.compile(rf"(?:{_STRING}\x1b?|\x1b(?:\[[0-?]{{0,64}})?[ -/]{{0,9}})\Z")


class Tamed:
    """What of a command's bytes goes to a terminal: text, its colours, and moves within the line. Not what sets a
    title or the clipboard, asks the terminal something, or moves to other lines. It may come in parts of any size."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._rest = ""

    def __call__(self, data: bytes) -> bytes:
        text = self._rest + self._decoder.decode(data)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._rest = text[end:]
        return _OBEYED.sub(r"\1", text[:end]).encode(errors="surrogateescape")


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


class Talking:
    """Whether there is talk; `-q` leaves warnings, errors, and what a question is about."""

    quiet = False


def lively(stream: Any) -> bool:
    """Whether what is drawn on it can be drawn again: spinners, bars."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb" and not Talking.quiet


def is_interactive() -> bool:
    """Whether somebody sits at a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def waiting_bytes() -> int:
    """Bytes that stdin holds already: of a terminal those of whole lines."""
    with contextlib.suppress(OSError, ValueError):
        return int.from_bytes(fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def reader_is_terminal() -> bool:
    """Whether a terminal gets what goes to stdout."""
    return is_terminal(sys.stdout)


def coloured(stream: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") or os.environ.get("FORCE_COLOR"):
        return True
    return lively(stream)


def terminal_width(stream: Any) -> int | None:
    """Columns of the terminal; None where `stream` is not a terminal, or does not tell."""
    if not is_terminal(stream):
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or None
    return None


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, room: int) -> str:
    """`text`, cut with an ellipsis where it takes more than `room` columns."""
    if columns(text) <= room:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, room - 1).rstrip(" ") + "…"


class Cursor:
    """Whether the cursor stands at the start of a line, by the bytes of a command that were written.

    A command may end without a newline; where stdout and stderr are one terminal, what we say next would be glued to
    its last line, and a spinner would erase it.
    """

    at_start = True

    def wrote(self, data: bytes) -> None:
        if data:
            self.at_start = data.endswith(b"\n")

    def begin_line(self) -> bool:
        """Go to the start of a line; whether that took a newline. Only where both are terminals: anywhere else the
        command's bytes stay as they are."""
        midway = not self.at_start and is_terminal(sys.stdout) and is_terminal(sys.stderr)
        self.at_start = True
        if midway:
            with contextlib.suppress(BrokenPipeError):
                print(file=sys.stderr, flush=True)
        return midway


cursor = Cursor()

NARROWEST = 20
"""Columns below which nothing is wrapped."""
_OTHERS = "cat cd chmod curl docker export git ls mv npm pip rm ssh ssh-copy-id ssh-keygen sudo"
_PROGRAMS = frozenset(["remoterun", *PROVIDERS, *_OTHERS.split()])
_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
_WORD = re.compile(r" *(?:`[^`]*`|[^ ])+")
"""What stands in backticks is one word."""


def is_command(text: str) -> bool:
    """Whether a line of a hint is a command, and not a sentence."""
    return text.split(" ", 1)[0] in _PROGRAMS


def laid_out(parts: Sequence[Text], stream: Any, hang: int | None = None, command: bool = False) -> str:
    """`parts` with a space between them, as they are written to `stream`.

    On a terminal that is too narrow, a line is broken between words, and goes on below its text: `hang` columns from
    the left, or below what a gap sets apart. The command before three spaces is not broken, nor, with `command`, what
    follows the first `hang` columns.
    """
    width = terminal_width(stream)
    text = " ".join(plain(part) for part in parts)
    if width is None or width < NARROWEST or columns(text) <= width:
        return " ".join(shown(part, stream) for part in parts)
    start = len(text) - len(text.lstrip(" ")) if hang is None else hang
    below = start + 4 if hang is None else hang
    gap = _GAP.search(text, start)
    apart = gap is not None and len(gap[0]) > 2 and (command or gap.end() > width // 3)
    first = start
    if gap is not None and apart:
        first = gap.start()
        below += 2 if hang is not None else 0
    elif command:
        first = len(text)
    elif gap is not None and gap.end() <= width // 3:
        below = columns(text[: gap.end()])
    lines = [text[:start]]
    for number, word in enumerate([text[start:first], *_WORD.findall(text, first)]):
        if lines[-1].strip() and (columns(lines[-1] + word) > width or (apart and number == 1)):
            word = word.lstrip(" ")
            lines.append(" " * below)
        if columns(lines[-1] + word) > width and not lines[-1].strip():
            lines[-1] = ""  # to be copied in one piece
        lines[-1] += word
    text = "\n".join(line.rstrip(" ") for line in lines)
    for part in parts:
        if isinstance(part, Styled):
            text = text.replace(plain(part), shown(part, stream), 1)
    return text


def ago(then: float | None) -> str:
    """A moment for people: `2 hours ago`, a date after 14 days."""
    if then is None:
        return ""
    seconds = time.time() - then
    if seconds < 5:
        return "now"
    for limit, divisor, unit in (
        (90, 1, "second"),
        (5400, 60, "minute"),
        (129600, 3600, "hour"),
        (1209600, 86400, "day"),
    ):
        if seconds < limit:
            count = round(seconds / divisor)
            return f"{counted(count, unit)} ago"
    return clock(then)[:10]


def brief(seconds: float) -> str:
    """A stretch of time in a table: 0.4s, 45s, 1m11s, 2h5m, 3d4h."""
    return duration(seconds).replace(" min", "m").replace(" ", "")


def brief_ago(then: float | None) -> str:
    """A moment in a table: `5m ago`; a date after 14 days."""
    return re.sub(r"(\d+) (minute|[shd])\S*", lambda found: found[1] + found[2][0], ago(then))


def when(then: float, now: float | None = None) -> str:
    """A moment around now for people, by the clock of this place, and how far that is: `today 04:33, in 20 min`,
    `tomorrow 04:33, in 24 h`, `Friday 04:33, in 3 d 4 h`, `3 December 04:33, in 8 d 0 h`."""
    now = time.time() if now is None else now
    there, here = (datetime.datetime.fromtimestamp(each).astimezone() for each in (then, now))
    days = (there.date() - here.date()).days
    day = {-1: "yesterday", 0: "today", 1: "tomorrow"}.get(days)
    if day is None:
        year = f" {there.year}" if abs(days) > 300 else ""
        day = f"{there:%A}" if 1 < days < 7 else f"{there.day} {there:%B}{year}"
    seconds = abs(then - now)
    if seconds > 100:
        seconds = round(seconds / 60) * 60.0
    far = hours(seconds / 3600) if seconds < 172800 else duration(seconds)
    return f"{day} {there:%H:%M}, " + (f"in {far}" if then > now else f"{far} ago")


def files(count: int) -> str:
    return counted(count, "file")


def hours(count: float) -> str:
    """`24 h`, `24 h 2 min`, `1 h 30 min`, `10 min`; days from the second one on."""
    if count == round(count, 1) and count >= 1:
        return f"{count:g} h"
    if 24 <= count < 48:
        whole, minutes = divmod(round(count * 60), 60)
        return f"{whole} h" + (f" {minutes} min" if minutes else "")
    return duration(count * 3600).removesuffix(" 0 s").removesuffix(" 0 min")
