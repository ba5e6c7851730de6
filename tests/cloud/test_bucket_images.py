"""Images of environments in a bucket: what hosts may do with them, how long they stay, and what is made of others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared import bucket as layout
from remoterun.agent.shared.bucket import Chunk, Grant, ImageAccess, ImageArchive
from remoterun.agent.shared.environment import image_id
from remoterun.agent.shared.records import to_json
from remoterun.agent.store.bucket_download import part_of
from remoterun.agent.store.http_client import HttpClient, HttpError
from remoterun.agent.store.posting import Content, post
from remoterun.buckets.grants import Signer
from remoterun.buckets.place import BucketPlace
from tests.seaweed import Talk
from tests.workshop import sha256

IMAGE = "remoterun-base:0123456789abcdef"
OTHER = "remoterun-env:0123456789abcdef"
PIECES = [b"a" * 1000, b"b" * 500]
DAY = 86400.0


@pytest.fixture
def talk(bucket: BucketPlace) -> Iterator[Talk]:
    with Talk(bucket) as talk:
        talk.session.ask(api.runs, api.RunKeys())
        yield talk


def access(talk: Talk, image: str = IMAGE, architecture: str = "x86_64") -> ImageAccess:
    return Signer(talk.bucket).image(image, architecture, 600)


def store(talk: Talk, image: str = IMAGE, named: str | None = None, record: bytes | None = None) -> None:
    """As a host does. `named`: the image that its record names."""
    grant = granted(talk, image)
    pieces = [Chunk(sha256(piece), len(piece)) for piece in PIECES]
    archive = ImageArchive(named or image, sum(map(len, PIECES)), pieces)
    with HttpClient() as web:
        for piece in PIECES:
            post(web, grant, sha256(piece), Content.of(piece))
        post(web, grant, layout.IMAGE, Content.of(record or json.dumps(to_json(archive)).encode()))


def granted(talk: Talk, image: str = IMAGE) -> Grant:
    grant = access(talk, image).grant
    assert grant is not None
    return grant


def keys(talk: Talk) -> list[str]:
    return [stored.key for stored in talk.bucket.s3.list("envs/")]


def later(talk: Talk, seconds: float) -> None:
    talk.bucket.clock = lambda: time.time() + seconds


def collect(talk: Talk, dry_run: bool = False) -> list[dict[str, Any]]:
    with talk.session.stream(api.collect, api.Collect(dry_run=dry_run)) as stream:
        stream.end()
        parts = [dict(frame.header["part"]) for frame in stream if "part" in frame.header]
        talk.session.result(api.collect, stream)
    return [part for part in parts if part["kind"] == "images"]


class TestAccess:
    def test_one_that_is_there_can_be_fetched_and_one_that_is_not_can_be_put_there(self, talk: Talk) -> None:
        assert access(talk).pieces == []
        store(talk)
        found = access(talk)
        assert found.grant is None, "what others run is written once"
        with HttpClient() as web:
            assert [b"".join(part_of(web, piece.url, 0, piece.takes[0].length)) for piece in found.pieces] == PIECES
        assert [piece.takes[0].digest for piece in found.pieces] == list(map(sha256, PIECES))

    def test_images_are_for_one_architecture(self, talk: Talk) -> None:
        store(talk)
        assert access(talk).pieces and not access(talk, architecture="aarch64").pieces
        assert not access(talk, OTHER).pieces

    def test_nothing_else_can_be_written(self, talk: Talk) -> None:
        grant = granted(talk)
        prefix = layout.image_prefix(image_id(IMAGE, "x86_64"))
        assert grant.prefix == prefix
        with HttpClient() as web:
            for elsewhere in (layout.image_prefix(image_id(OTHER, "x86_64")), "uploads/doom/"):
                with pytest.raises(HttpError):
                    post(web, grant._replace(prefix=elsewhere), "x", Content.of(b"x"))
            with pytest.raises(HttpError):
                post(web, grant, "x", Content.of(bytes(layout.IMAGE_PIECE + 1)))
        assert keys(talk) == []

    @pytest.mark.parametrize("record", [b"{", b"[]", b'{"image": 1}', b"x" * (layout.MOST_IMAGE_RECORD + 1)])
    def test_what_makes_no_sense_is_as_if_it_were_not_there(self, talk: Talk, record: bytes) -> None:
        store(talk, record=record)
        assert access(talk).pieces == []
        store(talk)
        assert access(talk).pieces

    def test_one_that_lacks_a_piece_is_put_there_again(self, talk: Talk) -> None:
        store(talk)
        for damage in ([], [PIECES[0][1:]]):
            key = layout.image_prefix(image_id(IMAGE, "x86_64")) + sha256(PIECES[0])
            talk.bucket.s3.delete([key])
            for data in damage:
                talk.bucket.s3.put(key, [data], sha256(data))
            assert access(talk).pieces == []
            store(talk)
            assert access(talk).pieces

    def test_one_of_another_name(self, talk: Talk) -> None:
        store(talk, named=OTHER)
        assert access(talk).pieces == []

    def test_a_use_is_noted_once_a_day(self, talk: Talk) -> None:
        store(talk)

        def requests() -> int:
            before = talk.requests
            assert access(talk).pieces
            return talk.requests - before

        assert requests() == 2
        later(talk, 2 * DAY)
        assert requests() == 3
        assert access(talk).pieces  # and it is still whole


class TestUpkeep:
    def test_what_is_used_stays_and_what_was_not_for_long_goes(self, talk: Talk) -> None:
        store(talk)
        later(talk, 29 * DAY)
        assert collect(talk) == [] and len(keys(talk)) == 3
        later(talk, 31 * DAY)
        (part,) = collect(talk, dry_run=True)
        assert part["items"] == [{"name": IMAGE}] and part["bytes"] > 1500 and len(keys(talk)) == 3
        assert collect(talk) == [part] and keys(talk) == []
        assert collect(talk) == []

    def test_what_was_cut_while_it_was_written_goes_after_days(self, talk: Talk) -> None:
        grant = granted(talk)
        store(talk)
        with HttpClient() as web:
            post(web, grant, sha256(b"of another"), Content.of(b"of another"))
            post(web, granted(talk, OTHER), sha256(b"cut"), Content.of(b"cut"))
        later(talk, DAY)
        assert collect(talk) == []
        later(talk, 8 * DAY)
        (part,) = collect(talk)
        assert (part["count"], part["bytes"]) == (2, len(b"of another") + len(b"cut"))
        assert len(keys(talk)) == 3 and access(talk).pieces

    def test_one_that_is_damaged_hinders_nothing(self, talk: Talk) -> None:
        store(talk, record=b"{")
        assert collect(talk) == []
        later(talk, 8 * DAY)
        assert collect(talk)[0]["count"] == 1 and keys(talk) == []

    def test_what_they_take_is_told(self, talk: Talk) -> None:
        store(talk)
        with talk.session.stream(api.usage, api.Nothing()) as stream:
            stream.end()
            (row,) = [frame.header["row"] for frame in stream]
            talk.session.result(api.usage, stream)
        assert (row["kind"], row["name"]) == ("image", IMAGE) and row["size"] == row["alone"] > 1500
        assert abs(row["used"] - time.time()) < 60
