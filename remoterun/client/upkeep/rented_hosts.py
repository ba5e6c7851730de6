"""Hosts that are rented: which there are, what they have cost, and their ends."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from remoterun import config as configuration
from remoterun import machines
from remoterun.agent.shared.api import MachineCheck
from remoterun.archive import creation
from remoterun.archive.objects import OWNED, SCHEME, BucketPlace, NoBucket
from remoterun.client.runs.runs import Runs
from remoterun.client.upkeep import upkeep
from remoterun.clouds import ARCHIVE, front
from remoterun.clouds.base import (
    HasLeftovers,
    HasRoles,
    Identity,
    Leftover,
    Provider,
    ProviderError,
    RentedHost,
    Roles,
    roles_of,
    unheard,
)
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.ledger import billing, planning, renting
from remoterun.clouds.ledger.billing import Bill
from remoterun.clouds.ledger.rented_runs import hosts_at
from remoterun.connections import Connections
from remoterun.errors import HostError, NotFound, RemoterunError
from remoterun.model import HostUse, MachineType, Run

LOOK = 10.0
"""Seconds that a machine has to say how its runs are."""
ENDING, ASK = 300.0, 2.0
"""Seconds until hosts that were ended are gone, and between two looks whether they are."""
OBJECTS = "objects"
"""The kind of what is left over in the bucket."""
BUCKET = "bucket"
"""The kind of the bucket itself."""


@dataclass(frozen=True)
class NewBucket:
    """A bucket that is not named in the configuration yet, or that is gone."""

    name: str
    region: str
    exists: bool
    """The account has it, from another machine."""
    gone: bool = False
    """The configuration names it."""


@dataclass(frozen=True)
class HostNow:
    """What a host does now, as far as this client knows."""

    run: int | None = None
    """The number of the run that it serves."""
    idle_since: float | None = None
    """When its last run ended; None while it has one."""
    run_ends: float = math.inf
    """When its run must have ended."""

    def ends(self, host: RentedHost, now: float) -> float:
        """When it ends, if no other run comes: a host stays past its idle minutes for outputs that are saved nowhere
        else and for a transfer, until its deadline at the most."""
        idle_end = (self.run_ends if self.idle_since is None else self.idle_since) + host.idle
        return min(idle_end, host.deadline) if idle_end > now else host.deadline


class RentedHosts:
    """What a client does with rented hosts."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, note: Callable[[str], None] = unheard) -> Sequence[RentedHost]:
        """All hosts of ours that are not gone, oldest first, from their tags alone: also those that another client
        rented. Raises `ProviderError`, `HostUnreachable`."""
        listed = self._connections.of_providers(partial(hosts_at, self._connections, note), note)
        return sorted(listed, key=lambda host: host.began)

    def uses(self, hosts: Sequence[RentedHost], wait: float = LOOK) -> Mapping[str, HostNow]:
        """What hosts of this client do now, by their ids. They are asked about runs that went on when they were last
        seen, and have `wait` seconds to answer."""
        runs = [run for run in self._connections.registry.runs() if run.renting is not None]
        Runs(self._connections).again([run for run in runs if not run.final], wait)
        found: dict[str, HostNow] = {}
        for run in runs:
            run = self._connections.registry.run(run.number)
            assert run.renting is not None
            for use in run.renting.hosts:
                known = found.get(use.id, HostNow())
                if use.ended is None:
                    ends = (run.started or math.inf) + (run.renting.timeout or math.inf)
                    found[use.id] = HostNow(run.number, run_ends=min(run.renting.deadline, ends))
                elif known.run is None:
                    found[use.id] = HostNow(idle_since=max(use.ended, known.idle_since or 0.0))
        return {host.id: found.get(host.id, HostNow()) for host in hosts}

    def runs_on(self, id: str) -> Sequence[Run]:
        """The runs of this client that a host serves, by its provider's id. The host has some seconds to answer; where
        it does not, as they were last seen."""
        runs = [run for run in self._connections.registry.runs() if run.renting is not None and not run.final]
        there = [run for run in runs if run.renting is not None and any(use.id == id for use in run.renting.hosts[-1:])]
        return [run for run in Runs(self._connections).again(there, planning.ANSWERS) if not run.final]

    def end(self, id: str) -> RentedHost:
        """End a host, by its provider's id.

        What of its run is not saved is lost. Raises `NotFound`, `ProviderError`, `HostUnreachable`.
        """
        provider, host = renting.find_host(self._connections, id)
        provider.release(host)
        renting.host_ended(self._connections, host, "by `machines rm` here")
        return replace(host, state="ending")

    def going_on(self, machine: str) -> Iterator[tuple[HostUse, float]]:
        """The hosts rented for a machine type that cost on, by our records, each with the moment until when at the
        most (seconds since 1970). Nobody is asked."""
        runs = [run for run in self._connections.registry.runs() if run.machine.name == machine]
        uses = {use.id: use for run in runs if run.renting is not None for use in run.renting.hosts}
        for use in uses.values():
            until = use.deadline if use.ended is None else use.idle_end
            if not use.ended_by and until and until > time.time():
                yield use, until

    def leftovers(
        self, note: Callable[[str], None] = unheard, everything: bool = False, at: str = ""
    ) -> Sequence[Leftover]:
        """What `machines gc` would end or remove: hosts of this client that no run of it needs, hosts of anybody
        that should have ended by themselves, what hosts that are gone left behind, and objects in the bucket that
        nothing refers to; or `everything` of ours in the account, whoever made it. `at`: of hosts, those of
        this provider alone. `note` is called with what could not be asked, and why. Raises as `list`."""
        note = functools.cache(note)  # hosts and the rest are asked for one after the other
        needed = set() if everything else _needed(Runs(self._connections).list(None, wait=LOOK))

        def left_at(provider: Provider) -> list[Leftover]:
            if at and provider is not self._connections.provider(at):
                return []
            hosts = {host: self._why_left(host, needed) for host in provider.hosts(note)}
            if everything:
                hosts = {host: f"rented by {host.owner}" for host in hosts}
            left = [Leftover("host", host.id, why, host.hourly, "h", host=host) for host, why in hosts.items() if why]
            return left + (provider.leftovers(note, everything) if isinstance(provider, HasLeftovers) else [])

        found = self._connections.of_providers(left_at, note)
        try:  # hosts cost more than objects
            found += self._in_bucket(everything, note)
        except (HostError, ProviderError) as error:
            note(f"the bucket could not be looked at: {error.message}")
        return found

    def _in_bucket(self, everything: bool, note: Callable[[str], None]) -> Iterator[Leftover]:
        """Objects that nothing needs; or the buckets that remoterun made: one of another name may hold anything."""
        place, named = self._connections.config.archive, self._connections.named_bucket()
        if everything and all(each.name == ARCHIVE for each in named):
            of = self.identity(ARCHIVE)
            others = creation.existing(of.account, of.region, place.endpoint, place.profile)
            for address in dict.fromkeys([*(str(each.bucket) for each in named), *(SCHEME + each for each in others)]):
                if OWNED.match(address.removeprefix(SCHEME)):
                    yield Leftover(BUCKET, address, "it has the uploads, and what runs made", None)
                else:
                    note(f"{address} stays, as remoterun did not make it")
            return
        for machine in named:
            freed = self._collect(machine, dry_run=True).freed
            if freed:
                cost = self._connections.archive(machine).objects.monthly(freed)
                yield Leftover(OBJECTS, str(machine.bucket), "no upload and no run needs them", cost, bytes=freed)

    def clear(self, leftover: Leftover, everything: bool = False) -> bool:
        """End or remove it, unless it is needed again by now: since the list was made, a run may have begun; but with
        `everything`. Whether it was, or is gone already. Raises as `list`, and `TransferError`."""
        if leftover.kind == OBJECTS:
            for machine in self._connections.named_bucket():
                self._collect(machine, dry_run=False)
            return True
        if leftover.kind == BUCKET:
            return self._remove_bucket(leftover.id)
        if leftover.host is None:
            self._connections.need_login("what is left over is removed at {}", leftover.at)
            provider = self._connections.provider(leftover.at)
            return isinstance(provider, HasLeftovers) and provider.clear(leftover, everything)
        try:
            provider, host = renting.find_host(self._connections, leftover.id)
        except NotFound:
            return True
        if host.state == "ending":
            return True
        if not everything and self._why_left(host, _needed(self._connections.registry.runs())) is None:
            return False
        provider.release(host)
        renting.host_ended(self._connections, host, "by `machines gc` here")
        return True

    def clear_all(
        self,
        found: Sequence[Leftover],
        everything: bool = False,
        waiting: Callable[[], None] = lambda: None,
        at: str = "",
    ) -> Iterator[tuple[Leftover, bool | RemoterunError]]:
        """What `clear` returns, or raises, for each, hosts first; then, once those are gone, also for what they leave
        behind. Waits for that, some minutes at the most, and calls `waiting` before. `at` as for `leftovers`. Raises as
        `list`."""

        def tried(leftover: Leftover) -> bool | RemoterunError:
            try:
                return self.clear(leftover, everything)
            except RemoterunError as error:  # the others cost money, too
                return error

        def left_behind(provider: Provider) -> list[Leftover]:
            is_asked = not at or provider is self._connections.provider(at)
            return provider.leftovers(everything=everything) if is_asked and isinstance(provider, HasLeftovers) else []

        others = {each.id: each for each in found if each.host is None}
        ended = []
        for leftover in (each for each in found if each.host is not None):
            yield leftover, (result := tried(leftover))
            ended += [leftover.id] if result is True else []
        if ended:
            waiting()
            until = time.monotonic() + ENDING
            with contextlib.suppress(RemoterunError):  # what can't be asked about now is left for the next time
                while {host.id for host in self.list()} & {*ended} and time.monotonic() < until:
                    time.sleep(ASK)
                left = self._connections.of_providers(left_behind, unheard)
                others.update((each.id, each) for each in left)
        for leftover in others.values():
            yield leftover, tried(leftover)

    def _remove_bucket(self, address: str) -> bool:
        """Delete it with all that is in it, and forget it, and the uploads that it had."""
        config = self._connections.config
        creation.remove(BucketPlace.of(address, config.archive))
        for machine in self._connections.named_bucket():
            if machine.bucket == address:
                Runs(self._connections).forget_machine(machine)
                self._connections.config = configuration.set_table(config, "archive", bucket=None, region=None)
        return True

    def _why_left(self, host: RentedHost, needed: Container[str]) -> str | None:
        """Why nobody needs a host; None if somebody may."""
        if host.late(time.time()):
            return "it should have ended by itself"
        if not host.ours:
            return None
        if host.state == "stopped":  # by a person, or by its provider: nothing of ours starts it again
            return "it was stopped, and its disk costs"
        if host.alive and host.token not in needed:
            return "no run needs it"
        folder = HostFolder(self._connections.config.home, host.token)
        never_came = folder.intent() is None or (folder.read("host.json") is None and not folder.is_locked())
        if host.alive and never_came:
            return "whoever acquired it was cut short"
        return None

    def bucket(self) -> NewBucket | None:
        """The bucket that runs on rented hosts would use, where the configuration names none, or one that is gone.
        Makes nothing. Raises `HostError`, `ProviderError`."""
        place = self._connections.config.archive
        if machines.bucket_of(self._connections.config).name == machines.HERE:
            return None
        for machine in self._connections.named_bucket():
            try:
                self._connections.archive(machine)
                return None
            except NoBucket:
                of = self.identity(ARCHIVE)
                return NewBucket(BucketPlace.of(machine.bucket or "").name, of.region, exists=False, gone=True)
        self._connections.need_login("the bucket is at {}")
        identity = self.identity(ARCHIVE)
        name, region = creation.name_for(identity.account, identity.region, place.endpoint, place.profile)
        return NewBucket(name, region or identity.region, region is not None)

    def make_bucket(self, new: NewBucket) -> None:
        """Make that bucket, private and encrypted, or take the one that exists, and name it in the configuration. May
        be repeated. Raises `HostError`, `AlreadyExists`."""
        config = self._connections.config
        place = BucketPlace(new.name, new.region, config.archive.endpoint, config.archive.profile)
        creation.create(place, front(ARCHIVE).tags(config))
        self._connections.config = configuration.set_table(config, "archive", bucket=new.name, region=new.region)

    def make_roles(self, name: str, new: NewBucket | None = None) -> Roles:
        """Make the roles at a provider by which hosts save, in the bucket that is used, or will be (`bucket`), and by
        which it ends them, as far as the account allows it. May be repeated. Raises as `list`, and as `bucket`."""
        new = new or self.bucket()
        config, provider = self._connections.config, self._connections.provider(name)
        made = roles_of(provider, make_for=str(new.name if new is not None else config.archive.bucket))
        if isinstance(provider, HasRoles) and not front(name).of(config).roles:
            self._connections.config = configuration.set_table(config, name, roles=True)
        return made

    def bill(self, since: float, note: Callable[[str], None] = unheard, asked: str = "") -> Bill:
        """The cost of hosts since a moment (seconds since 1970), see `billing.bill`, and the size of the bucket."""
        runs = [run for run in self._connections.registry.runs() if run.renting is not None and not run.final]
        Runs(self._connections).again(runs, LOOK)  # hosts that have ended by now cost no more
        found = billing.bill(self._connections, since, time.time(), note, asked)
        try:
            for machine in self._connections.named_bucket():
                objects = self._connections.archive(machine).objects
                size = sum(stored.size for stored in objects.list(""))
                found = replace(found, archive=machine.name, stored=size, monthly=objects.monthly(size))
        except RemoterunError as error:
            note(f"what the bucket holds is not counted: {error.message}")
        return found

    def identity(self, name: str) -> Identity:
        """Who a provider says that this client is. Raises as `list`."""
        return self._connections.provider(name).identity()

    def provider(self, name: str) -> Provider:
        """Raises `ConfigError`."""
        return self._connections.provider(name)

    def checks(self, name: str, machine: MachineType | None = None) -> Sequence[MachineCheck]:
        """What `doctor` finds out about a provider, where nothing changes, and about the bucket, where one object is
        written and removed."""
        archive = self._connections.config.archive
        known = [BucketPlace.of(str(each.bucket), archive) for each in self._connections.named_bucket()]
        if not known and (folder := machines.bucket_of(self._connections.config)).name == machines.HERE:
            here = MachineCheck("bucket", None, f"none is named: what runs make is fetched, into {folder.bucket}", "")
            return [*self.provider(name).checks(machine), here]
        place = next(iter(known), None)
        return [*self.provider(name).checks(machine), *creation.checks(place)]

    def _collect(self, machine: MachineType, *, dry_run: bool) -> upkeep.Collected:
        """Do what `gc` of it does."""
        archive = self._connections.archive(machine)
        return upkeep.collect_archive(archive, machine.name, self._connections.registry, None, dry_run)


def _needed(runs: Iterable[Run]) -> set[str]:
    """The tokens of the hosts that runs have, or are being rented for them."""
    return {token for run in runs if not run.final for token in planning.tokens(run)}
