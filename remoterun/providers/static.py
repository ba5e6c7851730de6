"""Machines that people own: they are there before the run, and stay."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Sequence

from remoterun.agent.shared.api import MachineCheck
from remoterun.config import Config
from remoterun.model import MachineType
from remoterun.providers.base import Identity, Intent, Leftover, NoCapacity, Offer, Provider, Rented


def of_config(config: Config) -> Provider:
    return Static()


class Static:
    """Gives the machine itself. It keeps no record: what it gave is found nowhere, and costs nothing."""

    name = "static"

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        return [Offer(machine.name, gpus=machine.gpus)]

    def acquire(self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None]) -> Rented:
        if not offers:
            raise NoCapacity(f"nothing is offered for `{intent.machine.name}`", ())
        return Rented(
            id=intent.machine.name,
            token=intent.token,
            state="running",
            offer=offers[0],
            began=time.time(),
            deadline=intent.deadline,
            machine=intent.machine,
            run=intent.run,
            number=intent.number,
            attempt=intent.attempt,
        )

    def find(self, token: str) -> Rented | None:
        return None

    def admit(self, rented: Rented) -> None:
        pass

    def hosts(self) -> list[Rented]:
        return []

    def release(self, id: str) -> None:
        pass

    def leftovers(self) -> list[Leftover]:
        return []

    def clear(self, leftover: Leftover) -> None:
        pass

    def identity(self) -> Identity:
        return Identity(getpass.getuser(), "", "")

    def checks(self) -> list[MachineCheck]:
        return []
