"""Copies into a folder on a real disk that takes some names for one, as those of Macs and USB sticks do: it is a file
system of its own (FUSE)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from remoterun.agent.shared.tree import Entry
from remoterun.client import Client
from remoterun.config import Config
from remoterun.errors import AlreadyExists, UnsafePath
from remoterun.model import MachineType
from remoterun.transfer.destination import refuse_twins
from tests.conftest import require
from tests.lab.error import LabUnavailable
from tests.lab.folding import Disk, folding, missing
from tests.workshop import Files, read_files, tree_of, write_files

COMPOSED, DECOMPOSED = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
CAPITAL = "\N{LATIN CAPITAL LETTER E WITH ACUTE}"

PLAIN: Files = {
    "A.txt": b"A", "Dir/x": b"x", "Dir/Deep/run*": b"#!", "dir2/X": b"X", "link": "-> Dir/x", "empty": None,
    "zero": b"", f"{COMPOSED}/{DECOMPOSED}": b"e", "large": os.urandom(3 << 20), "new\nline": b"", "stra\u00dfe": b"s",
}  # fmt: skip

Mount = Callable[[Disk], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """`mount(disk)`: an empty folder on such a disk; unmounted after the test."""
    require(missing())
    with ExitStack() as stack:

        def enter(disk: Disk) -> Path:
            store, here = tmp_path / f"{disk.value}-store", tmp_path / disk.value
            store.mkdir()
            here.mkdir()
            try:
                return stack.enter_context(folding(store, here, disk))
            except LabUnavailable as error:
                require(str(error))
                raise

        yield enter


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """With a home on this machine, on a disk that takes every name as it is."""
    machine = MachineType("box", engine="process", home=str(tmp_path / "home"))
    with Client(Config(tmp_path / "laptop", "box", {"box": machine})) as client:
        yield client


@pytest.fixture
def upload(client: Client, tmp_path: Path) -> Callable[[Files], None]:
    def upload(files: Files) -> None:
        folder = tmp_path / f"source{len(list(tmp_path.glob('source*')))}"
        client.uploads.upload(write_files(folder, files), "doom")

    return upload


TWINS = [
    ("A.txt", "a.txt"),
    (COMPOSED, DECOMPOSED),
    (CAPITAL, DECOMPOSED),
    ("Dir/x", "dir/X"),
    (f"Dir/{COMPOSED}", f"dir/{DECOMPOSED}"),
    ("stra\u00dfe", "STRASSE"),
]


class TestTwins:
    def test_are_refused_and_nothing_is_written(
        self, client: Client, upload: Callable[[Files], None], mount: Mount
    ) -> None:
        target = mount(Disk.APFS)
        for twins in TWINS:
            upload({"aa/first": b"1", twins[0]: b"one", twins[1]: b"other", "zz": b"2"})
            with pytest.raises(UnsafePath) as refused:
                client.files.copy("uploads/doom", target / "here")
            for name in twins:
                alike = len({unicodedata.normalize("NFC", twin) for twin in twins}) == 1
                assert f"`{ascii(name)[1:-1] if alike else name}`" in refused.value.message
            assert str(target / "here") in refused.value.message
            assert refused.value.hint
            assert os.listdir(target / "here") == []
            with pytest.raises(UnsafePath):
                client.files.copy("uploads/doom", target, lambda path: True)
            assert os.listdir(target) == ["here"]

    def test_by_themselves_they_come(self, client: Client, upload: Callable[[Files], None], mount: Mount) -> None:
        upload({"A.txt": b"one", "a.txt": b"other"})
        target = mount(Disk.APFS)
        client.files.copy("uploads/doom/A.txt", target / "one")
        client.files.copy("uploads/doom/a.txt", target / "other")
        assert read_files(target) == {"one": b"one", "other": b"other"}

    def test_are_two_files_in_a_normal_folder(
        self, client: Client, upload: Callable[[Files], None], tmp_path: Path
    ) -> None:
        files: Files = {name: name.encode() for pair in TWINS for name in pair}
        upload(files)
        client.files.copy("uploads/doom", tmp_path / "target")
        assert read_files(tmp_path / "target") == files

    def test_a_file_and_a_folder(self, client: Client, upload: Callable[[Files], None], mount: Mount) -> None:
        """The folder couldn't be made, or the file not written, when half of the tree stands there."""
        target = mount(Disk.APFS)
        for file, below in (("A", "a/x"), ("b", "B/x"), (f"c/{COMPOSED}", f"C/{DECOMPOSED}/x/y")):
            for content in (b"file", "-> zz"):
                upload({file: content, below: b"below", "zz": b"2"})
                with pytest.raises(UnsafePath, match="one name"):
                    client.files.copy("uploads/doom", target)
                assert os.listdir(target) == []

    def test_dots_at_the_end(self, client: Client, upload: Callable[[Files], None], mount: Mount) -> None:
        upload({"notes": b"one", "notes.": b"other"})
        target = mount(Disk.VFAT)
        with pytest.raises(UnsafePath, match="one name"):
            client.files.copy("uploads/doom", target)
        assert os.listdir(target) == []

    def test_folders_become_one(self, client: Client, upload: Callable[[Files], None], mount: Mount) -> None:
        upload({"Dir/x": b"x", "dir/y": b"y"})
        target = mount(Disk.APFS)
        client.files.copy("uploads/doom", target)
        assert read_files(target) == {"Dir/x": b"x", "Dir/y": b"y"}


class TestWithoutTwins:
    @pytest.mark.parametrize("disk", Disk)
    def test_the_tree_arrives_as_it_is(
        self, client: Client, upload: Callable[[Files], None], mount: Mount, disk: Disk
    ) -> None:
        upload(PLAIN)
        target = mount(disk) / "here"
        client.files.copy("uploads/doom", target)
        assert read_files(target) == PLAIN
        again = client.files.copy("uploads/doom", target)
        assert again.files == 0 and again.unchanged == sum(content is not None for content in PLAIN.values())

    def test_another_spelling_that_is_there_is_a_conflict(
        self, client: Client, upload: Callable[[Files], None], mount: Mount
    ) -> None:
        upload({"A.txt": b"new"})
        target = mount(Disk.APFS)
        (target / "a.txt").write_bytes(b"old")
        with pytest.raises(AlreadyExists):
            client.files.copy("uploads/doom", target, into=True)
        assert read_files(target) == {"a.txt": b"old"}
        client.files.copy("uploads/doom", target, lambda path: True)
        assert read_files(target) == {"A.txt": b"new"}


ONE = {
    Disk.APFS: [("A", "a"), (CAPITAL, COMPOSED), (COMPOSED, DECOMPOSED), (CAPITAL, DECOMPOSED)],
    Disk.EXFAT: [("A", "a"), (CAPITAL, COMPOSED)],
    Disk.VFAT: [("A", "a")],
    Disk.HFSX: [(COMPOSED, DECOMPOSED)],
}
TWO = {
    Disk.APFS: [("A", "b"), (COMPOSED, "e")],
    Disk.EXFAT: [(COMPOSED, DECOMPOSED)],
    Disk.VFAT: [(COMPOSED, DECOMPOSED)],
    Disk.HFSX: [("A", "a"), (CAPITAL, COMPOSED)],
}


class TestRefuseTwins:
    @pytest.mark.parametrize("disk", Disk)
    def test_each_disk_has_its_own(self, mount: Mount, disk: Disk) -> None:
        """The disk is asked too, so that it is none but what it is taken for."""
        target = mount(disk)
        for one, other in ONE[disk]:
            (target / one).touch()
            assert (target / other).exists()
            (target / other).unlink()
            with pytest.raises(UnsafePath):
                refuse_twins(entries(one, other), target)
        for one, other in TWO[disk]:
            (target / one).touch()
            assert not (target / other).exists()
            (target / one).unlink()
            refuse_twins(entries(one, other), target)
        assert os.listdir(target) == []

    def test_a_normal_disk(self, tmp_path: Path) -> None:
        if (tmp_path.parent / tmp_path.name.swapcase()).exists():
            pytest.skip("this machine's own disk takes no notice of case")
        refuse_twins(entries(*{name for pair in TWINS for name in pair}, "A", "a/x"), tmp_path)
        assert os.listdir(tmp_path) == [], "the file it looked with is gone"

    def test_what_is_there_stays(self, mount: Mount) -> None:
        target = mount(Disk.APFS)
        (target / "a").write_bytes(b"here")
        refuse_twins(entries("A", "b"), target)
        assert read_files(target) == {"a": b"here"}

    def test_a_folder_that_may_not_be_written(self, tmp_path: Path) -> None:
        """That shows when it is written to."""
        refuse_twins(entries("A", "a"), tmp_path / "absent")
        assert os.listdir(tmp_path) == []


def entries(*paths: str) -> list[Entry]:
    return list(tree_of(dict.fromkeys(paths, b""))[0])
