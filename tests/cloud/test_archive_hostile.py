"""What others, or a disk, may have made of the objects in a bucket: each is an error that names the object, or a file
is left out as damaged; none of it takes our memory or leaves the folder that was named."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared.archive import ArchivedTree, Extent, Places, TreeHeader, version_key
from remoterun.agent.shared.records import encode
from remoterun.archive import Archive, runs, uploads
from remoterun.archive.objects import BucketPlace
from remoterun.archive.runs import RunPlace
from remoterun.errors import HostError, RemoterunError, SomeDamaged
from tests.cloud.archives import get, packs, put
from tests.seaweed import opened
from tests.workshop import Files, sha256, tree_of, write_files

FILES: Files = {"a": b"A" * 1000, "b": b"B" * 1000, "large": b"C" * 5_000_000}
KEY = "0" * 26
VERSION = version_key("doom", 1)


@pytest.fixture
def archive(bucket: BucketPlace, tmp_path: Path) -> Iterator[Archive]:
    """With an upload, whose objects may be written over."""
    with opened(bucket) as archive:
        put(archive, write_files(tmp_path / "source", FILES))
        yield archive


def fails(archive: Archive, tmp_path: Path) -> RemoterunError:
    """What copying the upload fails with."""
    with pytest.raises(RemoterunError) as caught:
        get(archive, tmp_path / "back")
    return caught.value


def pack_of(archive: Archive, name: str) -> str:
    tree, _ = uploads.find_upload(archive, "doom")
    entry = tree.manifest.find(name)
    assert entry is not None
    return f"uploads/doom/packs/{tree.places[entry.digest][0].pack}"


class TestBitRot:
    @pytest.mark.parametrize("name", ["a", "large"])
    def test_a_content_that_changed(self, archive: Archive, tmp_path: Path, name: str) -> None:
        key = pack_of(archive, name)
        data = bytearray(archive.objects.get(key, 1 << 23))
        data[5] ^= 1
        archive.objects.put(key, bytes(data))
        error = fails(archive, tmp_path)
        assert isinstance(error, SomeDamaged) and error.message.startswith(f"`{name}` is damaged on aws")
        assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(set(FILES) - {name})

    def test_contents_that_were_truncated(self, archive: Archive, tmp_path: Path) -> None:
        for name, size in (("b", 1500), ("large", 4_500_000)):
            key = pack_of(archive, name)
            archive.objects.put(key, archive.objects.get(key, 1 << 23)[:size])
        error = fails(archive, tmp_path)
        assert isinstance(error, SomeDamaged) and "`b` and 1 more are damaged" in error.message

    def test_packs_that_are_gone(self, archive: Archive, tmp_path: Path) -> None:
        archive.objects.delete(packs(archive))
        error = fails(archive, tmp_path)
        assert isinstance(error, SomeDamaged) and "`a` and 2 more are damaged" in error.message

    def test_a_tree_that_changed(self, archive: Archive, tmp_path: Path) -> None:
        archive.objects.put(VERSION, archive.objects.get(VERSION, 1 << 20).replace(b'"a"', b'"x"'))
        error = fails(archive, tmp_path)
        assert VERSION in error.message and not (tmp_path / "back").exists()


class TestHostileObjects:
    def test_a_header_that_makes_no_sense(self, archive: Archive, tmp_path: Path) -> None:
        for data in (
            b"",
            b"\n",
            b"[]\n",
            b"{\n",
            b"[" * 4000 + b"\n",
            b'{"digest": 1}\n',
            b" " * (1 << 20),
            encode(TreeHeader("../../x", 1, 1, 1.0, 5)) + b"\n",
            encode(TreeHeader("ab" * 32, -1, 1, 1.0, 5)) + b"\n",
            encode(TreeHeader("ab" * 32, 1, 1, 1.0, 5, format=9)) + b"\n",
        ):
            archive.objects.put(VERSION, data)
            assert VERSION in fails(archive, tmp_path).message, data[:100]
            with pytest.raises(HostError, match=VERSION):
                uploads.newest(archive)

    def test_places_that_lie_outside_of_their_pack(self, archive: Archive, tmp_path: Path) -> None:
        manifest, _ = tree_of({"a": b"sixsix"})
        pack = packs(archive)[0].rpartition("/")[2]
        places: Places = {next(iter(manifest)).digest: (Extent(pack, 1 << 40, 6),)}
        archive.objects.put(VERSION, ArchivedTree(manifest, places).encode(1.0))
        assert isinstance(fails(archive, tmp_path), SomeDamaged)

    def test_a_tree_that_leads_out(self, archive: Archive, tmp_path: Path) -> None:
        data = archive.objects.get(VERSION, 1 << 20)
        text = b'remoterun-tree 1\n["f","../evil",1,"%s",0]\n' % sha256(b"A").encode()
        header = encode(TreeHeader(sha256(text), 1, 1, 1.0, len(text)))
        archive.objects.put(VERSION, header + b"\n" + text + data.split(b"]\n", 1)[1])
        assert VERSION in fails(archive, tmp_path).message
        assert not (tmp_path / "evil").exists()

    def test_names_that_are_paths_are_not_uploads(self, archive: Archive) -> None:
        data = archive.objects.get(VERSION, 1 << 20)
        for name in (".hidden", "x" * 101, "a b", "sub/sub"):
            archive.objects.put(f"uploads/{name}/00000001", data)
        assert [name for name, _ in uploads.newest(archive)] == ["doom"]

    def test_an_identity_that_makes_no_sense(self, archive: Archive, bucket: BucketPlace) -> None:
        for found, words in (
            (b"{", ""),
            (b"[]", "upgrade"),
            (b'{"format": 2}', "no id"),
            (b'{"format": 1, "home_id": "0123456789abcdef"}', "name another bucket"),
            (b"[" * 4000, ""),
            (b"x" * 10_000, "are allowed"),
        ):
            archive.objects.put("remoterun.json", found)
            with pytest.raises(HostError, match=f"remoterun.json.*{words}"), opened(bucket):
                pass

    def test_a_status_that_makes_no_sense(self, archive: Archive) -> None:
        key = f"runs/{KEY}/status.json"
        for status in (b"{", b"{}", b"[" * 100_000, b'{"status": {"key": "x"}}', b" " * (2 << 20)):
            archive.objects.put(key, status)
            found, unreadable = runs.statuses(archive, [KEY], RunPlace)
            assert not found and key in unreadable[KEY]
            with pytest.raises(HostError, match=key):
                runs.details(archive, RunPlace(KEY))
        for wrong in ({"ended": -1.0}, {"started": 1e17}, {"code": 10**12}, {"created": 10**400}):
            record = {"status": {"key": KEY, "state": "complete", **wrong}, "events": [], "time": 1.0}
            archive.objects.put(key, json.dumps(record).encode())
            assert KEY in runs.statuses(archive, [KEY], RunPlace)[1], wrong
            record = {"status": {"key": KEY, "state": "running"}, "events": [{"t": -1.0}], "time": 1.0}
            archive.objects.put(key, json.dumps(record).encode())
            assert KEY in runs.statuses(archive, [KEY], RunPlace)[1]

    def test_a_status_of_many_values_takes_no_memory(self, archive: Archive) -> None:
        key = f"runs/{KEY}/status.json"
        for events in (b"{}," * 300_000, b'{"t":1.0},' * 100_000, b"[]," * 300_000):
            archive.objects.put(
                key, b'{"status":{"key":"%s","state":"running"},"events":[%s{}]}' % (KEY.encode(), events)
            )
            tracemalloc.start()
            with pytest.raises(HostError, match="it has more than 65536 values"):
                runs.details(archive, RunPlace(KEY))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 16 << 20

    def test_what_a_host_has_planted_below_the_folders_of_others(self, archive: Archive, tmp_path: Path) -> None:
        """A role of an older form may: it is no pack."""
        data = b"N" * 1000
        archive.objects.put(f"uploads/another/packs/hosts/ME/{sha256(data)}", b"")
        put(archive, write_files(tmp_path / "new", {"new": data}), "another")
        get(archive, tmp_path / "back", "another")
        assert (tmp_path / "back" / "new").read_bytes() == data

    def test_a_key_that_is_not_that_of_a_run(self, archive: Archive) -> None:
        for key in ("", "x", "../../uploads/doom", "A" * 26):
            for ask in (runs.recorded_place, lambda _, key: RunPlace(key)):
                with pytest.raises(RemoterunError):
                    ask(archive, key)
