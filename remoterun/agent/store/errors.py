"""What goes wrong in a home."""

from __future__ import annotations

from typing import Optional


class HomeError(Exception):
    """A request a home can't fulfil. `code` is a word of the protocol; `message` has no full stop."""

    def __init__(self, code: str, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def disk_full(home: str) -> HomeError:
    return HomeError("disk_full", "the disk that holds %s is full" % home)
