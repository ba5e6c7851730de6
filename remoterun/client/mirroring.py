"""Files of a run that goes on, mirrored into another run while they grow.

The agent of the one tells what is new in its files, and a program in the other writes it there: both machines are
reached from here, and neither needs the other.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Mapping
from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import TreeError, check_path
from remoterun.client.connections import Connections
from remoterun.client.rented_runs import find_home
from remoterun.errors import HostError, RemoterunError
from remoterun.model import Resource, Run
from remoterun.session import Session

AGAIN = 2.0
"""Seconds until a lost connection is tried again."""
MOST_SAID = 1 << 20
"""Bytes in which the program that writes may say what there is."""
WRITE = """
import json, os, sys
os.makedirs(sys.argv[1], exist_ok=True)
os.chdir(sys.argv[1])
paths = [os.path.join(top, name)[2:] for top, _, names in os.walk(".") for name in names]
print(json.dumps({path: os.path.getsize(path) for path in paths}), flush=True)
for line in sys.stdin.buffer:
    path, offset, size = json.loads(line)
    data = sys.stdin.buffer.read(size)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "ab" if offset else "wb") as file:
        file.write(data[max(file.tell() - offset, 0) :])
"""
"""In the other run: says which files there are, then writes what it is told. What it was told before, over a connection
that was lost, may be written twice: only what is missing is added."""


class Mirror:
    """The files below `source` with `named` in their names stand at the same path in the folder of the run `into`, and
    grow there, until the run of `source` has ended and all has come, or until `close`. Made by `Files.mirror`.

    A lost connection is made again. `failed` is called on another thread with why nothing more comes.
    """

    def __init__(
        self, connections: Connections, source: Resource, into: Run, named: str, failed: Callable[[str], None]
    ) -> None:
        self._connections = connections
        self._source = source
        self._into = into
        self._named = named
        self._failed = failed
        self._stream: Stream | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="remoterun mirror", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it. Does not block; may be called twice."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _keep(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self._copy()
                    return
                except HostError as error:
                    if not error.passing:
                        raise
                    self._closed.wait(AGAIN)
        except RemoterunError as error:
            if not self._closed.is_set() and not self._connections.closed.is_set():
                self._failed(error.message)

    def _copy(self) -> None:
        run, session = find_home(self._connections, self._connections.registry.run(self._source.name))
        target = self._connections.session_of(self._into)
        command = f"exec python3 -c {shlex.quote(WRITE)} {shlex.quote(str(self._source))}"
        with target.stream(api.execute, api.Execute(self._into.key, command)) as writer:
            have = _said(target, writer)
            with session.stream(api.watch_files, api.Watched(run.key, self._named, self._source.sub, have)) as stream:
                self._stream = stream
                if self._closed.is_set():
                    stream.cancel()
                stream.end()
                for frame in stream:
                    with session.understood():
                        path, offset = placed(frame.header)
                    writer.send(json.dumps([path, offset, len(frame.body)]).encode() + b"\n" + frame.body)
            writer.end()
            writer.finish()


def placed(header: Mapping[str, Any]) -> tuple[str, int]:
    """(below which path, from which byte on) a host says that what it sends belongs. Raises `ValueError` for a path
    that leads out, or is none."""
    path, offset = header["path"], header["offset"]
    if not isinstance(path, str) or not isinstance(offset, int) or offset < 0:
        raise ValueError("a part of a file without its place")
    try:
        check_path(path)
    except TreeError as error:
        raise ValueError(str(error)) from None
    return path, offset


def _said(session: Session, writer: Stream) -> dict[str, int]:
    """The sizes of the files that there are, which the program that writes says first."""
    said, complaint = b"", b""
    for frame in writer:
        if frame.header.get("error"):
            complaint += frame.body
        else:
            said += frame.body
        if b"\n" in said or len(said) + len(complaint) > MOST_SAID:
            break
    if b"\n" not in said:
        raise HostError(
            f"nothing can be written on {session.machine.name}", evidence=complaint[-4096:].decode("utf-8", "replace")
        )
    with session.understood():
        return {str(path): int(size) for path, size in json.loads(said).items()}
