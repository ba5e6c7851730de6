"""The page of runs: its files, what it reads, and what its buttons do."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from remoterun.agent.shared.logs import NAMES
from remoterun.agent.shared.measured import POINT, LogReading
from remoterun.agent.shared.records import from_json, same_fields, to_json
from remoterun.client import Client
from remoterun.client.exports.diary import diary
from remoterun.client.runs.following import LogBytes, Wanted
from remoterun.clouds import all_fronts
from remoterun.clouds.base import RentedHost
from remoterun.errors import HostUnreachable, NotFound, RemoterunError, UsageError
from remoterun.model import Resource, Run, RunRequest
from remoterun.model_page import libraries
from remoterun.threads import each
from remoterun.ui import rows
from remoterun.ui.answers import FAILURES, as_file, as_json, encoded, threaded
from remoterun.ui.hub import WAIT, Hub
from remoterun.ui.models import Models
from remoterun.ui.server import PageServer
from remoterun.ui.stream import Streams

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
VIEWS = ("/", "/runs/{run}", "/compare/{runs}", "/machines", "/uploads", "/uploads/{name}")
"""Addresses of the page: each shows another part of it."""
BLOCK = 64 * POINT.size
"""Bytes of points that stand together in a first picture."""
MOST_PART, MOST_DIFF, MOST_FILES, MOST_COMPARED = 4 << 20, 256 << 10, 20_000, 20
"""Bytes of a log, or of points, or of a diff, in one answer; files of one; runs of one."""
MOST_KEPT = 1 << 30
"""Bytes of files of runs that are copied here, as a film or a sound is asked for in pieces."""


# The name of a file may hold line breaks.
register_url_convertor("any", type("AnyPath", (PathConvertor,), {"regex": "(?s:.*)"})())


class RunsPage(PageServer):
    """The page of runs of one client."""

    def __init__(self, client: Client, port: int = 0, before: int = 0) -> None:
        self._client, self._hub = client, Hub(client)
        self._hub.rows(0)  # read before the browser asks
        self._files = tempfile.TemporaryDirectory(prefix="remoterun-")
        self._kept: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._models: Models | None = None
        read: dict[str, Callable[[Request, Any], Any]] = {
            "runs": self._runs,
            "runs/{run}": self._run,
            "runs/{run}/names": self._names,
            "runs/{run}/points": partial(self._points, "metrics"),
            "runs/{run}/usage": partial(self._points, "usage"),
            "runs/{run}/log": self._log,
            "runs/{run}/whole-log": self._whole_log,
            "runs/{run}/times": self._times,
            "runs/{run}/search": self._search,
            "{kind}/{name}/files": self._list,
            "{kind}/{name}/file/{path:any}": self._file,
            "compare": self._compare,
            "machines": self._machines,
            "uploads": self._uploads,
        }
        done = {
            "runs/{run}/open": self._open,
            "runs/{run}/{action}": self._act,
            "hosts/{id:path}/end": self._end_host,
            "remove": self._remove,
        }
        routes = [
            *(Route(path, self._view) for path in VIEWS),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/model/{path:path}", self._model),
            Route("/events", Streams(self._hub).answer),
            *(Route(f"/api/{path}", threaded(answer)) for path, answer in read.items()),
            *(Route(f"/api/{path}", threaded(answer), methods=["POST"]) for path, answer in done.items()),
        ]
        super().__init__(routes, port, "remoterun ui", POLICY, FAILURES, before)

    def close(self) -> None:
        super().close()
        self._files.cleanup()

    async def _view(self, request: Request) -> Response:
        text = (STATIC / "index.html").read_text("utf-8").replace('"/TOKEN/"', f'"/{self.token}/"')
        return Response(text, media_type="text/html")

    async def _model(self, request: Request) -> Response:
        if self._models is None:
            raise NotFound("no model is open")
        return self._models.answer(request)

    # -- what it reads

    def _runs(self, request: Request, _: Any) -> Response:
        found, version, more = self._hub.rows(int(request.query_params.get("limit", "1000")))
        end = encoded({"version": version, "more": more})[1:]
        return as_json(b'{"runs":[' + b",".join(found) + b"]," + end)

    def _run(self, request: Request, _: Any) -> Any:
        run, details = self._client.runs.info(self._number(request), WAIT)
        diff = b""
        if ((details["spec"] or {}).get("git") or {}).get("diff"):
            with contextlib.suppress(RemoterunError):
                diff = self._client.runs.uncommitted(run.number)[:MOST_DIFF]
        return {"row": self._hub.heard(run), **rows.about(run, details, diff)}

    def _names(self, request: Request, _: Any) -> Any:
        curves = self._hub.curves(self._number(request))
        return {"names": curves.names, "metrics": len(curves.metrics), "usage": len(curves.usage)}

    def _points(self, name: str, request: Request, _: Any) -> Response:
        asked = request.query_params
        points = getattr(self._hub.curves(self._number(request), new=False), name)
        start, size, most = int(asked.get("from", "0")), len(points), int(asked.get("most", "0")) * POINT.size
        data = points[start : start + MOST_PART]  # who lacks more asks again
        if most and size > 2 * most:  # for a first picture: blocks evenly over all
            data = b"".join(points[at : at + BLOCK] for at in range(0, size, size // most * BLOCK))
        return Response(data, media_type="application/octet-stream")

    def _log(self, request: Request, _: Any) -> Response:
        asked = request.query_params
        start, size = int(asked.get("start", "0")), min(int(asked.get("size", str(1 << 18))), MOST_PART)
        part = self._client.runs.log_part(self._number(request), start, size, asked.get("name", "log"))
        return Response(part[2], 200, {"X-Start": str(part[0]), "X-Total": str(part[1])}, "text/plain")

    def _whole_log(self, request: Request, _: Any) -> Response:
        """All that there is of it by now, to be stored: it comes through in parts."""
        number, name = self._number(request), request.query_params.get("name", "log")
        if name not in NAMES:
            raise UsageError(f"a run has no log of the name {name!r}", hint="log, err")
        start, total, first = self._client.runs.log_part(number, 0, MOST_PART, name)

        def parts() -> Iterator[bytes]:
            at, data = start, first
            while data:
                yield data
                at += len(data)
                data = (
                    self._client.runs.log_part(number, at, min(MOST_PART, total - at), name)[2] if at < total else b""
                )

        headers = {
            "Content-Length": str(total - start),
            "Content-Disposition": f"attachment; filename=run-{number}.{name}",
        }
        return StreamingResponse(parts(), 200, headers, "text/plain")

    def _times(self, request: Request, _: Any) -> Any:
        """When the lines were written that begin in a part of the log, which begins with one: [seconds, how many] of
        each stretch; nothing where that is not known."""
        start, end = (int(request.query_params[name]) for name in ("start", "end"))
        wanted, begins = Wanted(live=False, timed=True, offset=start, wait=WAIT), True
        found: list[list[float]] = []
        with contextlib.closing(self._client.runs.follow(self._number(request), wanted)) as following:
            for item in following:
                if not isinstance(item, LogBytes) or item.stderr:
                    continue
                data = item.data[: max(0, end - item.offset)]
                if item.time is None or not data:
                    break
                found.append([round(item.time, 2), begins + data.count(b"\n") - data.endswith(b"\n")])
                begins = data.endswith(b"\n")
        return {"times": [each for each in found if each[1]]}

    def _search(self, request: Request, _: Any) -> Any:
        asked, search = request.query_params, self._client.runs.search_log
        start, name = int(asked.get("start", "0")), asked.get("name", "log")
        return to_json(search(self._number(request), asked["q"], start, name=name))

    def _list(self, request: Request, _: Any) -> Any:
        manifest, about = self._client.files.list(self._resource(request))
        return {
            "live": about.live,
            "files": [{"path": e.path, "size": e.size} for e in islice(manifest.files, MOST_FILES)],
            "more": manifest.file_count > MOST_FILES,
            "diary": [
                {
                    **vars(group),
                    "unit": group.unit,
                    "steps": [{"step": step, "path": path} for step, path in group.steps],
                }
                for group in diary(file.path for file in manifest.files)
            ],
        }

    def _file(self, request: Request, _: Any) -> Response:
        path = request.path_params["path"]
        saved = self._client.files.saved(self._resource(request, path), Path(self._files.name))
        with self._lock:
            self._kept[saved] = self._kept.pop(saved, 0) or saved.stat().st_size  # the last used is the last to go
            while len(self._kept) > 1 and sum(self._kept.values()) > MOST_KEPT:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                oldest.unlink()
        return as_file(saved, posixpath.basename(path), request.query_params.get("download") == "1")

    def _compare(self, request: Request, _: Any) -> Any:
        numbers = [int(text) for text in request.query_params["runs"].split(",")][:MOST_COMPARED]
        found = [*each(lambda number: self._client.runs.info(number, WAIT), numbers, MOST_COMPARED)]
        params = _named(rows.parameters_of(run, details["spec"] or {}) for run, details in found)
        diff: list[str] = []
        if len(numbers) == 2:
            with contextlib.suppress(RemoterunError):  # one of them has no files any more
                changes = self._client.runs.diff(numbers[0], numbers[1]).files
                diff = [line for change in changes for line in change.lines]
        return {
            "rows": [self._hub.heard(run) for run, _ in found],
            "params": params,
            "differs": [name for name, values in params.items() if len(set(values)) > 1],
            "best": _named(rows.best(run) for run, _ in found),
            "diff": "\n".join(diff)[:MOST_DIFF],
        }

    def _machines(self, request: Request, _: Any) -> Any:
        hosts: Sequence[RentedHost] = ()
        config, notes = self._client.config, list[str]()
        if any(each.is_set_up(config) and each.can_log_in(config) for each in all_fronts()):
            try:
                hosts = self._client.hosts.list(notes.append)
            except RemoterunError as error:
                notes.append(f"rented hosts are not listed: {error.message}")
        found = self._client.machines.status(wait=WAIT)
        shown = [rows.rented(host, time.time()) for host in hosts]
        return {"machines": [*map(rows.machine, found)], "hosts": shown, "notes": list(dict.fromkeys(notes))}

    def _uploads(self, request: Request, _: Any) -> Any:
        uploads = self._client.uploads
        return {"uploads": [rows.upload(newest, uploads.known(newest.name)) for newest in uploads.list(WAIT)]}

    # -- what its buttons do

    def _act(self, request: Request, asked: dict[str, Any]) -> Any:
        number, runs = self._number(request), self._client.runs
        note = partial(runs.annotate, number)
        actions: dict[str, Callable[[], Run]] = {
            "stop": lambda: runs.stop(number, float(asked.get("grace", 10.0)))[0],
            "kill": lambda: runs.kill(number)[0],
            "rerun": lambda: self._rerun(number, asked.get("command")),
            "label": lambda: runs.label(number, *([*map(str, asked.get(name, ()))] for name in ("add", "remove"))),
            "notify": lambda: runs.notify(number, [str(asked["secret"])] if asked.get("secret") else None),
            "pin": lambda: note(pinned=bool(asked["on"])),
            "hide": lambda: note(hidden=bool(asked["on"])),
            "read": lambda: runs.read_again(number, from_json(LogReading, asked)),
            "remark": lambda: note(remark=str(asked["text"])),
        }
        return {"row": self._hub.heard(actions[request.path_params["action"]]())}

    def _rerun(self, number: int, command: str | None) -> Run:
        kept = self._client.runs.original(number)
        if kept.run.machine.rental is not None:
            raise UsageError("this would rent a host, which costs money", hint=f"remoterun rerun {number}")
        request = RunRequest(**same_fields(RunRequest, kept.request))._replace(
            command=command or kept.request.command, env=kept.values(kept.variables, ())
        )
        return self._client.runs.launch(self._client.runs.prepare_again(kept, request))

    def _open(self, request: Request, _: Any) -> Any:
        model = self._client.files.model(f"runs/{self._number(request)}")
        self._models = self._models or Models(libraries(self._client.config.home))
        return {"address": f"model/{self._models.add(model)}"}

    def _end_host(self, request: Request, _: Any) -> Any:
        return {"ended": self._client.hosts.end(request.path_params["id"]).id}

    def _remove(self, request: Request, asked: dict[str, Any]) -> Any:
        """Delete runs, as `rm` does."""
        removed = self._client.runs.of_each(map(int, asked["runs"]), self._client.runs.remove)
        failed = {number: error for number, error in removed.items() if isinstance(error, RemoterunError)}
        self._hub.gone(removed.keys() - failed.keys())
        for machine in {name for name in removed.values() if isinstance(name, str)}:
            with contextlib.suppress(RemoterunError):  # the space is free after its next `gc`
                self._client.machines.gc(machine)

        def said(number: int, error: RemoterunError) -> dict[str, Any]:
            lost = f"remoterun rm --forget {number}   if it never comes back"
            hints = [error.hint, lost if isinstance(error, HostUnreachable) else None]
            return {"message": f"run {number}: {error.message}", "hint": "\n".join(filter(None, hints))}

        return {"removed": [*(removed.keys() - failed.keys())], "failed": [said(*each) for each in failed.items()]}

    def _number(self, request: Request) -> int:
        """The number of the run in the address. Raises `NotFound`."""
        return self._client.runs.known(request.path_params["run"]).number

    def _resource(self, request: Request, sub: str = "") -> Resource:
        """What the address names. Raises `UsageError`, `NotFound`."""
        version = request.query_params.get("version")
        named = Resource.parse("{kind}/{name}".format(**request.path_params) + (f"@{version}" if version else ""))
        return replace(named, sub=sub)


def _named(columns: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each name in all columns; None where one does not have it."""
    listed = [*columns]
    names = dict.fromkeys(name for column in listed for name in column)
    return {name: [column.get(name) for column in listed] for name in names}
