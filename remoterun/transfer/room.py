"""Whether what is to be sent fits on the disk of the host: found out before anything is sent."""

from __future__ import annotations

from remoterun.agent.shared import api
from remoterun.errors import HostError
from remoterun.session import Session
from remoterun.sizes import size as readable


def may_not_fit(session: Session, size: int) -> bool:
    """Whether it pays to ask how much fits there now; what was said when the conversation began is known without."""
    return size > session.room // 2


def room_on(session: Session) -> int:
    """Bytes that may arrive there now. A round trip."""
    return session.ask(api.begun, api.Beginnings("", [])).room


def require_room(session: Session, missing: int, room: int) -> None:
    """Raises `HostError` when `missing` bytes don't fit into `room`."""
    if missing > room:
        machine = session.machine.name
        raise HostError(
            f"the disk of {machine} is too full: {readable(missing)} are to be sent, and {readable(room)} fit there",
            hint=f"remoterun machines df {machine}   shows who uses it\n"
            f"remoterun machines gc {machine}   frees what nothing needs",
        )
