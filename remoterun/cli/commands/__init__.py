"""The commands, each in the file of its name. Each parses, makes one call of the client, and renders.

A module here registers its commands with `app` when it is imported. Only those are whose command was typed: to import
all of them takes longer than most commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from typer import Typer

from remoterun.cli.app import COMMANDS, app


def application(words: Sequence[str] = ()) -> Typer:
    """What parses `words`: it has the command that they begin with; all commands if that is none, as for `--help`,
    completion, and a slip of the finger."""
    modules = {word: module for commands in COMMANDS.values() for word, module in commands.items()}
    typed = modules.get(words[0] if words else "")
    for module in dict.fromkeys([typed] if typed else modules.values()):
        import_module(f"{__name__}.{module}")
    return app
