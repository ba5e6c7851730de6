"""Of a run that goes on: a program that `exec` starts in it, and how much it uses of its machine, again and again."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.agent.shared.records import from_json
from remoterun.client.connections import Connections
from remoterun.errors import AgentError, RemoterunError
from remoterun.model import MachineType, Run
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


@dataclass(frozen=True)
class RunUse:
    """How much a run uses now. `sample` is None as long as its machine has not told, or where it can't be reached."""

    run: Run
    sample: api.Sample | None


_News = tuple[MachineType, "dict[str, api.Sample] | RemoterunError | None"]


def use(connections: Connections, runs: Sequence[Run], every: float, once: bool) -> Iterator[Sequence[RunUse]]:
    """See `Runs.top`. Each machine is listened to on a thread of its own."""
    machines: dict[MachineType, list[Run]] = {}
    for run in runs:
        machines.setdefault(run.host, []).append(run)
    news: queue.Queue[_News] = queue.Queue()
    for machine, its in machines.items():
        asked = api.Sampling([run.key for run in its], every, once)
        threading.Thread(target=_listen, args=(connections, machine, asked, news), daemon=True).start()
    latest: dict[str, api.Sample] = {}
    going, told = set(machines), set[MachineType]()
    while going:
        until = time.monotonic() + every if told else None
        while not told >= going:
            try:
                machine, said = news.get(timeout=None if until is None else max(until - time.monotonic(), 0))
            except queue.Empty:
                break
            if isinstance(said, dict):
                latest.update(said)
                told.add(machine)
                until = until or time.monotonic() + every
                continue
            going.discard(machine)
            if isinstance(said, RemoterunError):
                for run in machines[machine]:
                    latest.pop(run.key, None)
                if len(machines) == 1 or not (going or latest):
                    raise said
        if told:
            told.clear()
            yield [RunUse(run, latest.get(run.key)) for run in runs]


def _listen(connections: Connections, machine: MachineType, asked: api.Sampling, news: queue.Queue[_News]) -> None:
    try:
        session = connections.session(machine)
        with session.stream(api.sample, asked) as stream:
            stream.end()
            for frame in stream:
                with session.understood():
                    samples = [from_json(api.Sample, said) for said in frame.header["samples"]]
                news.put((machine, {sample.key: sample for sample in samples}))
    except RemoterunError as error:
        news.put((machine, error))
    except Exception as error:  # noqa: BLE001 - told in the thread that waits
        news.put((machine, AgentError(f"{machine.name} can't be followed: {error}")))
    else:
        news.put((machine, None))
