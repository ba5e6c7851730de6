"""What `remoterun.agent.engines` promises, held against each engine."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running.ending import clean_up, finish
from remoterun.agent.running.engines import Engine, EngineError, Interrupted, Presence, docker
from remoterun.agent.running.engines.building import BuildJob
from remoterun.agent.running.engines.docker import Docker
from remoterun.agent.running.engines.process import ProcessEngine
from remoterun.agent.shared.logs import LogReader
from remoterun.agent.shared.spec import EnvironmentSpec, ResolvedMount, RunSpec
from remoterun.agent.shared.states import Reason
from remoterun.agent.store.errors import HomeError
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from remoterun.model import new_key
from tests.homes import put
from tests.lab import BASE_IMAGE
from tests.workshop import (
    NO_PACKAGES,
    SAVES,
    Files,
    Place,
    create_run,
    holding,
    lend,
    read_files,
    running,
    spec_of,
    tree_of,
    until,
    write_files,
)

SECONDS = (f"1000.{os.getpid()}{number}" for number in range(100, 1000))
"""Each marks a `sleep` that no other test has, in whatever process it runs."""


class Bench:
    """An engine and a home to try it in."""

    def __init__(self, engine: Engine, home: Home, again: Callable[[], Engine]) -> None:
        self.engine = engine
        self.home = home
        self.again = again
        self.said: list[str] = []
        self.made: list[RunFolder] = []
        context = home.blobs.put(put(home, NO_PACKAGES).encode())
        self.environment = EnvironmentSpec(BASE_IMAGE, "cpu", context)

    def spec(self, command: str, **changed: Any) -> RunSpec:
        return spec_of(command, environment=self.environment)._replace(**changed)

    def job(self, run: RunFolder, interrupted: Callable[[], bool] = lambda: False) -> BuildJob:
        return BuildJob(run.build_log, self.said.append, interrupted)

    def ready(
        self,
        command: str,
        files: Files | None = None,
        values: dict[str, str] | None = None,
        mounts: Sequence[ResolvedMount] = (),
        **changed: Any,
    ) -> tuple[RunFolder, RunSpec]:
        """A run that is built and mounted."""
        source = put(self.home, files or {})
        spec = self.spec(command, **changed)
        run = create_run(self.home, spec, source, mounts, values=values or {})
        self.made.append(run)
        self.engine.build(run, spec, self.job(run))
        self.home.checkout(source, run.work, private=True)
        if spec.workdir:
            os.makedirs(os.path.join(run.work, spec.workdir), exist_ok=True)
        self.engine.mount(run, spec)
        return run, spec

    def started(self, command: str, files: Files | None = None, **changed: Any) -> RunFolder:
        run, spec = self.ready(command, files, **changed)
        assert self.engine.inspect(run).presence is Presence.ABSENT
        self.engine.start(run, spec, [])
        return run

    def mount(self, files: Files, place: str, file: str = "") -> ResolvedMount:
        return ResolvedMount(place, self.home.blobs.put(put(self.home, files).encode()), file)


def log(run: RunFolder) -> bytes:
    return Path(run.log).read_bytes() if os.path.exists(run.log) else b""


def ended(run: RunFolder) -> int | None:
    until(lambda: run.exit_code() is not None, 60, lambda: log(run).decode("utf-8", "replace"))
    return run.exit_code()


@pytest.fixture(params=["process", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.timeout(600)])])
def bench(request: pytest.FixtureRequest, tmp_path: Path, environment: Path) -> Iterator[Bench]:
    home = Home.open(str(tmp_path / "home"))
    if request.param == "docker":
        request.getfixturevalue("local_docker")
        bench = Bench(Docker(home), home, lambda: Docker(home))
    else:
        lend(environment, home)
        bench = Bench(ProcessEngine(home), home, lambda: ProcessEngine(home))
    yield bench
    children = dict(getattr(bench.engine, "_children", {}))  # `remove` forgets them
    for run in bench.made:
        bench.engine.kill(run)
        bench.engine.remove(run)
        assert bench.again().inspect(run).presence in (Presence.ABSENT, Presence.ENDED)
    for child in children.values():
        child.wait(60)


def test_it_can_be_used_here(bench: Bench) -> None:
    assert bench.engine.problem() is None


def test_a_life(bench: Bench) -> None:
    run = bench.started("echo out; echo err >&2; pwd; cat a; echo new >b; exit 7", {"a": b"A\n"})
    assert ended(run) == 7
    lines = log(run).decode().splitlines()
    assert lines[:2] == ["out", "err"] and lines[3:] == ["A"]
    until(lambda: bench.engine.inspect(run).presence is Presence.ENDED)
    assert bench.engine.inspect(run).code == 7
    assert not bench.engine.alive(run)
    assert read_files(Path(run.work)) == {"a": b"A\n", "b": b"new\n"}
    status = os.stat(os.path.join(run.work, "b"))
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    bench.engine.remove(run)
    bench.engine.remove(run)
    assert read_files(Path(run.work)) == {"a": b"A\n", "b": b"new\n"} and ended(run) == 7


SERVES = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.recv(5))
    connection.close()
"""


def test_the_network_of_its_command(bench: Bench) -> None:
    run = bench.started("exec python3 serve.py", {"serve.py": SERVES})
    port = int(until(lambda: log(run).strip()))
    with bench.again().network(run) as network, socket.create_server(("127.0.0.1", 0)):
        assert port in (network.listening() or ())
        assert network.listening_of_run() == {port}
        for _ in range(3):
            with network.connect(port) as connection:
                connection.sendall(b"hello")
                assert connection.recv(5) == b"hello"
        bench.engine.kill(run)
        until(lambda: port not in (network.listening() or ()))
        with pytest.raises(HomeError) as caught:
            network.connect(port)
        assert caught.value.code == "not_listening"


def test_started_once(bench: Bench) -> None:
    run, spec = bench.ready("echo started; sleep 1000")
    bench.engine.start(run, spec, [])
    until(lambda: log(run) == b"started\n")
    bench.engine.start(run, spec, [])
    other = bench.again()
    assert other.inspect(run).presence is Presence.RUNNING and other.alive(run)
    other.start(run, spec, [])
    assert log(run) == b"started\n"
    other.kill(run)
    until(lambda: not bench.engine.alive(run))


def test_started_once_when_it_has_ended(bench: Bench) -> None:
    run, spec = bench.ready("echo once")
    bench.engine.start(run, spec, [])
    assert ended(run) == 0
    for engine in (bench.engine, bench.again()):
        engine.start(run, spec, [])
        until(lambda engine=engine: engine.inspect(run).presence is Presence.ENDED)
    assert log(run) == b"once\n"


def test_built_once(bench: Bench) -> None:
    run, spec = bench.ready("true")
    bench.said.clear()
    bench.engine.build(run, spec, bench.job(run))
    bench.again().build(run, spec, bench.job(run, lambda: True))
    assert bench.said == []


@pytest.mark.parametrize("framework", ["python", "none"])
def test_without_tensorflow(bench: Bench, framework: str) -> None:
    """Plain Python has `python` and `pip`, whatever the machine or the base image calls them; the other one nothing."""
    environment = bench.environment._replace(variant=framework)
    has = (
        "python -c 'import sys; print(sys.version_info[0])' && pip --version" if framework == "python" else "cat --help"
    )
    run, spec = bench.ready(has, environment=environment)
    bench.engine.start(run, spec, [])
    assert ended(run) == 0, log(run)
    assert bench.said == ([] if framework == "none" else bench.said[-1:])
    tried = bench.started("python -c 'import trainer'", environment=environment)
    assert ended(tried) != 0


def test_a_build_that_fails_and_one_that_is_interrupted(bench: Bench) -> None:
    spec = bench.spec(
        "true", environment=bench.environment._replace(pip=("no-such-package-of-remoterun==99.99 ; bad",))
    )
    run = create_run(bench.home, spec)
    with pytest.raises(EngineError) as caught:
        bench.engine.build(run, spec, bench.job(run))
    assert caught.value.message and caught.value.evidence == f"the whole log: {run.build_log}"
    spec = bench.spec("true", environment=bench.environment._replace(requirements=f"# {new_key()}\n"))
    run = create_run(bench.home, spec)
    with pytest.raises(Interrupted):
        bench.engine.build(run, spec, bench.job(run, lambda: True))


def test_terminate_reaches_all(bench: Bench) -> None:
    run = bench.started(
        "(trap 'echo child' TERM; echo up; while :; do sleep 0.05; [ -e go ] || continue; done) & "
        "trap 'echo parent; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    )
    until(lambda: log(run).count(b"up") == 2)
    bench.engine.terminate(run)
    until(lambda: b"parent" in log(run) and b"child" in log(run), 60, lambda: str(log(run)))
    bench.engine.kill(run)
    assert not bench.engine.alive(run)
    bench.engine.terminate(run)
    bench.engine.kill(run)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("python3 saves.py 0 && echo next", 0, b"up\nsaved\n"),
        ("sh -c 'echo up; exec sleep 1000.75'", 143, b"up\n"),
    ],
)
def test_a_stop_leaves_status_and_log_to_the_command(bench: Bench, command: str, code: int, said: bytes) -> None:
    """No shell of ours ends before the program that it waits for, and none says `Terminated`."""
    run = bench.started(command, {"saves.py": SAVES.encode()})
    until(lambda: b"up" in log(run))
    assert bench.engine.terminate(run)
    assert ended(run) == code
    assert log(run) == said


def test_what_was_asked_for_goes_with_the_run(bench: Bench) -> None:
    """A value lies in the home until the wrapper has read it, and nowhere once the command runs."""
    run = bench.started('[ "$TOKEN" ] && echo up; sleep 1000', values={"TOKEN": "s3cr3t-value"})
    until(lambda: b"up" in log(run))
    assert holding(bench.home, b"s3cr3t-value") == {run.values_file}, "the supervisor deletes it then"
    bench.engine.kill(run)
    finish(run, Reason.KILLED)
    assert clean_up(bench.home, run, bench.engine)
    assert holding(bench.home, b"s3cr3t-value") == set()


def test_the_commands_umask_and_a_long_command(bench: Bench) -> None:
    run = bench.started("umask; echo " + "x" * 300_000 + " | wc -c")
    assert ended(run) == 0
    assert log(run).split() == [b"0022", b"300001"]


def test_stderr_apart(bench: Bench) -> None:
    run = bench.started("echo out; echo err >&2; no-such-program; echo end", split=True)
    assert ended(run) == 0 and log(run) == b"out\nend\n"
    first, second = Path(run.err).read_bytes().splitlines()
    assert first == b"err" and b"no-such-program" in second


def test_kill_leaves_nothing(bench: Bench) -> None:
    seconds = next(SECONDS)
    sleep = f"sleep {seconds}"
    away = f"setsid {sleep} & env -i setsid {sleep} & (setsid sh -c '{sleep} & {sleep}' &)"
    run = bench.started(f"trap '' TERM INT HUP; {away}; echo up; {sleep}")
    until(lambda: b"up" in log(run) and len(running(seconds)) == 5)
    bench.engine.kill(run)
    assert not bench.engine.alive(run)
    until(lambda: not running(seconds))


def test_variables(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's, and none that lends it a key."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/of/whoever/submits")
    value = "a'b\"c\n$d `e` \\ é!"
    run = bench.started(
        'printf "%s|" "$VALUE" $SSH_AUTH_SOCK; touch "$HOME/of-remoterun" && rm "$HOME/of-remoterun"',
        values={"VALUE": value},
    )
    assert ended(run) == 0
    assert log(run).decode() == value + "|"
    assert stat.S_IMODE(os.stat(os.path.join(run.io, "env")).st_mode) == 0o600


@pytest.mark.parametrize("own", [None, "/of/mine"])
def test_a_module_that_logs_numbers(bench: Bench, own: str | None) -> None:
    """In any environment that has Python; PYTHONPATH is the user's first."""
    code = (
        "import os; from remoterun_log import log; log(step=10, loss=0.3, bad='x'); log(loss=float('nan'), worse='x');"
        "print(os.environ['PYTHONPATH'].split(':')[0])"
    )
    run = bench.started(f'python3 -c "{code}"', values={"PYTHONPATH": own} if own else {})
    assert ended(run) == 0, log(run)
    warning, first = log(run).decode().splitlines()
    assert warning == "remoterun_log: bad is not a number: could not convert string to float: 'x'"
    assert own is None or first == own
    lines = [json.loads(line) for line in Path(run.io, "metrics.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["loss", "step", "time"], ["loss", "time"]]
    assert (lines[0]["step"], lines[0]["loss"]) == (10, 0.3) and lines[1]["loss"] != lines[1]["loss"]


def inside(
    bench: Bench, run: RunFolder, line: str, name: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """A line for the shell, as one more program of a run."""
    program = bench.engine.exec(run, run.spec(), ["/bin/sh", "-c", line], name)
    return subprocess.run(program.words, env=program.env, cwd=program.folder, input=stdin, capture_output=True)


def test_a_program_inside(bench: Bench) -> None:
    """It has the command's folder, variables and files; its own streams and exit status; and none of the values lies
    on the disk for it."""
    value = "a'b\"c\n$d `e` \\ é!"
    run = bench.started(
        "echo up; while [ ! -e go ]; do sleep 0.05; done; cat made",
        values={"VALUE": value},
        env={"OURS": "1"},
        workdir="w",
    )
    until(lambda: b"up" in log(run))  # it has read the values
    run.forget_values()
    done = inside(bench, run, 'cat; printf "%s|%s" "$OURS" "$VALUE"; pwd >&2; umask >made; >go; exit 7', "x", b"in\n")
    assert done.returncode == 7, done
    assert done.stdout.decode() == f"in\n1|{value}"
    assert done.stderr.decode().strip().endswith("/w")
    assert ended(run) == 0
    assert log(run) == b"up\n0022\n"
    assert holding(bench.home, value.encode()) == set()


def test_the_end_of_a_program_inside(bench: Bench) -> None:
    """What it left ends with it, and nothing else does; and it keeps no run from its end."""
    command, one, two = (next(SECONDS) for _ in range(3))
    run = bench.started(f"echo up; sleep {command}")
    until(lambda: b"up" in log(run) and running(command))
    for name, seconds in (("one", one), ("two", two)):
        inside(bench, run, f"setsid sh -c \"trap '' HUP TERM; sleep {seconds}\" </dev/null >/dev/null 2>&1 &", name)
        until(lambda seconds=seconds: running(seconds))
    bench.engine.end_exec(run, "one")
    until(lambda: not running(one))
    assert running(two) and running(command)
    assert bench.engine.terminate(run)
    assert ended(run) == 143
    until(lambda: not bench.engine.alive(run))
    bench.engine.kill(run)
    until(lambda: not running(two))


def test_what_a_run_has_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.started(
        "python3 -c 'import time; held = bytearray(50_000_000); [i for i in range(3_000_000)]; print(1, flush=True); "
        "time.sleep(1000)'"
    )
    until(lambda: log(run))
    used = bench.engine.counters(run)
    assert used is not None and used.cpu > 0.05 and 45_000_000 < used.memory < 400_000_000
    later = bench.engine.counters(run)
    assert later is not None and later.cpu >= used.cpu
    with monkeypatch.context() as patched:
        patched.setattr(docker, "group_of", lambda pid: lambda name: "")  # as where Docker is in a machine of its own
        inside = bench.engine.counters(run)
    after = bench.engine.counters(run)
    assert inside is not None and after is not None and used.cpu <= inside.cpu <= after.cpu
    if later.received is None:
        assert inside.received is after.received is None
    else:
        assert inside.received is not None and after.received is not None
        assert later.received <= inside.received <= after.received
    bench.engine.kill(run)


def test_cpus_and_memory(bench: Bench) -> None:
    """A program sees as many CPUs as were asked for, and no two runs get the same ones where there are others."""
    command = "nproc; python3 -c 'import os; print(*os.sched_getaffinity(0))'; sleep 1000"
    runs = [bench.started(command, cpus=1, memory=1 << 30) for _ in range(min(len(os.sched_getaffinity(0)), 4))]
    seen = [until(lambda run=run: log(run).count(b"\n") == 2 and log(run).split()) for run in runs]
    assert {first for first, _ in seen} == {b"1"} and len({cpu for _, cpu in seen}) == len(runs)
    for run in runs:
        bench.engine.kill(run)
        assert not bench.engine.inspect(run).out_of_memory


def test_mounts(bench: Bench) -> None:
    mounts = [
        bench.mount({"in": b"in", "sub/run*": b"#!/bin/sh\necho ran\n"}, "w/data"),
        bench.mount({"f.txt": b"file"}, "w/one/renamed.txt", "f.txt"),
        bench.mount({"in": b"over"}, "tracked"),
    ]
    run = bench.started(
        "cat data/in one/renamed.txt ../tracked/in; ./data/sub/run; ls ../tracked one",
        {"tracked/old": b"x", "w/one/beside": b"y"},
        mounts=mounts,
        workdir="w",
    )
    assert ended(run) == 0, log(run)
    assert log(run) == b"infileoverran\n../tracked:\nin\n\none:\nbeside\nrenamed.txt\n"


def test_mounts_can_be_repeated_and_are_safe(bench: Bench) -> None:
    run, spec = bench.ready("echo more >>data/in; cat data/in; true", mounts=[bench.mount({"in": b"in"}, "data")])
    bench.engine.mount(run, spec)
    bench.engine.start(run, spec, [])
    assert ended(run) == 0
    assert Path(bench.home.blobs.path(next(iter(tree_of({"in": b"in"})[0])).digest)).read_bytes() == b"in"


@pytest.mark.parametrize("bench", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
@pytest.mark.timeout(600)
def test_a_container_leads_its_host_nowhere(bench: Bench, tmp_path: Path) -> None:
    """Its command can't write what the supervisor writes, nor can a program in it become root; and what it puts into
    the folder that its wrapper writes is not opened."""
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    run, spec = bench.ready(
        f"cp /proc/self/status .; cd /.remoterun; rm -f exit* log; ln -s {victim} stopping; ln -s {victim} log; "
        f"mkfifo exit; ln -s {victim} /.remoterun-control/stopping || touch /remoterun/refused; "
        f"touch /remoterun/done; sleep 1000"
    )
    bench.engine.start(run, spec, [])
    work = Path(run.work)
    until((work / "done").exists)
    assert (work / "refused").exists() and "NoNewPrivs:\t1" in (work / "status").read_text()
    assert run.exit_code() is None and list(LogReader(run.log_file("log"), 0, False).pieces()) == []
    assert bench.engine.terminate(run)
    until(lambda: bench.engine.inspect(run).presence is Presence.ENDED)
    assert bench.engine.remove(run)
    (work / "done").unlink()
    bench.engine.start(run, spec, [])  # another attempt
    until((work / "done").exists)
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("bench", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
@pytest.mark.timeout(600)
def test_a_container_whose_shell_prints_without_end(bench: Bench) -> None:
    """It can be stopped, and what it prints is not read."""
    run = bench.started(
        "printf '#!/usr/bin/yes --\\n' >/tmp/sh; chmod 755 /tmp/sh; touch up; exec python3 -c 'import os, time; "
        'os.rename("/tmp/sh", "/bin/sh"); os.rename("up", "done"); time.sleep(1000)\''
    )
    until((Path(run.work) / "done").exists)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(bench.engine, Docker)
    bench.engine._first_processes[run.key] = 0  # as where Docker is in a machine of its own
    assert bench.engine.counters(run) is None
    assert bench.engine.terminate(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)
    assert bench.engine.kill(run)


def test_an_absolute_mount(bench: Bench) -> None:
    mounts = [bench.mount({"in": b"in"}, "/abs/data")]
    if bench.engine.name == "process":
        with pytest.raises(EngineError, match="absolute"):
            bench.ready("true", mounts=mounts)
        return
    run = bench.started("cat /abs/data/in", mounts=mounts)
    assert (ended(run), log(run)) == (0, b"in")


def test_what_process_cannot_do(tmp_path: Path, place: Place) -> None:
    engine = ProcessEngine(place.home)
    for changed in ({"image": "x"}, {"apt": ("git",)}):
        spec = place.spec("true")
        spec = spec._replace(environment=spec.environment._replace(**changed))
        run = create_run(place.home, spec)
        with pytest.raises(EngineError) as caught:
            engine.build(run, spec, BuildJob(run.build_log, lambda text: None, lambda: False))
        assert caught.value.hint
        run.remove()
        place.home.unmark_active(run.key)


def test_a_docker_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in str(Docker(home).problem())
    for text, problem in (
        ("echo permission denied >&2; exit 1", "this user may not use Docker here"),
        ("echo Cannot connect >&2; exit 1", "Docker is not running here"),
        ("exit 0", "None"),
    ):
        write_files(tmp_path, {"docker*": f"#!/bin/sh\n{text}\n"})
        assert problem in str(Docker(home).problem())
    write_files(tmp_path, {"docker*": "#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n"})
    run = home.run("abcdefgh")
    assert Docker(home).inspect(run).presence is Presence.UNKNOWN
