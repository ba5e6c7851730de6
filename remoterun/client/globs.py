"""Names with `*`, `?` and `[…]` below a resource, as shells have them; they are matched here, by the manifest.

`*` stays within one part of a path, and `**` is any number of parts. A file that is really called so comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from remoterun.agent.shared.tree import Manifest, show
from remoterun.errors import NotFound
from remoterun.model import Resource

_SPECIAL = frozenset("*?[")
ANY_DEPTH = "**"


def split(resource: Resource) -> tuple[Resource, str]:
    """(the part of a resource before its first name with a special character, the rest); "" where there is none."""
    parts = resource.sub.split("/") if resource.sub else []
    plain = next((number for number, part in enumerate(parts) if _SPECIAL & set(part)), len(parts))
    return replace(resource, sub="/".join(parts[:plain])), "/".join(parts[plain:])


def matching(manifest: Manifest, below: Resource, pattern: str) -> Manifest:
    """The entries that `pattern` names, with all that lies below such a folder. Raises `NotFound` if there are none."""
    entries = manifest.entries
    found = [entry for entry in entries if entry.path == pattern or entry.path.startswith(f"{pattern}/")]
    if not found:
        parts = pattern.split("/")
        found = [entry for entry in entries if _fits(entry.path.split("/"), parts)]
    if not found:
        raise NotFound(f"nothing in {show(str(below))} matches `{show(pattern)}`", hint=f"remoterun ls {below}")
    return Manifest(found)


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the pattern names the path, or a folder above it."""
    if not pattern:
        return True
    if pattern[0] == ANY_DEPTH:
        return any(_fits(path[start:], pattern[1:]) for start in range(len(path)))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])
