"""A folder sent without git.

It leaves out, at any depth: `.git`; `.DS_Store` and `__pycache__`, unless a line such as `!__pycache__/` in
`.remoterunignore` (git's ignore syntax, read from the folder itself only) brings them back; and Python virtual
environments, which hold this machine's paths and run nowhere else.
"""

from __future__ import annotations

import os
import stat

from remoterun.agent.shared.files import read_settings
from remoterun.errors import SourceError
from remoterun.source.tree import Source, SourceFile, found_at, in_order, left_out_warning, link_warnings, named

IGNORE_FILE = ".remoterunignore"


def folder_source(root: str) -> Source:
    """The folder `root`. Refuses the user's whole home, unless an ignore file there shows that it is meant."""
    from pathspec import GitIgnoreSpec

    own = _ignore_lines(root)
    if own is None:
        _refuse_whole_home(root)
    ignored = GitIgnoreSpec.from_lines([".DS_Store", "__pycache__/", *(own or ())])
    files: list[SourceFile] = []
    empty_dirs: list[str] = []
    warnings: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        listing = _scan(root, folder)
        if not listing and folder:
            empty_dirs.append(folder)
        if folder and any(item.name == "pyvenv.cfg" for item in listing):
            warnings.append(f"{named(folder)} left out, as it is a Python virtual environment of this machine")
            continue
        for item in listing:
            path = f"{folder}/{item.name}" if folder else item.name
            try:
                status = item.stat(follow_symlinks=False)
                mode = status.st_mode
                if item.name == ".git" or ignored.match_file(path + "/" if stat.S_ISDIR(mode) else path):
                    continue
                if stat.S_ISDIR(mode):
                    folders.append(path)
                elif file := found_at(f"{root}/{path}", status, path, bool(mode & stat.S_IXUSR)):
                    files.append(file)
                else:
                    warnings.append(left_out_warning(path, mode))
            except FileNotFoundError:
                continue
    found = in_order(files)
    return Source(
        root=root,
        files=found,
        empty_dirs=tuple(sorted(empty_dirs, key=os.fsencode)),
        warnings=(*sorted(warnings), *link_warnings(found)),
    )


def _scan(root: str, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(f"{root}/{folder}") as listing:
            return list(listing)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SourceError(
            f"can't read the folder {named(folder or root)}: {error.strerror}",
            hint=f"name it in `{IGNORE_FILE}` to leave it out",
        ) from error


def _ignore_lines(root: str) -> list[str] | None:
    """The lines of the folder's ignore file; None without one."""
    try:
        text = read_settings(f"{root}/{IGNORE_FILE}").removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"can't read `{IGNORE_FILE}`: {error.strerror}") from error
    lines = [line.removesuffix("\r") for line in os.fsdecode(text).split("\n")]
    for line in lines:  # with each of them, comparing takes as many times longer as a name is long
        if not line.startswith("#") and max(line.count("**"), *(part.count("*") for part in line.split("/"))) > 3:
            message = f"{named(line)} in `{IGNORE_FILE}` has too many `*`"
            raise SourceError(message, hint="three in a part of a path, and three `**`, are the most")
    return lines


def _refuse_whole_home(root: str) -> None:
    home = os.path.realpath(os.path.expanduser("~"))
    if root == "/" or (home + "/").startswith(root + "/"):
        raise SourceError(
            f"{named(root)} holds your whole home folder, not one project"
            if root != home
            else "this is your home folder",
            hint=f"`cd` into the project's folder; or write `{IGNORE_FILE}` here to show that you mean it",
        )
