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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import locked, token, write_whole
from remoterun.agent.shared.spec import SpecError, check_variables
from remoterun.agent.shared.tree import show
from remoterun.errors import ConfigError, NotFound, RemoterunError, UsageError
from remoterun.parsing import VARIABLE, did_you_mean
from remoterun.sizes import iso

PATIENCE = 60.0
"""Seconds that the program may take: it may ask a person to unlock the keyring."""


@dataclass(frozen=True)
class Keyring:
    """The words after `program` for each thing that it does; `{id}` stands for where a value is, `{name}` for the name
    of its secret, which people see, and `{text}` for the value."""

    title: str
    program: str
    most: int
    """Characters that a value may take as it is stored."""
    store: tuple[str, ...]
    input: str
    """What `store` reads."""
    lookup: tuple[str, ...]
    clear: tuple[str, ...]

    def put(self, id: str, name: str, value: str) -> bool:
        """Whether it has the value now under `id`. A keyring that is locked, and that nobody can be asked to unlock,
        takes nothing."""
        text = b64encode(value.encode("utf-8", "surrogateescape")).decode()
        if len(text) > self.most:
            return False
        self._call(self.store, self.input.format(id=id, name=name, text=text), id=id, name=name)
        return self.get(id) == value

    def get(self, id: str) -> str | None:
        """The value that is kept under `id`; None where the keyring does not have it, or does not give it."""
        said = self._call(self.lookup, id=id)
        try:
            return b64decode(said.strip(), validate=True).decode("utf-8", "surrogateescape") if said else None
        except ValueError:
            return None

    def remove(self, id: str) -> None:
        """Delete the value under `id`, if there is one."""
        self._call(self.clear, id=id)

    def _call(self, words: tuple[str, ...], text: str = "", **named: str) -> str:
        """What it says on stdout; "" where it fails. Its errors are not shown: they may quote what it was given."""
        command = [self.program, *(word.format(**named) for word in words)]
        try:
            done = subprocess.run(
                command, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode("ascii", "replace") if done.returncode == 0 else ""


_OURS = ("application", "remoterun", "id", "{id}")
_OF_MAC = ("-s", "remoterun", "-a", "{id}")
KEYRINGS = {
    "keychain": Keyring(
        "the keychain of this Mac",
        "security",
        2000,  # it reads lines of up to 4 kB
        ("-i",),
        "add-generic-password -U -s remoterun -a {id} -l remoterun-{name} -w {text}\n",
        ("find-generic-password", *_OF_MAC, "-w"),
        ("delete-generic-password", *_OF_MAC),
    ),
    "libsecret": Keyring(
        "the keyring of this desktop",
        "secret-tool",
        1 << 20,
        ("store", "--label=remoterun {name}", *_OURS),
        "{text}",
        ("lookup", *_OURS),
        ("clear", *_OURS),
    ),
}


def usable_keyring() -> str | None:
    """The name of this system's keyring; None where there is none, or where its program can't reach it."""
    if sys.platform == "darwin":
        name = "keychain"
    elif "DBUS_SESSION_BUS_ADDRESS" in os.environ:
        name = "libsecret"
    else:
        return None
    return name if shutil.which(KEYRINGS[name].program) is not None else None


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
    """What a client does with secrets. Only `values` and `variables` give values away, and no error holds one."""

    def __init__(self, home: Path) -> None:
        self._file = home / "secrets" / "secrets.json"

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
        with self._changing() as known:
            id = known.get(name, {}).get("id") or token(16)
            record: dict[str, Any] = {"set": round(time.time(), 3), "id": id}
            ring = usable_keyring()
            if ring is not None and KEYRINGS[ring].put(id, name, value):
                record["keyring"] = ring
            else:
                _forget(known.get(name, {}))
                record["value"] = value
            known[name] = record
        return self._secret(name, record)

    def list(self) -> Sequence[Secret]:
        """All secrets, sorted by name. Raises `ConfigError` where they can't be read."""
        return [self._secret(name, record) for name, record in sorted(self._read().items())]

    def remove(self, name: str) -> None:
        """Delete a secret. Raises `NotFound`."""
        with self._changing() as known:
            _forget(_one(known, name))
            del known[name]

    def check(self, names: Iterable[str]) -> None:
        """Raises `NotFound` for a secret that is not set. Asks no keyring."""
        wanted = [*names]
        known = self._read() if wanted else {}
        for name in wanted:
            _one(known, name)

    def values(self, names: Iterable[str]) -> dict[str, str]:
        """The values of the secrets of these names. Raises `NotFound` for one that is not set, `RemoterunError` where
        the keyring does not give it. May ask a person to unlock the keyring."""
        wanted = [*names]
        known = self._read() if wanted else {}
        return {name: _value(name, _one(known, name)) for name in wanted}

    def variables(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The values of variables that get secrets: `secrets` is by variable. Raises as `values`."""
        known = self.values(secrets.values())
        return {variable: known[name] for variable, name in secrets.items()}

    def _secret(self, name: str, record: Mapping[str, Any]) -> Secret:
        ring = record.get("keyring")
        where = str(self._file) if ring is None else KEYRINGS[ring].title
        return Secret(name, record["set"], ring or "file", where)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            data = json.loads(self._file.read_bytes())
            if data["format"] != FORMAT:
                raise ValueError
            known = {str(name): dict(record) for name, record in data["secrets"].items()}
            for record in known.values():
                if not isinstance(record["set"], (int, float)) or ("value" not in record and "id" not in record):
                    raise ValueError
                if record.get("keyring", "libsecret") not in KEYRINGS:
                    raise ValueError
            return known
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"`{self._file}` can't be read: {error.strerror}", hint="mend it, or move it away")
        except (ValueError, LookupError, TypeError, AttributeError):
            hint = "move it away, and set the secrets again"
            raise ConfigError(f"`{self._file}` is damaged, or of another version", hint=hint) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        """All secrets, to be changed; written at the end. Two clients take turns."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self._file.parent, 0o700)
            with locked(str(self._file.with_suffix(".lock"))):
                known = self._read()
                yield known
                data = json.dumps({"format": FORMAT, "secrets": known}, indent=1)
                write_whole(str(self._file), data.encode(), 0o600)
        except OSError as error:
            raise ConfigError(f"`{self._file}` can't be written: {error.strerror}", hint="remoterun machines df local")


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
        hint = f"remoterun secret set {show(name)}   keeps one"
        if meant:
            hint = f"did you mean `{meant}`? `remoterun secret` shows them all"
        raise NotFound(f"there is no secret `{show(name)}`", hint=hint)
    return known[name]


def _value(name: str, record: Mapping[str, Any]) -> str:
    if "keyring" not in record:
        return str(record["value"])
    ring = KEYRINGS[record["keyring"]]
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
        KEYRINGS[record["keyring"]].remove(str(record["id"]))


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
