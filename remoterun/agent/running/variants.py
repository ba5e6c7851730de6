"""The variants of the bundled environment, and which of them the GPUs of a run need.

The user asks for `cpu` or `gpu`. Only this machine knows its GPUs: TensorFlow's present packages have code for compute
capability 6.0 and above, and the last ones with code for older GPUs need another CUDA and another Python.
"""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
from typing import Dict, Iterable, Optional, Tuple

from ..shared.records import Record
from ..shared.spec import BASE_IMAGE, PYTHON, EnvironmentSpec, ResolvedEnvironment
from .gpus import Capability, Generation

CUDA11 = "gpu-cuda11"
OLDEST = (3, 5)
"""The oldest compute capability for which any of the variants has code."""
FIRST_OF_PRESENT = (6, 0)
"""The oldest compute capability for which the variant `gpu` has code."""


class Variant(Record):
    """`title`: its TensorFlow; `pythons`: the oldest and the newest Python 3 with which its packages and the trainer
    work; `base`: the image under the bundled one unless the machine has another."""

    title: str
    pythons: Tuple[int, int]
    base: str


VARIANTS: Dict[str, Variant] = {
    "cpu": Variant("TensorFlow 2.21", (10, 13), BASE_IMAGE),
    "gpu": Variant("TensorFlow 2.21 with CUDA 12", (10, 13), BASE_IMAGE),
    CUDA11: Variant("TensorFlow 2.14 with CUDA 11.8", (10, 11), "python:3.11-slim"),
}
"""Those with TensorFlow, by name, which is the end of the name of its file docker/requirements-….txt."""
_ANY_PYTHON = (8, 19)
"""What plain Python may be."""


def title_of(variant: str) -> str:
    """What a variant holds, for people; "" where that is nothing."""
    return VARIANTS[variant].title if variant in VARIANTS else "Python" if variant == PYTHON else ""


def is_old(capability: Optional[Capability]) -> bool:
    """Whether a GPU needs the variant for old ones. A GPU of which nothing is known does not."""
    return capability is not None and OLDEST <= capability < FIRST_OF_PRESENT


def resolve(asked: EnvironmentSpec, capabilities: Iterable[Optional[Capability]]) -> ResolvedEnvironment:
    """What a run gets on GPUs of these compute capabilities. One old GPU decides: the older packages hold code
    that newer GPUs can run, too."""
    name = CUDA11 if asked.variant == "gpu" and any(map(is_old, capabilities)) else asked.variant
    return ResolvedEnvironment(name, base_for(asked.base, name))


def describe(cards: Iterable[Generation]) -> str:
    """GPUs in words, those of one kind together: 2 x Tesla K80 (compute capability 3.7)."""
    kinds = collections.Counter((card.name, card.capability) for card in cards)
    return ", ".join(
        "%s%s%s" % ("%d x " % count if count > 1 else "", name, " (compute capability %d.%d)" % known if known else "")
        for (name, known), count in kinds.items()
    )


INSTALL_PYTHON = "curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install 3.11"
"""A command that installs a Python which every variant works with, on any distribution and without root."""


def lacking_python(variant: str) -> str:
    """What to say where `python_for` finds none."""
    return "%s needs Python 3.%d to 3.%d with its venv module, and this machine has none" % (
        (VARIANTS[variant].title,) + VARIANTS[variant].pythons
    )


def base_for(base: str, variant: str) -> str:
    """The image under the bundled one, for a machine whose `base_image` is `base`."""
    return VARIANTS[variant].base if base == BASE_IMAGE else base


def python_for(variant: str) -> Optional[str]:
    """The interpreter of this machine for a virtual environment: the agent's own if it fits, else the newest one that
    does, or None. `uv python install` puts one where the PATH of a login without a terminal may not lead."""
    oldest, newest = VARIANTS[variant].pythons if variant in VARIANTS else _ANY_PYTHON
    if (3, oldest) <= sys.version_info[:2] <= (3, newest):
        return sys.executable
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.expanduser("~/.local/bin")])
    for minor in range(newest, oldest - 1, -1):
        found = shutil.which("python3.%d" % minor, path=path)
        if found and _can_make_venv(found):
            return found
    return None


def _can_make_venv(python: str) -> bool:
    """Debian has Pythons without their venv module, and pyenv has stand-ins for those that are switched off."""
    try:
        words = [python, "-I", "-c", "import ensurepip, venv"]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
