"""`cp`: files of runs or uploads here, or files to an upload."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Quiet, app, argument, example, for_each, option
from remoterun.cli.asking import client as connect
from remoterun.cli.asking import with_bucket
from remoterun.cli.commands.upload import check_path
from remoterun.cli.render import file_views, live_views
from remoterun.client import Client
from remoterun.errors import SomeDamaged, UsageError
from remoterun.model import LAST, Resource
from remoterun.parsing import parse_range
from remoterun.stamps import note_own


@app.command(
    cls=Command,
    epilog=example(
        "remoterun cp runs/15/models\nremoterun cp 12-17/models all\nremoterun cp 'runs/15/models/*.json' model\n"
        "remoterun cp runs/15/loss.txt - | tail\nremoterun cp more.txt uploads/doom/"
    ),
)
def cp(
    source: Annotated[
        str,
        argument(
            "SRC",
            "runs/N[/path], N, N-M or uploads/NAME[/path]; or a local path that goes into an upload.",
            complete.resources,
        ),
    ],
    target: Annotated[
        str | None,
        argument(
            "DST", "A local folder, `-` for stdout, or uploads/NAME/. Default: this folder; for a whole run, run-N."
        ),
    ] = None,
    yes: Annotated[bool, option("-y --yes", "Overwrite what exists.")] = False,
    ignore: Annotated[bool, option("-i --ignore", "Keep what exists.")] = False,
    to: Annotated[str | None, option("--to MACHINE", "Where to make a new upload.", complete.machine_types)] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Copy files of runs or uploads here, or files to an upload.

    A folder's contents land in DST, or the one file. A path may have *, ? and **, in quotes. With `-` as DST, a file,
    or each that matches, goes to stdout, and a folder as a tar stream. With uploads/NAME/ as DST, local files go into
    that upload. Of a range of runs (12-17/models), those of each land in a folder DST/12, DST/13 and so on.
    """
    if yes and ignore:
        raise UsageError("-y overwrites and -i keeps: choose one", hint="remoterun cp --help")
    run, _, sub = source.removeprefix("runs/").partition("/")
    goes_up = Resource.is_one(target or "") and not Resource.is_one(source)
    is_run = (run == LAST or run.isdecimal()) and not goes_up
    among = None if goes_up else parse_range(run)
    with connect() as client:
        if Resource.is_one(source) or is_run or among:
            if among and (target == "-" or json):
                word = "`-`" if target == "-" else "--json"
                raise UsageError(f"{word} is for one run", hint=f"remoterun cp runs/{among[0]}/{sub}".rstrip("/"))
            if target == "-":
                _to_stdout(client, source, json)
                return 0
            if target is None and among:
                target = "."
            elif target is None:  # a whole run goes into a folder of its own, and not among the files here
                named = Resource.parse(source)
                is_run = named.kind == "runs" and not named.sub
                target = f"run-{client.runs.known(named.name).number}" if is_run else "."
            elif Resource.is_one(target):
                raise UsageError(
                    "both sides are resources: one of them has to be here", hint=f"remoterun cp {source} ."
                )
            conflict = _conflict(yes, ignore)
            if among:

                def copy(number: int) -> None:
                    _to_here(client, f"runs/{number}/{sub}".rstrip("/"), f"{target}/{number}/", conflict, json)

                return for_each(client.runs.numbers([run]), copy)
            _to_here(client, source, target, conflict, json)
        elif target is not None and Resource.is_one(target):
            path = Path(source)
            check_path(path)
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
    return 0


def _to_here(client: Client, source: str, target: str, conflict: Any, json: bool) -> None:
    try:
        with live_views.progress(json) as progress:
            fetched = client.files.copy(source, Path(target), conflict, progress, into=target.endswith("/"))
    except SomeDamaged as error:
        file_views.fetched(error.fetched, source, json)
        raise
    except KeyboardInterrupt:
        file_views.not_finished()
        raise
    file_views.fetched(fetched, source, json)
    note_own(client.config.home, fetched.written)


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
