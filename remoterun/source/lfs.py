"""Files of which Git LFS has not brought the content: a pointer of some 130 bytes lies in the place of each."""

from __future__ import annotations

from collections.abc import Iterable

from remoterun.source.tree import SourceFile
from remoterun.source.wording import git_line, named_few

_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LARGEST = 1024  # bytes of a pointer, by its specification


def pointer_warnings(root: str, files: Iterable[SourceFile]) -> list[str]:
    """At most one line. Files are read only where a `.gitattributes` speaks of LFS, and only small ones."""
    plain = [file for file in files if file.kind == "file"]
    if not any(file.path.rpartition("/")[2] == ".gitattributes" and _holds_filter(file) for file in plain):
        return []
    pointers = [
        file.path for file in plain if len(_POINTER) < file.size < _LARGEST and _start(file, len(_POINTER)) == _POINTER
    ]
    if not pointers:
        return []
    what = "is a pointer" if len(pointers) == 1 else "are pointers"
    line = git_line(root, "lfs", "pull")
    return [f"{named_few(pointers)} {what} of Git LFS, and the content isn't here: `{line}` brings it"]


def _holds_filter(file: SourceFile) -> bool:
    return b"filter=lfs" in _start(file, 1 << 20)


def _start(file: SourceFile, count: int) -> bytes:
    try:
        with open(file.origin, "rb") as content:
            return content.read(count)
    except OSError:  # gone, or unreadable: sending it says so
        return b""
