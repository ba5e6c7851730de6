"""What answers on 127.0.0.1: the page, its libraries and one model, each by its exact name, and nothing else.

Every user of this machine can reach the port. So all of it stands below a random word, which is in the address that
`remoterun open` prints; a request without it gets nothing.
"""

from __future__ import annotations

import hmac
import os
import posixpath
import secrets
import socketserver
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from remoterun.agent.shared.tree import show
from remoterun.errors import UsageError
from remoterun.model_page.libraries import FILES, PAGE, page_file
from remoterun.model_page.models import PageModel, open_file, wanted

ADDRESS = "127.0.0.1"
_NAMES = (ADDRESS, "localhost", "[::1]")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".woff2": "font/woff2",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"


class Page:
    """The page with a model in it, on a port of this machine only. `serve` blocks; use it as a context manager.

    `port` 0 takes a free one. Raises `UsageError` when the port can't be used.
    """

    def __init__(self, model: PageModel, libraries: Path, port: int = 0) -> None:
        self.model = model
        self._token = secrets.token_urlsafe(16)
        self._prefix = _prefix(model.name)
        fixed = {"/" + name: page_file(name) for name in PAGE}
        fixed.update({"/node_modules/" + name: libraries / name for name in FILES})
        self._fixed = fixed
        try:
            self._server = _Server(port, self)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "a port is a number from 0 to 65535"
            raise UsageError(f"port {port} can't be used: {why}", hint="leave --port out, and a free one is taken")
        self._serving = False

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where the page is, with its token and its model."""
        return f"http://{ADDRESS}:{self.port}/{self._token}/?model={quote(self._prefix[1:-1], safe='/')}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def serve(self) -> None:
        """Answer until `close` is called from another thread, or an exception such as KeyboardInterrupt comes."""
        try:
            self._serving = True
            self._server.serve_forever(poll_interval=0.1)
        finally:  # or `close` would wait for a loop that an exception has kept from starting
            self._serving = False

    def close(self) -> None:
        """Answer no more. May be called twice."""
        if self._serving:
            self._serving = False
            self._server.shutdown()
        self._server.server_close()

    def below_token(self, path: str) -> str | None:
        """What stands after the token in a decoded path of an address; None for a path without it."""
        token, slash, rest = path.removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode(errors="replace"), self._token.encode())
        return slash + rest if known else None

    def open(self, path: str) -> BinaryIO:
        """The file that `path`, below the token, names. Only whole names count: there is no way to climb.

        Raises `OSError` when there is none, `UsageError` when the model's manifest no longer is one.
        """
        if path in self._fixed:
            return open(self._fixed[path], "rb")
        name = path.removeprefix(self._prefix)
        if name == path or name not in wanted(self.model.folder):
            raise FileNotFoundError
        return open_file(self.model.folder, name)


def _prefix(name: str) -> str:
    """Where a model's files are, below the page's."""
    first = name.partition("/")[0]
    return f"/{name}/" if first not in ("node_modules", "", ".", "..", *PAGE) else "/model/"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, page: Page) -> None:
        self.page = page
        super().__init__((ADDRESS, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the name server who we are, which can take long

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A request that fails, such as one whose reader has gone, is not worth a word on the terminal."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _refuse(self) -> None:
        self.close_connection = True
        self._say(405, "only GET and HEAD\n", ("Allow", "GET, HEAD"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(self, body: bool) -> None:
        if not self._meant_here():
            self._say(421, "this page answers to 127.0.0.1 and localhost only\n")
            return
        try:
            path = self.server.page.below_token(unquote(urlsplit(self.path).path))
        except ValueError:
            self._say(400, "this is not an address\n")
            return
        if path is None:
            self._say(403, "the whole address is needed that `remoterun open` printed\n")
            return
        path = "/index.html" if path == "/" else path
        try:
            file = self.server.page.open(path)
        except (OSError, UsageError):  # somebody may change a folder of this machine meanwhile
            self._say(404, f"there is no {show(path)}\n")
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Type", _TYPES.get(posixpath.splitext(path)[1], "application/octet-stream"))
            self._end_headers(size, "max-age=3600" if path.startswith("/node_modules/") else "no-store")
            while body and size and (piece := file.read(min(size, 1 << 18))):
                self.wfile.write(piece)
                size -= len(piece)

    def _meant_here(self) -> bool:
        """Whether the request names this machine. A page of another name, whose owner lets that name point here, must
        not read this one."""
        host = self.headers.get("Host")
        return host is None or host.rpartition(":")[0] in _NAMES or host in _NAMES

    def _say(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        data = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        for name, value in headers:
            self.send_header(name, value)
        self._end_headers(len(data), "no-store")
        if self.command != "HEAD":
            self.wfile.write(data)

    def _end_headers(self, size: int, cache: str) -> None:
        self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", cache)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def version_string(self) -> str:
        return "remoterun"

    def log_message(self, format: str, *words: Any) -> None:
        """Nobody asked for a log."""
