"""Trees from one host to another, through this machine, without touching its disk."""

from __future__ import annotations

from remoterun.agent.shared import api
from remoterun.agent.shared.frames import Frame
from remoterun.agent.shared.protocol import Stream
from remoterun.agent.shared.tree import Manifest, show
from remoterun.errors import TransferError
from remoterun.session import Session
from remoterun.transfer.answers import next_frame, not_empty, number
from remoterun.transfer.inventory import may_not_fit, missing_blobs, require_room, room_on
from remoterun.transfer.progress import Progress
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
        with source.stream(api.fetch, api.Link()) as incoming, target.stream(api.put, api.Nothing()) as outgoing:
            at = 0
            for start in range(0, len(wanted), 1000):
                part = wanted[start : start + 1000]
                incoming.send(b"".join(map(bytes.fromhex, part)))
                at = 0
                while at < len(part):
                    frame = next_frame(incoming, source)
                    if "gone" in frame.header:
                        raise TransferError(
                            f"{show(paths[part[at]])} is damaged on {source.machine.name}",
                            hint=f"remoterun machines check {source.machine.name}",
                        )
                    at += _pass_on(frame, sizes[part[at]], source, incoming, outgoing, progress)
            incoming.end()
            incoming.finish()
            outgoing.end()
            outgoing.finish()
    return Sent(len(wanted), size, sum(sizes.values()) - size)


def _pass_on(frame: Frame, size: int, source: Session, incoming: Stream, outgoing: Stream, progress: Progress) -> int:
    """How many files the frame, or those of a large file of `size` bytes, are. The target verifies what they hold."""
    outgoing.send(frame.body, **frame.header)
    if "p" in frame.header:
        count = number(frame, "p", source)
        progress.add(len(frame.body), count)
        return count
    left = size - _bytes_in(frame, source)
    progress.add(size - left)
    while left > 0:
        frame = next_frame(incoming, source)
        outgoing.send(frame.body, **frame.header)
        came = _bytes_in(frame, source)
        left -= came
        progress.add(came)
    progress.add(0, 1)
    return 1


def _bytes_in(frame: Frame, source: Session) -> int:
    """Of a file, in a frame that may be compressed."""
    return number(frame, "z", source) if "z" in frame.header else len(not_empty(frame, source).body)
