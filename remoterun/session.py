"""One open conversation with the agent of a machine: the link, what the agent said of itself, its errors as ours."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from remoterun.agent.shared import api
from remoterun.agent.shared.api import Hello, Request
from remoterun.agent.shared.frames import ProtocolError
from remoterun.agent.shared.protocol import Cancelled, Link, LinkClosed, RemoteError, Stream
from remoterun.agent.shared.records import from_json, to_json
from remoterun.errors import (
    AddressExpired,
    AddressMoved,
    AgentError,
    HomeMissing,
    HostError,
    HostUnreachable,
    LinkLost,
    NotFound,
    RemoterunError,
    TransferError,
    UsageError,
)
from remoterun.hosts.base import Host
from remoterun.model import MachineType, Upload, check_time

HELLO_TIMEOUT = 30.0
CLOCKS_AGREE = 2.0
"""Seconds: a smaller difference may be the way of the greeting, and would make the times of a run jump."""
CLOCKS_AT_ALL = 1e10
"""Seconds: a larger difference is not a clock's."""
HOME_ID = re.compile(r"[0-9A-Za-z._-]{1,100}")

A = TypeVar("A")
R = TypeVar("R")


class Session:
    """An agent that listens. Every request may raise `LinkLost` (the run, if there is one, goes on without us)."""

    def __init__(self, machine: MachineType, host: Host, again: Callable[[], Host] | None = None) -> None:
        """`again` makes another host of the same kind, for `another`; it may ask nobody."""
        self.machine = machine
        self._again = again
        self._host = host
        self._pipe = host.open()
        self._link = Link(self._pipe.pump, self._pipe.write)
        self._link.start()
        try:
            with self.errors():
                said = self._link.greeting(HELLO_TIMEOUT)
            self._greeted = time.time()
            with self.understood():
                self.hello = _hello(said)
        except BaseException:
            self.close()
            raise

    @property
    def home_id(self) -> str:
        return self.hello.home_id

    @property
    def clock_skew(self) -> float:
        """Seconds by which its machine's clock is ahead of ours; 0 where they agree, as far as a greeting can tell."""
        skew = self.hello.time - self._greeted if self.hello.time else 0.0
        return skew if CLOCKS_AGREE < abs(skew) < CLOCKS_AT_ALL else 0.0

    @property
    def alive(self) -> bool:
        return not self._link.closed

    def ask(self, request: Request[A, R], arguments: A, body: bytes = b"") -> R:
        """The result of a request; `body` is what it sends besides its arguments. Answers with data: see `stream`."""
        with self.stream(request, arguments) as stream:
            stream.send_all(body)
            stream.end()
            stream.finish()
            return self.result(request, stream)

    @contextlib.contextmanager
    def stream(self, request: Request[A, R], arguments: A) -> Iterator[Stream]:
        """A request with data. Left early, it is cancelled."""
        with self.errors():
            stream = self._link.open(request.name, result_limit=request.most, **to_json(arguments))
            try:
                yield stream
            except BaseException:
                stream.cancel()
                raise

    def stay(self) -> Stream:
        """A rented host does not end for want of use until this stream is cancelled, or the conversation ends. Raises
        `HostError` where it ends already, `LinkLost` also where no answer comes."""
        with self.errors():
            stream = self._link.open(api.stay.name)
            try:
                stream.receive(HELLO_TIMEOUT)
            except TimeoutError:
                self._link.close(LinkClosed(f"no answer within {HELLO_TIMEOUT:g} s"))
                raise LinkClosed(f"no answer within {HELLO_TIMEOUT:g} s")
            return stream

    def result(self, request: Request[A, R], stream: Stream) -> R:
        """What a stream that has ended gave. Raises `AgentError` for a result that makes no sense."""
        with self.understood():
            return from_json(request.result, stream.result)

    @property
    def round_trip(self) -> float:
        """Seconds that the link takes there and back."""
        return self._pipe.round_trip

    def upload(self, name: str, version: api.UploadVersion) -> Upload:
        """A version as the agent tells it. Raises `AgentError` for what makes no sense."""
        with self.understood():
            return Upload.told(name, version, self.machine.name, self.home_id, self.clock_skew)

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Raises `AgentError` where the block finds that an answer makes no sense: see the function `understood`."""
        with understood(self.machine.name):
            yield

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the protocol's exceptions into ours, naming the machine."""
        try:
            yield
        except RemoteError as error:
            raise translate(error, self.machine)
        except TimeoutError:
            raise AgentError(f"the agent on {self.machine.name} does not answer")
        except ProtocolError as error:
            raise TransferError(f"{self.machine.name} sent what can't be unpacked: {error}")
        except (LinkClosed, Cancelled) as error:
            raise LinkLost(
                f"the connection to {self.machine.name} was lost: {error}",
                evidence=self._pipe.diagnosis() or None,
                hint="what runs there goes on: `remoterun ps`",
            )

    def another(self) -> Session:
        """A second conversation, over a connection of its own. Raises `HostError`."""
        if self._again is None:
            raise HostError(f"{self.machine.name} has one connection only")
        return Session(self.machine, self._again(), self._again)

    def close(self) -> None:
        """May be called twice."""
        self._link.close()
        self._pipe.close()
        self._host.close()


@contextlib.contextmanager
def understood(machine: str) -> Iterator[None]:
    """For making sense of an answer: a host may say anything, and what makes none is its error."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        said = f"{machine} sent an answer that makes no sense: {error}"
        raise AgentError(said[:300], hint=f"remoterun doctor {machine}")


def _hello(said: dict[str, Any]) -> Hello:
    """Raises `ValueError` for what makes no sense."""
    hello = from_json(Hello, said)
    if not HOME_ID.fullmatch(hello.home_id):
        raise ValueError(f"home_id: {hello.home_id[:40]!r}")
    if hello.time:
        check_time(hello.time)
    return hello


def translate(error: RemoteError, where: MachineType) -> RemoterunError:
    """The agent's error as one of ours."""
    machine, hint = where.name, where.says(error.hint)
    kinds: dict[str, type[RemoterunError]] = {
        "not_found": NotFound,
        "no_home": HomeMissing,
        "not_saved": UsageError,
        "bad_name": UsageError,
        "bad_spec": UsageError,
        "no_capacity": UsageError,
        "unknown_engine": UsageError,
        "busy": UsageError,
        "not_running": UsageError,
        "elsewhere": HostUnreachable,
        "leaving": HostError,
        "not_listening": HostError,
        "no_network": HostError,
        "expired": AddressExpired,
        "moved": AddressMoved,
        "not_fetched": TransferError,
        "refused": TransferError,
        "damaged": TransferError,
        "bad_tree": TransferError,
        "disk_full": HostError,
        "not_notified": HostError,
        "os_error": HostError,
    }
    kind = kinds.get(error.code, AgentError)
    message = error.message if issubclass(kind, UsageError) else f"{machine}: {error.message}"
    if error.code == "disk_full" and hint is None:
        hint = f"remoterun machines df {machine}   shows who uses it\n"
        hint += f"remoterun machines gc {machine}   frees what nothing needs"
    if error.code == "no_home":
        hint = (
            f"remoterun doctor {machine}   shows the folder: is a disk not mounted there?\n"
            "remoterun rm --forget N   forgets a run that was there, if it is gone for good"
        )
    if error.code == "os_error" and hint is None:
        hint = f"remoterun doctor {machine}   looks at its disk"
    if error.code in ("damaged", "missing_blob") and hint is None:
        hint = f"remoterun machines check {machine}"
    return kind(message, hint=hint, evidence=error.evidence)
