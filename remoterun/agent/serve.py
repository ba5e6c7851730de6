"""`agent serve`: requests that come over a pipe, answered from the home.

What a request raises goes back as an ERROR frame with a code that the client turns into an error of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from typing import Any, Callable, Dict

from .requests import Call, handler_of
from .running import supervision
from .shared.api import REQUESTS, Hello, commit_upload, get, stay, submit
from .shared.files import DISK_FULL, write_all
from .shared.frames import DATA, ProtocolError, encode
from .shared.protocol import MAGIC, Cancelled, Link, LinkClosed, RemoteError, Stream
from .shared.records import BadRecord, from_json, to_json
from .shared.spec import SpecError
from .shared.tree import TreeError, show
from .store.errors import disk_full
from .store.home import Home
from .upkeep.stale_files import make_room

READ = 256 << 10
PIPE = 1 << 20
"""Bytes that wait in the pipes to and from sshd: with the usual 64 kB, we and it take turns."""
_F_SETPIPE_SZ = 1031
SIGN_OF_LIFE = 60.0
"""Seconds between frames that nobody needs: where a laptop went to sleep, sshd gives its connection up a quarter of an
hour after the first of them, and we end; without them both would wait for hours."""
POLL_EVERY = 10.0
"""Seconds between checks whether a client uses a rented host."""
TRANSFERS = frozenset(request.name for request in REQUESTS.values() if request.noun == "blobs")
USES = TRANSFERS | {request.name for request in (stay, submit, commit_upload, get)}
"""Requests during which a rented host does not end for want of use."""
PATIENCE = 10.0
"""Seconds for requests to put away what has come, after a cut."""


def serve(home: Home, idle: Callable[[], None] = lambda: None) -> int:
    """Answer requests on stdin and stdout until stdin ends. Exit status of the process. `idle` is called then."""
    pipe_out = os.dup(1)
    os.dup2(2, 1)  # a stray print must not land among the frames
    _write_all(pipe_out, MAGIC + encode(0, DATA, to_json(hello(home))))
    for end in (0, pipe_out):
        with contextlib.suppress(OSError):  # no pipe, or no Linux
            fcntl.fcntl(end, _F_SETPIPE_SZ, PIPE)
    server = Server(home)
    presence = supervision.ClientPresence(home)
    supervision.ensure_keeper(home)
    supervision.revive(home, ended=True)
    make_room(home)

    def handle(stream: Stream, op: str, arguments: Dict[str, Any]) -> None:
        uses = presence.using(op == stay.name) if op in USES else contextlib.nullcontext()
        with uses:
            server.handle(stream, op, arguments)

    link = Link(_read_all, lambda *parts: _write_all(pipe_out, *parts), handle)
    link.repeat(SIGN_OF_LIFE, link.beat)
    if home.rental.terms() is not None:
        link.repeat(POLL_EVERY, lambda: presence.refresh(link.busy()))
    link.run()
    link.join(PATIENCE)
    server.close()
    make_room(home)  # of what is ours, too
    idle()
    return 0


def hello(home: Home) -> Hello:
    """What the client learns before it asks."""
    return Hello(
        home=home.path,
        home_id=home.id,
        architecture=os.uname().machine,
        time=time.time(),
        pid=os.getpid(),
    )


def _read_all(taker: Callable[[memoryview], None]) -> None:
    room = memoryview(bytearray(READ))
    while True:
        count = os.readv(0, [room])
        if not count:
            return
        taker(room[:count])


def _write_all(descriptor: int, *parts: Any) -> None:
    left = sum(map(len, parts))
    written = os.writev(descriptor, parts)
    if written == left:
        return
    write_all(descriptor, memoryview(b"".join(parts))[written:])


class Server:
    """Answers the requests of one conversation: finds each on the page of shared/api.py, and its handler by that."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lease = home.lease()

    def close(self) -> None:
        """The conversation has ended."""
        self._lease.close()

    def handle(self, stream: Stream, op: str, arguments: Dict[str, Any]) -> None:
        """Answer one request, on a thread of its own. Raises nothing."""
        try:
            request = REQUESTS.get(op)
            if request is None:
                raise RemoteError("unknown_request", "the agent knows no request %s" % show(op[:80]))
            unknown = set(arguments).difference(request.arguments._fields)
            if unknown:
                raise BadRecord("%s has no argument %s" % (op, show(min(unknown)[:80])))
            asked = from_json(request.arguments, arguments, op)
            stream.most_result = request.most
            stream.end(**to_json(handler_of(request)(Call(self.home, self._lease, stream), asked)))
        except (Cancelled, LinkClosed):
            pass
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            with contextlib.suppress(LinkClosed, Cancelled, OSError):
                stream.fail(**describe(error, self.home))


def describe(error: Exception, home: Home) -> Dict[str, Any]:
    """An exception as the fields of an ERROR frame."""
    if isinstance(error, RemoteError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, TreeError):
        return {"code": "bad_tree", "message": str(error)}
    if isinstance(error, ProtocolError):
        return {"code": "bad_stream", "message": str(error)}
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return describe(disk_full(home.path), home)
    missing = error.name if isinstance(error, ImportError) else None
    if (missing or "").partition(".")[0] == __name__.partition(".")[0] or (
        isinstance(error, FileNotFoundError) and error.filename == sys.argv[0]  # the bundle, of which it is read
    ):
        return {"code": "internal", "message": "the agent's program was deleted while it ran", "hint": "try again"}
    if isinstance(error, OSError):
        where = " (%s)" % error.filename if error.filename else ""
        return {"code": "os_error", "message": "%s%s" % (error.strerror or error, where)}
    import traceback

    if isinstance(error, SpecError):
        return {"code": "bad_spec", "message": str(error)}
    if isinstance(error, BadRecord):
        return {"code": "bad_request", "message": "a request it can't read: %s" % error}
    if isinstance(error, (TypeError, KeyError)):
        return {"code": "bad_request", "message": "a request it can't read", "evidence": traceback.format_exc()}
    return {"code": "internal", "message": "the agent failed: %s" % error, "evidence": traceback.format_exc()}
