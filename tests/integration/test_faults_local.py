"""Runs of the engine `process` on this machine, to their end, whatever dies on the way."""

from __future__ import annotations

import io
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.files import locked, read_json
from remoterun.agent.shared.frames import CANCEL, CREDIT, DATA, END, OPEN, encode
from remoterun.agent.shared.identity import Machine
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import MountSpec, PortSpec, ResourceRef
from remoterun.agent.shared.states import Reason, RunState
from remoterun.client.live.ports import PortNews
from remoterun.client.runs.following import LogBytes, StateChange
from remoterun.errors import AlreadyExists, HomeMissing, LinkLost, NotFound, UsageError
from remoterun.hosts.local import LocalHost
from remoterun.model import Mount, Resource, Run, RunRequest
from tests.homes import sound
from tests.workshop import (
    NO_PACKAGES,
    Files,
    Place,
    User,
    at_once,
    command_line,
    holding,
    kill9,
    read_files,
    running,
    tree_of,
    until,
    write_files,
)

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")

COUNT = """
i=0
while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; sleep 0.02; done
echo end >result.txt
exit 7
"""
COUNTED = b"".join(b"line %d\n" % number for number in range(1, 41))


def follow(place: Place, key: str, **arguments: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """(log, events), with every offset checked."""
    log, events = b"", []
    with place.session.stream(api.follow, api.Follow(key, **arguments)) as stream:
        stream.end()
        for frame in stream:
            if "log" in frame.header:
                assert frame.header["log"] == arguments.get("offset", 0) + len(log)
                log += frame.body
            elif "event" in frame.header:
                assert frame.header["n"] == arguments.get("events", 0) + len(events)
                events.append(frame.header["event"])
    return log, events


class InOneHome:
    """Tests that look at their own runs alone."""

    @pytest.fixture
    def place(self, kept_place: Place) -> Place:
        return kept_place


class TestEnds(InOneHome):
    def test_the_code_is_the_commands_own(self, place: Place) -> None:
        codes = {"exit 0": 0, "exit 1": 1, "exit 255": 255, "exit 126": 126, "no-such-program-xyz": 127}
        codes |= {"kill -9 $$": 137, "kill -TERM $$": 143, "kill -INT $$": 130, "exit 300": 44}
        for key, code in [(place.submit(command), code) for command, code in codes.items()]:
            status = place.until_final(key)
            assert (status["code"], status["reason"]) == (code, "exit_nonzero" if code else "exited")
            assert status["state"] == ("failed" if code else "complete")

    def test_a_command_that_deletes_its_work_tree(self, place: Place) -> None:
        key = place.submit('rm -rf "$PWD"; echo gone', {"a/b": b"x"})
        status = place.until_final(key)
        assert (status["state"], status["code"]) == ("complete", 0)
        assert place.outputs(key) == {}

    def test_its_time_is_up(self, place: Place) -> None:
        key = place.submit("echo x >out; exec sleep 1004.5", timeout=1000.0)
        place.until_state(key, RunState.RUNNING)
        until(lambda: running("1004.5"))
        events = place.run(key).events()
        began = [{**event, "t": event["t"] - 1000} if event.get("state") == "running" else event for event in events]
        Path(place.run(key).events_file).write_text("".join(f"{json.dumps(event)}\n" for event in began))
        place.lose_supervisor(key)
        status = place.until_status(key)
        assert (status["state"], status["reason"], status["code"]) == ("stopped", "timeout", 143)
        assert place.outputs(key) == {"out": b"x\n"}

    def test_it_kills_its_own_wrapper(self, place: Place) -> None:
        key = place.submit("echo x >out; kill -9 $PPID; sleep 1000.125")
        status = place.until_final(key)
        assert (status["state"], status["reason"]) == ("interrupted", "host_lost")
        assert place.outputs(key) == {"out": b"x\n"}
        assert not running("1000.125")


class TestOutputs(InOneHome):
    def test_new_changed_and_nothing_else(self, place: Place) -> None:
        files = {"same": b"s", "grown": b"g", "gone": b"x", "deep/er/file": b"d", "script": b"#!", "tool*": b"#!"}
        key = place.submit(
            "echo more >>grown; rm gone; mkdir -p new/empty new/dir; echo n >new/dir/file; chmod +x script;"
            " ln -s same link; ln -s /etc/passwd out; printf x >$(printf 'not\\377utf8'); touch zero;"
            " cp tool other; mkfifo pipe; mkdir -p shut/in; echo x >shut/in/file; chmod 0 shut/in/file shut/in shut;"
            " python -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
            files,
        )
        status = place.until_final(key)
        assert status["state"] == "complete", place.log(key)
        assert place.outputs(key) == {
            "grown": b"gmore\n", "new/dir/file": b"n\n", "new/empty": None, "script*": b"#!", "link": "-> same",
            "out": "-> /etc/passwd", os.fsdecode(b"not\xffutf8"): b"x", "zero": b"", "other*": b"#!",
            "shut/in/file": b"x\n",
        }  # fmt: skip
        for name in ("pipe", "socket"):
            assert any(name in event.get("note", "") for event in place.run(key).events())
        assert status["outputs"] == {"files": 7, "size": sum(map(len, (b"gmore\n", b"n\n", b"#!", b"x", b"#!x\n")))}
        assert not os.path.exists(place.run(key).work)

    def test_a_folder_that_a_mount_made_is_no_output(self, place: Place) -> None:
        place.upload("doom", {"f": b"d"})
        mounts = [mount("uploads/doom", "made/for/it"), mount("uploads/doom", "kept/data")]
        key = place.submit("cat made/for/it/f; echo x >kept/own", mounts=mounts, workdir="")
        place.until_final(key)
        assert place.log(key) == b"d"
        assert place.outputs(key) == {"kept/own": b"x\n"}

    def test_what_lies_behind_a_link_is_not_deleted(self, place: Place, tmp_path: Path) -> None:
        """A command may put a link where the parent folder of a mount was."""
        place.upload("doom", {"f": b"d"})
        precious = tmp_path / "precious"
        (precious / "data").mkdir(parents=True)
        (precious / "data" / "file").write_text("mine")
        (precious / "empty").mkdir()
        key = place.submit(
            f"cd ../..; rm -rf a; ln -s {precious} a",
            {"a/empty/file": b"x"},
            mounts=[mount("uploads/doom", "a/data")],
            workdir="a/empty",
        )
        place.until_final(key)
        assert (precious / "data" / "file").read_text() == "mine"
        assert (precious / "empty").is_dir()


def mount(typed: str, at: str) -> MountSpec:
    kind, name, *sub = typed.split("/")
    resource = ResourceRef(kind[:-1], sub="/".join(sub), **{"name" if kind == "uploads" else "key": name})
    return MountSpec(typed, at, at, resource)


class TestMounts(InOneHome):
    def test_what_is_written_into_a_mount_is_kept_and_told(self, place: Place) -> None:
        """Root may write there without a Docker that hinders it; others when they have allowed themselves to. Whatever
        they do, the home keeps its content."""
        doom: Files = {"in.txt": b"text", "same": b"s", "sub/deep/a": b"a", "sub/b*": b"b", "link": "-> same"}
        place.upload("doom", doom)
        place.upload("one", {"one.txt": b"1"})
        key = place.submit(
            "chmod -R u+w data; sleep 0.01; : >data/sub/b; cp data/in.txt x && mv x data/in.txt; printf new >data/new;"
            "mkdir data/empty; rm data/sub/deep/a; ln -sf in.txt data/link; touch data/same; rm -f one; printf 2 >one",
            mounts=[mount("uploads/doom", "data"), mount("uploads/one/one.txt", "one")],
        )
        assert place.until_final(key)["state"] == "complete", place.run(key).events()
        made: Files = {"data/new": b"new", "data/empty": None, "data/link": "-> in.txt", "data/sub/b*": b""}
        made["one"] = b"2"
        assert place.outputs(key) == made
        (told,) = [event["note"] for event in place.run(key).events() if "read-only" in event.get("note", "")]
        assert told.endswith("saved as outputs: data/empty, data/link, data/new, data/sub/b, one")
        assert read_files(Path(place.home.uploads.stored("doom").folder)) == doom
        sound(place.home)

    def test_a_mount_that_was_only_read_is_no_output(self, place: Place) -> None:
        place.upload("doom", {"in.txt": b"text", "empty": None})
        key = place.submit("cat data/in.txt >out", {"data/old": b"o"}, mounts=[mount("uploads/doom", "data")])
        place.until_final(key)
        assert place.outputs(key) == {"out": b"text"}
        assert not any("read-only" in event.get("note", "") for event in place.run(key).events())

    def test_what_is_refused_at_once(self, place: Place) -> None:
        place.upload("doom", {"f": b"d"})
        going = place.submit("sleep 1000")
        before = place.home.run_keys()
        for typed, kind in (("uploads/none", NotFound), ("uploads/doom/none", NotFound), (f"runs/{going}", UsageError)):
            with pytest.raises(kind):
                place.submit("true", mounts=[mount(typed, "data")])
        assert place.home.run_keys() == before

    def test_places_that_lead_out(self, place: Place, tmp_path: Path) -> None:
        place.upload("doom", {"f": b"d"})
        out = tmp_path / "outside"
        out.mkdir()
        for at in ("a/data", "/abs"):
            key = place.submit("true", {"a": f"-> {out}", "b": b"x"}, mounts=[mount("uploads/doom", at)])
            status = place.until_final(key)
            assert (status["state"], status["reason"]) == ("failed", "mount_failed")
            assert not list(out.iterdir()) and not (tmp_path / "out").exists()


class TestStopAndKill(InOneHome):
    def test_who_ignores_it_is_killed_after_the_grace(self, place: Place) -> None:
        key = place.submit("trap '' TERM; echo x >out; echo up; while :; do sleep 1000.25 & wait; done")
        place.until_says(key, b"up")
        began = time.monotonic()
        place.session.ask(api.end, api.EndRuns([key], 0.5))
        status = place.until_final(key)
        assert time.monotonic() - began >= 0.5
        assert (status["state"], status["code"]) == ("stopped", 137)
        assert place.outputs(key) == {"out": b"x\n"}
        assert not running("1000.25")

    def test_what_is_left_in_the_background_ends_with_the_command(self, place: Place) -> None:
        key = place.submit("setsid sleep 1002.5 & sleep 0.1; echo x >out")
        place.until_final(key)
        until(lambda: not running("1002.5"), what="they ended")
        assert place.outputs(key) == {"out": b"x\n"}

    def test_kill_while_another_builds_the_environment(self, place: Place) -> None:
        spec = place.spec("", environment=place.spec("").environment._replace(requirements="# other\n"))
        requirements = tree_of(NO_PACKAGES)[0].find("docker/requirements-cpu.txt")
        assert requirements is not None
        name = "venv-" + Environment.of(spec).packages_hash(requirements.digest)
        with locked(place.home.lock(name)):
            key = place.submit("true", environment=spec.environment)
            place.until_state(key, RunState.BUILDING)
            place.session.ask(api.end, api.EndRuns([key], None))
            assert place.until_final(key)["state"] == "killed"

    def test_kill_while_building_and_after_the_builder_died(self, place: Place) -> None:
        """The build that a dead supervisor left is not disturbed by the next one."""
        changed = {"environment": place.spec("").environment._replace(requirements="# yet another\n")}
        key = place.submit("echo ran", **changed)
        until(lambda: os.path.exists(place.run(key).build_log), what="it builds, or has built")
        place.lose_supervisor(key)
        place.drop_session()
        assert place.session.alive
        status = place.until_final(key, 60)
        assert (status["state"], place.log(key)) == ("complete", b"ran\n"), status

    def test_once_ended_neither_changes_it(self, place: Place) -> None:
        key = place.submit("true")
        place.until_final(key)
        events = place.run(key).events()
        for how in ("stop", "kill"):
            assert not place.end(key, how).asked
        assert place.run(key).events() == events


def test_large_requests(place: Place) -> None:
    """More than a frame's header holds, and than a program could be given."""
    place.upload("doom", {"f": b"d"})
    mounts = tuple(mount("uploads/doom/f", f"m/{number}") for number in range(1000))
    key = place.submit("cat m/999; : " + "x" * (2 << 20), mounts=mounts)
    assert place.until_final(key, 60)["state"] == "complete", place.run(key).events()
    assert place.log(key) == b"d" and place.outputs(key) == {}


def lose(place: Place, key: str, mark: str) -> None:
    """Kill the command of a run and its wrapper, as the end of the machine does: no exit status is left."""
    until_up(place, key, mark)
    kill9(wrapper(place, key))
    for pid in running(mark):
        kill9(pid)


def wrapper(place: Place, key: str) -> int | None:
    """None before the first one is known, which may be later than what it says."""
    try:
        pid: int = read_json(f"{place.run(key).path}/process.json")["pid"]
    except FileNotFoundError:
        return None
    return pid


def until_up(place: Place, key: str, mark: str) -> None:
    """Until the last attempt's wrapper is known, and its command is `mark`."""
    until(lambda: running(mark) and command_line(wrapper(place, key) or 0))  # the one before may be a zombie


class TestSupervisorDies:
    def test_at_any_moment(self, place: Place) -> None:
        """Ten runs, of which one or another loses its supervisor again and again; each next contact carries on."""
        chance = random.Random(1)
        go = place.folder / "go"
        command = COUNT.replace("echo end", f"until [ -e {go} ]; do sleep 0.02; done; echo end")
        keys = [place.submit(command, {"a": b"x", "b/c": b"y"}) for _ in range(10)]
        killed = 0
        while killed < 30:
            place.drop_session()
            time.sleep(chance.random() * 0.05)
            for key in chance.sample(keys, 3):
                pid = place.supervisor(key)
                killed += pid is not None
                kill9(pid)
            assert place.session.alive  # the contact
            if killed >= 15:
                go.touch()
            if all(place.state(key).final for key in keys):
                break
        for key in keys:
            log, events = follow(place, key)
            status = place.until_final(key)
            assert (status["state"], status["code"], status["reason"]) == ("failed", 7, "exit_nonzero"), events
            assert log == COUNTED
            assert place.outputs(key) == {"result.txt": b"end\n"}
            states = [event["state"] for event in events if "state" in event]
            assert states == ["queued", "building", "mounting", "running", "saving", "failed"]
            assert not os.path.exists(place.run(key).work)
        until(self._settled(place), what=lambda: f"all is given back: {place.home.active_keys()}")
        assert not list(Path(place.home.queue).iterdir())

    @staticmethod
    def _settled(place: Place) -> Callable[[], bool]:
        def settled() -> bool:
            place.drop_session()
            return place.session.alive and not place.home.active_keys()

        return settled

    def test_with_its_command_that_may_be_started_again(self, place: Place) -> None:
        """It goes on in its work tree, with its mounts, its variables and its log, as often as it may."""
        place.upload("doom", {"in": b"data"})
        command = '[ -e part ] || echo one >part; echo "$(cat doom/in) $LR"; exec sleep 1021.5'
        mounts = (MountSpec("uploads/doom", "doom", "doom", ResourceRef("upload", "doom")),)
        key = place.submit(command, values={"LR": "3"}, mounts=mounts, attempts=3)
        for count in (1, 2, 3):
            place.until_says(key, b"data 3\n" * count)
            until_up(place, key, "1021.5")
            if count == 2:  # as when the machine goes down
                place.lose_supervisor(key)
            lose(place, key, "1021.5")
            assert place.session.ask(api.runs, api.RunKeys([key])).runs
        status = place.until_final(key)
        assert (status["state"], status["reason"]) == ("interrupted", "host_lost")
        assert place.log(key) == b"data 3\n" * 3 and place.outputs(key) == {"part": b"one\n"}
        notes = [event for event in place.run(key).events() if "attempt" in event]
        assert [event["note"] for event in notes] == [f"attempt {n} of 3: the engine lost it" for n in (2, 3)]
        assert not os.path.exists(place.run(key).values_file)

    def test_a_secret_is_not_there_for_another_start_once_the_supervisor_is_gone(self, place: Place) -> None:
        names: dict[str, Any] = {"secrets": {"TOKEN": "HF"}, "attempts": 2}
        key = place.submit("echo up; exec sleep 1022.5", values={"TOKEN": "hidden8", "LR": "3"}, **names)
        place.until_says(key, b"up")
        until(lambda: read_json(place.run(key).values_file) == {"LR": "3"})
        place.lose_supervisor(key)
        lose(place, key, "1022.5")
        status = place.until_status(key)
        assert (status["state"], place.log(key)) == ("interrupted", b"up\n")
        notes = [event["note"] for event in place.run(key).events() if "note" in event]
        assert notes == ["it can't be started again without TOKEN, which is saved nowhere"]
        assert not holding(place.home, b"hidden8")

    def test_stop_and_kill_reach_a_run_without_one(self, place: Place) -> None:
        for how, state in (("stop", "stopped"), ("kill", "killed")):
            key = place.submit("echo up; echo x >out; exec sleep 1003.5")
            place.until_says(key, b"up")
            place.lose_supervisor(key)
            place.end(key, how)
            assert place.until_final(key)["state"] == state
            assert not running("1003.5")

    def test_one_that_has_told_it_to_end(self, place: Place, tmp_path: Path) -> None:
        """The command ends of that, with nobody there: it was stopped, and has not failed."""
        go = tmp_path / "go"
        waits = f"trap 'until [ -e {go} ]; do sleep 0.02; done; exit 3' TERM; echo up; while :; do sleep 0.05; done"
        key = place.submit(waits)
        place.until_says(key, b"up")
        place.end(key, "stop")
        until(lambda: place.run(key).status().note == "stopping")
        place.lose_supervisor(key)
        go.touch()
        until(lambda: place.run(key).exit_code() == 3)
        status = place.until_status(key)
        assert (status["state"], status["reason"], status["code"]) == ("stopped", "stopped", 3)

    def test_the_mark_that_a_starting_agent_takes_away(self, place: Place) -> None:
        """It met the mark before the run folder had its name."""
        key = place.submit("echo up; while [ ! -e go ]; do sleep 0.05; done")
        place.lose_supervisor(key)
        place.home.unmark_active(key)
        assert place.session.ask(api.runs, api.RunKeys([key])).runs
        place.until_says(key, b"up")
        assert place.home.active_keys() == [key]
        Path(place.run(key).work, "go").touch()
        assert place.until_final(key)["state"] == "complete"

    def test_one_that_another_run_started_again_outlives_that(self, place: Place) -> None:
        """A run that ends starts the supervisor of the next one, which makes it its child."""
        until_told = "while [ ! -e go ]; do sleep 0.05; done"
        first, second = (place.submit(until_told, slots=2) for _ in range(2))
        for key in (first, second):
            place.until_state(key, RunState.RUNNING)
        long = place.submit(f"echo up; {until_told}; echo done", slots=2)
        until(lambda: place.run(long).supervised())
        place.drop_session()
        place.lose_supervisor(long)
        for key in (first, second):
            Path(place.run(key).work, "go").touch()
        for key in (first, second):
            assert place.until_final(key)["state"] == "complete"
            until(place.unsupervised(key))
        place.until_says(long, b"up")
        place.until_state(long, RunState.RUNNING)
        assert place.supervisor(long)
        Path(place.run(long).work, "go").touch()
        assert place.until_final(long)["state"] == "complete" and place.log(long) == b"up\ndone\n"

    def test_one_that_was_made_inside_another_outlives_that(self, place: Place) -> None:
        """As by `remoterun run -b` in a run's command."""
        inner = place.spec("while [ ! -e go ]; do sleep 0.05; done; echo done")
        Path(place.folder, "inner.json").write_bytes(inner.encode())
        make = f"""
            from pathlib import Path
            from remoterun.agent.shared import api
            from remoterun.agent.shared.spec import RunSpec
            from remoterun.agent.shared.submission import Submission
            from remoterun.agent.shared.tree import Manifest
            from tests.workshop import Place
            place = Place(Path({str(place.folder)!r}))
            spec = RunSpec.decode((place.folder / "inner.json").read_bytes())
            place.session.ask(api.submit, api.Nothing(), Submission(spec, {{}}, Manifest([]).encode()).encode())
            place.until_says(spec.key, b"")
            place.drop_session()
        """
        Path(place.folder, "make.py").write_text(textwrap.dedent(make))
        top = Path(__file__).parents[2]
        outer = place.submit(f"PYTHONPATH={top} {sys.executable} {place.folder}/make.py")
        assert place.until_final(outer)["state"] == "complete", place.log(outer)
        key = inner.key
        until(place.unsupervised(outer))
        place.until_state(key, RunState.RUNNING)
        Path(place.run(key).work, "go").touch()
        assert place.until_final(key)["state"] == "complete" and place.log(key) == b"done\n"

    def test_those_of_another_machine_are_left_to_it(self, place: Place) -> None:
        """It shares the home: what runs there can't be seen here, and counts for no slot."""
        key = place.submit("sleep 1017.5", slots=1)
        place.until_state(key, RunState.RUNNING)
        until(lambda: running("1017.5"))
        elsewhere = dict(to_json(Machine.this()), name="elsewhere", boot="another", processes="")
        Path(place.run(key).machine_file).write_text(json.dumps(elsewhere))
        place.lose_supervisor(key)
        place.drop_session()
        assert place.session.ask(api.runs, api.RunKeys([key])).runs[0].state is RunState.RUNNING
        assert place.until_final(place.submit("true", slots=1))["state"] == "complete"
        assert place.supervisor(key) is None and place.state(key) is RunState.RUNNING and running("1017.5")
        Path(place.run(key).machine_file).write_text(json.dumps(to_json(Machine.this())))

    def test_what_can_be_read_is_read_though_none_can_be_started(self, place: Place) -> None:
        key, ended = place.submit("echo up; sleep 1018.5"), place.submit("echo over")
        place.until_says(key, b"up")
        place.until_state(key, RunState.RUNNING)  # else none of its log is shown
        place.until_final(ended)
        place.drop_session()
        # Some may still start: those that find the lock held wait for a moment before they end.
        until(lambda: place.supervisor(ended) is None)
        place.lose_supervisor(key)
        log = Path(place.run(key).supervisor_log)
        log.unlink()
        log.mkdir()  # as where the home is read-only: it can't be opened
        assert follow(place, ended, follow=False)[0] == b"over\n"
        assert follow(place, key, follow=False)[0] == b"up\n"
        log.rmdir()

    def test_a_run_that_cannot_be_read_hides_no_other(self, place: Place) -> None:
        keys = [place.submit("true") for _ in range(2)]
        for key in keys:
            place.until_final(key)
            until(place.unsupervised(key))
        Path(place.run(keys[0]).spec_file).write_text("{")
        answer = place.session.ask(api.runs, api.RunKeys(keys))
        assert list(answer.unreadable) == keys[:1]
        assert [(status.key, status.state) for status in answer.runs] == [(keys[1], RunState.COMPLETE)]
        path = Path(place.run(keys[0]).path)  # in which its measurer may still write
        until(lambda: shutil.rmtree(path, ignore_errors=True) or not path.exists())


class TestFollow:
    def test_resumes_at_any_byte_and_event(self, place: Place) -> None:
        key = place.submit("i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; done; printf 'no end'")
        place.until_final(key)
        whole, events = follow(place, key)
        for offset in (0, 1, 17, len(whole) - 1, len(whole)):
            for skip in range(len(events) + 1):
                rest, later = follow(place, key, offset=offset, events=skip)
                assert (rest if skip < len(events) else whole[offset:], later) == (whole[offset:], events[skip:])


def test_removing_one_run_leaves_the_others_alone(place: Place) -> None:
    """Also when its supervisor died before it had given back what the run held."""
    going = place.submit("echo up; sleep 1018.5")
    ended = place.submit("true")
    place.until_final(ended)
    until(place.unsupervised(ended))
    place.until_says(going, b"up")
    until(lambda: place.supervisor(ended) is None)  # its end may have started a second one of the other
    (supervisor,) = until(lambda: len(found := place.supervisors(going)) == 1 and found)
    place.home.mark_active(ended)
    assert place.session.ask(api.remove_run, api.RunKey(ended)) == api.Removed(True)
    assert not os.path.exists(place.run(ended).path) and ended not in place.home.active_keys()
    assert place.supervisors(going) == [supervisor] and running("1018.5")
    with pytest.raises(UsageError):
        place.session.ask(api.remove_run, api.RunKey(going))
    assert place.session.ask(api.remove_run, api.RunKey(ended)) == api.Removed(False)


class TestHostileClients:
    """The agent ends, or answers with an error; it never hangs, and nothing of the home changes."""

    def test_bytes(self, place: Place) -> None:
        before = sorted(path for path in place.folder.rglob("*") if "agent" not in path.parts)
        at_once(partial(self.say, place, random.Random(seed)) for seed in range(12))
        assert sorted(path for path in place.folder.rglob("*") if "agent" not in path.parts) == before

    def say(self, place: Place, chance: random.Random) -> None:
        pipe = LocalHost(place.folder).open()
        try:
            frames = [
                encode(1, OPEN, {"op": "uploads", "args": {}}), encode(3, DATA, {}, b"to nobody"), encode(1, END),
                encode(5, OPEN, {"op": "put", "args": {}}), encode(5, DATA, {"d": "x"}, b"x"),
                encode(5, CREDIT, {"n": 5}), encode(7, OPEN, {"op": "runs", "args": {"keys": None}}),
                encode(7, CANCEL), encode(7, END), encode(5, END),
            ]  # fmt: skip
            chance.shuffle(frames)
            data = bytearray(b"".join(frames))
            for _ in range(chance.randint(0, 3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                pipe.write(bytes(data))
                pipe.write(encode(9, OPEN, {"op": "uploads", "args": {}}) + encode(9, END))
            except LinkLost:
                pass
            got = bytearray()
            killer = threading.Timer(1.0, pipe.close)  # some bytes only leave it waiting for the rest of a frame
            killer.start()
            while part := pipe.read(1 << 16):
                got += part
                if encode(9, END, {"uploads": []}) in got:
                    break
            killer.cancel()
            killer.join()
            assert "Traceback" not in pipe.diagnosis()
        finally:
            pipe.close()


class TestClient:
    def run(self, user: User, command: str, files: Files | None = None, machine: str | None = None, **more: Any) -> Run:
        mounts = tuple(map(Mount.parse, more.pop("mounts", ())))
        source = user.source(files) if files else None
        return user.client.runs.submit(RunRequest(command, mounts=mounts, **more), source, machine)

    def finish(self, user: User, run: Run) -> tuple[bytes, Run]:
        log = b""
        for item in user.client.runs.follow(run.number):
            if isinstance(item, LogBytes):
                assert item.offset == len(log)
                log += item.data
        return log, user.client.connections.registry.run(run.number)

    def test_a_run_that_its_machine_forgot(self, user: User) -> None:
        run = self.run(user, "sleep 1000")
        key = run.key
        place = user.place("one")
        place.session.ask(api.end, api.EndRuns([key], None))
        place.until_final(key)
        until(place.unsupervised(key))
        place.session.ask(api.remove_run, api.RunKey(key))
        (seen,) = user.client.runs.list()
        assert (seen.state.value, seen.reason and seen.reason.value) == ("interrupted", "host_lost")

    def test_a_home_that_is_away_loses_no_run(self, user: User) -> None:
        """Its disk isn't mounted yet, say, and the agent makes another home in its place."""
        run = self.run(user, "sleep 1019.5")
        place = user.place("one")
        place.until_state(run.key, RunState.RUNNING)
        user.new_client()
        place.drop_session()
        away = place.folder.with_name("away")
        place.folder.rename(away)
        (seen,) = user.client.runs.list()
        assert (seen.final, seen.reachable) == (False, False)
        user.new_client()
        shutil.rmtree(place.folder)
        away.rename(place.folder)
        (seen,) = user.client.runs.list()
        assert (seen.state, seen.reachable) == (RunState.RUNNING, True)
        lost = Reason.HOST_LOST.value
        user.client.connections.registry.change_state(seen, RunState.INTERRUPTED, time.time(), reason=lost)
        assert user.client.runs.kill(run.number)[1], "it is asked, though it counts as lost"
        assert user.client.runs.get(run.number).state in (RunState.RUNNING, RunState.KILLED)
        assert place.until_final(run.key)["state"] == "killed"

    @pytest.mark.parametrize("again", [True, False], ids=["another home is there", "in the midst of it"])
    def test_who_waits_for_a_run_ends_when_its_home_is_another_one(self, user: User, again: bool) -> None:
        """No time mends that, unlike a lost link."""
        run = self.run(user, "sleep 1019.5")
        other = self.run(user, "true", machine="two")
        place = user.place("one")
        place.until_state(run.key, RunState.RUNNING)
        client = user.new_client()
        client.machines.session(run.host)
        followed = client.runs.follow(run.number)
        waited = client.runs.wait([run.number, other.number])
        assert isinstance(next(followed), StateChange)
        ended = next(waited)
        assert isinstance(ended, Run) and ended.number == other.number
        place.drop_session()
        away = place.folder.with_name("away")
        place.folder.rename(away)
        if again:
            client = user.new_client()
            followed, waited = client.runs.follow(run.number), client.runs.wait([run.number])
        try:
            with pytest.raises(HomeMissing) as caught:
                list(followed)
            assert "remoterun rm --forget " in (caught.value.hint or "")
            (known,) = waited
            assert isinstance(known, Run) and not known.final
            assert isinstance(known.fault, HomeMissing)
            news: queue.Queue[PortNews] = queue.Queue()
            with client.runs.forward(run.number, [PortSpec(8000)], news.put) as forwarding:
                assert forwarding.wait(60)
            assert news.get_nowait().kind == "failed"
            with pytest.raises(HomeMissing):
                client.runs.stop(run.number)
        finally:
            user.new_client()
            shutil.rmtree(place.folder, ignore_errors=True)
            away.rename(place.folder)
        assert user.client.runs.kill(run.number)[1]

    def test_the_newest_upload_is_the_last_one_whatever_the_clocks_say(self, user: User) -> None:
        for text, machine in (("old", "one"), ("new", "two")):
            file = write_files(user.root / text, {"f": text}) / "f"
            uploaded = user.client.uploads.upload(file, "doom", machine).upload
            if machine == "one":  # whose clock is ahead by an hour
                user.client.connections.registry.uploads.record(
                    replace(uploaded, created=uploaded.created + 3600), user.client.machines.get("one"), None
                )
        for machine in ("two", "one"):
            run = self.run(user, "cat doom/f", mounts=("uploads/doom",), machine=machine)
            place = user.place(machine)
            place.until_final(run.key)
            assert place.log(run.key) == b"new"

    def test_killed_while_it_submits(self, user: User) -> None:
        """Whatever the moment, the run either goes its way or is known to have failed."""
        body = (
            "import sys; from remoterun.client import Client; from remoterun.config import Config\n"
            "from remoterun.model import MachineType, RunRequest; from remoterun.source import snapshot\n"
            "from pathlib import Path\n"
            "home, place, source = map(Path, sys.argv[1:])\n"
            "machine = MachineType('one', engine='process', home=str(place), slots=20)\n"
            "client = Client(Config(home, 'one', {'one': machine}))\n"
            "client.machines.session(client.machines.get(None)); print(flush=True)\n"
            "client.runs.submit(RunRequest('cat f7'), snapshot(source, no_git=True))\n"
        )
        chance = random.Random(5)
        for number in range(6):
            files: Files = {f"f{each}": f"{number} {each}" * 500 for each in range(30)}
            source = write_files(user.root / f"work{number}", files)
            words = [sys.executable, "-c", body, str(user.config.home), str(user.place("one").folder), str(source)]
            process = subprocess.Popen(words, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.random() * 0.12)
            process.kill()
            process.wait(10)
            process.stdout.close()
        until(lambda: all(run.final for run in user.client.runs.list()))
        for run in user.client.runs.list():
            assert run.state in (RunState.COMPLETE, RunState.FAILED), run
            assert run.state is RunState.COMPLETE or "handed over" in (run.message or "")

    def test_copy_while_it_runs(self, user: User, tmp_path: Path) -> None:
        run = self.run(user, "echo 1 >new; echo more >>old; echo up; sleep 1000", {"old": b"old\n", "same": b"s"})
        user.place("one").until_says(run.key, b"up")
        result = user.client.files.copy(f"runs/{run.number}", tmp_path / "here")
        assert read_files(tmp_path / "here") == {"new": b"1\n", "old": b"old\nmore\n"} and result.files == 2
        user.client.files.read(f"runs/{run.number}/new", (got := io.BytesIO()).write)
        assert got.getvalue() == b"1\n"
        _, about = user.client.files.list(Resource.parse(f"runs/{run.number}"))
        assert about.live
        with pytest.raises(NotFound):
            user.client.files.copy(f"runs/{run.number}/none", tmp_path / "there")

    def test_copy_of_a_file_that_changes_all_the_time(self, user: User, tmp_path: Path) -> None:
        run = self.run(user, "echo up; while :; do head -c 3000000 /dev/urandom >busy; echo x >calm; done")
        user.place("one").until_says(run.key, b"up")
        until(lambda: os.path.exists(os.path.join(user.place("one").run(run.key).work, "calm")))
        for _ in range(5):
            user.client.files.copy(f"runs/{run.number}", tmp_path / "here", lambda path: True)
        assert {path.name for path in (tmp_path / "here").iterdir()} <= {"busy", "calm"}

    def test_one_file_gets_the_name_that_is_typed(self, user: User, tmp_path: Path) -> None:
        here = tmp_path / "here"
        _, run = self.finish(user, self.run(user, "mkdir sub; echo a >sub/a; echo b >b"))
        user.client.files.copy(f"runs/{run.number}/sub/a", here / "new" / "name")
        user.client.files.copy(f"runs/{run.number}/b", here / "new")
        user.client.files.copy(f"runs/{run.number}/b", here / "folder", into=True)
        user.client.files.copy(f"runs/{run.number}/sub", here / "contents")
        expected = {"new/name": b"a\n", "new/b": b"b\n", "folder/b": b"b\n", "contents/a": b"a\n"}
        assert read_files(here) == expected
        with pytest.raises(AlreadyExists):
            user.client.files.copy(f"runs/{run.number}/b", here / "new" / "name")
        with pytest.raises(AlreadyExists):
            user.client.files.copy(f"runs/{run.number}/sub", here / "new" / "name")
        assert read_files(here) == expected

    def test_copying_up_merges(self, user: User, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "data", {"a": b"A", "sub/b": b"B", "empty": None})
        up = user.client.uploads.add
        up(folder, Resource.parse("uploads/doom"))
        up(write_files(tmp_path / "more", {"c": b"C", "sub/d": b"D", "empty/e": b"E"}), Resource.parse("uploads/doom"))
        up(tmp_path / "more" / "c", Resource.parse("uploads/doom/sub/"))
        up(tmp_path / "more" / "c", Resource.parse("uploads/doom/sub/renamed"))
        up(tmp_path / "more" / "c", Resource.parse("uploads/doom/empty"))
        stored = Path(user.place("one").home.uploads.folder, "doom", "5")
        assert read_files(stored) == {
            "a": b"A", "c": b"C", "sub/b": b"B", "sub/c": b"C", "sub/d": b"D", "sub/renamed": b"C",
            "empty/c": b"C", "empty/e": b"E",
        }  # fmt: skip
        with pytest.raises(UsageError):
            up(tmp_path / "more" / "c", Resource.parse("uploads/doom/a/below/a/file"))
        with pytest.raises(UsageError):
            up(tmp_path / "more" / "c", Resource.parse("runs/1"))
        assert not user.client.uploads.add(tmp_path / "more" / "c", Resource.parse("uploads/doom/sub/c")).created
