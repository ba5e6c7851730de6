"""The upkeep of a home in a bucket: it is made, examined, measured, cleared of what nothing needs, verified, mended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import SMALL
from remoterun.agent.shared.spec import MountSpec, ResourceRef
from remoterun.agent.shared.states import Reason, RunState
from remoterun.buckets import creation
from remoterun.buckets.place import BucketPlace
from remoterun.buckets.upkeep import LEAST
from remoterun.client.upkeep import Collected, check, collect, usage
from remoterun.errors import AlreadyExists, RemoterunError
from remoterun.registry import Registry
from remoterun.transfer import Progress
from tests.cloud.test_bucket import copy, keys, send
from tests.cloud.test_bucket_runs import KEY, Host, next_second
from tests.seaweed import READER, READER_SECRET, SMALL_CHUNK, Store, Talk, asked, credentials
from tests.workshop import Files, sha256, spec_of, write_files

FILES: Files = {"a": b"A" * 1000, "b": b"B" * 2000, "blob": b"C" * (SMALL + 1)}
LARGE = os.urandom(SMALL_CHUNK) + b"end"

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry.db", lambda _: None)
    yield registry
    registry.close()


def later(talk: Talk, seconds: float) -> None:
    """What the conversation takes for now is so much later."""
    talk.bucket.clock = lambda: time.time() + seconds


class TestCreation:
    def test_it_may_be_repeated_and_is_a_home_then(self, store: Store) -> None:
        place = BucketPlace(creation.new_name("123456789012"), "us-east-1", store.url)
        assert creation.create(place) == creation.create(place) == place
        with Talk(place) as talk:
            assert talk.session.ask(api.uploads, api.Nothing()).uploads == []
        client = store.client()
        (rule,) = client.get_bucket_lifecycle_configuration(Bucket=place.name)["Rules"]
        assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == creation.ABORT_DAYS
        client.close()
        store.delete_bucket(place.name)

    def test_on_amazon_it_is_private(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of what SeaweedFS does not know, moto does."""
        from moto import mock_aws

        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        with credentials(), mock_aws():
            place = BucketPlace(creation.new_name("123456789012"), "eu-central-1")
            creation.create(place)
            creation.create(place)
            checks = {check.name: check for check in creation.checks(place)}
            other = BucketPlace(place.name, "us-east-1")
            assert checks["private"].ok and checks["encrypted"].ok and checks["region"].ok
            assert checks["permissions"].ok and checks["bucket"].ok
            assert {check.name: check for check in creation.checks(other)}["region"].ok is False
            with asked(other) as s3:
                s3.find_region()
                assert s3.region == "eu-central-1" and "eu-central-1" in s3.presigned_get("x", 60)

    def test_a_name_that_somebody_else_has(self, store: Store, bucket: BucketPlace) -> None:
        from botocore.exceptions import ClientError

        from remoterun.buckets import s3

        taken = {"Error": {"Code": "BucketAlreadyExists"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
        error = s3._told(ClientError(taken, "CreateBucket").response, bucket, "CreateBucket", "")
        assert isinstance(error, AlreadyExists) and bucket.name in error.message


class TestDoctor:
    def test_all_is_well(self, bucket: BucketPlace) -> None:
        with Talk(bucket):
            checks = {check.name: check for check in creation.checks(bucket)}
        assert checks["bucket"].ok and checks["permissions"].ok and checks["clock"].ok and checks["region"].ok
        assert all(check.ok is not False for check in checks.values())

    def test_what_is_missing_is_named(self, bucket: BucketPlace, store: Store) -> None:
        with credentials(READER, READER_SECRET):
            checks = {check.name: check for check in creation.checks(bucket)}
        assert checks["permissions"].ok is False and "s3:PutObject, s3:DeleteObject" in checks["permissions"].detail
        assert f"arn:aws:s3:::{bucket.name}/*" in str(checks["permissions"].fix)
        (nowhere,) = creation.checks(BucketPlace("nowhere-at-all", "us-east-1", store.url))
        assert nowhere.ok is False and "there is no bucket" in nowhere.detail
        (unset,) = creation.checks(None)
        assert unset.ok is None
        with credentials("NOBODY"):
            (refused,) = creation.checks(bucket)
        assert refused.ok is False and "does not accept" in refused.detail

    def test_the_clock_is_off(self, bucket: BucketPlace) -> None:
        checks = {check.name: check for check in creation.checks(bucket, clock=lambda: time.time() + 600)}
        assert checks["clock"].ok is False and "s ahead" in checks["clock"].detail


class TestUsage:
    def test_who_uses_what(self, bucket: BucketPlace, registry: Registry, tmp_path: Path) -> None:
        with Talk(bucket) as talk:
            send(talk.session, write_files(tmp_path / "one", {"a": b"A" * 1000, "b": b"B" * 2000}), "one")
            send(talk.session, write_files(tmp_path / "two", {"b": b"B" * 2000, "l": LARGE}), "two")
            send(talk.session, write_files(tmp_path / "gone", {"g": b"G" * 500}), "gone")
            talk.session.ask(api.remove_upload, api.RemoveUpload("gone"))
            host = Host(talk)
            host.outputs({"o": b"O" * 700})
            host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
            found = usage(talk.session, registry)
            stored = sum(stored.size for stored in talk.bucket.s3.list(""))
        uses = {(use.kind, use.name): use for use in found.uses}
        one, two = uses["upload", "one"], uses["upload", "two"]
        assert 3000 < one.size < 3500 and 1000 < one.alone < 1500
        assert 2000 + len(LARGE) < two.size < 2500 + len(LARGE) and two.alone < len(LARGE) + 500
        assert uses["unreferenced", ""].size == 500 and uses["run", KEY].size > 700
        assert found.total == stored and found.blobs["shared"] == {"count": 1, "bytes": 2000}


class TestCollection:
    def collect(self, talk: Talk, registry: Registry, keep: int | None = None, dry_run: bool = False) -> Collected:
        return collect(talk.session, registry, keep, False, None, dry_run)

    def test_what_nothing_needs_is_deleted_once_it_is_old(
        self, bucket: BucketPlace, store: Store, registry: Registry, tmp_path: Path
    ) -> None:
        source = write_files(tmp_path / "source", {**FILES, "large": LARGE})
        with Talk(bucket) as talk:
            send(talk.session, source, "gone")
            send(talk.session, write_files(tmp_path / "stays", {"other": b"O" * 100}), "stays")
            talk.session.ask(api.remove_upload, api.RemoveUpload("gone"))
            young = self.collect(talk, registry)
            assert young.freed == 0 and "less than 7 days ago" in young.kept[0].why
            later(talk, 8 * 86400)
            before = keys(bucket, store)
            told = self.collect(talk, registry, dry_run=True)
            assert told.freed > len(LARGE) and keys(bucket, store) == before
            assert self.collect(talk, registry).freed == told.freed
            assert self.collect(talk, registry).freed == 0
            left = keys(bucket, store)
            assert not [key for key in left if key.startswith(("blobs/", "lists/"))]
            assert len([key for key in left if key.startswith(("packs/", "index/", "trees/"))]) == 3
            assert copy(talk.session, tmp_path / "back", "stays") == {"other": b"O" * 100}
            send(talk.session, source, "again")
            assert copy(talk.session, tmp_path / "again", "again") == {**FILES, "large": LARGE}

    def test_chunks_that_another_file_has_stay(self, bucket: BucketPlace, registry: Registry, tmp_path: Path) -> None:
        with Talk(bucket) as talk:
            send(talk.session, write_files(tmp_path / "one", {"large": LARGE}), "one")
            send(talk.session, write_files(tmp_path / "two", {"large": LARGE + b"more"}), "two")
            talk.session.ask(api.remove_upload, api.RemoveUpload("one"))
            later(talk, 8 * 86400)
            self.collect(talk, registry)
            assert copy(talk.session, tmp_path / "back", "two") == {"large": LARGE + b"more"}

    def test_old_versions(self, bucket: BucketPlace, registry: Registry, tmp_path: Path) -> None:
        with Talk(bucket) as talk:
            for number in range(4):
                send(talk.session, write_files(tmp_path / "source", {"a": b"%d" % number}))
            first = talk.session.versions("doom")[0]
            read = MountSpec("uploads/doom@1", "in", "in", ResourceRef("upload", "doom", digest=first.digest))
            host = Host(talk)
            spec = spec_of(mounts=(read,))._replace(key=KEY).encode()
            talk.bucket.s3.put(layout.run_prefix(KEY) + "spec.json", [spec], sha256(spec))
            host.event(RunState.RUNNING)
            told = self.collect(talk, registry, keep=2)
            assert [item["version"] for item in told.parts[0].items] == [2], "a run reads the first one"
            host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
            told = self.collect(talk, registry, keep=2)
            assert [item["version"] for item in told.parts[0].items] == [1]
            assert [version.version for version in talk.session.versions("doom")] == [3, 4]
            send(talk.session, write_files(tmp_path / "source", {"a": b"new"}))
            assert talk.session.versions("doom")[-1].version == 5

    def test_an_upload_makes_young_again_what_it_relies_on(
        self, bucket: BucketPlace, registry: Registry, tmp_path: Path
    ) -> None:
        """Between its question and its commit nothing refers to what was there: a clean-up leaves it."""
        source = write_files(tmp_path / "source", {**FILES, "large": LARGE})
        with Talk(bucket) as talk:
            send(talk.session, source, "gone")
            talk.session.ask(api.remove_upload, api.RemoveUpload("gone"))
            before = {stored.key: stored.modified for stored in talk.bucket.s3.list("")}
        with Talk(bucket) as talk:
            later(talk, LEAST - 1)
            next_second()
            send(talk.session, source)
            after = {stored.key: stored.modified for stored in talk.bucket.s3.list("")}
        relied = [key for key in before if key.startswith(("blobs/", "lists/", "packs/", "index/"))]
        assert len(relied) == 6 and all(after[key] > before[key] for key in relied)

    def test_what_was_deleted_under_an_upload_is_an_error_and_sent_again(
        self, bucket: BucketPlace, tmp_path: Path
    ) -> None:
        source = write_files(tmp_path / "source", FILES)
        with Talk(bucket) as talk:
            send(talk.session, source, "gone")
            talk.session.ask(api.remove_upload, api.RemoveUpload("gone"))
            later(talk, LEAST)
            s3 = talk.bucket.s3
            s3.delete([stored.key for prefix in ("packs/", "index/", "blobs/") for stored in s3.list(prefix)])
            with pytest.raises(RemoterunError, match="was deleted just now"):
                send(talk.session, source)
            assert send(talk.session, source).created
            assert copy(talk.session, tmp_path / "back") == FILES


class TestCheck:
    def test_a_bucket_without_damage(self, bucket: BucketPlace, registry: Registry, tmp_path: Path) -> None:
        with Talk(bucket) as talk:
            send(talk.session, write_files(tmp_path / "source", {**FILES, "large": LARGE}))
            Host(talk).outputs({"o": b"O"})
            found = check(talk.session, registry, True, Progress())
        assert found.sound and not found.damage and found.blobs == 6

    def test_what_can_t_be_mended_is_sent_again_by_the_next_upload(
        self, bucket: BucketPlace, registry: Registry, tmp_path: Path
    ) -> None:
        source = write_files(tmp_path / "source", FILES)
        with Talk(bucket) as talk:
            send(talk.session, source)
            self.damage(talk, "packs/")
        with Talk(bucket) as talk:
            found = check(talk.session, registry, True, Progress())
            assert not found.sound and found.damage[0].problem == "damaged"
            assert talk.session.versions("doom")[0].damaged
            assert send(talk.session, source).version.version == 2
            assert copy(talk.session, tmp_path / "back") == FILES

    def test_an_index_that_makes_no_sense_is_set_aside(
        self, bucket: BucketPlace, registry: Registry, tmp_path: Path
    ) -> None:
        source = write_files(tmp_path / "source", FILES)
        with Talk(bucket) as talk:
            send(talk.session, source)
            talk.bucket.s3.put(layout.index_key("ab" * 32), [b"x"], sha256(b"x"))
        with Talk(bucket) as talk:
            found = check(talk.session, registry, True, Progress())
            assert found.damage[0].what == "list"
            assert copy(talk.session, tmp_path / "back") == FILES

    def test_what_a_run_left(self, bucket: BucketPlace, registry: Registry) -> None:
        with Talk(bucket) as talk:
            host = Host(talk)
            host.outputs({"o": b"O" * 100, "p": b"P" * 100})
            host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
            self.damage(talk, f"runs/{KEY}/packs/")
            found = check(talk.session, registry, True, Progress())
        assert [place["path"] for place in found.damage[0].places] == ["o"] and not found.sound

    def damage(self, talk: Talk, prefix: str) -> None:
        """One bit of the first object."""
        stored = next(talk.bucket.s3.list(prefix))
        data = bytearray(talk.bucket.s3.get(stored.key, 1 << 22))
        data[5] ^= 1
        talk.bucket.s3.put(stored.key, [bytes(data)], sha256(bytes(data)))
