"""What must never break, while things break: real hosts, real sshd, real Docker, and faults made on purpose.

Each test has a home of its own on the host. When it ends, no container and no process of remoterun may be left there.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from remoterun.agent.shared.states import OutputsSize, Reason, RunState
from remoterun.client.runs.following import LogBytes, StateChange
from remoterun.errors import HostUnreachable, LinkLost, RemoterunError, UsageError
from remoterun.model import RunRequest
from remoterun.transfer import Progress
from tests.boxes import Box, counted, counting, submit
from tests.integration.conftest import Boxes
from tests.lab import BASE_IMAGE, Docker, Gpu, GpuProcess, LabHost
from tests.workshop import begun, ended, until

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


WAIT_FOR_GO = "until [ -e go ]; do sleep 0.05; done"


@pytest.fixture
def box(box_of: Boxes, host_a: LabHost) -> Box:
    return box_of(host_a)


def raised(action: Callable[[], object]) -> RemoterunError:
    """The error that `action` must end with; every one of them says what is wrong in one line."""
    with pytest.raises(RemoterunError) as caught:
        action()
    assert caught.value.message and "\n" not in caught.value.message
    return caught.value


def cut_for_a_while(box: Box) -> None:
    box.host.cut()
    time.sleep(2)  # the fault itself, not a wait
    box.host.heal()


def cut_until_given_up(box: Box) -> None:
    """Longer than a link may be silent (10 s): the connection is dead when the link is back."""
    box.host.cut()
    until(lambda: "lost" in box.follows[0].notes)
    box.host.heal()


class TestNoLineOfALogIsLostOrDoubled:
    """And the exit code is the command's own."""

    @pytest.mark.parametrize(
        ("fault", "lost"),
        [
            pytest.param(cut_for_a_while, False, id="link cut and healed"),
            pytest.param(cut_until_given_up, True, id="link cut until it counts as dead"),
            pytest.param(lambda box: box.kill(f"sshd-session: {box.host.user}"), True, id="sshd session killed"),
            pytest.param(lambda box: box.kill(".pyz serve"), True, id="agent killed"),
        ],
    )
    def test_on_the_way(self, box: Box, fault: Callable[[Box], None], lost: bool) -> None:
        client = box.client()
        run = submit(client, counting(2000, 2, 7, hold=1700))
        follow = box.follow(run.number)
        follow.lines(300)
        fault(box)
        box.go(run)
        end = follow.result()
        assert follow.text == counted(2000) == box.log(run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.EXIT_NONZERO, 7)
        assert ("lost" in follow.notes) == lost
        assert follow.notes.count("lost") == follow.notes.count("back")

    def test_everything_dies_again_and_again(self, box: Box) -> None:
        client = box.client()
        run = submit(client, counting(2000, 6, hold=1800))
        follow = box.follow(run.number)
        for lines in range(200, 1800, 300):
            follow.lines(lines)
            box.kill(".pyz supervise")
            box.host.sever()
        box.go(run)
        assert follow.result().code == 0
        assert follow.text == counted(2000) == box.log(run)


@pytest.fixture(params=[True, False], ids=["live-restore", "no live-restore"])
def docker_box(request: pytest.FixtureRequest, box_of: Boxes, kept_host: Callable[..., LabHost]) -> Box:
    return box_of(kept_host(live_restore=request.param))


class TestDockerdDies:
    def test_killed_and_the_run_ends_meanwhile(self, box: Box) -> None:
        """The exit file is the truth: nobody needs dockerd to learn how it ended."""
        client = box.client()
        run = submit(client, "echo 1 >result; " + counting(1000, 1, 7, hold=800))
        follow = box.follow(run.number)
        follow.lines(200)
        box.host.kill_dockerd()
        box.go(run)
        end = follow.result()
        assert follow.text == counted(1000) == box.log(run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.EXIT_NONZERO, 7)
        assert (box.folder(run) / "out" / "result").read_text() == "1\n"
        assert "can't be removed" in str(raised(lambda: client.runs.remove(run.number)))
        box.host.start_dockerd()
        box.client().uploads.list()  # any contact removes what could not be removed
        until(lambda: not box.containers())

    @pytest.mark.parametrize("end", ["kill", "stop"])
    def test_while_the_run_goes_on(self, docker_box: Box, end: str) -> None:
        """With live-restore the command notices nothing; without, dockerd ends it, and the run says so."""
        host = docker_box.host
        client = docker_box.client()
        lines = 1000
        run = submit(client, "echo 1 >result; " + counting(lines, 3))
        follow = docker_box.follow(run.number)
        follow.lines(200)
        host.kill_dockerd() if end == "kill" else host.stop_dockerd()
        host.start_dockerd()
        done = follow.result()
        assert follow.text == docker_box.log(run)
        assert (docker_box.folder(run) / "out" / "result").read_text() == "1\n"
        if done.state is RunState.INTERRUPTED:  # dockerd kills it, unless it ends by itself within some seconds
            assert not host.setup.live_restore
            assert (done.reason, done.code) == (Reason.HOST_LOST, None)
            assert done.message and "as by `docker stop`, or its engine went down" in done.message
            assert counted(lines).startswith(follow.text)
        else:
            assert (done.state, done.reason, done.code) == (RunState.COMPLETE, Reason.EXITED, 0)
            assert follow.text == counted(lines)

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_stop_and_kill_wait_for_it(self, box_of: Boxes, kept_host: Callable[..., LabHost], how: str) -> None:
        """What can't be told to the engine is told later: a run isn't called ended while its command goes on."""
        box = box_of(kept_host(live_restore=True))
        client = box.client()
        run = begun(client, submit(client, SAVES_ON_TERM))
        box.lines(run, 1)
        box.host.kill_dockerd()
        if how == "stop":
            client.runs.stop(run.number, grace=30)
        else:
            client.runs.kill(run.number)
        until(lambda: client.runs.get(run.number).note == "waiting for docker, which does not answer")
        assert not client.runs.get(run.number).final
        assert box.processes("saved.txt")
        box.host.start_dockerd()
        end = ended(client, run)
        assert end.state is (RunState.STOPPED if how == "stop" else RunState.KILLED)
        assert (box.folder(run) / "out" / "saved.txt").exists() == (how == "stop")
        assert not box.processes("saved.txt")


SAVES_ON_TERM = """exec python3 -c '
import signal, sys, time
def save(*_):
    time.sleep(1)
    open("saved.txt", "w").write("saved")
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(60)
'"""


class TestPowerCut:
    def test_in_the_middle_of_a_run(self, box: Box) -> None:
        client = box.client(slots=1)
        run = submit(client, "echo 1 >result; " + counting(60_000, 60))
        waiting = submit(client, "echo second")
        follow = box.follow(run.number)
        follow.lines(50)
        until(lambda: client.runs.get(waiting.number).note)
        box.host.down()
        box.host.up()
        end = follow.result()
        assert (end.state, end.reason, end.code) == (RunState.INTERRUPTED, Reason.HOST_REBOOTED, None)
        assert follow.text == box.log(run)
        assert counted(60_000).startswith(follow.text)
        assert follow.text.count(b"\n") >= 50
        assert (box.folder(run) / "out" / "result").read_text() == "1\n"
        assert ended(client, waiting).code == 0

    def test_it_is_started_again_in_its_work_tree(self, box: Box) -> None:
        """In Docker: after a power cut, and once more after its container was removed."""
        client = box.client()
        command = "n=$(cat made 2>/dev/null || echo 0); echo $((n + 1)) >made; cat made; [ $n = 2 ] || sleep 1000"
        run = submit(client, command, attempts=3)
        follow = box.follow(run.number)
        follow.lines(1)
        box.host.down()
        box.host.up()
        follow.lines(2)
        box.host.exec(["docker", "rm", "--force", f"remoterun-{run.key}"], check=True)
        end = follow.result()
        assert (end.state, end.code) == (RunState.COMPLETE, 0)
        assert follow.text == b"1\n2\n3\n" == box.log(run)
        assert (box.folder(run) / "out" / "made").read_text() == "3\n"
        notes = [event["note"] for event in client.runs.info(run.number)[1]["events"] if "attempt" in event]
        assert notes == ["attempt 2 of 3: the machine went down under it", "attempt 3 of 3: the engine lost it"]

    @pytest.mark.parametrize("moment", [RunState.QUEUED, RunState.MOUNTING, RunState.RUNNING])
    def test_at_other_moments(self, box: Box, moment: RunState) -> None:
        """Whatever was under way is begun anew, or the run says that it was interrupted; it is never left standing."""
        client = box.client()
        run = submit(client, "echo 1; sleep 0.3; echo 2")
        if moment is not RunState.QUEUED:
            until(lambda: moment.value in (box.folder(run) / "events").read_text(), pause=0.001)
        box.host.down()
        box.host.up()
        end = ended(client, run)
        if end.state is not RunState.INTERRUPTED:
            assert (end.state, box.log(run)) == (RunState.COMPLETE, b"1\n2\n")


def make_tree(folder: Path, seed: int) -> Path:
    """About 20 MB of incompressible files, small and large."""
    random = Random(seed)
    for number in range(200):
        path = folder / f"part-{number % 7}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(random.randrange(20_000)))
    for number in range(3):
        (folder / f"large-{number}.bin").write_bytes(random.randbytes(6 << 20))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestDiskFull:
    def test_upload(self, box_of: Boxes, new_host: Callable[..., LabHost], tmp_path: Path) -> None:
        box = box_of(new_host(home_size="96m", docker=Docker.ABSENT))
        tree = make_tree(tmp_path / "tree", 3)
        client = box.client()
        client.uploads.list()
        filled = []

        def fill(progress: Progress) -> None:
            """Somebody else fills the disk, on which there was room."""
            if progress.phase == "sending" and progress.bytes_done > 4 << 20 and not filled:
                filled.append(True)
                box.host.fill_home(leave=2 << 20)

        error = raised(lambda: client.uploads.upload(tree, "tree", progress=Progress(fill)))
        assert "full" in error.message and "box" in error.message and error.hint
        assert client.uploads.list() == []
        assert "full" in raised(lambda: client.uploads.upload(tree, "tree")).message
        box.host.free_home()
        done = client.uploads.upload(tree, "tree")
        assert done.sent.already > 1 << 20
        assert contents(box.home / "uploads" / "tree" / "1") == contents(tree)
        assert not list((box.home / "partial").iterdir())

    def test_submit(self, box_of: Boxes, kept_host: Callable[..., LabHost]) -> None:
        box = box_of(kept_host(home_size="64m"))
        client = box.client()
        assert ended(client, submit(client, "true")).code == 0
        # It has given back all that it held; so has each supervisor that a contact started meanwhile.
        until(lambda: not box.processes("supervise") and not (box.home / "reserve").exists())
        box.fill()
        error = raised(lambda: submit(client, "echo never", env=(("PADDING", "x" * 20_000),)))
        assert "full" in error.message
        (run,) = [run for run in client.runs.list() if run.command == "echo never"]
        assert (run.state, run.message) == (RunState.FAILED, error.message)
        box.host.free_home()
        box.client().uploads.list()
        assert not box.folder(run).exists()
        assert not list((box.home / "active").iterdir())
        assert ended(client, submit(client, "echo again")).code == 0

    def test_nearly(self, box_of: Boxes, kept_host: Callable[..., LabHost]) -> None:
        """However little there is beyond the margin of 1 MiB: it is refused, or comes to an end that says why."""
        box = box_of(kept_host(home_size="64m"))
        client = box.client()
        client.uploads.list()
        refused = 0
        for leave in (4, 900, 1060, 1100, 2200):
            box.fill(leave << 10)
            try:
                run = submit(client, "echo 1; head -c 20000 /dev/zero >result && echo 2")
            except RemoterunError as error:
                assert "full" in error.message
                refused += 1
                continue
            end = ended(client, run)
            if end.reason is Reason.DISK_FULL:
                assert "full" in (end.message or "")
            elif end.reason is Reason.EXIT_NONZERO:
                assert b"No space left" in box.log(run) or box.log(run) == b"1\n"
            else:
                assert (end.reason, end.outputs) == (Reason.EXITED, OutputsSize(1, 20000))
        assert 0 < refused < 5

    def test_its_end_is_recorded_though_there_is_no_room(
        self, box_of: Boxes, kept_host: Callable[..., LabHost], tmp_path: Path
    ) -> None:
        """Its end gives the reserve back, and has room for a line of our own."""
        box = box_of(kept_host(home_size="64m"))
        client = box.client()
        run = begun(client, submit(client, f"{WAIT_FOR_GO}; exit 3"))
        events = box.folder(run) / "events"
        with events.open("a") as file:  # to the end of its last block
            file.write(json.dumps({"t": 0, "note": "x" * (4096 - events.stat().st_size - 21)}) + "\n")
        assert events.stat().st_size == 4096
        box.go(run)
        box.fill()
        end = ended(client, run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.EXIT_NONZERO, 3)
        box.host.free_home()


class TestGpus:
    def test_other_peoples_processes_are_left_alone(self, box_of: Boxes, kept_host: Callable[..., LabHost]) -> None:
        host = kept_host(gpus=[Gpu(), Gpu()])
        box = box_of(host)
        client = box.client(gpus=1)
        host.set_gpu_processes([GpuProcess(4242, gpu=0, name="someone")])
        run = submit(client, 'echo "$NVIDIA_VISIBLE_DEVICES"; ' + WAIT_FOR_GO)
        box.lines(run, 1)
        assert box.log(run).decode().strip() == Gpu.uuid(1)
        waiting = submit(client, 'echo "$NVIDIA_VISIBLE_DEVICES"')
        until(lambda: "GPU 0 is used by process 4242 (someone)" in (client.runs.get(waiting.number).note or ""))
        without = submit(box.client(), 'echo "[$NVIDIA_VISIBLE_DEVICES]"')
        ended(client, without)  # one that needs none doesn't wait for one, and sees none
        assert Gpu.uuid(0) not in box.log(without).decode()
        host.set_gpu_processes([])
        assert ended(client, waiting).code == 0
        assert box.log(waiting).decode().strip() == Gpu.uuid(0)
        box.go(run)
        ended(client, run)
        both = submit(box.client(gpus=2), 'echo "$NVIDIA_VISIBLE_DEVICES"')
        assert ended(client, both).code == 0
        assert set(box.log(both).decode().strip().split(",")) == {Gpu.uuid(0), Gpu.uuid(1)}
        refused = raised(lambda: submit(box.client(gpus=3), "true"))
        assert isinstance(refused, UsageError) and "asks for 3 GPUs, and its machine has 2" in refused.message
        until(lambda: not list((box.home / "queue").iterdir()))


def memory(process: Path) -> int:
    """Bytes of a process that are in memory."""
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestFollowing:
    def test_a_paused_reader_blocks_nothing_else(self, box: Box) -> None:
        size = 50_000_000
        client = box.client()
        run = submit(client, f"head -c {size} /dev/zero | tr '\\0' x | fold -w 99; exec sleep 60")
        items = client.runs.follow(run.number)
        pieces = []
        while not pieces:
            pieces += [item for item in [next(items)] if isinstance(item, LogBytes)]
        (agent,) = box.processes(".pyz serve")
        before = memory(Path("/proc/self")), memory(box.host.path(f"/proc/{agent.pid}"))
        log = box.folder(run) / "io" / "log"
        until(lambda: log.stat().st_size > size)
        while_paused = memory(Path("/proc/self")), memory(box.host.path(f"/proc/{agent.pid}"))
        assert client.runs.get(run.number).state is RunState.RUNNING
        assert client.runs.stop(run.number)[1]
        assert ended(client, run).state is RunState.STOPPED
        for here, there in zip(while_paused, before, strict=True):
            assert here - there < 48 << 20
        pieces += [item for item in items if isinstance(item, LogBytes)]
        assert b"".join(piece.data for piece in pieces) == box.log(run)

    def test_ps_while_the_host_is_cut_off(self, box: Box) -> None:
        client, fresh = box.client(), box.client(connect_timeout=2)
        run = begun(client, submit(client, WAIT_FOR_GO))
        box.host.cut()
        lost: tuple[type[RemoterunError], ...] = (LinkLost, HostUnreachable)
        for asking, fault in ((client, lost), (client, lost[1:]), (fresh, lost[1:])):
            asked_at = time.monotonic()
            (seen,) = asking.runs.list()
            assert time.monotonic() - asked_at < 60, "TCP alone would take two minutes and more"
            assert (seen.state, seen.reachable) == (RunState.RUNNING, False)
            assert isinstance(seen.fault, fault)
            assert seen.last_seen is not None and seen.last_seen < time.time() - 1
        box.host.heal()
        until(lambda: client.runs.list()[0].reachable)
        assert client.runs.list()[0].state is RunState.RUNNING
        box.go(run)
        assert ended(client, run).code == 0


class TestFilesOfAnotherUser:
    def test_are_saved_too_or_stay_where_they_are(self, box: Box) -> None:
        """A command may have had help from root, by `sudo` or a set-uid program."""
        client = box.client()
        run = begun(client, submit(client, f"echo 1 >mine; {WAIT_FOR_GO}"))
        work = box.folder(run) / "work"
        (work / "closed").mkdir(mode=0o700)
        (work / "closed" / "inside").write_text("2")
        (work / "secret").write_text("3")
        (work / "secret").chmod(0o600)
        (work / "open").mkdir()
        (work / "open" / "inside").write_text("4")
        (work / "go").touch()
        end = ended(client, run)
        assert (end.state, end.code) == (RunState.COMPLETE, 0)
        assert contents(box.folder(run) / "out") == {"mine": b"1\n", "open/inside": b"4", "go": b""}
        assert (work / "closed" / "inside").read_text() == "2"
        assert (work / "secret").read_text() == "3"
        notes = [event["note"] for event in client.runs.info(run.number)[1]["events"] if "note" in event]
        assert len(notes) == 1 and "closed" in notes[0] and "secret" in notes[0] and "open" not in notes[0]


class TestOutOfMemory:
    def test_says_so(self, box: Box) -> None:
        client = box.client()
        run = begun(
            client, submit(client, f"echo 1 >result; {WAIT_FOR_GO}; python3 -c 'print(len(b\"x\" * (300 << 20)))'")
        )
        limit = ["--memory", "60m", "--memory-swap", "60m"]
        box.host.exec(["docker", "update", *limit, f"remoterun-{run.key}"], check=True)
        box.go(run)
        end = ended(client, run)
        assert (end.state, end.reason, end.code) == (RunState.FAILED, Reason.OUT_OF_MEMORY, 137)
        assert (box.folder(run) / "out" / "result").read_text() == "1\n"


class TestWithoutDocker:
    @pytest.mark.parametrize(
        ("docker", "words"),
        [
            (Docker.ABSENT, "Docker is not installed here"),
            (Docker.STOPPED, "Docker is not running here"),
            (Docker.FORBIDDEN, "this user may not use Docker here"),
        ],
    )
    def test_auto_takes_process_and_says_why(
        self, box_of: Boxes, new_host: Callable[..., LabHost], docker: Docker, words: str
    ) -> None:
        box = box_of(new_host(docker=docker))
        client = box.client(engine="auto")
        run = client.runs.submit(RunRequest("sleep 1000"))
        said = f"{words}, so runs use a virtual environment"
        until(lambda: said in (box.folder(run) / "events").read_text())
        client.runs.kill(run.number)
        assert ended(client, run).state is RunState.KILLED
        asked_for = ended(client, client.runs.submit(RunRequest("true", image=BASE_IMAGE)))
        assert (asked_for.state, asked_for.reason) == (RunState.FAILED, Reason.BUILD_FAILED)
        assert asked_for.message == f"--image needs Docker: {words}"
        refused = box.client(engine="docker").runs.submit(RunRequest("true"))
        (end,) = [
            item for item in client.runs.follow(refused.number) if isinstance(item, StateChange) and item.run.final
        ]
        assert (end.run.reason, end.run.message) == (Reason.BUILD_FAILED, words)
        assert "doctor" in end.event.hint

    def test_that_an_image_can_t_be_pulled_is_said_once_for_a_machine(self, box_of: Boxes, host_a: LabHost) -> None:
        box = box_of(host_a)
        client = box.client(engine="auto", base_image="no-such.invalid/python:1")
        for environments, is_said in ((0, True), (1, False)):
            if environments:
                box.host.exec_user(["mkdir", "-p", f"{box.there}/envs/one"], check=True)
            run = client.runs.submit(RunRequest("true", framework="none"))
            end = ended(client, run)
            assert (end.state, end.engine) == (RunState.COMPLETE, "process"), end.message
            events = (box.folder(run) / "events").read_text()
            assert ("can't be pulled, so it runs without Docker" in events) is is_said


SUBMITS = """
import pickle, sys, time
from remoterun.client import Client
from remoterun.model import RunRequest
config, image, names = pickle.loads(bytes.fromhex(sys.argv[1]))
client = Client(config)
client.uploads.list()
print("ready", flush=True)
sys.stdin.readline()
for name in names:
    asked_at = time.time()
    run = client.runs.submit(RunRequest("sleep 0.2", image=image, description=name))
    print(run.number, asked_at, time.time(), flush=True)
"""


class TestHandingOver:
    def test_the_link_breaks_under_it(self, box: Box) -> None:
        client = box.client()
        progress = Progress(lambda progress: box.host.sever() if progress.phase == "sending" else None)
        error = raised(lambda: client.runs.submit(RunRequest("echo never"), progress=progress))
        assert isinstance(error, LinkLost)
        (run,) = client.runs.list()
        assert (run.state, run.reason) == (RunState.FAILED, Reason.START_FAILED)
        assert ended(client, submit(client, "true")).code == 0

    def test_two_clients_at_once(self, box: Box) -> None:
        """One slot: served in the order in which they were handed over, one after the other."""
        config = box.config(slots=1)
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", SUBMITS, pickle.dumps((config, BASE_IMAGE, [name] * 3)).hex()],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "two")
        ]
        try:
            ready = [process.stdout.readline() for process in clients if process.stdout]
            answers = [process.communicate("go\n", timeout=60)[0] for process in clients]
        finally:
            for process in clients:
                process.kill()
                process.communicate()
        assert ready == ["ready\n"] * 2
        assert [process.returncode for process in clients] == [0, 0]
        handed = {}
        for line in "".join(answers).splitlines():
            number, asked_at, answered_at = line.split()
            handed[int(number)] = (float(asked_at), float(answered_at))
        assert len(handed) == 6
        client = box.client()
        runs = {number: ended(client, client.runs.get(number)) for number in handed}
        assert {run.code for run in runs.values()} == {0}
        order = sorted(runs.values(), key=lambda run: run.started or 0)
        for before, after in itertools.pairwise(order):
            assert before.ended and after.started and before.ended <= after.started
        for earlier, later in itertools.combinations(order, 2):
            assert handed[earlier.number][0] < handed[later.number][1], "served before one that was there first"
