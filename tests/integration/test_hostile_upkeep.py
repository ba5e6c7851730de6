"""What a host may answer to `check`, `gc` and `df`: no answer is endless."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from remoterun import config
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, Stream
from remoterun.client import Client
from remoterun.client.upkeep import upkeep
from remoterun.errors import AgentError
from remoterun.model import MachineType
from remoterun.session import Session
from tests.hostile import FakeHost

EVIL = MachineType("evil", host="evil")
ROWS: dict[str, dict[str, Any]] = {
    "check": {"finding": {"what": "blob", "problem": "missing", "digest": "", "size": 0, "users": [], "more": 0,
                          "why": "x" * 1000}},
    "collect": {"part": {"kind": "blobs", "count": 1, "bytes": 1, "items": []}},
    "usage": {"row": {"kind": "run", "name": "k" * 26, "size": 1, "alone": 1, "more": "x" * 1000}},
}  # fmt: skip


@pytest.mark.parametrize("op", list(ROWS))
def test_an_answer_without_an_end(tmp_path: Path, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MOST_TEXT", 8 << 20)

    def handle(stream: Stream, asked: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            while True:
                stream.send(**ROWS[op])

    with Client(config.Config(tmp_path / "laptop", "evil", {"evil": EVIL})) as client:
        client.connections._sessions[EVIL] = Session(EVIL, FakeHost(handle))
        ask = {"check": client.machines.check, "collect": client.machines.gc, "usage": client.machines.df}[op]
        with pytest.raises(AgentError, match="evil answers with more than any home holds"):
            ask("evil")
