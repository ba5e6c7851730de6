"""The commands. Each parses, makes one call of the client, and renders.

`app` is the application with all of them: `--help` lists them in the order of the imports here.
"""

from remoterun.cli.app import app

# isort: off
from remoterun.cli.commands import (  # noqa: F401
    run,
    rerun,
    runs,
    wait,
    move,
    diff,
    inside,
    files,
    cat,
    rm,
    label,
    pages,
    ports,
    tensorboard,
    jupyter,
    machines,
    hosts,
    secrets,
    notify,
    upkeep,
    programs,
)

__all__ = ["app"]
