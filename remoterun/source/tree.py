"""The tree to send: its files and links, and what is recorded of where they come from."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from remoterun.agent.shared.tree import link_stays_inside, show
from remoterun.errors import SourceError


def named(path: str) -> str:
    """`path` in backticks."""
    return f"`{show(path)}`"


def named_few(paths: Iterable[str]) -> str:
    """The first few of `paths` for a message."""
    listed = list(paths)
    text = ", ".join(named(path) for path in listed[:3])
    return f"{text} and {len(listed) - 3} more" if len(listed) > 3 else text


def git_line(folder: str, *words: str) -> str:
    """A command for the user to type, from any folder."""
    return " ".join(shell(word) for word in ("git", "-C", folder, *words))


def shell(word: str) -> str:
    """`word` quoted for a shell, on one line: that of a name which is no text is as it is shown."""
    return shlex.quote(show(word))


@dataclass(frozen=True)
class SourceFile:
    """One entry of the tree to send. Paths and link texts are as `os.fsdecode` gives them."""

    path: str  # relative to the top of the tree, parts separated by "/"
    kind: Literal["file", "link"]
    executable: bool = False
    origin: str = ""  # absolute path to read the content from; "" for links
    target: str = ""  # text of a link; "" for files
    size: int = 0  # bytes when it was looked at


@dataclass(frozen=True)
class Source:
    """What to send, and where it comes from. Use as a context manager, or call `close()`, when the files are sent."""

    root: str | None  # top folder of the repository, or the folder sent without git; None: no files
    workdir: str = ""  # where the command starts, relative to root; "" is root itself
    files: tuple[SourceFile, ...] = ()  # sorted by path
    empty_dirs: tuple[str, ...] = ()  # without git only: git knows no empty folders
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None  # URL without user name, password or token
    subject: str | None = None  # first line of the commit's message
    dirty: bool = False  # tracked files differ from the commit, in the repository or in a submodule
    diff: bytes = b""  # `git apply` makes the changed files from the commit's, but for those that were too large
    untracked: tuple[str, ...] = ()  # neither tracked nor ignored; "name/" is a repository of its own
    warnings: tuple[str, ...] = ()  # one line each
    _checkout: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def total_size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Removes the temporary checkout, if there is one: `origin`s are gone then. May be repeated."""
        if self._checkout is not None:
            self._checkout.cleanup()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def found_at(origin: str, status: os.stat_result, path: str, executable: bool) -> SourceFile | None:
    """The file or link at `origin`, to be sent as `path`; None when it is neither.

    Raises `FileNotFoundError` when a link has gone since `status` was taken.
    """
    if stat.S_ISLNK(status.st_mode):
        return SourceFile(path, "link", target=os.readlink(origin))
    if stat.S_ISREG(status.st_mode):
        return SourceFile(path, "file", executable, origin, size=status.st_size)
    return None


def in_order(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """`files` as a `Source` holds them: sorted by the bytes of their paths."""
    return tuple(sorted(files, key=lambda file: os.fsencode(file.path)))


def link_warnings(files: Iterable[SourceFile]) -> list[str]:
    """At most one line, on the links that will point at nothing on the host."""
    outward = [file.path for file in files if file.kind == "link" and not link_stays_inside(file.path, file.target)]
    if not outward:
        return []
    return [f"what links that lead out of the tree point at isn't sent: {named_few(outward)}"]


def left_out_warning(path: str, mode: int) -> str:
    """The line on a `path` that is not a file, a link or a folder."""
    if stat.S_ISSOCK(mode):
        what = "a socket"
    else:
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a device"
    return f"{named(path)} left out, as it is {what}"


class Disk:
    """Looks at a work tree as git does: what lies behind a symbolic link isn't in it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders = {"": True}

    def status(self, path: str) -> os.stat_result | None:
        """Status of `path` itself, links not followed; None if it isn't there."""
        if not self.is_folder(path.rpartition("/")[0]):
            return None
        try:
            return os.lstat(f"{self._root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"can't look at {named(path)}: {error.strerror}") from error

    def is_folder(self, folder: str) -> bool:
        """Whether `folder` is one, and none of its parents a link. Each folder is looked at once."""
        if folder not in self._folders:
            status = self.status(folder)
            self._folders[folder] = status is not None and stat.S_ISDIR(status.st_mode)
        return self._folders[folder]


_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LARGEST = 1024  # bytes of a pointer, by its specification


def pointer_warnings(root: str, files: Iterable[SourceFile]) -> list[str]:
    """At most one line. Files are read only where a `.gitattributes` speaks of LFS, and only small ones."""
    plain = [file for file in files if file.kind == "file"]
    attributes = [file for file in plain if file.path.rpartition("/")[2] == ".gitattributes"]
    if not any(b"filter=lfs" in _start(file, 1 << 20) for file in attributes):
        return []
    pointers = [
        file.path for file in plain if len(_POINTER) < file.size < _LARGEST and _start(file, len(_POINTER)) == _POINTER
    ]
    if not pointers:
        return []
    what = "is a pointer" if len(pointers) == 1 else "are pointers"
    line = git_line(root, "lfs", "pull")
    return [f"{named_few(pointers)} {what} of Git LFS, and the content isn't here: `{line}` brings it"]


def _start(file: SourceFile, count: int) -> bytes:
    try:
        with open(file.origin, "rb") as content:
            return content.read(count)
    except OSError:  # gone, or unreadable: sending it says so
        return b""
