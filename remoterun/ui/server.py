"""A port of 127.0.0.1 that answers those who have its whole address.

Every user of this machine can reach the port. So all of it stands below a random word, which is in the address that is
printed; a request without it gets nothing. A page of another site that a browser shows gets nothing either: the request
must name this machine, and one that changes something must come from our own page.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from remoterun.errors import UsageError

ADDRESS = "127.0.0.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?")
_INCOMPLETE = "the whole address is needed that `{0}` printed; one that ended is no longer good"
_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class PageServer:
    """What `routes` answer, on a port of this machine only. `serve` blocks; use it as a context manager.

    `port` 0 takes the port `before`, or a free one; `command` is the one that prints the address, `policy` what a page
    may load, and `failures` answer exceptions. Raises `UsageError` when the port can't be used.
    """

    def __init__(
        self, routes: Sequence[BaseRoute], port: int, command: str, policy: str, failures: Any = None, before: int = 0
    ) -> None:
        self.token = secrets.token_urlsafe(16)
        self._app = Starlette(routes=routes, exception_handlers=failures)
        self._app.router.redirect_slashes = False
        self._command, self._policy, self._serving = command, policy, False
        self._posts = any("POST" in (getattr(route, "methods", None) or ()) for route in routes)
        try:
            if not 0 <= port < 1 << 16:
                raise OSError(0, "a port is a number from 0 to 65535")
            self._socket = _listening(port, before)
            # Of connections, too: asyncio sets it for sockets of its own only, and a small answer waits 40 ms without.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise UsageError(
                f"port {port} can't be used: {error.strerror}", hint="leave --port out, and a free one is taken"
            )
        self.port = int(self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer, interface="asgi3", loop="asyncio", http="h11", ws="none", lifespan="off",
                log_config=None, log_level=logging.CRITICAL + 1, access_log=False,
                proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._server.capture_signals = contextlib.nullcontext  # type: ignore  # an interrupt is an exception here, too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"http://{ADDRESS}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answer until `close` is called from another thread, or an exception such as KeyboardInterrupt comes."""
        self._serving = True
        try:
            if not self._server.should_exit and self._is_interrupted():
                raise KeyboardInterrupt
        finally:
            self._socket.close()

    def close(self) -> None:
        """Answer no more. May be called twice."""
        self._server.should_exit = True
        if not self._serving:
            self._socket.close()

    def _is_interrupted(self) -> bool:
        """Answer; whether a signal ended that. It is not raised wherever the program is just then: in the middle of an
        answer, uvicorn would take it for a fault of that answer, and go on; while asyncio begins or ends, it would
        leave a traceback."""
        came, before = [], {}

        def interrupt(*_: object) -> None:
            came.append(True)
            self._server.should_exit = self._server.force_exit = True

        if threading.current_thread() is threading.main_thread():
            before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
        try:
            for number in before:
                signal.signal(number, interrupt)
            asyncio.run(self._server.serve([self._socket]))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return bool(came)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "etag" in headers:
                    headers.setdefault("Cache-Control", "no-cache")
                for name, value in {**_ALWAYS, "Content-Security-Policy": self._policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        below = {**scope, "root_path": f"/{self.token}"}
        await (self._refusal(scope) or self._app)(below, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that gets nothing; None for one of our own page."""
        headers, method = Headers(scope=scope), scope["method"]
        host = headers.get("host", ADDRESS)
        if not _NAMES.fullmatch(host):  # its owner may let that name point here
            return PlainTextResponse("this page answers to 127.0.0.1 and localhost only\n", 421)
        if method not in ("GET", "HEAD") and not (method == "POST" and self._posts):
            allowed = "GET, HEAD, POST" if self._posts else "GET, HEAD"
            return PlainTextResponse(f"only {allowed.replace(', HEAD', ' and HEAD')}\n", 405, {"Allow": allowed})
        token, slash, _ = scope["path"].removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(errors="replace"), self.token.encode()):
            return PlainTextResponse(f"{_INCOMPLETE.format(self._command)}\n", 403)
        length = headers.get("content-length", "")
        if method == "POST" and not (length.isdecimal() and len(length) < 6):
            return PlainTextResponse("a request has 100 KB at the most\n", 413)
        if method == "POST" and not (headers.get("origin") == f"http://{host}" and headers.get("x-remoterun") == "1"):
            return PlainTextResponse("only the page itself may do that\n", 403)
        return None


def _listening(port: int, before: int) -> socket.socket:
    with contextlib.suppress(OSError, OverflowError):
        if before and not port:
            return socket.create_server((ADDRESS, before))
    return socket.create_server((ADDRESS, port))
