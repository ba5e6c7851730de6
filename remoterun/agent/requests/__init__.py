"""Who answers which request of the page shared/api.py: the function of its name in the module of its noun.

A handler is called as `handler(call, arguments)`, on a thread of its own, with the arguments as the page types them. It
returns the result that the page names; while it works it may read from `call.stream` and send on it. What it raises
goes back to the client as an ERROR. A module is imported when its first request comes: an agent starts sooner so.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable

from ..shared.api import Request
from ..shared.protocol import Stream
from ..shared.records import Record
from ..store.home import Home
from ..store.leases import Lease


class Call(Record):
    """One request as its handler sees it: where it is answered from, and the stream to do it on."""

    home: Home
    lease: Lease
    """Protects the blobs about which the client has asked, and that no manifest names yet."""
    stream: Stream


Handler = Callable[[Call, Any], Any]


def handler_of(request: "Request[Any, Any]") -> Handler:
    """The function that answers a request."""
    module = importlib.import_module("." + request.noun, __name__)
    handler: Handler = getattr(module, request.name)
    return handler
