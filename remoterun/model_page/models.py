"""Which files make a model that ml5.js can load, and where one is: in a folder, or below it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.agent.shared.tree import show
from remoterun.errors import NotFound, TransferError, UsageError

MANIFEST, VOCABULARY, SETTINGS = "manifest.json", "vocab.json", "settings.json"
_SMALL = frozenset({MANIFEST, VOCABULARY, SETTINGS})
_DEPTH = 3
_TRIES = 4


@dataclass(frozen=True)
class Model:
    """A folder with a model. `name` is what the page calls it: the resource's path, or a local folder's own name;
    `live` tells that its run goes on, and `step` how far the training was, if the model says."""

    name: str
    folder: Path
    files: int
    size: int
    live: bool = False
    step: int | None = None


def find(paths: Iterable[str], shown: str, again: str, there: Iterable[str] | None = None) -> str:
    """Of the files below `shown`, the folder that holds the one model; "" for `shown` itself.

    Raises `NotFound` when there is none, naming what is `there` (default: of `paths`, the first parts), `UsageError`
    when there are several; `again` is the command that shows the files.
    """
    listed = list(paths)
    files = set(listed)
    folders = {posixpath.dirname(path) for path in listed if posixpath.basename(path) == MANIFEST}
    whole = sorted(folder for folder in folders if posixpath.join(folder, VOCABULARY) in files)
    found = [folder for folder in whole if not any(_holds(other, folder) for other in whole)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = "\n".join(f"remoterun open {show(posixpath.join(shown, folder))}" for folder in found[:8])
        raise UsageError(f"`{show(shown)}` holds {len(found)} models", hint=choices)
    for folder in sorted(folders):
        place = posixpath.join(shown, folder).rstrip("/")
        raise NotFound(f"`{show(place)}` holds half a model: {MANIFEST}, and no {VOCABULARY}", hint=again)
    if there is None:
        there = {first + slash for first, slash, _ in (path.partition("/") for path in listed)}
    first = sorted(there)
    seen = ", ".join(show(name) for name in first[:8]) + (", …" if len(first) > 8 else "")
    raise NotFound(
        f"`{show(shown)}` holds no model: there is no {MANIFEST}",
        evidence=f"there is {seen}" if first else "there is nothing in it",
        hint=again,
    )


def wanted(folder: Path) -> frozenset[str]:
    """The names of the files that make up the model in `folder`, by its manifest. Raises `UsageError`."""
    place = folder / MANIFEST
    try:
        value = json.loads(place.read_bytes())
        names = {str(entry["filename"]) for entry in value.values()}
        if not names or any(not name or name.startswith(".") or "/" in name for name in names):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"`{show(str(place))}` lists no weights: this is no model for ml5.js",
            hint="`python -m trainer.train` writes one into models/",
        )
    return frozenset(names | _SMALL)


def refresh(name: str, folder: Path, fetch: Callable[[frozenset[str]], None], *, live: bool = False) -> Model:
    """Bring `folder` up to date: `fetch` copies files of these names into it, those that are there.

    A training replaces its manifest after the files that this names, and keeps the files of the one before; so a model
    is whole whose weights are all there. Raises `UsageError`, `TransferError`.
    """
    for _ in range(_TRIES):
        fetch(_SMALL)
        names = wanted(folder)
        fetch(names - _SMALL)
        if all((folder / file).is_file() for file in names - _SMALL):
            break
    else:
        lost = next(file for file in sorted(names - _SMALL) if not (folder / file).is_file())
        raise TransferError(f"the model of {name} is not whole: {show(lost)} is missing", hint="repeat the command")
    for path in folder.iterdir():
        if path.name not in names and not path.is_dir():
            path.unlink()
    return read_model(name, folder, live=live)


def read_model(name: str, folder: Path, *, live: bool = False) -> Model:
    """The model in `folder`. Raises `UsageError`."""
    sizes = [(folder / file).stat().st_size for file in wanted(folder) if (folder / file).is_file()]
    step = _settings(folder).get("step")
    return Model(name, folder, len(sizes), sum(sizes), live, step if isinstance(step, int) else None)


def local_model(path: Path) -> Model:
    """The model in a folder of this machine, or in the one folder below it that holds one; it stays where it is.

    Raises `NotFound`, `UsageError`.
    """
    shown = show(str(path))
    if not path.exists():
        number = str(path).strip("/")
        hint = f"remoterun open runs/{number}" if number.isdecimal() else "remoterun open runs/N, or a folder of yours"
        raise NotFound(f"there is no folder `{shown}`", hint=hint)
    if not path.is_dir():
        raise UsageError(f"`{shown}` is a file", hint=f"remoterun open {show(str(path.parent))}")
    try:
        below = [
            file.relative_to(path).as_posix()
            for depth in range(_DEPTH)
            for name in (MANIFEST, VOCABULARY)
            for file in path.glob("*/" * depth + name)
        ]
        there = [each.name + "/" * each.is_dir() for each in path.iterdir() if not each.name.startswith(".")]
        folder = path.absolute() / find(below, shown, f"ls {shown}", there)
        return read_model(folder.resolve().name or "model", folder)
    except OSError as error:
        raise UsageError(f"`{shown}` can't be read: {error.strerror}")


def _holds(outer: str, inner: str) -> bool:
    return outer != inner and (outer == "" or inner.startswith(outer + "/"))


def _settings(folder: Path) -> dict[str, Any]:
    """What the trainer says of its model; {} for a model that another one made."""
    try:
        value = json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
