"""A program beside the command of a run: what it reads, what it writes, its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.session import Session


class Program:
    """A program that goes on. One thread may read its output while another sends its input."""

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session = session
        self._stream = stream
        self._input_ended = False

    def send(self, data: bytes) -> None:
        """Bytes for its standard input. Blocks while it does not read; what comes after its end is dropped."""
        self._tell(data)

    def resize(self, rows: int, columns: int) -> None:
        """The new size of its terminal."""
        self._tell(size=[rows, columns])

    def end_input(self) -> None:
        """Close its standard input. May be called twice."""
        if not self._input_ended:
            self._input_ended = True
            with contextlib.suppress(LinkClosed):  # whoever reads the output is told
                self._stream.end()

    def output(self) -> Iterator[tuple[bytes, bool]]:
        """(bytes that it writes, whether as errors), until its end. Raises `HostError`."""
        for frame in self._stream:
            yield bytes(frame.body), bool(frame.header.get("error"))

    @property
    def code(self) -> int:
        """Its exit status, once its output has ended."""
        return self._session.result(api.execute, self._stream).code

    def _tell(self, data: bytes = b"", **header: object) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            self._stream.send(data, **header)


@contextlib.contextmanager
def program(session: Session, asked: api.Execute) -> Iterator[Program]:
    """A program that has started. When the block is left it is ended, if it goes on."""
    with session.stream(api.execute, asked) as stream:
        stream.receive()
        begun = Program(session, stream)
        try:
            yield begun
            begun.end_input()
        finally:
            stream.cancel()
