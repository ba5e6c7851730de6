"""Outputs, log and records of a run whose host can't reach the bucket: this machine carries them there while the host
lives."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import disk_usage

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import most_of
from remoterun.agent.shared.files import text_of, unless_held
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, RemoteError, Stream
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive_store import place_of
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger.archiving import archive_of
from remoterun.connections import Connections
from remoterun.copied_runs import ROOM
from remoterun.errors import AgentError, HostError, LinkLost, RemoterunError
from remoterun.model import Run
from remoterun.session import Session

WAIT, BEAT = 2.0, 1.0
"""Seconds for which a host is asked at a time; between two signs of life."""
AT_A_GLANCE = 3.0
"""Seconds that a command takes for it that only looks at a run."""


def carry(
    connections: Connections, run: Run, session: Session, over: Callable[[], bool], patient: bool = False
) -> None:
    """Take what comes until it is `over`, or unless `patient` until nothing did for `WAIT` seconds; nothing where
    another process of this machine does. Raises `RemoterunError`, which `why_not` says from then on."""
    file = _file(connections, run)
    if not file.parent.exists():
        return
    with unless_held(str(file)) as lock:
        while lock is not None and not over():
            try:
                came = _carry_some(archive_of(connections, run), run, session, file.parent, over)
            except RemoterunError as error:
                if not (isinstance(error, LinkLost) or connections.closed.is_set()):
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, "; ".join(filter(None, (error.message, error.hint))).encode(errors="replace"), 0)
                raise
            if came:
                os.ftruncate(lock, 0)
            elif not patient:
                return


def why_not(connections: Connections, run: Run) -> str:
    """Why what a run leaves can't be carried to the archive just now, and what mends it; "" if it can."""
    why = text_of(str(_file(connections, run)))
    return f"it can't be fetched: {why}" if why else ""


def _file(connections: Connections, run: Run) -> Path:
    return HostFolder(connections.config.home, run.host.rented or "").path / "carried.lock"


def _carry_some(archive: Archive, run: Run, session: Session, folder: Path, over: Callable[[], bool]) -> bool:
    """Whether anything has come. It goes through a file without a name in `folder`."""
    size, came, top = 0, False, place_of(run).folders[0]
    with (
        session.stream(api.take, api.TakeObjects(run.key, WAIT)) as stream,
        _reporting(stream) as report,
        tempfile.TemporaryFile(dir=folder, buffering=0) as file,
    ):
        for frame in stream:
            if over():
                stream.cancel()
                return came
            key, size = str(frame.header.get("object", "")), size + len(frame.body)
            if not 0 < size <= most_of(key, top):
                raise AgentError(f"{run.host.name} offers `{show(key[:80])}`, which is no object of run {run.number}")
            for free, where in ((archive.objects.free(), archive.address), (disk_usage(folder).free, str(folder))):
                if free < size + ROOM:
                    raise HostError(f"the disk that holds {where} is full", hint="make room there")
            file.write(frame.body)
            if not frame.body:
                with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                    archive.objects.put(key, view)
                report(str(frame.header.get("file", "")))
                file.seek(0)
                file.truncate()
                size, came = 0, True
        session.result(api.take, stream)
    return came


@contextlib.contextmanager
def _reporting(stream: Stream) -> Iterator[Callable[[str], None]]:
    """What reports a file that was taken. Meanwhile the host gets a sign of life every `BEAT` seconds."""
    taken = SimpleQueue[str | None]()

    def work() -> None:
        name: str | None = ""
        with contextlib.suppress(Cancelled, LinkClosed, RemoteError):
            while name is not None:
                stream.send(taken=name)
                try:
                    name = taken.get(timeout=BEAT)
                except Empty:
                    name = ""
            stream.end()

    threading.Thread(target=work, name="remoterun reports", daemon=True).start()
    try:
        yield taken.put
    finally:
        taken.put(None)
