"""Shell completion of live names: run numbers, uploads, machine types. Reads the registry; asks no machine."""

from __future__ import annotations

from remoterun import config as configuration
from remoterun import machines
from remoterun.cli.render import clean
from remoterun.errors import RemoterunError
from remoterun.registry import Registry

_RUNS = 50


def run_numbers(incomplete: str) -> list[tuple[str, str]]:
    found = [(str(run.number), clean(run.command[:40])) for run in reversed(_registry_runs())]
    return [pair for pair in [*found, ("last", "the newest run")] if pair[0].startswith(incomplete)]


def resources(incomplete: str) -> list[str]:
    found = [f"runs/{run.number}" for run in reversed(_registry_runs())] + _uploads()
    return [name for name in found if name.startswith(incomplete)]


def machine_types(incomplete: str) -> list[tuple[str, str]]:
    try:
        config = configuration.load()
        known = [(machine.name, machine.host or "this machine") for machine in machines.listing(config)]
        known += [(alias, "ssh") for alias in machines.ssh_aliases(config)]
    except RemoterunError:
        return []
    return [pair for pair in known if pair[0].startswith(incomplete)]


def _registry_runs() -> list:  # type: ignore[type-arg]
    try:
        return Registry(configuration.load().home / "registry.db").runs(_RUNS)
    except RemoterunError:
        return []


def _uploads() -> list[str]:
    try:
        found = Registry(configuration.load().home / "registry.db").uploads()
        return list(dict.fromkeys(f"uploads/{upload.name}" for upload, _ in found))
    except RemoterunError:
        return []
