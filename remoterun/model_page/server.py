"""What answers on 127.0.0.1: the page, its libraries and one model, each by its exact name, and nothing else."""

from __future__ import annotations

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from remoterun.agent.shared.tree import show
from remoterun.errors import UsageError
from remoterun.model_page.files import PAGE, page_file
from remoterun.model_page.libraries import FILES
from remoterun.model_page.models import Model, wanted

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

    `port` 0 takes a free one. Raises `UsageError` when the port can't be had.
    """

    def __init__(self, model: Model, libraries: Path, port: int = 0) -> None:
        self.model = model
        self._prefix = _prefix(model.name)
        fixed = {"/" + name: page_file(name) for name in PAGE}
        fixed["/"] = fixed["/index.html"]
        fixed.update({"/node_modules/" + name: libraries / name for name in FILES})
        self._fixed = fixed
        try:
            self._server = _Server(port, self)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "it is no port"
            raise UsageError(f"port {port} can't be had: {why}", hint="leave --port out: a free one is taken")
        self._serving = False

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where the page is, with its model."""
        return f"http://{ADDRESS}:{self.port}/?model={quote(self._prefix[1:-1], safe='/')}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def serve(self) -> None:
        """Answer until `close` is called from another thread, or an exception such as KeyboardInterrupt comes."""
        self._serving = True
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Answer no more. May be called twice."""
        if self._serving:
            self._serving = False
            self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> Path | None:
        """The file that a decoded path of an address names. Only whole names count: there is no way to climb."""
        if path in self._fixed:
            return self._fixed[path]
        if path.startswith(self._prefix):
            name = path[len(self._prefix) :]
            try:
                return self.model.folder / name if name in wanted(self.model.folder) else None
            except (OSError, UsageError):  # of a local folder, that somebody changes
                return None
        return None

    def lasting(self, path: str) -> bool:
        """Whether what stands there never changes."""
        return path.startswith("/node_modules/")


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
        if not isinstance(sys.exception(), OSError):  # a reader that has gone is none
            super().handle_error(request, client_address)


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
        path = unquote(urlsplit(self.path).path)
        found = self.server.page.find(path)
        try:
            if found is None:
                raise FileNotFoundError
            with open(found, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.send_response(200)
                self.send_header("Content-Type", _TYPES.get(found.suffix, "application/octet-stream"))
                lasting = self.server.page.lasting(path)
                self._end_headers(size, "max-age=3600" if lasting else "no-store")
                while body and size and (piece := file.read(min(size, 1 << 18))):
                    self.wfile.write(piece)
                    size -= len(piece)
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            self._say(404, f"there is no {show(path)}\n")

    def _meant_here(self) -> bool:
        """A page of another name, that its owner lets point here, shall not read this one."""
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
