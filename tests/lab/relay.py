"""A long way in the middle of a short one: a TCP relay that delays, has a rate, and bounds what is under way.

    with Relay("10.231.10.11", 22, rtt=0.08, rate=1e9) as relay:
        socket.create_connection(("127.0.0.1", relay.port))

It stands where `tc netem` would, which not every kernel has. It is a process of its own (`station.py`), so that
its work isn't the measured program's, and ends with its owner. What it makes of a connection:

- each direction is late by half a round trip, and connecting takes a whole one (though `connect` itself returns early);
- each direction has the rate, headers of Ethernet, IP and TCP included, for all connections together, first come first
  served, with a queue before it that drops nothing;
- a connection has at most `window` bytes under way in a direction (sent, and not yet acknowledged a round trip later),
  as Linux has by its default of 4 MB of memory for what a socket sends; it begins with ten packets and doubles each
  round trip as long as it uses what it has.

No packet is lost, and nothing is late by chance.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tests.lab.error import LabError
from tests.lab.process import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]

WINDOW = 2_600_000  # of 4 MB; the rest is the kernel's book-keeping: 260 Mbit/s at 80 ms


@dataclass(frozen=True)
class Way:
    """`rtt` in seconds, `rate` in bits a second (None: no limit), `window` in bytes."""

    rtt: float
    rate: float | None = None
    window: int = WINDOW


class Relay:
    """A relay to `address`, `port` that listens on 127.0.0.1; a context manager."""

    def __init__(self, address: str, port: int, *, rtt: float, rate: float | None = None, window: int = WINDOW) -> None:
        self.way = Way(rtt, rate, window)
        self._target = address, port
        self.port = 0

    def __enter__(self) -> Self:
        argument = json.dumps({"target": self._target, **asdict(self.way)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.station", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            start_new_session=True,  # a ^C is for its owner, whose end is its end
        )
        try:
            self.port = int(self._answer())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def sever(self) -> None:
        """Reset every connection; new ones are welcome."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"sever\n")
        self._process.stdin.flush()
        assert self._answer() == "sever"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            what = f"ended with {self._process.wait(PATIENCE)}" if readable else f"gave no answer within {PATIENCE:g} s"
            raise LabError(f"the relay to {self._target[0]}:{self._target[1]} {what}")
        return line.decode().strip()
