"""The commands. Each parses, makes one call of the client, and renders.

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
    modules = {word: modules for commands in COMMANDS.values() for word, modules in commands.items()}
    modules.update(help=("manual",), whoami=("entering",))  # not in the list of `--help`
    every = dict.fromkeys(module for names in modules.values() for module in names)
    for module in modules.get(words[0] if words else "", every):
        import_module(f"{__name__}.{module}")
    return app
