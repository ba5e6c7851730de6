"""Where a mount gets its place in the work tree."""

from __future__ import annotations

import os

from ...shared.files import remove_tree
from ...shared.paths import SafeFolder


def make_folders(work: str, path: str) -> None:
    """Make the folder `path` of a work tree; others may read it, whatever our umask is. There already is fine."""
    parts = path.split("/") if path else []
    for count in range(1, len(parts) + 1):
        folder = os.path.join(work, *parts[:count])
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, 0o755)


def make_mount_point(work: str, place: str, is_file: bool) -> None:
    """Make `place` in the work tree an empty folder (or file): a mount hides what stood there.

    Made by us, or the engine would make it, as root. Raises `TreeError` when a link of the work tree would lead out.
    """
    with SafeFolder(work) as folder:
        descriptor, name = folder.place(place)
        target = os.path.join(work, place)
        if os.path.lexists(target):
            remove_tree(target)
        if is_file:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=descriptor))
        else:
            os.mkdir(name, dir_fd=descriptor)
    parts = place.split("/")
    for count in range(1, len(parts) + (0 if is_file else 1)):  # whatever our umask is
        os.chmod(os.path.join(work, *parts[:count]), 0o755)
