"""A front is what is known of a provider without asking it, and without its library: its settings, its login, its names
of machine types, its words. Each provider derives one from `Front`, whose defaults do for a small provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoterun.clouds.base import Offer, Provider
from remoterun.model import Rental

if TYPE_CHECKING:
    from remoterun.config import Config


@dataclass(frozen=True)
class NoSettings:
    """The table of a provider that has no settings of its own."""


class Front:
    name: str
    """Its row in `PROVIDERS`, its table in config.toml, and the option of `machines add` that rents there."""
    title: str
    """What people call it."""
    settings: type = NoSettings
    """A frozen dataclass with a field for each key of its table."""
    older: Mapping[str, tuple[str, str]] = {}
    """Keys that its table had once → (the table, the key) that they are now."""
    lent: Collection[str] = ()
    """Keys of its table that hold for `[archive]`, too, where that does not have them."""
    example = "TYPE"
    """Types of machines, in its words, between commas."""
    is_program = False
    """Its machine types name the program that it is."""
    hosts_are_containers = False
    """There is no Docker on its hosts: the image of a run is the one of its host."""
    lacks: Collection[str] = ()
    """Settings of machine types that it can't keep."""
    bill = ""
    """What a question about its own bill costs; "": it is asked whenever that may say more than we know."""
    unit = 0.0
    """Seconds that are billed as one, where that is more than a second."""
    how_to_set_up = ""
    """A line for who has not used it yet."""
    how_to_log_in = ""

    @property
    def unguarded(self) -> str:
        """Of a host that the provider does not end by itself, what does, in a line."""
        return f"{self.title} has no role to end it: only its own clock does"

    def provider(self, config: Config) -> Provider:
        """Makes no connection. Raises `ConfigError` where the configuration can't be right for it."""
        raise NotImplementedError

    def of(self, config: Config) -> Any:
        """Its settings."""
        return config.providers.get(self.name) or self.settings()

    def check(self, where: str, table: Mapping[str, Any]) -> None:
        """Raises `ConfigError` for values that its table can't have, beyond their types."""

    def is_set_up(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether it is offered to a person: it seems to be used here. Quick, and asks nobody."""
        return self.name in config.providers

    def can_log_in(self, config: Config, environ: Mapping[str, str] | None = None) -> bool:
        """Whether there is something to log in with. Quick, and asks nobody."""
        return self.is_set_up(config, environ)

    def is_type(self, word: str) -> bool:
        """Whether a word can be the name of a type."""
        return bool(word)

    def is_host(self, word: str) -> bool:
        """Whether a word can be the id of a host."""
        return bool(word)

    def meant(self, word: str) -> Collection[str]:
        """The types that may be meant by the name of one that is not known here."""
        return ()

    def names(self) -> Mapping[str, Rental]:
        """The names that it gives to machine types; also of those for which others stand in."""
        return {}

    def cheapest_first(self) -> Collection[str]:
        """These names."""
        return self.names()

    def stand_ins(self, names: Collection[str]) -> Mapping[str, str]:
        """Of these names, those that can't be had, with the name, or the type, that stands in for each."""
        return {}

    def instead(self, asked_for: str, offer: Offer) -> str:
        """Why another type stands in for the one that was asked for, in a line."""
        return ""

    def tags(self, config: Config) -> dict[str, str]:
        """Tags of the user's own, for all that is made there."""
        return {}
