"""`run`: what is sent, the questions before it, and following it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remoterun import project as projects
from remoterun.agent.shared.engine_names import CAPABILITIES
from remoterun.cli import complete, render
from remoterun.cli.app import Machine, Quiet, app, example, run_number
from remoterun.cli.connect import client as connect
from remoterun.cli.manual import Command
from remoterun.cli.packages import framework_text, requirements_of, with_packages
from remoterun.cli.renting import agree
from remoterun.cli.run_options import (
    Attempts,
    Background,
    MaxCost,
    Mounts,
    Notify,
    Pip,
    RunAsJson,
    Timeout,
    Variables,
)
from remoterun.cli.secrets import hint_at_secrets
from remoterun.cli.sending import Sending, source_to_send, with_untracked
from remoterun.cli.standard_input import standard_input
from remoterun.errors import HostError, UsageError
from remoterun.model import ALL_GPUS, Mount, RunRequest
from remoterun.parsing import (
    VARIABLE,
    command_text,
    parse_duration,
    parse_gpus,
    parse_package,
    parse_port,
    parse_secret,
    parse_variable,
)
from remoterun.sizes import counted

if TYPE_CHECKING:
    from remoterun.client import Client, NewBucket, Plan, Prepared
    from remoterun.model import MachineType, Run


@app.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=example('remoterun run -m uploads/doom:data "python -m trainer.train --data_dir=./data"'),
)
def run(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="The command; all that follows its first word is its own.")
    ],
    machine: Machine = None,
    mount: Mounts = [],  # noqa: B006
    env: Variables = [],  # noqa: B006
    secret: Annotated[
        list[str],
        typer.Option(
            "--secret",
            metavar="NAME[=VARIABLE]",
            help="A secret that `remoterun secret set` keeps, as a variable. Repeat for more.",
            autocompletion=complete.secrets,
        ),
    ] = [],  # noqa: B006
    pip: Pip = [],  # noqa: B006
    pip_req: Annotated[
        Path | None, typer.Option("--pip-req", metavar="FILE", help="A requirements file to install.")
    ] = None,
    apt: Annotated[
        list[str], typer.Option("--apt", metavar="PACKAGE", help="A Debian package to install. Repeat for more.")
    ] = [],  # noqa: B006
    image: Annotated[
        str | None,
        typer.Option("--image", "--from", metavar="IMAGE", help="A Docker image instead of the bundled one."),
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(
            "--framework",
            metavar="NAME",
            help="What the environment has: none, python, tensorflow. Default: TensorFlow if the code imports it.",
            autocompletion=complete.frameworks,
        ),
    ] = None,
    commit_ref: Annotated[
        str | None, typer.Option("-c", "--commit-ref", metavar="REF", help="Run this commit, not the work tree.")
    ] = None,
    include_untracked: Annotated[
        bool, typer.Option("--include-untracked", help="Send files that git does not track, too.")
    ] = False,
    no_git: Annotated[
        bool, typer.Option("--no-git", help="Send the current folder, less .remoterunignore; git is not asked.")
    ] = False,
    description: Annotated[
        str | None, typer.Option("-d", "--description", metavar="TEXT", help="For `ps`. Default: the commit's subject.")
    ] = None,
    label: Annotated[
        list[str],
        typer.Option(
            "--label",
            metavar="LABEL",
            help="A label, for `ps --label`. Repeat for more.",
            autocompletion=complete.labels,
        ),
    ] = [],  # noqa: B006
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="N", help="GPUs that it gets, or `all`. Default: the machine's setting."),
    ] = None,
    after: Annotated[
        list[str],
        typer.Option(
            "--after",
            metavar="RUN",
            help="Start when this run, on the same machine, has completed. Repeat for more.",
            autocompletion=complete.active_runs,
        ),
    ] = [],  # noqa: B006
    after_any: Annotated[
        list[str],
        typer.Option(
            "--after-any",
            metavar="RUN",
            help="The same, however that run ends. Repeat for more.",
            autocompletion=complete.active_runs,
        ),
    ] = [],  # noqa: B006
    timeout: Timeout = None,
    notify: Notify = [],  # noqa: B006
    spot: Annotated[
        bool, typer.Option("--spot", help="Rent a cheaper host, which may be taken away; see --attempts.")
    ] = False,
    attempts: Attempts = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            "--max-hours", metavar="H", help="End it after so long on rented hosts, all attempts together. Default: 24."
        ),
    ] = None,
    max_cost: MaxCost = None,
    port: Annotated[
        list[str],
        typer.Option(
            "--port", metavar="PORT[:LOCAL]", help="Reach this port of the run at 127.0.0.1 here. Repeat for more."
        ),
    ] = [],  # noqa: B006
    background: Background = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Send what comes here on standard input; the command reads it there.")
    ] = False,
    split: Annotated[
        bool,
        typer.Option("--split", help="What the command writes to stderr comes on stderr here, not on stdout."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("-y", "--yes", "-f", "--force", help="Ask nothing: send what the command names, and go on.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run and sent; do nothing.")] = False,
    quiet: Quiet = False,
    json: RunAsJson = False,
) -> int:
    """Run a command on a machine; see its log here, keep its files.

    The exit status is the command's own; 125 when remoterun itself failed.
    """
    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    project = projects.find(Path.cwd())
    typed = machine
    if project.file is not None:
        machine, framework, timeout = (
            machine or project.machine,
            framework or project.framework,
            timeout or project.timeout,
        )
        pip_req = pip_req or (Path(project.requirements) if project.requirements else None)
        mount, notify = project.with_mounts(mount), notify or list(project.notify)
        pip, apt = projects.merged(project.pip, pip), projects.merged(project.apt, apt)
        port, label = projects.merged(project.ports, port), projects.merged(project.labels, label)
        render.line(f"Settings of {render.name(os.path.relpath(project.file))} hold, unless others are typed.")
    request = RunRequest(
        command=command_of(command),
        mounts=tuple(Mount.parse(text) for text in mount),
        env=tuple(parse_variable(text) for text in env),
        secrets=tuple(parse_secret(text) for text in secret),
        pip=tuple(map(parse_package, pip)),
        requirements=requirements_of(pip_req),
        apt=tuple(apt_name(name) for name in apt),
        image=image,
        framework=framework,
        description=description,
        labels=tuple(label),
        timeout=parse_duration(timeout) if timeout is not None else None,
        options=_options(
            {
                "-t": machine,
                "--pip-req": pip_req,
                "--image": image,
                "--framework": framework,
                "-c": commit_ref,
                "--gpus": gpus,
                "--timeout": timeout,
                "--attempts": attempts,
                "--max-hours": max_hours,
                "--max-cost": max_cost,
            },
            {
                "-m": mount,
                "-e": [text.partition("=")[0] for text in env],
                "--secret": secret,
                "--pip": pip,
                "--apt": apt,
                "--label": label,
                "--port": port,
                "--notify": [word for word in notify if VARIABLE.fullmatch(word)],
            },
            {
                "--include-untracked": include_untracked,
                "--no-git": no_git,
                "--split": split,
                "-y": yes,
                "--spot": spot,
            },
        ),
        split=split,
        spot=spot,
        attempts=attempts,
        max_hours=above_zero("--max-hours", max_hours),
        max_cost=above_zero("--max-cost", max_cost),
        gpus=parse_gpus(gpus) if gpus is not None else None,
        ports=tuple(parse_port(text) for text in port),
        notify=tuple(word for word in notify if word != "none") if notify else None,
    )
    with standard_input(stdin) as read, connect() as client:
        request = replace(request, stdin=read)
        hint_at_secrets(client, env)
        found = client.machines.get(machine)  # refuse a wrong name before anything is asked
        if yes and not dry_run and found.rental is not None and typed is None and project.file and project.machine:
            raise UsageError(
                f"`{os.path.relpath(project.file)}` names `{machine}`, which is rented: -y agrees to what is typed"
                " only",
                hint=f"remoterun run -t {machine} -y …",
            )
        request = replace(request, after=_numbers(client, after), after_any=_numbers(client, after_any))
        client.secrets.check(name for _, name in request.secrets)
        client.notifications.names(request.notify)
        sending = Sending(commit_ref, include_untracked, no_git, yes or dry_run)
        submitted = send_and_launch(client, request, machine, sending, yes, dry_run)
        return follow_or_report(client, submitted, request, background, json) if submitted is not None else 0


def send_and_launch(
    client: Client, request: RunRequest, machine: str | None, sending: Sending, yes: bool, dry_run: bool = False
) -> Run | None:
    """The run, handed over with what is sent of the current folder; None if it was only to be shown."""
    source = source_to_send(request, sending)
    try:
        prepared = client.runs.prepare(request, source, machine)
        if source is not None and not sending.commit_ref:
            found, source = source, with_untracked(source, request.command, list(prepared.places), sending)
            if source is not found:
                prepared = client.runs.prepare(request, source, machine)
        prepared = with_packages(client, request, prepared, machine, sending)
        return launch(client, prepared, yes, dry_run)
    finally:
        if source is not None:
            source.close()


def launch(client: Client, prepared: Prepared, yes: bool, dry_run: bool) -> Run | None:
    """The run, handed over; None if it was only to be shown what that would be. Asks before anything is rented."""
    plan = client.hosts.plan(prepared.machine)
    new = client.hosts.bucket() if plan is not None else None
    if dry_run:
        _show_plan(client, prepared, plan, new)
        return None
    if plan is not None:
        agree(client, plan, new, yes)
    return _submit(client, prepared, plan)


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
    return 0


def _submit(client: Client, prepared: Prepared, plan: Plan | None) -> Run:
    number = None
    steps = render.Steps()

    def waiting(text: str) -> None:
        if text:
            steps.at(f"Waiting for {text}")
        else:
            steps.clear()

    def cast(run: Run) -> None:
        nonlocal number
        number = run.number
        render.line(f"Casting run {number}…")

    try:
        with render.progress() as progress:
            return client.runs.launch(prepared, None, progress, cast, plan, waiting, render.warning)
    except BaseException as error:
        steps.abandon()
        if isinstance(error, KeyboardInterrupt) and number is not None:
            known = client.registry.run(number)
            render.line("")
            render.line(f"run {number} {'was not' if known.final else 'may not have been'} handed over")
            render.line(f"  remoterun info {number}   shows what became of it")
        raise


def above_zero(option: str, number: float | None) -> float | None:
    if number is not None and not 0 < number < 1e6:
        raise UsageError(f"`{number:g}` is not possible for {option}", hint=f"{option} 2.5")
    return number


def _options(single: Mapping[str, object], repeated: Mapping[str, list[str]], flags: Mapping[str, bool]) -> str:
    """As they were typed, but for the values of variables, which may be secrets."""
    words = [word for name, value in single.items() if value is not None for word in (name, str(value))]
    words += [word for name, values in repeated.items() for value in values for word in (name, value)]
    return shlex.join(words + [name for name, given in flags.items() if given])


def command_of(words: list[str]) -> str:
    text = command_text(words)
    if not text.strip():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    if "\0" in text:
        raise UsageError("the command holds a zero byte", hint='remoterun run "echo hello"')
    return text


def apt_name(name: str) -> str:
    from remoterun.agent.shared.spec import APT_NAME

    if not APT_NAME.match(name):
        raise UsageError(f"`{name}` is not a valid name of a Debian package", hint="--apt ffmpeg --apt libsndfile1")
    return name


def _show_plan(client: Client, prepared: Prepared, plan: Plan | None, new: NewBucket | None) -> None:
    from remoterun.client.again import KeptTree

    request, source, type_ = prepared.request, prepared.source, prepared.machine
    mounts = [_mount_plan(client, mount) for mount in request.mounts]
    render.out(f"command    {request.command}")
    where = "rented" if plan is not None else type_.host or "this machine"
    if type_.pool:
        render.out(f"machine    {type_.name}: the first of {', '.join(type_.pool)} that is free")
    else:
        render.out(f"machine    {type_.name} ({where}), engine {type_.engine}, {_gpus(request, type_)}")
    if plan is not None:
        if plan.instead is not None:
            render.out(f"           {plan.instead}")
        for head, text in render.plan_lines(plan, new):
            render.out(f"{head:<11}{text}")
    if source is not None:
        starting = f", starting in {source.workdir}" if source.workdir else ""
        if isinstance(prepared.tree, KeptTree):
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
    for text in mounts:
        render.out(f"mount      {text}")
    if request.env:
        render.out(f"variables  {', '.join(name for name, _ in request.env)}")
    if request.secrets:
        render.out(f"secrets    {', '.join(render.variables(dict(request.secrets)))}")
    told = client.notifications.names(request.notify)
    if told:
        render.out(f"notify     {', '.join(told)}")
    extras = [*request.apt, *request.pip] + (["requirements"] if request.requirements else [])
    if prepared.choice.framework is not None:
        render.out(f"framework  {framework_text(prepared.choice)}")
    render.out(f"packages   {', '.join(extras) or 'those of the environment'}")
    known = CAPABILITIES.get(type_.engine)
    bundled = f"the bundled one on {type_.base_image}" if known is None or known.images else f"none: {known.title}"
    render.out(f"image      {request.image or bundled}")


def _numbers(client: Client, runs: list[str]) -> tuple[int, ...]:
    return tuple(client.registry.run(run_number(text)).number for text in runs)


def _gpus(request: RunRequest, machine: MachineType) -> str:
    count = machine.gpus if request.gpus is None else request.gpus
    return "all of its GPUs" if count == ALL_GPUS else counted(count, "GPU")


def _mount_plan(client: Client, mount: Mount) -> str:
    plan = f"{render.name(str(mount.resource))} at {render.name(mount.path)}"
    try:
        client.files.list(mount.resource)
    except HostError as error:
        plan += f" (not looked for: {error.message})"
    return plan
