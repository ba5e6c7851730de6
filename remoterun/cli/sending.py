"""What is sent with a run, and the question before it where that may not be what is meant: one at most."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from remoterun.cli import render
from remoterun.errors import UsageError
from remoterun.model import RunRequest

if TYPE_CHECKING:
    from remoterun.source import Source

_SHOWN = 5


@dataclass(frozen=True)
class Sending:
    """What was typed about it. `yes`: nothing is asked, what the command names is sent."""

    commit_ref: str | None
    untracked: bool
    no_git: bool
    yes: bool

    @property
    def asks(self) -> bool:
        return not self.yes and render.person_there()


def source_to_send(request: RunRequest, how: Sending) -> Source | None:
    """What is sent from the current folder. None: no files."""
    from remoterun.source import NoRepository, snapshot

    if how.no_git and (how.commit_ref or how.untracked):
        raise UsageError(
            "--no-git does not go with -c or --include-untracked", hint="--no-git sends the folder as it is"
        )
    try:
        source = snapshot(Path.cwd(), commit_ref=how.commit_ref, include_untracked=how.untracked, no_git=how.no_git)
    except NoRepository as error:
        if how.commit_ref:
            raise
        if not _folder_is_meant(request, how, error.message):
            return None
        source = snapshot(Path.cwd(), no_git=True)
    for text in source.warnings:
        render.warning(text)
    if source.dirty and not how.commit_ref:
        render.line("Uncommitted changes are included.")
    return source


def _folder_is_meant(request: RunRequest, how: Sending, problem: str) -> bool:
    """Whether the folder is sent, where there is no git repository. What the command names decides what Enter and `-y`
    mean."""
    if not any(os.scandir(".")):
        render.line("This folder is empty: no files of yours will be available in this run.")
        return False
    places = [mount.place("") for mount in request.mounts]
    named = [path for path in _words(request.command, "", places) if os.path.isfile(path)]
    because = f"; the command names `{render.name(named[0])}`" if named else ""
    if not how.yes and not render.person_there():
        means = "sends it, too" if named else "goes on without files"
        raise UsageError(f"{problem}{because}", hint=f"--no-git sends this folder; -y {means}")
    render.line(f"There is no git repository here{because}.")
    answer = "y" if named else "n"
    if how.asks:
        answer = render.choose("Send this folder? (n: run without files, q: quit)", "ynq", answer)
    if answer == "q":
        _quit()
    render.line(
        "This folder is sent as it is." if answer == "y" else "No files of yours will be available in this run."
    )
    return answer == "y"


def with_untracked(source: Source, command: str, places: list[str], how: Sending) -> Source:
    """`source`, or the same with its untracked files, which is asked where there are some.

    `places`: of the mounts, which stand in the place of what is there. The source that is not returned is closed.
    """
    from remoterun.source import snapshot

    words = _words(command, source.workdir, places)
    _warn_of_ignored(source, words)
    absent = _outside(source.untracked, places)
    if not absent or how.untracked:
        return source
    named = [path for path in absent if path in words]
    if named and not how.yes and not render.person_there():
        typed = render.word(os.path.relpath(named[0], source.workdir or "."))
        raise UsageError(
            f"`{render.name(named[0])}`, which the command names, is not tracked by git, so it would not be sent",
            hint=f"--include-untracked sends it, and so does -y\ngit add {typed}   tracks it",
        )
    count = len(absent)
    will = "is not tracked by git" if count == 1 else "are not tracked by git"
    render.line(f"{render.files(count)} {will}:")
    for path in [*named, *(path for path in absent if path not in named)][:_SHOWN]:
        render.line(f"  {render.name(path)}{'   (the command names it)' if path in named else ''}")
    if count > _SHOWN:
        render.line(f"  … and {count - _SHOWN} more")
    answer = "y" if named else "n"
    if how.asks:
        them = "it" if count == 1 else "them"
        answer = render.choose(f"Send {them}, too? (n: run without {them}, q: quit)", "ynq", answer)
    if answer == "q":
        _quit()
    if answer == "n":
        render.line(f"{'It' if count == 1 else 'They'} will not be available in this run.")
        return source
    source.close()
    return snapshot(Path.cwd(), include_untracked=True)


def _quit() -> NoReturn:
    render.line("Nothing was run.")
    raise KeyboardInterrupt


def _words(command: str, workdir: str, places: list[str]) -> list[str]:
    """Paths that the command names, but for those that a mount will provide."""
    from remoterun.source import mentioned

    return _outside(mentioned(command, workdir), places)


def _outside(paths: Iterable[str], places: list[str]) -> list[str]:
    hidden = tuple(f"{place}/" for place in places)
    return [path for path in paths if path not in places and not path.startswith(hidden)]


def _warn_of_ignored(source: Source, words: list[str]) -> None:
    """Files that the command names and no answer would send."""
    known = {file.path for file in source.files}.union(source.untracked)
    for path in words:
        if path not in known and source.root is not None and os.path.isfile(os.path.join(source.root, path)):
            render.warning(f"`{render.name(path)}`, which the command names, is ignored, so it is not sent")
