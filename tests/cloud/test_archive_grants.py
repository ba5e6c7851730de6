"""A host and a real S3 server, with what its client signs: what one side writes in the archive, the other reads."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.archive import PACK, SignedObject, image_prefix, run_prefix
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.records import encode, from_json
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.submission import Submission
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import host_role
from remoterun.agent.store.home import Home
from remoterun.agent.store.http_client import HttpClient, HttpError
from remoterun.agent.store.objects import Content, post
from remoterun.archive import Archive, grants, runs
from remoterun.archive.objects import BucketPlace
from remoterun.archive.runs import RunPlace
from remoterun.archive.s3 import S3, UNKNOWN
from remoterun.archive_store import ArchivedRun
from remoterun.log_cache import LogCache
from remoterun.transfer import Progress, read_tree
from tests.metadata_service import metadata_service
from tests.seaweed import KEY as KEY_ID
from tests.seaweed import SECRET, opened
from tests.workshop import Files, Place, served, sha256, tree_of, write_files

KEY = "0" * 26
WRITER = "AROAEXAMPLE:i-0123456789abcdef0"
MAKES = f"""
mkdir -p many; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo "$i" >many/$i; done
head -c 2000000 /dev/zero >middle; head -c {2 * PACK + 1000} /dev/urandom >large; : >empty
echo "#!/bin/sh" >tool; chmod 755 tool; ln -s middle link; mkdir folder
seq 1 2000
"""


@pytest.fixture
def archive(bucket: BucketPlace) -> Iterator[Archive]:
    with opened(bucket) as archive:
        yield archive


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Iterator[Place]:
    """A host that rents nothing, unlike the `place` of the other tests here."""
    with contextlib.closing(Place(tmp_path / "home", environment)) as place:
        yield place


def submit(place: Place, archive: Archive, command: str, seconds: float = 600) -> str:
    spec = place.spec(command, bucket=archive.address)
    grant = grants.grant_for_run(archive, RunPlace(spec.key), seconds)
    place.session.ask(api.submit, api.Nothing(), Submission(spec, {}, Manifest([]).encode(), grant).encode())
    return spec.key


def signed(archive: Archive, key: str, seconds: float = 60) -> list[SignedObject]:
    """What a host is sent that shall download the outputs of a run."""
    prefix, tree = runs.read_run_tree(archive, RunPlace(key), "outputs")
    digests = [entry.digest for entry in tree.manifest.files]
    return list(grants.downloads(archive, prefix, tree, digests, seconds))


def download(home: Home, lines: list[SignedObject]) -> tuple[int, list[int]]:
    """(contents that have come, the bytes that were reported meanwhile)."""
    with served(home) as link:
        stream = link.open("download")
        for line in lines:
            stream.send(encode(line))
        stream.end()
        reported = [frame.header["at"] for frame in stream]
        return from_json(api.Count, stream.result).blobs, reported


class TestFromHostToHost:
    def test_a_run_is_read_from_the_archive_and_its_outputs_reach_another_host(
        self, place: Place, archive: Archive, tmp_path: Path
    ) -> None:
        key = submit(place, archive, MAKES)
        assert place.until_final(key, 120)["kept"]
        manifest = tree_of(place.outputs(key))[0]
        details = runs.details(archive, RunPlace(key))
        assert details.status == place.run(key).status() and details.status.state is RunState.COMPLETE
        copied = ArchivedRun(archive, RunPlace(key), LogCache(tmp_path / "client", 1 << 20))
        assert copied.log_part(api.LogPart(key))[2] == place.log(key)
        lines = signed(archive, key)
        assert len(lines) < 10, "what lies side by side is signed once"
        home = Home.open(str(tmp_path / "another"))
        count, reported = download(home, lines)
        assert count == 300 + 3 and reported == sorted(reported)
        assert not home.blobs.missing(manifest) and os.listdir(home.partial) == []
        for entry in manifest.files:
            assert sha256(Path(home.blobs.path(entry.digest)).read_bytes()) == entry.digest

    def test_an_address_gives_the_contents_that_it_is_for_and_no_others(self, archive: Archive, tmp_path: Path) -> None:
        """Not what else lies in the same pack, before, after or between them."""
        files: Files = {"a/open": b"A" * 60, "b/secret": b"B" * 50, "c/open": b"C" * 60, "d/secret": b"D" * 50}
        digests = [sha256(letter * size) for letter, size in ((b"A", 60), (b"B", 50), (b"C", 60), (b"D", 50))]
        with read_tree(write_files(tmp_path / "files", files)) as reading:
            tree = runs.put_run_tree(archive, KEY, "source", reading, Progress())
        assert len(tree.packs) == 1
        given = [digest for name, digest in zip(files, digests, strict=True) if name.endswith("open")]
        lines = list(grants.downloads(archive, run_prefix(KEY), tree, given, 60))
        for line in lines:
            for wanted in ({}, {"Range": "bytes=0-219"}, {"Range": "bytes=60-109"}):
                with HttpClient() as web, pytest.raises(HttpError) as caught, web.ask("GET", line.url, wanted):
                    pass
                assert caught.value.status == 403
        home = Home.open(str(tmp_path / "home"))
        assert download(home, lines)[0] == 2
        assert [home.blobs.has(digest) for digest in digests] == [True, False, True, False]

    def test_an_address_that_has_expired(self, place: Place, archive: Archive, tmp_path: Path) -> None:
        key = submit(place, archive, "echo x >out")
        assert place.until_final(key)["kept"]
        lines = signed(archive, key, 1)
        time.sleep(2.5)
        with pytest.raises(RemoteError) as caught:
            download(Home.open(str(tmp_path / "another")), lines)
        assert caught.value.code == "expired", caught.value.message


class TestGrants:
    def test_a_host_writes_below_its_run_and_nowhere_else(self, archive: Archive) -> None:
        grant = grants.grant_for_run(archive, RunPlace(KEY), 600)
        with HttpClient() as web:
            post(web, grant, "log/0000000000000000", Content.of(b"mine"))
            for prefix in (run_prefix("1" * 26), "uploads/doom/", "envs/", "images/", ""):
                with pytest.raises(HttpError) as caught:
                    post(web, grant._replace(prefix=prefix), "x", Content.of(b"x"))
                assert caught.value.status in (400, 403)
        assert [stored.key for stored in archive.objects.list("")][:-1] == ["remoterun.json"]

    def test_the_parts_of_one_image_and_nothing_else(self, archive: Archive) -> None:
        grant = grants.image_access(archive, "remoterun-base:0123456789abcdef", "x86_64", 600).grant
        assert grant is not None and grant.prefix == image_prefix(image_id("remoterun-base:0123456789abcdef", "x86_64"))
        with HttpClient() as web:
            post(web, grant, sha256(b"x") + "/0", Content.of(b"x"))
            for prefix in (image_prefix(image_id("another", "x86_64")), grant.prefix[:-1], "images/", "uploads/doom/"):
                with pytest.raises(HttpError):
                    post(web, grant._replace(prefix=prefix), "x", Content.of(b"x"))

    def test_what_did_not_arrive_as_it_was_sent_is_refused(self, archive: Archive) -> None:
        grant = grants.grant_for_run(archive, RunPlace(KEY), 600)
        with HttpClient() as web, pytest.raises(HttpError, match="BadDigest"):
            post(web, grant, "x", Content.of(b"sent")._replace(digest=sha256(b"meant")))
        assert not list(archive.objects.list("runs/"))

    def test_it_says_until_when(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the keys of a user a week holds; what ends with a session ends with that."""
        archive.clock = lambda: 1000.0
        assert grants.expires(archive, 60) == 1060.0
        assert grants.expires(archive, 1e9) == 1000.0 + grants.LONGEST
        assert grants.grant_for_run(archive, RunPlace(KEY), 1e9).expires == 1000.0 + grants.LONGEST
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-some-session")
        with_token = Archive(S3(archive.objects.place), archive.id)
        assert abs(grants.expires(with_token, 1e9) - time.time() - UNKNOWN) < 60
        with_token.close()

    def test_by_the_role_of_its_host(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        """Credentials come from the metadata service, anew shortly before they end, and once they were refused. What
        the role may not do is done by the client's form, as long as that holds."""
        given = grants.grant_for_run(archive, RunPlace(KEY, (WRITER,)), 1e9)
        assert given.expires > time.time() + 9e8
        grant = given._replace(fields={})
        with metadata_service() as service, HttpClient() as web:
            monkeypatch.setenv(host_role.ELSEWHERE, service.address)

            def fetched() -> int:
                return service.asked.count("GET meta-data/iam/security-credentials/remoterun-host")

            with pytest.raises(HttpError, match="gives no credentials of a role") as caught:
                post(web, grant, "x", Content.of(b"x"))
            assert caught.value.refused
            service.failing = True
            with pytest.raises(HttpError, match="gives no credentials of a role") as caught:
                post(web, grant, "x", Content.of(b"x"))
            assert caught.value.passing and not caught.value.refused
            service.failing = False
            service.key, service.secret, service.lasts = "another", "secret", host_role.SOON - 1
            with pytest.raises(HttpError, match="InvalidAccessKeyId") as caught:
                post(web, grant, "x", Content.of(b"x"))
            assert caught.value.refused and fetched() == 1
            service.key, service.secret = KEY_ID, SECRET
            for number in range(2):
                post(web, grant, "x", Content.of(b"%d" % number))
            assert fetched() == 3
            service.lasts = 3600
            for number in range(3):
                post(web, grant, f"log/{number}", Content.of(b"%d" % number))
            assert fetched() == 4
            host_role.ROLE.known, service.secret = None, "of a role that may not write"
            post(web, given, "log/2", Content.of(b"by the form"))
            given.fields["x-amz-signature"] = "0" * 64
            with pytest.raises(HttpError) as caught:
                post(web, given, "log/3", Content.of(b"by nobody"))
            assert caught.value.refused
        folder = f"hosts/{WRITER}/{KEY}/"
        assert [one.key.removeprefix(folder) for one in archive.objects.list("hosts/")] == [
            "log/0",
            "log/1",
            "log/2",
            "x",
        ]
        assert [archive.objects.get(folder + name, 99) for name in ("x", "log/2")] == [b"1", b"by the form"]
