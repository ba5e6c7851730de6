"""The provider of folders with what a provider may do besides, in the place of AWS: under its name, with its words."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun.client import Client
from remoterun.clouds import PROVIDERS
from remoterun.clouds.aws.front import AWSFront
from remoterun.clouds.base import Identity, Offer, ProviderError, RentedHost, Roles, Spent
from remoterun.config import ArchivePlace, Config
from remoterun.errors import ConfigError
from remoterun.model import MachineType, Rental, RunRequest
from tests.folder_provider import ROOT, SmallFolders

PRICE = 3.6


class FolderFront(AWSFront):
    """The row of `PROVIDERS`. `ROOT/no profile` is as if the profile were gone that the configuration names."""

    def provider(self, config: Config) -> Folders:
        if Path(os.environ[ROOT], "no profile").exists():
            raise ConfigError("there is no profile `work`")
        return Folders(Path(os.environ[ROOT]), config.home)


def config_of(root: Path, bucket: str, endpoint: str, home: str = "laptop") -> Config:
    """Of a user with the machine type `gpu`."""
    rental = Rental("aws", ("folder.small",))
    machines = {"gpu": MachineType("gpu", engine="process", rental=rental)}
    return Config(root / home, machines=machines, archive=ArchivePlace(bucket, "us-east-1", endpoint))


class Folders(SmallFolders):
    """`ROOT/no guard` says why hosts can't be guarded."""

    def __init__(self, root: Path, laptop: Path | None = None) -> None:
        super().__init__(root, laptop)
        self.live_offers = 0
        """How often it was asked for them."""

    @property
    def price(self) -> float:  # type: ignore[override]
        return PRICE

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        self.live_offers += live
        return super().offers(machine, live)

    def guard(self, rented: RentedHost) -> RentedHost:
        if (self.root / "no guard").exists():
            raise ProviderError((self.root / "no guard").read_text())
        guarded = replace(rented, guarded=True)
        self._keep(guarded)
        return guarded

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
        return replace(super().identity(), **({"account": file.read_text()} if file.exists() else {}))

    def prolong(self, token: str, deadline: float) -> None:
        """Give a host another deadline, of which it does not know."""
        rented = self.find(token)
        assert rented is not None
        self._keep(replace(rented, deadline=deadline))

    def forget(self, token: str) -> None:
        """As a provider does an hour after the end of a host."""
        (self.root / "rented" / token).unlink()


def add_provider(root: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be the provider of folders under a name of its own, without all of that."""
    monkeypatch.setitem(PROVIDERS, "folder", "tests.folder_provider.FolderFront")
    monkeypatch.setenv(ROOT, str(root))
    (root / "environment").write_text(str(environment))


def main(root: str, bucket: str, endpoint: str, command: str) -> None:
    """A client that hands one run over, and ends."""
    os.environ[ROOT] = root
    PROVIDERS["aws"] = "tests.folder_cloud.FolderFront"
    with Client(config_of(Path(root), bucket, endpoint)) as client:
        client.runs.submit(RunRequest(command), None, "gpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
