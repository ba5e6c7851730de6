"""What both sides know of a machine: the engines that it may be given, what a run can ask of each, and the terms of a
host that is rented, which its provider wrote into its home before the first agent started there.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from .records import Record


class Capabilities(Record):
    """What an engine has to give."""

    title: str
    """What people call it."""
    place: str
    """Where a command runs with it."""
    containers: bool
    """A run may name an image, and has Debian packages, and mounts at absolute paths."""


CAPABILITIES: Dict[str, Capabilities] = {
    "docker": Capabilities("Docker", "in Docker", True),
    "podman": Capabilities("Podman", "in Podman", True),
    "process": Capabilities("a virtual environment", "without Docker", False),
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
    if name not in CAPABILITIES or CAPABILITIES[name].containers:
        return ""
    return "image" if image else "apt" if apt else "mount" if absolute else ""


RENTAL_FILE = "rented.json"
"""Its name in the home; without it a host is nobody's but its owner's."""


class RentalTerms(Record):
    token: str
    deadline: float
    """Seconds since 1970, by the provider's clock: the host ends then, whatever goes on."""
    idle: float
    """Seconds without a run, or a client, after which it ends."""
    end: List[str]
    """The words of the command that ends it."""
    notices: str = ""
    """A key of `store.host_role.NOTICES`: how the host learns that it will be taken away, "" for never."""
    settle: float = 0.0
    """Seconds after which a bucket that is mounted there surely has what was written to it. The host stays as long."""
