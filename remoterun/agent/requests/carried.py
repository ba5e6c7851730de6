"""Answers to a client that carries the objects of a run to the bucket, which the run's host can't reach."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Iterator, Tuple

from ..shared import api
from ..shared.protocol import Cancelled
from ..store.objects import NEW, PIECE
from . import Call

POLL = 0.1


def take(call: Call, asked: api.TakeObjects) -> api.Nothing:
    top, give_up_at = call.home.existing_run(asked.key).outgoing, time.monotonic() + asked.wait
    found = dict(_waiting(top))
    for name in filter(found.__contains__, asked.taken):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(found.pop(name))
    while not found and time.monotonic() < give_up_at:
        if call.stream.wait_cancelled(POLL):
            raise Cancelled
        found = dict(_waiting(top))
    for name, path in found.items() if asked.wait else ():
        about = {"object": os.path.relpath(path, top).rpartition(".")[0], "file": name}
        with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:  # else it was too late
            while True:
                data = file.read(PIECE)
                call.stream.send(data, **about)
                if not data:
                    break
    return api.Nothing()


def _waiting(top: str) -> Iterator[Tuple[str, str]]:
    """(name, path) of each file that is whole."""
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            if not name.endswith(NEW):
                yield name, os.path.join(folder, name)
