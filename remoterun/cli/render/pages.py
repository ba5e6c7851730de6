"""A page that is served: what is in it, where it is, how it ends."""

from __future__ import annotations

from typing import Any

from remoterun.cli.render.data import finish, out, out_json
from remoterun.cli.render.talk import line
from remoterun.cli.render.words import files, name, size


def page(served: Any, as_json: bool) -> None:
    """The model, and the address, at once."""
    model = served.model
    step = "" if model.step is None else f", step {model.step}"
    line(f"The model in {name(model.name)}: {files(model.files)}, {size(model.size)}{step}")
    if model.live:
        run = model.name.split("/")[1]
        line(f"  run {run} goes on: this is its model so far; repeat the command for a newer one")
    if as_json:
        out_json(
            {
                "address": served.address,
                "port": served.port,
                "model": model.name,
                "folder": str(model.folder),
                "step": model.step,
                "live": model.live,
            }
        )
    else:
        out(served.address)
    finish()


def page_shown(port: int, shown: bool, far_away: bool, ending: str = "^C ends it") -> None:
    """What to do with the address of a server on this machine."""
    line(f"  {'your browser shows it' if shown else 'open it in a browser'}; {ending}")
    if far_away and not shown:
        line(f"  ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE   from the machine you sit at")
