"""The framed protocol between client and agent, both sides of it.

On the wire, after the agent's `MAGIC`, are frames (frames.py). A request is a stream of them: OPEN carries its name and
arguments; then each side sends DATA until its own END. The agent's END carries the result; one that is too long for a
header comes before it, in the bodies of RESULT frames. ERROR ends the stream with a reason instead. Streams are
independent: answers come in any order.

Flow control: each direction of a stream may have `WINDOW` unread bytes under way; the reader hands out CREDIT as it
reads. So a slow reader of one stream (a paused terminal) blocks neither the link nor the memory of either side.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional

from .frames import (
    CANCEL,
    CREDIT,
    DATA,
    END,
    ERROR,
    HEAD,
    MAX_HEADER,
    OPEN,
    PIECE,
    RESULT,
    Bytes,
    Decoder,
    Frame,
    ProtocolError,
    encode,
    encode_head,
    parse_header,
)
from .records import MOST_VALUES

MAGIC = b"\x00remoterun-agent/1\n"

MAX_STREAMS = 256
LONG_RESULT = 64 << 10
"""Bytes of the longest result that goes in the header of END."""
WINDOW = 8 << 20
MOST_READ = 220 << 20
"""Bytes of a manifest, or of another list that is read as a whole."""
MOST_DROPPED = 1000
"""Frames that may come without a content, or of an answer whose end is all that is wanted."""

_FRAME_COST = 64
_VALUE_COST = 32  # of memory, however short its text in a header


class LinkClosed(Exception):
    """The link ended under a stream that had not ended."""


class Cancelled(Exception):
    """The other side no longer wants this stream."""


class RemoteError(Exception):
    """What an ERROR frame carries. `code` is a short word (`not_found`, `disk_full` …) that programs may test."""

    def __init__(self, code: str, message: str, hint: Optional[str] = None, evidence: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.evidence = evidence


class Stream:
    """One request, seen from one side. One thread sends and one receives; not more."""

    def __init__(self, link: "Link", number: int) -> None:
        self._link = link
        self.number = number
        self._changed = threading.Condition()
        self._inbox: Deque[Frame] = deque()
        self._inbox_cost = 0
        self._read_cost = 0
        self._credit = WINDOW
        self._ended_here = False
        self._ended_there = False
        self._failure: Optional[Exception] = None
        self.sending = False
        """Whether a frame waits for the other side to read."""
        self.result: Dict[str, Any] = {}
        """What the other side ended with, once `receive` returned None."""
        self.most_result = MAX_HEADER
        """Bytes that the other side's result may have."""
        self._long_result = bytearray()

    # -- sending

    def send(self, body: Bytes = b"", **header: Any) -> None:
        """One DATA frame. Blocks while the other side's window is full. Raises what ended the stream."""
        head = encode_head(self.number, DATA, header, len(body))
        cost = len(head) + len(body) + _FRAME_COST
        self.sending = True
        try:
            with self._changed:
                while self._credit < cost and self._failure is None and not self._answered:
                    self._changed.wait()
                if self._failure is not None:
                    raise self._failure
                if self._answered:
                    return  # the result has come: what we still had to say is not wanted
                self._credit -= cost
            self._link.write(head, body)
            self._link.sent += 1
        finally:
            self.sending = False

    def send_all(self, data: Bytes) -> None:
        """In frames; none for no bytes."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            self.send(view[start : start + PIECE])

    def end(self, **result: Any) -> None:
        """Say that this side has sent all. `result` is what the other side finds in its `result`."""
        self._ended_here = True
        head = json.dumps(result, separators=(",", ":")).encode() if result else b""
        if len(head) <= LONG_RESULT:
            self._link.write(encode(self.number, END, result))
        else:
            for start in range(0, len(head), PIECE):
                self._link.write(encode(self.number, RESULT, None, head[start : start + PIECE]))
            self._link.write(encode(self.number, END))
        self._forget_when_done()

    def fail(self, code: str, message: str, hint: Optional[str] = None, evidence: Optional[str] = None) -> None:
        """End the stream, both directions, with an error."""
        self._ended_here = self._ended_there = True
        fields = {"code": code, "message": message[:8192], "hint": hint, "evidence": (evidence or "")[-65536:] or None}
        self._link.write(encode(self.number, ERROR, fields))
        self._link.forget(self.number)

    def cancel(self) -> None:
        """Ask the other side to stop; nothing more is received. May be called at any time, from any thread."""
        with self._changed:
            done = self._ended_there
            self._ended_there = True
            if self._failure is None:
                self._failure = Cancelled()
            self._inbox.clear()
            self._changed.notify_all()
        self._link.forget(self.number)
        if not done:
            with contextlib.suppress(LinkClosed, OSError):
                self._link.write(encode(self.number, CANCEL))

    # -- receiving

    def receive(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """The next DATA frame, or None when the other side has ended. Blocks; `TimeoutError` after `timeout` seconds.

        Raises `RemoteError`, `Cancelled`, or `LinkClosed`.
        """
        with self._changed:
            while not self._inbox:
                if self._failure is not None:
                    raise self._failure
                if self._ended_there:
                    return None
                if not self._changed.wait(timeout):
                    raise TimeoutError
            frame = self._inbox.popleft()
            cost = _cost(frame)
            self._inbox_cost -= cost + _VALUE_COST * _values(frame.header)
            self._read_cost += cost
            grant = 0
            if self._read_cost >= WINDOW // 4 and not self._ended_there:
                grant, self._read_cost = self._read_cost, 0
        if grant:
            with contextlib.suppress(LinkClosed, OSError):  # what has arrived is worth reading; the end shows itself
                self._link.write(encode(self.number, CREDIT, {"n": grant}))
        return frame

    def __iter__(self) -> Iterator[Frame]:
        while True:
            frame = self.receive()
            if frame is None:
                return
            yield frame

    def read(self, most: int = MOST_READ) -> bytes:
        """All that the other side sends. Raises `RemoteError("too_large")` for more than `most` bytes."""
        return b"".join(self.parts(most))

    def parts(self, most: int = MOST_READ) -> Iterator[Bytes]:
        """The parts of what `read` returns, as they arrive."""
        size, empty = 0, 0
        for frame in self:
            size += len(frame.body)
            empty += not frame.body
            if size > most or empty > MOST_DROPPED:
                raise RemoteError("too_large", "a list of more than %d bytes" % most)
            yield frame.body

    def finish(self, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Drop what still comes, which isn't much, and return the result."""
        dropped = 0
        while self.receive(timeout) is not None:
            dropped += 1
            if dropped > MOST_DROPPED:
                raise RemoteError("bad_stream", "there is no end to an answer that nobody wants")
        return self.result

    @property
    def cancelled(self) -> bool:
        """Whether this stream is dead: cancelled, or its link gone. For handlers that wait on something else."""
        return self._failure is not None

    @property
    def _answered(self) -> bool:
        return self._ended_there and self._link.asks

    def wait_cancelled(self, timeout: float) -> bool:
        """Sleep up to `timeout` seconds; returns at once, with True, when the stream dies."""
        with self._changed:
            if self._failure is None:
                self._changed.wait(timeout)
            return self._failure is not None

    # -- called by the link's reader

    def _on_data(self, frame: Frame) -> None:
        with self._changed:
            if self._failure is not None:
                return
            self._inbox_cost += _cost(frame) + _VALUE_COST * _values(frame.header)
            if self._inbox_cost > 4 * WINDOW:
                raise ProtocolError("stream %d overran its window" % self.number)
            self._inbox.append(frame)
            self._changed.notify_all()

    def _on_result(self, part: bytearray) -> None:
        """A part of a result that is too long for a header."""
        if len(self._long_result) + len(part) <= self.most_result:
            self._long_result += part
            return
        self._long_result = bytearray()
        self._link.forget(self.number)
        self._on_failure(RemoteError("bad_stream", "an answer of more than %d bytes" % self.most_result))

    def _on_end(self, result: Dict[str, Any]) -> None:
        long_result, self._long_result = self._long_result, bytearray()
        with self._changed:
            try:
                self.result = parse_header(bytes(long_result), MOST_VALUES) if long_result else result
            except ProtocolError as error:
                self._failure = self._failure or RemoteError("bad_stream", str(error))
            self._ended_there = True
            self._changed.notify_all()
        self._forget_when_done()

    def _on_credit(self, amount: int) -> None:
        with self._changed:
            self._credit = min(self._credit + amount, 2 * WINDOW)
            self._changed.notify_all()

    def _on_failure(self, failure: Exception) -> None:
        with self._changed:
            if self._failure is None and not (self._ended_there and self._ended_here):
                self._failure = failure
            self._ended_there = True
            self._changed.notify_all()

    def _forget_when_done(self) -> None:
        if self._ended_here and self._ended_there:
            self._link.forget(self.number)


def _cost(frame: Frame) -> int:
    """As the sender counted it: other separators would hand out more credit than was used, without an end."""
    header = len(json.dumps(frame.header, separators=(",", ":"))) if frame.header else 0
    return _FRAME_COST + HEAD.size + len(frame.body) + header


def _values(value: Any) -> int:
    """How many values a header holds, with all that is in them."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(held) + sum(map(_values, held))


Handler = Callable[[Stream, str, Dict[str, Any]], None]


class Link:
    """Both ends of a pipe, as streams. `pump(taker)` and `write(data, …)` are the pipe's; either may raise `OSError`.

    `pump` gives all that comes to `taker`, which doesn't block, until the pipe ends.

    The client calls `open`; the agent passes `handler`, which is called on a thread of its own for each stream.
    """

    def __init__(
        self,
        pump: Callable[[Callable[[memoryview], None]], None],
        write: Callable[..., Any],
        handler: Optional[Handler] = None,
    ) -> None:
        self._pump = pump
        self._write = write
        self._handler = handler
        self.asks = handler is None
        self._write_lock = threading.Lock()
        self._streams: Dict[int, Stream] = {}
        self._streams_lock = threading.Lock()
        self._next = 1
        self._handlers: List[threading.Thread] = []
        self._closed: Optional[Exception] = None
        self._ended = threading.Event()
        self.sent = 0
        """Goes up with what streams send."""
        self._sent_before = 0
        self._greeting = Stream(self, 0)
        if handler is None:
            self._streams[0] = self._greeting

    def greeting(self, timeout: float) -> Dict[str, Any]:
        """What the agent says of itself before it is asked (client only). Raises `TimeoutError` or `LinkClosed`."""
        frame = self._greeting.receive(timeout)
        self.forget(0)
        return frame.header if frame else {}

    def start(self) -> threading.Thread:
        """Read the pipe on a thread until it ends."""
        thread = threading.Thread(target=self.run, name="remoterun link", daemon=True)
        thread.start()
        return thread

    def repeat(self, every: float, action: Callable[[], None]) -> None:
        """Until the link ends, call `action` every so many seconds."""

        def repeating() -> None:
            with contextlib.suppress(LinkClosed):
                while not self._ended.wait(every):
                    action()

        threading.Thread(target=repeating, name="remoterun repeats", daemon=True).start()

    def beat(self) -> None:
        """Write something which the other side drops: of a connection whose other end is gone without a word, only who
        sends learns that."""
        self.write(encode(0, DATA, {}))

    def busy(self) -> bool:
        """Whether a request is under way. One whose client has stopped to read is not."""
        with self._streams_lock:
            streams = list(self._streams.values())
        moved, self._sent_before = self.sent != self._sent_before, self.sent
        return any(moved or not stream.sending for stream in streams)

    def open(self, op: str, *, result_limit: int = MAX_HEADER, **arguments: Any) -> Stream:
        """Start a request. Its result may have `result_limit` bytes. Raises `LinkClosed` when the link is gone."""
        with self._streams_lock:
            if self._closed is not None:
                raise self._closed
            number = self._next
            self._next += 1
            stream = self._streams[number] = Stream(self, number)
            stream.most_result = result_limit
        self.write(encode(number, OPEN, {"op": op, "args": arguments}))
        return stream

    def write(self, *parts: Bytes) -> None:
        """One frame."""
        with self._write_lock:
            if self._closed is not None:
                raise self._closed
            try:
                self._write(*parts)
            except Exception as error:  # noqa: BLE001 - a pipe has errors of its own
                raise LinkClosed(str(error) or type(error).__name__)
            except BaseException:  # ^C: half a frame may be on its way, and nothing can follow that
                self._closed = LinkClosed("it was interrupted while something was sent")
                raise

    def forget(self, number: int) -> None:
        with self._streams_lock:
            self._streams.pop(number, None)

    def run(self) -> None:
        """Read and dispatch until the pipe ends; then every open stream fails with `LinkClosed`."""
        decoder = Decoder()
        reason: Exception = LinkClosed("the link was closed")

        def take(data: memoryview) -> None:
            for stream, kind, header, body in decoder.feed(data):
                self._dispatch(stream, kind, header, body)

        try:
            self._pump(take)
        except ProtocolError as error:
            reason = LinkClosed("protocol error: %s" % error)
        except LinkClosed as error:
            reason = error
        except Exception as error:  # noqa: BLE001 - whatever the pipe raises ends the link, and each stream fails with it
            reason = LinkClosed(str(error) or type(error).__name__)
        self.close(reason)

    def close(self, reason: Optional[Exception] = None) -> None:
        """End every stream with `reason`. Does not close the pipe. May be called twice."""
        with self._streams_lock:
            if self._closed is None:
                self._closed = reason or LinkClosed("the link was closed")
            streams, self._streams = list(self._streams.values()), {}
        self._ended.set()
        for stream in streams:
            stream._on_failure(self._closed)

    def join(self, timeout: float) -> None:
        """Let the handlers end, once the pipe has: they may have something to put away. Blocks, so many seconds at
        most."""
        until = time.monotonic() + timeout
        for thread in self._handlers:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def _dispatch(self, number: int, kind: int, header: Dict[str, Any], body: bytearray) -> None:
        if kind == OPEN:
            self._accept(number, header)
            return
        with self._streams_lock:
            stream = self._streams.get(number)
        if stream is None:
            return  # cancelled or ended here while this frame was under way
        if kind == DATA:
            stream._on_data(Frame(header, body))
        elif kind == END:
            stream._on_end(header)
        elif kind == RESULT:
            stream._on_result(body)
        elif kind == CREDIT:
            amount = header.get("n")
            if not isinstance(amount, int) or amount < 0:
                raise ProtocolError("a credit of %.40r" % (amount,))
            stream._on_credit(amount)
        elif kind == ERROR:
            self.forget(number)
            stream._on_failure(
                RemoteError(
                    str(header.get("code", "error")),
                    str(header.get("message", "unknown error")),
                    _optional_text(header.get("hint")),
                    _optional_text(header.get("evidence")),
                )
            )
        elif kind == CANCEL:
            self.forget(number)
            stream._on_failure(Cancelled())

    def _accept(self, number: int, header: Dict[str, Any]) -> None:
        op, arguments = header.get("op"), header.get("args")
        if self._handler is None or not isinstance(op, str) or not isinstance(arguments, dict):
            raise ProtocolError("an unexpected request: %.200r" % (header,))
        with self._streams_lock:
            if number in self._streams or len(self._streams) >= MAX_STREAMS:
                raise ProtocolError("too many requests at once, or one number twice")
            stream = self._streams[number] = Stream(self, number)
        thread = threading.Thread(
            target=self._handler, args=(stream, op, arguments), name="remoterun " + op, daemon=True
        )
        self._handlers = [one for one in self._handlers if one.is_alive()] + [thread]
        thread.start()


def _optional_text(value: Any) -> Optional[str]:
    return value if isinstance(value, str) else None
