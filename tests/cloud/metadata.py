"""The instance metadata service: http://169.254.169.254 as the host sees it, version 2 with its tokens."""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import secrets
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tests.cloud.host import METADATA_ADDRESS

if TYPE_CHECKING:
    from tests.cloud.cloud import Credentials
    from tests.cloud.machine import Machine

CLONE_NEWNET = 0x40000000


class Metadata:
    """Serves one instance until it is closed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tokens: dict[str, float] = {}
        assert machine.host is not None
        self._server = _Server(socket_inside(machine.host.namespace, (METADATA_ADDRESS, 80)), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """May be called twice."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> bytes | None:
        """What is at a path below /latest/; None where there is nothing."""
        ends = self.machine.spot_ends
        if path == "meta-data/spot/instance-action" and ends is not None:
            return json.dumps({"action": "terminate", "time": ends}).encode()
        folder, _, name = path.rpartition("/")
        if folder == "meta-data/iam/security-credentials" and (login := self.machine.cloud.login_of(self.machine)):
            if name == login.role:
                return json.dumps(_as_told(login)).encode()
            return None if name else login.role.encode()
        return None


def _as_told(login: Credentials) -> dict[str, str]:
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(seconds=(login.expires or 0) - time.monotonic())
    return {
        "Code": "Success",
        "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Type": "AWS-HMAC",
        "AccessKeyId": login.key,
        "SecretAccessKey": login.secret,
        "Token": login.session or "",
        "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, metadata: Metadata) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.metadata = metadata

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A host that is switched off in the middle of a request is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token":
            self._say(405)
        elif not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            self._say(400)
        else:
            token = secrets.token_urlsafe(40)
            self.server.metadata.tokens[token] = time.monotonic() + int(seconds)
            self._say(200, token.encode())

    def do_GET(self) -> None:
        metadata = self.server.metadata
        token = self.headers.get("X-aws-ec2-metadata-token")
        required = metadata.machine.record.metadata_options.http_tokens == "required"
        if (token is None and required) or (token and metadata.tokens.get(token, 0) < time.monotonic()):
            self._say(401)
        elif not self.path.startswith("/latest/"):
            self._say(404)
        else:
            found = metadata.answer(self.path.removeprefix("/latest/").partition("?")[0])
            self._say(404 if found is None else 200, found or b"")

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def socket_inside(namespace: str, address: tuple[str, int]) -> socket.socket:
    """A socket of ours that listens in a network namespace, in which only a thread of ours was for a moment."""
    made: list[socket.socket] = []

    def make() -> None:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        made.append(socket.create_server(address, backlog=64))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise OSError(f"no socket in {namespace}")
    return made[0]
