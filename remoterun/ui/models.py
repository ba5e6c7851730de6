"""The page in which a model writes: its own files, its libraries, and models, each by its exact name; nothing else."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from remoterun.agent.shared.tree import show
from remoterun.errors import UsageError
from remoterun.model_page import PageModel
from remoterun.model_page.libraries import FILES, PAGE, page_file
from remoterun.model_page.models import open_file, wanted
from remoterun.ui.server import PageServer

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".woff2": "font/woff2",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
"""Of our own files. Those of a model are nothing that a browser runs or shows, whatever their names end with."""
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"
_PIECE = 1 << 18


class Models:
    """Models that the page may load, and the page."""

    def __init__(self, libraries: Path) -> None:
        self._fixed = {name: page_file(name) for name in PAGE}
        self._fixed |= {f"node_modules/{name}": libraries / name for name in FILES}
        self._models: dict[str, PageModel] = {}

    def add(self, model: PageModel) -> str:
        """What follows the page's address for this model."""
        first = model.name.partition("/")[0]
        name = model.name if first not in ("node_modules", "", ".", "..", *PAGE) else "model"
        self._models[name] = model
        return f"?model={quote(name, safe='/')}"

    def open(self, path: str) -> BinaryIO:
        """The file that `path` names. Only whole names count: there is no way to climb.

        Raises `OSError` when there is none, `UsageError` when the model's manifest no longer is one.
        """
        if path in self._fixed:
            return open(self._fixed[path], "rb")
        folder, _, name = path.rpartition("/")
        if folder not in self._models or name not in wanted(self._models[folder].folder):
            raise FileNotFoundError
        return open_file(self._models[folder].folder, name)

    def answer(self, request: Request) -> Response:
        path = request.path_params["path"] or "index.html"
        try:
            file = self.open(path)
        except (OSError, UsageError):  # somebody may change a folder of this machine meanwhile
            return PlainTextResponse(f"there is no {show(path)}\n".encode("utf-8", "backslashreplace"), 404)
        type_ = TYPES.get(posixpath.splitext(path)[1]) if path in self._fixed else None
        headers = {
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Type": type_ or "application/octet-stream",
            "Content-Security-Policy": POLICY,
            "Cache-Control": "max-age=3600" if path.startswith("node_modules/") else "no-store",
        }
        if request.method == "HEAD":
            file.close()
            return Response(headers=headers)
        return StreamingResponse(_pieces(file, int(headers["Content-Length"])), headers=headers)


class Page(PageServer):
    """The page with one model in it."""

    def __init__(self, model: PageModel, libraries: Path, port: int = 0) -> None:
        self.model = model
        models = Models(libraries)
        self._query = models.add(model)
        self.open = models.open
        super().__init__([Route("/{path:path}", models.answer)], port, "remoterun open", POLICY)

    @property
    def address(self) -> str:
        """Where the page is, with its token and its model."""
        return super().address + self._query


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """So many bytes at the most, which were announced: a model may be replaced meanwhile."""
    with file:
        while size and (piece := file.read(min(size, _PIECE))):
            yield piece
            size -= len(piece)
