"""The one stream of events of each page: what has changed, and the log of the run that it shows, from where it was."""

from __future__ import annotations

import codecs
import contextlib
import math
import queue
import threading
import time
from asyncio import wrap_future
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from remoterun.agent.shared.records import to_json
from remoterun.client.runs.following import Following, LogBytes, Note, StateChange, Wanted
from remoterun.errors import RemoterunError
from remoterun.threads import start
from remoterun.ui.answers import encoded
from remoterun.ui.hub import EVERY, Hub

MOST_STREAMS = 4
"""Held open: a browser has six connections to one origin, for all of its tabs."""
ALIVE, POLL = 6.0, 1.0
"""Seconds of silence after which an event says that the server lives; that the stream of a page that polls is open."""
PIECE, MOST_BEHIND = 1 << 16, 1 << 20
"""Bytes of a log in one event; which a page that comes may lack, else it goes on at the end."""


class Streams:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: list[PageStream] = []
        """The oldest first."""

    async def answer(self, request: Request) -> Response:
        """A new page takes the place of the oldest; one that comes back while there is no room is sent what is new."""
        asked, last = request.query_params, request.headers.get("last-event-id", "")
        places = last.split(".") if last.count(".") == 1 else (asked.get("version"), asked.get("log"))
        run, version, log = (int(text) if text else None for text in (asked.get("run"), *places))
        if run is not None:
            await wrap_future(start(partial(self._hub.client.runs.known, run)))
        stream = PageStream(self._hub, run, version, log)
        self._open = [each for each in self._open if not each.ended]
        polls = last != "" and len(self._open) >= MOST_STREAMS
        if not polls:
            self._open.append(stream)
        if len(self._open) > MOST_STREAMS:
            self._open[0].end()
        return StreamingResponse(stream.events(POLL if polls else math.inf), media_type="text/event-stream")


class PageStream:
    """How far a page is. What is new comes from a thread each for rows, points and the log."""

    def __init__(self, hub: Hub, run: int | None, version: int | None, log: int | None) -> None:
        self._hub, self._run = hub, run
        self._place = {"version": hub.version if version is None else version, "log": log}
        self._queue: queue.Queue[tuple[str, str, dict[str, int]]] = queue.Queue(MOST_BEHIND // PIECE)
        """What was not sent yet. Who has more waits, the host too: the link gives it no credit."""
        self._following: Following | None = None
        self.ended = False

    def end(self) -> None:
        """It ends, and the page goes on by asking again and again. May be called twice."""
        self.ended = True
        if self._following is not None:
            self._following.close()
        with contextlib.suppress(queue.Empty):
            while True:  # who waits for room has it, and ends
                self._queue.get_nowait()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(("end", "", {}))

    async def events(self, seconds: float) -> AsyncIterator[str]:
        end = time.monotonic() + seconds
        parts: list[Callable[[], None]] = [partial(self._send_rows, self._place["version"] or 0)]
        if self._run is not None:
            parts += [partial(self._follow, self._run, self._place["log"]), partial(self._measure, self._run)]
        for part in parts:
            threading.Thread(target=part, name="remoterun stream", daemon=True).start()
        try:
            yield ": \n\n"
            while (left := end - time.monotonic()) > 0:
                try:
                    kind, text, place = await wrap_future(start(partial(self._queue.get, True, min(left, ALIVE))))
                except queue.Empty:
                    yield "event: alive\ndata: {}\n\n"
                    continue
                if self.ended:
                    break
                self._place |= place
                known = ".".join("" if at is None else str(at) for at in self._place.values())
                yield f"id: {known}\nevent: {kind}\ndata: {text}\n\n"
            yield "retry: 1000\n\n"
        finally:
            self.end()

    def _put(self, kind: str, data: Any, **place: int) -> None:
        """An event, with which the page is as far as `place`."""
        if not self.ended:
            self._queue.put((kind, data if isinstance(data, str) else encoded(data).decode(), place))

    def _send_rows(self, since: int) -> None:
        while not self.ended:
            rows, gone, since = self._hub.changes(since, EVERY)
            if rows or gone:
                data = f'{{"runs":[{b",".join(rows).decode()}],"gone":{gone},"version":{since}}}'
                self._put("runs", data, version=since)

    def _measure(self, number: int) -> None:
        sent: dict[str, int] = {}
        while not self.ended:
            with contextlib.suppress(RemoterunError):  # the log's thread reports it
                curves = self._hub.curves(number)
                known = {name: len(getattr(curves, name)) for name in ("metrics", "usage", "names")}
                if known != sent:
                    sent = known
                    self._put("points", known)
                if curves.run.final:
                    return
            time.sleep(EVERY)

    def _follow(self, number: int, at: int | None) -> None:
        runs, lost = self._hub.client.runs, ""

        def link(fault: str) -> None:
            nonlocal lost
            if fault != lost:
                lost = fault
                self._put("lost" if fault else "back", {"message": fault})

        while not self.ended:
            try:
                total = runs.log_part(number, 0, 0)[1]
                if at is None or total - at > MOST_BEHIND:
                    self._put("log", {"start": total, "skipped": total - (at or 0)}, log=total)
                    at = total
                self._following, looked, rest = runs.follow(number, Wanted(offset=at)), time.monotonic(), b""
                if self.ended:
                    self._following.close()
                for item in self._following:
                    if not isinstance(item, Note) or item.kind in ("lost", "back"):
                        link(item.text if isinstance(item, Note) else "")
                    if isinstance(item, LogBytes) and not item.stderr:
                        if item.offset != at + len(rest):
                            at, rest = item.offset, b""
                        rest += item.data
                        while True:  # split between characters: what there is of one waits for the rest of it
                            text, size = codecs.utf_8_decode(rest[:PIECE], "replace", False)
                            if not size:
                                break
                            self._put("log", {"start": at, "end": at + size, "text": text}, log=at + size)
                            at, rest = at + size, rest[size:]
                    elif isinstance(item, StateChange) and not item.past:
                        self._put("run", {"row": self._hub.heard(item.run), "event": to_json(item.event)})
                    if self._queue.full() and time.monotonic() > looked + EVERY:
                        self._following.close()
                        break  # the page is slow: it may be so far behind that it goes on at the end
                else:
                    return
            except RemoterunError as error:
                link(error.message)
                time.sleep(EVERY)
