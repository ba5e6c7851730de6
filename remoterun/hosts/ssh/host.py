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
from typing import TYPE_CHECKING, TypeVar

from remoterun.agent.shared.records import Record
from remoterun.errors import AgentError, AuthenticationError, HostError, HostKeyError, HostUnreachable, LinkLost
from remoterun.hosts.base import KEPT, NOBODY, TAIL, AgentSilent, Prompts, await_agent
from remoterun.hosts.bundle import AgentBundle, agent_bundle
from remoterun.hosts.ssh import commands
from remoterun.hosts.ssh.config import Deadlines, SSHSettings, SSHTarget, resolve
from remoterun.hosts.ssh.master import Master, MasterPipe, Unanswered, live_master, masters

if TYPE_CHECKING:
    import fabric

    from remoterun.config import Config
    from remoterun.hosts.ssh.connection import SSHConnection, SSHPipe
    from remoterun.model import MachineType

_READ = 1 << 20
_IDLE_SECONDS = 600.0  # until a login that a command has asked for ends by itself
_SESSION_SECONDS = 10.0  # until one of a login's sessions ends, where all are in use
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
        machine=machine.name,
        prefix=machine.prefix,
        one_login=machine.queue != "",
    )


def masters_folder(config: Config) -> Path:
    """Where the sockets of our own masters stand."""
    return config.home / "ssh"


class CommandResult(Record):
    """A command that has ended. `status` is None where a signal ended it; `output` is its last part, without white
    space around it."""

    status: int | None
    output: str
    errors: str


class SSHHost:
    """`target` is `[user@]host[:port]`, `ssh://…` or an alias of `~/.ssh/config`; hints name it `machine`.

    `home` is relative to the login folder, or absolute; `python` is the name of a program there, or a path.
    `config_file` is read instead of `~/.ssh/config`. With `masters`, the folder of our own, a live master is used.
    `prefix`: see `MachineType`. With `one_login`, a command that finds no master opens one, where no key asks anything.
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
        machine: str | None = None,
        prefix: Sequence[str] = (),
        one_login: bool = False,
    ) -> None:
        self.name = target
        self._target = SSHTarget.parse(target, machine)
        self._home = commands.login_relative(home)
        self._python = python if "/" not in python else commands.login_relative(python)
        self._bundle = bundle
        self._config_file = config_file
        self._deadlines = deadlines or Deadlines()
        self._prompts = prompts
        self._masters = masters
        self._prefix = prefix
        self._one_login = one_login
        self._lock = threading.Lock()
        self._connections: list[SSHConnection] = []
        """The newest is used; on those before it the host opens no further session, while what it opened goes on."""

    @property
    def bundle(self) -> AgentBundle:
        return self._bundle or agent_bundle()

    def open(self) -> SSHPipe | MasterPipe:
        """See `Host.open`. It takes one command on the host where the agent is there already."""
        return self._past_a_master(self._open)

    def run(self, words: Sequence[str], seconds: float) -> CommandResult:
        """Run a command in the login folder there, without input, and wait until it ends. Raises what `open` raises,
        and `AgentError` where it takes longer than `seconds`."""
        return self._past_a_master(lambda: self._run(f"cd; exec {commands.command_line(words)}", seconds))

    def fabric(self) -> fabric.Connection:
        """A `fabric.Connection` over the connection of this host, for scripts.

        Fabric alone checks no host keys and honours few ssh settings; this one has all that `open` has. It lives as
        long as this host; do not close it. Raises what `open` raises.
        """
        import fabric
        import paramiko

        with self._lock:
            alive = [connection for connection in self._connections if connection.alive]
            connection = alive[-1] if alive else self._connect(resolve(self._target, self._config_file))
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
        started = self._start()
        if isinstance(started, CommandResult):
            command = commands.install_command(self.bundle, self._home, self._python)
            done = self._run(command, self._deadlines.install, self.bundle.data)
            if done.status != 0:
                raise commands.install_error(self.name, self._home, self._python, done.status, _said(done))
            started = self._start()
        if isinstance(started, CommandResult):
            raise AgentError(
                f"the agent on `{self.name}` ended before it spoke ({commands.ending(started.status)})",
                evidence=_said(started) or None,
                hint=commands.before_the_agent(self.name),
            )
        return started

    def _past_a_master(self, work: Callable[[], T]) -> T:
        """The result of `work`. Where the master refuses a session, the work is done over a connection of our own;
        where no key opens one either, over the master again as soon as one of its sessions has ended. With `one_login`,
        a master that has died is followed by another."""
        try:
            return work()
        except _MasterRefused as refused:
            if self._one_login and "Session open refused" not in str(refused):
                with contextlib.suppress(_MasterRefused):
                    return work()
            kept, self._masters = self._masters, None
            try:
                return work()
            except (AuthenticationError, HostKeyError, HostUnreachable) as error:
                if "Session open refused" not in str(refused):
                    raise
                self._masters, give_up_at = kept, time.monotonic() + _SESSION_SECONDS
                while time.monotonic() < give_up_at:
                    time.sleep(0.25)
                    with contextlib.suppress(_MasterRefused):
                        return work()
                full = f"all sessions of the login's connection to `{self.name}` are in use (sshd's MaxSessions)"
                hint = "^C in a terminal that follows a run there (the run goes on), then the same again"
                raise HostUnreachable(full, evidence=str(refused), hint=hint) from error

    def _start(self) -> SSHPipe | MasterPipe | CommandResult:
        """The pipe to an agent that has spoken; how the command ended, where copying the agent there may help."""
        pipe = self._pipe(commands.start_command(self.bundle, self._home, self._python, self._prefix))
        pipe.give_up_at = time.monotonic() + self._deadlines.start
        try:
            await_agent(pipe)
        except AgentSilent as silent:
            limit = f"speak within {self._deadlines.start:g} s"
            if silent.endless:
                limit = f"start the agent within {KEPT >> 10} KiB of output"
            return self._ended(pipe, silent.heard, limit, goes_on=silent.endless)
        except BaseException:
            pipe.close()
            raise
        pipe.give_up_at = None
        return pipe

    def _run(self, command: str, seconds: float, data: bytes = b"") -> CommandResult:
        pipe = self._pipe(command)
        pipe.give_up_at = time.monotonic() + seconds
        threading.Thread(target=_feed, args=(pipe, data), daemon=True).start()
        output = bytearray()
        try:
            while heard := pipe.read(_READ):
                output += heard
                del output[:-KEPT]
            return self._ended(
                pipe, output.decode("utf-8", "replace").strip(), f"finish a command within {seconds:g} s"
            )
        finally:
            pipe.close()

    def _ended(self, pipe: SSHPipe | MasterPipe, output: str, limit: str, goes_on: bool = False) -> CommandResult:
        """How a program ended, whose output has; closes the pipe. Raises `HostUnreachable` where the link was lost,
        `AgentError` where the program `goes_on`, or was too late: it did not do what `limit` says."""
        goes_on = goes_on or pipe.late
        status = None if goes_on else pipe.exit_status(_EXIT_SECONDS)
        lost = pipe.lost
        done = CommandResult(status, output, pipe.diagnosis())
        said = _said(done)
        pipe.close()
        if isinstance(pipe, MasterPipe) and (pipe.refused or (pipe.late and not said)):
            raise _MasterRefused(said)
        if lost:
            raise HostUnreachable(
                f"the connection to `{self.name}` was lost: {lost}", evidence=said or None, hint="try again"
            )
        if goes_on:
            raise AgentError(
                f"`{self.name}` did not {limit}",
                evidence="\n".join(said.splitlines()[-5:])[-500:] or None,
                hint=commands.before_the_agent(self.name),
            )
        return done

    def _pipe(self, command: str) -> SSHPipe | MasterPipe:
        """Start a command: through a live master, else on the open connection, or on a new one where that is dead, or
        opens no further session. Where no key lets the user in, ssh asks a person, and its connection is used."""
        with self._lock:
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
            try:
                if self._one_login and self._masters is not None:
                    from remoterun.hosts.ssh.login import opened

                    master = masters(settings, self._config_file, self._masters)[0]
                    if opened(master, _IDLE_SECONDS, self._deadlines):
                        return master.start(command)
                connection = self._connect(settings)
            except Unanswered as refused:
                return self._log_in(settings, refused).start(command)
            try:
                return connection.start(command)
            except SessionRefused as refused:
                connection.close()
                raise HostError(
                    f"`{self.name}` accepts the login but runs no command",
                    evidence=str(refused),
                    hint="its sshd (MaxSessions, ForceCommand) or the account's shell forbids it",
                ) from refused

    def _connect(self, settings: SSHSettings) -> SSHConnection:
        from remoterun.hosts.ssh.connection import connect

        connection = connect(settings, self._deadlines, self._prompts)
        self._connections.append(connection)
        return connection

    def _log_in(self, settings: SSHSettings, refused: Unanswered) -> Master:
        """The master that ssh has opened, after it has asked a person. Raises `refused` where nobody can be asked."""
        log_in = self._prompts.log_in
        if log_in is None or self._masters is None or settings.batch_mode:
            raise refused
        master = masters(settings, self._config_file, self._masters)[0]
        log_in(lambda: master.open(_IDLE_SECONDS, batch=False))
        return master


class _MasterRefused(Exception):
    """The master ended, its link is dead, or the host opens no further session on it."""


def _said(done: CommandResult) -> str:
    return "\n".join(part for part in (done.errors, done.output) if part)[-TAIL:]


def _feed(pipe: SSHPipe | MasterPipe, data: bytes) -> None:
    try:
        pipe.write(data)
    except LinkLost:
        return  # the program ended without reading it all; its exit status shows why
    pipe.end_input()
