"""The shell programs that run inside a run, with any /bin/sh: the one that runs its command, in a container or out of
one, with what it reads; and those for programs that `exec` starts while the command goes on.

The values of the user's variables are on no disk then: `exec` takes them from the environment of the command's own
process, which the wrapper starts.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
from typing import Dict, List, Mapping, Optional

from ... import shared
from ...shared.files import remove_tree, size_of
from ...shared.records import Record
from ...shared.spec import RunSpec
from ...store.run_folder import RunFolder
from ..processes import PROGRAM

WRAPPER = r"""#!/bin/sh
# remoterun: runs the command; its output goes to a file, its exit code to another. $1: the io folder, $2: the start,
# $3: something, in a container. The command's variables are its own: not even PATH is ours.
umask 077
io=$1
echo $$ >"$io/pid"
echo "   " >"$io/exit.tmp" # the exit code will be written over it: that needs no room on a full disk
exec </dev/null >/dev/null 2>&1
stopping=
trap 'stopping=1' TERM
trap : HUP INT
(
    exec >>"$io/log" 2>&1
    cd -- "$2" || exit 126
    umask 022
    . "$1/env" && true >"$1/env" # its values may be secrets: while the command runs they are in no file
    exec /bin/sh -c "$remoterun_command"
)
code=$?
# After a stop, others of the container may still be saving their work when the first process has gone.
while [ -n "$stopping" ] && [ -n "$3" ]; do
    others=
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in 1 | $$) continue ;; esac
        case $(tr '\000' '\012' <"$process/environ") in *REMOTERUN_EXEC=*) continue ;; esac # a shell of the user's
        [ -e "$process/exe" ] && others=1
    done
    [ -n "$others" ] || break
    sleep 0.1
done
echo "$code" 1<>"$io/exit.tmp" && mv "$io/exit.tmp" "$io/exit"
exit "$code"
"""


MOST_WORD = 100_000
"""Characters of a command that the wrapper hands to the shell as one word; the kernel takes 128 KiB."""


def prepare_io(run: RunFolder, spec: RunSpec, values: Mapping[str, str], control: str = "") -> None:
    """Write what the wrapper reads. Values go through a file of mode 0600: none stands in a process list.

    `control`: as the command sees that folder. What the command of an attempt that is over put in the way is removed.
    """
    os.makedirs(run.control, 0o700, exist_ok=True)
    control = control or run.control
    variables = dict(spec.env)
    variables.update(values)
    lines = ["export %s=%s" % (name, quote(value)) for name, value in sorted(variables.items())]
    lines += ['export REMOTERUN_METRICS="$1/metrics.jsonl"', "export REMOTERUN_RUN=%d" % spec.number]
    lines.append('export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}"' + quote(control))
    if spec.stdin:  # a path from the top of the work tree, and the command starts somewhere below that
        up = "../" * (spec.workdir.count("/") + 1) if spec.workdir else ""
        lines.append("exec <" + quote(up + spec.stdin))
    if spec.split:
        lines.append('exec 2>>"$1/err"')
    command = command_text(spec.command, control)
    if len(command) >= MOST_WORD:
        _write(run.command_file, command, 0o600)
        lines.append("export REMOTERUN_COMMAND=" + quote(control + "/command"))
        command = '. "$REMOTERUN_COMMAND"'
    lines.append("remoterun_command=" + quote(command))
    _write(run.env_file, "\n".join(lines) + "\n", 0o600)
    _write(run.wrapper_file, WRAPPER, 0o700)
    module = pkgutil.get_data(shared.__name__, "remoterun_log.py") or b""
    _write(os.path.join(run.control, "remoterun_log.py"), module.decode(), 0o600)
    for file in [run.log, run.err] if spec.split else [run.log]:
        if not size_of(file):  # an earlier attempt's goes on
            _write(file, "", 0o600)


def mark_stopping(run: RunFolder) -> None:
    """To be called before a stop sends SIGTERM: the command's shell then lets its program end."""
    with contextlib.suppress(OSError):  # a full disk: then the shell ends at once
        _write(run.stopping_file, "", 0o600)


def command_text(command: str, control: str) -> str:
    """`command` so that a stop, which sends SIGTERM to all of its processes, leaves the exit status to them.

    Where the command is one program, that takes the shell's place. Elsewhere the shell goes on until the program has
    ended that it waits for, and ends with its exit status; a SIGTERM that is not our stop ends it as usual. That is a
    handler, and not an ignored signal, which the programs would inherit. `control`: the path of the control folder.
    """
    program = _ONE_PROGRAM.match(command)
    if program and program.group(1) not in _OF_THE_SHELL:
        return "exec " + command
    handler = "c=$?; [ -e %s ] || { trap - TERM; kill -s TERM $$; }; exit $c" % quote(control + "/stopping")
    return "trap %s TERM; %s" % (quote(handler), command)


_ONE_PROGRAM = re.compile(
    r"""([A-Za-z0-9_./+-]*[A-Za-z0-9_+-])"""
    r"""([ \t]+([^\s;&|()<>'"`$\\]|[<>]&?|\$\w|'[^'\n]*'|"([^"`$\\\n]|\$\w)*")+)*\s*\Z"""
)
"""A command for which the shell has nothing to do but to start one program: its name, then plain and quoted words,
variables and redirections. What is not plain is no such command."""
_OF_THE_SHELL = frozenset(
    """
    alias bg break builtin case cd command continue declare do done dot echo elif else esac eval exec exit export false
    fc fg fi for function getopts hash if in jobs kill let local printf pwd read readonly return select set shift source
    test then time times trap true type typeset ulimit umask unalias unset until wait while
    """.split()  # noqa: SIM905 - they are read more easily so
)
"""Words that a shell understands itself. Some of them are programs, too, and would do as such."""


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell, whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"


def _write(path: str, text: str, mode: int) -> None:
    remove_tree(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write(text)


class Program(Record):
    """What starts a program inside a run, on this machine."""

    words: List[str]
    env: Dict[str, str]
    folder: Optional[str]
    terminal: bool
    """Whether its standard streams must be a terminal."""


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
        *"$1"*) kill -s "${2:-KILL}" "${process#/proc/}" ;;
    esac
done
"""
"""In a container, or on another node: sends SIGKILL, or $2, to every process that has the variable and value $1."""


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
