"""`check`, `gc` and `df`, by the installed command: on this machine with two homes, and on a host of the lab."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.store.home import Home
from tests.e2e.conftest import TEXT, Place
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.recorder import HINT, Recorded
from tests.workshop import lend, sha256, until

CLOSED = "me@127.0.0.1:1"


@pytest.fixture
def homes(place: Place, tmp_path: Path) -> tuple[Place, Path, Path]:
    """A place with two machines, `one` (the default) and `two`, and the folder of each one's home."""
    place.run("machines", "add", "one", "local", "--engine", "process", "--default", "--home", str(tmp_path / "one"))
    place.run("machines", "add", "two", "local", "--engine", "process", "--home", str(tmp_path / "two"))
    return place, tmp_path / "one", tmp_path / "two"


def blob(home: Path, data: bytes) -> Path:
    return home / "blobs" / sha256(data)[:2] / sha256(data)[2:]


def damage(path: Path) -> None:
    """Another first byte, in the same file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\0")
    path.chmod(mode)


def check(place: Place, status: int, *words: str) -> list[dict[str, Any]]:
    """What a check says is damaged."""
    found = json.loads(place.run("machines", "check", *words, "--json", status=status).stdout)
    assert found["sound"] is (status == 0) and found["more"] == 0
    damages: list[dict[str, Any]] = found["damage"]
    return damages


def uses(place: Place, *words: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(use["kind"], use["name"]): use for use in place.json("machines", "df", *words)["uses"]}


class TestCheck:
    def test_it_is_named_with_the_command_that_makes_it_whole(
        self, homes: tuple[Place, Path, Path], recorded: Recorded
    ) -> None:
        place, home, _ = homes

        def files() -> list[Path]:
            """But for those of the agent, which one of them unpacks, and a later one compiles, as they come to it."""
            return sorted(path for path in home.rglob("*") if home / "agent" not in path.parents)

        place.run("upload", "data", "--name", "doom")
        place.run("upload", "data/input.txt", "--name", "single")
        run = recorded.commands(place.run)
        run("machines", "check")
        damage(blob(home, TEXT.encode()))
        before = files()
        run("machines", "check", "--dry-run", status=1)
        assert files() == before
        for problem in ("damaged", "missing"):
            (found,) = check(place, 1)
            assert found["problem"] == problem
            assert found["places"][0] == {"upload": "doom", "version": 1, "path": "input.txt"}
        done = run("machines", "check", status=1)
        assert (home / "damaged" / sha256(TEXT.encode())).stat().st_size == len(TEXT), "nothing is deleted"
        commands = re.findall(r"remoterun (upload .*)", done.stderr)
        assert commands == [
            f"upload {place.folder}/data --name doom --to one",
            f"upload {place.folder}/data/input.txt --name single --to one",
        ]
        for command in commands:
            assert json.loads(place.run(*command.split(), "--json").stdout)["new"] is True
        for name in ("doom", "single"):
            assert (home / "uploads" / name / "1" / "input.txt").read_text() == TEXT
        assert check(place, 0) == [] and list((home / "damaged").iterdir()) == []

    def test_a_run(self, homes: tuple[Place, Path, Path], environment: Path, recorded: Recorded) -> None:
        """Its source, and its outputs: `rerun` makes these again."""
        place, home, _ = homes
        lend(environment, Home.open(str(home)))
        place.run("run", "-y", "echo made > file")
        assert check(place, 0) == []
        damage(blob(home, b"made\n"))
        damage(blob(home, b"a tracked file\n"))
        recorded.commands(place.run)("machines", "check", status=1)

    def test_a_run_whose_records_can_not_be_read(self, homes: tuple[Place, Path, Path], environment: Path) -> None:
        """It stops `gc`; what is named removes it, also where another client made it."""
        place, home, _ = homes
        lend(environment, Home.open(str(home)))
        for remove in ("rm 1", "rm -rf"):
            place.run("run", "-y", "true")
            (folder,) = (home / "runs").iterdir()
            (folder / "spec.json").write_text("{")
            if remove == "rm -rf":
                Path(place.env["REMOTERUN_HOME"], "registry.db").unlink()
            done = place.run("machines", "gc", status=125)
            assert HINT.findall(done.stderr) == ["remoterun machines check one"]
            assert re.search("^run.* its records are damaged", place.run("machines", "df").stdout, re.MULTILINE)
            (hint,) = HINT.findall(place.run("machines", "check", status=1).stderr)
            if remove == "rm 1":
                assert hint == "remoterun rm 1"
                place.run("rm", "1")
            else:
                assert hint == f"rm -rf {folder}"
                removed = partial(subprocess.run, shlex.split(hint))
                until(lambda done=removed: done().returncode == 0, what="the folder, in which its supervisor may write")
            place.run("machines", "gc")

    def test_a_machine_that_does_not_answer(self, place: Place, recorded: Recorded) -> None:
        for word in ("check", "gc", "df"):
            recorded.refused(place.run, 125, "machines", word, CLOSED)
            recorded.refused(place.run, 2, "machines", word, "nope")


class TestCollect:
    def test_versions_and_what_was_removed(self, homes: tuple[Place, Path, Path]) -> None:
        place, home, _ = homes
        file = place.folder / "data" / "input.txt"
        for text in ("1" * 1000, "2" * 2000, "3" * 3000):
            file.write_text(text)
            place.run("upload", "data", "--name", "doom")
        place.run("upload", "notes.txt", "--name", "notes")
        assert "There is nothing to free on one" in place.run("machines", "gc").stderr
        place.run("rm", "uploads/notes")
        told = place.json("machines", "gc", "--keep", "1", "--dry-run")
        assert place.json("ls", "uploads/doom")["entries"][0]["size"] == 3000
        said = place.run("machines", "gc", "--keep", "1", "--dry-run")
        assert "uploads/doom@1, uploads/doom@2" in said.stdout and "would be freed on one" in said.stderr
        before = place.json("machines", "df")["total"]
        done = place.json("machines", "gc", "--keep", "1")
        assert done["freed"] == told["freed"] and {**done, "dry_run": True, "free": 0} == {**told, "free": 0}
        assert before - done["freed"] - 400 <= place.json("machines", "df")["total"] <= before - done["freed"]
        assert [part["kind"] for part in done["parts"]] == ["versions", "blobs"] and done["freed"] > 3000 + 15
        assert not blob(home, b"1" * 1000).exists() and blob(home, b"3" * 3000).exists()
        assert place.json("machines", "gc")["parts"] == [] and check(place, 0) == []
        place.run("cp", "uploads/doom", "here")
        assert (place.folder / "here" / "input.txt").read_text() == "3" * 3000

    def test_what_this_client_knew_of_is_gone(self, homes: tuple[Place, Path, Path]) -> None:
        """Somebody else has made a newer version: that is the one from now on."""
        place, _, _ = homes
        place.run("upload", "data", "--name", "doom")
        elsewhere = {"REMOTERUN_HOME": str(place.folder.parent / "another")}
        place.run("machines", "add", "one", "local", "--home", str(homes[1]), "--default", env=elsewhere)
        place.run("upload", "notes.txt", "--name", "doom", env=elsewhere)
        assert [entry["path"] for entry in place.json("ls", "uploads/doom")["entries"]] == ["input.txt"]
        place.run("machines", "gc", "--keep", "1")
        assert [entry["path"] for entry in place.json("ls", "uploads/doom")["entries"]] == ["notes.txt"]

    def test_what_another_client_uploaded_is_removed_after_a_question(
        self, homes: tuple[Place, Path, Path], recorded: Recorded
    ) -> None:
        """So are several versions; one that was uploaded from here goes without."""
        place, _, _ = homes
        place.run("upload", "data", "--name", "doom")
        elsewhere = {"REMOTERUN_HOME": str(place.folder.parent / "another")}
        place.run("machines", "add", "one", "local", "--home", str(homes[1]), "--default", env=elsewhere)
        place.run("upload", "notes.txt", "--name", "doom", env=elsewhere)
        run = recorded.commands(place.run)
        run("rm", "uploads/doom", status=2)
        said = place.run("ls", "uploads/doom", "--versions").stderr
        assert "uploads/doom means uploads/doom@1; a run on a machine to which another client uploaded since" in said
        run("rm", "uploads/doom@1")
        run("rm", "uploads/doom", status=2)
        place.run("rm", "-y", "uploads/doom")
        assert place.json("ls") == []

    def test_a_damaged_home(self, homes: tuple[Place, Path, Path], recorded: Recorded) -> None:
        place, home, _ = homes
        place.run("upload", "data", "--name", "doom")
        place.run("upload", "notes.txt", "--name", "notes")
        (home / "uploads" / "doom" / "1.tree").write_bytes(b"?")
        recorded.commands(place.run)("rm", "uploads/notes")
        recorded.refused(place.run, 125, "machines", "gc")
        assert blob(home, b"a tracked file\n").exists()
        assert [found["what"] for found in check(place, 1)] == ["list"]
        place.run("upload", "data", "--name", "doom")
        place.run("machines", "gc")
        assert not blob(home, b"a tracked file\n").exists()

    def test_wrong_options(self, homes: tuple[Place, Path, Path], recorded: Recorded) -> None:
        for words in (("--unused", "3d"), ("--envs", "--unused", "x"), ("--keep", "0")):
            recorded.refused(homes[0].run, 2, "machines", "gc", *words)


class TestUsage:
    def test_who_uses_what(self, homes: tuple[Place, Path, Path]) -> None:
        place, home, _ = homes
        place.run("upload", "data", "--name", "one")
        place.run("upload", "data/input.txt", "--name", "two")
        place.run("machines", "add", "dock", "local", "--engine", "docker", "--home", str(home))
        place.run("run", "-y", "-t", "dock", "true", status=125, env={"DOCKER_HOST": "unix:///nonexistent"})
        found = place.json("machines", "df")
        rows = uses(place)
        assert found["home"] == str(home) and found["blobs"]["shared"] == {"count": 1, "bytes": len(TEXT)}
        assert rows["upload", "one"]["size"] >= len(TEXT) > rows["upload", "one"]["alone"]
        (run,) = [row for row in rows.values() if row["kind"] == "run"]
        assert (run["number"], run["state"]) == (1, "failed")
        elsewhere = {"REMOTERUN_HOME": str(place.folder.parent / "another")}
        place.run("machines", "add", "one", "local", "--home", str(home), "--default", env=elsewhere)
        said = place.run("machines", "df", env=elsewhere).stdout
        assert f"run {run['name']}" in said, "a run of somebody else"
        table = place.run("machines", "df")
        lines = [line.split() for line in table.stdout.splitlines()]
        assert lines[0] == ["USED", "BY", "SIZE", "ALONE", "WHAT"] and lines[-1][0] == "total"
        assert sorted(line[0] for line in lines[1:4]) == ["runs/1", "uploads/one", "uploads/two"]


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_over_ssh(place: Place, lab: Lab, host_a: LabHost) -> None:
    """The same on a host, with an image of ours in its Docker."""
    place.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    place.run("machines", "add", "box", "host-a", "--home", "upkeep", "--default")
    place.run("upload", "data", "--name", "doom")
    place.run("upload", "notes.txt", "--name", "notes")
    home = host_a.path(place.json("machines", "df")["home"])
    try:
        damage(blob(home, TEXT.encode()))
        assert check(place, 1)[0]["problem"] == "damaged"
        place.run("upload", "data", "--name", "doom")
        assert check(place, 0) == []
        assert "15 bytes are free again on box" in place.run("rm", "uploads/notes").stderr
        assert place.json("machines", "gc")["freed"] == 0
        (home / "image").mkdir()
        (home / "image" / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN head -c 100000 /dev/zero >/zeros\n")
        label = "remoterun.home=" + json.loads((home / "home.json").read_text())["id"]
        name = "remoterun-env:0123456789abcdef"
        folder = place.json("machines", "df")["home"] + "/image"
        words = ["docker", "build", "--quiet", "--tag", name, "--label", label, folder]
        host_a.exec(words, timeout=300, check=True, env={"DOCKER_BUILDKIT": "0"})
        image = uses(place)["image", name]
        assert 100_000 <= image["alone"] < 1_000_000 < image["size"]
        assert place.json("machines", "gc")["parts"] == [] and host_a.image_id(name)
        kept = place.json("machines", "gc", "--envs")["kept"]
        assert [part["kind"] for part in kept] == ["images"] and host_a.image_id(name)
        until(lambda: place.json("machines", "gc", "--envs", "--unused", "1s")["parts"])  # an image's age is in seconds
        assert host_a.image_id(name) is None and host_a.image_id(BASE_IMAGE)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        host_a.exec(["docker", "image", "rm", "remoterun-env:0123456789abcdef"])
    assert os.path.basename(home) == "upkeep"


class TestPools:
    @pytest.fixture
    def lab_of_two(self, homes: tuple[Place, Path, Path]) -> Place:
        """A pool `lab`, the default machine, of one that works and one that does not answer."""
        place = homes[0]
        place.run("machines", "add", "away", CLOSED)
        place.run("machines", "add", "lab", "one", "away", "--default")
        return place

    def test_each_machine_is_asked_under_a_heading(self, lab_of_two: Place) -> None:
        place = lab_of_two
        for words in (("machines", "df", "lab"), ("machines", "gc"), ("machines", "check", "lab")):
            done = place.run(*words, status=125)
            assert done.stdout.splitlines()[0] == "one" and done.stdout.endswith("\naway\n")
            assert "\nerror: " in f"\n{done.stderr}" and "Connection refused" in done.stderr
            one, away = place.json(*words, status=125)
            assert (one["machine"], away["machine"]) == ("one", "away") and away["error"]
        done = place.run("doctor", "lab", status=1)
        assert re.search(r"^one\n✓ python3 .*\n\naway\n✗ link ", done.stdout, re.DOTALL)
        found = place.json("doctor", "lab", status=1)
        assert [each["machine"] for each in found] == ["one", "away"]
        assert found[1]["checks"][-1]["ok"] is False

    def test_one_that_works_is_no_error(self, homes: tuple[Place, Path, Path], recorded: Recorded) -> None:
        place = homes[0]
        place.run("machines", "add", "lab", "one", "two")
        for words in (("machines", "df"), ("machines", "gc"), ("machines", "check"), ("doctor",)):
            place.run(*words, "lab")
        recorded.commands(place.run)("upload", "notes.txt", "--to", "lab", "--name", "notes")
        recorded.refused(place.run, 2, "machines", "ssh", "lab")

    def test_every_name_that_can_not_be_one_of_them_is_told(
        self, homes: tuple[Place, Path, Path], recorded: Recorded
    ) -> None:
        recorded.refused(homes[0].run, 2, "machines", "add", "lab", "one", "nope1", "nope2")
