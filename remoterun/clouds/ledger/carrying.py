"""What a run leaves on a host that can't reach the bucket is carried there by this machine, while the host lives."""

from __future__ import annotations

from collections.abc import Callable

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import MOST_OBJECT
from remoterun.agent.shared.files import unless_held
from remoterun.archive_store import place_of
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger.archiving import archive_of
from remoterun.connections import Connections
from remoterun.errors import AgentError
from remoterun.model import Run
from remoterun.session import Session

WAIT = 2.0
"""Seconds for which a host is asked at a time."""


def carry(
    connections: Connections, run: Run, session: Session, wait: float = 0.0, over: Callable[[], bool] = lambda: True
) -> None:
    """Take what there is, or comes within `wait` seconds of the last object, and is not `over` yet; nothing where
    another process of this machine does. Raises `HostError`."""
    folder, archive = HostFolder(connections.config.home, run.host.rented or ""), archive_of(connections, run)
    if not folder.path.exists():
        return
    with unless_held(str(folder.path / "carried.lock")) as lock:
        taken = list[str]()
        while lock is not None:
            asked = api.TakeObjects(run.key, taken, min(wait, WAIT))
            taken = []
            with session.stream(api.take, asked) as stream:
                stream.end()
                data = bytearray()
                for frame in stream:
                    key, name = str(frame.header.get("object", "")), str(frame.header.get("file", ""))
                    if not key.startswith(place_of(run).folders[0]) or len(data) > MOST_OBJECT:
                        raise AgentError(f"{run.host.name} offers `{key[:80]}`, which is no object of run {run.number}")
                    data += frame.body
                    if not frame.body:
                        archive.objects.put(key, bytes(data))
                        taken.append(name)
                        data.clear()
                session.result(api.take, stream)
            if not taken and over():
                return
