"""Blobs on their way out of a home, in the order in which they were asked for.

{"p": number}                           a pack of so many small contents (see packs.py)
{"d": digest, "s": size}                the first bytes of another one
{}                                      more bytes of it
{"gone": digest}                        there is no such blob here

The receiver knows their digests, and verifies them.
"""

from __future__ import annotations

import os
from typing import List, Tuple

from ..shared.compression import CompressingStream
from ..shared.packs import PACK, SMALL, pack
from ..shared.pieces import PIECE
from ..shared.protocol import Stream
from .home import Home


class BlobSender:
    """One transfer."""

    def __init__(self, home: Home, stream: Stream, out: CompressingStream) -> None:
        """`out` sends on `stream`."""
        self._stream = stream
        self._out = out
        self._blobs = os.open(home.blobs.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._small: List[Tuple[bytes, bytes]] = []
        self._held = 0
        self.count = 0

    def __enter__(self) -> "BlobSender":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._blobs)

    def send(self, digest: bytes) -> None:
        name = digest.hex()
        try:
            file = os.open(name[:2] + "/" + name[2:], os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._blobs)
        except OSError:
            self.flush()
            self._stream.send(gone=name)
            return
        try:
            try:
                content = os.read(file, SMALL + 1)
            except OSError:  # the disk can't read it
                self.flush()
                self._stream.send(gone=name)
                return
            if len(content) > SMALL:
                self.flush()
                self._large(file, name, content)
                return
        finally:
            os.close(file)
        self._small.append((digest, content))
        self._held += len(content)
        if self._held >= PACK or len(self._small) >= 4096:
            self.flush()

    def flush(self) -> None:
        """Send what was held back to be packed."""
        if self._small:
            self._out.send(pack(self._small), {"p": len(self._small)})
            self.count += len(self._small)
            self._small, self._held = [], 0

    def _large(self, file: int, name: str, content: bytes) -> None:
        self._out.send(content, {"d": name, "s": os.fstat(file).st_size})
        while content := os.read(file, PIECE):
            self._out.send(content, {})
        self.count += 1
