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

from remoterun.agent.shared.api import REQUESTS
from remoterun.agent.shared.frames import ProtocolError
from remoterun.agent.shared.protocol import Cancelled, LinkClosed, RemoteError, Stream
from remoterun.agent.shared.records import BadRecord, from_json, to_json
from remoterun.agent.shared.spec import SpecError
from remoterun.agent.shared.tree import TreeError, show
from remoterun.buckets.contents import Contents
from remoterun.buckets.leaving import Reader
from remoterun.buckets.s3 import S3
from remoterun.buckets.workers import Workers
from remoterun.errors import AuthenticationError, HostError, HostUnreachable, RemoterunError, TransferError

THREADS = 8
"""Requests to the store that are made at once for one conversation."""
NOUNS = ("blobs", "uploads", "runs", "upkeep")


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
        self.reader = Reader(s3, self.workers)

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
        try:
            request = REQUESTS.get(op)
            if request is None:
                raise RemoteError("unknown_request", f"a bucket knows no request {show(op[:80])}")
            unknown = set(arguments).difference(request.arguments._fields)
            if unknown:
                raise RemoteError("bad_request", f"{op} has no argument {show(min(unknown)[:80])}")
            asked = from_json(request.arguments, arguments, op)
            stream.most_result = request.most
            result = handler_of(op)(Call(self._bucket, stream), asked)
            stream.end(**to_json(result))
        except (Cancelled, LinkClosed):
            pass
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            try:
                stream.fail(**_described(error))
            except (LinkClosed, Cancelled, OSError):
                pass


def handler_of(op: str) -> Handler:
    """The function that answers a request; for one that needs a machine, it says so."""
    noun = REQUESTS[op].noun
    handlers = importlib.import_module(f"remoterun.buckets.{noun}").HANDLERS
    handler: Handler = handlers.get(op, _needs_machine)
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
