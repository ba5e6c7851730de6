"""Uncommitted changes: whether there are any, and the diff that records them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

from remoterun.source.git import Git, one_line
from remoterun.source.repository import GITLINK, git_dir_of

DIFF_LIMIT = 32 << 20  # bytes of changed files, old and new, that the recorded diff may cover

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
    f"-O{os.devnull}",
)


class Changes(NamedTuple):
    """How tracked files differ from the commit."""

    dirty: bool
    diff: bytes = b""
    omitted: tuple[str, ...] = ()
    covered: int = 0  # bytes of old and new files in `diff`


def uncommitted(repositories: Iterable[tuple[str, str, str | None]]) -> Changes:
    """The changes of all (top folder, prefix of its paths, commit); together they keep to `DIFF_LIMIT`."""
    dirty = False
    diff = b""
    omitted: tuple[str, ...] = ()
    covered = 0
    for root, prefix, commit in repositories:
        one = _of_one(root, prefix, commit, DIFF_LIMIT - covered)
        dirty |= one.dirty
        diff += one.diff
        omitted += one.omitted
        covered += one.covered
    return Changes(dirty, diff, omitted, covered)


def _of_one(root: str, prefix: str, commit: str | None, limit: int) -> Changes:
    """Tracked files against `commit` (None: against nothing). Small files come first, until `limit` is reached."""
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
        raw = git.run("diff", *_DIFF_OPTIONS, "--raw", "--no-abbrev", "-z", base, "--")
        if not raw:
            return Changes(dirty=False)
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
            return Changes(True, omitted=tuple(prefix + path for path in sizes))
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
        return Changes(True, patch, tuple(prefix + path for path in omitted), covered)


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
        if int(old_mode, 8) not in (0, GITLINK):
            old.append((path, blob))
    if not old:
        return sizes
    with tempfile.TemporaryFile() as asked:
        asked.write(b"".join(blob + b"\n" for _, blob in old))
        asked.seek(0)
        answer = Git(root).run("cat-file", "--batch-check=%(objectsize)", stdin=asked.fileno())
    for (path, _), size in zip(old, answer.splitlines(), strict=True):
        new = sizes[path]
        if new is not None and size.isdigit():
            sizes[path] = new + int(size)
    return sizes
