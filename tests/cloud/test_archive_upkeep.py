"""The upkeep of the archive: its bucket is made and examined; it is measured, cleared of what is unneeded, verified."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared.archive import Take, image_key, image_prefix
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.spec import MountSpec, ResourceRef
from remoterun.agent.shared.states import BuiltImage, Reason, RunState
from remoterun.archive import Archive, creation, grants, runs, upkeep, uploads
from remoterun.archive.objects import BucketPlace
from remoterun.archive.upkeep import LEAST, UNUSED, check, collect, usage
from remoterun.client import Client
from remoterun.client.upkeep.rented_hosts import NewBucket
from remoterun.clouds.ledger import archiving
from remoterun.config import HOME_VARIABLE, ArchivePlace, Config, load
from remoterun.errors import HostError, TransferError
from tests.cloud.archives import KEY, OTHER, SMALL_PACK, Host, get, keys, packs, put  # noqa: F401
from tests.seaweed import READER, READER_SECRET, Store, asked, credentials, opened, s3_of
from tests.workshop import Files, read_files, sha256, spec_of, write_files

FILES: Files = {"a": b"A" * 1000, "b": b"B" * 2000, "large": b"C" * (SMALL_PACK + 1)}
IMAGE = "remoterun-base:0123456789abcdef"
DAY = 86400.0

pytestmark = pytest.mark.usefixtures("small_packs")


@pytest.fixture
def archive(bucket: BucketPlace) -> Iterator[Archive]:
    with opened(bucket) as archive:
        yield archive


def later(archive: Archive, seconds: float) -> None:
    archive.clock = lambda: time.time() + seconds


def ended(archive: Archive, key: str = KEY) -> Host:
    host = Host(archive, key)
    host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
    return host


class TestCreation:
    def test_it_may_be_repeated_and_is_an_archive_then(self, store: Store) -> None:
        place = BucketPlace(creation.name_for("123456789012", "us-east-1", store.url, None)[0], "us-east-1", store.url)
        creation.create(place)
        creation.create(place)
        with opened(place) as archive:
            assert uploads.newest(archive) == []
        named = creation.name_for("123456789012", "us-east-1", store.url, None)
        assert named == (place.name, "us-east-1") == creation.name_for("123456789012", "us-east-1", store.url, None)
        for _ in range(2):
            creation.remove(place)
        assert creation.name_for("123456789012", "us-east-1", store.url, None) == (place.name, None)

    def test_on_amazon_it_is_found_in_its_region(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Of what SeaweedFS does not know, moto does. Hosts may be in another one."""
        from moto import mock_aws

        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        with credentials(), mock_aws():
            name, region = creation.name_for("123456789012", "eu-central-1", None, None)
            place = BucketPlace(name, "eu-central-1")
            creation.create(place)
            creation.create(place)
            assert region is None
            assert creation.name_for("123456789012", "us-west-2", None, None) == (name, "eu-central-1")
            with asked(place) as s3:
                s3.tag({"mine": "too"})
                found = s3._client.get_bucket_tagging(Bucket=name)["TagSet"]
                assert {tag["Key"] for tag in found} == {"remoterun", "mine"}
            checks = {check.name: check for check in creation.checks(place)}
            other = BucketPlace(place.name, "us-east-1")
            assert checks["permissions"].ok and checks["bucket"].detail == f"s3://{name} in eu-central-1"
            assert creation.checks(other) == creation.checks(place)
            with asked(other) as s3:
                s3.find_region()
                assert s3.region == "eu-central-1" and "eu-central-1" in s3.presigned_get("x", 60)
                versioned = {"Status": "Enabled"}
                s3._client.put_bucket_versioning(Bucket=name, VersioningConfiguration=versioned)
                for data in (b"one", b"two"):
                    s3.put("twice", data)
                s3.delete(["twice"])
            with Client(Config(tmp_path)) as client:
                new = client.hosts.bucket()
                assert new == NewBucket(name, "eu-central-1", exists=True)
                client.hosts.make_bucket(new)
                assert archiving.bucket_region(client.connections) == "eu-central-1"
            assert load({HOME_VARIABLE: str(tmp_path)}).archive == ArchivePlace(name, "eu-central-1")
            creation.remove(place)
            assert creation.name_for("123456789012", "eu-central-1", None, None) == (name, None)


class TestDoctor:
    def test_all_is_well(self, bucket: BucketPlace, archive: Archive) -> None:
        checks = {check.name: check for check in creation.checks(bucket)}
        assert checks["bucket"].ok and checks["permissions"].ok
        assert all(check.ok is not False for check in checks.values())

    def test_what_is_missing_is_named(self, bucket: BucketPlace, store: Store) -> None:
        with credentials(READER, READER_SECRET):
            checks = {check.name: check for check in creation.checks(bucket)}
        assert checks["permissions"].ok is False and "s3:PutObject, s3:DeleteObject" in checks["permissions"].detail
        assert bucket.name in checks["permissions"].detail
        assert "remoterun doctor aws --policy" in str(checks["permissions"].fix)
        (nowhere,) = creation.checks(BucketPlace("nowhere-at-all", "us-east-1", store.url))
        assert nowhere.ok is False and "there is no bucket" in nowhere.detail
        (unset,) = creation.checks(None)
        assert unset.ok is None
        with credentials("NOBODY"):
            (refused,) = creation.checks(bucket)
        assert refused.ok is False and "are not accepted" in refused.detail


def test_what_hosts_with_a_role_have_written(archive: Archive, tmp_path: Path) -> None:
    """It counts with its run, is verified and cleared with it; what no run names goes once it is old."""
    place = runs.RunPlace(KEY, ("AROAEXAMPLE:i-1", "AROAEXAMPLE:i-2"))
    runs.put_spec(archive, place, spec_of("true", key=KEY).encode())
    hosts = [Host(archive, KEY, writer) for writer in (*place.writers, "AROAEXAMPLE:i-3")]
    for number, host in enumerate(hosts):
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        host.tree(tmp_path / str(number), {"o": b"%d" % number * 700})
    archive.objects.put(hosts[0].folder + "packs/" + "0" * 64, b"cut")
    rows = {(row["kind"], row["name"]): row for row in usage(archive)}
    assert (
        rows["run", KEY]["size"] > 1400 and rows["run", KEY]["state"] == "complete" and rows["other", ""]["size"] > 700
    )
    assert sum(row["size"] for row in rows.values()) == sum(stored.size for stored in archive.objects.list(""))
    assert check(archive, mark=False) == (2, 1400, [])
    later(archive, LEAST - 60)
    assert sum(part.count for part in collect(archive, None, dry_run=False) if not part.why) == 0
    later(archive, LEAST + 60)
    archive.objects.put(f"runs/{OTHER}/hosts", b"nobody can read it")
    archive.objects.put(f"hosts/AROAEXAMPLE:i-4/{OTHER}/status.json", b"which may be of that run")
    (freed,) = collect(archive, None, dry_run=False)
    assert (freed.kind, freed.count) == ("blobs", 4)
    assert not [*archive.objects.list(hosts[2].folder)] and [*archive.objects.list("hosts/AROAEXAMPLE:i-4/")]
    archive.objects.delete([stored.key for stored in archive.objects.list(hosts[1].folder + "packs/")])
    (fault,) = check(archive, mark=False)[2]
    assert fault["problem"] == "missing" and fault["users"][0]["run"] == KEY and fault["users"][0]["path"] == "o"


def test_who_uses_what(archive: Archive, tmp_path: Path) -> None:
    put(archive, write_files(tmp_path / "one", {"a": b"A" * 1000, "b": b"B" * 2000}), "one")
    put(archive, write_files(tmp_path / "two", {"b": b"B" * 2000}), "two")
    ended(archive).tree(tmp_path / "outputs", {"o": b"O" * 700})
    grants.record_image(archive, BuiltImage(IMAGE, sha256(b"image"), 500), "x86_64")
    archive.objects.put(image_prefix(image_id(IMAGE, "x86_64")) + "x/0", b"x" * 500)
    rows = {(row["kind"], row["name"]): row for row in usage(archive)}
    assert 3000 < rows["upload", "one"]["size"] < 3600 and 2000 < rows["upload", "two"]["size"] < 2500
    assert [version["files"] for version in rows["upload", "one"]["versions"]] == [2]
    assert rows["run", KEY]["size"] > 700 and rows["run", KEY]["state"] == "complete"
    assert rows["image", IMAGE]["size"] == 500 and abs(rows["image", IMAGE]["used"] - time.time()) < 60
    assert sum(row["size"] for row in rows.values()) == sum(stored.size for stored in archive.objects.list(""))


class TestCollection:
    def freed(self, archive: Archive, keep: int | None = None, dry_run: bool = False) -> dict[str, Any]:
        return {part.kind: part for part in collect(archive, keep, dry_run) if not part.why}

    def test_what_nothing_needs_is_deleted_once_it_is_old(self, archive: Archive, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", FILES)
        put(archive, source, "gone")
        put(archive, write_files(tmp_path / "stays", {"other": b"O" * 100}), "stays")
        uploads.remove_upload(archive, "gone")
        (young,) = collect(archive, None, False)
        assert young.count == 3 and "less than 2 days ago" in young.why
        later(archive, LEAST + 10)
        before = keys(archive)
        shown = self.freed(archive, dry_run=True)
        assert shown["blobs"].bytes > SMALL_PACK and keys(archive) == before
        assert self.freed(archive) == shown and self.freed(archive) == {}
        assert not keys(archive, "uploads/gone/") and len(keys(archive, "uploads/stays/")) == 2
        get(archive, tmp_path / "back", "stays")
        assert read_files(tmp_path / "back") == {"other": b"O" * 100}

    def test_packs_that_a_version_names_stay(self, archive: Archive, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", FILES)
        first, _, _ = put(archive, source)
        (source / "large").unlink()
        put(archive, source)
        uploads.remove_upload(archive, "doom", first.digest)
        later(archive, LEAST + 10)
        assert self.freed(archive)["blobs"].count == 2 and len(packs(archive)) == 1
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == {"a": FILES["a"], "b": FILES["b"]}

    def test_a_tree_that_can_not_be_read_frees_nothing_of_its_name(self, archive: Archive, tmp_path: Path) -> None:
        put(archive, write_files(tmp_path / "source", FILES))
        archive.objects.put("uploads/doom/00000002", b"damaged")
        later(archive, LEAST + 10)
        uploads.remove_upload(archive, "other")
        assert self.freed(archive) == {} and len(packs(archive)) == 3

    def test_a_run_whose_lists_have_no_bound(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its host may write as many as it likes: none is read, and nothing of the run is deleted."""
        host = ended(archive)
        host.tree(tmp_path / "outputs", {"o": b"O" * 700})
        monkeypatch.setattr(upkeep, "MOST_RUN_TREES", 1500)
        assert check(archive, False)[2] == []
        for number in range(10):
            host.post(f"mounts/{sha256(b'%d' % number)}", b"x" * 500)
        host.post(f"packs/{'ab' * 32}", b"cut")
        later(archive, LEAST + 10)
        before = s3_of(archive).requests
        assert self.freed(archive) == {}
        (fault,) = check(archive, False)[2]
        assert (fault["what"], fault["users"][0]["run"]) == ("list", KEY) and s3_of(archive).requests - before < 20

    def test_old_versions(self, archive: Archive, tmp_path: Path) -> None:
        for number in range(4):
            version, _, _ = put(archive, write_files(tmp_path / "source", {"a": b"%d" % number}))
        first = uploads.versions(archive, "doom")[0]
        read = MountSpec("uploads/doom@1", "in", "in", ResourceRef("upload", "doom", digest=first.digest))
        runs.put_spec(archive, runs.RunPlace(KEY), spec_of(mounts=(read,))._replace(key=KEY).encode())
        host = Host(archive)
        host.event(RunState.RUNNING)
        (part,) = self.freed(archive, keep=2, dry_run=True).values()
        assert [item["version"] for item in part.items] == [2] and len(uploads.versions(archive, "doom")) == 4
        assert self.freed(archive, keep=2)["versions"] == part, "a run reads the first one"
        host.event(RunState.COMPLETE, reason=Reason.EXITED, code=0)
        assert [item["version"] for item in self.freed(archive, keep=2)["versions"].items] == [1]
        assert [version.version for version in uploads.versions(archive, "doom")] == [3, 4]

    def test_an_upload_relies_on_nothing_that_may_be_deleted(self, archive: Archive, tmp_path: Path) -> None:
        """What nothing names is sent again, and so young again, long before a clean-up would take it."""
        source = write_files(tmp_path / "source", FILES)
        put(archive, source)
        uploads.remove_upload(archive, "doom")
        later(archive, LEAST / 2 + 10)
        _, _, sent = put(archive, source)
        assert sent.size == sum(len(data) for data in FILES.values() if data)

    def test_a_version_that_relied_on_one_that_was_removed_meanwhile_is_none(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write_files(tmp_path / "source", FILES)
        put(archive, source)
        write_files(source, {"more": b"m"})
        commit = uploads._commit

        def remove_first(*asked: Any) -> Any:
            uploads.remove_upload(archive, "doom")
            return commit(*asked)

        with monkeypatch.context() as patched, pytest.raises(TransferError, match="was removed from s3://"):
            patched.setattr(uploads, "_commit", remove_first)
            put(archive, source)
        assert uploads.versions(archive, "doom") == []
        assert put(archive, source)[1]

    def test_runs_that_have_ended(self, archive: Archive, tmp_path: Path) -> None:
        """Of one that goes on, its host may be about to name what it has written."""
        for host in (ended(archive), Host(archive, OTHER)):
            host.tree(tmp_path / host.key, {"o": host.key.encode()})
            host.post(f"packs/{'ab' * 32}", b"cut")
        later(archive, LEAST + 10)
        assert self.freed(archive)["blobs"].count == 1
        assert len(keys(archive, f"runs/{KEY}/packs/")) == 1 and len(keys(archive, f"runs/{OTHER}/packs/")) == 2


class TestImages:
    def store(self, archive: Archive) -> None:
        """As a host and the client do."""
        built = BuiltImage(IMAGE, sha256(b"image"), 5)
        grants.record_image(archive, built, "x86_64")
        archive.objects.put(f"{image_prefix(image_id(IMAGE, 'x86_64'))}{built.digest}/0", b"image")

    def access(self, archive: Archive, image: str = IMAGE, architecture: str = "x86_64") -> Any:
        return grants.image_access(archive, image, architecture, 600)

    def test_one_that_is_stored_and_recorded_can_be_downloaded(self, archive: Archive) -> None:
        assert self.access(archive).stored == [] and self.access(archive).grant is not None
        self.store(archive)
        found = self.access(archive)
        assert found.grant is None, "what others run is written once"
        assert [part.takes for part in found.stored] == [[Take(sha256(b"image"), 5, 0, 0, 5)]]
        assert self.access(archive, architecture="aarch64").stored == []

    def test_what_was_recorded_first_stays(self, archive: Archive) -> None:
        """Also where a host has written over its parts, which may do so while it builds."""
        self.store(archive)
        evil = BuiltImage(IMAGE, sha256(b"evil"), 4)
        prefix = image_prefix(image_id(IMAGE, "x86_64"))
        archive.objects.put(f"{prefix}{evil.digest}/0", b"evil")
        grants.record_image(archive, evil, "x86_64")
        assert self.access(archive).stored[0].takes[0].digest == sha256(b"image")
        archive.objects.put(f"{prefix}{sha256(b'image')}/0", b"longer than it was")
        grants.record_image(archive, evil, "x86_64")
        assert self.access(archive).stored == [], "the next host builds it anew"

    def test_what_allows_to_store_it_lasts_for_the_build(self, archive: Archive) -> None:
        grant = grants.image_access(archive, IMAGE, "x86_64", 7 * DAY).grant
        assert grant is not None and abs(grant.expires - time.time() - grants.BUILD) < 60

    def test_what_makes_no_sense_is_not_recorded(self, archive: Archive) -> None:
        for built in (BuiltImage(IMAGE, "../x", 4), BuiltImage(IMAGE, sha256(b"x"), 1 << 60)):
            with pytest.raises(HostError, match="makes no sense"):
                grants.record_image(archive, built, "x86_64")

    def test_a_record_that_makes_no_sense_is_none(self, archive: Archive) -> None:
        for record in (b"{", b"[]", b'{"image": 1}', b"x" * (1 << 17)):
            self.store(archive)
            archive.objects.put(image_key(image_id(IMAGE, "x86_64")), record)
            assert self.access(archive).stored == []
            self.store(archive)
            assert self.access(archive).stored

    def test_one_that_lacks_a_part_is_stored_again(self, archive: Archive) -> None:
        self.store(archive)
        key = f"{image_prefix(image_id(IMAGE, 'x86_64'))}{sha256(b'image')}/0"
        archive.objects.put(key, b"imag")
        assert self.access(archive).stored == []
        archive.objects.delete([key])
        assert self.access(archive).stored == []

    def test_what_was_not_used_for_long_goes_with_parts_that_no_record_names(self, archive: Archive) -> None:
        self.store(archive)
        archive.objects.put(f"{image_prefix(image_id(IMAGE, 'x86_64'))}{'ab' * 32}/0", b"cut")
        later(archive, UNUSED - DAY)
        (part,) = collect(archive, None, False)
        assert (part.kind, part.bytes) == ("images", 3) and len(keys(archive, "envs/")) == 1
        later(archive, UNUSED + DAY)
        (part,) = collect(archive, None, True)
        assert part.items == [{"name": IMAGE}] and len(keys(archive, "envs/")) == 1
        assert collect(archive, None, False) == [part] and keys(archive, "envs/") == [] == keys(archive, "images/")


class TestCheck:
    def test_an_archive_without_damage(self, archive: Archive, tmp_path: Path) -> None:
        put(archive, write_files(tmp_path / "source", FILES))
        ended(archive).tree(tmp_path / "outputs", {"o": b"O"})
        packs, size, found = check(archive, True)
        assert found == [] and packs == 4 and size > SMALL_PACK

    def test_what_is_missing_is_named_and_the_next_upload_sends_it_again(
        self, archive: Archive, tmp_path: Path
    ) -> None:
        source = write_files(tmp_path / "source", FILES)
        put(archive, source)
        ended(archive).tree(tmp_path / "outputs", {"o": b"O"})
        tree, _ = uploads.find_upload(archive, "doom")
        pack = tree.places[sha256(b"B" * 2000)][0].pack
        archive.objects.delete([f"uploads/doom/packs/{pack}", *keys(archive, f"runs/{KEY}/packs/")])
        _, _, found = check(archive, False)
        places = [place for fault in found for place in fault["users"]]
        assert {(fault["what"], fault["problem"]) for fault in found} == {("blob", "missing")}
        assert {(place.get("upload"), place.get("run"), place["path"]) for place in places} == {
            ("doom", None, "a"), ("doom", None, "b"), (None, KEY, "o"),
        }  # fmt: skip
        assert not uploads.versions(archive, "doom")[0].damaged
        assert check(archive, True)[2] == found and uploads.versions(archive, "doom")[0].damaged
        version, created, _ = put(archive, source)
        assert created and version.version == 2 and not version.damaged
        get(archive, tmp_path / "back")
        assert read_files(tmp_path / "back") == FILES
        assert [place.get("upload") for fault in check(archive, True)[2] for place in fault["users"]] == [None]

    def test_a_version_that_can_not_be_read_is_set_aside(self, archive: Archive, tmp_path: Path) -> None:
        source = write_files(tmp_path / "source", FILES)
        put(archive, source)
        archive.objects.put("uploads/doom/00000002", b"damaged")
        (fault,) = check(archive, True)[2]
        assert (fault["what"], fault["users"]) == ("list", [{"upload": "doom", "version": 2, "tree": "", "path": ""}])
        assert archive.objects.get("damaged/uploads/doom/00000002", 100) == b"damaged" and not put(archive, source)[1]

    def test_what_the_store_says_is_something_else_is_sent_again(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SeaweedFS does not say what the checksum of an object is; Amazon's store does."""
        source = write_files(tmp_path / "source", {"a": b"A" * 1000})
        put(archive, source)
        (key,) = packs(archive)
        archive.objects.put(key, b"B" * 1000)
        with monkeypatch.context() as patched:
            patched.setattr(archive.objects, "head", lambda key: (1000, sha256(b"B" * 1000)))
            (fault,) = check(archive, True)[2]
        assert (fault["what"], fault["problem"], fault["digest"]) == ("blob", "damaged", sha256(b"A" * 1000))
        assert put(archive, source)[1] and archive.objects.get(key, 1000) == b"A" * 1000
