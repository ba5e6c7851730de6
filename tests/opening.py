"""The base of objects that open several things, all of which are closed again, whatever fails on the way."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self


class Opening:
    """A context manager: `open` puts what it makes on the stack, which is closed at the end, or when it fails."""

    def open(self, stack: ExitStack) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.open(stack)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
