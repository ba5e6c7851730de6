"""What this installation brings to build the default environment from: `docker/` and `trainer/`, as a tree."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.errors import REINSTALL, RemoterunError

_WANTED = ("docker/Dockerfile", "docker/requirements-*.txt", "trainer/**/*.py")


@functools.cache
def context() -> tuple[Manifest, dict[str, bytes]]:
    """(tree, content of each digest) of the build context. Raises `RemoterunError` when the installation is damaged."""
    root = _root()
    blobs: dict[str, bytes] = {}
    entries = []
    for pattern in _WANTED:
        for path in sorted(root.glob(pattern)):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            blobs[digest] = data
            entries.append(Entry("f", path.relative_to(root).as_posix(), len(data), digest))
    manifest = Manifest(entries)
    if manifest.find("docker/Dockerfile") is None or manifest.find("trainer/train.py") is None:
        raise RemoterunError(f"this installation is damaged: {root} lacks docker/ or trainer/", hint=REINSTALL)
    return manifest, blobs


def _root() -> Path:
    package = Path(__file__).parent
    bundled = package / "_bundle"
    return bundled if bundled.is_dir() else package.parent
