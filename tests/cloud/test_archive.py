"""Uploads in the archive: what goes in comes out, what it takes, and how few requests that needs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from remoterun.agent.shared.api import UploadVersion
from remoterun.archive import reading, uploads, writing
from remoterun.archive.objects import BucketPlace
from remoterun.client import Client
from remoterun.config import ArchivePlace, Config
from remoterun.errors import NotFound
from tests.cloud.archives import SMALL_PACK, get, keys, packs, put
from tests.seaweed import Store, Way, opened, s3_of
from tests.workshop import Files, read_files, write_files

FILES: Files = {
    "a": b"A",
    "empty": b"",
    "b/tool*": b"#!/bin/sh\n",
    "b/same": b"A",
    "link": "-> a",
    "folder": None,
    "pack": b"p" * 300_000,
    "large": b"f" * (writing.WHOLE + 1),
    "name\udcff": b"odd",
}


def test_a_new_version_is_packed_against_the_newest(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with opened(bucket) as archive:
        version, created, _ = put(archive, source)
        assert created and version.version == 1 and version.files == 7
        before = packs(archive)
        assert len(before) == 3, "the large file has one of its own"
        write_files(source, {"more": b"m" * 1000})
        version, created, sent = put(archive, source)
        assert created and version.version == 2 and sent.size == 1000
        assert len(packs(archive)) == len(before) + 1
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == read_files(source)
        version, created, sent = put(archive, source)
        assert not created and version.version == 2 and sent.size == 0


@pytest.mark.usefixtures("small_packs")
def test_a_large_file_shares_the_packs_that_did_not_change(bucket: BucketPlace, tmp_path: Path) -> None:
    first, second = os.urandom(SMALL_PACK), os.urandom(SMALL_PACK)
    source = write_files(tmp_path / "source", {"large": first + second + b"end"})
    with opened(bucket) as archive:
        put(archive, source)
        assert len(packs(archive)) == 3
        write_files(source, {"large": first + second + b"end, and more"})
        _, _, sent = put(archive, source)
        assert sent.size == len(b"end, and more") and len(packs(archive)) == 4
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == {"large": first + second + b"end, and more"}


@pytest.mark.usefixtures("small_packs")
def test_contents_lie_in_several_packs_in_any_order(
    bucket: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READ", 300_000)
    files: Files = {f"{number * 37 % 100:03}": os.urandom(1 + number * 3001 % 280_000) for number in range(100)}
    source = write_files(tmp_path / "source", {**files, "again": files["000"], "large": os.urandom(700_001)})
    with opened(bucket) as archive:
        put(archive, source)
        assert len(packs(archive)) > 2
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == read_files(source)


def test_many_small_files_are_few_objects_and_few_requests(bucket: BucketPlace, tmp_path: Path) -> None:
    files: Files = {f"d{number % 7}/{number}": os.urandom(5000) for number in range(3000)}
    source = write_files(tmp_path / "source", files)
    with opened(bucket) as archive:
        put(archive, source)
        assert s3_of(archive).requests <= 10 and len(keys(archive)) == 3
    with opened(bucket) as archive:
        assert not put(archive, source)[1]  # nothing is known here of the files, which are read again
        assert s3_of(archive).requests <= 10
    with opened(bucket) as archive:
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == files and s3_of(archive).requests <= 12


def test_an_upload_that_did_not_change_is_few_requests(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with Way(store) as way:
        config = Config(tmp_path / "home", archive=ArchivePlace(bucket.name, bucket.region, way.url))
        for created in (True, False):
            way.requests = 0
            with Client(config) as client:
                assert client.uploads.upload(source, "doom", to="aws").created == created
        assert 0 < way.requests <= 6


def test_two_clients_make_versions_at_once(bucket: BucketPlace, tmp_path: Path) -> None:
    """Each version is one client's, and none is lost."""
    made: list[UploadVersion] = []

    def upload(number: int) -> None:
        folder = write_files(tmp_path / f"source{number}", {"file": b"%d" % number})
        with opened(bucket) as archive:
            made.append(put(archive, folder)[0])

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    with opened(bucket) as archive:
        found = uploads.versions(archive, "doom")
        assert [version.version for version in found] == list(range(1, 9))
        assert {version.digest for version in found} == {version.digest for version in made}
        for version in found:
            get(archive, tmp_path / f"back{version.version}", digest=version.digest)


def test_the_number_of_a_client_is_taken_where_it_is_free(bucket: BucketPlace, tmp_path: Path) -> None:
    with opened(bucket) as archive:
        for content, number, given in ((b"A", 5, 5), (b"B", 3, 6), (b"A", 7, 7)):
            version, created, _ = put(archive, write_files(tmp_path / "source", {"a": content}), number=number)
            assert (version.version, created) == (given, True)
        assert [version.version for version in uploads.versions(archive, "doom")] == [5, 6, 7]
        assert uploads.find_upload(archive, "doom", version.digest)[1].version == 7


def test_a_removed_upload_is_gone_and_its_contents_are_not_sent_again(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"a": b"A" * 5000})
    with opened(bucket) as archive:
        put(archive, source)
        assert uploads.remove_upload(archive, "doom") and not uploads.remove_upload(archive, "doom")
        assert uploads.versions(archive, "doom") == [] == uploads.newest(archive)
        with pytest.raises(NotFound, match="there is no upload doom"):
            get(archive, tmp_path / "back")
        version, _, sent = put(archive, source)
        assert version.version == 1 and sent.size == 0


def test_a_pack_that_somebody_deleted_is_sent_again(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"a": b"A" * 5000})
    with opened(bucket) as archive:
        put(archive, source)
        archive.objects.delete(packs(archive))
        write_files(source, {"b": b"B"})
        put(archive, source)
        get(archive, tmp_path / "back")
    assert read_files(tmp_path / "back") == {"a": b"A" * 5000, "b": b"B"}
