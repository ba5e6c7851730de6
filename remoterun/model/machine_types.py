"""What `-t` names, and the host that was got for it."""

from __future__ import annotations

from dataclasses import dataclass

from remoterun.agent.shared.spec import BASE_IMAGE


@dataclass(frozen=True)
class Rental:
    """What is asked of a provider, for a machine type whose host is rented for a run. `types` are tried in their order.

    `disk` in GB, `idle` in seconds, `max_hours` in hours, `max_cost` in US dollars; None: what the provider's defaults
    say. `attempts`: hosts that one run may be given, one after the other. `instead_of` is the type that was asked for
    where the provider has no such machine any more ("k80").
    """

    provider: str
    types: tuple[str, ...]
    region: str | None = None
    spot: bool = False
    disk: int | None = None
    idle: float | None = None
    max_hours: float | None = None
    max_cost: float | None = None
    image: str | None = None
    attempts: int | None = None
    instead_of: str | None = None


@dataclass(frozen=True)
class MachineType:
    """What `-t` names, resolved. `host` is None for the machine in front of us, else what ssh would be given.

    One with a `rental` has no host before a provider gave one for a run; that host is another `MachineType`, whose
    `rented` is the token by which its provider knows it, and whose `ssh_config` is read instead of the user's. One with
    a `bucket` ("s3://NAME") is the archive in it, not a machine. One with a `pool` stands for the machines of these
    names: a run on it goes to one of them.
    """

    name: str
    host: str | None = None
    engine: str = "auto"
    gpus: int = 0
    slots: int | None = None
    base_image: str = BASE_IMAGE
    home: str | None = None
    python: str | None = None
    connect_timeout: float = 10.0
    rental: Rental | None = None
    rented: str | None = None
    ssh_config: str | None = None
    bucket: str | None = None
    pool: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where its home is: machine types that differ in other things share one."""
        return self.host, self.home, self.bucket

    @property
    def reached_by(self) -> str:
        """The kind of host that it is, a key of `hosts.HOSTS`. Not of one that has yet to be rented, a pool, or the
        archive."""
        return "local" if self.host is None else "ssh"
