"""Of a run that goes on: a program that `exec` starts in it, and how much it uses of its machine, again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.agent.shared.states import FINAL
from remoterun.connections import Connections
from remoterun.errors import HostError
from remoterun.model import MachineType, Run
from remoterun.session import Session

ANSWER = 10.0
"""Seconds that each of several machines has to answer."""


class RemoteProgram:
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
def program(session: Session, asked: api.Execute) -> Iterator[RemoteProgram]:
    """A program that has started. When the block is left it is ended, if it goes on."""
    with session.stream(api.execute, asked) as stream:
        stream.receive()
        begun = RemoteProgram(session, stream)
        try:
            yield begun
            begun.end_input()
        finally:
            stream.cancel()


@dataclass(frozen=True)
class RunUse:
    """How much a run uses now. `sample` is None where its machine did not answer."""

    run: Run
    sample: api.Sample | None


def use(connections: Connections, runs: Sequence[Run], every: float, once: bool) -> Iterator[Sequence[RunUse]]:
    """See `Runs.top`. A machine that can't be reached any more is asked again as long as another one answers."""
    there: dict[MachineType, list[Run]] = {}
    for run in runs:
        there.setdefault(run.host, []).append(run)
    questions = {machine: partial(_samples, connections, its) for machine, its in there.items()}
    wait = None if len(questions) == 1 else ANSWER
    latest: dict[str, api.Sample | None] = {}
    while True:
        answers = connections.ask_all(questions, wait)
        failed = [answer for answer in answers.values() if isinstance(answer, HostError)]
        if len(failed) == len(answers):
            raise failed[0]
        for machine, answer in answers.items():
            known = dict.fromkeys(run.key for run in there[machine]) if isinstance(answer, HostError) else answer
            latest.update(known)
        yield [RunUse(run, latest.get(run.key)) for run in runs]
        if once or all(sample is None or sample.state in FINAL for sample in latest.values()):
            return
        connections.closed.wait(every)


def _samples(connections: Connections, runs: list[Run]) -> dict[str, api.Sample]:
    asked: dict[Session, list[str]] = {}
    for run in runs:
        asked.setdefault(connections.session_where(run), []).append(run.key)
    answers = [(session.ask(api.sample, api.Sampling(keys)).samples, keys) for session, keys in asked.items()]
    return {sample.key: sample for found, keys in answers for sample in found if sample.key in keys}
