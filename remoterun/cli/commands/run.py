"""`run`: what is sent, the questions before it, and following it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from remoterun import project as projects
from remoterun.agent.shared.files import unless_held, write_whole
from remoterun.agent.shared.records import options_in
from remoterun.cli import render
from remoterun.cli.app import MORE, Background, Command, Pay, Quiet, RunAsJson, app, argument, example, option
from remoterun.cli.asking import agree, agree_to_link, hint_at_secrets
from remoterun.cli.asking import client as connect
from remoterun.cli.options import OPTIONS, command_of, options_of, parsed, takes, with_values
from remoterun.cli.render import live_views
from remoterun.cli.to_send import Sending, framework_text, source_to_send, standard_input, with_packages, with_untracked
from remoterun.client import Client
from remoterun.client.runs.preparing import Prepared, Talk
from remoterun.errors import HostError, UsageError
from remoterun.model import ALL_GPUS, Asked, MachineType, Mount, Run, RunRequest
from remoterun.sizes import counted

if TYPE_CHECKING:
    from remoterun.client.sets.sets import SetRequest
    from remoterun.client.upkeep.rented_hosts import NewBucket
    from remoterun.clouds.ledger.planning import AgreedPlan, Plan
    from remoterun.source import Source


more = functools.partial(option, rich_help_panel=MORE)


@app.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example('remoterun run -m uploads/doom:data "python -m trainer.train --data_dir=./data"'),
)
@takes()
def run(
    command: Annotated[list[str], argument("COMMAND...", "The command; all that follows its first word is its own.")],
    commit_ref: Annotated[str | None, more("-c --commit-ref REF", "Run this commit, not the work tree.")] = None,
    include_untracked: Annotated[bool, more("--include-untracked", "Send files that git does not track, too.")] = False,
    no_git: Annotated[
        bool, more("--no-git", "Send the current folder, less .remoterunignore; git is not asked.")
    ] = False,
    stdin: Annotated[
        bool, more("--stdin", "Send what comes here on standard input; the command reads it there.")
    ] = False,
    param: Annotated[
        list[str],
        option("--param NAME=VALUES", "A run for each value, `a,b` or `1:8:int`, in place of :NAME:. Repeat for more."),
    ] = [],  # noqa: B006
    random: Annotated[
        int | None, more("--random N", "Make N runs with values drawn, also of `0:1` and `1e-4:1:log`.", min=1)
    ] = None,
    at_once: Annotated[
        int | None, more("--at-once N", "Let so many of those runs be at work at the same time.", min=1)
    ] = None,
    set_name: Annotated[
        str | None, more("--set NAME", "Name them: the same line again adds those that are missing.")
    ] = None,
    background: Background = False,
    yes: Annotated[
        bool, option("-y --yes", "Ask nothing: send the files that the command names, rent up to $5/h.")
    ] = False,
    dry_run: Annotated[bool, option("--dry-run", "Show what would be run and sent; do nothing.")] = False,
    pay: Pay = None,
    quiet: Quiet = False,
    json: RunAsJson = False,
    **typed: Any,
) -> int:
    """Run a command on a machine; see its log here, keep its files.

    The exit status is the command's own; 125 when remoterun itself failed.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    asked = Asked(command_of(command))
    project = projects.find(Path.cwd())
    if project.file is not None:
        typed["requirements"] = typed["requirements"] or project.typed.get("requirements")  # one of these files is read
        asked = with_values(asked, parsed({**project.typed, "requirements": None}))
    values = parsed(typed)
    asked = with_values(asked, values)
    files = {"--pip-req": typed["requirements"], "-c": commit_ref}
    flags = {"--include-untracked": include_untracked, "--no-git": no_git, "-y": yes}
    others = [word for flag, value in files.items() if value is not None for word in (flag, str(value))]
    others += [flag for flag, given in flags.items() if given]
    with standard_input(stdin) as read, connect() as client:
        hint_at_secrets(typed["env"])
        machine = client.runs.machine(asked.machine)  # refuse a wrong name before anything is asked
        of_set = None
        if param or random or at_once or set_name:
            from remoterun.cli.sets import set_request

            of_set = set_request(param, random, at_once, set_name or "")
            of_set.check(asked, machine)
        if project.file is not None:
            if not dry_run:
                agree_to_project(client, project, project.file)
            render.line(f"Settings of {render.name(os.path.relpath(project.file))} hold, unless others are typed.")
        request = asked._replace(
            options=options_of(asked, others),
            stdin=read,
            after=_numbers(client, asked.after),
            after_any=_numbers(client, asked.after_any),
        )
        sending = Sending(commit_ref, include_untracked, no_git, yes or dry_run)
        submitted = send_and_launch(client, request, asked.machine, sending, yes, dry_run, pay, of_set)
        if submitted is not None and submitted.of is not None:
            from remoterun.cli.sets import follow_set

            return follow_set(client, submitted.of, background, json)
        return follow_or_report(client, submitted, request, background, json) if submitted is not None else 0


def agree_to_project(client: Client, project: projects.Project, file: Path) -> None:
    """Ask, once, about a repository's file as it is now: whoever types a command there may never have read it. Raises
    `UsageError` where nobody can be asked, and `KeyboardInterrupt` for a no."""
    agreed = client.config.home / "agreed" / project.digest
    if agreed.exists() or any(file.is_relative_to(folder) for folder in client.config.trusted):
        return
    name = render.name(os.path.relpath(file))
    if not render.can_ask():
        entry = f"trusted = [{json.dumps(str(file.parent), ensure_ascii=False)}]"
        raise UsageError(
            f"nobody has agreed to `{name}` as it is now, and its settings decide what runs",
            hint="the same command at a terminal asks about it once; -y is no answer\n"
            f"for scripts, `{entry}` at the top of {client.config.file} is one",
        )
    render.line(f"{name} is new here, or was changed. It says:")
    for key, value in project.typed.items():
        render.line(f"  {key:<15}{shlex.join(value) if isinstance(value, list) else value}")
    if not render.ask("Shall that hold for what you run here, from now on?", default=False):
        render.line("Nothing was run.")
        raise KeyboardInterrupt
    agreed.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(str(agreed), os.fsencode(f"{file}\n"))


def send_and_launch(
    client: Client,
    request: RunRequest,
    machine: str | None,
    sending: Sending,
    yes: bool,
    dry_run: bool = False,
    pay: float | None = None,
    of_set: SetRequest | None = None,
) -> Run | None:
    """The run, or the first one of a set, handed over with what is sent of the current folder; None if it was only to
    be shown."""
    with contextlib.ExitStack() as held:
        waiting = held.enter_context(live_views.waiting())

        def take() -> Source | None:
            held.close()  # a person may be asked from here on
            source = source_to_send(request, sending)
            if source is not None:
                held.callback(source.close)
            return source

        def complete(source: Source, places: Sequence[str]) -> Source:
            if sending.commit_ref:
                return source
            uploaded = (os.path.relpath(mount.local, source.root or ".") for mount in request.mounts if mount.local)
            return with_untracked(source, request.command, [*places, *uploaded], sending, client.config.home)

        opening = None if dry_run else Talk(waiting=waiting)
        prepared = client.runs.prepare(request, take, machine, complete, opening)
        return launch(client, with_packages(prepared, sending), yes, dry_run, pay, of_set)


def launch(
    client: Client,
    prepared: Prepared,
    yes: bool,
    dry_run: bool,
    pay: float | None = None,
    of_set: SetRequest | None = None,
) -> Run | None:
    """The run, or the first one of a set, handed over; None if it was only to be shown what that would be. Asks before
    anything is rented; `pay` as for `agree`."""
    if prepared.request.alerts and not prepared.notify:
        render.warning("an alert is shown by `remoterun ui` alone: `--notify URL` sends it, too")
    with live_views.waiting() as waiting:
        prepared = client.runs.planned(prepared, Talk(waiting=waiting))
    plan = prepared.plan
    new = client.hosts.bucket() if plan is not None else None
    if dry_run:
        _show_plan(client, prepared, plan, new)
        if of_set is not None:
            render.out(f"runs       {of_set.count}, of {of_set.words}")
        return None
    agreed = None if plan is None else agree(client, plan, new, yes, pay)
    request = prepared.request
    mounts = tuple(_uploaded(client, each, prepared.machine) if each.local else each for each in request.mounts)
    prepared = replace(prepared, request=request._replace(mounts=mounts))
    if of_set is not None:
        from remoterun.cli.sets import submit_set

        return submit_set(client, prepared, of_set)
    return _submit(client, prepared, agreed)


def _uploaded(client: Client, mount: Mount, machine: MachineType) -> Mount:
    """The version that a folder of this machine is now, in its place."""
    agree_to_link(mount.local)
    with live_views.progress() as progress:
        upload = client.uploads.upload(Path(mount.local), mount.resource.name, machine.name, progress).upload
    render.line(f"{render.name(mount.local)} is uploads/{upload.name}@{upload.version}, {render.size(upload.size)}")
    return replace(mount, resource=replace(mount.resource, version=upload.version), local="")


def follow_or_report(client: Client, run: Run, request: RunRequest, background: bool, json: bool) -> int:
    """Follow a run that was handed over, or only tell its number; the exit status."""
    from remoterun.cli.follow import follow

    if not background:
        items = client.runs.follow(run.number, values=dict(request.env))
        return follow(client, run, items, from_start=True, ports=request.ports or None)  # no others that its host names
    if json:
        render.out_json(run.record())
    else:
        render.out(str(run.number))
        render.line(f"  remoterun logs {run.number}   shows its log, live")
        if request.ports:
            render.line(f"  remoterun forward {run.number}   reaches its ports")
    return 0


def _submit(client: Client, prepared: Prepared, agreed: AgreedPlan | None) -> Run:
    number = None

    def cast(run: Run) -> None:
        nonlocal number
        number = run.number
        render.line(f"Casting run {number}…")
        record = client.config.home / "ui.json"
        if render.is_interactive() and record.exists():  # its address has a token: a terminal gets it, and no log
            with unless_held(f"{record}.lock") as lock, contextlib.suppress(OSError, ValueError, LookupError):
                if lock is None:
                    render.line(f"  {json.loads(record.read_text())['address']}runs/{number}")

    try:
        with live_views.waiting() as waiting, live_views.progress() as progress:
            return client.runs.launch(prepared, Talk(progress, waiting, render.warning), cast, agreed)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and number is not None:
            known = client.runs.known(number)
            render.line("")
            render.line(f"run {number} {'was not' if known.final else 'may not have been'} handed over")
            render.line(f"  remoterun info {number}   shows what became of it")
        raise


def _show_plan(client: Client, prepared: Prepared, plan: Plan | None, new: NewBucket | None) -> None:
    from remoterun.cli.render.machine_views import plan_lines
    from remoterun.client.runs.reruns import SavedTree

    request, source, type_ = prepared.request, prepared.source, prepared.machine
    for mount in request.mounts:
        if mount.local:
            render.out(f"upload     {render.name(mount.local)}, as {mount.resource}")
            continue
        try:
            client.files.list(mount.resource)
        except HostError as error:
            render.warning(f"{mount.resource} was not looked for: {error.message}")
    render.out(f"command    {request.command}")
    where = "rented" if plan is not None else type_.host or "this machine"
    if type_.pool:
        render.out(f"machine    {type_.name}: the first of {', '.join(type_.pool)} that is free")
    else:
        count = type_.gpus if request.gpus is None else request.gpus
        gpus = "all of its GPUs" if count == ALL_GPUS else counted(count, "GPU")
        render.out(f"machine    {type_.name} ({where}), engine {type_.engine}, {gpus}")
    if plan is not None:
        if plan.instead is not None:
            render.out_text(f"{'':<11}{plan.instead}", hang=11)
        for head, text in plan_lines(plan, new):
            render.out_text(f"{head:<11}{text}", hang=11)
    if source is not None:
        starting = f", starting in {source.workdir}" if source.workdir else ""
        if isinstance(prepared.tree, SavedTree):
            kept = prepared.tree.manifest
            sent = f"{render.files(kept.file_count)}, {render.size(kept.size)}: {prepared.tree.title}"
        else:
            sent = f"{render.files(len(source.files))}, {render.size(source.total_size())}, of {source.root}"
        render.out(f"source     {sent}{starting}")
        if source.commit:
            dirty = " with uncommitted changes" if source.dirty else ""
            render.out(f"commit     {source.commit[:12]} ({source.branch or 'no branch'}){dirty}")
    else:
        render.out("source     none")
    if prepared.notify:
        render.out(f"notify     {', '.join(prepared.notify)}")
    if prepared.choice.framework is not None:
        render.out(f"framework  {framework_text(prepared.choice)}")
    if request.requirements:
        render.out(f"packages   {counted(len(request.requirements.splitlines()), 'line')} of requirements")
    for name in options_in(RunRequest):
        words = [word for _, *values in OPTIONS[name].words(request) for word in values or ["yes"]]
        if words and name not in ("gpus", "framework", "notify"):
            render.out(f"{name.replace('_', ' '):<10} {', '.join(words)}")


def _numbers(client: Client, runs: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(client.runs.known(run).number for run in runs)
