"""A connection that the system's ssh keeps open is used; `login` opens one, `logout` ends it; host certificates."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

import remoterun.hosts.local
import remoterun.hosts.ssh.host
import remoterun.hosts.ssh.master
from remoterun.client import Client
from remoterun.config import Config
from remoterun.errors import AuthenticationError, HostError, HostKeyError, HostUnreachable
from remoterun.hosts.base import NOBODY
from remoterun.hosts.ssh.config import Deadlines, SSHTarget, resolve
from remoterun.hosts.ssh.host import of_machine
from remoterun.hosts.ssh.master import Master, MasterPipe, masters
from remoterun.model import MachineType
from tests.e2e.said import talk
from tests.sshd import Keys, Open, Server, Start, make_key, public, says
from tests.workshop import until

pytestmark = pytest.mark.timeout(60)
REMOTERUN = str(Path(sys.executable).parent / "remoterun")
LOGINS = "Accepted publickey"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, as a home has: the path of a socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="rr"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def locked(start: Start, tmp_path: Path) -> Server:
    """A server whose only key needs a passphrase, which stands for whatever a host asks."""
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    server = start(authorized=public(key))
    server.client["IdentityFile"] = str(key)
    return server


def pid_of(master: Master) -> int:
    words = ["ssh", "-S", str(master.path), "-O", "check", "box"]
    said = subprocess.run(words, capture_output=True, text=True).stderr
    return int("".join(filter(str.isdecimal, said)))


def ssh(config: Path, *words: str) -> int:
    return subprocess.run(["ssh", "-F", str(config), *words, "box"], stdin=subprocess.DEVNULL).returncode


@pytest.fixture
def shared(server: Server, short: Path) -> Iterator[Path]:
    """A configuration with a `ControlPath`, at which a master of the user's takes sessions."""
    config = server.config(ControlPath=str(short / "cm-%C"))
    before = server.count(LOGINS)
    assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
    until(lambda: server.count(LOGINS) > before)  # sshd lets the user in before it says so in its log
    yield config
    ssh(config, "-q", "-O", "exit")


class TestMaster:
    def test_of_the_user_is_used(self, server: Server, reach: Open, shared: Path, short: Path) -> None:
        before = server.count(LOGINS)
        host = reach(server, shared, masters=short)
        data = os.urandom(3_000_000)
        pipe = host.open()
        assert isinstance(pipe, MasterPipe) and says(host, data) == data
        assert pipe.round_trip == 0
        pipe.write(b"ping")
        assert pipe.read(100) == b"ping" and pipe.round_trip > 0
        pipe.close()
        assert server.count(LOGINS) == before

    def test_the_agent_is_copied_through_it(self, start: Start, reach: Open, short: Path) -> None:
        server = start()
        config = server.config(ControlPath=str(short / "cm"))
        assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
        host = reach(server, config, masters=short)
        assert says(host) == b"ping" and server.count(LOGINS) == 1
        assert host.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 30) == (3, "out", "err")
        assert ssh(config, "-q", "-O", "exit") == 0

    def test_that_ends_while_it_is_used(self, server: Server, reach: Open, shared: Path, short: Path) -> None:
        host = reach(server, shared, masters=short)
        pipe = host.open()
        assert ssh(shared, "-q", "-O", "exit") == 0
        assert pipe.read(10) == b""
        pipe.close()
        before = server.count(LOGINS)
        assert says(host) == b"ping" and server.count(LOGINS) == before + 1

    def test_that_takes_no_more_sessions(self, start: Start, reach: Open, short: Path) -> None:
        server = start("MaxSessions 1")
        config = server.config(ControlPath=str(short / "cm"))
        assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
        host = reach(server, config, masters=short)
        one = host.open()
        two = host.open()
        assert isinstance(one, MasterPipe) and not isinstance(two, MasterPipe)
        for pipe in (one, two):
            pipe.write(b"x")
            assert pipe.read(1) == b"x"
            pipe.close()
        assert ssh(config, "-q", "-O", "exit") == 0

    def test_that_takes_no_more_sessions_where_no_key_helps(
        self, locked: Server, start: Start, reach: Open, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A session is waited for, and the error is not about keys."""
        monkeypatch.setattr(remoterun.hosts.ssh.host, "_SESSION_SECONDS", 1.0, raising=False)
        server = start("MaxSessions 1")
        config = server.config(ControlPath=str(short / "cm"))
        assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
        config = server.config(ControlPath=str(short / "cm"), IdentityFile=locked.client["IdentityFile"])
        host = reach(server, config, masters=short, log_in=lambda ask: pytest.fail("asked"))
        one = host.open()
        with pytest.raises(
            HostUnreachable, match="all sessions of the login's connection to `box` are in use"
        ) as caught:
            host.open()
        assert "login box" not in (caught.value.hint or "")
        monkeypatch.setattr(remoterun.hosts.ssh.host, "_SESSION_SECONDS", 30.0, raising=False)
        with ThreadPoolExecutor(1) as pool:
            refused = server.log.read_text().count("no more sessions")
            two = pool.submit(host.open)
            until(lambda: server.count("no more sessions") > refused)
            one.close()
            two.result(30).close()
        assert ssh(config, "-q", "-O", "exit") == 0

    def test_whose_process_is_gone(self, server: Server, reach: Open, short: Path) -> None:
        config = server.config(ControlPath=str(short / "cm"))
        (short / "cm").touch()
        assert says(reach(server, config, masters=short)) == b"ping"

    def test_whose_link_is_dead(self, start: Start, reach: Open, short: Path) -> None:
        """As after a night: the error is that of a new connection."""
        server = start()
        config = server.config(ControlPath=str(short / "cm"))
        assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
        server.stall()
        with pytest.raises(HostUnreachable, match="says nothing"):
            reach(server, config, masters=short, deadlines=Deadlines(start=2, banner=1)).open()
        server.cut()

    def test_that_does_not_answer(
        self, server: Server, reach: Open, shared: Path, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may answer later, so that nothing of it is removed."""
        monkeypatch.setattr(remoterun.hosts.ssh.master, "_SECONDS", 1.0)
        said = subprocess.run(["ssh", "-F", str(shared), "-O", "check", "box"], capture_output=True, text=True).stderr
        pid = int("".join(filter(str.isdecimal, said)))
        os.kill(pid, signal.SIGSTOP)
        try:
            before = server.count(LOGINS)
            assert says(reach(server, shared, masters=short)) == b"ping" and server.count(LOGINS) == before + 1
            with pytest.raises(HostError, match="does not answer"):
                masters(resolve(SSHTarget("box"), shared), shared, short)[0].open(60, batch=True)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert ssh(shared, "-q", "-O", "check") == 0

    def test_closing_the_pipe_ends_the_agent_and_not_the_master(
        self, server: Server, reach: Open, shared: Path, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remoterun.hosts.local, "_CLOSE_SECONDS", 60.0)  # it ends by itself
        host = reach(server, shared, masters=short)
        pipe = host.open()
        assert isinstance(pipe, MasterPipe)
        pipe.close()
        pipe.close()
        assert pipe.exit_status(60) == 0
        assert ssh(shared, "-q", "-O", "check") == 0

    @pytest.mark.parametrize("of_the_user", [True, False])
    def test_it_lends_no_ssh_agent(
        self, start: Start, reach: Open, short: Path, agent: Callable[..., str], keys: Keys, of_the_user: bool
    ) -> None:
        """Neither to what is started through it, nor, where it is our own, to a host that opens a channel unasked."""
        server = start()
        more = {"ControlPath": str(short / "cm"), "ForwardAgent": "yes", "IdentityAgent": agent(keys.user)}
        config = server.config(**more)
        place = masters(resolve(SSHTarget("box"), config), config, short)[0]
        if of_the_user:
            assert ssh(config, "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-f", "-N") == 0
        else:
            place.open(60, batch=True)
        host = reach(server, config, masters=short)
        assert host.run(["sh", "-c", "echo socket=$SSH_AUTH_SOCK"], 30).output == "socket="
        asked = ["ssh", "-F", str(config), "-o", "ControlMaster=no", "box", "ssh-add", "-l"]
        assert (subprocess.run(asked, capture_output=True).returncode == 0) is of_the_user
        place.end()

    def test_a_path_that_is_too_long_for_a_socket(self, server: Server, tmp_path: Path) -> None:
        config = server.config()
        place = masters(resolve(SSHTarget("box"), config), config, tmp_path / ("x" * 90))[0]
        with pytest.raises(Exception, match="too long for a socket") as caught:
            place.open(60, batch=True)
        assert "ControlPath" in str(getattr(caught.value, "hint", ""))


class TestLogin:
    def terminal(self, home: Path, config: Path, *words: str) -> pexpect.spawn[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "REMOTERUN_HOME": str(home), "LANG": "C.UTF-8"}
        return pexpect.spawn(
            REMOTERUN,
            list(words),
            env={**env, "REMOTERUN_SSH_CONFIG": str(config), "TERM": "xterm"},
            encoding="utf-8",
            timeout=30,
            cwd=str(home),
        )

    @pytest.mark.parametrize("named", [False, True], ids=["own path", "ControlPath"])
    def test_once_and_nothing_asks_after_that(self, locked: Server, reach: Open, short: Path, named: bool) -> None:
        config = locked.config(ControlPath=str(short / "cm") if named else "")
        two = of_machine(MachineType("two", host="box", ssh_config=str(config)), Config(short), NOBODY)
        for name, host in {"box": reach(locked, config, masters=short / "ssh"), "two": two}.items():
            with pytest.raises(AuthenticationError) as caught:
                host.open()
            assert (caught.value.hint or "").startswith(f"remoterun login {name} ")

        terminal = self.terminal(short, config, "login", "box", "--for", "2h")
        said = talk(terminal, "passphrase for key", "open sesame")
        assert "box: logged in; `remoterun logout box` ends it" in said
        assert says(reach(locked, config, masters=short / "ssh")) == b"ping"
        assert talk(self.terminal(short, config, "machines", "ssh", "box", "echo", "over it")).strip() == "over it"
        assert "a login is open" in talk(self.terminal(short, config, "login", "box"))
        assert locked.count(LOGINS) == 1

        assert "logged out; runs go on" in talk(self.terminal(short, config, "logout", "box"))
        with pytest.raises(AuthenticationError):
            reach(locked, config, masters=short / "ssh").open()
        assert "no login is open" in talk(self.terminal(short, config, "logout", "box"))

    @pytest.mark.parametrize("typed", ["open sesame", "wrong"])
    def test_where_no_key_fits_ssh_asks(
        self, locked: Server, reach: Open, short: Path, monkeypatch: pytest.MonkeyPatch, typed: str
    ) -> None:
        """Once, and what it opened is used from then on."""
        script = short / "askpass"
        script.write_text(f"#!/bin/sh\necho {typed}\n")
        script.chmod(0o700)
        monkeypatch.setenv("SSH_ASKPASS", str(script))
        monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
        asked: list[Callable[[], None]] = []

        def log_in(ask: Callable[[], None]) -> None:
            asked.append(ask)
            ask()

        config = locked.config()
        host = reach(locked, config, masters=short, log_in=log_in)
        if typed == "wrong":
            with pytest.raises(AuthenticationError, match="ssh did not log in to `box`"):
                host.open()
            return
        assert says(host) == says(host) == says(reach(locked, config, masters=short)) == b"ping"
        assert len(asked) == 1 and locked.count(LOGINS) == 1
        masters(resolve(SSHTarget("box"), config), config, short)[0].end()

    def test_a_host_that_takes_keys_only_asks_nothing(
        self, server: Server, reach: Open, keys: Keys, short: Path
    ) -> None:
        config = server.config(IdentityFile=str(keys.other))
        with pytest.raises(AuthenticationError, match="refuses the key") as caught:
            reach(server, config, masters=short, log_in=lambda ask: pytest.fail("asked")).open()
        assert (caught.value.hint or "").startswith("ssh-copy-id ")

    def test_that_ssh_refuses(self, locked: Server, short: Path) -> None:
        terminal = self.terminal(short, locked.config(NumberOfPasswordPrompts="1"), "login", "box")
        said = talk(terminal, "passphrase for key", "wrong", status=125)
        assert "Permission denied" in said and "ssh did not log in to `box`" in said

    def test_without_a_terminal_nothing_is_asked(self, locked: Server, short: Path) -> None:
        env = {**os.environ, "HOME": str(short), "REMOTERUN_HOME": str(short)}
        done = subprocess.run(
            [REMOTERUN, "login", "box"],
            env={**env, "REMOTERUN_SSH_CONFIG": str(locked.config())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 125 and "Permission denied" in done.stderr and "passphrase" not in done.stderr

    @pytest.mark.parametrize("named", [False, True], ids=["own path", "ControlPath"])
    def test_after_a_master_that_was_killed(self, server: Server, reach: Open, short: Path, named: bool) -> None:
        config = server.config(ControlPath=str(short / "cm") if named else "")
        place = masters(resolve(SSHTarget("box"), config), config, short / "ssh")[0]
        for command in ("login", "logout"):
            place.open(60, batch=True)
            os.kill(pid_of(place), signal.SIGKILL)
            until(lambda: not place.alive)
            assert place.path.is_socket()
            said = talk(self.terminal(short, config, command, "box"))
            assert ("logged in;" if command == "login" else "no login is open") in said
            assert place.alive is place.path.exists() is (command == "login")
            if place.alive:
                place.end()

    def test_one_that_another_login_was_quicker_than(self, locked: Server, short: Path) -> None:
        """It asks no more, and leaves no process behind."""
        config = locked.config()
        place = masters(resolve(SSHTarget("box"), config), config, short / "ssh")[0]
        slow, quick = (self.terminal(short, config, "login", "box") for _ in range(2))
        for terminal in (slow, quick):
            terminal.expect("passphrase for key")
        quick.sendline("open sesame")
        for terminal in (quick, slow):
            assert "logged in" in talk(terminal)
        found = ["pgrep", "-f", str(place.path)]
        left = lambda: subprocess.run(found, capture_output=True, text=True).stdout.split()  # noqa: E731
        until(lambda: [int(pid) for pid in left()] == [pid_of(place)])  # the master's parent, too, is on its way out
        until(lambda: locked.count(LOGINS))
        assert locked.count(LOGINS) == 1
        place.end()

    def test_it_ends_after_its_time_without_use(self, server: Server, short: Path) -> None:
        config = server.config()
        place = masters(resolve(SSHTarget("box"), config), config, short)[0]
        place.open(5, batch=True)  # which fails where it has ended before it is looked at
        until(lambda: not place.path.exists(), what="it ends: who asks it whether it is there uses it")
        assert not place.alive

    def test_an_unknown_host_is_not_accepted_silently(self, server: Server, short: Path) -> None:
        """Not even where the user's ssh would."""
        config = server.config(UserKnownHostsFile="/dev/null", StrictHostKeyChecking="no")
        said = talk(self.terminal(short, config, "login", "box"), "continue connecting", "no", status=125)
        assert "Host key verification failed" in said


class TestOneLogin:
    """A machine with a scheduler of its own: the first command opens a master that those after it use."""

    @pytest.mark.timeout(180)
    def test_200_commands(self, start: Start, short: Path) -> None:
        server = start()
        machine = MachineType("cluster", host="box", ssh_config=str(server.config()), queue="slurm")
        for number in range(200):
            host = of_machine(machine, Config(short), NOBODY)
            assert host.run(["echo", str(number)], 30).output == str(number)
            host.close()
        assert server.count(LOGINS) == server.count("Connection from") == 1
        with Client(config=Config(short, machines={"cluster": machine})) as client:
            assert client.machines.logout("cluster") and not client.machines.logout("cluster")

    @pytest.mark.parametrize("named", [False, True], ids=["own path", "ControlPath"])
    def test_a_master_that_was_killed_is_followed_by_another(
        self, start: Start, reach: Open, short: Path, named: bool
    ) -> None:
        server = start()
        config = server.config(ControlPath=str(short / "cm") if named else "")
        place = masters(resolve(SSHTarget("box"), config), config, short / "ssh")[0]
        host = reach(server, config, masters=short / "ssh", one_login=True)
        for number in (1, 2):
            assert says(host) == says(reach(server, config, masters=short / "ssh", one_login=True)) == b"ping"
            assert place.alive and server.count(LOGINS) == number
            os.kill(pid_of(place), signal.SIGKILL)
            until(lambda: not place.alive)

    def test_a_master_that_dies_while_a_session_opens_is_followed_by_another(
        self, start: Start, reach: Open, short: Path
    ) -> None:
        """As when a laptop wakes up."""
        server = start()
        config = server.config()
        host = reach(server, config, masters=short, one_login=True)
        assert says(host) == b"ping"
        server.stall()
        waiting = ["pgrep", "-P", str(os.getpid()), "-f", "ProxyCommand=false"]
        until(lambda: subprocess.run(waiting, capture_output=True).returncode == 1)
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(says, host)
            until(lambda: subprocess.run(waiting, capture_output=True).returncode == 0)
            server.cut()
            assert said.result(30) == b"ping"
        assert server.count(LOGINS) == 2
        assert masters(resolve(SSHTarget("box"), config), config, short)[0].end()

    def test_two_commands_at_once(self, start: Start, reach: Open, short: Path) -> None:
        server = start()
        config = server.config()
        hosts = [reach(server, config, masters=short, one_login=True) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(says, hosts)) == {b"ping"}
        before = server.count(LOGINS)
        assert says(reach(server, config, masters=short, one_login=True)) == b"ping"
        assert server.count(LOGINS) == before <= 4
        assert masters(resolve(SSHTarget("box"), config), config, short)[0].end()

    def test_a_key_with_a_passphrase_is_not_tried_where_nobody_is(
        self, locked: Server, reach: Open, short: Path
    ) -> None:
        with pytest.raises(AuthenticationError) as caught:
            reach(locked, masters=short, one_login=True).open()
        assert (caught.value.hint or "").startswith("remoterun login box ")
        assert locked.count("Connection from") == 0

        def log_in(ask: Callable[[], None]) -> None:
            raise AuthenticationError("the person was asked, and knew no answer")

        with pytest.raises(AuthenticationError, match="knew no answer"):
            reach(locked, masters=short, one_login=True, log_in=log_in).open()
        assert locked.count("Connection from") == 0

    def test_a_host_that_wants_a_password_too_is_asked_once(self, start: Start, reach: Open, short: Path) -> None:
        server = start("PasswordAuthentication yes", "AuthenticationMethods publickey,password")
        with pytest.raises(AuthenticationError) as caught:
            reach(server, masters=short, one_login=True).open()
        assert (caught.value.hint or "").startswith("remoterun login box ")
        assert server.count("Connection from") == 1

    def test_a_key_that_is_refused_is_tried_once(self, start: Start, reach: Open, keys: Keys, short: Path) -> None:
        server = start()
        config = server.config(IdentityFile=str(keys.other))
        with pytest.raises(AuthenticationError, match="refuses the key") as caught:
            reach(server, config, masters=short, one_login=True, log_in=lambda ask: pytest.fail("asked")).open()
        assert (caught.value.hint or "").startswith("ssh-copy-id ") and "Permission denied" in str(
            caught.value.evidence
        )
        assert server.count("Connection from") == 1

    def test_where_no_socket_can_be_a_login_of_our_own_serves(
        self, start: Start, reach: Open, short: Path, tmp_path: Path
    ) -> None:
        server = start()
        (short / "file").touch()
        for number, folder in enumerate((tmp_path / ("x" * 90), short / "file"), 1):
            assert says(reach(server, masters=folder, one_login=True)) == b"ping"
            assert server.count(LOGINS) == server.count("Connection from") == number

    def test_a_host_seen_for_the_first_time(self, start: Start, reach: Open, short: Path) -> None:
        """Its key is asked about as that of any other host; the next command opens the master."""
        server = start()
        server.known_hosts.write_text("")
        config = server.config()
        with pytest.raises(HostKeyError, match="is not known here"):
            reach(server, config, masters=short, one_login=True).open()
        place = masters(resolve(SSHTarget("box"), config), config, short)[0]
        for number in (1, 2):
            host = reach(server, config, masters=short, one_login=True, confirm_host_key=lambda key: True)
            assert says(host) == b"ping" and server.count(LOGINS) == number
            assert place.alive is (number == 2)
        place.end()

    @pytest.mark.parametrize("deadlines", [Deadlines(connect=1), Deadlines(connect=0.2, handshake=0.2, auth=0.2)])
    def test_a_host_that_says_nothing(self, start: Start, reach: Open, short: Path, deadlines: Deadlines) -> None:
        server = start()
        server.stall()
        with pytest.raises(HostUnreachable, match="ssh did not log in to `box`"):
            reach(server, masters=short, one_login=True, deadlines=deadlines).open()


@pytest.fixture
def certified(start: Start, tmp_path: Path) -> Server:
    """A server that shows a host certificate, which its authority in known_hosts vouches for."""
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "certified")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "host", "-h", "-n", "127.0.0.1", f"{key}.pub"]
    subprocess.run(sign, check=True, capture_output=True)
    server = start(f"HostCertificate {key}-cert.pub", host_keys=(key,))
    server.known_hosts.write_text(f"@cert-authority [127.0.0.1]:{server.port} {public(authority)}")
    return server


def test_a_host_certificate_is_for_ssh(certified: Server, reach: Open, short: Path) -> None:
    config = certified.config()
    host = reach(certified, config, masters=short, confirm_host_key=lambda key: pytest.fail("asked"))
    with pytest.raises(HostKeyError, match="known by the certificates of .*known_hosts:1") as caught:
        host.open()
    assert (caught.value.hint or "").startswith("remoterun login box ")
    place = masters(resolve(SSHTarget("box"), config), config, short)[0]
    place.open(60, batch=True)
    assert says(host) == b"ping"
    place.end()


def test_a_key_that_is_known_needs_no_certificate(certified: Server, reach: Open, tmp_path: Path) -> None:
    with certified.known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{certified.port} {public(tmp_path / 'certified')}")
    assert says(reach(certified)) == b"ping"


def test_another_authority_does_not_vouch(certified: Server, short: Path, keys: Keys) -> None:
    certified.known_hosts.write_text(f"@cert-authority * {public(keys.other)}")
    config = certified.config()
    with pytest.raises(AuthenticationError, match="did not log in"):
        masters(resolve(SSHTarget("box"), config), config, short)[0].open(60, batch=True)
