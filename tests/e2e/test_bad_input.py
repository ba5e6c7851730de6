"""Whatever is typed wrong, or is wrong with a machine: one line that says what, a hint, the right exit status, and
nothing half-done left behind."""

from __future__ import annotations

import contextlib
import os
import re
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
from tests.e2e.said import HINT, TRACEBACK, refused
from tests.lab import Lab, LabHost
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
TABLE: list[tuple[tuple[str, ...], int, str, str]] = [
    # mounts
    ((*RUN, "-m", "uploads/doom:../x", "true"), 2, r"nothing can be mounted at `\.\./x`", "-m uploads/doom:data"),
    ((*RUN, "-m", "uploads/doom/../x:y", "true"), 2, "leaves its folder", "a resource is"),
    ((*RUN, "-m", "uploads/doom:x", "-m", "uploads/doom:x/y", "true"), 2, "two mounts meet at `x/y`", "-m upl.*:OTHER"),
    ((*RUN, "-m", "uploads/doom:a:b", "true"), 2, "`uploads/doom:a:b` is not a mount", r"RESOURCE\[:PATH\]"),
    ((*RUN, "-m", "doom", "true"), 2, "`doom` is not a resource", "uploads/NAME"),
    ((*RUN, "-m", "data:texts", "true"), 2, "`data` is not a resource", r"-m \./data:texts   uploads what is here"),
    ((*RUN, "-m", "/uploads/doom", "true"), 2, "starts with a slash", "uploads/NAME"),
    ((*RUN, "-m", "runs/7", "true"), 2, "no run 7", "remoterun ps"),
    ((*RUN, "-m", "uploads/doom:/abs", "true"), 2, "can't have a mount at an absolute path", "with Docker"),
    # machine types
    ((*RUN, "-t", "lcal", "true"), 2, "no machine type `lcal`", "did you mean `local`?"),
    (("doctor", "aws"), 2, "there is no login at AWS here", "aws configure "),
    ((*RUN, "-t", "k80", "true"), 2, "no machine is set up as `k80`", "remoterun machines add k80 user@host --gpus 1"),
    ((*RUN, "-t", "", "true"), 2, "machine type is empty", "remoterun machines"),
    ((*RUN, "-t", "me@-oProxyCommand=x", "true"), 2, "is not the name of a machine", "user@host"),
    (("upload", "notes.txt", "--to", "closed"), 125, "refused the connection", "sshd"),
    # other options of run
    (("run",), 2, "missing argument `COMMAND", "remoterun run --help"),
    ((*RUN, " "), 2, "the command is empty", "echo hello"),
    ((*RUN, "--mont", "x", "true"), 2, "no such option: `--mont`", "did you mean .*`--mount`"),
    ((*RUN, "--mount"), 2, "`--mount` requires an argument", "remoterun run --help"),
    ((*RUN, "--apt", "ffmpeg", "true"), 2, "can't have Debian packages", "with Docker"),
    ((*RUN, "--pip", "", "true"), 2, "--pip names no package", "--pip numpy"),
    ((*RUN, "--pip", "cow say", "true"), 2, "pip can't read the package `cow say`", "--pip NAME"),
    ((*RUN, "--image", "python:3", "true"), 2, "can't have an image", "with Docker"),
    ((*RUN, "--pip-req", "nofile", "true"), 2, "`nofile` can't be read: No such file", "requirements.txt"),
    ((*RUN, "--pip-req", "/dev/zero", "true"), 2, "`zero` has more than 4 MiB", "requirements.txt"),
    ((*RUN, "-e", "1A=secret", "true"), 2, "`1A=…` is not the name of an environment variable", "-e A=VALUE"),
    ((*RUN, "-e", "NAME", "true"), 2, "`NAME` is not set here", "-e NAME=VALUE"),
    ((*RUN, "--timeout", "soon", "true"), 2, "`soon` is not a duration", "90s, 10m"),
    ((*RUN, "--alert", "loss is 4", "true"), 2, "`loss is 4` is not a rule", '--alert "val_loss > 4 for 10m"'),
    ((*RUN, "--metric", "(.*)", "true"), 2, "a regular expression with a named group", "--metric 'loss=.*P<loss>"),
    ((*RUN, "--json", "true"), 2, "--json goes with -b", "stdout is the command's own"),
    ((*RUN, "-c", "nope", "true"), 2, "no commit is called `nope`", "git"),
    ((*RUN, "--no-git", "-c", "HEAD", "true"), 2, "neither as a plain folder nor with", "leave out one of them"),
    ((*RUN, "python -u notse.txt --lr 1"), 2, "starts `notse.txt`, which is not here", "did you mean `notes.txt`?"),
    ((*RUN, "--dry-run", "A=1 ./nope.sh | tee log"), 2, "starts `./nope.sh`, which is not", "-m uploads/NAME:PATH"),
    # runs that aren't
    (("logs", "7"), 2, "there is no run 7", "remoterun ps"),
    (("info", "last"), 2, "there is no run yet", "remoterun run"),
    (("stop", "3-5"), 2, "`3-5` is not a run number", "name each run by its number: 3 … 5"),
    (("stop", "7", "8"), 2, "there is no run 8", "remoterun ps"),
    (("logs", "7", "-n", "few"), 2, "`--tail`: `few` is not a whole number", "remoterun logs --help"),
    (("logs", "7", "8"), 2, r"unexpected extra argument\(s\) \(8\)", "remoterun logs --help"),
    (("rm", "runs/7"), 2, "there is no run 7", "remoterun ps"),
    (("rm", "uploads/doom/input.txt"), 2, "is inside one", "remoterun rm uploads/doom"),
    (("rm",), 2, "has to be named", "remoterun rm runs/12"),
    (("rm", "runs"), 2, "`runs` names all of them", "--older 30d"),
    (("rm", "9-3"), 2, "9 is more than 3", "runs/3-9"),
    (("rm", "uploads/doom", "--failed"), 2, "choose among runs", "remoterun rm uploads/doom"),
    # uploads
    (("upload", "nofile"), 2, "there is no `nofile`", "ls "),
    (("upload", "empty"), 2, "`empty` holds no file", "remoterun upload PATH"),
    (("upload", "/dev/null", "--name", "x"), 2, "neither a file nor a folder", "remoterun upload PATH"),
    (("upload", "notes.txt", "--name", ".."), 2, r"`\.\.` is not a name for an upload", "--name NAME"),
    (("upload", "notes.txt", "--name", "a/b"), 2, "`a/b` is not a name for an upload", "--name a-b"),
    (("ls", "uploads/dooom"), 2, "no upload `dooom`", "did you mean uploads/doom?"),
    (("ls", "uplods"), 2, "`uplods` is not a resource", "did you mean `uploads/…`?"),
    (("ls", "uploads/doom/nope"), 2, "no `uploads/doom/nope`", "remoterun ls uploads/doom"),
    (("cp", "a", "b"), 2, "neither side is a resource", "remoterun cp"),
    (("cp", "uploads/doom", "uploads/x"), 2, "both sides are resources", "remoterun cp uploads/doom ."),
    (("cp", "uploads/doom", "notes.txt"), 2, "`notes.txt` is not a folder", "name a folder"),
    (("cp", "-y", "-i", "uploads/doom"), 2, "choose one", "remoterun cp --help"),
    (("cp", "notes.txt", "runs/1"), 2, "outputs stay as they were", "remoterun cp PATH uploads/NAME/"),
    (("cp", "nofile", "uploads/doom/"), 2, "there is no `nofile`", "ls "),
    (("cp", "notes.txt", "uploads/doom/input.txt/"), 2, "lies below input.txt", "remoterun ls uploads/doom"),
    # machines
    (("machines", "add", "a/b", "me@host"), 2, "`a/b` is not a name for a machine", "remoterun machines add"),
    (("machines", "add", "box", "me@host:abc"), 2, "no usable port", "1 to 65535"),
    (("machines", "add", "box", "me@host", "--engine", "x"), 2, "no engine `x`", "auto, docker"),
    (("machines", "add", "box", "me@host", "--gpus", "many"), 2, "`many` is not a whole number", "machines add --help"),
    (("jupyter", "--framework", "torch"), 2, "`torch` is not a framework", r"--framework python\|tensorflow"),
    (("machines", "add", "plain", "me@host"), 2, "a machine `plain` already", "-y"),
    (("machines", "rm", "box"), 2, "no machine `box`", "remoterun machines"),
    (("machines", "default", "box"), 2, "no machine type `box`", "remoterun machines add box"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "status", "message", "hint"), TABLE, ids=lambda value: None)
def test_refused_with_nothing_left_behind(
    still: Place, words: tuple[str, ...], status: int, message: str, hint: str
) -> None:
    before = held(still)
    files = sorted(still.folder.rglob("*"))
    said = refused(still, status, message, hint, *words)
    assert held(still) == before
    assert sorted(still.folder.rglob("*")) == files
    assert "secret" not in said


ONLY_THE_MACHINE_KNOWS: list[tuple[tuple[str, ...], int, str, str]] = [
    (("-m", "uploads/dom"), 2, "no upload `dom`", "did you mean uploads/doom?"),
    (("-m", "uploads/zzzzzz"), 2, "no upload `zzzzzz`", "remoterun upload PATH --name zzzzzz"),
    (("-t", "closed"), 125, "refused the connection", "sshd"),
    (("-t", "silent"), 125, "says nothing", "overloaded or suspended"),
]


@pytest.mark.parametrize(("options", "status", "message", "hint"), ONLY_THE_MACHINE_KNOWS, ids=lambda value: None)
def test_what_is_refused_before_anything_is_sent_gets_no_number(
    failing: Place, options: tuple[str, ...], status: int, message: str, hint: str
) -> None:
    before, newest = made(failing), failing.json("ps")
    said = refused(failing, status, message, hint, *RUN, *options, "true")
    assert made(failing) == before and failing.json("ps") == newest
    assert "Casting" not in said


def test_a_run_whose_mount_is_not_in_the_upload_is_recorded_as_failed(failing: Place) -> None:
    words = (*RUN, "-m", "uploads/doom/nope:x", "true")
    said = refused(failing, 2, "no `uploads/doom/nope`", "remoterun ls uploads/doom", *words)
    run = failing.newest()
    assert (run["state"], run["ended"]) == ("failed", None) and "no `uploads/doom/nope`" in run["message"]
    assert f"Casting run {run['number']}…" in said


def test_a_machine_is_tried_before_questions_about_files(failing: Place, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    terminal = Place(tmp_path, failing.env).spawn("run", "-t", "closed", "python a.py")
    terminal.expect(["Send this folder", "refused the connection"])
    assert "refused" in terminal.after
    terminal.expect(pexpect.EOF)


def made(place: Place) -> dict[str, Any]:
    """What a home holds but for the list of runs, in which those that failed before they had a machine stand too."""
    return {name: found for name, found in held(place).items() if name not in ("runs", "numbers")}


def test_two_hints_are_one_too_many(still: Place) -> None:
    for words in ((*RUN, "-t", "k80", "true"), ("ls", "uploads/dooom")):
        assert len(HINT.findall(still.run(*words, status=2).stderr)) == 1


# -- machines with a fault


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[Server, Keys]]:
    """A real sshd of this user; its host key is known, and the user's key is let in."""
    keys = make_keys(tmp_path)
    (tmp_path / "sshd").mkdir()
    with contextlib.ExitStack() as stack:
        yield starter(tmp_path / "sshd", keys, stack)(), keys


def test_hosts_that_let_nobody_in(failing: Place, sshd: tuple[Server, Keys]) -> None:
    server, keys = sshd
    before = made(failing)

    def try_it(**changed: str) -> dict[str, str]:
        return {"REMOTERUN_SSH_CONFIG": str(server.config(**changed))}

    run = (*RUN, "-t", "box", "true")
    said = refused(failing, 125, "host key", "ssh", *run, env=try_it(UserKnownHostsFile="/dev/null"))
    assert "SHA256:" in said, "the fingerprint is there to be compared"
    other = server.folder / "changed"
    other.write_text(f"[127.0.0.1]:{server.port} {Path(f'{keys.other}.pub').read_text()}")
    said = refused(failing, 125, "host key .*changed", "ssh-keygen", *run, env=try_it(UserKnownHostsFile=str(other)))
    assert str(other) in said
    refused(failing, 125, "(key|log)", ".", *run, env=try_it(IdentityFile=str(keys.other)))
    assert made(failing) == before
    doctor = failing.run("doctor", "box", status=1, env=try_it(IdentityFile=str(keys.other)))
    assert "✗ login" in doctor.stdout and "fix: " in doctor.stdout


def test_a_host_without_python(failing: Place, sshd: tuple[Server, Keys]) -> None:
    server, _ = sshd
    env = {"REMOTERUN_SSH_CONFIG": str(server.config())}
    failing.run("machines", "add", "snake", "box", "--python", "no-such-python")
    before = made(failing)
    refused(failing, 125, "no-such-python", ".", *RUN, "-t", "snake", "true", env=env)
    assert made(failing) == before
    doctor = failing.run("doctor", "snake", status=1, env=env)
    assert "✗ agent" in doctor.stdout and "no-such-python" in doctor.stdout
    failing.run("machines", "rm", "snake")


# -- this machine


CONFIGS = [("x = ", "is not TOML"), ("machines = 3", "`machines` has to be a table"), ("\udcff", "is no UTF-8 text")]


@pytest.mark.parametrize(("text", "message"), CONFIGS)
def test_a_broken_configuration(place: Place, text: str, message: str) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    (home / "config.toml").write_bytes(os.fsencode(text))
    refused(place, 2, re.escape(message), ".", "ps")
    assert [path.name for path in home.iterdir()] == ["config.toml"]
    assert (home / "config.toml").read_bytes() == os.fsencode(text)


def test_a_default_that_is_gone(place: Place) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    (home / "config.toml").write_text('default = "gone"')
    refused(place, 2, "the default machine `gone`", "remoterun machines default local", *RUN, "true")
    place.run("machines", "default", "local")
    place.run("run", "--dry-run", "true")


def test_a_home_that_is_none(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for words in (("ps",), (*RUN, "true"), ("machines", "add", "x", "local"), ("ls",)):
        refused(place, 2, "is not a folder", "REMOTERUN_HOME", *words, env={"REMOTERUN_HOME": str(file)})
    for words in (("ps",), ("upload", "notes.txt", "--name", "x")):
        refused(place, 125, "home `?/proc/nope", "REMOTERUN_HOME", *words, env={"REMOTERUN_HOME": "/proc/nope"})
    refused(place, 2, "can't be written", ".", "machines", "add", "x", "local", env={"REMOTERUN_HOME": "/proc/nope"})
    assert file.read_text() == "precious"


def test_a_registry_that_is_none(place: Place) -> None:
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    registry = home / "registry.db"
    registry.write_text("not a database, but precious")
    for words in (("ps",), (*RUN, "true"), ("rm", "runs/1")):
        refused(place, 125, "registry .* can't be used: file is not a database", "mv .*registry.db", *words)
    assert registry.read_text() == "not a database, but precious"
    registry.unlink()
    registry.mkdir()
    refused(place, 125, "registry .* can't be written: unable to open", "ls -l .*registry.db", "ps")
    place.env["_REMOTERUN_COMPLETE"] = "complete_bash"
    done = place.run(env={"COMP_WORDS": "remoterun logs ", "COMP_CWORD": "2"})
    assert done.stderr == "", "completion never disturbs the line that is typed"


def test_no_git(still: Place, tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path)}
    refused(still, 125, "git is not installed", "install git; .*--no-git", *RUN, "true", env=empty)
    still.run("run", "--dry-run", "--no-git", "true", env=empty)


def test_no_repository(still: Place, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("one's own")
    said = refused(still, 2, "is in no git repository", "--no-git.*-y", "run", "true", cwd=tmp_path)
    assert len(said.splitlines()) == 3


def test_repositories_in_a_bad_way(still: Place, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, env=still.env, check=True, capture_output=True)

    before = held(still)
    git("init", "-q", "--bare", "bare")
    refused(
        still, 125, "is a folder of git's own, without a work tree", "git clone", *RUN, "true", cwd=tmp_path / "bare"
    )
    git("init", "-q", "cut")
    (tmp_path / "cut" / ".git" / "index").write_bytes(b"")
    refused(still, 125, "index file smaller than expected", "git -C .* status", *RUN, "true", cwd=tmp_path / "cut")
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


def test_copies_onto_a_full_disk_and_a_read_only_one(still: Place, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=16k") as small:
        hint = "free some space"
        refused(still, 125, "the disk that holds .*here` is too full", hint, "cp", "uploads/doom", f"{small}/here")
        assert not list(small.iterdir()), "no folder, no half file, no temporary file"
    with mounted(tmp_path / "fixed", "ro") as fixed:
        refused(still, 125, "can't be written: Read-only", "name a folder", "cp", "uploads/doom", f"{fixed}/here")


# -- runs, at the wrong time


@pytest.mark.tensorflow
def test_stop_kill_and_rm_at_the_wrong_time(shared: Place) -> None:
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")
    number = shared.run("run", "-y", "-b", "-t", "plain", "trap '' TERM; echo on; sleep 1000").stdout.strip()
    until(lambda: shared.run("logs", number, "--no-follow").stdout == "on\n")
    refused(shared, 2, f"run {number} can't be removed: the run is running", f"remoterun stop {number}", "rm",
            f"runs/{number}")  # fmt: skip
    refused(shared, 2, "its outputs are not saved", f"remoterun info {number}", *RUN, "-t", "plain", "-m",
            f"runs/{number}:x", "true")  # fmt: skip
    assert shared.newest()["state"] == "failed"
    assert "is stopping" in shared.run("stop", "--grace", "10m", number).stderr
    assert "is already stopping" in shared.run("stop", number).stderr
    assert "is killed" in shared.run("kill", number).stderr
    until(lambda: shared.json("info", number)["ended"])
    for word in ("stop", "kill"):
        assert "has ended already: killed" in shared.run(word, number).stderr
    shared.run("rm", f"runs/{number}")
    refused(shared, 2, f"there is no run {number}", "remoterun ps", "rm", f"runs/{number}")


def test_no_docker(place: Place) -> None:
    """`--engine docker` where there is none: the run fails with the reason, and its exit status says whose fault."""
    place.run("machines", "add", "dock", "local", "--engine", "docker")
    path = {"PATH": os.path.dirname(shutil.which("git") or "/usr/bin")}
    bare = Path(place.env["HOME"]) / "bin"
    bare.mkdir()
    for name in ("git", "sh", "mv", "cat"):
        (bare / name).symlink_to(os.path.join(path["PATH"], name) if name == "git" else shutil.which(name) or name)
    done = place.run(*RUN, "-t", "dock", "true", status=125, env={"PATH": str(bare)})
    assert "Docker is not installed here" in done.stderr
    assert HINT.findall(done.stderr) == ["remoterun doctor dock"]
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
