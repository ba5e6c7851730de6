"""Environments that are built on the login node before a run has its job (`build = "login"`), one at a time, by the
supervisor of a run, which then hands it to Slurm and ends. Its standard input is the lock that says so. Runs that came
meanwhile are handed over by the contact that it makes at its end.
"""

from __future__ import annotations

import os
from typing import Callable

from ...shared.files import unless_held
from ...shared.spec import RunSpec
from ...shared.states import Reason
from ...store.home import Home
from ...store.run_folder import RunFolder
from .. import supervision
from ..ending import Ended
from ..engines import EngineError
from ..engines.building import BuildJob
from ..engines.process import ProcessEngine


def awaits_environment(home: Home, run: RunFolder, spec: RunSpec) -> bool:
    """Whether a run may have no job yet; then its supervisor builds, unless another one does."""
    engine = ProcessEngine(home)
    if all(engine.is_whole(os.path.join(home.envs, name)) for name in engine.needs(spec)[-1:]):
        return False
    with unless_held(home.lock("build")) as lock:
        if lock is not None:
            supervision.spawn(home, run.key, lock)
    return True


def build(home: Home, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> None:
    """Raises `Ended`, and what `report` raises for a run that shall end. Supervisor only."""

    def interrupted() -> bool:
        report("")
        return False

    try:
        ProcessEngine(home).build(run, spec, BuildJob(run.build_log, run.note, interrupted))
    except EngineError as error:
        raise Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
