"""The one stream of events of each page: what has changed, and the log of the run that it shows, from where it was."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from remoterun.errors import RemoterunError
from remoterun.ui.answers import as_json, encoded, in_thread
from remoterun.ui.hub import MOST_LOG, Hub, Shown

MOST_STREAMS = 4
"""Held open: a browser has six connections to one origin, for all of its tabs."""
ALIVE = 15.0
"""Seconds of silence after which a comment is sent."""
POLL = 0.5
"""Seconds in which a page that gets no stream of its own gets what is new."""
PIECE = 1 << 16
_AGAIN = "retry: 1000\n\n"


class Streams:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: dict[asyncio.Event, Page] = {}
        """By the event that wakes each, the oldest first."""

    async def answer(self, request: Request) -> Response:
        """A new page takes the place of the oldest; one that comes back while there is no room is sent what is new."""
        asked = request.query_params
        names = ("version", "log", "metrics")
        last = re.fullmatch(r"(\d{1,18})\.(\d{0,18})\.(\d{1,18})", request.headers.get("last-event-id", ""))
        texts = last.groups() if last else [asked.get(name, "") for name in names]
        run, version, log, metrics = (int(text) if re.fullmatch(r"\d{1,18}", text or "") else None
                                      for text in (asked.get("run"), *texts))  # fmt: skip
        if run is not None:
            try:
                await in_thread(lambda: self._hub.client.registry.run(run))
            except RemoterunError as error:
                return as_json({"error": error.message, "hint": error.hint}, 404)
        polls = last is not None and len(self._open) >= MOST_STREAMS
        page = Page(self._hub, version, log, metrics, polls)
        return StreamingResponse(self._events(page, run), media_type="text/event-stream")

    async def _events(self, page: Page, run: int | None) -> AsyncIterator[str]:
        with self._hub.page(run, page.log) as (event, page.shown):
            if not page.ends:
                self._open[event] = page
                if len(self._open) > MOST_STREAMS:
                    oldest = next(iter(self._open))
                    self._open.pop(oldest).ends = True
                    oldest.set()
            try:
                yield ": \n\n"
                while True:
                    event.clear()
                    said = False
                    for text in page.news():
                        yield text
                        said = True
                    async for text in page.log_news():
                        yield text
                        said = True
                    if page.ends and (said or not page.polls):
                        break
                    try:
                        await asyncio.wait_for(event.wait(), POLL if page.ends else ALIVE)
                    except TimeoutError:
                        if page.ends:
                            break
                        yield ": \n\n"
                yield _AGAIN
            finally:
                self._open.pop(event, None)


class Page:
    """How far a page is. `polls`: there was no room for it; `ends`: its stream ends once it has what is new."""

    def __init__(self, hub: Hub, version: int | None, log: int | None, metrics: int | None, polls: bool) -> None:
        self._hub = hub
        self.version = hub.version if version is None else version
        self.log, self.metrics = log, metrics or 0
        self.shown: Shown | None = None
        self.polls = self.ends = polls
        self._lost: str | None = None
        self._points: tuple[int, int, int] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def news(self) -> Iterator[str]:
        """Everything but the log."""
        before, shown = self.version, self.shown
        if self._hub.version != before:
            rows, gone, self.version = self._hub.changes(before)
            if rows or gone:
                end = encoded({"gone": gone, "version": self.version}).decode()
                yield self._event("runs", f'{{"runs":[{b",".join(rows).decode()}],{end[1:]}')
            for version, event in [*shown.events] if shown is not None else ():
                if before < version <= self.version:
                    row = self._hub.row(shown.number) if shown is not None else ""
                    yield self._event("run", f'{{"row":{row},"event":{encoded(event).decode()}}}')
        if shown is None:
            return
        if shown.lost != self._lost:
            self._lost = shown.lost
            yield self._event("back", "{}") if self._lost is None else self._event("lost", {"message": self._lost})
        if shown.points is not None and shown.points != self._points:
            self._points = shown.points
            self.metrics = shown.points[0]
            yield self._event("points", dict(zip(("metrics", "usage", "names"), shown.points, strict=True)))

    async def log_news(self) -> AsyncIterator[str]:
        """What the log has more. It is split between characters: the rest of one comes with its next byte."""
        shown = self.shown
        while shown is not None and (end := shown.end) is not None:
            self.log = end if self.log is None else self.log
            start = self.log + len(self._decoder.getstate()[0])
            if start >= end:
                return
            if end - start > MOST_LOG:
                self._decoder.reset()
                self.log = end
                yield self._event("log", {"start": end, "skipped": end - start})
                return
            data = shown.part(start, PIECE)
            if data is None:
                try:
                    data = (await in_thread(partial(self._hub.client.runs.log_part, shown.number, start, PIECE)))[2]
                except RemoterunError:
                    data = b""
                if not data:  # its machine has it no more, or can't be reached
                    self._decoder.reset()
                    self.log = shown.start or 0
                    yield self._event("log", {"start": self.log, "skipped": self.log - start})
                    continue
            before, text = self.log, self._decoder.decode(data)
            self.log = start + len(data) - len(self._decoder.getstate()[0])
            if text:
                yield self._event("log", {"start": before, "end": self.log, "text": text})

    def _event(self, kind: str, data: Any) -> str:
        text = data if isinstance(data, str) else encoded(data).decode()
        log = "" if self.log is None else self.log
        return f"id: {self.version}.{log}.{self.metrics}\nevent: {kind}\ndata: {text}\n\n"
