"""What `-t` names, and the host that was got for it."""

from __future__ import annotations

from dataclasses import dataclass

from remoterun.agent.shared.spec import BASE_IMAGE, Scheduling


@dataclass(frozen=True)
class Rental:
    """What is asked of a provider, for a machine type whose host is rented for a run. None: the provider's default."""

    provider: str
    types: tuple[str, ...]
    """Tried in their order."""
    region: str | None = None
    spot: bool = False
    disk: int | None = None
    """GB."""
    idle: float | None = None
    """Seconds that a host stays without a run."""
    max_hours: float | None = None
    max_cost: float | None = None
    """US dollars."""
    image: str | None = None
    attempts: int | None = None
    """Hosts that one run may be given, one after the other."""
    instead_of: str | None = None
    """The type that was asked for where the provider has no such machine any more ("k80")."""
    program: tuple[str, ...] = ()
    """The words of a program of the user's that is the provider."""
    it_may_run_on: bool = False
    """Also where nothing ends its host while this machine is off."""


@dataclass(frozen=True)
class MachineType:
    """What `-t` names, resolved."""

    name: str
    host: str | None = None
    """What ssh is given; None for the machine in front of us."""
    engine: str = "auto"
    gpus: int = 0
    slots: int | None = None
    base_image: str = BASE_IMAGE
    home: str | None = None
    python: str | None = None
    connect_timeout: float = 10.0
    rental: Rental | None = None
    """It has no host before a provider gave one for a run; that host is another `MachineType`."""
    rented: str | None = None
    """The token by which its provider knows it."""
    ssh_config: str | None = None
    """Read in place of the user's."""
    bucket: str | None = None
    """"s3://NAME": it is the archive in that bucket, not a machine."""
    pool: tuple[str, ...] = ()
    """It stands for the machines of these names: a run on it goes to one of them."""
    queue: str = ""
    """Where its runs wait: a scheduler that it has, or "", our own line."""
    scheduling: Scheduling | None = None
    """What it says to that scheduler."""
    prefix: tuple[str, ...] = ()
    """The words before those that start the agent: they start it on a machine that the host reaches, and has its home.
    """

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where its home is: machine types that differ in other things share one."""
        return self.host, self.home, self.bucket

    def says(self, hint: str | None) -> str | None:
        """A hint of its agent as what it is: a line of a host, which may be hostile. This machine is not."""
        return f"{self.name} says:\n{hint}" if hint and self.host else hint

    @property
    def reached_by(self) -> str:
        """The kind of host that it is, a key of `hosts.HOSTS`. Not of one that has yet to be rented, a pool, or the
        archive."""
        return "local" if self.host is None else "ssh"
