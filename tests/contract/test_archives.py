"""What `remoterun.archive.objects` promises, held against S3 and a second kind, and what the archive does with it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import remoterun
from remoterun.archive import Archive, open_archive, upkeep
from remoterun.archive.objects import Absent, BucketPlace, Damaged, NoBucket, Objects, opened
from remoterun.config import ArchivePlace, Config
from remoterun.connections import Connections
from remoterun.errors import ConfigError, HostError, RemoterunError, TransferError
from tests.cloud.archives import get, keys, packs, put
from tests.workshop import Files, read_files, write_files

FILES: Files = {
    "a": b"A",
    "b/tool*": b"#!/bin/sh\n",
    "b/same": b"A",
    "link": "-> a",
    "folder": None,
    "pack": b"p" * 9999,
}


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketPlace:
    """An empty bucket."""
    if request.param == "s3":
        found: BucketPlace = request.getfixturevalue("bucket")
        return found
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):  # it needs no login
        monkeypatch.delenv(variable, raising=False)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, os.devnull)
    return BucketPlace.of(f"file://{tmp_path / 'books'}")


@pytest.fixture
def objects(place: BucketPlace) -> Iterator[Objects]:
    with closing(opened(place)) as made:
        yield made


@pytest.fixture
def archive(place: BucketPlace, tmp_path: Path) -> Iterator[Archive]:
    """An archive that a client opened, with the login that its kind needs."""
    named = ArchivePlace(place.address, place.region, place.endpoint, place.profile)
    with closing(Connections(Config(tmp_path / "home", archive=named))) as connections:
        yield connections.archive(connections.bucket())


def test_an_object_is_what_was_written_last(objects: Objects) -> None:
    for data in (b"first", b"0123456789", b"0123456789"):
        objects.put("a/b", data)
        assert objects.get("a/b", 10) == data and (objects.head("a/b") or (0, ""))[0] == len(data)
    assert [objects.get_range("a/b", *part) for part in ((0, 3), (8, 9), (10, 5), (3, 0))] == [b"012", b"89", b"", b""]
    with pytest.raises(Damaged, match="more than the 9 bytes"):
        objects.get("a/b", 9)
    with pytest.raises(TransferError):
        objects.put("a/b", b"other", "00" * 32)
    assert objects.get("a/b", 10) == b"0123456789"


def test_an_absent_object_is_absent(objects: Objects) -> None:
    for ask in (lambda: objects.get("no", 9), lambda: objects.get_range("no", 0, 9)):
        with pytest.raises(Absent):
            ask()
    assert objects.head("no") is None and not [*objects.list("no")] and not [*objects.folders("no/")]
    objects.delete(["no", "neither"])
    assert objects.put_new("no", b"x") and objects.put_new("no", b"x") and not objects.put_new("no", b"y")
    objects.delete(["no"])
    assert objects.head("no") is None and objects.put_new("no", b"y")


def test_a_listing_has_its_prefix_and_its_order(objects: Objects) -> None:
    names = ["runs/a/x", "runs/a/y", "runs/b", "runs/c/d/e", "runs.txt", "other"]
    for name in names:
        objects.put(name, name.encode())
    found = [*objects.list("runs/")]
    assert [(each.key, each.size) for each in found] == sorted((name, len(name)) for name in names[:4])
    assert all(abs(each.modified - time.time()) < 600 for each in found)
    assert [each.key for each in objects.list("runs/", "runs/a/y")] == ["runs/b", "runs/c/d/e"]
    assert [*objects.folders("runs/")] == ["a", "c"] and [*objects.folders("")] == ["runs"]
    with pytest.raises(Damaged, match="more than 3 objects"):
        list(objects.list("runs/", most=3))


def test_a_tree_goes_in_and_comes_out(archive: Archive, place: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    assert put(archive, source)[1] and not put(archive, source)[1]
    with closing(open_archive(place)) as again:
        assert again.id == archive.id and again.address == place.address
        get(again, tmp_path / "back")
    assert read_files(tmp_path / "back") == read_files(source)
    for pack in packs(archive):
        archive.objects.put(pack, b"q" * len(archive.objects.get(pack, 1 << 20)))
    with pytest.raises(RemoterunError, match="damaged"):
        get(archive, tmp_path / "damaged")
    archive.objects.delete(keys(archive))
    assert not keys(archive) and not [*upkeep.usage(archive)]


def test_hosts_reach_what_signs(archive: Archive) -> None:
    if archive.address.startswith("s3:"):
        assert archive.objects.presigned_get("x", 60).startswith("http")
        return
    for sign in (lambda: archive.objects.presigned_get("x", 60), lambda: archive.objects.presigned_post("x", 60, 1)):
        with pytest.raises(HostError, match="can't reach"):
            sign()


def test_a_bucket_that_is_absent(place: BucketPlace) -> None:
    name = "absent" if place.scheme == "s3://" else f"{place.name}/no/absent"
    absent = BucketPlace(name, place.region, place.endpoint, place.profile, place.scheme)
    with pytest.raises(NoBucket), closing(opened(absent)) as nothing:
        list(nothing.list(""))


def test_an_address_names_the_kind(tmp_path: Path) -> None:
    for address in ("books", "ftp://books", "s3://", "file://books"):
        with pytest.raises(ConfigError):
            BucketPlace.of(address)
    root = Path(remoterun.__file__).parent
    own = re.compile(r"archive/s3\w*\.py|archive/objects\.py|clouds/aws/")
    naming = re.compile(r"archive(?:\.| import )s3")
    files = [each for each in root.rglob("*.py") if not own.match(each.relative_to(root).as_posix())]
    assert files and not [each for each in files if naming.search(each.read_text())]
