"""What `user@host` or an alias means: the target as typed, and OpenSSH's settings for it.

The `ssh` program itself resolves them (`ssh -G`, 8 ms, every keyword of `ssh_config`, Include and Match too). Nothing
is connected here.
"""

from __future__ import annotations

import enum
import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remoterun.errors import ConfigError, HostError, UsageError

_DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk", "id_xmss", "id_dsa")


@dataclass(frozen=True)
class Deadlines:
    """How long each step of a connection may take, in seconds."""

    connect: float = 8.0
    """TCP, all addresses together."""
    banner: float = 8.0
    """Until sshd sends its first line."""
    handshake: float = 15.0
    """Key exchange, the banner included."""
    auth: float = 30.0
    """Each key."""
    channel: float = 15.0
    """A channel on an open connection."""
    start: float = 30.0
    """The host's shell, with its start-up files, and the agent's first bytes."""
    install: float = 60.0
    """Copying the agent to the host."""
    silence: float = 10.0
    """Without an answer to a question, before the link counts as dead."""


@dataclass(frozen=True)
class SSHTarget:
    """`[user@]host[:port]` as typed. `host` may be an alias of `~/.ssh/config`; an IPv6 address has no brackets."""

    host: str
    user: str | None = None
    port: int | None = None
    typed: str = field(default="", compare=False)  # the machine's name, or what `parse` was given: for hints

    @classmethod
    def parse(cls, text: str, machine: str | None = None) -> SSHTarget:
        """Understands `user@host:port`, `[v6]:port`, a bare v6 address and `ssh://…`. Raises `UsageError`."""
        rest = text.strip()
        if rest.lower().startswith("ssh://"):
            rest = rest[len("ssh://") :].rstrip("/")
        user, at, host = rest.rpartition("@")
        port = ""
        bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(.*))?", host)
        if bracketed:
            host, port = bracketed[1], bracketed[2] if bracketed[2] is not None else ""
            has_port = bracketed[2] is not None
        else:
            has_port = host.count(":") == 1
            if has_port:
                host, _, port = host.partition(":")
        if not host or host.startswith("-") or re.search(r"[\[\]\s\x00-\x1f\x7f'\"`$\\;&<>|(){}/]", host):
            raise UsageError(
                f"`{text}` is not the name of a machine", hint="write `user@host`, `user@host:port` or an alias"
            )
        if at and (not user or user.startswith("-") or re.search(r"[\s\x00-\x1f\x7f'\"`$;&<>|(){}]", user)):
            raise UsageError(f"`{text}` has no usable user name before the `@`", hint="write `user@host`")
        if has_port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(f"`{text}` has no usable port after the `:`", hint="a port is 1 to 65535")
        return cls(host, user if at else None, int(port) if has_port else None, machine or text)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


class HostKeyCheck(enum.Enum):
    """What to do about a host whose key is not known yet; the values are those that `ssh -G` prints. A changed key is
    refused in any case."""

    REFUSE = "true"
    ASK = "ask"
    ACCEPT_NEW = "accept-new"
    NO = "false"
    """ssh would accept any key, of any machine that answers. It is treated as ASK."""


@dataclass(frozen=True)
class SSHSettings:
    """Everything of `ssh_config` that remoterun acts on, for one target. Paths are absolute, tokens expanded."""

    target: SSHTarget
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_given: bool = False  # by the user's configuration; otherwise they are ssh's defaults
    identities_only: bool = False
    certificate_files: tuple[Path, ...] = ()
    agent_socket: str | None = None
    proxy_command: str | None = None  # for a ProxyJump, the ssh that leads through it
    user_known_hosts: tuple[Path, ...] = ()  # `resolve` gives at least one
    writes_no_known_hosts: bool = False  # the configuration says so, with `/dev/null` or `none`; remoterun does
    global_known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None
    host_key_check: HostKeyCheck = HostKeyCheck.ASK
    hash_known_hosts: bool = False
    batch_mode: bool = False
    connect_timeout: float | None = None
    address_family: socket.AddressFamily = socket.AF_UNSPEC
    control_path: Path | None = None  # the socket of a connection that ssh shares

    @property
    def known_as(self) -> str:
        """The name under which known_hosts files keep this host's key."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        name = self.hostname.lower()
        return name if self.port == 22 else f"[{name}]:{self.port}"


def resolve(target: SSHTarget, config_file: Path | None = None, passed: Sequence[str] = ()) -> SSHSettings:
    """The settings that `ssh` would use. `config_file` is read instead of the user's and the system's (as `ssh -F`);
    `passed` are the jump hosts on the way to here.

    Blocks for some milliseconds (10 s at most). Raises `ConfigError` where the configuration can't be read, `HostError`
    without an `ssh` program.
    """
    words = [program("ssh"), "-T", "-G", *_words(target, config_file)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, env=local_environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"`ssh -G {target.host}` did not answer", evidence=str(error)) from error
    if done.returncode != 0:
        raise ConfigError(
            f"ssh can't read its configuration for `{target}`",
            evidence=done.stderr.decode("utf-8", "replace").strip(),
            hint=f"ssh -G {target.host}",
        )
    options: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), []).append(value.strip())
    return _settings(target, options, config_file, passed)


def program(name: str) -> str:
    """The path of one of OpenSSH's programs. Raises `HostError` where it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise HostError(f"the program `{name}` is not installed here", hint="install OpenSSH's client")
    return path


def local_environment() -> dict[str, str]:
    """The environment for programs started on this machine: ssh's messages in English."""
    return {**os.environ, "LC_ALL": "C"}


def ssh_words(
    target: SSHTarget,
    config_file: Path | None = None,
    command: str = "",
    terminal: bool = False,
    options: Sequence[str] = (),
) -> list[str]:
    """The words that open what `resolve` resolves with the `ssh` program itself: a shell, or a command, which gets a
    `terminal` there: ssh then shows its errors, and does not say that the connection was closed. Raises `HostError`
    without such a program."""
    words = [program("ssh"), *options, *(["-t", "-o", "LogLevel=ERROR"] if command and terminal else [])]
    return [*words, *_words(target, config_file), *([command] if command else [])]


def _words(target: SSHTarget, config_file: Path | None) -> list[str]:
    """How ssh's command line names a target."""
    words = ["-F", str(config_file)] if config_file is not None else []
    if target.user is not None:
        words += ["-l", target.user]
    if target.port is not None:
        words += ["-p", str(target.port)]
    return [*words, "--", target.host]


def _settings(
    target: SSHTarget, options: Mapping[str, Sequence[str]], config_file: Path | None, passed: Sequence[str]
) -> SSHSettings:
    def one(key: str, default: str = "") -> str:
        values = options.get(key) or [default]
        return values[0]

    def flag(key: str) -> bool:
        return one(key).lower() in ("yes", "true")

    port = one("port", "22")
    hostname = one("hostname", target.host).strip("[]")
    tokens = _Tokens(target.host, hostname, port, one("user") or getpass.getuser())
    named = [value for value in options.get("identityfile", ()) if value.lower() != "none"]
    identities = [tokens.path(value) for value in named]
    defaults = [Path.home() / ".ssh" / name for name in _DEFAULT_IDENTITIES]
    given = any(path not in defaults for path in identities)
    control = one("controlpath")
    alias = one("hostkeyalias")
    jumps = one("proxyjump", "none")
    proxy = tokens.expand(one("proxycommand"))
    if jumps.lower() != "none":
        proxy = _through(jumps, f"[{hostname}]:{port}", config_file, passed)
    timeout = one("connecttimeout")
    check = one("stricthostkeychecking", "ask").lower()
    known_hosts = _files(one("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"), tokens)
    used_known_hosts = tuple(file for file in known_hosts if file != Path(os.devnull))
    return SSHSettings(
        target=target,
        hostname=hostname,
        port=int(port) if port.isdigit() else 22,
        user=tokens.user,
        identity_files=tuple(dict.fromkeys(identities)),
        identities_given=given,
        identities_only=flag("identitiesonly"),
        certificate_files=tuple(tokens.path(value) for value in options.get("certificatefile", ())),
        agent_socket=_agent_socket(one("identityagent"), tokens),
        proxy_command=None if proxy.lower() in ("", "none") else proxy,
        user_known_hosts=used_known_hosts or (Path.home() / ".ssh" / "known_hosts",),
        writes_no_known_hosts=not used_known_hosts,
        global_known_hosts=_files(one("globalknownhostsfile", "/etc/ssh/ssh_known_hosts"), tokens),
        host_key_alias=None if alias.lower() in ("", "none") else alias,
        host_key_check=next((each for each in HostKeyCheck if each.value == check), HostKeyCheck.ASK),
        hash_known_hosts=flag("hashknownhosts"),
        batch_mode=flag("batchmode"),
        connect_timeout=float(timeout) if timeout.isdigit() and int(timeout) > 0 else None,
        address_family={"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(
            one("addressfamily").lower(), socket.AF_UNSPEC
        ),
        control_path=None if control.lower() in ("", "none") else Path(control).expanduser(),
    )


def _through(jumps: str, place: str, config_file: Path | None, passed: Sequence[str]) -> str:
    """The command that leads to `place` through a ProxyJump, as ssh itself runs it. Raises `UsageError` for one that
    leads in a circle: ssh would start itself without end."""
    first, (before, _, last) = jumps.partition(",")[0], jumps.rpartition(",")
    if first in passed:
        raise UsageError(f"the ProxyJump of `{first}` leads in a circle", hint="check ~/.ssh/config")
    resolve(SSHTarget.parse(first), config_file, (*passed, first))
    words = ["ssh", *(["-J", before] if before else []), "-W", place]
    return shlex.join([*words, *_words(SSHTarget.parse(last), config_file)])


@dataclass(frozen=True)
class _Tokens:
    """What replaces ssh's `%h` and the other tokens, `~` and `${NAME}`."""

    alias: str
    hostname: str
    port: str
    user: str

    def expand(self, text: str) -> str:
        table = {
            "%": "%",
            "h": self.hostname,
            "n": self.alias,
            "p": self.port,
            "r": self.user,
            "u": getpass.getuser(),
            "d": str(Path.home()),
            "i": str(os.getuid()),
            "k": self.alias,
            "L": socket.gethostname().split(".")[0],
            "l": socket.gethostname(),
        }
        return re.sub(r"%(.)", lambda match: table.get(match[1], match[0]), text)

    def path(self, text: str) -> Path:
        named = re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], ""), self.expand(text.strip('"')))
        return Path(os.path.expanduser(named))


def _agent_socket(value: str, tokens: _Tokens) -> str | None:
    if value.lower() == "none":
        return None
    if value in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK") or None
    if value.startswith("$") and not value.startswith("${"):
        return os.environ.get(value[1:]) or None
    return str(tokens.path(value))


def _files(value: str, tokens: _Tokens) -> tuple[Path, ...]:
    """The files in a value of `ssh -G`, which separates names by a blank and quotes nothing: a name begins with `/` or
    `~`."""
    if value.lower() == "none":
        return ()
    return tuple(tokens.path(name) for name in re.split(r"\s+(?=[/~\"])", value))


def words_of(target: SSHTarget) -> str:
    """The target as ssh's command line takes it."""
    host = f"{target.user}@{target.host}" if target.user else target.host
    return f"-p {target.port} {host}" if target.port else host
