"""What the command of a run may put where the agent reads: into io/, and into its work tree."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from remoterun.agent.running.engines.wrapper import prepare_io
from remoterun.agent.running.network import MOST_TABLE, Network
from remoterun.agent.shared.files import remove_tree
from remoterun.agent.shared.logs import LogReader, last_lines, offset_of_tail
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest, walk
from remoterun.agent.store.home import Home
from remoterun.agent.store.objects import Content, FilePart, Unreadable
from remoterun.agent.store.run_folder import RunFolder
from tests.workshop import ask, create_run, served, spec_of, write_files


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(Home.open(str(tmp_path / "home")), spec_of("true"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("7\n")
    return tmp_path / "secret"


def unix_socket(place: Path, secret: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # its own path may be too long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


PUT: dict[str, Callable[[Path, Path], None]] = {
    "a link to a file": lambda place, secret: place.symlink_to(secret),
    "a link to zeros": lambda place, _: place.symlink_to("/dev/zero"),
    "a pipe": lambda place, _: os.mkfifo(place),
    "a folder": lambda place, _: place.mkdir(),
    "a socket": unix_socket,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("put", PUT.values(), ids=PUT)
class TestIo:
    def test_an_exit_status_that_is_no_file_is_none(
        self, run: RunFolder, secret: Path, put: Callable[[Path, Path], None]
    ) -> None:
        put(Path(run.exit_file), secret)
        assert run.exit_code() is None

    def test_a_log_that_is_no_file_is_empty(
        self, run: RunFolder, secret: Path, put: Callable[[Path, Path], None]
    ) -> None:
        put(Path(run.log), secret)
        assert list(LogReader(run.written("log"), 0, False).pieces()) == []
        assert (
            last_lines(run.log, 9) == "" and offset_of_tail(run.written("log"), 9) == 0 and run.status().log_size == 0
        )
        with pytest.raises(Unreadable):
            Content.of_files([FilePart(run.log, 0, 1)])

    def test_another_attempt_writes_through_nothing_that_the_one_before_left(
        self, run: RunFolder, secret: Path, put: Callable[[Path, Path], None]
    ) -> None:
        for name in ("log", "err", "env", "exit.tmp", "stopping", "wrapper.sh", "command", "home"):
            put(Path(run.io, name), secret)
        prepare_io(run, spec_of("x" * 200_000, split=True), {"VALUE": "1"})
        assert secret.read_text() == "7\n"
        assert Path(run.log).read_bytes() == Path(run.err).read_bytes() == b""
        assert "VALUE" in Path(run.env_file).read_text()


@pytest.mark.timeout(20)
def test_an_exit_status_without_an_end(run: RunFolder) -> None:
    with open(run.exit_file, "wb") as file:
        file.truncate(1 << 40)
    assert run.exit_code() is None


@pytest.mark.parametrize(
    ("text", "code"),
    [("99999", 255), ("256", 255), ("-1", 255), ("7\n", 7), ("0\n", 0), ("137\n", 137), ("", None), ("x", None)],
)
def test_an_exit_status_that_no_command_has(run: RunFolder, text: str, code: int | None) -> None:
    """A command wrote it: `ps` showed nothing of its machine any more."""
    assert run.exit_code() is None
    Path(run.exit_file).write_text(text)
    assert run.exit_code() == code


class TestWorkTree:
    def test_a_walk_stays_in_the_folder_that_it_is_in(self, tmp_path: Path) -> None:
        """The command puts a link in the place of a folder whose files are being listed."""
        root = write_files(tmp_path / "root", {"d/a": b"", "d/x/mine": b""})
        outside = write_files(tmp_path / "outside", {"x/secret": b""})
        found = walk(str(root), (), [])
        assert next(found).entry == Entry("f", "d/a")
        (root / "d").rename(tmp_path / "away")
        (root / "d").symlink_to(outside)
        assert [item.entry.path for item in found] == ["d/x/mine"]

    def test_a_file_is_read_through_no_link(self, run: RunFolder, tmp_path: Path) -> None:
        """Not even one that has come since the file was listed, in whatever folder above it."""
        work = write_files(Path(run.work), {"a/b/mine": b"mine", "c/mine": b"mine"})
        outside = write_files(tmp_path / "outside", {"b/mine": b"secret", "mine": b"secret"})
        home = Home.open(str(tmp_path / "home"))

        def get(sub: str, name: bytes) -> bytes:
            resource = to_json(ResourceRef("run", "x", key=run.key, sub=sub))
            return b"".join(frame.body for frame in ask(link, "get", name + b"\0", resource=resource))

        with served(home) as link:
            assert get("", b"a/b/mine") == get("a", b"b/mine") == get("a/b/mine", b"mine") == b"mine"
            os.mkfifo(work / "pipe")
            (work / "a").rename(tmp_path / "away")
            (work / "a").symlink_to(outside)
            assert get("", b"a/b/mine") == get("", b"a/mine") == get("", b"pipe") == b""
            assert get("c", b"mine") == b"mine"

    def test_the_list_of_a_run_that_goes_on_leaves_out_what_lies_too_deep(self, run: RunFolder, tmp_path: Path) -> None:
        write_files(Path(run.work), {"a": b"a", "d/" * 205 + "x": b"x", "z": b"z"})
        with served(Home.open(str(tmp_path / "home"))) as link:
            listed = ask(link, "tree", resource=to_json(ResourceRef("run", "x", key=run.key))).read()
            assert [entry.path for entry in Manifest.decode(listed, hashed=False)] == ["a", "z"]

    def test_folders_one_in_the_other(self, tmp_path: Path) -> None:
        """However deep they lie, few of them are open at a time, and they can be deleted."""
        (tmp_path / "work").mkdir()
        here = os.open(tmp_path / "work", os.O_RDONLY)
        for _ in range(400):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        unreadable: list[str] = []
        assert list(walk(str(tmp_path), (), [], unreadable)) == [] and len(unreadable) == 1
        with pytest.raises(OSError, match="more than 200 folders"):
            list(walk(str(tmp_path), (), []))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 250, hard))
        try:
            remove_tree(str(tmp_path / "work"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert os.listdir(tmp_path) == []


def test_tables_of_connections_without_end(tmp_path: Path) -> None:
    """What listens stands first in them."""
    (tmp_path / "tcp").write_bytes(
        b"sl\n 0: 0100007F:1F90 0:0 0A 0:0 0:0 0 0 0 77 1\n" + b"x 0:0 0:0 01" + b" 1" * MOST_TABLE
    )
    (tmp_path / "tcp6").touch()
    os.truncate(tmp_path / "tcp6", 64 * MOST_TABLE)
    with contextlib.closing(
        Network(socket.socket, [os.open(tmp_path / name, os.O_RDONLY) for name in ("tcp", "tcp6")])
    ) as seen:
        tracemalloc.start()
        try:
            assert seen.listening() == {8080}
            assert tracemalloc.get_traced_memory()[1] < 8 * MOST_TABLE
        finally:
            tracemalloc.stop()
