"""One commit, whatever the work tree holds: checked out into a temporary folder of our own."""

from __future__ import annotations

import difflib
import os
import tempfile

from remoterun.agent.shared.tree import show
from remoterun.errors import SourceError, UsageError
from remoterun.source.git import Git, one_line
from remoterun.source.repository import (
    EXECUTABLE,
    GITLINK,
    LINK,
    IndexEntry,
    RepositorySettings,
    git_dir_of,
    index,
    is_top,
    subject,
    submodule_warning,
)
from remoterun.source.tree import Disk, Source, SourceFile, in_order, link_warnings, named, pointer_warnings, shell

_CHECKOUT_SETTINGS = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.symlinks": "true",
    "core.attributesFile": os.devnull,
    "core.sparseCheckout": "false",
    "core.splitIndex": "false",  # would put a shared index into the user's repository
    "index.sparse": "false",
}


def commit_source(root: str, workdir: str, ref: str) -> Source:
    """The commit that `ref` names. The files' origins last until the source is closed."""
    commit = _resolve(root, ref)
    checkout = tempfile.TemporaryDirectory(prefix="remoterun-source-")
    try:
        into = _Extraction(checkout.name)
        into.extract(git_dir_of(root), root, commit, "")
        if not Disk(into.top).is_folder(workdir):
            raise SourceError(
                f"the folder {named(workdir)} doesn't exist in commit {commit[:10]} (`{show(ref)}`)",
                hint=f"start the command elsewhere: `cd {shell(root)}`",
            )
        files = in_order(into.files)
        branch = _branch_named(root, ref)
        return Source(
            root=root,
            workdir=workdir,
            files=files,
            commit=commit,
            branch=branch,
            remote=RepositorySettings.read(root).remote(branch),
            subject=subject(root, commit),
            warnings=(*into.warnings, *pointer_warnings(root, files), *link_warnings(files)),
            _checkout=checkout,
        )
    except BaseException:
        checkout.cleanup()
        raise


class _Extraction:
    """Checks a commit, and its submodules, out into a temporary folder, with an index of its own."""

    def __init__(self, folder: str) -> None:
        self._index = f"{folder}/index"
        self.top = f"{folder}/tree"
        self.files: list[SourceFile] = []
        self.warnings: list[str] = []

    def extract(self, git_dir: str, work_tree: str, commit: str, prefix: str) -> None:
        """Adds the files of `commit` of the repository in `git_dir`; the user's `work_tree` tells of submodules."""
        into = f"{self.top}/{prefix}".rstrip("/")
        os.makedirs(into, exist_ok=True)
        git = Git(
            into,
            options=(f"--git-dir={git_dir}", f"--work-tree={into}"),
            settings=_CHECKOUT_SETTINGS,
            environment={"GIT_INDEX_FILE": self._index, "GIT_ATTR_NOSYSTEM": "1"},
        )
        git.run("read-tree", commit)
        git.run("checkout-index", "--all")
        entries = list(index(git))
        os.remove(self._index)
        for entry in entries:
            origin = f"{into}/{entry.path}"
            if entry.mode == GITLINK:
                self._submodule(work_tree, entry, prefix)
            elif entry.mode == LINK:
                self.files.append(SourceFile(prefix + entry.path, "link", target=os.readlink(origin)))
            else:
                size = os.lstat(origin).st_size
                executable = entry.mode == EXECUTABLE
                self.files.append(SourceFile(prefix + entry.path, "file", executable, origin, size=size))

    def _submodule(self, work_tree: str, entry: IndexEntry, prefix: str) -> None:
        top = f"{work_tree}/{entry.path}"
        if not is_top(top):
            self.warnings.append(submodule_warning(work_tree, entry.path, prefix))
            return
        below = git_dir_of(top)
        git = Git(self.top, options=(f"--git-dir={below}", f"--work-tree={self.top}"))
        if git.attempt("cat-file", "-e", f"{entry.id}^{{commit}}").status:
            raise SourceError(
                f"the submodule {named(prefix + entry.path)} lacks commit {entry.id[:10]}, which this commit needs",
                hint=f"`git --git-dir={shell(below)} fetch --all`",
            )
        self.extract(below, top, entry.id, f"{prefix}{entry.path}/")


def _resolve(root: str, ref: str) -> str:
    """The commit that `ref` names."""
    git = Git(root)
    evidence = None
    if ref and not ref.startswith("-") and "\0" not in ref:
        answer = git.attempt("rev-parse", "--verify", ref)
        if answer.status == 0:  # in two steps, as `:/some words` takes all that follows
            answer = git.attempt("rev-parse", "--verify", f"{one_line(answer.output)}^{{commit}}")
        if answer.status == 0:
            return one_line(answer.output)
        evidence = answer.error
    names = _known_names(root)
    close = [name for name in names if ref and name.endswith("/" + ref)]
    close = close or difflib.get_close_matches(ref, names, n=3)
    if close:
        hint = "did you mean " + " or ".join(named(name) for name in close) + "?"
    else:
        hint = "`git branch -a` lists branches, `git tag` tags, `git log --oneline` commits"
    raise UsageError(f"no commit is called {named(ref)} in {named(root)}", hint=hint, evidence=evidence or None)


def _known_names(root: str) -> list[str]:
    """The branches and tags of a repository; none where GitPython can't read it."""
    from git import GitError, Repo  # on use: it takes longer than a run may

    try:
        with Repo(root) as repository:
            return [reference.name for reference in repository.references]
    except (GitError, ImportError, OSError, ValueError):
        return []


def _branch_named(root: str, ref: str) -> str | None:
    answer = Git(root).attempt("rev-parse", "--symbolic-full-name", ref)
    full = os.fsdecode(answer.output).strip()
    return full.removeprefix("refs/heads/") if full.startswith("refs/heads/") else None
