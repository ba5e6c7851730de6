"""What is sent with a run: the user's git work tree, one of its commits, or a plain folder.

Three ways to get a `Source`:

    snapshot(start)                    tracked files as they are on disk, staged and unstaged changes included
    snapshot(start, commit_ref="v1")   exactly that commit, from a checkout of our own in a temporary folder
    snapshot(start, no_git=True)       the folder itself, without what `.remoterunignore` names

The user's repository (index, HEAD, work tree) is never written, and the user's git settings change nothing in what is
sent.

Bottom up: `tree` (what is sent, how messages name it, and what lies on the disk); `git` (the calls) and `repository`
(what git answers); then the three ways, `work_tree`, `commit` and `folder`. `imports` finds the modules that a
command's code imports, `projects` the packages that the project lists and the paths that a command names.
"""

from __future__ import annotations

import os
from pathlib import Path

from remoterun.errors import UsageError
from remoterun.source.imports import Imported, imported
from remoterun.source.projects import Requirements, as_requirements, listed_in, mentioned
from remoterun.source.repository import NoRepository, find_repository
from remoterun.source.tree import Source, named
from remoterun.source.work_tree import DIFF_LIMIT, work_tree_source


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
        raise UsageError(f"there is no folder {named(folder)}")
    if commit_ref is not None and (no_git or include_untracked):
        raise UsageError(
            "a commit is sent alone: neither as a plain folder nor with untracked files", hint="leave out one of them"
        )
    if no_git:
        from remoterun.source.folder import folder_source

        return folder_source(folder)
    root, workdir = find_repository(folder)
    if commit_ref is not None:
        from remoterun.source.commit import commit_source

        return commit_source(root, workdir, commit_ref)
    return work_tree_source(root, workdir, include_untracked)
