"""A server that takes what is posted to it, as those of webhooks do, with faults."""

from __future__ import annotations

import json
import os
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from remoterun.agent.shared.webhooks import Webhooks
from tests.workshop import Place, until


class WebhookServer:
    """`posts`: (path, body) of each message that came, in order. `answers`: the status of each of the next ones, then
    200. `silent`: while it is set, no message is answered."""

    def __init__(self, port: int = 0) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        self.silent = threading.Event()
        self._closed = threading.Event()
        server = self

        class Bound(Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Bound)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    def wait(self) -> None:
        """Until it is closed: for what gets no answer."""
        self._closed.wait(60)


class Handler(BaseHTTPRequestHandler):
    owner: WebhookServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        silent, status = self.owner.silent.is_set(), self.owner.answers.pop(0) if self.owner.answers else 200
        self.owner.headers.append(dict(self.headers))
        self.owner.posts.append((self.path, json.loads(body)))
        if silent:
            self.owner.wait()
            return
        said = b"ok" if status == 200 else f"<html>there is no {self.path} here</html>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


def webhook_server(port: int = 0) -> closing[WebhookServer]:
    return closing(WebhookServer(port))


SLACK = "https://hooks.slack.com/services/T0/B0/s3cr3t"
DISCORD = "https://discord.com/api/webhooks/1/s3cr3t"
PATH = "/hook/s3cr3t-path"


def submit(place: Place, command: str, *urls: str, values: dict[str, str] | None = None, **changed: Any) -> str:
    names = tuple(f"hook{number}" for number in range(len(urls)))
    webhooks = Webhooks(dict(zip(names, urls, strict=True)))
    return place.submit(command, values=values, webhooks=webhooks, notify=names, **changed)


def all_told(place: Place, key: str) -> None:
    until(lambda: not os.path.exists(place.run(key).webhooks_file))
    until(lambda: key not in place.home.active_keys())
