"""`logs --grep`: whole lines that match, however the log comes in pieces."""

from __future__ import annotations

import pytest

from remoterun.cli.commands.tailing import matching, pattern
from remoterun.client.following import Item, LogBytes, Note
from remoterun.errors import UsageError


def shown(text: str, *pieces: bytes | Item) -> bytes:
    offset, items = 0, list[Item]()
    for piece in pieces:
        items.append(LogBytes(offset, piece) if isinstance(piece, bytes) else piece)
        offset += len(piece) if isinstance(piece, bytes) else 0
    found = matching(items, pattern(text))
    return b"".join(item.data for item in found if isinstance(item, LogBytes))


LOG = b"step 1\nloss: 0.5\nstep 2\nloss: 0.25\nlast loss"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, len(LOG)])
def test_lines_that_come_in_pieces(size: int) -> None:
    pieces = [LOG[start : start + size] for start in range(0, len(LOG), size)]
    assert shown(r"loss: \d", *pieces) == b"loss: 0.5\nloss: 0.25\n"
    assert shown("^last", *pieces) == b"last loss\n", "a line without an end counts once the log has ended"
    assert shown("nothing", *pieces) == b""


def test_other_items_pass_in_their_place() -> None:
    note = Note("note", "waiting")
    found = list(matching([LogBytes(0, b"a\nb"), note, LogBytes(3, b"c\n")], pattern("[bc]")))
    assert [item.data if isinstance(item, LogBytes) else item for item in found] == [b"b\n", note, b"c\n"]


def test_where_none_matches_that_is_told_once_the_log_has_ended() -> None:
    told: list[str] = []
    items = matching([LogBytes(0, b"a\n"), Note("note", "x")], pattern("b"), lambda: told.append("none"))
    assert isinstance(next(items), Note) and not told
    assert list(items) == [] and told == ["none"]
    list(matching([LogBytes(0, b"b\n")], pattern("b"), lambda: told.append("none")))
    assert told == ["none"]


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`\(` is not a regular expression: missing \)"):
        pattern("(")
