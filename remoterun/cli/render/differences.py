"""What differs between two runs, on stdout: facts in two lines each, files as git shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from remoterun.cli.render.data import out, out_bytes
from remoterun.cli.render.talk import line as talk_line
from remoterun.cli.render.terminal import Text, is_terminal, paint
from remoterun.cli.render.words import counted, duration, files, name, size

if TYPE_CHECKING:
    from remoterun.agent.shared.tree import Entry
    from remoterun.client import Difference, FileChange

_COLOURS = {"-": "31", "+": "32", "@": "36"}
_BAR = 40
"""Signs of the longest bar of `--stat`."""


def difference(found: Difference, stat: bool) -> None:
    """All of it, or, with `stat`, of files only how much."""
    rows = [("run", (str(found.before.number),), (str(found.after.number),)), *found.facts]
    times = tuple((duration(time) if time is not None else "",) for time in found.durations)
    if times[0] != times[1]:
        rows.append(("duration", times[0], times[1]))
    wide = max(len(row[0]) for row in rows) + 2
    for head, before, after in rows:
        for mark, lines in (("-", before), ("+", after)):
            for text in lines:
                out(f"{head:<{wide}}"[:-1], paint(f"{mark} {text}", _COLOURS[mark]))
                head = ""
    if found.files:
        out("")
    elif len(rows) == 1:
        talk_line("Nothing else differs between these runs")
    if stat:
        _stat(found.files)
    elif is_terminal(sys.stdout):
        for change in found.files:
            for line in _git(change):
                out(_painted(line))
    else:  # as it is, for `git apply`
        text = "".join(f"{line}\n" for change in found.files for line in _git(change))
        out_bytes(text.encode(errors="surrogateescape"))


def difference_record(found: Difference) -> dict[str, Any]:
    """For `--json`."""
    return {
        "runs": [found.before.number, found.after.number],
        "facts": {head: [list(before), list(after)] for head, before, after in found.facts},
        "durations": list(found.durations),
        "files": [
            {
                "path": change.path,
                "change": change.kind,
                "sizes": [entry.size if entry is not None else None for entry in (change.before, change.after)],
                "diff": "\n".join(change.lines) or None,
            }
            for change in found.files
        ],
    }


def _painted(line: str) -> Text:
    if line.startswith(("diff ", "--- ", "+++ ", "new file", "deleted file", "old mode", "new mode")):
        return paint(line, "1")
    colour = _COLOURS.get(line[:1])
    return paint(line, colour) if colour else line


def _git(change: FileChange) -> Iterator[str]:
    """The lines of `git diff` for a file."""
    before, after, path = change.before, change.after, name(change.path)
    yield f"diff --git a/{path} b/{path}"
    if before is None and after is not None:
        yield f"new file mode {_mode(after)}"
    elif after is None and before is not None:
        yield f"deleted file mode {_mode(before)}"
    elif before is not None and after is not None and _mode(before) != _mode(after):
        yield f"old mode {_mode(before)}"
        yield f"new mode {_mode(after)}"
    for line in change.lines:
        yield from line.split("\n")
    if not change.lines and _content(before) != _content(after):
        sizes = [size(entry.size) if entry is not None else "none" for entry in (before, after)]
        yield f"Binary or large files a/{path} and b/{path} differ: {sizes[0]}, {sizes[1]}"


def _content(entry: Entry | None) -> tuple[str, str] | None:
    return (entry.digest, entry.target) if entry is not None else None


def _mode(entry: Entry) -> str:
    return {"l": "120000", "d": "040000"}.get(entry.kind, "100755" if entry.executable else "100644")


def _stat(changes: tuple[FileChange, ...]) -> None:
    if not changes:
        return
    names = [name(change.path) for change in changes]
    wide = max(map(len, names))
    most = max(change.added + change.removed for change in changes)
    for text, change in zip(names, changes, strict=True):
        count = change.added + change.removed
        if count:
            plus, minus = (
                max(1, part * min(most, _BAR) // most) if part else 0 for part in (change.added, change.removed)
            )
            out(f"{text:<{wide}} | {count:>5}", paint("+" * plus, "32"), paint("-" * minus, "31"))
        else:
            out(f"{text:<{wide}} | {change.kind:>5}")
    added, removed = sum(change.added for change in changes), sum(change.removed for change in changes)
    out(f"{files(len(changes))} changed, {counted(added, 'line')} added, {removed} removed")
