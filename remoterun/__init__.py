"""remoterun: put `remoterun run` in front of your command, and it runs on a machine you own.

    from remoterun import Client, RunRequest

The public names are imported on their first use, so that `remoterun --version` needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.on_use import on_use

__version__ = "0.1.0"

if TYPE_CHECKING:
    from remoterun.client import Client, LogBytes, Note, StateChange
    from remoterun.errors import RemoterunError
    from remoterun.model import Mount, Resource, Run, RunFilter, RunRequest, Upload
    from remoterun.source import snapshot
else:
    __getattr__ = on_use(
        __name__,
        {
            "client": ("Client", "LogBytes", "Note", "StateChange"),
            "errors": ("RemoterunError",),
            "model": ("Mount", "Resource", "Run", "RunFilter", "RunRequest", "Upload"),
            "source": ("snapshot",),
        },
    )

__all__ = [
    "Client",
    "LogBytes",
    "Mount",
    "Note",
    "RemoterunError",
    "Resource",
    "Run",
    "RunFilter",
    "RunRequest",
    "StateChange",
    "Upload",
    "snapshot",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
