"""The catalogue of machine types, and what a word after `-t` means."""

from __future__ import annotations

import glob
import importlib
import os
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import text_of
from remoterun.config import Config
from remoterun.errors import NotFound, UsageError
from remoterun.model import MachineType, Rental
from remoterun.parsing import did_you_mean

_INCLUDES = 4  # files of the ssh configuration that include each other

LOCAL = MachineType("local")
BUCKET = "aws"
"""The word for the bucket of `[aws]`, where a machine is asked for that keeps files."""
MOST_NAMES = 8
"""Machines that an error names."""
CATALOGUES = {"aws": "remoterun.clouds.aws.catalogue"}
"""Provider → the module with its tables `NAMES`, of built-in machine types, and `GONE`, of those for which others stand
in, and the functions `rental`, of a name in either, and `instead`, which says why another type stands in."""
HOW_TO_SET_UP_AWS = (
    "to rent machines at AWS, `export AWS_PROFILE=NAME`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
HOW_TO_LOG_IN = (
    "aws configure   # asks for the keys of an IAM user, and keeps them in ~/.aws\n"
    "aws configure sso   # sets up a login through the browser, which `aws sso login` renews\n"
    "or set AWS_PROFILE, or the two keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables of which each means that AWS's own library will look for credentials."""
CREDENTIAL_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}


LOGINS = "aws_access_key_id|credential_process|role_arn|sso_|login_session|web_identity_token_file"
"""Settings of AWS's files, or their beginnings, of which each is a login."""
MAKERS = ("/sys/devices/virtual/dmi/id/sys_vendor", "/sys/devices/virtual/dmi/id/bios_version")
"""Files of which one says "Amazon" on a machine of AWS's own."""


def resolve(name: str | None, config: Config) -> MachineType:
    """The machine type that `name` (None: the default) stands for. Raises `NotFound` with what to type.

    In this order: a machine of config.toml; `local`, or `cpu`; `user@host[:port]` or `ssh://…`; an alias of the user's
    ssh configuration; where AWS is set up, `aws` and the names of the catalogue. Case matters in an alias only.
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
    rented = {BUCKET: bucket_of(config), **rented_types()}
    if word.lower() in rented:
        if aws_is_set_up(config):
            return rented[word.lower()]
        if word.lower() == BUCKET:
            raise NotFound("there is no login at AWS here", hint=f"{HOW_TO_LOG_IN}\n{_there(config, aliases)}")
        own = f"remoterun machines add {word.lower()} user@host --gpus 1\n"
        there = _there(config, aliases)
        raise NotFound(f"no machine is set up as `{word}`", hint=f"{own}{HOW_TO_SET_UP_AWS}\n{there}")
    if name is None:
        raise NotFound(
            f"the default machine `{word}` of {config.file} is not there", hint="remoterun machines default local"
        )
    catalogue: Any = importlib.import_module(CATALOGUES["aws"])
    prices = {name: catalogue.offer(catalogue.rental(name).types[0], "us-east-1").price for name in rented_types()}
    cheapest_first = sorted(prices, key=lambda name: prices[name] or 1e9)
    close = did_you_mean(word, [*config.machines, "local", "cpu", *aliases, BUCKET, *cheapest_first])
    meant = f"did you mean `{close}`?" if close else f"`remoterun machines add {word} user@host` adds one"
    raise NotFound(f"there is no machine type `{word}`", hint=f"{meant}\n{_there(config, aliases)}")


def _there(config: Config, aliases: list[str]) -> str:
    """The machines that there are, in a line."""
    names = list(dict.fromkeys([*(machine.name for machine in listing(config)), *aliases]))
    more = f" and {len(names) - MOST_NAMES} more: `remoterun machines`" if len(names) > MOST_NAMES else ""
    rented = "; `remoterun machines --all` lists those that can be rented, too" if aws_is_set_up(config) else ""
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
    """The bucket of `[aws]` as a machine that keeps files. Without a name yet its `bucket` is "s3://"."""
    return MachineType(BUCKET, bucket=f"s3://{config.aws.bucket or ''}")


def aws_is_set_up(config: Config, environ: Mapping[str, str] | None = None) -> bool:
    """Whether AWS's library would find something that looks like credentials. Looks at names only, so it is quick; an
    instance's own role is used only where `[aws]` says something."""
    variables = os.environ if environ is None else environ
    if any(variables.get(name) for name in CREDENTIALS) or config.aws != type(config.aws)():
        return True
    files = (variables.get(name) or default for name, default in CREDENTIAL_FILES.items())
    return any(Path(file).expanduser().is_file() for file in files)


def can_log_in(config: Config, environ: Mapping[str, str] | None = None) -> bool:
    """Whether AWS's library has something to log in with: by names of variables and of settings alone, so it is quick,
    and asks nobody. On one of AWS's own machines that is its role."""
    variables = os.environ if environ is None else environ
    if any(variables.get(name) for name in CREDENTIALS) or config.aws.profile:
        return True
    for name, default in CREDENTIAL_FILES.items():
        text = text_of(os.path.expanduser(variables.get(name) or default))
        parts = re.split(r"^\s*\[\s*(.*?)\s*\]", text, flags=re.MULTILINE)
        sections = dict(zip(parts[1::2], parts[2::2], strict=False))
        own = sections.get("default", "") + sections.get("profile default", "")
        if re.search(rf"^\s*({LOGINS})", own, re.MULTILINE):
            return True
    if variables.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    return any("amazon" in text_of(file).lower() for file in MAKERS)


def rented_types() -> dict[str, MachineType]:
    """The machine types that providers have, by name, also those that stand for what is gone."""
    found = {}
    for name in CATALOGUES.values():
        catalogue: Any = importlib.import_module(name)
        for word in (*catalogue.NAMES, *catalogue.GONE):
            found[word] = MachineType(word, rental=catalogue.rental(word))
    return found


def instead(rental: Rental, offer: Any) -> str | None:
    """A line that says why another type stands in for the one that was asked for, with the price of the offer; None
    where none does."""
    if rental.instead_of is None:
        return None
    text: str = importlib.import_module(CATALOGUES[rental.provider]).instead(rental.instead_of, offer)
    return text


def stand_ins(names: Collection[str]) -> dict[str, str]:
    """Of these names, those of what can't be rented, with the name, or the type, that stands in for each."""
    found: dict[str, str] = {}
    for module in CATALOGUES.values():
        catalogue: Any = importlib.import_module(module)
        by_type = {type: name for name, type in reversed(catalogue.NAMES.items())}
        gone = {name: type for name, (type, _) in catalogue.GONE.items() if name in names}
        found |= {name: by_type.get(type, type) for name, type in gone.items()}
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
