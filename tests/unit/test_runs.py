"""The run folder: states, events, requests, locks; the table of moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.running.ending import finish
from remoterun.agent.shared.archive import Grant, ImageAccess
from remoterun.agent.shared.files import append_line, locked, read_json, remove_tree, write_whole
from remoterun.agent.shared.records import encode
from remoterun.agent.shared.spec import SpecError
from remoterun.agent.shared.states import ENDINGS, FINAL, MOVES, IllegalMove, Reason, RunState, check_move
from remoterun.agent.store.run_folder import RunFolder
from tests.workshop import spec_of, until


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "abcdefgh"
    (folder / "io").mkdir(parents=True)
    write_whole(str(folder / "spec.json"), spec_of(created=1.5).encode())
    return RunFolder(str(folder))


class TestMoves:
    @given(st.sampled_from(RunState), st.sampled_from(RunState))
    def test_forward_only_and_never_out_of_an_end(self, before: RunState, after: RunState) -> None:
        order = list(RunState)
        legal = before not in FINAL and order.index(after) > order.index(before)
        assert (after in MOVES[before]) == legal
        if not legal:
            with pytest.raises(IllegalMove):
                check_move(before, after)

    def test_each_reason_has_an_end_and_words(self) -> None:
        assert set(ENDINGS) == set(Reason)
        assert {ending.state for ending in ENDINGS.values()} == FINAL
        assert all(ending.words and not ending.words.endswith(".") for ending in ENDINGS.values())


class TestGrant:
    GRANT = Grant("https://mine.example.org/", {"policy": "eyJ9"}, "runs/abcdefgh/", 2e9)

    def test_it_is_kept_for_us_alone_until_the_run_has_ended(self, run: RunFolder) -> None:
        assert run.grant() is None
        run.renew(self.GRANT)
        run.renew(self.GRANT._replace(expires=3e9))
        assert run.grant() == self.GRANT._replace(expires=3e9)
        assert os.stat(run.grant_file).st_mode & 0o777 == 0o600
        run.move(RunState.RUNNING)
        finish(run, Reason.KILLED)
        run.renew(self.GRANT)
        assert run.grant() is None and not os.path.exists(run.grant_file)

    def test_of_images_those_are_kept_that_were_built(self, run: RunFolder) -> None:
        run.save_images(["remoterun-env:0123456789abcdef"])
        assert run.images() == () and not os.path.exists(run.images_file)
        images = tuple(
            ImageAccess(f"remoterun-{name}:0123456789abcdef", [], self.GRANT._replace(prefix="envs/00/"))
            for name in ("base", "env")
        )
        write_whole(run.images_file, encode(images))
        run.save_images(["remoterun-env:0123456789abcdef"])
        assert run.images() == images[1:]
        assert os.stat(run.images_file).st_mode & 0o777 == 0o600
        run.move(RunState.RUNNING)
        finish(run, Reason.KILLED)
        assert run.images() == () and not os.path.exists(run.images_file)

    def test_one_that_can_not_be_is_refused(self, run: RunFolder) -> None:
        with pytest.raises(SpecError):
            run.renew(self.GRANT._replace(url="file:///etc/passwd"))
        assert run.grant() is None


class TestEvents:
    def test_a_life(self, run: RunFolder) -> None:
        assert run.state() == (RunState.QUEUED, {}) and run.events() == []
        run.move(RunState.QUEUED)
        run.note("waiting", n=1)
        run.move(RunState.RUNNING, engine="process")
        with pytest.raises(IllegalMove):
            run.move(RunState.BUILDING)
        with pytest.raises(IllegalMove):
            run.move(RunState.RUNNING)
        run.move(RunState.SAVING, reason="exited", code=0)
        run.move(RunState.COMPLETE, reason="exited", code=0, outputs={"files": 1, "size": 2})
        status = run.status()
        assert (status.state, status.reason, status.code) == (RunState.COMPLETE, Reason.EXITED, 0)
        assert (status.engine, status.note, status.outputs) == ("process", None, (1, 2))
        assert status.started and status.ended and status.created == 1.5
        with pytest.raises(IllegalMove):
            run.move(RunState.KILLED)
        assert [event.get("state", "note") for event in run.events(2)] == ["running", "saving", "complete"]

    @given(st.integers(0, 200))
    def test_a_line_that_a_crash_cut(self, keep: int) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(folder)
            write_whole(run.spec_file, spec_of().encode())
            run.move(RunState.QUEUED)
            run.move(RunState.BUILDING)
            whole = Path(run.events_file).read_bytes()
            keep = min(keep, len(whole))
            Path(run.events_file).write_bytes(whole[:keep])
            state, _ = run.state()
            assert state in (RunState.QUEUED, RunState.BUILDING)
            if state is RunState.QUEUED:
                run.move(RunState.BUILDING) if run.events() else run.move(RunState.QUEUED)
            run.move(RunState.MOUNTING)
            assert run.state()[0] is RunState.MOUNTING
            assert run.status().state is RunState.MOUNTING

    def test_many_writers_of_whole_lines(self, tmp_path: Path) -> None:
        body = (
            "from remoterun.agent.shared.files import append_line\n"
            "for n in range(100): append_line(%r, {'n': n, 'pad': 'x' * 500})"
        )
        path = str(tmp_path / "lines")
        started = [subprocess.Popen([sys.executable, "-c", body % path]) for _ in range(3)]
        assert [process.wait(60) for process in started] == [0, 0, 0]
        lines = [json.loads(line) for line in Path(path).read_bytes().split(b"\n") if line]
        assert sorted(line["n"] for line in lines) == sorted([*range(100)] * 3)


class TestRequests:
    def test_stop_and_kill(self, run: RunFolder) -> None:
        assert run.stop_asked() is None and not run.kill_asked() and not run.status().stopping
        run.ask_stop(2.5)
        run.ask_stop(99)
        assert run.stop_asked() == 2.5 and run.status().stopping
        run.ask_kill()
        run.ask_kill()
        assert run.kill_asked()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"grace": null}', b'{"grace": "x"}'])
    def test_a_damaged_request_still_stops(self, run: RunFolder, content: bytes) -> None:
        Path(run.stop_file).write_bytes(content)
        assert run.stop_asked() == 10.0


class TestSupervision:
    @pytest.mark.parametrize("put_back", [False, True])
    def test_a_run_that_is_removed_meanwhile_is_not_ours(self, run: RunFolder, put_back: bool) -> None:
        """Who waits for its lock would be a second supervisor of one that is put back under the same key."""
        claim = run.supervising()
        with locked(run.lock_file) as held:
            waits = threading.Thread(target=lambda: answers.append(claim.__enter__()))
            answers: list[bool] = []
            waits.start()
            number = os.fstat(held).st_ino
            until(lambda: len([one for one in Path("/proc/self/fd").iterdir() if inode(one) == number]) == 2)
            os.unlink(run.lock_file)
            if put_back:
                Path(run.lock_file).touch()
        waits.join(60)
        assert answers == [False]
        claim.__exit__(None, None, None)


def inode(path: Path) -> int:
    """0 for what is closed meanwhile."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


class TestFiles:
    def test_appears_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        body = (
            "import sys; from remoterun.agent.shared.files import write_whole; print(flush=True)\n"
            "while True:\n  for c in b'ab': write_whole(sys.argv[1], bytes([c]) * 300000)"
        )
        write_whole(str(path), b"a" * 300_000)
        process = subprocess.Popen([sys.executable, "-c", body, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(50):
            data = path.read_bytes()
            assert len(data) == 300_000 and len(set(data)) == 1
        process.kill()
        process.wait(60)
        process.stdout.close()
        assert len(set(path.read_bytes())) == 1

    def test_remove_tree(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        folder = tmp_path / "folder"
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/b/f").touch()
        (folder / "link").symlink_to(outside)
        (folder / "a/b").chmod(0o555)
        (folder / "a").chmod(0)
        remove_tree(str(folder))
        remove_tree(str(folder))
        assert not folder.exists() and (outside / "kept").exists()
        link = tmp_path / "link"
        link.symlink_to(outside)
        remove_tree(str(link))
        assert not link.is_symlink() and (outside / "kept").exists()

    def test_json_lines(self, tmp_path: Path) -> None:
        path = str(tmp_path / "lines")
        append_line(path, {"a": 1})
        with open(path, "ab") as file:
            file.write(b'{"cut')
        append_line(path, {"b": "é"})
        assert Path(path).read_bytes() == b'{"a":1}\n{"cut\n{"b":"\\u00e9"}\n'
        write_whole(path, b"[1]")
        assert read_json(path) == [1]
