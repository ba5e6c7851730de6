"""The commands that a host's login shell reads, and the one that copies the agent to a host that doesn't have it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from remoterun.errors import AgentError, UsageError
from remoterun.hosts.bundle import FLAGS, AgentBundle

_NO_PYTHON, _OLD_PYTHON, _BROKEN_PYTHON, _NOT_WRITABLE, _NOT_WRITTEN, _CUT, _OF_OTHERS = 71, 72, 73, 74, 75, 76, 77

# Ends unless the folder $1 and the one that holds it, as far as they exist, are the user's, and others may not write
# there: whoever may could put another agent in the place of ours. As sshd does with `~/.ssh`.
_CHECK = (
    'for d in "${1%/*}" "$1"; do [ -e "$d" ] || continue; l=$(ls -ldL "$d"); [ -O "$d" ] && '
    f'case $l in ?????w*|????????w*) false;; esac || {{ echo "$l"; exit {_OF_OTHERS}; }}; done; '
)

# Receives the agent on standard input. One line without quotes, backslashes or exclamation marks, because it
# stands in the command line of whatever shell the user logs in with. $1 folder, $2 file, $3 size, $4 python.
SCRIPT = (
    "umask 077; LC_ALL=C; export LC_ALL; "
    f'command -v "$4" >/dev/null 2>&1 || exit {_NO_PYTHON}; '
    f'"$4" -c "import sys; sys.exit({_OLD_PYTHON} if sys.version_info < (3, 8) else 0)" </dev/null; s=$?; '
    f'if [ $s -eq {_OLD_PYTHON} ]; then "$4" -V </dev/null; exit {_OLD_PYTHON}; fi; '
    f"[ $s -eq 0 ] || exit {_BROKEN_PYTHON}; "
    f'"$4" {" ".join(FLAGS)} -c "import hashlib, json" </dev/null || exit {_BROKEN_PYTHON}; '
    f'mkdir -p "$1" && [ -w "$1" ] || exit {_NOT_WRITABLE}; {_CHECK}'
    f't="$1/.$2.$$"; c() {{ rm -f "$t"; }}; trap c EXIT; trap "exit {_CUT}" HUP INT TERM; '
    f'cat >"$t" || exit {_NOT_WRITTEN}; '
    f'[ $(wc -c <"$t") -eq "$3" ] || exit {_CUT}; '
    f'mv -f "$t" "$1/$2" || exit {_NOT_WRITTEN}'
)


def start_command(bundle: AgentBundle, home: str, python: str) -> str:
    """The command that starts the agent, if it is in `home`, and `home` is the user's."""
    agent = [python, *FLAGS, f"{home}/agent/{bundle.file_name}", "serve", "--home", home]
    words = ["sh", "-c", f'{_CHECK}shift; exec "$@"', "sh", f"{home}/agent", *agent]
    return f"cd; exec {command_line(words)}"


def install_command(bundle: AgentBundle, home: str, python: str) -> str:
    """The command that takes `bundle.data` on its standard input and puts it into `home`."""
    words = ["sh", "-c", SCRIPT, "sh", f"{home}/agent", bundle.file_name, str(len(bundle.data)), python]
    return f"cd; exec {command_line(words)}"


def install_error(name: str, home: str, python: str, status: int | None, said: str) -> AgentError:
    """Why that command failed on the host `name`: its exit status (None: a signal ended it), and what it printed."""
    another = f'name one with `python = "…"` for `{name}` in the config'
    install = f"on that machine: `sudo apt install python3`; or {another}"
    of_python = {
        _NO_PYTHON: (f"`{name}` has no `{python}`, which the agent needs", install),
        _OLD_PYTHON: (f"`{python}` on `{name}` is too old: the agent needs Python 3.8", install),
        _BROKEN_PYTHON: (f"`{python}` on `{name}` does not work", another),
    }
    if status in of_python:
        what, hint = of_python[status]
    elif re.search(r"No space left|[Qq]uota exceeded", said):
        what, hint = f"the disk of `{name}` is full: there is no room for the agent in `{home}`", f"ssh {name} df -h"
    elif status == _OF_OTHERS:
        what = f"others than you may write to `{home}` on `{name}`, and could replace the agent"
        hint = f"chmod go-w {home} {home}/agent   on that machine, if they are yours; else another `home` for `{name}`"
    elif status == _NOT_WRITABLE:
        what = f"`{home}` on `{name}` can't be written"
        hint = f'choose another folder with `home = "…"` for `{name}` in the config'
    else:
        what = f"the agent could not be copied to `{name}` ({ending(status)})"
        hint = f"does that account run commands? `ssh {name} sh -c true`"
    return AgentError(what, evidence=said or None, hint=hint)


def ending(status: int | None) -> str:
    """How a program ended, in words."""
    return "ended by a signal" if status is None else f"exit status {status}"


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
