"""Docker's folder with images already in it: kept in the cache, and copied by hard links in a moment.

Loading an archive takes a dockerd seconds to minutes, each time. The files of an image's layers never change, so hosts
can share them; what dockerd writes to is really copied. This knows how Docker's `overlay2` store is laid out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.lab.process import run

LAYERS = "overlay2"
CATALOGUE = "image/overlay2"


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
    """Copy all images of a dockerd that doesn't run, and nothing else of it, to a folder on the same file system."""
    (target / LAYERS / "l").mkdir(parents=True)
    (target / CATALOGUE).parent.mkdir(parents=True)
    run(["cp", "-a", str(source / CATALOGUE), str(target / CATALOGUE)])
    shutil.rmtree(target / CATALOGUE / "layerdb/mounts", ignore_errors=True)  # of containers
    layers = [source / LAYERS / path.read_text() for path in (source / CATALOGUE).glob("layerdb/sha256/*/cache-id")]
    if layers:
        run(["cp", "-al", "--target-directory", str(target / LAYERS), *map(str, layers)], timeout=300)
    for layer in layers:
        os.symlink(f"../{layer.name}/diff", target / LAYERS / "l" / (layer / "link").read_text())
