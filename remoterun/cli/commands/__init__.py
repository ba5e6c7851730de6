"""The commands. Each parses, makes one call of the client, and renders.

A module here registers its commands with `app` when it is imported. Only the one whose command was typed is: to import
all of them takes longer than most commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from typer import Typer

from remoterun.cli.app import app

MODULES = {
    "run": ("run",),
    "rerun": ("rerun",),
    "tailing": ("logs", "wait"),
    "listing": ("ps", "info", "diff", "label", "move"),
    "removal": ("stop", "kill", "rm"),
    "entering": ("exec", "top", "ssh"),
    "copying": ("upload", "ls", "cp", "cat"),
    "browsing": ("forward", "open", "jupyter"),
    "tensorboard": ("tensorboard",),
    "fleet": ("whoami", "machines", "hosts"),
    "maintenance": ("doctor", "check", "gc", "df"),
    "vault": ("secret", "notify"),
    "manual": ("schema", "skill"),
}
"""The commands of each module, in the order of `--help`."""


def application(words: Sequence[str] = ()) -> Typer:
    """What parses `words`: it has the command that they begin with; all commands if that is none, as for `--help`,
    completion, and a slip of the finger."""
    typed = words[0] if words else ""
    wanted = [module for module, commands in MODULES.items() if typed in commands]
    for module in wanted or MODULES:
        import_module(f"{__name__}.{module}")
    return app
