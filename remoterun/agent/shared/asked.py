"""What a user asks of a run and nobody changes on its way to the engine: here each such thing is said, once.

A field of these records is a field of the client's `RunRequest` and of the `RunSpec` that the host keeps. Its `option`
makes it an option of `run` and `rerun`, a key of `rerun --edit` and of `remoterun.toml`, and an entry of the reference;
what is not `right` is refused on both sides. What else a user may ask stands in `model/requests.py`, in the same form.
"""

from __future__ import annotations

import re
import warnings
from typing import Optional, Tuple

from .records import Record, option

WAIT_FOR_LOGIN = 3600.0
"""Seconds that a rented host waits for a login to save with, unless its run asks for other ones."""
APT_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?\Z")
"""The name of a Debian package, optionally with an architecture and a version."""
IMAGE = re.compile(r"[A-Za-z0-9[][A-Za-z0-9._/:@[\]-]*\Z")
"""The reference of an image, as a line of a Dockerfile takes it."""


RULE = re.compile(
    r"(?P<metric>\S{1,200}) *(?P<sign>[<>]=?) *(?P<bound>-?[0-9.]+(?:[eE][+-]?[0-9]+)?)"
    r"(?: +for +(?P<held>[0-9.]+[smhd]))?\Z"
    r"|no step for +(?P<silent>[0-9.]+[smhd])\Z|gpu idle for +(?P<idle>[0-9.]+[smhd])\Z"
)
"""An alert: a metric beyond a bound, for some time or at once; no new step, or an idle GPU, for some time."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """Of a time in a rule, such as 10m. Raises `ValueError`."""
    return float(text[:-1]) * _SECONDS[text[-1]]


def duration(seconds: float) -> str:
    """A stretch of time for people: 0.4 s, 45 s, 17 min 3 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 10:
        return "%.1f s" % max(seconds, 0)
    whole = round(seconds)
    if whole < 60:
        return "%d s" % whole
    if whole < 3600:
        return "%d min %d s" % (whole // 60, whole % 60)
    if whole < 86400:
        return "%d h %d min" % (whole // 3600, whole % 3600 // 60)
    return "%d d %d h" % (whole // 86400, whole % 86400 // 3600)


def memory_text(count: int) -> str:
    """A limit of memory as one types it, in powers of 1024: 500M, 8G; one that nobody types is rounded down."""
    return "%dG" % (count >> 30) if count and count % (1 << 30) == 0 else "%dM" % (count >> 20)


def check_rule(text: str) -> bool:
    found = RULE.match(text)
    try:
        for name in ("held", "silent", "idle") if found else ():
            seconds_of(found[name] or "0s")  # type: ignore[index]
        return found is not None and (found["bound"] is None or abs(float(found["bound"])) < 1e18)
    except ValueError:
        return False


def check_pattern(text: str) -> bool:
    try:
        with warnings.catch_warnings():  # of `[[`, which a later Python may read in another way
            warnings.simplefilter("ignore")
            return len(text) <= 500 and bool(re.compile(text).groupindex)
    except (re.error, RecursionError, OverflowError):
        return False


class PortSpec(Record):
    """A port of the run that its client forwards."""

    port: int
    local: int = 0
    """The one on the client's machine; 0: of the same number."""

    @property
    def wanted(self) -> int:
        """The port on the client's machine."""
        return self.local or self.port


class Packages(Record, kw_only=True):
    """What a user asks of the environment of a run."""

    pip: Tuple[str, ...] = option(
        (),
        "--pip PACKAGE",
        "A Python package to install. Repeat for more.",
        again="One more Python package. Repeat for more.",
        first=True,
    )
    requirements: str = option(
        "",
        "--pip-req FILE",
        "A requirements file to install.",
        again="Another requirements file.",
    )
    """The text of the file."""
    apt: Tuple[str, ...] = option(
        (),
        "--apt PACKAGE",
        "A Debian package to install. Repeat for more.",
        again="One more Debian package. Repeat for more.",
        right=APT_NAME.match,
        what="the name of a Debian package",
        example="ffmpeg --apt libsndfile1",
    )
    image: Optional[str] = option(
        None,
        "--image IMAGE",
        "A Docker image instead of the bundled one.",
        again="Another Docker image.",
        right=IMAGE.match,
        what="the name of a Docker image",
        example="python:3.12",
    )


class HandedOn(Record, kw_only=True):
    """What a user asks of the run itself."""

    description: Optional[str] = option(
        None, "-d --description TEXT", "For `ps`. Default: the commit's subject.", again="For `ps`."
    )
    labels: Tuple[str, ...] = option(
        (),
        "--label LABEL",
        "A label, for `ps --label`. Repeat for more.",
        again='Instead of those it had; "" for none. Repeat for more.',
    )
    timeout: Optional[float] = option(
        None,
        "--timeout TIME",
        "Stop the run so long after its first start, over all attempts: 90s, 10m, 2h; a plain number is minutes.",
        form="duration",
        right=lambda seconds: seconds > 0,
        what="a time limit above 0 s",
    )
    """In seconds."""
    cpus: Optional[int] = option(
        None,
        "--cpus N",
        "CPUs that it may use. Default: all that its machine has.",
        right=lambda count: 0 < count < 1e6,
        what="a number of CPUs above 0",
        example="4",
    )
    memory: Optional[int] = option(
        None,
        "--memory SIZE",
        "Memory that it may use, 500M or 8G; with more it ends. Default: all that its machine has.",
        form="size",
        right=lambda count: count >= 8 << 20,
        what="a limit of memory of 8M or more",
        example="8G",
    )
    """In bytes."""
    nodes: Optional[int] = option(
        None,
        "--nodes N",
        "On a cluster: nodes that run the command at the same time, each with the GPUs, CPUs and memory asked for.",
        right=lambda count: 0 < count < 1e5,
        what="a number of nodes above 0",
        example="2",
    )
    ports: Tuple[PortSpec, ...] = option(
        (),
        "--port PORT[:LOCAL]",
        "Reach this port of the run at 127.0.0.1 here. Repeat for more.",
        again=None,
        right=lambda port: 0 < port.port < 65536 and 0 <= port.local < 65536,
        what="a port from 1 to 65535",
    )
    """These are forwarded while a client follows the run."""
    split: bool = option(
        False,
        "--split",
        "What the command writes to stderr comes on stderr here, not on stdout.",
        again=None,
    )
    """What the command writes to stderr has a file of its own, and is not in the log."""
    alerts: Tuple[str, ...] = option(
        (),
        "--alert RULE",
        "With --notify, send a message when it holds: `val_loss > 4 for 10m`, `no step for 1h`, `gpu idle for 30m`."
        " Repeat for more.",
        right=check_rule,
        what="a rule",
        example='"val_loss > 4 for 10m"',
    )
    metrics: Tuple[str, ...] = option(
        (),
        "--metric REGEX",
        "A regular expression for the log: each named group of a match is a metric. Repeat for more.",
        right=check_pattern,
        what="a regular expression with a named group, of 500 characters at most",
        example="'loss=(?P<loss>[0-9.]+)'",
    )
    metric_step: str = option(
        "",
        "--metric-step NAME",
        "The number of a line of the log that is its step, such as `iters`. Default: what grows from line to line.",
        right=lambda name: 0 < len(name) <= 100,
        what="a name of 100 characters at most",
        example="iters",
    )
    metric_hide: Tuple[str, ...] = option(
        (),
        "--metric-hide NAME",
        "What in the log is no metric, where it looks like one. Repeat for more.",
        right=lambda name: 0 < len(name) <= 200,
        what="a name of 200 characters at most",
        example="port",
    )
    wait_for_login: Optional[float] = option(
        None,
        "--wait-for-login TIME",
        "How long a rented host that can't save waits for a login, or its bucket, at its price. Default: 1h.",
        form="duration",
        right=lambda seconds: seconds > 0,
        what="a time above 0 s",
    )
    """In seconds."""
    beside: bool = False
    """It needs next to nothing, takes no slot of its machine, and waits for none."""
