"""What the commands print and ask, with a terminal and without: what a user has learned must stay so."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from remoterun.model import new_key
from tests.commands import REMOTERUN
from tests.e2e.conftest import Place, make_place
from tests.e2e.said import INTERRUPT, ended, talk
from tests.recorder import TRACEBACK, Recorded
from tests.workshop import sha256, until

ESCAPE = "\x1b"
RUN = ("run", "-y", "-t", "plain")


@pytest.fixture(scope="module")
def ready(shared: Place) -> Place:
    """The shared place, whose machine `plain` has its environment; `runs` of these tests are labelled `cli`."""
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")
    shared.run(*RUN, "true")
    return shared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place of its own with uploads, and no run."""
    place = make_place(tmp_path_factory.mktemp("data"))
    place.run("machines", "add", "plain", "local", "--engine", "process", "--default")
    odd = place.folder / "odd"
    (odd / "sub" / "deep").mkdir(parents=True)
    (odd / "empty").mkdir()
    for name in ("plain.txt", "new\nline", f"esc{ESCAPE}[31mred", "ünï çödé", "sub/deep/f"):
        (odd / name).write_text(name)
    os.close(os.open(os.fsencode(odd) + b"/latin\xe9", os.O_CREAT | os.O_WRONLY))
    (odd / "out").symlink_to("/etc/passwd")
    place.run("upload", "odd")
    return place


def in_shell(place: Place, line: str) -> subprocess.CompletedProcess[str]:
    line = re.sub(r"\bremoterun\b", REMOTERUN, line)
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=place.folder, env=place.env, capture_output=True, text=True, timeout=120
    )


# -- without a run


def test_listings_in_json(data: Place) -> None:
    assert data.json("ps") == []
    assert [upload["name"] for upload in data.json("ls")] == ["odd"]
    listed = data.json("ls", "uploads/odd")
    assert {"new\nline", "sub/deep/f", "empty", "out"} < {entry["path"] for entry in listed["entries"]}
    assert {machine["name"]: machine["default"] for machine in data.json("machines")}["plain"] is True
    checks = json.loads(data.run("doctor", "--json", status=None).stdout)
    assert {"python3", "disk", "clock"} <= {check["name"] for check in checks}
    again = data.json("upload", "odd")
    assert (again["new"], again["bytes_sent"], again["version"]) == (False, 0, 1)


def test_listings_never_write_to_the_terminal(data: Place, recorded: Recorded) -> None:
    """Names of files come from anywhere: no escape sequence of theirs is obeyed, no line of theirs is faked."""
    run = recorded.commands(data.run)
    run("ls", "uploads/odd")
    run("ls", "-r", "uploads/odd")
    run("ls", "uploads/odd/sub")
    run("cp", "uploads/odd", "copy")
    assert (data.folder / "copy" / f"esc{ESCAPE}[31mred").exists()
    for words in (("ls", "uploads/odd"), ("cp", "uploads/odd", "copy"), ("upload", "odd"), ("ls", f"x{ESCAPE}[31m")):
        done = data.run(*words, status=None)
        assert ESCAPE not in done.stdout + done.stderr, words


def test_colour_only_where_it_is_wanted(data: Place) -> None:
    assert ESCAPE not in data.run("machines").stdout
    assert ESCAPE in data.run("machines", env={"CLICOLOR_FORCE": "1"}).stdout
    assert ESCAPE not in data.run("machines", env={"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}).stdout
    for name, value, coloured in (("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False)):
        terminal = pexpect.spawn(REMOTERUN, ["machines"], env={**data.env, name: value}, encoding="utf-8", timeout=60)
        terminal.expect(pexpect.EOF)
        assert (ESCAPE in terminal.before) is coloured, (name, value)


def test_a_terminal_that_speaks_ascii(data: Place) -> None:
    done = data.run("ls", "uploads/odd", env={"PYTHONIOENCODING": "ascii"})
    assert r"\xfcn\xef" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("remoterun ls uploads/odd/s", ["uploads/odd/sub/deep/f"]),
        ("remoterun cp uploads/odd/", [f"uploads/odd/{name}" for name in ("empty/", "out", "plain.txt", "sub/")]),
        ("remoterun ls u", ["uploads/odd"]),
        ("remoterun run -m ", ["uploads/odd"]),
        ("remoterun run -t ", ["plain", "local"]),
        ("remoterun doctor pl", ["plain"]),
        ("remoterun upload x --to l", ["local"]),
        ("remoterun logs ", ["last"]),
        ("remoterun wh", ["whoami"]),
        ("remoterun machines rm ", ["plain"]),
        ("remoterun run --inc", ["--include-untracked"]),
    ],
)
def test_completion(data: Place, typed: str, offered: list[str]) -> None:
    env = {"_REMOTERUN_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    until(lambda: data.run(env=env).stdout.split() == offered)  # a machine has three seconds to list its files


def test_the_text_beside_what_zsh_offers_keeps_its_words(data: Place) -> None:
    env = {"_REMOTERUN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "remoterun "}
    offered = data.run(env=env).stdout
    assert "Show a run’s log, " in offered and "End runs, their outputs are saved." in offered


def test_dry_run_shows_and_does_nothing(data: Place, recorded: Recorded) -> None:
    run = recorded.commands(data.run)
    run("run", "--dry-run", "-m", "uploads/odd:data", "--pip", "numpy", "echo  'two  spaces'")
    assert data.json("ps") == []


def test_copies_meet_what_is_there(data: Place, tmp_path: Path, recorded: Recorded) -> None:
    (tmp_path / "plain.txt").write_text("mine")
    run = recorded.commands(data.run)
    run("cp", "uploads/odd", str(tmp_path), status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.txt"], "nothing is half done"
    run("cp", "-i", "uploads/odd", str(tmp_path))
    assert (tmp_path / "plain.txt").read_text() == "mine"
    words, asked = ("cp", "uploads/odd", str(tmp_path)), "[y/a/N/q] "
    talk(data.spawn(*words), "plain.txt exists. Overwrite it?", None, asked, "what", "Overwrite it?", None, asked, "")
    talk(data.spawn(*words), asked, INTERRUPT, status=130)
    assert (tmp_path / "plain.txt").read_text() == "mine"
    run("cp", "-y", "uploads/odd", str(tmp_path))
    assert (tmp_path / "plain.txt").read_text() == "plain.txt"
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    for answer, mine in (("q", len(files)), ("all", 0)):  # to the first of several
        for path in files:
            path.write_text("mine")
        talk(data.spawn(*words), "(a: all; -i keeps all) [y/a/N/q] ", answer, status=130 if mine else 0)
        assert [path.read_text() for path in files].count("mine") == mine and len(files) > 1
    run("cp", "uploads/odd", str(tmp_path))


def test_a_copy_says_where_it_went_or_why_there_is_none(data: Place, tmp_path: Path, recorded: Recorded) -> None:
    run = recorded.commands(data.run)
    run("cp", "uploads/odd/plain.txt", cwd=tmp_path)
    run("cp", "uploads/odd/sub", "sub", cwd=tmp_path)
    run("cp", "uploads/odd/[ps]*", "a/b", cwd=tmp_path)
    assert (tmp_path / "a" / "b" / "sub" / "deep" / "f").exists()
    run("cp", "uploads/odd/plain.txt", cwd=tmp_path)
    run("cp", "uploads/odd/*.png", cwd=tmp_path, status=2)
    run("ls", "uploads/odd/s*/d*")


def test_files_on_stdout(data: Place, tmp_path: Path, recorded: Recorded) -> None:
    assert data.run("cp", "uploads/odd/plain.txt", "-").stdout == "plain.txt"
    assert data.run("cp", "uploads/odd/*/*/f", "-").stdout == "sub/deep/f", "what matches"
    assert in_shell(data, f"remoterun cp uploads/odd/sub - | tar x -C {tmp_path}").returncode == 0
    assert (tmp_path / "deep" / "f").read_text() == "sub/deep/f"
    talk(data.spawn("cp", "uploads/odd", "-"), "uploads/odd is a folder", status=2)
    recorded.refused(data.run, 2, "cp", "--json", "uploads/odd/plain.txt", "-")


def test_what_is_damaged_keeps_nobody_from_the_rest(data: Place, tmp_path: Path, recorded: Recorded) -> None:
    digest = sha256(b"plain.txt")
    blob = Path(data.env["REMOTERUN_HOME"], "blobs", digest[:2], digest[2:])
    blob.chmod(0o600)
    os.truncate(blob, 3)
    run = recorded.commands(data.run)
    run("cp", "uploads/odd", str(tmp_path / "copy"), status=125)
    found = json.loads(data.run("cp", "--json", "uploads/odd", str(tmp_path / "json"), status=125).stdout)
    assert (found["files"], found["damaged"]) == (5, ["plain.txt"])
    checked = run("machines", "check", "plain", status=1)
    (again,) = [found for found in re.findall(r"remoterun (upload .*)", checked.stderr) if "--name odd" in found]
    data.run(*shlex.split(again))
    data.run("machines", "check", "plain")
    run("cp", "uploads/odd", str(tmp_path / "copy"))


def test_names_of_uploads(data: Place, recorded: Recorded) -> None:
    run = recorded.commands(data.run)
    run("upload", "notes.txt", "--name", "verse")
    run("upload", "notes.txt")
    run("cp", "odd/plain.txt", "uploads/verse/more/")
    run("ls", "uploads/verse")
    several = ("uploads/verse", "uploads/song")
    for words in (several, ("uploads/nix", *several), ("7", *several), ("uploads/verse",)):
        run("rm", *words, status=2)
    talk(data.spawn("rm", *several), "Remove these 2 uploads? [y/N] ", "", "Nothing was removed")
    run("rm", "-y", *several, "uploads/nix", status=2)
    assert [upload["name"] for upload in data.json("ls")] == ["odd"]


def test_what_git_keeps_for_itself_is_left_out(data: Place, tmp_path: Path, recorded: Recorded) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "cloned")], check=True)
    (tmp_path / "cloned" / "notes").write_text("a")
    recorded.commands(data.run)("upload", ".", cwd=tmp_path / "cloned")
    assert [entry["path"] for entry in data.json("ls", "uploads/cloned")["entries"]] == ["notes"]
    done = data.run("upload", "cloned", "--include-git", cwd=tmp_path)
    assert re.search(r"warning: \d+ of its files are git's own, in \.git: `cp` will leave them out", done.stderr)
    data.run("rm", "-y", "uploads/cloned")


def test_an_upload_that_is_interrupted_goes_on(data: Place) -> None:
    big = data.folder / "big"
    with big.open("wb") as file:
        for _ in range(300):  # no piece is like another one: it takes a while
            file.write(os.urandom(1 << 20))
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    with Path(data.env["REMOTERUN_HOME"], "partial", digest).open("wb") as arriving:
        fcntl.flock(arriving, fcntl.LOCK_SH)  # so that it is not taken for whole, how soon ever all has come
        terminal = data.spawn("upload", "big", "--name", "big")
        until(lambda: os.fstat(arriving.fileno()).st_blocks)
        cut = "Not finished. What has arrived stays; the same command goes on."
        talk(terminal, re.compile("sending.* MB/s"), INTERRUPT, cut, status=130)
    assert [upload["name"] for upload in data.json("ls")] == ["odd"]
    again = data.run("upload", "big", "--name", "big").stderr
    assert re.search(r"Uploaded 1 file, 315 MB, [\d.]+ [KM]B of it there already", again)
    data.run("rm", "uploads/big")
    big.unlink()


@pytest.mark.parametrize(
    ("moment", "status"),
    [
        ("sys.meta_path.insert(0, SimpleNamespace(find_spec=at_typer))", 130),
        ("atexit.register(interrupt)", -signal.SIGINT),
    ],
    ids=["while it is imported", "after its last word"],
)
def test_an_interrupt_at_this_moment_is_quiet(data: Place, moment: str, status: int) -> None:
    program = f"""
import atexit, os, signal, sys
from types import SimpleNamespace
from remoterun.cli.main import main
def interrupt():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
def at_typer(name, *_):
    return interrupt() if name == "typer" else None
{moment}
sys.argv[1:] = ["--help"]
sys.exit(main())
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=data.folder, env=data.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (status, ""), done
    assert done.stdout.endswith("Keep secrets, such as tokens, for runs.\n") is (status != 130), (
        "what was written is there"
    )


# -- with runs


@pytest.mark.tensorflow
class TestRuns:
    def test_words_arrive_as_they_were_typed(self, ready: Place) -> None:
        show = "import sys; print(sys.argv[1:])"
        for words, expected in (
            (("python", "-c", show, "-v", "--help", "-t", "x"), "['-v', '--help', '-t', 'x']\n"),
            (("--", "python", "-c", show, "--", "a  b", "$HOME", "é"), "['--', 'a  b', '$HOME', 'é']\n"),
            (("echo 'a  b'\n# a comment\necho ${REMOTERUN_MACHINE}",), "a  b\nplain\n"),
        ):
            assert ready.run(*RUN, "--label", "cli", *words).stdout == expected
        done = subprocess.run([REMOTERUN, *RUN, b"printf '\xe9'"], cwd=ready.folder, env=ready.env, capture_output=True)
        assert (done.returncode, done.stdout) == (0, b"\xe9")

    def test_quiet_leaves_the_output_and_what_went_wrong(self, ready: Place) -> None:
        done = ready.run("run", "-q", "-y", "-t", "plain", "echo out; echo err >&2; exit 3", status=3)
        assert (done.stdout, done.stderr) == ("out\nerr\n", "")
        failed = ready.run(
            "run", "-q", "-y", "-t", "plain", "--pip-req", "/dev/null", "--image", "x", "true", status=None
        )
        assert failed.returncode and failed.stderr.startswith("error: ")
        number = int(ready.run("run", "-q", "-b", "-y", "-t", "plain", "sleep 1000").stdout)
        ready.run("kill", "-q", str(number))
        assert ready.run("logs", "-q", str(number), status=137).stderr == ""

    def test_settings_of_a_repository(self, ready: Place, tmp_path: Path, recorded: Recorded) -> None:
        """They hold once the user has agreed to the file as it is, at a terminal: `-y` is no answer. That counts for
        each of them, also where something else is typed: packages run code, and an image may be private."""
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        file = tmp_path / "remoterun.toml"
        (below := tmp_path / "below").mkdir()
        before = ready.newest()["number"]
        for text in ('pip = ["x @ file:///x"]', 'image = "private"', "ports = [5432]", 'machine = "plain"'):
            file.write_text(text)
            recorded.refused(ready.run, 2, "run", "-y", "-t", "plain", "true", cwd=below)
        file.write_text('machine = "plain"\nlabels = ["lesson", "a\\u001b b"]\ntimeout = "1h"\nsplit = true\n')
        there = Place(below, ready.env)
        shown = "../remoterun.toml is new here, or was changed. It says:\r\n  machine        plain\r\n"
        shown += "  labels         lesson 'a\\x1b b'\r\n  timeout        1h\r\n  split          True\r\n"
        asked = "Shall that hold for what you run here, from now on? [y/N] "
        talk(there.spawn("run", "-y", "-t", "plain", "true"), shown, None, asked, "", "Nothing was run.", status=130)
        talk(there.spawn("run", "-y", "true"), asked, "q", status=130)
        assert ready.newest()["number"] == before
        talk(there.spawn("run", "-y", "true"), asked, "y", "complete")
        done = ready.run("run", "-y", "--label", "cli", "true", cwd=below)
        assert "Settings of ../remoterun.toml hold, unless others are typed." in done.stderr
        run = ready.newest()
        assert run["machine"] == "plain" and run["labels"][::2] == ["lesson", "cli"]
        file.write_text('machine = "plain"\nlabels = ["lesson"]\nnotify = ["PHONE"]\n')
        ready.run("run", "-y", "true", cwd=below, status=2)
        words = ("run", "--dry-run", "-t", "local", "--port", "6006", "--notify", "none", "true")
        recorded.commands(ready.run)(*words, cwd=tmp_path)

    def test_a_link_of_a_repository_is_asked_about_before_it_is_sent(
        self, ready: Place, tmp_path: Path, recorded: Recorded
    ) -> None:
        """It leads out of the repository, where its name says otherwise; what a person made is sent without a word."""
        there = Place(tmp_path / "clone", ready.env)
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "id").write_text("numpy")
        there.folder.mkdir()
        for name, goal in (("data", "../keys"), ("needs.txt", "../keys/id"), ("own", "../keys"), ("git", ".git")):
            (there.folder / name).symlink_to(goal)
        subprocess.run(["git", "init", "-q", there.folder], check=True)
        subprocess.run(["git", "add", "data", "needs.txt", "git"], cwd=there.folder, check=True)
        sends: list[tuple[str, ...]] = [
            ("upload", "data"), ("upload", "needs.txt"), ("cp", "data/id", "uploads/ours/"), ("upload", "git/HEAD"),
            ("run", "-y", "-m", "./data:d", "true"), ("run", "-y", "--pip-req", "needs.txt", "true"),
        ]  # fmt: skip
        for words in sends:
            recorded.refused(there.run, 2, *words)
        assert "uploads/ours" not in there.run("ls").stdout
        there.run("upload", "own")
        there.run("upload", "../keys")
        talk(there.spawn("upload", "data"), re.compile(r"leads to .*keys.*Send that\? \[y/N\] "), "n", status=130)
        talk(there.spawn("upload", "data"), "Send that", "y")

    def test_standard_input(self, ready: Place) -> None:
        """It is sent where that is asked for, also again; else it is said that it is not."""
        here = ready.folder / "below"
        here.mkdir(exist_ok=True)
        (here / "script.sh").write_text("cat; pwd")
        subprocess.run(["git", "add", "below"], cwd=ready.folder, check=True)
        done = in_shell(ready, "cd below && printf 'some\nwords' | remoterun run -q --stdin -y -t plain sh script.sh")
        assert done.returncode == 0 and re.fullmatch(r"some\nwords/.*/below\n", done.stdout), done
        assert ready.run("rerun", "last").stdout.startswith("some\nwords/")
        done = in_shell(ready, "printf words | remoterun run -q -y -t plain cat")
        assert done.stdout == "" and "warning: what comes on standard input is not sent: --stdin" in done.stderr
        assert in_shell(ready, "true | remoterun run -q -y -t plain cat").stderr == ""
        terminal = ready.spawn("run", "-y", "-t", "plain", "--stdin", "cat")
        terminal.expect("ends it")
        terminal.sendline("typed")
        terminal.sendeof()  # once
        terminal.expect("exit status 0")
        assert terminal.before.count("typed\r\n") == 2 and ended(terminal) == 0

    def test_stderr_apart(self, ready: Place, tmp_path: Path) -> None:
        run = "remoterun run -q -y -t plain --no-git"
        command = "'echo loss 1; echo w >&2; echo loss 2'"
        done = in_shell(ready, f"cd {tmp_path}; {run} --split {command} >out 2>err; cat err out")
        assert done.stdout == "w\nloss 1\nloss 2\n"
        again = ready.run("logs", "-q", "last", "--grep", "w|2", "--timestamps")
        assert re.fullmatch(r"[-0-9]+ [:0-9]+ loss 2\n", again.stdout), again
        assert re.fullmatch(r"[-0-9]+ [:0-9]+ w\n", again.stderr), again
        mixed = in_shell(ready, f"cd {tmp_path}; {run} 'echo a; echo b >&2; echo c' 2>err; cat err")
        assert mixed.stdout == "a\nb\nc\n"

    def test_which_runs_are_listed(self, ready: Place, recorded: Recorded) -> None:
        ready.run(*RUN, "--label", "mark", "-d", "Of Filters", "exit 4", status=4)
        newest = ready.json("info")["number"]

        def found(*words: str) -> list[int]:
            return [run["number"] for run in ready.json("ps", "-a", *words)]

        assert found("--label", "mark", "--state", "ended", "-t", "plain", "--since", "1h", "of fil") == [newest]
        assert newest in found("--state", "failed") and newest not in found("--state", "active", "--state", "complete")
        assert newest not in found("-t", "local") and found("of filters", "nothing") == []
        recorded.refused(ready.run, 2, "ps", "--state", "faild")

    def test_the_state_comes_before_the_first_byte(self, ready: Place) -> None:
        for _ in range(3):
            done = in_shell(ready, "remoterun run -y -t plain echo first 2>&1")
            lines = done.stdout.splitlines()
            assert lines.index("first") > next(i for i, line in enumerate(lines) if "Running on plain" in line)

    def test_a_last_line_without_its_end_stays_on_the_terminal(self, ready: Place) -> None:
        """What we say next begins a new line; without a terminal not a byte is added."""
        assert talk(ready.spawn(*RUN, "printf abc"), "^C leaves it running\r\n").startswith("abc\r\n")
        assert re.search(r"(^|\n)abc\r\n.*complete", talk(ready.spawn("logs", "last")))
        done = ready.run("logs", "last")
        assert done.stdout == "abc" and "\n\n" not in done.stderr

    def test_what_others_wrote_is_not_obeyed(self, ready: Place) -> None:
        command = f"echo '{ESCAPE}[31mred{ESCAPE}[0m'; exit 3"
        done = ready.run(*RUN, "-d", f"d{ESCAPE}[5m", "--label", f"l{ESCAPE}[5m", command, status=3)
        assert done.stdout == f"{ESCAPE}[31mred{ESCAPE}[0m\n", "the log, byte for byte"
        assert ESCAPE not in done.stderr
        for words in (("ps", "-v"), ("ps",), ("info", "last"), ("run", "--dry-run", command)):
            assert ESCAPE not in ready.run(*words).stdout, words
        assert ready.newest()["description"] == f"d{ESCAPE}[5m"

    def test_info_says_what_was_asked_and_no_value(self, ready: Place) -> None:
        words = [REMOTERUN, "secret", "set", "ASKED"]
        subprocess.run(words, env=ready.env, input=b"hidden", check=True, capture_output=True)
        ready.run(*RUN, "-e", "A=apparent", "--secret", "ASKED=KEY", "--timeout", "5m", "true")
        shown = ready.run("info", "last").stdout
        for row in (r"variables +A", r"secrets +ASKED as KEY", r"timeout +5 min 0 s"):
            assert re.search(f"^{row}$", shown, re.MULTILINE), shown
        assert "apparent" not in shown and "hidden" not in shown

    def test_listings_and_labels(self, ready: Place, tmp_path: Path, recorded: Recorded) -> None:
        number = ready.run(*RUN, "-b", "--label", "night", "echo made > file").stdout.strip()
        assert ready.run("logs", number).stderr.count("complete") == 1
        assert [str(each["number"]) for each in ready.json("ps", "--label", "night")] == [number]
        recorded.run(number)
        run = recorded.commands(ready.run)
        run("ps", "--label", "day")
        run("ps", "-t", "plian")
        assert len(ready.json("ps", "-n", "2")) == 2
        assert len(ready.json("ps", "-a")) >= len(ready.json("ps"))
        about = ready.json("info", "last")
        assert about["spec"]["command"] == "echo made > file" and about["outputs"]["files"] == 1
        empty = json.loads(ready.run(*RUN, "-b", "--json", "true").stdout)
        assert empty["machine"] == "plain"
        ready.run("logs", "last")
        run("cp", "runs/last", cwd=tmp_path)
        assert not any(tmp_path.iterdir())
        run("ls", f"runs/{number}")
        run("info", number, "+good", "-night")
        assert [str(each["number"]) for each in ready.json("ps", "--label", "good")] == [number]
        run("cp", f"runs/{number}", cwd=tmp_path)
        assert (tmp_path / f"run-{number}" / "file").exists()
        run("cp", f"runs/{number}/file", cwd=tmp_path)
        assert ready.run("cp", f"runs/{number}/file", "-").stdout == "made\n"
        run("rm", number, "--failed")
        run("rm", "runs", "--older", "7d")
        run("rm", number)
        numbers = [ready.run(*RUN, "-b", "exit 3").stdout.strip() for _ in range(2)]
        for each in numbers:
            ready.run("logs", each, status=3)
        terminal = ready.spawn("rm", f"{numbers[0]}-{numbers[1]}", "--failed")
        listed = re.compile(rf"  runs/{numbers[0]}  failed \(3\), .*  exit 3\r\n")
        talk(terminal, listed, None, "Remove these 2 runs? [y/N] ", "y", f"removed runs/{numbers[1]}")
        assert not {*numbers} & {str(run["number"]) for run in ready.json("ps", "-a")}

    def test_a_run_whose_machine_went_away_while_it_was_handed_over(self, ready: Place) -> None:
        """Nobody knows whether it has the run: its log is not empty, it can't be asked for."""
        ready.run(*RUN, "true")
        number = str(ready.newest()["number"])
        away = json.dumps({"name": "away", "host": "nobody@127.0.0.1:1", "connect_timeout": 2.0})
        with sqlite3.connect(Path(ready.env["REMOTERUN_HOME"]) / "registry.db") as database:
            database.execute(
                "UPDATE runs SET machine = ?, placed = ?, state = 'uploading', status = '{}', client_pid = ?"
                " WHERE number = ?",
                [away, away, os.getpid(), number],
            )
        database.close()
        assert "127.0.0.1:1` refused the connection" in ready.run("logs", number, status=125).stderr
        assert re.search(rf" {number}  uploading", ready.run("ps").stdout)
        with sqlite3.connect(Path(ready.env["REMOTERUN_HOME"]) / "registry.db") as database:
            database.execute("DELETE FROM runs WHERE number = ?", [number])
        database.close()
        assert ready.json("ps", "--label", "night") == []

    def test_parts_of_a_log(self, ready: Place, recorded: Recorded) -> None:
        ready.run(*RUN, "echo one; echo two; printf three")
        number = str(ready.newest()["number"])
        for words, expected in (
            (("-n", "1"), "three"),
            (("-n", "2"), "two\nthree"),
            (("-n", "0"), ""),
            (("--since", "1h"), "one\ntwo\nthree"),
            (("--no-follow",), "one\ntwo\nthree"),
        ):
            assert ready.run("logs", number, *words).stdout == expected, words
        stamped = ready.run("logs", f"runs/{number}", "--timestamps").stdout.splitlines()
        assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in stamped] == ["one", "two", "three"]
        ready.run(*RUN, "true")
        recorded.run(int(number) + 1)
        recorded.commands(ready.run)("logs", "last", "--no-follow")

    def test_the_end_of_a_line_that_is_too_long(self, ready: Place) -> None:
        ready.run(*RUN, r"head -c 5000000 /dev/zero | tr '\0' x; echo; echo end")
        cut = ready.run("logs", "last", "-n", "2")
        assert cut.stdout.endswith("x\nend\n") and len(cut.stdout) < 5_000_000
        assert "the first line is too long to be shown from its start" in cut.stderr
        assert "too long" not in ready.run("logs", "last", "-n", "1").stderr
        assert "too long" not in ready.run("logs", "last", "-n", "9").stderr, "nothing is left out"

    def test_a_reader_that_has_enough(self, ready: Place) -> None:
        done = in_shell(ready, "{ remoterun run -y -t plain 'seq 300000'; echo $? >&2; } | head -1")
        assert done.stdout == "1\n" and done.stderr.endswith("141\n") and not TRACEBACK.search(done.stderr)
        until(lambda: ready.newest()["state"] == "complete")

    def test_files_that_git_does_not_track(self, ready: Place) -> None:
        newest = ready.newest()["number"]
        listed = re.compile(r"1 file is not tracked by git:\r\n  data/input.txt   [\d.]+ KB\r\n")
        asked = "Send it, too? (n: run without it, q: quit) [y/N/q] "
        talk(ready.spawn("run", "-t", "plain", "echo done"), listed, None, asked, "q", status=130)
        assert ready.newest()["number"] == newest, "no number was given"
        assert "ROMEO" in ready.run(*RUN, "--include-untracked", "cat data/input.txt").stdout

    def test_a_file_that_the_command_names_is_offered(self, ready: Place) -> None:
        """A newcomer's first script: Enter sends it; without a terminal nothing runs without it unless asked."""
        newest = ready.newest()["number"]
        command = "head -1 ./data/input.txt"
        refused = ready.run("run", "-t", "plain", command, status=2)
        assert "error: `data/input.txt`, which the command names, is not tracked by git" in refused.stderr
        assert "hint: -y sends what the command names, --include-untracked all that git does not" in refused.stderr
        assert ready.newest()["number"] == newest
        run = ("run", "-t", "plain")
        listed = re.compile(r"  data/input.txt   [\d.]+ KB   \(the command names it\)\r\n")
        asked = "Send it, too? (n: run without it, q: quit) [Y/n/q] "
        talk(ready.spawn(*run, command), listed, None, asked, "", "ROMEO:")
        before = "1 file is not tracked by git. Sent, too, as you answered before"
        talk(ready.spawn(*run, f"{command}; exit 1"), before, status=1)
        (ready.folder / "new.txt").write_text("another list is another question")
        os.truncate(ready.folder / "new.txt", 700_000_000)
        two, size = "2 files are not tracked by git, 700 MB:", "  new.txt   700 MB\r\n"
        asked = "(a: all 2 files, n: run without them, q: quit) [Y/a/n/q] "
        talk(ready.spawn(*run, command), two, None, size, None, asked, "n", "Not sent.", status=1)
        talk(ready.spawn(*run, command), asked, "q", status=130)  # it failed without what it names: asked anew
        (ready.folder / "new.txt").unlink()
        assert ready.run(*RUN, command).stdout == "ROMEO:\n"

    def test_what_the_command_does_not_name_is_sent_only_where_all_is(self, ready: Place) -> None:
        """By -y and by Enter, not; by `a` and --include-untracked. An answer is remembered; with -q nothing is said."""
        others = [ready.folder / f"{name}.env" for name in "abcdef"]
        command, only = "head -1 data/input.txt; cat f.en*", "Not sent, but for `data/input.txt`"
        try:
            for count, answer in ((6, ""), (7, "a")):
                for each in others[-count + 1 :]:
                    each.write_text("KEY")
                terminal = ready.spawn("run", "-t", "plain", command)
                listed = (
                    f"more, which `git status -uall` lists\r\nSend `data/input.txt`? (a: all {count} files, n: run "
                )
                terminal.expect_exact(f"… and {count - 5} {listed}without them, q: quit) [Y/a/n/q] ")
                terminal.sendline(answer)
                terminal.expect_exact("Sent, too." if answer else only)
                assert ("KEY" in terminal.read()) is bool(answer)
                ended(terminal)
                quiet = ready.spawn("run", "-q", "-t", "plain", command).read()
                assert "not tracked" not in quiet and "ROMEO" in quiet and ("KEY" in quiet) is bool(answer)
            asked = ready.run(*RUN, command, status=1)
            assert "KEY" not in asked.stdout and f"{only} (--include-untracked sends all).\n" in asked.stderr
            assert ready.run(*RUN, "--include-untracked", command).stdout == "ROMEO:\nKEY"
        finally:
            for each in others:
                each.unlink(missing_ok=True)

    def test_without_git_the_folder_is_offered(self, ready: Place, tmp_path: Path, recorded: Recorded) -> None:
        (tmp_path / "hello.py").write_text("print('hello')")
        words = ("python", "hello.py")
        recorded.refused(ready.run, 2, "run", "-t", "plain", *words, cwd=tmp_path)
        assert ready.run(*RUN, *words, cwd=tmp_path).stdout == "hello\n"
        ready.run("upload", "hello.py", "--name", "greeting", cwd=tmp_path)
        mounted = ready.run(*RUN, "-m", "uploads/greeting:in", "cat in/hello.py; ls", cwd=tmp_path)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "hello.py").write_text("what the mount takes the place of")
        assert (
            ready.run(*RUN, "-m", "uploads/greeting:in", "cat in/hello.py; ls", cwd=tmp_path).stdout == mounted.stdout
        )
        assert mounted.stdout == "print('hello')in\n"
        other = ready.run(*RUN, "ls", cwd=tmp_path)
        assert other.stdout == "" and "No files of yours will be available" in other.stderr

    def test_where_there_is_no_git(self, ready: Place, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("here")
        (tmp_path / "secret").write_text("no")
        (tmp_path / ".remoterunignore").write_text("secret\n")
        done = ready.run("run", "-t", "plain", "--no-git", "cat file; ls", cwd=tmp_path)
        assert done.stdout == "herefile\n"
        asked = "Send this folder (2 files, 11 bytes)? (n: run without files, q: quit) [y/N/q] "
        terminal = Place(tmp_path, ready.env).spawn("run", "-t", "plain", "ls")
        talk(terminal, "no git repository here", None, asked, "", "complete")
        # Enter does not send all of a user's home, whatever the command names
        terminal = Place(tmp_path, {**ready.env, "HOME": str(tmp_path)}).spawn("run", "-t", "plain", "cat file")
        talk(terminal, "[y/N/q] ", "q", status=130)
        (empty := tmp_path / "empty").mkdir()
        assert ready.run("run", "-t", "plain", "echo hello", cwd=empty).stdout == "hello\n"

    def test_a_run_that_waits_is_seen_to_wait(self, ready: Place) -> None:
        ready.run("machines", "add", "narrow", "local", "--engine", "process", "--slots", "1", "-y")
        first, second = (ready.run("run", "-y", "-b", "-t", "narrow", "sleep 1000").stdout.strip() for _ in range(2))
        until(lambda: ready.json("info", first)["state"] == "running")
        until(lambda: re.search(rf" {second}  queued, next in line ", ready.run("ps").stdout))
        assert f"run {second} is queued: it has written nothing yet" in ready.run("logs", second, "--no-follow").stderr
        waiting = re.compile("Waiting for its turn.*(next in line|waiting for)", re.DOTALL)
        goes_on = f"run {second} goes on without this terminal"
        talk(ready.spawn("logs", second), waiting, INTERRUPT, goes_on, status=130)
        terminal = ready.spawn("logs", second)
        terminal.expect(waiting)
        env = {"_REMOTERUN_COMPLETE": "complete_bash", "COMP_WORDS": "remoterun stop ", "COMP_CWORD": "2"}
        assert {first, second} == set(ready.run(env=env).stdout.split()), "what may be stopped is offered"
        assert f"run {second} is stopping; it had not started" in ready.run("stop", second).stderr
        talk(terminal, f"run {second} stopped: you stopped it", status=143)
        terminal = ready.spawn("logs", first)
        terminal.expect("Running on narrow without Docker")
        ready.run("kill", first)
        talk(terminal, re.compile(f"run {first} killed .*exit status 137: you killed it"), status=137)

    def test_a_run_that_was_never_handed_over(self, ready: Place, recorded: Recorded) -> None:
        """Its number stands in the registry only; every command knows what became of it."""
        ready.run(*RUN, "true")
        number = str(ready.newest()["number"])
        with sqlite3.connect(Path(ready.env["REMOTERUN_HOME"]) / "registry.db") as database:
            database.execute(
                "UPDATE runs SET key = ?, state = 'uploading', status = '{}', client_pid = 999999999 WHERE number = ?",
                [new_key(), number],
            )
        database.close()
        recorded.run(number)
        run = recorded.commands(ready.run)
        run("logs", number, status=125)
        assert "remoterun was ended before the run was handed over" in ready.run("info", number).stdout
        assert ready.json("info", number)["state"] == "failed"
        run("stop", number)
        ready.run("rm", f"runs/{number}")
