"""The README, and the commands that it shows."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
CLOUD, CLUSTER = "## A machine from the cloud\n", "## A cluster\n"


def shown(text: str) -> list[str]:
    """The commands of all `console` blocks of a text."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        found += [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return found


def section(head: str) -> str:
    """A section of the README, such as that about machines that are rented."""
    return README.partition(head)[2].partition("\n## ")[0]
