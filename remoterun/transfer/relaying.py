"""Trees from one host to another, through this machine, without touching its disk."""

from __future__ import annotations

from typing import Any

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.tree import Manifest, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.holdings import missing_blobs
from remoterun.transfer.progress import Progress
from remoterun.transfer.room import may_not_fit, require_room, room_on
from remoterun.transfer.sending import Sent


def relay(source: Session, manifest: Manifest, target: Session, progress: Progress) -> Sent:
    """Pass the blobs of a tree at rest that `target` lacks. Raises `TransferError`, `HostError`."""
    sizes = {entry.digest: entry.size for entry in manifest.files}
    paths = {entry.digest: entry.path for entry in manifest.files}
    wanted = [digest for digest, _ in missing_blobs(target, list(sizes))]
    size = sum(sizes[digest] for digest in wanted)
    if may_not_fit(target, size):
        require_room(target, size, room_on(target))
    progress.start("passing on", len(wanted), size)
    if wanted:
        with source.stream(api.fetch, api.Accept()) as incoming, target.stream(api.put, api.Nothing()) as outgoing:
            at = 0
            for start in range(0, len(wanted), 1000):
                part = wanted[start : start + 1000]
                incoming.send(b"".join(map(bytes.fromhex, part)))
                at = 0
                while at < len(part):
                    frame = incoming.receive()
                    if frame is None or "gone" in frame.header:
                        raise TransferError(
                            f"{show(paths[part[at]])} is damaged on {source.machine.name}",
                            hint=f"remoterun check {source.machine.name}",
                        )
                    at += _pass_on(frame, part[at], sizes, incoming, outgoing, progress)
            incoming.end()
            incoming.finish()
            outgoing.end()
            outgoing.finish()
    return Sent(len(wanted), size, sum(sizes.values()) - size)


def _pass_on(frame: Frame, digest: str, sizes: dict[str, int], incoming: Any, outgoing: Any, progress: Progress) -> int:
    """How many files the frame, or those of a large file, are. The target verifies what they hold."""
    outgoing.send(frame.body, **frame.header)
    if "p" in frame.header:
        count = _count(frame, "p")
        progress.add(len(frame.body), count)
        return max(1, count)
    left = sizes[digest] - _count(frame, "z")
    progress.add(sizes[digest] - left)
    while left > 0:
        frame = incoming.receive()
        if frame is None:
            raise TransferError("the transfer ended early", hint="repeat the command")
        outgoing.send(frame.body, **frame.header)
        size = _count(frame, "z")
        left -= size
        progress.add(size)
    progress.add(0, 1)
    return 1


def _count(frame: Frame, name: str) -> int:
    value = frame.header.get(name, len(frame.body))
    if type(value) is not int or value <= 0:
        raise TransferError("the transfer makes no sense", hint="repeat the command")
    return value
