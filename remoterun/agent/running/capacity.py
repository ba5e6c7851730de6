"""Who may run now, and on what. Each engine has a `Capacity`; those that run commands on this machine share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ..shared.spec import RunSpec
from ..store.home import Home
from ..store.this_machine import boot_id
from . import gpus, queue
from .queue import Turn

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Capacity(Protocol):
    """The machines behind an engine."""

    def lacks(self, spec: RunSpec) -> Optional[str]:
        """Why this run can never start here, in one line, or None; also where that can't be told."""

    def come(self, spec: RunSpec) -> None:
        """Take a place in the line. May be repeated."""

    def ask(self, spec: RunSpec) -> Turn:
        """Take a slot if it is the run's turn. Repeat until granted; a granted one is granted again."""

    def boot(self) -> str:
        """Names this boot of where commands run: another name means that all of them are gone."""


class ThisMachine:
    """The slots and the GPUs of this machine, in the order of arrival: see queue.py."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def lacks(self, spec: RunSpec) -> Optional[str]:
        if not spec.gpus:
            return None
        try:
            there = len(gpus.list_gpus())
        except gpus.GpuError:
            return None
        return queue.too_few(spec.gpus, there) if there < spec.gpus else None

    def come(self, spec: RunSpec) -> None:
        if not spec.beside:
            queue.come(self._home, spec.key, spec.gpus)

    def ask(self, spec: RunSpec) -> Turn:
        return queue.ask(self._home, spec.key, spec.gpus, spec.slots, beside=spec.beside)

    def boot(self) -> str:
        return boot_id()
