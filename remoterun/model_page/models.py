"""Which files make a model that ml5.js can load, and where one is: in a folder, or below it."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from remoterun.agent.shared.tree import show
from remoterun.errors import NotFound, TransferError, UsageError

MANIFEST, VOCABULARY, SETTINGS = "manifest.json", "vocab.json", "settings.json"
_SMALL = frozenset({MANIFEST, VOCABULARY, SETTINGS})
_DEPTH = 3
_TRIES = 4
_LARGEST_LIST = 16 << 20
"""Bytes of a manifest or of settings that are read."""


@dataclass(frozen=True)
class PageModel:
    """A folder with a model. `name` is what the page calls it: the resource's path, or a local folder's own name;
    `live` tells that its run goes on, and `step` how far the training was, if the model says."""

    name: str
    folder: Path
    files: int
    size: int
    live: bool = False
    step: int | None = None


def find(paths: Iterable[str], shown: str, again: str) -> str:
    """Of the files below `shown`, the folder that holds the one model; "" for `shown` itself.

    Raises `NotFound` when there is none, `UsageError` when there are several; `again` is the command that shows the
    files.
    """
    files = set(paths)
    folders = {posixpath.dirname(path) for path in files if posixpath.basename(path) == MANIFEST}
    whole = sorted(folder for folder in folders if posixpath.join(folder, VOCABULARY) in files)
    found = [
        each for each in whole if not any(other != each and each.startswith(other and f"{other}/") for other in whole)
    ]
    if not found:
        raise NotFound(f"`{show(shown)}` holds no model: no {MANIFEST} with a {VOCABULARY}", hint=again)
    if len(found) > 1:
        choices = "\n".join(f"remoterun open {show(posixpath.join(shown, folder))}" for folder in found[:8])
        raise UsageError(f"`{show(shown)}` holds {len(found)} models", hint=choices)
    return found[0]


def open_file(folder: Path, name: str) -> BinaryIO:
    """The file `name` of `folder`, to be read. Raises `OSError` unless it is a regular file: a symbolic link may lead
    to what is nobody's business, and a pipe would be waited for."""
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{show(name)} is a symbolic link")
        raise
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{show(name)} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _read(folder: Path, name: str) -> bytes:
    with open_file(folder, name) as file:
        return file.read(_LARGEST_LIST)


def wanted(folder: Path) -> frozenset[str]:
    """The names of the files that make up the model in `folder`, by its manifest. Raises `UsageError`, `OSError`."""
    try:
        value = json.loads(_read(folder, MANIFEST))
        names = {str(entry["filename"]) for entry in value.values()}
        if not names or any(not name or name.startswith(".") or "/" in name for name in names):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"`{show(str(folder / MANIFEST))}` lists no weights: this is not a model for ml5.js",
            hint="`python -m trainer.train` writes one into models/",
        )
    return frozenset(names | _SMALL)


def refresh(name: str, folder: Path, fetch: Callable[[frozenset[str]], None], *, live: bool = False) -> PageModel:
    """Bring `folder` up to date: `fetch` copies files of these names into it, those that are there.

    A training writes new weights first and then the manifest that names them, and keeps the weights of the manifest
    before. So the copy is whole when it has all the weights that its manifest names. Raises `UsageError`,
    `TransferError`.
    """
    for _ in range(_TRIES):
        fetch(_SMALL)
        names = wanted(folder)
        fetch(names - _SMALL)
        if all(_size(folder, file) is not None for file in names - _SMALL):
            break
    else:
        lost = next(file for file in sorted(names - _SMALL) if _size(folder, file) is None)
        raise TransferError(f"the model of {name} is not whole: {show(lost)} is missing", hint="repeat the command")
    for path in folder.iterdir():
        if path.name not in names and not path.is_dir():
            path.unlink()
    return read_model(name, folder, live=live)


def read_model(name: str, folder: Path, *, live: bool = False) -> PageModel:
    """The model in `folder`. Raises `UsageError`, `OSError`."""
    sizes = [size for file in wanted(folder) if (size := _size(folder, file)) is not None]
    step = _settings(folder).get("step")
    return PageModel(name, folder, len(sizes), sum(sizes), live, step if isinstance(step, int) else None)


def local_model(path: Path) -> PageModel:
    """The model in a folder of this machine, or in the one folder below it that holds one; it stays where it is.

    Raises `NotFound`, `UsageError`.
    """
    shown = show(str(path))
    if not path.exists():
        raise NotFound(f"there is no folder `{shown}`", hint="`remoterun open runs/N`, or a folder of this machine")
    if not path.is_dir():
        raise UsageError(f"`{shown}` is a file", hint=f"remoterun open {show(str(path.parent))}")
    try:
        below = [
            file.relative_to(path).as_posix()
            for depth in range(_DEPTH)
            for name in (MANIFEST, VOCABULARY)
            for file in path.glob("*/" * depth + name)
        ]
        folder = path.absolute() / find(below, shown, f"ls {shown}")
        return read_model(folder.resolve().name or "model", folder)
    except OSError as error:
        raise UsageError(f"`{shown}` can't be read: {error.strerror}")


def _size(folder: Path, name: str) -> int | None:
    """Bytes of a regular file; None if there is none of that name."""
    try:
        status = os.lstat(folder / name)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _settings(folder: Path) -> dict[str, Any]:
    """What the trainer says of its model; {} for a model that another one made."""
    try:
        value = json.loads(_read(folder, SETTINGS))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
