"""Programs on this machine: start, wait, identify."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from tests.lab.error import LabError

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds within which a program starts, answers or ends on a busy machine."""


class Process(NamedTuple):
    """A live process. `pid` is its number where it was listed; `command` its words, joined by spaces."""

    pid: int
    command: str


def run(
    words: Sequence[str],
    *,
    input: str | None = None,
    timeout: float = 60,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises `LabError` after `timeout` seconds, or with `check` when it fails.

    On a time-out all of its process group is killed. `stdin` and `stdout` are files to use in place of text.
    """
    process = subprocess.Popen(
        list(words),
        stdin=stdin or (subprocess.PIPE if input is not None else subprocess.DEVNULL),
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException as error:
            kill_group(process.pid)
            out, err = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise LabError(f"no end of `{' '.join(words)}` within {timeout:g} s", f"{out or ''}\n{err}") from None
    if check and process.returncode:
        raise LabError(f"`{' '.join(words)}` gave {process.returncode}", f"{out or ''}\n{err}")
    return subprocess.CompletedProcess(list(words), process.returncode, out or "", err)


def until(
    condition: Callable[[], T | None],
    seconds: float,
    what: str,
    evidence: Callable[[], str] = lambda: "",
    pause: float = 0.01,
) -> T:
    """Ask until the answer is true and return it. Raises `LabError` after `seconds`, with the evidence. A condition
    that takes long is asked less often: two thirds of the time are for what is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        answer = condition()
        if answer:
            return answer
        now = time.monotonic()
        if now > deadline:
            raise LabError(f"not within {seconds:g} s: {what}", evidence())
        time.sleep(max(pause, 2 * (now - asked)))


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log; "" if there is none."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def birth(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names a process for good. None if dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def listed(proc: Path) -> list[Process]:
    """Every live process that the given /proc shows; zombies are left out."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
            words = (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if stat[stat.rindex(")") + 2] in "ZX":
            continue
        found.append(Process(int(entry.name), words.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")))
    return sorted(found)


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Signal each; one that is gone already is fine."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
