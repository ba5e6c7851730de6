"""What an upload or a copy did."""

from __future__ import annotations

import os
from typing import Any

from remoterun.cli.render.data import out, out_json
from remoterun.cli.render.talk import line, warning
from remoterun.cli.render.terminal import DONE
from remoterun.cli.render.words import files, name, size, word


def uploaded(done: Any, as_json: bool, folder: str = "") -> None:
    """What an upload did, its path, and the line that mounts it: at `folder` ("": the name of the upload)."""
    upload = done.upload
    for text in done.warnings:
        warning(text)
    if as_json:
        record = {"new": done.created, "bytes_sent": done.sent.size, "bytes_there": done.sent.already}
        out_json({**upload.record(), **record})
        return
    path = f"uploads/{upload.name}"
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to send: {path} has this content already (version {upload.version})")
    else:
        already = _already(done.sent.already, upload.size)
        line(f"Uploaded {content}{already}: {path} (version {upload.version}) on {upload.machine}")
    mount = f"{path}:{folder}" if folder and folder != upload.name else path
    line(f"  remoterun run --mount {word(mount)} COMMAND   finds it in ./{name(folder or upload.name)}")
    out(path)


def added(done: Any, as_json: bool) -> None:
    """What adding files to an upload did, and its path."""
    if as_json:
        uploaded(done, as_json)
        return
    for text in done.warnings:
        warning(text)
    upload = done.upload
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to add: uploads/{upload.name} has this content already (version {upload.version})")
    else:
        line(
            f"Added {size(done.sent.size + done.sent.already)}: uploads/{upload.name} (version {upload.version}) on"
            f" {upload.machine} has {content}"
        )
    out(f"uploads/{upload.name}")


def _already(already: int, total: int) -> str:
    """How much the machine had already; where the rounded sizes are equal, how much it did not have."""
    if not already:
        return ""
    if size(already) != size(total):
        return f", {size(already)} of it there already"
    return f", all{f' but {size(total - already)}' if total > already else ''} of it there already"


def not_finished(command: str, here: bool = False) -> None:
    """After ^C: says that what has arrived stays, and how to go on."""
    line("")
    line(f"Not finished. What has arrived stays {'here' if here else 'there'}; to go on:")
    line(f"  {command}")


def fetched(result: Any, resource: str, as_json: bool = False) -> None:
    """What a copy to here did, and where it went; where nothing was copied, why."""
    copy_warnings(result)
    if as_json:
        kept = sorted(result.skipped)
        record = {"to": result.place, "files": result.files, "bytes": result.size, "bytes_there": result.there}
        out_json({**record, "unchanged": result.unchanged, "kept": kept, "damaged": sorted(result.damaged)})
        return
    where = name(_here(result.place))
    if result.files or result.damaged:
        already = f", {size(result.there)} of it here already" if result.there else ""
        line(DONE, f"Copied {files(result.files)}, {size(result.size)}{already}, to {where}")
        if result.unchanged:
            line(f"  {files(result.unchanged)} {'was' if result.unchanged == 1 else 'were'} here already")
    elif result.unchanged:
        every = "all " if not result.skipped and result.unchanged > 2 else ""
        same = f"{files(1)} is" if result.unchanged == 1 else f"{every}{files(result.unchanged)} are"
        one = os.path.isfile(result.place)
        line(f"Nothing to copy: {where} is the same already" if one else f"Nothing to copy: {same} in {where} already")
    elif not result.listed:
        line(f"Nothing to copy: {name(resource)} holds no files{' yet' if result.live else ''}")
    elif not result.skipped:
        line(DONE, f"Copied no file, only links or empty folders, to {where}")
    if result.skipped:
        line(f"  Kept {files(len(result.skipped))} that existed")


def copy_warnings(result: Any) -> None:
    for text in result.warnings:
        warning(text)
    if result.more_warnings:
        warning(f"and {result.more_warnings:,} more like these")


def _here(place: str) -> str:
    """A path as it is typed here: what lies below the current folder begins with `./`."""
    path = os.path.relpath(place)
    if path == os.curdir:
        return "this folder"
    return place if path.startswith(os.pardir) else f"./{path}"
