"""The agent, packed as one zip file that `python3` runs, named by its own hash."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
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
    """`data` is a zip archive with a `__main__.py`; the same sources give the same bytes. `digest` is its SHA-256,
    in hex, shortened to 16 digits: the name under which a host keeps it, so a new client never meets an old agent."""

    digest: str
    data: bytes

    @property
    def file_name(self) -> str:
        return f"{self.digest}.pyz"


@functools.cache
def agent_bundle() -> AgentBundle:
    """The bundle made from the agent's sources of this installation."""
    root = Path(agent_package.__file__).parent
    sources = sorted(path for path in root.rglob("*.py"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for path in sources:
            _add(archive, "agent/" + path.relative_to(root).as_posix(), path.read_bytes())
    data = buffer.getvalue()
    return AgentBundle(hashlib.sha256(data).hexdigest()[:16], data)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)
