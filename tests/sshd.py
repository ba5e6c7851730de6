"""Real sshds of this user on 127.0.0.1, with keys made here, and `SSHHost`s that reach them; fixtures for tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.protocol import MAGIC
from remoterun.errors import RemoterunError
from remoterun.hosts.base import Prompts
from remoterun.hosts.bundle import AgentBundle
from remoterun.hosts.ssh.host import SSHHost
from tests.conftest import require
from tests.recorder import Recorded
from tests.workshop import own_port, until

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
ME = getpass.getuser()
PATH = "/usr/local/bin:/usr/bin:/bin"
ECHO = """
import os, sys
assert sys.argv[1:3] == ["serve", "--home"], sys.argv
os.write(1, MAGIC)
while True:
    data = os.read(0, 1 << 16)
    if not data:
        break
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
"""


def bundle_of(program: str) -> AgentBundle:
    return AgentBundle({"__main__.py": f"MAGIC = {MAGIC!r}\n{program}".encode()})


def make_key(path: Path, kind: str = "ed25519", *more: str, passphrase: str = "") -> Path:
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path), *more]
    subprocess.run(words, check=True, capture_output=True)
    return path


def public(path: Path) -> str:
    return Path(f"{path}.pub").read_text()


def has_penalties() -> bool:
    """OpenSSH 9.8 and later keep an address out after failed logins, and these tests fail a lot."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    found = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= (9, 8)


@dataclass
class Server:
    """One sshd. Its users' home, its log, and the client's configuration for it stand in `folder`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    client: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def stall(self) -> None:
        """From now on it is silent, to who is connected and to who comes."""
        self._signal(signal.SIGSTOP, [self.process.pid, *self._sessions()])

    def resume(self) -> None:
        """It goes on where it was stalled."""
        self._signal(signal.SIGCONT, [*self._sessions(), self.process.pid])

    def cut(self) -> None:
        """Ends every connection, and takes new ones again."""
        self._signal(signal.SIGKILL, self._sessions())
        self._signal(signal.SIGCONT, [self.process.pid])

    def _signal(self, number: int, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _sessions(self) -> list[int]:
        """The processes of its connections: those that it started, and theirs."""
        found = [self.process.pid]
        for pid in found:
            said = subprocess.run(["pgrep", "-P", str(pid), "sshd"], capture_output=True, text=True).stdout
            found += map(int, said.split())
        return found[1:]

    def count(self, text: str) -> int:
        return self.log.read_text().count(text)

    def config(self, *more: str, port: int | None = None, **changed: str) -> Path:
        """A client configuration with the alias `box` for this server."""
        options = {**self.client, **changed}
        lines = ["Host box", f"Port {port or self.port}"]
        lines += [f"{key} {value}" for key, value in options.items() if value]
        file = self.folder / f"config{len(list(self.folder.glob('config*')))}"
        file.write_text("\n  ".join(lines) + "\n" + "\n".join(more) + "\n")
        return file


@dataclass
class Keys:
    user: Path
    other: Path
    host: Path
    host_rsa: Path


def make_keys(folder: Path) -> Keys:
    """Skips the test where OpenSSH is not installed."""
    require(None if SSHD and shutil.which("ssh-keygen") else "OpenSSH's sshd is not installed")
    return Keys(
        make_key(folder / "user"),
        make_key(folder / "other"),
        make_key(folder / "host"),
        make_key(folder / "host_rsa", "rsa", "-b", "2048"),
    )


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


Start = Callable[..., Server]


def starter(root: Path, keys: Keys, stack: contextlib.ExitStack) -> Start:
    """A function that starts an sshd with folders in `root`; `stack` ends it."""

    def start(
        *options: str,
        host_keys: tuple[Path, ...] = (),
        authorized: str = "",
        env: str = "",
        path: str = PATH,
        address: str = "127.0.0.1",
    ) -> Server:
        folder = root / f"sshd{len(list(root.iterdir()))}"
        (folder / "home").mkdir(parents=True)
        (folder / "authorized_keys").write_text(authorized or public(keys.user))
        port = stack.enter_context(own_port(address))
        shown = host_keys or (keys.host,)
        lines = [
            *options,
            f"Port {port}",
            f"ListenAddress {address}",
            *(f"HostKey {key}" for key in shown),
            f"AuthorizedKeysFile {folder}/authorized_keys",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "LogLevel VERBOSE",
            *(["PerSourcePenalties no"] if has_penalties() else []),
            f"SetEnv HOME={folder}/home PATH={path} {env}",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = folder / "log"
        log.touch()
        process = subprocess.Popen([str(SSHD), "-D", "-f", f"{folder}/sshd_config", "-E", str(log)])
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        until(lambda: process.poll() is not None or "Server listening" in log.read_text(), what=log.read_text)
        assert process.poll() is None, log.read_text()
        server = Server(folder, port, process, log)
        stack.callback(server.cut)
        server.known_hosts.write_text(f"[127.0.0.1]:{port} {public(shown[0])}")
        server.client = {
            "HostName": "127.0.0.1",
            "User": ME,
            "IdentityFile": str(keys.user),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(server.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
        }
        return server

    return start


@pytest.fixture
def start(tmp_path: Path, keys: Keys) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        yield starter(tmp_path, keys, stack)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        yield starter(tmp_path_factory.mktemp("shared"), keys, stack)()


Open = Callable[..., SSHHost]


@pytest.fixture
def reach() -> Iterator[Open]:
    """`reach(server, config)`: a host for a server, with the options of `SSHHost` and `Prompts`; closed at the end."""
    hosts: list[SSHHost] = []

    def make(server: Server, config: Path | None = None, **options: Any) -> SSHHost:
        options.setdefault("bundle", bundle_of(ECHO))
        asked = ("confirm_host_key", "log_in")
        options["prompts"] = Prompts(**{name: options.pop(name) for name in asked if name in options})
        target = str(options.pop("target", "box"))
        host = SSHHost(target, config_file=config or server.config(), **options)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


Refused = Callable[..., None]


@pytest.fixture
def refused(reach: Open, keys: Keys, recorded: Recorded) -> Refused:
    """`refused(server, config)`: that such a host can't be opened. What its user reads of it is recorded."""
    for name in ("user", "other", "host", "host_rsa"):
        recorded.mark(fingerprint(getattr(keys, name)), f"print of {name}")

    def fail(server: Server, config: Path | None = None, name: str = "", **options: Any) -> None:
        config = config or server.config()
        recorded.mark(f"<tmp>/{server.folder.name}/{config.name}", "config")
        recorded.mark(server.port, "port")
        recorded.mark(ME, "me")
        with recorded.raises(RemoterunError, name):
            reach(server, config, **options).open()

    return fail


def fingerprint(key: Path) -> str:
    said = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


def says(host: SSHHost, text: bytes = b"ping") -> bytes:
    """Open, send, read the same back."""
    pipe = host.open()
    pipe.write(text)
    back = b""
    while len(back) < len(text):
        data = pipe.read(1 << 20)
        if not data:
            break
        back += data
    pipe.close()
    return back


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`agent(key, …)` starts an ssh-agent that holds these keys and gives its socket."""
    started: list[int] = []

    def start(*held: Path) -> str:
        path = tmp_path / f"agent{len(started)}"
        said = subprocess.run(["ssh-agent", "-s", "-a", str(path)], check=True, capture_output=True, text=True)
        found = re.search(r"SSH_AGENT_PID=(\d+)", said.stdout)
        assert found
        started.append(int(found[1]))
        for key in held:
            subprocess.run(
                ["ssh-add", "-q", str(key)],
                check=True,
                capture_output=True,
                env={**os.environ, "SSH_AUTH_SOCK": str(path)},
            )
        return str(path)

    yield start
    for pid in started:
        os.kill(pid, signal.SIGTERM)
