"""`rerun`: a run once more, as it was, with what is typed, or with what the user writes in an editor."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from remoterun.agent.shared.files import write_whole
from remoterun.agent.shared.records import same_fields
from remoterun.cli import render
from remoterun.cli.app import Background, RunAsJson, RunNumber, RunThenCommand, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import follow_or_report, launch
from remoterun.cli.options import OPTIONS, Row, command_of, options_of, other_options, parsed, takes, with_values
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import Asked, RunRequest
from remoterun.parsing import did_you_mean

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.client.preparing import Prepared
    from remoterun.client.reruns import OriginalRun


@app.command(
    cls=RunThenCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=example('remoterun rerun 16 -t box\nremoterun rerun last "python train.py --lr 0.01"'),
)
@takes(rerun=True)
def rerun(
    run: RunNumber,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Another command; all that follows its first word is its own."),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Change what is asked for in an editor ($VISUAL, $EDITOR), then run that.")
    ] = False,
    background: Background = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing: rent what it needs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run; do nothing.")] = False,
    json: RunAsJson = False,
    **typed: Any,
) -> int:
    """Run a run again: its source and mounts as they were then.

    It gets a new number. What is typed here takes the place of what the run had. Its machine must be there, as it
    keeps the files; they go to another one with -t.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    values = parsed(typed)
    another = command_of(command) if command else None
    with connect() as client:
        client.machines.get(values.get("machine"))  # refuse a wrong name before anything is opened
        kept = client.runs.original(run_number(run)).without(values.get("mounts", ()))
        asked = _changed(_asked(kept)._replace(variables=kept.variables), values)
        asked = asked._replace(command=another or kept.request.command)
        editing = Edit(client.config.home, kept, asked) if edit else None
        try:
            if editing is not None:
                made = editing.ask(lambda changed: (changed, _prepared(client, kept, changed)))
                if made is None:
                    return 1
                asked, prepared = made
            else:
                prepared = _prepared(client, kept, asked)
            if not dry_run:
                given = prepared.request._replace(env=asked.env)
                render.line(_changes(kept, Asked(**given._asdict(), machine=asked.machine)))
            submitted = launch(client, prepared, yes, dry_run)
        except BaseException:
            if editing is not None:
                editing.say_kept()
            raise
        if editing is not None and submitted is not None:
            editing.done()
        return follow_or_report(client, submitted, prepared.request, background, json) if submitted is not None else 0


def _asked(kept: OriginalRun) -> Asked:
    return Asked(**kept.request._asdict(), machine=kept.run.machine.name)


def _prepared(client: Client, kept: OriginalRun, asked: Asked) -> Prepared:
    request = RunRequest(**same_fields(RunRequest, asked))._replace(
        env=kept.values(asked.variables, asked.env), options=options_of(asked, other_options(kept.request.options))
    )
    return client.runs.prepare_again(kept, request, asked.machine)


def _changed(asked: Asked, values: Mapping[str, Any]) -> Asked:
    """A copy with what is typed: a variable has a value or a secret, and labels take the place of all that it had."""
    given, secrets = dict(values.get("env", ())), dict(values.get("secrets", ()))
    asked = asked._replace(
        env=tuple(pair for pair in asked.env if pair[0] not in secrets),
        variables=tuple(name for name in asked.variables if name not in secrets),
        secrets=tuple(pair for pair in asked.secrets if pair[0] not in given),
        labels=() if "labels" in values else asked.labels,
    )
    return with_values(asked, values)


def _changes(kept: OriginalRun, asked: Asked) -> str:
    """What is other than in the run that is repeated, in one line."""
    before = _asked(kept)
    parts = []
    if asked.machine != before.machine:
        parts.append(f"on {asked.machine} (it ran on {before.machine})")
    if asked.command != before.command:
        parts.append("another command")
    for mount in asked.mounts:
        if mount not in kept.mounts:
            parts.append(str(mount.resource) + ("" if mount.resource.version else " as it is now"))
    paths = [mount.path for mount in asked.mounts]
    parts += [f"without {mount.resource}" for mount in before.mounts if mount.path not in paths]
    for row in OPTIONS.values():
        if row.name in ("machine", "mounts"):
            continue
        now, then = row.words(asked), row.words(before)
        more = [shlex.join(words) for words in now if words not in then]
        gone = [f"without {shlex.join(words)}" for words in then if words not in now]
        parts += more + (gone if row.repeated or not more else [])
        if now == then and row.value(asked) != row.value(before):
            parts.append(f"{row.option.flag} …")
    return f"Run {kept.run.number} is run again, " + (f"changed: {'; '.join(parts)}" if parts else "as it was")


Made = TypeVar("Made")


class Edit:
    """The text of one run: in a file of the home, which stays until the run was handed over, or the text dropped."""

    def __init__(self, home: Path, kept: OriginalRun, asked: Asked) -> None:
        self._number, self._asked = kept.run.number, asked
        self._first = _text_of(kept.run.number, asked)
        self.file = home / "edit" / f"run-{kept.run.number}.toml"

    def ask(self, use: Callable[[Asked], Made]) -> Made | None:
        """What `use` makes of what the user made of it; None where nothing is to be run, which was said.

        A person at a terminal may edit again what can't be asked for, or drop it. Elsewhere it raises `UsageError`, as
        it does without an editor: the text stays in its file."""
        if self.file.exists():
            render.line("What you wrote last time is opened again.")
        else:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(str(self.file), self._first.encode(errors="replace"))
        while True:
            self._open()
            try:
                asked = self._read()
                return use(asked) if asked is not None else None
            except UsageError as error:
                if not render.person_there():
                    raise
                render.error(error)
                if not render.ask("Edit again?", True):
                    dropped = self.file.with_suffix(".dropped.toml")
                    os.replace(self.file, dropped)
                    render.line(f"Nothing is run. What you wrote is in {render.name(str(dropped))}")
                    return None

    def say_kept(self) -> None:
        """Where the text is, before an error is shown; one in which nobody has changed anything is not kept."""
        if not self.file.exists():
            return
        if self.file.read_text("utf-8", errors="replace") == self._first:
            self.done()
        else:
            render.line(f"What you wrote is kept: {render.name(str(self.file))}")
            render.line(f"  remoterun rerun --edit {self._number}   opens it again")

    def _read(self) -> Asked | None:
        """What the text asks for; None where it is empty, or as it was at first. Raises `UsageError`."""
        text = self.file.read_text("utf-8", errors="replace")
        if not re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE).strip():
            self._nothing("The text is empty")
        elif text == self._first:
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
            raise UsageError(f"the editor `{editor}` ended with exit status {status}: nothing is run")

    def _parsed(self, text: str) -> Asked:
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the text is not TOML: {str(error)[:1].lower()}{str(error)[1:]}")
        asked, before = self._asked, tomllib.loads(self._first)
        for key, value in table.items():
            try:
                asked = _with_key(asked, key, before.get(key), value)
            except RemoterunError as error:
                lines = text.splitlines()
                at = next((n for n, line in enumerate(lines, 1) if re.match(rf"\s*\[?{re.escape(key)}\b", line)), 0)
                raise UsageError(f"line {at}, `{render.name(key)}`: {error.message}")
        return asked


ROWS = {row.name: row for row in OPTIONS.values() if row.option.edited is not None}


def _with_key(asked: Asked, key: str, before: Any, value: Any) -> Asked:
    """What is asked with another value of a key, if it is another one. Raises `UsageError`."""
    if before is None:
        near = did_you_mean(key, ["command", *ROWS])
        raise UsageError(f"there is no such key{f'; did you mean `{near}`?' if near else ''}")
    if type(before) is str and type(value) in (int, float):
        value = str(value)
    if type(value) is not type(before) or (isinstance(value, list) and any(type(word) is not str for word in value)):
        raise UsageError(f"its value is not {_KINDS[type(before)]}")
    if value == before:
        return asked
    if key == "command":
        return asked._replace(command=command_of([value]))
    row = ROWS[key]
    parse = row.form.edit[1] if row.form.edit is not None else None
    return row.put(asked, row.read(value, parse) if value else row.value(Asked("")))


_KINDS = {str: 'a text: "…"', list: 'a list of texts: ["…", "…"]', bool: "true or false"}


def _text_of(number: int, asked: Asked) -> str:
    """What the user edits."""
    lines = [
        f"# Run {number} once more, with what you change here. Save and close it to run that.",
        "# An empty text, or one without a change, runs nothing.",
        "",
        f"command = {_toml(asked.command)}",
    ]
    for row in ROWS.values():
        if row.option.edited:
            lines += ["", *(f"# {line}" for line in row.option.edited.splitlines())]
        lines.append(f"{row.name} = {_toml(_edited_value(row, asked))}")
    return "\n".join(lines) + "\n"


def _edited_value(row: Row, asked: Asked) -> Any:
    value = row.value(asked)
    if row.type is bool:
        return value
    show = row.form.edit[0] if row.form.edit is not None else row.form.show or str
    if row.repeated:
        return list(map(show, value))
    return show(value) if value not in (None, "") else ""


def _toml(value: Any) -> str:
    """A text goes over several lines where it has some."""
    if isinstance(value, list):
        return "[" + "".join(f"\n    {_toml(word)}," for word in value) + ("\n]" if value else "]")
    if not isinstance(value, str):
        return str(value).lower()
    if "\n" in value and "'''" not in value and value.replace("\n", "").isprintable() and not value.endswith("'"):
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
