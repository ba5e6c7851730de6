"""Who answers which request of the page shared/api.py: the functions of the modules here, one for each noun.

A handler is called as `handler(call, arguments)`, on a thread of its own, with the arguments as the page types them. It
returns the result that the page names; while it works it may read from `call.stream` and send on it. What it raises
goes back to the client as an ERROR. A module is imported when its first request comes: an agent starts sooner so.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, NamedTuple

from ..shared.api import REQUESTS, Request
from ..shared.frames import PIECE
from ..shared.protocol import Stream
from ..shared.tree import show
from ..store.delivery import MAX_MANIFEST, Delivery
from ..store.errors import HomeError
from ..store.home import Home


class Call(NamedTuple):
    """One request as its handler sees it: where it is answered from, and the stream to do it on."""

    home: Home
    delivery: Delivery
    stream: Stream


Handler = Callable[[Call, Any], Any]


def request_named(name: str) -> "Request[Any, Any]":
    """Raises `HomeError("unknown_request")`."""
    try:
        return REQUESTS[name]
    except KeyError:
        raise HomeError("unknown_request", "the agent knows no request %s" % show(name[:80]))


def handler_of(request: "Request[Any, Any]") -> Handler:
    """The function that answers a request."""
    module = importlib.import_module("." + request.noun, __name__)
    handler: Handler = module.HANDLERS[request.name]
    return handler


def read_body(stream: Stream, most: int = MAX_MANIFEST) -> bytes:
    """All that the client sends, to its end. Raises `HomeError("too_large")` beyond `most` bytes."""
    parts = []
    size = 0
    for frame in stream:
        size += len(frame.body)
        if size > most:
            raise HomeError("too_large", "a list of more than %d bytes" % most)
        parts.append(frame.body)
    return b"".join(parts)


def send_body(stream: Stream, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        stream.send(data[start : start + PIECE])
