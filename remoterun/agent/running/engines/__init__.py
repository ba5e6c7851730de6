"""How a host executes a command: the contract of every engine, and the table of those that there are.

`tests/contract/test_engines.py` holds each engine to `Engine`. To add one: its file here, its line in `ENGINES`, and
what a run can ask of it in `shared/machines.py`.
"""

from __future__ import annotations

import enum
import importlib
from typing import TYPE_CHECKING, Callable, ContextManager, Dict, List, Optional, Protocol, Sequence

from ...shared.api import MachineCheck
from ...shared.files import read_json
from ...shared.records import Record
from ...shared.spec import RunSpec
from ...store.errors import HomeError
from ...store.home import Home
from ...store.run_folder import RunFolder

if TYPE_CHECKING:
    from ..counters import Counters
    from ..network import Network
    from .building import BuildJob
    from .wrapper import Program

ENGINES: Dict[str, str] = {
    "docker": "docker:Docker",
    "podman": "docker:Docker",
    "process": "process:ProcessEngine",
}
"""By name, the module of this folder and its class `(home, name) -> Engine`; imported on use."""


def engine_of(home: Home, name: str) -> "Engine":
    """The engine `name`. Raises `HomeError("unknown_engine")`."""
    if name not in ENGINES:
        raise HomeError(
            "unknown_engine", "there is no engine `%s` here" % name, "known are " + ", ".join(sorted(ENGINES))
        )
    module, _, kind = ENGINES[name].partition(":")
    engine: "Engine" = getattr(importlib.import_module("." + module, __name__), kind)(home, name)
    return engine


def every_engine(home: Home) -> "List[Engine]":
    """All that there are, whether they can be used here or not."""
    return [engine_of(home, name) for name in ENGINES]


def engine_of_run(home: Home, run: RunFolder) -> "Engine":
    """The engine that a run was given. Raises `FileNotFoundError` as long as it has none."""
    return engine_of(home, read_json(run.engine_file)["engine"])


class EngineError(Exception):
    """What the engine said no to: one line, the evidence (a log's tail), and what to type."""

    def __init__(self, message: str, evidence: str = "", hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence
        self.hint = hint


class BaseImageUnavailable(EngineError):
    """The base image is neither here nor to be had; another engine may do without."""


class Interrupted(Exception):
    """A stop or kill was asked for while something was built."""


class Presence(enum.Enum):
    ABSENT = "absent"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


class CommandState(Record):
    presence: Presence
    code: Optional[int] = None
    out_of_memory: bool = False


class Kept(Record):
    """What an engine keeps of an environment for runs to come. Bytes: its `size`, and what freeing it gives back, which
    is less where another one shares a part of it (`alone`)."""

    kind: str
    """"environment", which is a folder of the home, or "image"."""
    name: str
    id: str
    size: int
    alone: int
    used: float
    """When it was last prepared for a run, or made, in seconds since 1970."""
    contents: str = ""
    """Its content in words for people; "" where nobody has noted that."""
    whole: bool = True
    """It is of use as it is: its building was not cut."""
    lock: str = ""
    """The lock of the home that is held by who builds it."""


class Engine(Protocol):
    """One way to run the wrapper of a run (wrapper.py), which writes the command's output and exit code to `run.io`:
    neither passes through the engine.

    An engine that does not answer makes `terminate`, `kill` and `remove` False: they are tried again later, and nothing
    is taken for ended.
    """

    name: str

    def problem(self) -> Optional[str]:
        """Why it can't be used here, in one line, or None. Fast; changes nothing."""

    def examine(self, base: str, instead: str) -> List[MachineCheck]:
        """What `doctor` says of it. `base`: the image under the bundled one, "" for none. `instead`: what runs use
        where it can't be used, in words; "" if they need it."""

    def needs(self, spec: RunSpec) -> List[str]:
        """The names of all of `kept` that a run of this spec needs. Raises `HomeError` where that can't be known."""

    def kept(self, orphans: bool = False, without: Sequence[str] = ()) -> List[Kept]:
        """What it keeps, or only what is not whole; each before those on which it stands. None where it does not
        answer. What is `without`, by its id, counts as freed: what it shared with another one is that one's alone."""

    def free(self, kept: Kept, discard: Callable[[str], None]) -> bool:
        """Delete what no run needs, whose lock is held; whether that was done. `discard` takes a path away."""

    def build(self, run: RunFolder, spec: RunSpec, job: "BuildJob") -> None:
        """Make what `start` needs, or find it made. Blocks; raises `EngineError`, `Interrupted`."""

    def mount(self, run: RunFolder, spec: RunSpec) -> None:
        """Put the mounts' files in place; the work tree is there. May be repeated before `start`."""

    def start(self, run: RunFolder, spec: RunSpec, gpus: List[str]) -> None:
        """Start the wrapper, once: if it was started before, nothing happens. Raises `EngineError`."""

    def inspect(self, run: RunFolder) -> CommandState:
        """What has become of it. Never raises for an engine that does not answer: its presence is UNKNOWN."""

    def alive(self, run: RunFolder) -> bool:
        """Whether any process of the command lives, background ones too; programs of `exec` don't count."""

    def exec(self, run: RunFolder, spec: RunSpec, words: Sequence[str], name: str, terminal: str = "") -> "Program":
        """How one more program is started inside a run whose command goes on: where that was started, with all of its
        variables. Its exit status is that of `words`.

        `name` is by what `end_exec` finds it; `terminal` is the kind of terminal (TERM) that its standard streams
        are, "" where they are none. May block for a second. Raises `EngineError`.
        """

    def end_exec(self, run: RunFolder, name: str) -> None:
        """Kill what the program `name` left inside the run. Gone is fine."""

    def counters(self, run: RunFolder) -> "Optional[Counters]":
        """What the run has used so far; None where that is unknown. Takes some milliseconds."""

    def terminate(self, run: RunFolder) -> bool:
        """Send SIGTERM to every process of the command; whether that reached them. Gone is fine."""

    def kill(self, run: RunFolder) -> bool:
        """Send SIGKILL to every process, and wait; whether none is left."""

    def network(self, run: RunFolder) -> "ContextManager[Network]":
        """The network that the command sees, open until it is left. Raises `HomeError`."""

    def remove(self, run: RunFolder) -> bool:
        """Delete what `start` left, except files; whether nothing is left. May be repeated. Once the wrapper's file
        `pid` is gone, too, `start` starts it again."""
