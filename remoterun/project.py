"""`remoterun.toml` in a repository: what `remoterun run` takes there where nothing else is typed.

    machine = "box"
    mounts = ["uploads/doom:data"]      # paths from the folder of this file on
    framework = "python"
    pip = ["numpy"]
    apt = ["ffmpeg"]
    requirements = "requirements.txt"
    ports = [6006]
    labels = ["lesson"]
    timeout = "2h"
    notify = ["PHONE"]                  # names of secrets: an address in a repository is no secret

An unknown key is an error with its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remoterun.errors import ConfigError, UsageError
from remoterun.model import Mount
from remoterun.parsing import VARIABLE, known_words

FILE = "remoterun.toml"
_WORDS = ("machine", "framework", "requirements", "timeout")
_LISTS = ("mounts", "pip", "apt", "ports", "labels", "notify")


@dataclass(frozen=True)
class Project:
    """What a `remoterun.toml` says, in words as they are typed after the options of these names (see `cli/options.py`).
    Paths are relative to the current folder. Without a `file` nothing is said."""

    file: Path | None = None
    machine: str | None = None
    framework: str | None = None
    requirements: str | None = None
    timeout: str | None = None
    mounts: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()


def find(folder: Path) -> Project:
    """What the `remoterun.toml` of this folder says, or the nearest one above it in its repository. Raises
    `ConfigError`."""
    for each in _up_to_the_top(folder):
        file = each / FILE
        try:
            text = file.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"`{file}` can't be read: {error}", hint="mend it, or move it away")
        project = parse(text, file)
        _check_requirements(project, each, _up_to_the_top(folder)[-1])
        return _moved(project, os.path.relpath(each, folder))
    return Project()


def parse(text: str, file: Path) -> Project:
    """Raises `ConfigError` naming the key."""
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"`{file}` is not TOML: {error}", hint="mend it, or move it away")
    for key, value in data.items():
        if key in _WORDS:
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{file}: `{key}` has to be a text in quotes", hint=f'{key} = "…"')
        elif key in _LISTS:
            _check_list(file, key, value)
        else:
            raise ConfigError(f"{file}: unknown key `{key}`", hint=known_words(key, sorted([*_WORDS, *_LISTS])))
    said: dict[str, Any] = {key: data.get(key) for key in _WORDS}
    said |= {key: tuple(str(word) for word in data.get(key, ())) for key in _LISTS}
    return Project(file, **said)


def _check_list(file: Path, key: str, value: Any) -> None:
    kinds = (int, str) if key == "ports" else (str,)
    if not isinstance(value, list) or not all(isinstance(word, kinds) and not isinstance(word, bool) for word in value):
        hint = "ports = [6006]" if key == "ports" else f'{key} = ["…", "…"]'
        raise ConfigError(f"{file}: `{key}` has to be a list", hint=hint)
    if key == "mounts":
        for word in value:
            try:
                Mount.parse(word)
            except UsageError as error:
                raise ConfigError(f"{file}: {error.message}", hint=error.hint)
    if key == "notify" and not all(VARIABLE.fullmatch(word) for word in value):
        raise ConfigError(
            f"{file}: `notify` names secrets: an address is one, and this file is in a repository",
            hint='`remoterun secret set PHONE`, then `notify = ["PHONE"]`',
        )


def _check_requirements(project: Project, folder: Path, top: Path) -> None:
    """Its text goes to the machine, where the code of the repository may read it: that must not be just any file that
    the user can read. Raises `ConfigError`."""
    name = project.requirements
    if name is not None and not (folder / name).resolve().is_relative_to(top.resolve()):
        raise ConfigError(
            f"{project.file}: `requirements` leads out of its repository", hint=f"remoterun run --pip-req {name} …"
        )


def _moved(project: Project, up: str) -> Project:
    """With paths from the current folder on; `up` leads from there to the file's folder."""
    if up == ".":
        return project
    mounts = []
    for word in project.mounts:
        mount = Mount.parse(word)
        path = mount.path if mount.path.startswith("/") else os.path.normpath(os.path.join(up, mount.path))
        mounts.append(f"{mount.resource}:{path}")
    requirements = project.requirements and os.path.normpath(os.path.join(up, project.requirements))
    return replace(project, mounts=tuple(mounts), requirements=requirements)


def _up_to_the_top(folder: Path) -> list[Path]:
    """The folder, and those above it up to the top of its repository: what lies outside of one is not the user's."""
    above = [folder, *folder.parents]
    for number, each in enumerate(above):
        if (each / ".git").exists():
            return above[: number + 1]
    return [folder]
