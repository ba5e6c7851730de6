"""What others, or a disk, may have made of the objects in a bucket: each is an error that names the object, or is left
out; none of it takes our memory or leaves the folder that was named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.spec import ResourceRef
from remoterun.buckets.place import BucketPlace
from remoterun.buckets.s3 import S3
from remoterun.errors import HostError, RemoterunError, SomeDamaged
from remoterun.transfer import Progress, fetch, refuse
from tests.cloud.test_bucket import copy, keys, send
from tests.seaweed import Store, Talk, asked
from tests.workshop import Files, sha256, tree_of, write_files

FILES: Files = {"a": b"A" * 1000, "b": b"B" * 1000, "blob": b"C" * (layout.SMALL + 1)}
KEY = "0" * 26


def put(s3: S3, key: str, data: bytes) -> None:
    """Whatever is there."""
    s3.put(key, [data], sha256(data))


@pytest.fixture
def s3(bucket: BucketPlace, tmp_path: Path) -> Any:
    """A bucket with an upload, whose objects may be written over."""
    source = write_files(tmp_path / "source", FILES)
    with Talk(bucket) as talk:
        send(talk.session, source)
    with asked(bucket) as s3:
        yield s3


def only(bucket: BucketPlace, store: Store, prefix: str) -> str:
    (key,) = keys(bucket, store, prefix)
    return key


def fails(bucket: BucketPlace, tmp_path: Path) -> RemoterunError:
    """What copying the upload fails with."""
    with Talk(bucket) as talk, pytest.raises(RemoterunError) as caught:
        copy(talk.session, tmp_path / "back")
    return caught.value


class TestBitRot:
    @pytest.mark.parametrize("prefix", ["packs/", "blobs/"])
    def test_a_content_that_changed(
        self, bucket: BucketPlace, store: Store, s3: S3, tmp_path: Path, prefix: str
    ) -> None:
        key = only(bucket, store, prefix)
        data = bytearray(s3.get(key, 1 << 22))
        data[5] ^= 1
        put(s3, key, bytes(data))
        error = fails(bucket, tmp_path)
        name = "a" if prefix == "packs/" else "blob"
        assert isinstance(error, SomeDamaged) and error.message.startswith(f"`{name}` is damaged on aws")
        left = sorted(path.name for path in (tmp_path / "back").iterdir())
        assert left == sorted(set(FILES) - {name})

    @pytest.mark.parametrize("prefix", ["packs/", "blobs/"])
    def test_a_content_that_was_truncated(
        self, bucket: BucketPlace, store: Store, s3: S3, tmp_path: Path, prefix: str
    ) -> None:
        key = only(bucket, store, prefix)
        put(s3, key, s3.get(key, 1 << 22)[:1500])
        error = fails(bucket, tmp_path)
        name = "b" if prefix == "packs/" else "blob"
        assert isinstance(error, SomeDamaged) and f"`{name}` is damaged" in error.message

    def test_a_pack_that_is_gone(self, bucket: BucketPlace, store: Store, s3: S3, tmp_path: Path) -> None:
        s3.delete([only(bucket, store, "packs/")])
        error = fails(bucket, tmp_path)
        assert isinstance(error, SomeDamaged) and "`a` and 1 more are damaged" in error.message

    def test_a_list_of_files_that_changed(self, bucket: BucketPlace, store: Store, s3: S3, tmp_path: Path) -> None:
        key = only(bucket, store, "trees/")
        put(s3, key, s3.get(key, 1 << 20).replace(b'"a"', b'"x"'))
        error = fails(bucket, tmp_path)
        assert key in error.message and not (tmp_path / "back").exists()


class TestHostileObjects:
    @pytest.mark.parametrize(
        ("listing", "words"),
        [
            (b"x" * 35, "an index of 35 bytes"),
            (b"\xff" * 36, "no pack can hold"),
            (b"x" * 36 * 60_000, "are allowed"),
        ],
    )
    def test_a_wrong_index(self, bucket: BucketPlace, s3: S3, tmp_path: Path, listing: bytes, words: str) -> None:
        key = layout.index_key("ab" * 32)
        put(s3, key, listing)
        error = fails(bucket, tmp_path)
        assert key in error.message and words in error.message

    def test_an_index_that_lies_of_another_content(
        self, bucket: BucketPlace, store: Store, s3: S3, tmp_path: Path
    ) -> None:
        key = only(bucket, store, "index/")
        listing = s3.get(key, 1 << 20)
        put(s3, key, listing[36:68] + listing[32:36] + listing[:32] + listing[68:])  # a for b, and b for a
        error = fails(bucket, tmp_path)
        assert isinstance(error, SomeDamaged) and "`a` and 1 more are damaged" in error.message

    def test_a_name_that_is_not_a_digest(self, bucket: BucketPlace, s3: S3, tmp_path: Path) -> None:
        put(s3, "index/not-a-digest", b"")
        assert "index/not-a-digest" in fails(bucket, tmp_path).message

    @pytest.mark.parametrize(
        "data",
        [
            b"[]",
            b"{",
            b"[" * 60_000,
            b'{"version": 1}',
            json.dumps({"version": 2, "digest": "ab" * 32, "size": 1, "files": 1, "created": 1.0}).encode(),
            json.dumps({"version": 1, "digest": "../../x", "size": 1, "files": 1, "created": 1.0}).encode(),
            json.dumps({"version": 1, "digest": "ab" * 32, "size": -1, "files": 1, "created": 1.0}).encode(),
            b" " * (1 << 20),
        ],
    )
    def test_a_version_that_makes_no_sense(self, bucket: BucketPlace, s3: S3, tmp_path: Path, data: bytes) -> None:
        key = layout.version_key("doom", 1)
        put(s3, key, data)
        assert key in fails(bucket, tmp_path).message

    def test_names_that_are_paths_are_not_uploads(self, bucket: BucketPlace, s3: S3) -> None:
        version = s3.get(layout.version_key("doom", 1), 1 << 16)
        for name in (".hidden", "x" * 101, "a b", "sub/sub"):
            put(s3, f"uploads/{name}/00000001.json", version)
        with Talk(bucket) as talk:
            listed = talk.session.ask(api.uploads, api.Nothing()).uploads
        assert [item.name for item in listed] == ["doom"]

    @pytest.mark.parametrize(
        "said", [b"{", b"[]", b'{"format": 1}', b'{"format": 2, "home_id": "0123456789abcdef"}', b"x" * 10_000]
    )
    def test_an_identity_that_makes_no_sense(self, bucket: BucketPlace, s3: S3, said: bytes) -> None:
        put(s3, "remoterun.json", said)
        with pytest.raises(HostError, match="remoterun.json"):
            Talk(bucket)

    @pytest.mark.parametrize(
        "chunks",
        [
            {"size": 5, "chunks": [{"digest": "ab" * 32, "length": 6}]},
            {"size": 5, "chunks": [{"digest": "../x", "length": 5}]},
            {"size": 0, "chunks": [{"digest": "ab" * 32, "length": 0}]},
            {"size": 1 << 40, "chunks": [{"digest": "ab" * 32, "length": 1 << 40}]},
            {"size": 5},
        ],
    )
    def test_a_list_of_chunks_that_makes_no_sense(
        self, bucket: BucketPlace, s3: S3, tmp_path: Path, chunks: dict[str, Any]
    ) -> None:
        manifest, blobs = tree_of({"large": b"nowhere"})
        (digest,) = blobs
        key = layout.list_key(digest)
        put(s3, key, json.dumps(chunks).encode())
        put(s3, layout.tree_key(manifest.digest), manifest.encode())
        version = {"version": 2, "digest": manifest.digest, "size": 7, "files": 1, "created": 1.0}
        put(s3, layout.version_key("doom", 2), json.dumps(version).encode())
        assert key in fails(bucket, tmp_path).message

    def test_a_tree_that_leads_out(self, bucket: BucketPlace, s3: S3, tmp_path: Path) -> None:
        text = b'remoterun-tree 1\n["f","../evil",1,"%s",0]\n' % sha256(b"A").encode()
        put(s3, layout.tree_key(sha256(text)), text)
        version = {"version": 2, "digest": sha256(text), "size": 1, "files": 1, "created": 1.0}
        put(s3, layout.version_key("doom", 2), json.dumps(version).encode())
        error = fails(bucket, tmp_path)
        assert sha256(text) in error.message and not (tmp_path / "evil").exists()

    @pytest.mark.parametrize("status", [b"{", b"{}", b"[" * 100_000, b'{"status": {"key": "x"}}', b" " * (9 << 20)])
    def test_a_status_that_makes_no_sense(self, bucket: BucketPlace, s3: S3, status: bytes) -> None:
        key = f"runs/{KEY}/status.json"
        put(s3, key, status)
        with Talk(bucket) as talk:
            answer = talk.session.ask(api.runs, api.RunKeys([KEY]))
            assert not answer.runs and key in answer.unreadable[KEY]
            with pytest.raises(HostError, match=key):
                talk.session.ask(api.run, api.RunKey(KEY))

    def test_a_damaged_index_here_is_read_again(self, bucket: BucketPlace, tmp_path: Path) -> None:
        """What is kept on this machine is verified, too."""
        cache = tmp_path / "cache"
        source = write_files(tmp_path / "source", FILES)
        with Talk(bucket, cache) as talk:
            send(talk.session, source)
        (kept,) = (path for path in cache.rglob("*") if path.is_file())
        kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
        with Talk(bucket, cache) as talk:
            fetch(talk.session, ResourceRef("upload", "doom"), tmp_path / "back", refuse, Progress())
