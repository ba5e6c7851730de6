"""What a command made becomes the run's outputs."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, List, NoReturn

from ..shared.files import remove_tree
from ..shared.spec import RunSpec
from ..shared.states import Reason
from ..shared.tree import leads_out, show
from ..store import outputs
from ..store.home import Home
from ..store.outputs import all_readable
from ..store.run_folder import RunFolder
from .ending import Ended
from .engines import Engine


def save(home: Home, run: RunFolder, spec: RunSpec, engine: Engine) -> NoReturn:
    """Save the outputs of a run that is SAVING. Raises `Ended`. May be repeated after a crash at any point."""
    if run.kill_asked():
        raise Ended(Reason.KILLED)
    event = run.state()[1]
    reason = Reason(event["reason"])
    if not os.path.exists(run.outputs_file):
        written = engine.written(run)
        mounted = (mount.place for mount in spec.mounts if not mount.is_absolute)
        places = [place for place in mounted if not any((path + "/").startswith(place + "/") for path in written)]
        _unmount(run, spec, places)
        _, special = outputs.save(home, run, places)
        if written:
            run.note("a mount is read-only, so what the command wrote there is saved as outputs: %s" % _few(written))
        if special:
            run.note("not saved, since no file that this user can read: %s" % _few(special))
    elif all_readable(run.work):  # a crash came before it was discarded
        with contextlib.suppress(PermissionError):
            remove_tree(run.work)
    saved = outputs.saved(run)
    manifest = saved.manifest() if saved else None
    fields: Dict[str, Any] = {"code": event.get("code")}
    if manifest is not None:
        fields["outputs"] = {"files": len(manifest.files), "size": manifest.size}
    raise Ended(reason, **fields)


def _few(paths: List[str]) -> str:
    return ", ".join(show(path) for path in paths[:5]) + (", …" if len(paths) > 5 else "")


def _unmount(run: RunFolder, spec: RunSpec, places: List[str]) -> None:
    folders = [spec.workdir]
    for place in places:
        if not leads_out(run.work, place):
            remove_tree(os.path.join(run.work, place))
            folders.append(os.path.dirname(place))
    for folder in folders:
        while folder and not leads_out(run.work, folder):  # ours, if the command left it empty
            try:
                os.rmdir(os.path.join(run.work, folder))
            except OSError:
                break
            folder = os.path.dirname(folder)
