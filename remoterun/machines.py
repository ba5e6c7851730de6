"""The catalogue of machine types, and what a word after `-t` means."""

from __future__ import annotations

from remoterun.config import Config
from remoterun.errors import NotFound
from remoterun.model import MachineType, did_you_mean

LOCAL = MachineType("local")
CPU = MachineType("cpu")

ACCELERATORS = ("k80", "p100", "t4", "v100", "a10g", "a100", "l4", "l40s", "h100")
"""Words that people know as machine types; each means a machine of that name once one is set up."""


def resolve(name: str | None, config: Config) -> MachineType:
    """The machine type that `name` (None: the default) stands for. Raises `NotFound` with what to type.

    In this order: a machine of config.toml; `local`; `cpu`; `user@host[:port]` or `ssh://…`; an alias of the user's
    ssh configuration. Case doesn't matter for the first three.
    """
    word = config.default if name is None else name
    if not word.strip():
        raise NotFound("the name of the machine type is empty", hint="remoterun machines lists them")
    for known, machine in config.machines.items():
        if known.lower() == word.lower():
            return machine
    if word.lower() == "local":
        return LOCAL
    if word.lower() == "cpu":
        return CPU
    if "@" in word or word.startswith("ssh://"):
        return MachineType(word, host=word)
    if word.lower() in ACCELERATORS:
        raise NotFound(
            f"no machine is set up as `{word}`",
            hint=f"remoterun machines add {word.lower()} user@host --gpus 1",
        )
    aliases = ssh_aliases(config)
    if word in aliases:
        return MachineType(word, host=word)
    if name is None:
        raise NotFound(
            f"the default machine `{word}` of {config.file} is not there", hint="remoterun machines default local"
        )
    close = did_you_mean(word, [*config.machines, "local", "cpu", *aliases])
    meant = f"did you mean `{close}`? " if close else ""
    raise NotFound(
        f"there is no machine type `{word}`",
        hint=meant + f"remoterun machines lists them; remoterun machines add {word} user@host makes one",
    )


def listing(config: Config) -> list[MachineType]:
    """Every machine type that can be used now, those of config.toml first."""
    found = list(config.machines.values())
    names = {machine.name.lower() for machine in found}
    return found + [machine for machine in (LOCAL, CPU) if machine.name not in names]


def ssh_aliases(config: Config) -> list[str]:
    """Names in `Host` lines of the user's ssh configuration, patterns left out."""
    from remoterun.ssh_aliases import aliases

    return aliases(config.ssh_config)
