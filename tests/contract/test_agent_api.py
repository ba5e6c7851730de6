"""The page of requests, `remoterun.agent.shared.api`, held against a home; test_hosts.py has each way to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.requests import handler_of
from remoterun.agent.shared import api
from remoterun.agent.shared.frames import PIECE
from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.shared.spec import ResourceRef
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store.home import Home
from tests.homes import send, upload
from tests.workshop import Files, call, served, tree_of

NOTHING = api.Nothing()
FILES: Files = {"a": b"A", "b/c": b"C" * 5000, "tool*": b"#!/bin/sh\n", "empty": b"", "large": b"x" * (PIECE + 7)}


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    with served(Home.open(str(tmp_path / "home"))) as link:
        yield link


def ask(link: Link, request: api.Request[Any, Any], arguments: Any = NOTHING, *bodies: bytes) -> Any:
    """(its result, what came besides): the bodies of the frames, one after the other."""
    stream = link.open(request.name, result_limit=request.most, **to_json(arguments))
    for body in bodies:
        stream.send(body)
    stream.end()
    came = [bytes(frame.body) for frame in stream]
    return from_json(request.result, stream.result), came


def read_tree(link: Link, resource: ResourceRef) -> tuple[Manifest, api.Tree]:
    result, came = ask(link, api.tree, api.OfResource(resource))
    return Manifest.decode(b"".join(came)), result


class TestThePage:
    def test_every_request_has_its_handler(self) -> None:
        for request in api.REQUESTS.values():
            assert callable(handler_of(request))

    def test_an_unknown_request(self, link: Link) -> None:
        with pytest.raises(RemoteError) as caught:
            call(link, "paint")
        assert caught.value.code == "unknown_request" and "paint" in caught.value.message

    @pytest.mark.parametrize("arguments", [{}, {"name": 5}, {"name": "doom", "newest": "yes"}, {"name": "d", "x": 1}])
    def test_arguments_that_are_none(self, link: Link, arguments: dict[str, Any]) -> None:
        with pytest.raises(RemoteError) as caught:
            call(link, "upload", **arguments)
        assert caught.value.code == "bad_request"


class TestUploads:
    def test_a_version_is_its_content(self, link: Link) -> None:
        """The client's number is a label: it is used where it is free."""

        def made(files: Files, number: int, **asked: Any) -> tuple[int, bool]:
            manifest, blobs = tree_of(files)
            send(link, *blobs.values())
            request = api.CommitUpload("doom", number, manifest.digest, **asked)
            committed, _ = ask(link, api.commit_upload, request, manifest.encode())
            return committed.version.version, committed.created

        assert made({"a": b"A"}, 4) == (4, True)
        assert made({"a": b"A"}, 4) == made({"a": b"A"}, 9) == (4, False)
        assert made({"a": b"B"}, 4) == (5, True), "the label 4 is taken"
        assert made({"a": b"C"}, 2, made=1.0, for_mount=True) == (2, True), "a copy of an older one"
        versions = ask(link, api.upload, api.VersionsOf("doom"))[0].versions
        assert {version.version for version in versions} == {2, 4, 5} and versions[-1].version == 5
        for version in versions:
            found, about = read_tree(link, ResourceRef("upload", "doom", digest=version.digest))
            assert found.digest == version.digest and about.about["version"] == version.version

    def test_one_version_is_removed(self, link: Link) -> None:
        first, second = (upload(link, "doom", {"a": content})["version"]["digest"] for content in (b"A", b"B"))
        assert not ask(link, api.remove_upload, api.RemoveUpload("doom", "c" * 64))[0].removed
        assert ask(link, api.remove_upload, api.RemoveUpload("doom", first))[0].removed
        assert not ask(link, api.remove_upload, api.RemoveUpload("doom", first))[0].removed
        assert [each.version for each in ask(link, api.upload, api.VersionsOf("doom"))[0].versions] == [2]
        assert read_tree(link, ResourceRef("upload", "doom"))[0].files
        assert ask(link, api.remove_upload, api.RemoveUpload("doom", second))[0].removed
        assert ask(link, api.uploads)[0].uploads == []

    def test_a_part_of_one_and_one_file(self, link: Link) -> None:
        upload(link, "doom", FILES)
        part, _ = read_tree(link, ResourceRef("upload", "doom", sub="b"))
        assert [entry.path for entry in part] == ["c"]
        single, about = read_tree(link, ResourceRef("upload", "doom", sub="b/c"))
        assert [entry.path for entry in single] == ["c"] and about.single
        with pytest.raises(RemoteError) as caught:
            read_tree(link, ResourceRef("upload", "doom", sub="b/d"))
        assert caught.value.code == "not_found"

    def test_many_uploads_are_all_listed(self, link: Link, tmp_path: Path) -> None:
        """More than go into the header of a frame."""
        made = from_json(api.Committed, upload(link, "u0000", {"a": b"A"}))
        names = [f"{number:0100}" for number in range(7000)]
        home = Home(str(tmp_path / "home"))
        versions = Path(home.uploads.folder_of("u0000"), "versions.json").read_bytes()
        for name in names:
            folder = Path(home.uploads.folder_of(name))
            folder.mkdir()
            (folder / "versions.json").write_bytes(versions)
        listed = ask(link, api.uploads)[0].uploads
        assert [item.name for item in listed] == [*names, "u0000"]
        assert all(item.newest == made.version for item in listed)


class TestRunsThatAreNotHere:
    @pytest.mark.parametrize("request_", [api.run, api.follow], ids=lambda request: request.name)
    def test_not_found(self, link: Link, request_: api.Request[Any, Any]) -> None:
        with pytest.raises(RemoteError) as caught:
            ask(link, request_, request_.arguments(key="01234567"))
        assert caught.value.code == "not_found"

    def test_none_of_them_is_ended(self, link: Link) -> None:
        assert ask(link, api.end, api.EndRuns(["01234567"]))[0] == api.EndedRuns([])

    def test_removing_one_is_done(self, link: Link) -> None:
        assert not ask(link, api.remove_run, api.RunKey("01234567"))[0].removed
