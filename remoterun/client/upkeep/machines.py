"""What is done with a machine as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun import machines
from remoterun.agent.shared import api
from remoterun.agent.shared.tree import show
from remoterun.client import occupancy
from remoterun.client.homes import find_store
from remoterun.client.occupancy import MachineStatus
from remoterun.clouds import all_fronts
from remoterun.clouds.base import Offer
from remoterun.connections import Connections
from remoterun.errors import RemoterunError, UsageError
from remoterun.host_store import HostStore
from remoterun.model import LAST, MachineType, Rental, check_time
from remoterun.session import Session
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from remoterun.client.upkeep.upkeep import Checked, Collected, HomeUsage
    from remoterun.hosts.ssh.master import Master


class Machines:
    """What a client does with machines and their homes."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def get(self, name: str | None = None, ask: bool = True) -> MachineType:
        """The machine type that a name stands for (None: the default one). Raises `NotFound`; where a provider's
        program is to `ask` for GPUs, and fails, `ProviderError`."""
        return self._connections.machine(name, ask)

    def list(self) -> Sequence[MachineType]:
        """Every machine type of one's own that can be used now, those of the configuration first; one that is rented
        has the GPUs of its type, where its provider says how many."""
        found = machines.listing(self._connections.config)
        for place, machine in enumerate(found):
            with contextlib.suppress(RemoterunError):
                found[place] = self._connections.with_gpus(machine)
        return found

    def status(self, names: Iterable[str] = (), wait: float = 2.0) -> Sequence[MachineStatus]:
        """Who uses each of these machines (default: all of one's own). All are asked at once; of one that does not
        answer within `wait` seconds, `unreached` says why. Raises `NotFound`, `UsageError` for one that is rented."""
        return occupancy.status(self._connections, names, wait)

    def rented_types(self, spot: bool = False) -> Mapping[str, Offer]:
        """What providers that are set up offer for each of their names, with the price on demand of a table, or with
        `spot` the lowest one of now, for which they are asked. Raises `ProviderError`, `HostUnreachable`, `NoLogin`."""
        used = [each for each in all_fronts() if each.is_set_up(self._connections.config)]
        found: dict[str, Offer] = {}
        for name, rentals in (
            (each.name, each.names()) for each in used if each.names() and not (spot and "spot" in each.lacks)
        ):
            if spot:
                self._connections.need_login("spot prices are asked of {}", name)
            types = tuple(dict.fromkeys(type for rental in rentals.values() for type in rental.types))
            every = MachineType(name, rental=Rental(name, types, spot=spot))
            best: dict[str, Offer] = {}
            for offer in self._connections.provider(name).offers(every, live=spot):
                if offer.type not in best or (offer.price or 1e9) < (best[offer.type].price or 1e9):
                    best[offer.type] = offer
            found |= {word: best[type] for word, rental in rentals.items() if (type := rental.types[0]) in best}
        return found

    def session(self, machine: MachineType) -> Session:
        """An open conversation with the agent of a machine. Raises `HostError`."""
        return self._connections.session(machine)

    def fabric(self, name: str) -> Any:
        """A `fabric.Connection` to a machine, for what remoterun has no command for; its host key is checked and the
        ssh configuration honoured, which fabric alone does not do. It lives until this client is closed.

        Raises `UsageError` for the machine in front of us, and `HostError`.
        """
        from remoterun.hosts.ssh.host import SSHHost

        machine = self.get(name)
        if machine.pool:
            raise machines.name_one_of(machine)
        host = self._connections.host(machine)
        if not isinstance(host, SSHHost):
            raise UsageError(f"`{machine.name}` is the machine in front of us", hint="use subprocess")
        return host.fabric()

    def ssh(self, name: str, command: str = "", terminal: bool = False) -> Sequence[str]:
        """The words that open a machine with the system's `ssh`, just as it is reached here: a shell, or a command,
        which gets a `terminal` there.

        `name` is that of a machine; or a run's number, or the id of a rented host, for the machine that it is. Raises
        `UsageError` for what is not reached over SSH, `HostError` without an `ssh` program or for a host that is gone.
        """
        from remoterun.hosts.ssh.config import ssh_words

        places = self._masters(name, command or "the shell you type in is its own")
        live = [place for place in places if place.alive]
        options = live[0].options if live else ()
        return ssh_words(places[0].settings.target, places[0].config_file, command, terminal, options)

    def login(self, name: str, idle: float = 8 * 3600.0, *, batch: bool = False) -> bool:
        """Open a connection to a machine with the system's `ssh`, which asks what it must on the terminal, unless it is
        a `batch`. All commands use it, until `logout`, or until none has for `idle` seconds. `name` as for `ssh`.

        False where one is open. Blocks while a person is asked. Raises what `ssh` raises, and `AuthenticationError`.
        """
        places = self._masters(name)
        if any(place.alive for place in places):
            return False
        places[0].open(idle, batch)
        return True

    def logout(self, name: str) -> bool:
        """End what `login` opened, or the connection that the ssh configuration shares; what runs there goes on. False
        where none is open. Raises what `ssh` raises."""
        were_alive = [place.end() for place in self._masters(name)]
        return any(were_alive)

    def _masters(self, name: str, instead: str = "it needs no login") -> Sequence[Master]:
        """Where the machine that a name stands for may have an open connection of the system's `ssh`; `instead` is a
        hint for this machine."""
        from remoterun.hosts.ssh.config import SSHTarget, resolve
        from remoterun.hosts.ssh.host import masters_folder
        from remoterun.hosts.ssh.master import masters

        machine = self._named(name)
        if machine.pool:
            raise machines.name_one_of(machine)
        if machine.host is None and machine.rental is not None:
            raise UsageError(
                f"`{machine.name}` is rented for each run",
                hint="name the run, or its host: `remoterun ps`, `remoterun machines rented`",
            )
        if machine.bucket is not None:
            raise UsageError(
                f"`{machine.name}` is a bucket, and not a machine", hint=f"remoterun machines df {machine.name}"
            )
        if machine.host is None:
            raise UsageError(f"`{machine.name}` is this machine", hint=instead)
        config = self._connections.config
        file = Path(machine.ssh_config) if machine.ssh_config else config.ssh_config
        return masters(resolve(SSHTarget.parse(machine.host), file), file, masters_folder(config))

    def _named(self, name: str) -> MachineType:
        number = name.removeprefix("runs/")
        if name not in self._connections.config.machines and (number.isdecimal() or number == LAST):
            run, store = find_store(self._connections, self._connections.registry.run(number))
            if run.archived or not isinstance(store, HostStore):
                raise UsageError(f"the host of run {run.number} is gone", hint=f"remoterun info {run.number}")
            return run.host
        if machines.is_host(name, self._connections.config):
            from remoterun.clouds.ledger.renting import of_host

            return of_host(self._connections, name)
        return self.get(name)

    def post(self, url: str, machine: str | None = None) -> str:
        """Let a machine (None: this one) post a message of no run to an address; what its server answered. Raises
        `HostError` where it did not take it."""
        answer = self.session(self.get(machine or "local")).ask(api.notify_test, api.Webhook(url))
        return f"{answer.status} {show(answer.said[:200])}".strip()

    def doctor(self, machine: MachineType) -> Sequence[api.MachineCheck]:
        """The agent's part of `doctor`: 100 checks at most."""
        session = self.session(machine)
        asked = api.Examine(machine.engine, machine.gpus, machine.base_image, machine.queue, machine.scheduling)
        checks = session.ask(api.doctor, asked).checks[:100]
        with session.understood():
            for check in checks:
                if check.name == "clock":
                    check_time(check.time)
        return checks

    def check(self, machine: str | None = None, *, set_aside: bool = True, progress: Progress | None = None) -> Checked:
        """Verify everything that a machine's home holds; with `set_aside`, move what is damaged away, so that an upload
        sends it again. Blocks for as long as it takes to read all of it. Raises `HostError`."""
        from remoterun.client.upkeep import upkeep

        type_, registry = self._connections.home(machine), self._connections.registry
        if type_.bucket is not None:
            archive = self._connections.archive(type_)
            return upkeep.check_archive(archive, type_, registry, set_aside, progress or Progress())
        return upkeep.check(self.session(type_), registry, set_aside, progress or Progress())

    def gc(
        self,
        machine: str | None = None,
        *,
        keep: int | None = None,
        envs: bool = False,
        unused: float | None = None,
        dry_run: bool = False,
    ) -> Collected:
        """Free what nothing of a machine's home needs: also versions of uploads but the newest `keep` (None: none), and
        with `envs` environments that nothing has used for `unused` seconds (default: a week). Safe at any moment.
        Raises `HostError`, `TransferError` for a home that is damaged, `UsageError` while another one is at work.
        """
        from remoterun.client.upkeep import upkeep

        type_, registry = self._connections.home(machine), self._connections.registry
        if type_.bucket is not None:
            return upkeep.collect_archive(self._connections.archive(type_), type_.name, registry, keep, dry_run)
        return upkeep.collect(self.session(type_), registry, keep, envs, unused, dry_run)

    def df(self, machine: str | None = None) -> HomeUsage:
        """Who uses how much of a machine's home. Raises `HostError`."""
        from remoterun.client.upkeep import upkeep

        type_, registry = self._connections.home(machine), self._connections.registry
        if type_.bucket is not None:
            return upkeep.usage_of_archive(self._connections.archive(type_), type_.name, registry)
        return upkeep.usage(self.session(type_), registry)
