"""`SSHHost` against real sshds of this user on 127.0.0.1, with keys made here."""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from remoterun.agent.shared.protocol import MAGIC
from remoterun.errors import AgentError, AuthenticationError, HostError, HostKeyError, HostUnreachable, LinkLost
from remoterun.hosts.bundle import AgentBundle
from remoterun.hosts.ssh.host import Deadlines, SSHHost, UnknownHostKey
from tests.conftest import require

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
pytestmark = pytest.mark.timeout(60)

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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), f"MAGIC = {MAGIC!r}\n{program}")
    data = buffer.getvalue()
    return AgentBundle(hashlib.sha256(data).hexdigest()[:16], data)


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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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


@pytest.fixture(scope="module", autouse=True)
def _openssh() -> None:
    require(None if SSHD and shutil.which("ssh-keygen") else "OpenSSH's sshd is not installed")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    return Keys(
        make_key(folder / "user"),
        make_key(folder / "other"),
        make_key(folder / "host"),
        make_key(folder / "host_rsa", "rsa", "-b", "2048"),
    )


Start = Callable[..., Server]


def _starter(root: Path, keys: Keys, stack: contextlib.ExitStack) -> Start:
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
        port = free_port()
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
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        until = time.monotonic() + 10
        while "Server listening" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.01)
        server = Server(folder, port, process, log)
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
        yield _starter(tmp_path, keys, stack)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        yield _starter(tmp_path_factory.mktemp("shared"), keys, stack)()


Open = Callable[..., SSHHost]


@pytest.fixture
def reach() -> Iterator[Open]:
    """A host for a server; closed at the end."""
    hosts: list[SSHHost] = []

    def make(server: Server, config: Path | None = None, **options: object) -> SSHHost:
        options.setdefault("bundle", bundle_of(ECHO))
        target = str(options.pop("target", "box"))
        host = SSHHost(target, config_file=config or server.config(), **options)  # type: ignore[arg-type]
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


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


class Relay:
    """A TCP relay that can stop forwarding, with its connections open, or cut them."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flow = threading.Event()
        self._flow.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        self._flow.clear()

    def cut(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._flow.set()

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.cut()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flow.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    made = Relay(server.port)
    yield made
    made.close()


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


class TestStart:
    def test_the_agent_is_brought_once_and_then_started_with_one_command(self, start: Start, reach: Open) -> None:
        server = start()
        assert says(reach(server)) == b"ping"
        first = server.count("Starting session: command")
        installed = server.home / ".remoterun" / "agent" / bundle_of(ECHO).file_name
        assert installed.read_bytes() == bundle_of(ECHO).data
        assert stat.S_IMODE(installed.stat().st_mode) == 0o600
        assert stat.S_IMODE((server.home / ".remoterun").stat().st_mode) == 0o700
        assert [entry.name for entry in installed.parent.iterdir()] == [installed.name]
        assert says(reach(server)) == b"ping"
        assert (first, server.count("Starting session: command")) == (3, 4)

    def test_a_second_pipe_takes_the_same_connection(self, server: Server, reach: Open) -> None:
        host = reach(server)
        one = host.open()
        before = server.count("Accepted publickey")
        two = host.open()
        one.write(b"1")
        two.write(b"2")
        assert (two.read(10), one.read(10)) == (b"2", b"1")
        assert server.count("Accepted publickey") == before

    @pytest.mark.parametrize("home", ["~/other place/it's!", "deep/er", "ABSOLUTE"])
    def test_the_home_is_where_it_was_asked_for(self, start: Start, reach: Open, home: str) -> None:
        server = start()
        given = home if home != "ABSOLUTE" else f"{server.home}/abs\\olute"
        assert says(reach(server, home=given)) == b"ping"
        place = Path(given.replace("~", str(server.home))) if given.startswith("~") else server.home / given
        assert (place / "agent" / bundle_of(ECHO).file_name).exists()

    def test_noise_of_start_up_files_and_another_working_folder(self, start: Start, reach: Open) -> None:
        server = start()
        (server.home / ".bashrc").write_text(
            "echo welcome; printf 'no newline'; echo oops >&2; head -c 20000 /dev/zero; cd /\n"
        )
        host = reach(server)
        assert says(host) == b"ping"
        assert (server.home / ".remoterun" / "agent").is_dir()
        assert host.run_probe(["pwd"]).stdout.strip().decode() == str(server.home)

    def test_a_slow_start_is_waited_for(self, start: Start, reach: Open) -> None:
        server = start()
        (server.home / ".bashrc").write_text("sleep 0.6\n")
        assert says(reach(server)) == b"ping"

    def test_a_start_that_takes_too_long_is_an_error(self, start: Start, reach: Open) -> None:
        server = start()
        (server.home / ".bashrc").write_text("echo waiting for godot >&2; sleep 20\n")
        began = time.monotonic()
        with pytest.raises(AgentError, match="did not speak within 1 s") as caught:
            reach(server, deadlines=Deadlines(start=1)).open()
        assert time.monotonic() - began < 5
        assert "godot" in (caught.value.evidence or "")

    def test_a_damaged_agent_is_replaced(self, start: Start, reach: Open) -> None:
        server = start()
        assert says(reach(server)) == b"ping"
        installed = server.home / ".remoterun" / "agent" / bundle_of(ECHO).file_name
        installed.write_bytes(b"")
        assert says(reach(server)) == b"ping"

    def test_an_agent_that_fails_shows_its_last_words(self, server: Server, reach: Open) -> None:
        broken = bundle_of("raise SystemExit('the moon is wrong')")
        with pytest.raises(AgentError, match="exit status 1") as caught:
            reach(server, bundle=broken).open()
        assert "the moon is wrong" in (caught.value.evidence or "")

    def test_no_python(self, start: Start, reach: Open) -> None:
        server = start(path=str(self._tools(start().folder)))
        host = reach(server)
        with pytest.raises(AgentError, match="has no `python3`") as caught:
            host.open()
        assert "apt install python3" in (caught.value.hint or "")
        assert host.run_probe(["uname"]).status == 0
        assert says(reach(server, python=sys.executable)) == b"ping"

    def test_an_old_python(self, start: Start, reach: Open) -> None:
        tools = self._tools(start().folder)
        old = tools / "python3"
        old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.6.9\n[ "$1" = -c ] && exit 72\nexit 1\n')
        old.chmod(0o755)
        with pytest.raises(AgentError, match="too old") as caught:
            reach(start(path=str(tools))).open()
        assert "Python 3.6.9" in (caught.value.evidence or "")

    def test_a_home_that_cannot_be_written(self, server: Server, reach: Open) -> None:
        with pytest.raises(AgentError, match="can't be written") as caught:
            reach(server, home="/proc/remoterun").open()
        assert "/proc/remoterun" in (caught.value.evidence or "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is made by root only")
    def test_a_full_disk(self, server: Server, reach: Open, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "small", str(disk)], check=True)
        try:
            big = bundle_of(f"# {os.urandom(50_000).hex()}\n{ECHO}")
            with pytest.raises(AgentError, match="disk of `box` is full") as caught:
                reach(server, bundle=big, home=f"{disk}/home").open()
            assert "No space left" in (caught.value.evidence or "")
            assert list((disk / "home" / "agent").iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_an_account_without_a_shell(self, start: Start, reach: Open) -> None:
        with pytest.raises(AgentError, match="could not be copied") as caught:
            reach(start("ForceCommand echo This service allows sftp connections only.; exit 1")).open()
        assert "sftp connections only" in (caught.value.evidence or "")

    @staticmethod
    def _tools(folder: Path) -> Path:
        tools = folder / "tools"
        tools.mkdir()
        for name in ("sh", "mkdir", "cat", "wc", "mv", "rm", "uname"):
            (tools / name).symlink_to(str(shutil.which(name, path=PATH)))
        return tools


class TestPipe:
    def test_50_megabytes_both_ways(self, server: Server, reach: Open) -> None:
        data = os.urandom(50_000_000)
        pipe = reach(server).open()
        writer = threading.Thread(target=pipe.write, args=(data,))
        writer.start()
        back = bytearray()
        while len(back) < len(data):
            piece = pipe.read(1 << 20)
            assert 0 < len(piece) <= 1 << 20
            back += piece
        writer.join()
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()

    @pytest.mark.parametrize(
        "options", [(), ("RekeyLimit 3M",), ("Ciphers aes128-ctr",), ("Ciphers aes256-ctr", "RekeyLimit 3M")]
    )
    @pytest.mark.parametrize("ours", [1 << 36, 5 << 20])
    def test_pumped_both_ways(self, start: Start, reach: Open, options: tuple[str, ...], ours: int) -> None:
        """With keys that sshd, or we, exchange again in the midst; and with a cipher that is paramiko's matter."""
        data = os.urandom(40_000_000)
        host = reach(start(*options))
        pipe = host.open()
        connection = host._connection
        assert connection is not None
        connection.transport.packetizer.REKEY_BYTES = ours
        back = bytearray()
        done = threading.Event()

        def take(piece: memoryview) -> None:
            back.extend(piece)
            if len(back) >= len(data):
                done.set()

        reader = threading.Thread(target=pipe.pump, args=(take,))
        reader.start()
        for at in range(0, len(data), 1_000_000):
            pipe.write(b"", data[at : at + 10], data[at + 10 : at + 1_000_000])
        assert done.wait(30)
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
        pipe.close()
        reader.join(10)
        assert not reader.is_alive()

    def test_a_taker_that_refuses(self, server: Server, reach: Open) -> None:
        pipe = reach(server).open()
        pipe.write(b"something")

        def take(piece: memoryview) -> None:
            raise ValueError("not this")

        with pytest.raises(ValueError, match="not this"):
            pipe.pump(take)
        assert says(reach(server)) == b"ping"
        pipe.close()

    def test_what_the_agent_says_on_its_error_channel_blocks_nothing(self, server: Server, reach: Open) -> None:
        program = f"{ECHO.split('while')[0]}\nos.read(0, 1)\nsys.stderr.write('e' * 5_000_000 + 'last words')\n"
        pipe = reach(server, bundle=bundle_of(program + "os.write(1, b'done')")).open()
        pipe.write(b"go")
        assert pipe.read(10) == b"done"
        assert pipe.read(10) == b""
        assert pipe.diagnosis().endswith("elast words")
        assert len(pipe.diagnosis()) <= 4096

    def test_close_from_another_thread_wakes_a_reader(self, server: Server, reach: Open) -> None:
        pipe = reach(server).open()
        threading.Timer(0.2, pipe.close).start()
        began = time.monotonic()
        assert pipe.read(10) == b""
        assert time.monotonic() - began < 1
        pipe.close()
        with pytest.raises(LinkLost):
            pipe.write(b"too late")

    def test_closing_the_host_wakes_a_reader(self, server: Server, reach: Open) -> None:
        host = reach(server)
        pipe = host.open()
        threading.Timer(0.2, host.close).start()
        began = time.monotonic()
        assert pipe.read(10) == b""
        assert time.monotonic() - began < 1
        host.close()
        assert says(host) == b"ping"

    def test_close_ends_the_agent(self, server: Server, reach: Open, tmp_path: Path) -> None:
        mark = tmp_path / "ended"
        host = reach(server, bundle=bundle_of(f"{ECHO}\nopen({str(mark)!r}, 'w').close()"))
        host.open().close()
        until = time.monotonic() + 5
        while not mark.exists():
            assert time.monotonic() < until
            time.sleep(0.02)

    def test_an_agent_that_ends(self, server: Server, reach: Open) -> None:
        pipe = reach(server, bundle=bundle_of("import os; os.write(1, MAGIC)")).open()
        assert pipe.read(10) == b""
        with pytest.raises(LinkLost, match="has ended"):
            for _ in range(100):
                pipe.write(bytes(100_000))


class TestLostLink:
    def test_a_cut_ends_the_read_and_open_works_again(self, server: Server, reach: Open, relay: Relay) -> None:
        host = reach(server, server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}"))
        pipe = host.open()
        threading.Timer(0.1, relay.cut).start()
        assert pipe.read(10) == b""
        assert "closed by the other end" in pipe.diagnosis()
        with pytest.raises(LinkLost):
            pipe.write(b"x")
        assert says(host) == b"ping"

    def test_a_peer_that_falls_silent_is_noticed_by_a_reader(self, server: Server, reach: Open, relay: Relay) -> None:
        config = server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        pipe = reach(server, config, deadlines=Deadlines(silence=1)).open()
        time.sleep(1.8)  # a quiet link is not a dead one: the host answers the pings
        pipe.write(b"still here")
        assert pipe.read(10) == b"still here"
        relay.stall()
        began = time.monotonic()
        assert pipe.read(10) == b""
        assert 0.5 < time.monotonic() - began < 5
        assert "no answer" in pipe.diagnosis()

    def test_a_peer_that_falls_silent_is_noticed_by_a_writer(self, server: Server, reach: Open, relay: Relay) -> None:
        config = server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        pipe = reach(server, config, deadlines=Deadlines(silence=1)).open()
        relay.stall()
        began = time.monotonic()
        with pytest.raises(LinkLost):
            for _ in range(1000):
                pipe.write(bytes(1 << 20))
        assert time.monotonic() - began < 6

    def test_a_peer_that_falls_silent_is_replaced_by_the_next_open(
        self, server: Server, reach: Open, relay: Relay
    ) -> None:
        config = server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        host = reach(server, config, deadlines=Deadlines(silence=1, banner=0.5))
        pipe = host.open()
        relay.stall()
        began = time.monotonic()
        with pytest.raises(HostUnreachable, match="says nothing"):
            host.open()  # the old connection is given up; the new one meets the same silence
        assert time.monotonic() - began < 5
        assert pipe.read(1) == b""

    def test_a_peer_that_falls_silent_while_the_agent_starts(self, start: Start, reach: Open) -> None:
        server = start()
        (server.home / ".bashrc").write_text("sleep 10\n")
        relay = Relay(server.port)
        config = server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        threading.Timer(0.5, relay.stall).start()
        with pytest.raises(HostUnreachable, match="lost while the agent started: no answer"):
            reach(server, config, deadlines=Deadlines(silence=1)).open()
        relay.close()

    def test_the_program_ends_at_once_and_quietly(self, server: Server, relay: Relay) -> None:
        """No thread keeps the interpreter, nothing is printed, with the pipe open and with the link lost."""
        config = server.config(port=relay.port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        program = (
            "import sys, time\nfrom pathlib import Path\n"
            "from remoterun.hosts.bundle import AgentBundle\nfrom remoterun.hosts.ssh.host import SSHHost\n"
            f"bundle = AgentBundle({bundle_of(ECHO).digest!r}, {bundle_of(ECHO).data!r})\n"
            f"pipe = SSHHost('box', config_file=Path({str(config)!r}), bundle=bundle).open()\n"
            "print('open', flush=True)\n"
            "if sys.argv[1] == 'lost': print(pipe.read(1), flush=True)\n"
        )
        for how in ("open", "lost"):
            process = subprocess.Popen(
                [sys.executable, "-c", program, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None and process.stdout.readline() == b"open\n"
            began = time.monotonic()
            if how == "lost":
                relay.cut()
            rest, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, b"")
            assert time.monotonic() - began < 2


class TestSessions:
    def test_more_pipes_than_the_host_gives_sessions(self, start: Start, reach: Open) -> None:
        server = start("MaxSessions 1")
        host = reach(server)
        pipes = [host.open() for _ in range(3)]
        for number, pipe in enumerate(pipes):
            pipe.write(b"%d" % number)
            assert pipe.read(10) == b"%d" % number

    def test_a_host_that_gives_none(self, start: Start, reach: Open) -> None:
        with pytest.raises(HostError, match="runs nothing for you") as caught:
            reach(start("MaxSessions 0")).open()
        assert "MaxSessions" in (caught.value.hint or "")


class TestProbe:
    def test_status_and_both_outputs(self, server: Server, reach: Open) -> None:
        host = reach(server)
        done = host.run_probe(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    def test_input(self, server: Server, reach: Open) -> None:
        data = os.urandom(5_000_000)
        assert reach(server).run_probe(["cat"], input=data).stdout == data

    def test_words_arrive_as_they_are(self, server: Server, reach: Open) -> None:
        words = ["a b", "it's", '"', "$HOME", "\\n", "!x", "*", "", "ü", "#", "~", "-n", ";"]
        done = reach(server).run_probe(["printf", "%s|", *words])
        assert done.stdout.decode() == "".join(f"{word}|" for word in words)

    def test_a_command_that_is_not_there(self, server: Server, reach: Open) -> None:
        done = reach(server).run_probe(["no-such-command"])
        assert done.status == 127
        assert b"no-such-command" in done.stderr

    def test_a_command_that_does_not_end(self, server: Server, reach: Open) -> None:
        with pytest.raises(HostUnreachable, match="within 0.3 s"):
            reach(server).run_probe(["sleep", "20"], timeout=0.3)


class TestOnTheWay:
    def test_through_another_host(self, server: Server, start: Start, reach: Open, keys: Keys) -> None:
        bastion = start()
        server_line, bastion_line = server.known_hosts.read_text(), bastion.known_hosts.read_text()
        both = bastion.folder / "both"
        both.write_text(server_line + bastion_line)
        jump = [f"Host jump\n HostName 127.0.0.1\n Port {bastion.port}\n User {ME}", "Host *"]
        jump += [f" {key} {value}" for key, value in server.client.items() if key not in ("HostName", "User")]
        config = server.config(*jump, ProxyJump="jump", UserKnownHostsFile=str(both))
        config.write_text(config.read_text().replace(str(server.known_hosts), str(both)))
        data = os.urandom(3_000_000)
        assert says(reach(server, config), data[:100]) == data[:100]
        assert bastion.count("Accepted publickey") == 1
        twice = server.config(*jump, ProxyJump=f"jump,{ME}@127.0.0.1:{bastion.port}")
        twice.write_text(twice.read_text().replace(str(server.known_hosts), str(both)))
        assert says(reach(server, twice)) == b"ping"
        assert bastion.count("Accepted publickey") == 3

    def test_the_other_host_cannot_get_there(self, server: Server, reach: Open) -> None:
        jump = [f"Host jump\n Port {server.port}"]
        jump += [f" {key} {value}" for key, value in server.client.items()]
        config = server.config(*jump, ProxyJump="jump", port=free_port())
        with pytest.raises(HostUnreachable, match="`jump` can't reach `box`"):
            reach(server, config).open()

    def test_the_other_host_forbids_it(self, server: Server, start: Start, reach: Open) -> None:
        bastion = start("AllowTcpForwarding no")
        jump = [f"Host jump\n Port {bastion.port}"]
        jump += [f" {key} {value}" for key, value in bastion.client.items()]
        with pytest.raises(HostUnreachable) as caught:
            reach(server, server.config(*jump, ProxyJump="jump")).open()
        assert "AllowTcpForwarding" in (caught.value.hint or "")

    def test_a_circle(self, server: Server, reach: Open) -> None:
        config = server.config("Host a\n ProxyJump b", "Host b\n ProxyJump a", ProxyJump="a")
        with pytest.raises(Exception, match="circle"):
            reach(server, config).open()

    def test_a_proxy_command(self, server: Server, reach: Open, tmp_path: Path) -> None:
        script = tmp_path / "proxy.py"
        script.write_text(
            "import os, socket, sys, threading\n"
            "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "def up():\n"
            "    while d := os.read(0, 65536): s.sendall(d)\n"
            "    s.shutdown(socket.SHUT_WR)\n"
            "threading.Thread(target=up, daemon=True).start()\n"
            "while d := s.recv(65536): os.write(1, d)\n"
        )
        host = reach(server, server.config(ProxyCommand=f"{sys.executable} {script} %h %p"))
        assert says(host) == b"ping"

    def test_a_proxy_command_that_fails(self, server: Server, reach: Open) -> None:
        config = server.config(ProxyCommand="echo the tunnel is closed today >&2; exit 1")
        with pytest.raises(HostUnreachable, match="ProxyCommand") as caught:
            reach(server, config).open()
        assert "closed today" in (caught.value.evidence or "")


class TestHostKeys:
    def fingerprint(self, key: Path) -> str:
        said = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True)
        return said.stdout.split()[1]

    def test_unknown_and_nobody_to_ask(self, server: Server, reach: Open, keys: Keys, tmp_path: Path) -> None:
        config = server.config(UserKnownHostsFile=str(tmp_path / "none"))
        with pytest.raises(HostKeyError, match="is not known here") as caught:
            reach(server, config).open()
        assert self.fingerprint(keys.host) in (caught.value.evidence or "")
        assert "ssh box" in (caught.value.hint or "")
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("hashed", ["no", "yes"])
    def test_unknown_and_accepted(self, server: Server, reach: Open, keys: Keys, tmp_path: Path, hashed: str) -> None:
        file = tmp_path / "new" / "known_hosts"
        config = server.config(UserKnownHostsFile=f"{file} {tmp_path}/second", HashKnownHosts=hashed)
        asked: list[UnknownHostKey] = []

        def confirm(key: UnknownHostKey) -> bool:
            asked.append(key)
            return True

        assert says(reach(server, config, confirm=confirm)) == b"ping"
        assert [key.fingerprint for key in asked] == [self.fingerprint(keys.host)]
        assert asked[0].host == "box" and asked[0].address == "127.0.0.1" and asked[0].file == file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert (f"[127.0.0.1]:{server.port}" in file.read_text()) == (hashed == "no")
        assert says(reach(server, config)) == b"ping"
        find = ["ssh-keygen", "-F", f"[127.0.0.1]:{server.port}", "-f", str(file)]
        assert subprocess.run(find, capture_output=True).returncode == 0

    def test_unknown_and_declined(self, server: Server, reach: Open, tmp_path: Path) -> None:
        config = server.config(UserKnownHostsFile=str(tmp_path / "none"))
        with pytest.raises(HostKeyError, match="was not accepted"):
            reach(server, config, confirm=lambda key: False).open()
        assert not (tmp_path / "none").exists()

    def test_strict_asks_nobody(self, server: Server, reach: Open, tmp_path: Path) -> None:
        config = server.config(UserKnownHostsFile=str(tmp_path / "none"), StrictHostKeyChecking="yes")
        with pytest.raises(HostKeyError) as caught:
            reach(server, config, confirm=lambda key: pytest.fail("asked")).open()
        assert "ssh-keyscan" in (caught.value.hint or "")

    def test_accept_new(self, server: Server, reach: Open, tmp_path: Path) -> None:
        file = tmp_path / "none"
        config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking="accept-new")
        assert says(reach(server, config)) == b"ping"
        assert file.exists()

    @pytest.mark.parametrize("check", ["ask", "no", "accept-new"])
    def test_changed(self, server: Server, reach: Open, keys: Keys, tmp_path: Path, check: str) -> None:
        file = tmp_path / "old"
        file.write_text(f"# a comment\n\n[127.0.0.1]:{server.port} {public(keys.other)}")
        config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking=check)
        with pytest.raises(HostKeyError) as caught:
            reach(server, config, confirm=lambda key: True).open()
        assert f"{file}:3" in caught.value.message
        assert self.fingerprint(keys.host) in (caught.value.evidence or "")
        assert self.fingerprint(keys.other) in (caught.value.evidence or "")
        assert "ssh-keygen" in (caught.value.hint or "") and "-R" in (caught.value.hint or "")

    def test_no_means_ask(self, server: Server, reach: Open, tmp_path: Path) -> None:
        config = server.config(UserKnownHostsFile=str(tmp_path / "none"), StrictHostKeyChecking="no")
        with pytest.raises(HostKeyError):
            reach(server, config).open()

    def test_revoked(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "revoked"
        file.write_text(server.known_hosts.read_text() + f"@revoked * {public(keys.host)}")
        with pytest.raises(HostKeyError, match="revoked"):
            reach(server, server.config(UserKnownHostsFile=str(file)), confirm=lambda key: True).open()

    def test_an_authority_and_broken_lines_do_no_harm(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "odd"
        file.write_bytes(
            f"@cert-authority * {public(keys.other)}\xff\nnonsense\nx ssh-rsa !!!\n|1|a|b ssh-rsa AAAA\n".encode(
                "latin-1"
            )
            + server.known_hosts.read_bytes()
        )
        assert says(reach(server, server.config(UserKnownHostsFile=str(file)))) == b"ping"

    def test_the_known_kind_is_asked_for(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start(host_keys=(keys.host, keys.host_rsa))
        server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {public(keys.host_rsa)}")
        assert says(reach(server)) == b"ping"

    def test_another_kind_than_the_known_one(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "rsa"
        file.write_text(f"[127.0.0.1]:{server.port} {public(keys.host_rsa)}")
        config = server.config(UserKnownHostsFile=str(file), StrictHostKeyChecking="accept-new")
        with pytest.raises(HostKeyError) as caught:
            reach(server, config).open()
        assert f"another kind of key is known at {file}:1 (RSA)" in (caught.value.evidence or "")

    def test_an_alias_of_the_key(self, server: Server, reach: Open, keys: Keys) -> None:
        file = server.folder / "alias"
        file.write_text(f"gpu,*.lab {public(keys.host)}")
        config = server.config(UserKnownHostsFile=str(file), HostKeyAlias="gpu")
        assert says(reach(server, config)) == b"ping"


class TestAuthentication:
    def test_a_wrong_key(self, server: Server, reach: Open, keys: Keys) -> None:
        with pytest.raises(AuthenticationError, match="refuses the key") as caught:
            reach(server, server.config(IdentityFile=str(keys.other))).open()
        assert f"{keys.other} (ED25519 SHA256:" in (caught.value.evidence or "")
        assert "ssh-copy-id" in (caught.value.hint or "") and "ssh -v" in (caught.value.hint or "")

    def test_no_key_at_all(self, server: Server, reach: Open) -> None:
        with pytest.raises(AuthenticationError, match="no key to log in with") as caught:
            reach(server, server.config(IdentityFile="/nowhere/key")).open()
        assert "/nowhere/key: no such file" in (caught.value.evidence or "")

    def test_several_keys(self, server: Server, reach: Open, keys: Keys) -> None:
        config = server.config(IdentityFile=f"{keys.other}\n  IdentityFile {keys.user}")
        assert says(reach(server, config)) == b"ping"

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "rsa-pem", "pkcs8", "ecdsa-384"])
    def test_every_kind_of_key(self, start: Start, reach: Open, tmp_path: Path, kind: str) -> None:
        more = {
            "rsa": ("rsa", "-b", "2048"),
            "ecdsa": ("ecdsa",),
            "ecdsa-384": ("ecdsa", "-b", "384"),
            "rsa-pem": ("rsa", "-b", "2048", "-m", "PEM"),
            "pkcs8": ("ecdsa", "-m", "PKCS8"),
        }[kind]
        key = make_key(tmp_path / "key", *more)
        server = start(authorized=public(key))
        assert says(reach(server, server.config(IdentityFile=str(key)))) == b"ping"

    def test_too_many_keys(self, server: Server, reach: Open, tmp_path: Path) -> None:
        many = [make_key(tmp_path / f"key{number}") for number in range(8)]
        config = server.config(IdentityFile="\n  IdentityFile ".join(map(str, many)))
        with pytest.raises(AuthenticationError, match="accepts none of the 6 keys tried") as caught:
            reach(server, config).open()
        assert "Too many authentication failures" in (caught.value.evidence or "")
        assert "IdentitiesOnly" in (caught.value.hint or "")

    def test_a_key_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = agent(keys.other, keys.user)
        config = server.config(IdentityFile="/nowhere/key", IdentityAgent=path, IdentitiesOnly="no")
        assert says(reach(server, config)) == b"ping"
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        config = server.config(IdentityFile="/nowhere/key", IdentityAgent="", IdentitiesOnly="no")
        assert says(reach(server, config)) == b"ping"

    def test_the_named_key_comes_before_the_many_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], tmp_path: Path
    ) -> None:
        path = agent(*(make_key(tmp_path / f"key{number}") for number in range(7)), keys.user)
        assert says(reach(server, server.config(IdentityAgent=path, IdentitiesOnly="no"))) == b"ping"

    def test_the_public_half_names_a_key_of_the_agent(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], tmp_path: Path
    ) -> None:
        path = agent(*(make_key(tmp_path / f"key{number}") for number in range(7)), keys.user)
        (tmp_path / "only.pub").write_text(public(keys.user))
        for named in ("only.pub", "only"):
            config = server.config(IdentityAgent=path, IdentityFile=str(tmp_path / named))
            assert says(reach(server, config)) == b"ping"

    def test_a_dead_agent_is_passed_over(self, server: Server, reach: Open, tmp_path: Path) -> None:
        assert says(reach(server, server.config(IdentityAgent=str(tmp_path / "gone")))) == b"ping"

    def test_an_agent_that_will_not_sign(
        self, server: Server, reach: Open, keys: Keys, agent: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = agent()
        env = {**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS": "/bin/false", "DISPLAY": ""}
        subprocess.run(["ssh-add", "-q", "-c", str(keys.other)], check=True, capture_output=True, env=env)
        config = server.config(
            IdentityFile=f"{keys.other}\n  IdentityFile {keys.user}", IdentityAgent=path, IdentitiesOnly="no"
        )
        assert says(reach(server, config)) == b"ping"

    @pytest.mark.parametrize("form", ["openssh", "PEM", "PKCS8"])
    def test_a_passphrase(self, start: Start, reach: Open, tmp_path: Path, form: str) -> None:
        more = ("rsa", "-b", "2048") if form == "openssh" else ("rsa", "-b", "2048", "-m", form)
        key = make_key(tmp_path / "locked", *more, passphrase="open sesame")
        server = start(authorized=public(key))
        config = server.config(IdentityFile=str(key))
        asked: list[str] = []

        def ask(what: str) -> str:
            asked.append(what)
            return "wrong" if len(asked) == 1 else "open sesame"

        host = reach(server, config, ask_passphrase=ask)
        assert says(host) == b"ping"
        assert asked == [str(key)] * 2
        host.close()
        assert says(host) == b"ping"
        assert len(asked) == 2

    def test_a_passphrase_and_nobody_to_ask(self, server: Server, reach: Open, tmp_path: Path) -> None:
        key = make_key(tmp_path / "locked", passphrase="open sesame")
        with pytest.raises(AuthenticationError) as caught:
            reach(server, server.config(IdentityFile=str(key))).open()
        assert f"{key}: needs a passphrase" in (caught.value.evidence or "")
        with pytest.raises(AuthenticationError) as caught:
            reach(server, server.config(IdentityFile=str(key)), ask_passphrase=lambda path: None).open()
        assert "no passphrase given" in (caught.value.evidence or "")

    @pytest.mark.parametrize("kind", ["ed25519", "rsa"])
    def test_a_certificate_beside_the_key(
        self, start: Start, reach: Open, tmp_path: Path, keys: Keys, agent: Callable[..., str], kind: str
    ) -> None:
        authority = make_key(tmp_path / "authority")
        key = make_key(tmp_path / "key", kind)
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", ME, f"{key}.pub"]
        subprocess.run(sign, check=True, capture_output=True)
        server = start(f"TrustedUserCAKeys {authority}.pub", authorized=public(keys.other))
        assert says(reach(server, server.config(IdentityFile=str(key)))) == b"ping"
        path = agent(key)
        assert says(reach(server, server.config(IdentityFile=str(key), IdentityAgent=path))) == b"ping"
        elsewhere = tmp_path / "elsewhere.pub"
        Path(f"{key}-cert.pub").rename(elsewhere)
        config = server.config(IdentityFile=str(key), CertificateFile=str(elsewhere))
        assert says(reach(server, config)) == b"ping"

    def test_a_host_that_asks_questions(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start("PasswordAuthentication yes", authorized=public(keys.other))
        asked: list[str] = []

        def ask(what: str) -> str:
            asked.append(what)
            return "wrong"

        with pytest.raises(AuthenticationError, match="refuses what was typed"):
            reach(server, ask_password=ask).open()
        question = f"{ME}@127.0.0.1's password:"
        assert asked == [question, f"that was refused; {question}", f"that was refused; {question}"]
        asked.clear()
        with pytest.raises(AuthenticationError, match="refuses the key"):
            reach(server, ask_password=lambda what: asked.append(what)).open()  # type: ignore[func-returns-value]
        assert asked == [question], "who types nothing has given up"
        said = iter(["wrong", ""])
        with pytest.raises(AuthenticationError, match="refuses what was typed") as caught:
            reach(server, ask_password=lambda what: next(said)).open()
        assert "password: Authentication failed" in (caught.value.evidence or "")
        with pytest.raises(AuthenticationError) as caught:
            reach(server).open()
        assert "password: there is no terminal to ask on" in (caught.value.evidence or "")


class Mute(paramiko.ServerInterface):  # type: ignore[misc]
    """A server that stops talking at one point."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.go_on = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._stop("auth")
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._stop("channel")
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._stop("exec")
        return True

    def _stop(self, here: str) -> None:
        if here == self._at:
            self.go_on.wait(10)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("auth", "broke while logging in: no answer in time"),
        ("channel", "is lost: Timeout opening channel"),
        ("exec", "runs nothing for you"),
    ],
)
def test_a_host_that_falls_silent_in_the_middle(
    server: Server, reach: Open, keys: Keys, at: str, expected: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
        transports: list[paramiko.Transport] = []
        mute = Mute(at)

        def serve() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(keys.host)))
            transport.start_server(server=mute)

        threading.Thread(target=serve, daemon=True).start()
        config = server.config(port=port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        began = time.monotonic()
        with pytest.raises(HostError, match=expected):
            reach(server, config, deadlines=Deadlines(auth=0.5, channel=0.5)).open()
        assert time.monotonic() - began < 2
        mute.go_on.set()
        transports[0].close()
        transports[0].join(5)


@contextlib.contextmanager
def listener(greeting: bytes | None, *, hang_up: bool) -> Iterator[int]:
    """Something that listens and is no sshd."""
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer() -> None:
            with contextlib.suppress(OSError):
                client, _ = sock.accept()
                with client:
                    client.sendall(greeting or b"")
                    if not hang_up:
                        while client.recv(1000):
                            pass

        threading.Thread(target=answer, daemon=True).start()
        yield int(sock.getsockname()[1])


class TestUnreachable:
    def test_refused(self, server: Server, reach: Open) -> None:
        port = free_port()
        with pytest.raises(HostUnreachable) as caught:
            reach(server, server.config(port=port)).open()
        assert re.fullmatch(
            rf"`box` refused the connection \(127\.0\.0\.1 port {port}, after 0\.\d s\)", caught.value.message
        )

    def test_no_such_name(self, server: Server, reach: Open) -> None:
        with pytest.raises(HostUnreachable, match="`no-such-host.invalid`"):
            reach(server, server.config(HostName="no-such-host.invalid")).open()

    def test_no_answer(self, server: Server, reach: Open) -> None:
        with socket.socket() as sock, contextlib.ExitStack() as stack:
            sock.bind(("127.0.0.1", 0))
            sock.listen(0)
            port = int(sock.getsockname()[1])
            for _ in range(3):  # its queue is full then, and Linux drops what comes
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match=rf"does not answer \(127.0.0.1 port {port}, after 0.5 s"):
                reach(server, server.config(port=port), deadlines=Deadlines(connect=0.5)).open()
            with pytest.raises(HostUnreachable, match="after 1.0 s"):
                reach(server, server.config(port=port, ConnectTimeout="1")).open()
            assert time.monotonic() - began < 3

    @pytest.mark.parametrize(
        ("greeting", "hang_up", "expected"),
        [
            (None, False, "says nothing"),
            (None, True, "closed the connection before it said anything"),
            (b"220 mail.example ESMTP\r\n", False, "not an SSH server"),
            (b"Not allowed at this time\r\n", True, "Not allowed at this time"),
            (b"Exceeded MaxStartups\r\n", True, "too many logins"),
            (b"SSH-2.0-Sleepy\r\n", False, "did not finish the SSH handshake"),
            (b"SSH-2.0-Rude\r\n", True, "did not finish the SSH handshake"),
        ],
    )
    def test_what_answers_is_no_sshd(
        self, server: Server, reach: Open, greeting: bytes | None, hang_up: bool, expected: str
    ) -> None:
        with listener(greeting, hang_up=hang_up) as port:
            began = time.monotonic()
            with pytest.raises(HostUnreachable, match=expected) as caught:
                deadlines = Deadlines(banner=0.5, handshake=0.8)
                reach(server, server.config(port=port), deadlines=deadlines).open()
            assert time.monotonic() - began < 4
            assert str(port) in caught.value.message and caught.value.hint
        assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]

    @pytest.mark.skipif(not has_penalties(), reason="needs OpenSSH 9.8")
    def test_an_address_that_is_kept_out(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start("PerSourcePenalties authfail:60s min:0s")
        with pytest.raises(AuthenticationError):
            reach(server, server.config(IdentityFile=str(keys.other))).open()
        time.sleep(0.1)
        with pytest.raises(HostUnreachable, match="Not allowed at this time") as caught:
            reach(server).open()
        assert "PerSourcePenalties" in (caught.value.hint or "")

    def test_no_common_algorithm(self, start: Start, reach: Open) -> None:
        server = start("Ciphers aes128-cbc,3des-cbc")
        with pytest.raises(HostError, match="not safe") as caught:
            reach(server).open()
        assert caught.value.hint

    def test_one_of_several_addresses(self, server: Server, reach: Open) -> None:
        """`localhost` is 127.0.0.1 and ::1; sshd listens at the first only."""
        config = server.config(HostName="localhost", HostKeyAlias=f"[127.0.0.1]:{server.port}")
        assert says(reach(server, config)) == b"ping"

    def test_ipv6(self, start: Start, reach: Open, keys: Keys) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
        server = start(address="::1")
        server.known_hosts.write_text(f"[::1]:{server.port} {public(keys.host)}")
        config = server.config(HostName="")
        config.write_text(config.read_text().replace("Host box", "Host *"))
        assert says(reach(server, config, target=f"{ME}@[::1]:{server.port}")) == b"ping"
        assert says(reach(server, config, target=f"ssh://{ME}@[::1]:{server.port}")) == b"ping"


def test_without_the_ssh_program(server: Server, reach: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    config = server.config()
    monkeypatch.setenv("PATH", "/nowhere")
    assert says(reach(server, config)) == b"ping"


def test_the_key_is_written_as_ssh_writes_it(server: Server, keys: Keys) -> None:
    blob = base64.b64decode(public(keys.host).split()[1])
    from remoterun.hosts.ssh.known_hosts import HostKey

    assert HostKey("ssh-ed25519", blob).fingerprint == TestHostKeys().fingerprint(keys.host)


def test_fabric_goes_over_the_same_connection(server: Server, reach: Open) -> None:
    host = reach(server)
    host.run_probe(["true"])
    shell = host.fabric()
    assert shell.run("echo over fabric", hide=True, in_stream=False).stdout == "over fabric\n"
    assert host.run_probe(["echo", "still here"]).stdout == b"still here\n"
