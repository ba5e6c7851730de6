"""The frames of the protocol: their bytes, both ways. What they mean is in protocol.py.

frame   = stream (u32) · kind (u8) · header length (u32) · body length (u32) · header · body      (big endian)
header  = a JSON object, UTF-8, or nothing
kind    = OPEN | DATA | END | ERROR | CREDIT | CANCEL | RESULT
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Iterator, Optional, Tuple, Union

from .records import Record, parse

OPEN, DATA, END, ERROR, CREDIT, CANCEL, RESULT = 1, 2, 3, 4, 5, 6, 7

MAX_HEADER = 1 << 20
MAX_BODY = 1 << 20
HEADER_VALUES = 1 << 17
"""As `MOST_VALUES`, of a header: many may wait to be read."""
PIECE = 128 << 10
"""A good body size for bulk data: few frames, and no long wait for those of other streams."""

HEAD = struct.Struct("!IBII")

Bytes = Union[bytes, bytearray, memoryview]
Body = Union[bytes, bytearray]
"""As it was put together of what came: nobody changes it."""


class Frame(Record):
    header: Dict[str, Any]
    body: Body


class ProtocolError(Exception):
    """The other side said what no agent or client of this version says; the link is closed."""


def encode(stream: int, kind: int, header: Optional[Dict[str, Any]] = None, body: Bytes = b"") -> bytes:
    """One frame as bytes. Raises `ProtocolError` when a part is too long."""
    return encode_head(stream, kind, header, len(body)) + body


def encode_head(stream: int, kind: int, header: Optional[Dict[str, Any]], body_length: int) -> bytes:
    """A frame up to its body. Raises `ProtocolError` when a part is too long."""
    head = json.dumps(header, separators=(",", ":")).encode() if header else b""
    if len(head) > MAX_HEADER or body_length > MAX_BODY:
        raise ProtocolError("frame too long: header %d, body %d bytes" % (len(head), body_length))
    return HEAD.pack(stream, kind, len(head), body_length) + head


class Decoder:
    """Bytes in, frames out. Holds at most one unfinished frame; refuses lengths beyond the limits at once."""

    def __init__(self) -> None:
        self._start = b""
        """Of a frame whose header is not here yet."""
        self._frame: Optional[Tuple[int, int, Dict[str, Any]]] = None
        """Of which the body is on its way: `_have` bytes of it are here."""
        self._body = bytearray()
        self._have = 0

    @property
    def held(self) -> int:
        """Bytes of the unfinished frame."""
        return len(self._start) + self._have

    def feed(self, data: Bytes) -> Iterator[Tuple[int, int, Dict[str, Any], bytearray]]:
        """Yield (stream, kind, header, body) for each frame that `data` completes. Keeps nothing of `data`."""
        view = memoryview(data)
        while view:
            if self._frame is None:
                if self._start:
                    view = memoryview(self._start + bytes(view))
                    self._start = b""
                end = self._begin(view)
                if not end:
                    self._start = bytes(view)
                    return
                view = view[end:]
            have, take = self._have, min(len(self._body) - self._have, len(view))
            memoryview(self._body)[have : have + take] = view[:take]
            self._have += take
            view = view[take:]
            if self._have == len(self._body):
                assert self._frame is not None
                (stream, kind, header), self._frame = self._frame, None
                body, self._body, self._have = self._body, bytearray(), 0
                yield stream, kind, header, body

    def _begin(self, data: memoryview) -> int:
        """Where the body of the frame at the start of `data` starts; 0 if its header is not whole."""
        if len(data) < HEAD.size:
            return 0
        stream, kind, header_length, body_length = HEAD.unpack_from(data)
        if header_length > MAX_HEADER or body_length > MAX_BODY or not OPEN <= kind <= RESULT:
            raise ProtocolError("not a frame: kind %d, header %d, body %d bytes" % (kind, header_length, body_length))
        start = HEAD.size + header_length
        if len(data) < start:
            return 0
        self._frame = stream, kind, parse_header(bytes(data[HEAD.size : start]))
        self._body = bytearray(body_length)
        return int(start)


def parse_header(head: bytes, most: int = HEADER_VALUES) -> Dict[str, Any]:
    """Raises `ProtocolError` for what is not a JSON object of up to `most` values."""
    if not head:
        return {}
    try:
        header = parse(head, most)
    except ValueError as error:
        raise ProtocolError("a header that is no JSON: %s" % error)
    if not isinstance(header, dict):
        raise ProtocolError("a header that is not an object: %.80r" % (header,))
    return header
