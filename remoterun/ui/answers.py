"""Answers that are made on threads, as everything of the client blocks; JSON, and errors as JSON."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from remoterun.errors import HostError, NotFound, RemoterunError, UsageError

T = TypeVar("T")
MOST_ASKED = 1 << 16
"""Bytes of the body of a request."""


def as_json(value: Any, status: int = 200) -> Response:
    return Response(encoded(value), status, media_type="application/json")


def encoded(value: Any) -> bytes:
    """In ASCII, as commands and paths may hold what UTF-8 does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, on a thread that keeps no process from ending: a machine may take long to answer."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="remoterun answer", daemon=True).start()
    return await asyncio.wrap_future(future)


def threaded(answer: Callable[[Request, Any], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint: `answer` is called on a thread with the request and the JSON object of its body."""

    async def endpoint(request: Request) -> Response:
        try:
            body = b""
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_ASKED:
                    raise UsageError("the request is too large")
            try:
                asked = json.loads(body or b"{}")
            except (ValueError, RecursionError):
                asked = None
            if not isinstance(asked, dict):
                raise UsageError("the request is not a JSON object")
            return await in_thread(lambda: answer(request, asked))
        except RemoterunError as error:
            kinds = ((NotFound, 404), (HostError, 502), (RemoterunError, 400))
            status = next(status for kind, status in kinds if isinstance(error, kind))
            return as_json({"error": error.message, "hint": error.hint}, status)
        except Exception as error:  # noqa: BLE001 - a page can't show a traceback
            return as_json({"error": f"unexpected: {error!r}", "hint": None}, 500)

    return endpoint


def number_of(request: Request, name: str, default: int, least: int = 0) -> int:
    """A number of the query. Raises `UsageError`."""
    text = request.query_params.get(name) or str(default)
    try:
        number = int(text[:20])
    except ValueError:
        number = least - 1
    if number < least:
        raise UsageError(f"`{name}` is not such a number")
    return number
