"""The pieces of a large file on their way, in either direction: see agent/shared/pieces.py.

Pieces are asked about a group at a time, which bounds the memory. The next group is asked about while pieces of the one
before are still under way, so that no connection waits.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import partial

from remoterun.agent.shared.pieces import GROUP, piece_count
from remoterun.session import Session
from remoterun.transfer.lanes import Lanes

LOW = GROUP // 2
"""Pieces under way below which the next group is asked about."""
AT_ONCE = 4
"""Pieces that one task moves."""


class PieceFlow(ABC):
    """The pieces of one file of `size` bytes. `begin` is a task for a lane; all else follows as tasks. For several
    threads."""

    def __init__(self, size: int, lanes: Lanes) -> None:
        self.size = size
        self._lanes = lanes
        self._count = piece_count(size)
        self._next = self._under_way = 0
        """The first piece that was not asked about, and how many are on their way."""
        self._asking = True
        self._flowing = threading.Lock()

    @abstractmethod
    def ask(self, session: Session, numbers: range) -> list[int]:
        """Those pieces that the receiving side lacks."""

    @abstractmethod
    def move(self, session: Session, numbers: list[int]) -> None:
        """Move some pieces."""

    @abstractmethod
    def end(self, session: Session) -> None:
        """All pieces are there: have the whole verified."""

    def begin(self, session: Session) -> None:
        """Ask about a group of pieces, and have those moved that are missing."""
        numbers = range(self._next, min(self._next + GROUP, self._count))
        missing = self.ask(session, numbers)
        with self._flowing:
            self._next = numbers.stop
            self._under_way += len(missing)
            self._asking = False
        for at in range(0, len(missing), AT_ONCE):
            self._lanes.put_next(partial(self._move, missing[at : at + AT_ONCE]))
        self._go_on(session)

    def _move(self, numbers: list[int], session: Session) -> None:
        self.move(session, numbers)
        with self._flowing:
            self._under_way -= len(numbers)
        self._go_on(session)

    def _go_on(self, session: Session) -> None:
        with self._flowing:
            if self._asking or self._under_way >= LOW:
                return
            all_asked = self._next == self._count
            if all_asked and self._under_way:
                return
            self._asking = True
        if all_asked:
            self.end(session)
        else:
            self._lanes.put_next(self.begin)
