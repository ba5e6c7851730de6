"""Answers that are made on threads, as everything of the client blocks: JSON, errors, and files of runs."""

from __future__ import annotations

import json
import os
import posixpath
from asyncio import wrap_future
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from remoterun.errors import HostError, NotFound, RemoterunError
from remoterun.threads import start

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


def encoded(value: Any) -> bytes:
    """Paths and commands may hold what UTF-8 does not have."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def as_json(data: bytes, status: int = 200) -> Response:
    return Response(data, status, media_type="application/json")


def as_file(path: Path, name: str, download: bool) -> Response:
    """A file of a run, of which nothing is trusted."""
    type_ = SHOWN.get(posixpath.splitext(name)[1].lower(), "")
    how = "attachment" if download or not type_ else "inline"
    headers = {"Content-Security-Policy": FILE_POLICY}
    return FileResponse(path, 200, headers, type_ or "application/octet-stream", None, name, os.stat(path), how)


async def failed(request: Request, error: Exception) -> Response:
    if isinstance(error, RemoterunError):
        status = 404 if isinstance(error, NotFound) else 502 if isinstance(error, HostError) else 400
        return as_json(encoded({"error": error.message, "hint": error.hint}), status)
    return as_json(encoded({"error": "this can't be asked for", "hint": None}), 400)


FAILURES = dict.fromkeys((RemoterunError, ValueError, TypeError, LookupError, AttributeError, RecursionError), failed)
"""Answers to what is raised; the latter by a request of another form."""


def threaded(answer: Callable[[Request, Any], Any]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint: `answer` is called on a thread with the request and the JSON of its body; what is no `Response` is
    sent as JSON."""

    async def endpoint(request: Request) -> Response:
        asked = await request.json() if request.method == "POST" else None
        made = await wrap_future(start(lambda: answer(request, asked)))
        return made if isinstance(made, Response) else as_json(encoded(made))

    return endpoint
