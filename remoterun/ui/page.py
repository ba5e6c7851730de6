"""The page of runs: its files, what it reads, and what its buttons do."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from remoterun import machines
from remoterun.agent.shared.records import same_fields
from remoterun.client.diary import diary
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import Resource, Run, RunRequest
from remoterun.model_page import libraries
from remoterun.ui import rows
from remoterun.ui.answers import as_file, as_json, number_of, threaded
from remoterun.ui.hub import Hub
from remoterun.ui.models import Models
from remoterun.ui.server import Server
from remoterun.ui.stream import Streams

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.client.occupancy import MachineStatus

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
VIEWS = ("/", "/runs/{run}", "/compare/{runs}", "/machines", "/uploads", "/uploads/{name}")
"""Addresses of the page: each shows another part of it."""
WAIT = 2.0
"""Seconds that a machine has to answer before what is known is shown."""
MOST_PART, MOST_DIFF, MOST_FILES, MOST_COMPARED = 4 << 20, 256 << 10, 20_000, 20
"""Bytes of a log, or of a diff, in one answer; files of one; runs of one."""
RENTED_EVERY = 15.0
"""Seconds for which what the provider says is shown."""


class RunsPage(Server):
    """The page of runs of one client."""

    def __init__(self, client: Client, port: int = 0) -> None:
        self._client, self._hub = client, Hub(client)
        self._files = tempfile.TemporaryDirectory(prefix="remoterun-")
        self._models: Models | None = None
        self._rented: tuple[float, list[dict[str, Any]]] = 0.0, []
        read = {
            "runs": self._runs,
            "runs/{run}": self._run,
            "runs/{run}/names": self._names,
            "runs/{run}/points": self._points,
            "runs/{run}/usage": self._points,
            "runs/{run}/log": self._log,
            "runs/{run}/search": self._search,
            "{kind}/{name}/files": self._list,
            "{kind}/{name}/file/{path:path}": self._file,
            "compare": self._compare,
            "machines": self._machines,
            "uploads": self._uploads,
        }
        routes = [
            *(Route(path, self._view) for path in VIEWS),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/model/{path:path}", self._model),
            Route("/events", Streams(self._hub).answer),
            *(Route(f"/api/{path}", threaded(answer)) for path, answer in read.items()),
            Route("/api/hosts/{id}/end", threaded(self._end_host), methods=["POST"]),
            Route("/api/runs/{run}/{action}", threaded(self._act), methods=["POST"]),
        ]
        super().__init__(routes, port, "remoterun ui", POLICY)

    def close(self) -> None:
        super().close()
        self._files.cleanup()

    async def _view(self, request: Request) -> Response:
        text = (STATIC / "index.html").read_text("utf-8").replace('"/TOKEN/"', f'"/{self.token}/"')
        return Response(text, media_type="text/html")

    async def _model(self, request: Request) -> Response:
        return self._models.answer(request) if self._models is not None else as_json(None, 404)

    # -- what it reads

    def _runs(self, request: Request, _: Any) -> Response:
        found, version, more = self._hub.rows(number_of(request, "limit", 1000))
        end = f'],"version":{version},"more":{"true" if more else "false"}}}'
        return Response(b'{"runs":[' + b",".join(found) + end.encode(), media_type="application/json")

    def _run(self, request: Request, _: Any) -> Any:
        run, details = self._client.runs.info(self._number(request), WAIT)
        diff = b""
        if ((details["spec"] or {}).get("git") or {}).get("diff") and run.reachable:
            with contextlib.suppress(RemoterunError):
                diff = self._client.runs.uncommitted(run.number)[:MOST_DIFF]
        return {"row": self._row(run), **rows.about(run, details, diff)}

    def _names(self, request: Request, _: Any) -> Any:
        curves = self._hub.curves(self._number(request))
        return {"names": curves.names, "metrics": len(curves.metrics), "usage": len(curves.usage)}

    def _points(self, request: Request, _: Any) -> Response:
        curves = self._hub.curves(self._number(request), update=False)
        points = curves.usage if request.url.path.endswith("/usage") else curves.metrics
        return Response(bytes(points[number_of(request, "from", 0) :]), media_type="application/octet-stream")

    def _log(self, request: Request, _: Any) -> Response:
        start, size = number_of(request, "start", 0, -(1 << 62)), number_of(request, "size", 1 << 18)
        name = "err" if request.query_params.get("name") == "err" else "log"
        begins, total, data = self._client.runs.log_part(self._number(request), start, min(size, MOST_PART), name)
        return Response(data, media_type="text/plain", headers={"X-Start": str(begins), "X-Total": str(total)})

    def _search(self, request: Request, _: Any) -> Any:
        text, start = request.query_params.get("q", ""), number_of(request, "start", 0)
        found = self._client.runs.search_log(self._number(request), text, start)
        hits = [{"offset": hit.offset, "line": hit.line} for hit in found.hits]
        return {"hits": hits, "until": found.until, "total": found.total}

    def _list(self, request: Request, _: Any) -> Any:
        manifest, about = self._client.files.list(self._resource(request))
        files = [entry for entry in manifest.entries if entry.kind == "f"]
        shown = [
            {"path": file.path, "size": file.size, "mode": 0o755 if file.executable else 0o644}
            for file in files[:MOST_FILES]
        ]
        groups = diary(file.path for file in files)
        steps = [
            {**vars(group), "steps": [{"step": step, "path": path} for step, path in group.steps]} for group in groups
        ]
        return {"live": about.live, "files": shown, "more": len(files) > MOST_FILES, "diary": steps}

    def _file(self, request: Request, _: Any) -> Response:
        path = request.path_params["path"]
        resource = self._resource(request, path)
        saved = self._client.files.saved(resource, Path(self._files.name))
        return as_file(saved, posixpath.basename(path), request.query_params.get("download") == "1")

    def _compare(self, request: Request, _: Any) -> Any:
        numbers = request.query_params.get("runs", "").split(",")[:MOST_COMPARED]
        found = [self._client.runs.info(number, WAIT) for number in numbers]
        params = _named(rows.parameters_of(run, details["spec"] or {}) for run, details in found)
        diff = ""
        if len(numbers) > 1:
            with contextlib.suppress(RemoterunError):  # one of them has no files any more
                changes = self._client.runs.diff(numbers[0], numbers[1]).files
                diff = "\n".join(line for change in changes for line in change.lines)[:MOST_DIFF]
        return {
            "rows": [self._row(run) for run, _ in found],
            "params": params,
            "differs": [name for name, values in params.items() if len(set(values)) > 1],
            "best": _named(rows.best(run) for run, _ in found),
            "diff": diff,
        }

    def _machines(self, request: Request, _: Any) -> Any:
        found = [_machine(status) for status in self._client.machines.status(wait=WAIT)]
        asked, hosts = self._rented
        if machines.aws_is_set_up(self._client.config) and time.monotonic() > asked + RENTED_EVERY:
            hosts = [
                {"id": host.id, "type": host.offer.type, "region": host.offer.region, "state": host.state,
                 "cost": host.cost(time.time()), "ends": host.deadline, "run": host.number if host.ours else None}
                for host in self._client.hosts.list()
            ]  # fmt: skip
            self._rented = time.monotonic(), hosts
        return {"machines": found, "hosts": hosts}

    def _uploads(self, request: Request, _: Any) -> Any:
        known = self._client.registry.uploads
        found = []
        for upload in self._client.uploads.list(WAIT):
            read_by, versions = known.readers(upload.name), {}
            for each, _machine_of in known.versions(upload.name):
                about = {name: getattr(each, name) for name in ("size", "files", "created")}
                versions[each.version] = {"number": each.version, **about, "read_by": read_by.get(each.digest, [])}
            where = [copy.machine for copy in upload.copies]
            found.append({"name": upload.name, "versions": [versions[key] for key in sorted(versions)], "where": where})
        return {"uploads": found}

    # -- what its buttons do

    def _act(self, request: Request, asked: dict[str, Any]) -> Any:
        number, runs = self._number(request), self._client.runs
        run = self._client.registry.run(number)
        match request.path_params["action"]:
            case "stop":
                run, _ = runs.stop(number, float(asked.get("grace", 10.0)))
            case "kill":
                run, _ = runs.kill(number)
            case "rerun":
                run = self._rerun(number, asked.get("command"))
            case "label":
                run = runs.label(number, [*map(str, asked.get("add", ()))], [*map(str, asked.get("remove", ()))])
            case "pin":
                run = self._client.registry.annotate(run, pinned=bool(asked["on"]))
            case "hide":
                run = self._client.registry.annotate(run, hidden=bool(asked["on"]))
            case "remark":
                run = self._client.registry.annotate(run, remark=str(asked["text"]))
            case "open":
                model = self._client.files.model(f"runs/{number}")
                self._models = self._models or Models(libraries(self._client.config.home))
                return {"address": f"model/{self._models.add(model)}"}
            case _:
                raise UsageError("there is no such action")
        return {"row": self._row(run)}

    def _rerun(self, number: int, command: str | None) -> Run:
        kept = self._client.runs.original(number)
        if kept.run.machine.rental is not None:
            raise UsageError("this would rent a host, which costs money", hint=f"remoterun rerun {number}")
        request = RunRequest(**same_fields(RunRequest, kept.request))._replace(
            command=command or kept.request.command, env=kept.values(kept.variables, ())
        )
        return self._client.runs.launch(self._client.runs.prepare_again(kept, request))

    def _end_host(self, request: Request, _: Any) -> Any:
        self._rented = 0.0, []
        return {"ended": self._client.hosts.end(request.path_params["id"]).id}

    def _number(self, request: Request) -> int:
        """The number of the run in the address. Raises `NotFound`."""
        return self._client.registry.run(request.path_params["run"]).number

    def _resource(self, request: Request, sub: str = "") -> Resource:
        """What the address names. Raises `UsageError`, `NotFound`."""
        kind, name = request.path_params["kind"], request.path_params["name"]
        version = number_of(request, "version", 0)
        named = Resource.parse(f"{kind}/{name}{f'@{version}' if version else ''}")
        return Resource(named.kind, named.name, sub, version=named.version)

    def _row(self, run: Run) -> dict[str, Any]:
        self._hub.heard(run)
        return rows.row(run, time.time())


def _named(columns: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each name in all columns; None where one does not have it."""
    listed = [*columns]
    names = dict.fromkeys(name for column in listed for name in column)
    return {name: [column.get(name) for column in listed] for name in names}


def _machine(status: MachineStatus) -> dict[str, Any]:
    there, machine = status.there, status.machine
    about = {"name": machine.name, "kind": machine.reached_by, "unreached": status.unreached}
    if there is None:
        return about
    runs = [(number, run) for run in there.runs if (number := status.numbers.get(run.key)) is not None]
    used = [(f"{gpu.name}, {gpu.memory_used} of {gpu.memory} MiB", gpu.others) for gpu in there.gpus]
    return {
        **about,
        "runs": [
            {"number": number, "state": run.state.value, "command": run.command} for number, run in runs if number
        ],
        "line": sum(run.place > 0 for run in there.runs),
        "gpus": [", ".join([text, *(f"{user.name} of {user.user}" for user in users)]) for text, users in used],
        "disk": {"free": there.disk_free, "total": there.disk},
        "load": there.load,
    }
