"""The agent under every Python >= 3.8 of this machine: a run from submit to its outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.shared.spec import MountSpec, ResourceRef
from remoterun.agent.shared.submission import Submission
from remoterun.hosts.base import await_agent
from remoterun.hosts.bundle import FLAGS, agent_bundle
from remoterun.hosts.local import ProcessPipe
from tests.commands import PYTHONS
from tests.workshop import Place, ask, call, read_files, until


def test_there_is_one() -> None:
    assert PYTHONS


@pytest.mark.parametrize("version", sorted(PYTHONS, key=lambda version: int(version[2:])))
def test_a_run(version: str, tmp_path: Path, environment: Path) -> None:
    place = Place(tmp_path / "home", environment)
    program = tmp_path / agent_bundle().file_name
    program.write_bytes(agent_bundle().data)
    words = [PYTHONS[version], *FLAGS, str(program), "serve", "--home", str(tmp_path / "home")]
    pipe = ProcessPipe(words)
    await_agent(pipe)
    link = Link(pipe.pump, pipe.write)
    link.start()
    try:
        link.greeting(60)
        place.upload("doom", {"x": b"X"})
        source = place.put({"in": b"in", "dir/run*": b"#!/bin/sh\necho ran\n"})
        mount = MountSpec("uploads/doom", "data", "data", ResourceRef("upload", "doom"))
        go = tmp_path / "go"
        command = f"cat in data/x; ./dir/run; echo out >dir/out; until [ -e {go} ]; do sleep 0.02; done; exit 3"
        spec = place.spec(command, source, mounts=(mount,))
        call(link, "submit", Submission(spec, {}, source.encode()).encode())
        key = spec.key
        pid = until(lambda: place.supervisor(key))
        assert os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(PYTHONS[version])
        go.touch()
        stream = ask(link, "follow", key=key)
        assert b"".join(frame.body for frame in stream if "log" in frame.header) == b"inXran\n"
        status = stream.result["status"]
        assert (status["state"], status["code"]) == ("failed", 3), status
        assert read_files(Path(place.run(key).out)) == {"dir/out": b"out\n"}
        checks = call(link, "doctor", engine="process")["checks"]
        assert {check["name"]: check["ok"] for check in checks}["python3"]
        assert Path(place.run(key).supervisor_log).read_bytes() == b"", "no warning, no traceback"
    finally:
        pipe.close()
        place.close()
    assert pipe.diagnosis() == ""


@pytest.mark.parametrize("unpack", [True, False])
def test_its_program_is_deleted_while_it_runs(tmp_path: Path, unpack: bool) -> None:
    """As by somebody who makes room: what it has not imported yet can't be done, and the rest goes on."""
    place = Place(tmp_path / "home")
    modules = Path(place.home.agents, agent_bundle().file_name).with_suffix("")

    def unpacked() -> bool:
        assert place.session.alive
        place.drop_session()  # one that ends unpacks them, unless it is killed for being slow
        return modules.is_dir()

    if unpack:
        until(unpacked)
    link = place.session._link
    assert call(link, "runs")["runs"] == []
    shutil.rmtree(place.home.agents)
    with pytest.raises(RemoteError) as caught:
        call(link, "usage")
    assert "deleted" in str(caught.value) and caught.value.hint and not caught.value.evidence
    assert call(link, "runs")["runs"] == []
    place.close()
