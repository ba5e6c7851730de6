"""Answers that are made on threads, as everything of the client blocks; JSON, errors as JSON, and files of runs."""

from __future__ import annotations

import asyncio
import json
import os
import posixpath
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from remoterun.errors import HostError, NotFound, RemoterunError, UsageError

T = TypeVar("T")
STATUSES = ((NotFound, 404), (HostError, 502), (RemoterunError, 400))
FILE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
TEXTS = "csv diff ini ipynb json jsonl log md py rst sh text toml tsv txt xml yaml yml"
SHOWN = {
    **{f".{name}": "text/plain; charset=utf-8" for name in TEXTS.split()},
    **{f".{name}": f"image/{name}" for name in ("png", "gif", "webp", "bmp", "jpeg")},
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
}
"""What a browser may show of a run, as which type; it is asked to store all else."""


def as_json(value: Any, status: int = 200) -> Response:
    return Response(encoded(value), status, media_type="application/json")


def encoded(value: Any) -> bytes:
    """Paths and commands may hold what UTF-8 does not have."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def as_file(path: Path, name: str, download: bool) -> Response:
    """A file of a run, of which nothing is trusted."""
    type_ = SHOWN.get(posixpath.splitext(name)[1].lower())
    how = "attachment" if download or type_ is None else "inline"
    headers = {"Content-Security-Policy": FILE_POLICY}
    name = name.encode("utf-8", "replace").decode()
    return FileResponse(path, 200, headers, type_ or "application/octet-stream", None, name, os.stat(path), how)


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


def threaded(answer: Callable[[Request, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint: `answer` is called on a thread with the request and the JSON of its body; what is no `Response` is
    sent as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            asked = await request.json() if request.method == "POST" else {}
            made = await in_thread(lambda: answer(request, asked))
            return made if isinstance(made, Response) else as_json(made)
        except RemoterunError as error:
            status = next(status for kind, status in STATUSES if isinstance(error, kind))
            return as_json({"error": error.message, "hint": error.hint}, status)
        except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
            return as_json({"error": "this can't be asked for", "hint": None}, 400)

    return endpoint


def number_of(request: Request, name: str, default: int, least: int = 0) -> int:
    """A number of the query. Raises `UsageError`."""
    text = request.query_params.get(name) or str(default)
    number = int(text) if len(text) < 19 and text.lstrip("-").isdecimal() else least - 1
    if number < least:
        raise UsageError(f"`{name}` is not such a number")
    return number
