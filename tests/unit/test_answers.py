"""What a machine's answers may take: values are bounded, not only bytes."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import END, PIECE, RESULT, encode
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.records import decode, parse
from remoterun.agent.shared.spec import RunSpec, SpecError
from remoterun.errors import RemoterunError
from remoterun.model import MachineType
from remoterun.session import Session
from tests.unit.test_hostile import FakeHost

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

    session = Session(MachineType("evil"), FakeHost(handler))

    def refused() -> None:
        with pytest.raises(RemoterunError, match="values|makes no sense"):
            session.ask(request_, asked)

    try:
        within(100 * MIB, 60, refused)
        assert session.ask(api.room, api.Arriving()).room == 5
    finally:
        session.close()


def test_every_answer_is_bounded_to_4_mb_but_for_the_spec_of_one_run() -> None:
    assert max(request.most for request in api.REQUESTS.values() if request is not api.run) == 4 * MIB
    assert api.run.most == 20 * MIB
