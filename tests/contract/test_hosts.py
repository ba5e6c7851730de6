"""What `remoterun.hosts.base` promises, held against each kind of host: a pipe to the real agent."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.pieces import PIECE
from remoterun.agent.shared.protocol import Link, LinkClosed, RemoteError
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.config import Config
from remoterun.errors import AgentError, HostError, LinkLost
from remoterun.hosts import HOSTS, host_of
from remoterun.hosts.base import Host, Prompts
from remoterun.hosts.bundle import AgentBundle, agent_bundle
from remoterun.hosts.local import LocalHost
from remoterun.hosts.ssh.config import Deadlines, SSHTarget, resolve
from remoterun.hosts.ssh.host import SSHHost
from remoterun.hosts.ssh.master import masters as find_masters
from remoterun.model import MachineType
from remoterun.session import Session
from tests.sshd import bundle_of, make_keys, starter
from tests.workshop import ask, at_once, call, kill9, sha256, until

MakeHost = Callable[..., Host]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A client configuration with the alias `box` for an sshd of this user."""
    with contextlib.ExitStack() as stack:
        start = starter(tmp_path_factory.mktemp("sshd"), make_keys(tmp_path_factory.mktemp("keys")), stack)
        yield start("MaxStartups 100", path=os.environ["PATH"]).config()


@pytest.fixture(scope="session")
def masters(sshd: Path) -> Iterator[Path]:
    """A folder with a live master for `box`."""
    folder = Path(tempfile.mkdtemp(prefix="rr"))
    place = find_masters(resolve(SSHTarget("box"), sshd), sshd, folder)[0]
    place.open(600, batch=True)
    yield folder
    place.end()
    shutil.rmtree(folder)


@pytest.fixture(params=["local", "ssh", "master"])
def make_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeHost]:
    """`make_host(bundle=None, seconds=30)`: a host whose agent works in `tmp_path/home`, and must speak in so many
    seconds; closed at the end."""
    made: list[Host] = []
    config = None if request.param == "local" else request.getfixturevalue("sshd")
    live = request.getfixturevalue("masters") if request.param == "master" else None

    def make(bundle: AgentBundle | None = None, seconds: float = 30) -> Host:
        if config is None:
            made.append(LocalHost(tmp_path / "home", bundle=bundle, start_seconds=seconds))
        else:
            deadlines = Deadlines(start=seconds)
            options = {"home": str(tmp_path / "home"), "config_file": config, "bundle": bundle, "deadlines": deadlines}
            made.append(SSHHost("box", masters=live, **options))
        return made[-1]

    yield make
    for host in made:
        host.close()
        host.close()


@contextlib.contextmanager
def talk(host: Host) -> Iterator[Link]:
    pipe = host.open()
    link = Link(pipe.pump, pipe.write)
    link.start()
    try:
        yield link
    finally:
        pipe.close()


def test_the_pipe_stands_at_the_first_frame(make_host: MakeHost, tmp_path: Path) -> None:
    with talk(make_host()) as link:
        hello = link.greeting(60)
        assert hello["home"] == str(tmp_path / "home")
        assert call(link, "uploads") == {"uploads": []}


def test_the_agent_is_brought_once(make_host: MakeHost, tmp_path: Path) -> None:
    with talk(make_host()) as link:
        link.greeting(60)
    program = tmp_path / "home" / "agent" / agent_bundle().file_name
    before = os.stat(program)
    assert program.read_bytes() == agent_bundle().data
    with talk(make_host()) as link:
        link.greeting(60)
    assert (os.stat(program).st_ino, os.stat(program).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_several_pipes_at_once(make_host: MakeHost) -> None:
    host = make_host()
    with talk(host) as one, talk(host) as two:
        assert one.greeting(60)["pid"] != two.greeting(60)["pid"]
        assert call(one, "runs") == call(two, "runs") == {"runs": [], "unreadable": {}, "waiting": []}


def test_large_things_both_ways(make_host: MakeHost) -> None:
    blob = os.urandom(20 << 20)
    with talk(make_host()) as link:
        link.greeting(60)
        about = {"d": sha256(blob), "s": len(blob)}
        pieces = (blob[number * PIECE : (number + 1) * PIECE] for number in range(20))
        call(link, "put", *((piece, {**about, "n": [number]}) for number, piece in enumerate(pieces)))
        call(link, "seal", digest=sha256(blob), size=len(blob))
        call(link, "commit_upload", Manifest([Entry("f", "a", len(blob), sha256(blob))]).encode(), name="big")
        came = ask(link, "get", b"a\0", resource={"kind": "upload", "name": "big"})
        assert b"".join(frame.body for frame in came) == blob


def test_close_ends_the_agent_and_wakes_the_reader(make_host: MakeHost) -> None:
    pipe = make_host().open()
    link = Link(pipe.pump, pipe.write)
    thread = link.start()
    pid = link.greeting(60)["pid"]
    pipe.close()
    pipe.close()
    thread.join(60)
    assert not thread.is_alive()
    until(lambda: not os.path.exists(f"/proc/{pid}"), what="the agent ends")
    assert pipe.read(10) == b""
    with pytest.raises(LinkLost):
        for _ in range(100):
            pipe.write(b"x" * 100_000)
    assert isinstance(pipe.diagnosis(), str)


def test_an_agent_that_dies(make_host: MakeHost) -> None:
    host = make_host()
    with talk(host) as link:
        pid = link.greeting(60)["pid"]
        stream = link.open("follow", key="abcdefgh")
        kill9(pid)
        with pytest.raises((LinkClosed, RemoteError)):
            stream.finish(60)
        until(lambda: link.closed)
        with pytest.raises(LinkClosed):
            call(link, "runs")
    with talk(host) as link:
        assert link.greeting(60)["pid"] != pid


def test_write_blocks_until_all_is_taken(make_host: MakeHost) -> None:
    """Many threads share a link: their frames don't mix."""
    with talk(make_host()) as link:
        link.greeting(60)

        def work() -> None:
            for _ in range(30):
                assert call(link, "uploads") == {"uploads": []}

        at_once([work] * 8, 200)


@pytest.mark.parametrize(
    "program", ["raise SystemExit('broken here')", "import time; print('no magic', flush=True)", "1/0", "syntax error"]
)
def test_a_program_that_is_not_an_agent(make_host: MakeHost, program: str) -> None:
    with pytest.raises(AgentError) as caught:
        make_host(bundle_of(program)).open()
    assert caught.value.evidence


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(30)",
        "import os\nwhile True: os.write(1, b'x' * 64000)",
        "import os, time\nwhile True: os.write(1, b'x'); time.sleep(0.1)",
        "import os, time\nwhile True: os.write(2, b'x' * 64000); time.sleep(0.01)",
    ],
    ids=["silent", "endless", "slow", "errors"],
)
def test_a_program_that_neither_speaks_nor_ends(make_host: MakeHost, program: str) -> None:
    with pytest.raises(AgentError, match=r"within 1 s|KiB of output|does not start") as caught:
        make_host(bundle_of(program), seconds=1).open()
    assert len(caught.value.evidence or "") < 10_000


def test_of_endless_errors_the_end_is_kept(make_host: MakeHost) -> None:
    program = "import sys; sys.stderr.write('e' * 16_000_000 + 'last words'); sys.exit(1)"
    with pytest.raises(AgentError):  # what a first host imports is not counted
        make_host(bundle_of("import sys; sys.exit(1)")).open()
    tracemalloc.start()
    try:
        with pytest.raises(AgentError) as caught:
            make_host(bundle_of(program)).open()
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.evidence and caught.value.evidence.endswith("last words")


@pytest.mark.parametrize("part", [".", "home", "home/agent"])
@pytest.mark.parametrize("change", [["chmod", "g+w"], ["chmod", "o+w"], ["chmod", "1777"], ["chown", "12345"]], ids=str)
def test_a_home_that_others_may_write(make_host: MakeHost, tmp_path: Path, part: str, change: list[str]) -> None:
    """No program is started from it, and none is put there. Above it, a folder may be as `/tmp` is, or as Debian makes
    it for a user, whose own group has nobody else."""
    if change[0] == "chown" and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    with talk(make_host()) as link:
        assert link.greeting(60)
    new = bundle_of("open('started', 'w')")
    subprocess.run([*change, str(tmp_path / part)], check=True)
    if part == "." and change[1] in ("1777", "g+w"):
        with talk(make_host()) as link:
            assert link.greeting(60)
        return
    for bundle in (None, new):
        with pytest.raises(AgentError, match=f"others than you may write to `{tmp_path / part}`.*could repl") as caught:
            make_host(bundle).open()
        assert change[0] == "chown" or f"chmod go-w {tmp_path / part}   " in (caught.value.hint or "")
    assert not (tmp_path / "home" / "agent" / new.file_name).exists()


def test_a_home_behind_a_link(make_host: MakeHost, tmp_path: Path) -> None:
    """Whoever may change the link decides nothing once the way to the home was looked at."""
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "home").symlink_to("real")
    session = Session(MachineType("m"), make_host())
    assert session.hello.home == str(tmp_path / "real")
    session.close()


def test_a_home_that_cannot_be(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(HostError) as caught:
        make_host().open()
    assert caught.value.hint or caught.value.evidence


def test_a_machine_type_has_its_kind_of_host(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host()
    machine = MachineType("m", host="box" if isinstance(host, SSHHost) else None)
    made = host_of(machine, Config(home=tmp_path), Prompts())
    assert type(made) is type(host) and set(HOSTS) == {"local", "ssh"}


def test_a_session_over_it(make_host: MakeHost) -> None:
    session = Session(MachineType("m"), make_host())
    assert session.ask(api.uploads, api.Nothing()).uploads == [] and session.alive
    kill9(int(session.hello.pid))
    until(lambda: not session.alive)
    with pytest.raises(LinkLost, match="m was lost"):
        session.ask(api.uploads, api.Nothing())
    session.close()
