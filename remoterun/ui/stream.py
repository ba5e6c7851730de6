"""The one stream of events of each page: what has changed, and the log of the run that it shows, from where it was."""

from __future__ import annotations

import asyncio
import codecs
import re
import time
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from remoterun.agent.shared.records import to_json
from remoterun.client.following import Following, Item, LogBytes, Note, StateChange, Wanted
from remoterun.errors import RemoterunError
from remoterun.ui.answers import as_json, encoded, in_thread
from remoterun.ui.hub import EVERY, Hub

MOST_STREAMS = 4
"""Held open: a browser has six connections to one origin, for all of its tabs."""
ALIVE, WAIT = 15.0, 2.0
"""Seconds of silence after which a comment is sent; for which a page that gets what is new only waits for a machine."""
PIECE, MOST_BEHIND = 1 << 16, 1 << 20
"""Bytes of a log in one event; which a page that comes may lack, else it goes on at the end."""
END = "end"
_PLACE = re.compile(r"(\d{1,18})\.(\d{0,18})\.(\d{1,18})")


class Streams:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: list[Stream] = []
        """The oldest first."""

    async def answer(self, request: Request) -> Response:
        """A new page takes the place of the oldest; one that comes back while there is no room is sent what is new."""
        asked = request.query_params
        last = _PLACE.fullmatch(request.headers.get("last-event-id", ""))
        places = last.groups() if last else [asked.get(name, "") for name in ("version", "log", "metrics")]
        numbers = [int(text) if re.fullmatch(r"\d{1,18}", text) else None for text in (asked.get("run", ""), *places)]
        polls = last is not None and len(self._open) >= MOST_STREAMS
        try:
            stream = await in_thread(partial(Stream, self._hub, polls, *numbers))
        except RemoterunError as error:
            return as_json({"error": error.message, "hint": error.hint}, 404)
        return StreamingResponse(self._events(stream), media_type="text/event-stream")

    async def _events(self, stream: Stream) -> AsyncIterator[str]:
        if not stream.polls:
            self._open.append(stream)
            if len(self._open) > MOST_STREAMS:
                self._open.pop(0).end()
        try:
            async for text in stream.events():
                yield text
        finally:
            if stream in self._open:
                self._open.remove(stream)


class Stream:
    """How far a page is. One that `polls` ends once it has what is new. Raises `NotFound`."""

    def __init__(
        self, hub: Hub, polls: bool, run: int | None, version: int | None, log: int | None, metrics: int | None
    ) -> None:
        self.polls = polls
        self._hub, self._run = hub, run
        self._at = {"version": hub.version if version is None else version, "log": log, "metrics": metrics or 0}
        self._news = asyncio.Event()
        self._queue: asyncio.Queue[tuple[str, Any, dict[str, int]]] = asyncio.Queue(MOST_BEHIND // PIECE)
        """What was not sent yet. Who has more waits, the host too: the link gives it no credit."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._following: Following | None = None
        self._closed = False
        if run is not None:
            hub.client.registry.run(run)

    def end(self) -> None:
        """Another page takes its place: it goes on by asking again and again."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait((END, None, {}))

    async def events(self) -> AsyncIterator[str]:
        with self._hub.watched(self._news):
            work = asyncio.create_task(self._work(asyncio.get_running_loop()))
            try:
                yield ": \n\n"
                while True:
                    try:
                        kind, data, at = await asyncio.wait_for(self._queue.get(), ALIVE)
                    except TimeoutError:
                        yield ": \n\n"
                        continue
                    if kind == END:
                        break
                    self._at |= at
                    if isinstance(data, LogBytes):
                        data = self._decoded(data)
                    text = data if isinstance(data, str) else encoded(data).decode()
                    log = self._at["log"] if self._at["log"] is not None else ""
                    place = f"{self._at['version']}.{log}.{self._at['metrics']}"
                    yield f"id: {place}\nevent: {kind}\ndata: {text}\n\n"
                yield "retry: 1000\n\n"
            finally:
                self._closed = True
                work.cancel()
                if self._following is not None:
                    self._following.close()
                self.end()  # who waits for room in the queue has it, and ends

    def _decoded(self, piece: LogBytes) -> dict[str, Any]:
        """It is split between characters: the rest of one comes with its next byte."""
        if piece.offset != (self._at["log"] or 0) + len(self._decoder.getstate()[0]):  # it goes on as another run
            self._decoder.reset()
            self._at["log"] = piece.offset
        start, text = self._at["log"] or 0, self._decoder.decode(piece.data)
        self._at["log"] = piece.offset + len(piece.data) - len(self._decoder.getstate()[0])
        return {"start": start, "end": self._at["log"], "text": text}

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        def put(kind: str, data: Any, **at: int) -> None:
            """For the thread that follows the run: it waits until there is room."""
            if not self._closed:
                asyncio.run_coroutine_threadsafe(self._queue.put((kind, data, at)), loop).result()

        parts: list[Coroutine[Any, Any, None]] = [self._send_rows()]
        if self._run is not None:
            number = self._run
            parts += [self._send_points(number), in_thread(lambda: self._follow(number, put))]
        try:
            await asyncio.wait_for(asyncio.gather(*parts), WAIT if self.polls else None)
        except TimeoutError:  # its machine takes long
            pass
        await self._queue.put((END, None, {}))

    async def _send_rows(self) -> None:
        since = self._at["version"] or 0
        while True:
            self._news.clear()
            rows, gone, version = self._hub.changes(since)
            if rows or gone:
                about = encoded({"gone": gone, "version": version})[1:]
                text = (b'{"runs":[' + b",".join(rows) + b"]," + about).decode()
                await self._queue.put(("runs", text, {"version": version}))
            if self.polls:
                return
            since = version
            await self._news.wait()

    async def _send_points(self, number: int) -> None:
        sent: list[int] = []
        while not self._closed:
            try:
                curves = await in_thread(partial(self._hub.curves, number))
                known = [len(curves.metrics), len(curves.usage), len(curves.names)]
                if known != sent:
                    sent = known
                    data = dict(zip(("metrics", "usage", "names"), known, strict=True))
                    await self._queue.put(("points", data, {"metrics": known[0]}))
                if curves.run.final:
                    return
            except RemoterunError:  # its log says so
                pass
            if self.polls:
                return
            await asyncio.sleep(EVERY)

    def _follow(self, number: int, put: Any) -> None:
        runs, at, lost = self._hub.client.runs, self._at["log"], ""
        wait = WAIT if self.polls else None
        while not self._closed:
            try:
                total = runs.log_part(number, 0, 0)[1]
                if at is None or total - at > MOST_BEHIND:
                    put("log", {"start": total, "skipped": total - (at or 0)}, log=total)
                    at = total
                self._following = runs.follow(number, Wanted(live=not self.polls, wait=wait, offset=at))
                for item in self._following:
                    if lost and not isinstance(item, Note):
                        lost = ""
                        put("back", {})
                    if isinstance(item, LogBytes) and not item.stderr:
                        at = item.offset + len(item.data)
                    self._take(item, number, put)
                    if self._closed or (isinstance(item, StateChange) and item.run.number != number):
                        return
                return
            except RemoterunError as error:
                if error.message != lost:
                    lost = error.message
                    put("lost", {"message": lost})
            if self.polls:
                return
            time.sleep(EVERY)

    def _take(self, item: Item, number: int, put: Any) -> None:
        if isinstance(item, LogBytes):
            for start in range(0, 0 if item.stderr else len(item.data), PIECE):
                put("log", LogBytes(item.offset + start, item.data[start : start + PIECE]))
        elif isinstance(item, StateChange):
            if not item.past and item.run.number == number:
                event = {name: value for name, value in to_json(item.event).items() if value is not None}
                put("run", f'{{"row":{self._hub.heard(item.run).decode()},"event":{encoded(event).decode()}}}')
        elif item.kind in ("lost", "back"):
            put(item.kind, {"message": item.text} if item.kind == "lost" else {})
        elif item.kind != "line":  # that is in the row
            row = self._hub.heard(self._hub.client.registry.run(number)).decode()
            put("run", f'{{"row":{row},"event":{encoded({"t": time.time(), item.kind: item.text}).decode()}}}')
