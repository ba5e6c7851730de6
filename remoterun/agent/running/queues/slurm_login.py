"""Environments that are built on the login node, before a run has its job: `build = "login"`, for nodes without a
network.

One of them at a time: the supervisor of a run builds there, hands it to Slurm, and ends. Runs that came meanwhile are
handed over by the contact that it makes then; their environments, if they are others, are built next.
"""

from __future__ import annotations

import os
from typing import Callable

from ...shared.files import unless_held
from ...shared.spec import RunSpec
from ...store.home import Home
from ...store.run_folder import RunFolder
from .. import supervision


def lacks_environment(home: Home, spec: RunSpec) -> bool:
    """Whether a run may not have its job yet."""
    if spec.scheduling is None or spec.scheduling.build != "login":
        return False
    from ..engines.process import ProcessEngine

    engine = ProcessEngine(home)
    return not all(engine.is_whole(os.path.join(home.envs, name)) for name in engine.needs(spec)[-1:])


def have_built(home: Home, run: RunFolder) -> None:
    """Start a supervisor that builds, unless one is at it. To be called again once that has ended."""
    with unless_held(home.lock("build")) as free:
        pass
    if free is not None:
        supervision.spawn(home, run.key)


def build(home: Home, run: RunFolder, spec: RunSpec, report: Callable[[str], None]) -> None:
    """Build, unless another run's supervisor is at it. Raises `Ended`, and what `report` raises for a run that shall
    end. Supervisor only."""
    from ...shared.states import Reason
    from ..ending import Ended
    from ..engines import EngineError
    from ..engines.building import BuildJob
    from ..engines.process import ProcessEngine

    def interrupted() -> bool:
        report("")
        return False

    with unless_held(home.lock("build")) as ours:
        if ours is not None:
            try:
                ProcessEngine(home).build(run, spec, BuildJob(run.build_log, run.note, interrupted))
            except EngineError as error:
                raise Ended(Reason.BUILD_FAILED, error.message, evidence=error.evidence, hint=error.hint)
