"""How a request is answered, in a home of either kind: by the agent of a host, or out of a bucket."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict

from .api import REQUESTS, Request
from .protocol import Cancelled, LinkClosed, RemoteError, Stream
from .records import BadRecord, from_json, to_json
from .tree import show


def answer(
    stream: Stream,
    op: str,
    arguments: Dict[str, Any],
    handle: Callable[["Request[Any, Any]", Any], Any],
    describe: Callable[[Exception], Dict[str, Any]],
) -> None:
    """Answer one request on its stream: `handle` gives the result for arguments of the right type; `describe` gives the
    fields of an ERROR frame for what goes wrong. Raises nothing."""
    try:
        request = REQUESTS.get(op)
        if request is None:
            raise RemoteError("unknown_request", "the agent knows no request %s" % show(op[:80]))
        unknown = set(arguments).difference(request.arguments._fields)
        if unknown:
            raise BadRecord("%s has no argument %s" % (op, show(min(unknown)[:80])))
        asked = from_json(request.arguments, arguments, op)
        stream.most_result = request.most
        stream.end(**to_json(handle(request, asked)))
    except (Cancelled, LinkClosed):
        pass
    except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
        with contextlib.suppress(LinkClosed, Cancelled, OSError):
            stream.fail(**describe(error))
