"""The commands that a host's login shell reads, and the one that copies the agent to a host that doesn't have it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from remoterun.errors import AgentError, UsageError
from remoterun.hosts.bundle import FLAGS, AgentBundle

_NO_PYTHON, _OLD_PYTHON, _BROKEN_PYTHON, _NOT_WRITABLE, _NOT_WRITTEN, _CUT, _OF_OTHERS = 71, 72, 73, 74, 75, 76, 77

# Sets h to the real path of the home $1, which has an agent's folder. Ends unless that folder, the home and all above
# are the user's or root's (whoever owns `/`, where root has another number), and others may not write there: whoever
# may could put another agent in the place of ours. Above the home a sticky folder will do, and so will one that a group
# of the user's own name may write. As sshd's StrictModes, and Debian's.
_CHECK = (
    'h=$(CDPATH= cd "$1" && pwd -P) && [ -d "$h/agent" ] || exit 1; o() { echo $3; }; r=$(o $(ls -ldn /)); d=$h/agent; '
    "g() { [ $4 = $(id -g) ] && [ $(id -gn) = $(id -un) ]; }; "
    'while p=${d:-/}; l=$(ls -ldn "$p"); { [ -O "$p" ] || case $(o $l) in 0|$r) ;; *) false;; esac; } && '
    "case $l in d????-??-*) ;; d????????[tT]*) [ ${#d} -lt ${#h} ];; "
    'd????w??-*) [ ${#d} -lt ${#h} ] && g $(ls -ldn "$p");; *) false;; esac || '
    f'{{ ls -ld "$p"; exit {_OF_OTHERS}; }}; [ "$d" ]; do d=${{d%/*}}; done; '
)

# Names a Python that is new enough, also one that a module of the site brings; for bash -l, which has `module`.
_FIND_PYTHON = (
    'for m in "" $(module -t avail 2>&1 | sed "s/(.*//" | grep -iE "^[a-z-]*(python|conda|forge)[0-9]*/.*[^:/]$" | '
    'sort -rV | head -20); do ([ -z "$m" ] || module load $m >/dev/null 2>&1; for p in python3 python3.{20..8}; do '
    'c=$(command -v $p) && env -i $c -c "import sys, hashlib; sys.exit(sys.version_info < (3, 8))" 2>/dev/null && '
    'echo "$c is $($c -V)${m:+ (module load $m)}" && exit; done; exit 1) && exit; done'
)
# Receives the agent on standard input. One line without quotes, backslashes or exclamation marks, because it
# stands in the command line of whatever shell the user logs in with. $1 home, $2 file, $3 size, $4 python, $5 search.
SCRIPT = (
    'umask 077; LC_ALL=C; export LC_ALL; f() { bash -lc "$2" </dev/null 2>/dev/null; exit $1; }; '
    f'command -v "$4" >/dev/null 2>&1 || f {_NO_PYTHON} "$5"; '
    f'"$4" -c "import sys; sys.exit({_OLD_PYTHON} if sys.version_info < (3, 8) else 0)" </dev/null; s=$?; '
    f'if [ $s -eq {_OLD_PYTHON} ]; then "$4" -V </dev/null; f {_OLD_PYTHON} "$5"; fi; '
    f"[ $s -eq 0 ] || exit {_BROKEN_PYTHON}; "
    f'"$4" {" ".join(FLAGS)} -c "import hashlib, json" </dev/null || exit {_BROKEN_PYTHON}; '
    f'mkdir -p "$1/agent" && [ -w "$1/agent" ] || exit {_NOT_WRITABLE}; {_CHECK}'
    f't="$h/agent/.$2.$$"; c() {{ rm -f "$t"; }}; trap c EXIT; trap "exit {_CUT}" HUP INT TERM; '
    f'cat >"$t" || exit {_NOT_WRITTEN}; '
    f'[ $(wc -c <"$t") -eq "$3" ] || exit {_CUT}; '
    f'mv -f "$t" "$h/agent/$2" || exit {_NOT_WRITTEN}'
)


def start_command(bundle: AgentBundle, home: str, python: str, prefix: Sequence[str] = ()) -> str:
    """The command that starts the agent, after the words `prefix`, if it is in `home`, and `home` is the user's."""
    start = f'f=$2; p=$3; shift 3; exec "$@" "$p" {" ".join(FLAGS)} "$h/agent/$f" serve --home "$h"'
    words = ["sh", "-c", _CHECK + start, "sh", home, bundle.file_name, python, *prefix]
    return f"cd; exec {command_line(words)}"


def install_command(bundle: AgentBundle, home: str, python: str) -> str:
    """The command that takes `bundle.data` on its standard input and puts it into `home`."""
    words = ["sh", "-c", SCRIPT, "sh", home, bundle.file_name, str(len(bundle.data)), python, _FIND_PYTHON]
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
    elif status in (_NOT_WRITABLE, _NOT_WRITTEN, _CUT) and re.search(r"No space left|[Qq]uota exceeded", said):
        what, hint = f"the disk of `{name}` is full: there is no room for the agent in `{home}`", f"ssh {name} df -h"
    elif status == _OF_OTHERS:
        folder = (re.search(r" (/[\w./@%+,-]*)$", said) or ("", home))[1]
        what = f"others than you may write to `{folder}` on `{name}`, and could replace the agent"
        hint = f"chmod go-w {folder}   on that machine, or, above the home, chmod +t where a group has to write there"
        hint += f"; else another `home` for `{name}` in the config"
    elif status == _NOT_WRITABLE:
        what = f"`{home}` on `{name}` can't be written"
        hint = f'choose another folder with `home = "…"` for `{name}` in the config'
    else:
        what = f"the agent could not be copied to `{name}` ({ending(status)})"
        hint = before_the_agent(name)
    return AgentError(what, evidence=said or None, hint=hint)


def before_the_agent(name: str) -> str:
    """A hint, where the shell of the host `name` does something else than start the agent."""
    files = "a start-up file there (~/.bashrc, ~/.zshenv, ~/.cshrc, ~/.ssh/rc)"
    return f"does {files} end the shell, wait, or print too much? `ssh {name} echo ok` has to print that alone"


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
