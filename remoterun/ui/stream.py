"""The one stream of events of each page: what has changed, and the log of the run that it shows, from where it was."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from remoterun.agent.shared.records import to_json
from remoterun.client.following import Following, LogBytes, Note, StateChange, Wanted
from remoterun.errors import RemoterunError
from remoterun.ui.answers import encoded, in_thread
from remoterun.ui.hub import EVERY, Hub
from remoterun.ui.rows import row

MOST_STREAMS = 4
"""Held open: a browser has six connections to one origin, for all of its tabs."""
ALIVE, FIRST, SILENCE, MOST_POLL = 15.0, 1.0, 0.2, 2.0
"""Seconds of silence after which a comment is sent. Of a page that polls: for which it waits for something new, until
it has all of that, and after which it ends at the latest."""
PIECE, MOST_BEHIND = 1 << 16, 1 << 20
"""Bytes of a log in one event; which a page that comes may lack, else it goes on at the end."""


class Streams:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: list[Stream] = []
        """The oldest first."""

    async def answer(self, request: Request) -> Response:
        """A new page takes the place of the oldest; one that comes back while there is no room is sent what is new."""
        asked, last = request.query_params, request.headers.get("last-event-id", "")
        places = (
            last.split(".") if last.count(".") == 2 else [asked.get(name) for name in ("version", "log", "metrics")]
        )
        run, version, log, metrics = (int(text) if text else None for text in (asked.get("run"), *places))
        if run is not None:
            await in_thread(partial(self._hub.client.registry.run, run))
        stream = Stream(self._hub, run, version, log, metrics or 0)
        if not last or len(self._open) < MOST_STREAMS:
            self._open.append(stream)
        for oldest in self._open[:-MOST_STREAMS]:
            oldest.end()
            self._open.remove(oldest)
        return StreamingResponse(self._events(stream, stream not in self._open), media_type="text/event-stream")

    async def _events(self, stream: Stream, polls: bool) -> AsyncIterator[str]:
        try:
            async for text in stream.events(polls):
                yield text
        finally:
            with contextlib.suppress(ValueError):
                self._open.remove(stream)


class Stream:
    """How far a page is."""

    def __init__(self, hub: Hub, run: int | None, version: int | None, log: int | None, metrics: int) -> None:
        self._hub, self._run = hub, run
        self._version, self._log, self._metrics = hub.version if version is None else version, log, metrics
        self._queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(MOST_BEHIND // PIECE)
        """What was not sent yet. Who has more waits, the host too: the link gives it no credit."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._following: Following | None = None
        self._closed = False

    def end(self) -> None:
        """Another page takes its place: it goes on by asking again and again."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(("end", None))

    async def events(self, polls: bool) -> AsyncIterator[str]:
        loop, begun, patience = asyncio.get_running_loop(), time.monotonic(), FIRST if polls else ALIVE
        news = asyncio.Event()

        def put(kind: str, data: Any) -> None:
            """For other threads: they wait until there is room."""
            if not self._closed:
                asyncio.run_coroutine_threadsafe(self._queue.put((kind, data)), loop).result()

        with self._hub.watched(news):
            work = [asyncio.create_task(self._send_rows(news))]
            if self._run is not None:
                work += [
                    asyncio.create_task(in_thread(partial(each, self._run, put)))
                    for each in (self._follow, self._measure)
                ]
            try:
                yield ": \n\n"
                while not polls or time.monotonic() < begun + MOST_POLL:
                    try:
                        kind, data = await asyncio.wait_for(self._queue.get(), patience)
                    except TimeoutError:
                        if polls:
                            break
                        yield ": \n\n"
                        continue
                    if kind == "end":
                        break
                    patience = SILENCE if polls else ALIVE
                    text = self._text(kind, data)
                    log = self._log if self._log is not None else ""
                    yield f"id: {self._version}.{log}.{self._metrics}\nevent: {kind}\ndata: {text}\n\n"
                yield "retry: 1000\n\n"
            finally:
                self._closed = True
                for task in work:
                    task.cancel()
                if self._following is not None:
                    self._following.close()
                self.end()  # who waits for room in the queue has it, and ends

    def _text(self, kind: str, data: Any) -> str:
        """An event's data; the page is as far as that from now on."""
        if kind == "runs":
            rows, gone, self._version = data
            return f'{{"runs":[{b",".join(rows).decode()}],"gone":{gone},"version":{self._version}}}'
        if kind == "points":
            self._metrics = data["metrics"]
        if kind == "log" and isinstance(
            data, LogBytes
        ):  # split between characters: the rest of one comes with the next
            known = self._log or 0
            if data.offset != known + len(self._decoder.getstate()[0]):
                self._decoder.reset()
                known = data.offset
            text = self._decoder.decode(data.data)
            self._log = data.offset + len(data.data) - len(self._decoder.getstate()[0])
            data = {"start": known, "end": self._log, "text": text}
        elif kind == "log":
            self._log = data["start"]
        return encoded(data).decode()

    async def _send_rows(self, news: asyncio.Event) -> None:
        since = self._version
        while True:
            news.clear()
            rows, gone, version = self._hub.changes(since)
            if rows or gone:
                await self._queue.put(("runs", (rows, gone, version)))
            since = version
            await news.wait()

    def _measure(self, number: int, put: Callable[[str, Any], None]) -> None:
        sent: list[int] = []
        while not self._closed:
            with contextlib.suppress(RemoterunError):  # its log says so
                curves = self._hub.curves(number)
                known = [len(curves.metrics), len(curves.usage), len(curves.names)]
                if known != sent:
                    sent = known
                    put("points", dict(zip(("metrics", "usage", "names"), known, strict=True)))
                if curves.run.final:
                    return
            time.sleep(EVERY)

    def _follow(self, number: int, put: Callable[[str, Any], None]) -> None:
        runs, at, lost = self._hub.client.runs, self._log, ""
        while not self._closed:
            try:
                total = runs.log_part(number, 0, 0)[1]
                if at is None or total - at > MOST_BEHIND:
                    put("log", {"start": total, "skipped": total - (at or 0)})
                    at = total
                self._following = runs.follow(number, Wanted(offset=at))
                for item in self._following:
                    message = item.text if isinstance(item, Note) and item.kind == "lost" else ""
                    if message != lost and not (isinstance(item, Note) and item.kind not in ("lost", "back")):
                        lost = message
                        put("lost" if lost else "back", {"message": lost} if lost else {})
                    if isinstance(item, LogBytes) and not item.stderr:
                        at = item.offset + len(item.data)
                        for start in range(0, len(item.data), PIECE):
                            put("log", LogBytes(item.offset + start, item.data[start : start + PIECE]))
                    elif isinstance(item, StateChange) and item.run.number != number:
                        return  # it was moved, and goes on as another one
                    elif isinstance(item, StateChange) and not item.past:
                        self._hub.heard(item.run)
                        put("run", {"row": row(item.run, time.time()), "event": to_json(item.event)})
                    if self._closed:
                        return
                return
            except RemoterunError as error:
                if error.message != lost:
                    lost = error.message
                    put("lost", {"message": lost})
            time.sleep(EVERY)
