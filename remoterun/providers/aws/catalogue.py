"""The names of machine types that stand for types of EC2."""

from __future__ import annotations

from remoterun.model import Rental

NAMES: dict[str, str] = {
    "cpu-big": "c7i.4xlarge",
    "cpu-huge": "c7i.16xlarge",
    "ram-big": "r7i.2xlarge",
    "ram-huge": "r7i.8xlarge",
    "t4": "g4dn.xlarge",
    "t4-big": "g4dn.4xlarge",
    "t4-huge": "g4dn.8xlarge",
    "t4x4": "g4dn.12xlarge",
    "t4x8": "g4dn.metal",
    "a10g": "g5.xlarge",
    "a10g-big": "g5.4xlarge",
    "a10gx4": "g5.12xlarge",
    "a10gx8": "g5.48xlarge",
    "l4": "g6.xlarge",
    "l4-big": "g6.4xlarge",
    "l4x4": "g6.12xlarge",
    "l4x8": "g6.48xlarge",
    "l40s": "g6e.xlarge",
    "l40sx4": "g6e.12xlarge",
    "l40sx8": "g6e.48xlarge",
    "rtx6000": "g7e.2xlarge",
    "a100x8": "p4d.24xlarge",
    "a100-80gx8": "p4de.24xlarge",
    "h100": "p5.4xlarge",
    "h100x8": "p5.48xlarge",
    "h200x8": "p5en.48xlarge",
    "b200x8": "p6-b200.48xlarge",
}
"""A machine type → the type of EC2 that it is."""

_GONE = "{}s are gone from AWS"
_NEVER = "AWS has no {}s"
GONE: dict[str, tuple[str, str]] = {
    "k80": ("g4dn.xlarge", _GONE),
    "k80x4": ("g4dn.12xlarge", _GONE),
    "k80x8": ("g4dn.metal", _GONE),
    "p100": ("g4dn.xlarge", _NEVER),
    "p100x4": ("g4dn.12xlarge", _NEVER),
    "v100": ("g5.xlarge", _GONE),
    "v100x4": ("g5.12xlarge", _GONE),
    "v100x8": ("g5.48xlarge", _GONE),
    "a100": ("g6e.xlarge", "AWS has {}s by eights only"),
}
"""A machine type that can't be had → the nearest type that can, and why, with a place for the GPU's name."""


def rental(word: str) -> Rental | None:
    """What is rented for a built-in name, in any case of its letters; None for a word that is not one."""
    name = word.lower()
    if name in NAMES:
        return Rental("aws", (NAMES[name],))
    if name in GONE:
        return Rental("aws", (GONE[name][0],), instead_of=name)
    return None
