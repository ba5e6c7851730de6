"""What has been moved so far, of what will be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Progress:
    """`report` is called as it grows, often. The totals grow too, while a large tree is still being listed.

    `bytes_present`: of `bytes_done`, those that the other side had already.
    """

    report: Callable[[Progress], None] = lambda _: None
    phase: str = ""
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_present: int = 0
    files_total: int = 0
    files_done: int = 0

    def start(self, phase: str, files: int, size: int) -> None:
        self.phase, self.files_total, self.bytes_total = phase, files, size
        self.files_done = self.bytes_done = self.bytes_present = 0
        self.report(self)

    def expect(self, files: int, size: int) -> None:
        """More than was known of."""
        self.files_total += files
        self.bytes_total += size

    def add(self, size: int, files: int = 0, there: int = 0) -> None:
        """`size` bytes are done, of which `there` had not to be moved."""
        self.bytes_done += size
        self.bytes_present += there
        self.files_done += files
        self.report(self)
