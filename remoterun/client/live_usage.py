"""How much runs use of their machines, as it is told again and again."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from remoterun.agent.shared import api
from remoterun.agent.shared.records import from_json
from remoterun.client.connections import Connections
from remoterun.errors import AgentError, RemoterunError
from remoterun.model import MachineType, Run


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
