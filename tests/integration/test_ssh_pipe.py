"""What goes over an SSH pipe arrives whole; a link that is lost, or falls silent, is noticed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time

import paramiko
import pytest

from remoterun.errors import HostUnreachable, LinkLost
from remoterun.hosts.ssh.config import Deadlines
from tests.sshd import ECHO, Open, Server, Start, bundle_of, says
from tests.workshop import until

pytestmark = pytest.mark.timeout(60)


class TestPipe:
    @pytest.mark.parametrize(
        ("options", "renews"),
        [
            ((), True),
            (("RekeyLimit 2M",), False),
            (("Ciphers aes128-ctr",), True),
            (("Ciphers aes256-ctr", "RekeyLimit 2M"), False),
        ],
    )
    def test_pumped_both_ways(self, start: Start, reach: Open, options: tuple[str, ...], renews: bool) -> None:
        """With keys that sshd, or we, exchange again in the midst; and with other ciphers.

        Not both in one session: `renegotiate_keys`, called from a thread that is not paramiko's own, may begin an
        exchange while that of sshd goes on.
        """
        data = os.urandom(6_000_000)
        host = reach(start(*options))
        pipe = host.open()
        transport = host.fabric().transport
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
            if renews and at % 2_000_000 == 0:
                transport.renegotiate_keys()
        assert done.wait(50)
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

    def test_closing_the_host_wakes_a_reader(self, server: Server, reach: Open) -> None:
        host = reach(server)
        pipe = host.open()
        threading.Timer(0.2, host.close).start()
        assert pipe.read(10) == b""
        host.close()
        assert says(host) == b"ping"


class TestLostLink:
    @pytest.fixture
    def server(self, start: Start) -> Server:
        return start()

    @pytest.mark.parametrize("pause", [0, 0.3], ids=["", "its channels end first"])
    def test_a_cut_ends_the_read_and_open_works_again(
        self, server: Server, reach: Open, monkeypatch: pytest.MonkeyPatch, pause: float
    ) -> None:
        unlink = paramiko.Channel._unlink
        monkeypatch.setattr(paramiko.Channel, "_unlink", lambda channel: (unlink(channel), time.sleep(pause)))
        host = reach(server)
        pipe = host.open()
        threading.Timer(0.1, server.cut).start()
        assert pipe.read(10) == b""
        assert "closed by the other end" in pipe.diagnosis()
        with pytest.raises(LinkLost):
            pipe.write(b"x")
        assert says(host) == b"ping"

    def test_a_peer_that_falls_silent_is_noticed_by_a_reader(self, server: Server, reach: Open) -> None:
        pipe = reach(server, deadlines=Deadlines(silence=2)).open()
        time.sleep(2.5)  # a quiet link is not a dead one: the host answers the pings
        pipe.write(b"still here")
        assert pipe.read(10) == b"still here"
        server.stall()
        assert pipe.read(10) == b""
        assert "no answer" in pipe.diagnosis()

    def test_a_peer_that_falls_silent_is_noticed_by_a_writer(self, server: Server, reach: Open) -> None:
        pipe = reach(server, deadlines=Deadlines(silence=2)).open()
        server.stall()
        with pytest.raises(LinkLost):
            for _ in range(1000):
                pipe.write(bytes(1 << 20))

    def test_a_peer_that_falls_silent_is_replaced_by_the_next_open(self, server: Server, reach: Open) -> None:
        host = reach(server, deadlines=Deadlines(silence=2, banner=2))
        pipe = host.open()
        server.stall()
        with pytest.raises(HostUnreachable, match="says nothing"):
            host.open()  # the old connection is given up; the new one meets the same silence
        assert pipe.read(1) == b""

    def test_a_peer_that_falls_silent_while_the_agent_starts(self, server: Server, reach: Open) -> None:
        started = server.folder / "started"
        (server.home / ".bashrc").write_text(f"touch {started}; sleep 60\n")

        def stall() -> None:
            until(started.exists)
            server.stall()

        staller = threading.Thread(target=stall)
        staller.start()
        with pytest.raises(HostUnreachable, match="was lost: no answer"):
            reach(server, deadlines=Deadlines(silence=2)).open()
        staller.join()

    def test_the_program_ends_at_once_and_quietly(self, server: Server) -> None:
        """No thread keeps the interpreter, nothing is printed, with the pipe open and with the link lost."""
        program = (
            "import sys, time\nfrom pathlib import Path\n"
            "from remoterun.hosts.bundle import AgentBundle\nfrom remoterun.hosts.ssh.host import SSHHost\n"
            f"bundle = AgentBundle({bundle_of(ECHO).sources!r})\n"
            "from remoterun.hosts.ssh.config import Deadlines\nlong = Deadlines(silence=1000)\n"
            f"pipe = SSHHost('box', config_file=Path({str(server.config())!r}), bundle=bundle, deadlines=long).open()\n"
            "print('open', flush=True)\n"
            "if sys.argv[1] == 'lost': print(pipe.read(1), flush=True)\n"
        )
        for how in ("open", "lost"):
            process = subprocess.Popen(
                [sys.executable, "-c", program, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert process.stdout is not None and process.stdout.readline() == b"open\n"
            if how == "lost":
                server.cut()
            _, errors = process.communicate(timeout=50)
            assert (process.returncode, errors) == (0, b"")
