"""Whatever is typed wrong, or is wrong with a machine: one line that says what, a hint, the right exit status, and
nothing half-done left behind."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.commands import REMOTERUN
from tests.conftest import require
from tests.e2e.conftest import Place, make_place
from tests.lab import Lab, LabHost
from tests.recorder import HINT, TRACEBACK, Done, Recorded, checked
from tests.sshd import Keys, Server, make_keys, starter
from tests.workshop import until


def held(place: Place) -> dict[str, Any]:
    """What a home holds that a refused command must not have added to."""
    home = Path(place.env["REMOTERUN_HOME"])
    with contextlib.closing(sqlite3.connect(home / "registry.db")) as database:
        found: dict[str, Any] = {
            "runs": database.execute("SELECT * FROM runs").fetchall(),
            "numbers": database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchall(),
            "uploads": database.execute("SELECT name, number, digest FROM versions").fetchall(),
        }
    for name in ("blobs", "partial", "uploads", "runs", "queue", "tmp"):
        found[name] = sorted(str(path.relative_to(home)) for path in (home / name).rglob("*"))
    found["config"] = (home / "config.toml").read_bytes()
    return found


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, silent: int) -> Place:
    """A place with one upload and a few machines, in which nothing may change."""
    return place_with_machines(tmp_path_factory.mktemp("still"), silent)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, silent: int) -> Place:
    """Such a place in which runs fail before a machine has them: they are listed, and nothing else changes."""
    return place_with_machines(tmp_path_factory.mktemp("failing"), silent)


def place_with_machines(folder: Path, silent: int) -> Place:
    place = make_place(folder)
    place.run("machines", "add", "plain", "local", "--engine", "process", "--default")
    place.run("machines", "add", "closed", "me@127.0.0.1:1")
    place.run("machines", "add", "silent", f"me@127.0.0.1:{silent}", "--connect-timeout", "0.5")
    place.run("upload", "data/input.txt", "--name", "doom")
    (place.folder / "empty").mkdir()
    os.mkfifo(place.folder / "data" / "pipe")
    return place


RUN = ("run", "-y")


def test_refused_with_nothing_left_behind(still: Place, recorded: Recorded) -> None:
    before, files = held(still), sorted(still.folder.rglob("*"))

    def run(*words: str, **options: Any) -> Done:
        done = checked(still.run(*words, **options))
        assert held(still) == before and sorted(still.folder.rglob("*")) == files, words
        assert "hint: " in done.stderr and "secret" not in done.stderr, words
        return done

    recorded.play(run)


def test_what_is_refused_before_anything_is_sent_gets_no_number(failing: Place, recorded: Recorded) -> None:
    before, newest = made(failing), failing.json("ps")
    recorded.play(failing.run)
    assert made(failing) == before and failing.json("ps") == newest


def test_a_run_whose_mount_is_not_in_the_upload_is_recorded_as_failed(failing: Place, recorded: Recorded) -> None:
    recorded.refused(failing.run, 2, *RUN, "-m", "uploads/doom/nope:x", "true")
    run = failing.newest()
    assert (run["state"], run["ended"]) == ("failed", None) and "no `uploads/doom/nope`" in run["message"]


def test_a_machine_is_tried_before_questions_about_files(failing: Place, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    terminal = Place(tmp_path, failing.env).spawn("run", "-t", "closed", "python a.py")
    terminal.expect(["Send this folder", "refused the connection"])
    assert "refused" in terminal.after
    terminal.expect(pexpect.EOF)


def made(place: Place) -> dict[str, Any]:
    """What a home holds but for the list of runs, in which those that failed before they had a machine stand too."""
    return {name: found for name, found in held(place).items() if name not in ("runs", "numbers")}


# -- machines with a fault


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[Server, Keys]]:
    """A real sshd of this user; its host key is known, and the user's key is let in."""
    keys = make_keys(tmp_path)
    (tmp_path / "sshd").mkdir()
    with contextlib.ExitStack() as stack:
        yield starter(tmp_path / "sshd", keys, stack)(), keys


def test_hosts_that_let_nobody_in(failing: Place, sshd: tuple[Server, Keys], recorded: Recorded) -> None:
    server, keys = sshd
    before = made(failing)
    recorded.mark(getpass.getuser(), "user")
    recorded.mark(server.port, "port")

    def try_it(**changed: str) -> dict[str, str]:
        return {"REMOTERUN_SSH_CONFIG": str(server.config(**changed))}

    run = (*RUN, "-t", "box", "true")
    recorded.refused(failing.run, 125, *run, env=try_it(UserKnownHostsFile="/dev/null"))
    other = server.folder / "changed"
    other.write_text(f"[127.0.0.1]:{server.port} {Path(f'{keys.other}.pub').read_text()}")
    recorded.refused(failing.run, 125, *run, env=try_it(UserKnownHostsFile=str(other)))
    recorded.refused(failing.run, 125, *run, env=try_it(IdentityFile=str(keys.other)))
    assert made(failing) == before
    recorded.commands(failing.run)("doctor", "box", status=1, env=try_it(IdentityFile=str(keys.other)))


def test_a_host_without_python(failing: Place, sshd: tuple[Server, Keys], recorded: Recorded) -> None:
    server, _ = sshd
    env = {"REMOTERUN_SSH_CONFIG": str(server.config())}
    failing.run("machines", "add", "snake", "box", "--python", "no-such-python")
    before = made(failing)
    recorded.refused(failing.run, 125, *RUN, "-t", "snake", "true", env=env)
    assert made(failing) == before
    recorded.commands(failing.run)("doctor", "snake", status=1, env=env)
    failing.run("machines", "rm", "snake")


# -- this machine


@pytest.mark.parametrize("text", ["x = ", "machines = 3", "\udcff"], ids=["syntax", "type", "bytes"])
def test_a_broken_configuration(place: Place, text: str, recorded: Recorded) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    (home / "config.toml").write_bytes(os.fsencode(text))
    recorded.refused(place.run, 2, "ps")
    assert [path.name for path in home.iterdir()] == ["config.toml"]
    assert (home / "config.toml").read_bytes() == os.fsencode(text)


def test_a_default_that_is_gone(place: Place, recorded: Recorded) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    (home / "config.toml").write_text('default = "gone"')
    recorded.refused(place.run, 2, *RUN, "true")
    place.run("machines", "default", "local")
    place.run("run", "--dry-run", "true")


def test_a_home_that_is_none(place: Place, tmp_path: Path, recorded: Recorded) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for words in (("ps",), (*RUN, "true"), ("machines", "add", "x", "local"), ("ls",)):
        recorded.refused(place.run, 2, *words, env={"REMOTERUN_HOME": str(file)})
    for words, status in ((("ps",), 125), (("upload", "notes.txt", "--name", "x"), 125),
                          (("machines", "add", "x", "local"), 2)):  # fmt: skip
        recorded.refused(place.run, status, *words, env={"REMOTERUN_HOME": "/proc/nope"})
    assert file.read_text() == "precious"


def test_a_registry_that_is_none(place: Place, recorded: Recorded) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    registry = home / "registry.db"
    registry.write_text("not a database, but precious")
    for words in (("ps",), (*RUN, "true"), ("rm", "runs/1")):
        recorded.refused(place.run, 125, *words)
    assert registry.read_text() == "not a database, but precious"
    registry.unlink()
    registry.mkdir()
    recorded.refused(place.run, 125, "ps")
    place.env["_REMOTERUN_COMPLETE"] = "complete_bash"
    done = place.run(env={"COMP_WORDS": "remoterun logs ", "COMP_CWORD": "2"})
    assert done.stderr == "", "completion never disturbs the line that is typed"


def test_no_git(still: Place, tmp_path: Path, recorded: Recorded) -> None:
    empty = {"PATH": str(tmp_path)}
    recorded.refused(still.run, 125, *RUN, "true", env=empty)
    still.run("run", "--dry-run", "--no-git", "true", env=empty)


def test_no_repository(still: Place, tmp_path: Path, recorded: Recorded) -> None:
    (tmp_path / "notes").write_text("one's own")
    recorded.refused(still.run, 2, "run", "true", cwd=tmp_path)


def test_repositories_in_a_bad_way(still: Place, tmp_path: Path, recorded: Recorded) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, env=still.env, check=True, capture_output=True)

    before = held(still)
    git("init", "-q", "--bare", "bare")
    git("init", "-q", "cut")
    (tmp_path / "cut" / ".git" / "index").write_bytes(b"")
    for folder in ("bare", "cut"):
        recorded.refused(still.run, 125, *RUN, "true", cwd=tmp_path / folder)
    assert held(still) == before
    git("init", "-q", "locked")
    (tmp_path / "locked" / ".git" / "index.lock").touch()
    still.run("run", "--dry-run", "true", cwd=tmp_path / "locked")


def test_a_full_or_closed_stdout(still: Place) -> None:

    for words in ("machines", "machines --json", "--help"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"'{REMOTERUN}' {words} >/dev/full"], env=still.env, capture_output=True, text=True
        )
        assert done.returncode == 125
        assert done.stderr.endswith("error: stdout can't be written: No space left on device\n")
        done = subprocess.run(
            ["/bin/sh", "-c", f"'{REMOTERUN}' {words} >&- 2>&- <&-"], env=still.env, capture_output=True, text=True
        )
        assert done.returncode == 0


# -- where copies can't land


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    require(None if os.geteuid() == 0 else "only root can mount a file system")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    require(None if done.returncode == 0 else f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_copies_onto_a_full_disk_and_a_read_only_one(still: Place, tmp_path: Path, recorded: Recorded) -> None:
    with mounted(tmp_path / "small", "size=16k") as small:
        recorded.refused(still.run, 125, "cp", "uploads/doom", f"{small}/here")
        assert not list(small.iterdir()), "no folder, no half file, no temporary file"
    with mounted(tmp_path / "fixed", "ro") as fixed:
        recorded.refused(still.run, 125, "cp", "uploads/doom", f"{fixed}/here")


# -- runs, at the wrong time


@pytest.mark.tensorflow
def test_stop_kill_and_rm_at_the_wrong_time(shared: Place, recorded: Recorded) -> None:
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")
    number = shared.run("run", "-y", "-b", "-t", "plain", "trap '' TERM; echo on; sleep 1000").stdout.strip()
    recorded.run(number)
    recorded.run(int(number) + 1, "next run")
    run = recorded.commands(shared.run)
    until(lambda: shared.run("logs", number, "--no-follow").stdout == "on\n")
    recorded.refused(shared.run, 2, "rm", f"runs/{number}")
    recorded.refused(shared.run, 2, *RUN, "-t", "plain", "-m", f"runs/{number}:x", "true")
    assert shared.newest()["state"] == "failed"
    for words in (("stop", "--grace", "10m"), ("stop",), ("kill",)):
        run(*words, number)
    until(lambda: shared.json("info", number)["ended"])
    for word in ("stop", "kill"):
        run(word, number)
    shared.run("rm", f"runs/{number}")
    recorded.refused(shared.run, 2, "rm", f"runs/{number}")


def test_no_docker(place: Place, recorded: Recorded) -> None:
    """`--engine docker` where there is none: the run fails with the reason, and its exit status says whose fault."""
    place.run("machines", "add", "dock", "local", "--engine", "docker")
    path = {"PATH": os.path.dirname(shutil.which("git") or "/usr/bin")}
    bare = Path(place.env["HOME"]) / "bin"
    bare.mkdir()
    for name in ("git", "sh", "mv", "cat"):
        (bare / name).symlink_to(os.path.join(path["PATH"], name) if name == "git" else shutil.which(name) or name)
    recorded.commands(place.run)(*RUN, "-t", "dock", "true", status=125, env={"PATH": str(bare)})
    doctor = place.run("doctor", "dock", status=1, env={"PATH": str(bare)})
    assert "✗ docker" in doctor.stdout


@pytest.mark.lab
def test_an_image_that_is_not_to_be_had(place: Place, lab: Lab, host_a: LabHost) -> None:
    place.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    place.run("machines", "add", "box", "host-a", "--engine", "docker")
    done = place.run(*RUN, "-t", "box", "--image", "no-such.invalid/image:1", "true", status=125)
    assert "no-such.invalid/image:1" in done.stderr and "can't be pulled" in done.stderr
    assert len(HINT.findall(done.stderr)) == 1 and "docker pull" in done.stderr
    assert not TRACEBACK.search(done.stderr)
    (run,) = place.json("ps")
    assert (run["state"], run["reason"], run["exit_status"]) == ("failed", "build_failed", None)
