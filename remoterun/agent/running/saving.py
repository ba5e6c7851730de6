"""What a command made becomes the run's outputs. Standard library only; Python >= 3.8."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, List, NoReturn

from ..shared.files import remove_tree
from ..shared.spec import RunSpec
from ..shared.states import Reason
from ..shared.tree import show
from ..store import outputs
from ..store.home import Home
from ..store.outputs import all_readable
from ..store.run_folder import RunFolder
from .ending import Ended


def save(home: Home, run: RunFolder, spec: RunSpec) -> NoReturn:
    """Save the outputs of a run that is SAVING. Raises `Ended`. May be repeated after a crash at any point."""
    if run.kill_asked():
        raise Ended(Reason.KILLED)
    event = run.state()[1]
    reason = Reason(event["reason"])
    if not os.path.exists(run.outputs_file):
        _unmount(run, spec)
        _, special = outputs.save(home, run, _places(spec))
        if special:
            named = ", ".join(show(path) for path in special[:5]) + (", …" if len(special) > 5 else "")
            run.note("not saved, since no file that this user can read: %s" % named)
    elif all_readable(run.work):  # a crash came before it was discarded
        with contextlib.suppress(PermissionError):
            remove_tree(run.work)
    saved = outputs.saved(run)
    manifest = saved.manifest() if saved else None
    fields: Dict[str, Any] = {"code": event.get("code")}
    if manifest is not None:
        fields["outputs"] = {"files": len(manifest.files), "size": manifest.size}
    raise Ended(reason, **fields)


def _places(spec: RunSpec) -> List[str]:
    return [mount.place for mount in spec.mounts if not mount.is_absolute]


def _unmount(run: RunFolder, spec: RunSpec) -> None:
    folders = [spec.workdir]
    for place in _places(spec):
        if not _leads_out(run, place):
            remove_tree(os.path.join(run.work, place))
            folders.append(os.path.dirname(place))
    for folder in folders:
        while folder and not _leads_out(run, folder):  # ours, if the command left it empty
            try:
                os.rmdir(os.path.join(run.work, folder))
            except OSError:
                break
            folder = os.path.dirname(folder)


def _leads_out(run: RunFolder, path: str) -> bool:
    """Whether the command has put a link where `path` has a folder: what lies behind it is not ours to delete."""
    folder = os.path.dirname(path)
    while folder:
        if os.path.islink(os.path.join(run.work, folder)):
            return True
        folder = os.path.dirname(folder)
    return False
