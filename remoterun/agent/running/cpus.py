"""The CPUs of a run that asks for a number of them. A program counts those that it may use, and starts so many threads.

runs/KEY/cpus    [0, 3]    which ones it was given
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from typing import List

from ..shared.files import locked, read_json, write_whole
from ..store.home import Home
from ..store.run_folder import RunFolder


def usable() -> List[int]:
    """The CPUs that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def choose(home: Home, run: RunFolder, count: int) -> str:
    """Give a run so many, as "0,3": those that the fewest other runs of the home were given."""
    taken: "Counter[int]" = Counter()
    with locked(home.lock("cpus")):
        for other in map(home.run, home.active_keys()):
            with contextlib.suppress(OSError, ValueError):
                taken.update(read_json(other.cpus_file) if other.key != run.key else ())
        chosen = sorted(usable(), key=taken.__getitem__)[:count]
        write_whole(run.cpus_file, json.dumps(chosen).encode())
    return ",".join(map(str, chosen))
