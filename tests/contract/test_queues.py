"""What `remoterun.agent.running.queues` promises, held against our own line and a second queue.

A scheduler of a whole cluster is held to the same by a file of its own, case for case: `integration/test_slurm.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue as News

import pytest

from remoterun.agent.running.queues import QUEUES, Queue, queue_named
from remoterun.agent.shared import api
from remoterun.agent.shared.files import write_whole
from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.errors import HomeError
from remoterun.client.live.ports import PortNews
from remoterun.config import Config
from remoterun.errors import UsageError
from remoterun.hosts import local
from remoterun.hosts.bundle import AgentBundle, agent_bundle
from remoterun.model import MachineType, Run, RunRequest
from remoterun.session import Session
from tests.contract import spool
from tests.workshop import SAVES, Place, User, command_line, kill9, own_port, pids, spec_of, until, write_files

ROOT = Path(__file__).parents[2]


def spool_bundle() -> AgentBundle:
    """The agent, with the spool among the queues that it knows."""
    sources, call = dict(agent_bundle().sources), b"sys.exit(main())\n"
    row = b'from agent.running.queues import QUEUES\nQUEUES["spool"] = "spool:Spool"\n'
    assert call in sources["__main__.py"]
    sources["__main__.py"] = sources["__main__.py"].replace(call, row + call)
    sources["spool.py"] = Path(spool.__file__).read_text().replace("remoterun.agent", "agent").encode()
    return AgentBundle(sources)


BUNDLE = spool_bundle()


class Bench(User):
    """A client with one machine, whose runs wait in the queue `name`, one at a time."""

    def __init__(self, root: Path, environment: Path, name: str) -> None:
        super().__init__(root, environment, ("box",))
        self.name = name
        self.home = self.places["box"].home
        machine = MachineType("box", engine="process", home=self.home.path, slots=1, queue=name)
        self.client.close()
        self.config = Config(root / "laptop", default="box", machines={"box": machine})
        self.new_client()

    @property
    def queue(self) -> Queue:
        return queue_named(self.home, self.name)

    @property
    def box(self) -> Place:
        return self.places["box"]

    def session(self) -> Session:
        return self.client.connections.session(self.client.connections.machine("box"))

    def submit(self, command: str, gpus: int | None = None) -> Run:
        request = RunRequest(command, gpus=gpus, framework="none")
        return self.client.runs.submit(request, self.source({"saves.py": SAVES}), "box")

    def holder(self, end: str = "") -> Run:
        """A run that has the only slot until the file `go` is there."""
        run = self.submit(f"until [ -e {self.root}/go ]; do sleep 0.02; done; {end}")
        self.box.until_state(run.key, RunState.RUNNING)
        return run

    def go(self) -> None:
        (self.root / "go").touch()

    def left(self) -> list[str]:
        """What runs that have ended hold, as far as any queue knows."""
        spooled = Path(self.home.path, "spool")
        files = [path.name for path in spooled.iterdir()] if spooled.exists() else []
        return [*self.home.active_keys(), *os.listdir(self.home.queue), *files]


@pytest.fixture(params=["", "spool"], ids=["line", "spool"])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    cards = "".join(f"{number}, GPU-{number}, Tesla T4, 15000, 1, 0\\n" for number in range(2))
    tool = f"#!/bin/sh\ncase $1 in *utilization*) printf '{cards}';; esac\n"
    tools = write_files(tmp_path / "tools", {"nvidia-smi*": tool})
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setitem(QUEUES, "spool", "tests.contract.spool:Spool")
    monkeypatch.setattr(local, "agent_bundle", lambda: BUNDLE)
    bench = Bench(tmp_path, environment, request.param)
    folder = Path(bench.home.path, "spool")
    folder.mkdir()
    loop = subprocess.Popen([sys.executable, "-m", "tests.contract.spool", str(folder)], cwd=ROOT)
    try:
        yield bench
        bench.close()
    finally:
        loop.kill()
        loop.wait(60)


def test_to_its_end(bench: Bench) -> None:
    """The job's own status, log and outputs; nothing is held afterwards, by nobody."""
    run = bench.submit("echo out; echo err >&2; echo made >made; exit 7")
    status = bench.box.until_final(run.key)
    assert (status["state"], status["code"], status["reason"]) == ("failed", 7, "exit_nonzero")
    assert sorted(bench.box.log(run.key).split()) == [b"err", b"out"]
    assert bench.box.outputs(run.key) == {"made": b"made\n"}
    until(lambda: bench.left() == [], what=lambda: str(bench.left()))
    until(lambda: bench.box.supervisor(run.key) is None)
    until(lambda: not bench.queue.supervised(bench.home.run(run.key)))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_that_waits_says_why_and_is_ended(bench: Bench, how: str) -> None:
    holder, waiting, last = bench.holder(), bench.submit("true"), bench.submit("true")
    session, demand = bench.session(), api.Demand(slots=1, queue=bench.name)

    def note() -> str:
        (status,) = session.ask(api.runs, api.RunKeys([waiting.key])).runs
        return status.note or ""

    assert until(note).startswith("waiting for ")
    there = session.ask(api.occupancy, demand)
    assert (there.free, there.before, there.lacks) == (False, 2, None)
    assert {run.key: run.place for run in there.runs} == {holder.key: 0, waiting.key: 1, last.key: 2}
    assert bench.queue.gpus(bench.home.run(waiting.key)) is None
    bench.box.end(waiting.key, how)
    assert bench.box.until_final(waiting.key)["reason"] == {"stop": "stopped", "kill": "killed"}[how]
    assert bench.box.state(last.key) is RunState.QUEUED
    bench.go()
    for run in (holder, last):
        assert bench.box.until_final(run.key)["state"] == "complete"
    until(lambda: bench.left() == [], what=lambda: str(bench.left()))
    assert session.ask(api.occupancy, demand).free


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_that_runs_is_ended(bench: Bench, how: str) -> None:
    run = bench.submit(f"{sys.executable} saves.py 3")
    bench.box.until_says(run.key, b"up")
    bench.box.end(run.key, how)
    status = bench.box.until_final(run.key)
    assert (status["reason"], status["code"]) == {"stop": ("stopped", 3), "kill": ("killed", 137)}[how]
    assert (b"saved" in bench.box.log(run.key)) is (how == "stop")
    until(lambda: bench.left() == [], what=lambda: str(bench.left()))


def test_a_supervisor_that_dies_is_followed_by_another(bench: Bench) -> None:
    """At the next contact; the command goes on meanwhile, and is not started twice."""
    run = bench.holder("echo once; exit 5")
    folder = bench.home.run(run.key)
    until(lambda: bench.queue.supervised(folder))
    kill9(bench.box.supervisor(run.key))
    until(lambda: not bench.queue.supervised(folder))
    bench.go()
    bench.session().ask(api.runs, api.RunKeys([run.key]))
    assert bench.box.until_final(run.key)["code"] == 5
    assert bench.box.log(run.key) == b"once\n"
    until(lambda: bench.left() == [], what=lambda: str(bench.left()))


def test_it_has_one_supervisor(bench: Bench) -> None:
    """Whoever asks, and however often."""
    run = bench.holder()
    for _ in range(3):
        bench.session().ask(api.runs, api.RunKeys([run.key]))
        bench.queue.settle({run.key})
    words = [words for words in map(command_line, pids()) if b"supervise" in words and run.key.encode() in words]
    assert len(words) == 1
    with bench.queue.supervising(bench.home.run(run.key)) as ours:
        assert not ours
    bench.queue.submit(bench.home.run(run.key), bench.home.run(run.key).spec())
    bench.go()
    assert bench.box.until_final(run.key)["state"] == "complete"


def test_gpus_are_granted(bench: Bench) -> None:
    run = bench.submit(f"echo $CUDA_VISIBLE_DEVICES; until [ -e {bench.root}/go ]; do sleep 0.02; done", gpus=2)
    granted = spool.GPUS if bench.name else ["GPU-0", "GPU-1"]
    bench.box.until_says(run.key, ",".join(granted).encode())
    assert bench.queue.gpus(bench.home.run(run.key)) == granted
    bench.go()
    assert bench.box.until_final(run.key)["state"] == "complete"
    until(lambda: bench.queue.gpus(bench.home.run(run.key)) is None)


def test_more_than_there_ever_will_be(bench: Bench) -> None:
    assert bench.queue.lacks(spec_of(gpus=2)) is None and bench.queue.lacks(spec_of()) is None
    lacks = bench.queue.lacks(spec_of(gpus=3))
    assert lacks and bench.queue.occupancy(api.Demand(3)).lacks == lacks
    with pytest.raises(UsageError, match=lacks):
        bench.submit("true", gpus=3)
    assert bench.home.run_keys() == []


def test_doctor_asks_it_about_gpus(bench: Bench) -> None:
    asked = api.Examine("process", 2, queue=bench.name)
    checks = {check.name: check.ok for check in bench.session().ask(api.doctor, asked).checks}
    assert checks["spool" if bench.name else "gpu"] and ("gpu" in checks) is not bool(bench.name)


def test_what_goes_on_inside_is_asked_where_it_is(bench: Bench) -> None:
    serves = "import http.server as h; h.HTTPServer(('127.0.0.1', {}), h.SimpleHTTPRequestHandler).serve_forever()"
    with own_port() as port:
        run = bench.submit(f'{sys.executable} -c "{serves.format(port)}"')
        news: News[PortNews] = News()
        with bench.client.runs.forward(run.number, [PortSpec(port)], news.put):
            while (found := news.get(timeout=60)).kind != "up":
                assert found.kind == "waiting"
            with urllib.request.urlopen(f"http://127.0.0.1:{found.local}/saves.py") as answer:
                assert answer.read().decode() == SAVES
        with bench.client.runs.exec(run.number, "pwd; echo $SPOOL_NODE >&2; exit 9") as program:
            said = list(program.output())
            assert program.code == 9
        assert b"".join(data for data, error in said if not error).decode().strip() == bench.home.run(run.key).work
        ((use,),) = bench.client.runs.top([run.number], once=True)
        assert use.sample is not None and use.sample.memory
        where, session = bench.client.connections.session_where(bench.client.runs.get(run.number)), bench.session()
        assert (where is session) is not bool(bench.name)
        if bench.name:
            with pytest.raises(UsageError, match="another machine"):
                session.ask(api.execute, api.Execute(run.key, "true"))
        bench.box.end(run.key, "kill")
        bench.box.until_final(run.key)


def test_the_machine_is_taken_away(bench: Bench) -> None:
    """From the run, which is stopped before."""
    run = bench.submit(f"{sys.executable} saves.py 0")
    bench.box.until_says(run.key, b"up")
    at = time.time() + 120
    if bench.name:
        write_whole(str(Path(bench.home.path, "spool", f"{run.key}.taken")), str(at).encode())
    else:
        bench.home.rental.leave(at, "taken")
    status = bench.box.until_final(run.key)
    assert (status["state"], status["reason"]) == ("interrupted", "preempted") and b"saved" in bench.box.log(run.key)


def test_its_time_in_the_queue_is_up(bench: Bench) -> None:
    if not bench.name:
        assert bench.queue.until(bench.home.run(spec_of().key)) is None, "our line ends no run"
        return
    bench.holder()
    run = bench.submit(f"{sys.executable} saves.py 0")
    Path(bench.home.path, "spool", f"{run.key}.until").write_text(str(time.time()))
    bench.go()
    assert bench.box.until_final(run.key)["reason"] == "timeout"


def test_a_queue_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(HomeError, match="no queue `pbs`"):
        queue_named(bench.home, "pbs")
    machine = replace(bench.config.machines["box"], queue="pbs")
    bench.config = replace(bench.config, machines={"box": machine})
    bench.new_client()
    with pytest.raises(UsageError, match="no queue `pbs`"):
        bench.submit("true")
