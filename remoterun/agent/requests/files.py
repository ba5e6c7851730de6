"""Requests about the files of a run while they grow."""

from __future__ import annotations

import os
import time
from typing import Dict, Iterator

from ..shared import api
from ..shared.frames import PIECE
from ..shared.protocol import Cancelled, Stream
from ..shared.states import FINAL
from ..shared.tree import Manifest, check_path, walk
from ..store import outputs
from ..store.run_folder import RunFolder
from . import Call, Handler

LOOK_EVERY = 1.0
"""Seconds between looks at the files."""
SHARE = 10
"""In a work tree with very many files, looking takes one part in so many of the time."""


def watch_files(call: Call, asked: api.Watched) -> api.Nothing:
    if asked.sub:
        check_path(asked.sub)
    run = call.home.existing_run(asked.key)
    have = dict(asked.have)
    while True:
        begun = time.monotonic()
        over = run.state()[0] in FINAL
        saved = outputs.saved(run)
        folder = os.path.join(run.work if saved is None else saved.folder, asked.sub)
        for path in _grown(run, folder, asked, have):
            _send_rest(call.stream, folder, path, have)
        if over:
            return api.Nothing()
        if call.stream.wait_cancelled(max(LOOK_EVERY, SHARE * (time.monotonic() - begun))):
            raise Cancelled


HANDLERS: Dict[str, Handler] = {"watch_files": watch_files}


def _grown(run: RunFolder, folder: str, asked: api.Watched, have: Dict[str, int]) -> Iterator[str]:
    """The files that have another size than what the client has of them, but for those that came with the source."""
    if not os.path.isdir(folder):
        return
    with open(run.source_file, "rb") as file:
        source = {entry.path: entry.size for entry in Manifest.decode(file.read()).files}
    mounts = [os.path.relpath(mount.place, asked.sub) for mount in run.spec().mounts if not mount.is_absolute]
    for found in walk(folder, mounts, [], []):
        path, size = found.entry.path, found.entry.size
        wanted = found.entry.kind == "f" and asked.named in os.path.basename(path)
        if wanted and size not in (have.get(path, 0), source.get(os.path.join(asked.sub, path))):
            yield path


def _send_rest(stream: Stream, folder: str, path: str, have: Dict[str, int]) -> None:
    """What the client does not have of a file; all of it, if that became shorter."""
    try:
        file = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # gone, or not readable: another look may find it
        return
    try:
        size = os.fstat(file).st_size
        offset = have.get(path, 0)
        if size < offset:
            offset = 0
        while offset < size:
            data = os.pread(file, min(PIECE, size - offset), offset)
            if not data:
                break
            stream.send(data, path=path, offset=offset)
            offset += len(data)
            have[path] = offset
    except OSError:  # the disk can't read it
        pass
    finally:
        os.close(file)
