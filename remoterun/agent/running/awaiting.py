"""The runs of a home for whose end another one waits (`--after`)."""

from __future__ import annotations

from typing import List, Optional

from ..shared.records import Record
from ..shared.spec import After, RunSpec
from ..shared.states import RunState
from ..store.home import Home


class AwaitedRuns(Record):
    keys: List[str]
    """The runs that must still end."""
    words: str = ""
    """The same for people."""
    failed: Optional[str] = None
    """Why the run can never start."""


def awaited_runs(home: Home, spec: RunSpec) -> AwaitedRuns:
    """What has become of the runs that a run waits for."""
    waiting: List[After] = []
    for other in spec.after:
        run = home.run(other.key)
        if not run.exists():
            if not other.any:
                return AwaitedRuns(
                    [], failed="run %d was removed before it was known whether it completed" % other.number
                )
            continue
        state, event = run.state()
        if not state.final:
            waiting.append(other)
        elif state is not RunState.COMPLETE and not other.any:
            code = event.get("code")
            status = " (exit status %d)" % code if isinstance(code, int) and code else ""
            return AwaitedRuns([], failed="run %d has ended: %s%s" % (other.number, state.value, status))
    return AwaitedRuns([other.key for other in waiting], _words(waiting))


def _words(waiting: List[After]) -> str:
    """`after run 3, and run 4 however it ends`."""
    parts = []
    for ends in (False, True):
        numbers = [str(other.number) for other in waiting if other.any is ends]
        if numbers:
            runs, they = ("run", "it ends") if len(numbers) == 1 else ("runs", "they end")
            parts.append("%s %s%s" % (runs, ", ".join(numbers), " however " + they if ends else ""))
    return "after " + ", and ".join(parts)
