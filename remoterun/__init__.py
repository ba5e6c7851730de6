"""remoterun: put `remoterun run` in front of your command, and it runs on a machine you own.

    from remoterun import Client

The public names are imported on their first use, so that `remoterun --version` needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoterun.on_use import on_use

__version__ = "0.1.0"

if TYPE_CHECKING:
    from remoterun.errors import RemoterunError
    from remoterun.job import Client, Job
    from remoterun.source import snapshot
else:
    __getattr__ = on_use(__name__, {"errors": ("RemoterunError",), "job": ("Client", "Job"), "source": ("snapshot",)})

__all__ = ["Client", "Job", "RemoterunError", "snapshot"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
