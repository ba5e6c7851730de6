"""The work tree as it is on disk, its submodules included."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable

from remoterun.agent.shared.records import Record
from remoterun.errors import SourceError
from remoterun.sizes import counted
from remoterun.source.git import AS_IT_IS, Git, one_line
from remoterun.source.repository import (
    EXECUTABLE,
    GITLINK,
    GitStatus,
    RepositorySettings,
    git_dir_of,
    index,
    is_ignored,
    is_top,
    subject,
    submodule_warning,
)
from remoterun.source.tree import (
    Disk,
    Source,
    SourceFile,
    found_at,
    git_line,
    in_order,
    left_out_warning,
    link_warnings,
    named,
    named_few,
    pointer_warnings,
)


def work_tree_source(root: str, workdir: str, include_untracked: bool) -> Source:
    """The tracked files of the work tree at `root`; with `include_untracked` the untracked ones too."""
    settings = RepositorySettings.read(root)
    found = _Gathering(include_untracked)
    found.gather(root, "", settings)
    files = in_order(found.files)
    warnings = [*found.warnings, *_workdir_warnings(root, workdir, files)]
    commit, branch = found.repositories[0][2].commit, found.repositories[0][2].branch
    changes = uncommitted(found.repositories)
    if changes.omitted:
        warnings.append(
            f"the recorded diff leaves out {named_few(changes.omitted)}, as it would be too large; "
            "the run gets all changes"
        )
    return Source(
        root=root,
        workdir=workdir,
        files=files,
        commit=commit,
        branch=branch,
        remote=settings.remote(branch),
        subject=subject(root, commit) if commit else None,
        dirty=changes.dirty,
        diff=changes.diff,
        untracked=tuple(sorted(found.untracked, key=os.fsencode)),
        warnings=(*warnings, *pointer_warnings(root, files), *link_warnings(files)),
    )


class _Gathering:
    """What the repositories of one work tree add up to."""

    def __init__(self, include_untracked: bool) -> None:
        self._include_untracked = include_untracked
        self.files: list[SourceFile] = []
        self.untracked: list[str] = []
        self.warnings: list[str] = []
        self.repositories: list[tuple[str, str, GitStatus]] = []
        """(top folder, prefix, status) of the repository and its submodules."""

    def gather(self, root: str, prefix: str, settings: RepositorySettings, *, nested: bool = False) -> None:
        """Adds the files of the repository at `root`, and of its submodules, their paths after `prefix`.

        `nested` marks a repository that the one above doesn't track.
        """
        status, disk = GitStatus.read(root), Disk(root)
        if not nested:
            self.repositories.append((root, prefix, status))
        self._tracked(root, prefix, settings, disk, nested)
        self._untracked(root, prefix, settings, disk, status.untracked)

    def _tracked(self, root: str, prefix: str, settings: RepositorySettings, disk: Disk, nested: bool) -> None:
        sparse = 0
        for entry in index(Git(root)):
            status = disk.status(entry.path)
            path = prefix + entry.path
            if entry.mode == GITLINK and (status is None or stat.S_ISDIR(status.st_mode)):
                top = f"{root}/{entry.path}"
                if status is not None and is_top(top):
                    self.gather(top, f"{path}/", RepositorySettings.read(top), nested=nested)
                else:
                    self.warnings.append(submodule_warning(root, entry.path, prefix))
            elif status is None:
                sparse += entry.skipped
            else:
                executable = bool(status.st_mode & stat.S_IXUSR) if settings.file_mode else entry.mode == EXECUTABLE
                self._add(f"{root}/{entry.path}", status, path, executable)
        if sparse:
            self.warnings.append(
                f"{counted(sparse, 'tracked file')} left out, as this is a sparse checkout: "
                f"`{git_line(root, 'sparse-checkout', 'disable')}` brings all"
            )

    def _untracked(
        self, root: str, prefix: str, settings: RepositorySettings, disk: Disk, untracked: Iterable[str]
    ) -> None:
        for path in untracked:
            if os.path.basename(path) == ".DS_Store":
                continue
            self.untracked.append(prefix + path)
            if not self._include_untracked:
                continue
            if path.endswith("/"):
                top = f"{root}/{path[:-1]}"
                if is_top(top):
                    self.gather(top, prefix + path, RepositorySettings.read(top), nested=True)
                continue
            status = disk.status(path)
            if status is not None:
                executable = settings.file_mode and bool(status.st_mode & stat.S_IXUSR)
                self._add(f"{root}/{path}", status, prefix + path, executable)

    def _add(self, origin: str, status: os.stat_result, path: str, executable: bool) -> None:
        """Adds the file or the link at `origin`. A folder in a file's place adds nothing: to git, the file is gone."""
        mode = status.st_mode
        try:
            if file := found_at(origin, status, path, executable):
                self.files.append(file)
            elif not stat.S_ISDIR(mode):
                self.warnings.append(left_out_warning(path, mode))
        except FileNotFoundError:
            pass


def _workdir_warnings(root: str, workdir: str, files: tuple[SourceFile, ...]) -> list[str]:
    """The command starts in `workdir`: refuses an ignored folder of which nothing is sent, warns about any other."""
    if not workdir or any(file.path.startswith(workdir + "/") for file in files):
        return []
    if is_ignored(root, workdir):
        raise SourceError(
            f"git ignores the folder {named(workdir)} of the repository {named(root)}, so nothing in it would be sent",
            hint=f"`git init` here makes it a repository of its own; {AS_IT_IS}",
        )
    return [f"the command starts in {named(workdir)}, of which no file is sent"]


DIFF_LIMIT = 32 << 20  # bytes of the recorded diff
DIFFED = 4 << 20  # bytes of a changed file that it may cover

_MOST_EXCLUDED = 500  # changed files named in one command line

_DIFF_SETTINGS = {
    "core.quotePath": "true",
    "diff.algorithm": "myers",
    "diff.context": "3",
    "core.splitIndex": "false",
    "diff.autoRefreshIndex": "true",  # a file that was merely touched has not changed
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
)


class Changes(Record):
    """How tracked files differ from the commit."""

    dirty: bool
    diff: bytes
    omitted: tuple[str, ...]


def uncommitted(repositories: Iterable[tuple[str, str, GitStatus]]) -> Changes:
    """The changes of all (top folder, prefix of its paths, status). What is too large for the diff is left out."""
    changed: list[str] = []
    omitted: list[str] = []
    diff = b""
    for root, prefix, status in repositories:
        if status.clean:
            continue
        paths, left_out, patch = _of_one(root, prefix, status.commit)
        changed += [prefix + path for path in paths]
        omitted += [prefix + path for path in left_out if os.path.isfile(f"{root}/{path}")]
        diff += patch
    if len(diff) > DIFF_LIMIT:
        diff, omitted = b"", changed
    return Changes(bool(changed), diff, tuple(omitted))


def _of_one(root: str, prefix: str, commit: str | None) -> tuple[list[str], list[str], bytes]:
    """Tracked files against `commit` (None: against nothing): (those that differ, those of them that the diff leaves
    out, the diff)."""
    base = commit or one_line(Git(root).run("hash-object", "-t", "tree", "--stdin"))
    with tempfile.TemporaryDirectory(prefix="remoterun-index-") as folder:
        # `git diff` writes to the index what it learnt about files merely touched, optional locks or not: it gets a
        # copy. The copy keeps its time, which tells git which files may have changed within the clock's resolution.
        index = f"{folder}/index"
        try:
            shutil.copy2(f"{git_dir_of(root)}/index", index)
        except FileNotFoundError:
            pass
        git = Git(root, settings=_DIFF_SETTINGS, environment={"GIT_INDEX_FILE": index})
        raw = git.run("diff", *_DIFF_OPTIONS, "--name-only", "-z", base, "--")
        changed = os.fsdecode(raw).split("\0")[:-1]
        left_out = [path for path in changed if not _is_diffed(f"{root}/{path}")]
        if not changed or len(left_out) > _MOST_EXCLUDED:
            return changed, changed, b""
        patch = git.run(
            "diff",
            *_DIFF_OPTIONS,
            "--binary",
            "--full-index",
            f"--src-prefix=a/{prefix}",
            f"--dst-prefix=b/{prefix}",
            base,
            "--",
            *(f":(top,exclude,literal){path}" for path in left_out),
        )
        return changed, left_out, patch


def _is_diffed(path: str) -> bool:
    """Whether the diff covers a changed file, as it is on the disk: git would read all of a large one, and wait for a
    pipe."""
    try:
        status = os.lstat(path)
    except OSError:
        return True
    if stat.S_ISREG(status.st_mode):
        return status.st_size <= DIFFED
    return stat.S_ISLNK(status.st_mode) or stat.S_ISDIR(status.st_mode)
