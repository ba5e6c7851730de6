"""The machine in front of us: the same agent at the other end of a local pipe."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from remoterun.agent.shared.files import write_whole
from remoterun.errors import AgentError, LinkLost
from remoterun.hosts.base import AgentSilent, Pipe, await_agent
from remoterun.hosts.bundle import FLAGS, AgentBundle, agent_bundle

_READ = 256 << 10


class LocalHost:
    """Starts the agent with this very Python. `home` is the folder the agent works in."""

    def __init__(self, home: Path, name: str = "local", bundle: AgentBundle | None = None) -> None:
        self._home = home
        self._name = name
        self._bundle = bundle

    @property
    def name(self) -> str:
        return self._name

    def open(self) -> Pipe:
        bundle = self._bundle or agent_bundle()
        program = self._home / "agent" / bundle.file_name
        try:
            if not program.exists():
                program.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(str(program), bundle.data, 0o700)
            pipe = ProcessPipe([sys.executable, *FLAGS, str(program), "serve", "--home", str(self._home)])
        except OSError as error:
            raise AgentError(
                f"the home `{self._home}` can't be used: {error.strerror}",
                hint="set REMOTERUN_HOME to a folder that you may write",
            )
        try:
            await_agent(pipe)
        except AgentSilent as silent:
            pipe.close()
            said = pipe.diagnosis() or silent.heard
            raise AgentError(
                "the agent does not start on this machine",
                evidence=said,
                hint="set REMOTERUN_HOME to a folder that you may write",
            )
        return pipe

    def close(self) -> None:
        pass


class ProcessPipe:
    """The pipe to a child process."""

    round_trip = 0.0

    def __init__(self, argv: list[str]) -> None:
        self._said = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the pipe
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # ^C is for us: the agent ends when its input does
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def read(self, limit: int) -> bytes:
        try:
            return os.read(self._stdout.fileno(), limit)
        except (OSError, ValueError):
            return b""

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        room = memoryview(bytearray(_READ))
        with contextlib.suppress(OSError, ValueError):
            while count := os.readv(self._stdout.fileno(), [room]):
                taker(room[:count])

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(self._stdin.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise LinkLost(f"the agent on this machine has ended: {error}", evidence=self.diagnosis())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._stdout.close()
        self._said = self.diagnosis()
        self._errors.close()

    def diagnosis(self) -> str:
        try:
            with open(f"/proc/self/fd/{self._errors.fileno()}", "rb") as file:
                return file.read()[-4096:].decode("utf-8", "replace").strip()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                return os.pread(self._errors.fileno(), 4096, 0).decode("utf-8", "replace").strip()
            return self._said
