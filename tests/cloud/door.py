"""The door of the S3 server: it knows logins that end and hosts' roles, and hands on what these may do.

SeaweedFS knows all keys, and checks signatures, the terms of forms and checksums. It does not know session tokens: in a
form one does no harm; where one is signed along, the door checks that, and signs anew without it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.cloud.needs import of_request
from tests.cloud.policies import allowed

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud, Credentials

PIECE = 1 << 18
FORM_HEAD = 1 << 16
TOKEN, OWNER = "x-amz-security-token", "x-amz-expected-bucket-owner"
PASSED = {"x-id", "partnumber", "uploadid", "uploads"}
"""Of a query, what names no action of its own; nor do signatures."""


class Door:
    """A context manager."""

    def __init__(self, cloud: Cloud, address: str) -> None:
        self._server = _Server((address, 0), cloud)
        self.url = f"http://{address}:{self._server.server_port}"

    def __enter__(self) -> Door:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="door", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    block_on_close = False

    def __init__(self, address: tuple[str, int], cloud: Cloud) -> None:
        super().__init__(address, _Handler)
        self.cloud = cloud

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who is cut off in the middle of a request is no news."""


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._onward: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._onward is not None:
            self._onward.close()
        super().finish()

    def do_GET(self) -> None:
        self._left = int(self.headers.get("Content-Length") or 0)
        self._form = b""
        try:
            path, headers = self._checked()
        except Refused as refused:
            self._refuse(refused)
            return
        try:
            self._pass_on(path, headers)
        except (OSError, http.client.HTTPException):  # nobody hears what comes of it
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # --- who asks, and for what ---

    def _checked(self) -> tuple[str, list[tuple[str, str]]]:
        """The path and the headers to hand on. Raises `Refused`."""
        cloud = self.server.cloud
        path, _, text = self.path.partition("?")
        query = urllib.parse.parse_qsl(text, keep_blank_values=True)
        headers = [(name, value) for name, value in self.headers.items() if name.lower() != "expect"]
        asked = {name.lower(): value for name, value in [*query, *headers]}
        form = self._form_fields()
        if asked.get(OWNER, cloud.account) != cloud.account:
            raise Refused(403, "AccessDenied", "Access Denied")
        signed = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/", asked.get("authorization", ""))
        scope = form.get("x-amz-credential", asked.get("x-amz-credential", ""))
        key = signed[1] if signed else scope.partition("/")[0]
        if not key:
            return self.path, headers  # of nobody
        credentials = cloud.credentials.get(key)
        if credentials is None:
            raise Refused(403, "InvalidAccessKeyId", "The AWS Access Key Id does not exist in our records.")
        if form.get(TOKEN, asked.get(TOKEN)) != credentials.session:
            raise Refused(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        if credentials.expires is not None and time.monotonic() > credentials.expires:
            raise Refused(400, "ExpiredToken", "The provided token has expired.")
        if credentials.user_id:
            self._check_role(credentials, path, query, asked, form)
        else:
            bucket, _, object_key = urllib.parse.unquote(path).lstrip("/").partition("/")
            need = of_request(self.command, bucket, form.get("key", object_key), [name for name, _ in query])
            if not cloud.allows(need):
                raise Refused(403, "AccessDenied", f"{cloud.arn} is not authorized to perform: {need.action}")
        if credentials.session is None or form:
            return self.path, headers
        return _signed_anew(credentials, self.command, path, query, headers)

    def _check_role(
        self,
        credentials: Credentials,
        path: str,
        query: list[tuple[str, str]],
        asked: Mapping[str, str],
        form: Mapping[str, str],
    ) -> None:
        bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
        more = [name for name, _ in query if name.lower() not in PASSED and not name.lower().startswith("x-amz-")]
        key = form.get("key", key)
        verb = {"GET": "Get", "HEAD": "Get", "DELETE": "Delete"}.get(self.command, "Put")
        action = f"s3:{verb}{'Object' if key else 'Bucket'}{''.join(more).title()}"
        if "x-amz-copy-source" in asked:
            action = "s3:GetObject"
        cloud = self.server.cloud
        context = {"aws:userid": credentials.user_id, "aws:ResourceAccount": cloud.account}
        resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
        if not allowed(cloud.policies_of(credentials.role), action, resource, context):
            raise Refused(403, "AccessDenied", f"{credentials.role} is not authorized to perform: {action}")

    def _form_fields(self) -> dict[str, str]:
        """Of a form its fields before the file, which are read ahead."""
        boundary = re.match(r'multipart/form-data; boundary="?([^";]+)', self.headers.get("Content-Type", ""))
        if self.command != "POST" or not boundary:
            return {}
        self._form = self.rfile.read(min(self._left, FORM_HEAD))
        self._left -= len(self._form)
        found = {}
        for part in self._form.split(b"--" + boundary[1].encode())[1:]:
            head, _, value = part.partition(b"\r\n\r\n")
            named = re.search(rb'name="([^"]*)"', head)
            if not named or named[1] == b"file":
                break
            found[named[1].decode().lower()] = value.removesuffix(b"\r\n").decode()
        return found

    # --- there and back ---

    def _pass_on(self, path: str, headers: Iterable[tuple[str, str]]) -> None:
        store = urllib.parse.urlsplit(self.server.cloud.s3.url)
        if self._onward is None:
            self._onward = http.client.HTTPConnection(str(store.hostname), store.port, timeout=120)
        onward = self._onward
        onward.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            onward.putheader(name, value)
        onward.endheaders(self._form or None)
        try:
            while self._left:
                piece = self.rfile.read(min(self._left, PIECE))
                if not piece:
                    raise ConnectionResetError
                self._left -= len(piece)
                onward.send(piece)
        except BrokenPipeError:  # it has its answer already
            self.close_connection = True
        with onward.getresponse() as answer:
            self._answer(answer)

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        length = answer.getheader("Content-Length")
        is_empty = self.command == "HEAD" or answer.status in (204, 304)
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() != "transfer-encoding"]
        is_chunked = length is None and not is_empty
        if is_chunked:
            lines.append("Transfer-Encoding: chunked")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        while not is_empty and (piece := answer.read(PIECE)):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, refused: Refused) -> None:
        while self._left and (piece := self.rfile.read(min(self._left, PIECE))):
            self._left -= len(piece)
        text = f"<?xml version='1.0'?><Error><Code>{refused.code}</Code><Message>{refused.message}</Message></Error>"
        self.send_response(refused.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


# --- signatures ---


def _signed_anew(
    credentials: Credentials, method: str, path: str, query: list[tuple[str, str]], headers: list[tuple[str, str]]
) -> tuple[str, list[tuple[str, str]]]:
    """The same request without its token. Raises `Refused` where its signature is not right."""
    asked = {name.lower(): " ".join(value.split()) for name, value in headers}
    is_query = "authorization" not in asked
    if is_query:
        terms = dict(query)
        scope, names, given = terms["X-Amz-Credential"], terms["X-Amz-SignedHeaders"], terms["X-Amz-Signature"]
        query = [each for each in query if each[0] != "X-Amz-Signature"]
        date, payload = terms["X-Amz-Date"], "UNSIGNED-PAYLOAD"
    else:
        terms = dict(re.findall(r"(\w+)=([^,\s]+)", asked["authorization"]))
        scope, names, given = terms["Credential"], terms["SignedHeaders"], terms["Signature"]
        date, payload = asked["x-amz-date"], asked["x-amz-content-sha256"]

    def signature(names: list[str], query: list[tuple[str, str]]) -> str:
        parts = sorted((urllib.parse.quote(name, "~"), urllib.parse.quote(value, "~")) for name, value in query)
        lines = [method, path, "&".join("=".join(part) for part in parts)]
        lines += [*(f"{name}:{asked.get(name, '')}" for name in names), "", ";".join(names), payload]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        key = b"AWS4" + credentials.secret.encode()
        for word in scope.split("/")[1:]:
            key = hmac.digest(key, word.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope.partition('/')[2]}\n{digest}"
        return hmac.digest(key, text.encode(), "sha256").hex()

    if not hmac.compare_digest(signature(names.split(";"), query), given):
        raise Refused(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.")
    kept = [name for name in names.split(";") if name != TOKEN]
    if is_query:
        query = [each for each in query if each[0].lower() != TOKEN]
        return f"{path}?{urllib.parse.urlencode([*query, ('X-Amz-Signature', signature(kept, query))])}", headers
    words = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(kept)}, Signature={signature(kept, query)}"
    rest = [(name, value) for name, value in headers if name.lower() not in (TOKEN, "authorization")]
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path, [*rest, ("Authorization", words)]
