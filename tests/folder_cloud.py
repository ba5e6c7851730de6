"""A provider whose hosts are homes in folders of this machine: what is rented is on disk, for any process to see."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.machines import RENTAL_FILE, RentalTerms
from remoterun.agent.shared.records import to_json
from remoterun.client import Client
from remoterun.clouds import PROVIDERS
from remoterun.clouds.aws.front import AWSFront
from remoterun.clouds.base import (
    HostNeverCame,
    Identity,
    Intent,
    NoCapacity,
    Offer,
    ProviderError,
    RentedHost,
    Roles,
    Spent,
    unheard,
)
from remoterun.clouds.folder import HostFolder
from remoterun.config import ArchivePlace, Config
from remoterun.model import MachineType, Rental, RunRequest
from tests.workshop import Place, kill9, pids, until

PRICE = 3.6
ROOT = "FOLDER_CLOUD"
"""The variable that names the folder of the provider."""


class FolderFront(AWSFront):
    """The row of `PROVIDERS`."""

    def provider(self, config: Config) -> Folders:
        return Folders(Path(os.environ[ROOT]), config.home)

    def is_type(self, word: str) -> bool:
        return True


def config_of(root: Path, bucket: str, endpoint: str, home: str = "laptop") -> Config:
    """Of a user with the machine type `gpu`."""
    rental = Rental("aws", ("folder.small",))
    machines = {"gpu": MachineType("gpu", engine="process", rental=rental)}
    return Config(root / home, machines=machines, archive=ArchivePlace(bucket, "us-east-1", endpoint))


class Folders:
    """`ROOT/hosts/TOKEN` is the home of a host, `ROOT/rented/TOKEN` what is known of it; `ROOT/environment` names a
    home whose environment all of them use. While there is a file `ROOT/full`, nothing can be had; with `ROOT/broken`
    no host comes to answer; with one of the name `ROOT/ID stays`, that host is not released; with `ROOT/role` hosts
    save by a role, whose credentials the metadata service gives that the environment names; `ROOT/no guard` says why
    hosts can't be guarded."""

    def __init__(self, root: Path, laptop: Path | None = None) -> None:
        """`laptop`: the home of the client."""
        self.root = root
        self.laptop = laptop or root / "laptop"
        (root / "rented").mkdir(parents=True, exist_ok=True)
        self.live_offers = 0
        """How often it was asked for them."""

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        assert machine.rental is not None
        self.live_offers += live
        return [Offer("folder.small", "here", "here-1", price=PRICE, spot=machine.rental.spot, limit=PRICE)]

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        HostFolder(self.laptop, intent.token).begin(intent)
        if (self.root / "full").exists():
            raise NoCapacity("nothing is free", evidence="here-1: none")
        say("a folder")
        known = self.find(intent.token)
        if known is not None:
            return known
        home = self.home(intent.token)
        machine = MachineType(intent.machine.name, engine="process", home=str(home), rented=intent.token)
        number = len(os.listdir(self.root / "rented"))
        now = time.time()
        about = (intent.deadline, machine, intent.run, intent.number, intent.attempt)
        writer = f"AROAFOLDER:i-{number}" if (self.root / "role").exists() else ""
        rented = RentedHost(
            f"i-{number}", intent.token, "running", offers[0], now, *about, idle=intent.idle, writer=writer
        )
        folder = home.with_suffix(".folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not home.is_symlink():  # before anybody can find the host, and start an agent that makes it
            home.symlink_to(folder)
        self._keep(rented)
        say("its boot")
        if (self.root / "broken").exists():
            note(f"i-{number} does not answer yet")
            self.take_away(intent.token)
            raise HostNeverCame(f"i-{number} did not answer")
        terms = RentalTerms(intent.token, intent.deadline, intent.idle, ["touch", str(home / "ended")])
        (home / RENTAL_FILE).write_text(json.dumps(to_json(terms)))
        Place(home, Path((self.root / "environment").read_text()))
        HostFolder(self.laptop, intent.token).write("host.json", "{}")
        return rented

    def find(self, name: str) -> RentedHost | None:
        token = next((each.token for each in self.all() if each.id == name), name) if name.startswith("i-") else name
        try:
            found: RentedHost = pickle.loads((self.root / "rented" / token).read_bytes())
        except FileNotFoundError:
            return None
        ours = HostFolder(self.laptop, token).intent() is not None
        return replace(found, machine=found.machine if ours else None, ours=ours)

    def all(self) -> list[RentedHost]:
        """Also those that are gone."""
        found = [self.find(token) for token in sorted(os.listdir(self.root / "rented")) if "." not in token]
        return [rented for rented in found if rented is not None]

    def guard(self, rented: RentedHost) -> RentedHost:
        if (self.root / "no guard").exists():
            raise ProviderError((self.root / "no guard").read_text())
        guarded = replace(rented, guarded=True)
        self._keep(guarded)
        return guarded

    def admit(self, rented: RentedHost) -> None:
        pass

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        return [rented for rented in self.all() if rented.state != "gone"]

    def release(self, host: RentedHost) -> None:
        for rented in self.hosts():
            if rented.id == host.id:
                if (self.root / f"{host.id} stays").exists():
                    raise ProviderError(f"{host.id} can't be ended")
                self.take_away(rented.token, was_ended=True)

    def roles(self, make_for: str = "") -> Roles:
        return Roles(writer="AROAFOLDER" if (self.root / "role").exists() else "", why_not="a folder has none")

    def spent(self, since: float, until: float) -> list[Spent]:
        """What the file `ROOT/spent` says: a list of its rows."""
        file = self.root / "spent"
        return [Spent(*row) for row in json.loads(file.read_text())] if file.exists() else []

    def budget(self, dollars: float, email: str) -> tuple[str, str, str]:
        raise NotImplementedError

    def identity(self) -> Identity:
        file = self.root / "account"
        return Identity("me", file.read_text() if file.exists() else "123456789012", "us-east-1")

    def checks(self) -> list[MachineCheck]:
        return []

    def home(self, token: str) -> Path:
        return self.root / "hosts" / token

    def prolong(self, token: str, deadline: float) -> None:
        """Give a host another deadline, of which it does not know."""
        rented = self.find(token)
        assert rented is not None
        self._keep(replace(rented, deadline=deadline))

    def forget(self, token: str) -> None:
        """As a provider does an hour after the end of a host."""
        (self.root / "rented" / token).unlink()

    def take_away(
        self, token: str, why: str = "", state: str = "gone", ended: float | None = None, **how: bool
    ) -> None:
        """The host is gone, with all that ran there: nobody reaches its home any more. `how`: `preempted`,
        `was_ended`."""
        home = self.home(token)
        gone = home.with_suffix(".gone")
        rented = self.find(token)
        assert rented is not None

        def is_gone() -> bool:
            """At one stroke: a client that reconnects starts an agent, which must not make the home again."""
            if kill_all(str(home).encode()):
                return False
            gone.write_text("gone")
            self._keep(replace(rented, state=state, why=why, ended=ended or time.time(), **how))
            gone.replace(home)
            return not kill_all(str(home).encode())

        until(is_gone, what="all that ran there is gone")
        shutil.rmtree(home.with_suffix(".folder"), ignore_errors=True)

    def _keep(self, rented: RentedHost) -> None:
        file = self.root / "rented" / rented.token
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps(rented))
        os.replace(temporary, file)


def kill_all(mark: bytes) -> list[int]:
    """Kill each process in whose command line or environment `mark` is; which ones there were."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            if mark in words and pid != os.getpid():
                found.append(pid)
                kill9(pid)
    return found


def main(root: str, bucket: str, endpoint: str, command: str) -> None:
    """A client that hands one run over, and ends."""
    os.environ[ROOT] = root
    PROVIDERS["aws"] = "tests.folder_cloud.FolderFront"
    with Client(config_of(Path(root), bucket, endpoint)) as client:
        client.runs.submit(RunRequest(command), None, "gpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
