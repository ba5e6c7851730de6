"""Large files as verified pieces: the one way in which they travel, in both directions.

A file above `LARGE` bytes is a list of pieces of `PIECE` bytes, the last one shorter. The side that has the file names
the SHA-256 of each piece. The other side compares them with what it has: the partial file of a cut transfer, and a file
that is like it. Only the pieces that it lacks are sent, over any connection, each to its place in the partial file.
The SHA-256 of the whole is verified once, before the file gets its name.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Dict, Iterable, List, Optional, Sequence

from .frames import Body, Bytes, ProtocolError
from .packs import LARGE as LARGE
from .packs import unpacked

PIECE = 1 << 20
"""Bytes of a piece, which is one frame."""
GROUP = 64
"""Pieces that are asked about at once."""


def piece_count(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return -(-size // PIECE)


def piece_length(number: int, size: int) -> int:
    return min(PIECE, size - number * PIECE)


def read_piece(file: int, number: int, size: int) -> bytes:
    """A piece of the open file that has, or will have, `size` bytes; fewer bytes where the file is shorter."""
    offset, wanted = number * PIECE, piece_length(number, size)
    data = os.pread(file, wanted, offset)
    while 0 < len(data) < wanted:
        more = os.pread(file, wanted - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write_at(file: int, offset: int, data: Bytes) -> None:
    """Write all of `data` to its place in the open file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def piece_hashes(file: int, size: int, numbers: Iterable[int]) -> bytes:
    """The SHA-256 of some pieces of the open file, packed."""
    return b"".join(hashlib.sha256(read_piece(file, number, size)).digest() for number in numbers)


def whole_hash(file: int, size: int) -> str:
    """The SHA-256, in hex, of the first `size` bytes of the open file."""
    hashed = hashlib.sha256()
    for number in range(piece_count(size)):
        hashed.update(read_piece(file, number, size))
    return hashed.hexdigest()


def find_pieces(partial: int, size: int, first: int, wanted: Bytes, like: Optional[int] = None) -> List[int]:
    """Compare the open file `partial`, from piece number `first` on, with the packed hashes `wanted`, and copy into it
    what the open file `like` has at the same place, or `partial` at another one. The numbers of those still missing."""
    missing: List[int] = []
    found: Dict[bytes, int] = {}
    for number, digest in enumerate(unpacked(wanted), first):
        if piece_is(partial, number, size, digest):
            found.setdefault(digest, number)
            continue
        data = read_piece(partial, found[digest], size) if digest in found else b""
        if not data and like is not None and piece_is(like, number, size, digest):
            data = read_piece(like, number, size)
        if len(data) != piece_length(number, size):
            missing.append(number)
            continue
        write_at(partial, number * PIECE, data)
        found.setdefault(digest, number)
    return missing


def piece_is(file: int, number: int, size: int, digest: bytes) -> bool:
    """Whether a piece of the open file has this SHA-256."""
    data = read_piece(file, number, size)
    return len(data) == piece_length(number, size) and hashlib.sha256(data).digest() == digest


def pack_numbers(numbers: Sequence[int]) -> bytes:
    return struct.pack("!%dI" % len(numbers), *numbers)


def unpack_numbers(body: Body, size: int) -> List[int]:
    """Numbers of pieces of a file of `size` bytes. Raises `ProtocolError`."""
    if len(body) % 4:
        raise ProtocolError("%d bytes are not numbers of pieces" % len(body))
    numbers = list(struct.unpack("!%dI" % (len(body) // 4), body))
    check_numbers(numbers, size)
    return numbers


def check_numbers(numbers: List[int], size: int) -> None:
    """Raises `ProtocolError` for what is not the number of a piece of a file of `size` bytes."""
    most = piece_count(size)
    for number in numbers:
        if type(number) is not int or not 0 <= number < most:
            raise ProtocolError("piece %.40r of %d" % (number, most))
