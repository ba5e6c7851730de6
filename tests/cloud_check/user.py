"""A user with the installed `remoterun`, a home of their own, and a git folder that holds one program."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

PROGRAM = Path(__file__).with_name("workload.py")
REMOTERUN = str(Path(sys.executable).with_name("remoterun"))
SECONDS = 300.0
RENTING_SECONDS = 1200.0
"""Until a new host runs the first command: capacity, boot, Docker, image."""


class Failure(Exception):
    """A step did not show what it should."""


class User:
    """`data`: what is uploaded, twenty small files and a larger one. `upload`: its name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.data = folder, folder / "home", folder / "words"
        self.upload = f"cloud-check-{secrets.token_hex(4)}"
        self._work = folder / "work"
        self._work.mkdir()
        self.data.mkdir()
        shutil.copyfile(PROGRAM, self._work / PROGRAM.name)
        for number in range(20):
            (self.data / f"{number}.txt").write_text(secrets.token_hex(5000))
        (self.data / "large.bin").write_bytes(os.urandom(3 << 20))
        git = ["git", "-c", "user.name=cloud-check", "-c", "user.email=cloud-check@example.org"]
        for words in (["init", "-q"], ["add", PROGRAM.name], ["commit", "-q", "-m", "A program for the check"]):
            subprocess.run([*git, *words], cwd=self._work, check=True)

    def settings(self, text: str) -> None:
        """Write the configuration, before the first command."""
        self.home.mkdir(exist_ok=True)
        (self.home / "config.toml").write_text(text)

    def run(
        self, *words: str, status: int | None = 0, seconds: float = SECONDS, home: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command that has ended; `status` None: with any status. Raises `Failure`."""
        with self._start(words, home or self.home) as process:
            try:
                output, talk = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise Failure(f"`remoterun {' '.join(words)}` did not end within {seconds:g} s")
            finally:
                process.kill()
        if status is not None and process.returncode != status:
            raise Failure(f"`remoterun {' '.join(words)}` has status {process.returncode}: {last_line(talk or output)}")
        return subprocess.CompletedProcess(words, process.returncode, output, talk)

    def answer(self, *words: str, answers: Mapping[str, str], status: int = 0) -> str:
        """A command with a terminal, at which its questions are answered; what it showed. Raises `Failure`."""
        shown, got = pexpect.run(
            shlex.join([REMOTERUN, *words]),
            timeout=SECONDS,
            withexitstatus=True,
            events={question: f"{answer}\n" for question, answer in answers.items()},
            encoding="utf-8",
            cwd=str(self._work),
            env=self._env(self.home) | {"TERM": "xterm", "COLUMNS": "150"},
        )
        if got != status:
            raise Failure(f"`remoterun {' '.join(words)}` has status {got}: {last_line(shown)}")
        return str(shown)

    @contextmanager
    def running(self, *words: str, line: str) -> Iterator[tuple[subprocess.Popen[str], float]]:
        """A command that has written this line, and after how many seconds, killed at the end. Raises `Failure`."""
        began = time.monotonic()
        with self._start(words, self.home) as process:
            timer = threading.Timer(RENTING_SECONDS, process.kill)
            timer.start()
            try:
                assert process.stdout and process.stderr
                if not any(each.strip() == line for each in process.stdout):
                    raise Failure(f"`{line}` was expected: {last_line(process.stderr.read())}")
                yield process, time.monotonic() - began
            finally:
                timer.cancel()
                process.kill()

    def json(self, *words: str, status: int | None = 0, home: Path | None = None) -> Any:
        """What a command prints as JSON. Raises `Failure`."""
        return json.loads(self.run(*words, "--json", status=status, home=home).stdout)

    def ssh(self, token: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on a host, by ssh itself, with the settings that remoterun saves for it."""
        words = ("ssh", "-F", str(self.home / "hosts" / token / "ssh_config"), *words)
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def _env(self, home: Path) -> dict[str, str]:
        return {**os.environ, "REMOTERUN_HOME": str(home), "NO_COLOR": "1"}

    def _start(self, words: tuple[str, ...], home: Path) -> subprocess.Popen[str]:
        """In a session of its own: ^C is for the check, which then cleans up."""
        return subprocess.Popen(
            [REMOTERUN, *words],
            cwd=self._work,
            env=self._env(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        )


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "✗"))]
    return (errors or lines or ["it said nothing"])[-1][:300]
