"""Virtual environments and what is installed in them: by uv where it is, else by Python's own venv and pip."""

from __future__ import annotations

import os
import shutil
from typing import List, Mapping, Optional

from . import EngineError
from .failure import explain
from .job import BuildJob

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
    words = [uv, "venv", "--quiet", "--seed", "--python", python, folder] if uv else [python, "-m", "venv", folder]
    if job.run(words, [lock]) != 0:
        hint = None if uv else "sudo apt install python3-venv   on that machine"
        raise EngineError("%s can't make a virtual environment here" % ("uv" if uv else "Python"), job.tail(4), hint)


def install(folder: str, files: List[str], uv: Optional[str], job: BuildJob, lock: int, tensorflow: bool) -> None:
    """Install what requirements files list. Raises `EngineError`."""
    python = os.path.join(folder, "bin", "python")
    if uv:  # of an index that the files add it takes the best version of a package, as pip does
        words = [uv, "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match"]
    else:
        # Not compiled: the first run compiles what it imports, which takes a third of the time that all of it would.
        words = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile"]
    if job.run([*words, *(word for file in files for word in ("-r", file))], [lock]) != 0:
        failure = explain(job, tensorflow)
        raise EngineError(failure.line, "the whole log: %s" % job.log, failure.hint)
