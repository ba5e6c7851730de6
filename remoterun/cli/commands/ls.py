"""`ls`: uploads, and the files of one, or of a run."""

from __future__ import annotations

from typing import Annotated

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Wait, app, argument, example, option
from remoterun.cli.asking import client as connect
from remoterun.cli.render import file_views
from remoterun.errors import UsageError
from remoterun.model import Resource
from remoterun.parsing import parse_duration


@app.command(cls=Command, epilog=example("remoterun ls runs/15/models"))
def ls(
    resource: Annotated[
        str,
        argument(
            "RESOURCE",
            "uploads/NAME[/path], runs/N[/path] or N; the path with *, ? and ** in quotes. Default: the uploads.",
            complete.resources,
        ),
    ] = "",
    recursive: Annotated[bool, option("-r --recursive", "Every file below, not one level.")] = False,
    versions: Annotated[
        bool, option("--versions", "The versions of an upload: where they lie, and which runs read them.")
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
