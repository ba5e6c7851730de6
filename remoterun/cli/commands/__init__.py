"""The commands, each in the file of its name. Each parses, makes one call of the client, and renders.

A module here registers its commands with `app` when it is imported. Only those are whose command was typed: to import
all of them takes longer than most commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from typer import Typer

from remoterun.cli.app import COMMANDS, FILES, app


def application(words: Sequence[str] = ()) -> Typer:
    """What parses `words`: it has the command that they begin with; all commands if that is none, as for `--help`,
    completion, and a slip of the finger."""
    every = [word for commands in COMMANDS.values() for word in commands]
    for word in [words[0]] if words and words[0] in every else every:
        import_module(f"{__name__}.{FILES.get(word, word)}")
    return app
