"""`upload`: a file or a folder becomes a named data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Quiet, app, argument, example, option
from remoterun.cli.asking import agree_to_link, with_bucket
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views, live_views
from remoterun.errors import NotFound


@app.command(cls=Command, epilog=example("remoterun upload data/input.txt --name doom"))
def upload(
    path: Annotated[Path, argument("PATH", "A file or a folder.")],
    name: Annotated[str | None, option("-n --name NAME", "The data set's name. Default: the folder's.")] = None,
    to: Annotated[
        str | None, option("--to MACHINE", "Where to keep it. Default: the default machine.", complete.machine_types)
    ] = None,
    git: Annotated[bool, option("--include-git", "Send the `.git` of a work tree, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Send a file or a folder as a named data set. What the machine has already is not sent again."""
    check_path(path)
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


def check_path(path: Path) -> None:
    """Whether it is there, and meant."""
    if not os.path.exists(path):
        shown = render.name(str(path))
        message = f"the link `{shown}` leads to no file" if path.is_symlink() else f"there is no `{shown}` here"
        raise NotFound(message, hint="ls   shows what there is")
    agree_to_link(str(path))
