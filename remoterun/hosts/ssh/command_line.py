"""Words and paths as they must stand in a command that the login shell of a host reads, whichever shell that is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from remoterun.errors import UsageError


def command_line(words: Sequence[str]) -> str:
    """Words as one command line that sh, bash, zsh, fish, csh and tcsh all split into the same words.

    Raises `UsageError` for a word with a line break, which csh can't quote, or with a zero byte.
    """
    return " ".join(map(_quoted, words))


def login_relative(path: str) -> str:
    """A path on the host, as a command that starts in the login folder names it: without `~/`. Raises `UsageError`."""
    if path in ("~", "", ".", "~/"):
        raise UsageError(f"`{path}` can't be used as this path", hint="write `~/.remoterun`, or an absolute path")
    if path.startswith("~/"):
        path = path[2:].lstrip("/")
    elif path.startswith("~"):
        raise UsageError(f"`{path}` can't be used: only `~/` is understood", hint="write an absolute path")
    return f"./{path}" if path.startswith("-") else path.rstrip("/") or "/"


def _quoted(word: str) -> str:
    if re.search(r"[\0\n\r]", word):
        raise UsageError(f"{word!r} can't stand in a remote command: it has a line break")
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,-]+", word):
        return word
    pieces = re.split(r"(['\\!])", word)  # some shells treat these specially even between quotes
    quoted = [f"\\{piece}" if piece in ("'", "\\", "!") else f"'{piece}'" for piece in pieces if piece]
    return "".join(quoted) or "''"
