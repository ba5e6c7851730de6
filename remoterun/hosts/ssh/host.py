"""A machine reached over SSH: the agent is started there, and copied there the first time.

    SSHHost ─┬─ Master: a connection that the system's ssh keeps open, where one is ── MasterPipe: one `ssh`, one agent
             └─ SSHConnection (open until `close`) ── SSHPipe: one channel, one agent

Normally one command on the host starts the agent. Only where the agent does not speak, a second command copies it
there, or finds the reason; then the first command is tried again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from remoterun.errors import AgentError, HostError, HostUnreachable, LinkLost
from remoterun.hosts.base import KEPT, NOBODY, TAIL, AgentSilent, Prompts, await_agent
from remoterun.hosts.bundle import FLAGS, AgentBundle, agent_bundle
from remoterun.hosts.ssh.commands import command_line, ending, install_command, install_error, login_relative
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, SSHTarget, resolve
from remoterun.hosts.ssh.master import MasterPipe, live_master

if TYPE_CHECKING:
    import fabric

    from remoterun.config import Config
    from remoterun.hosts.ssh.connection import SSHConnection, SSHPipe
    from remoterun.hosts.ssh.login import KeyRing
    from remoterun.model import MachineType

_READ = 1 << 20
_EXIT_SECONDS = 5.0  # until a program whose output has ended has its exit status
T = TypeVar("T")


def of_machine(machine: MachineType, config: Config, prompts: Prompts) -> SSHHost:
    """The host that a machine type with a `host` stands for."""
    assert machine.host is not None
    return SSHHost(
        machine.host,
        home=machine.home or ".remoterun",
        python=machine.python or "python3",
        deadlines=Deadlines(connect=machine.connect_timeout, banner=machine.connect_timeout),
        config_file=Path(machine.ssh_config) if machine.ssh_config else config.ssh_config,
        prompts=prompts,
        masters=masters_folder(config),
    )


def masters_folder(config: Config) -> Path:
    """Where the sockets of our own masters stand."""
    return config.home / "ssh"


class CommandResult(NamedTuple):
    """A command that has ended. `status` is None where a signal ended it; `output` is its last part, without white
    space around it."""

    status: int | None
    output: str
    errors: str


class SSHHost:
    """`target` is `[user@]host[:port]`, `ssh://…` or an alias of `~/.ssh/config`.

    `home` is relative to the login folder, or absolute; `python` is the name of a program there, or a path.
    `config_file` is read instead of `~/.ssh/config`. With `masters`, the folder of our own, a live master is used.
    """

    def __init__(
        self,
        target: str,
        *,
        home: str = ".remoterun",
        python: str = "python3",
        bundle: AgentBundle | None = None,
        config_file: Path | None = None,
        deadlines: Deadlines | None = None,
        prompts: Prompts = NOBODY,
        masters: Path | None = None,
    ) -> None:
        self._typed = target
        self._target = SSHTarget.parse(target)
        self._home = login_relative(home)
        self._python = python if "/" not in python else login_relative(python)
        self._bundle = bundle
        self._config_file = config_file
        self._deadlines = deadlines or Deadlines()
        self._prompts = prompts
        self._masters = masters
        self._keys: KeyRing | None = None
        self._lock = threading.Lock()
        self._connections: list[SSHConnection] = []
        """The newest is used; on those before it the host opens no further session, while what it opened goes on."""

    @property
    def name(self) -> str:
        return self._typed

    @property
    def bundle(self) -> AgentBundle:
        return self._bundle or agent_bundle()

    def open(self) -> SSHPipe | MasterPipe:
        """See `Host.open`. It takes one command on the host where the agent is there already."""
        return self._past_a_master(self._open)

    def run(self, words: Sequence[str], seconds: float) -> CommandResult:
        """Run a command in the login folder there, without input, and wait until it ends. Raises what `open` raises,
        and `HostUnreachable` where it takes longer than `seconds`."""
        return self._past_a_master(lambda: self._run(f"cd; exec {command_line(words)}", seconds))

    def fabric(self) -> fabric.Connection:
        """A `fabric.Connection` over the connection of this host, for scripts.

        Fabric alone checks no host keys and honours few ssh settings; this one has all that `open` has. It lives as
        long as this host; do not close it. Raises what `open` raises.
        """
        import fabric
        import paramiko

        with self._lock:
            if not self._connections or not self._connections[-1].alive:
                self._connections.append(self._connect(resolve(self._target, self._config_file)))
            connection = self._connections[-1]
        settings = connection.settings
        made = fabric.Connection(
            host=settings.hostname,
            user=settings.user,
            port=settings.port,
            config=fabric.Config(ssh_config=paramiko.SSHConfig()),
        )
        made.client = connection.client
        made.transport = connection.client.get_transport()
        return made

    def close(self) -> None:
        with self._lock:
            held, self._connections = self._connections, []
        for connection in held:
            connection.close()

    def _open(self) -> SSHPipe | MasterPipe:
        try:
            return self._start()
        except _NotStarted:
            self._install()
        try:
            return self._start()
        except _NotStarted as silent:
            raise AgentError(
                f"the agent on `{self.name}` ended before it spoke ({ending(silent.status)})",
                evidence=silent.evidence or None,
                hint=f"`remoterun doctor {self.name}` looks for the reason",
            ) from silent

    def _past_a_master(self, work: Callable[[], T]) -> T:
        """What `work` returns; over a connection of our own where the master refuses it."""
        try:
            return work()
        except _MasterRefused:
            self._masters = None
            return work()

    def _start(self) -> SSHPipe | MasterPipe:
        """The pipe to an agent that has spoken. Raises `_NotStarted` where copying the agent there may help."""
        words = [self._python, *FLAGS, f"{self._home}/agent/{self.bundle.file_name}", "serve", "--home", self._home]
        pipe = self._pipe(f"cd; exec {command_line(words)}")
        pipe.give_up_at = time.monotonic() + self._deadlines.start
        try:
            await_agent(pipe)
        except AgentSilent as silent:
            raise self._silence(pipe, silent) from silent
        except BaseException:
            pipe.close()
            raise
        pipe.give_up_at = None
        return pipe

    def _silence(self, pipe: SSHPipe | MasterPipe, silent: AgentSilent) -> Exception:
        """Why the agent said nothing. Closes the pipe."""
        still_runs = pipe.late or silent.endless
        status = None if still_runs else pipe.exit_status(_EXIT_SECONDS)
        lost = pipe.lost
        said = "\n".join(part for part in (silent.heard, pipe.diagnosis()) if part)
        pipe.close()
        if isinstance(pipe, MasterPipe) and (pipe.refused or (pipe.late and not said)):
            return _MasterRefused(said)
        if lost:
            return HostUnreachable(
                f"the connection to `{self.name}` was lost while the agent started: {lost}",
                evidence=said or None,
                hint="try again",
            )
        if still_runs:
            limit = (
                f"in the first {KEPT >> 10} KiB of output" if silent.endless else f"within {self._deadlines.start:g} s"
            )
            return AgentError(
                f"the agent on `{self.name}` did not speak {limit}",
                evidence=said or None,
                hint=f"does a start-up file there wait for something, or print without end? `ssh {self.name} true`",
            )
        return _NotStarted(status, said)

    def _install(self) -> None:
        """Copy the agent there. Raises `AgentError` with the reason where that fails, or `HostUnreachable`."""
        command = install_command(self.bundle, self._home, self._python)
        done = self._run(command, self._deadlines.install, self.bundle.data)
        if done.status != 0:
            said = "\n".join(part for part in (done.errors, done.output) if part)
            raise install_error(self.name, self._home, self._python, done.status, said[-TAIL:])

    def _run(self, command: str, seconds: float, data: bytes = b"") -> CommandResult:
        pipe = self._pipe(command)
        pipe.give_up_at = time.monotonic() + seconds
        threading.Thread(target=_feed, args=(pipe, data), daemon=True).start()
        output = bytearray()
        try:
            while heard := pipe.read(_READ):
                output += heard
                del output[:-KEPT]
            status = None if pipe.late else pipe.exit_status(_EXIT_SECONDS)
            done = CommandResult(status, output.decode("utf-8", "replace").strip(), pipe.diagnosis())
            if isinstance(pipe, MasterPipe) and pipe.refused:
                raise _MasterRefused(done.errors)
            if pipe.lost:
                raise HostUnreachable(f"the connection to `{self.name}` was lost: {pipe.lost}", hint="try again")
            if pipe.late:
                said = "\n".join(part for part in (done.errors, done.output) if part)
                raise HostUnreachable(
                    f"`{self.name}` did not finish a command within {seconds:g} s",
                    evidence=said[-TAIL:] or None,
                    hint=f"does a start-up file there wait for something, or print without end? `ssh {self.name} true`",
                )
        finally:
            pipe.close()
        return done

    def _pipe(self, command: str) -> SSHPipe | MasterPipe:
        """Start a command: through a live master, else on the open connection, or on a new one where that is dead, or
        opens no further session."""
        with self._lock:
            for connection in self._connections:
                if not connection.alive:
                    connection.close()
            self._connections = [connection for connection in self._connections if connection.alive]
            settings = resolve(self._target, self._config_file)
            if self._masters is not None and not self._connections:
                master = live_master(settings, self._config_file, self._masters)
                if master is not None:
                    return master.start(command)
            from remoterun.hosts.ssh.connection import SessionRefused

            for connection in self._connections[-1:]:
                with contextlib.suppress(SessionRefused, HostUnreachable):
                    return connection.start(command)
            connection = self._connect(settings)
            try:
                pipe = connection.start(command)
            except SessionRefused as refused:
                connection.close()
                raise HostError(
                    f"`{self.name}` accepts the login but runs no command",
                    evidence=str(refused),
                    hint="its sshd (MaxSessions, ForceCommand) or the account's shell forbids it",
                ) from refused
            except BaseException:
                connection.close()
                raise
            self._connections.append(connection)
            return pipe

    def _connect(self, settings: SSHSettings) -> SSHConnection:
        from remoterun.hosts.ssh.connection import Access, connect
        from remoterun.hosts.ssh.login import KeyRing

        self._keys = self._keys or KeyRing(self._prompts.ask_passphrase)
        access = Access(self._deadlines, self._config_file, self._prompts, self._keys)
        return connect(settings, access)


class _NotStarted(Exception):
    """The program ended without a word of the agent. `status` is its exit status; None: a signal ended it."""

    def __init__(self, status: int | None, evidence: str) -> None:
        super().__init__(evidence)
        self.status = status
        self.evidence = evidence


class _MasterRefused(Exception):
    """The master ended, its link is dead, or the host opens no further session on it."""


def _feed(pipe: SSHPipe | MasterPipe, data: bytes) -> None:
    try:
        pipe.write(data)
    except LinkLost:
        return  # the program ended without reading it all; its exit status shows why
    pipe.end_input()
