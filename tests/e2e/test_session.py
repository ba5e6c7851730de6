"""The session of the lesson, whole, with the installed command: upload, run, ^C, logs, ps, stop, kill, cp.

On this machine with each engine, and on a host over SSH with Docker.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Place
from tests.e2e.said import talk
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.workshop import until

TRAIN = (
    "python -m trainer.train --data_dir=./data --rnn_size 32 --batch_size 16 --seq_length 32"
    " --steps 120 --save_every 50 --print_every 1 && until [ -e go ]; do sleep 0.1; done"
)
LONG = (
    "trap 'cp models/manifest.json models/last.json; exit 143' TERM;"
    " mkdir models; echo {} >models/manifest.json; echo Saved models; while :; do sleep 1000 & wait; done"
)
STEP = re.compile(r"^(\d+)/\d+ \(epoch \d+\), train_loss = [\d.]+", re.MULTILINE)


class Session:
    """One machine's session; tests of a class go on where the one before ended. What is stopped saves as the trainer
    does, which `test_lesson` stops itself, with each engine."""

    machine: str
    place: Place
    trained: int

    def leftovers(self) -> list[str]:
        raise NotImplementedError

    def test_upload(self) -> None:
        done = self.place.run("upload", "data/input.txt", "--name", "doom")
        assert done.stdout == "uploads/doom\n"
        assert "--mount uploads/doom:data" in done.stderr
        again = self.place.run("upload", "data/input.txt", "--name", "doom")
        assert "Nothing to send" in again.stderr

    def test_run_and_detach(self) -> None:
        """What is not tracked is asked about, but for what a mount takes the place of."""
        notes = self.place.folder / f"draft-{self.machine}.txt"  # an answer holds for the same list
        notes.write_text("not tracked\n")
        terminal = self.place.spawn("run", "-t", self.machine, "--mount", "uploads/doom:data", TRAIN)
        terminal.expect("1 file is not tracked by git:")
        terminal.expect_exact(f"  {notes.name}   12 bytes\r\nSend it, too? (n: run without it, q: quit) [y/N/q]")
        notes.unlink()
        terminal.sendline("")
        terminal.expect(r"Casting run (\d+)…")
        number = int(terminal.match[1])
        terminal.expect("Running on")
        terminal.expect("train_loss")
        terminal.sendintr()
        later = re.compile(f"logs {number}.*remoterun stop {number}.*remoterun kill {number}", re.DOTALL)
        talk(terminal, f"run {number} goes on without this terminal", None, later, status=130)
        type(self).trained = number

    def test_logs_from_the_start_to_the_end(self) -> None:
        self.place.run("exec", str(self.trained), "touch go")
        done = self.place.run("logs", str(self.trained))
        steps = [int(number) for number in STEP.findall(done.stdout)]
        assert steps and steps == sorted(set(steps)), "a line is lost, doubled or out of order"
        assert steps[-1] in (119, 120)
        assert f"run {self.trained} complete" in done.stderr
        again = self.place.run("logs", str(self.trained), "--no-follow")
        assert again.stdout == done.stdout
        tail = self.place.run("logs", str(self.trained), "-n", "2")
        assert tail.stdout == "".join(done.stdout.splitlines(keepends=True)[-2:])

    def test_ps_knows_it(self) -> None:
        run = next(run for run in self.place.json("ps") if run["number"] == self.trained)
        assert (run["state"], run["reason"], run["exit_status"]) == ("complete", "exited", 0)
        assert run["description"] == "The first song"
        assert run["outputs"]["files"] > 8
        text = self.place.run("ps").stdout
        assert f" {self.trained}  complete" in text

    def test_copy_the_model(self, tmp_path: Path) -> None:
        done = self.place.run("cp", f"runs/{self.trained}/models", str(tmp_path / "model"))
        assert re.search(r"Copied \d+ files", done.stderr)
        check_ml5_model(tmp_path / "model")

    def test_stop_saves_outputs(self) -> None:
        number = self._start_long()
        self.place.follow_until(number, "Saved models")
        assert "models/" in self.place.run("ls", f"runs/{number}").stdout  # while it runs
        done = self.place.run("stop", "--grace", "60s", number)
        assert "stopping" in done.stderr
        self.place.run("logs", number, status=143)  # till its end
        run = self._state(number)
        assert (run["state"], run["reason"]) == ("stopped", "stopped") and run["ended"]
        assert run["exit_status"] == 143, "the command saves and ends by itself"
        files = {entry["path"] for entry in self.place.json("ls", f"runs/{number}")["entries"]}
        assert {"models/manifest.json", "models/last.json"} <= files
        assert "has ended already" in self.place.run("stop", number).stderr

    def test_kill_ends_at_once(self) -> None:
        number = self._start_long()
        until(lambda: self._state(number)["state"] == "running")
        self.place.run("kill", number)
        run = until(lambda: self._ended(number))
        assert (run["state"], run["reason"], run["exit_status"]) == ("killed", "killed", 137)
        followed = self.place.run("logs", number, status=137)
        assert "killed" in followed.stderr

    def test_exit_status_is_the_commands_own(self) -> None:
        assert self.place.run("run", "-y", "-t", self.machine, "exit 7", status=7).stdout == ""
        done = self.place.run("run", "-y", "-t", self.machine, "sh", "-c", "echo to stdout; exit 3", status=3)
        assert done.stdout == "to stdout\n"

    def test_nothing_of_remoterun_remains(self) -> None:
        until(lambda: not self.leftovers(), what=lambda: str(self.leftovers()))

    def _start_long(self) -> str:
        done = self.place.run("run", "-b", "-y", "-t", self.machine, "-m", "uploads/doom:data", LONG)
        return str(done.stdout.strip())

    def _state(self, number: str) -> dict[str, Any]:
        run: dict[str, Any] = self.place.json("info", number)
        return run

    def _ended(self, number: str) -> dict[str, Any] | None:
        run = self._state(number)
        return run if run["ended"] else None


def check_ml5_model(folder: Path) -> None:
    """By the rules of ml5.js's loader: a manifest of names, files, shapes; raw float32; two cells; a vocabulary."""
    manifest = json.loads((folder / "manifest.json").read_text())
    vocabulary = json.loads((folder / "vocab.json").read_text())
    shapes = {}
    for name, about in manifest.items():
        count = 1
        for length in about["shape"]:
            count *= length
        assert (folder / about["filename"]).stat().st_size == 4 * count, name
        shapes[name] = about["shape"]
    assert shapes["embedding"] == [len(vocabulary), 32]
    cells = [name for name in shapes if re.search(r"cell_[0-9]|lstm_[0-9]", name, re.IGNORECASE)]
    kernels = [name for name in cells if re.search(r"weights|weight|kernel|kernels|w", name, re.IGNORECASE)]
    assert len(kernels) == 2 and len(cells) == 4
    for name in kernels:
        assert shapes[name] == [64, 128]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


@pytest.mark.tensorflow
class TestProcess(Session):
    machine = "plain"

    @pytest.fixture(autouse=True)
    def _prepare(self, shared: Place) -> None:
        self.place = shared
        shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")

    def leftovers(self) -> list[str]:
        return processes_naming(self.place.env["REMOTERUN_HOME"])


@pytest.mark.lab
@pytest.mark.tensorflow
class TestHostA(Session):
    host: LabHost
    machine = "k80"

    @pytest.fixture(autouse=True)
    def _prepare(self, shared: Place, prepared_host: LabHost) -> None:
        self.place, self.host = shared, prepared_host
        shared.run("machines", "add", "k80", "trained-a", "--base-image", BASE_IMAGE, "-y")

    def leftovers(self) -> list[str]:
        return [
            process.command
            for process in self.host.processes()
            if "supervise" in process.command or "trainer" in process.command
        ] + self.host.exec(["docker", "ps", "--all", "--quiet", "--filter", "label=remoterun.run"]).stdout.split()

    def test_the_model_writes_in_the_next_run(self) -> None:
        done = self.place.run(
            "run", "-y", "-t", self.machine, "-m", f"runs/{self.trained}/models:models",
            "python -m trainer.generate models --seed ROMEO --length 50",
        )  # fmt: skip
        assert done.stdout.startswith("ROMEO")
        assert len(done.stdout) >= 50

    def test_files_belong_to_the_user(self) -> None:
        folder = self.place.json("info", str(self.trained))["folder"]
        owners = self.host.exec(["find", folder, "-not", "-user", "me"]).stdout
        assert owners == ""


@pytest.mark.lab
def test_an_upload_is_brought_to_another_host(shared: Place, lab: Lab, host_b: LabHost) -> None:
    shared.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    shared.run("upload", "data/input.txt", "--name", "doom")
    shared.run("machines", "add", "other", host_b.name, "--base-image", BASE_IMAGE, "-y")
    words = ("run", "-y", "-t", "other", "--image", BASE_IMAGE, "-m", "uploads/doom:data", "head -1 data/input.txt")
    assert shared.run(*words).stdout == "ROMEO:\n"


def processes_naming(text: str) -> list[str]:
    """Command lines of this machine's processes that name `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found
