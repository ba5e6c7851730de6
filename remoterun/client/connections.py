"""The conversations that a client has open, and what it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from remoterun import config as configuration
from remoterun import machines
from remoterun.model import MachineType
from remoterun.registry import Registry
from remoterun.session import Prompts, Session, host_of

if TYPE_CHECKING:
    from remoterun.hosts.base import Host


class Connections:
    """Sessions are opened when needed and kept until `close`."""

    def __init__(self, config: configuration.Config | None = None, prompts: Prompts | None = None) -> None:
        self.config = config or configuration.load()
        self._prompts = prompts or Prompts()
        self._sessions: dict[MachineType, Session] = {}
        self._registry: Registry | None = None
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection. Runs go on. May be called twice."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        for host in self._hosts:
            host.close()
        self._hosts.clear()
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    @property
    def registry(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self.config.home / "registry.db")
        return self._registry

    def machine(self, name: str | None) -> MachineType:
        """Raises `NotFound`."""
        return machines.resolve(name, self.config)

    def session(self, machine: MachineType) -> Session:
        """The open session with a machine, or a new one. Raises `HostError`."""
        known = self._sessions.get(machine)
        if known is not None and known.alive:
            return known
        if known is not None:
            known.close()
        session = Session(
            machine, host_of(machine, self.config, self._prompts), lambda: host_of(machine, self.config, Prompts())
        )
        self._sessions[machine] = session
        return session
