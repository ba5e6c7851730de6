"""Secrets of this user: values that runs are given by their names; and the system's keyring, by the program that comes
with it. A value goes through stdin and stdout of that, and never stands among its words.

`secrets/secrets.json` in the home says of each when it was set and where its value is: in the system's keyring, or in
this very file, which only its user may read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import locked, token, write_whole
from remoterun.agent.shared.spec import SpecError, check_variables
from remoterun.agent.shared.tree import show
from remoterun.client.connections import Connections
from remoterun.errors import ConfigError, NotFound, RemoterunError, UsageError
from remoterun.parsing import VARIABLE, did_you_mean
from remoterun.sizes import iso

PATIENCE = 60.0
"""Seconds that the program may take: it may ask a person to unlock the keyring."""
OURS = "remoterun"


@dataclass(frozen=True)
class Keyring:
    """`most`: characters that a value may take as it is stored."""

    name: str
    title: str
    program: str
    most: int

    def put(self, id: str, name: str, value: str) -> bool:
        """Whether it has the value now under `id`; people see the name of the secret. A keyring that is locked, and
        that nobody can be asked to unlock, takes nothing."""
        text = b64encode(value.encode("utf-8", "surrogateescape")).decode()
        if len(text) > self.most:
            return False
        self._call(self._put_words(id, name), self._put_input(id, name, text))
        return self.get(id) == value

    def get(self, id: str) -> str | None:
        """The value that is kept under `id`; None where the keyring does not have it, or does not give it."""
        said = self._call(self._words("find-generic-password", "lookup", id, "-w"))
        try:
            return b64decode(said.strip(), validate=True).decode("utf-8", "surrogateescape") if said else None
        except ValueError:
            return None

    def remove(self, id: str) -> None:
        """Delete the value under `id`, if there is one."""
        self._call(self._words("delete-generic-password", "clear", id))

    # -- commands, as data

    def _put_words(self, id: str, name: str) -> list[str]:
        if self.name == "keychain":
            return [self.program, "-i"]  # it reads its commands from stdin
        return [self.program, "store", f"--label={OURS} {name}", "application", OURS, "id", id]

    def _put_input(self, id: str, name: str, text: str) -> str:
        if self.name == "keychain":
            return f"add-generic-password -U -s {OURS} -a {id} -l {OURS}-{name} -w {text}\n"
        return text

    def _words(self, of_keychain: str, of_libsecret: str, id: str, *more: str) -> list[str]:
        if self.name == "keychain":
            return [self.program, of_keychain, "-s", OURS, "-a", id, *more]
        return [self.program, of_libsecret, "application", OURS, "id", id]

    def _call(self, words: list[str], text: str = "") -> str:
        """What it says on stdout; "" where it fails. Its errors are not shown: they may quote what it was given."""
        try:
            done = subprocess.run(
                words, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("ascii", "replace") if done.returncode == 0 else ""


KEYRINGS = (
    Keyring("keychain", "the keychain of this Mac", "security", 2000),  # it reads lines of up to 4 kB
    Keyring("libsecret", "the keyring of this desktop", "secret-tool", 1 << 20),
)


def usable_keyring() -> Keyring | None:
    """The keyring of this system; None where there is none, or where its program can't reach it."""
    for keyring in KEYRINGS:
        right = sys.platform == "darwin" if keyring.name == "keychain" else "DBUS_SESSION_BUS_ADDRESS" in os.environ
        if right and shutil.which(keyring.program) is not None:
            return keyring
    return None


def keyring_named(name: str) -> Keyring:
    """Raises `RemoterunError` for one that this version does not know."""
    for keyring in KEYRINGS:
        if keyring.name == name:
            return keyring
    raise RemoterunError(f"a secret is kept in `{name}`, which this remoterun does not know", hint="upgrade it")


FORMAT = 1


@dataclass(frozen=True)
class Secret:
    """A secret without its value. `set` in seconds since 1970; `kept` is "keychain", "libsecret" or "file"; `where` the
    same for people."""

    name: str
    set: float
    kept: str
    where: str

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self.__dict__, "set": iso(self.set)}


class Secrets:
    """What a client does with secrets. No method but `values` gives a value away, and no error holds one."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def set(self, name: str, value: str) -> Secret:
        """Keep a value under a name: in the system's keyring where that takes it, else in a file. Raises `UsageError`
        for what can't be the value of a variable, `ConfigError` where nothing can be written."""
        check_name(name)
        try:
            check_variables({name: value})
        except SpecError as error:
            raise UsageError(f"it can't be a secret: {error}")
        if not value:
            raise UsageError(f"the value of `{name}` is empty", hint=f"remoterun secret rm {name}   removes it")
        home = self._connections.config.home
        with _changing(home) as known:
            id = known.get(name, {}).get("id") or token(16)
            record: dict[str, Any] = {"set": round(time.time(), 3), "id": id}
            ring = usable_keyring()
            if ring is not None and ring.put(id, name, value):
                record["keyring"] = ring.name
            else:
                _forget(known.get(name, {}))
                record["value"] = value
            known[name] = record
        return _secret(home, name, record)

    def list(self) -> Sequence[Secret]:
        """All secrets, sorted by name. Raises `ConfigError` where they can't be read."""
        home = self._connections.config.home
        return [_secret(home, name, record) for name, record in sorted(_read(home).items())]

    def remove(self, name: str) -> None:
        """Delete a secret. Raises `NotFound`."""
        home = self._connections.config.home
        with _changing(home) as known:
            _forget(_one(known, name))
            del known[name]

    def check(self, names: Iterable[str]) -> None:
        """See the function `check_known`."""
        check_known(self._connections.config.home, names)

    def hint_once(self, name: str) -> bool:
        """Whether nobody was told yet that a variable of this name may be a secret; False where that can't
        be noted."""
        if name in _read(self._connections.config.home):
            return False
        file = _file(self._connections.config.home).with_name("hinted")
        try:
            told = file.read_text("utf-8").split() if file.exists() else []
            if name not in told:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(str(file), "\n".join([*told, name]).encode(), 0o600)
            return name not in told
        except (OSError, ValueError):
            return False

    def values(self, names: Iterable[str]) -> dict[str, str]:
        """The values of these secrets, by name. Raises as the function `values_of` does."""
        return values_of(self._connections.config.home, names)


def values_of(home: Path, names: Iterable[str]) -> dict[str, str]:
    """The values of the secrets of these names. Raises `NotFound` for one that is not set, `RemoterunError` where the
    keyring does not give it. May ask a person to unlock the keyring."""
    wanted = list(names)
    known = _read(home) if wanted else {}
    return {name: _value(name, _one(known, name)) for name in wanted}


def variables_of(home: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """The values of variables that get secrets: `secrets` is by variable. Raises as `values_of`."""
    known = values_of(home, secrets.values())
    return {variable: known[name] for variable, name in secrets.items()}


def names(home: Path) -> list[str]:
    """The names of all secrets. Raises `ConfigError` where they can't be read."""
    return sorted(_read(home))


def check_known(home: Path, names: Iterable[str]) -> None:
    """Raises `NotFound` for a secret that is not set. Asks no keyring."""
    wanted = list(names)
    known = _read(home) if wanted else {}
    for name in wanted:
        _one(known, name)


def check_name(name: str) -> str:
    """`name` if a secret may be called so. Raises `UsageError`, which shows nothing after a `=`."""
    if not VARIABLE.fullmatch(name):
        shown, equals, _ = name.partition("=")
        if equals and VARIABLE.fullmatch(shown):
            raise UsageError("a secret's value is not typed into a command", hint=f"remoterun secret set {shown}")
        raise UsageError(
            f"`{show(shown)}` is not a name for a secret: it has letters, digits and `_`, and no digit first",
            hint="remoterun secret set HF_TOKEN",
        )
    return name


def _one(known: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in known:
        meant = did_you_mean(name, known)
        hint = (
            f"did you mean `{meant}`? `remoterun secret` shows them all"
            if meant
            else f"remoterun secret set {show(name)}   keeps one"
        )
        raise NotFound(f"there is no secret `{show(name)}`", hint=hint)
    return known[name]


def _value(name: str, record: Mapping[str, Any]) -> str:
    if "keyring" not in record:
        return str(record["value"])
    ring = keyring_named(str(record["keyring"]))
    value = ring.get(str(record["id"]))
    if value is None:
        raise RemoterunError(
            f"{ring.title} does not give the secret `{name}`",
            hint=f"unlock it, or set it again: `remoterun secret set {name}`",
        )
    return value


def _forget(record: Mapping[str, Any]) -> None:
    """Delete what the keyring has of it."""
    if "keyring" in record:
        keyring_named(str(record["keyring"])).remove(str(record["id"]))


def _secret(home: Path, name: str, record: Mapping[str, Any]) -> Secret:
    if "keyring" in record:
        ring = keyring_named(str(record["keyring"]))
        return Secret(name, record["set"], ring.name, ring.title)
    return Secret(name, record["set"], "file", str(_file(home)))


def _file(home: Path) -> Path:
    return home / "secrets" / "secrets.json"


def _read(home: Path) -> dict[str, dict[str, Any]]:
    file = _file(home)
    try:
        data = json.loads(file.read_bytes())
        if data["format"] != FORMAT:
            raise ConfigError(f"`{file}` is of a newer remoterun", hint="upgrade this one")
        known = {str(name): dict(record) for name, record in data["secrets"].items()}
        for record in known.values():
            if not isinstance(record["set"], (int, float)) or not ("value" in record or "keyring" in record):
                raise ValueError
        return known
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"`{file}` can't be read: {error.strerror}", hint="mend it, or move it away")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(f"`{file}` is damaged", hint="move it away, and set the secrets again") from None


@contextmanager
def _changing(home: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """All secrets, to be changed; written at the end. Two clients take turns."""
    file = _file(home)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(file.parent, 0o700)
        with locked(str(file.with_suffix(".lock"))):
            known = _read(home)
            yield known
            write_whole(str(file), json.dumps({"format": FORMAT, "secrets": known}, indent=1).encode(), 0o600)
    except OSError as error:
        raise ConfigError(f"`{file}` can't be written: {error.strerror}", hint="remoterun machines df local")


class Tokens:
    """The tokens of servers that this client started in runs: whoever has one may use the server. A file of mode 0600
    for each run that has one, by the run's key."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "tokens"

    def keep(self, key: str, token: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(str(self._folder / key), token.encode(), 0o600)

    def find(self, key: str) -> str | None:
        try:
            return (self._folder / key).read_text()
        except OSError:
            return None

    def remove(self, key: str) -> None:
        """What is absent is fine."""
        with contextlib.suppress(OSError):
            (self._folder / key).unlink()
