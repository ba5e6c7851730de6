"""The names of machine types that this provider has, for `machines.resolve`: data alone, so that it is read quickly."""

from __future__ import annotations

NAMES: dict[str, tuple[str, ...]] = {
    "cpu-small": ("m7i.large", "m6i.large"),
    "cpu-big": ("c7i.4xlarge", "c6i.4xlarge"),
    "cpu-huge": ("c7i.16xlarge", "c6i.16xlarge"),
    "ram-big": ("r7i.2xlarge", "r6i.2xlarge"),
    "ram-huge": ("r7i.8xlarge", "r6i.8xlarge"),
    "t4": ("g4dn.xlarge",),
    "t4-big": ("g4dn.2xlarge",),
    "t4-bigger": ("g4dn.4xlarge",),
    "t4-huge": ("g4dn.8xlarge",),
    "t4x4": ("g4dn.12xlarge",),
    "t4x8": ("g4dn.metal",),
    "a10g": ("g5.xlarge",),
    "a10gx4": ("g5.12xlarge",),
    "a10gx8": ("g5.48xlarge",),
    "l4": ("g6.xlarge",),
    "l4x4": ("g6.12xlarge",),
    "l4x8": ("g6.48xlarge",),
    "l40s": ("g6e.xlarge",),
    "l40sx4": ("g6e.12xlarge",),
    "a100x8": ("p4d.24xlarge",),
    "h100": ("p5.4xlarge",),
    "h100x8": ("p5.48xlarge",),
    "h200x8": ("p5en.48xlarge",),
}
"""Name → types that are tried in this order. `cpu` is not here: it is the machine in front of us."""

GONE: dict[str, tuple[str, str]] = {
    "k80": ("t4", "K80s are gone from AWS; a T4 is the nearest"),
    "p100": ("t4", "P100s were never at AWS; a T4 is the nearest"),
    "v100": ("a10g", "V100s are gone from AWS; an A10G is the nearest"),
    "a100": ("l40s", "AWS has A100s by eight only; an L40S is the nearest"),
}
"""Name of what can't be had → (the name of what is nearest, why, in words)."""
