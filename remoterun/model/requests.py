"""What a user asks for, before it becomes a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from remoterun.agent.shared.spec import PortSpec
from remoterun.model.resources import Mount

ALL_GPUS = -1
"""In place of a number of GPUs: as many as the machine has."""


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for, before it becomes a run. `Runs.prepare` refuses what can't be asked for."""

    command: str
    """Text for `sh -c`."""
    mounts: tuple[Mount, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Pairs of a variable and its value."""
    secrets: tuple[tuple[str, str], ...] = ()
    """Pairs of a variable and the name of the secret that is its value."""
    pip: tuple[str, ...] = ()
    requirements: str = ""
    """The text of a requirements file."""
    apt: tuple[str, ...] = ()
    image: str | None = None
    framework: str | None = None
    """"none", "python" or "tensorflow"; None for the one that the code needs."""
    description: str | None = None
    labels: tuple[str, ...] = ()
    timeout: float | None = None
    """In seconds."""
    options: str = ""
    """The options of `remoterun run` that ask for the same again; the run is told them."""
    stdin: Path | None = None
    """A file that the command reads as its standard input."""
    split: bool = False
    """What the command writes to stderr is not in the log, but apart."""
    beside: bool = False
    """It takes no slot of its machine, and waits for none."""
    spot: bool = False
    attempts: int | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    """These four take the place of what the `Rental` of its machine type says."""
    gpus: int | None = None
    """How many, or `ALL_GPUS`; None: what the setting of the machine says."""
    after: tuple[int, ...] = ()
    """Numbers of runs on its machine that must have completed before it starts."""
    after_any: tuple[int, ...] = ()
    """Numbers of runs on its machine that must have ended before it starts."""
    ports: tuple[PortSpec, ...] = ()
    """These are forwarded while a client follows the run."""
    notify: tuple[str, ...] | None = field(default=None, repr=False)
    """Who gets word when it ends: addresses, or names of secrets; None for those of config.toml."""

    def __post_init__(self) -> None:
        """Mounts may be given as they are typed: "uploads/doom:data". Raises `UsageError`."""
        parsed = tuple(Mount.parse(each) if isinstance(each, str) else each for each in self.mounts)
        object.__setattr__(self, "mounts", parsed)
