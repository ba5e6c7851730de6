"""A home in a bucket: what lies in it, what it takes, and how few requests that needs."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import CHUNK, SMALL
from remoterun.agent.shared.packs import unpack
from remoterun.agent.shared.spec import ResourceRef
from remoterun.buckets.contents import ObjectListing
from remoterun.buckets.place import BucketPlace
from remoterun.buckets.workers import Workers
from remoterun.client import Client
from remoterun.config import AWS, Config
from remoterun.errors import UsageError
from remoterun.session import Session
from remoterun.transfer import Progress, fetch, read_tree, refuse, send_tree
from tests.seaweed import SMALL_CHUNK, Store, Talk, Way, asked
from tests.workshop import Files, read_files, sha256, tree_of, write_files


def send(session: Session, folder: Path, name: str = "doom") -> api.Committed:
    """Upload a folder as the client does that knows nothing of its files."""
    with session.stream(api.commit_upload, api.CommitUpload(name)) as commit, read_tree(folder) as tree:
        send_tree(session, tree, {}, Progress(), name, commit)
        commit.end()
        commit.finish()
        return session.result(api.commit_upload, commit)


def copy(session: Session, target: Path, name: str = "doom") -> Files:
    fetch(session, ResourceRef("upload", name), target, refuse, Progress())
    return read_files(target)


def keys(bucket: BucketPlace, store: Store, prefix: str = "") -> list[str]:
    client = store.client()
    answer = client.list_objects_v2(Bucket=bucket.name, Prefix=prefix)
    client.close()
    return [item["Key"] for item in answer.get("Contents", ())]


FILES: Files = {
    "a": b"A",
    "empty": b"",
    "b/tool*": b"#!/bin/sh\n",
    "b/same": b"A",
    "link": "-> a",
    "folder": None,
    "pack": b"p" * 300_000,
    "edge": b"e" * SMALL,
    "blob": b"f" * (SMALL + 1),
    "name\udcff": b"odd",
}


def test_what_goes_in_comes_out(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with Talk(bucket) as talk:
        committed = send(talk.session, source)
        assert committed.created and committed.version.version == 1
    with Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == read_files(source)
    assert len(keys(bucket, store, "packs/")) == len(keys(bucket, store, "index/")) == 1
    assert len(keys(bucket, store, "blobs/")) == 1


def test_a_large_file_lies_in_chunks_that_are_shared(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    chunk = os.urandom(1 << 20) * (CHUNK >> 20)
    source = write_files(tmp_path / "source", {"large": chunk + chunk + b"end"})
    with Talk(bucket) as talk:
        send(talk.session, source)
        assert keys(bucket, store, "blobs/") == sorted(map(layout.blob_key, (sha256(chunk), sha256(b"end"))))
        write_files(source, {"large": chunk + b"other"})
        send(talk.session, source)
        assert len(keys(bucket, store, "blobs/")) == 3 and len(keys(bucket, store, "lists/")) == 2
    with Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == {"large": chunk + b"other"}
        entry = tree_of({"large": chunk + b"other"})[0].files[0]
        asked = api.BlobRanges(entry.digest)
        with talk.session.stream(api.fetch_parts, asked) as stream:
            stream.send(b"".join(number.to_bytes(8, "big") for number in (CHUNK - 2, 4, 5, 1)))
            stream.end()
            assert b"".join(frame.body for frame in stream) == chunk[-2:] + b"ot" + chunk[5:6]


@pytest.mark.usefixtures("small_chunks")
def test_several_large_files(bucket: BucketPlace, tmp_path: Path) -> None:
    """Each has its list once its chunks are there; one that was met before is not sent again."""
    files: Files = {f"{number}": os.urandom(SMALL_CHUNK + number) for number in range(1, 3)}
    source = write_files(tmp_path / "source", {**files, "twice": files["1"]})
    with Talk(bucket) as talk:
        send(talk.session, source)
        assert len(list(talk.bucket.s3.list("lists/"))) == 2 and len(list(talk.bucket.s3.list("blobs/"))) == 4
        assert copy(talk.session, tmp_path / "back") == {**files, "twice": files["1"]}


def test_many_small_files_are_few_objects_and_few_requests(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    files: Files = {f"d{number % 7}/{number}": os.urandom(5000) for number in range(3000)}
    source = write_files(tmp_path / "source", files)
    cache = tmp_path / "cache"
    with Talk(bucket, cache) as talk:
        send(talk.session, source)
        assert talk.requests <= 12
    assert len(keys(bucket, store)) <= 5
    with Talk(bucket, cache) as talk:
        assert not send(talk.session, source).created  # nothing is known here of the files, which are read again
        assert talk.requests <= 10
    with Talk(bucket) as talk:
        assert copy(talk.session, tmp_path / "back") == files
        assert talk.requests <= 20


def test_an_upload_that_did_not_change_is_few_requests(bucket: BucketPlace, store: Store, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", FILES)
    with Way(store) as way:
        config = Config(tmp_path / "home", aws=AWS(bucket.name, bucket.region, way.url))
        for created in (True, False):
            way.requests = 0
            with Client(config) as client:
                assert client.uploads.upload(source, "doom", to="aws").created == created
        assert 0 < way.requests <= 6


def test_objects_are_listed_or_asked_for_one_by_one_whichever_is_cheaper(bucket: BucketPlace) -> None:
    contents = [b"%d" % number for number in range(1200)]
    with asked(bucket) as s3:
        workers = Workers(8)
        list(workers.each(lambda data: s3.put(layout.blob_key(sha256(data)), [data], sha256(data)), contents))
        there = sorted(bytes.fromhex(sha256(data)) for data in contents)
        absent = [hashlib.sha256(b"absent %d" % number).digest() for number in range(50)]
        for wanted, most in ((there[-1:], 2), (there[:3], 1), (there[-50:], 2), (there + absent, 2)):
            listing = ObjectListing(s3, workers, "blobs/")
            s3.requests = 0
            listing.look(wanted)
            assert 0 < s3.requests <= most
            assert [digest for digest in wanted if digest in listing.found] == [one for one in wanted if one in there]
            listing.look(wanted[:1])
            assert s3.requests <= most
        workers.close()


def test_contents_in_another_order_than_they_lie(bucket: BucketPlace) -> None:
    contents = [os.urandom(1 + number * 37 % 200_000) for number in range(300)]
    with Talk(bucket) as talk:
        with talk.session.stream(api.put, api.Nothing()) as stream:
            for content in contents:
                stream.send(content, d=sha256(content), s=len(content))
            stream.end()
            stream.finish()
        order = [*contents[::-3], *contents[::5], contents[0], *contents[::-1]]
        found = []
        with talk.session.stream(api.fetch, api.Accept()) as stream:
            stream.send(b"".join(bytes.fromhex(sha256(content)) for content in order))
            stream.end()

            large: list[bytes] = []
            left = 0
            for frame in stream:
                if "p" in frame.header:
                    found += [bytes(content) for _, content in unpack(frame.body, frame.header["p"])]
                    continue
                left = frame.header.get("s", left) - len(frame.body)
                large.append(bytes(frame.body))
                if not left:
                    found.append(b"".join(large))
                    large = []
        assert found == order


def test_two_clients_make_versions_at_once(bucket: BucketPlace, tmp_path: Path) -> None:
    """Each version is one client's, none is lost, and the same content makes one only."""
    made: list[api.Committed] = []

    def upload(number: int) -> None:
        folder = write_files(tmp_path / f"source{number}", {"file": b"%d" % (number // 2)})
        with Talk(bucket) as talk:
            made.append(send(talk.session, folder))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert len(made) == 8
    with Talk(bucket) as talk:
        versions = talk.session.versions("doom")
    assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    assert {version.digest for version in versions} == {one.version.digest for one in made}
    created = [one.version.version for one in made if one.created]
    assert sorted(created) == [version.version for version in versions]


def test_what_needs_a_machine_says_so(bucket: BucketPlace) -> None:
    with Talk(bucket) as talk, pytest.raises(UsageError) as caught:
        talk.session.ask(api.submit, api.Nothing())
    assert "is a bucket" in caught.value.message and "remoterun machines" in str(caught.value.hint)


def test_a_removed_upload_is_gone_and_its_contents_are_not_sent_again(bucket: BucketPlace, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"a": b"A" * 5000})
    with Talk(bucket) as talk:
        send(talk.session, source)
        assert talk.session.ask(api.remove_upload, api.RemoveUpload("doom")).removed
        assert talk.session.versions("doom") == []
        before = len(list(talk.bucket.s3.list("packs/")))
        assert send(talk.session, source).version.version == 1
        assert len(list(talk.bucket.s3.list("packs/"))) == before == 1


def test_a_file_that_is_here_is_replaced_as_a_whole(bucket: BucketPlace, tmp_path: Path) -> None:
    """A bucket can't tell where two files differ: it has no machine that could compare them."""
    content = os.urandom(5 << 20)
    source = write_files(tmp_path / "source", {"large": content})
    (tmp_path / "back").mkdir()
    (tmp_path / "back/large").write_bytes(content[: 4 << 20] + os.urandom(1 << 20))
    with Talk(bucket) as talk:
        send(talk.session, source)
        fetch(talk.session, ResourceRef("upload", "doom"), tmp_path / "back", lambda _: True, Progress())
    assert (tmp_path / "back/large").read_bytes() == content
