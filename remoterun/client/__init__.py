"""What the command line calls, and `remoterun.job` for Python programs: all that a user can do, by noun. A command
imports the modules of the nouns that it uses.

Every call blocks. Several threads may use one `Client`. Nothing here prints or asks; questions come as exceptions or
through the callbacks that are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Self

from remoterun.config import Config
from remoterun.connections import Connections
from remoterun.hosts.base import Prompts

if TYPE_CHECKING:
    from remoterun.client.data.files import Files
    from remoterun.client.data.uploads import Uploads
    from remoterun.client.runs.runs import Runs
    from remoterun.client.secrets import Secrets
    from remoterun.client.upkeep.machines import Machines
    from remoterun.client.upkeep.rented_hosts import RentedHosts


class Client:
    """Everything a user can do, by noun. Connections are opened when they are needed and kept until `close`.

    `prompts`: how to ask a person. `warn` is called with a line when the disk of this machine's home can't be written:
    then only what needs no record here goes on.
    """

    def __init__(
        self,
        config: Config | None = None,
        prompts: Prompts | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.connections = Connections(config, prompts, warn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection; runs go on. Calls in other threads end with an error. May be called twice."""
        self.connections.close()

    @cached_property
    def files(self) -> Files:
        from remoterun.client.data.files import Files

        return Files(self.connections)

    @cached_property
    def uploads(self) -> Uploads:
        from remoterun.client.data.uploads import Uploads

        return Uploads(self.connections)

    @cached_property
    def runs(self) -> Runs:
        from remoterun.client.runs.runs import Runs

        return Runs(self.connections)

    @cached_property
    def machines(self) -> Machines:
        from remoterun.client.upkeep.machines import Machines

        return Machines(self.connections)

    @cached_property
    def hosts(self) -> RentedHosts:
        from remoterun.client.upkeep.rented_hosts import RentedHosts

        return RentedHosts(self.connections)

    @cached_property
    def secrets(self) -> Secrets:
        from remoterun.client.secrets import Secrets

        return Secrets(self.config.home)

    @property
    def config(self) -> Config:
        return self.connections.config
