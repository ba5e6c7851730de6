"""The way to a host: addresses, jump hosts, proxy commands, and everything that may answer in place of an sshd."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pexpect
import pytest

from remoterun.errors import AuthenticationError, HostError, HostUnreachable
from remoterun.hosts.ssh.config import Deadlines, SSHTarget, ssh_words
from tests.sshd import ME, Keys, Open, Refused, Server, Start, has_penalties, public, says
from tests.workshop import own_port, until

pytestmark = pytest.mark.timeout(60)


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

    def test_the_other_host_forbids_it(self, server: Server, start: Start, reach: Open) -> None:
        with pytest.raises(HostUnreachable, match="ProxyJump") as caught:
            reach(server, self.jumping(server, start("AllowTcpForwarding no"))).open()
        assert "administratively prohibited" in (caught.value.evidence or "")
        assert (caught.value.hint or "").startswith("try it by hand: ssh -W ")

    def test_the_other_host_asks(self, server: Server, start: Start, refused: Refused, keys: Keys) -> None:
        refused(server, self.jumping(server, start(authorized=public(keys.other))))

    def jumping(self, server: Server, bastion: Server) -> Path:
        """A configuration that leads to a server through another one."""
        jump = [f"Host jump\n Port {bastion.port}"]
        jump += [f" {key} {value}" for key, value in bastion.client.items()]
        return server.config(*jump, ProxyJump="jump")

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

    def test_a_proxy_command_that_fails(self, server: Server, reach: Open, refused: Refused) -> None:
        refused(server, server.config(ProxyCommand="echo the tunnel is closed today >&2; exit 1"))
        late = server.config(ProxyCommand="sh -c 'sleep 0.5; echo the tunnel is closed today >&2; exit 1'")
        with pytest.raises(HostUnreachable) as caught:
            reach(server, late).open()
        assert caught.value.evidence == "the tunnel is closed today", "also where we had sent something by then"


class TestWithTheProgramItself:
    """`ssh_words`, for `remoterun machines ssh`."""

    def typed(self, *words: str) -> tuple[str, int | None]:
        terminal = pexpect.spawn(words[0], list(words[1:]), encoding="utf-8", timeout=30)
        terminal.expect(pexpect.EOF)
        terminal.close()
        return terminal.before, terminal.exitstatus

    def test_a_command_at_a_terminal_leaves_its_own_output_only(self, server: Server) -> None:
        words = ssh_words(SSHTarget("box"), server.config(), "test -t 1 && echo here; exit 6", terminal=True)
        assert self.typed(*words) == ("here\r\n", 6)

    def test_errors_of_ssh_are_shown(self, server: Server, keys: Keys) -> None:
        refused = server.config(IdentityFile=str(keys.other))
        said, status = self.typed(*ssh_words(SSHTarget("box"), refused, "true", terminal=True))
        assert "Permission denied" in said and status == 255
        cut = ssh_words(SSHTarget("box"), server.config(), "kill -9 $PPID", terminal=True)
        said, status = self.typed(*cut)
        assert "closed by remote host" in said and status == 255


class Mute(paramiko.ServerInterface):  # type: ignore[misc]
    """A server that stops talking at one point."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.there, self.go_on = threading.Event(), threading.Event()

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
            self.there.set()
            self.go_on.wait(60)


@contextlib.contextmanager
def muted(keys: Keys, at: str) -> Iterator[tuple[Mute, int, list[paramiko.Transport]]]:
    """(the server, its port, its end of the connection once there is one)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        transports: list[paramiko.Transport] = []
        mute = Mute(at)

        def serve() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(keys.host)))
            transport.start_server(server=mute)

        threading.Thread(target=serve, daemon=True).start()
        yield mute, int(listening.getsockname()[1]), transports
        transports[0].close()
        transports[0].join(20)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("auth", "broke while logging in: no answer in time"),
        ("channel", "is lost: Timeout opening channel"),
        ("exec", "is lost: no answer"),
    ],
)
def test_a_host_that_falls_silent_in_the_middle(
    server: Server, reach: Open, keys: Keys, at: str, expected: str
) -> None:
    with muted(keys, at) as (mute, port, _):
        config = server.config(port=port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        began = time.monotonic()
        with pytest.raises(HostError, match=expected):
            short = {"auth": Deadlines(auth=0.5), "channel": Deadlines(channel=0.5), "exec": Deadlines(silence=1.0)}[at]
            reach(server, config, deadlines=short).open()
        assert time.monotonic() - began < Deadlines().channel
        mute.go_on.set()


def test_a_host_that_hangs_up_in_the_middle(server: Server, reach: Open, keys: Keys) -> None:
    """It is lost, and not one that runs no commands."""
    with muted(keys, "exec") as (mute, port, transports):

        def hang_up() -> None:
            mute.there.wait(60)
            transports[0].sock.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=hang_up, daemon=True).start()
        config = server.config(port=port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        with pytest.raises(HostUnreachable, match="is lost: closed by the other end"):
            reach(server, config).open()
        mute.go_on.set()


@contextlib.contextmanager
def listener(greeting: bytes | None, *, hang_up: bool) -> Iterator[int]:
    """Something that listens and is not an sshd."""
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


@contextlib.contextmanager
def tampering(port: int, places: Iterator[int]) -> Iterator[int]:
    """A way to the sshd at `port` on which eight bytes from it are others, on each connection at the next of `places`
    in all that it sends."""

    def copy(source: socket.socket, target: socket.socket, at: int | None) -> None:
        with contextlib.suppress(OSError):
            sent = 0
            while data := bytearray(source.recv(1 << 16)):
                if at is not None:
                    for place in range(max(at - sent, 0), min(at + 8 - sent, len(data))):
                        data[place] ^= 0xFF
                sent += len(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket, at: int) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as there:
            forth = threading.Thread(target=copy, args=(client, there, None))
            forth.start()
            copy(there, client, at)
            forth.join(60)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                for at in places:
                    threads.append(threading.Thread(target=serve, args=(listening.accept()[0], at)))
                    threads[-1].start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)


@pytest.mark.timeout(300)
def test_bytes_that_changed_on_the_way_are_a_lost_connection(server: Server, reach: Open) -> None:
    """Whatever paramiko makes of them: in the greeting, the offers, the keys, the login, and what comes after."""
    places = range(0, 2400, 100)
    others: dict[int, Exception] = {}
    with tampering(server.port, iter(places)) as port:
        config = server.config(port=port, HostKeyAlias=f"[127.0.0.1]:{server.port}")
        for at in places:
            host = reach(server, config, deadlines=Deadlines(banner=0.5, handshake=0.5, auth=0.5, channel=0.5))
            try:
                host.open()
            except HostError:
                continue
            except Exception as error:  # noqa: BLE001
                others[at] = error
            finally:
                host.close()
    assert not others


class TestUnreachable:
    def test_refused(self, server: Server, reach: Open) -> None:
        with own_port() as port, pytest.raises(HostUnreachable) as caught:
            reach(server, server.config(port=port)).open()
        assert re.fullmatch(
            rf"`box` refused the connection \(127\.0\.0\.1 port {port}, after \d\.\d s\)", caught.value.message
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
            for config, deadlines, least in (
                (server.config(port=port), Deadlines(connect=0.5), 0.5),
                (server.config(port=port, ConnectTimeout="1"), Deadlines(), 1.0),
            ):
                with pytest.raises(HostUnreachable) as caught:
                    reach(server, config, deadlines=deadlines).open()
                took = re.search(rf"does not answer \(127.0.0.1 port {port}, after ([\d.]+) s", caught.value.message)
                assert took and least <= float(took[1]) < Deadlines().connect

    @pytest.mark.parametrize(
        ("greeting", "hang_up", "expected"),
        [
            (None, False, "says nothing"),
            (None, True, "says nothing"),
            (b"220 mail.example ESMTP\r\n", False, "did not finish the SSH handshake"),
            (b"Exceeded MaxStartups\r\n", True, "did not finish the SSH handshake"),
            (b"SSH-2.0-Sleepy\r\n", False, "did not finish the SSH handshake"),
            (b"SSH-2.0-Rude\r\n", True, "did not finish the SSH handshake"),
        ],
    )
    def test_what_answers_is_no_sshd(
        self, server: Server, reach: Open, greeting: bytes | None, hang_up: bool, expected: str
    ) -> None:
        before = set(threading.enumerate())
        seconds = 60.0 if hang_up else 5.0 if greeting else 0.5  # only who says nothing is given up for that
        with listener(greeting, hang_up=hang_up) as port:
            with pytest.raises(HostUnreachable, match=expected) as caught:
                deadlines = Deadlines(banner=seconds, handshake=seconds)
                reach(server, server.config(port=port), deadlines=deadlines).open()
            assert str(port) in caught.value.message and caught.value.hint
            if greeting and not greeting.startswith(b"SSH"):
                assert greeting.decode().strip() in (caught.value.evidence or "")
        timers = [each for each in set(threading.enumerate()) - before if isinstance(each, threading.Timer)]
        for timer in timers:
            timer.join(5)  # one that was ended takes a moment
        assert not [(timer.function, timer.interval) for timer in timers if timer.is_alive()]

    @pytest.mark.skipif(not has_penalties(), reason="needs OpenSSH 9.8")
    def test_an_address_that_is_kept_out(self, start: Start, reach: Open, keys: Keys) -> None:
        server = start("PerSourcePenalties authfail:60s min:0s")
        with pytest.raises(AuthenticationError):
            reach(server, server.config(IdentityFile=str(keys.other))).open()
        until(lambda: server.count("active penalty"))
        with pytest.raises(HostUnreachable, match="did not finish the SSH handshake") as caught:
            reach(server).open()
        assert "Not allowed at this time" in (caught.value.evidence or "")

    @pytest.mark.parametrize(
        ("option", "theirs"),
        [
            ("Ciphers aes128-cbc,3des-cbc", "3des-cbc"),
            ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "sntrup761x25519"),
            ("MACs umac-64@openssh.com\nCiphers aes128-ctr", "umac-64@openssh.com"),
        ],
    )
    def test_no_common_algorithm(self, start: Start, reach: Open, option: str, theirs: str) -> None:
        with pytest.raises(HostError, match="did not finish the SSH handshake") as caught:
            reach(start(option)).open()
        incompatible, offers = (caught.value.evidence or "").splitlines()
        assert "no acceptable" in incompatible and offers.startswith("the host offers: ") and theirs in offers
        assert "remoterun login box " in (caught.value.hint or "")

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
