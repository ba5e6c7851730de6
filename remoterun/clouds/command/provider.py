"""A program of the user's as a provider: one JSON object on its stdin, one on its stdout, what it does in its first
line. What it is asked, and what it answers, stands in examples/providers/example.py.

It is started without a shell, has 120 s and a megabyte, and is killed with all that it started where it takes more.
What it writes to stderr is evidence.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.records import BadRecord, from_json, parse
from remoterun.clouds import PROVIDERS
from remoterun.clouds.base import Busy, Identity, NoCapacity, Offer, ProviderError, ProviderUnreachable
from remoterun.clouds.command.front import programs
from remoterun.clouds.simple import Simple
from remoterun.clouds.vendor import CLIENT, HOST, MOST_PRICE, SERVER, ListedHost, Order, Vendor, skew_of
from remoterun.config import Config
from remoterun.errors import RemoterunError
from remoterun.model import MachineType, Rental

VERSION = 1
SECONDS, MOST, SHOWN = 120.0, 1 << 20, 1000
"""Of one call; bytes of what it writes; characters of that which are shown."""
FRESH = 60.0
"""Seconds for which offers hold where nothing is rented by them."""
INTERPRETER = re.compile(r"python[0-9.]*|(?:ba|z)?sh|env|node|-.*")
"""What may stand before a program's own name."""
STATES = ("pending", "running", "stopped", "ending", "gone")


class ProgramProvider(Simple):
    """All programs that rent, or have rented."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.home)
        self._programs = {words: ProviderProgram(words) for words in programs(config)}
        self._machines = list(config.machines.values())

    def vendors(self) -> Sequence[Vendor]:
        return list(self._programs.values())

    def vendor_of(self, rental: Rental) -> Vendor:
        return self._programs.setdefault(rental.program, ProviderProgram(rental.program))

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        from remoterun.clouds.command.conformance import checks

        own = machine.rental.program if machine is not None and machine.rental is not None else ()
        rentals = [each.rental for each in self._machines if each.rental is not None]
        asked = {words: each for words, each in self._programs.items() if words == own or not own}
        return [it for words, each in asked.items() for it in checks(each, [r for r in rentals if r.program == words])]


class RefusedByProgram(ProviderError):
    """An answer with `error`."""


class ProviderProgram:
    """A `Vendor`."""

    unit, settle, proxy = 0.0, 0.0, None

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        own = (Path(word) for word in words if not INTERPRETER.fullmatch(Path(word).name))
        name = next(own, Path("program"))
        self.key = f"own-{name.stem}" if name.stem in PROVIDERS else name.stem
        self._hello: dict[str, str] | None = None
        self._offers: dict[Rental, tuple[float, list[Offer]]] = {}
        self.skew = 0.0

    def ends(self) -> tuple[str, str]:
        said = self._said()
        return said["ends"], said.get("end", "")

    def ended(self, name: str) -> ListedHost | None:
        return None

    def folder(self) -> tuple[str, str]:
        folder = self._said().get("folder", "")
        return folder, folder

    def _said(self) -> dict[str, str]:
        """The answer to `hello`, for which it is asked once."""
        if self._hello is None:
            said = self.ask("hello")
            texts = [said.get("ends"), said.get("end", ""), said.get("folder", "")]
            is_text = all(isinstance(each, str) for each in texts)
            if said.get("version") != VERSION or not is_text or texts[0] not in (SERVER, HOST, CLIENT):
                is_like = f'is not like {{"version": {VERSION}, "ends": "server"}}'
                raise self._wrong("hello", f"{is_like}: {json.dumps(said)[:SHOWN]}")
            self._hello = said
        return self._hello

    def offers(self, rental: Rental, live: bool = True) -> list[Offer]:
        at, found = self._offers.get(rental, (0.0, []))
        if live or not at or time.monotonic() > at + FRESH:
            wanted = {"types": list(rental.types), "region": rental.region, "spot": rental.spot, "disk": rental.disk}
            said = self.ask("offers", **wanted)
            found = [self._read(Offer, "offers", each) for each in self._list(said, "offers")]
            for price in (each.price for each in found):
                self._check_price("offers", price)
            self._offers[rental] = time.monotonic(), found
        return found

    def create(self, order: Order) -> None:
        self.ask("create", **{**asdict(order), "offer": {"type": order.offer.type, "region": order.offer.region}})

    def hosts(self, strictly: bool = False) -> list[ListedHost]:
        """Of one that can't be read as much as is needed to end it, and why; `strictly`, that is an error."""
        return [self._host(each, strictly) for each in self._list(self.ask("hosts"), "hosts")]

    def _host(self, record: Any, strictly: bool) -> ListedHost:
        try:
            found: ListedHost = self._read(ListedHost, "hosts", record)
            if found.state not in STATES:
                raise self._wrong("hosts", f"has the state {found.state!r}, and not one of {', '.join(STATES)}")
            self._check_price("hosts", found.price)
            return found
        except ProviderError as error:
            if strictly:
                raise
            texts = record if isinstance(record, dict) else {}
            id, name, state = (it if isinstance(it := texts.get(key), str) else "" for key in ("id", "name", "state"))
            return ListedHost(id, name, state if state in STATES else "running", why=error.message)

    def _check_price(self, do: str, price: float | None) -> None:
        if price is not None and not 0 <= price <= MOST_PRICE:
            raise self._wrong(do, f"has the price {price:.10g}")

    def delete(self, id: str) -> None:
        self.ask("delete", id=id)

    def identity(self) -> Identity:
        said = self.ask("identity")
        return Identity(str(said.get("name", self.key)), str(said.get("account", "")), str(said.get("region", "")))

    # -- one call

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
            asked.write(json.dumps({"version": VERSION, "do": do, **more}).encode() + b"\n")
            asked.seek(0)
            try:
                process = subprocess.Popen(self.words, stdin=asked, stdout=told, stderr=errors, start_new_session=True)
            except OSError as error:
                hint = "is it there, and did you `chmod +x` it?"
                raise ProviderError(f"`{self.words[0]}` can't be run: {error.strerror}", hint=hint)
            give_up_at, why = time.monotonic() + SECONDS, ""
            try:
                while process.poll() is None and not why:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.05)
                    if time.monotonic() > give_up_at:
                        why = f"did not answer within {SECONDS:.0f} s"
                    elif max(_size(told), _size(errors)) > MOST:
                        why = f"wrote more than {MOST:,} bytes"
            finally:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            evidence = _beginning(errors)
            if why:
                raise ProviderUnreachable(f"`{self.key}` {why} to `{do}`", evidence=evidence)
            if process.returncode:
                what = f"`{self.key}` ended with status {process.returncode} at `{do}`"
                kind = ProviderUnreachable if do == "create" else ProviderError  # it may have made the host
                raise kind(what, evidence=evidence or _beginning(told), hint="remoterun doctor command")
            told.seek(0)
            return self._answer(do, told.read(MOST), evidence)

    def _answer(self, do: str, data: bytes, evidence: str | None) -> dict[str, Any]:
        try:
            said = parse(data)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise self._wrong(do, "is not one JSON object", data.decode("utf-8", "replace")[:SHOWN])
        if "now" in said:
            self.skew = skew_of(self.key, said["now"])
        if error := said.get("error"):
            kinds = {"busy": Busy, "capacity": NoCapacity, "unreachable": ProviderUnreachable}
            kind = kinds.get(str(said.get("kind")), RefusedByProgram)
            raise kind(f"`{self.key}`: {str(error)[:SHOWN]}", evidence=evidence)
        return said

    def _list(self, said: dict[str, Any], name: str) -> list[Any]:
        if not isinstance(said.get(name), list):
            raise self._wrong(name, f"has no list `{name}`")
        found: list[Any] = said[name]
        return found

    def _read(self, kind: type[Any], do: str, record: Any) -> Any:
        try:
            return from_json(kind, record)
        except BadRecord as error:
            raise self._wrong(do, f"can't be read: {error}", json.dumps(record)[:SHOWN])

    def _wrong(self, do: str, why: str, evidence: str | None = None) -> RemoterunError:
        kind = ProviderUnreachable if do == "create" else ProviderError  # it may have made the host
        hint = "examples/providers/example.py says what is asked and answered"
        return kind(f"what `{self.key}` answered to `{do}` {why}", evidence=evidence, hint=hint)


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _beginning(file: IO[bytes]) -> str | None:
    file.seek(0)
    return file.read(MOST).decode("utf-8", "replace").strip()[-SHOWN:] or None
