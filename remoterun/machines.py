"""The catalogue of machine types, and what a word after `-t` means."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
from pathlib import Path

from remoterun.agent.shared.machines import AUTO
from remoterun.clouds import ARCHIVE, PROVIDERS, all_fronts, front
from remoterun.config import Config
from remoterun.errors import NotFound, UsageError
from remoterun.model import MachineType, Rental
from remoterun.parsing import did_you_mean

_INCLUDES = 4  # files of the ssh configuration that include each other

LOCAL = MachineType("local")
NO_BUCKET = "s3://"
"""The bucket of an archive that has yet to be made."""
HERE = "archive"
"""The word after -t for an archive in a folder, or one that is named; and the folder's name where none is named."""
HOW_TO_MAKE_ONE = f"remoterun upload PATH --to {ARCHIVE}   makes one"
MOST_NAMES = 8
"""Machines that an error names."""


def resolve(name: str | None, config: Config) -> MachineType:
    """The machine type that `name` (None: the default) stands for. Raises `NotFound` with what to type.

    In this order: a machine of config.toml; `local`, or `cpu`; `user@host[:port]` or `ssh://…`; an alias of the user's
    ssh configuration; the archive's name, and those that a provider has, where one is set up. Case matters in an
    alias only.
    """
    word = config.default if name is None else name
    if not word.strip():
        raise NotFound("the name of the machine type is empty", hint="remoterun machines   lists them")
    machine_of = {known.lower(): machine for known, machine in config.machines.items()}
    machine_of.setdefault("local", LOCAL)
    machine_of.setdefault("cpu", machine_of["local"])  # the lesson's name for a machine without a GPU
    if word.lower() in machine_of:
        return machine_of[word.lower()]
    if "@" in word or word.startswith("ssh://"):
        return MachineType(word, host=word)
    aliases = ssh_aliases(config)
    if word in aliases:
        return MachineType(word, host=word)
    rented = {name: MachineType(name, rental=Rental(name, ())) for name in PROVIDERS}
    rented |= {ARCHIVE: bucket_of(config), **rented_types()}
    if word.lower() in (HERE, ARCHIVE) and (config.archive.bucket or word.lower() == rented[ARCHIVE].name == HERE):
        return rented[ARCHIVE]  # it needs no provider that is set up
    if meant := rented.get(word.lower()):
        of = front(meant.rental.provider if meant.rental is not None else ARCHIVE)
        if of.is_set_up(config):
            return meant
        there = _there(config, aliases)
        if meant.rental is None:
            raise NotFound(f"there is no login at {of.title} here", hint=f"{of.how_to_log_in}\n{there}")
        own = f"remoterun machines add {word.lower()} user@host --gpus 1\n"
        raise NotFound(f"no machine is set up as `{word}`", hint=f"{own}{of.how_to_set_up}\n{there}")
    if name is None:
        raise NotFound(
            f"the default machine `{word}` of {config.file} is not there", hint="remoterun machines default local"
        )
    names = [name for each in all_fronts() for name in each.cheapest_first()]
    rentals = {name: each.rental.program for name, each in config.machines.items() if each.rental is not None}
    by_program = {Path(program[-1]).stem: name for name, program in rentals.items() if program}
    close = did_you_mean(word, [*config.machines, "local", "cpu", *aliases, ARCHIVE, *names, *by_program])
    close = by_program.get(close or "", close)
    hint = f"did you mean `{close}`?" if close else f"`remoterun machines add {word} user@host` adds one"
    raise NotFound(f"there is no machine type `{word}`", hint=f"{hint}\n{_there(config, aliases)}")


def is_host(word: str, config: Config) -> bool:
    """Whether a word can be what a provider calls a rented host, and names no machine type; but an alias of ssh may
    have that name."""
    with contextlib.suppress(NotFound):
        if word in config.machines or resolve(word, config).host != word:
            return False
    return any(each.is_host(word) for each in all_fronts())


def _there(config: Config, aliases: list[str]) -> str:
    """The machines that there are, in a line."""
    names = list(dict.fromkeys([*(machine.name for machine in listing(config)), *aliases]))
    more = f" and {len(names) - MOST_NAMES} more: `remoterun machines`" if len(names) > MOST_NAMES else ""
    rented = "; `remoterun machines --all` lists those that can be rented, too" if any_is_set_up(config) else ""
    return f"known: {', '.join(names[:MOST_NAMES])}{more}{rented}"


def members(pool: MachineType, config: Config) -> dict[str, MachineType | UsageError]:
    """By name, each machine of a pool, or why it can't be one."""
    found: dict[str, MachineType | UsageError] = {}
    for name in pool.pool:
        try:
            machine = resolve(name, config)
        except UsageError as error:
            found[name] = error
            continue
        found[name] = machine
        if machine.pool or machine.rental is not None or machine.bucket is not None:
            kind = "a pool itself" if machine.pool else "not a machine of your own"
            found[name] = UsageError(
                f"`{name}` is {kind}", hint="a pool has machines of your own: `remoterun machines`"
            )
    return found


def name_one_of(pool: MachineType) -> UsageError:
    """What is raised where one machine is meant and a pool was named."""
    return UsageError(f"`{pool.name}` is a pool of several machines", hint=f"name one of them: {', '.join(pool.pool)}")


def bucket_of(config: Config) -> MachineType:
    """The bucket of `[archive]` as a machine that keeps files. Without a name it is `NO_BUCKET` where there is a login
    to make one with; else a folder of this machine."""
    name = config.archive.bucket or ""
    if not name and not front(ARCHIVE).can_log_in(config):
        name = f"file://{config.home.absolute() / HERE}"
    return archive_at(name if "://" in name else f"{NO_BUCKET}{name}")


def archive_at(bucket: str) -> MachineType:
    """An archive by the address of its bucket."""
    return MachineType(HERE if bucket.startswith("file:") else ARCHIVE, bucket=bucket)


def any_is_set_up(config: Config) -> bool:
    """Whether there is a provider that seems to be used here."""
    return any(each.is_set_up(config) for each in all_fronts())


def rented_types(config: Config | None = None) -> dict[str, MachineType]:
    """The machine types that providers have, by name, also those that stand for what is gone; with `config` those of
    providers that seem to be used here."""
    found = {}
    for each in all_fronts() if config is None else filter(lambda each: each.is_set_up(config), all_fronts()):
        engine = "process" if each.hosts_are_containers else AUTO
        found.update({word: MachineType(word, rental=it, engine=engine) for word, it in each.names().items()})
    return found


def listing(config: Config) -> list[MachineType]:
    """Every machine type that can be used now, those of config.toml first."""
    found = list(config.machines.values())
    return found if any(machine.name.lower() == LOCAL.name for machine in found) else [*found, LOCAL]


def ssh_aliases(config: Config) -> list[str]:
    """The names in `Host` lines of the user's ssh configuration, in order, without patterns; `Include` is followed. []
    when there is no file. `hosts.ssh.config` resolves them."""
    found: list[str] = []
    _collect_aliases(config.ssh_config or Path.home() / ".ssh" / "config", found, _INCLUDES)
    return list(dict.fromkeys(found))


def _collect_aliases(file: Path, found: list[str], depth: int) -> None:
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        match = re.match(r"\s*(host|include)(?:\s+|\s*=\s*)(.+)", line, re.IGNORECASE)
        if not match:
            continue
        try:
            words = shlex.split(match[2], comments=True)
        except ValueError:
            continue
        if match[1].lower() == "host":
            found += [word for word in words if not set(word) & set("*?!")]
        elif depth:
            for word in words:
                pattern = os.path.join(Path.home() / ".ssh", os.path.expanduser(word))
                for path in sorted(glob.glob(pattern)):
                    _collect_aliases(Path(path), found, depth - 1)
