"""For programs and coding agents: `schema` and `skill`."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import typer

from remoterun.cli import render
from remoterun.cli.app import Command, app, example
from remoterun.cli.schema import SCHEMAS
from remoterun.cli.schema import schema as schema_of
from remoterun.errors import NotFound
from remoterun.parsing import known_words


@app.command(cls=Command, epilog=example("remoterun schema ps"))
def schema(
    command: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", help="A command with --json. Default: all.", autocompletion=lambda: SCHEMAS),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command's --json prints."""
    if command is None:
        render.out_json({name: schema_of(name) for name in SCHEMAS})
    elif command in SCHEMAS:
        render.out_json(schema_of(command))
    else:
        raise NotFound(f"there is no schema of `{command}`", hint=known_words(command, SCHEMAS))


@app.command(cls=Command, epilog=example("remoterun skill > ~/.claude/skills/remoterun/SKILL.md"))
def skill() -> None:
    """Print a page that tells a coding agent how to use remoterun."""
    for line in resources.files("remoterun.cli").joinpath("skill.md").read_text("utf-8").splitlines():
        render.out(line)
