"""Images on their way into a bucket and out of it, with a program in the place of the engine's; tests/cloud/test_images
has the engine itself."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.running import image_copy
from remoterun.agent.running.engines import Interrupted
from remoterun.agent.running.engines.building import BuildJob
from remoterun.agent.running.engines.docker import Docker
from remoterun.agent.running.image_copy import ImageCopy, Unusable, load
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import ContentRange, ImageAccess, SignedObject, image_archive
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.spec import EnvironmentSpec
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store import http_client
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from tests.bucket_server import BucketServer, Handler
from tests.lab import BASE_IMAGE, LocalDocker
from tests.workshop import NO_PACKAGES, Files, sha256, spec_of, tree_of, until

IMAGE = "remoterun-env:" + "0123456789abcdef"
PREFIX = layout.image_prefix("ab" * 32)
CONTENT = os.urandom(5 << 20)
PIECE = 1 << 20
ENGINE = """#!/bin/sh
echo "$@" >>{folder}/asked
case $1 in
  image) cat {folder}/size 2>/dev/null || stat -c %s {folder}/image;;
  info) echo {folder};;
  save) cat {folder}/image; test ! -e {folder}/fails;;
  load) test ! -e {folder}/refuses || {{ echo "invalid tar header"; exit 1; }}
        gzip -dc >{folder}/loaded && echo "Loaded image: {image}";;
esac
"""


class Bench:
    """An engine, a bucket, and a job with its log."""

    def __init__(self, folder: Path, server: BucketServer) -> None:
        self.folder, self.server = folder, server
        self.said: list[str] = []
        (folder / "image").write_bytes(CONTENT)
        self.tool = str(folder / "engine")
        Path(self.tool).write_text(ENGINE.format(folder=folder, image=IMAGE))
        os.chmod(self.tool, 0o755)
        self.stop = False
        self.job = BuildJob(str(folder / "build.log"), self.said.append, lambda: self.stop)

    @property
    def log(self) -> list[str]:
        return (self.folder / "build.log").read_text().splitlines()

    @property
    def loaded(self) -> bytes:
        return (self.folder / "loaded").read_bytes()

    def store(self, seconds: float = 60) -> ImageCopy:
        """Posts the engine's image, from now on."""
        copy = ImageCopy(self.tool, [(IMAGE, self.server.grant(PREFIX, seconds))])
        copy.start()
        return copy

    def kept(self, seconds: float = 60) -> ImageAccess:
        """What a host is told of the image that the bucket has."""
        archive = image_archive(self.server.objects[PREFIX + layout.IMAGE])
        pieces = [
            SignedObject(
                self.server.signed(PREFIX + piece.digest, seconds), [ContentRange(piece.digest, 0, piece.length)]
            )
            for piece in archive.pieces
        ]
        return ImageAccess(archive.image, pieces)

    def stored(self) -> ImageAccess:
        self.store().until_end(lambda: time.time() + 30)
        return self.kept()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(image_copy, "IMAGE_PIECE", PIECE)
    monkeypatch.setattr(image_copy, "PAUSE", 0.05)
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


def last_moment() -> float:
    return time.time() + 30


class TestPut:
    def test_it_comes_in_pieces_and_its_record_last(self, bench: Bench) -> None:
        access = bench.stored()
        assert bench.server.written[-1] == PREFIX + layout.IMAGE and len(access.pieces) > 4
        record = json.loads(bench.server.objects[PREFIX + layout.IMAGE])
        whole = b"".join(bench.server.objects[PREFIX + piece["digest"]] for piece in record["pieces"])
        assert record["image"] == IMAGE and len(whole) == record["size"] and gzip.decompress(whole) == CONTENT

    def test_one_that_is_cut_short_has_no_record(self, bench: Bench) -> None:
        (bench.folder / "fails").touch()
        bench.store().until_end(last_moment)
        assert bench.server.objects and PREFIX + layout.IMAGE not in bench.server.objects

    def test_where_the_disk_has_no_room_it_is_not_saved(self, bench: Bench) -> None:
        (bench.folder / "size").write_text(str(1 << 60))
        bench.store().until_end(last_moment)
        assert "save" not in (bench.folder / "asked").read_text() and bench.server.asked == []

    def test_a_busy_server_is_asked_again(self, bench: Bench) -> None:
        bench.server.fail(2, lambda handler: handler.refuse(503, "SlowDown"))
        assert bench.stored().pieces

    @pytest.mark.parametrize("seconds", [60.0, -1.0])
    def test_what_is_refused_is_given_up(self, bench: Bench, seconds: float) -> None:
        if seconds > 0:
            bench.server.faults.append(lambda handler: handler.refuse(503, "SlowDown"))
        bench.store(seconds).until_end(lambda: time.time() + 3000)
        assert bench.server.objects == {}

    def test_outputs_come_first(self, bench: Bench) -> None:
        copy = ImageCopy(bench.tool, [(IMAGE, bench.server.grant(PREFIX))])
        copy.hold()
        copy.start()
        until(lambda: (bench.folder / "asked").exists() and "save" in (bench.folder / "asked").read_text())
        assert bench.server.asked == []
        copy.until_end(last_moment)
        assert PREFIX + layout.IMAGE in bench.server.objects

    def test_a_host_that_goes_away_does_not_wait(self, bench: Bench, silent: None) -> None:
        copy = bench.store()
        until(lambda: bench.server.asked)
        copy.until_end(lambda: 0.0)
        assert bench.server.objects == {}


class TestLoad:
    def test_the_engine_gets_what_the_other_one_gave(self, bench: Bench) -> None:
        load(bench.tool, bench.stored(), bench.job)
        assert bench.loaded == CONTENT and bench.said == ["fetching the environment from the bucket"]
        assert "fetching the environment from the bucket, 100 %" in bench.log
        assert "Loaded image: " + IMAGE in bench.log
        told = [int(line.split()[-2]) for line in bench.log if line.endswith(" %")]
        assert told == sorted(set(told)) and len(told) > 4

    def test_over_connections_that_are_cut(self, bench: Bench) -> None:
        access = bench.stored()

        def cut_half_way(handler: Handler) -> bool:
            data = bench.server.objects[handler.key]
            start = int(handler.headers["Range"].partition("=")[2].partition("-")[0])
            handler.send_response(206)
            handler.send_header("Content-Length", str(len(data) - start))
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            handler.end_headers()
            handler.wfile.write(data[start : start + (len(data) - start) // 2])
            return handler.cut()

        bench.server.fail(8, cut_half_way)
        load(bench.tool, access, bench.job)
        assert bench.loaded == CONTENT

    def test_a_piece_that_is_damaged_is_never_given_to_the_engine(self, bench: Bench) -> None:
        access = bench.stored()
        key = PREFIX + access.pieces[-1].takes[0].digest
        bench.server.objects[key] = bytes(len(bench.server.objects[key]))
        assert unusable(bench, access) == "a piece of it is damaged"
        assert bench.loaded != CONTENT

    def test_a_piece_that_is_missing(self, bench: Bench) -> None:
        access = bench.stored()
        del bench.server.objects[PREFIX + access.pieces[2].takes[0].digest]
        assert "404" in unusable(bench, access)

    def test_the_permission_has_expired(self, bench: Bench) -> None:
        bench.stored()
        assert "expired" in unusable(bench, bench.kept(-1))

    def test_the_bucket_is_away(self, bench: Bench) -> None:
        access = bench.stored()
        bench.server.faults.append(Handler.cut)
        assert "127.0.0.1" in unusable(bench, access)

    def test_it_comes_too_slowly(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        access = bench.stored()
        request.getfixturevalue("silent")
        monkeypatch.setattr(image_copy, "FIRST", 0.5)
        monkeypatch.setattr(image_copy, "SLOWEST", 1 << 40)
        assert unusable(bench, access) == "it comes too slowly"

    def test_the_engine_refuses_it(self, bench: Bench) -> None:
        access = bench.stored()
        (bench.folder / "refuses").touch()
        assert "does not take it: invalid tar header" in unusable(bench, access)

    def test_the_engine_is_not_there(self, bench: Bench) -> None:
        access = bench.stored()
        os.unlink(bench.tool)
        assert "can't be started" in unusable(bench, access)

    def test_it_is_stopped(self, bench: Bench, request: pytest.FixtureRequest) -> None:
        access = bench.stored()
        request.getfixturevalue("silent")
        bench.stop = True
        with pytest.raises(Interrupted):
            load(bench.tool, access, bench.job)


def unusable(bench: Bench, access: ImageAccess) -> str:
    with pytest.raises(Unusable) as caught:
        load(bench.tool, access, bench.job)
    return str(caught.value)


@pytest.mark.docker
@pytest.mark.timeout(600)
class TestWithDocker:
    """Hosts are homes that share a Docker, from which the images are deleted in between."""

    def built(
        self, bench: Bench, name: str, images: Sequence[ImageAccess], **changed: Any
    ) -> tuple[RunFolder, list[str]]:
        """A run of a new host after its environment was built, and what was said."""
        home = Home.open(str(bench.folder / name))
        files: Files = {**NO_PACKAGES, "trainer/mark.py": bench.server.url.encode()}  # nobody else's images
        context, blobs = tree_of(files)
        for data in (*blobs.values(), context.encode()):
            home.blobs.put(data)
        spec = spec_of(environment=EnvironmentSpec(BASE_IMAGE, "cpu", context.digest)._replace(**changed))
        run = home.create_run(spec, Manifest([]), images=tuple(images))
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
        ((image, grant),) = [(one.image, one.grant) for one in run.images()]
        assert image == base and grant is not None
        copy = ImageCopy("docker", [(image, grant)])
        copy.start()
        copy.until_end(lambda: time.time() + 300)
        self.forget(run)

        run, said = self.built(
            bench, "b", [bench.kept(), ImageAccess(final, [], bench.server.grant("envs/x/"))], **empty
        )
        assert said == ["fetching the environment from the bucket", "installing packages: requirements"]
        assert [one.image for one in run.images()] == [final], "what was fetched need not go back"
        run, said = self.built(bench, "b2", [bench.kept()])
        assert said == [] and run.images() == (), "what is there need not be fetched"
        subprocess.run(["docker", "image", "rm", final], check=True, stdout=subprocess.DEVNULL)
        self.forget(run)

        run, said = self.built(bench, "c", [bench.kept()._replace(image=final)], **empty)
        assert said[1] == "the environment in the bucket can't be used, so it is built: it is another one"
        self.forget(run)

        bench.server.faults.append(Handler.cut)
        run, said = self.built(bench, "d", [bench.kept()])
        assert said[1].startswith("the environment in the bucket can't be used, so it is built: 127.0.0.1")
        assert said[2].startswith("building the environment")
        self.forget(run)


def test_what_describes_no_image() -> None:
    digest = sha256(b"")
    for bad in (
        {"image": IMAGE, "size": 0, "pieces": []},
        {"image": IMAGE, "size": 2, "pieces": [{"digest": digest, "length": 1}]},
        {"image": IMAGE, "size": 1, "pieces": [{"digest": "../x", "length": 1}]},
        {"image": IMAGE, "size": 1 << 40, "pieces": [{"digest": digest, "length": 1 << 40}]},
    ):
        with pytest.raises(ValueError):
            image_archive(json.dumps(bad).encode())
