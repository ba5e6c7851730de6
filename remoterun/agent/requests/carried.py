"""Answers to a client that carries the objects of a run to the bucket, which the run's host can't reach."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from typing import Iterator, Set, Tuple

from ..shared import api
from ..shared.archive import most_of
from ..shared.files import open_regular
from ..shared.protocol import Cancelled, LinkClosed, RemoteError, Stream
from ..store.objects import NEW, PIECE
from . import Call

POLL = 0.1


def take(call: Call, asked: api.TakeObjects) -> api.Nothing:
    run, give_up_at = call.home.existing_run(asked.key), time.monotonic() + asked.wait
    top, grant = run.outgoing, run.grant()
    offered: Set[str] = set()
    threading.Thread(target=_remove_taken, args=(call.stream, top), daemon=True).start()
    while True:
        waiting = {} if grant is None else dict(_waiting(top, grant.prefix))
        name = next((name for name in waiting if name not in offered), None)
        if name is not None:
            offered.add(name)
            _offer(call.stream, top, name, waiting[name])
        elif not waiting and time.monotonic() > give_up_at:
            return api.Nothing()
        elif call.stream.wait_cancelled(POLL):
            raise Cancelled


def _offer(stream: Stream, top: str, name: str, path: str) -> None:
    about = {"object": _key(top, path), "file": name}
    with contextlib.suppress(FileNotFoundError), open(open_regular(path), "rb", 0) as file:  # it was too late
        while True:
            data = file.read(PIECE)
            stream.send(data, **about)
            if not data:
                break


def _remove_taken(stream: Stream, top: str) -> None:
    """The time of the folder is that of the client's last sign of life."""
    with contextlib.suppress(Cancelled, LinkClosed, RemoteError):
        for frame in stream:
            with contextlib.suppress(FileNotFoundError):
                os.utime(top)
                os.unlink(dict(_waiting(top)).get(str(frame.header.get("taken")), ""))


def _waiting(top: str, prefix: str = "") -> Iterator[Tuple[str, str]]:
    """(name, path) of each file that is whole, and an object of the folder `prefix`, if one is named: a run's command
    may put others beside them."""
    for folder, _, names in os.walk(top):
        for path in (os.path.join(folder, name) for name in sorted(names) if not name.endswith(NEW)):
            with contextlib.suppress(OSError):
                about, most = os.lstat(path), most_of(_key(top, path), prefix)
                if not prefix or (stat.S_ISREG(about.st_mode) and 0 < about.st_size <= most):
                    yield os.path.basename(path), path


def _key(top: str, path: str) -> str:
    return os.path.relpath(path, top).rpartition(".")[0]
