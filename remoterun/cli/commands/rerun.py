"""`rerun`: a run once more, as it was, with what is typed, or with what the user writes in an editor."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer.main import get_command

from remoterun.agent.shared.files import write_whole
from remoterun.agent.shared.records import same_fields
from remoterun.agent.shared.states import RunState
from remoterun.cli import complete, render
from remoterun.cli.app import (
    Background,
    Pay,
    RunAsJson,
    RunThenCommand,
    app,
    argument,
    example,
    for_each,
    option,
    parser_error,
    run_number,
    run_numbers,
)
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import follow_or_report, launch
from remoterun.cli.options import OPTIONS, command_of, options_of, parsed, takes, with_values
from remoterun.cli.render import run_views
from remoterun.client import Client
from remoterun.client.runs.preparing import Prepared
from remoterun.errors import UsageError
from remoterun.model import Asked, Run, RunRequest
from remoterun.parsing import VARIABLE, parse_range

if TYPE_CHECKING:
    from remoterun.client.runs.reruns import OriginalRun


@app.command(
    cls=RunThenCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=example(
        'remoterun rerun 16 -t box\nremoterun rerun 12-17 --failed\nremoterun rerun last "python train.py --lr 0.01"'
    ),
)
@takes(rerun=True)
def rerun(
    run: Annotated[str, argument("RUN", "A run's number, `last`, or a range: 12-17.", complete.run_numbers)],
    command: Annotated[
        list[str] | None, argument("COMMAND...", "Another command; all that follows its first word is its own.")
    ] = None,
    edit: Annotated[
        bool, option("--edit", "Change what is asked for in an editor ($VISUAL, $EDITOR), then run that.")
    ] = False,
    failed: Annotated[bool, option("--failed", "Of a range, only those that have ended and did not complete.")] = False,
    background: Background = False,
    yes: Annotated[bool, option("-y --yes", "Ask nothing: rent what it needs, up to $5/h.")] = False,
    dry_run: Annotated[bool, option("--dry-run", "Show what would be run; do nothing.")] = False,
    pay: Pay = None,
    json: RunAsJson = False,
    **typed: Any,
) -> int:
    """Start a run again: its source and mounts as they were then.

    It gets a new number. What is typed here takes the place of what the run had. Its machine must be there, as it
    keeps the files; they go to another one with -t. Of a range each run is started again, as with -b.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    values = parsed(typed)
    another = command_of(command) if command else None
    among = parse_range(run)
    if among and edit:
        raise UsageError("--edit is for one run", hint=f"remoterun rerun --edit {among[0]}")
    with connect() as client:
        client.machines.get(values.get("machine"))  # refuse a wrong name before anything is opened

        def again(number: int | str) -> tuple[Run | None, RunRequest] | None:
            kept = client.runs.original(number, {mount.path for mount in values.get("mounts", ())})
            asked = _changed(_asked(kept)._replace(variables=kept.variables), values)
            asked = asked._replace(command=another or kept.request.command)
            editing = Edit(client.config.home, kept, asked, bool(values or another)) if edit else None
            try:
                if editing is not None:
                    made = editing.ask(lambda changed: (changed, _prepared(client, kept, changed)))
                    if made is None:
                        return None
                    asked, prepared = made
                else:
                    prepared = _prepared(client, kept, asked)
                if not dry_run:
                    given = prepared.request._replace(env=asked.env)
                    render.line(_changes(kept, Asked(**given._asdict(), machine=asked.machine)))
                submitted = launch(client, prepared, yes, dry_run, pay=pay)
            except BaseException:
                if editing is not None:
                    editing.report_saved()
                raise
            if editing is not None and submitted is not None:
                editing.done()
            return submitted, prepared.request

        if not among and not failed:
            submitted, request = again(run_number(run)) or (None, None)
            if request is None:
                return 1
            return follow_or_report(client, submitted, request, background, json) if submitted is not None else 0
        return _each_again(client, run, failed, again, json)


def _each_again(client: Client, run: str, failed: bool, again: Callable[[int], Any], json: bool) -> int:
    numbers = run_numbers(client, [run])
    if failed:
        known = client.runs.again([client.runs.known(number) for number in numbers])
        run_views.not_reached(known)
        numbers = [each.number for each in known if each.final and each.state is not RunState.COMPLETE]
        if not numbers:
            render.line("Nothing is run again: none of these runs has ended without being complete")
    made: list[Run] = []
    try:
        return for_each(numbers, lambda number: made.extend(filter(None, (again(number) or ())[:1])))
    finally:
        words = run_views.spans((each.number for each in made), "-")
        if json:
            render.out_json([each.record() for each in made])
        elif made:
            render.out(words)
            render.line(f"  remoterun wait {words}   waits until they have ended")


def _asked(kept: OriginalRun) -> Asked:
    return Asked(**kept.request._asdict(), machine=kept.run.machine.name)


def _prepared(client: Client, kept: OriginalRun, asked: Asked) -> Prepared:
    request = RunRequest(**same_fields(RunRequest, asked))._replace(
        env=kept.values(asked.variables, asked.env), options=options_of(asked)
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
    parts = ["another command"] if asked.command != before.command else []
    parts += [
        f"{mount.resource} as it is now"
        for mount in asked.mounts
        if mount not in before.mounts and not mount.resource.version
    ]
    for row in OPTIONS.values():
        now, then = row.words(asked), row.words(before)
        parts += [shlex.join(words) for words in now if words not in then]
        if row.repeated:
            parts += [f"without {shlex.join(words)}" for words in then if words not in now]
        if now == then and row.value(asked) != row.value(before):
            parts.append(f"{row.option.flag} …")
    return f"Run {kept.run.number} is run again, " + (f"changed: {'; '.join(parts)}" if parts else "as it was")


Made = TypeVar("Made")


class Edit:
    """The text of one run: in a file of the home, which stays until the run was handed over, or the text dropped."""

    def __init__(self, home: Path, kept: OriginalRun, asked: Asked, is_changed: bool) -> None:
        self._number, self._asked, self._is_changed = kept.run.number, asked, is_changed
        self._first = _text_of(kept.run.number, asked)
        self.file = home / "edit" / f"run-{kept.run.number}.txt"

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
                if not render.can_ask():
                    raise
                render.error(error)
                if not render.ask("Edit again?", True):
                    dropped = self.file.with_suffix(".dropped.txt")
                    os.replace(self.file, dropped)
                    render.line(f"Nothing is run. What you wrote is in {render.name(str(dropped))}")
                    return None

    def report_saved(self) -> None:
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
        elif text == self._first and not self._is_changed:
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
        render.begin_question()
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("vi" if render.is_interactive() else "")
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
        options, _, command = text.partition(_COMMAND)
        try:
            context = get_command(app).commands["run"].make_context("run", [*shlex.split(options, comments=True), "-"])  # type: ignore[attr-defined]
        except ValueError as error:
            raise UsageError(f"the options can't be read: {error}")
        except parser_error() as error:
            message, meant = render.said_by_parser(error)
            raise UsageError(message, hint=meant or None)
        typed = context.params
        others = [name for name in typed if name not in (*OPTIONS, "command") and typed[name]]
        if others:
            raise UsageError(f"--{others[0].replace('_', '-')} can't stand in the text: it is typed after `rerun`")
        names = [word for word in typed["env"] if VARIABLE.fullmatch(word)]
        values = parsed({**typed, "env": [word for word in typed["env"] if word not in names]})
        nothing = Asked("")
        cleared = {row.name: getattr(nothing, row.name) for row in OPTIONS.values() if row.form.show is not None}
        asked = with_values(self._asked._replace(**cleared), values)
        return asked._replace(variables=tuple(names), command=command_of([command.removesuffix("\n")]))


_COMMAND = "\n--\n"
"""What stands between the options and the command."""


def _text_of(number: int, asked: Asked) -> str:
    """What the user edits."""
    lines = [
        f"# Run {number} once more, with what you change here. Save and close to run it;",
        "# an empty text, or a run as it was, runs nothing. Above `--` stand options of",
        "# `remoterun run`, below it the command. A mount that stays as it is holds what",
        "# the run read; one that you change, what is newest.",
    ]
    given = {name: f"{name}={value}" for name, value in asked.env}
    for row in OPTIONS.values():
        for flag, *words in row.words(asked):
            lines.append(shlex.join([flag, *(given.get(word, word) if row.name == "env" else word for word in words)]))
    return "\n".join(lines) + f"{_COMMAND}{asked.command}\n"
