"""Trainings that are forked from a process which has imported TensorFlow: that import alone takes 4 s of a processor.

Nothing of TensorFlow has run in that process: it starts its threads and finds its devices with the first operation,
which comes after the fork. What is started here is the trainer's own `main`, or a program text, in a process of its
own, with its own folder, output and signals.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

PRELOADED = ("tensorflow", "matplotlib.figure", "tests.nursery", "trainer.train", "trainer.model", "trainer.generate")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


class Child:
    """A Python that was started with the words after `python`: `-m MODULE …` or `-c PROGRAM …`."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self._words = list(words)
        self._out, self._err = (tempfile.NamedTemporaryFile(prefix="nursery-") for _ in range(2))
        arguments = (str(folder), self._words, self._out.name, self._err.name)
        with mock.patch.dict(
            os.environ, TF_CPP_MIN_LOG_LEVEL="3"
        ):  # how little it says, which it reads as it is imported
            forkserver.ensure_running()
        self._process = _context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def so_far(self) -> str:
        """What it has written to standard output."""
        return Path(self._out.name).read_text()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Its end, with all that it wrote. Raises TimeoutExpired, and kills it, when it doesn't end in time."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._words, seconds, self.so_far())
        status = self._process.exitcode
        assert status is not None
        done = subprocess.CompletedProcess(self._words, status, self.so_far(), Path(self._err.name).read_text())
        self._process.close()
        for file in (self._out, self._err):
            file.close()
        return done


def _run(folder: str, words: list[str], out: str, err: str) -> None:
    """In the child."""
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, handler)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.chdir(folder)
    kind, program, *arguments = words
    sys.argv = [kind, *arguments]
    try:
        if kind == "-m":
            raise SystemExit(importlib.import_module(program).main(arguments))
        exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
