"""Programs as providers, as far as they are known without being asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from remoterun.clouds import PROVIDERS
from remoterun.clouds.base import Provider
from remoterun.clouds.fronts import Front
from remoterun.config import Config

HOST = re.compile(r"[\w.-]+/[\w.:-]{1,100}")


class CommandFront(Front):
    name, title = "command", "your own provider"
    example, is_program, hosts_are_containers = "RTX4090,RTX3090", True, True
    lacks = ("spot",)
    how_to_set_up = "remoterun machines add pod --command TYPES --program ./FILE   rents by a program of yours"
    how_to_log_in = how_to_set_up

    @property
    def unguarded(self) -> str:
        return "it ends by a program on it"

    def provider(self, config: Config) -> Provider:
        from remoterun.clouds.command.provider import ProgramProvider

        return ProgramProvider(config)

    def is_set_up(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        return bool(programs(config))

    def is_host(self, word: str) -> bool:
        return HOST.fullmatch(word) is not None and word.partition("/")[0] not in PROVIDERS


def programs(config: Config) -> list[tuple[str, ...]]:
    """The programs of the machine types, and those that have rented hosts for a machine type that is gone."""
    from remoterun.clouds.folder import rentals

    return list(dict.fromkeys(each.program for each in rentals(config) if each.program))
