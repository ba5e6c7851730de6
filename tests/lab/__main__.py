"""The watcher of a lab: waits for the end of its input, which its owner holds open, and removes what dead owners left.

However the owner ends, SIGKILL included, this ends it all. `python -m tests.lab </dev/null`
does so by hand.
"""

from __future__ import annotations

import sys

from tests.lab import record
from tests.lab.local_docker import sweep_local_docker
from tests.lab.process import until


def main() -> None:
    sys.stdin.buffer.read()
    watched = tuple(sys.argv[1:])  # a lab's name and its owner's pid

    def over() -> bool:  # a killed process drops what it holds open shortly before it counts as dead
        return not any(each.alive() for each in record.records() if (each.name, str(each.owner)) == watched)

    until(over, 60, f"the owner of {watched} is dead", pause=0.05)
    record.sweep()
    sweep_local_docker()


if __name__ == "__main__":
    main()
