"""`remoterun.toml` in a repository: what `remoterun run` takes from it where nothing else is typed. Its keys are the
fields of `Asked` whose option is `shared`. An unknown key is an error with its name.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import read_settings
from remoterun.agent.shared.records import options_in
from remoterun.errors import ConfigError, UsageError
from remoterun.model import Asked, Mount
from remoterun.parsing import VARIABLE, known_words, toml
from remoterun.source.repository import is_tracked, top_of

FILE = "remoterun.toml"
_KEYS = {name: option for name, option in options_in(Asked).items() if option.shared}


@dataclass(frozen=True)
class Project:
    """What a `remoterun.toml` asks for. Without a `file` nothing."""

    file: Path | None = None
    typed: Mapping[str, Any] = field(default_factory=dict)
    """By field, what would be typed after its option; paths are relative to the current folder."""
    digest: str = ""
    """Of the file's path and its text: a user agrees to that, and to nothing else."""


def find(folder: Path) -> Project:
    """What the `remoterun.toml` of this folder says, or the nearest one above it in its repository. Raises
    `ConfigError`."""
    folder = folder.resolve()
    above = [each for each in (folder, *folder.parents) if os.path.lexists(each / FILE)]
    top = top_of(str(folder)) if above else None
    for each in above:
        file = each / FILE
        if each != folder and not (top and each.is_relative_to(top)):
            break
        try:
            text = read_settings(str(file)).decode()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", error)
            raise ConfigError(f"`{file}` can't be read: {why}", hint="mend it, or move it away")
        if top is None and file.stat().st_uid not in (0, os.geteuid()):
            raise ConfigError(f"someone else owns `{file}`, and it is in no repository", hint="cp it, if it is meant")
        return _from(folder, parse(text, file), each, Path(top or folder))
    return Project()


def parse(text: str, file: Path) -> Project:
    """Raises `ConfigError` naming the key."""
    try:
        data = toml(text)
    except ValueError as error:
        raise ConfigError(f"`{file}` is not TOML: {error}", hint="mend it, or move it away")
    for key, value in data.items():
        if key not in _KEYS:
            raise ConfigError(f"{file}: unknown key `{key}`", hint=known_words(key, sorted(_KEYS)))
        default = Asked._field_defaults[key]
        if isinstance(default, tuple) or key == "notify":
            _check_list(file, key, value)
            data[key] = [str(word) for word in value]
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{file}: `{key}` has to be true or false", hint=f"{key} = true")
        elif key in ("cpus", "nodes"):
            if type(value) is not int:
                raise ConfigError(f"{file}: `{key}` has to be a number", hint=f"{key} = 4")
        elif not isinstance(value, str) or not value:
            raise ConfigError(f"{file}: `{key}` has to be a text in quotes", hint=f'{key} = "…"')
    said = f"{file}\0{text}".encode("utf-8", "surrogateescape")
    return Project(file, data, hashlib.sha256(said).hexdigest())


def _check_list(file: Path, key: str, value: Any) -> None:
    if key == "ports":  # the port on this machine is for its user to choose
        if not isinstance(value, list) or not all(str(word).isdecimal() for word in value):
            raise ConfigError(f"{file}: `ports` has to be a list of ports of the run", hint="ports = [6006]")
    elif not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"{file}: `{key}` has to be a list", hint=f'{key} = ["…", "…"]')
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


def _from(here: Path, project: Project, folder: Path, top: Path) -> Project:
    """The project of a file in `folder`, with paths from `here` on. The text of `requirements` goes to the machine,
    where the code of the repository may read it: that is never just any file that the user can read, and its path has
    no link, on which two readers might not agree. It counts as a part of the file. Raises `ConfigError`."""
    typed, digest = dict(project.typed), project.digest
    if "mounts" in typed:
        mounts, up = map(Mount.parse, typed["mounts"]), os.path.relpath(folder, here)
        typed["mounts"] = [f"{mount.resource}:{os.path.normpath(os.path.join(up, mount.path))}" for mount in mounts]
    if "requirements" in typed:
        file = (folder / typed["requirements"]).resolve()
        mine = file.is_relative_to(top) and file.is_file()
        if not mine or is_tracked(str(file.parent), file.name) is False:  # such as `.env`
            raise ConfigError(
                f"{project.file}: `requirements` names no file of its repository",
                hint=f"remoterun run --pip-req {shlex.quote(typed['requirements'])} …",
            )
        typed["requirements"] = os.path.relpath(file, here)
        digest = hashlib.sha256(digest.encode() + file.read_bytes()).hexdigest()
    return replace(project, typed=typed, digest=digest)
