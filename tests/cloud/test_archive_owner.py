"""A bucket whose name somebody else has taken since ours was deleted: nothing of ours goes there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from remoterun.archive.objects import BucketPlace, Denied
from tests.seaweed import Store, asked, credentials

OURS, THEIRS = "123456789012", "999999999999"
NAME = f"remoterun-{OURS}-0a1b2c3d"


class Owned:
    """Answers as S3 does: 403 to who names another owner than `owner`, and to all while it is `closed`."""

    def __init__(self) -> None:
        self.owner, self.closed = THEIRS, False
        self.named: list[str | None] = []
        service = self

        class Answers(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                named = self.headers["x-amz-expected-bucket-owner"]
                service.named.append(named)
                refused = service.closed or named not in (None, service.owner)
                body = b"" if self.command == "HEAD" else b"<Error><Code>AccessDenied</Code></Error>"
                self.send_response(403 if refused else 200)
                self.send_header("Content-Length", str(len(body) if refused else 0))
                self.end_headers()
                self.wfile.write(body if refused else b"")

            do_HEAD = do_PUT = do_POST = do_GET

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Owned]:
    server = Owned()
    with credentials():
        yield server
    server.close()


def test_it_is_said_and_takes_nothing(server: Owned) -> None:
    with asked(BucketPlace(NAME, "us-east-1", server.url)) as s3:
        for ask in (lambda: s3.put("x", b"secret"), lambda: s3.get("x", 9), lambda: next(s3.list(""))):
            with pytest.raises(Denied, match="belongs to another AWS account than the one in its name"):
                ask()
        assert server.named[0] == OURS
        server.closed = True
        with pytest.raises(Denied, match="may not do `s3:GetObject`"):
            s3.get("x", 9)
        server.owner, server.closed = OURS, False
        s3.put("x", b"secret")
        assert server.named[-1] == OURS


def test_no_owner_is_named_where_none_is_known(server: Owned) -> None:
    with asked(BucketPlace("mine", "us-east-1", server.url)) as s3:
        s3.put("x", b"")
        assert server.named == [None]
        assert "owner" not in s3.presigned_get("x", 60)


def test_another_store_takes_it(store: Store) -> None:
    """It knows no accounts; what is signed for hosts names none."""
    place = BucketPlace(NAME, "us-east-1", store.url)
    with asked(place) as s3:
        s3.create()
        s3.put("x", b"data")
        assert s3.get("x", 9) == b"data" and [one.key for one in s3.list("")] == ["x"] and s3.head("x")
        assert "owner" not in s3.presigned_get("x", 60)
        s3.delete(["x"])
    store.delete_bucket(NAME)
