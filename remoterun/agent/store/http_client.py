"""HTTP as an agent needs it: one client for each thread, and jobs on several.

Nothing that a server says is trusted: an exchange that takes too long is cut, no answer is read beyond what was asked
for, and no redirect is followed. An address may hold a signature, which is a secret: no error names more of it than its
host and its path. Proxies are taken from the environment, as everywhere.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import re
import socket
import ssl
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..shared.archive import EXPIRED
from ..shared.records import Record
from ..shared.tree import show

SILENCE = 20.0
"""Seconds without a byte after which an exchange is given up."""
LEAST_SPEED = 16 << 10
"""Bytes a second that a server must give or take, after `SILENCE`."""
MOST_OF_AN_ERROR = 16 << 10
UNKNOWN = ("InvalidToken", "InvalidAccessKeyId")
"""S3's words for credentials that it does not know, whatever the status."""
GIVEN_UP = 499
"""The status of what was not asked for any more."""
PROXY_LOGIN = "Proxy-Authorization"

TICK = 0.2
"""Seconds between two checks while jobs are under way."""
GRACE = 5.0
"""Seconds that the other jobs get to end after one has failed."""
CUT_GRACE = 2.0
"""Seconds that they get to end after their connections were cut."""


class HttpError(Exception):
    """What was asked for did not happen. `status` is the server's, 0 where none came; `code` is S3's word for it;
    `answer` is the beginning of what the server sent, as it came."""

    def __init__(self, message: str, status: int = 0, code: str = "", expired: bool = False, answer: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.expired = expired
        self.answer = answer

    @property
    def refused(self) -> bool:
        """Whether the server does not accept who asks: a permission whose time is up, or that was taken back."""
        return self.expired or self.status in (401, 403) or self.code in UNKNOWN

    @property
    def passing(self) -> bool:
        """Whether the same may succeed when it is tried again."""
        return self.status in (0, 408, 429) or self.status >= 500


class Address(Record):
    """`target` is what follows the host; `shown` may be shown to people."""

    scheme: str
    host: str
    port: Optional[int]
    target: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises `HttpError` for what is not an address of HTTP."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise HttpError("an address that can't be read", 400)
        if parts.scheme not in ("http", "https") or not host or re.search(r"[^!-~]", url):
            raise HttpError("an address that is not one of HTTP: %s" % show(parts.scheme[:20]), 400)
        return cls(parts.scheme, host, port, (parts.path or "/") + ("?" + parts.query if parts.query else ""))

    @property
    def place(self) -> str:
        return self.host if self.port is None else "%s:%d" % (self.host, self.port)

    @property
    def shown(self) -> str:
        return show(self.host + unquote(self.target.partition("?")[0])[:200])


class HttpClient:
    """Exchanges of one thread, one after the other, each over a connection of its own. A context manager."""

    def __init__(self) -> None:
        self._connection: Optional[http.client.HTTPConnection] = None
        self._cut = threading.Event()

    def __enter__(self) -> "HttpClient":
        return self

    def __exit__(self, *_: Any) -> None:
        self.cut()

    def cut(self) -> None:
        """End what is under way, from any thread. Nothing can be asked for afterwards."""
        self._cut.set()
        if self._connection is not None:
            _shut(self._connection)

    def pause(self, seconds: float) -> bool:
        """Block so long, or until it is cut; whether it is."""
        return self._cut.wait(seconds)

    @contextlib.contextmanager
    def ask(
        self,
        method: str,
        url: str,
        headers: Dict[str, str],
        body: Optional[Callable[[], Iterable[bytes]]] = None,
        size: int = 0,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, of a status below 300, to be read within. `size`: bytes that are sent, or that will be read.

        Raises `HttpError`, also for what goes wrong while the answer is read.
        """
        address = Address.of(url)
        proxy = _proxy(address)
        headers, target = dict(headers, Connection="close"), address.target
        if proxy is not None and address.scheme == "http":
            headers.update(login(proxy, PROXY_LOGIN))
            target = "http://%s%s" % (address.place, address.target)
        connection = self._connection = _connection(address, proxy)
        try:
            with contextlib.closing(connection), _cut_after(SILENCE + size / LEAST_SPEED, connection):
                connection.connect()
                if self._cut.is_set():
                    raise HttpError("%s: it was given up" % address.host, GIVEN_UP)
                connection.request(method, target, None if body is None else body(), headers)
                with contextlib.closing(connection.getresponse()) as answer:
                    if answer.status >= 300:
                        raise refusal(address, answer)
                    yield answer
        except (OSError, http.client.HTTPException) as error:
            raise HttpError("%s: %s" % (address.host, _words(error)))


Job = Callable[[HttpClient], object]


def run_jobs(jobs: Iterator[Job], threads: int, check: Callable[[], None]) -> None:
    """Do all of the jobs, several at once; each begins after those before it have begun. Blocks. Raises what a job
    raised, or `check`, which is called every `TICK` seconds: then what is under way is cut."""
    failures: List[BaseException] = []
    clients = [HttpClient() for _ in range(threads)]
    lock = threading.Lock()

    def work(http: HttpClient) -> None:
        try:
            with http:
                while not failures:
                    with lock:
                        job = next(jobs, None)
                    if job is None:
                        return
                    job(http)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    workers = [threading.Thread(target=work, args=(http,), name="remoterun jobs", daemon=True) for http in clients]
    for worker in workers:
        worker.start()
    try:
        _await(workers, failures, check)
    except BaseException as error:
        failures.append(error)
        raise
    finally:
        for http in clients:
            http.cut()
        cut = time.monotonic()
        for worker in workers:
            worker.join(max(0.0, cut + CUT_GRACE - time.monotonic()))
    if failures:
        raise failures[0]


def _await(workers: List[threading.Thread], failures: List[BaseException], check: Callable[[], None]) -> None:
    """Return once they have ended, or have had their time to end after a failure."""
    deadline = float("inf")
    for worker in workers:
        while worker.is_alive() and time.monotonic() < deadline:
            worker.join(TICK)
            check()
            if failures and deadline == float("inf"):
                deadline = time.monotonic() + GRACE


def refusal(address: Address, answer: http.client.HTTPResponse) -> HttpError:
    """What an answer of status 300 or more says."""
    body = answer.read(MOST_OF_AN_ERROR).decode("utf-8", "replace")
    code, message = _element(body, "Code"), _element(body, "Message")
    if answer.status < 400:
        message = "an address elsewhere, which is not followed"
    words = ": ".join(filter(None, (code, message.rstrip("."))))
    expired = code in EXPIRED or (answer.status in (400, 401, 403) and "expired" in message.lower())
    said = "%s answers %d" % (address.host, answer.status) + (" (%s)" % show(words[:200]) if words else "")
    return HttpError(said, answer.status, code, expired, body)


@contextlib.contextmanager
def _cut_after(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """A server that sends a byte now and then must not hold anybody for ever."""
    timer = threading.Timer(seconds, _shut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock  # its own thread may close it meanwhile
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # also where TLS lies over it


def _connection(address: Address, proxy: Optional[SplitResult]) -> http.client.HTTPConnection:
    try:
        host, port = (address.host, address.port) if proxy is None else (proxy.hostname or "", proxy.port)
    except ValueError:
        raise HttpError("the proxy that the environment names has no such port")
    if address.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=SILENCE)
    connection = http.client.HTTPSConnection(host, port, timeout=SILENCE, context=_trust())
    if proxy is not None:
        connection.set_tunnel(address.host, address.port or 443, login(proxy, PROXY_LOGIN))
    return connection


@functools.lru_cache(maxsize=None)
def _trust() -> ssl.SSLContext:
    """The authorities of this machine, which take a while to load."""
    return ssl.create_default_context()


def _proxy(address: Address) -> Optional[SplitResult]:
    url = getproxies().get(address.scheme)
    if not url or proxy_bypass(address.place):
        return None
    return urlsplit(url if "://" in url else "http://" + url)


def login(address: SplitResult, header: str = "Authorization") -> Dict[str, str]:
    """The header by which the user is named that an address holds, if it holds one."""
    if address.username is None:
        return {}
    words = "%s:%s" % (unquote(address.username), unquote(address.password or ""))
    return {header: "Basic " + base64.b64encode(words.encode()).decode()}


def _element(document: str, name: str) -> str:
    found = re.search("<%s>([^<]*)</%s>" % (name, name), document)
    return found.group(1).strip() if found else ""


def _words(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
