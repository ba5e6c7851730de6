"""Docker's folder with images already in it: kept in the cache, and copied by hard links in a moment.

Loading an archive takes a dockerd seconds to minutes, each time; the files of an image's layers never change, so
hosts can share them. What dockerd writes to is really copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab.process import run

LAYERS = "overlay2"
NOT_KEPT = (
    "containers",
    "engine-id",
    "tmp",
    "runtimes",
    "volumes",
    "swarm",
    "network",
    "buildkit",
    "containerd",
)


class Disks:
    """The folders in the cache. Each has a label, which says what is in it, and a version of that."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "disks"
        self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, label: str, version: str) -> Path | None:
        """The disk that was kept so; None if there is none."""
        path = self.folder / f"{label}@{version}"
        return path if path.is_dir() else None

    def keep(self, label: str, version: str, docker: Path) -> Path:
        """Keep the images of a dockerd that doesn't run, in place of earlier versions; the disk appears whole."""
        new = self.folder / ".new"
        shutil.rmtree(new, ignore_errors=True)
        copy(docker, new)
        self.forget(label)
        return new.rename(self.folder / f"{label}@{version}")

    def forget(self, label: str) -> None:
        """Delete every version; hosts that were made from one go on."""
        for path in self.folder.glob("*"):
            if path.name.rpartition("@")[0] == label:
                shutil.rmtree(path, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a dockerd's images, and nothing of its containers, to a folder on the same file system."""
    target.mkdir(mode=0o710, exist_ok=True)
    for entry in source.iterdir():
        if entry.name in NOT_KEPT:
            continue
        how = "-al" if entry.name == LAYERS else "-a"
        run(["cp", how, str(entry), str(target / entry.name)], timeout=300)
