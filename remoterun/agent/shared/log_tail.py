"""Where the last lines of a log begin, whatever holds it."""

from __future__ import annotations

from typing import Callable

from .frames import PIECE


def offset_of_tail(size: int, lines: int, read: Callable[[int, int], bytes]) -> int:
    """Where the last `lines` lines begin of a log of `size` bytes; a last line without an end counts. `read` gives the
    bytes from one offset to another."""
    at, left = size, lines
    while at > 0 and left > 0:
        start = max(0, at - PIECE)
        block = read(start, at)
        position = len(block) - 1 if at == size and block.endswith(b"\n") else len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            left -= 1
            if not left:
                return start + position + 1
        at = start
    return at
