"""The manners of Hugging Face's gateway of S3, before a real store: path style, below a namespace; no forms, no
metadata, no trailing checksums, no listings of the first kind; an object is elsewhere (302), but for the clients that
its documentation names (hub-docs, `storage-buckets-s3.md`, 2026-08-22)."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROXIED = ("aws-cli", "botocore", "aws-sdk-rust")


class Gateway(ThreadingHTTPServer):
    """Hands on to the store what it knows. A context manager; `url` is its address without the namespace."""

    def __init__(self, store: str, namespace: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.prefix = f"/{namespace}" if namespace else ""
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.store = urllib.parse.urlsplit(store).netloc
        self.refused: list[str] = []

    def __enter__(self) -> Gateway:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_GET(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.removeprefix(self.server.prefix).partition("?")
        asked, names = urllib.parse.parse_qs(query, keep_blank_values=True), [name.lower() for name in self.headers]
        is_bucket = path.strip("/").count("/") == 0
        why = ""
        if self.command == "POST" and "delete" not in asked:
            why = "501 form"
        elif any(name.startswith("x-amz-meta-") for name in names):
            why = "400 metadata"
        elif "x-amz-trailer" in names or "aws-chunked" in self.headers.get("Content-Encoding", ""):
            why = "400 trailing checksum"
        elif self.command == "GET" and is_bucket and path != "/" and asked.get("list-type") != ["2"]:
            why = "501 listing"
        elif not self.headers["Host"].startswith("127.0.0.1"):
            why = "400 no path style"
        agent = self.headers.get("User-Agent", "").lower()
        if not why and self.command == "GET" and not is_bucket and not any(name in agent for name in PROXIED):
            self.server.refused.append(f"302 {path}")
            self.answer(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
            return
        if why:
            self.server.refused.append(why)
            self.answer(int(why[:3]), b"<Error><Code>NotImplemented</Code></Error>", {})
            return
        onward = http.client.HTTPConnection(self.server.store, timeout=60)
        try:
            onward.putrequest(
                self.command,
                self.path.removeprefix(self.server.prefix) or "/",
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    onward.putheader(name, value)
            if self.server.prefix:  # which was signed along
                onward.putheader("X-Forwarded-Prefix", self.server.prefix)
            onward.endheaders(data)
            said = onward.getresponse()
            self.answer(said.status, said.read(), dict(said.getheaders()))
        finally:
            onward.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    def log_message(self, *_: object) -> None:
        pass
