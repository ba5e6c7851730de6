"""A host and a real S3 server, with what its client signs for it: what one side writes there, the other one reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.bucket import CHUNK, SMALL, BringLine, run_prefix
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import bucket_download
from remoterun.agent.store.home import Home
from remoterun.agent.store.posting import takes_checksum
from remoterun.buckets.grants import Signer
from remoterun.buckets.host import BucketHost
from remoterun.buckets.place import BucketPlace
from remoterun.errors import UsageError
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.transfer import Progress, fetch, refuse
from tests.conftest import require
from tests.seaweed import Store, credentials, program, seaweed
from tests.workshop import Place, read_files, served, sha256, tree_of, until

MAKES = f"""
mkdir -p many; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo "$i" >many/$i; done
head -c {SMALL + 7} /dev/zero >blob; head -c {CHUNK + 1000} /dev/urandom >large; : >empty
echo "#!/bin/sh" >tool; chmod 755 tool; ln -s blob link; mkdir folder
seq 1 2000
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    require(None if program() else "SeaweedFS is not installed")
    with credentials(), seaweed(tmp_path_factory.mktemp("seaweed") / "store") as store:
        yield store


@pytest.fixture
def bucket(store: Store) -> BucketPlace:
    return store.new_bucket()


@contextmanager
def signer(bucket: BucketPlace) -> Iterator[Signer]:
    host = BucketHost(bucket)
    opened = host.bucket()
    try:
        yield Signer(opened)
    finally:
        opened.close()


@contextmanager
def talk(bucket: BucketPlace) -> Iterator[Session]:
    session = Session(MachineType("aws", bucket=bucket.address), BucketHost(bucket))
    try:
        yield session
    finally:
        session.close()


def submit(place: Place, bucket: BucketPlace, command: str, seconds: float = 600) -> str:
    spec = place.spec(command, bucket=bucket.address)
    with signer(bucket) as signs:
        grant = signs.grant(spec.key, seconds)
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, Manifest([]).encode(), grant).encode())
    return spec.key


def until_waits(place: Place, key: str, text: str) -> None:
    until(lambda: text in (place.run(key).status().note or ""), what=lambda: str(place.run(key).events()))


def test_a_run_is_read_from_its_bucket_and_its_outputs_reach_another_host(
    place: Place, bucket: BucketPlace, tmp_path: Path
) -> None:
    key = submit(place, bucket, MAKES)
    assert place.until_final(key, 60)["kept"]
    made = place.outputs(key)
    with talk(bucket) as session:
        told = session.ask(api.run, api.RunKey(key))
        assert told.status == place.run(key).status() and told.status.state is RunState.COMPLETE
        fetch(session, ResourceRef("run", key=key), tmp_path / "back", refuse, Progress())
        with session.stream(api.follow, api.Follow(key)) as stream:
            stream.end()
            log = b"".join(bytes(frame.body) for frame in stream if "log" in frame.header)
    assert read_files(tmp_path / "back") == made
    assert log == place.log(key)
    digests = [entry.digest for entry in tree_of(made)[0].files]
    home = Home.open(str(tmp_path / "another"))
    with signer(bucket) as signs, served(home) as link:
        lines = list(signs.parcels(digests, 60, key))
        stream = link.open("bring")
        stream.send(b"".join(api_line(line) for line in lines))
        stream.end()
        stream.finish(60)
    assert not home.blobs.missing(tree_of(made)[0])
    assert sha256(Path(home.blobs.path(sha256(b""))).read_bytes()) == sha256(b"")


def api_line(line: BringLine) -> bytes:
    return json.dumps(to_json(line)).encode() + b"\n"


def test_a_grant_that_expires_is_waited_for(place: Place, bucket: BucketPlace) -> None:
    key = submit(place, bucket, "sleep 1.5; echo x >out", 1)
    until_waits(place, key, "the permission has expired; any `remoterun ps` renews it")
    with signer(bucket) as signs:
        place.session.ask(api.renew, api.Renewal(key, signs.grant(key, 60)))
    assert place.until_final(key)["kept"]


def test_one_of_another_run_is_refused(place: Place, bucket: BucketPlace) -> None:
    spec = place.spec("echo x >out", bucket=bucket.address)
    with signer(bucket) as signs:
        grant = signs.grant("anotherrun00", 60)._replace(prefix=run_prefix(spec.key))
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, Manifest([]).encode(), grant).encode())
    until_waits(place, spec.key, "waiting for the bucket")
    with talk(bucket) as session:
        assert session.ask(api.runs, api.RunKeys([spec.key])).runs == []
    place.end(spec.key, "stop")
    assert not place.until_final(spec.key)["kept"]


def test_the_server_refuses_a_content_that_has_changed(place: Place, bucket: BucketPlace) -> None:
    """It is told each object's SHA-256, by the policy that the client has signed."""
    with signer(bucket) as signs:
        assert takes_checksum(signs.grant("01234567", 60))
    key = submit(place, bucket, f"head -c {SMALL + 7} /dev/zero >blob; echo made; sleep 1000")
    place.until_says(key, b"made")
    blob = Path(place.home.blobs.path(sha256(bytes(SMALL + 7))))
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"x" * (SMALL + 7))  # `outputs.save` finds it there
    place.end(key, "stop")
    until_waits(place, key, "waiting for the bucket")
    assert "BadDigest" in (place.run(key).status().note or "")
    with talk(bucket) as session, pytest.raises(UsageError, match="are not in the bucket"):
        fetch(session, ResourceRef("run", key=key), place.folder / "back", refuse, Progress())
    place.end(key, "kill")
    place.until_final(key)


def test_an_address_that_has_expired(bucket: BucketPlace, place: Place, tmp_path: Path) -> None:
    key = submit(place, bucket, "echo x >out")
    assert place.until_final(key)["kept"]
    with signer(bucket) as signs, served(Home.open(str(tmp_path / "another"))) as link:
        (line,) = signs.parcels([sha256(b"x\n")], 1, key)
        time.sleep(2.5)
        stream = link.open("bring")
        stream.send(api_line(line))
        stream.end()
        with pytest.raises(RemoteError) as caught:
            stream.finish(60)
    assert caught.value.code == "expired", caught.value.message


def test_a_large_content_is_brought_by_many_connections(
    bucket: BucketPlace, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = submit(place, bucket, f"head -c {2 * CHUNK + 1000} /dev/urandom >large")
    assert place.until_final(key, 120)["kept"]
    (entry,) = tree_of(place.outputs(key))[0].files
    home = Home.open(str(tmp_path / "another"))
    monkeypatch.setattr(bucket_download, "TICK", 0.02)
    with signer(bucket) as signs, served(home) as link:
        stream = link.open("bring")
        stream.send(b"".join(api_line(line) for line in signs.parcels([entry.digest], 60, key)))
        stream.end()
        told = [frame.header["at"] for frame in stream]
    assert home.blobs.size(entry.digest) == 2 * CHUNK + 1000 and told == sorted(told)
    assert os.listdir(home.partial) == []
