"""How a host executes a command. `docker` (and podman, by the same words) and `process`.

An engine's contract, which `tests/contract/test_engines.py` holds both to:

    problem()               why it can't be used here, or None. Fast; changes nothing.
    build(run, spec, job)   make what `start` needs, or find it made. Blocks; raises `EngineError`, `Interrupted`.
    mount(run, spec)        put the mounts' files in place; the work tree is there. May be repeated before `start`.
    start(run, spec, gpus)  start the wrapper, once: if it was started before, nothing happens. Raises `EngineError`.
    look(run)               what has become of it: a `Look`. Never raises for an engine that doesn't answer: UNKNOWN.
    alive(run)              whether any process of the command lives, background ones too.
    terminate(run)          SIGTERM to every process of the command; whether they were told. Gone is fine.
    kill(run)               SIGKILL to every process, and wait; whether none is left.
    remove(run)             delete what `start` left, except files; whether nothing is left. May be repeated.

An engine that doesn't answer makes the last three False: then they are tried again, and nothing is taken for ended.

The command's output and its exit code never pass through the engine: `wrapper.sh` writes them to `run.io`.
Standard library only; Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import subprocess
import time
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from ...shared.files import remove_tree
from ...shared.spec import RunSpec
from ...shared.tree import Landing
from ...store.run_folder import RunFolder
from ..logs import last_lines

WRAPPER = r"""#!/bin/sh
# remoterun: runs the command; its output goes to a file, its exit code to another. $1: the io folder, $2: the start,
# $3: something, in a container. The command's variables are its own: not even PATH is ours.
io=$1
echo $$ >"$io/pid"
echo "   " >"$io/exit.tmp" # the exit code will be written over it: that needs no room on a full disk
exec >>"$io/log" 2>&1 </dev/null
stopping=
trap 'stopping=1' TERM
trap : HUP INT
if cd -- "$2"; then
    (. "$io/env" && exec /bin/sh -c "$remoterun_command")
    code=$?
else
    code=126
fi
# After a stop, others of the container may still be saving their work when the first process has gone.
while [ -n "$stopping" ] && [ -n "$3" ]; do
    others=
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in 1 | $$) ;; *) [ -e "$process/exe" ] && others=1 ;; esac
    done
    [ -n "$others" ] || break
    sleep 0.1
done
echo "$code" 1<>"$io/exit.tmp" && mv "$io/exit.tmp" "$io/exit"
exit "$code"
"""


class EngineError(Exception):
    """What the engine said no to: one line, the evidence (a log's tail), and what to type."""

    def __init__(self, message: str, evidence: str = "", hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence
        self.hint = hint


class BaseImageUnavailable(EngineError):
    """The base image is neither here nor to be had; another engine may do without."""


class Interrupted(Exception):
    """A stop or kill was asked for while something was built."""


class Presence(enum.Enum):
    ABSENT = "absent"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


class Look(NamedTuple):
    presence: Presence
    code: Optional[int] = None
    out_of_memory: bool = False


class BuildJob(NamedTuple):
    """What a build may use: a log to write, a way to say something to the user, and to learn that it shall end."""

    log: str
    say: Callable[[str], None]
    interrupted: Callable[[], bool]

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[int]:
        """Hold an exclusive lock on the file `path`, as its descriptor. Raises `Interrupted` while it waits."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            pause = 0.01
            while not _lock(descriptor):
                if self.interrupted():
                    raise Interrupted
                time.sleep(pause)
                pause = min(pause * 1.3, 0.5)
            yield descriptor
        finally:
            os.close(descriptor)

    def run(self, argv: List[str], keep: Sequence[int] = ()) -> int:
        """Run a program with its output appended to the log; its exit status. Raises `Interrupted`.

        `keep`: descriptors that it holds open, such as a lock that shall not end before it does.
        """
        with open(self.log, "ab") as log:
            log.write(b"$ " + " ".join(argv).encode("utf-8", "surrogateescape") + b"\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep, start_new_session=True
                )
            except OSError as error:
                raise EngineError("%s can't be started: %s" % (argv[0], error.strerror))
            pause = 0.01
            while process.poll() is None:
                if self.interrupted():
                    _end(process)
                    raise Interrupted
                time.sleep(pause)
                pause = min(pause * 1.3, 0.2)
            return process.returncode

    def tail(self, lines: int = 15) -> str:
        return last_lines(self.log, lines)


def prepare_io(run: RunFolder, spec: RunSpec, values: Mapping[str, str]) -> None:
    """Write what the wrapper reads. Values go through a file of mode 0600: none stands in a process list."""
    variables = dict(spec.env)
    variables.update(values)
    lines = ["export %s=%s" % (name, quote(value)) for name, value in sorted(variables.items())]
    lines += ["remoterun_command=" + quote(spec.command)]
    _write(run.env_file, "\n".join(lines) + "\n", 0o600)
    _write(os.path.join(run.io, "wrapper.sh"), WRAPPER, 0o700)
    with open(run.log, "ab"):
        pass
    os.chmod(run.log, 0o600)


def make_mount_point(work: str, place: str, is_file: bool) -> None:
    """Make `place` in the work tree an empty folder (or file): a mount hides what stood there.

    Made by us, or the engine would make it, as root. Raises `TreeError` when a link of the work tree would lead out.
    """
    with Landing(work) as landing:
        descriptor, name = landing.place(place)
        target = os.path.join(work, place)
        if os.path.lexists(target):
            remove_tree(target)
        if is_file:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=descriptor))
        else:
            os.mkdir(name, 0o755, dir_fd=descriptor)


def quote(text: str) -> str:
    """`text` as one word of a POSIX shell, whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _write(path: str, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write(text)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue
