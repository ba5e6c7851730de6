"""How an environment is built: the programs that run, their log, how a stop reaches them, virtual environments, and
what a failed build means.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import time
from typing import Callable, List, Mapping, Optional, Sequence

from ...shared.files import no_room, write_whole
from ...shared.logs import last_lines
from ...shared.records import Record
from ...store.errors import HomeError
from . import EngineError, Interrupted


class BuildJob(Record):
    """What a build may use: a log to write, a way to say something to the user, and to learn that it shall end."""

    log: str
    say: Callable[[str], None]
    interrupted: Callable[[], bool]

    def check(self) -> None:
        """Raises `Interrupted` when it shall end."""
        if self.interrupted():
            raise Interrupted

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
            try:
                while process.poll() is None:
                    self.check()
                    time.sleep(pause)
                    pause = min(pause * 1.3, 0.2)
            finally:
                end(process)
            if process.returncode == -9:
                hint = "in a job of a cluster: a higher --memory, or `machines add … --build login`"
                raise EngineError("the build was killed: its memory ran out", self.tail(4), hint)
            return process.returncode

    def tail(self, lines: int = 15) -> str:
        return last_lines(self.log, lines)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the session that a process leads, unless it has ended."""
    if process.poll() is not None:
        return
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


_LINES = 400
"""Of the log's end, in which the line is looked for."""
_PREFIX = re.compile(r"^(#\d+ (?:[\d.]+ )?)?\s*")
"""What BuildKit, and a program's own layout, put before a line."""
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_UNREACHABLE = re.compile(
    r"Temporary failure in name resolution|Name or service not known|NewConnectionError|ConnectTimeout|ProxyError"
    r"|SSLError|CERTIFICATE_VERIFY_FAILED|dns error|Could not resolve '",
    re.IGNORECASE,
)
_SEARCH = "pip index versions %s   shows which versions there are"
_WHY = (
    (r"ERROR: (No matching distribution found for ([^\s<>=!~;\[]+).*)", "pip: ", _SEARCH),
    (
        r"ERROR: (Cannot install .* conflicting dependencies)",
        "pip: ",
        "allow other versions of one of them; --framework python   leaves out TensorFlow",
    ),
    (
        r"\s*(error: command '.*(?:cc|\+\+|clang)' failed.*|.*gcc: not found.*)",
        "a package has to be compiled: ",
        "--apt build-essential   brings a compiler, in Docker",
    ),
    (r"(?:cause: |╰─▶ )(Because (\S+) was not found in the package registry.*)", "uv: ", _SEARCH),
    (r"(?:cause: |╰─▶ )(Because .*)", "uv: ", None),
    (r"E: (.*)", "apt: ", None),
    (r"ERROR: ((?!ResolutionImpossible|process |failed to solve|executor ).*)", "pip: ", None),
    (r"error: (.*)", "", None),
)
"""Lines that say why: a pattern, what stands before its first group, and a hint, perhaps of its second one. The first
pattern that a line has counts."""


def explain(job: BuildJob) -> EngineError:
    """Why the last program of a build failed: the line that says so, with the name of the program that said it. Raises
    `HomeError("disk_full")` where a disk has no room."""
    whole = "the whole log: %s" % job.log
    lines = [_PREFIX.sub("", line) for line in job.tail(_LINES).splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    lines = lines[starts[-1] + 1 :] if starts else lines
    for line in filter(_FULL.search, lines):
        raise HomeError("disk_full", no_room(os.path.dirname(job.log)) or line[:300])
    unreachable = [line for line in lines if _UNREACHABLE.search(line)]
    if unreachable:
        why = "the package index can't be reached: %s" % unreachable[-1][:200]
        return EngineError(why, whole, "check that machine's network or proxy")
    for pattern, before, hint in _WHY:
        for match in filter(None, (re.match(pattern, line) for line in lines)):
            return EngineError(before + match.group(1), whole, hint % match.group(2) if hint == _SEARCH else hint)
    return EngineError(next((line for line in reversed(lines) if line), "no word of why"), whole)


MOST_CONTENTS = 400
"""Characters of what is said to be in an environment."""

_SETTINGS = ("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "FIND_LINKS", "CONSTRAINT", "CERT", "CLIENT_CERT", "PROXY")
_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
_UV_SETTINGS = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE")


def find_uv(variables: Mapping[str, str] = os.environ) -> Optional[str]:
    """The program uv of this machine, or None where it is absent, or where pip has settings: uv does not read those,
    and would ask another index than pip does."""
    home = variables.get("HOME", "")
    path = os.pathsep.join([variables.get("PATH", os.defpath), home + "/.local/bin", home + "/.cargo/bin"])
    uv = shutil.which("uv", path=path)
    if uv is None or any(variables.get(name) for name in _UV_SETTINGS):
        return uv
    files = [file.replace("~", home) for file in _FILES] + [variables.get("PIP_CONFIG_FILE", "")]
    if any(variables.get("PIP_" + name) for name in _SETTINGS) or any(map(os.path.isfile, files)):
        return None
    return uv


def make_venv(python: str, folder: str, uv: Optional[str], job: BuildJob, lock: int) -> None:
    """Make a virtual environment with pip in `folder`. Raises `EngineError`."""
    words = [uv, "venv", "--quiet", "--seed", "--python"] if uv else [python, "-m", "venv", "--without-pip"]
    pip = [os.path.join(folder, "bin", "python"), "-m", "ensurepip", "--default-pip"]  # `venv` hides what it says
    if job.run([*words, *([python] if uv else []), folder], [lock]) != 0 or (not uv and job.run(pip, [lock]) != 0):
        explain(job)
        hint = None if uv else "sudo apt install python3-venv   on that machine"
        raise EngineError("%s can't make a virtual environment here" % ("uv" if uv else "Python"), job.tail(4), hint)


def make_layer(base: str, folder: str, job: BuildJob, lock: int) -> None:
    """Make a virtual environment in `folder` with all that the one in `base` has. Raises `EngineError`."""
    make_venv(os.path.join(base, "bin", "python"), folder, None, job, lock)
    (below,) = glob.glob(os.path.join(glob.escape(base), "lib", "python*", "site-packages"))
    own = os.path.join(folder, os.path.relpath(below, base), "remoterun-base.pth")
    write_whole(own, ("import site; site.addsitedir(%r)\n" % below).encode())


def install(folder: str, files: List[str], uv: Optional[str], job: BuildJob, lock: int) -> None:
    """Install what requirements files list. Raises `EngineError`."""
    python = os.path.join(folder, "bin", "python")
    if uv:  # of an index that the files add it takes the best version of a package, as pip does
        words = [uv, "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match"]
    else:
        # Not compiled: the first run compiles what it imports, which takes a third of the time that all of it would.
        words = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile"]
    if job.run([*words, *(word for file in files for word in ("-r", file))], [lock]) != 0:
        raise explain(job)
