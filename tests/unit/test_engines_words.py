"""What is said to the engines, word for word, and what the wrapper reads."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remoterun.agent.running.engines.docker import Docker, _bind, mount_points
from remoterun.agent.running.engines.mount_points import make_mount_point
from remoterun.agent.running.engines.wrapper import MOST_WORD, command_text, prepare_io, quote
from remoterun.agent.shared.environment import Environment, image_id
from remoterun.agent.shared.spec import EnvironmentSpec, ResolvedMount
from remoterun.agent.shared.tree import TreeError, is_digest
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from tests.recorder import Recorded
from tests.workshop import spec_of

BUNDLED = EnvironmentSpec("python:3.12-slim", "cpu", "ab" * 32)


def environment(**changed: Any) -> Environment:
    return Environment(*BUNDLED._replace(**changed))


class TestDocker:
    def words(self, home: Home, gpus: list[str], mounts: Sequence[ResolvedMount] = (), **changed: Any) -> list[str]:
        spec = spec_of(environment=BUNDLED, **changed)
        return Docker(home).run_command(home.run("abcdefgh"), spec, mounts, gpus, "1000:1000", 8 << 30)

    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        home = Home(str(tmp_path))
        home.id = "0123456789abcdef"
        return home

    def test_a_plain_run(self, home: Home, recorded: Recorded) -> None:
        recorded.same("\n".join(self.words(home, [])))

    def test_gpus_mounts_and_a_folder_to_start_in(self, home: Home, recorded: Recorded) -> None:
        mounts = [
            ResolvedMount("data", "ab" * 32),
            ResolvedMount("one/in.txt", "ab" * 32, "input.txt"),
            ResolvedMount("/abs/with,comma", "ab" * 32),
        ]
        words = self.words(home, ["GPU-a", "GPU-b"], mounts=mounts, workdir="sub/dir")
        recorded.same("\n".join(words))
        folder = f"{home.path}/runs/abcdefgh/mounts"
        assert mount_points(home.run("abcdefgh"), mounts)[0] == (f"{folder}/0", "/remoterun/data")

    def test_a_number_of_cpus_and_a_limit_of_memory(self, home: Home) -> None:
        spec = spec_of(environment=BUNDLED, cpus=2, memory=1 << 30)
        words = Docker(home).run_command(home.run("abcdefgh"), spec, [], [], "1000:1000", 8 << 30, "0,3")
        assert set(words) - set(self.words(home, [])) == {
            "--cpuset-cpus", "0,3", "--memory", "--memory-swap", str(1 << 30)
        }  # fmt: skip

    def test_no_value_of_a_variable_is_among_the_words(self, home: Home) -> None:
        assert "secret" not in " ".join(self.words(home, [], env={"TOKEN": "secret"}, command="echo secret"))

    @given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1))
    def test_bind_as_csv(self, path: str) -> None:
        import csv

        (row,) = csv.reader([_bind("/s" + path, "/t" + path, True)], strict=True) if "\n" not in path else [None]
        assert row is None or row == ["type=bind", "source=/s" + path, "target=/t" + path, "readonly"]


class TestEnvironments:
    def test_hashes_stay_as_they_are(self) -> None:
        """They name images and folders that exist on people's machines."""
        assert environment().bundled_image == "remoterun-base:" + environment().bundled_hash
        assert environment().final_image == environment().bundled_image
        assert environment(image="me/mine:1").final_image == "me/mine:1"
        assert environment(pip=("x",)).final_image == "remoterun-env:" + environment(pip=("x",)).hash

        assert environment().bundled_image == "remoterun-base:500be023cbaebc91"
        assert environment(pip=("x",)).final_image == "remoterun-env:162adb60a199c378"
        assert environment(pip=("x",)).packages_hash("r") == "c4a4cd126ab47116"

    def test_without_tensorflow(self) -> None:
        """A new trainer changes nothing there; and without a framework nothing is built but what was asked for."""
        python, none = environment(variant="python"), environment(variant="none")
        assert python.bundled_image == environment(variant="python", context="cd" * 32).bundled_image
        assert python.bundled_image != environment(variant="python", base="b").bundled_image
        assert python.built_images == [python.final_image]
        assert none.final_image == none.bundled_image == "python:3.12-slim" and none.built_images == []
        git = environment(variant="none", apt=("git",))
        assert git.dockerfile().startswith("FROM python:3.12-slim\n") and git.built_images == [git.final_image]
        assert git.contents("") == "git"
        more = "-i https://x\ngit+https://secret@x\nA[b] == 1 ; c"
        assert environment(pip=("cowsay>=6",), requirements=more).contents("Python") == "Python, cowsay, A"

    def test_each_part_counts(self) -> None:
        parts: list[dict[str, Any]] = [
            {}, {"image": "a"},
            {"base": "b"}, {"variant": "gpu"}, {"context": "cd" * 32}, {"apt": ("x",)}, {"pip": ("x",)},
            {"requirements": "x"}, {"pip": ("x",), "requirements": "x"},
        ]  # fmt: skip
        assert len({environment(**part).hash for part in parts}) == len(parts)
        assert environment(context="ef" * 32).packages_hash("r") == environment().packages_hash("r")
        assert environment(pip=("x",)).packages_hash("r") != environment().packages_hash("r")

    def test_what_a_bucket_calls_an_image(self) -> None:
        ids = {
            image_id(environment(**part).final_image, machine)
            for part in ({}, {"pip": ("x",)})
            for machine in ("x86_64", "aarch64")
        }
        assert len(ids) == 4 and all(map(is_digest, ids))

    def test_the_dockerfile(self, recorded: Recorded) -> None:
        both = environment(image="me/mine:1", apt=("git", "ffmpeg=7:5.1"), pip=("a==1", "b"), requirements="c\n")
        recorded.same(both.dockerfile())
        assert both.all_requirements == "a==1\nb\nc\n"
        assert environment().dockerfile() == f"FROM {environment().bundled_image}\nUSER root\n"


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(TEXT, max_size=5))
def test_quote(words: list[str]) -> None:
    script = "printf '%s\\0' " + " ".join(map(quote, ["", *words]))
    out = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    assert out.decode().split("\0")[:-1] == ["", *words]


class TestWrapper:
    def start(self, folder: Path, command: str, **variables: str) -> tuple[int, bytes]:
        run = RunFolder(str(folder))
        os.makedirs(run.io, exist_ok=True)
        os.makedirs(run.work, exist_ok=True)
        prepare_io(run, spec_of(command), variables)
        done = subprocess.run(["/bin/sh", run.wrapper_file, run.io, run.work], timeout=60)
        assert run.exit_code() == done.returncode
        return done.returncode, Path(run.log).read_bytes()

    @settings(max_examples=25)
    @given(TEXT)
    def test_variables_of_any_text(self, value: str) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            code, log = self.start(Path(folder), 'printf %s "$VALUE"', VALUE=value)
            assert (code, log.decode()) == (0, value)

    @pytest.mark.parametrize("name", ["io", "code", "stopping", "PATH", "remoterun_command", "HOME"])
    def test_variables_are_the_commands_alone(self, tmp_path: Path, name: str) -> None:
        code, log = self.start(tmp_path, f'printf "%s." "${name}"; exit 4', **{name: "/nowhere"})
        assert code == 4 and log.decode().endswith("/nowhere.") == (name != "remoterun_command")
        assert log.count(b"\n") == 0

    def test_a_place_that_is_gone(self, tmp_path: Path) -> None:
        run = RunFolder(str(tmp_path))
        os.makedirs(run.io)
        prepare_io(run, spec_of("echo never"), {})
        assert subprocess.run(["/bin/sh", run.wrapper_file, run.io, run.work]).returncode == 126
        assert run.exit_code() == 126 and b"never" not in Path(run.log).read_bytes()

    def test_the_commands_umask_is_the_usual_one(self, tmp_path: Path) -> None:
        mask = os.umask(0)
        try:
            assert self.start(tmp_path, "umask; : >made") == (0, b"0022\n")
        finally:
            os.umask(mask)
        assert stat.S_IMODE(os.stat(tmp_path / "work/made").st_mode) == 0o644
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (tmp_path / "io").iterdir()} == {0}

    def test_a_command_that_no_program_could_be_given(self, tmp_path: Path) -> None:
        """The kernel takes 128 KiB as one word."""
        command = "echo " + "x" * 300_000 + " >made; printf '%s %s' \"$0\" $#; exit 3"
        code, log = self.start(tmp_path, command)
        assert (code, log) == (3, b"/bin/sh 0") and len((tmp_path / "work/made").read_bytes()) == 300_001
        assert len(command) > MOST_WORD

    def test_a_second_start_goes_on_in_the_log(self, tmp_path: Path) -> None:
        self.start(tmp_path, "echo one")
        assert self.start(tmp_path, "echo two")[1] == b"one\ntwo\n"


def test_a_command_that_is_one_program_takes_the_shells_place(recorded: Recorded) -> None:
    recorded.cases(lambda command: command_text(command, "/it's"))


class TestMountPoints:
    @pytest.mark.parametrize("is_file", [True, False])
    def test_it_hides_what_stood_there(self, tmp_path: Path, is_file: bool) -> None:
        (tmp_path / "a/b/full").mkdir(parents=True)
        (tmp_path / "a/b/full/f").touch()
        for _ in range(2):
            make_mount_point(str(tmp_path), "a/b", is_file)
            assert (tmp_path / "a/b").is_file() == is_file
            assert is_file or not list((tmp_path / "a/b").iterdir())

    def test_a_link_at_the_place_itself_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/f").touch()
        (tmp_path / "work").mkdir()
        (tmp_path / "work/data").symlink_to(tmp_path / "outside")
        make_mount_point(str(tmp_path / "work"), "data", False)
        assert not (tmp_path / "work/data").is_symlink() and (tmp_path / "outside/f").exists()

    @pytest.mark.parametrize("place", ["link/x", "../x", "/x", "file/x", "."])
    def test_refused(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "work").mkdir()
        (tmp_path / "work/link").symlink_to("../outside")
        (tmp_path / "work/file").touch()
        with pytest.raises(TreeError):
            make_mount_point(str(tmp_path / "work"), place, False)
        assert not list((tmp_path / "outside").iterdir())
