"""The watcher of a lab: waits for the end of its input, which its owner holds open, and removes what dead owners left.

However the owner ends, SIGKILL included, this ends it all. `python -m tests.lab </dev/null` does so by hand.
"""

from __future__ import annotations

import sys

from tests.lab.local_docker import sweep_local_docker
from tests.lab.record import sweep

if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep()
    sweep_local_docker()
