"""The machine in front of us: the same agent at the other end of a local pipe."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from remoterun.agent.shared.files import write_whole
from remoterun.config import Config, unshared
from remoterun.errors import AgentError, LinkLost
from remoterun.hosts.base import KEPT, TAIL, AgentSilent, Pipe, Prompts, await_agent
from remoterun.hosts.bundle import FLAGS, AgentBundle, agent_bundle
from remoterun.model import MachineType

START_SECONDS = 30.0
"""Until the agent's first bytes."""
_READ = 256 << 10
_CLOSE_SECONDS = 2.0  # for an agent whose input has ended, before it is killed


def of_machine(machine: MachineType, config: Config, prompts: Prompts) -> LocalHost:
    """The host that a machine type without a `host` stands for."""
    home = Path(machine.home).expanduser().absolute() if machine.home else config.home
    return LocalHost(home, machine.name, prefix=machine.prefix)


class LocalHost:
    """Starts the agent with this very Python. `home` is the folder the agent works in."""

    def __init__(
        self,
        home: Path,
        name: str = "local",
        bundle: AgentBundle | None = None,
        start_seconds: float = START_SECONDS,
        prefix: Sequence[str] = (),
    ) -> None:
        self._home = home
        self.name = name
        self._bundle = bundle
        self._prefix = prefix
        self._start_seconds = start_seconds

    def open(self) -> Pipe:
        bundle = self._bundle or agent_bundle()
        hint = "set REMOTERUN_HOME to a folder that you may write"
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)  # on the way to another folder, it would get
            (self._home / "agent").mkdir(mode=0o700, exist_ok=True)  # the mode that the umask leaves
            home = unshared(self._home, AgentError, exists=True)  # whoever may write there can replace the agent
            program = unshared(home / "agent", AgentError, exists=True) / bundle.file_name
            if not program.exists():
                write_whole(str(program), bundle.data, 0o700)
            pipe = ProcessPipe([*self._prefix, sys.executable, *FLAGS, str(program), "serve", "--home", str(home)])
        except OSError as error:
            raise AgentError(f"the home `{self._home}` can't be used: {error.strerror}", hint=hint)
        pipe.give_up_at = time.monotonic() + self._start_seconds
        try:
            await_agent(pipe)
        except AgentSilent as silent:
            pipe.close()
            late = f" within {self._start_seconds:g} s" if pipe.late else ""
            raise AgentError(
                f"the agent does not start on this machine{late}",
                evidence=pipe.diagnosis() or silent.heard or None,
                hint=hint,
            )
        except BaseException:
            pipe.close()
            raise
        pipe.give_up_at = None
        return pipe

    def close(self) -> None:
        pass


class ProcessPipe:
    """The pipe to a child process. `give_up_at` (monotonic, None: never) ends a read after that time; `late` then is
    True."""

    round_trip = 0.0

    def __init__(self, argv: list[str]) -> None:
        self.give_up_at: float | None = None
        self.late = False
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # ^C is for this process only: the agent ends when its input does
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = _End(self._process.stdin), _End(self._process.stdout)
        self._errors = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self, limit: int) -> bytes:
        try:
            with self._stdout as number:
                if self.give_up_at is not None:
                    patience = self.give_up_at - time.monotonic()
                    poll = select.poll()
                    poll.register(number, select.POLLIN)
                    if patience <= 0 or not poll.poll(patience * 1000):
                        self.late = True
                        return b""
                return os.read(number, limit)
        except (OSError, ValueError):
            return b""

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        room = memoryview(bytearray(_READ))
        with contextlib.suppress(OSError, ValueError):
            while True:
                with self._stdout as number:
                    count = os.readv(number, [room])
                if not count:
                    break
                taker(room[:count])

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    with self._stdin as number:
                        view = view[os.write(number, view) :]
        except (OSError, ValueError) as error:
            raise LinkLost(f"the agent on this machine has ended: {error}", evidence=self.diagnosis())

    def close(self) -> None:
        self._stdin.close()
        try:
            self._process.wait(timeout=_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def diagnosis(self) -> str:
        if self._process.poll() is not None:
            self._listener.join(0.5)  # its last words may be on their way
        return bytes(self._errors[-TAIL:]).decode("utf-8", "replace").strip()

    def _listen(self) -> None:
        """Keeps the end of what the process prints as errors, until the last process that could print has ended."""
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            while data := errors.read(KEPT):
                self._errors += data
                del self._errors[:-KEPT]


class _End:
    """An end of a pipe, for several threads: `with` gives the number of its descriptor, and raises `ValueError` once it
    is closed. A number that is in use is not closed yet: in the next moment it may be that of another agent's pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._counting = threading.Lock()
        self._users = 0
        self._closed = False

    def __enter__(self) -> int:
        with self._counting:
            if self._closed:
                raise ValueError("this end of the pipe is closed")
            self._users += 1
            return self._file.fileno()

    def __exit__(self, *_: object) -> None:
        with self._counting:
            self._users -= 1
            self._close_unused()

    def close(self) -> None:
        """Does not block. May be repeated."""
        with self._counting:
            self._closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._users:
            with contextlib.suppress(OSError):
                self._file.close()
