"""What goes through the bucket: uploads on their way to rented hosts, and what those may write there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remoterun import config as configuration
from remoterun import machines, transfer
from remoterun.agent.shared import api
from remoterun.agent.shared.bucket import BringLine, Grant, ImageAccess
from remoterun.agent.shared.engine_names import candidates
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.records import to_json
from remoterun.agent.shared.spec import RunSpec
from remoterun.agent.shared.tree import Manifest
from remoterun.client.connections import Connections
from remoterun.errors import AddressExpired, UsageError
from remoterun.model import MachineType, Run
from remoterun.session import Session
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.buckets.grants import Signer

SIGNED = 6 * 3600.0
"""Seconds for which a host may fetch what it was told to; what it has not got by then is signed again."""
CLOCKS = 900.0
"""Seconds by which the clocks of this machine and of the store may differ, beyond which it accepts nothing."""
AFTERWARDS = 3600.0
"""Seconds after a run's deadline for which it may still write: clocks may differ."""


@dataclass(frozen=True)
class NewBucket:
    """A bucket that is not named in the configuration yet. `exists`: the account has it, from another machine."""

    name: str
    region: str
    exists: bool


def proposed(connections: Connections) -> NewBucket | None:
    """The bucket that would be used; None where the configuration names one. Changes nothing. Raises `HostError`,
    `ProviderError`."""
    aws = connections.config.aws
    if aws.bucket is not None:
        return None
    from remoterun.buckets.creation import name_for

    identity = connections.provider("aws").identity()
    name, exists = name_for(identity.account, identity.region, aws.endpoint, aws.profile)
    return NewBucket(name, identity.region, exists)


def make(connections: Connections, new: NewBucket) -> None:
    """Make the bucket, or take the one that there is, and name it in the configuration. May be repeated. Raises
    `HostError`, `AlreadyExists`."""
    from remoterun.buckets.creation import create
    from remoterun.buckets.place import BucketPlace

    aws = connections.config.aws
    create(BucketPlace(new.name, new.region, aws.endpoint, aws.profile))
    connections.config = configuration.set_aws(connections.config, bucket=new.name, region=new.region)


def checks(connections: Connections) -> list[api.MachineCheck]:
    from remoterun.buckets import creation
    from remoterun.buckets.host import place_of

    return creation.checks(place_of(machines.bucket_of(connections.config), connections.config))


def machine_of(run: Run) -> MachineType:
    """The bucket that keeps what a run leaves. Raises `UsageError` for a run without one."""
    if run.renting is None or not run.renting.bucket:
        raise UsageError(f"run {run.number} has no bucket", hint=f"remoterun info {run.number}")
    return MachineType("aws", bucket=run.renting.bucket)


def login_ends(connections: Connections, seconds: float) -> float | None:
    """When what is signed now for so many seconds ends before that, since the login does; None where it does not, or
    where there is no bucket yet."""
    for machine in connections.named_bucket():
        ends = signer_of(connections, machine).expires(seconds)
        return ends if ends < time.time() + seconds - 60 else None
    return None


def signer_of(connections: Connections, machine: MachineType) -> Signer:
    """What signs for a bucket. Raises `HostError`."""
    from remoterun.buckets.grants import signing

    return connections.shared(("signer", machine), lambda: signing(machine, connections.config))


def grant(connections: Connections, run: Run) -> Grant:
    """What a run's host may write into the bucket, for as long as it may need to, if the credentials last."""
    return signer_of(connections, machine_of(run)).grant(run.key, _needed(run))


def introduce(
    connections: Connections, run: Run, spec: RunSpec, source: Manifest, session: Session
) -> tuple[Grant, tuple[ImageAccess, ...]]:
    """Put what was asked of a run into the bucket. Returns what its host may write there, as `grant`, and what it may
    do with the images of its environment."""
    signer = signer_of(connections, machine_of(run))
    images = Environment.of(spec).built_images if "docker" in candidates(spec.engine) else []
    architecture = session.hello.architecture
    return signer.introduce(run.key, spec.encode(), source.encode(), images, architecture, _needed(run))


def _needed(run: Run) -> float:
    """Seconds for which a run's host may need the bucket."""
    deadline = run.renting.deadline if run.renting is not None else time.time()
    return deadline - time.time() + AFTERWARDS


def copy_contents(
    connections: Connections,
    source: Session,
    manifest: Manifest,
    target: Session,
    progress: Progress,
    run: str | None = None,
) -> None:
    """Bring the contents of a tree from one home to another. A rented host fetches from the bucket by itself. `run`:
    the key of the run whose outputs they are. Raises `TransferError`, `HostError`."""
    if source.machine.bucket is None or target.machine.rented is None:
        transfer.relay(source, manifest, target, progress)
        return
    sizes = {entry.digest: entry.size for entry in manifest.files}
    signer = signer_of(connections, source.machine)
    while wanted := [digest for digest, _ in transfer.missing_blobs(target, list(sizes))]:
        progress.start("from the bucket", len(wanted), sum(sizes[digest] for digest in wanted))
        ends = signer.expires(SIGNED)
        try:
            _bring(target, signer.parcels(wanted, SIGNED, run), progress)
            return
        except AddressExpired:  # what has come stays
            if time.time() < ends - CLOCKS or signer.expires(SIGNED) <= ends + 1:
                raise
    progress.start("from the bucket", 0, 0)


def _bring(target: Session, lines: Iterable[BringLine], progress: Progress) -> None:
    """Let a host fetch contents. Raises `AddressExpired`."""
    with target.stream(api.bring, api.Nothing()) as stream:
        for line in lines:
            stream.send(json.dumps(to_json(line)).encode() + b"\n")
        stream.end()
        done = 0
        for frame in stream:
            at = frame.header.get("at")
            if isinstance(at, int) and at > done:
                progress.add(at - done)
                done = at
        target.result(api.bring, stream)
