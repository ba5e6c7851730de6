"""`rerun --edit`: what is asked of a run, as a text in the user's editor."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.files import write_whole
from remoterun.cli import render
from remoterun.cli.options import OPTIONS, Asked, command_of
from remoterun.errors import RemoterunError, UsageError
from remoterun.parsing import did_you_mean

if TYPE_CHECKING:
    from remoterun.client import OriginalRun


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
        asked, before = self._asked, tomllib.loads(text_of(self._number, self._asked))
        for key, value in table.items():
            try:
                asked = _changed(asked, key, before.get(key), value)
            except RemoterunError as error:
                lines = text.splitlines()
                at = next((n for n, line in enumerate(lines, 1) if re.match(rf"\s*\[?{re.escape(key)}\b", line)), 0)
                raise self._wrong(f"line {at}, `{render.name(key)}`: {error.message}")
        return asked


_KINDS = {str: 'a text: "…"', list: 'a list of texts: ["…", "…"]', int: "a whole number", bool: "true or false"}
ROWS = {option.name: option for option in OPTIONS if option.edited is not None}


def _changed(asked: Asked, key: str, before: Any, value: Any) -> Asked:
    """What is asked with another value of a key, if it is another one. Raises `UsageError`."""
    if before is None:
        near = did_you_mean(key, ["command", *ROWS])
        raise UsageError(f"there is no such key{f'; did you mean `{near}`?' if near else ''}")
    kind = type(before)
    if type(value) is not kind or (isinstance(value, list) and any(type(word) is not str for word in value)):
        raise UsageError(f"its value is not {_KINDS[kind]}")
    if value == before:
        return asked
    return asked.put(key, command_of([value])) if key == "command" else ROWS[key].with_edited(asked, value)


def text_of(number: int, asked: Asked) -> str:
    """What the user edits."""
    lines = [
        f"# Run {number} once more, with what you change here. Save and close it to run that.",
        "# An empty text, or one without a change, runs nothing.",
        "",
        f"command = {_toml(asked.request.command)}",
    ]
    for option in ROWS.values():
        if option.edited is not None and option.edited.comment:
            lines += ["", *(f"# {line}" for line in option.edited.comment.splitlines())]
        lines.append(f"{option.name} = {_toml(option.edited_value(asked))}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text goes over several lines where it has some."""
    if isinstance(value, list):
        return "[" + "".join(f"\n    {_toml(word)}," for word in value) + ("\n]" if value else "]")
    if not isinstance(value, str):
        return str(value).lower()
    if "\n" in value and "'''" not in value and value.replace("\n", "").isprintable() and not value.endswith("'"):
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
