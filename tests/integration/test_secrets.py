"""The value of a secret is in a run's environment and nowhere else: a whole host is looked through, and the home here.

A host over SSH, with each engine; while the run waits, while its command runs, and once it has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from remoterun.agent.shared.states import RunState
from remoterun.client import Client
from remoterun.config import Config
from remoterun.model import MachineType, Run, RunRequest
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.workshop import real_environments, until

VALUE = "s3cr3t-of-" + os.urandom(6).hex()
EVERYWHERE = "/home /root /tmp /run /etc /dev/shm /usr/local /var/log /var/tmp /var/lib/docker /var/lib/containerd"

pytestmark = pytest.mark.timeout(300)


class Traces:
    """Where `VALUE` is on a host, but for the environments of processes. It is told on stdin: a search that has it
    among its words finds itself."""

    def __init__(self, host: LabHost, here: Path) -> None:
        self.host, self.here = host, here

    def found(self) -> set[str]:
        return {*self._files(), *self._said("processes", "cat /proc/[0-9]*/cmdline 2>/dev/null"), *self._docker()}

    def _files(self) -> set[str]:
        said = self.host.exec(["sh", "-c", f"grep -rslFf - -D skip {EVERYWHERE}"], input=VALUE, timeout=120).stdout
        logs = {str(path) for path in self.host.logs.iterdir() if VALUE in path.read_text(errors="replace")}
        return {*said.splitlines(), *logs}

    def _docker(self) -> set[str]:
        containers = 'ids=$(docker ps -aq); [ -z "$ids" ] || docker inspect $ids'
        images = 'for id in $(docker images -aq); do docker image inspect "$id"; docker history --no-trunc "$id"; done'
        return {*self._said("containers", containers), *self._said("images", images)}

    def _said(self, what: str, command: str) -> set[str]:
        return {what} if VALUE in self.host.exec(["sh", "-c", command]).stdout.replace("\0", " ") else set()

    def here_too(self) -> set[str]:
        """The files of this user's home that hold it."""
        files = [path for path in self.here.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.here)) for path in files if VALUE.encode() in path.read_bytes()}


@pytest.fixture(params=["docker", "process"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(lab: Lab, host_a: LabHost, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    there = f"secrets/{os.urandom(4).hex()}"
    machine = MachineType("box", host=host_a.name, engine=engine, home=there, base_image=BASE_IMAGE, slots=1)
    if engine == "process":
        for name in real_environments():  # one without packages does for all of them
            folder = f"/home/{host_a.user}/{there}/envs/{name}"
            host_a.exec_user(["python3", "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
            host_a.exec_user(["touch", f"{folder}/ready"], check=True)
    with Client(Config(tmp_path / "laptop", "box", {"box": machine}, lab.ssh_config())) as client:
        yield client
        for run in client.runs.list(None):
            if not run.final:
                client.runs.kill(run.number)
        until(lambda: all(run.final for run in client.runs.list(None)))
    until(lambda: not [process for process in host_a.processes() if ".pyz" in process.command])
    host_a.exec(["rm", "-rf", f"/home/{host_a.user}/{there}"], check=True)


def test_a_value_is_nowhere_but_where_it_belongs(client: Client, host_a: LabHost, engine: str, tmp_path: Path) -> None:
    traces = Traces(host_a, tmp_path / "laptop")
    client.secrets.set("HF_TOKEN", VALUE)
    image = BASE_IMAGE if engine == "docker" else None
    holds = client.runs.submit(RunRequest("echo up; until [ -e go ]; do sleep 0.05; done", image=image))
    reached(client, holds, RunState.RUNNING)
    command = 'echo "${#TOKEN} ${#TYPED}"; until [ -e go ]; do sleep 0.05; done; echo end; exit 3'
    request = RunRequest(
        command,
        image=image,
        env=(("TYPED", f"{VALUE} too"),),
        secrets=(("TOKEN", "HF_TOKEN"),),
        notify=(f"http://127.0.0.1:9/{VALUE}",),
    )
    run = client.runs.submit(request)
    folder = client.runs.info(run.number)[1]["folder"]

    files = {f"{folder}/values.json", f"{folder}/webhooks.json"}
    assert traces.found() == files, "a run that waits has them after a reboot, too"
    assert host_a.exec(["stat", "--format=%a", folder, *files]).stdout.split() == ["700", "600", "600"]

    host_a.exec_user(["touch", f"{client.runs.info(holds.number)[1]['folder']}/work/go"], check=True)
    log = host_a.path(f"{folder}/io/log")
    until(lambda: log.exists() and log.read_text() == f"{len(VALUE)} {len(VALUE) + 4}\n", 60)
    until(lambda: not host_a.path(f"{folder}/values.json").exists())
    assert traces.found() == {f"{folder}/webhooks.json"}
    assert holders(host_a) == {host_a.uid}, "there it is, and no other user may read it"

    host_a.exec_user(["touch", f"{folder}/work/go"], check=True)
    assert reached(client, run, RunState.FAILED).code == 3
    until(lambda: "notify" in client.runs.info(run.number)[1]["events"][-1].get("note", ""))
    details = client.runs.info(run.number)
    assert details[1]["spec"]["secrets"] == {"TOKEN": "HF_TOKEN"} and VALUE not in repr(details)
    events = client.runs.info(run.number)[1]["events"]
    assert "could not notify 127.0.0.1:9 yet" in events[-1]["note"]
    assert traces.found() == {f"{folder}/webhooks.json"}, "it is tried again"
    client.runs.remove(run.number)
    assert traces.found() == set()
    assert holders(host_a) == set()
    assert traces.here_too() == {"secrets/secrets.json"}
    client.secrets.remove("HF_TOKEN")
    assert traces.here_too() == set()


def reached(client: Client, run: Run, state: RunState) -> Run:
    seen: Callable[[], Run] = lambda: client.runs.get(run.number)  # noqa: E731
    until(lambda: seen().state is state or seen().final, 60, lambda: repr(seen()))
    assert seen().state is state, seen()
    return seen()


def holders(host: LabHost) -> set[int]:
    """The users of the processes that have it in their environment."""
    found = set()
    for path in host.path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError), path.open(errors="replace") as environ:  # processes come and go
            if f"={VALUE}" in environ.read():
                found.add(os.stat(environ.fileno()).st_uid)
    return found
