"""What of a run comes to who follows it: from a run folder on its host, or from a copy that a client has of it."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Tuple

from .api import Follow, Followed
from .facts import RunStatus
from .logs import LogFile, LogReader, offset_of_tail, offset_since
from .states import FINAL, RunState

Part = Tuple[Dict[str, Any], bytes]
"""A frame of an answer to `follow`: its header and its body."""
_STARTED = frozenset((RunState.RUNNING, RunState.SAVING)) | FINAL


class FollowedRun:
    """What a follower reads: a run folder, or a copy of what it has of these."""

    def events(self, skip: int = 0) -> List[Dict[str, Any]]:
        """From the `skip`-th on."""
        raise NotImplementedError

    def log_file(self, name: str) -> LogFile:
        """Of its "log", or of "err", which need not be there."""
        raise NotImplementedError


class RunFollower:
    """The events of a run in their order, from the one on for which is asked, and the log between them: all of its
    bytes come before the event that ends them."""

    def __init__(self, run: FollowedRun, asked: Follow) -> None:
        self._run, self._asked = run, asked
        log, err = run.log_file("log"), run.log_file("err")
        self._readers = {"log": self._begin(log, asked.offset), "err": self._begin(err, asked.err)}
        self._tell_starts = asked.tail is not None or asked.since is not None or log.before > 0 or err.before > 0
        self.events = asked.events
        states = {_state(event) for event in run.events()[: asked.events]}
        self.started, self.done = bool(states & _STARTED), bool(states & FINAL)
        self._past = True
        """Whether what comes now was written before somebody asked."""

    def _begin(self, log: LogFile, offset: int) -> LogReader:
        asked = self._asked
        if asked.tail is not None:
            offset = offset_of_tail(log, asked.tail)
        if asked.since is not None:
            offset = max(offset, offset_since(log, asked.since))
        return LogReader(log, offset, asked.timed)

    def until(self, status: RunStatus) -> Followed:
        """Where all of it ended for now."""
        return Followed(status, self._readers["log"].offset, self.events, self._readers["err"].offset)

    def news(self) -> Iterator[Part]:
        """What is new of the events and of the log."""
        if self._tell_starts:
            yield {"starts": {name: reader.offset for name, reader in self._readers.items()}}, b""
            self._tell_starts = False
        found = self._run.events(self.events)
        latest = max((number for number, event in enumerate(found) if "state" in event), default=0)
        for number, event in enumerate(found):
            state = _state(event)
            if state is RunState.SAVING or state in FINAL:
                yield from self._log(ended=True)
            yield {"event": event, "n": self.events, "past": int(self._past and number < latest)}, b""
            self.events += 1
            self.started = self.started or state in _STARTED
            self.done = self.done or state in FINAL
        self._past = False
        if self.started and not self.done:  # "running" comes before the first byte
            yield from self._log(ended=False)

    def _log(self, ended: bool) -> Iterator[Part]:
        """Of what has `ended` nothing more is waited for."""
        for name, reader in self._readers.items() if self._asked.log else ():
            for piece in reader.pieces(ended):
                time = {} if piece.time is None else {"t": piece.time}
                yield {name: piece.offset, **time}, piece.data


def _state(event: Dict[str, Any]) -> Optional[RunState]:
    return RunState(event["state"]) if "state" in event else None
