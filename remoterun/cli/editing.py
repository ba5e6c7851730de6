"""`rerun --edit`: what is asked of a run, as a text in the user's editor."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.files import write_whole
from remoterun.cli import render
from remoterun.cli.commands.run import apt_name, command_of
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import ALL_GPUS, Mount, RunRequest
from remoterun.parsing import (
    VARIABLE,
    did_you_mean,
    parse_duration,
    parse_gpus,
    parse_package,
    parse_secret,
    parse_variable,
)

if TYPE_CHECKING:
    from remoterun.client import OriginalRun


@dataclass(frozen=True)
class Asked:
    """What is asked of a run that is to be. `variables`: names of those whose values are found elsewhere; `given`: of
    the others, with their values."""

    request: RunRequest
    machine: str
    variables: tuple[str, ...]
    given: tuple[tuple[str, str], ...]


class Edit:
    """The text of one run: in a file of the home, which stays until the run was handed over."""

    def __init__(self, home: Path, kept: OriginalRun, asked: Asked) -> None:
        self._number, self._asked = kept.run.number, asked
        self.file = home / "edit" / f"run-{kept.run.number}.toml"

    def ask(self) -> Asked | None:
        """What the user made of it; None for an empty text, and for one without a change, which were said. Raises
        `UsageError` for what can't be asked for, and where there is no editor: the text stays in its file."""
        first = text_of(self._number, self._asked)
        if self.file.exists():
            render.line("What you wrote last time is opened again.")
        else:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(str(self.file), first.encode(errors="replace"))
        self._open()
        text = self.file.read_text("utf-8", errors="replace")
        if not re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE).strip():
            self._nothing("The text is empty")
        elif text == first:
            self._nothing("Nothing was changed")
        else:
            return self._parsed(text)
        return None

    def done(self) -> None:
        """The text is not needed any more."""
        self.file.unlink(missing_ok=True)

    def _nothing(self, why: str) -> None:
        self.done()
        render.line(f"{why}: nothing is run. As it was: `remoterun rerun {self._number}`")

    def _open(self) -> None:
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("vi" if render.person_there() else "")
        if not editor:
            raise UsageError("there is no editor: neither VISUAL nor EDITOR is set", hint="export EDITOR=nano")
        before = signal.signal(signal.SIGINT, lambda *_: None)  # ^C is the editor's
        try:
            status = subprocess.call([*shlex.split(editor), str(self.file)])
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"the editor `{editor}` can't be started: {why}", hint="export EDITOR=nano")
        finally:
            signal.signal(signal.SIGINT, before)
        if status:
            raise UsageError(f"the editor `{editor}` ended with exit status {status}: nothing is run", hint=self._again)

    @property
    def _again(self) -> str:
        return f"remoterun rerun --edit {self._number}   opens what you wrote again"

    def _wrong(self, message: str) -> UsageError:
        return UsageError(message, hint=self._again)

    def _parsed(self, text: str) -> Asked:
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise self._wrong(f"the text is not TOML: {str(error)[:1].lower()}{str(error)[1:]}")
        asked = self._asked
        for key, value in table.items():
            try:
                asked = _put(asked, key, value)
            except RemoterunError as error:
                lines = text.splitlines()
                at = next((n for n, line in enumerate(lines, 1) if re.match(rf"\s*\[?{re.escape(key)}\b", line)), 0)
                raise self._wrong(f"line {at}, `{render.name(key)}`: {error.message}")
        return asked


def _put(asked: Asked, key: str, value: Any) -> Asked:
    """What is asked with another value. Raises `UsageError`."""
    if key not in KEYS:
        near = did_you_mean(key, KEYS)
        raise UsageError(f"there is no such key{f'; did you mean `{near}`?' if near else ''}")
    kind, put = KEYS[key]
    if type(value) is not kind or (isinstance(value, list) and any(type(word) is not str for word in value)):
        raise UsageError(f"its value is not {_KINDS[kind]}")
    return put(asked, value)


_KINDS = {str: 'a text: "…"', list: 'a list of texts: ["…", "…"]', int: "a whole number", bool: "true or false"}
Put = Callable[[Asked, Any], Asked]


def _same(value: Any) -> Any:
    return value


def _with(name: str, read: Callable[[Any], Any] = _same) -> Put:
    return lambda asked, value: replace(asked, request=replace(asked.request, **{name: read(value)}))


def _machine(asked: Asked, name: str) -> Asked:
    if not name:
        raise UsageError("it is empty")
    return replace(asked, machine=name)


def _env(asked: Asked, words: Sequence[str]) -> Asked:
    given = tuple(parse_variable(word) for word in words if "=" in word)
    names = tuple(word for word in words if "=" not in word)
    for name in names:
        if not VARIABLE.fullmatch(name):
            raise UsageError(f"`{name}` is not the name of an environment variable")
    return replace(asked, variables=names, given=given)


def _secrets(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(parse_secret(word) for word in words)


def _attempts(count: int) -> int | None:
    if count < 1:
        raise UsageError("a run has one attempt at least")
    return count if count > 1 else None


KEYS: dict[str, tuple[type, Put]] = {
    "command": (str, _with("command", lambda text: command_of([text]))),
    "machine": (str, _machine),
    "mounts": (list, _with("mounts", lambda words: tuple(map(Mount.parse, words)))),
    "pip": (list, _with("pip", lambda words: tuple(map(parse_package, words)))),
    "apt": (list, _with("apt", lambda words: tuple(map(apt_name, words)))),
    "requirements": (str, _with("requirements")),
    "framework": (str, _with("framework", lambda text: text or None)),
    "image": (str, _with("image", lambda text: text or None)),
    "timeout": (str, _with("timeout", lambda text: parse_duration(text) if text else None)),
    "gpus": (str, _with("gpus", lambda text: parse_gpus(text) if text else None)),
    "attempts": (int, _with("attempts", _attempts)),
    "split": (bool, _with("split")),
    "labels": (list, _with("labels", tuple)),
    "description": (str, _with("description", lambda text: text or None)),
    "env": (list, _env),
    "secrets": (list, _with("secrets", _secrets)),
}
"""By name: its type, and what puts it into what is asked."""


def text_of(number: int, asked: Asked) -> str:
    """What the user edits."""
    request = asked.request
    env = [*asked.variables, *(f"{name}={value}" for name, value in asked.given)]
    secrets = [name if name == variable else f"{name}={variable}" for variable, name in request.secrets]
    return f"""\
# Run {number} once more, with what you change here. Save and close it to run that.
# An empty text, or one without a change, runs nothing.

command = {_text(request.command)}
machine = {_text(asked.machine)}

# Mounted read-only: RESOURCE:PATH. What stays as it is holds what run {number} read;
# what you change or add holds the newest version.
mounts = {_list([f"{mount.resource}:{mount.path}" for mount in request.mounts])}

# Packages; `requirements` is the text of a requirements file.
pip = {_list(request.pip)}
apt = {_list(request.apt)}
requirements = {_text(request.requirements)}
framework = {_text(request.framework or "")}  # none, python or tensorflow
image = {_text(request.image or "")}  # "": the bundled one

timeout = {_text(f"{request.timeout:g}s" if request.timeout else "")}  # 90s, 10m, 2h; "": none
gpus = {_text(_gpus(request.gpus))}  # a number, or all; "": what the machine's setting says
attempts = {request.attempts or 1}
split = {"true" if request.split else "false"}  # whether its stderr is apart
labels = {_list(request.labels)}
description = {_text(request.description or "")}

# Variables: NAME takes the value that it has here, NAME=VALUE gives it one.
env = {_list(env)}
# Secrets: NAME, or NAME=VARIABLE.
secrets = {_list(secrets)}
"""


def _gpus(count: int | None) -> str:
    return "" if count is None else "all" if count == ALL_GPUS else str(count)


def _text(text: str) -> str:
    """As TOML; over several lines where it has some."""
    if "\n" in text and "'''" not in text and text.replace("\n", "").isprintable() and not text.endswith("'"):
        return f"'''\n{text}'''"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(words: Sequence[str]) -> str:
    if not words:
        return "[]"
    return "[\n" + "".join(f"    {_text(word)},\n" for word in words) + "]"
