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
    "runs": ("logs", "ps", "info", "stop", "kill"),
    "wait": ("wait",),
    "move": ("move",),
    "diff": ("diff",),
    "inside": ("exec", "top", "ssh"),
    "files": ("upload", "ls", "cp"),
    "cat": ("cat",),
    "rm": ("rm",),
    "label": ("label",),
    "pages": ("open",),
    "ports": ("forward",),
    "tensorboard": ("tensorboard",),
    "jupyter": ("jupyter",),
    "machines": ("doctor", "whoami", "machines"),
    "hosts": ("hosts",),
    "secrets": ("secret",),
    "notify": ("notify",),
    "upkeep": ("check", "gc", "df"),
    "programs": ("schema", "skill"),
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
