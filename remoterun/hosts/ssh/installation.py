"""How the agent is brought to a host that doesn't have it: one command, and what its exit status means."""

from __future__ import annotations

import re

from remoterun.errors import AgentError
from remoterun.hosts.bundle import FLAGS, AgentBundle
from remoterun.hosts.ssh.command_line import command_line

_NO_PYTHON, _OLD_PYTHON, _BROKEN_PYTHON, _NOT_WRITABLE, _NOT_WRITTEN, _CUT = 71, 72, 73, 74, 75, 76

# Receives the agent on standard input. One line without quotes, backslashes or exclamation marks, because it
# stands in the command line of whatever shell the user logs in with. $1 folder, $2 file, $3 size, $4 python.
SCRIPT = (
    "umask 077; LC_ALL=C; export LC_ALL; "
    f'command -v "$4" >/dev/null 2>&1 || exit {_NO_PYTHON}; '
    f'"$4" -c "import sys; sys.exit({_OLD_PYTHON} if sys.version_info < (3, 8) else 0)" </dev/null; s=$?; '
    f'if [ $s -eq {_OLD_PYTHON} ]; then "$4" -V </dev/null; exit {_OLD_PYTHON}; fi; '
    f"[ $s -eq 0 ] || exit {_BROKEN_PYTHON}; "
    f'"$4" {" ".join(FLAGS)} -c "import hashlib, json" </dev/null || exit {_BROKEN_PYTHON}; '
    f'mkdir -p "$1" && [ -w "$1" ] || exit {_NOT_WRITABLE}; '
    f't="$1/.$2.$$"; c() {{ rm -f "$t"; }}; trap c EXIT; trap "exit {_CUT}" HUP INT TERM; '
    f'cat >"$t" || exit {_NOT_WRITTEN}; '
    f'[ $(wc -c <"$t") -eq "$3" ] || exit {_CUT}; '
    f'mv -f "$t" "$1/$2" || exit {_NOT_WRITTEN}'
)


def install_command(bundle: AgentBundle, home: str, python: str) -> str:
    """The command that takes `bundle.data` on its standard input and puts it into `home`."""
    words = ["sh", "-c", SCRIPT, "sh", f"{home}/agent", bundle.file_name, str(len(bundle.data)), python]
    return f"cd; exec {command_line(words)}"


def install_error(name: str, home: str, python: str, status: int | None, said: str) -> AgentError:
    """Why that command failed on the host `name`: its exit status (None: a signal ended it), and what it printed."""
    evidence = said or None
    another = f'name one with `python = "…"` for `{name}` in the config'
    if status == _NO_PYTHON:
        return AgentError(
            f"`{name}` has no `{python}`, which the agent needs",
            evidence=evidence,
            hint=f"on that machine: `sudo apt install python3`; or {another}",
        )
    if status == _OLD_PYTHON:
        return AgentError(
            f"`{python}` on `{name}` is too old: the agent needs Python 3.8",
            evidence=evidence,
            hint=f"on that machine: `sudo apt install python3`; or {another}",
        )
    if status == _BROKEN_PYTHON:
        return AgentError(f"`{python}` on `{name}` does not work", evidence=evidence, hint=another)
    if re.search(r"No space left|[Qq]uota exceeded", said):
        return AgentError(
            f"the disk of `{name}` is full: there is no room for the agent in `{home}`",
            evidence=evidence,
            hint=f"ssh {name} df -h",
        )
    if status == _NOT_WRITABLE:
        return AgentError(
            f"`{home}` on `{name}` can't be written",
            evidence=evidence,
            hint=f'choose another folder with `home = "…"` for `{name}` in the config',
        )
    return AgentError(
        f"the agent could not be copied to `{name}` ({ending(status)})",
        evidence=evidence,
        hint=f"does that account run commands? `ssh {name} sh -c true`",
    )


def ending(status: int | None) -> str:
    """How a program ended, in words."""
    return "ended by a signal" if status is None else f"exit status {status}"
