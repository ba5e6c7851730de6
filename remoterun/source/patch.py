"""What `git apply` reads: how two sets of files differ, by git itself."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from remoterun.errors import SourceError
from remoterun.source.git import Git

DEADLINE = 3.0
"""Seconds in which lines are compared: for some texts it takes days."""
_ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

Files = Mapping[str, tuple[str, bytes]]
"""The mode of each file, as git writes it, and its content, by its path."""


def patches(before: Files, after: Files, binary: bool) -> dict[str, list[str]]:
    """The lines of `git diff` for each path that differs; with `binary`, also what is not text can be made of them.
    Raises `SourceError`."""
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder, tempfile.TemporaryFile() as stream:
        for number, files in enumerate((before, after)):
            stream.write(b"commit refs/heads/%d\ncommitter x <x> 0 +0000\ndata 0\n" % number)
            for path, (mode, content) in files.items():
                if ".git" not in path.lower().split("/"):  # git takes no such path
                    head = f"M {mode} inline {quoted(path)}\ndata {len(content)}\n"
                    stream.write(head.encode(errors="surrogateescape") + content + b"\n")
        stream.seek(0)
        attributes = Path(folder, "attributes")
        git = Git(folder, ("--git-dir=.",), {"core.quotePath": "false", "core.attributesFile": str(attributes)}, _ALONE)
        git.run("init", "-q", "--bare", "--template=")
        git.run("fast-import", "--quiet", stdin=stream.fileno())
        diff = ("diff-tree", "-r", "-p", *["--binary"] * binary, "refs/heads/0", "refs/heads/1")
        try:
            output = replace(git, deadline=DEADLINE).run(*diff)
        except SourceError:
            attributes.write_text("* -diff")  # as if nothing were text
            output = git.run(*diff)
    heads = {f"diff --git {quoted(f'a/{path}')} {quoted(f'b/{path}')}": path for path in (*before, *after)}
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output.decode(errors="surrogateescape").split("\n")[:-1]:
        if line in heads:  # a file that becomes a link has two
            lines = found.setdefault(heads[line], [])
        lines.append(line)
    return found


_ESCAPED = dict(zip('\a\b\t\n\v\f\r"\\', 'abtnvfr"\\', strict=True))


def quoted(path: str) -> str:
    """A path as git writes it."""
    text = re.sub(r'[\0-\x1f"\\\x7f]', lambda found: "\\" + (_ESCAPED.get(found[0]) or f"{ord(found[0]):03o}"), path)
    return path if text == path else f'"{text}"'
