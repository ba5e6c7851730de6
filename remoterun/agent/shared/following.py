"""What is new of a run, sent to a client that follows it: by either kind of home."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from .protocol import Stream
from .states import FINAL, RunState

_STARTED = frozenset((RunState.RUNNING, RunState.SAVING)) | FINAL


class Follower:
    """Sends the events of a run in their order, from the `number`-th of `events` on, and the log between them: all of
    its bytes come before the event that ends them.

    `send_log` sends what is new of it, and tells whether there was anything. It is called with the state of the event
    that comes next, or None where none does.
    """

    def __init__(
        self,
        stream: Stream,
        events: List[Dict[str, Any]],
        number: int,
        send_log: Callable[[Optional[RunState]], bool],
    ) -> None:
        self._stream, self._send_log = stream, send_log
        self.events = number
        seen = {_state(event) for event in events[:number]}
        self.started = bool(seen & _STARTED)
        self.done = bool(seen & FINAL)
        self._past = True
        """Whether what is sent now was there when the client asked."""

    def send_news(self, found: List[Dict[str, Any]]) -> bool:
        """Send the events `found`, which are new, and what is new of the log; whether there was anything."""
        moved = bool(found)
        latest = max((number for number, event in enumerate(found) if "state" in event), default=0)
        for number, event in enumerate(found):
            state = _state(event)
            if state is RunState.SAVING or state in FINAL:
                self._send_log(state)
            self._stream.send(event=event, n=self.events, past=int(self._past and number < latest))
            self.events += 1
            self.started = self.started or state in _STARTED
            self.done = self.done or state in FINAL
        self._past = False
        if self.started and not self.done:  # "running" comes before the first byte
            moved = self._send_log(None) or moved
        return moved


def _state(event: Dict[str, Any]) -> Optional[RunState]:
    return RunState(event["state"]) if "state" in event else None
