"""What an upload or a copy did."""

from __future__ import annotations

from typing import Any

from remoterun.cli.render.data import out, out_json
from remoterun.cli.render.talk import line, warning
from remoterun.cli.render.terminal import paint
from remoterun.cli.render.words import files, size


def uploaded(done: Any, as_json: bool) -> None:
    """What an upload did, its path, and the line that mounts it."""
    upload = done.upload
    for text in done.warnings:
        warning(text)
    if as_json:
        out_json({**upload.record(), "created": done.created, "bytes_sent": done.sent.size})
        return
    path = f"uploads/{upload.name}"
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to send: {path} has this content already (version {upload.version}, {content})")
    else:
        already = f", {size(done.sent.already)} of it there already" if done.sent.already else ""
        line(f"Uploaded {content}{already}: {path} (version {upload.version}) on {upload.machine}")
    line(f"  remoterun run --mount {path}:data COMMAND   finds it in ./data")
    out(path)


def fetched(result: Any) -> None:
    for text in result.warnings:
        warning(text)
    line(f"{paint('✓', '32')} Copied {files(result.files)} ({size(result.size)})")
    if result.skipped:
        line(f"  Kept {files(len(result.skipped))} that existed")
    if result.unchanged:
        line(f"  {files(result.unchanged)} {'was' if result.unchanged == 1 else 'were'} here already")
