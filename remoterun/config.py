"""`config.toml` in the home, the environment, and what they add up to. An unknown key is an error with its path."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import read_settings, write_whole
from remoterun.agent.shared.machines import AUTO, CAPABILITIES
from remoterun.agent.shared.records import Record
from remoterun.agent.shared.spec import Scheduling
from remoterun.clouds import PROVIDERS, all_fronts, front
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
    "trusted": (object,),  # `parse` has words of its own for another kind
    "machines": (dict,),
    "logs": (dict,),
    "limits": (dict,),
    "archive": (dict,),
    **dict.fromkeys(PROVIDERS, (dict,)),
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
    "queue": Setting((str,), "NAME", "slurm: its runs wait in the line of its Slurm. Default: ours."),
    "partition": Setting((str,), "NAME", "A partition of Slurm. This and the next six go to it."),
    "account": Setting((str,), "NAME", "What its runs are charged to."),
    "qos": Setting((str,), "NAME", "A quality of service."),
    "constraint": Setting((str,), "FEATURES", "What a node must have, such as a100."),
    "time": Setting((str,), "TIME", "The limit of a run without --timeout: 90m, 4h."),
    "setup": Setting((str,), "COMMANDS", "What a job does first: `module load cuda`."),
    "slurm": Setting((str,), "OPTIONS", 'More options of sbatch: "--exclude=n7".'),
    "build": Setting((str,), "PLACE", "login: environments are built there, as nodes have no network."),
    "connect_timeout": Setting((float, int), "SECONDS", "Default: 10.", 0.1),
}
"""Of one that has a `host`, or is this machine."""
_WITH = "With " + " or ".join(f"--{name}" for name in PROVIDERS)
_OF_RENTAL = {
    "region": Setting((str,), "R", f"{_WITH}. Default: that of your settings there."),
    "spot": Setting((bool,), "", f"{_WITH}: cheaper hosts, which may be taken away."),
    "disk": Setting((int,), "GB", f"{_WITH}: the size of its disk.", 8),
    "idle": Setting((str,), "TIME", f"{_WITH}: how long a host is kept. Default: 10m."),
    "max_hours": Setting((float, int), "H", f"{_WITH}: of a run. Default: 24.", 0.1),
    "max_cost": Setting((float, int), "$", f"{_WITH}: of a run, in US dollars.", 0.01),
    "image": Setting((str,), "IMAGE", f"{_WITH}: another image than its own."),
    "program": Setting((str, list), "FILE", "With --command: the program that rents."),
    "it_may_run_on": Setting((bool,), "", "With --command: also where nothing ends a host while this machine is off."),
}
"""Of one whose host is rented for each run: it has a `provider` and `types`, or both in one, and no `host`."""
_RENTS = {
    "provider": Setting((str,), "NAME", f"Rent at this provider: {', '.join(PROVIDERS)}. With --types."),
    "types": Setting((str, list), "TYPE[,TYPE…]", "With --provider: the types of hosts, tried in their order."),
}
_WORDS: Mapping[tuple[type, ...], str] = {
    (str,): "text in quotes",
    (bool,): "true or false",
    (dict,): "a table",
    (list,): "a list of names in quotes",
    (str, list): "a type, or a list of them",
}
ENGINES = (AUTO, *CAPABILITIES)
QUEUES = ("", "slurm")


def settings() -> dict[str, Setting]:
    """Those that `machines add` has as options. `--PROVIDER TYPES` is both `provider` and `types`."""
    words = "Rent a host of these types at {} for each run."
    rents = {each.name: Setting((str, list), "TYPE[,TYPE…]", words.format(each.title)) for each in all_fronts()}
    rental = dict(_OF_RENTAL)
    for key in {key for each in all_fronts() for key in each.lacks}:
        having = " or ".join(f"--{each.name}" for each in all_fronts() if key not in each.lacks)
        rental[key] = rental[key]._replace(help=rental[key].help.replace(_WITH, f"With {having}"))
    return {**_OF_ANY, **_OF_OWN, **rents, **_RENTS, **rental}


@dataclass(frozen=True)
class Limits:
    """The table `[limits]`: US dollars, of a run and of a month, at all providers together."""

    max_cost: float | None = None
    max_cost_month: float | None = None


@dataclass(frozen=True)
class ArchivePlace:
    """The table `[archive]`: the bucket in which uploads and what runs leave are kept. None: what S3's own variables
    and files say. `endpoint`: of another store that speaks S3."""

    bucket: str | None = None
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class Config:
    """All settings. `home` is this machine's home; `machines` are those of config.toml, by name."""

    home: Path
    default: str = "local"
    machines: Mapping[str, MachineType] = field(default_factory=dict)
    ssh_config: Path | None = None
    keep_logs: int = 256_000_000
    """Bytes that the logs may take which are kept here."""
    limits: Limits = Limits()
    archive: ArchivePlace = ArchivePlace()
    providers: Mapping[str, Any] = field(default_factory=dict)
    """The settings of those that have a table, by name."""
    written: Mapping[str, str] = field(default_factory=dict)
    """Keys of `[limits]` → the table in which the user wrote them."""
    notify: tuple[str, ...] = ()
    """Who gets word when a run ends: addresses, and names of secrets that are addresses."""
    notice: bool = True
    """Whether a bell and a notice tell of the end of a long run that is followed."""
    trusted: tuple[Path, ...] = ()
    """Folders in which every `remoterun.toml` holds without a question."""

    @property
    def file(self) -> Path:
        return self.home / "config.toml"

    def table_of(self, key: str) -> str:
        """The table that has a key of `[limits]`, as the user wrote it: `[limits]`."""
        return f"[{self.written.get(key, 'limits')}]"


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
    if not isinstance(trusted, list) or not all(isinstance(word, str) and word[:1] in ("/", "~") for word in trusted):
        hint = 'trusted = ["~/lesson"]'
        raise ConfigError(f"{base.file}: `trusted` has to be a list of folders that begin with / or ~", hint=hint)
    return replace(
        base,
        default=data.get("default", base.default),
        machines=machines,
        keep_logs=_log_limit(base, data.get("logs", {})),
        **_tables(base, data),
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


def _tables(base: Config, data: dict[str, Any]) -> dict[str, Any]:
    """What `[limits]`, `[archive]` and the tables of providers say, in which keys of those two may stand as they did
    once. An error names the table in which a key stands."""
    found: dict[str, dict[str, Any]] = {"limits": {}, "archive": {}}
    providers, written = dict[str, Any](), dict[str, str]()
    for each in (front(name) for name in PROVIDERS if name in data):
        where, table = f"{base.file}: {each.name}", data[each.name]
        of_others = {key: _kinds(_SHARED[other])[new] for key, (other, new) in each.older.items()}
        _check_table(where, table, {**_kinds(each.settings), **of_others})
        each.check(where, table)
        lent = {key: ("archive", key) for key in each.lent}
        for key, (other, new) in {**each.older, **lent}.items():
            if key in table and new not in found[other]:
                found[other][new] = table[key]
                written |= {new: each.name} if other == "limits" else {}
        providers[each.name] = each.settings(**{key: table[key] for key in table.keys() - each.older.keys()})
    for name, kind in _SHARED.items():
        table = data.get(name, {})
        _check_table(f"{base.file}: {name}", table, _kinds(kind))
        if name == "limits" and (twice := sorted(written.keys() & table)):
            where = f"{base.file}: `{twice[0]}` stands below [limits] and below [{written[twice[0]]}]"
            raise ConfigError(where, hint="keep the one below [limits]")
        found[name] |= table
    for key, value in found["limits"].items():
        if not 0 < value < 1e9:
            where = f"{base.file}: {written.get(key, 'limits')}.{key}"
            raise ConfigError(f"{where}: {value} is not a number above 0", hint=f"{key} = 20")
    limits, archive = Limits(**found["limits"]), ArchivePlace(**found["archive"])
    return {"limits": limits, "archive": archive, "providers": providers, "written": written}


_SHARED: Mapping[str, type] = {"limits": Limits, "archive": ArchivePlace}


def _kinds(table: type) -> Kinds:
    """The types of values, by the fields of a dataclass."""
    of: Kinds = {"str": (str,), "bool": (bool,), "dict": (dict,), "float": (int, float)}
    fields: dict[str, Any] = table.__dataclass_fields__  # type: ignore[attr-defined]
    return {key: of[re.split(r"\W", str(each.type))[0]] for key, each in fields.items()}


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
    short = next((key for key in PROVIDERS if key in table), "") if isinstance(table, dict) else ""
    rented = bool(short) or (isinstance(table, dict) and "provider" in table)
    known = {**_OF_ANY, **(_OF_RENTAL if rented else _OF_OWN)}
    more: Kinds = {short: (str, list)} if short else {key: setting.kinds for key, setting in _RENTS.items()}
    kinds = {key: setting.kinds for key, setting in known.items()}
    _check_table(where, table, {**kinds, **(more if rented else {"host": (str,)})})
    engine = table.get("engine", AUTO)
    if engine not in ENGINES:
        raise ConfigError(f"{where}.engine: there is no engine `{engine}`", hint=known_words(engine, ENGINES))
    for key, setting in known.items():
        if setting.least is not None and not setting.least <= table.get(key, setting.least) < 1e6:
            raise ConfigError(
                f"{where}.{key}: {table[key]} is not possible", hint=f"{key} {setting.least} at the least"
            )
    if not rented:
        return _own(where, name, table)
    own = {key: value for key, value in table.items() if key in _OF_ANY}
    rental = _rental(file, where, table, short)
    if front(rental.provider).hosts_are_containers:
        own = {**own, "engine": "process"}
    return MachineType(name, rental=rental, **own)


def _own(where: str, name: str, table: dict[str, Any]) -> MachineType:
    own = {key: value for key, value in table.items() if key not in Scheduling._fields}
    said = {key: value for key, value in table.items() if key in Scheduling._fields}
    if (queue := own.get("queue", "")) not in QUEUES:
        raise ConfigError(f"{where}.queue: there is no queue `{queue}`", hint=known_words(queue, QUEUES[1:]))
    if said and not queue:
        key = next(iter(said))
        raise ConfigError(f"{where}.{key}: only a machine with a scheduler has that", hint='queue = "slurm"')
    if "time" in said:
        try:
            said["time"] = parse_duration(said["time"])
        except UsageError as error:
            raise ConfigError(f"{where}.time: {error.message}", hint=error.hint)
    if said.get("build", "login") != "login":
        raise ConfigError(f"{where}.build: only `login` is known", hint="leave it out: the job builds what it needs")
    try:
        shlex.split(said.get("slurm", ""))
    except ValueError as error:
        raise ConfigError(f"{where}.slurm: {str(error).lower()}", hint='slurm = "--exclude=n7"')
    return MachineType(name, scheduling=Scheduling(**said) if said else None, **own)


def _pool(where: str, name: str, words: list[Any]) -> tuple[str, ...]:
    for word in words or ("",):
        if not isinstance(word, str) or not word.strip() or word.lower() == name.lower():
            raise ConfigError(f"{where}.pool: {word!r} is not the name of another machine", hint='pool = ["a", "b"]')
    if len({word.lower() for word in words}) < len(words):
        raise ConfigError(f"{where}.pool: a machine stands there twice", hint="mend it there")
    return tuple(words)


def _rental(file: Path, where: str, table: dict[str, Any], short: str) -> Rental:
    """`short`: the key that has both the provider and its types, if there is one."""
    name, key = short or table["provider"], short or "types"
    if name not in PROVIDERS:
        raise ConfigError(f"{where}.provider: there is no provider `{name}`", hint=known_words(name, [*PROVIDERS]))
    of, given = front(name), table.get(key, [])
    words = given.split(",") if isinstance(given, str) else given
    types = tuple(word.strip() if isinstance(word, str) else word for word in words)
    for word in types or ("",):
        if not isinstance(word, str) or not of.is_type(word):
            raise ConfigError(f"{where}.{key}: {word!r} is not the name of a type", hint=f'{key} = "{of.example}"')
    for word in of.lacks:
        if table.get(word):
            raise ConfigError(f"{where}.{word}: {of.title} has no choice of it", hint=f"leave out `{word}`")
    try:
        idle = parse_duration(table["idle"]) if "idle" in table else None
    except UsageError as error:
        raise ConfigError(f"{where}.idle: {error.message}", hint=error.hint)
    rest = {key: value for key, value in table.items() if key in _OF_RENTAL and key not in ("idle", "program")}
    program = table.get("program", [])
    first, *more = program if isinstance(program, list) and program else [program or ""]
    if not all(isinstance(word, str) for word in (first, *more)):
        raise ConfigError(f"{where}.program: it is a list of words in quotes", hint='program = ["./runpod.py"]')
    if bool(first) != of.is_program:
        what = "it needs the program that rents" if of.is_program else "only with `command` there is one"
        raise ConfigError(f"{where}.program: {what}", hint='program = ["./runpod.py"]')
    if "/" in first:
        first = str(file.parent / os.path.expanduser(first))
    return Rental(name, types, idle=idle, program=(first, *more) if first else (), **rest)


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


def set_table(config: Config, table: str, **values: Any) -> Config:
    """Write settings of `[archive]`, or of a provider's table, into config.toml, None for none; the configuration with
    them. A key that stands where it did once goes. Raises `ConfigError`."""
    document = _document(config)
    import tomlkit

    older = [
        (each.name, old, new) for each in all_fronts() for old, (other, new) in each.older.items() if other == table
    ]
    for name, old, new in older:
        if new in values:
            document.get(name, {}).pop(old, None)
    written = document.setdefault(table, tomlkit.table())
    for key, value in values.items():
        written.pop(key, None)
        if value is not None:
            written[key] = value
    _write(config, document)
    if table == "archive":
        return replace(config, archive=replace(config.archive, **values))
    known = config.providers.get(table) or front(table).settings()
    return replace(config, providers={**config.providers, table: replace(known, **values)})


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
