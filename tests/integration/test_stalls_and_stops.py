"""A Docker that stalls, and a stop in the midst of a command, in each shell."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remoterun.agent.running.ending import Ended, save
from remoterun.agent.running.engines import docker
from remoterun.agent.running.engines.wrapper import command_text, mark_stopping, prepare_io
from remoterun.agent.running.supervisor import Supervisor
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from tests.workshop import SAVES, Files, Place, at_once, create_run, spec_of, until, write_files

SHELLS = {name: path for name in ("dash", "bash", "busybox") if (path := shutil.which(name))}


def test_a_docker_that_stalls_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that it kept too long is taken again; that it was silent is told once."""
    home = Home.open(str(tmp_path / "home"))
    run = create_run(home, spec_of(engine="docker"))
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "docker"
    tool.write_text(f"#!/bin/sh\n[ $1 = version ] || [ -e {tmp_path}/answers ] || exec sleep 1000\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(docker, "TIMEOUT", 0.1)
    supervisor = Supervisor(home, run)
    for _ in range(2):
        supervisor._take(RunState.BUILDING, supervisor._build)
        assert run.state()[0] is RunState.QUEUED
    assert [event["note"] for event in run.events() if "note" in event] == ["waiting for docker, which does not answer"]
    (tmp_path / "answers").touch()
    monkeypatch.setattr(docker, "TIMEOUT", 20.0)
    supervisor._take(RunState.BUILDING, supervisor._build)
    assert run.state()[0] is RunState.MOUNTING


class TestSaving:
    """What a command leaves may take hours to read: 8 TB that are all holes."""

    @pytest.mark.parametrize("executable", [False, True])
    def test_a_kill_ends_it(self, place: Place, executable: bool) -> None:
        key = place.submit("truncate -s 8T hole" + "; chmod +x hole" * executable)
        place.until_state(key, RunState.SAVING)
        place.end(key, "kill")
        assert place.until_final(key)["reason"] == "killed"

    def test_so_does_its_time(self, tmp_path: Path) -> None:
        """It may take as long as the command, or an hour: here 0.1 seconds."""
        home = Home.open(str(tmp_path / "home"))
        run = create_run(home, spec_of(timeout=0.05))
        os.makedirs(run.work)
        with open(os.path.join(run.work, "hole"), "wb") as file:
            file.truncate(8 << 40)
        for state in (RunState.BUILDING, RunState.MOUNTING, RunState.RUNNING):
            run.move(state)
        run.move(RunState.SAVING, reason="exited", code=0)
        with pytest.raises(Ended) as caught:
            save(home, run, run.spec(), 0.1)
        assert caught.value.reason is Reason.TIMEOUT and caught.value.unsaved and caught.value.fields["code"] == 0
        assert run.work in caught.value.fields["message"] and os.path.exists(os.path.join(run.work, "hole"))


class TestStop:
    """A SIGTERM to every process of a run, the shells among them, in each shell that may be /bin/sh."""

    @pytest.mark.parametrize("shell", sorted(SHELLS))
    def test_status_and_log_are_the_commands(self, tmp_path: Path, shell: str) -> None:
        cases = [
            ("./saves9", 9, "up\nsaved\n"),
            ("./saves0 && echo next", 0, "up\nsaved\n"),
            ("cd . && A=1 ./saves9; echo next", 9, "up\nsaved\n"),
            ("./saves9 || echo next", 9, "up\nsaved\n"),
            ("./plain", 143, "up\n"),
        ]
        folders = {tmp_path / str(number): case for number, case in enumerate(cases)}
        at_once(lambda folder=folder: self.stop(folder, shell, *folders[folder]) for folder in folders)  # type: ignore[misc]

    def stop(self, folder: Path, shell: str, command: str, code: int, said: str) -> None:
        run = RunFolder(str(folder))
        os.makedirs(run.io)
        programs: Files = {f"work/saves{status}*": f"#!/bin/sh\nexec {sys.executable} ../saves.py {status}\n"
                           for status in (0, 9)}  # fmt: skip
        write_files(folder, {**programs, "work/plain*": "#!/bin/sh\necho up; exec sleep 1000\n", "saves.py": SAVES})
        prepare_io(run, spec_of(command), {})
        wrapper = Path(run.wrapper_file)
        words = [SHELLS[shell], "sh"] if shell == "busybox" else [SHELLS[shell]]
        wrapper.write_text(wrapper.read_text().replace("/bin/sh -c", " ".join(words) + " -c"))
        process = subprocess.Popen([*words, str(wrapper), run.io, run.work], start_new_session=True)
        try:
            until(lambda: os.path.exists(run.log) and Path(run.log).read_text() == "up\n")
            mark_stopping(run)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(60) == code == run.exit_code()
            assert Path(run.log).read_text() == said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    @pytest.mark.parametrize("shell", sorted(SHELLS))
    def test_a_signal_that_is_no_stop(self, tmp_path: Path, shell: str) -> None:
        """It ends the shell of a command as it does elsewhere."""
        words = [SHELLS[shell], "sh"] if shell == "busybox" else [SHELLS[shell]]
        done = subprocess.run([*words, "-c", command_text("true; kill -s TERM $$; exit 3", str(tmp_path))])
        assert done.returncode == -signal.SIGTERM
