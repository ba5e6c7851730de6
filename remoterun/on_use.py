"""Names of a package that are imported on their first use: a command starts sooner where it needs few.

if TYPE_CHECKING:
    from remoterun.transfer.fetching import fetch
else:
    __getattr__ = on_use(__name__, {"fetching": ("fetch",)})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def on_use(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package that offers `names` of its modules. No name may be that of a module."""
    places = {name: module for module, found in names.items() for name in found}

    def get(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        found = getattr(import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    return get
