"""Hosts that are rented: what a run on one will cost, which there are, and their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from remoterun import config as configuration
from remoterun import machines
from remoterun.agent.shared.api import MachineCheck
from remoterun.client import renting, upkeep
from remoterun.client.connections import Connections
from remoterun.client.renting import Plan
from remoterun.client.runs import Runs
from remoterun.errors import RemoterunError
from remoterun.model import MachineType
from remoterun.providers.base import Identity, Leftover, RentedHost

LATE = 300.0
"""Seconds past its deadline from which on a host should have ended: clocks differ, and shutting down takes a while."""
LOOK = 10.0
"""Seconds that a machine has to say how its runs are."""
BUCKET = "bucket"
"""In the place of a provider's name, for what is left over in the bucket."""
STORED = 0.023
"""US dollars a month for a GB in Amazon's S3, in most regions."""


@dataclass(frozen=True)
class NewBucket:
    """A bucket that is not named in the configuration yet."""

    name: str
    region: str
    exists: bool
    """The account has it, from another machine."""


@dataclass(frozen=True)
class Orphan:
    """What `clear` ends or removes: a host that no run needs, or a leftover. `provider` may be `BUCKET`."""

    provider: str
    what: RentedHost | Leftover
    why: str

    @property
    def id(self) -> str:
        return self.what.id

    @property
    def kind(self) -> str:
        return self.what.kind if isinstance(self.what, Leftover) else "host"

    @property
    def saves(self) -> float | None:
        """US dollars `per` hour ("h") or month; None where that is not known."""
        return self.what.cost if isinstance(self.what, Leftover) else self.what.offer.price

    @property
    def bytes(self) -> int:
        return self.what.size if isinstance(self.what, Leftover) else 0

    @property
    def per(self) -> str:
        return "month" if isinstance(self.what, Leftover) else "h"


class RentedHosts:
    """What a client does with rented hosts."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def plan(self, machine: MachineType) -> Plan | None:
        """What a run on a machine type will be given, and what it costs at the most; None for one that is not rented.
        Asks the provider, and costs nothing. Raises `ProviderError`, `HostUnreachable`."""
        return None if machine.rental is None else renting.plan(self._connections, machine)

    def list(self) -> Sequence[RentedHost]:
        """All hosts of ours that are not gone, oldest first, from their tags alone: also those that another client
        rented. Raises `ProviderError`, `HostUnreachable`."""
        found = [host for provider in self._connections.providers() for host in provider.hosts()]
        return sorted(found, key=lambda host: host.began)

    def idle_since(self, hosts: Sequence[RentedHost]) -> Mapping[str, float]:
        """Since when hosts have had no run, by their ids, as far as this client knows. Asks nobody."""
        found: dict[str, float] = {}
        busy: set[str] = set()
        for run in self._connections.registry.runs():
            for use in run.renting.hosts if run.renting is not None else ():
                if use.ended is None:
                    busy.add(use.id)
                else:
                    found[use.id] = max(use.ended, found.get(use.id, 0.0))
        return {host.id: found[host.id] for host in hosts if host.id in found and host.id not in busy}

    def end(self, id: str) -> RentedHost:
        """End a host, by its provider's id.

        What of its run is not saved is lost. Raises `NotFound`, `ProviderError`, `HostUnreachable`.
        """
        provider, host = renting.find_host(self._connections, id)
        provider.release(host)
        return host

    def orphans(self, note: Callable[[str], None] = lambda _: None) -> Sequence[Orphan]:
        """What `machines gc aws` would end or remove: hosts of this client that no run of it needs, hosts of anybody
        that should have ended by themselves, what hosts that are gone left behind, and objects in the bucket that
        nothing refers to. `note` is told why the bucket could not be looked at. Raises as `list`."""
        runs = Runs(self._connections).list(None, wait=LOOK)
        needed = {token for run in runs if not run.final for token in renting.tokens(run)}
        known = {run.key for run in runs if run.renting is not None}  # others were rented by another client
        found = []
        for provider in self._connections.providers():
            for host in provider.hosts():
                ours = host.run in known or host.machine is not None
                if host.alive and host.deadline + LATE < time.time():
                    found.append(Orphan(provider.name, host, "it should have ended by itself"))
                elif host.alive and ours and host.token not in needed:
                    found.append(Orphan(provider.name, host, "no run needs it"))
            hosts = {orphan.id for orphan in found}
            left_over = [each for each in provider.leftovers() if each.id.rpartition("/")[2] not in hosts]
            found += [Orphan(provider.name, each, each.why) for each in left_over]
        for machine in self._connections.named_bucket():
            try:
                freed = self._collect(machine, dry_run=True).freed
            except RemoterunError as error:  # hosts cost more than objects
                note(f"the bucket could not be looked at: {error.message}")
                continue
            if freed:
                cost = freed / 1e9 * STORED if self._connections.config.aws.endpoint is None else None
                why = "no upload and no run needs them"
                found.append(Orphan(BUCKET, Leftover("objects", machine.bucket or "", why, cost, freed), why))
        return found

    def clear(self, orphan: Orphan) -> None:
        """End or remove it. One that is gone already is fine. Raises as `list`, and `TransferError`."""
        if orphan.provider == BUCKET:
            for machine in self._connections.named_bucket():
                self._collect(machine, dry_run=False)
            return
        provider = self._connections.provider(orphan.provider)
        if isinstance(orphan.what, RentedHost):
            provider.release(orphan.what)
            for run in self._connections.registry.runs():
                if run.key == orphan.what.run and run.renting is not None:
                    renting.count(self._connections, run, orphan.what)
        else:
            provider.clear(orphan.what)

    def bucket(self) -> NewBucket | None:
        """The bucket that runs on rented hosts would use; None where the configuration names one. Makes nothing.
        Raises `HostError`, `ProviderError`."""
        from remoterun.archive.creation import name_for

        aws = self._connections.config.aws
        if aws.bucket is not None:
            return None
        identity = self._connections.provider(machines.BUCKET).identity()
        name, exists = name_for(identity.account, identity.region, aws.endpoint, aws.profile)
        return NewBucket(name, identity.region, exists)

    def make_bucket(self, new: NewBucket) -> None:
        """Make that bucket, private and encrypted, or take the one that exists, and name it in the configuration. May
        be repeated. Raises `HostError`, `AlreadyExists`."""
        from remoterun.archive.creation import create
        from remoterun.archive.s3 import BucketPlace

        aws = self._connections.config.aws
        create(BucketPlace(new.name, new.region, aws.endpoint, aws.profile))
        self._connections.config = configuration.set_aws(self._connections.config, bucket=new.name, region=new.region)

    def identity(self, name: str) -> Identity:
        """Who a provider says that this client is. Raises as `list`."""
        return self._connections.provider(name).identity()

    def checks(self, name: str) -> Sequence[MachineCheck]:
        """What `doctor` finds out about a provider. Changes nothing."""
        return self._connections.provider(name).checks()

    def bucket_checks(self) -> Sequence[MachineCheck]:
        """What `doctor` finds out about the bucket. One object is written and removed."""
        from remoterun.archive import creation
        from remoterun.archive.s3 import BucketPlace

        config = self._connections.config
        aws, address = config.aws, machines.bucket_of(config).bucket or ""
        return creation.checks(BucketPlace.of(address, aws.region, aws.endpoint, aws.profile) if aws.bucket else None)

    def _collect(self, machine: MachineType, *, dry_run: bool) -> upkeep.Collected:
        """Do what `gc aws` does."""
        archive = self._connections.archive(machine)
        return upkeep.collect_archive(archive, machine.name, self._connections.registry, None, dry_run)
