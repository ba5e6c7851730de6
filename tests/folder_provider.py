"""The smallest provider: its hosts are homes in folders of this machine, and what is rented is on disk, for any process
to see. It does what every provider does, and no more; nothing in the product knows its name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.machines import RENTAL_FILE, RentalTerms
from remoterun.agent.shared.records import to_json
from remoterun.clouds.base import HostNeverCame, Identity, Intent, NoCapacity, Offer, ProviderError, RentedHost, unheard
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.fronts import Front
from remoterun.config import Config
from remoterun.model import MachineType
from tests.workshop import Place, kill_all, until

ROOT = "FOLDER_CLOUD"
"""The variable that names the folder of the provider."""
PRICE = 3.6


class FolderFront(Front):
    """The row of `PROVIDERS`."""

    name, title = "folder", "Folders"

    def provider(self, config: Config) -> SmallFolders:
        return SmallFolders(Path(os.environ[ROOT]), config.home)


class SmallFolders:
    """`ROOT/hosts/TOKEN` is the home of a host, `ROOT/rented/TOKEN` what is known of it; `ROOT/environment` names a
    home whose environment all of them use. While there is a file `ROOT/full`, nothing can be had; with `ROOT/broken`
    no host comes to answer; with one of the name `ROOT/ID stays`, that host is not released; with `ROOT/role` hosts
    save by a role, whose credentials the metadata service gives that the environment names."""

    price = PRICE

    def __init__(self, root: Path, laptop: Path | None = None) -> None:
        """`laptop`: the home of the client."""
        self.root = root
        self.laptop = laptop or root / "laptop"
        (root / "rented").mkdir(parents=True, exist_ok=True)

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        assert machine.rental is not None
        return [Offer("folder.small", "here", "here-1", price=self.price, spot=machine.rental.spot, limit=self.price)]

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        HostFolder(self.laptop, intent.token).begin(intent)
        if (self.root / "full").exists() or not offers:
            raise NoCapacity("nothing is free", evidence="here-1: none")
        say("a folder")
        known = self.find(intent.token)
        if known is not None:
            return known
        home = self.home(intent.token)
        machine = MachineType(intent.machine.name, engine="process", home=str(home), rented=intent.token)
        number = len(os.listdir(self.root / "rented"))
        about = (intent.deadline, machine, intent.run, intent.number, intent.attempt)
        writer = f"AROAFOLDER:i-{number}" if (self.root / "role").exists() else ""
        rented = RentedHost(f"i-{number}", intent.token, "running", offers[0], time.time(), *about, idle=intent.idle)
        folder = home.with_suffix(".folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not home.is_symlink():  # before anybody can find the host, and start an agent that makes it
            home.symlink_to(folder)
        self._keep(rented := replace(rented, writer=writer))
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

    def identity(self) -> Identity:
        return Identity("me", "123456789012", "us-east-1")

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        return []

    def home(self, token: str) -> Path:
        return self.root / "hosts" / token

    def take_away(
        self, token: str, why: str = "", state: str = "gone", ended: float | None = None, **how: bool
    ) -> None:
        """The host is gone, with all that ran there: nobody reaches its home any more. `how`: `preempted`,
        `was_ended`."""
        home, rented = self.home(token), self.find(token)
        gone = home.with_suffix(".gone")
        assert rented is not None

        def is_gone() -> bool:
            """At one stroke: a client that reconnects starts an agent, which must not make the home again."""
            if kill_all(str(home).encode()):
                return False
            gone.write_text("gone")
            self._keep(replace(rented, state=state, why=why, ended=ended or time.time(), **how))  # type: ignore[arg-type]
            gone.replace(home)
            return not kill_all(str(home).encode())

        until(is_gone, what="all that ran there is gone")
        shutil.rmtree(home.with_suffix(".folder"), ignore_errors=True)

    def _keep(self, rented: RentedHost) -> None:
        file = self.root / "rented" / rented.token
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps(rented))
        os.replace(temporary, file)
