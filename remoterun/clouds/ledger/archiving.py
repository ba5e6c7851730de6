"""The archive and runs on rented hosts: what they need is stored, and their hosts may download it, and write what the
runs make."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from remoterun import machines
from remoterun.agent.shared.archive import Grant, ImageAccess
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.machines import candidates
from remoterun.agent.shared.spec import RunSpec
from remoterun.archive import grants
from remoterun.archive.objects import NoBucket, Unsigned
from remoterun.archive.runs import put_spec
from remoterun.archive_store import place_of
from remoterun.clouds.base import Mounts
from remoterun.connections import Connections
from remoterun.errors import RemoterunError, UsageError
from remoterun.model import MachineType, Run
from remoterun.session import Session
from remoterun.threads import each

if TYPE_CHECKING:
    from remoterun.archive import Archive

AFTERWARDS = 3600.0
"""Seconds after a run's deadline for which it may still write: clocks may differ."""


def machine_of(run: Run) -> MachineType:
    """The archive that has what a run leaves. Raises `UsageError` for a run without one."""
    if run.renting is None or not run.renting.bucket:
        raise UsageError(f"run {run.number} has no archive", hint=f"remoterun info {run.number}")
    return machines.archive_at(run.renting.bucket)


def archive_of(connections: Connections, run: Run) -> Archive:
    """Raises `HostError`, `UsageError`."""
    return connections.archive(machine_of(run))


def open_soon(connections: Connections) -> None:
    """Begin to open the archive, which a run on a rented host is about to need."""

    def open_it() -> None:
        with contextlib.suppress(RemoterunError):
            for machine in connections.named_bucket():
                connections.archive(machine)

    threading.Thread(target=open_it, daemon=True).start()


def bucket_region(connections: Connections) -> str:
    """Where the bucket is; empty where none is named yet."""
    for machine in connections.named_bucket():
        with contextlib.suppress(NoBucket):
            return connections.archive(machine).objects.find_region()
    return ""


def is_carried(connections: Connections) -> bool:
    """Whether this machine carries to the archive what runs leave, as hosts can't write there that don't have it as a
    folder."""
    if machines.bucket_of(connections.config).name == machines.HERE:
        return True
    for machine in connections.named_bucket() if connections.config.archive.endpoint is not None else ():
        with contextlib.suppress(NoBucket):
            try:
                connections.archive(machine).objects.presigned_post("may-write", 60, 1)
            except Unsigned:
                return True
    return False


# -- a run is handed over


def access(
    connections: Connections, run: Run, spec: RunSpec, session: Session
) -> tuple[Run, Grant, tuple[ImageAccess, ...]]:
    """Store what was asked of a run. Returns the run, what its host may write for as long as it may need to, if the
    credentials last, and what it may do with the images of its environment."""
    archive, seconds = archive_of(connections, run), _needed(run)
    names = Environment.of(spec).built_images if "docker" in candidates(spec.engine) else []
    architecture = session.hello.architecture
    try:
        images = tuple(each(lambda name: grants.image_access(archive, name, architecture, seconds), names))
    except Unsigned:  # each host builds its own
        images, names = (), []
    put_spec(archive, place_of(run), spec.encode())
    allowed = grant(connections, run)
    assert run.renting is not None
    if run.key not in run.renting.hosts[-1].token:
        # It was rented for an earlier run, whose command could have a hand in what is built there.
        images, names = tuple(image for image in images if image.stored), []
    renting = replace(run.renting, grant_ends=allowed.expires, images=tuple(names), architecture=architecture)
    renting = replace(renting, carried=allowed.carried)
    run = connections.registry.save_renting(run, renting)
    return run, allowed, images


def grant(connections: Connections, run: Run) -> Grant:
    """The permission of a run's host to write to the bucket, for as long as it may need it."""
    folder, rental = "", run.machine.rental
    if rental is not None and isinstance(provider := connections.provider(rental.provider), Mounts):
        folder = provider.folder_of(run.machine, run.renting.hosts[-1].token if run.renting is not None else "")
    return grants.grant_for_run(archive_of(connections, run), place_of(run), _needed(run), folder)


def record_images(connections: Connections, run: Run, status: RunStatus) -> Run:
    """Record the images that a host reports, if its run may have built them: only those are ever loaded elsewhere. Of
    each, a run's first word counts."""
    run = connections.registry.run(run.number)  # another client may have recorded them
    for image in status.images:
        if run.renting is not None and image.image in run.renting.images:
            grants.record_image(archive_of(connections, run), image, run.renting.architecture)
            rest = tuple(name for name in run.renting.images if name != image.image)
            run = connections.registry.save_renting(run, replace(run.renting, images=rest))
    return run


def _needed(run: Run) -> float:
    """Seconds for which a run's host may need the bucket."""
    deadline = run.renting.deadline if run.renting is not None else time.time()
    return deadline - time.time() + AFTERWARDS
