"""A host that is rented: it ends when nothing goes on there, and at its deadline; its provider may take it before."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running import keeper, supervision
from remoterun.agent.running.keeper import CERTAIN, TRY_AGAIN, Keeper
from remoterun.agent.shared import api
from remoterun.agent.shared.archive import run_prefix
from remoterun.agent.shared.files import write_whole
from remoterun.agent.shared.machines import RENTAL_FILE, RentalTerms
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.states import Reason, RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import host_role
from remoterun.agent.store.home import Home
from remoterun.agent.store.machine import LAST, UNSAVED
from remoterun.agent.store.run_folder import GIVEN_UP
from remoterun.errors import RemoterunError
from tests.bucket_server import BucketServer, Handler
from tests.metadata_service import Metadata, metadata_service
from tests.workshop import SAVES, Place, command_line, create_run, kill9, pids, running, spec_of, until

FAR = 1e10


def rent(home: Home, **terms: Any) -> RentalTerms:
    whole = RentalTerms("rr-1", FAR, 600.0, ["touch", home.path + "/ended"])._replace(**terms)
    write_whole(f"{home.path}/{RENTAL_FILE}", json.dumps(to_json(whole)).encode())
    return whole


class Host:
    """A keeper whose clocks stand still unless they are told to go."""

    def __init__(self, home: Home, **terms: Any) -> None:
        self.home = home
        self.terms = rent(home, **terms)
        self.now, self.wall = 1000.0, time.time()
        self.keeper = Keeper(home, lambda: self.now, lambda: self.wall)

    def after(self, seconds: float, steps: int = 10) -> bool:
        """Whether it has ended the host by then."""
        for _ in range(steps):
            self.now += seconds / steps
            self.wall += seconds / steps
            self.keeper.step(self.terms)
        return self.ended

    @property
    def ended(self) -> bool:
        return Path(self.home.path, "ended").exists()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def server() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.close()


class TestIdle:
    def test_it_ends_after_a_while_and_not_before(self, home: Home) -> None:
        host = Host(home)
        assert not host.after(590)
        assert host.after(15)
        assert home.rental.refusal() == "this machine ends, since nothing ran on it"

    @pytest.mark.parametrize("jump", [-1e6, 1e6])
    def test_a_clock_that_jumps(self, home: Home, jump: float) -> None:
        host = Host(home)
        host.after(300)
        host.wall += jump
        assert not host.after(290)
        assert host.after(15)

    def test_a_transfer_is_not_cut_and_does_not_begin_the_idle_time_anew(self, home: Home) -> None:
        host = Host(home)
        client = supervision.ClientPresence(home, lambda: host.now)
        assert not host.after(590)
        with client.using():
            for _ in range(100):
                assert not host.after(100, steps=2)
                client.refresh(busy=True)
        assert not host.after(supervision.QUIET - 1)
        client.refresh(busy=False)
        assert not host.ended
        host.now += 2
        client.refresh(busy=False)
        assert host.after(1)

    def test_a_transfer_in_which_nothing_moves_does_not_keep_it(self, home: Home) -> None:
        host = Host(home)
        client = supervision.ClientPresence(home, lambda: host.now)
        with client.using():
            assert not host.after(700)
            client.refresh(busy=False)
            assert host.after(1)

    def test_a_hand_over_keeps_it_for_an_hour_at_the_most(self, home: Home) -> None:
        host = Host(home)
        client = supervision.ClientPresence(home, lambda: host.now)
        with client.using(stays=True):
            assert not host.after(supervision.STAYS - 1)
            client.refresh(busy=True)
            assert not host.ended
            host.now += 2
            client.refresh(busy=True)
            assert host.after(1)

    def test_a_client_that_asks_does_not_keep_it(self, place: Place) -> None:
        """Such as `ps --watch`, or the page: through the agent itself."""
        key = place.submit("true")
        place.until_state(key, RunState.COMPLETE)
        place.drop_session()
        with rented(place, idle=0.5):
            ended = Path(place.home.path, "ended")

            def asked() -> bool:
                place.session.ask(api.runs, api.RunKeys([key]))
                return ended.exists()

            until(asked, 30)

    def test_a_run_goes_on(self, home: Home) -> None:
        host = Host(home)
        run = create_run(home, spec_of())
        with run.supervising():
            assert not host.after(10_000)
            run.move(RunState.STOPPED)
            assert not host.after(590)
            assert host.after(15)

    def test_a_run_that_has_ended_between_two_looks_counts(self, home: Home) -> None:
        host = Host(home)
        assert not host.after(590)
        run = create_run(home, spec_of())
        run.move(RunState.COMPLETE)
        home.unmark_active(run.key)
        assert not host.after(1)
        assert not host.after(590)
        assert host.after(15)

    def test_a_run_that_can_not_be_read_counts_as_one(self, home: Home) -> None:
        host = Host(home)
        run = create_run(home, spec_of())
        with run.supervising():
            Path(run.events_file).write_bytes(b'{"state": "painted"}\n')
            assert not host.after(10_000)

    def test_outputs_that_are_nowhere_else_keep_it_for_an_hour_more(self, home: Home) -> None:
        run = create_run(home, spec_of()._replace(bucket="s3://mine"))
        run.move(RunState.FAILED, reason="exit_nonzero", outputs={"files": 1, "size": 5})
        home.unmark_active(run.key)
        host = Host(home)
        assert not host.after(600 + 3500)
        assert host.after(200)

    def test_outputs_that_were_waited_for_in_vain_do_not(self, home: Home) -> None:
        run = create_run(home, spec_of()._replace(bucket="s3://mine"))
        run.move(RunState.FAILED, reason="exit_nonzero", outputs={"files": 1, "size": 5})
        Path(run.archived_file).write_text(f"log 5\n{GIVEN_UP}\n")
        home.unmark_active(run.key)
        assert Host(home).after(610)

    def test_a_full_disk_does_not_keep_it(self, home: Home) -> None:
        host = Host(home)
        Path(home.path, "leaving").mkdir()  # so that no mark can be written
        assert not host.after(590)
        assert host.after(15)

    def test_it_tries_again_where_it_can_not_end(self, home: Home, capfd: pytest.CaptureFixture[str]) -> None:
        host = Host(home, end=["sh", "-c", f"echo x >>{home.path}/tries; echo not allowed; exit 3"])
        host.after(600 + 3 * TRY_AGAIN, steps=200)
        assert 3 <= len(Path(home.path, "tries").read_text().split()) <= 5
        assert "status 3: not allowed" in capfd.readouterr().err
        host = Host(home, end=["no-such-program-xyz"])
        host.after(700)
        assert "that failed" in capfd.readouterr().err

    def test_who_comes_then_is_told(self, place: Place) -> None:
        place.home.rental.leave(time.time(), "idle")
        for ask in (lambda: place.submit("true"), place.session.stay):
            with pytest.raises(RemoterunError, match="this machine ends, since nothing ran on it"):
                ask()


class TestDeadline:
    def test_it_ends_whatever_goes_on(self, home: Home) -> None:
        host = Host(home, deadline=time.time() + 1000)
        with supervision.ClientPresence(home).using():
            assert not host.after(990)
            assert host.after(10 + CERTAIN + 10)

    def test_a_clock_that_is_wrong_for_a_moment(self, home: Home) -> None:
        host = Host(home, deadline=time.time() + 1000)
        with supervision.ClientPresence(home).using():
            host.wall += 5000
            assert not host.after(CERTAIN - 5)
            host.wall -= 5000
            assert not host.after(900)

    def test_a_run_ends_with_what_its_bucket_has(self, place: Place, server: BucketServer) -> None:
        server.faults.append(Handler.cut)
        key = submit(place, server, "echo x >out")
        until_waits(place, key)
        with rented(place, deadline=time.time() + UNSAVED + 2):
            status = place.until_final(key)
            assert (status["state"], status["kept"]) == ("complete", False)
            assert "not all of it is in the bucket s3://mine: 127.0.0.1" in status["message"]
            assert place.outputs(key) == {"out": b"x\n"}
            with pytest.raises(RemoterunError, match="will be taken away at"):
                place.submit("true")


class TestItsProcess:
    def test_there_is_one_and_it_comes_back(self, place: Place) -> None:
        place.session.ask(api.uploads, api.Nothing())
        assert keepers(place) == []
        with rented(place):
            for _ in range(2):  # the next contact starts it
                place.drop_session()
                place.session.ask(api.uploads, api.Nothing())
                kill9(the_keeper(place))
                until(lambda: not keepers(place))
            key = place.submit("exec sleep 1000.75")
            place.until_state(key, RunState.RUNNING)
            before = the_keeper(place)
            kill9(before)
            until(lambda: keepers(place) not in ([], [before]), what="the run's supervisor has started another")
            place.end(key, "kill")
            place.until_final(key)
            until(place.unsupervised(key))
            assert keepers(place) and not running("1000.75")

    def test_who_looks_whether_there_is_one_is_in_nobodys_way(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper, "LOCK_PATIENCE", 60.0)
        with rented(place), open(place.home.lock(supervision.KEEPER), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=keeper.keep, args=(place.home,), daemon=True)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            fcntl.flock(lock, fcntl.LOCK_UN)
            until(lambda: held(place.home.lock(supervision.KEEPER)), what="it holds the lock itself")

    @pytest.mark.skipif(os.geteuid() != 0, reason="root alone acts as another user")
    def test_one_that_hangs_is_replaced_by_root_whom_no_variable_of_the_user_reaches(
        self, place: Place, tmp_path: Path
    ) -> None:
        caught, file = tmp_path / "caught", Path(place.home.path, "keeper.json")
        (tmp_path / "bin").mkdir()
        for name in ("setpriv", "env"):
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {caught}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        program = (
            "from remoterun.clouds.boot import on_host; on_host.SHUTDOWN = ['true'];"
            " on_host.CHECK_SECONDS = 0.1; on_host.HANGS_SECONDS = 3;"
        )
        settings = {
            "user": pwd.getpwuid(0).pw_name,
            "home": place.home.path,
            "unused": 600,
            "terms": {"deadline": FAR},
        }
        with rented(place):
            place.session.ask(api.uploads, api.Nothing())
            before = the_keeper(place)
            left = json.loads(file.read_text())
            left["variables"] |= {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "FROM_ROOT": "no"}
            file.write_text(json.dumps(left))
            os.kill(before, signal.SIGSTOP)
            with subprocess.Popen([sys.executable, "-c", f"{program} on_host.watch({settings!r})"]) as watch:
                try:
                    until(lambda: keepers(place) not in ([], [before]), what="root has started another")
                finally:
                    watch.kill()
                    kill9(before)
            until(lambda: any(b"FROM_ROOT=no" in variables(pid) for pid in keepers(place)), what="`env` has started it")
            assert not caught.exists()

    def test_its_sign_of_life(self, home: Home) -> None:
        """The watch of the host knows by it that it does not hang."""
        host = Host(home)
        Path(home.lock(supervision.KEEPER)).touch()
        os.utime(home.lock(supervision.KEEPER), (0, 0))
        host.after(15)
        assert os.stat(f"{home.path}/locks/keep").st_mtime > 0

    def test_it_ends_the_host_by_itself(self, place: Place, tmp_path: Path) -> None:
        """And it looks after runs whose supervisors have died, while no client comes."""
        key = place.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo x >out")
        place.until_state(key, RunState.RUNNING)
        place.drop_session()
        with rented(place, idle=1.0):
            place.session.ask(api.uploads, api.Nothing())
            the_keeper(place)
            place.drop_session()
            place.lose_supervisor(key)
            (tmp_path / "go").touch()
            ended = Path(place.home.path, "ended")
            until(ended.exists, 60)
            assert place.state(key) is RunState.COMPLETE and place.outputs(key) == {"out": b"x\n"}


class TestATakenHost:
    def test_the_command_saves_and_the_bucket_has_it(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, f"python3 -c '{SAVES}' 0; echo saved >out")
        place.until_says(key, b"up")
        place.home.rental.leave(time.time() + 120, "taken")
        status = place.until_final(key)
        assert (status["state"], status["reason"], status["kept"]) == ("interrupted", "preempted", True)
        assert b"saved" in place.log(key) and "outputs" in server.below(run_prefix(key))
        assert any("will be taken away: stopping" in event.get("note", "") for event in place.run(key).events())

    def test_one_that_does_not_end_is_killed_in_time(self, place: Place, server: BucketServer) -> None:
        key = submit(place, server, "trap '' TERM; echo x >out; echo up; while true; do sleep 0.1; done")
        place.until_says(key, b"up")
        place.session.ask(api.end, api.EndRuns([key], 1000.0))
        until(lambda: place.run(key).status().note == "stopping")
        place.home.rental.leave(time.time() + 93, "taken")
        status = place.until_final(key)
        assert (status["reason"], status["kept"]) == ("stopped", True)

    def test_before_the_command_has_started(self, place: Place, server: BucketServer) -> None:
        place.home.rental.leave(time.time() + 120, "taken")
        spec = place.spec("true", bucket="s3://mine")
        run = create_run(place.home, spec, grant=server.grant(run_prefix(spec.key)))
        assert run.state()[0] is RunState.QUEUED
        status = place.until_status(spec.key)
        assert (status["reason"], status["kept"]) == (Reason.PREEMPTED.value, True)
        with pytest.raises(RemoterunError, match=r"will be taken away at \d\d:\d\d:\d\d UTC"):
            place.submit("true")

    def test_its_bucket_is_waited_for_until_then(self, place: Place, server: BucketServer) -> None:
        server.faults.append(Handler.cut)
        key = submit(place, server, "echo x >out")
        until_waits(place, key)
        place.home.rental.leave(time.time() + LAST + 3, "taken")
        status = place.until_final(key)
        assert (status["state"], status["kept"]) == ("complete", False)
        assert "not all of it is in the bucket" in status["message"]

    def test_the_first_word_counts_and_only_until_it_starts_anew(self, home: Home) -> None:
        home.rental.leave(5000.0, "taken")
        home.rental.leave(6000.0, "idle")
        assert home.rental.taken_at() == 5000.0
        home.rental.leave(4000.0, "taken")
        assert home.rental.taken_at() == 4000.0
        mark = Path(home.path, "leaving")
        mark.write_text(json.dumps(dict(json.loads(mark.read_text()), boot="another")))
        assert home.rental.leaving() is None and home.rental.refusal() is None


class TestNoticesOfAws:
    @pytest.fixture
    def service(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
        with metadata_service() as service:
            monkeypatch.setenv(host_role.ELSEWHERE, service.address)
            yield service

    def test_none_and_then_one(self, service: Metadata) -> None:
        assert host_role.notice() is None
        assert service.asked == ["PUT api/token", "GET meta-data/spot/instance-action"]
        service.notice = b'{"action": "terminate", "time": "2030-01-02T03:04:05Z"}'
        assert host_role.notice() == 1893553445.0

    @pytest.mark.parametrize("told", [b"", b"{}", b"[]", b"\xff", b'{"time": 5}', b'{"time": "soon"}'])
    def test_one_that_can_not_be_read(self, service: Metadata, told: bytes) -> None:
        service.notice = told
        taken_at = host_role.notice()
        assert taken_at is not None and abs(taken_at - time.time() - 120) < 10

    def test_no_proxy_is_asked(self, service: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert host_role.notice() is None

    def test_a_service_that_is_silent(self, service: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_role, "SILENCE", 0.3)
        service.silent.clear()
        with pytest.raises(OSError):
            host_role.notice()
        service.silent.set()

    def test_the_keeper_marks_it(self, home: Home, service: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        host = Host(home, notices="aws")
        service.failing = True
        host.after(10)
        service.failing = False
        host.after(10)
        assert home.rental.leaving() is None
        at = time.time() + 120
        service.notice = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}).encode()
        host.after(10)
        assert home.rental.taken_at() == int(at) and not host.ended


def submit(place: Place, server: BucketServer, command: str) -> str:
    spec = place.spec(command, bucket="s3://mine")
    grant = server.grant(run_prefix(spec.key), 600)
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, Manifest([]).encode(), grant).encode())
    return spec.key


def until_waits(place: Place, key: str) -> None:
    until(lambda: "waiting for the bucket" in (place.run(key).status().note or ""))


@contextmanager
def rented(place: Place, **terms: Any) -> Iterator[None]:
    """For a while the machine of a place is rented."""
    rent(place.home, **terms)
    try:
        yield
    finally:
        Path(place.home.path, RENTAL_FILE).unlink()
        until(lambda: not keepers(place), what="its keeper ends")


def keepers(place: Place) -> list[int]:
    return [pid for pid in pids() if {b"keep", place.home.path.encode()} <= set(command_line(pid))]


def variables(pid: int) -> list[bytes]:
    """None when it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def the_keeper(place: Place) -> int:
    (found,) = until(lambda: len(found := keepers(place)) == 1 and found, what=lambda: str(keepers(place)))
    return int(found)


def held(path: str) -> bool:
    """Whether somebody else holds a lock."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
