"""The end of a run, one way for all of them: its outputs are saved, its end is recorded, what it held is given back."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Dict, List, NoReturn, Optional

from ..shared.asked import memory_text
from ..shared.files import DISK_FULL, no_room, remove_tree
from ..shared.logs import last_lines
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, Reason
from ..shared.tree import show
from ..store import outputs
from ..store.home import Home
from ..store.outputs import all_readable
from ..store.run_folder import RunFolder
from .causes import cause_of
from .engines import Engine, engine_of_run
from .queues import queue_of_run


class Ended(Exception):
    """The run has come to its end. `unsaved`: what it made is left where it is."""

    def __init__(self, reason: Reason, message: Optional[str] = None, unsaved: bool = False, **fields: Any) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.unsaved = unsaved
        self.fields = {name: value for name, value in dict(fields, message=message).items() if value is not None}


def finish(run: RunFolder, reason: Reason, **fields: Any) -> None:
    """Record the end. The values of the user's variables go first: they may be secrets."""
    run.forget_values()
    run.move(ENDINGS[reason].state, reason=reason.value, **fields)
    run.forget_grant()


def clean_up(home: Home, run: RunFolder, engine: Optional[Engine] = None) -> bool:
    """Give back all that an ended run holds; what is given back already is fine. Whether nothing is left.

    What can't be, since the engine doesn't answer, keeps the run's mark, so that the next contact comes here again; so
    does somebody who has yet to get word.
    """
    if engine is None and os.path.exists(run.engine_file):
        engine = engine_of_run(home, run)
    gone = engine is None or engine.remove(run)
    remove_tree(os.path.join(run.path, "mounts"))
    remove_tree(os.path.join(run.io, "home"))
    remove_tree(run.control)
    run.forget_values()
    run.forget_grant()
    queue_of_run(home, run).release(run.key)
    if gone and not run.webhooks().addresses:
        home.unmark_active(run.key)
    with os.scandir(home.active) as active:
        if not any(active):
            home.reserve.release()
    return gone


def note_once(run: RunFolder, text: str) -> None:
    """A note for the user, once, unless the disk is full: nothing of what is done may depend on it."""
    if run.status().note == text:
        return
    try:
        run.note(text)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise


def not_answering(engine: str) -> str:
    """What the user reads while an engine does not answer."""
    return "waiting for %s, which does not answer" % engine


def save(home: Home, run: RunFolder, spec: RunSpec, least: float = 3600.0) -> NoReturn:
    """Save the outputs of a run that is SAVING, which may take as long as its command, or `least` seconds. Raises
    `Ended`. May be repeated after a crash at any point."""
    event = run.state()[1]
    reason = Reason(event["reason"])
    until = time.monotonic() + max(spec.timeout or float("inf"), least)

    def check(_: int = 0) -> None:
        if run.kill_asked():
            raise Ended(Reason.KILLED)
        if time.monotonic() > until:
            message = "its time was up before its outputs were saved; its files are in %s" % run.work
            raise Ended(Reason.TIMEOUT, message, unsaved=True, code=event.get("code"))

    check()
    full = home.reserve.was_full or no_room(home.path)
    if not os.path.exists(run.outputs_file):
        saved_now, special = outputs.save(home, run, check)
        places = tuple(mount.place + "/" for mount in spec.mounts)
        written = [entry.path for entry in saved_now if (entry.path + "/").startswith(places)]
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
        fields["outputs"] = {"files": manifest.file_count, "size": manifest.size}
    said = last_lines(run.err if spec.split else run.log, 40) if reason is Reason.EXIT_NONZERO else ""
    message = cause_of(said, event.get("code"))
    if reason is Reason.OUT_OF_MEMORY and spec.memory:
        message = "it may use %s: a smaller batch, or a higher `--memory`" % memory_text(spec.memory)
    if full:
        message = "%s (`remoterun machines df %s`), so its log may lack lines" % (full, spec.machine)
    raise Ended(reason, message, **fields)


def _few(paths: List[str]) -> str:
    return ", ".join(show(path) for path in paths[:5]) + (", …" if len(paths) > 5 else "")
