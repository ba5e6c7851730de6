"""Programs that `exec` starts inside a run that is going on: what an engine says of them, and how they are found again.

The values of the user's variables are on no disk then: they are taken from the environment of the command's own
process, which the wrapper starts.
"""

from __future__ import annotations

from typing import Dict, List, Optional

from ...shared.records import Record
from ...shared.spec import RunSpec
from ..processes import PROGRAM

HANGUP_TIME = 0.5
"""Seconds that a program may take to end after SIGHUP."""


class Program(Record):
    """What starts a program inside a run: words, environment and folder, all of this machine. `terminal` says whether
    its standard streams must be a terminal."""

    words: List[str]
    env: Dict[str, str]
    folder: Optional[str]
    terminal: bool


def known_variable(spec: RunSpec) -> str:
    """A variable that the command has once all of its variables are set; "" where it has none."""
    return next(iter((*sorted(spec.env), *sorted(spec.asked_env))), "")


START = r"""
# In a container. $1: the io folder; $2: where the command was started; $3: a variable that the command has, or "".
umask 022
io=$1 start=$2 known=${3:+$3=} term=$TERM
shift 3
for try in 1 2 3 4 5 6 7 8 9 10; do
    wrapper=$(cat "$io/pid")
    for file in /proc/[0-9]*/stat; do
        read -r stat 2>/dev/null <"$file" || continue
        case ${stat##*) } in [!Z]" $wrapper "*) ;; *) continue ;; esac
        values=$(LC_ALL=C tr '\000\012' '\012\001' 2>/dev/null <"${file%stat}environ" |
            LC_ALL=C sed -n "s/'/'\\\\''/g; s/^\([A-Za-z_][A-Za-z_0-9]*\)=\(.*\)\$/export \1='\2'/p" |
            LC_ALL=C tr '\001' '\012')
    done
    case $values in *"export $known"*) break ;; esac
    sleep 0.1
done
eval "$values"
[ -z "$term" ] || export TERM="$term"
cd -- "$start" || exit 126
unset io start known term try wrapper values file stat
exec "$@"
"""
"""Takes over the environment of the wrapper's child, which is the command. No value is a word of any program."""


END = r"""
for process in /proc/[0-9]*; do
    case $(tr '\000' '\012' 2>/dev/null <"$process/environ") in
        *"$1"*) kill -s "$2" "${process#/proc/}" ;;
    esac
done
"""
"""In a container: sends signal $2 to every process that has the variable and value $1."""


def mark(name: str) -> str:
    """The variable, and its value, by which the processes of the program `name` are known."""
    return "%s=%s" % (PROGRAM, name)


def words_of(command: Optional[str], number: int) -> List[str]:
    """A line for the shell, or None for a shell that a person types into, as words.

    That is bash where there is one. It reads no start-up file: those could change what `python` means.
    """
    if command is not None:
        return ["/bin/sh", "-c", command]
    bash = "PS1='(run %d) \\W \\$ ' exec bash --norc" % number
    return ["/bin/sh", "-c", "command -v bash >/dev/null && %s; PS1='(run %d) $ ' exec /bin/sh" % (bash, number)]
