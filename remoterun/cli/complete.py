"""Shell completion of live names: run numbers, uploads, machine types. Reads the registry; asks no machine.

Of what a function here returns, typer shows what begins with `incomplete`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from remoterun import config as configuration
from remoterun import machines
from remoterun.cli.render import clean
from remoterun.client.secrets import Secrets
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Run
from remoterun.registry import Registry

_RUNS = 50
ANSWER_WITHIN = 3.0
"""Seconds that a machine has to list the files of a resource, while somebody waits at a prompt."""

T = TypeVar("T")


def run_numbers(incomplete: str) -> list[tuple[str, str]]:
    found = [(str(run.number), clean(run.command[:40])) for run in reversed(_registry_runs())]
    return [*found, ("last", "the newest run")]


def active_runs(incomplete: str) -> list[tuple[str, str]]:
    """Runs that have not ended."""
    return [(str(run.number), clean(run.command[:40])) for run in reversed(_registry_runs()) if not run.final]


def resources(incomplete: str) -> list[str]:
    """Uploads and runs; below one of them its files, as its machine lists them within a few seconds."""
    if incomplete.count("/") > 1:
        return _files(incomplete)
    return [f"runs/{run.number}" for run in reversed(_registry_runs())] + _uploads()


def machine_types(incomplete: str) -> list[tuple[str, str]]:
    try:
        config = configuration.load()
        known = [(machine.name, _place(machine)) for machine in machines.listing(config)]
        known += [(alias, "ssh") for alias in machines.ssh_aliases(config)]
        if machines.aws_is_set_up(config):
            known.append((machines.BUCKET, "the bucket"))
            known += [(name, "rented") for name in machines.rented_types()]
    except RemoterunError:
        return []
    return known


def configured(incomplete: str) -> list[tuple[str, str]]:
    """Machines that the configuration names."""
    try:
        return [(machine.name, _place(machine)) for machine in configuration.load().machines.values()]
    except RemoterunError:
        return []


def labels(incomplete: str) -> list[str]:
    """Labels that runs have."""
    return list(dict.fromkeys(label for run in reversed(_registry_runs()) for label in run.labels))


def secrets(incomplete: str) -> list[str]:
    try:
        return [secret.name for secret in Secrets(configuration.load().home).list()]
    except RemoterunError:
        return []


def _place(machine: MachineType) -> str:
    return "a pool" if machine.pool else machine.host or "this machine"


def _files(incomplete: str) -> list[str]:
    """What is in the folder of a resource; a name that ends with a slash is a folder."""
    folder = incomplete.rpartition("/")[0]
    found: dict[str, None] = {}

    def look() -> None:
        from remoterun.client import Client
        from remoterun.model import Resource

        with contextlib.suppress(RemoterunError), Client() as client:
            manifest, _ = client.files.list(Resource.parse(folder))
            for entry in manifest.entries:
                name, slash, _ = entry.path.partition("/")
                found[f"{folder}/{name}{slash or '/' * (entry.kind == 'd')}"] = None

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    return [clean(name) for name in list(found)]


def _registry_runs() -> list[Run]:
    return _ask(lambda registry: registry.runs(_RUNS))


def _uploads() -> list[str]:
    found = _ask(lambda registry: registry.uploads.versions())
    return list(dict.fromkeys(f"uploads/{upload.name}" for upload, _ in found))


def _ask(question: Callable[[Registry], list[T]]) -> list[T]:
    """What the registry answers; nothing if there is no registry: pressing a key must not make one."""
    try:
        file = configuration.load().home / "registry.db"
        if not file.exists():
            return []
        with contextlib.closing(Registry(file)) as registry:
            return question(registry)
    except RemoterunError:
        return []
