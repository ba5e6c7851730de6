"""A repository: where it is, what its index lists, and where its HEAD stands. Each function is one question to git."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping

from remoterun.agent.shared.records import Record
from remoterun.errors import SourceError
from remoterun.source.git import AS_IT_IS, Git, one_line
from remoterun.source.tree import git_line, named, shell

# Modes of an index
GITLINK = 0o160000  # a submodule
LINK = 0o120000
EXECUTABLE = 0o100755

_NONE = "not a git repository (or any"  # git's words


class NoRepository(SourceError):
    """The folder lies in no git work tree: the user may go on without files, or send the folder itself."""


class IndexEntry(Record):
    """One path of an index."""

    path: str
    mode: int
    id: str
    skipped: bool  # not on disk, as the checkout is sparse


def find_repository(folder: str) -> tuple[str, str]:
    """(top folder of the work tree that holds `folder`, `folder` relative to it)."""
    git = Git(folder)
    answer = git.attempt("rev-parse", "--is-inside-work-tree", "--is-inside-git-dir", "--show-toplevel")
    if answer.status:
        if _NONE in answer.error:
            raise NoRepository(
                f"{named(folder)} is in no git repository",
                hint=f"`git init` makes one; {AS_IT_IS}",
            )
        if "cannot use bare repository" not in answer.error and "must be run in a work tree" not in answer.error:
            git.fail(answer)
    inside = b"true\nfalse\n"  # in the work tree, and not in the folder of git's own
    if answer.status == 0 and answer.output.startswith(inside):
        root = one_line(answer.output.removeprefix(inside))
        own = os.fsencode(_own_git_dir(root)) + b"\n"
        answer = git.attempt("rev-parse", "--absolute-git-dir", "--show-prefix")
        if answer.output.startswith(own):  # git before 2.38 takes the `config` of a bare repository that a clone holds
            return root, one_line(answer.output.removeprefix(own)).rstrip("/")
    raise SourceError(
        f"{named(folder)} is a folder of git's own, without a work tree",
        hint=f"`cd` into a work tree; of a bare repository `git clone {shell(folder)}` makes one",
    )


def _own_git_dir(top: str) -> str:
    """The git dir of the work tree at `top`, by its `.git`. That may be a file, or a link, of an archive: raises
    `SourceError` where it leads to the git dir of another work tree, whose files would be sent as changes here."""
    place, root = f"{top}/.git", os.path.realpath(top)
    if os.path.isfile(place):
        place = one_line(Git(top).run("rev-parse", "--resolve-git-dir", place))
    git_dir = os.path.realpath(place)
    if git_dir.startswith(os.path.join(root, "")):
        parts = [f"{git_dir}/{part}" for part in ("commondir", "HEAD", "objects", "packed-refs", "refs")]
        parts += [f"{folder}/{name}" for folder, *names in os.walk(parts[-1]) for name in itertools.chain(*names)]
        out = (each for each in parts if not os.path.realpath(each).startswith(os.path.join(git_dir, "")))
        led = next(out, parts[0] if os.path.exists(parts[0]) else None)
        if led is None:
            return git_dir
        raise SourceError(
            f"{named(led)} leads to the git dir of another work tree",
            hint=AS_IT_IS,
        )
    answer = Git(top).attempt("config", "core.worktree")  # a submodule has one
    back = [one_line(answer.output)] if answer.status == 0 else []
    with contextlib.suppress(OSError), open(f"{git_dir}/gitdir", "rb") as file:  # a linked work tree has one
        back.append(os.path.dirname(one_line(file.read(1 << 16))))
    if root not in [os.path.realpath(os.path.join(git_dir, each)) for each in back]:
        mine = git_line(top, "worktree", "repair") if back else git_line(top, "config", "core.worktree", top)
        raise SourceError(
            f"the `.git` of {named(top)} leads to {named(git_dir)}, which does not lead back",
            hint=f"{AS_IT_IS}\n{mine}   if that git dir is its own",
        )
    return git_dir


def top_of(folder: str) -> str | None:
    """The top of the repository that holds `folder`, by git's own answer: what lies above it may be anybody's. None
    where there is no repository that git takes."""
    with contextlib.suppress(SourceError):
        return find_repository(folder)[0]
    return None


def index(git: Git) -> Iterator[IndexEntry]:
    """Each path of the index once: in the middle of a merge one has up to three stages."""
    seen = b""
    for line in git.run("ls-files", "--stage", "-t", "-z").split(b"\0"):
        about, _, name = line.partition(b"\t")
        if not name or name == seen:
            continue
        seen = name
        tag, mode, identity, _ = about.split(b" ")
        yield IndexEntry(os.fsdecode(name), int(mode, 8), identity.decode("ascii"), tag == b"S")


class GitStatus(Record):
    """Where HEAD stands, and what differs from it."""

    commit: str | None
    """None before the first one."""
    branch: str | None
    """With or without commits; None when HEAD is detached."""
    clean: bool
    """Whether index and tracked files are as the commit has them. If not, they may be together."""
    untracked: tuple[str, ...]
    """Paths that git neither tracks nor ignores; a repository that is not tracked is one, with a `/` at its end."""

    @classmethod
    def read(cls, root: str) -> GitStatus:
        """Asks git, once."""
        answer = Git(root).run(
            "status",
            "--porcelain=v2",
            "-z",
            "--branch",
            "--no-ahead-behind",
            "--untracked-files=all",
            "--ignore-submodules=dirty",
            "--no-renames",
        )
        lines = answer.split(b"\0")
        head = dict(line.split(b" ", 2)[1:] for line in lines if line.startswith(b"# "))
        commit, branch = os.fsdecode(head[b"branch.oid"]), os.fsdecode(head[b"branch.head"])
        return cls(
            None if commit == "(initial)" else commit,
            None if branch == "(detached)" else branch,
            not any(line.startswith((b"1 ", b"2 ", b"u ")) for line in lines),
            tuple(os.fsdecode(line[2:]) for line in lines if line.startswith(b"? ")),
        )


def is_ignored(root: str, folder: str) -> bool:
    """Whether git ignores the `folder` below `root`."""
    return Git(root).attempt("check-ignore", "--quiet", "--", f"./{folder}/").status == 0


def is_tracked(folder: str, name: str) -> bool | None:
    """Whether git tracks that name in `folder`, or refuses to say; None without a repository."""
    try:
        answer = Git(folder).attempt("ls-files", "-z", "--", f":(literal,icase){name}")
    except SourceError:  # no git
        return None
    return None if _NONE in answer.error else answer.status != 0 or answer.output != b""


def is_top(folder: str) -> bool:
    """Whether `folder` is the top of a work tree of its own."""
    if not os.path.lexists(f"{folder}/.git"):
        return False
    git = Git(folder)
    answer = git.attempt("rev-parse", "--show-prefix")
    if answer.status and "not a git repository" not in answer.error:
        git.fail(answer)
    return answer.status == 0 and not answer.output.strip() and bool(_own_git_dir(folder))


def git_dir_of(root: str) -> str:
    """The folder of git's own that belongs to the work tree."""
    return one_line(Git(root).run("rev-parse", "--absolute-git-dir"))


def subject(root: str, commit: str) -> str:
    """First line of the commit's message."""
    line = Git(root).run("log", "-1", "--no-patch", "--encoding=UTF-8", "--format=%s", commit, "--")
    return line.decode("utf-8", "replace")[:-1]


def submodule_warning(root: str, path: str, prefix: str) -> str:
    """The line on a submodule at `path` of the work tree `root` that was never fetched."""
    line = git_line(root, "submodule", "update", "--init", "--recursive", "--", path)
    return f"the submodule {named(prefix + path)} isn't there, so nothing of it is sent: `{line}` fetches it"


class RepositorySettings(Record):
    """The repository's own settings that say what its disk can hold, and where it comes from."""

    file_mode: bool
    remotes: Mapping[str, str]
    upstreams: Mapping[str, str]  # branch → remote

    @classmethod
    def read(cls, root: str) -> RepositorySettings:
        """Asks git, once."""
        wanted = r"^(core\.filemode|remote\..*\.url|branch\..*\.remote)$"
        file_mode = True
        remotes: dict[str, str] = {}
        upstreams: dict[str, str] = {}
        git = Git(root)
        answer = git.attempt("config", "-z", "--get-regexp", wanted)
        if answer.status > 1:
            git.fail(answer)
        for key, value in pairs(answer.output):
            if key == "core.filemode":
                file_mode = value.lower() not in ("false", "no", "off", "0", "")
            elif key.startswith("remote."):
                remotes.setdefault(key.removeprefix("remote.").removesuffix(".url"), value)
            else:
                upstreams[key.removeprefix("branch.").removesuffix(".remote")] = value
        return cls(file_mode, remotes, upstreams)

    def remote(self, branch: str | None) -> str | None:
        """URL of the remote that `branch` follows, or of `origin`, or of the first; without credentials."""
        for name in (self.upstreams.get(branch or "", "origin"), "origin", *self.remotes):
            if name in self.remotes:
                return without_credentials(self.remotes[name])
        return None


def without_credentials(url: str) -> str:
    """`url` without user name, password, query and fragment; the user of an SSH URL stays."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url  # a path, or host:path of SSH, which has no place for a password
    authority, slash, path = rest.partition("/")
    if "@" not in authority and "@" in path and re.search(r":\D", authority):
        authority, slash, path = (authority + slash + path).rpartition("@")[2].partition("/")  # a `/` in a password
    user, at, host = authority.rpartition("@")
    keep = at and scheme.lower().endswith("ssh")
    bare = f"{scheme}://{user.partition(':')[0] + '@' if keep else ''}{host}{slash}{path}"
    return re.split(r"[?#]", bare, maxsplit=1)[0]


def pairs(listing: bytes) -> Iterator[tuple[str, str]]:
    """Key and value of each line of `git config -z`; a key without a value is true."""
    for line in os.fsdecode(listing).split("\0"):
        if line:
            key, separator, value = line.partition("\n")
            yield key, value if separator else "true"
