"""Images on their way into an archive and out of it, with a program in the engine's place; tests/cloud/test_images
has the engine itself."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running import images
from remoterun.agent.running.engines import Interrupted
from remoterun.agent.running.engines.building import BuildJob
from remoterun.agent.running.engines.docker import Docker
from remoterun.agent.running.images import Unusable, load, store
from remoterun.agent.shared import archive
from remoterun.agent.shared.archive import ImageAccess, SignedObject, Take, image_parts, image_prefix
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.spec import EnvironmentSpec
from remoterun.agent.shared.states import BuiltImage
from remoterun.agent.store import http_client, objects
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from tests.bucket_server import BucketServer, Handler
from tests.lab import BASE_IMAGE, LocalDocker
from tests.workshop import NO_PACKAGES, Files, create_run, sha256, spec_of, tree_of

IMAGE = "remoterun-env:" + "0123456789abcdef"
PREFIX = image_prefix("ab" * 32)
ID = "01" * 32
LAYER = os.urandom(5 << 20)
PART = 1 << 20


def tar_of(*files: tuple[str, bytes], **types: bytes) -> bytes:
    """Of files, and of links to `manifest.json` whose types are given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files:
            about = tarfile.TarInfo(name)
            about.size, about.type = len(data), types.get(name, tarfile.REGTYPE)
            about.linkname = "layer" if name in types else ""
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


def manifest(*names: str, **more: Any) -> tuple[str, bytes]:
    about = {"Config": "config", "RepoTags": list(names), "Layers": ["layer"], **more}
    return "manifest.json", json.dumps([about]).encode()


CONTENT = tar_of(("layer", LAYER), manifest(IMAGE), ("repositories", b"{}"), ("index.json", b"{}"), ("config", b"{}"))
ENGINE = """#!/bin/sh
echo "$@" >>{folder}/asked
case $1 in
  image) cat {folder}/size 2>/dev/null || stat -c %s {folder}/image;;
  save) cat {folder}/image; test ! -e {folder}/fails;;
  load) test ! -e {folder}/refuses || {{ echo "invalid tar header"; exit 1; }}
        cat "$3" >{folder}/loaded && echo "Loaded image ID: sha256:{id}";;
esac
"""


class Bench:
    """An engine, an archive, a home, and a job with its log."""

    def __init__(self, folder: Path, server: BucketServer) -> None:
        self.folder, self.server = folder, server
        self.home = Home.open(str(folder / "home"))
        self.said: list[str] = []
        (folder / "image").write_bytes(CONTENT)
        self.tool = str(folder / "engine")
        Path(self.tool).write_text(ENGINE.format(folder=folder, id=ID))
        os.chmod(self.tool, 0o755)
        self.stop = False
        self.job = BuildJob(str(folder / "build.log"), self.said.append, lambda: self.stop)
        self.saved: list[BuiltImage] = []

    @property
    def loaded(self) -> bytes:
        path = self.folder / "loaded"
        return path.read_bytes() if path.exists() else b""

    def saves(self, content: bytes) -> list[SignedObject]:
        """What a host has stored, whose engine saves this."""
        (self.folder / "image").write_bytes(content)
        return self.stored()

    def store(self, seconds: float = 60) -> list[BuiltImage]:
        """Store the engine's image; what is reported."""
        access = ImageAccess(IMAGE, [], self.server.grant(PREFIX, seconds))
        self.saved = store(self.home, self.tool, [ImageAccess("fetched"), access], self.job)
        return self.saved

    def signed(self, seconds: float = 60) -> list[SignedObject]:
        """What the next host gets: by what was reported, whatever was stored."""
        (built,) = self.saved
        return [
            SignedObject(
                self.server.signed(PREFIX + key, seconds), [Take(built.digest, built.size, number * PART, 0, length)]
            )
            for number, (key, length) in enumerate(image_parts(built))
        ]

    def stored(self) -> list[SignedObject]:
        self.store()
        return self.signed()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for module in (archive, images):
        monkeypatch.setattr(module, "IMAGE_PART", PART)
    monkeypatch.setattr(images, "ROOM", 0)
    monkeypatch.setattr(objects, "SHORTEST", 0.01)
    monkeypatch.setattr(objects, "LONGEST", 0.05)
    server = BucketServer()
    yield Bench(tmp_path, server)
    server.close()


@pytest.fixture
def silent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From now on the server gives no answer, and a client has the patience for that: who ends has another reason."""
    monkeypatch.setattr(http_client, "SILENCE", 1000.0)
    ended = threading.Event()
    bench.server.faults.append(lambda handler: ended.wait(1000) and handler.cut())
    yield
    ended.set()


class TestStore:
    def test_it_is_stored_in_parts_and_reported(self, bench: Bench) -> None:
        (built,) = bench.store()
        assert bench.said == ["saving the environment for the archive"]
        parts = [bench.server.objects[PREFIX + key] for key, _ in image_parts(built)]
        whole = b"".join(parts)
        assert built == BuiltImage(IMAGE, sha256(whole), len(whole)) and gzip.decompress(whole) == CONTENT
        assert len(parts) > 4 and len(parts) == len(bench.server.objects)
        assert os.listdir(bench.home.tmp) == []

    def test_one_that_is_cut_short_is_not_reported(self, bench: Bench) -> None:
        (bench.folder / "fails").touch()
        assert bench.store() == [] and bench.server.asked == [] and os.listdir(bench.home.tmp) == []

    def test_where_the_disk_has_no_room_it_is_not_saved(self, bench: Bench) -> None:
        (bench.folder / "size").write_text(str(1 << 60))
        assert bench.store() == [] and "save" not in (bench.folder / "asked").read_text()

    def test_it_is_stopped_while_it_is_saved(self, bench: Bench) -> None:
        bench.stop = True
        with pytest.raises(Interrupted):
            bench.store()

    @pytest.mark.parametrize("seconds", [60.0, -1.0])
    def test_what_is_refused_is_given_up(self, bench: Bench, seconds: float) -> None:
        if seconds > 0:
            bench.server.faults.append(lambda handler: handler.refuse(503, "SlowDown"))
        assert bench.store(seconds) == [] and bench.server.objects == {} and os.listdir(bench.home.tmp) == []

    def test_a_bucket_that_does_not_answer_is_given_up(
        self, bench: Bench, silent: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "FIRST", 0.5)
        monkeypatch.setattr(images, "SLOWEST", 1 << 40)
        assert bench.store() == [] and bench.server.objects == {}


class TestLoad:
    def test_the_engine_gets_what_the_other_one_gave(self, bench: Bench) -> None:
        load(bench.home, bench.tool, IMAGE, bench.stored(), bench.job)
        assert bench.said[-1] == "downloading the environment from the archive"
        with tarfile.open(fileobj=io.BytesIO(bench.loaded)) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        (about,) = json.loads(files.pop("manifest.json"))
        assert about == {"Config": "config", "RepoTags": None, "Layers": ["layer"]}, "it gets no name by itself"
        assert files == {"layer": LAYER, "config": b"{}"}
        assert (bench.folder / "asked").read_text().endswith(f"/image\ntag {ID} {IMAGE}\n")
        assert os.listdir(bench.home.tmp) == [] == os.listdir(bench.home.partial)
        assert not bench.home.blobs.has(bench.saved[0].digest), "the engine has it"

    def test_another_one_than_was_reported_is_never_given_to_the_engine(self, bench: Bench) -> None:
        """Such as what a command has put in its place, which got at its host's grant."""
        stored = bench.stored()
        key = max(bench.server.objects)
        bench.server.objects[key] = bytes(len(bench.server.objects[key]))
        assert "did not arrive as it was read" in unusable(bench, stored)
        assert bench.loaded == b"" and "load" not in (bench.folder / "asked").read_text()

    def test_an_archive_that_names_anything_else_gets_no_name(self, bench: Bench) -> None:
        for content in (
            tar_of(manifest("remoterun-base:other")),
            tar_of(manifest(IMAGE, "python:3.12-slim")),
            tar_of(("manifest.json", json.dumps([json.loads(manifest(IMAGE)[1])[0]] * 2).encode())),
            tar_of(manifest(IMAGE), manifest("python:3.12-slim")),
            tar_of(manifest(IMAGE), ("x/manifest.json", b"[]")),
            tar_of(manifest(IMAGE), ("x/../manifest.json", manifest("python:3.12-slim")[1])),
            tar_of(("manifest.json", b""), **{"manifest.json": tarfile.SYMTYPE}),
            tar_of(("manifest.json", b"[" * 100_000)),
            tar_of(("manifest.json", b" " * (2 << 20))),
            tar_of(("manifest.json", manifest(IMAGE)[1].ljust(1 << 20) + tar_of(manifest("python:3.12-slim")))),
            tar_of(("null", b""), manifest(IMAGE), null=tarfile.CHRTYPE),
            tar_of(("pax", b"19 path=manifest.json\n"), manifest(IMAGE), pax=tarfile.XHDTYPE),
            tar_of(("layer", b"x")),
            tar_of(("layer", b"x"))[:100],
            b"x" * 1000,
            b"",
        ):
            assert "it is not what" in unusable(bench, bench.saves(content)), content[:1000]
            assert "load" not in (bench.folder / "asked").read_text(), content[:1000]

    def test_what_can_not_be_had_is_said(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        stored = bench.stored()
        (bench.folder / "refuses").touch()
        assert "does not take it: invalid tar header" in unusable(bench, stored)
        with monkeypatch.context() as full:
            full.setattr(type(bench.home.reserve), "room", lambda _: 1000)
            assert "is full" in unusable(bench, stored)
        del bench.server.objects[min(bench.server.objects)]
        assert "404" in unusable(bench, stored)
        bench.server.faults.append(Handler.cut)
        assert "127.0.0.1" in unusable(bench, stored)

    def test_it_is_stopped(self, bench: Bench, request: pytest.FixtureRequest) -> None:
        stored = bench.stored()
        request.getfixturevalue("silent")
        bench.stop = True
        with pytest.raises(Interrupted):
            load(bench.home, bench.tool, IMAGE, stored, bench.job)


def unusable(bench: Bench, stored: list[SignedObject]) -> str:
    with pytest.raises(Unusable) as caught:
        load(bench.home, bench.tool, IMAGE, stored, bench.job)
    return str(caught.value)


@pytest.mark.docker
@pytest.mark.timeout(600)
class TestWithDocker:
    """Hosts are homes that share a Docker, from which the images are deleted in between."""

    def built(
        self, bench: Bench, name: str, accesses: Sequence[ImageAccess], **changed: Any
    ) -> tuple[RunFolder, list[str]]:
        """A run of a new host after its environment was built, and what was said."""
        home = Home.open(str(bench.folder / name))
        files: Files = {**NO_PACKAGES, "trainer/mark.py": bench.server.url.encode()}  # nobody else's images
        context, blobs = tree_of(files)
        for data in (*blobs.values(), context.encode()):
            home.blobs.put(data)
        spec = spec_of(environment=EnvironmentSpec(BASE_IMAGE, "cpu", context.digest)._replace(**changed))
        run = create_run(home, spec, images=tuple(accesses))
        said: list[str] = []
        Docker(home).build(run, spec, BuildJob(run.build_log, said.append, lambda: False))
        assert Docker(home).has_image(Environment.of(spec).final_image)
        return run, said

    def forget(self, run: RunFolder) -> None:
        for image in reversed(Environment.of(run.spec()).built_images):
            subprocess.run(["docker", "image", "rm", image], check=True, stdout=subprocess.DEVNULL)

    def test_one_image_under_another(self, local_docker: LocalDocker, bench: Bench) -> None:
        empty = {"requirements": "# no packages\n"}
        run, said = self.built(bench, "asks", [])
        base, final = Environment.of(
            run.spec()._replace(environment=run.spec().environment._replace(**empty))
        ).built_images
        self.forget(run)

        run, said = self.built(bench, "a", [ImageAccess(base, [], bench.server.grant(PREFIX))])
        assert said[0].startswith("building the environment")
        (access,) = run.images()
        bench.saved = store(bench.home, "docker", [access], bench.job)
        self.forget(run)

        accesses = [ImageAccess(base, bench.signed()), ImageAccess(final, [], bench.server.grant("envs/x/"))]
        run, said = self.built(bench, "b", accesses, **empty)
        assert said == ["downloading the environment from the archive", "installing packages: requirements"]
        assert [one.image for one in run.images()] == [final], "what was downloaded need not go back"
        run, said = self.built(bench, "b2", accesses[:1])
        assert said == [] and run.images() == (), "what the host has need not be downloaded"
        subprocess.run(["docker", "image", "rm", final], check=True, stdout=subprocess.DEVNULL)
        self.forget(run)

        run, said = self.built(bench, "c", [ImageAccess(final, bench.signed())], **empty)
        assert said[1].endswith("so it is built: it is not what `docker save` writes of this image: another one")
        self.forget(run)

        bench.server.faults.append(Handler.cut)
        run, said = self.built(bench, "d", accesses[:1])
        assert said[1].startswith("the environment in the archive can't be used, so it is built: 127.0.0.1")
        assert said[2].startswith("building the environment")
        self.forget(run)


def test_what_describes_no_image() -> None:
    for bad in (
        BuiltImage(IMAGE, sha256(b""), 0),
        BuiltImage(IMAGE, "../x", 1),
        BuiltImage(IMAGE, sha256(b""), 1 << 40),
    ):
        with pytest.raises(ValueError):
            image_parts(bad)
