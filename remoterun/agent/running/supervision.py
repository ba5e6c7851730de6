"""Every run that goes on has a supervisor: started with it, and again by the next contact if it has died.

Little is imported, as every agent that serves looks here when it starts. Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import List

from ..store.home import Home
from ..store.run_folder import SUPERVISOR, RunFolder


def spawn(home: Home, key: str) -> None:
    """Start a supervisor for `key`, detached from us. If one lives, the new one ends at once."""
    import subprocess

    run = home.run(key)
    # Typed inside a run, `remoterun run` starts another: it must not count as one of the first one's processes. Nor
    # must one that is started by another run's supervisor, which waits behind it.
    variables = {name: value for name, value in os.environ.items() if name != "REMOTERUN_KEY"}
    variables[SUPERVISOR] = key
    with open(run.supervisor_log, "ab") as log:
        subprocess.Popen(
            [*agent_command(), "supervise", "--home", home.path, key],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.path,
            env=variables,
            start_new_session=True,
        )


def agent_command() -> List[str]:
    """The words that start this very agent again."""
    flags = (["-I"] if sys.flags.isolated else []) + (["-S"] if sys.flags.no_site else [])
    flags += ["-X", "utf8"] if sys.flags.utf8_mode else []
    return [sys.executable, *flags, os.path.abspath(sys.argv[0])]


def revive(home: Home) -> List[str]:
    """Start supervisors for active runs that have none; their keys."""
    revived = []
    for key in home.active_keys():
        run = home.run(key)
        if not run.exists():
            with contextlib.suppress(OSError, ImportError):  # of a program that was deleted
                from . import queue

                home.unmark_active(key)
                queue.release(home, key)
        elif look_after(home, run):
            revived.append(key)
    return revived


def look_after(home: Home, run: RunFolder) -> bool:
    """Start a supervisor for an active run that has none; whether it was. Where none can be started, as in a home that
    is read-only, what is there can still be read."""
    if run.supervised() or not run.is_of_this_machine():
        return False
    with contextlib.suppress(OSError, ImportError):
        spawn(home, run.key)
        return True
    return False
