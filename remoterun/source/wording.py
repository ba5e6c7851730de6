"""How messages write paths, and commands for the user to type: on one line, whatever a name holds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from remoterun.agent.shared.tree import show


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
    """`word` quoted for a shell, on one line."""
    if show(word) == word:
        return shlex.quote(word)
    escaped = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"
