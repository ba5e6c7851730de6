"""The engines that a machine may be given, and what a run can ask of each; both sides use it, and import no engine."""

from __future__ import annotations

from typing import Dict, Tuple

from .records import Record


class Capabilities(Record):
    """What an engine has to give. `title` is what people call it, and `place` says where a command runs with it."""

    title: str
    place: str
    images: bool
    """It runs a command in an image, which a run may name."""
    apt: bool
    """It can install Debian packages for a run."""
    mounts_anywhere: bool
    """Mounts may have absolute paths."""
    own_queue: bool = False
    """It decides itself who may run when, and on which machine; our queue is not asked."""


_CONTAINERS = {"images": True, "apt": True, "mounts_anywhere": True}

CAPABILITIES: Dict[str, Capabilities] = {
    "docker": Capabilities("Docker", "in Docker", **_CONTAINERS),
    "podman": Capabilities("Podman", "in Podman", **_CONTAINERS),
    "process": Capabilities("a virtual environment", "without Docker", False, False, False),
}

AUTO = "auto"
"""The setting that leaves the choice of an engine to the machine."""
PREFERRED: Tuple[str, ...] = ("docker", "process")
"""What `auto` tries, best first. The last one needs nothing but Python."""


def candidates(setting: str) -> Tuple[str, ...]:
    """The engines that a machine's setting allows, best first."""
    return PREFERRED if setting == AUTO else (setting,)


def lacks(name: str, image: bool, apt: bool, absolute: bool) -> str:
    """The first of what a run asks for (an image, Debian packages, a mount at an absolute path) that an engine does not
    have: "image", "apt", "mount"; "" for nothing, and for an engine that is not known here."""
    known = CAPABILITIES.get(name)
    if known is None:
        return ""
    asked = (("image", image, known.images), ("apt", apt, known.apt), ("mount", absolute, known.mounts_anywhere))
    return next((what for what, wanted, has in asked if wanted and not has), "")
