"""What a run's environment shall hold: its framework, and what the code imports beyond that."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remoterun.agent.shared.environment import KNOWN_MODULES, PACKAGES, package_names
from remoterun.agent.shared.spec import FRAMEWORKS, NONE, PYTHON, TENSORFLOW
from remoterun.errors import UsageError
from remoterun.model import RunRequest

if TYPE_CHECKING:
    from remoterun.source import Imported, Requirements, Source

_IN_TENSORFLOW = frozenset((
    "tensorflow", "keras", "trainer", "matplotlib", "mpl_toolkits", "pylab", "numpy", "PIL", "h5py", "absl",
    "google", "grpc", "ml_dtypes", "optree", "packaging", "dateutil", "six", "requests", "urllib3", "certifi",
    "idna", "rich", "pygments", "termcolor", "wrapt", "flatbuffers", "typing_extensions", "pyparsing", "cycler",
    "contourpy", "kiwisolver", "fontTools", "setuptools", "tensorboard", "pip",
))  # fmt: skip
"""Modules that the environment with TensorFlow has."""
_IN_PYTHON = frozenset(("pip",))
_NOTEBOOK = re.compile(r"\s*papermill\s")
_TRAINER = re.compile(r"-m\s*trainer(\.|\s|$)")
"""The bundled trainer in a command, or one of the user's that stands in its place."""
_CHOSEN = re.compile(r"^[ \t]*(tensorflow|tf)[\w-]*[ \t]*(\[|[<>=~!])", re.MULTILINE | re.IGNORECASE)
"""A requirement of a certain TensorFlow."""


@dataclass(frozen=True)
class Choice:
    """`framework` of `FRAMEWORKS`, or None for a run with an image of its own; `why`, in words, what decided it ("" for
    the user). `lacking`: modules that the code imports and the environment will not have; `offer`: the project's
    list of packages, where it may have them."""

    framework: str | None
    why: str = ""
    lacking: tuple[str, ...] = ()
    offer: Requirements | None = None
    unsure: bool = False
    tools: tuple[str, ...] = ()
    """Packages that a notebook needs to be run; nobody is asked about them."""

    @property
    def packages(self) -> list[str]:
        """The packages that bring what is lacking, as far as their names can be told."""
        return [PACKAGES.get(module, module) for module in self.lacking]

    @property
    def unknown(self) -> list[str]:
        """Modules of which it is not certain that a package of this name is meant."""
        return [module for module in self.lacking if module not in KNOWN_MODULES]


def choose(request: RunRequest, source: Source | None) -> Choice:
    """What a request gets; reads the files that its command names, and runs nothing. Raises `UsageError`."""
    from remoterun.source import imported, listed_in  # few commands need it

    asked = request.framework
    if asked is not None and asked not in FRAMEWORKS:
        raise UsageError(f"`{asked}` is not a framework", hint=f"framework={'|'.join(FRAMEWORKS)}")
    if request.image:
        if asked is not None:
            raise UsageError("a framework does not go with an image, which brings what it has", hint="leave out one")
        return Choice(None)
    found = imported(request.command, source)
    own = "".join(f"{line}\n" for line in request.pip) + request.requirements
    if asked == NONE and own:
        raise UsageError("the framework `none` installs no Python packages", hint="framework=python")
    listed = None if own or found.installs else listed_in(source)
    framework, why = (
        (asked, "") if asked is not None else _framework(request, found, own or (listed.text if listed else ""))
    )
    lacking = () if own or found.installs or framework == NONE else _lacking(found, framework)
    unsure = asked is None and framework == PYTHON and not found.whole
    tools = ("papermill", "ipykernel") if _NOTEBOOK.match(request.command) and framework != NONE else ()
    return Choice(framework, why, lacking, listed if lacking else None, unsure, tools)


def _framework(request: RunRequest, found: Imported, requirements: str) -> tuple[str, str]:
    uses = sorted(filter(_is_tensorflow, found.modules | found.optional))
    if "trainer" in uses or _TRAINER.search(request.command):
        return TENSORFLOW, "the trainer needs it"
    if uses and _CHOSEN.search(requirements):
        return PYTHON, "your packages name their TensorFlow"
    if uses:
        return TENSORFLOW, f"the code imports {uses[0]}"
    named = (name.lower().replace("-", "_") for name in package_names(requirements))
    if not found.whole and any(map(_is_tensorflow, named)) and not _CHOSEN.search(requirements):
        return TENSORFLOW, "your packages name it"
    return PYTHON, "nothing imports TensorFlow" if found.whole else "nothing that was read imports TensorFlow"


def _is_tensorflow(module: str) -> bool:
    return module in ("tensorflow", "keras", "tf_keras", "trainer") or module.startswith("tensorflow_")


def _lacking(found: Imported, framework: str) -> tuple[str, ...]:
    present = _IN_TENSORFLOW if framework == TENSORFLOW else _IN_PYTHON
    return tuple(sorted(found.modules - sys.stdlib_module_names - present - {"__main__", "remoterun_log"}))
