"""The README, and the commands that it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.browser import missing_npm
from tests.commands import REMOTERUN
from tests.conftest import require
from tests.e2e.conftest import Place, opened
from tests.workshop import until

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


def follow(place: Place, commands: list[str], ssh_config: Path, supervisors: Callable[[], list[Any]]) -> None:
    """Type commands of the guide. `supervisors`: those that are at work on its machine that is reached by SSH."""
    for command in commands:
        words = shlex.split(command)
        words = words[: words.index(">")] if ">" in words else words
        if words[0] == "ssh":
            words[1:1] = ["-F", str(ssh_config)]
        else:
            assert words[0] == "remoterun", command
            words = [REMOTERUN, *place.patiently(words[1:])]
        if words[1] == "exec":  # as a reader does, who sees that it runs
            until(lambda: place.json("info", "last")["state"] == "running")
        if "rm -r" in words[-1]:  # while a run is there, its supervisor writes into what is deleted
            until(lambda: not supervisors())
        if words[1] in ("open", "publish"):
            require(missing_npm())
        if words[1] in ("open", "ui"):
            with opened(words[2:], place.folder, place.env, words[1]) as (address, _):
                assert b"<title>" in urllib.request.urlopen(address, timeout=60).read()
            continue
        done = subprocess.run(
            words,
            cwd=place.folder,
            env=place.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        expected = 0
        if words[1] == "doctor":  # it may say that the toolkit is missing: the GPU is a stand-in
            expected = done.returncode if "✗ nvidia container toolkit" in done.stdout else 0
            assert done.stdout.count("✗") <= 1
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"
