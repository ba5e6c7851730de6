"""The client as a library: the record comes first, one source for many runs, several threads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.protocol import Link, Stream
from remoterun.agent.shared.states import Reason, RunState
from remoterun.cli.follow import follow
from remoterun.client import Client
from remoterun.client.runs.following import Item, LogBytes, Note, StateChange, Wanted
from remoterun.config import Config
from remoterun.errors import HostUnreachable, NoAnswerInTime, NotFound, RemoterunError, UsageError
from remoterun.hosts.base import Prompts
from remoterun.model import MachineType, Mount, Resource, Run, RunRequest
from remoterun.source import snapshot
from remoterun.source.tree import SourceFile
from remoterun.transfer import Progress
from tests.sshd import Server
from tests.workshop import NOBODY, Files, User, fill, git, tree_of, until, write_files


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Client]:
    """A client whose machines were never contacted: `fresh`, and one that nobody answers for."""
    fresh = MachineType("fresh", engine="process", home=str(tmp_path / "fresh"))
    with Client(Config(tmp_path / "laptop", "fresh", {"fresh": fresh, "gone": NOBODY})) as client:
        yield client


def _is_open(number: str) -> bool:
    """The descriptor that listed them is closed by now."""
    return os.path.lexists(f"/proc/self/fd/{number}")


def log_of(client: Client, run: Run) -> bytes:
    return b"".join(item.data for item in client.runs.follow(run.number) if isinstance(item, LogBytes))


class TestRecordFirst:
    def test_the_number_comes_before_anything_is_sent(self, alone: Client, tmp_path: Path) -> None:
        seen: list[Run] = []

        def cast(run: Run) -> None:
            seen.append(run)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            alone.runs.submit(RunRequest("true"), cast=cast)
        assert seen[0].state is RunState.REQUESTED and not os.listdir(tmp_path / "fresh" / "runs")
        run = alone.connections.registry.run(seen[0].number)
        assert (run.state, run.reason, run.placed) == (RunState.FAILED, Reason.START_FAILED, None)
        assert run.message == "interrupted before it was handed over"
        with pytest.raises(NotFound, match=f"^run {run.number} never started$") as caught:
            alone.files.list(Resource("runs", str(run.number)))
        assert caught.value.hint == f"remoterun info {run.number}"

    def test_an_upload_to_a_host_that_is_gone_leaves_no_file_open(self, alone: Client, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("abc")
        for _ in range(2):
            with pytest.raises(HostUnreachable):
                alone.uploads.upload(tmp_path / "data", "doom", to="gone")
        held = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)]
        assert not [path for path in held if "stamps.db" in path]

    def test_a_mount_that_is_not_there_gives_no_number(self, user: User, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("abc")
        user.client.uploads.upload(tmp_path / "data", "there")
        for name, lacks in (("none", "upload `none`"), ("there@9", "version 9 of the upload `there`")):
            with pytest.raises(NotFound, match=f"there is no {lacks}"):
                user.client.runs.submit(RunRequest("true", mounts=(Mount.parse(f"uploads/{name}:data"),)))
        assert user.client.connections.registry.runs() == []

    def test_an_upload_that_only_the_machine_knows_is_found(self, user: User, tmp_path: Path) -> None:
        """Another client has made it there."""
        (tmp_path / "data").write_text("abc")
        user.client.uploads.upload(tmp_path / "data", "theirs")
        machine = user.client.machines.get(None)
        with Client(Config(tmp_path / "other", machine.name, {machine.name: machine})) as other:
            run = other.runs.submit(RunRequest("cat d/data", mounts=(Mount.parse("uploads/theirs:d"),)))
            assert log_of(other, run) == b"abc"

    def test_what_can_be_refused_gets_no_number(self, alone: Client, tmp_path: Path) -> None:
        for request in (
            RunRequest("true", image="x"),
            RunRequest("true", mounts=(Mount.parse("runs/7:data"),)),
            RunRequest("true", mounts=(Mount.parse("uploads/a:data"), Mount.parse("uploads/b:data/c"))),
        ):
            with pytest.raises(UsageError):
                alone.runs.submit(request)
        for machine, error in (("nowhere", NotFound), ("gone", HostUnreachable)):
            with pytest.raises(error):
                alone.runs.submit(RunRequest("true"), machine=machine)
        assert alone.connections.registry.runs() == [] and not (tmp_path / "fresh").exists()

    def test_what_cannot_be_asked_for(self, alone: Client) -> None:
        wrong: dict[str, tuple[Any, ...]] = {
            "command": ("", " ", "echo \0", "\ud800", 7),
            "env": ((("X;Y", "1"),), (("", "1"),), (("X", "\0"),), (("X", 1),), (("X\n", "1"),)),
            "timeout": (-1, 0, True, float("nan"), float("inf")),
            "labels": ((1,),), "pip": ((None,),), "apt": (("a\0b",),), "image": (3,), "description": ("\ud800",),
        }  # fmt: skip
        for name, value in ((name, value) for name, values in wrong.items() for value in values):
            with pytest.raises(UsageError):
                alone.runs.submit(RunRequest(**{"command": "true", name: value}))
            assert alone.connections.registry.runs() == []

    def test_a_client_that_was_killed_before_anything_was_sent(self, alone: Client, tmp_path: Path) -> None:
        """Nobody needs to be asked."""
        body = (
            "import os, sys; from pathlib import Path; from remoterun.client import Client\n"
            "from remoterun.config import Config; from remoterun.model import *\n"
            "machine = MachineType('fresh', home=sys.argv[1] + '-host')\n"
            "client = Client(Config(Path(sys.argv[1]), 'fresh', {'fresh': machine}))\n"
            "client.runs.submit(RunRequest('true'), cast=lambda run: os.kill(os.getpid(), 9))\n"
        )
        done = subprocess.run([sys.executable, "-c", body, str(tmp_path / "laptop")], check=False)
        assert done.returncode == -signal.SIGKILL
        assert alone.runs.stop(1)[1] is False
        (run,) = alone.runs.list()
        assert (run.state, run.reachable) == (RunState.FAILED, True)


class TestPrepared:
    def test_one_source_is_read_once_for_three_runs(self, user: User) -> None:
        """After the first, its files are gone from the disk."""
        source = user.source({"a": b"A", "sub/b": b"B" * 100_000})
        prepared = user.client.runs.prepare(RunRequest("cat a; wc -c < sub/b"), source)
        assert user.client.connections.registry.runs() == []
        first = user.client.runs.launch(prepared)
        assert source.root is not None
        shutil.rmtree(source.root)
        others = [user.client.runs.launch(prepared) for _ in range(2)]
        assert [run.number for run in (first, *others)] == [1, 2, 3]
        assert {log_of(user.client, run) for run in (first, *others)} == {b"A100000\n"}

    def test_what_git_tracks_is_what_the_machine_gets(self, user: User, tmp_path: Path) -> None:
        """Whatever it is called; and before the first commit, of which there is no diff that could be left behind."""
        files: Files = {"plain": b"one\r\n", "quo'te\"s": b"q", "new\nline": b"", os.fsdecode(b"latin\xe9"): b"l"}
        files |= {
            "run.sh*": b"#!/bin/sh\n",
            "link": "-> plain",
            "dangling": "-> /nowhere",
            "sub/na\u00efve \u2603": b"d",
        }
        top = write_files(tmp_path / "repository", files)
        for words in (("init", "-q"), ("config", "core.autocrlf", "false"), ("add", "-A")):
            git(top, *words)
        for name, value in {"core.autocrlf": "true", "diff.noprefix": "true", "diff.external": "false",
                            "color.ui": "always", "status.showUntrackedFiles": "no"}.items():  # fmt: skip
            git(top, "config", name, value)
        with snapshot(top) as source:
            run = user.client.runs.submit(RunRequest("./run.sh && cat plain"), source)
        assert log_of(user.client, run) == b"one\r\n"
        there = Path(user.place("one").run(run.key).source_file).read_bytes()
        assert there == tree_of(files)[0].encode()
        assert "leased" not in {use.kind for use in user.client.machines.df().uses}

    def test_a_script_that_may_be_there_is_not_missed(self, user: User, tmp_path: Path) -> None:
        """The command may make it, an image hold it, a mount bring it, or the word may mean something else."""
        (tmp_path / "up").mkdir()
        (tmp_path / "up" / "go.py").write_text("")
        user.client.uploads.upload(tmp_path / "up", "code")
        source = user.source({"a.py": b"", "sub/model.py": b"", "app.d/__main__.py": b""})
        code = (Mount.parse("uploads/code:lib"),)
        link = SourceFile("link", "link", target="app.d")
        source = replace(source, files=(*source.files, link))
        for command in (
            "python a.py", "python -u ./sub/../sub/model.py", "python app.d", "touch c.py; sh c.sh", "cd sub && ./b.py",
            "python lib/go.py", "python -m no.such", "python -c 1.5", "python /opt/no.py", "python ../no.py", "no.py",
            "sh $HOME/no.sh", "python 'no.py'", "python *.py", "node server", "bash -c no.sh", "cat no.py",
            "python no.py || echo none", "sh lib.sh 2>/dev/null; ls", "sh link/go.sh",
        ):  # fmt: skip
            user.client.runs.prepare(RunRequest(command, mounts=code), source)
        missed = RunRequest("python3 lib.py", mounts=code)
        with pytest.raises(UsageError, match=r"the command starts `lib\.py`, which is not here"):
            user.client.runs.prepare(missed, source)
        with pytest.raises(UsageError) as caught:
            user.client.runs.prepare(RunRequest("python3 model.py"), replace(source, workdir="app.d"))
        assert caught.value.hint == "did you mean `../sub/model.py`?"

    def test_a_mount_of_the_last_run_is_the_one_before_it(self, user: User) -> None:
        first = user.client.runs.submit(RunRequest("echo first >made"))
        log_of(user.client, first)
        second = user.client.runs.submit(RunRequest("cat before/made", mounts=(Mount.parse("runs/last:before"),)))
        assert log_of(user.client, second) == b"first\n"


def all_at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `count` threads return that begin together; what one raises is raised."""
    begin = threading.Barrier(count, timeout=30)

    def one(number: int) -> Any:
        begin.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count), timeout=120))


class TestThreads:
    def test_runs_uploads_and_listings_from_eight_threads(self, user: User, tmp_path: Path) -> None:
        client = user.client
        for number in range(8):
            (tmp_path / f"data{number}").write_text(str(number))

        def act(number: int) -> tuple[int, bytes]:
            client.uploads.upload(tmp_path / f"data{number}", f"data{number}")
            mount = Mount.parse(f"uploads/data{number}:in")
            run = client.runs.submit(
                RunRequest(f"cat in/data{number}", mounts=(mount,)), machine=("one", "two")[number % 2]
            )
            for _ in range(4):
                assert client.runs.get(run.number).key == run.key
                assert run.number in {each.number for each in client.runs.list(None)}
                client.uploads.list()
            return run.number, log_of(client, run)

        done = all_at_once(8, act)
        assert sorted(number for number, _ in done) == list(range(1, 9))
        assert [log for _, log in done] == [b"%d" % number for number in range(8)]
        assert len(client.uploads.list()) == 8

    def test_one_conversation_for_each_machine(self, user: User) -> None:
        one = user.client.machines.get("one")
        assert len({id(session) for session in all_at_once(8, lambda _: user.client.machines.session(one))}) == 1

    @pytest.mark.parametrize("lost", [False, True], ids=["by its log", "that waits for a lost host"])
    def test_closing_ends_a_follow_in_another_thread(self, user: User, monkeypatch: Any, lost: bool) -> None:
        monkeypatch.setattr("remoterun.client.runs.following.RECONNECT_LEAST", 300.0)
        client, follows = user.client, threading.Event()
        run = client.runs.submit(RunRequest("echo up; sleep 1000"))
        if lost:
            client.connections.registry.set_host(run, NOBODY, run.home_id)

        def follow() -> str:
            with pytest.raises(RemoterunError) as caught:
                for item in client.runs.follow(run.number):
                    if lost or isinstance(item, LogBytes):
                        follows.set()
            return caught.value.message

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(follow)
            assert follows.wait(60)
            client.close()
            assert ended.result(60) == "this client is closed"
        for open_nothing in (lambda: client.machines.session(client.config.machines["one"]), client.runs.list):
            with pytest.raises(UsageError, match="closed"):
                open_nothing()
        other = user.new_client()
        other.connections.registry.set_host(run, run.host, run.home_id)
        other.runs.kill(run.number)

    def test_a_person_is_asked_one_question_at_a_time(self, tmp_path: Path) -> None:
        asked: list[str] = []
        together = threading.Semaphore(1)
        release = threading.Event()

        def ask(about: Any) -> bool:
            assert together.acquire(blocking=False), "two questions at once"
            asked.append(about)
            release.wait(0.01)
            together.release()
            return False

        with Client(Config(tmp_path), Prompts(ask, ask)) as client:
            prompts: Any = client.connections._prompts
            both = (prompts.confirm_host_key, prompts.log_in)
            all_at_once(8, lambda number: both[number % 2](str(number)))
        assert sorted(asked) == list("01234567")


def test_a_copy_removes_what_one_that_was_killed_has_left(alone: Client, tmp_path: Path) -> None:
    alone.uploads.upload(write_files(tmp_path / "made", {"deep/a": b"A"}), "doom")
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, fresh, own = f".{gone.pid}-3.remoterun", f".{gone.pid}-4.remoterun", f".{os.getpid()}-99.remoterun"
    folder = write_files(tmp_path / "copy", {f"deep/{name}": b"" for name in (left, fresh, own)}) / "deep"
    for name in (left, own):
        os.utime(folder / name, (1.0, 1.0))
    alone.files.copy("uploads/doom", tmp_path / "copy")
    assert {each.name for each in folder.iterdir()} == {"a", fresh, own}


def away(client: Client, number: int, machine: MachineType) -> None:
    """From now on the machine that has the run is `machine`."""
    run = client.connections.registry.run(number)
    client.connections.registry.set_host(run, machine, run.home_id)


class TestAHostThatDoesNotAnswer:
    """What is known here is shown after `wait`, though connecting may take a minute."""

    def test_its_runs_and_those_of_others(self, user: User, silent: MachineType) -> None:
        runs = [user.client.runs.submit(RunRequest("sleep 1000"), machine=name) for name in ("one", "one", "two")]
        for run in runs:
            until(lambda run=run: user.client.runs.get(run.number).state is RunState.RUNNING, 60)
        here = [user.client.connections.registry.run(run.number) for run in runs]
        for number in (1, 2):
            away(user.client, number, replace(silent, name=f"silent{number}"))

        def listed() -> Any:
            begun = time.monotonic()
            found = user.client.runs.list(wait=1.0)
            assert time.monotonic() - begun < silent.connect_timeout, "not as long as connecting may take"
            return found[2].reachable and found

        first, second, third = until(listed)  # the one that is there may be slow, too
        assert third.state is RunState.RUNNING
        for number, run in ((1, first), (2, second)):
            assert run.state is RunState.RUNNING and run.last_seen is not None
            assert run.unreached == f"silent{number} does not answer within 1 s"
        known, details = user.client.runs.info(1, wait=0.1)
        assert (known.state, known.unreached) == (RunState.RUNNING, "silent1 does not answer within 0.1 s")
        assert details["spec"] is None
        with pytest.raises(HostUnreachable, match="silent2 does not answer within 0.1 s"):
            list(user.client.runs.follow(2, Wanted(live=False, wait=0.1)))
        for run in here:
            user.client.connections.registry.set_host(run, run.host, run.home_id)
            user.client.runs.kill(run.number)

    def test_a_process_ends_while_threads_still_connect(self, tmp_path: Path, silent: MachineType) -> None:
        body = (
            "import sys; from pathlib import Path; from remoterun.client import Client\n"
            "from remoterun.agent.shared.states import RunState; from remoterun.config import Config\n"
            "from remoterun.model import *\n"
            "machine = MachineType('silent', host=sys.argv[2], connect_timeout=500)\n"
            "with Client(Config(Path(sys.argv[1]), 'silent', {'silent': machine})) as client:\n"
            "    run = client.connections.registry.add_run(new_key(), machine, 'true', 1.0)\n"
            "    run = client.connections.registry.set_host(run, machine, 'home')\n"
            "    client.connections.registry.change_state(run, RunState.RUNNING, 2.0)\n"
            "    print(client.runs.list(wait=0.1)[0].reachable)\n"
        )
        words = [sys.executable, "-c", body, str(tmp_path / "laptop"), str(silent.host)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        assert (done.stdout, done.stderr) == ("False\n", "")

    def test_the_person_who_is_asked_has_time(self, tmp_path: Path) -> None:
        def ask(about: Any) -> bool:
            assert not slow.wait(2.5)
            return True

        slow = threading.Event()
        machine = MachineType("box")
        with Client(Config(tmp_path), Prompts(ask)) as client:
            asked: Any = client.connections._prompts.confirm_host_key
            answer = client.connections.ask_all({machine: lambda: asked("?")}, wait=2.0)
        assert answer == {machine: True}

    def test_what_answers_through_a_provider_has_time(self, tmp_path: Path) -> None:
        """A first call to a cloud's API alone may take two seconds."""

        def answer() -> str:
            assert not slow.wait(0.5)
            return "here"

        def silence() -> str:
            assert told_of.wait(60)
            return "too late"

        slow, told_of = threading.Event(), threading.Event()
        bucket, rented = MachineType("bucket", bucket="s3://songs"), MachineType("rented", host="a", rented="token")
        with Client(Config(tmp_path)) as client:
            ask_all = client.connections.ask_all
            assert set(ask_all(dict.fromkeys((bucket, rented), answer), wait=0.1).values()) == {"here"}
            told = ask_all({rented: silence}, 0.1, provider_wait=0.2)[rented]
            told_of.set()
        assert isinstance(told, NoAnswerInTime) and "rented does not answer within 0.2 s" in told.message


@pytest.mark.parametrize("by", ["pipe", "ssh"])
def test_a_run_that_is_followed_is_a_handful_of_requests(
    user: User, server: Server, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The thread that brings the log asks nothing besides: on a slow line, each question would hold up the log."""
    requests: list[str] = []
    open_stream = Link.open

    def counted(link: Link, op: str, **arguments: Any) -> Stream:
        requests.append(op)
        return open_stream(link, op, **arguments)

    monkeypatch.setattr(Link, "open", counted)
    far = MachineType("far", host="box", engine="process", home=str(user.place("two").folder), slots=20)
    config = user.config if by == "pipe" else Config(user.config.home, "far", {"far": far}, server.config())
    with Client(config) as client:
        assert log_of(client, client.runs.submit(RunRequest("echo hi"))) == b"hi\n"
    assert sorted(requests) == ["follow", "missing", "put", "submit"]


class TestKeptLogs:
    """A log that was followed to its end is shown when its machine is gone."""

    def test_byte_for_byte(self, user: User) -> None:
        run = user.client.runs.submit(RunRequest("printf 'a\\r\\n\\000\\377'; printf 'b\\nlast'; exit 3"))
        log = log_of(user.client, run)
        assert log == b"a\r\n\x00\xffb\nlast"
        away(user.client, run.number, NOBODY)
        for live in (True, False):
            note, content, end = user.client.runs.follow(run.number, Wanted(live))
            assert isinstance(note, Note) and note.kind == "kept" and "refused" in note.text
            assert content == LogBytes(0, log)
            assert isinstance(end, StateChange) and end.run.code == 3 and end.run.final
        _, content, _ = user.client.runs.follow(run.number, Wanted(tail=1))
        assert content == LogBytes(7, b"last")
        known, details = user.client.runs.info(run.number)
        assert (known.code, known.reachable, details["spec"]) == (3, False, None)

    def test_of_one_that_was_not_followed_to_its_end_nothing_is_kept(self, user: User) -> None:
        run = user.client.runs.submit(RunRequest("echo a; sleep 1000"))
        next(item for item in user.client.runs.follow(run.number) if isinstance(item, LogBytes))
        assert not list((user.config.home / "logs").iterdir())
        user.client.runs.kill(run.number)
        until(lambda: user.client.runs.get(run.number).final, 60)
        away(user.client, run.number, NOBODY)
        with pytest.raises(HostUnreachable):
            list(user.client.runs.follow(run.number))

    def test_the_oldest_go_first(self, user: User) -> None:
        client = Client(replace(user.config, keep_logs=25))
        numbers = []
        left = user.config.home / "logs" / ".killed"
        left.parent.mkdir(parents=True)
        left.touch()
        os.utime(left, (1.0, 1.0))
        for count in (9, 9, 9, 30):
            run = client.runs.submit(RunRequest(f"printf %0{count}d 0"))
            assert len(log_of(client, run)) == count
            numbers.append(run)
        kept = {path.name for path in (user.config.home / "logs").iterdir()}
        assert kept == {f"{run.key}.log" for run in numbers[1:3]}, "the last one is larger than all may be"
        client.close()


class TestAFullDiskHere:
    @pytest.mark.parametrize("when", ["it is handed over", "it goes on"])
    def test_the_exit_status_and_the_log_are_those_of_the_run(
        self, user: User, small_disk: Callable[[str], Path], capfdbinary: pytest.CaptureFixture[bytes], when: str
    ) -> None:
        disk, go, warnings = small_disk("4m"), user.root / "go", list[str]()
        full = threading.Event()

        def once(progress: Progress) -> None:
            if when == "it is handed over" and not full.is_set():
                full.set()
                fill(disk)

        with Client(replace(user.config, home=disk / "home"), warn=warnings.append) as client:
            request = RunRequest(f"seq 5; until [ -e {go} ]; do sleep 0.02; done; seq 6 30000; exit 3")
            run = client.runs.submit(request, progress=Progress(once))
            items = client.runs.follow(run.number)

            def fills() -> Iterator[Item]:
                for item in items:
                    yield item
                    if isinstance(item, LogBytes):
                        full.set()
                    if full.is_set():  # also what the log that is not saved has freed
                        fill(disk)
                        go.touch()

            too_late = threading.Timer(100, client.close)
            too_late.start()
            assert follow(client, run, fills()) == 3
            too_late.cancel()
            assert [item.exit_status for item in client.runs.wait([run.number]) if isinstance(item, Run)] == [3]
            known = client.connections.registry.run(run.number)
            assert (known.state, known.exit_status) == (RunState.FAILED, 3)
            assert not list((disk / "home").glob("logs/*"))
        out, err = capfdbinary.readouterr()
        assert out == b"".join(b"%d\n" % number for number in range(1, 30001))
        assert re.search(rb"run 1 failed after .*, exit status 3\n", err)
        assert len(warnings) == 1 and "is full" in warnings[0]

    def test_what_needs_no_record_goes_on(self, user: User, small_disk: Callable[[str], Path], tmp_path: Path) -> None:
        disk = small_disk("4m")
        warnings: list[str] = []
        config = replace(user.config, home=disk / "home")
        with Client(config) as client:
            runs = [client.runs.submit(RunRequest("echo up >out; echo up; sleep 1000")) for _ in range(2)]
            for run in runs:
                until(lambda run=run: client.runs.get(run.number).state is RunState.RUNNING, 60)
                user.place("one").until_says(run.key, b"up")
        fill(disk)
        with Client(config, warn=warnings.append) as client:
            assert [run.state for run in client.runs.list()] == [RunState.RUNNING] * 2
            assert client.runs.stop(1, 5)[1] and client.runs.kill(2)[1]
            assert log_of(client, runs[0]).startswith(b"up\n")
            assert client.runs.info(1)[0].state is RunState.STOPPED
            client.files.copy("runs/1", tmp_path / "copy")
            assert (tmp_path / "copy" / "out").read_text() == "up\n"
            with pytest.raises(RemoterunError, match="is full") as caught:
                client.runs.submit(RunRequest("true"))
            assert caught.value.hint is not None and "remoterun machines df local" in caught.value.hint
        assert len(warnings) == 1 and "is full" in warnings[0]
        (disk / "filler").unlink()
        with Client(config) as client:
            until(lambda: [run.state for run in client.runs.list()] == [RunState.STOPPED, RunState.KILLED])
