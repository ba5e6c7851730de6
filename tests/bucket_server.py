"""A bucket as a host sees it: objects behind signed addresses, and a form to post others; with faults by injection.

It checks what S3 checks of them: whether the signature is one of those that were given and has not expired, the prefix
of the form, and the checksum where one comes with it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from remoterun.agent.shared.archive import Grant

Fault = Callable[["Handler"], bool]
"""Looks at a request, and may answer it in the place of the server; whether it did."""


class BucketServer:
    """`objects` by their keys; `asked`: method and key of each request; `faults` are tried in their order before it is
    answered. `open` is False while nobody can reach it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.written: list[str] = []
        self.faults: list[Fault] = []
        self.expiries: dict[str, float] = {}
        self.lock = threading.Lock()
        server = self

        class Bound(Handler):
            bucket = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/mine/"

    def _sign(self, seconds: float) -> str:
        signature = hashlib.sha256(f"{len(self.expiries)} {time.monotonic()}".encode()).hexdigest()
        self.expiries[signature] = time.time() + seconds
        return signature

    def signed(self, key: str, seconds: float = 60) -> str:
        """The address by which an object may be fetched."""
        return self.url + quote(key) + "?X-Amz-Signature=" + self._sign(seconds)

    def grant(self, prefix: str, seconds: float = 60) -> Grant:
        policy = base64.b64encode(prefix.encode()).decode()
        fields = {"policy": policy, "x-amz-signature": self._sign(seconds)}
        return Grant(self.url, fields, prefix, time.time() + seconds)

    def below(self, prefix: str) -> dict[str, bytes]:
        with self.lock:
            return {key[len(prefix) :]: data for key, data in self.objects.items() if key.startswith(prefix)}

    def fail(self, times: int, how: Fault) -> None:
        """The next so many requests go wrong in this way."""
        left = [times]

        def fault(handler: Handler) -> bool:
            with self.lock:
                left[0] -= 1
                if left[0] < 0:
                    return False
            return how(handler)

        self.faults.append(fault)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    bucket: BucketServer
    posted: tuple[str, bytes]
    """Key and content of an object that is posted."""

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/mine/")

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> bool:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.answer(status, body, **headers)
        return True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        with suppress(OSError):  # of a client that has given up
            self.end_headers()
            self.wfile.write(body)

    def cut(self) -> bool:
        """As a connection that is lost."""
        self.close_connection = True
        self.connection.close()
        return True

    def do_GET(self) -> None:
        with self.bucket.lock:
            self.bucket.asked.append(("GET", self.key))
        if any(fault(self) for fault in self.bucket.faults):
            return
        if not self.allowed(parse_qs(urlsplit(self.path).query).get("X-Amz-Signature", [""])[0]):
            return
        data = self.bucket.objects.get(self.key)
        if data is None:
            self.refuse(404, "NoSuchKey", "The specified key does not exist.")
            return
        found = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        if not found:
            self.answer(200, data)
            return
        start, end = int(found.group(1)), min(int(found.group(2)) + 1, len(data))
        if start >= len(data):
            self.refuse(416, "InvalidRange")
            return
        self.answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}")

    def do_CONNECT(self) -> None:
        """As a proxy, to a port of this machine, whatever host is asked for."""
        with self.bucket.lock:
            self.bucket.asked.append(("CONNECT", self.path))
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2])), 10) as there:
            ends = {there: self.connection, self.connection: there}
            while True:
                for end in select.select(list(ends), [], [], 10)[0]:
                    data = end.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def allowed(self, signature: str) -> bool:
        expires = self.bucket.expiries.get(signature)
        if expires is None:
            return not self.refuse(403, "SignatureDoesNotMatch")
        if time.time() > expires:
            return not self.refuse(403, "AccessDenied", "Request has expired")
        return True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
        fields: dict[str, bytes] = {}
        for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]*)"', head)
            assert name is not None and "file" not in fields, "nothing follows the file"
            fields[name.group(1).decode()] = content
        key = fields.get("key", b"").decode()
        self.posted = key, fields.get("file", b"")
        with self.bucket.lock:
            self.bucket.asked.append(("POST", key))
        if any(fault(self) for fault in self.bucket.faults):
            return
        if not self.allowed(fields.get("x-amz-signature", b"").decode()):
            return
        if not key.startswith(base64.b64decode(fields["policy"]).decode()):
            self.refuse(403, "AccessDenied", "Invalid according to Policy: Policy Condition failed")
            return
        data = fields["file"]
        checksum = fields.get("x-amz-checksum-sha256")
        if checksum is not None and base64.b64decode(checksum) != hashlib.sha256(data).digest():
            self.refuse(400, "BadDigest")
            return
        with self.bucket.lock:
            self.bucket.objects[key] = data
            self.bucket.written.append(key)
        self.answer(204, ETag=f'"{hashlib.md5(data).hexdigest()}"')
