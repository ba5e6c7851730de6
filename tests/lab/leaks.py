"""What still runs on a host that should not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.host import LabHost
from tests.lab.process import PATIENCE, Process, until


@contextmanager
def only_what_was_there(host: LabHost, grace: float = PATIENCE) -> Iterator[None]:
    """Afterwards only what ran before may run on the host, and at most `grace` seconds later.

    Compared by command and count: a dockerd that was started again is not a leak, a second agent is one.
    """
    before = _commands(host.processes())
    yield

    def surplus() -> Counter[str]:
        return _commands(host.processes()) - before

    def evidence() -> str:
        return "\n".join(f"{count} more: {command}" for command, count in surplus().items())

    until(lambda: not surplus(), grace, f"nothing new runs on {host.name}", evidence, pause=0.05)


def _commands(processes: list[Process]) -> Counter[str]:
    return Counter(process.command for process in processes)
