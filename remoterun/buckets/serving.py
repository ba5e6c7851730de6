"""The requests of AgentAPI, answered from a bucket: what an agent is to a host, without a machine.

The handlers stand in a file for each noun, as the agent's do: blobs.py, uploads.py, runs.py, upkeep.py.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.agent.shared.answering import answer
from remoterun.agent.shared.api import Request
from remoterun.agent.shared.frames import ProtocolError
from remoterun.agent.shared.protocol import RemoteError, Stream
from remoterun.agent.shared.records import BadRecord
from remoterun.agent.shared.spec import SpecError
from remoterun.agent.shared.tree import TreeError
from remoterun.buckets.contents import Contents
from remoterun.buckets.outgoing import RangeReader
from remoterun.buckets.s3 import S3
from remoterun.buckets.workers import Workers
from remoterun.errors import AuthenticationError, HostError, HostUnreachable, RemoterunError, TransferError

THREADS = 8
"""Requests to the store that are made at once for one conversation."""
NOUNS = ("blobs", "uploads", "runs", "upkeep")
"""Those with requests that need no machine."""


class Bucket:
    """A home in a bucket, as one conversation sees it."""

    def __init__(self, s3: S3, home_id: str, cache: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """`cache`: a folder of this machine in which indexes are kept."""
        self.clock = clock
        self.s3 = s3
        self.home_id = home_id
        self.workers = Workers(THREADS)
        self.cache = cache
        self.contents = Contents(s3, self.workers, cache)
        self.reader = RangeReader(s3, self.workers)

    def forget(self) -> None:
        """Contents that were there may be gone by now."""
        self.contents = Contents(self.s3, self.workers, self.cache)

    def close(self) -> None:
        """May be called twice."""
        self.workers.close()
        self.s3.close()


@dataclass(frozen=True)
class Call:
    """One request as its handler sees it."""

    bucket: Bucket
    stream: Stream


Handler = Callable[[Call, Any], Any]

ERRORS: Mapping[type[Exception], str] = {
    HostUnreachable: "unreachable",
    AuthenticationError: "no_access",
    TransferError: "damaged",
    HostError: "os_error",
    TreeError: "bad_tree",
    ProtocolError: "bad_stream",
    SpecError: "bad_spec",
    BadRecord: "bad_request",
}
"""The code with which an error goes to the client; the first that fits."""


class Server:
    """Answers the requests of one conversation."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def handle(self, stream: Stream, op: str, arguments: dict[str, Any]) -> None:
        """Answer one request, on a thread of its own."""
        call = Call(self._bucket, stream)
        answer(stream, op, arguments, lambda request, asked: handler_of(request)(call, asked), _described)


def handler_of(request: Request[Any, Any]) -> Handler:
    """The function that answers a request; for one that needs a machine, it says so."""
    if request.noun not in NOUNS:
        return _needs_machine
    handlers = importlib.import_module(f"remoterun.buckets.{request.noun}").HANDLERS
    handler: Handler = handlers.get(request.name, _needs_machine)
    return handler


def _needs_machine(call: Call, asked: Any) -> Any:
    raise RemoteError(
        "no_machine",
        f"{call.bucket.s3.place.address} is a bucket: nothing runs there",
        "remoterun machines   lists machines",
    )


def _described(error: Exception) -> dict[str, Any]:
    """An exception as the fields of an ERROR frame."""
    if isinstance(error, RemoteError):
        return {"code": error.code, "message": error.message, "hint": error.hint, "evidence": error.evidence}
    code = next((code for kind, code in ERRORS.items() if isinstance(error, kind)), "internal")
    if isinstance(error, RemoterunError):
        return {"code": code, "message": error.message, "hint": error.hint, "evidence": error.evidence}
    if code != "internal":
        return {"code": code, "message": str(error)}
    import traceback

    return {"code": code, "message": f"the bucket's requests failed: {error}", "evidence": traceback.format_exc()}
