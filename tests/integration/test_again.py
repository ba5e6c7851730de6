"""What people do with runs from the second day on: wait for them, run them again, see what differs."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pexpect
import pytest

from remoterun.agent.shared.asked import HandedOn, Packages, PortSpec
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.client import Client
from remoterun.client.runs.following import LogBytes, Note
from remoterun.errors import NotFound
from remoterun.model import Run, RunRequest
from remoterun.source.patch import patches
from tests import commands
from tests.recorder import Recorded
from tests.workshop import NOBODY, User, lie_about_mounts, read_files, until, write_files


class Typed:
    """The installed command, for the home and the machines of a `User`."""

    def __init__(self, user: User, folder: Path) -> None:
        self.user, self.folder = user, folder
        home = user.config.home
        home.mkdir(exist_ok=True)
        tables = [
            f'[machines.{m.name}]\nengine = "process"\nhome = "{m.home}"\n' for m in user.config.machines.values()
        ]
        (home / "config.toml").write_text('default = "one"\n' + "".join(tables))
        self.env = {"REMOTERUN_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}

    def __call__(self, *words: str, status: int = 0, env: dict[str, str] | None = None) -> Any:
        """A CompletedProcess with text."""
        done = commands.run(words, self.folder, {**self.env, **(env or {})}, 120)
        assert done.returncode == status, f"$ remoterun {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def typed(user: User, tmp_path: Path) -> Iterator[Typed]:
    folder = tmp_path / "folder"
    folder.mkdir()
    yield Typed(user, folder)


PRINTS = """
for epoch in 1 2; do for i in 100 200; do echo "(epoch: $epoch, iters: $i) G: $epoch.$i mix: 5"; sleep 0.4; done; done
for number in 1 2 3 4 5; do echo "$number 0.5 0.25"; done >&2
"""


class TestGuesses:
    """What is read from a log is a guess, which the user corrects."""

    def test_a_guess_is_corrected_and_a_rerun_keeps_that(self, typed: Typed) -> None:
        def found(run: str) -> dict[str, list[tuple[float, float, float]]]:
            series: dict[str, list[tuple[float, float, float]]] = {}
            for row in csv.DictReader(typed("metrics", run, "--csv").stdout.splitlines()):
                point = float(row["step"]), float(row["value"]), float(row["time"])
                series.setdefault(row["series"], []).append(point)
            return series

        typed("run", "--no-git", "-y", "--split", PRINTS)
        before = found("1")
        assert [point[:2] for point in before["G"]] == [(100, 1.1), (200, 1.2), (300, 2.1), (400, 2.2)]
        assert sorted(before) == ["G", "mix"]
        shown = typed("metrics", "1", "--again", "--metric-step", "mix", "--metric-hide", "mix").stdout
        assert "step 5" in shown and "mix" not in shown
        typed("metrics", "1", "--again", "--metric", r"iters: (?P<step>\d+)\) G: (?P<gen>\S+)", "--metric-hide", "no")
        after = found("1")
        assert [point[:2] for point in after["gen"]] == [(100, 1.1), (200, 1.2), (100, 2.1), (200, 2.2)]
        assert list(after) == ["gen"]
        times = [point[2] for point in after["gen"]]
        assert times == sorted(set(times)) and times[-1] <= before["G"][-1][2], "when the log had them, and not now"
        typed("rerun", "1", "-y")
        assert list(found("2")) == ["gen"]
        typed("metrics", "1", "--again")
        assert sorted(found("1")) == ["G", "mix"]
        refused = typed("metrics", "1", "--again", "--metric", "(", status=2).stderr
        assert "hint: remoterun metrics 1 --again --metric 'loss=" in refused

    def test_points_without_a_step_have_none_and_are_told_apart_by_time(self, typed: Typed) -> None:
        typed("run", "--no-git", "-y", "for part in 1 2 3 4 5 6 7; do echo loss: 0.$part; sleep 0.3; done")
        rows = list(csv.DictReader(typed("metrics", "1", "--csv").stdout.splitlines()))
        assert [(row["step"], row["value"]) for row in rows] == [("", f"0.{part}") for part in range(1, 8)]
        assert len({row["time"] for row in rows}) == 7
        assert "seconds" in typed("metrics", "1", "--plot").stdout

    def test_numbers_that_are_not_understood_are_said(self, typed: Typed) -> None:
        typed("run", "--no-git", "-y", "for number in 1 2 3 4 5 6; do echo $number 0.5 0.25; done; sleep 1")
        shown = typed("metrics", "1").stdout
        assert "3 numbers a line, in which no metric was found: remoterun metrics 1 --again --metric" in shown


def log_of(client: Client, number: int) -> bytes:
    return b"".join(item.data for item in client.runs.follow(number) if isinstance(item, LogBytes))


def waits_for(path: Path) -> str:
    """A command that ends once there is a file `path`, with the status that stands in it."""
    return f"until [ -s {path} ]; do sleep 0.02; done; exit $(cat {path})"


class TestWait:
    def test_each_run_is_told_as_it_ends_and_the_status_is_by_the_order_given(
        self, typed: Typed, tmp_path: Path, recorded: Recorded
    ) -> None:
        client = typed.user.client
        go = [tmp_path / f"go{number}" for number in range(3)]
        for file, machine in zip(go, ("one", "two", "one"), strict=True):
            client.runs.submit(RunRequest(waits_for(file)), machine=machine)
        say = recorded.commands(typed)
        say("wait", "3", "--timeout", "0.3s", status=124)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(typed, "wait", "--any", "1", "2", "3", status=7)
            go[1].write_text("7")
            assert first.result().stderr.startswith("✗ run 2 failed after ")
        go[2].write_text("5")
        until(lambda: client.runs.get(3).final)
        go[0].write_text("0")
        every = typed("wait", "last", "runs/1", "2", "1", "--json", status=5)
        assert sorted(run["number"] for run in json.loads(every.stdout)) == [1, 2, 3]
        assert len(every.stderr.splitlines()) == 3 and "exit status 5" in every.stderr
        say("wait", "1")
        say("wait", "1", "9", status=2)

    def test_a_machine_that_is_away_holds_up_no_other_and_is_asked_again(self, user: User, tmp_path: Path) -> None:
        go = tmp_path / "go"
        for machine in ("one", "two"):
            user.client.runs.submit(RunRequest(waits_for(go)), machine=machine)
            until(lambda: user.client.runs.get("last").state is RunState.RUNNING)
        known = user.client.connections.registry.run(1)
        user.client.connections.registry.set_host(known, NOBODY, known.home_id)
        items = user.client.runs.wait([1, 2])
        lost = next(items)
        assert isinstance(lost, Note) and lost.kind == "lost" and "refused" in lost.text
        go.write_text("0")
        second = next(items)
        assert isinstance(second, Run) and second.number == 2 and second.state is RunState.COMPLETE
        user.client.connections.registry.set_host(known, known.host, known.home_id)
        assert [item.number for item in items if isinstance(item, Run)] == [1]


class TestRerun:
    def test_it_gets_what_the_run_was_given_and_not_what_is_there_now(
        self, typed: Typed, tmp_path: Path, recorded: Recorded
    ) -> None:
        """On its own machine, and on another one that had none of it; the data set was changed meanwhile."""
        user, folder = typed.user, typed.folder
        write_files(folder, {"train.py": "old", "data/in": "first", "more": "one file"})
        typed("upload", "data", "--name", "doom")
        typed("upload", "more", "--name", "more")
        words = ["-m", "uploads/doom", "-m", "uploads/more/more:alone"]
        words += ["-e", "LR=hidden7", "--timeout", "5m", "--label", "a", "--cpus", "1", "--memory", "1G"]
        command = 'cat train.py doom/in alone; echo " $LR"'
        typed("run", "--no-git", "-y", *words, "-d", "the first", command)
        write_files(folder, {"train.py": "new", "data/in": "second"})
        typed("upload", "data", "--name", "doom")

        say = recorded.commands(typed)
        say("rerun", "1", status=2)
        say("rerun", "1", env={"LR": "again"})
        say("rerun", "1", "-e", "LR=1", "--dry-run")
        say("rerun", "last", "-t", "two", "-e", "LR=3", "--", "cat", "train.py", "doom/in")
        newest = typed("rerun", "3", "-m", "uploads/doom", "--label", "b", "-e", "LR=", "-b", "--json")
        assert json.loads(newest.stdout)["number"] == 4
        assert log_of(user.client, 4) == b"oldsecond"

        info = json.loads(typed("info", "1", "--json").stdout)
        assert (info["again_of"], info["again_as"]) == (None, [2])
        spec = json.loads(typed("info", "3", "--json").stdout)["spec"]
        assert (spec["timeout"], spec["labels"], spec["description"]) == (300, ["a"], "the first")
        assert (spec["cpus"], spec["memory"]) == (1, 1 << 30)
        assert spec["env"]["REMOTERUN_OPTIONS"] == (
            "-t two -m uploads/doom@1:doom -m uploads/more@1/more:alone -e LR --framework python --label a --timeout 5m"
            " --cpus 1 --memory 1G"
        )
        shown = typed("info", "2").stdout
        assert "rerun of      run 1\n" in shown and "run again as  run 3\n" in shown
        with pytest.raises(NotFound, match="there is no upload"):
            user.client.files.copy("uploads/tree", tmp_path / "x")
        assert [upload.name for upload in user.client.uploads.list()] == ["doom", "more"]

    def test_what_a_machine_found_for_a_mount_counts_on_that_machine_only(
        self, typed: Typed, tmp_path: Path, recorded: Recorded
    ) -> None:
        """It says that a run has read something else: an upload, a part of one, and what another run had made."""
        user = typed.user
        (data := tmp_path / "data").mkdir()
        write_files(data, {"in": "mine", "sub/in": " part"})
        typed("upload", str(data), "--name", "doom")
        typed("run", "--no-git", "-y", "printf ' made' >out")
        mounts = ("-m", "uploads/doom", "-m", "uploads/doom/sub:p", "-m", "runs/1:r")
        command = "cat doom/in p/in r/out"
        assert typed("run", "--no-git", "-y", "-t", "two", *mounts, command).stdout == "mine part made"
        lie_about_mounts(user.place("two"), user.client.connections.registry.run(2).key, b"lie")
        assert typed("rerun", "2", "-t", "one").stdout == "mine part made"
        assert typed("rerun", "2").stdout == "lielielie", "its own command may read what it likes there"
        typed("rm", "-y", "uploads/doom")
        (data / "in").write_text("another")
        typed("upload", str(data), "--name", "doom")
        assert [upload.version for upload in user.client.uploads.list()] == [1], "the number is given again"
        recorded.commands(typed)("rerun", "2", "-t", "one", status=2)
        assert user.client.connections.registry.run("last").number == 4

    def test_a_copy_of_an_upload_is_what_was_uploaded(self, typed: Typed, tmp_path: Path, recorded: Recorded) -> None:
        """The machine that has it lists other files for its digest."""
        (tmp_path / "data").write_text("mine")
        typed("upload", "../data", "--name", "doom")
        home = typed.user.place("one").home
        (tree,) = Path(home.uploads.folder, "doom").glob("*.tree")
        tree.write_bytes(Manifest([Entry("f", "data", 3, home.blobs.put(b"lie"))]).encode())
        words = ("run", "--no-git", "-y", "-t", "two", "-m", "uploads/doom", "cat doom/data")
        recorded.commands(typed)(*words, status=125)

    def test_a_parameter_has_the_value_that_it_had(self, typed: Typed) -> None:
        command = "echo $REMOTERUN_PARAM_DEPTH"
        assert typed("run", "--no-git", "-y", "-e", "REMOTERUN_PARAM_DEPTH=3", command).stdout == "3\n"
        assert typed("rerun", "1").stdout == "3\n"

    def test_its_secrets_are_looked_up_by_their_names(self, typed: Typed, recorded: Recorded) -> None:
        """As they are now; what is typed takes the place of one."""
        secrets = typed.user.client.secrets
        for name, value in (("ONE", "1"), ("TWO", "22"), ("HOOK", "http://127.0.0.1:9/x")):
            secrets.set(name, value)
        write_files(typed.folder, {"a": "a"})
        words = ("--secret", "ONE", "--secret", "TWO=B", "--notify", "HOOK")
        typed("run", "--no-git", "-y", *words, 'echo "$ONE $B"')
        secrets.set("ONE", "111")
        assert typed("rerun", "1").stdout == "111 22\n"
        recorded.commands(typed)("rerun", "1", "--secret", "ONE=B", "-e", "ONE=typed")
        spec = json.loads(typed("info", "2", "--json").stdout)["spec"]
        assert (spec["secrets"], spec["notify"]) == ({"ONE": "ONE", "B": "TWO"}, ["HOOK"])
        for number in (1, 2, 3):  # its hook can't be reached
            typed("rm", f"runs/{number}")

    def test_how_its_log_is_read_is_its_machines_word_there_alone(self, typed: Typed) -> None:
        write_files(typed.folder, {"a": "a"})
        typed("run", "--no-git", "-y", "--metric-step", "mine", "true")
        run = Path(typed.user.place("one").folder, "runs", typed.user.client.connections.registry.run(1).key)
        theirs = {"metrics": ["(?P<loss>(a+)+b)"], "metric_step": "evil", "metric_hide": ["loss"]}
        (run / "reading.json").write_text(json.dumps(theirs))
        for number, words in ((2, ("-t", "two")), (3, ("-t", "two", "--metric-step", "typed")), (4, ())):
            typed("rerun", "1", *words)
            spec = json.loads(typed("info", str(number), "--json").stdout)["spec"]
            step = {2: "mine", 3: "typed", 4: "evil"}[number]
            assert (spec["metric_step"], bool(spec["metrics"])) == (step, number == 4), number

    def test_a_machine_that_says_more_than_was_asked_gets_no_secret(self, typed: Typed, recorded: Recorded) -> None:
        registry = typed.user.client.connections.registry
        typed.user.client.secrets.set("ONE", "1")
        write_files(typed.folder, {"a": "a"})
        typed("run", "--no-git", "-y", "true")
        spec = typed.user.place("one").folder / "runs" / registry.run(1).key / "spec.json"
        asked = {"secrets": {"ONE": "ONE"}, "asked_env": ["ONE", "HOME"]}
        spec.write_text(json.dumps({**json.loads(spec.read_text()), **asked}))
        say = recorded.commands(typed)
        say("rerun", "1", status=2)
        registry.save_digest(registry.run(1), "")  # as if the disk had been full then
        say("rerun", "1", status=2)
        assert "without ONE" not in typed("rerun", "1", "-e", "ONE=2", "-e", "HOME=/").stderr

    def test_what_is_gone_is_named_with_what_to_type(self, typed: Typed, recorded: Recorded) -> None:
        user = typed.user
        (typed.folder / "in").write_text("text")
        typed("upload", "in", "--name", "doom")
        (typed.folder / "in").write_text("another text")  # the source holds it, too
        typed("run", "--no-git", "-y", "-m", "uploads/doom", "true")
        typed("rm", "uploads/doom")
        typed("machines", "gc")
        say = recorded.commands(typed)
        for number in ("1", "7", "x"):
            say("rerun", number, status=2)
        known = user.client.connections.registry.run(1)
        user.client.connections.registry.set_host(known, NOBODY, known.home_id)
        say("rerun", "1", status=125)
        numbers = [run.number for run in user.client.connections.registry.runs()]
        assert numbers == [1, 2], "the second found its mount gone"

    def test_every_option_of_a_run_is_in_what_is_run_again(self, user: User) -> None:
        """What is handed on comes back by itself; one that is new in `RunRequest` itself belongs here."""
        request = RunRequest(
            "echo $A",
            env=(("A", "1"),),
            description="what",
            labels=("x",),
            timeout=60.0,
            split=True,
            ports=(PortSpec(80),),
            options="--label x",
            attempts=2,
            framework="python",
        )
        user.client.runs.submit(request)
        asked = user.client.runs.original(1)
        assert asked.variables == ("A",)
        assert asked.request._replace(env=request.env) == request
        lost = {"after", "after_any"}  # what it waited for has ended
        carried = {"command", "mounts", "env", "secrets", "framework", "gpus", "notify", "stdin", "options"}
        rented = {"spot", "attempts", "max_hours", "max_cost"}
        assert set(RunRequest._fields) - {*HandedOn._fields, *Packages._fields} == carried | rented | lost


class TestDiff:
    def test_what_differs_and_nothing_else(self, typed: Typed, tmp_path: Path, recorded: Recorded) -> None:
        folder = typed.folder
        before = {"a.py": "one\ntwo\nthree", "same": "s", "gone": "g\n", "bin": b"\0a", "big": b"x" * (1 << 20)}
        write_files(folder, before)
        (tmp_path / "in").write_text("first")
        typed("upload", "../in", "--name", "doom")
        mount = ("-m", "uploads/doom")
        metrics = """printf '{"loss": 9}\\n{"loss": %d.5, "step": 300, "at": "x"}\\n' >metrics.jsonl"""
        typed("run", "--no-git", "-y", *mount, "-d", "x", f"cat same doom/in; {metrics % 1}")
        write_files(
            folder, {"a.py": "one\n2\nthree\n", "new*": "n\n", 'ö"\n': "o\n", "bin": b"\0bc", "big": b"y" * (1 << 20)}
        )
        (folder / "gone").unlink()
        (folder / "empty").mkdir()
        (tmp_path / "in").write_text("second")
        typed("upload", "../in", "--name", "doom")
        typed("run", "--no-git", "-y", *mount, "-t", "two", f"cat same doom/in; {metrics % 2}; exit 4", status=4)

        def without_duration(text: str) -> str:
            """How long the runs took may be the same for both."""
            return re.sub(r"^duration .*\n( .*\n)?", "", text, flags=re.MULTILINE)

        def compared(*words: str) -> str:
            done = typed("diff", *words)
            recorded.same(without_duration(done.stdout) + done.stderr, " ".join(words))
            return str(done.stdout)

        shown = compared("1", "2")
        facts, _, files = shown.partition("\n\n")
        assert facts.splitlines()[0].index("-") == facts.splitlines()[1].index("+")

        write_files(tmp_path / "git", before)
        subprocess.run(["git", "apply", "-"], input=shown, text=True, cwd=tmp_path / "git", check=True)
        made = {**read_files(tmp_path / "git"), "empty": None}  # a folder, which git knows not
        assert made == read_files(folder), "files that are no text, and odd names, too"
        assert "\\ No newline at end of file" in files and "same" not in files

        compared("runs/1", "last", "--stat")
        found = json.loads(typed("diff", "1", "2", "--json").stdout)
        assert [(file["path"], file["change"]) for file in found["files"]] == [
            ("a.py", "changed"), ("big", "changed"), ("bin", "changed"), ("empty", "added"),
            ("gone", "removed"), ("new", "added"), ('ö"\n', "added"),
        ]  # fmt: skip
        assert found["facts"]["state"] == [["complete, exit status 0"], ["failed, exit status 4"]]

        for rows, paged in ((10, True), (200, False)):
            env = {**typed.env, "PAGER": "sed s/^/page:/", "TERM": "xterm"}
            terminal = pexpect.spawn(commands.REMOTERUN, ["diff", "1", "2"], 60, env=env, dimensions=(rows, 80))
            terminal.expect(pexpect.EOF)
            assert (b"page:" in terminal.before) is paged, "what is longer than the terminal has a pager"
            assert b"\x1b[32m+2" in terminal.before
            assert b"Files a/big (1.0 MB) and b/big (1.0 MB) differ" in terminal.before

        typed("rerun", "1")
        assert without_duration(typed("diff", "1", "3").stdout).split() == ["run", "-", "1", "+", "3"]
        compared("1", "1")

    def test_texts_whose_lines_take_too_long_to_compare(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are passed on as what is not text; what is made of the one is the other all the same."""
        monkeypatch.setattr("remoterun.source.patch.DEADLINE", 0.05)
        chance = random.Random(1)
        before, after = ("".join(chance.choice("ab") + "\n" for _ in range(1 << 18)).encode() for _ in range(2))
        found = patches({"x": ("100644", before)}, {"x": ("100644", after)}, binary=True)
        assert "GIT binary patch" in found["x"]
        write_files(tmp_path, {"x": before})
        text = "".join(f"{line}\n" for line in found["x"])
        subprocess.run(["git", "apply", "-"], input=text, text=True, cwd=tmp_path, check=True)
        assert (tmp_path / "x").read_bytes() == after


class TestEdit:
    def test_what_is_written_is_run_and_what_is_wrong_is_not_lost(
        self, typed: Typed, tmp_path: Path, recorded: Recorded
    ) -> None:
        write_files(typed.folder, {"a": "A"})
        (tmp_path / "in").write_text("first")
        typed("upload", "../in", "--name", "doom")
        words = ("-m", "uploads/doom", "-e", "LR=1", "--timeout", "5m", "--label", "x")
        rules = {"alerts": ["val_loss > 4 for 10m", "no step for 1h"], "metrics": [r"loss='(?P<loss>\S+)'"]}
        words += tuple(word for name in rules for rule in rules[name] for word in (f"--{name[:-1]}", rule))
        typed("run", "--no-git", "-y", *words, 'cat a doom/in; echo " $LR"')
        (tmp_path / "in").write_text("second")
        typed("upload", "../in", "--name", "doom")
        kept = typed.user.config.home / "edit" / "run-1.txt"

        def edit(change: str, status: int) -> Any:
            """With an editor that is a program of `sed`."""
            return say("rerun", "--edit", "1", status=status, env={"EDITOR": f"sed -i -e '{change}'"})

        say = recorded.commands(typed)
        edit("s/x/x/", 1)
        edit("s/^[^#].*//", 1)
        assert not kept.exists()
        edit("s/^-e LR/-e LR\\n--attempts two/", 2)
        assert "\n--attempts two\n" in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
        assert all(len(line) <= 79 for line in kept.read_text().splitlines() if line.startswith("#")), "as vi shows it"
        edit("s/two/2\\n--split/; s/^--label/--lable/", 2)
        edit('s/^--lable x/--label "x/', 2)
        edit('s/^--label "x/--label x --no-git/', 2)
        edit("s/--no-git/--pip =/", 2)
        changed = "s/^-e LR/-e LR=7/; s/^-t .*/-t two/; s/; echo/ | cat; echo/; s/--label x .*/--label y/"
        done = edit(changed, 0)
        assert done.stdout == "Afirst 7\n" and not kept.exists()
        spec = typed.user.client.runs.info(2)[1]["spec"]
        assert spec["split"] and {name: spec[name] for name in rules} == rules
        say("rerun", "1", "--edit", status=2, env={"VISUAL": "sh -c 'exit 3'"})
        say("rerun", "1", "--edit", status=2)

    def test_what_is_typed_beside_it_is_a_change(self, typed: Typed) -> None:
        typed("run", "--no-git", "-y", "-t", "one", "echo $REMOTERUN_MACHINE")
        done = typed("rerun", "1", "--edit", "-t", "two", env={"EDITOR": "true"})
        assert done.stdout == "two\n" and "Run 1 is run again, changed: -t two" in done.stderr

    def test_at_a_terminal_it_is_edited_again_or_dropped(self, typed: Typed, tmp_path: Path) -> None:
        typed("run", "--no-git", "-y", "echo one")
        change = "s/echo one/echo two/; s/^-t one$/-t one --attempts x/; t; s/--attempts x/--attempts 1/"
        editor = {"EDITOR": f"sed -i -e '{change}'"}  # what it breaks, it mends the next time
        kept = typed.user.config.home / "edit" / "run-1.txt"

        def asked() -> Any:
            env = {**typed.env, **editor, "TERM": "dumb"}
            words = ["rerun", "--edit", "1"]
            terminal = pexpect.spawn(
                commands.REMOTERUN,
                words,
                cwd=str(typed.folder),
                env=env,
                encoding="utf-8",
                timeout=60,
                dimensions=(50, 200),
            )
            terminal.expect("error: .*is not a whole number")
            terminal.expect_exact("Edit again? [Y/n] ")
            return terminal

        def ended(terminal: Any) -> str:
            terminal.expect(pexpect.EOF)
            terminal.close()
            return str(terminal.before)

        terminal = asked()
        terminal.sendline("")
        assert "two\r\n" in ended(terminal) and terminal.exitstatus == 0 and not kept.exists()
        terminal = asked()
        terminal.sendline("n")
        dropped = kept.with_name("run-1.dropped.txt")
        assert f"Nothing is run. What you wrote is in {dropped}\r\n" in ended(terminal)
        assert terminal.exitstatus == 1 and not kept.exists() and "--attempts x" in dropped.read_text()
        assert "Nothing was changed" in typed("rerun", "--edit", "1", status=1, env={"EDITOR": "true"}).stderr
