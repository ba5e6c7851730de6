"""The lines of a log that match a regular expression, as `logs --grep` shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from remoterun.client import Item, LogBytes
from remoterun.errors import UsageError


def pattern(text: str) -> re.Pattern[bytes]:
    """Raises `UsageError` for what is not a regular expression."""
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise UsageError(f"`{text}` is not a regular expression: {error.msg}", hint=r"--grep 'loss: \d+\.\d+'")


def matching(
    items: Iterable[Item], wanted: re.Pattern[bytes], none_found: Callable[[], None] = lambda: None
) -> Iterator[Item]:
    """`items` with only those whole lines of the log that match; a line without an end counts once the log has ended,
    or the state has changed. `none_found` is called at the end, where no line matched."""
    found = False
    for item in _matching(items, wanted):
        found = found or isinstance(item, LogBytes)
        yield item
    if not found:
        none_found()


def _matching(items: Iterable[Item], wanted: re.Pattern[bytes]) -> Iterator[Item]:
    lines: dict[bool, LogBytes] = {}
    """The lines that have begun and not ended, by whether they are of stderr."""

    def ended() -> Iterator[Item]:
        for begun in lines.values():
            if wanted.search(begun.data):
                yield replace(begun, data=begun.data + b"\n")
        lines.clear()

    for item in items:
        if not isinstance(item, LogBytes):
            yield from ended()
            yield item
            continue
        whole, newline, rest = item.data.rpartition(b"\n")
        begun = lines.pop(item.stderr, None)
        if begun is not None:
            whole, item = begun.data + whole, replace(item, offset=begun.offset, time=begun.time)
        if not newline:
            lines[item.stderr] = replace(item, data=whole + rest)
            continue
        found = [line + b"\n" for line in whole.split(b"\n") if wanted.search(line)]
        if found:
            yield replace(item, data=b"".join(found))
        if rest:
            lines[item.stderr] = replace(item, data=rest)
    yield from ended()
