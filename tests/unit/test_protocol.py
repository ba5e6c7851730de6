"""Frames in any pieces, streams side by side, a slow reader, a link that goes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import frames, protocol
from remoterun.agent.shared.frames import (
    CANCEL,
    CREDIT,
    DATA,
    END,
    ERROR,
    MAX_BODY,
    OPEN,
    PIECE,
    Decoder,
    ProtocolError,
    encode,
)
from remoterun.agent.shared.protocol import WINDOW, Cancelled, Link, LinkClosed, RemoteError, Stream
from tests.workshop import at_once, call, linked, pumped, until

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FRAMES = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.sampled_from([OPEN, DATA, END, ERROR, CREDIT, CANCEL]),
        st.dictionaries(st.text(), JSON, max_size=4),
        st.binary(max_size=300),
    ),
    max_size=8,
)


class TestFrames:
    @given(FRAMES, st.data())
    def test_any_split_gives_the_same_frames(self, frames: list[Any], data: st.DataObject) -> None:
        wire = b"".join(encode(*frame) for frame in frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
        decoder = Decoder()
        found = []
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            found += decoder.feed(wire[start:end])
        assert found == frames
        decoder = Decoder()
        assert [frame for byte in wire for frame in decoder.feed(bytes([byte]))] == frames

    @given(st.binary(max_size=400))
    def test_any_bytes_give_frames_or_an_error(self, data: bytes) -> None:
        decoder = Decoder()
        try:
            list(decoder.feed(data))
        except ProtocolError:
            return
        assert decoder.held <= len(data)

    @pytest.mark.parametrize(
        "head",
        [
            b"\0\0\0\1\2\xff\xff\xff\xff\0\0\0\0",
            b"\0\0\0\1\2\0\0\0\0\xff\xff\xff\xff",
            b"\0\0\0\1\2\0\x10\0\1\0\0\0\0",
            b"\0\0\0\1\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\1\x08\0\0\0\0\0\0\0\0",
        ],
    )
    def test_absurd_heads_are_refused_at_once(self, head: bytes) -> None:
        with pytest.raises(ProtocolError):
            list(Decoder().feed(head))

    @pytest.mark.parametrize("header", [b"[]", b"1", b"null", b"{", b"\xff", b"[" * 100_000, b'"x"'])
    def test_headers_that_are_no_objects(self, header: bytes) -> None:
        head = frames.HEAD.pack(1, DATA, len(header), 0)
        with pytest.raises(ProtocolError):
            list(Decoder().feed(head + header))

    def test_what_came_before_a_bad_frame_counts(self) -> None:
        found = []
        with pytest.raises(ProtocolError):
            for frame in Decoder().feed(encode(1, DATA, {}, b"good") + b"\xff" * 13):
                found.append(frame)
        assert found == [(1, DATA, {}, b"good")]

    def test_too_long_to_send(self) -> None:
        with pytest.raises(ProtocolError):
            encode(1, DATA, {}, bytes(MAX_BODY + 1))

    @given(st.dictionaries(st.text(), JSON, max_size=6), st.binary(max_size=50))
    def test_both_sides_count_the_same(self, header: dict[str, Any], body: bytes) -> None:
        frame = encode(1, DATA, header, body)
        ((_, _, header, body),) = Decoder().feed(frame)
        assert protocol._cost(frames.Frame(header, body)) == len(frame) + protocol._FRAME_COST


def echo(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
    size = 0
    for frame in stream:
        size += len(frame.body)
        stream.send(frame.body, **frame.header)
    stream.end(size=size, op=op, arguments=arguments)


class TestStreams:
    def test_there_and_back(self) -> None:
        with linked(echo) as (link, _):
            stream = link.open("op", a=1, b="é")
            for number in range(5):
                stream.send(b"x" * number, n=number)
            stream.end()
            assert [(frame.header, frame.body) for frame in stream] == [({"n": n}, b"x" * n) for n in range(5)]
            assert stream.result == {"size": 10, "op": "op", "arguments": {"a": 1, "b": "é"}}
            assert not link._streams

    def test_a_long_result(self) -> None:
        rows = list(range(300_000))

        def answer(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            with contextlib.suppress(LinkClosed):  # the client may have seen enough
                stream.end(rows=rows)

        with linked(answer) as (link, _):
            stream = link.open("op", result_limit=4 << 20)
            stream.end()
            assert stream.finish(60) == {"rows": rows}
            with pytest.raises(RemoteError, match="an answer of more than 1048576 bytes"):
                call(link, "op")
            assert not link._streams and not link.closed

    def test_threads(self) -> None:
        def fill(stream: Stream, number: int) -> None:
            for _ in range(60):
                stream.send(bytes([number]) * 50_000)
            stream.end()

        def work(link: Link, number: int) -> None:
            stream = link.open("op", number=number)
            sender = threading.Thread(target=fill, args=(stream, number))
            sender.start()
            got = b"".join(frame.body for frame in stream)
            sender.join()
            assert got == bytes([number]) * 3_000_000

        with linked(echo) as (link, _):
            at_once(partial(work, link, number) for number in range(12))
            assert not link._streams

    def test_an_error(self) -> None:
        def fails(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            stream.fail("not_found", "there is no x", "try y", "z" * 100_000)

        with linked(fails) as (link, _), pytest.raises(RemoteError) as caught:
            call(link, "op")
        error = caught.value
        assert (error.code, error.message, error.hint, len(error.evidence or "")) == (
            "not_found", "there is no x", "try y", 65536,
        )  # fmt: skip

    def test_an_error_wakes_the_sender(self) -> None:
        def fails(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            stream.receive()
            stream.fail("disk_full", "full")

        with linked(fails) as (link, _):
            stream = link.open("op")
            with pytest.raises(RemoteError):
                for _ in range(1000):
                    stream.send(bytes(PIECE))

    def test_an_early_answer_wakes_the_sender(self) -> None:
        """An agent that has said all it has to say wants no more: the sender doesn't wait for a window for ever."""

        def answers(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            stream.receive()
            stream.end(enough=True)

        with linked(answers) as (link, _):
            stream = link.open("op")
            for _ in range(1000):
                stream.send(bytes(PIECE))
            stream.end()
            assert stream.finish() == {"enough": True}

    def test_cancel(self) -> None:
        ended = threading.Event()

        def waits(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            if op == "send":
                try:
                    while True:
                        stream.send(bytes(PIECE))
                except Cancelled:
                    ended.set()
            elif op == "receive":
                try:
                    stream.receive()
                except Cancelled:
                    ended.set()
            elif stream.wait_cancelled(60):
                ended.set()

        with linked(waits) as (link, _):
            for op in ("send", "receive", "wait"):
                ended.clear()
                stream = link.open(op)
                stream.cancel()
                stream.cancel()
                assert ended.wait(60), op
                with pytest.raises(Cancelled):
                    stream.receive()
            assert not link._streams

    def test_receive_with_a_deadline(self) -> None:
        with linked(lambda stream, op, arguments: stream.wait_cancelled(60) or None) as (link, _):
            stream = link.open("op")
            with pytest.raises(TimeoutError):
                stream.receive(0.02)
            stream.cancel()


class TestFlow:
    def test_a_slow_reader_bounds_memory_and_blocks_nobody(self) -> None:
        sent = 0

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            nonlocal sent
            if op == "small":
                stream.end(fine=True)
                return
            for _ in range(arguments["frames"]):
                stream.send(bytes(PIECE))
                sent += PIECE
            stream.end()

        with linked(handler) as (link, _):
            stream = link.open("flood", frames=800)  # 100 MB
            stream.end()
            until(lambda: sent > WINDOW - 3 * PIECE)
            for _ in range(20):
                assert call(link, "small") == {"fine": True}
            assert sent <= WINDOW
            got, most = 0, 0
            for frame in stream:
                got += len(frame.body)
                most = max(most, stream._inbox_cost)
                if got % (20 << 20) == 0:
                    assert call(link, "small") == {"fine": True}
            assert got == 800 * PIECE and most <= WINDOW

    def test_small_frames_do_not_make_credit(self) -> None:
        seen: list[Stream] = []

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            seen.append(stream)
            for number in range(40_000):
                stream.send(b"line\n", log=number, t=number / 7, more={"a": [1, 2, 3], "b": {"c": 1}})
            stream.end()

        with linked(handler) as (link, _):
            stream = link.open("op")
            for _ in stream:
                assert seen[0]._credit <= WINDOW
            stream.end()

    def test_one_that_overruns_its_window_ends_the_link(self) -> None:
        def silent(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            stream.wait_cancelled(60)

        with linked(silent) as (link, _):
            stream = link.open("op")
            frame = encode(stream.number, DATA, {}, bytes(MAX_BODY))

            def overrun() -> None:
                for _ in range(40):
                    link.write(frame)
                until(lambda: link.closed)
                link.write(frame)

            with pytest.raises(LinkClosed):
                overrun()


def fed(*pieces: bytes, write: Callable[..., None] = lambda *parts: None) -> tuple[Link, Stream, list[bytes]]:
    """A link that reads these pieces once it has this stream, and what it has not read yet."""
    left, opened = [*pieces], threading.Event()

    def read(limit: int) -> bytes:
        opened.wait(60)
        return left.pop(0) if left else b""

    link = Link(pumped(read), write)
    link.start()
    stream = link.open("op")
    opened.set()
    return link, stream, left


class TestLoss:
    @pytest.mark.parametrize("what", ["receive", "send", "finish", "iterate", "wait"])
    def test_everyone_wakes(self, what: str) -> None:
        there: list[Stream] = []

        def handler(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            there.append(stream)
            stream.wait_cancelled(60)

        with linked(handler) as (link, cut):
            stream = link.open("op")

            def send() -> None:
                while True:
                    stream.send(bytes(PIECE))

            def wait() -> None:
                if stream.wait_cancelled(60):
                    raise LinkClosed

            actions: dict[str, Callable[[], object]] = {
                "receive": stream.receive, "send": send, "finish": stream.finish, "iterate": lambda: list(stream),
                "wait": wait,
            }  # fmt: skip
            caught: list[Exception] = []

            def act() -> None:
                try:
                    actions[what]()
                except Exception as error:  # noqa: BLE001
                    caught.append(error)

            thread = threading.Thread(target=act)
            thread.start()
            until(lambda: there)
            time.sleep(0.02)  # now it waits, most likely; if not, the result is the same
            cut()
            thread.join(60)
            assert len(caught) == 1 and isinstance(caught[0], LinkClosed)
            until(lambda: there[0].cancelled)
            with pytest.raises(LinkClosed):
                link.open("op")
            with pytest.raises(LinkClosed):
                call(link, "op")

    def test_an_interrupt_while_something_is_sent(self) -> None:
        """Half a frame may be out, and nothing can follow that."""
        sent: list[bytes] = []

        def write(*parts: Any) -> None:
            sent.append(b"".join(parts))
            if len(sent) == 2:
                raise KeyboardInterrupt

        over = threading.Event()
        link = Link(lambda taker: over.wait(60) and None, write)  # type: ignore[arg-type, return-value]
        reader = link.start()
        stream = link.open("op")
        with pytest.raises(KeyboardInterrupt):
            stream.send(b"x")
        stream.cancel()
        with pytest.raises(LinkClosed, match="interrupted"):
            link.open("op")
        assert len(sent) == 2
        over.set()
        reader.join(60)

    def test_a_link_on_which_nothing_happens_is_written_to(self) -> None:
        """And nothing comes of it at the other end."""
        here, there = socket.socketpair()
        client = Link(pumped(here.recv), lambda *parts: here.sendall(b"".join(parts)))
        written: list[bytes] = []

        def write(*parts: Any) -> None:
            written.append(b"".join(parts))
            there.sendall(written[-1])

        agent = Link(pumped(there.recv), write, lambda stream, op, arguments: stream.end(op=op))
        threads = [client.start(), agent.start()]
        agent.write(encode(0, DATA, {"home_id": "x"}))
        assert client.greeting(60) == {"home_id": "x"}
        agent.repeat(0.01, agent.beat)
        until(lambda: len(written) >= 5)
        assert call(client, "hello") == {"op": "hello"} and not client.closed
        here.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)
        until(lambda: not any(thread.name == "remoterun repeats" for thread in threading.enumerate()))
        here.close()
        there.close()

    def test_no_greeting(self) -> None:
        link = Link(pumped(lambda limit: b""), lambda *parts: None)
        link.start()
        with pytest.raises(LinkClosed):
            link.greeting(60)

    def test_what_had_arrived_is_read_first(self) -> None:
        """Also when the pipe's own kind of error meets the reader's credit."""

        class Broken(Exception):
            pass

        written: list[bytes] = []

        def write(data: bytes) -> None:
            if written:
                raise Broken("gone")
            written.append(data)

        link, stream, _ = fed(b"".join(encode(1, DATA, {}, bytes(PIECE)) for _ in range(40)), write=write)
        until(lambda: link.closed)
        assert sum(len(stream.receive().body) for _ in range(40)) == 40 * PIECE  # type: ignore[union-attr]
        with pytest.raises(LinkClosed):
            stream.receive()
        with pytest.raises(LinkClosed):
            stream.send(b"x")
        stream.cancel()

    @pytest.mark.parametrize(
        "said",
        [
            b"garbage that is not a frame at all",
            frames.HEAD.pack(1, DATA, frames.MAX_HEADER + 1, 0),
            frames.HEAD.pack(1, DATA, 0, MAX_BODY + 1),
            frames.HEAD.pack(1, DATA, (1 << 32) - 1, 0),
            frames.HEAD.pack(1, 9, 0, 0),
            encode(1, OPEN, {"op": "x", "args": {}}),
            encode(1, CREDIT, {"n": -1}),
            encode(1, CREDIT, {"n": "many"}),
            encode(1, DATA, {}, b"x")[:-1],
        ],
    )
    def test_an_agent_that_speaks_nonsense(self, said: bytes) -> None:
        """What follows a head of absurd lengths is not even read: nobody waits for four gigabytes."""
        _, stream, pieces = fed(said, b"")
        with pytest.raises(LinkClosed):
            stream.receive(60)
        assert (pieces == [b""]) is not said.startswith(encode(1, DATA, {}, b"x")[:-1])

    @pytest.mark.parametrize("header", [{}, {"op": 1, "args": {}}, {"op": "x"}, {"op": "x", "args": []}])
    def test_a_client_that_speaks_nonsense(self, header: dict[str, Any]) -> None:
        with linked(echo) as (link, _):
            link.write(encode(7, OPEN, header))
            until(lambda: link.closed)

    def test_too_many_streams(self) -> None:
        with linked(lambda stream, op, arguments: stream.wait_cancelled(60) or None) as (link, _):

            def many() -> None:
                for _ in range(protocol.MAX_STREAMS + 1):
                    link.open("op")
                until(lambda: link.closed)
                link.open("op")

            with pytest.raises(LinkClosed):
                many()


class TestWhoUsesTheLink:
    """As the agent sees it."""

    def test_a_request_that_is_under_way(self) -> None:
        seen: list[bool] = []
        over = threading.Event()

        def answer(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            if op == "watch":
                stream._link.repeat(0.01, lambda: seen.append(stream._link.busy()))
            else:
                over.wait(60)
            stream.end()

        with linked(answer) as (client, _):
            call(client, "watch")
            until(lambda: seen and not seen[-1])
            stream = client.open("waits")
            stream.end()
            until(lambda: seen[-1])
            over.set()
            stream.finish(60)
            until(lambda: not seen[-1])

    def test_one_whose_client_reads_no_more_is_not(self) -> None:
        seen: list[bool] = []

        def answer(stream: Stream, op: str, arguments: dict[str, Any]) -> None:
            stream._link.repeat(0.01, lambda: seen.append(stream._link.busy()))
            with contextlib.suppress(Cancelled, LinkClosed):
                while True:
                    stream.send(bytes(1 << 16))

        with linked(answer) as (client, _):
            stream = client.open("floods")
            until(lambda: len(seen) > 20 and not any(seen[-20:]))  # the window is full
            until(lambda: stream.receive(60) and seen[-1])
            stream.cancel()
