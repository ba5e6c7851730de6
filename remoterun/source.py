"""What is sent with a run: the user's git work tree, one of its commits, or a plain folder.

Three ways to get a `Source`:

    snapshot(start)                    tracked files as they are on disk, staged and unstaged changes included
    snapshot(start, commit_ref="v1")   exactly that commit, from a checkout of our own in a temporary folder
    snapshot(start, no_git=True)       the folder itself, without what `.remoterunignore` names

and `no_files()` for going on without any. The user's repository (index, HEAD, work tree) is never written, and the
user's git settings change nothing in what is sent. This file is the room of git: its SDK is imported on use, because
that takes longer than `remoterun --version` may.

A folder sent without git leaves out, at any depth: `.git`; `.DS_Store` and `__pycache__`, unless a line such as
`!__pycache__/` in `.remoterunignore` (git's ignore syntax, read from the folder itself only) brings them back; and
Python virtual environments, which hold this machine's paths and run nowhere else.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from remoterun.agent.tree import link_stays_inside, show
from remoterun.errors import SourceError, UsageError

IGNORE_FILE = ".remoterunignore"
DIFF_LIMIT = 32 << 20  # bytes of changed files, old and new, that the recorded diff may cover
GIT_DEADLINE = 600.0  # seconds for one call of git; the longest checks out a commit, perhaps through Git LFS

_GITLINK = 0o160000  # the mode of a submodule in an index
_LINK = 0o120000
_EXECUTABLE = 0o100755
_MOST_EXCLUDED = 500  # changed files named in one command line

# Left out of git's environment: hooks and aliases set them for the repository *they* run in, or they bend the output.
_FOREIGN_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_PREFIX",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_CONFIG",
    "GIT_ATTR_SOURCE",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",  # looking at the work tree must not rewrite the user's index
    "GIT_TERMINAL_PROMPT": "0",
}
_SETTINGS = {
    "core.fsmonitor": "false",  # would start a daemon
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "color.ui": "false",
    "log.showSignature": "false",
    "gc.auto": "0",
}
_DIFF_SETTINGS = {
    "core.quotePath": "true",
    "diff.algorithm": "myers",
    "diff.context": "3",
    "core.splitIndex": "false",
    "diff.autoRefreshIndex": "true",  # a file merely touched is no change
    "diff.indentHeuristic": "true",
    "diff.interHunkContext": "0",
    "diff.mnemonicPrefix": "false",
    "diff.noprefix": "false",
    "diff.relative": "false",
    "diff.suppressBlankEmpty": "false",
}
_DIFF_OPTIONS = (
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-renames",
    "--ignore-submodules=dirty",
    "--submodule=short",
    f"-O{os.devnull}",
)
_CHECKOUT_SETTINGS = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.symlinks": "true",
    "core.attributesFile": os.devnull,
    "core.sparseCheckout": "false",
    "core.splitIndex": "false",  # would put a shared index into the user's repository
    "index.sparse": "false",
}


class NoRepository(SourceError):
    """The folder lies in no git work tree: the user may go on without files, or send the folder itself."""


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
    diff: bytes = b""  # `git apply` makes the changed files from the commit's; submodules' below their path
    diff_omitted: tuple[str, ...] = ()  # changed files too large for `diff`; their content is sent all the same
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


def no_files() -> Source:
    """The source of a run that gets no files."""
    return Source(root=None)


def snapshot(
    start: Path, *, commit_ref: str | None = None, include_untracked: bool = False, no_git: bool = False
) -> Source:
    """What a command typed in the folder `start` is sent with. Reads, and never changes, the user's files.

    `include_untracked` adds the untracked files to `files`; `commit_ref` takes the commit's content and nothing of
    the work tree. Raises `NoRepository` when `start` lies in no repository; `SourceError` when what lies there can't
    be sent, when git is missing, or when one of its calls takes longer than `GIT_DEADLINE`; `UsageError` when
    `start`, `commit_ref` or the combination makes no sense.
    """
    folder = os.path.realpath(start)
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {_name(folder)}")
    if commit_ref is not None and no_git:
        raise UsageError("`--commit-ref` and `--no-git` exclude each other", hint="leave out one of them")
    if commit_ref is not None and include_untracked:
        raise UsageError(
            "`--commit-ref` sends that commit alone, so `--include-untracked` can't add to it",
            hint="leave out one of them",
        )
    if no_git:
        return _plain_folder(folder)
    root, workdir = _find_repository(folder)
    if commit_ref is not None:
        return _commit(root, workdir, commit_ref)
    return _work_tree(root, workdir, include_untracked)


# --- the work tree as it is -------------------------------------------------------------------------------------------


class _Gathering:
    """What the repositories of one work tree add up to."""

    def __init__(self, include_untracked: bool) -> None:
        self.include_untracked = include_untracked
        self.files: list[SourceFile] = []
        self.untracked: list[str] = []
        self.warnings: list[str] = []
        self.repositories: list[tuple[str, str]] = []  # (top folder, prefix) of the repository and its submodules


def _work_tree(root: str, workdir: str, include_untracked: bool) -> Source:
    found = _Gathering(include_untracked)
    settings = _Settings.read(root)
    _gather(root, "", settings, found)
    files = _sorted(found.files)
    _check_workdir(root, workdir, files, found)
    commit = _verify(root, "HEAD")
    branch = _current_branch(root)
    changes = [_uncommitted(root, "", commit, DIFF_LIMIT)]
    for top, prefix in found.repositories[1:]:
        left = DIFF_LIMIT - sum(change.covered for change in changes)
        changes.append(_uncommitted(top, prefix, _verify(top, "HEAD"), left))
    omitted = tuple(path for change in changes for path in change.omitted)
    if omitted:
        found.warnings.append(
            f"the recorded diff leaves out {_names(omitted)}, as it would be too large; the run gets all changes"
        )
    return Source(
        root=root,
        workdir=workdir,
        files=files,
        commit=commit,
        branch=branch,
        remote=settings.remote(branch),
        subject=_subject(root, commit) if commit else None,
        dirty=any(change.dirty for change in changes),
        diff=b"".join(change.diff for change in changes),
        diff_omitted=omitted,
        untracked=tuple(sorted(found.untracked, key=os.fsencode)),
        warnings=(*found.warnings, *_link_warnings(files)),
    )


def _gather(root: str, prefix: str, settings: _Settings, found: _Gathering, *, nested: bool = False) -> None:
    """Adds the files of the repository at `root`, and of its submodules, to `found`, their paths after `prefix`.

    `nested` marks a repository that the one above doesn't track.
    """
    if not nested:
        found.repositories.append((root, prefix))
    disk = _Disk(root)
    sparse = 0
    for entry in _index(root):
        status = disk.status(entry.path)
        if entry.mode == _GITLINK and (status is None or stat.S_ISDIR(status.st_mode)):
            top = f"{root}/{entry.path}"
            if status is not None and _is_top(top):
                _gather(top, f"{prefix}{entry.path}/", _Settings.read(top), found, nested=nested)
            else:
                found.warnings.append(_not_initialised(root, entry.path, prefix))
        elif status is None:
            sparse += entry.skipped
        else:
            executable = bool(status.st_mode & stat.S_IXUSR) if settings.file_mode else entry.mode == _EXECUTABLE
            as_text = entry.mode == _LINK and not settings.symlinks
            _add(root, prefix, entry.path, status, executable, found, link_as_text=as_text)
    if sparse:
        found.warnings.append(
            f"{_count(sparse, 'tracked file')} left out, as this is a sparse checkout: "
            f"`{_git_line(root, 'sparse-checkout', 'disable')}` brings all"
        )
    for path in _listing(root, "--others", "--exclude-standard"):
        if os.path.basename(path) == ".DS_Store":
            continue
        found.untracked.append(prefix + path)
        if not found.include_untracked:
            continue
        if path.endswith("/"):
            top = f"{root}/{path[:-1]}"
            if _is_top(top):
                _gather(top, prefix + path, _Settings.read(top), found, nested=True)
            continue
        status = disk.status(path)
        if status is not None:
            executable = settings.file_mode and bool(status.st_mode & stat.S_IXUSR)
            _add(root, prefix, path, status, executable, found)


def _add(
    root: str,
    prefix: str,
    path: str,
    status: os.stat_result,
    executable: bool,
    found: _Gathering,
    *,
    link_as_text: bool = False,
) -> None:
    """Adds what lies at `path`: a file or a link. A folder in a file's place adds nothing: to git, the file is gone."""
    origin = f"{root}/{path}"
    mode = status.st_mode
    try:
        if stat.S_ISLNK(mode):
            found.files.append(SourceFile(prefix + path, "link", target=os.readlink(origin)))
        elif stat.S_ISREG(mode):
            if link_as_text and 0 < status.st_size <= 4096:  # how git writes links where the disk knows none
                with open(origin, "rb") as text:
                    found.files.append(SourceFile(prefix + path, "link", target=os.fsdecode(text.read())))
            else:
                found.files.append(SourceFile(prefix + path, "file", executable, origin, size=status.st_size))
        elif not stat.S_ISDIR(mode):
            found.warnings.append(f"{_name(prefix + path)} left out, as it is {_special(mode)}")
    except FileNotFoundError:
        pass


class _Disk:
    """Looks at a work tree as git does: what lies behind a symbolic link isn't in it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders = {"": True}

    def status(self, path: str) -> os.stat_result | None:
        """Status of `path` itself, links not followed; None if it isn't there."""
        parent = path.rpartition("/")[0]
        known = self._folders.get(parent)
        if known is None:
            known = self._look(parent)
        return self._lstat(path) if known else None

    def is_folder(self, path: str) -> bool:
        return self._look(path)

    def _look(self, folder: str) -> bool:
        parts = folder.split("/") if folder else []
        for length in range(1, len(parts) + 1):
            path = "/".join(parts[:length])
            if path not in self._folders:
                status = self._lstat(path)
                self._folders[path] = status is not None and stat.S_ISDIR(status.st_mode)
            if not self._folders[path]:
                self._folders[folder] = False
                return False
        return True

    def _lstat(self, path: str) -> os.stat_result | None:
        try:
            return os.lstat(f"{self._root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"can't look at {_name(path)}: {error.strerror}") from error


def _check_workdir(root: str, workdir: str, files: tuple[SourceFile, ...], found: _Gathering) -> None:
    """The command starts in `workdir`: refuses an ignored folder of which nothing is sent, warns about any other."""
    if not workdir or any(file.path.startswith(workdir + "/") for file in files):
        return
    if _try_git(root, "check-ignore", "--quiet", "--", f"./{workdir}/").status == 0:
        raise SourceError(
            f"git ignores the folder {_name(workdir)} of the repository {_name(root)}, so nothing in it would be sent",
            hint="`git init` here makes it a repository of its own; `--no-git` sends the folder as it is",
        )
    found.warnings.append(f"the command starts in {_name(workdir)}, of which no file is sent")


def _not_initialised(root: str, path: str, prefix: str) -> str:
    line = _git_line(root, "submodule", "update", "--init", "--recursive", "--", path)
    return f"the submodule {_name(prefix + path)} isn't there, so nothing of it is sent: `{line}` fetches it"


def _link_warnings(files: Iterable[SourceFile]) -> list[str]:
    outward = [file.path for file in files if file.kind == "link" and not link_stays_inside(file.path, file.target)]
    if not outward:
        return []
    if len(outward) == 1:
        return [f"the link {_names(outward)} leads out of the tree: what it points at isn't sent"]
    return [f"{len(outward)} links lead out of the tree, what they point at isn't sent: {_names(outward)}"]


# --- uncommitted changes ----------------------------------------------------------------------------------------------


class _Changes(NamedTuple):
    dirty: bool
    diff: bytes = b""
    omitted: tuple[str, ...] = ()
    covered: int = 0  # bytes of old and new files in `diff`


def _uncommitted(root: str, prefix: str, commit: str | None, limit: int) -> _Changes:
    """Tracked files against `commit` (None: against nothing). Small files come first, until `limit` is reached."""
    base = commit or _line(_git(root, "hash-object", "-t", "tree", "--stdin"))
    with tempfile.TemporaryDirectory(prefix="remoterun-index-") as folder:
        # `git diff` writes to the index what it learnt about files merely touched, optional locks or not: it gets a
        # copy. The copy keeps its time, which tells git which files may have changed within the clock's resolution.
        index = f"{folder}/index"
        try:
            shutil.copy2(f"{_git_dir(root)}/index", index)
        except FileNotFoundError:
            pass

        def diff(*words: str) -> bytes:
            return _git(
                root,
                "diff",
                *_DIFF_OPTIONS,
                *words,
                settings=_DIFF_SETTINGS,
                environment={"GIT_INDEX_FILE": index},
            )

        raw = diff("--raw", "--no-abbrev", "-z", base, "--")
        if not raw:
            return _Changes(dirty=False)
        sizes = _changed_sizes(root, raw)
        covered = 0
        omitted = []
        for size, path in sorted((size, path) for path, size in sizes.items() if size is not None):
            if covered + size <= limit:
                covered += size
            else:
                omitted.append(path)
        left_out = [*omitted, *(path for path, size in sizes.items() if size is None)]
        if len(left_out) > _MOST_EXCLUDED:
            return _Changes(True, omitted=tuple(prefix + path for path in sizes))
        patch = diff(
            "--binary",
            "--full-index",
            f"--src-prefix=a/{prefix}",
            f"--dst-prefix=b/{prefix}",
            base,
            "--",
            *(f":(top,exclude,literal){path}" for path in left_out),
        )
        return _Changes(True, patch, tuple(prefix + path for path in omitted), covered)


def _changed_sizes(root: str, raw: bytes) -> dict[str, int | None]:
    """Path → bytes of its old and its new content, from `git diff --raw -z`; None for a pipe or the like."""
    sizes: dict[str, int | None] = {}
    old: list[tuple[str, bytes]] = []
    fields = raw.split(b"\0")
    for about, name in zip(fields[::2], fields[1::2], strict=False):
        old_mode, _, blob, _, _ = about.lstrip(b":").split(b" ")
        path = os.fsdecode(name)
        try:
            status = os.lstat(f"{root}/{path}")
        except OSError:
            sizes[path] = 0
        else:
            plain = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
            sizes[path] = status.st_size if plain else 0 if stat.S_ISDIR(status.st_mode) else None
        if int(old_mode, 8) not in (0, _GITLINK):
            old.append((path, blob))
    if not old:
        return sizes
    with tempfile.TemporaryFile() as asked:
        asked.write(b"".join(blob + b"\n" for _, blob in old))
        asked.seek(0)
        answer = _git(root, "cat-file", "--batch-check=%(objectsize)", stdin=asked.fileno())
    for (path, _), size in zip(old, answer.splitlines(), strict=True):
        new = sizes[path]
        if new is not None and size.isdigit():
            sizes[path] = new + int(size)
    return sizes


# --- one commit -------------------------------------------------------------------------------------------------------


def _commit(root: str, workdir: str, ref: str) -> Source:
    commit = _resolve(root, ref)
    checkout = tempfile.TemporaryDirectory(prefix="remoterun-source-")
    try:
        into = _Extraction(checkout.name)
        into.extract(_git_dir(root), root, commit, "")
        if not into.disk().is_folder(workdir):
            raise SourceError(
                f"the folder {_name(workdir)} doesn't exist in commit {commit[:10]} (`--commit-ref {show(ref)}`)",
                hint=f"start the command elsewhere: `cd {_shell(root)}`",
            )
        files = _sorted(into.files)
        branch = _branch_named(root, ref)
        return Source(
            root=root,
            workdir=workdir,
            files=files,
            commit=commit,
            branch=branch,
            remote=_Settings.read(root).remote(branch),
            subject=_subject(root, commit),
            warnings=(*into.warnings, *_link_warnings(files)),
            _checkout=checkout,
        )
    except BaseException:
        checkout.cleanup()
        raise


class _Extraction:
    """Checks a commit, and its submodules, out into a temporary folder, with an index of its own."""

    def __init__(self, folder: str) -> None:
        self._index = f"{folder}/index"
        self._top = f"{folder}/tree"
        self.files: list[SourceFile] = []
        self.warnings: list[str] = []

    def disk(self) -> _Disk:
        return _Disk(self._top)

    def extract(self, git_dir: str, work_tree: str, commit: str, prefix: str) -> None:
        """Adds the files of `commit` of the repository in `git_dir`; the user's `work_tree` tells of submodules."""
        into = f"{self._top}/{prefix}".rstrip("/")
        os.makedirs(into, exist_ok=True)
        git = (f"--git-dir={git_dir}", f"--work-tree={into}")
        environment = {"GIT_INDEX_FILE": self._index, "GIT_ATTR_NOSYSTEM": "1"}

        def run(*words: str) -> bytes:
            return _git(into, *words, options=git, settings=_CHECKOUT_SETTINGS, environment=environment)

        run("read-tree", commit)
        run("checkout-index", "--all")
        entries = list(_index_entries(run("ls-files", "--stage", "-t", "-z")))
        os.remove(self._index)
        for entry in entries:
            origin = f"{into}/{entry.path}"
            if entry.mode == _GITLINK:
                self._submodule(git_dir, work_tree, entry, prefix)
            elif entry.mode == _LINK:
                self.files.append(SourceFile(prefix + entry.path, "link", target=os.readlink(origin)))
            else:
                size = os.lstat(origin).st_size
                executable = entry.mode == _EXECUTABLE
                self.files.append(SourceFile(prefix + entry.path, "file", executable, origin, size=size))

    def _submodule(self, git_dir: str, work_tree: str, entry: _IndexEntry, prefix: str) -> None:
        top = f"{work_tree}/{entry.path}"
        below = self._submodule_git_dir(git_dir, top, entry, prefix)
        if below is None:
            self.warnings.append(_not_initialised(work_tree, entry.path, prefix))
            return
        there = (f"--git-dir={below}", f"--work-tree={self._top}")
        if _try_git(self._top, "cat-file", "-e", f"{entry.id}^{{commit}}", options=there).status:
            raise SourceError(
                f"the submodule {_name(prefix + entry.path)} lacks commit {entry.id[:10]}, which this commit needs",
                hint=f"`git --git-dir={_shell(below)} fetch --all`",
            )
        self.extract(below, top, entry.id, f"{prefix}{entry.path}/")

    def _submodule_git_dir(self, git_dir: str, top: str, entry: _IndexEntry, prefix: str) -> str | None:
        """Where the submodule's objects are: in its folder of the work tree, or put away below `git_dir`."""
        if _is_top(top):
            return _git_dir(top)
        folder = f"{self._top}/{prefix}".rstrip("/")
        if not _Disk(folder).status(".gitmodules"):
            return None
        answer = _try_git(
            folder, "config", "-z", "--file", f"{folder}/.gitmodules", "--get-regexp", r"^submodule\..*\.path$"
        )
        for key, path in _pairs(answer.output):
            name = key.removeprefix("submodule.").removesuffix(".path")
            if path != entry.path or ".." in name.split("/"):
                continue
            for place in (git_dir, _common_dir(git_dir)):
                if os.path.isfile(f"{place}/modules/{name}/HEAD"):
                    return f"{place}/modules/{name}"
        return None


def _resolve(root: str, ref: str) -> str:
    """The commit that `ref` names."""
    evidence = None
    if ref and not ref.startswith("-") and "\0" not in ref:
        answer = _try_git(root, "rev-parse", "--verify", ref)
        if answer.status == 0:  # in two steps, as `:/some words` takes all that follows
            answer = _try_git(root, "rev-parse", "--verify", f"{_line(answer.output)}^{{commit}}")
        if answer.status == 0:
            return _line(answer.output)
        evidence = answer.error
    listed = _git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    names = os.fsdecode(listed).splitlines()
    close = [name for name in names if ref and name.endswith("/" + ref)]
    close = close or difflib.get_close_matches(ref, names, n=3)
    if close:
        hint = "did you mean " + " or ".join(_name(name) for name in close) + "?"
    else:
        hint = "`git branch -a` lists branches, `git tag` tags, `git log --oneline` commits"
    raise UsageError(f"no commit is called {_name(ref)} in {_name(root)}", hint=hint, evidence=evidence or None)


def _branch_named(root: str, ref: str) -> str | None:
    answer = _try_git(root, "rev-parse", "--symbolic-full-name", ref)
    full = os.fsdecode(answer.output).strip()
    return full.removeprefix("refs/heads/") if full.startswith("refs/heads/") else None


# --- a folder without git ---------------------------------------------------------------------------------------------


def _plain_folder(root: str) -> Source:
    from pathspec import GitIgnoreSpec

    lines = [".DS_Store", "__pycache__/"]
    own = _ignore_lines(root)
    if own is None:
        _refuse_whole_home(root)
    ignored = GitIgnoreSpec.from_lines([*lines, *(own or ())])
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
            warnings.append(f"{_name(folder)} left out, as it is a Python virtual environment of this machine")
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
                elif stat.S_ISREG(mode):
                    executable = bool(mode & stat.S_IXUSR)
                    files.append(SourceFile(path, "file", executable, f"{root}/{path}", size=status.st_size))
                elif stat.S_ISLNK(mode):
                    files.append(SourceFile(path, "link", target=os.readlink(item.path)))
                else:
                    warnings.append(f"{_name(path)} left out, as it is {_special(mode)}")
            except FileNotFoundError:
                continue
    found = _sorted(files)
    return Source(
        root=root,
        files=found,
        empty_dirs=tuple(sorted(empty_dirs, key=os.fsencode)),
        warnings=(*sorted(warnings), *_link_warnings(found)),
    )


def _scan(root: str, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(f"{root}/{folder}") as listing:
            return list(listing)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SourceError(
            f"can't read the folder {_name(folder or root)}: {error.strerror}",
            hint=f"name it in `{IGNORE_FILE}` to leave it out",
        ) from error


def _ignore_lines(root: str) -> list[str] | None:
    """The lines of the folder's ignore file; None without one."""
    try:
        with open(f"{root}/{IGNORE_FILE}", "rb") as file:
            text = file.read().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"can't read `{IGNORE_FILE}`: {error.strerror}") from error
    return [line.removesuffix("\r") for line in os.fsdecode(text).split("\n")]


def _refuse_whole_home(root: str) -> None:
    home = os.path.realpath(os.path.expanduser("~"))
    if root == "/" or (home + "/").startswith(root + "/"):
        raise SourceError(
            f"{_name(root)} holds your whole home folder, not one project"
            if root != home
            else "this is your home folder",
            hint=f"`cd` into the project's folder; or write `{IGNORE_FILE}` here to show that you mean it",
        )


# --- what git says ----------------------------------------------------------------------------------------------------


def _find_repository(folder: str) -> tuple[str, str]:
    """(top folder of the work tree that holds `folder`, `folder` relative to it)."""
    answer = _try_git(folder, "rev-parse", "--is-inside-work-tree", "--is-inside-git-dir", "--is-bare-repository")
    if answer.status:
        if "not a git repository (or any" in answer.error:
            raise NoRepository(
                f"{_name(folder)} is in no git repository",
                hint="`git init` makes one; `--no-git` sends the folder as it is",
            )
        if "cannot use bare repository" in answer.error:
            _refuse_bare(folder)
        _fail(folder, answer)
    inside, in_git_dir, bare = answer.output.split()[:3]
    if bare == b"true" and inside != b"true":
        _refuse_bare(folder)
    if in_git_dir == b"true" or inside != b"true":
        raise SourceError(
            f"{_name(folder)} is a folder of git's own, not of a work tree", hint="`cd` into the work tree first"
        )
    root = _line(_git(folder, "rev-parse", "--show-toplevel"))
    return root, _line(_git(folder, "rev-parse", "--show-prefix")).rstrip("/")


def _refuse_bare(folder: str) -> NoReturn:
    raise SourceError(
        f"{_name(folder)} is a bare git repository, which has no work tree to send",
        hint=f"`git clone {_shell(folder)}` makes a work tree; start the command in it",
    )


class _IndexEntry(NamedTuple):
    path: str
    mode: int
    id: str
    skipped: bool  # not on disk, as the checkout is sparse


def _index(root: str) -> Iterator[_IndexEntry]:
    return _index_entries(_git(root, "ls-files", "--stage", "-t", "-z"))


def _index_entries(listing: bytes) -> Iterator[_IndexEntry]:
    """Each path of the index once: in the middle of a merge one has up to three stages."""
    seen = b""
    for line in listing.split(b"\0"):
        about, _, name = line.partition(b"\t")
        if not name or name == seen:
            continue
        seen = name
        tag, mode, identity, _ = about.split(b" ")
        yield _IndexEntry(os.fsdecode(name), int(mode, 8), identity.decode("ascii"), tag == b"S")


def _listing(root: str, *options: str) -> list[str]:
    return [os.fsdecode(name) for name in _git(root, "ls-files", "-z", *options).split(b"\0") if name]


def _is_top(folder: str) -> bool:
    """Whether `folder` is the top of a work tree of its own."""
    if not os.path.lexists(f"{folder}/.git"):
        return False
    answer = _try_git(folder, "rev-parse", "--show-prefix")
    if answer.status and "not a git repository" not in answer.error:
        _fail(folder, answer)
    return answer.status == 0 and not answer.output.strip()


def _git_dir(root: str) -> str:
    return _line(_git(root, "rev-parse", "--absolute-git-dir"))


def _common_dir(git_dir: str) -> str:
    """The repository's folder that all its work trees share."""
    try:
        with open(f"{git_dir}/commondir", "rb") as file:
            return os.path.join(git_dir, _line(file.read()))
    except OSError:
        return git_dir


def _verify(root: str, ref: str) -> str | None:
    answer = _try_git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    return _line(answer.output) if answer.status == 0 else None


def _subject(root: str, commit: str) -> str:
    return _git(root, "log", "-1", "--no-patch", "--encoding=UTF-8", "--format=%s", commit, "--").decode(
        "utf-8", "replace"
    )[:-1]


def _current_branch(root: str) -> str | None:
    answer = _try_git(root, "symbolic-ref", "--quiet", "HEAD")
    return _line(answer.output).removeprefix("refs/heads/") if answer.status == 0 else None


class _Settings(NamedTuple):
    """The repository's own settings that say what its disk can hold, and where it comes from."""

    file_mode: bool
    symlinks: bool
    remotes: Mapping[str, str]
    upstreams: Mapping[str, str]  # branch → remote

    @classmethod
    def read(cls, root: str) -> _Settings:
        wanted = r"^(core\.(filemode|symlinks)|remote\..*\.url|branch\..*\.remote)$"
        flags = {"core.filemode": True, "core.symlinks": True}
        remotes: dict[str, str] = {}
        upstreams: dict[str, str] = {}
        answer = _try_git(root, "config", "-z", "--get-regexp", wanted)
        if answer.status > 1:
            _fail(root, answer)
        for key, value in _pairs(answer.output):
            if key in flags:
                flags[key] = value.lower() not in ("false", "no", "off", "0", "")
            elif key.startswith("remote."):
                remotes.setdefault(key.removeprefix("remote.").removesuffix(".url"), value)
            else:
                upstreams[key.removeprefix("branch.").removesuffix(".remote")] = value
        return cls(flags["core.filemode"], flags["core.symlinks"], remotes, upstreams)

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


def _pairs(listing: bytes) -> Iterator[tuple[str, str]]:
    """Key and value of each line of `git config -z`; a key without a value is true."""
    for line in os.fsdecode(listing).split("\0"):
        if line:
            key, separator, value = line.partition("\n")
            yield key, value if separator else "true"


# --- calling git ------------------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    status: int
    output: bytes
    error: str


def _git(
    folder: str,
    *words: str,
    options: Iterable[str] = (),
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = None,
) -> bytes:
    """Standard output of a call of git that must succeed."""
    answer = _try_git(folder, *words, options=options, settings=settings, environment=environment, stdin=stdin)
    if answer.status:
        _fail(folder, answer)
    return answer.output


def _try_git(
    folder: str,
    *words: str,
    options: Iterable[str] = (),
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = None,
) -> _Answer:
    """Calls git in `folder`, whatever its outcome."""
    program = _program()
    try:
        from git.cmd import Git
        from git.exc import GitCommandNotFound
    except ImportError as error:
        raise SourceError("git doesn't start", hint="`git --version` shows why", evidence=str(error)) from error
    extra = {**_ENVIRONMENT, **(environment or {})}
    unset = [name for name in _FOREIGN_VARIABLES if name in os.environ and name not in extra]
    command = [word for name in unset for word in ("-u", name)]
    command = ["env", *command, program] if unset else [program]
    command += ["--no-pager", "-C", folder, *options]
    for key, value in {**_SETTINGS, **(settings or {})}.items():
        command += ["-c", f"{key}={value}"]
    try:
        # The folder is given as `-C` and not to `Git()`, which would expand a `$` or a `~` in its name.
        answer = Git().execute(
            [*command, *words],
            istream=stdin,
            env=extra,
            kill_after_timeout=GIT_DEADLINE,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
            with_exceptions=False,
            with_extended_output=True,
        )
    except GitCommandNotFound as error:
        raise _missing() from error
    status, output, text = answer
    if status < 0 and text.startswith("Timeout: "):
        raise SourceError(
            f"`git {words[0]}` in {_name(folder)} took longer than {GIT_DEADLINE:g} s",
            hint=f"see whether `{_git_line(folder, 'status')}` ends",
        )
    return _Answer(status, output, text)


def _program() -> str:
    program = os.environ.get("GIT_PYTHON_GIT_EXECUTABLE") or "git"
    if shutil.which(program) is None:
        raise _missing()
    return program


def _missing() -> SourceError:
    return SourceError(
        "git is not installed, or not in PATH", hint="install git; or `--no-git` sends the folder as it is"
    )


def _fail(folder: str, answer: _Answer) -> NoReturn:
    """Raises what git's words mean."""
    if "dubious ownership" in answer.error:
        line = re.search(r"git config --global --add safe\.directory .*", answer.error)
        raise SourceError(
            f"git doesn't trust the repository that holds {_name(folder)}, as someone else owns it",
            hint=f"`{line.group(0)}`" if line else None,
            evidence=answer.error,
        )
    reasons = [line for line in answer.error.splitlines() if line.startswith(("fatal: ", "error: "))]
    reason = reasons[-1].partition(": ")[2].rstrip(".") if reasons else f"exit status {answer.status}"
    raise SourceError(
        f"git fails in {_name(folder)}: {reason}",
        hint=f"`{_git_line(folder, 'status')}`",
        evidence=answer.error or None,
    )


def _git_line(folder: str, *words: str) -> str:
    """A command for the user to type, from any folder."""
    return " ".join(_shell(word) for word in ("git", "-C", folder, *words))


def _shell(word: str) -> str:
    """`word` quoted for a shell, on one line."""
    if show(word) == word:
        return shlex.quote(word)
    escaped = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


def _line(output: bytes) -> str:
    """One line of output; a name may itself hold a line's end."""
    return os.fsdecode(output.removesuffix(b"\n"))


# --- words ------------------------------------------------------------------------------------------------------------


def _sorted(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    return tuple(sorted(files, key=lambda file: os.fsencode(file.path)))


def _name(path: str) -> str:
    return f"`{show(path)}`"


def _names(paths: Iterable[str]) -> str:
    """The first few of `paths` for a message."""
    listed = list(paths)
    text = ", ".join(_name(path) for path in listed[:3])
    return f"{text} and {len(listed) - 3} more" if len(listed) > 3 else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _special(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device"
