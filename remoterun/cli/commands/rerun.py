"""`rerun`: a run once more, as it was or with what is typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.cli import render
from remoterun.cli.app import Background, RunAsJson, RunNumber, RunThenCommand, app, example, run_number
from remoterun.cli.asking import client as connect
from remoterun.cli.commands.run import follow_or_report, launch
from remoterun.cli.editing import Edit
from remoterun.cli.options import OPTIONS, Asked, command_of, other_options, parsed, takes
from remoterun.errors import UsageError

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
    yes: Annotated[bool, typer.Option("-y", "--yes", "-f", "--force", help="Ask nothing: rent what it needs.")] = False,
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
        asked = _changed(Asked(kept.request, kept.run.machine.name, kept.variables), values)
        asked = asked.put("command", another or kept.request.command)
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
                given = replace(prepared.request, env=asked.request.env)
                render.line(_changes(kept, Asked(given, asked.machine)))
            submitted = launch(client, prepared, yes, dry_run)
        except BaseException:
            if editing is not None:
                editing.say_kept()
            raise
        if editing is not None and submitted is not None:
            editing.done()
        return follow_or_report(client, submitted, prepared.request, background, json) if submitted is not None else 0


def _prepared(client: Client, kept: OriginalRun, asked: Asked) -> Prepared:
    request = replace(asked.request, env=kept.values(asked.variables, asked.request.env))
    request = replace(request, options=asked.options(other_options(kept.request.options)))
    return client.runs.prepare_again(kept, request, asked.machine)


def _changed(asked: Asked, values: Mapping[str, Any]) -> Asked:
    """A copy with what is typed: a variable has a value or a secret, labels take the place of all that it had, and an
    image has no framework."""
    given, secrets = dict(values.get("env", ())), dict(values.get("secrets", ()))
    asked = asked.put("env", [pair for pair in asked.value("env") if pair[0] not in secrets])
    asked = asked.put("secrets", tuple(pair for pair in asked.request.secrets if pair[0] not in given))
    if "labels" in values:
        asked = asked.put("labels", ())
    asked = asked.with_values(values)
    return asked.put("framework", None) if "image" in values else asked


def _changes(kept: OriginalRun, asked: Asked) -> str:
    """What is other than in the run that is repeated, in one line."""
    before = Asked(kept.request, kept.run.machine.name)
    parts = []
    if asked.machine != before.machine:
        parts.append(f"on {asked.machine} (it ran on {before.machine})")
    if asked.request.command != before.request.command:
        parts.append("another command")
    for mount in asked.request.mounts:
        if mount not in kept.mounts:
            parts.append(str(mount.resource) + ("" if mount.resource.version else " as it is now"))
    paths = [mount.path for mount in asked.request.mounts]
    parts += [f"without {mount.resource}" for mount in before.request.mounts if mount.path not in paths]
    for option in OPTIONS:
        if option.name in ("machine", "mounts"):
            continue
        now, then = option.words(asked), option.words(before)
        more = [shlex.join(words) for words in now if words not in then]
        gone = [f"without {shlex.join(words)}" for words in then if words not in now]
        parts += more + (gone if option.repeated or not more else [])
        if now == then and asked.value(option.name) != before.value(option.name):
            parts.append(f"{option.flag} …")
    return f"Run {kept.run.number} is run again, " + (f"changed: {'; '.join(parts)}" if parts else "as it was")
