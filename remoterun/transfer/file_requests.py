"""Telling a host which files are wanted, some way before its answers come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import Entry


class FileRequests:
    """The names of the wanted files, or their digests, in the order of the answers. All at once could fill the window
    of one direction while the unread answers fill that of the other."""

    def __init__(self, stream: Stream, files: Iterable[Entry], name: Callable[[Entry], bytes]) -> None:
        self._stream = stream
        self._left = iter(files)
        self._name = name
        self._unanswered = 0
        self._ended = False
        self._send()

    def answered(self, entry: Entry) -> None:
        """To be called for each file once its answer has begun to come."""
        self._unanswered -= len(self._name(entry))
        if self._unanswered < PIECE and not self._ended:
            self._send()

    def _send(self) -> None:
        names = bytearray()
        for entry in self._left:
            names += self._name(entry)
            if len(names) > 2 * PIECE:
                break
        else:
            self._ended = True
        self._unanswered += len(names)
        self._stream.send(bytes(names))
        if self._ended:
            self._stream.end()
