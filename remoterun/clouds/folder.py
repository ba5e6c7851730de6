"""`HOME/hosts/TOKEN`: what this client knows of one host that it rents.

    intent.json          what is to be acquired; on disk before the first call that costs something
    request.json         the call that may have made a host, word for word, and what came of it; its provider's own
    host.json            what the first session learnt of the host
    rented.json          the host, from when it was ready to use
    key                  our key for it
    host_key             the host's key at the first contact, which its provider could read; then it has another
    ssh_config, known_hosts
    lock                 held by who acquires it

`HOME/hosts/mark` tells the hosts of this home from those of another home with the same owner.

A folder is removed once its host is gone and nobody asks about it any more.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remoterun.agent.shared.files import locked, remove_tree, text_of, unless_held, write_whole
from remoterun.agent.shared.records import encode, from_json
from remoterun.clouds.base import Intent, ProviderError, RentedHost
from remoterun.config import Config
from remoterun.model import MachineType, Rental

HOSTS = "hosts"
ADDRESS, USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_%-]*"), re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
KEY = re.compile(r"(ssh-|ecdsa-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""What would end a line of ssh's files, and begin one of the provider's own: that can run commands here."""
MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True)
class SharedProxy:
    """An SSH server through which a provider lets its account in to all hosts: by keys that the account names, so those
    of the user, and with one host key for ever, about which a person is asked before anything is rented."""

    name: str
    address: str
    config: Path
    """The user's configuration of ssh, which holds there, too."""
    hint: str
    """How it comes to know the user's keys."""

    def login(self, home: Path) -> dict[str, str]:
        """The options of ssh's configuration for it."""
        return {
            "HostKeyAlias": self.name,
            "UserKnownHostsFile": _quoted(home / HOSTS / f"{self.name}.known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }

    def unknown(self, home: Path) -> MachineType | None:
        """The server itself, which lets nobody in so; None once its host key is known."""
        known = text_of(str(home / HOSTS / f"{self.name}.known_hosts"))
        if re.search(rf"^\S+ {KEY.pattern}$", known, re.MULTILINE):
            return None
        address, _, port = self.address.partition(":")
        options = {"HostName": address, "Port": port or "22", "User": "nobody", **self.login(home)}
        options["StrictHostKeyChecking"] = "ask"
        file, lines = home / HOSTS / f"{self.name}.ssh_config", (f"  {name} {it}\n" for name, it in options.items())
        file.parent.mkdir(0o700, parents=True, exist_ok=True)
        write_whole(str(file), f"Host {self.name}\n{''.join(lines)}".encode(), 0o600)
        return MachineType(self.name, host=self.name, ssh_config=str(file))


LOCK_SECONDS = 900.0


class HostFolder:
    """The folder of one token, made by `begin`."""

    def __init__(self, home: Path, token: str) -> None:
        self.home = home
        self.token = token
        self.path = home / HOSTS / token

    @classmethod
    def all(cls, home: Path) -> list[HostFolder]:
        """Those that there are, in the order of their tokens."""
        return [cls(home, found.parent.name) for found in sorted((home / HOSTS).glob("*/intent.json"))]

    def begin(self, intent: Intent) -> None:
        """Put the intent and fresh keys on disk. What is there already stays as it is.

        Two processes may begin the same host: what `locked` covers reads only what is there then.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("host_key", "key"):
            if not (self.path / f"{name}.pub").exists():
                from remoterun.hosts.ssh.login import new_key

                private, public = new_key(self.token)
                self.write(name, private)
                self.write(f"{name}.pub", public + "\n")
        if not (self.path / "intent.json").exists():
            self.write("intent.json", encode(intent).decode())

    def intent(self) -> Intent | None:
        """The intent that `begin` was given first."""
        record = self.read("intent.json")
        return None if record is None else from_json(Intent, record)

    def read(self, name: str) -> Any:
        """The content of a JSON file; None without one."""
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """The file appears whole, with its new content on the disk."""
        write_whole(str(self.path / name), text.encode(), 0o600)

    def text(self, name: str) -> str:
        return (self.path / name).read_text("utf-8")

    @property
    def ssh_config(self) -> Path:
        return self.path / "ssh_config"

    def reach(
        self,
        asked: MachineType,
        gpus: int,
        address: str,
        user: str,
        proxy: str | None = None,
        port: int = 22,
        shared: SharedProxy | None = None,
    ) -> MachineType:
        """How the host is reached, at an address that may have changed, as a user with our key, through a
        `ProxyCommand` where there is one; or by a `shared` proxy. Its host key is that of the first contact, unless
        another is known. Raises `ProviderError` for what can't be an address, or a user: all of it is a cloud's word.
        """
        is_way = ADDRESS.fullmatch(address) and USER.fullmatch(user) and 0 < port < 65536
        if not is_way or CONTROL.search(proxy or ""):
            what = f"{user!r} at {address!r}, port {port}" + (f", by {proxy!r}" if proxy else "")
            raise ProviderError(f"the way to the host {self.token} can't be one: {what}"[:500])
        options = {"HostName": address, "User": user, **({} if port == 22 and shared is None else {"Port": str(port)})}
        options |= self._own_login() if shared is None else shared.login(self.home)
        if proxy is not None:
            options["ProxyCommand"] = proxy
        text = f"Host {self.token}\n" + "".join(f"  {name} {value}\n" for name, value in options.items())
        if shared is not None:
            text += f"Host *\n  Include {_quoted(shared.config)}\n"
        if not self.ssh_config.exists() or self.text("ssh_config") != text:
            self.write("ssh_config", text)
        own, gpus = str(self.ssh_config), gpus or asked.gpus
        return replace(asked, host=self.token, rented=self.token, ssh_config=own, gpus=gpus, rental=None)

    def _own_login(self) -> dict[str, str]:
        if not (self.path / "known_hosts").exists():
            self.know(" ".join(self.text("host_key.pub").split()[:2]))
        return {
            "HostKeyAlias": self.token.lower(),
            "IdentityFile": _quoted(self.path / "key"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": _quoted(self.path / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }

    def rented(self) -> RentedHost | None:
        """The host as it was when it was ready to use; None where that is not known."""
        record = self.read("rented.json")
        return None if record is None else from_json(RentedHost, record)

    def record(self, rented: RentedHost) -> None:
        """Note a host that is ready to use: while it answers, its provider need not be asked about it."""
        self.write("rented.json", encode(rented).decode())

    def forget_record(self) -> None:
        """The host was ended: until it has shut down it may answer, and its provider is to be asked about it."""
        (self.path / "rented.json").unlink(missing_ok=True)

    def know(self, key: str) -> None:
        """Accept this host key from now on, given as `ssh-ed25519 AAAA…`, and no other one. Raises `ProviderError`."""
        if not KEY.fullmatch(key):
            raise ProviderError(f"the host key of the host {self.token} can't be one: {key!r}"[:500])
        self.write("known_hosts", f"{self.token.lower()} {key}\n")

    @contextlib.contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """While this client acquires the host, no other process on this machine does. The lock ends with the process.

        Waits for another process, 15 minutes at the most. Raises `ProviderError`.
        """
        with contextlib.ExitStack() as stack:
            try:
                waiting = functools.partial(say, "another remoterun, which acquires this host")
                stack.enter_context(locked(str(self.path / "lock"), patience=LOCK_SECONDS, waiting=waiting))
            except TimeoutError:
                raise ProviderError("another remoterun on this machine acquires this host", hint="remoterun ps")
            yield

    def is_locked(self) -> bool:
        """Whether a process on this machine acquires the host just now."""
        with unless_held(str(self.path / "lock")) as lock:
            return lock is None

    def remove(self) -> None:
        """Forget the host, and our key for it. One that is absent is removed."""
        remove_tree(str(self.path))


def _quoted(path: Path) -> str:
    """The path of a file as ssh's configuration takes it."""
    return '"' + str(path).replace("%", "%%") + '"'


def rentals(config: Config) -> Iterator[Rental]:
    """Those of the machine types, and those for which hosts were asked for, also where their machine type is gone."""
    yield from (each.rental for each in config.machines.values() if each.rental is not None)
    intents = (folder.intent() for folder in HostFolder.all(config.home))
    yield from (each.machine.rental for each in intents if each is not None and each.machine.rental is not None)


def home_mark(home: Path) -> str:
    """The mark by which hosts of one home are told from those of another: two laptops may have the same name, user and
    paths, and a copy of a home on another machine is another one."""
    machine = MACHINE_ID.read_bytes() if MACHINE_ID.exists() else b""
    here = hashlib.sha256(b"remoterun" + machine).hexdigest()[:12]
    folder = home / HOSTS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(str(folder / "mark")) as file:
        secret = os.pread(file, 100, 0).decode("ascii").partition(" ")[0]
        if not secret:
            secret = secrets.token_hex(6)
            os.pwrite(file, secret.encode(), 0)
            os.fsync(file)
    return hashlib.sha256(f"{secret} {here}".encode()).hexdigest()[:12]
