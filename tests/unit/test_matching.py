"""`logs --grep` and `--timestamps`: whole lines, however the log comes in pieces."""

from __future__ import annotations

import re

import pytest

from remoterun.cli.commands.logs import LONGEST, by_lines, pattern
from remoterun.client.runs.following import Item, LogBytes, Note
from remoterun.errors import UsageError


def shown(items: list[Item], text: str | None, timestamps: bool = False) -> list[bytes]:
    found = by_lines(items, None if text is None else pattern(text), timestamps)
    return [item.data for item in found if isinstance(item, LogBytes)]


LOG = b"step 1\nloss: 0.5\nstep 2\nloss: 0.25\nlast loss"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, len(LOG)])
def test_lines_that_come_in_pieces(size: int) -> None:
    items = [LogBytes(start, LOG[start : start + size], time=1e9 + start) for start in range(0, len(LOG), size)]
    assert b"".join(shown(items, r"loss: \d")) == b"loss: 0.5\nloss: 0.25\n"
    assert shown(items, "^last") == [b"last loss\n"], "a line without an end counts once the log has ended"
    assert shown(items, "nothing") == []
    stamped = b"".join(shown(items, None, timestamps=True))
    assert re.sub(rb"(?m)^[-0-9]{10} [:0-9]{8} ", b"", stamped) == LOG + b"\n"
    seconds = [int(line[17:19]) for line in stamped.splitlines()]
    starts = [0, 7, 17, 24, 35]
    assert size != 1 or [(each - seconds[0]) % 60 for each in seconds] == starts, "each line has its own time"


@pytest.mark.parametrize("size", [100, 1 << 18])
def test_a_line_as_long_as_the_log_is_read_in_parts(size: int) -> None:
    """Each is searched by itself, in the time and the memory that its own length takes."""
    log = bytes(20 << 20) if size > 100 else bytes(1 << 20)
    items: list[Item] = [LogBytes(start, log[start : start + size]) for start in range(0, len(log), size)]
    parts = shown(items, "\0")
    assert max(map(len, parts)) <= max(LONGEST, size) + size + 1 and b"".join(parts).replace(b"\n", b"") == log


def test_other_items_pass_in_their_place() -> None:
    note = Note("note", "waiting")
    found = list(by_lines([LogBytes(0, b"a\nb"), note, LogBytes(3, b"c\n")], pattern("[bc]"), False))
    assert [item.data if isinstance(item, LogBytes) else item for item in found] == [b"b\n", note, b"c\n"]


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`\(` is not a regular expression: missing \)"):
        pattern("(")
