"""Copies of runs in the archive: their state, their log, their trees; and what a host may do there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun import archive_store, copied_runs
from remoterun.agent.shared import api
from remoterun.agent.shared.facts import RunEvent
from remoterun.agent.shared.measured import POINT
from remoterun.agent.shared.states import Reason, RunState
from remoterun.archive import Archive, runs, s3
from remoterun.archive.objects import BucketPlace
from remoterun.archive.reading import TreeReader
from remoterun.archive.runs import RunPlace
from remoterun.archive_store import ArchivedRun
from remoterun.errors import HostError, NotFound, UsageError
from remoterun.log_cache import LogCache
from remoterun.transfer import Progress, place, refuse
from tests.cloud.archives import KEY, OTHER, Host
from tests.seaweed import opened, s3_of
from tests.workshop import Files, read_files, spec_of, until

RUN = RunPlace(KEY)


@pytest.fixture
def archive(bucket: BucketPlace) -> Iterator[Archive]:
    with opened(bucket) as archive:
        yield archive


@pytest.fixture
def cache(tmp_path: Path) -> LogCache:
    return LogCache(tmp_path / "client", 1 << 30)


@pytest.fixture
def run(archive: Archive, cache: LogCache, monkeypatch: pytest.MonkeyPatch) -> ArchivedRun:
    monkeypatch.setattr(archive_store, "POLL", 0.05)
    return ArchivedRun(archive, RUN, cache)


def followed(run: ArchivedRun, **asked: Any) -> tuple[list[Any], api.Followed]:
    """What comes of a run: bytes of its log, and states; and the result."""
    found: list[Any] = []
    for part in run.follow(api.Follow(KEY, **asked), threading.Event(), lambda stream: None):
        if isinstance(part, api.Followed):
            return found, part
        if "log" in part.header:
            found.append(bytes(part.body))
        elif "event" in part.header:
            found.append(part.header["event"]["state"])
    raise AssertionError("no result")


def next_second() -> int:
    """Blocks until it begins: the store tells whole seconds."""
    began = int(time.time())
    until(lambda: int(time.time()) > began)
    return began + 1


class TestStatus:
    def test_what_a_host_reported_is_listed(self, archive: Archive) -> None:
        Host(archive).event(RunState.RUNNING)
        Host(archive, OTHER).event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        found, unreadable = runs.statuses(archive, [KEY, OTHER], RunPlace)
        assert {one.key: one.state for one in found} == {KEY: RunState.RUNNING, OTHER: RunState.COMPLETE}
        assert [one.key for one in runs.statuses(archive, [OTHER, "2" * 26], RunPlace)[0]] == [OTHER] and not unreadable
        details = runs.details(archive, RunPlace(OTHER))
        assert details.status.code == 0 and details.spec == {} and [one.state for one in details.events]
        with pytest.raises(NotFound):
            runs.details(archive, RunPlace("2" * 26))

    def test_its_spec(self, archive: Archive) -> None:
        Host(archive).event(RunState.RUNNING)
        runs.put_spec(archive, RunPlace(KEY), spec_of("python train.py", key=KEY).encode())
        assert runs.details(archive, RUN).spec["command"] == "python train.py"

    def test_its_points(self, archive: Archive, run: ArchivedRun) -> None:
        """They are there once it has ended, and come from the byte on for which somebody asks."""
        host, point = Host(archive), [POINT.pack(number % 2, number, 0, 1) for number in range(5)]
        host.event(RunState.RUNNING)
        found = {"metrics": b"", "usage": b""}

        def add(kind: str, points: bytes) -> None:
            found[kind] += points

        assert run.measured(api.Measured(KEY), add)[0] == [] and not any(found.values())
        host.post("metrics.points", b"".join(point) + b"half")
        host.post("metrics.names", b'"loss"\n"\\u00f6"\n')
        host.post("usage.points", point[0])
        names, until = run.measured(api.Measured(KEY, POINT.size, 0, 1), add)
        assert (names, found) == (["ö"], {"metrics": b"".join(point[1:]), "usage": point[0]})
        assert (until.metrics, until.usage, until.names) == (5 * POINT.size, POINT.size, 2)
        host.post("metrics.names", b"1\n")
        with pytest.raises(HostError):
            run.measured(api.Measured(KEY), add)

    def test_a_run_is_removed_with_all_that_it_left(self, archive: Archive, tmp_path: Path) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        with pytest.raises(UsageError, match="the run is running"):
            runs.remove_run(archive, RUN)
        host.tree(tmp_path / "outputs", {"a": b"A"})
        host.log(0, b"log")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert runs.remove_run(archive, RUN) and not runs.remove_run(archive, RUN)
        assert not list(archive.objects.list("runs/"))

    def test_the_end_of_one_whose_host_is_gone(self, archive: Archive, run: ArchivedRun) -> None:
        Host(archive).event(RunState.RUNNING)
        end = RunEvent(t=time.time(), state=RunState.INTERRUPTED, reason=Reason.PREEMPTED)
        runs.record_end(archive, RUN, end)
        found, done = followed(run)
        assert found == ["running", "interrupted"] and done.status.reason is Reason.PREEMPTED
        other = end._replace(reason=Reason.HOST_LOST)
        assert runs.record_end(archive, RUN, other).status.reason is Reason.PREEMPTED  # it has an end
        killed = end._replace(state=RunState.KILLED, reason=Reason.KILLED)  # its next host, which has reported nothing
        for _ in range(2):
            assert runs.record_end(archive, RUN, killed, 2).status.reason is Reason.KILLED
        assert followed(run)[0] == ["running", "interrupted", "killed"]
        assert runs.record_end(archive, RUN, end, 3).status.reason is Reason.KILLED  # after which there is no other one


class TestHostsWithARole:
    """Each writes below a folder of its own; what the client has named as a run's is read, and nothing else."""

    FIRST, SECOND, STRANGER = "AROAEXAMPLE:i-1", "AROAEXAMPLE:i-2", "AROAEXAMPLE:i-3"

    def test_what_several_hosts_have_written_is_one_run(
        self, archive: Archive, cache: LogCache, tmp_path: Path
    ) -> None:
        place = RunPlace(KEY, (self.FIRST, self.SECOND))
        runs.put_spec(archive, place, spec_of("true", key=KEY).encode())
        first, second, stranger = (Host(archive, KEY, name) for name in (self.FIRST, self.SECOND, self.STRANGER))
        stranger.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        stranger.log(0, b"none of its lines\n")
        stranger.tree(tmp_path / "strange", {"evil": b"x"})
        with pytest.raises(NotFound):
            runs.read_record(archive, place)
        first.event(RunState.INTERRUPTED, reason=Reason.PREEMPTED)
        first.log(0, b"one\ntwo\n")
        first.tree(tmp_path / "first", {"checkpoint": b"1"})
        assert runs.read_record(archive, place).status.state is RunState.INTERRUPTED
        assert runs.log_sizes(archive, place) == (8, 0)
        second.event(RunState.RUNNING)
        second.log(4, b"three\n")
        assert runs.read_run_tree(archive, place, "outputs")[0] == first.folder
        second.tree(tmp_path / "second", {"checkpoint": b"2"})
        second.post("metrics.names", b'"loss"\n')
        second.post("metrics.points", POINT.pack(0, 1, 0, 1))
        for known in (place, runs.recorded_place(archive, KEY)):
            assert runs.details(archive, known).folder.endswith(second.folder)
            prefix, tree = runs.read_run_tree(archive, known, "outputs")
            found = TreeReader(archive, prefix, tree.places).contents(tree.manifest.files, 99)
            assert prefix == second.folder and list(found.values()) == [b"2"]
            copy = ArchivedRun(archive, known, cache)
            assert copy.log_part(api.LogPart(KEY, 0, 99))[2] == b"one\nthree\n"
            names, until = copy.measured(api.Measured(KEY), lambda kind, points: None)
            assert names == ["loss"] and until.metrics == POINT.size
        assert runs.log_sizes(archive, place) == (10, 0)

    def test_its_end_and_its_removal(self, archive: Archive) -> None:
        place = RunPlace(KEY, (self.FIRST, self.SECOND))
        runs.put_spec(archive, place, b"{}")
        first, stranger = Host(archive, KEY, self.FIRST), Host(archive, KEY, self.STRANGER)
        for host in (first, stranger, Host(archive, OTHER, self.FIRST)):
            host.event(RunState.RUNNING)
            host.log(0, b"x")
        end = RunEvent(t=time.time(), state=RunState.INTERRUPTED, reason=Reason.HOST_LOST)
        assert [event.state for event in runs.record_end(archive, place, end).events] == ["running", "interrupted"]
        assert runs.read_record(archive, runs.recorded_place(archive, KEY)).status.reason is Reason.HOST_LOST
        assert runs.remove_run(archive, runs.recorded_place(archive, KEY)) and not runs.remove_run(archive, place)
        left = {stored.key.rpartition("/")[0] for stored in archive.objects.list("")}
        assert left == {"", f"hosts/{self.FIRST}/{OTHER}", f"hosts/{self.FIRST}/{OTHER}/log"} | {
            stranger.folder[:-1], stranger.folder + "log",
        }  # fmt: skip

    def test_writers_that_make_no_sense(self, archive: Archive) -> None:
        for said in (b"{", b"{}", b'["../uploads/doom"]', b'["a/b"]', b"[1]", b'["."]'):
            archive.objects.put(f"runs/{KEY}/hosts", said)
            with pytest.raises(HostError, match="hosts` in .* is damaged"):
                runs.recorded_place(archive, KEY)


class TestLog:
    def test_pieces_that_overlap_come_whole_and_once(self, archive: Archive, run: ArchivedRun) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        host.log(0, b"one\ntwo\n")
        host.log(4, b"two\nthree\n")
        host.log(4, b"two\nthree\nfour\n")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        found, done = followed(run)
        assert found[0] == "running" and found[-1] == "complete"
        assert b"".join(found[1:-1]) == b"one\ntwo\nthree\nfour\n" and done.offset == 19 and done.events == 2
        assert b"".join(followed(run, offset=14)[0][1:-1]) == b"four\n"

    def test_it_is_followed_until_the_run_ends(self, archive: Archive, run: ArchivedRun) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        pieces = [b"%d\n" % number for number in range(20)]

        def write() -> None:
            for piece in pieces:
                host.log(host.log_size, piece)
            host.event(RunState.SAVING)
            host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)

        writing = threading.Thread(target=write)
        writing.start()
        found, _ = followed(run)
        writing.join(30)
        assert b"".join(one for one in found if isinstance(one, bytes)) == b"".join(pieces)
        assert [one for one in found if isinstance(one, str)] == ["running", "saving", "complete"]
        assert found[0] == "running" and found[-1] == "complete"

    def test_a_piece_that_is_missing_is_passed_over_at_the_end_only(self, archive: Archive, run: ArchivedRun) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        host.log(0, b"one\n")
        host.log(8, b"three\n")
        assert followed(run, follow=False)[0] == ["running", b"one\n"]
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert b"".join(one for one in followed(run)[0] if isinstance(one, bytes)) == b"one\nthree\n"

    def test_its_last_lines_over_a_hole_as_long_as_one_can_be(self, archive: Archive, run: ArchivedRun) -> None:
        """A host names the places of pieces as it likes."""
        host = Host(archive)
        host.event(RunState.RUNNING)
        host.log(0, b"zero\none\n")
        host.log(10**15, b"two\nthr")
        host.log(10**16 - 1, b"ee\nfour")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        before = s3_of(archive).requests
        for lines, tail in ((1, b"four"), (2, b"three\nfour"), (4, b"one\ntwo\nthree\nfour")):
            found, _ = followed(run, tail=lines)
            assert b"".join(one for one in found if isinstance(one, bytes)) == tail
        assert s3_of(archive).requests - before < 50
        for lines, tail in ((0, b""), (9, b"zero\none\ntwo\nthree\nfour")):
            found, _ = followed(run, tail=lines, follow=False)
            assert b"".join(one for one in found if isinstance(one, bytes)) == tail

    def test_any_part_of_it(self, archive: Archive, cache: LogCache, run: ArchivedRun) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        host.log(0, b"one\ntwo\n")
        host.log(4, b"two\nthree\n")
        host.log(20, b"Three and\nfour\n")

        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)

        def part(start: int, size: int) -> tuple[int, int, bytes]:
            return run.log_part(api.LogPart(KEY, start, size))

        assert part(2, 9) == (2, 29, b"e\ntwo\nthr")
        assert part(8, 12) == (8, 29, b"three\nThree "), "what is missing is passed over"
        assert part(-5, 99) == (24, 29, b"four\n") and part(99, 9) == (29, 29, b"")
        assert run.log_part(api.LogPart(KEY, 0, 9, "err")) == (0, 0, b"")
        with pytest.raises(NotFound):
            run.log_part(api.LogPart(KEY, 0, 9, "../err"))
        with pytest.raises(NotFound):
            ArchivedRun(archive, RunPlace(OTHER), cache).log_part(api.LogPart(OTHER))

        def found(text: str, **asked: Any) -> api.Hits:
            return run.search_log(api.SearchLog(KEY, text, **asked))

        three = [api.Hit(8, "three"), api.Hit(14, "Three and")]
        assert found("THREE") == api.Hits(three, 29, 29) and found("five") == api.Hits([], 29, 29)
        assert found("three", most=1) == api.Hits(three[:1], 14, 29)
        assert found("three", most=1, start=14) == api.Hits(three[1:], 24, 29)

    def test_it_is_copied_once_for_each_end(self, archive: Archive, run: ArchivedRun, cache: LogCache) -> None:
        """Whatever another client deletes meanwhile, and also where the copy has more than may be kept."""
        host, asked = Host(archive), api.LogPart(KEY, 0, 99)
        host.log(0, b"one\n")
        host.event(RunState.INTERRUPTED, reason=Reason.PREEMPTED)
        assert run.log_part(asked)[2] == b"one\n"
        before = s3_of(archive).requests
        small = ArchivedRun(archive, RUN, LogCache(cache.folder.parent, 2))
        assert run.log_part(asked)[2] == small.log_part(asked)[2] == b"one\n"
        assert s3_of(archive).requests == before + 2, "only whether it has gone on is asked"
        cache.remove(KEY)
        assert small.log_part(asked)[2] == b"one\n"
        host.log(4, b"two\n")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert run.log_part(asked)[2] == b"one\ntwo\n"
        with cache.reading():
            LogCache(cache.folder.parent, 2).drop_oldest()
            assert len(list(cache.folder.iterdir())) == 2
        LogCache(cache.folder.parent, 2).drop_oldest()
        assert list(cache.folder.iterdir()) == []

    def test_one_for_which_the_disk_has_no_room(
        self, archive: Archive, run: ArchivedRun, cache: LogCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(copied_runs, "ROOM", 1 << 60)
        Host(archive).log(0, b"x")
        Host(archive).event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        with pytest.raises(HostError, match="can't be copied from s3://.*: No space left on device"):
            run.log_part(api.LogPart(KEY))
        assert list(cache.folder.iterdir()) == []

    def test_more_pieces_than_one_can_have(
        self, archive: Archive, run: ArchivedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "MOST_PIECES", 2)
        host = Host(archive)
        host.event(RunState.RUNNING)
        for number in range(3):
            host.log(number, b"x")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        monkeypatch.setattr(s3, "PAGE", 1)
        with pytest.raises(HostError, match=r"log/.* is damaged: it has more than 2 objects"):
            followed(run)

    def test_what_was_written_since(self, archive: Archive, run: ArchivedRun) -> None:
        host = Host(archive)
        host.event(RunState.RUNNING)
        host.log(0, b"old\n")
        moment = next_second()
        host.log(4, b"new\n")
        assert followed(run, since=moment, follow=False)[0][-1] == b"new\n"
        asked = api.Follow(KEY, follow=False, timed=True)
        parts = run.follow(asked, threading.Event(), lambda stream: None)
        times = [part.header["t"] for part in parts if not isinstance(part, api.Followed) and "log" in part.header]
        assert len(times) == 2 and times[0] < times[1] <= time.time() + 2

    def test_a_name_that_is_not_a_place_in_a_log_is_passed_over(self, archive: Archive, run: ArchivedRun) -> None:
        """A host whose role has an older form could plant some below the log of another one's run."""
        host = Host(archive)
        for name in ("first", "hosts/ME/x", "hosts/ME/0000000000000000"):
            host.post(f"log/{name}", b"planted")
        host.log(0, b"mine\n")
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert followed(run)[0][:-1] == [b"mine\n"]


OUTPUTS: Files = {"model/weights": b"w" * 6_000_000, "small": b"s", "tool*": b"#!/bin/sh\n", "empty": b""}


def test_its_trees(archive: Archive, tmp_path: Path) -> None:
    host = Host(archive)
    host.event(RunState.SAVING)
    with pytest.raises(NotFound, match="the outputs of the run are not in s3://"):
        runs.read_run_tree(archive, RUN, "outputs")
    host.tree(tmp_path / "outputs", OUTPUTS)
    host.tree(tmp_path / "source", {"train.py": b"x"}, "source")
    for name, files in (("outputs", OUTPUTS), ("source", {"train.py": b"x"})):
        prefix, tree = runs.read_run_tree(archive, RUN, name)
        reader = TreeReader(archive, prefix, tree.places)
        place(tree.manifest, api.Tree(), reader.place, "aws", tmp_path / f"{name} back", refuse, Progress())
        assert read_files(tmp_path / f"{name} back") == files
    found = reader.contents(tree.manifest.files, 100)
    assert list(found.values()) == [b"x"]
