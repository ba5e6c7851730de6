"""Shell completion of live names: run numbers, uploads, machine types; a machine is asked for the files of a resource.

Of what a function here returns, typer shows what begins with `incomplete`. Names and commands come from elsewhere, and
shells evaluate what they are given: `only_harmless` is where everything passes that is offered."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from remoterun import config as configuration
from remoterun import machines
from remoterun.client.secrets import Secrets
from remoterun.clouds import ARCHIVE
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Run
from remoterun.registry import Registry

_RUNS = 50
ANSWER_WITHIN = 3.0
"""Seconds that a machine has to list the files of a resource, while somebody waits at a prompt."""

_HARMLESS = re.compile(r"[\w./@:+,=%~-]+")
_HARMLESS_SIGNS = str.maketrans("';<>", "’,‹›")
_HARMFUL_IN_HELP = re.compile(r"[^\w./@:+,=%~’‹› -]+")

T = TypeVar("T")


def only_harmless() -> None:
    """From now on, no candidate with a character that means something to a shell is offered, and the text beside one
    has no such character: bash inserts them as they are, and zsh evaluates them."""
    from typer._completion_classes import BashComplete

    base: Any = BashComplete.__mro__[1]  # of the classes of all shells; typer does not export it
    found = base.get_completions

    def get_completions(shell: Any, words: list[str], incomplete: str) -> list[Any]:
        items = [item for item in found(shell, words, incomplete) if _HARMLESS.fullmatch(item.value)]
        for item in items:
            item.help = _HARMFUL_IN_HELP.sub("", (item.help or "").translate(_HARMLESS_SIGNS)).strip() or None
        return items

    base.get_completions = get_completions


def run_numbers(incomplete: str) -> list[tuple[str, str]]:
    found = [(str(run.number), run.command[:40]) for run in reversed(_registry_runs())]
    return [*found, ("last", "the newest run")]


def active_runs(incomplete: str) -> list[tuple[str, str]]:
    """Runs that have not ended; `last` where there is none, as a shell that is offered nothing offers files."""
    found = [(str(run.number), run.command[:40]) for run in reversed(_registry_runs()) if not run.final]
    return found or [("last", "the newest run")]


def resources(incomplete: str) -> list[str]:
    """Uploads and runs; below one of them its files, as its machine lists them within a few seconds."""
    if incomplete.count("/") > 1:
        return _files(incomplete)
    uploads = dict.fromkeys(f"uploads/{found.name}" for found, _ in _ask(lambda registry: registry.uploads.versions()))
    return [*(f"runs/{run.number}" for run in reversed(_registry_runs())), *uploads]


def machine_types(incomplete: str) -> list[tuple[str, str]]:
    try:
        config = configuration.load()
        known = [(machine.name, _place(machine)) for machine in machines.listing(config)]
        known += [(alias, "ssh") for alias in machines.ssh_aliases(config)]
        if incomplete and machines.any_is_set_up(config):  # too many to choose from without a letter
            known.append((ARCHIVE, "the bucket"))
            known += [(name, "rented") for name in machines.rented_types(config)]
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
    """The names in the folder of a resource, one that ends with a slash for a folder. Where `incomplete` can only
    become one folder, the names in that one: a shell puts a space behind the only candidate."""
    folder = incomplete.rpartition("/")[0]
    found: dict[str, None] = {}

    def look() -> None:
        from remoterun.client import Client
        from remoterun.model import Resource

        with contextlib.suppress(RemoterunError), Client() as client:
            tree, _ = client.files.list(Resource.parse(folder))
            paths = [f"{folder}/{entry.path}{'/' * (entry.kind == 'd')}" for entry in tree]
            begin = os.path.commonprefix([path for path in paths if path.startswith(incomplete)]) or incomplete
            start = len(begin.rpartition("/")[0]) + 1
            found.update((path[: path.find("/", start) + 1] or path, None) for path in paths)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    return list(found)


def _registry_runs() -> list[Run]:
    return _ask(lambda registry: registry.runs(_RUNS))


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
