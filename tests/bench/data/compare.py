"""Whether two files or trees are the same, by all of their content."""

from __future__ import annotations

import os
from pathlib import Path

PIECE = 1 << 20
MODE = 0o100  # of permissions only whether it can be executed: a home's files are read-only


class Different(Exception):
    """Where one side has something else than the other."""


def check_same(one: Path, other: Path) -> None:
    """Raises Different, naming the first difference."""
    ours, theirs = _listed(one), _listed(other)
    if ours.keys() != theirs.keys():
        odd = min(ours.keys() ^ theirs.keys())
        raise Different(f"{odd or one.name} is on one side only")
    for name, about in ours.items():
        if about != theirs[name]:
            raise Different(f"{name or one.name} differs: {about} and {theirs[name]}")
    for name, (kind, _, _) in ours.items():
        if kind == "file":
            _check_content(one / name, other / name)


def _listed(top: Path) -> dict[str, tuple[str, int, str]]:
    """By relative path ("" for `top` itself): kind; size and whether it can be executed, of files; target, of links."""
    found = {"": _about(top)}
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(folder, name)
            found[str(path.relative_to(top))] = _about(path)
    return found


def _about(path: Path) -> tuple[str, int, str]:
    if path.is_symlink():
        return "link", 0, str(path.readlink())
    if path.is_dir():
        return "folder", 0, ""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Different(f"{path.name} is missing") from None
    return "file", status.st_size, "executable" if status.st_mode & MODE else ""


def _check_content(one: Path, other: Path) -> None:
    with one.open("rb", buffering=0) as ours, other.open("rb", buffering=0) as theirs:
        offset = 0
        while True:
            data = ours.read(PIECE)
            if data != theirs.read(PIECE):
                raise Different(f"{one.name} differs within {PIECE} bytes after byte {offset}")
            if not data:
                return
            offset += len(data)
