"""`config.toml` in the home, the environment, and what they add up to. An unknown key is an error with its path."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import read_settings, write_whole
from remoterun.agent.shared.machines import AUTO, CAPABILITIES
from remoterun.agent.shared.records import Record
from remoterun.errors import AlreadyExists, ConfigError, NotFound, RemoterunError, UsageError
from remoterun.model import MachineType, Rental
from remoterun.parsing import known_words, parse_duration, toml

HOME_VARIABLE = "REMOTERUN_HOME"
SSH_CONFIG_VARIABLE = "REMOTERUN_SSH_CONFIG"

Kinds = Mapping[str, tuple[type, ...]]
_KEYS: Kinds = {
    "default": (str,),
    "notify": (list,),
    "notice": (bool,),
    "trusted": (list,),
    "machines": (dict,),
    "logs": (dict,),
    "aws": (dict,),
}


class Setting(Record):
    """A key of a machine in config.toml, which is an option of `machines add`, too."""

    kinds: tuple[type, ...]
    """Of its value; what is typed is of the first one."""
    metavar: str
    help: str
    least: float | None = None


_OF_ANY = {
    "gpus": Setting((int,), "N", "GPUs that a run on it gets. Default: 0.", 0),
    "engine": Setting((str,), "NAME", "auto, docker, podman or process. Default: auto."),
    "base_image": Setting((str,), "IMAGE", "Under the bundled image. Default: python:3.12-slim."),
}
_OF_OWN = {
    "slots": Setting((int,), "N", "Runs without GPUs at once. Default: half the cores, at least 2.", 1),
    "home": Setting((str,), "FOLDER", "Where it keeps its files. Default: ~/.remoterun."),
    "python": Setting((str,), "PROGRAM", "Python >= 3.8 there. Default: python3."),
    "connect_timeout": Setting((float, int), "SECONDS", "Default: 10.", 0.1),
}
"""Of one that has a `host`, or is this machine."""
_OF_RENTAL = {
    "aws": Setting((str, list), "TYPE[,TYPE…]", "Rent a host of these types at AWS for each run."),
    "region": Setting((str,), "R", "With --aws. Default: that of your AWS settings."),
    "spot": Setting((bool,), "", "With --aws: cheaper hosts, which may be taken away."),
    "disk": Setting((int,), "GB", "With --aws: the size of its disk.", 8),
    "idle": Setting((str,), "TIME", "With --aws: how long a host is kept. Default: 10m."),
    "max_hours": Setting((float, int), "H", "With --aws: of a run. Default: 24.", 0.1),
    "max_cost": Setting((float, int), "$", "With --aws: of a run, in US dollars.", 0.01),
    "image": Setting((str,), "AMI", "With --aws: another image than AWS's own."),
}
"""Of one whose host is rented for each run: it has `aws`, and no `host`."""
SETTINGS = {**_OF_ANY, **_OF_OWN, **_OF_RENTAL}
_WORDS: Mapping[tuple[type, ...], str] = {
    (str,): "text in quotes",
    (bool,): "true or false",
    (dict,): "a table",
    (list,): "a list of names in quotes",
    (str, list): "a type, or a list of them",
}
ENGINES = (AUTO, *CAPABILITIES)
MOST_TAGS, TAG = 20, re.compile(r"(?!(?i:aws|remoterun):)[\w +\-.:/@]{1,128}=[\w +\-=.:/@]{0,256}")
"""Tags of the user's own, of the 50 that AWS allows; and one of them, as KEY=VALUE."""
INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
"""The name of a type of machine at AWS."""


@dataclass(frozen=True)
class AWS:
    """The table `[aws]`. None: what AWS's own variables and files say.

    `bucket`: where uploads and what runs leave are kept, in `bucket_region` where that is not the `region` of hosts;
    `endpoint`: of another store that speaks S3; `address`: from which hosts are reached over SSH, such as
    "203.0.113.7/32", where it is not the one that this machine is seen with;
    `connect`: "endpoint" where they are reached through an EC2 Instance Connect Endpoint instead; `subnet` and
    `security_group`: where hosts shall be, for an account without a default network; `roles`: false where hosts shall
    have no role of their own; `host_role`, `guard_role`: names of roles, `boundary`: the ARN of their permissions
    boundary; `tags`: of all that is made; `max_cost`, `max_cost_month`: US dollars, of a run and of a month.
    """

    bucket: str | None = None
    bucket_region: str | None = None
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None
    address: str | None = None
    connect: str | None = None
    subnet: str | None = None
    security_group: str | None = None
    roles: bool = True
    host_role: str = "remoterun-host"
    guard_role: str = "remoterun-guard"
    boundary: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    max_cost: float | None = None
    max_cost_month: float | None = None


@dataclass(frozen=True)
class Config:
    """All settings. `home` is this machine's home; `machines` are those of config.toml, by name."""

    home: Path
    default: str = "local"
    machines: Mapping[str, MachineType] = field(default_factory=dict)
    ssh_config: Path | None = None
    keep_logs: int = 256_000_000
    """Bytes that the logs may take which are kept here."""
    aws: AWS = AWS()
    notify: tuple[str, ...] = ()
    """Who gets word when a run ends: addresses, and names of secrets that are addresses."""
    notice: bool = True
    """Whether a bell and a notice tell of the end of a long run that is followed."""
    trusted: tuple[Path, ...] = ()
    """Folders in which every `remoterun.toml` holds without a question."""

    @property
    def file(self) -> Path:
        return self.home / "config.toml"


def unshared(folder: Path, error: type[RemoterunError], exists: bool = False) -> Path:
    """The real path of a folder, which need not exist, unless `exists`. Raises `error` where others than the user and
    root (the owner of `/`) may write to it, or to one above it that is not sticky, as `/tmp` is, and so decide what
    runs. Above it, the user's own group may write, which has the user's name and nobody else, as on Debian."""
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        with contextlib.suppress(*(() if exists else (FileNotFoundError, NotADirectoryError))):
            status = place.lstat()
            others = 0o002 if place != real and _is_own_group(status.st_gid) else 0o022
            writable = status.st_mode & others and (place == real or not status.st_mode & 0o1000)
            owned = status.st_uid in (os.geteuid(), 0, os.stat("/").st_uid)
            if writable or not owned or stat.S_ISLNK(status.st_mode):
                about = f"mode {status.st_mode & 0o7777:04o}, of user {status.st_uid}"
                hint = f"set {HOME_VARIABLE} to a folder that only you may write"
                mends = f"chmod go-w {place}   or, above the home, chmod +t where a group has to write there"
                hint = f"{mends}; else {hint}" if owned else hint
                raise error(f"others than you may write to `{place}` ({about}), and could replace what runs", hint=hint)
    return real


def _is_own_group(gid: int) -> bool:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    return False


def load(environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of this user. Raises `ConfigError`."""
    variables = os.environ if environ is None else environ
    home = Path(variables.get(HOME_VARIABLE) or "~/.remoterun").expanduser().absolute()
    ssh_config = variables.get(SSH_CONFIG_VARIABLE)
    settings = Config(unshared(home, ConfigError), ssh_config=Path(ssh_config).expanduser() if ssh_config else None)
    try:
        text = read_settings(str(settings.file)).decode()
    except FileNotFoundError:
        return settings
    except NotADirectoryError:
        raise ConfigError(
            f"the home `{home}` is not a folder", hint=f"set {HOME_VARIABLE} to a folder that you may write"
        )
    except UnicodeDecodeError:
        raise ConfigError(f"`{settings.file}` is no UTF-8 text", hint="mend it, or move it away")
    except OSError as error:
        raise ConfigError(f"`{settings.file}` can't be read: {error.strerror}", hint="mend it, or move it away")
    return parse(text, settings)


def parse(text: str, base: Config) -> Config:
    """`base` with what a config.toml says. Raises `ConfigError` naming the key."""
    try:
        data = toml(text)
    except ValueError as error:
        raise ConfigError(f"`{base.file}` is not TOML: {error}", hint="mend it, or move it away")
    _check_table(str(base.file), data, _KEYS)
    machines = {name: _machine(base.file, name, table) for name, table in data.get("machines", {}).items()}
    notify = data.get("notify", [])
    if not all(isinstance(word, str) and word for word in notify):
        raise ConfigError(f"{base.file}: `notify` has to be {_WORDS[list,]}", hint='notify = ["ntfy://ntfy.sh/TOPIC"]')
    trusted = data.get("trusted", [])
    if not all(isinstance(word, str) and word[:1] in ("/", "~") for word in trusted):
        hint = 'trusted = ["~/lesson"]'
        raise ConfigError(f"{base.file}: `trusted` has to be a list of folders that begin with / or ~", hint=hint)
    return replace(
        base,
        default=data.get("default", base.default),
        machines=machines,
        keep_logs=_log_limit(base, data.get("logs", {})),
        aws=_aws(base, data.get("aws", {})),
        notify=tuple(notify),
        notice=data.get("notice", base.notice),
        trusted=tuple(Path(os.path.expanduser(word)).resolve() for word in trusted),
    )


def _check_table(where: str, table: Any, known: Kinds) -> None:
    """Raises `ConfigError` for what is not a table with these keys, and values of their types."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} has to be a table", hint=f"known are {', '.join(sorted(known))}")
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key `{key}`", hint=known_words(key, sorted(known)))
        if not isinstance(value, known[key]) or isinstance(value, bool) != (known[key] == (bool,)):
            kind = _WORDS.get(known[key], "a number")
            raise ConfigError(f"{where}: `{key}` has to be {kind}", hint="mend it there")


def _aws(base: Config, table: dict[str, Any]) -> AWS:
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(AWS.__dataclass_fields__, (str,))
    kinds |= {"roles": (bool,), "tags": (dict,), **dict.fromkeys(("max_cost", "max_cost_month"), (int, float))}
    _check_table(f"{base.file}: aws", table, kinds)
    for key in ("max_cost", "max_cost_month"):
        if not 0 < table.get(key, 1) < 1e9:
            raise ConfigError(f"{base.file}: aws.{key}: {table[key]} is not a number above 0", hint=f"{key} = 20")
    if table.get("connect", "endpoint") != "endpoint":
        raise ConfigError(f"{base.file}: aws.connect: unknown way `{table['connect']}`", hint='connect = "endpoint"')
    for number, (key, value) in enumerate(table.get("tags", {}).items()):
        if number == MOST_TAGS or not (isinstance(value, str) and TAG.fullmatch(f"{key}={value}")):
            hint = f'tags = {{CostCenter = "1234"}}; up to {MOST_TAGS}, none that begins with `aws:` or `remoterun:`'
            raise ConfigError(f"{base.file}: aws.tags: `{key}` can't be a tag with the value {value!r}", hint=hint)
    return AWS(**table)


def _log_limit(base: Config, table: dict[str, Any]) -> int:
    """How many bytes `[logs] keep` allows."""
    _check_table(f"{base.file}: logs", table, {"keep": (str,)})
    text = table.get("keep", str(base.keep_logs))
    match = re.fullmatch(r"(\d{1,9}) ?([KMG]?)B?", text)
    if match is None:
        raise ConfigError(f"{base.file}: logs.keep: {text!r} is not a size", hint='keep = "256MB"; "0" keeps none')
    return int(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]


def _machine(file: Path, name: str, table: Any) -> MachineType:
    where = f"{file}: machines.{name}"
    if isinstance(table, dict) and "pool" in table:
        _check_table(where, table, {"pool": (list,)})
        return MachineType(name, pool=_pool(where, name, table["pool"]))
    rented = isinstance(table, dict) and "aws" in table
    known = {**_OF_ANY, **(_OF_RENTAL if rented else _OF_OWN)}
    kinds = {key: setting.kinds for key, setting in known.items()}
    _check_table(where, table, kinds if rented else {"host": (str,), **kinds})
    engine = table.get("engine", AUTO)
    if engine not in ENGINES:
        raise ConfigError(f"{where}.engine: there is no engine `{engine}`", hint=known_words(engine, ENGINES))
    for key, setting in known.items():
        if setting.least is not None and not setting.least <= table.get(key, setting.least) < 1e6:
            raise ConfigError(
                f"{where}.{key}: {table[key]} is not possible", hint=f"{key} {setting.least} at the least"
            )
    if not rented:
        return MachineType(name, **table)
    own = {key: value for key, value in table.items() if key in _OF_ANY}
    return MachineType(name, rental=_rental(where, table), **own)


def _pool(where: str, name: str, words: list[Any]) -> tuple[str, ...]:
    for word in words or ("",):
        if not isinstance(word, str) or not word.strip() or word.lower() == name.lower():
            raise ConfigError(f"{where}.pool: {word!r} is not the name of another machine", hint='pool = ["a", "b"]')
    if len({word.lower() for word in words}) < len(words):
        raise ConfigError(f"{where}.pool: a machine stands there twice", hint="mend it there")
    return tuple(words)


def _rental(where: str, table: dict[str, Any]) -> Rental:
    listed = table["aws"].split(",") if isinstance(table["aws"], str) else table["aws"]
    types = tuple(word.strip() if isinstance(word, str) else word for word in listed)
    for word in types or ("",):
        if not isinstance(word, str) or not INSTANCE_TYPE.fullmatch(word):
            raise ConfigError(f"{where}.aws: {word!r} is not the name of a type", hint='aws = "g4dn.xlarge,g5.xlarge"')
    try:
        idle = parse_duration(table["idle"]) if "idle" in table else None
    except UsageError as error:
        raise ConfigError(f"{where}.idle: {error.message}", hint=error.hint)
    rest = {key: value for key, value in table.items() if key in _OF_RENTAL and key not in ("aws", "idle")}
    return Rental("aws", types, idle=idle, **rest)


def add_machine(config: Config, name: str, settings: dict[str, Any], *, overwrite: bool, make_default: bool) -> None:
    """Write a machine into config.toml, comments and order kept. Raises `AlreadyExists`, `ConfigError`."""
    if name in config.machines and not overwrite:
        raise AlreadyExists(f"there is a machine `{name}` already", hint=f"remoterun machines add {name} … -y")
    try:
        _machine(config.file, name, settings)
    except ConfigError as error:  # it was typed, and is in no file
        raise ConfigError(error.message.removeprefix(f"{config.file}: "), hint=error.hint) from None
    document = _document(config)
    import tomlkit

    machines = document.setdefault("machines", tomlkit.table(is_super_table=True))
    machines[name] = tomlkit.item(settings)
    _write(config, document, name if make_default else None)


def remove_machine(config: Config, name: str) -> bool:
    """Take a machine out of config.toml; whether it was the default, which `local` is then. Raises `NotFound`."""
    if name not in config.machines:
        raise NotFound(f"there is no machine `{name}` in {config.file}", hint="remoterun machines   lists them")
    document = _document(config)
    del document["machines"][name]
    was_default = config.default == name
    if was_default:
        document.pop("default", None)
    _write(config, document)
    return was_default


def set_default(config: Config, name: str) -> None:
    _write(config, _document(config), name)


def set_aws(config: Config, **settings: Any) -> Config:
    """Write settings of `[aws]` into config.toml, None for none; the configuration with them. Raises `ConfigError`."""
    document = _document(config)
    import tomlkit

    table = document.setdefault("aws", tomlkit.table())
    for name, value in settings.items():
        table.pop(name, None)
        if value is not None:
            table[name] = value
    _write(config, document)
    return replace(config, aws=replace(config.aws, **settings))


def _document(config: Config) -> Any:
    import tomlkit

    if not config.file.exists():
        return tomlkit.document()
    return tomlkit.parse(config.file.read_text("utf-8"))


def _write(config: Config, document: Any, default: str | None = None) -> None:
    """Write config.toml, with another default machine if one is named."""
    import tomlkit

    first = tomlkit.document()
    if default is not None:
        (document if "default" in document else first)["default"] = default
    text = "\n".join(tomlkit.dumps(each) for each in (first, document) if each)
    parse(text, config)  # what we write, we can read
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(str(config.file), text.encode(), 0o600)
    except OSError as error:
        raise ConfigError(
            f"`{config.file}` can't be written: {error.strerror}",
            hint=f"set {HOME_VARIABLE} to a folder that you may write",
        )
