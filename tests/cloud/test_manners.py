"""A bucket with the manners of Hugging Face's gateway of S3: path style; no forms, no metadata, no trailing checksums,
no listings of the first kind."""

from __future__ import annotations

import http.client
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from remoterun import Client
from remoterun.archive.objects import BucketPlace
from remoterun.client import Client as Whole
from remoterun.config import ArchivePlace, Config
from remoterun.model import MachineType, Rental
from tests.workshop import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CONTAINERS = Path(__file__).parents[1] / "rented_containers.py"


class Door(ThreadingHTTPServer):
    """Hands on to the store what it knows."""

    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = urllib.parse.urlsplit(store).netloc
        self.refused: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def do_GET(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
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
        if why:
            self.server.refused.append(why)
            self.answer(int(why[:3]), b"<Error><Code>NotImplemented</Code></Error>", {})
            return
        onward = http.client.HTTPConnection(self.server.store, timeout=60)
        try:
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    onward.putheader(name, value)
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


@pytest.fixture
def door(bucket: BucketPlace) -> Iterator[Door]:
    assert bucket.endpoint is not None
    with Door(bucket.endpoint) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_what_is_uploaded_run_copied_and_freed(bucket: BucketPlace, door: Door, tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    (tmp_path / "data.txt").write_text("to be read")
    words = (sys.executable, str(CONTAINERS), str(tmp_path / "cloud"))
    pod = MachineType("pod", rental=Rental("command", ("RTX4090",), program=words, idle=5.0))
    archive = ArchivePlace(bucket.name, "us-east-1", f"http://127.0.0.1:{door.server_port}")
    config = Config(tmp_path / "home", machines={"pod": pod}, archive=archive)
    with Client(config) as client:
        data = client.upload(tmp_path / "data.txt", name="data", machine="pod")
        job = client.run("cat data/*; echo made >result", machine="pod", mounts={"data": data}, source=None)
        assert [*job.logs()] == ["to be read"] and job.wait() == 0
    with Whole(config) as whole:
        for host in whole.hosts.list():
            whole.hosts.end(host.id)
        until(lambda: not whole.hosts.list(), 60)
        whole.files.copy("runs/1/result", tmp_path / "result")
        assert (tmp_path / "result").read_text() == "made\n"
        whole.runs.remove(1)
        left = whole.hosts.leftovers(pytest.fail, at="command")
        assert all(result is True for _, result in whole.hosts.clear_all(left))
        assert whole.hosts.bill(0.0).stored is not None
    assert {*door.refused} == {"501 form"}, "it tries a form, and finds out"
