"""Outputs, log and records of a run whose host can't reach the bucket: this machine carries them there while the host
lives."""

from __future__ import annotations

from collections.abc import Callable

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import MOST_OBJECT
from remoterun.agent.shared.files import unless_held
from remoterun.agent.shared.tree import show
from remoterun.archive import Archive
from remoterun.archive_store import place_of
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger.archiving import archive_of
from remoterun.connections import Connections
from remoterun.errors import AgentError
from remoterun.model import Run
from remoterun.session import Session

WAIT = 2.0
"""Seconds for which a host is asked at a time."""
AT_A_GLANCE = 3.0
"""Seconds that a command takes for it that only looks at a run."""


def carry(
    connections: Connections, run: Run, session: Session, over: Callable[[], bool], patient: bool = False
) -> None:
    """Take what comes until it is `over`, or unless `patient` until nothing did for `WAIT` seconds; nothing where
    another process of this machine does. Raises `HostError`."""
    folder, archive = HostFolder(connections.config.home, run.host.rented or ""), archive_of(connections, run)
    if not folder.path.exists():
        return
    with unless_held(str(folder.path / "carried.lock")) as lock:
        taken = list[str]()
        while lock is not None:
            is_last = over()
            taken = _carry_some(archive, run, session, api.TakeObjects(run.key, taken, 0.0 if is_last else WAIT))
            if is_last or not (taken or patient):
                return


def _carry_some(archive: Archive, run: Run, session: Session, asked: api.TakeObjects) -> list[str]:
    """The files that were put into the archive."""
    taken, data = list[str](), bytearray()
    with session.stream(api.take, asked) as stream:
        stream.end()
        for frame in stream:
            key, name = str(frame.header.get("object", "")), str(frame.header.get("file", ""))
            if not key.startswith(place_of(run).folders[0]) or len(data) > MOST_OBJECT:
                raise AgentError(f"{run.host.name} offers `{show(key[:80])}`, which is no object of run {run.number}")
            data += frame.body
            if not frame.body:
                archive.objects.put(key, bytes(data))
                taken.append(name)
                data.clear()
        session.result(api.take, stream)
    return taken
