"""What a user asks for, before it becomes a run. What a run's host gets as it is stands in `agent/shared/asked.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remoterun.agent.shared.asked import HandedOn, Packages
from remoterun.agent.shared.records import option
from remoterun.model.resources import Mount

ALL_GPUS = -1
"""In place of a number of GPUs: as many as the machine has."""
_NUMBER: Any = {"right": lambda number: 0 < number < 1e6, "what": "a number above 0", "example": "2"}
_OF_THIS_RUN: Any = {"shared": False}
"""Of an option that a repository may not ask for."""


class RunRequest(Packages, HandedOn):
    """What a user asks for, before it becomes a run. `Runs.prepare` refuses what can't be asked for."""

    command: str
    """Text for `sh -c`."""
    mounts: tuple[Mount, ...] = option(
        (),
        "-m --mount RESOURCE[:PATH]",
        "Make an upload, a run's outputs, or ./FOLDER, readable at PATH. Repeat for more.",
        again="Mount the newest version of this there, as well or instead. Repeat for more.",
        first=True,
    )
    env: tuple[tuple[str, str], ...] = option(
        (),
        "-e --env K[=V]",
        "An environment variable; K alone takes its value here. Repeat for more.",
        first=True,
        shared=False,
        secret=True,
    )
    """Pairs of a variable and its value."""
    secrets: tuple[tuple[str, str], ...] = option(
        (),
        "--secret NAME[=VARIABLE]",
        "A secret that `remoterun secret set` keeps, as a variable. Repeat for more.",
        again="A secret as a variable, as well or instead. Repeat for more.",
        shared=False,
    )
    """Pairs of a variable and the name of the secret that is its value."""
    framework: str | None = option(
        None,
        "--framework NAME",
        "What the environment has: none, python, tensorflow. Default: TensorFlow if the code imports it.",
        again="Another framework: none, python, tensorflow.",
    )
    """None for the one that the code needs."""
    gpus: int | None = option(
        None,
        "--gpus N",
        "GPUs that it gets, or `all`. Default: the machine's setting.",
        again="GPUs that it gets, or `all`; 0 for none.",
        first=True,
        shared=False,
    )
    """How many, or `ALL_GPUS`; None: what the setting of the machine says."""
    notify: tuple[str, ...] | None = option(
        None,
        "--notify URL|NAME",
        "Who gets word when it ends: a webhook, or a secret that is one; `none` for nobody. Repeat for more.",
        secret=True,
    )
    """Who gets word when it ends: addresses, or names of secrets; None for those of config.toml."""
    spot: bool = option(
        False,
        "--spot",
        "Rent a cheaper host, which may be taken away; see --attempts.",
        again="Rent a cheaper host, which may be taken away.",
        **_OF_THIS_RUN,
    )
    """This and the next three take the place of what the `Rental` of its machine type says."""
    attempts: int | None = option(
        None,
        "--attempts N",
        "How often it may start if its machine goes down; values of -e stay on it till the last attempt ends.",
        shared=False,
        **_NUMBER,
    )
    max_hours: float | None = option(
        None,
        "--max-hours H",
        "End it after so long on rented hosts, all attempts together. Default: 24, and $20.",
        again="End it after so long on rented hosts.",
        **_NUMBER,
        **_OF_THIS_RUN,
    )
    max_cost: float | None = option(None, "--max-cost $", "The same limit, in US dollars.", **_NUMBER, **_OF_THIS_RUN)
    after: tuple[int, ...] = option(
        (),
        "--after RUN",
        "Start when this run, on the same machine, has completed. Repeat for more.",
        form="run",
        again=None,
        **_OF_THIS_RUN,
    )
    after_any: tuple[int, ...] = option(
        (),
        "--after-any RUN",
        "The same, however that run ends. Repeat for more.",
        form="run",
        again=None,
        **_OF_THIS_RUN,
    )
    stdin: Path | None = None
    """A file that the command reads as its standard input."""
    options: str = ""
    """The options of `remoterun run` that ask for the same again; REMOTERUN_OPTIONS in the run."""


class Asked(RunRequest):
    """What is typed after `run` or `rerun`: a request, and where it goes."""

    machine: str | None = option(
        None,
        "-t --machine-type NAME",
        "Where: local, a name of `remoterun machines`, an alias of ~/.ssh/config, or user@host.",
        first=True,
    )
    variables: tuple[str, ...] = ()
    """Names of variables whose values are found when it is launched."""
