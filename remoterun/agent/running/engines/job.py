"""A build: the programs that it runs, its log, and how a stop reaches it."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Callable, List, NamedTuple, Sequence

from ..logs import last_lines
from . import EngineError, Interrupted


class BuildJob(NamedTuple):
    """What a build may use: a log to write, a way to say something to the user, and to learn that it shall end."""

    log: str
    say: Callable[[str], None]
    interrupted: Callable[[], bool]

    def check(self) -> None:
        """Raises `Interrupted` when it shall end."""
        if self.interrupted():
            raise Interrupted

    def run(self, argv: List[str], keep: Sequence[int] = ()) -> int:
        """Run a program with its output appended to the log; its exit status. Raises `Interrupted`.

        `keep`: descriptors that it holds open, such as a lock that shall not end before it does.
        """
        with open(self.log, "ab") as log:
            log.write(b"$ " + " ".join(argv).encode("utf-8", "surrogateescape") + b"\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep, start_new_session=True
                )
            except OSError as error:
                raise EngineError("%s can't be started: %s" % (argv[0], error.strerror))
            pause = 0.01
            try:
                while process.poll() is None:
                    self.check()
                    time.sleep(pause)
                    pause = min(pause * 1.3, 0.2)
            finally:
                end(process)
            return process.returncode

    def tail(self, lines: int = 15) -> str:
        return last_lines(self.log, lines)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the session that a process leads, unless it has ended."""
    if process.poll() is not None:
        return
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue
