"""An instance metadata service of version 2, at an address of this machine: a host's agent is pointed there by the
variable `AWS_EC2_METADATA_SERVICE_ENDPOINT`."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROLE = "remoterun-host"


class Metadata:
    """`notice`: that a spot host is taken away. `key`, `secret`: of the credentials of the host's role, which last
    `lasts` seconds; None: it has no role. `asked`: what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.token = "a token"
        self.notice: bytes | None = None
        self.key: str | None = None
        self.secret, self.lasts = "", 3600.0
        self.failing = False
        self.silent = threading.Event()
        self.silent.set()
        service = self

        class Answers(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_PUT(self) -> None:
                self.respond(service.token.encode() if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else None)

            def do_GET(self) -> None:
                if self.headers["X-aws-ec2-metadata-token"] != service.token:
                    self.respond(b"", 401)
                else:
                    self.respond(service.found(self.path.removeprefix("/latest/meta-data/")))

            def respond(self, body: bytes | None, status: int = 200) -> None:
                service.asked.append(self.command + self.path.replace("/latest/", " "))
                service.silent.wait(5)
                self.send_response(500 if service.failing else 404 if body is None else status)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(body or b"")

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def found(self, path: str) -> bytes | None:
        if path == "spot/instance-action":
            return self.notice
        if self.key is None:
            return None
        if path == "iam/security-credentials/":
            return ROLE.encode()
        if path == f"iam/security-credentials/{ROLE}":
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lasts))
            known = {"AccessKeyId": self.key, "SecretAccessKey": self.secret, "Token": "", "Expiration": until}
            return json.dumps({"Code": "Success", "Type": "AWS-HMAC", **known}).encode()
        return None

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def metadata_service() -> closing[Metadata]:
    return closing(Metadata())
