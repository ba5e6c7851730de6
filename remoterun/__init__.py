"""remoterun: put `remoterun run` in front of your command, and it runs on a machine you own.

    from remoterun import Client, RunRequest

The public names are imported on their first use, so that `remoterun --version` needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from remoterun.client import Client, LogBytes, Note, StateChange
    from remoterun.errors import RemoterunError
    from remoterun.model import Mount, Resource, Run, RunFilter, RunRequest, Upload
    from remoterun.source import snapshot

_PLACES = {
    "Client": "client",
    "LogBytes": "client",
    "Mount": "model",
    "Note": "client",
    "RemoterunError": "errors",
    "Resource": "model",
    "Run": "model",
    "RunFilter": "model",
    "RunRequest": "model",
    "StateChange": "client",
    "Upload": "model",
    "snapshot": "source",
}
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


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module `remoterun` has no attribute `{name}`")
    import importlib

    return getattr(importlib.import_module(f"remoterun.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
