"""`config.toml` in the home, the environment, and what they add up to. An unknown key is an error with its path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.engine_names import AUTO, CAPABILITIES
from remoterun.agent.shared.files import write_whole
from remoterun.errors import AlreadyExists, ConfigError, NotFound
from remoterun.model import MachineType

HOME_VARIABLE = "REMOTERUN_HOME"
SSH_CONFIG_VARIABLE = "REMOTERUN_SSH_CONFIG"

_MACHINE_KEYS: dict[str, tuple[type, ...]] = {
    "host": (str,),
    "engine": (str,),
    "gpus": (int,),
    "slots": (int,),
    "base_image": (str,),
    "home": (str,),
    "python": (str,),
    "connect_timeout": (int, float),
}
ENGINES = (AUTO, *CAPABILITIES)


@dataclass(frozen=True)
class Config:
    """All settings. `home` is this machine's home; `machines` are those of config.toml, by name."""

    home: Path
    default: str = "local"
    machines: Mapping[str, MachineType] = field(default_factory=dict)
    ssh_config: Path | None = None
    keep_logs: int = 256_000_000
    """Bytes that the logs may take which are kept here."""

    @property
    def file(self) -> Path:
        return self.home / "config.toml"


def load(environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of this user. Raises `ConfigError`."""
    variables = os.environ if environ is None else environ
    home = Path(variables.get(HOME_VARIABLE) or "~/.remoterun").expanduser().absolute()
    ssh_config = variables.get(SSH_CONFIG_VARIABLE)
    settings = Config(home, ssh_config=Path(ssh_config).expanduser() if ssh_config else None)
    try:
        text = settings.file.read_text("utf-8")
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
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"`{base.file}` is not TOML: {error}", hint="mend it, or move it away")
    unknown = sorted(set(data) - {"default", "machines", "logs"})
    if unknown:
        known = "known are `default`, `[machines.NAME]` and `[logs]`"
        raise ConfigError(f"{base.file}: unknown key `{unknown[0]}`", hint=known)
    default = data.get("default", base.default)
    tables = data.get("machines", {})
    if not isinstance(default, str) or not isinstance(tables, dict):
        raise ConfigError(
            f"{base.file}: `default` is a name in quotes, `machines` a table",
            hint='default = "box", and [machines.box] with host = "user@host"',
        )
    machines = {name: _machine(base.file, name, table) for name, table in tables.items()}
    return replace(base, default=default, machines=machines, keep_logs=_keep_logs(base, data.get("logs", {})))


def _keep_logs(base: Config, table: Any) -> int:
    """How many bytes `[logs] keep` allows."""
    if not isinstance(table, dict):
        raise ConfigError(f"{base.file}: logs is a table", hint='[logs] with keep = "256MB"')
    unknown = sorted(set(table) - {"keep"})
    if unknown:
        raise ConfigError(f"{base.file}: logs: unknown key `{unknown[0]}`", hint="known is `keep`")
    text = table.get("keep")
    if text is None:
        return base.keep_logs
    match = re.fullmatch(r"(\d{1,9}) ?([KMG]?)B?", text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{base.file}: logs.keep: {text!r} is not a size", hint='keep = "256MB"; "0" keeps none')
    return int(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]


def _machine(file: Path, name: str, table: Any) -> MachineType:
    where = f"{file}: machines.{name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is a table", hint=f"[machines.{name}]")
    for key, value in table.items():
        if key not in _MACHINE_KEYS:
            raise ConfigError(f"{where}: unknown key `{key}`", hint="known are " + ", ".join(sorted(_MACHINE_KEYS)))
        if not isinstance(value, _MACHINE_KEYS[key]) or isinstance(value, bool):
            kind = "text in quotes" if _MACHINE_KEYS[key] == (str,) else "a number"
            raise ConfigError(f"{where}.{key}: {value!r} is not {kind}", hint="mend it there")
    if table.get("engine", "auto") not in ENGINES:
        raise ConfigError(f"{where}.engine: unknown engine `{table['engine']}`", hint="known are " + ", ".join(ENGINES))
    if table.get("gpus", 0) < 0 or table.get("slots", 1) < 1 or table.get("connect_timeout", 1) <= 0:
        raise ConfigError(f"{where}: a number is too small", hint="gpus 0, slots 1, connect_timeout 1 at the least")
    return MachineType(name, **table)


def add_machine(config: Config, name: str, settings: dict[str, Any], *, overwrite: bool, make_default: bool) -> None:
    """Write a machine into config.toml, comments and order kept. Raises `AlreadyExists`, `ConfigError`."""
    if name in config.machines and not overwrite:
        raise AlreadyExists(f"there is a machine `{name}` already", hint=f"remoterun machines add {name} … --force")
    _machine(config.file, name, settings)
    document = _document(config)
    import tomlkit

    machines = document.setdefault("machines", tomlkit.table(is_super_table=True))
    table = tomlkit.table()
    for key, value in settings.items():
        table[key] = value
    machines[name] = table
    if make_default:
        _set_default(document, name)
    _write(config, document)


def remove_machine(config: Config, name: str) -> None:
    """Take a machine out of config.toml; if it was the default, `local` is. Raises `NotFound`."""
    if name not in config.machines:
        raise NotFound(f"there is no machine `{name}` in {config.file}", hint="remoterun machines")
    document = _document(config)
    del document["machines"][name]
    if config.default == name:
        document.pop("default", None)
    _write(config, document)


def set_default(config: Config, name: str) -> None:
    document = _document(config)
    _set_default(document, name)
    _write(config, document)


def _set_default(document: Any, name: str) -> None:
    if "default" in document:
        document["default"] = name
        return
    import tomlkit

    rest = list(document.body)
    document.body.clear()
    document._map.clear()
    document.add("default", name)
    document.add(tomlkit.nl())
    for key, item in rest:
        document.append(key, item)


def _document(config: Config) -> Any:
    import tomlkit

    if not config.file.exists():
        return tomlkit.document()
    return tomlkit.parse(config.file.read_text("utf-8"))


def _write(config: Config, document: Any) -> None:
    import tomlkit

    text = tomlkit.dumps(document)
    parse(text, config)  # what we write, we can read
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(str(config.file), text.encode(), 0o600)
    except OSError as error:
        raise ConfigError(
            f"`{config.file}` can't be written: {error.strerror}",
            hint=f"set {HOME_VARIABLE} to a folder that you may write",
        )
