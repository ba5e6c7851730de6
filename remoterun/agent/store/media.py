"""Pictures, sounds and texts of event files: each becomes a file `events.media/TAG/step-N.png` beside these, and so one
of the run's outputs."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re

from ..shared.paths import SafeFolder

FOLDER = "events.media"
ROOM = 1 << 30
"""Bytes of all of a run, where each counts as `LEAST` of them at least."""
LEAST = 1 << 17
_NEVER_IN_NAMES = re.compile(r"[^\w.,()+=@ -]+")


def save(root: str, file: str, tag: str, step: float, content: bytes) -> None:
    """Write what an event file, which is below `root`, has of a step; `tag` ends with its extension. An older one is
    replaced. Raises `OSError`, `TreeError`."""
    stem, _, extension = tag.rpartition(".")
    parts = [_NEVER_IN_NAMES.sub("_", part)[:80].strip(". ") or "_" for part in stem.split("/")[:8]]
    name = "step-%d.%s" % (step, extension)
    with SafeFolder(root) as below:
        at = below.folder(posixpath.join(posixpath.dirname(file), FOLDER, *parts))
        temporary = ".%s.part" % name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=at)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at), "wb") as written:
            written.write(content)
        os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
