"""`rerun`: a run once more, as it was or with what is typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.agent.shared.records import same_fields
from remoterun.cli import render
from remoterun.cli.app import Background, RunAsJson, RunNumber, RunThenCommand, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import follow_or_report, launch
from remoterun.cli.editing import Edit
from remoterun.cli.options import OPTIONS, command_of, options_of, other_options, parsed, takes, with_values
from remoterun.errors import UsageError
from remoterun.model import Asked, RunRequest

if TYPE_CHECKING:
    from remoterun.client import Client, OriginalRun, Prepared


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
