"""Paths that come from elsewhere, and a folder that nothing leaves which is written into it."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
from typing import Tuple

from .files import open_regular

ODD_PART = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)")


class TreeError(Exception):
    """A manifest, a path or a folder that can't be a tree. The message names the path."""


def check_path(path: str) -> str:
    """`path` itself if it is relative, normal and stays inside its folder; raises `TreeError` otherwise."""
    raw = raw_path(path)
    if 0 < len(raw) < 256 and b"\0" not in raw and not ODD_PART.search(raw):
        return path  # as nearly all are
    if not raw or b"\0" in raw or len(raw) > 4096:
        raise TreeError("a path that is empty, too long, or holds a zero byte: %s" % show(path[:80]))
    for part in raw.split(b"/"):
        if part in (b"", b".", b"..") or len(part) > 255:
            raise TreeError("a path that leaves its folder or is not normal: %s" % show(path))
    return path


def raw_path(name: str) -> bytes:
    """A name as the bytes that it is on a disk. Raises `TreeError`."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise TreeError("a name that is not a file name: %s" % show(name[:80]))


_UP_AGAIN = re.compile(r"(?:\A|/)(?!\.{1,2}(?:/|\Z))[^/]+/(?:.*/)?\.\.(?:/|\Z)", re.DOTALL)


def link_stays_inside(path: str, target: str) -> bool:
    """Whether the link `path`, by its text alone, points at something inside the tree that holds it.

    One that goes up after it went down does not: where it went down there may be another link, to a place further up.
    """
    if target.startswith("/") or _UP_AGAIN.search(target):
        return False
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return reached != ".." and not reached.startswith("../")


def show(path: str) -> str:
    """`path` for a message: quoted where it holds something that a terminal would not show as it is."""
    printable = path.isprintable() and not any("\ud800" <= char <= "\udfff" for char in path)
    return path if printable else json.dumps(path)


class SafeFolder:
    """A folder into which untrusted paths are written, or from which they are read: nothing outside it is touched.

    Each step into a sub-folder is opened with O_NOFOLLOW relative to the one before, so neither a path nor a link that
    stands (or appears) below the folder leads out. Missing ones are made if `make`, with `mode`. Not for several
    threads.
    """

    def __init__(self, root: str, make: bool = True, mode: int = 0o777) -> None:
        self._make, self._mode = make, mode
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._last: Tuple[str, int] = ("", self._root)

    def __enter__(self) -> "SafeFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        os.close(self._root)

    def folder(self, path: str) -> int:
        """A descriptor of the sub-folder `path` ("" is the root), valid until the next call. Raises `TreeError`."""
        if path == self._last[0]:
            return self._last[1]
        current = os.dup(self._root)
        try:
            for part in check_path(path).split("/") if path else ():
                if self._make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, self._mode, dir_fd=current)
                try:
                    below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                except OSError:
                    raise TreeError("%s is in the way: %s is not a folder" % (show(path), show(part)))
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        self._drop()
        self._last = (path, current)
        return current

    def place(self, path: str) -> Tuple[int, str]:
        """(descriptor of the parent folder, base name) for `path`; with `make`, parents are made."""
        check_path(path)
        parent, _, name = path.rpartition("/")
        return self.folder(parent), name

    def open(self, path: str) -> int:
        """A descriptor to read the file `path`, see `open_regular`. Raises `TreeError`, `OSError`."""
        parent, name = self.place(path)
        return open_regular(name, parent)

    def _drop(self) -> None:
        if self._last[1] != self._root:
            os.close(self._last[1])
        self._last = ("", self._root)
