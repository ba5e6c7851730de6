"""The page of runs: its files, what it reads, and what its buttons do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from remoterun.model import Run
from remoterun.ui import rows
from remoterun.ui.answers import as_json, number_of, threaded
from remoterun.ui.hub import Hub
from remoterun.ui.server import Server
from remoterun.ui.stream import Streams

if TYPE_CHECKING:
    from remoterun.client import Client

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
VIEWS = ("/", "/runs/{run}", "/compare/{runs}", "/machines", "/uploads", "/uploads/{name}")
"""Addresses of the page: each shows another part of it."""
WAIT = 2.0
"""Seconds that a machine has to answer before what is known is shown."""
MOST_PART = 4 << 20
"""Bytes of a log in one answer."""


class RunsPage(Server):
    """The page of runs of one client."""

    def __init__(self, client: Client, port: int = 0) -> None:
        self._client, self._hub = client, Hub(client)
        self._static = StaticFiles(directory=STATIC)
        views: list[BaseRoute] = [Route(path, self._view) for path in VIEWS]
        read = {
            "runs": self._runs,
            "runs/{run}": self._run,
            "runs/{run}/log": self._log,
        }
        routes = [
            *views,
            Route("/static/{name}", self._file),
            Route("/events", Streams(self._hub).answer),
            *(Route(f"/api/{path}", threaded(answer)) for path, answer in read.items()),
            Route("/api/runs/{run}/{action}", threaded(self._act), methods=["POST"]),
        ]
        super().__init__(routes, port, "remoterun ui", POLICY)

    async def _view(self, request: Request) -> Response:
        text = (STATIC / "index.html").read_text("utf-8").replace('"/TOKEN/"', f'"/{self.token}/"')
        return Response(text, media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name.startswith(".") or not (STATIC / name).is_file():
            return PlainTextResponse("there is no such file\n", 404)
        answer = await self._static.get_response(name, request.scope)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    # -- what it reads

    def _runs(self, request: Request, _: Any) -> Response:
        found, version, more = self._hub.rows(number_of(request, "limit", 1000))
        end = f'],"version":{version},"more":{"true" if more else "false"}}}'
        return Response(b'{"runs":[' + b",".join(found) + end.encode(), media_type="application/json")

    def _run(self, request: Request, _: Any) -> Response:
        run, details = self._client.runs.info(self._number(request), WAIT)
        return as_json({"row": self._row(run), **rows.about(self._client, run, details)})

    def _log(self, request: Request, _: Any) -> Response:
        start, size = number_of(request, "start", 0, -(1 << 62)), number_of(request, "size", 1 << 18)
        name = "err" if request.query_params.get("name") == "err" else "log"
        begins, total, data = self._client.runs.log_part(self._number(request), start, min(size, MOST_PART), name)
        return Response(data, media_type="text/plain", headers={"X-Start": str(begins), "X-Total": str(total)})

    # -- what its buttons do

    def _act(self, request: Request, asked: dict[str, Any]) -> Response:
        number, runs = self._number(request), self._client.runs
        match request.path_params["action"]:
            case "stop":
                run, _ = runs.stop(number, float(asked.get("grace", 10.0)))
            case "kill":
                run, _ = runs.kill(number)
            case _:
                return as_json({"error": "there is no such action", "hint": None}, 404)
        return as_json({"row": self._row(run)})

    def _number(self, request: Request) -> int:
        """The number of the run in the address. Raises `NotFound`."""
        return self._client.registry.run(request.path_params["run"]).number

    def _row(self, run: Run) -> dict[str, Any]:
        self._hub.put(run)
        return rows.row(run, time.time())
