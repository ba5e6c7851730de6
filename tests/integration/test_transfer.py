"""Trees on their way between this machine and homes; hosts that lie."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.pieces import LARGE, PIECE
from remoterun.agent.shared.protocol import WINDOW, Stream
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.agent.store.home import Home
from remoterun.errors import (
    AlreadyExists,
    HostError,
    LinkLost,
    RemoterunError,
    SomeDamaged,
    TransferError,
    UnsafePath,
    UsageError,
)
from remoterun.host_store import HostStore
from remoterun.hosts.local import LocalHost
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.transfer import (
    Fetched,
    Progress,
    Sent,
    contents,
    fetch_manifest,
    lanes,
    missing_blobs,
    read_entries,
    read_tree,
    refuse,
    send_blobs,
    send_tree,
)
from remoterun.transfer.destination import in_git_folder
from tests.homes import damage
from tests.recorder import Recorded
from tests.workshop import Files, fetch, hostile_agent, read_files, sha256, tree_of, until, write_files

FILES: Files = {
    "a": b"A", "b/c": os.urandom(400_000), "b/run*": b"#!", "link": "-> b/c", "empty": None, "zero": b"",
    os.fsdecode(b"not\xffutf8"): b"x", "new\nline": b"y",
}  # fmt: skip
UPLOAD = ResourceRef("upload", "doom")


@pytest.fixture
def session(tmp_path: Path) -> Any:
    session = Session(MachineType("here"), LocalHost(tmp_path / "home"))
    yield session
    session.close()


def upload(session: Session, folder: Path, files: Files, git: bool = False) -> Manifest:
    manifest, _ = send(session, write_files(folder, files), git=git)
    session.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
    return manifest


def send(session: Session, path: Path, progress: Progress | None = None, git: bool = False) -> tuple[Manifest, Sent]:
    return send_tree(session, read_tree(path, git=git), {}, progress or Progress(), "doom")


def copy(session: Session, target: Path, progress: Progress | None = None, **how: Any) -> Fetched:
    """A copy of the upload, or of what `sub` names in it, that replaces nothing."""
    resource = UPLOAD._replace(sub=how.pop("sub", ""))
    return fetch(session, resource, target, how.pop("overwrite", refuse), progress or Progress(), **how)


@pytest.fixture
def other(tmp_path: Path) -> Any:
    session = Session(MachineType("there"), LocalHost(tmp_path / "other"))
    yield session
    session.close()


class TestThereAndBack:
    def test_a_folder(self, session: Session, tmp_path: Path) -> None:
        manifest = upload(session, tmp_path / "source", FILES)
        assert manifest.encode() == tree_of(FILES)[0].encode()
        progress = Progress()
        result = copy(session, tmp_path / "target", progress)
        assert read_files(tmp_path / "target") == FILES
        assert (result.files, result.size, result.warnings) == (6, manifest.size, [])
        assert (progress.bytes_done, progress.files_done) == (progress.bytes_total, progress.files_total)
        again = copy(session, tmp_path / "target")
        assert (again.files, again.unchanged) == (0, 7)

    def test_one_file(self, session: Session, tmp_path: Path) -> None:
        upload(session, tmp_path / "source", FILES)
        fetch(session, UPLOAD._replace(sub="b/run"), tmp_path / "target", refuse, Progress(), into=True)
        fetch(session, UPLOAD._replace(sub="b/run"), tmp_path / "target" / "named", refuse, Progress())
        assert read_files(tmp_path / "target") == {"run*": b"#!", "named*": b"#!"}

    def test_what_is_there_is_not_sent(self, session: Session, tmp_path: Path) -> None:
        upload(session, tmp_path / "source", FILES)
        _, sent = send(session, write_files(tmp_path / "other", {"same": FILES["b/c"], "new": b"new"}))
        assert (sent.blobs, sent.size, sent.already) == (1, 3, 400_000)

    def test_hundreds_of_thousands_of_names(self, session: Session, tmp_path: Path) -> None:
        """More bytes of names than one window, with answers that fill the other: neither side may wait for ever."""
        home = Home.open(str(tmp_path / "home"))
        blob = home.blobs.put(bytes(3600))  # as small as that is fetched each time, by name where there is no blob
        deep = "/".join(["d" * 200] * 18)
        manifest = Manifest(Entry("f", f"{deep}/{number}/{'x' * 200}", 3600, blob) for number in range(2400))
        assert sum(len(entry.path) for entry in manifest) > WINDOW < manifest.size
        home.uploads.commit("doom", manifest)
        os.unlink(home.blobs.path(blob))
        result = copy(session, tmp_path / "t")
        assert result.files == 2400

    def test_passed_on(self, session: Session, other: Session, tmp_path: Path) -> None:
        manifest = upload(session, tmp_path / "source", FILES)
        HostStore(session).tree(UPLOAD).pass_on(other, Progress())
        other.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
        copy(other, tmp_path / "target")
        assert read_files(tmp_path / "target") == FILES

    def test_passed_on_of_a_damaged_file(self, session: Session, other: Session, tmp_path: Path) -> None:
        manifest = upload(session, tmp_path / "source", {"a": b"content"})
        damage(str(tmp_path / "home/uploads/doom/1/a"))
        with pytest.raises(TransferError):
            HostStore(session).tree(UPLOAD).pass_on(other, Progress())
        assert missing_blobs(other, [next(iter(manifest)).digest])
        with pytest.raises(TransferError):
            copy(session, tmp_path / "target")
        assert read_files(tmp_path / "target") == {}


class TestRoom:
    """What does not fit on the disk of the host is refused before anything is sent."""

    @pytest.fixture
    def small(self, small_disk: Callable[[str], Path]) -> Any:
        session = Session(MachineType("there"), LocalHost(small_disk("40m") / "home"))
        yield session
        session.close()

    @pytest.mark.parametrize("size", [6 << 20, 1 << 20], ids=["large files", "small files"])
    def test_more_than_fits(self, small: Session, tmp_path: Path, size: int) -> None:
        folder = write_files(tmp_path / "s", {str(n): os.urandom(size) for n in range((60 << 20) // size)})
        with pytest.raises(HostError, match=r"too full: 63 MB are to be sent, and 4\d MB fit there") as caught:
            send(small, folder)
        assert "remoterun machines df there" in str(caught.value.hint) and "remoterun machines gc there" in str(
            caught.value.hint
        )
        home = Path(small.hello.home)
        assert not any(path.is_file() for name in ("blobs", "partial") for path in (home / name).rglob("*"))

    def test_what_can_not_fit_is_not_hashed(self, small: Session, tmp_path: Path) -> None:
        """That would take hours here."""
        folder = write_files(tmp_path / "s", {"a": b"", "b": b"b"})
        os.truncate(folder / "a", 8 << 40)
        with pytest.raises(HostError, match=r"too full: 8\.8 TB are to be sent, and 4\d MB fit there"):
            send(small, folder)

    def test_what_is_there_is_not_counted(self, small: Session, tmp_path: Path) -> None:
        files: Files = {str(n): os.urandom(6 << 20) for n in range(5)}
        upload(small, tmp_path / "s", files)
        files = {**files, "again": files["1"], "new": b"new"}
        manifest, sent = send(small, write_files(tmp_path / "s", files))
        assert manifest.encode() == tree_of(files)[0].encode() and sent.size == 3

    def test_what_a_cut_try_left_is_not_counted(self, small: Session, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "s", {"a": os.urandom(30 << 20)})
        with pytest.raises(Cut):
            send(small, folder, cut_at(26 << 20))
        again = Session(MachineType("there"), LocalHost(Path(small.hello.home)))
        try:
            _, sent = send(again, folder)
            assert sent.already > 10 << 20
        finally:
            again.close()

    def test_passed_on(self, session: Session, small: Session, tmp_path: Path) -> None:
        manifest = upload(session, tmp_path / "s", {str(n): os.urandom(5 << 20) for n in range(10)})
        with pytest.raises(HostError, match="the disk of there is too full: 52 MB are to be sent"):
            HostStore(session).tree(UPLOAD).pass_on(small, Progress())
        assert len(missing_blobs(small, [entry.digest for entry in manifest.files])) == 10

    def test_a_copy_that_does_not_fit_here(
        self, session: Session, small_disk: Callable[[str], Path], tmp_path: Path
    ) -> None:
        upload(session, tmp_path / "s", {str(n): os.urandom(6 << 20) for n in range(10)})
        target = small_disk("40m") / "target"
        with pytest.raises(TransferError, match=r"is too full: 63 MB are to come, and 4\d MB fit there") as caught:
            copy(session, target)
        assert "free some space" in str(caught.value.hint) and not target.exists()

    def test_what_a_cut_copy_left_is_not_counted(
        self, session: Session, small_disk: Callable[[str], Path], tmp_path: Path
    ) -> None:
        files: Files = {"a": os.urandom(30 << 20)}
        upload(session, tmp_path / "s", files)
        target = small_disk("40m") / "target"
        with pytest.raises(Cut):
            copy(session, target, cut_at(26 << 20))
        copy(session, target)
        assert read_files(target) == files


class Cut(Exception):
    """Raised in the midst of a transfer, as ^C is."""


def cut_at(size: int) -> Progress:
    def report(progress: Progress) -> None:
        if progress.bytes_done >= size:
            raise Cut

    return Progress(report)


OLD = os.urandom(12 << 20)
BIG = b"".join(bytes([number]) * PIECE for number in range(6)) + b"end"
CHANGES = {
    "the same": OLD,
    "changed in the middle": OLD[: 5 << 20] + os.urandom(100_000) + OLD[(5 << 20) + 100_000 :],
    "more in between": OLD[:70_000] + os.urandom(300_000) + OLD[70_000:],
    "less": OLD[: 2 << 20] + OLD[3 << 20 :],
    "appended": OLD + os.urandom(100_000),
    "cut off": OLD[: 5 << 20],
    "all new": os.urandom(10 << 20),
}


def changed_pieces(new: bytes) -> int:
    """Bytes of the pieces that `OLD` does not have at the same place."""
    starts = range(0, len(new), PIECE)
    return sum(len(new[at : at + PIECE]) for at in starts if new[at : at + PIECE] != OLD[at : at + PIECE])


@pytest.fixture(params=["near", "far"])
def any_link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A session as over a near link, and as over a far one, where several connections share the work."""
    monkeypatch.setattr(lanes, "WORTH", 4 << 20)
    if request.param == "far":
        monkeypatch.setattr(lanes, "FAR", -1.0)

    def host() -> LocalHost:
        return LocalHost(tmp_path / "home")

    session = Session(MachineType("here"), host(), host)
    yield session
    session.close()


def test_settings_of_a_repository_are_warned_of(session: Session, tmp_path: Path) -> None:
    """`remoterun run` would follow them, in the folder that they land in."""
    upload(session, tmp_path / "source", {"sub/remoterun.toml": b"machine = 'local'", "a": b"A"})
    result = copy(session, tmp_path / "mine")
    assert result.warnings == [
        "`sub/remoterun.toml` has settings for `remoterun run`, which asks before it follows them"
    ]


class TestGitFolders:
    """Git runs the hooks and reads the settings that it finds in `.git`: none of them may come from a host."""

    HOOK: Files = {
        ".git/hooks/post-checkout*": b"#!/bin/sh\ntouch /tmp/planted",
        "a": b"A",
        "sub/.GIT/config": b"[core]",
    }

    def test_they_are_left_out_by_name(self, session: Session, tmp_path: Path) -> None:
        upload(session, tmp_path / "source", self.HOOK, git=True)
        target = write_files(tmp_path / "mine", {".git/config": b"mine"})
        progress = Progress()
        result = copy(session, target, progress)
        assert read_files(target) == {".git/config": b"mine", "a": b"A"}
        assert len(result.warnings) == 1
        assert "`.git/hooks/post-checkout` and 1 more were left out" in result.warnings[0]
        assert (progress.bytes_done, progress.files_done) == (progress.bytes_total, progress.files_total)

    def test_the_home_there_keeps_them(self, session: Session, tmp_path: Path) -> None:
        manifest = upload(session, tmp_path / "source", self.HOOK, git=True)
        assert manifest.encode() == tree_of(self.HOOK)[0].encode()

    def test_a_file_of_that_name(self, session: Session, tmp_path: Path) -> None:
        """`.git` may also be a file that says where the folder is; under another name it does no harm."""
        upload(session, tmp_path / "source", {"sub/.git": b"gitdir: ../evil"})
        one = UPLOAD._replace(sub="sub/.git")
        result = fetch(session, one, tmp_path / "t", refuse, Progress(), into=True)
        assert read_files(tmp_path / "t") == {} and "`.git` was left out" in result.warnings[0]
        fetch(session, one, tmp_path / "t" / "harmless", refuse, Progress())
        assert read_files(tmp_path / "t") == {"harmless": b"gitdir: ../evil"}

    def test_hooks_that_a_repository_has_elsewhere(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And the settings of git's user, where a copy goes into the home."""
        monkeypatch.setenv("HOME", str(tmp_path / "mine"))
        files: Files = {".githooks/post-checkout*": b"#!/bin/sh", ".config/git/config": b"[core]", "hook": b"h"}
        upload(session, tmp_path / "source", files)
        (target := tmp_path / "mine").mkdir()
        subprocess.run(["git", "init", "-q", target], check=True)
        subprocess.run(["git", "config", "core.hooksPath", ".githooks"], cwd=target, check=True)
        result = copy(session, target)
        assert {path: data for path, data in read_files(target).items() if not path.startswith(".git/")} == {
            "hook": b"h"
        }
        assert "and 1 more were left out" in result.warnings[0]

    BARE: Files = {
        "b/HEAD": b"ref: refs/heads/main\n",
        "b/config": b"[core]\n\trepositoryformatversion = 0\n\tworktree = .\n\tfsmonitor = touch PWNED; false\n",
        "b/objects/x": b"x",
        "b/refs/x": b"x",
        "b/model": b"m",
        "head/config": b"of a model",
        "HEAD": b"of nothing",
    }

    @staticmethod
    def git_status(folder: Path) -> bool:
        """Whether git, asked in a folder, takes it for a repository, and runs what its settings name."""
        settings = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
        asked = subprocess.run(["git", "status"], cwd=folder, env=settings, capture_output=True)
        return asked.returncode == 0 or (folder / "PWNED").exists()

    def test_a_bare_repository_is_none_where_it_lands(self, session: Session, tmp_path: Path) -> None:
        upload(session, tmp_path / "source", self.BARE)
        assert self.git_status(tmp_path / "source" / "b"), "it would be one"
        result = copy(session, tmp_path / "mine")
        assert read_files(tmp_path / "mine") == {"b/model": b"m", "head/config": b"of a model", "HEAD": b"of nothing"}
        assert "`b/HEAD` and 3 more were left out" in result.warnings[0]
        assert not self.git_status(tmp_path / "mine" / "b")

    @pytest.mark.parametrize("last", ["HEAD", "objects/x", "refs/x", "commondir"])
    def test_a_bare_repository_in_two_copies(self, session: Session, tmp_path: Path, last: str) -> None:
        """What is in the folder already counts, also where a disk takes no notice of case."""
        here = {name.removeprefix("b/").lower(): data for name, data in self.BARE.items() if name.startswith("b/")}
        if last == "commondir":
            del here["objects/x"], here["refs/x"]
        del here["config"]
        here.pop(last.lower(), None)
        write_files(tmp_path / "mine", here)
        upload(session, tmp_path / "source", {last: b"x", "config": self.BARE["b/config"], "more": b"m"})
        copy(session, tmp_path / "mine")
        assert read_files(tmp_path / "mine") == {**here, "more": b"m"}

    def test_names_that_a_disk_takes_for_it(self, recorded: Recorded) -> None:
        """And others. Whatever stands before and after such a part of a path."""

        def is_one(part: str) -> bool:
            (answer,) = {in_git_folder(path) for path in (part, f"{part}/hooks/x", f"a/b/{part}", f"a/{part}/c")}
            return answer

        recorded.cases(is_one)


STARTS = range(0, len(OLD), PIECE)


def stands(part: Path, at: int) -> bool:
    """Whether a piece of `OLD` is in its place."""
    return part.read_bytes()[at : at + PIECE] == OLD[at : at + PIECE]


class TestLargeFiles:
    @pytest.mark.parametrize("change", CHANGES)
    def test_one_that_is_like_another_there(self, any_link: Session, tmp_path: Path, change: str) -> None:
        upload(any_link, tmp_path / "s", {"big": OLD, "small": b"x"})
        write_files(tmp_path / "s", {"big": CHANGES[change]})
        manifest, sent = send(any_link, tmp_path / "s")
        assert next(iter(manifest)).digest == sha256(CHANGES[change])
        assert sent.size == changed_pieces(CHANGES[change])
        assert sent.size + sent.already == len(CHANGES[change]) + 1
        any_link.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
        progress = Progress()
        target = write_files(tmp_path / "t", {"big": OLD})
        fetch(any_link, UPLOAD, target, lambda path: True, progress)
        assert read_files(target) == {"big": CHANGES[change], "small": b"x"}
        if change != "the same":
            assert progress.bytes_done - progress.bytes_present == changed_pieces(CHANGES[change]) + 1

    def test_the_same_content_from_another_place(self, any_link: Session, tmp_path: Path) -> None:
        upload(any_link, tmp_path / "s", {"big": OLD})
        _, sent = send_tree(any_link, read_tree(write_files(tmp_path / "t", {"other": OLD})), {}, Progress(), "new")
        assert (sent.size, sent.already) == (0, len(OLD))
        other = OLD[:-1] + bytes([OLD[-1] ^ 1])  # of the same size
        manifest, sent = send_tree(any_link, read_tree(write_files(tmp_path / "t", {"other": other})), {}, Progress())
        assert (sent.size, next(iter(manifest)).digest) == (len(OLD), sha256(other))

    def test_the_same_content_twice_is_sent_once(self, any_link: Session, tmp_path: Path) -> None:
        small, other = os.urandom(10_000), os.urandom(200_000)
        files: Files = {"a": small, "b": OLD, "c": small, "d/a": OLD, "d/b": other, "d/c": small, "e": other}
        manifest, sent = send(any_link, write_files(tmp_path / "s", files))
        once = len(small) + len(other) + len(OLD)
        every = sum(len(data or b"") for data in files.values())
        assert (sent.size, sent.already) == (once, every - once)
        assert manifest.encode() == tree_of(files)[0].encode()
        any_link.ask(api.commit_upload, api.CommitUpload("doom"), manifest.encode())
        progress = Progress()
        result = copy(any_link, tmp_path / "t", progress)
        assert read_files(tmp_path / "t") == files
        assert (result.files, result.size, result.there) == (len(files), every, every - once)
        assert (progress.bytes_done, progress.files_done) == (progress.bytes_total, progress.files_total)

    def test_the_first_of_the_same_is_changed_meanwhile(self, any_link: Session, tmp_path: Path) -> None:
        """Nothing is copied here from a file that is another by now; it comes from the host."""
        files: Files = {"a": OLD, "b": b"x" * 10_000, "c": OLD, "d": b"x" * 10_000, "e": b"x" * 10_000}
        upload(any_link, tmp_path / "s", files)

        class Meddling(Progress):
            def add(self, size: int, files: int = 0, there: int = 0) -> None:
                super().add(size, files, there)
                if self.files_done == 2 and not there:
                    (tmp_path / "t/a").write_bytes(b"y" * len(OLD))
                    (tmp_path / "t/b").unlink()
                    (tmp_path / "t/b").symlink_to("/etc/passwd")

        copy(any_link, tmp_path / "t", Meddling())
        found = read_files(tmp_path / "t")
        assert {name: found[name] for name in "cde"} == {name: files[name] for name in "cde"}

    def test_a_cut_copy_goes_on(self, any_link: Session, tmp_path: Path) -> None:
        upload(any_link, tmp_path / "s", {"a": b"x", "big": OLD})
        target = tmp_path / "t"
        there = 0
        for size in (9 << 20, 11 << 20):
            with pytest.raises(Cut):
                copy(any_link, target, cut_at(size))
            (part,) = target.glob(".*.remoterun")
            before, there = there, sum(PIECE for at in STARTS if stands(part, at))
            assert there >= before
            any_link.close()
            any_link = any_link.another()
        assert there >= 1 << 20
        progress = Progress()
        copy(any_link, target, progress)
        assert read_files(target) == {"a": b"x", "big": OLD} and progress.bytes_present == there
        any_link.close()

    def test_what_a_cut_copy_left_is_verified(self, any_link: Session, tmp_path: Path) -> None:
        upload(any_link, tmp_path / "s", {"big": OLD})
        target = tmp_path / "t"
        with pytest.raises(Cut):
            copy(any_link, target, cut_at(10 << 20))
        (part,) = target.glob(".*.remoterun")
        with part.open("r+b") as file:
            file.write(b"damaged")
        any_link.close()
        any_link = any_link.another()
        copy(any_link, target)
        assert read_files(target) == {"big": OLD}, "what was wrong was here, and came anew"
        any_link.close()

    @pytest.mark.parametrize("problem", ["damaged", "shorter", "empty", "missing", "missing everywhere"])
    def test_damaged_files_are_left_out(self, any_link: Session, tmp_path: Path, problem: str) -> None:
        """They keep nobody from the others, and from nothing else."""
        large, small = OLD[: 3 << 20], b"x" * 5000
        files: Files = {"a": small, "b": large, "c": b"z" * 300_000, "d/a": small, "e": b"whole", "f": large + b"!"}
        assert 2 * len(large) > lanes.WORTH, "or there is one connection only"
        upload(any_link, tmp_path / "s", files)
        home = Home.open(str(tmp_path / "home"))
        for name in "abc":
            content = files[name]
            assert content is not None
            blob = Path(home.blobs.path(sha256(content)))
            copies = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.samefile(blob)]
            assert len(copies) > 1
            if problem in ("damaged", "shorter", "empty"):
                blob.chmod(0o600)
                blob.write_bytes({"damaged": content[:-1] + b"?", "shorter": content[:-1], "empty": b""}[problem])
                continue
            for path in copies if problem == "missing everywhere" else [blob]:
                path.parent.chmod(0o755)
                path.unlink()
        target = tmp_path / "t"
        if problem == "missing":
            copy(any_link, target)
            assert read_files(target) == files, "the upload's own files are as good"
            return
        with pytest.raises(SomeDamaged, match=r"`a` and 3 more are damaged on here, and left out") as caught:
            copy(any_link, target)
        assert caught.value.fetched.files == 2
        assert caught.value.evidence == "b\nc\nd/a" and "remoterun machines check here" in str(caught.value.hint)
        assert read_files(target) == {"e": b"whole", "f": large + b"!"}

    def test_many_files_over_several_connections(self, any_link: Session, tmp_path: Path) -> None:
        files: Files = {f"{n % 7}/{n}": os.urandom(8000 + n) for n in range(1100)}
        manifest = upload(any_link, tmp_path / "s", files)
        assert manifest.encode() == tree_of(files)[0].encode()
        copy(any_link, tmp_path / "t")
        assert read_files(tmp_path / "t") == files

    @pytest.mark.parametrize("any_link", ["far"], indirect=True)
    @pytest.mark.parametrize("large", [False, True])
    @pytest.mark.parametrize("both", [False, True])
    def test_a_connection_of_several_that_breaks(
        self, any_link: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, both: bool
    ) -> None:
        """The error says that the link was lost, whichever lane notices it; the next try goes on."""
        opened: list[Session] = []

        class Breaking(Progress):
            def add(self, size: int, files: int = 0, there: int = 0) -> None:
                super().add(size, files, there)
                while opened and self.bytes_done > 4 << 20:
                    opened.pop()._link.close()
                    if both:
                        any_link._link.close()

        files: Files = {"big": os.urandom(30 << 20)} if large else {str(n): os.urandom(25_000) for n in range(1200)}
        folder = write_files(tmp_path / "s", files)
        cache = tmp_path / "digests"
        until(lambda: hashed(any_link, folder, cache))  # so that the thread that sends is the one that shares it out
        opened = connections(monkeypatch)
        with pytest.raises(LinkLost):
            for _ in range(20):  # until another one was open before all had been sent
                any_link.ask(api.remove_upload, api.RemoveUpload("doom"))
                for path in Path(Home.open(str(tmp_path / "home")).blobs.folder).glob("*/*"):
                    path.unlink()
                tree = read_tree(folder, cache)
                assert tree.hashed
                send_tree(any_link, tree, {}, Breaking())
        again = any_link.another()
        _, sent = send_tree(again, read_tree(folder, cache), {}, Progress())
        assert sent.already > 0
        again.close()


class TestReading:
    def test_what_is_neither_file_nor_link_is_left_out_with_a_warning(self, session: Session, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "s", {"a": b"A", "sub/b": b"B"})
        os.mkfifo(folder / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "sub" / "zz"))
            tree = read_tree(folder)
            manifest, _ = send_tree(session, tree, {}, Progress())
        assert [entry.path for entry in manifest] == ["a", "sub/b"]
        assert len(tree.warnings) == 2 and all("is a socket, a pipe or a device" in text for text in tree.warnings)
        assert "`pipe`" in tree.warnings[0] and "`sub/zz`" in tree.warnings[1]

    @pytest.mark.parametrize("size", [3, LARGE + 1], ids=["small", "large"])
    def test_one_that_vanishes_is_left_out_with_a_warning(self, session: Session, tmp_path: Path, size: int) -> None:
        folder = write_files(tmp_path / "s", {"a": b"A", "b": os.urandom(size), "c": b"C"})
        tree = read_tree(folder)
        (folder / "b").unlink()
        progress = Progress()
        manifest, _ = send_tree(session, tree, {}, progress)
        assert [entry.path for entry in manifest] == ["a", "c"]
        assert tree.warnings == ["`b` vanished before it was read; it was left out"]
        assert (progress.bytes_done, progress.files_done) == (progress.bytes_total, progress.files_total)

    def test_a_run_does_not_start_without_one_of_its_files(self, session: Session, tmp_path: Path) -> None:
        folder = write_files(tmp_path / "s", {"a": b"A"})
        tree = read_entries([(Entry("f", "a", 1), str(folder / "a"))])
        (folder / "a").unlink()
        with pytest.raises(TransferError, match="`.*a` vanished before it was read") as caught:
            send_tree(session, tree, {}, Progress())
        assert caught.value.hint == "try again"

    def test_what_cannot_be_an_upload(self, tmp_path: Path) -> None:
        (tmp_path / "pipe").mkdir()
        os.mkfifo(tmp_path / "pipe/p")
        (tmp_path / "empty").mkdir()
        for path in ("absent", "pipe", "empty", "pipe/p"):
            with pytest.raises(UsageError):
                read_tree(tmp_path / path)

    def test_a_file_that_changed_after_it_was_hashed(self, session: Session, tmp_path: Path) -> None:
        """Its digest is known from before; it is another file by the time it is sent."""
        cache = tmp_path / "digests"
        for old in (b"old", os.urandom(LARGE + 1)):
            folder = write_files(tmp_path / f"s{len(old)}", {"a": old})
            os.utime(folder / "a", ns=(10**18 + 7, 10**18 + 7))
            until(lambda folder=folder: hashed(session, folder, cache))
            session.ask(api.remove_upload, api.RemoveUpload("doom"))
            os.unlink(Home.open(str(tmp_path / "home")).blobs.path(sha256(old)))
            for change in (old + b"longer than it was", b"x", old[:-1] + b"!"):
                tree = read_tree(folder, cache)
                assert tree.hashed
                status = (folder / "a").stat()
                (folder / "a").write_bytes(change)
                with pytest.raises(TransferError, match="changed after it was read"):
                    send_tree(session, tree, {}, Progress())
                (folder / "a").write_bytes(old)
                os.utime(folder / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
                until(lambda folder=folder: hashed(session, folder, cache))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(Home.open(str(tmp_path / "home")).blobs.path(sha256(old)))
        assert session.ask(api.uploads, api.Nothing()).uploads == []

    def test_a_file_that_changes_while_it_is_read(self, session: Session, tmp_path: Path) -> None:
        """It is refused by its name; the next try sends what it is by then."""
        folder = write_files(tmp_path / "s", {"a": bytes(40 << 20)})
        writes = itertools.count()

        def write(progress: Progress) -> None:
            if progress.bytes_done:
                number = next(writes)
                with (folder / "a").open("r+b") as file:
                    file.write(b"%d" % (number % 10))
                os.utime(folder / "a", ns=(10**18, 10**18 + number))  # two writes may have the same time else

        with pytest.raises(TransferError, match=r"s/a` changed after it was read"):
            send(session, folder, Progress(write))
        manifest, _ = send(session, folder)
        assert next(iter(manifest)).digest == sha256((folder / "a").read_bytes())

    def test_links_out_are_told(self, tmp_path: Path) -> None:
        tree = read_tree(write_files(tmp_path / "s", {"a": b"x", "out": "-> ../x", "in": "-> a"}))
        assert len(tree.warnings) == 1 and "out" in tree.warnings[0]


class TestConflicts:
    @pytest.fixture
    def ready(self, session: Session, tmp_path: Path) -> Path:
        upload(session, tmp_path / "source", {"a": b"new", "b/c": b"new", "l": "-> a", "same": b"same"})
        return write_files(tmp_path / "target", {"a": b"mine", "same": b"same"})

    def test_refused_before_anything_is_written(self, session: Session, ready: Path) -> None:
        with pytest.raises(AlreadyExists):
            copy(session, ready)
        assert read_files(ready) == {"a": b"mine", "same": b"same"}

    @pytest.mark.parametrize(("answer", "kept"), [(True, b"new"), (False, b"mine")])
    def test_asked_once_for_what_differs(self, session: Session, ready: Path, answer: bool, kept: bytes) -> None:
        asked: list[str] = []
        result = fetch(session, UPLOAD, ready, lambda path: asked.append(path) or answer, Progress())
        assert asked == [str(ready / "a")]
        assert read_files(ready) == {"a": kept, "b/c": b"new", "l": "-> a", "same": b"same"}
        assert (result.unchanged, result.skipped) == (1, [] if answer else ["a"])

    def test_a_folder_where_a_file_should_be(self, session: Session, ready: Path) -> None:
        (ready / "a").unlink()
        write_files(ready, {"a/mine": b"mine", "l/mine": b"mine"})
        result = copy(session, ready, overwrite=lambda path: True)
        assert len(result.warnings) == 2
        assert read_files(ready) == {"a/mine": b"mine", "l/mine": b"mine", "b/c": b"new", "same": b"same"}

    def test_a_file_where_a_folder_should_be(self, session: Session, ready: Path) -> None:
        (ready / "b").write_bytes(b"mine")
        with pytest.raises(UnsafePath, match="b"):
            copy(session, ready, overwrite=lambda path: True)
        assert (ready / "b").read_bytes() == b"mine"

    def test_a_link_here_that_points_out_is_not_followed(self, session: Session, ready: Path, tmp_path: Path) -> None:
        outside = write_files(tmp_path / "outside", {"c": b"mine"})
        (ready / "b").symlink_to(outside)
        with pytest.raises(UnsafePath):
            copy(session, ready, overwrite=lambda path: True)
        (ready / "b").unlink()
        (ready / "a").unlink()
        (ready / "a").symlink_to(outside / "c")
        copy(session, ready, overwrite=lambda path: True)
        assert read_files(outside) == {"c": b"mine"} and not (ready / "a").is_symlink()


def connections(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Those that are opened from now on, beside the first."""
    opened: list[Session] = []
    another = Session.another

    def noted(session: Session) -> Session:
        opened.append(another(session))
        return opened[-1]

    monkeypatch.setattr(Session, "another", noted)
    return opened


def hashed(session: Session, folder: Path, cache: Path) -> bool:
    """Whether all of it is known from before, at the latest the next time this is asked."""
    tree = read_tree(folder, cache)
    if tree.hashed:
        tree.close(complete=False)
        return True
    send_tree(session, tree, {}, Progress())
    return False


MANIFEST = '["f","a",3,"%s",0]' % next(iter(tree_of({"a": b"abc"})[0])).digest  # noqa: UP031


def lies(rows: str, get: str = "", result: str = "{}") -> str:
    """A hostile agent's program: it answers `tree` with `rows` and `result`, `fetch` (or `get`)
    with `get`."""
    return f"""
        stream, header, body = hear(OPEN)
        hear(END)
        say(stream, DATA, {{}}, HEADER + {rows!r}.encode() + b"\\n")
        say(stream, END, {result})
        stream, header, body = hear(OPEN)
        hear(END)
        good = hashlib.sha256(b"abc").hexdigest()
        raw = bytes.fromhex(good)
        {get}
        while hear(END): pass
    """


def copied(tmp_path: Path, program: str) -> Fetched:
    """A copy from a hostile host to `target`."""
    with hostile_agent(tmp_path, program) as session:
        return copy(session, tmp_path / "target")


def refused(tmp_path: Path, program: str, whole: Files, parts: str = "no part") -> str:
    """That a copy from a hostile host is refused; nothing is there then, or what was asked for."""
    shutil.rmtree(tmp_path / "target", ignore_errors=True)
    with pytest.raises(RemoterunError):
        copied(tmp_path, program)
    found = read_files(tmp_path / "target")
    assert {name: data for name, data in found.items() if not name.endswith(parts)} in ({}, whole)
    return "refused"


def sent_to(tmp_path: Path, program: str, content: bytes = b"abc") -> tuple[Manifest, Sent]:
    """A file, sent to a hostile host."""
    with hostile_agent(tmp_path, program) as session:
        return send(session, write_files(tmp_path / "s", {"a": content}))


class TestHostileHosts:
    def test_lists(self, tmp_path: Path, recorded: Recorded) -> None:
        def said(rows: str) -> None:
            assert not (tmp_path / "out").exists() and not (tmp_path / "target").exists()
            copied(tmp_path, lies(rows.replace("MANIFEST", sha256(b"abc"))))

        recorded.cases(said, UnsafePath)
        assert not (tmp_path / "out").exists() and not (tmp_path / "target").exists()

    @pytest.mark.timeout(300)
    def test_contents_of_a_run_that_goes_on(self, tmp_path: Path, recorded: Recorded) -> None:
        recorded.cases(lambda get: refused(tmp_path, lies(MANIFEST, get, '{"live": True}'), {}))

    def test_a_file_that_grows_while_it_is_copied_has_to_fit(
        self, tmp_path: Path, small_disk: Callable[[str], Path]
    ) -> None:
        """L10: of a file that was listed with 3 bytes, 600 MB came."""
        target = small_disk("4m") / "target"
        grows = (
            'data = bytes(%d); say(stream, DATA, {"s": len(data)});'
            " [say(stream, DATA, {}, data[at : at + PIECE]) for at in range(0, len(data), PIECE)];"
            ' say(stream, DATA, {"h": hashlib.sha256(data).hexdigest()}); say(stream, END)'
        )
        rows = '["f","a",3,"",0]'
        with hostile_agent(tmp_path / "one", lies(rows, grows % 500_000, '{"live": True}')) as session:
            result = copy(session, target)
        assert (result.files, result.size) == (1, 500_000), "what came is counted, not what was listed"
        (target / "a").unlink()
        with (
            hostile_agent(tmp_path / "two", lies(rows, grows % 4_040_000, '{"live": True}')) as session,
            pytest.raises(
                TransferError, match=r"`a` has grown from 3 bytes to 4\.0 MB since it was listed, and 4\.0 MB fit"
            ),
        ):
            copy(session, target)
        assert read_files(target) == {}

    @pytest.mark.timeout(300)
    def test_contents(self, tmp_path: Path, recorded: Recorded) -> None:
        recorded.cases(lambda get: refused(tmp_path, lies(MANIFEST, get), {"a": b"abc"}))

    def test_what_it_has_no_more_is_asked_for_by_name(self, tmp_path: Path) -> None:
        get = """say(stream, DATA, {"gone": good}); say(stream, END)
        stream, header, body = hear(OPEN)
        hear(END)
        say(stream, DATA, {"s": 3, "x": 0, "h": good, "c": 0}, b"abc"); say(stream, END)"""
        copied(tmp_path, lies(MANIFEST, get))
        assert read_files(tmp_path / "target") == {"a": b"abc"}

    def test_paths_as_long_as_they_may_be(self, tmp_path: Path) -> None:
        rows = MANIFEST.replace('"a"', '"' + "/".join(["d" * 250] * 16) + '"')
        answer = 'say(stream, DATA, {"p": 1}, pack([(raw, b"abc")])); say(stream, END)'
        assert copied(tmp_path, lies(rows, answer)).files == 1

    def test_a_list_of_nothing_but_bad_links(self, tmp_path: Path) -> None:
        rows = "\n".join(f'["l","{number:05}","/etc/passwd"]' for number in range(3000))
        result = copied(tmp_path, lies(rows))
        assert (len(result.warnings), result.more_warnings) == (100, 2900)

    def test_a_list_without_an_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Stream.parts, "__defaults__", (4 << 20,))
        program = """
            stream, header, body = hear(OPEN)
            hear(END)
            try:
                while True:
                    say(stream, DATA, {}, HEADER + b"x" * 100000)
            except OSError:
                pass
        """
        with hostile_agent(tmp_path, program) as session, pytest.raises(RemoterunError):
            fetch_manifest(session, UPLOAD)

    def test_what_it_says_it_lacks(self, tmp_path: Path, recorded: Recorded) -> None:
        program = """
            missing, _, _ = hear(OPEN)
            hear(DATA)
            say(missing, DATA, {}, ANSWER)
            while hear(DATA): pass
        """
        recorded.cases(lambda answer: sent_to(tmp_path, program.replace("ANSWER", answer)), TransferError)

    def test_more_there_than_the_file_has(self, tmp_path: Path) -> None:
        program = """
            missing, _, _ = hear(OPEN)
            hear(DATA)
            say(missing, DATA, {}, struct.pack("!IQ", 0, 1 << 60))
            say(missing, END)
            put, _, _ = hear(OPEN)
            number, header, body = hear(DATA)
            assert (number, header["p"], body[-3:]) == (put, 1, b"abc"), header
            say(put, END)
            while hear(DATA): pass
        """
        assert sent_to(tmp_path, program)[1] == Sent(1, 3, 0)

    def test_which_pieces_it_says_it_lacks(self, tmp_path: Path, recorded: Recorded) -> None:
        program = """
            missing, _, _ = hear(OPEN)
            hear(DATA)
            say(missing, DATA, {}, struct.pack("!IQ", 0, 0))
            say(missing, END)
            asked, header, _ = hear(OPEN)
            assert header["op"] == "missing_pieces", header
            say(asked, DATA, {}, ANSWER)
            say(asked, END)
            while hear(DATA): pass
        """
        large = bytes(LARGE + 1)
        recorded.cases(lambda answer: sent_to(tmp_path, program.replace("ANSWER", answer), large), TransferError)

    def test_one_that_ends_a_transfer_early(self, tmp_path: Path) -> None:
        """It reads nothing of 30 MB: the sender doesn't wait for ever."""
        program = """
            room, _, _ = hear(OPEN)
            say(room, END, {"room": 1 << 40})
            missing, _, _ = hear(OPEN)
            hear(DATA)
            say(missing, DATA, {}, struct.pack("!IQ", 0, 0))
            say(missing, END)
            asked, _, _ = hear(OPEN)
            say(asked, DATA, {}, struct.pack("!30I", *range(30)))
            say(asked, END)
            while True:
                stream, header, body = hear(OPEN)
                say(stream, END, {"blobs": 1} if header["op"] == "put" else {})
        """
        manifest, sent = sent_to(tmp_path, program, os.urandom(30 << 20))
        assert manifest.size == 30 << 20 and sent.already == 0

    @pytest.mark.timeout(300)
    def test_pieces(self, tmp_path: Path, recorded: Recorded) -> None:
        entry = next(iter(tree_of({"big": BIG})[0]))
        row = f'["f","big",{len(BIG)},"{entry.digest}",0]'
        program = """
        PIECE = 1 << 20
        big = b"".join(bytes([number]) * PIECE for number in range(6)) + b"end"
        def content(n):
            return big[n * PIECE : (n + 1) * PIECE]
        def hashes():
            say(stream, DATA, {}, b"".join(hashlib.sha256(content(n)).digest() for n in range(7)))
            say(stream, END)
        def pieces(of, more=0, less=0, header=None):
            while True:
                asked, _, body = hear(DATA)
                numbers = struct.unpack(f"!{len(body) // 4}I", body)
                for n in numbers[less:] + numbers[:more]:
                    say(asked, DATA, header, of(n))
                say(asked, END)
        """
        begun = f"{program.strip()}\n        "
        recorded.cases(lambda said: refused(tmp_path, lies(row, begun + said), {"big": BIG}, ".remoterun"))


def test_contents_of_memory(session: Session, tmp_path: Path) -> None:
    """They need no file on either side, also large ones; one that is damaged there counts as missing."""
    blobs = {sha256(content): content for content in (b"small", b"", os.urandom(2 * LARGE + 5), b"broken")}
    send_blobs(session, blobs, Progress())
    broken, absent = sha256(b"broken"), sha256(b"absent")
    damaged = tmp_path / "home/blobs" / broken[:2] / broken[2:]
    damaged.chmod(0o600)
    damaged.write_bytes(b"BROKEN")
    found = contents(session, [*blobs, absent], 3 * LARGE)
    assert found == {digest: content for digest, content in blobs.items() if digest != broken}
    with pytest.raises(TransferError, match="more than"):
        contents(session, blobs, LARGE)


def test_a_full_disk_here(session: Session, small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    files: Files = {name: os.urandom(900_000) for name in "abc"}
    upload(session, tmp_path / "source", files)
    target = small_disk("2m") / "target"
    with pytest.raises(TransferError, match="full"):
        copy(session, target)
    assert read_files(target).items() < files.items()
