"""Ports of runs at 127.0.0.1 here: servers in runs that listen on their own loopback, over every kind of link."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.network import Network
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.home import Home
from remoterun.client import Client
from remoterun.client.live.ports import NEXT_PORTS, Forwarding, PortNews
from remoterun.errors import UsageError
from remoterun.model import Run, RunRequest
from remoterun.source import snapshot
from tests.boxes import Box
from tests.integration.conftest import Boxes
from tests.lab import BASE_IMAGE, LabHost
from tests.workshop import User, begun, create_run, ended, own_port, served, spec_of, until, write_files

SERVER = '''
import os, socket, sys, threading, time
port, address = int(sys.argv[1]), sys.argv[2]

def serve(connection):
    """One word first: what it answers with."""
    file = connection.makefile("rwb")
    word = file.readline().split()
    if word[0] == b"echo":
        while data := file.read1(65536):
            connection.sendall(data)
    elif word[0] == b"count":  # all that comes, to its end: then how much it was
        total = 0
        while data := file.read(1 << 16):
            total += len(data)
        file.write(b"%d" % total)
        file.flush()
    elif word[0] == b"give":  # so many bytes, and the end; then what comes until the other end
        connection.sendall(b"x" * int(word[1]))
        connection.shutdown(socket.SHUT_WR)
        print("heard", len(file.read()), flush=True)
    elif word[0] == b"reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
    file.close()
    connection.close()

while not os.path.exists("go"):
    time.sleep(0.02)
listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
print("listens", flush=True)
def accept():
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

threading.Thread(target=accept, daemon=True).start()
while not os.path.exists("shut"):
    time.sleep(0.02)
if os.path.exists("end"):
    sys.exit(0)
listener.shutdown(socket.SHUT_RDWR)
listener.close()
while not os.path.exists("end"):
    time.sleep(0.02)
'''
"""It listens once there is a file `go`, until there is one `shut`, and ends once there is one `end`."""


class Server:
    """A run of `SERVER`, and its port here."""

    def __init__(self, client: Client, run: Run, work: Path, port: int) -> None:
        self.client, self.run, self.work, self.port = client, run, work, port
        self.news: list[PortNews] = []

    def forward(self, local: int = 0, **options: Any) -> Forwarding:
        return self.client.runs.forward(self.run.number, [PortSpec(self.port, local)], self.news.append, **options)

    def until(self, *kinds: str) -> PortNews:
        """The last of the news, once they are of these kinds."""
        until(lambda: [news.kind for news in self.news] == list(kinds), what=lambda: str(self.news))
        return self.news[-1]

    def touch(self, name: str) -> None:
        (self.work / name).touch()


def connect(local: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", local), 60)


def ask(local: int, words: bytes) -> bytes:
    with connect(local) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def answers(local: int) -> bool:
    try:
        return ask(local, b"echo\nhello") == b"hello"
    except OSError:  # it may be cut at any moment
        return False


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """`free_port()`: a port that nobody else is given while the test goes on."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(own_port())


@pytest.fixture
def server(user: User, free_port: Callable[[], int]) -> Iterator[Callable[..., Server]]:
    """`server(address, **request)`: a run that has started, on machine `one`."""

    def start(address: str = "127.0.0.1", **options: Any) -> Server:
        port = options.pop("port", None) or free_port()
        request = RunRequest(f"exec python3 server.py {port} {address}", **options)
        run = user.client.runs.submit(request, user.source({"server.py": SERVER}))
        place = user.place("one")
        place.until_state(run.key, RunState.RUNNING)
        return Server(user.client, user.client.runs.get(run.number), Path(place.run(run.key).work), port)

    yield start


def test_a_server_of_a_run_as_if_it_were_here(server: Callable[..., Server]) -> None:
    it = server()
    with it.forward() as forwarding:
        it.until("waiting")
        it.touch("go")
        local = it.until("waiting", "up").local
        assert it.port < local <= it.port + NEXT_PORTS  # the process engine's server has this machine's port
        assert ask(local, b"echo\nhello") == b"hello"
        data = os.urandom(20 << 20)
        assert hashlib.sha256(ask(local, b"echo\n" + data)).digest() == hashlib.sha256(data).digest()
        assert ask(local, b"count\n" + data) == b"%d" % len(data)  # half-closed here
        with connect(local) as connection:  # half-closed there
            connection.sendall(b"give 3000000\n")
            assert len(received(connection)) == 3_000_000
            connection.sendall(b"and more")
        until(lambda: b"heard 8" in (it.work.parent / "io" / "log").read_bytes())
        with connect(local) as connection, pytest.raises(ConnectionError):
            connection.sendall(b"reset\n")
            received(connection)
            raise ConnectionError
        it.touch("shut")
        it.until("waiting", "up", "down")
        assert not answers(local)
        assert not forwarding.wait(0)
        it.touch("end")
        assert forwarding.wait(60)
    assert [news.kind for news in it.news] == ["waiting", "up", "down"]


def test_waiting_names_the_ports_on_which_the_run_listens(
    server: Callable[..., Server], user: User, free_port: Callable[[], int]
) -> None:
    it, news = server(), list[PortNews]()
    with user.client.runs.forward(it.run.number, [PortSpec(free_port())], news.append):
        until(lambda: [(each.kind, each.others) for each in news] == [("waiting", ())])
        it.touch("go")
        until(lambda: [each.others for each in news] == [(), (it.port,)], what=lambda: str(news))
    with user.client.runs.forward(it.run.number, [PortSpec(free_port())], news.append):
        until(lambda: [each.others for each in news] == [(), (it.port,), (it.port,)], what=lambda: str(news))
    assert {each.kind for each in news} == {"waiting"}


def test_a_port_on_which_another_program_listens_is_not_the_runs(server: Callable[..., Server], user: User) -> None:
    """It took the port first, and is given nothing that was meant for the run."""
    it = server()
    with socket.create_server(("127.0.0.1", it.port)), served(user.place("one").home) as link:
        watching = link.open("watch_ports", key=it.run.key, ports=[it.port])
        watching.end()
        assert next(iter(watching)).header == {"waiting": it.port, "others": []}
        stream = link.open("connect", key=it.run.key, port=it.port)
        stream.end()
        with pytest.raises(RemoteError, match="no process of the run listens"):
            for _ in stream:
                pass
        watching.cancel()
    it.touch("end")


def test_a_server_that_begins_between_two_looks_is_not_among_the_others(
    server: Callable[..., Server], user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, look = server(), Network.listening_of_run

    def late(network: Network) -> set[int]:
        it.touch("go")
        user.place("one").until_says(it.run.key, b"listens")
        return look(network)

    monkeypatch.setattr(Network, "listening_of_run", late)
    with served(user.place("one").home) as link:
        stream = link.open("watch_ports", key=it.run.key, ports=[it.port])
        stream.end()
        said = [frame.header for _, frame in zip(range(2), stream, strict=False)]
        stream.cancel()
    assert said == [{"waiting": it.port, "others": []}, {"up": it.port}]


def test_a_server_that_listens_on_ipv6_only(server: Callable[..., Server]) -> None:
    it = server("::1")
    it.touch("go")
    with it.forward():
        local = until(lambda: it.news and it.news[-1].local)
        assert ask(local, b"echo\nhello") == b"hello"


def test_another_program_at_another_address_of_the_port_is_not_asked(server: Callable[..., Server]) -> None:
    it = server("::1")
    with socket.create_server(("127.0.0.1", it.port)):
        it.touch("go")
        with it.forward():
            local = until(lambda: it.news and it.news[-1].local)
            assert ask(local, b"echo\nhello") == b"hello"


def test_the_port_here_that_was_asked_for(server: Callable[..., Server], free_port: Callable[[], int]) -> None:
    it, wanted = server(), free_port()
    it.touch("go")
    with it.forward(wanted):
        assert until(lambda: it.news and it.news[-1].local) == wanted
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", wanted)) != 0  # only this machine reaches it
        with pytest.raises(OSError, match="(?i)address"), socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", wanted))  # a browser asks there first: no other user may be the one who answers
        news: list[PortNews] = []
        with it.client.runs.forward(it.run.number, [PortSpec(it.port, wanted)], news.append):
            assert wanted < until(lambda: news and news[-1].local) <= wanted + NEXT_PORTS
    until(lambda: not answers(wanted))  # it is given back


def test_ports_of_the_spec(server: Callable[..., Server], user: User, free_port: Callable[[], int]) -> None:
    port, wanted = free_port(), free_port()
    it = server(port=port, ports=(PortSpec(port, wanted),))
    it.touch("go")
    with user.client.runs.forward(it.run.number, (), it.news.append):
        assert until(lambda: it.news and it.news[-1].local) == wanted
        assert ask(wanted, b"echo\nhello") == b"hello"


def test_a_machine_that_names_other_ports_than_were_asked_for_gets_none(
    server: Callable[..., Server], user: User, free_port: Callable[[], int]
) -> None:
    """M6: where a database's port is free here, it would lead to the machine."""
    port, wanted = free_port(), free_port()
    it = server(port=port, ports=(PortSpec(port),))
    it.touch("go")
    spec = user.place("one").folder / "runs" / it.run.key / "spec.json"
    ports = [{"port": port, "local": wanted}]
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "ports": ports}))
    with user.client.runs.forward(it.run.number, (), it.news.append) as forwarding:
        assert forwarding.wait(60)
    assert [news.kind for news in it.news] == ["failed"] and "has ports, which are not known here" in it.news[0].text
    with pytest.raises(UsageError, match="name those that you want") as caught:
        user.client.runs.ports(it.run.number)
    assert caught.value.hint == f"remoterun forward {it.run.number} {port}"


def test_a_run_without_ports_needs_none(server: Callable[..., Server]) -> None:
    it = server()
    with it.client.runs.forward(it.run.number, (), it.news.append) as forwarding:
        assert forwarding.wait(60) and not it.news


def test_a_run_that_has_ended_has_no_ports(server: Callable[..., Server], user: User) -> None:
    it = server()
    user.client.runs.kill(it.run.number)
    for _ in user.client.runs.follow(it.run.number):
        pass
    with pytest.raises(UsageError, match="has ended"):
        it.forward()


def test_close_ends_the_connections(server: Callable[..., Server]) -> None:
    it = server()
    it.touch("go")
    threads = threading.active_count()
    with it.forward():
        local = until(lambda: it.news and it.news[-1].local)
        connection = connect(local)
        connection.sendall(b"echo\nhello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
    with connection, contextlib.suppress(ConnectionError):
        assert connection.recv(1) == b""
    until(lambda: threading.active_count() <= threads)


@pytest.mark.parametrize("ends", [True, False])
def test_a_container_that_ends_while_its_network_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """That is the run's end, of which no error is told; where the run goes on, it is one."""
    home = Home.open(str(tmp_path / "home"))
    run = create_run(home, spec_of(engine="docker"))
    for state in (RunState.BUILDING, RunState.MOUNTING, RunState.RUNNING):
        run.move(state)
    Path(run.engine_file).write_text('{"engine": "docker"}')
    tool = (
        f"#!/bin/sh\n[ $1 = inspect ] && exit\n{f'echo 0 >{run.exit_file}' * ends}\necho it has ended >&2; exit 125\n"
    )
    write_files(tmp_path / "bin", {"docker*": tool})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with served(home) as link, contextlib.ExitStack() as stack:
        if not ends:
            stack.enter_context(pytest.raises(RemoteError, match="it has ended"))
        stream = link.open("watch_ports", key=run.key, ports=[6006])
        stream.end()
        assert stream.finish(60) == {}


@pytest.fixture
def box(box_of: Boxes, host_a: LabHost) -> Box:
    return box_of(host_a)


@pytest.mark.docker
@pytest.mark.timeout(180)
def test_a_server_in_a_container_far_away(box: Box, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """It listens on the container's own loopback, which no address of the host reaches."""
    source = snapshot(write_files(tmp_path / "source", {"server.py": SERVER}), no_git=True)
    client = box.client()
    run = begun(
        client, client.runs.submit(RunRequest("exec python3 server.py 6006 127.0.0.1", image=BASE_IMAGE), source)
    )
    news: list[PortNews] = []
    wanted = free_port()
    with client.runs.forward(run.number, [PortSpec(6006, wanted)], news.append) as forwarding:
        until(lambda: [item.kind for item in news] == ["waiting"])
        with socket.socket() as early:  # as long as nobody listens there, nobody does here
            assert early.connect_ex(("127.0.0.1", wanted)) == errno.ECONNREFUSED
        box.go(run)
        until(lambda: [item.kind for item in news] == ["waiting", "up"])
        assert news[-1].local == wanted
        other: list[PortNews] = []
        with client.runs.forward(run.number, [PortSpec(6007)], other.append):
            until(lambda: [item.others for item in other] == [(6006,)], what=lambda: str(other))
        helpers = until(lambda: found if len(found := box.containers()) == 2 else None)
        data = os.urandom(12 << 20)
        assert ask(wanted, b"count\n" + data) == b"%d" % len(data)
        assert ask(wanted, b"echo\n" + data) == data
        with connect(wanted) as connection:
            connection.sendall(b"give 12000000\n")
            assert len(received(connection)) == 12_000_000
            connection.sendall(b"and more")
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(connect(wanted)) for _ in range(100)]
            for number, connection in enumerate(many):
                connection.sendall(b"echo\n%04d" % number)
            for number, connection in enumerate(many):
                assert connection.recv(4, socket.MSG_WAITALL) == b"%04d" % number
        assert box.containers() == helpers and len(helpers) == 2  # none was started for a connection
        assert box.containers("{{.Ports}}") == []
        with connect(wanted) as connection:
            connection.sendall(b"echo\nhello")
            assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
            box.host.cut()
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
        assert not answers(wanted)
        box.host.heal()
        until(lambda: answers(wanted))
        box.host.sever()  # what our kernel gave up without a word, the host's has not yet
        box.go(run, "end")
        box.go(run, "shut")
        assert forwarding.wait(60)
    assert [item.kind for item in news] == ["waiting", "up"], news
    assert ended(client, run).code == 0


@pytest.mark.docker
@pytest.mark.timeout(180)
def test_an_image_without_python(box: Box, free_port: Callable[[], int]) -> None:
    """Nothing of it is loaded into our program in its network, whatever its variables name."""
    image = "remoterun-test/no-python"
    stripped = "rm -rf /usr/lib/python3* /usr/bin/python3*; mkdir /evil; echo it loads >/evil/libz.so.1"
    box.host.exec(["docker", "run", "--name", "stripped", BASE_IMAGE, "sh", "-c", stripped], check=True)
    box.host.exec(["docker", "commit", "--change", "ENV LD_LIBRARY_PATH=/evil", "stripped", image], check=True)
    box.host.exec(["docker", "rm", "stripped"], check=True)
    server = (
        "use IO::Socket; $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 80, Listen => 5);"
        "while ($c = $listener->accept) { print $c scalar(<$c>); close $c }"
    )
    client = box.client()
    command = f"! python3 --version && exec perl -e {shlex.quote(server)}"
    run = begun(client, client.runs.submit(RunRequest(command, image=image)))
    news: list[PortNews] = []
    with client.runs.forward(run.number, [PortSpec(80, free_port())], news.append):
        until(lambda: news and news[-1].local, what=lambda: str(news))
        assert ask(news[-1].local, b"hello\n") == b"hello\n"
    client.runs.kill(run.number)
    assert ended(client, run).final
