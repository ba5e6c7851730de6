"""`python -m tests.reference` writes what `--help` says into cli/REFERENCE.md, below a heading for each command.

What else stands below a heading is written by hand, and stays.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from remoterun.cli.commands import application
from remoterun.cli.main import main

FILE = Path(__file__).parents[1] / "remoterun" / "cli" / "REFERENCE.md"
_SECTION = re.compile(
    r"^### `(remoterun[^`]*)`\n(?:\n```text\n.*?\n```\n)?\n?(.*?)(?=^### |^## |\Z)", re.MULTILINE | re.DOTALL
)


def commands(command: Any = None, name: str = "remoterun") -> dict[str, Any]:
    """Every command by what is typed for it, in the order of `--help`."""
    command = command if command is not None else get_command(application())
    found = {} if name == "remoterun" else {name: command}
    for word, below in getattr(command, "commands", {}).items():
        found.update(commands(below, f"{name} {word}"))
    return found


def written(text: str, helps: dict[str, str]) -> str:
    """The reference `text` with these helps, by command. Raises `ValueError` for a heading that names no command."""
    before, heading, rest = text.partition("## Commands\n")
    own, others = re.split(r"(?=^## )", rest, maxsplit=1, flags=re.MULTILINE)
    prose = {name: words.strip() for name, words in _SECTION.findall(own)}
    gone = [name for name, words in prose.items() if words and name not in helps]
    if gone:
        raise ValueError(f"headings of no command, whose text has to be moved: {', '.join(gone)}")
    intro = own.partition("\n### ")[0].strip()
    parts = [f"### `{name}`\n\n```text\n{said.strip()}\n```\n\n{prose.get(name, '')}" for name, said in helps.items()]
    return before + heading + "\n" + "\n\n".join(part.strip() for part in [intro, *parts]) + "\n\n" + others


def helps() -> dict[str, str]:
    """What `--help` says of each command at 80 columns."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        for name in commands():
            with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as printed:
                assert main([*name.split()[1:], "--help"]) == 0
            printed.seek(0)
            found[name] = printed.read()
    return found


if __name__ == "__main__":
    try:
        text = written(FILE.read_text(), helps())
        if "--print" in sys.argv:
            sys.stdout.write(text)
        else:
            FILE.write_text(text)
    except ValueError as error:
        sys.exit(str(error))
