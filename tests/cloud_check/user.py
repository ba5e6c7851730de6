"""A user with the installed `remoterun`, a home of their own, and a git folder that holds one program."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect

PROGRAM = Path(__file__).with_name("workload.py")
SECONDS = 300.0
RENTING_SECONDS = 1200.0
"""Until a new host runs the first command: capacity, boot, Docker, image."""


class Failure(Exception):
    """A step did not show what it should."""


@dataclass
class Done:
    """A command that has ended."""

    words: tuple[str, ...]
    status: int
    output: str
    talk: str
    seconds: float


@dataclass
class User:
    home: Path
    folder: Path
    env: dict[str, str] = field(repr=False)
    transcript: list[str] = field(default_factory=list, repr=False)
    name: str = field(default_factory=lambda: f"cloud-check-{secrets.token_hex(4)}")
    """Of the upload."""

    @classmethod
    def begin(cls, folder: Path) -> User:
        work = folder / "work"
        work.mkdir()
        shutil.copyfile(PROGRAM, work / PROGRAM.name)
        (folder / "words").mkdir()
        for number in range(20):
            (folder / "words" / f"{number}.txt").write_text(secrets.token_hex(5000))
        (folder / "words" / "large.bin").write_bytes(os.urandom(3 << 20))
        env = {**os.environ, "REMOTERUN_HOME": str(folder / "home"), "TERM": "xterm", "NO_COLOR": "1"}
        git = ["git", "-c", "user.name=cloud-check", "-c", "user.email=cloud-check@example.org"]
        for words in (["init", "-q"], ["add", PROGRAM.name], ["commit", "-q", "-m", "A program for the check"]):
            subprocess.run([*git, *words], cwd=work, check=True)
        return cls(folder / "home", work, env)

    @property
    def upload(self) -> Path:
        """What is uploaded: twenty small files and a larger one."""
        return self.folder.parent / "words"

    def another(self) -> User:
        """The same person on a laptop that knows nothing of this one."""
        home = self.home.with_name("other-home")
        return User(home, self.folder, {**self.env, "REMOTERUN_HOME": str(home)}, self.transcript)

    def run(self, *words: str, status: int | None = 0, seconds: float = SECONDS) -> Done:
        """A command without a terminal. `status` None: any. Raises `Failure`."""
        began = time.monotonic()
        process = subprocess.Popen(
            [program(), *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # ^C is for the check, which then cleans up
            text=True,
            errors="replace",
        )
        try:
            output, talk = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"`remoterun {' '.join(words)}` did not end within {seconds:g} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        done = Done(words, process.returncode, output, talk, time.monotonic() - began)
        self.transcript.append(f"$ remoterun {' '.join(words)}\n{output}{talk}status {done.status}\n")
        if status is not None and done.status != status:
            raise Failure(f"`remoterun {' '.join(words)}` has status {done.status}: {last_line(talk or output)}")
        return done

    def json(self, *words: str, status: int | None = 0) -> Any:
        """What a command prints as JSON. Raises `Failure`."""
        done = self.run(*words, "--json", status=status)
        try:
            return json.loads(done.output)
        except ValueError:
            raise Failure(f"`remoterun {' '.join(words)} --json` prints no JSON: {last_line(done.talk)}")

    def terminal(self, *words: str) -> Terminal:
        return Terminal(self, words)

    def ssh(self, token: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """A command on a host, by ssh itself, with the settings that remoterun keeps for it."""
        settings = [word for option in options for word in ("-o", option)]
        return subprocess.run(
            ["ssh", "-F", str(self.home / "hosts" / token / "ssh_config"), *settings, token, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


class Terminal:
    """A command with a terminal. A context manager: it is killed at the end, if it has not ended."""

    def __init__(self, user: User, words: tuple[str, ...]) -> None:
        self._user = user
        self._words = words
        self._child = pexpect.spawn(
            program(), list(words), cwd=str(user.folder), env=user.env, encoding="utf-8", dimensions=(50, 150)
        )
        self._seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)
        self._user.transcript.append(f"$ remoterun {' '.join(self._words)}\n{self.shown}\n")

    @property
    def shown(self) -> str:
        """All that stood on the screen, as text."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self._seen)

    def wait_for(self, *texts: str, seconds: float = SECONDS) -> str:
        """Wait until one of these is shown; which one. Raises `Failure`."""
        found: int = self._child.expect_exact([*texts, pexpect.EOF, pexpect.TIMEOUT], timeout=seconds)
        self._seen += self._child.before if isinstance(self._child.before, str) else ""
        if found < len(texts):
            self._seen += str(self._child.after)
            return texts[found]
        how = "ended" if found == len(texts) else f"said nothing of the kind within {seconds:g} s"
        raise Failure(f"`{texts[0]}` was expected; the command {how}: {last_line(self.shown)}")

    def type(self, text: str) -> None:
        self._child.sendline(text)

    def interrupt(self) -> None:
        self._child.sendintr()

    def end(self, status: int = 0, seconds: float = SECONDS) -> str:
        """Wait for the end; all that was shown. Raises `Failure`."""
        if self._child.expect_exact([pexpect.EOF, pexpect.TIMEOUT], timeout=seconds):
            raise Failure(f"`remoterun {' '.join(self._words)}` did not end within {seconds:g} s")
        self._seen += str(self._child.before)
        self._child.close()
        if self._child.exitstatus != status:
            raise Failure(f"status {self._child.exitstatus} instead of {status}: {last_line(self.shown)}")
        return self.shown


def program() -> str:
    """The `remoterun` that is installed beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("remoterun")
    found = str(beside) if beside.exists() else shutil.which("remoterun")
    if found is None:
        sys.exit("error: `remoterun` is not installed\n\nhint: pip install -e '.[dev]'")
    return found


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "✗"))]
    return (errors or lines or ["it said nothing"])[-1][:300]
