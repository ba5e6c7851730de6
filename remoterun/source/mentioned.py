"""Which files a command names."""

from __future__ import annotations

import posixpath
import shlex

_REDIRECTIONS = (">", ">>", ">|", "&>", "&>>")
_OPERATORS = frozenset("();<>|&")


def mentioned(command: str, workdir: str) -> list[str]:
    """The words of a shell line that may be paths of files, relative to the top folder of what is sent.

    `workdir`: where the command starts, relative to that folder. A word such as `--config=a.json` names `a.json`; what
    the command writes to, by `>`, does not count, nor does what lies outside the folder.
    """
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = ""
    found: list[str] = []
    before = ""
    try:
        for word in words:
            text = word.partition("=")[2] if word.startswith("-") else word
            operator = not set(text) - _OPERATORS
            path = "" if operator else posixpath.normpath(posixpath.join(workdir, text))
            if before not in _REDIRECTIONS and path not in ("", ".", *found) and not path.startswith(("../", "/")):
                found.append(path)
            before = word
    except ValueError:  # a quote without its end: the shell will say so
        pass
    return found
