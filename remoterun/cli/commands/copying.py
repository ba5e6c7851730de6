"""Files of uploads and runs: `upload`, `ls`, `cp`."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Quiet, Wait, app, example
from remoterun.cli.asking import agree_to_link, with_bucket
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views, live_views
from remoterun.errors import NotFound, SomeDamaged, UsageError
from remoterun.model import LAST, Resource
from remoterun.parsing import parse_duration
from remoterun.stamps import note_own

if TYPE_CHECKING:
    from remoterun.client import Client


@app.command(cls=Command, epilog=example("remoterun upload data/input.txt --name doom"))
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")],
    name: Annotated[
        str | None, typer.Option("-n", "--name", metavar="NAME", help="The data set's name. Default: the folder's.")
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
    git: Annotated[bool, typer.Option("--include-git", help="Send the `.git` of a work tree, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Send a file or a folder as a named data set. What the machine has already is not sent again."""
    _check(path)
    with connect() as client:
        with_bucket(client, to)
        try:
            with live_views.progress(json) as progress:
                done = client.uploads.upload(path, name, to, progress, git=git)
        except KeyboardInterrupt:
            file_views.not_finished()
            raise
    file_views.uploaded(done, json, _folder_of(path))


def _folder_of(path: Path) -> str:
    """The folder below this one that has the files, where a run's command then finds them, too; "" if there is none."""
    folder = os.path.relpath(path if path.is_dir() else path.parent)
    return "" if folder == os.curdir or folder.startswith(os.pardir) or ":" in folder else folder


def _check(path: Path) -> None:
    """Whether it is there, and meant."""
    if not os.path.exists(path):
        shown = render.name(str(path))
        message = f"the link `{shown}` leads to no file" if path.is_symlink() else f"there is no `{shown}` here"
        raise NotFound(message, hint="ls   shows what there is")
    agree_to_link(str(path))


@app.command(cls=Command, epilog=example("remoterun ls runs/15/models"))
def ls(
    resource: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help="uploads/NAME[/path], runs/N[/path] or N; the path with *, ? and ** in quotes. Default: the uploads.",
            autocompletion=complete.resources,
        ),
    ] = "",
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Every file below, not one level.")] = False,
    versions: Annotated[
        bool, typer.Option("--versions", help="The versions of an upload: where they lie, and which runs read them.")
    ] = False,
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """List uploads, or the files of one, or of a run.

    Uploads are listed wherever they lie; of a machine that does not answer in time, what was known before.
    """
    seconds = parse_duration(wait)
    with connect() as client:
        parsed = Resource.parse(resource.rstrip("/"), whole_kind=True) if resource.strip("/") else Resource("uploads")
        if versions:
            if parsed.kind != "uploads" or not parsed.name or parsed.sub or parsed.version is not None:
                raise UsageError(
                    f"--versions needs one upload: `{render.name(str(parsed))}` is not the name of one",
                    hint="remoterun ls uploads/NAME --versions",
                )
            file_views.uploads(client.uploads.versions(parsed.name, seconds), json, versions=True)
        elif parsed.kind == "runs" and not parsed.name:
            raise UsageError(
                "`ls` lists the files of one run", hint="remoterun ps   lists runs\nremoterun ls runs/last"
            )
        elif not parsed.name:
            file_views.uploads(client.uploads.list(seconds), json)
        else:
            from remoterun.client.data.files import ANY_DEPTH, split_pattern

            manifest, about = client.files.list(parsed)
            pattern = split_pattern(parsed)[1]
            every = recursive or ANY_DEPTH in pattern
            file_views.manifest(str(parsed), manifest, about, None if every else pattern.count("/") + 1, json)


@app.command(
    cls=Command,
    epilog=example(
        "remoterun cp runs/15/models\nremoterun cp 'runs/15/models/*.json' model\n"
        "remoterun cp runs/15/loss.txt - | tail\nremoterun cp more.txt uploads/doom/"
    ),
)
def cp(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="runs/N[/path], N or uploads/NAME[/path]; or a local path that goes into an upload.",
            autocompletion=complete.resources,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="DST",
            help="A local folder, `-` for stdout, or uploads/NAME/. Default: this folder; for a whole run, run-N.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite what exists.")] = False,
    ignore: Annotated[bool, typer.Option("-i", "--ignore", help="Keep what exists.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="MACHINE", help="Where to make a new upload.", autocompletion=complete.machine_types
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Copy files of runs or uploads here, or files to an upload.

    A folder's contents land in DST, or the one file. A path may have *, ? and **, in quotes. With `-` as DST, a file,
    or each that matches, goes to stdout, and a folder as a tar stream. With uploads/NAME/ as DST, local files go into
    that upload.
    """
    if yes and ignore:
        raise UsageError("-y overwrites and -i keeps: choose one", hint="remoterun cp --help")
    run = source.split("/")[0]
    is_run = (run == LAST or run.isdecimal()) and not Resource.is_one(target or "")
    with connect() as client:
        if Resource.is_one(source) or is_run:
            if target == "-":
                _to_stdout(client, source, json)
                return
            if target is None:  # a whole run goes into a folder of its own, and not among the files here
                named = Resource.parse(source)
                is_run = named.kind == "runs" and not named.sub
                target = f"run-{client.registry.run(named.name).number}" if is_run else "."
            elif Resource.is_one(target):
                raise UsageError(
                    "both sides are resources: one of them has to be here", hint=f"remoterun cp {source} ."
                )
            into = target.endswith("/")
            try:
                with live_views.progress(json) as progress:
                    fetched = client.files.copy(source, Path(target), _conflict(yes, ignore), progress, into=into)
            except SomeDamaged as error:
                file_views.fetched(error.fetched, source, json)
                raise
            except KeyboardInterrupt:
                file_views.not_finished()
                raise
            file_views.fetched(fetched, source, json)
            note_own(client.config.home, fetched.written)
        elif target is not None and Resource.is_one(target):
            path = Path(source)
            _check(path)
            if to is not None:
                with_bucket(client, to)
            with live_views.progress(json) as progress:
                done = client.uploads.add(path, Resource.parse(target), to, progress)
            file_views.uploaded(done, json)
        else:
            raise UsageError(
                "neither side is a resource",
                hint="`remoterun cp runs/N[/path] [FOLDER]`, or `remoterun cp PATH uploads/NAME/`",
            )


def _conflict(yes: bool, ignore: bool) -> Any:
    from remoterun.transfer import refuse

    if yes or ignore:
        return lambda path: yes
    answer = ""

    def overwrites(path: str) -> bool:
        nonlocal answer
        if not answer and not render.can_ask():
            return refuse(path)
        if answer != "a":
            answer = render.choose(f"{render.name(path)} exists. Overwrite it? (a: all; -i keeps all)", "yanq", "n")
        return answer != "n"

    return overwrites


def _to_stdout(client: Client, source: str, json: bool) -> None:
    if json:
        raise UsageError("`-` and --json both write to stdout: choose one", hint="remoterun cp --help")
    from remoterun.client.data.files import split_pattern

    archive = not render.reader_is_terminal() and not split_pattern(Resource.parse(source))[1]
    with live_views.progress(json) as progress:
        show = functools.partial(render.command_bytes, stderr=False)
        fetched = client.files.read(source, show, progress, archive=archive)
    note_own(client.config.home, [1])
    file_views.copy_warnings(fetched)
