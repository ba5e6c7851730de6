"""The agent, packed as one zip file that `python3` runs, named by its own hash."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import remoterun.agent as agent_package

FLAGS = ("-I", "-S", "-X", "utf8")
"""Of the Python that runs it: nothing of the user's in its way (PYTHONPATH, site-packages, what these start by
themselves), and file names are bytes under every locale."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = b"""\
import os, sys
folder = os.path.splitext(os.path.abspath(sys.argv[0]))[0]
if os.path.isdir(folder):
    sys.path[0] = folder  # unpacked, and compiled, by an earlier start
from agent.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True)
class AgentBundle:
    """The agent of `sources`, by their names in the archive."""

    sources: Mapping[str, bytes]

    @functools.cached_property
    def digest(self) -> str:
        """In hex, 16 digits of a SHA-256 of the sources: the name under which a host keeps it, so a new client never
        meets an old agent."""
        whole = hashlib.sha256()
        for name, source in self.sources.items():
            whole.update(b"%s\0%d\0%s" % (name.encode(), len(source), source))
        return whole.hexdigest()[:16]

    @functools.cached_property
    def data(self) -> bytes:
        """The zip archive with a `__main__.py`. Made where a host lacks it only: most find it there."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, source in self.sources.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                archive.writestr(info, source)
        return buffer.getvalue()

    @property
    def file_name(self) -> str:
        return f"{self.digest}.pyz"


@functools.cache
def agent_bundle() -> AgentBundle:
    """The bundle made from the agent's sources of this installation."""
    root = Path(agent_package.__file__).parent
    files = sorted(root.rglob("*.py"))
    agent = {"agent/" + path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    return AgentBundle({"__main__.py": _MAIN, **agent})
