"""What a host may answer to `check`, `gc` and `df`: it gets nothing that it never held, and no answer is endless."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun import config
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.agent.shared.tree import Manifest
from remoterun.agent.store.home import Home
from remoterun.client import Checked, Client, upkeep
from remoterun.errors import AgentError
from remoterun.hosts.local import LocalHost
from remoterun.model import MachineType, Upload
from remoterun.session import Session
from tests.unit.test_hostile import FakeHost
from tests.workshop import Files, sha256, tree_of, write_files

EVIL, GOOD = MachineType("evil", host="evil"), MachineType("good", host="good")
SECRET = b"what evil never held"
FILES: Files = {"key": SECRET, "text": b"text"}


class Evil:
    """A host that says that `damaged` are missing from the upload `name`, and keeps what it is sent."""

    def __init__(self, *damaged: bytes, name: str = "doom", blobs: tuple[bytes, ...] = ()) -> None:
        self.damaged, self.name = damaged, name
        self.held = {sha256(data): data for data in blobs}
        self.got: list[bytes] = []

    def handle(self, stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            stream.end(**getattr(self, op)(stream))

    def check(self, stream: Stream) -> dict[str, Any]:
        for content in self.damaged:
            user = {"upload": self.name, "version": 1, "path": "key"}
            told = {"what": "blob", "problem": "missing", "digest": sha256(content), "size": len(content)}
            stream.send(finding=dict(told, users=[user], more=0, mended="", why=""))
        return {"blobs": 0, "size": 0, "files": 0, "findings": len(self.damaged), "more": 0}

    def blobs(self, stream: Stream) -> dict[str, Any]:
        wanted = b"".join(bytes(frame.body) for frame in stream)
        for at in range(0, len(wanted), 32):
            digest = wanted[at : at + 32].hex()
            data = self.held.get(digest)
            if data is None:
                stream.send(d=digest, gone=1)
            else:
                stream.send(data, d=digest, s=len(data))
        return {}

    def put(self, stream: Stream) -> dict[str, Any]:
        self.got.append(b"".join(bytes(frame.body) for frame in stream))
        return {"blobs": 1}

    def mend(self, stream: Stream) -> dict[str, Any]:
        for frame in stream:
            for at in range(0, len(frame.body), 32):
                stream.send(mended=bytes(frame.body[at : at + 32]).hex())
        return {}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """With the upload `doom` on a good machine."""
    machines = {"evil": EVIL, "good": GOOD}
    with Client(config.Config(tmp_path / "laptop", "evil", machines)) as client:
        home = Home.open(str(tmp_path / "good"))
        for data in FILES.values():
            assert isinstance(data, bytes)
            home.blobs.put(data)
        home.uploads.commit("doom", tree_of(FILES)[0])
        client.connections._sessions[GOOD] = Session(GOOD, LocalHost(tmp_path / "good"))
        record(client, tmp_path, home.id, GOOD)
        yield client


def record(client: Client, tmp_path: Path, home_id: str, machine: MachineType, name: str = "doom") -> Manifest:
    """That this client has sent an upload with those files there."""
    folder = write_files(tmp_path / name, FILES)
    manifest = tree_of(FILES)[0]
    size, count = manifest.size, manifest.file_count
    upload = Upload(name, 1, manifest.digest, size, count, 1.0, machine.name, home_id, str(folder))
    client.registry.uploads.record(upload, machine, 1.0)
    return manifest


def check(client: Client, evil: Evil) -> Checked:
    client.connections._sessions[EVIL] = Session(EVIL, FakeHost(evil.handle))
    return client.machines.check("evil")


class TestCheck:
    def test_a_guess_is_not_answered(self, client: Client) -> None:
        """The content lies on this machine, and on another one, and was never sent to that home."""
        evil = Evil(SECRET)
        (damage,) = check(client, evil).damage
        assert evil.got == [] and damage.mended == "" and "has not sent it" in damage.why

    def test_what_was_sent_there_is_mended(self, client: Client, tmp_path: Path) -> None:
        evil = Evil(SECRET, blobs=(record(client, tmp_path, "evil", EVIL).encode(),))
        (damage,) = check(client, evil).damage
        assert evil.got == [SECRET] and damage.mended == str(tmp_path / "doom" / "key")

    def test_and_from_another_machine(self, client: Client, tmp_path: Path) -> None:
        """The list of files, too: the home has lost it."""
        record(client, tmp_path, "evil", EVIL)
        (tmp_path / "doom" / "key").unlink()
        evil = Evil(SECRET)
        (damage,) = check(client, evil).damage
        assert evil.got == [SECRET] and damage.mended == "good"

    def test_a_false_list_of_files(self, client: Client, tmp_path: Path) -> None:
        """The home has another upload of this client, and says that it has the content."""
        write_files(tmp_path / "other", {"a": b"A"})
        own = tree_of({"a": b"A"})[0]
        upload = Upload("other", 1, own.digest, 1, 1, 1.0, "evil", "evil", str(tmp_path / "other"))
        client.registry.uploads.record(upload, EVIL, 1.0)
        evil = Evil(SECRET, name="other")
        evil.held[own.digest] = tree_of(FILES)[0].encode()
        (damage,) = check(client, evil).damage
        assert evil.got == [] and damage.mended == ""


ROWS: dict[str, dict[str, Any]] = {
    "check": {"finding": {"what": "blob", "problem": "missing", "digest": "", "size": 0, "users": [], "more": 0,
                          "mended": "", "why": "x" * 1000}},
    "collect": {"part": {"kind": "blobs", "count": 1, "bytes": 1, "items": []}},
    "usage": {"row": {"kind": "run", "name": "k" * 26, "size": 1, "alone": 1, "more": "x" * 1000}},
}  # fmt: skip


@pytest.mark.parametrize("op", list(ROWS))
def test_an_answer_without_an_end(client: Client, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MOST_TEXT", 8 << 20)

    def handle(stream: Stream, asked: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            while True:
                stream.send(**ROWS[op])

    client.connections._sessions[EVIL] = Session(EVIL, FakeHost(handle))
    ask = {"check": client.machines.check, "collect": client.machines.gc, "usage": client.machines.df}[op]
    with pytest.raises(AgentError, match="evil answers with more than any home holds"):
        ask("evil")
