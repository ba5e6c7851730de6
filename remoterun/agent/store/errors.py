"""What goes wrong in a home."""

from __future__ import annotations

from ..shared.files import no_room
from ..shared.protocol import RemoteError


class HomeError(RemoteError):
    """A request a home can't fulfil: it goes to the client as it is. `message` has no full stop."""


def disk_full(home: str) -> HomeError:
    return HomeError("disk_full", no_room(home) or "the disk that holds %s is full" % home)


def damaged(digest: str) -> HomeError:
    return HomeError("damaged", "the content of %s did not arrive as it was read" % digest[:12], "try again")
