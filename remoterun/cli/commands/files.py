"""Files of uploads and runs: `upload`, `ls`, `cp`, `rm`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Json, app, example
from remoterun.cli.connect import client as connect
from remoterun.cli.manual import Command
from remoterun.cli.renting import with_bucket
from remoterun.errors import NotFound, RemoterunError, SomeDamaged, UsageError
from remoterun.model import Resource, check_upload_name

if TYPE_CHECKING:
    from remoterun.client import Client


@app.command(cls=Command, epilog=example("remoterun upload data/input.txt --name doom"))
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
        with_bucket(client, to)
        try:
            with render.progress(json) as progress:
                done = client.uploads.upload(path, chosen, to, progress)
        except KeyboardInterrupt:
            where = f" --to {to}" if to else ""
            render.not_finished(f"remoterun upload {render.word(str(path))} --name {chosen}{where}")
            raise
    render.uploaded(done, json)


def _check_there(path: Path) -> None:
    if not os.path.exists(path):
        shown = render.name(str(path))
        message = f"the link `{shown}` leads to no file" if path.is_symlink() else f"there is no `{shown}` here"
        raise NotFound(message, hint=f"ls {render.word(os.getcwd())}   shows what there is")


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


@app.command(cls=Command, epilog=example("remoterun ls runs/15/models"))
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
            runs = [run for run in client.runs.list(wait=2.0) if run.outputs or not run.final]
            render.not_reached(runs)
            render.run_resources(runs, json)
        elif not parsed.name:
            render.uploads(client.uploads.list(), json)
        else:
            manifest, about = client.files.list(parsed)
            render.manifest(str(parsed), manifest, about, recursive, json)


@app.command(cls=Command, epilog=example("remoterun cp runs/15/models\nremoterun cp more.txt uploads/doom/"))
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
    json: Json = False,
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
            into = target.endswith("/")
            try:
                with render.progress(json) as progress:
                    fetched = client.files.copy(source, Path(target), _conflict(force, ignore), progress, into=into)
            except SomeDamaged as error:
                render.fetched(error.fetched, json)
                raise
            except KeyboardInterrupt:
                render.not_finished(f"remoterun cp {render.word(source)} {render.word(target)}", here=True)
                raise
            render.fetched(fetched, json)
        elif Resource.is_one(target):
            path = Path(source)
            _check_there(path)
            if to is not None:
                with_bucket(client, to)
            with render.progress(json) as progress:
                done = client.uploads.add(path, Resource.parse(target), to, progress)
            render.added(done, json)
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


@app.command(cls=Command, epilog=example("remoterun rm runs/12 uploads/old"))
def rm(
    resources: Annotated[
        list[str],
        typer.Argument(metavar="RESOURCE", help="Whole uploads and runs.", autocompletion=complete.resources),
    ],
) -> int:
    """Delete uploads, and runs that have ended, with all they hold."""
    parsed = [Resource.parse(text) for text in resources]
    status, removed = 0, False
    with connect() as client:
        for resource in parsed:
            try:
                _remove(client, resource)
                render.line(f"removed {resource}")
                removed = True
            except RemoterunError as error:
                if len(parsed) == 1:
                    raise
                render.error(error)
                status = max(status, error.exit_status)
        if removed:
            render.line("  remoterun gc   frees the space that nothing else uses")
    return status


def _remove(client: Client, resource: Resource) -> None:
    if resource.sub:
        raise UsageError(
            f"{render.name(str(resource))} is inside one: only a whole upload or run can be removed",
            hint=f"remoterun rm {resource.kind}/{resource.name}",
        )
    if resource.kind == "runs":
        client.runs.remove(resource.name)
    elif not client.uploads.remove(resource.name):
        raise NotFound(f"there is no {resource}", hint="remoterun ls uploads")
