"""What is to be read: the first page, and `help` for programs and coding agents."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

from remoterun.cli import render
from remoterun.cli.app import Command, app, argument, example, option
from remoterun.errors import NotFound, UsageError
from remoterun.parsing import known_words

LESSON = (
    ("machines", "lists machines; `machines add` adds one"),
    ('run "python train.py"', "runs it; on a machine with -t NAME"),
    ("ps", "lists runs; `ui` shows them in a browser"),
    ("logs last", "shows the log of the newest, live"),
    ("stop last", "ends it; its outputs are saved"),
    ("upload data --name doom", "sends data, for `run -m uploads/doom:data`"),
    ("ls runs/last", "lists the files that it made"),
    ("cp runs/last/models", "copies them to this folder"),
    ("open runs/last", "shows its model in your browser"),
)


def first_page() -> None:
    """What `remoterun` alone prints."""
    render.out_text("Put `remoterun run` in front of your command: it runs on a machine you own.", hang=0)
    render.out("")
    for words, text in LESSON:
        render.out_text(f"  remoterun {words:<24}   {text}", hang=2)
    render.out("")
    render.out_text("`remoterun --help` lists all commands.", hang=0)


@app.command("help", cls=Command, hidden=True, epilog=example("remoterun help run\nremoterun help --schema ps"))
def help_(
    words: Annotated[list[str], argument("COMMAND...", "A command. Default: all.")] = [],  # noqa: B006
    schema: Annotated[bool, option("--schema", "The JSON Schema of what its --json prints.")] = False,
    agents: Annotated[bool, option("--agents", "A page for coding agents: how to use remoterun.")] = False,
    install: Annotated[bool, option("--install", "With --agents: as a skill below ~/.claude.")] = False,
) -> None:
    """Explain a command, to people or to programs."""
    if agents and (schema or words) or install and not agents:
        raise UsageError("--agents explains all of remoterun", hint="remoterun help --agents [--install]")
    if agents:
        page = resources.files("remoterun.cli").joinpath("skill.md").read_text("utf-8")
        for line in () if install else page.splitlines():
            render.out(line)
        if install:
            file = Path.home() / ".claude/skills/remoterun/SKILL.md"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(page, "utf-8")
            render.out(str(file))
    elif schema:
        from remoterun.cli.schema import SCHEMAS
        from remoterun.cli.schema import schema as schema_of

        command = " ".join(words)
        if command and command not in SCHEMAS:
            raise NotFound(f"there is no schema of `{command}`", hint=known_words(command, SCHEMAS))
        render.out_json(schema_of(command) if command else {name: schema_of(name) for name in SCHEMAS})
