"""Which paths lie in a git folder: git runs what it finds in `.git/hooks` and `.git/config`, so hosts may send
none of it.

The name is recognised as git does it (`verify_path`): with any case; as NTFS takes it (`git~1`, dots and blanks at its
end, a stream such as `.git::$INDEX_ALLOCATION`, backslashes between folders); and as a Mac's disk takes it, which
ignores some invisible characters. All of these are refused on every disk: a folder may be copied on to another one.
"""

from __future__ import annotations

import re
import unicodedata

from remoterun.agent.shared.tree import Manifest

_DOT_GIT = re.compile(r"(?:\A|[/\\])(?:\.git|git~1)[. ]*(?:\Z|[/\\:])", re.IGNORECASE)


def in_git_folder(path: str) -> bool:
    """Whether a part of a relative path is `.git`, or a name that a file system takes for it."""
    if not path.isascii():
        path = "".join(char for char in path if unicodedata.category(char) != "Cf").casefold()
    return _DOT_GIT.search(path) is not None


def without_git_folders(manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The manifest without the entries of git folders, and the paths of those."""
    text = manifest.encode()
    if b"git" not in text.lower() and b"\\u" not in text:  # as nearly always; "\\u": a character that is not ASCII
        return manifest, []
    left_out = [entry.path for entry in manifest if in_git_folder(entry.path)]
    if not left_out:
        return manifest, []
    return Manifest(entry for entry in manifest if not in_git_folder(entry.path)), left_out
