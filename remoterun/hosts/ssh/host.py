"""A machine reached over SSH: the agent is started there, and copied there the first time.

    SSHHost ── SSHConnection (kept for the whole command) ── SSHPipe: one channel, one agent

The warm path is one command on the host: start the agent. Only where it does not speak, a second one looks
for the reason and brings the agent; then the first is tried again.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from remoterun.errors import AgentError, HostError, HostUnreachable, LinkLost, UsageError
from remoterun.hosts.base import AgentSilent, await_agent
from remoterun.hosts.bundle import FLAGS, AgentBundle, agent_bundle
from remoterun.hosts.ssh.config import SSHTarget, resolve
from remoterun.hosts.ssh.connection import Access, SessionRefused, SSHConnection, close_quietly, connect
from remoterun.hosts.ssh.inbox import Inbox
from remoterun.hosts.ssh.keys import AskPassphrase
from remoterun.hosts.ssh.known_hosts import UnknownHostKey
from remoterun.hosts.ssh.packets import DATA, ChannelData, Packetizer
from remoterun.hosts.ssh.wire import Deadlines

if TYPE_CHECKING:
    import fabric

__all__ = ["Deadlines", "ProbeResult", "SSHHost", "SSHPipe", "UnknownHostKey"]

_SHORT = 4096
_READ = 1 << 20
_POLL = 0.5
_TAIL = 4096
_PROBE_LIMIT = 8 << 20
_MARK = b"remoterun-output-follows"

# Receives the agent on standard input. One line without quotes, backslashes or exclamation marks, because it
# stands in the command line of whatever shell the user logs in with. $1 folder, $2 file, $3 size, $4 python.
_INSTALL = (
    "umask 077; LC_ALL=C; export LC_ALL; "
    'command -v "$4" >/dev/null 2>&1 || exit 71; '
    '"$4" -c "import sys; sys.exit(72 if sys.version_info < (3, 8) else 0)" </dev/null; s=$?; '
    'if [ $s -eq 72 ]; then "$4" -V </dev/null; exit 72; fi; [ $s -eq 0 ] || exit 73; '
    f'"$4" {" ".join(FLAGS)} -c "import hashlib, json" </dev/null || exit 73; '
    'mkdir -p "$1" && [ -w "$1" ] || exit 74; '
    't="$1/.$2.$$"; c() { rm -f "$t"; }; trap c EXIT; trap "exit 76" HUP INT TERM; '
    'cat >"$t" || exit 75; '
    '[ $(wc -c <"$t") -eq "$3" ] || exit 76; '
    'mv -f "$t" "$1/$2" || exit 75'
)


@dataclass(frozen=True)
class ProbeResult:
    """`status` is the command's exit status; None when a signal ended it."""

    status: int | None
    stdout: bytes
    stderr: bytes


class SSHHost:
    """`target` is `[user@]host[:port]`, `ssh://…` or an alias of `~/.ssh/config`.

    `home` is relative to the login folder, or absolute; `python` a name or a path there. `confirm` is asked
    about a host key seen for the first time, `ask_passphrase` for the passphrase of a key file,
    `ask_password` for what else a host asks; with None nobody is asked, and the answer is no. `config_file`
    stands for `~/.ssh/config`.
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
        confirm: Callable[[UnknownHostKey], bool] | None = None,
        ask_passphrase: AskPassphrase | None = None,
        ask_password: Callable[[str], str | None] | None = None,
    ) -> None:
        self._typed = target
        self._target = SSHTarget.parse(target)
        self._home = login_relative(home)
        self._python = python if "/" not in python else login_relative(python)
        self._bundle = bundle
        self._deadlines = deadlines or Deadlines()
        self._access = Access(
            deadlines=self._deadlines,
            config_file=config_file,
            confirm=confirm,
            ask_password=ask_password,
            ask_passphrase=ask_passphrase,
        )
        self._lock = threading.Lock()
        self._connection: SSHConnection | None = None
        self._crowded: list[SSHConnection] = []

    @property
    def name(self) -> str:
        return self._typed

    @property
    def bundle(self) -> AgentBundle:
        return self._bundle or agent_bundle()

    def open(self) -> SSHPipe:
        """See `Host.open`. One command on the host where the agent is there already."""
        try:
            return self._start()
        except _NotStarted:
            self._install()
        try:
            return self._start()
        except _NotStarted as silent:
            raise AgentError(
                f"the agent on `{self.name}` ended before it spoke ({_ending(silent.status)})",
                evidence=silent.evidence or None,
                hint=f"`remoterun doctor {self.name}` looks for the reason",
            ) from silent

    def run_probe(self, argv: Sequence[str], input: bytes = b"", timeout: float = 20.0) -> ProbeResult:
        """Run one command there, without the agent or python. At most 8 MB of each output are kept.

        What start-up files print before it is dropped. Raises what `open` raises, and `HostUnreachable` where
        the command does not end in time.
        """
        command = f"cd; echo {_MARK.decode()}; exec {command_line(argv)}"
        result = self._run(command, input, timeout)
        _, mark, rest = result.stdout.partition(_MARK + b"\n")
        return ProbeResult(result.status, rest if mark else result.stdout, result.stderr)

    def fabric(self) -> fabric.Connection:
        """A `fabric.Connection` over the connection that is kept here, for scripts.

        Fabric alone checks no host keys and honours few ssh settings; this one has all that `open` has. It lives as
        long as this host; do not close it. Raises what `open` raises.
        """
        import fabric

        with self._lock:
            if self._connection is None or not self._connection.alive:
                self._connection = connect(resolve(self._target, self._access.config_file), self._access)
            connection = self._connection
        settings = connection.settings
        made = fabric.Connection(
            host=settings.hostname,
            user=settings.user,
            port=settings.port,
            config=fabric.Config(ssh_config=paramiko.SSHConfig()),
        )
        made.client._transport = connection.transport
        made.transport = connection.transport
        return made

    def close(self) -> None:
        with self._lock:
            held = [*self._crowded, *([self._connection] if self._connection else [])]
            self._connection = None
            self._crowded.clear()
        for connection in held:
            connection.close()

    def _start(self) -> SSHPipe:
        words = [self._python, *FLAGS, f"{self._home}/agent/{self.bundle.file_name}", "serve", "--home", self._home]
        pipe = self._pipe(f"cd; exec {command_line(words)}")
        pipe.give_up_at = time.monotonic() + self._deadlines.start
        try:
            await_agent(pipe)
        except AgentSilent as silent:
            raise self._silence(pipe, silent.heard) from silent
        except BaseException:
            pipe.close()
            raise
        pipe.give_up_at = None
        return pipe

    def _silence(self, pipe: SSHPipe, heard: str) -> Exception:
        """Why the agent said nothing: `_NotStarted` where bringing it there may help."""
        late = pipe.late
        status = None if late else pipe.exit_status(5.0)
        lost = pipe.lost
        said = "\n".join(part for part in (heard, pipe.diagnosis()) if part)
        pipe.close()
        if lost:
            return HostUnreachable(
                f"the connection to `{self.name}` was lost while the agent started: {lost}",
                evidence=said or None,
                hint="try again",
            )
        if late:
            return AgentError(
                f"the agent on `{self.name}` did not speak within {self._deadlines.start:g} s",
                evidence=said or None,
                hint=f"does a start-up file there wait for something? `time ssh {self.name} true`",
            )
        return _NotStarted(status, said)

    def _install(self) -> None:
        bundle = self.bundle
        words = ["sh", "-c", _INSTALL, "sh", f"{self._home}/agent", bundle.file_name]
        words += [str(len(bundle.data)), self._python]
        done = self._run(f"cd; exec {command_line(words)}", bundle.data, self._deadlines.install)
        if done.status == 0:
            return
        said = (done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")).strip()
        evidence = said[-_TAIL:] or None
        name, python, home = self.name, self._python, self._home
        another = f'name one with `python = "…"` for `{name}` in the config'
        if done.status == 71:
            raise AgentError(
                f"`{name}` has no `{python}`, which the agent needs",
                evidence=evidence,
                hint=f"on that machine: sudo apt install python3; or {another}",
            )
        if done.status == 72:
            raise AgentError(
                f"`{python}` on `{name}` is too old: the agent needs Python 3.8",
                evidence=evidence,
                hint=f"on that machine: sudo apt install python3; or {another}",
            )
        if done.status == 73:
            raise AgentError(f"`{python}` on `{name}` does not work", evidence=evidence, hint=another)
        full = re.search(r"No space left|[Qq]uota exceeded", said)
        if full:
            raise AgentError(
                f"the disk of `{name}` is full: there is no room for the agent in `{home}`",
                evidence=evidence,
                hint=f"ssh {name} df -h",
            )
        if done.status == 74:
            raise AgentError(
                f"`{home}` on `{name}` can't be written",
                evidence=evidence,
                hint=f'choose another folder with `home = "…"` for `{name}` in the config',
            )
        raise AgentError(
            f"the agent could not be copied to `{name}` ({_ending(done.status)})",
            evidence=evidence,
            hint=f"does that account run commands? `ssh {name} sh -c true`",
        )

    def _run(self, command: str, input: bytes, timeout: float) -> ProbeResult:
        pipe = self._pipe(command)
        pipe.give_up_at = time.monotonic() + timeout
        feeder = threading.Thread(target=_feed, args=(pipe, input), daemon=True)
        feeder.start()
        output = bytearray()
        try:
            while data := pipe.read(_READ):
                output += data[: max(0, _PROBE_LIMIT - len(output))]
            status = None if pipe.late else pipe.exit_status(5.0)
            if pipe.lost:
                raise HostUnreachable(f"the connection to `{self.name}` was lost: {pipe.lost}", hint="try again")
            if pipe.late:
                raise HostUnreachable(
                    f"`{self.name}` did not finish a command within {timeout:g} s",
                    evidence=pipe.diagnosis() or bytes(output[-_TAIL:]).decode("utf-8", "replace") or None,
                    hint=f"does a start-up file there wait for something? `time ssh {self.name} true`",
                )
            return ProbeResult(status, bytes(output), pipe.errors())
        finally:
            pipe.close()

    def _pipe(self, command: str) -> SSHPipe:
        """A channel on the kept connection; on a new one where that is dead, or has no session left to
        give."""
        with self._lock:
            connection = self._connection
            if connection is not None and connection.alive:
                try:
                    return SSHPipe(connection.session(command), connection)
                except SessionRefused:
                    self._crowded.append(connection)
                except HostUnreachable:
                    pass
            self._crowded = [held for held in self._crowded if held.alive]
            self._connection = None
            connection = connect(resolve(self._target, self._access.config_file), self._access)
            try:
                channel = connection.session(command)
            except SessionRefused as refused:
                connection.close()
                raise HostError(
                    f"`{self.name}` lets you in but runs nothing for you",
                    evidence=str(refused),
                    hint="its sshd (MaxSessions, ForceCommand) or the account's shell forbids it",
                ) from refused
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            return SSHPipe(channel, connection)


class SSHPipe:
    """One exec channel. See `Pipe`. `give_up_at` (monotonic) ends a read that is still without data then."""

    def __init__(self, channel: paramiko.Channel, connection: SSHConnection) -> None:
        self._channel = channel
        self._connection = connection
        self._kept = memoryview(b"")
        self._errors = bytearray()
        self._closing = threading.Lock()
        self._closed = False
        self.give_up_at: float | None = None
        self.late = False
        self._packetizer: Packetizer = channel.transport.packetizer
        channel.settimeout(_POLL)

    @property
    def round_trip(self) -> float:
        return self._connection.round_trip

    @property
    def lost(self) -> str:
        """Why the link broke; "" where it didn't, so that an end of the stream is the program's own."""
        if self._connection.alive or self._closed:
            return ""
        return self._connection.lost or "closed"

    def read(self, limit: int) -> bytes:
        if not self._kept:
            self._kept = memoryview(self._receive())
        data = bytes(self._kept[:limit])
        self._kept = self._kept[limit:]
        return data

    def pump(self, taker: Callable[[memoryview], None]) -> None:
        inbox: Inbox = self._channel.in_buffer

        def take(data: memoryview) -> None:
            taker(data)
            self._was_read(len(data))

        kept, self._kept = self._kept, memoryview(b"")
        if kept:
            taker(kept)
        self._packetizer.give_data(self._channel.chanid, inbox.feed)
        try:
            inbox.give(take)
            while not inbox.wait(_POLL):
                self._collect_errors()
        finally:
            self._packetizer.give_data(self._channel.chanid, None)
        if inbox.failure is not None:
            raise inbox.failure

    def _was_read(self, size: int) -> None:
        """So much of the window is free again."""
        grant = self._channel._check_add_window(size)
        if grant:
            with contextlib.suppress(OSError, EOFError):  # the end of the link shows itself
                self._packetizer.grant(self._channel.remote_chanid, grant)

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        if len(views) > 1 and len(views[0]) < _SHORT:  # a frame's head, in one packet with what follows
            views = [memoryview(b"".join(views))]
        for view in views:
            while view:
                view = view[self._send(view) :]

    def _send(self, data: memoryview) -> int:
        """Bytes that were sent; 0 if there is no room yet."""
        try:
            sizes = self._window(len(data))
            if sizes:
                self._channel.transport._send_user_message(ChannelData(self._channel.remote_chanid, data, sizes))
        except TimeoutError:
            if self._connection.alive and not self._closed:
                return 0
            sizes = []
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken() from error
        if not sizes or not self._connection.alive:
            raise self._broken()
        return sum(sizes)

    def _window(self, size: int) -> list[int]:
        """Packets' sizes, together `size` or what the other side lets us send now; none when it takes no more.

        Blocks while there is no room at all, `TimeoutError` after half a second.
        """
        channel = self._channel
        sizes: list[int] = []
        with channel.lock:
            while size and (channel.out_window_size or not sizes):
                granted = channel._wait_for_send_window(min(size, DATA))
                if not granted:
                    break
                sizes.append(granted)
                size -= granted
        return sizes

    def end_input(self) -> None:
        """Nothing more will be written; what was read still comes."""
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # wakes the reader at once; telling the host may have to wait for a link that stands still
        teller = threading.Thread(target=close_quietly, args=(self._channel,), daemon=True)
        teller.start()
        teller.join(1.0)

    def diagnosis(self) -> str:
        self._collect_errors()
        text = bytes(self._errors[-_TAIL:]).decode("utf-8", "replace").strip()
        lost = self.lost
        return "\n".join(part for part in (text, f"the link broke: {lost}" if lost else "") if part)

    def errors(self) -> bytes:
        """All of the program's standard error so far, at most 8 MB."""
        self._collect_errors()
        return bytes(self._errors)

    def exit_status(self, patience: float) -> int | None:
        """The program's status once it has ended; None where a signal ended it, or it does not end in
        time."""
        self._channel.status_event.wait(patience)
        status = self._channel.exit_status
        self._collect_errors()
        return None if status < 0 else int(status)

    def _receive(self) -> bytes:
        while True:
            if self._closed:
                return b""
            try:
                data = self._channel.recv(_READ)
            except TimeoutError:
                self._collect_errors()
                if self.give_up_at is not None and time.monotonic() > self.give_up_at:
                    self.late = True
                    return b""
                continue
            except (OSError, EOFError, paramiko.SSHException):
                data = b""
            self._collect_errors()
            return bytes(data)

    def _collect_errors(self) -> None:
        """The error stream shares the channel's window: left alone it would stop the other one."""
        try:
            while self._channel.recv_stderr_ready():
                data = self._channel.recv_stderr(_READ)
                if not data:
                    return
                self._errors += data
                if len(self._errors) > _PROBE_LIMIT:
                    del self._errors[:-_TAIL]
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def _broken(self) -> LinkLost:
        why = self.lost or ("the pipe was closed" if self._closed else "the program there has ended")
        return LinkLost(
            f"the link to `{self._connection.settings.target}` broke: {why}",
            evidence=self.diagnosis() or None,
        )


class _NotStarted(Exception):
    def __init__(self, status: int | None, evidence: str) -> None:
        super().__init__(evidence)
        self.status = status
        self.evidence = evidence


def command_line(words: Sequence[str]) -> str:
    """Words as one command line that sh, bash, zsh, fish, csh and tcsh all take apart into the same words.

    Raises `UsageError` for a word with a line break, which csh can't quote, or a zero byte.
    """
    return " ".join(map(_quoted, words))


def login_relative(path: str) -> str:
    """A path on the host as a command that starts in the login folder names it: without `~/`. Raises
    `UsageError`."""
    if path in ("~", "", ".", "~/"):
        raise UsageError(f"`{path}` is no path for this", hint="write `~/.remoterun`, or an absolute path")
    if path.startswith("~/"):
        path = path[2:].lstrip("/")
    elif path.startswith("~"):
        raise UsageError(f"`{path}`: only `~/` is understood", hint="write an absolute path")
    return f"./{path}" if path.startswith("-") else path.rstrip("/") or "/"


def _quoted(word: str) -> str:
    if re.search(r"[\0\n\r]", word):
        raise UsageError(f"{word!r} can't stand in a remote command: it has a line break")
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,-]+", word):
        return word
    pieces = re.split(r"(['\\!])", word)  # these mean something even between quotes, in one shell or another
    quoted = [f"\\{piece}" if piece in ("'", "\\", "!") else f"'{piece}'" for piece in pieces if piece]
    return "".join(quoted) or "''"


def _feed(pipe: SSHPipe, data: bytes) -> None:
    try:
        pipe.write(data)
    except LinkLost:
        return  # the program ended without reading it all; its status tells
    pipe.end_input()


def _ending(status: int | None) -> str:
    return "ended by a signal" if status is None else f"exit status {status}"
