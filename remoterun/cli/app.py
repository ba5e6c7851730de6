"""The commands and their options. Each parses, makes one call of the client, and renders."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun import __version__
from remoterun.cli import complete, render
from remoterun.cli.connect import client as connect
from remoterun.cli.manual import Command
from remoterun.errors import HostError, NotFound, RemoterunError, UsageError
from remoterun.model import (
    Mount,
    Resource,
    RunRequest,
    check_upload_name,
    command_text,
    parse_duration,
    parse_variable,
)

if TYPE_CHECKING:
    from remoterun.client import Client
    from remoterun.model import Run
    from remoterun.source import Source

app = typer.Typer(
    name="remoterun",
    help="Put `remoterun run` in front of your command: it runs on a machine you own.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
machines_app = typer.Typer(help="List, add and remove machines.", rich_markup_mode=None, invoke_without_command=True)
app.add_typer(machines_app, name="machines")

RunNumber = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's number, or `last`.", autocompletion=complete.run_numbers)
]
RunNumbers = Annotated[
    list[str], typer.Argument(metavar="RUN", help="Run numbers, or `last`.", autocompletion=complete.run_numbers)
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Machine = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--machine-type",
        metavar="NAME",
        help="Where: local, a machine of `remoterun machines`, an alias of ~/.ssh/config, or user@host.",
        autocompletion=complete.machine_types,
    ),
]


def _example(text: str) -> str:
    return "\b\nExample:\n  " + text.replace("\n", "\n  ")


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        render.out(f"remoterun {__version__}")
        raise typer.Exit


# -- run


@app.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    epilog=_example('remoterun run -m uploads/doom:data "python -m trainer.train --data_dir=./data"'),
)
def run(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="The command; all that follows its first word is its own.")
    ],
    machine: Machine = None,
    mount: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--mount",
            metavar="RESOURCE[:PATH]",
            help="Make an upload, or a run's outputs, readable at PATH. Repeat for more.",
            autocompletion=complete.resources,
        ),
    ] = [],  # noqa: B006
    env: Annotated[
        list[str], typer.Option("-e", "--env", metavar="K=V", help="An environment variable. Repeat for more.")
    ] = [],  # noqa: B006
    pip: Annotated[
        list[str], typer.Option("--pip", metavar="PACKAGE", help="A Python package to install. Repeat for more.")
    ] = [],  # noqa: B006
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
        str | None, typer.Option("-d", "--description", metavar="TEXT", help="Default: the commit's subject.")
    ] = None,
    label: Annotated[list[str], typer.Option("--label", metavar="LABEL", help="Repeat for more.")] = [],  # noqa: B006
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="Stop the run after 90s, 10m, 2h; a plain number is minutes."),
    ] = None,
    background: Annotated[
        bool, typer.Option("-b", "--background", help="Hand the run over and return; no log.")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", "-f", "--force", help="Ask nothing: go on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run and sent; do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With -b: the run as JSON on stdout.")] = False,
) -> int:
    """Run a command on a machine; see its log here, keep its files.

    The exit status is the command's own; 125 when remoterun itself failed.
    """
    from remoterun.cli.follow import follow

    if json and not background:
        raise UsageError("--json goes with -b", hint="without -b, stdout is the command's own")
    request = RunRequest(
        command=_command(command),
        mounts=tuple(Mount.parse(text) for text in mount),
        env=tuple(parse_variable(text) for text in env),
        pip=tuple(pip),
        requirements=_requirements(pip_req),
        apt=tuple(_apt_name(name) for name in apt),
        image=image,
        description=description,
        labels=tuple(label),
        timeout=parse_duration(timeout) if timeout is not None else None,
    )
    with connect() as client:
        client.machine(machine)
        source = _source(client, commit_ref, include_untracked, no_git, yes or dry_run)
        try:
            if dry_run:
                _show_plan(client, request, source, machine)
                return 0
            submitted = _submit(client, request, source, machine)
        finally:
            if source is not None:
                source.close()
        if background:
            if json:
                render.out_json(submitted.record())
            else:
                render.out(str(submitted.number))
                render.line(f"  remoterun logs {submitted.number}   shows its log, live")
            return 0
        return follow(client, submitted, client.follow(submitted.number), from_start=True)


def _submit(client: Client, request: RunRequest, source: Source | None, machine: str | None) -> Run:
    number = None

    def cast(run: Run) -> None:
        nonlocal number
        number = run.number
        render.line(f"Casting run {number}…")

    try:
        with render.progress() as progress:
            return client.submit(request, source, machine, progress, cast)
    except KeyboardInterrupt:
        if number is not None:
            known = client.registry.run(number)
            render.line("")
            render.line(f"run {number} {'was not' if known.final else 'may not have been'} handed over")
            render.line(f"  remoterun info {number}   shows what became of it")
        raise


def _command(words: list[str]) -> str:
    text = command_text(words)
    if not text.strip():
        raise UsageError("the command is empty", hint='remoterun run "echo hello"')
    if "\0" in text:
        raise UsageError("the command holds a zero byte", hint='remoterun run "echo hello"')
    return text


def _requirements(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"`{render.name(str(file))}` is no UTF-8 text", hint="--pip-req requirements.txt")
    except OSError as error:
        raise UsageError(
            f"`{render.name(str(file))}` can't be read: {error.strerror}", hint="--pip-req requirements.txt"
        )


def _apt_name(name: str) -> str:
    from remoterun.agent.engines.environment import APT_NAME

    if not APT_NAME.match(name):
        raise UsageError(f"`{name}` is no name of a Debian package", hint="--apt ffmpeg --apt libsndfile1")
    return name


def _source(client: Client, commit_ref: str | None, untracked: bool, no_git: bool, yes: bool) -> Source | None:
    """What is sent, after the questions. None: no files."""
    from remoterun.source import NoRepository

    if no_git and (commit_ref or untracked):
        raise UsageError(
            "--no-git does not go with -c or --include-untracked", hint="--no-git sends the folder as it is"
        )
    try:
        source = client.source(commit_ref=commit_ref, include_untracked=untracked, no_git=no_git)
    except NoRepository as error:
        if commit_ref:
            raise
        if not yes and not render.person_there():
            raise UsageError(error.message, hint="--no-git sends this folder; -y goes on without files")
        render.line("There is no git repository here: no files of yours will be available in this run.")
        if not yes and not render.ask("Continue? (--no-git would send this folder)", default=True):
            raise KeyboardInterrupt
        return None
    for text in source.warnings:
        render.warning(text)
    if source.dirty and not commit_ref:
        render.line("Uncommitted changes are included.")
    if source.untracked and not untracked and not no_git and not commit_ref:
        _ask_about_untracked(source, yes)
    return source


def _ask_about_untracked(source: Source, yes: bool) -> None:
    count = len(source.untracked)
    render.line(f"{count} untracked file{'' if count == 1 else 's'} will not be available in this run:")
    for name in source.untracked[:5]:
        render.line(f"  {render.name(name)}")
    if count > 5:
        render.line(f"  … and {count - 5} more")
    if not yes and render.person_there() and not render.ask("Continue? (--include-untracked sends them)", default=True):
        raise KeyboardInterrupt


def _show_plan(client: Client, request: RunRequest, source: Source | None, machine: str | None) -> None:
    type_ = client.machine(machine)
    client.check(request, source, type_)
    mounts = [_mount_plan(client, mount) for mount in request.mounts]
    render.out(f"command    {render.clean(request.command)}")
    render.out(f"machine    {type_.name} ({type_.host or 'this machine'}), engine {type_.engine}, {type_.gpus} GPUs")
    if source is not None:
        where = f"{source.root}" + (f", starting in {source.workdir}" if source.workdir else "")
        render.out(f"source     {render.files(len(source.files))}, {render.size(source.total_size())}, of {where}")
        if source.commit:
            dirty = " with uncommitted changes" if source.dirty else ""
            render.out(f"commit     {source.commit[:12]} ({source.branch or 'no branch'}){dirty}")
    else:
        render.out("source     none")
    for text in mounts:
        render.out(f"mount      {text}")
    extras = [*request.apt, *request.pip] + (["requirements"] if request.requirements else [])
    render.out(f"packages   {', '.join(extras) or 'those of the environment'}")
    render.out(f"image      {request.image or 'the bundled one on ' + type_.base_image}")


def _mount_plan(client: Client, mount: Mount) -> str:
    plan = f"{render.name(str(mount.resource))} at {render.name(mount.path)}"
    try:
        client.list_files(mount.resource)
    except HostError as error:
        plan += f" (not looked for: {error.message})"
    return plan


# -- looking at runs


@app.command(cls=Command, epilog=_example("remoterun logs 16 -n 20"))
def logs(
    run: RunNumber,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", "-f", help="Go on live until the run ends; or show what is there.")
    ] = True,
    tail: Annotated[
        int | None, typer.Option("-n", "--tail", metavar="LINES", help="Only the last lines.", min=0)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what was written in the last 90s, 10m, 2h.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="The time before each line.")] = False,
) -> int:
    """Show a run's log, from the start, live until it ends.

    Following, the exit status is the command's own.
    """
    from remoterun.cli.follow import follow as show

    begin = time.time() - parse_duration(since) if since is not None else None
    with connect() as client:
        known = client.registry.run(_number(run))
        items = client.follow(
            known.number,
            live=follow,
            tail=tail,
            since=begin,
            timed=timestamps,
        )
        if follow:
            return show(client, known, items, timestamps=timestamps)
        if not _print_log(items, timestamps):
            known = client.registry.run(known.number)
            render.line(
                f"run {known.number} has written nothing{'' if known.final else ' yet'}: it is {known.state.value}"
            )
        return 0


def _print_log(items: Any, timestamps: bool) -> bool:
    """Whether there was anything to print."""
    from remoterun.cli.follow import Stamp
    from remoterun.client import LogBytes

    stamp = Stamp()
    anything = False
    for item in items:
        if isinstance(item, LogBytes):
            anything = True
            render.out_bytes(stamp.apply(item) if timestamps else item.data)
    return anything


@app.command(cls=Command, epilog=_example("remoterun ps --label night"))
def ps(
    number: Annotated[int, typer.Option("-n", "--number", metavar="N", help="How many.", min=1)] = 20,
    every: Annotated[bool, typer.Option("-a", "--all", help="All of them.")] = False,
    label: Annotated[list[str], typer.Option("--label", metavar="LABEL", help="Only with this label.")] = [],  # noqa: B006
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="More columns.")] = False,
    json: Json = False,
) -> None:
    """List runs, newest last, as their machines know them."""
    with connect() as client:
        runs = client.runs(None if every else number, label)
    if json:
        render.out_json([run.record() for run in runs])
    elif runs:
        render.runs_table(runs, verbose)
    elif label:
        render.line(f"No run has the label {' or '.join(f'`{name}`' for name in label)}")
    else:
        render.line('There is no run yet. Start one: remoterun run "echo hello"')


@app.command(cls=Command, epilog=_example("remoterun info last"))
def info(run: RunNumber, json: Json = False) -> None:
    """Show all that is known of a run."""
    with connect() as client:
        known, details = client.details(_number(run))
    if json:
        render.out_json(
            {**known.record(), "spec": details["spec"], "events": details["events"], "folder": details["folder"]}
        )
    else:
        render.run_info(known, details)


@app.command(cls=Command, epilog=_example("remoterun stop 16"))
def stop(
    runs: RunNumbers,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="How long it may take before it is killed: 30s, 5m.")
    ] = "10s",
) -> int:
    """End runs; their outputs are saved. SIGTERM, some time, then SIGKILL."""
    seconds = parse_duration(grace)
    with connect() as client:
        return _end_each(client, runs, lambda number: client.stop(number, seconds), "stopping; its outputs are saved")


@app.command(cls=Command, epilog=_example("remoterun kill 16"))
def kill(runs: RunNumbers) -> int:
    """End runs at once; their outputs are not saved."""
    with connect() as client:
        return _end_each(client, runs, client.kill, "killed; its outputs are not saved")


def _end_each(client: Client, runs: list[str], end: Any, words: str) -> int:
    status = 0
    for text in runs:
        number = _number(text)
        try:
            before = client.registry.run(number)
            known, asked = end(number)
        except RemoterunError as error:
            if len(runs) == 1:
                raise
            render.error(error)
            status = max(status, error.exit_status)
            continue
        if asked:
            again = " already" if before.stopping else ""
            render.line(
                f"run {known.number} is{again} {words}" if "stopping" in words else f"run {known.number} is {words}"
            )
        else:
            render.line(f"run {known.number} has ended already: {render.state_text(known)}")
    return status


# -- files


@app.command(cls=Command, epilog=_example("remoterun upload data/input.txt --name doom"))
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")],
    name: Annotated[
        str | None, typer.Option("-n", "--name", metavar="NAME", help="Default: the name of the folder.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="MACHINE",
            help="Where to keep it. Default: the default machine.",
            autocompletion=complete.machine_types,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Send a file or a folder as a named data set. What the machine has already is not sent again."""
    _check_there(path)
    chosen = _upload_name(path) if name is None else name
    check_upload_name(chosen)
    with connect() as client:
        try:
            with render.progress() as progress:
                done = client.upload(path, chosen, to, progress)
        except KeyboardInterrupt:
            render.line("")
            render.line("Not finished. What has arrived stays there; to go on:")
            where = f" --to {to}" if to else ""
            render.line(f"  remoterun upload {render.word(str(path))} --name {chosen}{where}")
            raise
    render.uploaded(done, json)


def _check_there(path: Path) -> None:
    if not os.path.exists(path):
        what = "leads nowhere" if path.is_symlink() else "is not there"
        raise NotFound(f"`{render.name(str(path))}` {what}", hint="a path of this machine is expected")


def _upload_name(path: Path) -> str:
    """The name for what is uploaded: a folder's own; for a file a person is asked, as Spell did."""
    from remoterun.transfer import base_name

    if path.is_dir():
        return base_name(path)
    parent = base_name(path.resolve().parent)
    if not render.person_there():
        return parent
    file = render.name(path.name)
    render.line(f"{file} will be at uploads/NAME/{file}")
    return render.ask_text("Name of the upload?", parent)


@app.command(cls=Command, epilog=_example("remoterun ls runs/15/models"))
def ls(
    resource: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help="uploads, runs, uploads/NAME[/path], runs/N[/path].",
            autocompletion=complete.resources,
        ),
    ] = "",
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Every file below, not one level.")] = False,
    json: Json = False,
) -> None:
    """List uploads, runs, or the files in one. A run's files can be listed while it runs."""
    with connect() as client:
        parsed = Resource.parse(resource.rstrip("/"), whole_kind=True) if resource.strip("/") else Resource("uploads")
        if parsed.kind == "runs" and not parsed.name:
            runs = [run for run in client.runs() if run.outputs or not run.final]
            render.run_resources(runs, json)
        elif not parsed.name:
            render.uploads(client.uploads(), json)
        else:
            manifest, about = client.list_files(parsed)
            render.manifest(str(parsed), manifest, about, recursive, json)


@app.command(cls=Command, epilog=_example("remoterun cp runs/15/models\nremoterun cp more.txt uploads/doom/"))
def cp(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A resource, or (upwards) a local path.", autocompletion=complete.resources),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="A local folder, or uploads/NAME/.")] = ".",
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite what exists.")] = False,
    ignore: Annotated[bool, typer.Option("-i", "--ignore", help="Keep what exists.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="MACHINE", help="Where to make a new upload.", autocompletion=complete.machine_types
        ),
    ] = None,
) -> None:
    """Copy files of a run or an upload here, or files into an upload.

    Of a folder the contents land in DST; of a file, the file. With uploads/NAME/ as DST it goes upwards.
    """
    if force and ignore:
        raise UsageError("-f overwrites and -i keeps: choose one", hint="remoterun cp --help")
    with connect() as client:
        if Resource.is_one(source):
            if Resource.is_one(target) and not target.startswith("./"):
                raise UsageError(
                    "both sides are resources: one of them has to be here", hint=f"remoterun cp {source} ."
                )
            with render.progress() as progress:
                fetched = client.copy(source, Path(target), _conflict(force, ignore), progress)
            render.fetched(fetched)
        elif Resource.is_one(target):
            path = Path(source)
            _check_there(path)
            with render.progress() as progress:
                done = client.copy_up(path, Resource.parse(target), to, progress)
            render.uploaded(done, False)
        else:
            raise UsageError(
                "neither side is a resource",
                hint="remoterun cp runs/N[/path] [FOLDER], or remoterun cp PATH uploads/NAME/",
            )


def _conflict(force: bool, ignore: bool) -> Any:
    from remoterun.transfer import refuse

    if force or ignore:
        return lambda path: force
    if not render.person_there():
        return refuse
    return lambda path: render.ask(f"{render.name(path)} exists. Overwrite it? (-f overwrites all)", default=False)


@app.command(cls=Command, epilog=_example("remoterun rm runs/12 uploads/old"))
def rm(
    resources: Annotated[
        list[str],
        typer.Argument(metavar="RESOURCE", help="Whole uploads and runs.", autocompletion=complete.resources),
    ],
) -> int:
    """Delete uploads, and runs that have ended, with all they hold."""
    parsed = [Resource.parse(text) for text in resources]
    status = 0
    with connect() as client:
        for resource in parsed:
            try:
                if not client.remove(resource):
                    raise NotFound(f"there is no {resource}", hint=f"remoterun ls {resource.kind}")
                render.line(f"removed {resource}")
            except RemoterunError as error:
                if len(parsed) == 1:
                    raise
                render.error(error)
                status = max(status, error.exit_status)
    return status


# -- machines


@machines_app.callback()
def machines(context: typer.Context, json: Json = False) -> None:
    """List the machines that can be named after -t."""
    if context.invoked_subcommand is None:
        _list_machines(json)


@machines_app.command("list", cls=Command, epilog=_example("remoterun machines list --json"))
def machines_list(json: Json = False) -> None:
    """List the machines that can be named after -t."""
    _list_machines(json)


def _list_machines(json: bool) -> None:
    from remoterun import config as configuration
    from remoterun.machines import listing, ssh_aliases

    config = configuration.load()
    render.machines(listing(config), config.default, ssh_aliases(config), json)


@machines_app.command(
    "add", cls=Command, epilog=_example("remoterun machines add k80 me@gpu.example.org --gpus 1 --default")
)
def machines_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What -t will name.")],
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="user@host[:port], an alias of ~/.ssh/config, or `local`.")
    ],
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", help="GPUs that a run on it gets.", min=0)] = 0,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="auto, docker, podman or process.")] = "auto",
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots", metavar="N", help="Runs without GPUs at once. Default: half the cores, at least 2.", min=1
        ),
    ] = None,
    base_image: Annotated[
        str | None,
        typer.Option("--base-image", metavar="IMAGE", help="Under the bundled image. Default: python:3.12-slim."),
    ] = None,
    home: Annotated[
        str | None, typer.Option("--home", metavar="FOLDER", help="Where it keeps its files. Default: ~/.remoterun.")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", metavar="PROGRAM", help="Python >= 3.8 there. Default: python3.")
    ] = None,
    connect_timeout: Annotated[
        float | None, typer.Option("--connect-timeout", metavar="SECONDS", help="Default: 10.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the default machine.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a machine of that name.")] = False,
) -> None:
    """Give a machine a name. It is tried with `remoterun doctor NAME`."""
    from remoterun import config as configuration
    from remoterun.hosts.ssh_config import SSHTarget

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"`{name}` is no name for a machine: letters, digits, `.`, `_` and `-`",
            hint="remoterun machines add box user@host",
        )
    if engine not in configuration.ENGINES:
        raise UsageError(f"there is no engine `{engine}`", hint="--engine " + "|".join(configuration.ENGINES))
    if connect_timeout is not None and not 0 < connect_timeout < 86400:
        raise UsageError(f"`{connect_timeout:g}` seconds are no time to connect in", hint="--connect-timeout 10")
    if host != "local":
        SSHTarget.parse(host)
    settings: dict[str, Any] = {} if host == "local" else {"host": host}
    options = {
        "gpus": gpus or None,
        "engine": engine if engine != "auto" else None,
        "slots": slots,
        "base_image": base_image,
        "home": home,
        "python": python,
        "connect_timeout": connect_timeout,
    }
    settings.update({key: value for key, value in options.items() if value is not None})
    config = configuration.load()
    configuration.add_machine(config, name, settings, replace=force, make_default=default)
    render.line(f"machine `{name}` is in {config.file}" + ("; it is the default" if default else ""))
    render.line(f"  remoterun doctor {name}   tries it")


@machines_app.command("remove", cls=Command, epilog=_example("remoterun machines remove k80"))
def machines_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A machine.", autocompletion=complete.machine_types)],
) -> None:
    """Forget a machine. What it holds stays there."""
    from remoterun import config as configuration

    configuration.remove_machine(configuration.load(), name)
    render.line(f"machine `{name}` is forgotten; what it holds stays there")


@machines_app.command("default", cls=Command, epilog=_example("remoterun machines default k80"))
def machines_default(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A machine.", autocompletion=complete.machine_types)],
) -> None:
    """Make a machine the one that is used without -t."""
    from remoterun import config as configuration
    from remoterun.machines import resolve

    config = configuration.load()
    chosen = resolve(name, config)
    configuration.set_default(config, chosen.name)
    render.line(f"the default machine is `{chosen.name}`")


@app.command(cls=Command, epilog=_example("remoterun doctor k80"))
def doctor(
    machine: Annotated[
        str | None,
        typer.Argument(metavar="MACHINE", help="Default: the default machine.", autocompletion=complete.machine_types),
    ] = None,
    json: Json = False,
) -> int:
    """Try a machine, and say how to mend what doesn't work.

    Link, host key, python3, Docker, GPU and NVIDIA's toolkit, disk, clock. The exit status is 1 if there is a fault.
    """
    from remoterun.cli.doctor import examine

    with connect() as client:
        type_ = client.machine(machine)
        checks = examine(client, type_)
    render.checks(type_, checks, json)
    return 0 if all(check["ok"] is not False for check in checks) else 1


def _number(text: str) -> str:
    from remoterun.model import LAST

    number = text.removeprefix("runs/").rstrip("/")
    if number != LAST and not number.isdecimal():
        raise UsageError(f"`{text}` is no run number", hint="remoterun ps")
    return number
