"""Links on the way to what a person names: who types `data` may not know that a repository made it a link."""

from __future__ import annotations

import os
from dataclasses import dataclass

from remoterun.errors import SourceError
from remoterun.source import is_tracked, top_of
from remoterun.transfer.destination import in_git_folder


@dataclass(frozen=True)
class WayOut:
    """`link` really leads to `goal`. `to_git`: into a folder of git's own. `tracked`: a repository made it, and not a
    person; None where there is none to ask."""

    link: str
    goal: str
    to_git: bool
    tracked: bool | None


def way_out(path: str) -> WayOut | None:
    """The first link on the way to `path` that leads out of the repository in which it lies, or into a folder of git's
    own. Without a repository the current folder counts as one."""
    current = os.path.realpath(os.curdir)
    here = "/" if path.startswith("/") else current
    for part in path.split("/"):
        place = os.path.join(here, part)
        if os.path.islink(place):
            goal = os.path.realpath(place)
            top, tracked = current if _is_below(here, current) else None, None
            try:
                if found := top_of(here):
                    top, tracked = found, is_tracked(here, part)
            except SourceError:
                top, tracked = here, True
            if top is not None and ((to_git := _is_gits_own(goal)) or not _is_below(goal, top)):
                return WayOut(place, goal, to_git, tracked)
        here = os.path.realpath(place)
    return None


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_gits_own(path: str) -> bool:
    try:
        top_of(path if os.path.isdir(path) else os.path.dirname(path))
    except SourceError:
        return True
    return in_git_folder(path)
