"""A base for providers of few calls: what may be had, make one, list them, delete one; and who asks.

What we have to know of a host stands in its name (`host_name.py`); so hosts of other clients are found, too, and no
call but the list is needed to find out what became of one. Its home has its limits from the script that it is started
with (`boot/on_container.py`). The order is the one of every provider: the intent is on disk, and that a host was asked
for (`request.json`), before it is. Whoever comes after a crash looks for the name first: so an intent stands for one
host at the most.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.machines import RentalTerms
from remoterun.clouds.base import (
    HostNeverCame,
    Identity,
    Intent,
    NoCapacity,
    Offer,
    ProviderError,
    ProviderUnreachable,
    RentedHost,
    unheard,
)
from remoterun.clouds.boot.container import start_script
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.host_name import HostName, name_of, short_mark
from remoterun.clouds.vendor import CLIENT, SERVER, ListedHost, Order, Vendor, by_whom, checks_of
from remoterun.errors import HostError, RemoterunError, UsageError
from remoterun.hosts.ssh.config import Deadlines
from remoterun.model import MachineType, Rental

HIDDEN, BOOT, RELEASE, REFUSED = 60.0, 900.0, 60.0, 30.0
"""Seconds until a new host is in the list, until it can be used, and in which one that was deleted leaves the list; and
for which a provider's own proxy may refuse us."""
ASK, AGAIN = 2.0, 5.0
"""Seconds between two looks at the list, and between two times that a host is deleted."""


class Simple:
    """A `Provider` over vendors. A derived class says which there are."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def vendors(self) -> Sequence[Vendor]:
        raise NotImplementedError

    def vendor_of(self, rental: Rental) -> Vendor:
        raise NotImplementedError

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        rental = machine.rental
        if rental is None:
            raise UsageError(f"`{machine.name}` is not rented", hint="remoterun machines")
        if rental.spot:
            raise UsageError(f"there are no spot hosts for `{machine.name}`", hint="rent it without spot")
        if not rental.types:  # as of `remoterun doctor command`
            return []
        vendor = self.vendor_of(rental)
        if live and vendor.ends()[0] == CLIENT and not rental.it_may_run_on:
            what = f"nothing ends a host of `{vendor.key}` while this machine is off, and it would go on to cost"
            raise UsageError(what, hint=f"remoterun machines add {machine.name} … --it-may-run-on   agrees to that")
        return vendor.offers(rental, live)

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        if intent.machine.rental is None:
            raise UsageError(f"`{intent.machine.name}` is not rented", hint="remoterun machines")
        folder, vendor = HostFolder(self._home, intent.token), self.vendor_of(intent.machine.rental)
        folder.begin(intent)
        with folder.locked(say):
            try:
                found = self._given(vendor, folder, say) or self._first_given(vendor, folder, intent, offers, say)
                return self._ready(vendor, folder, intent, found, say)
            except NoCapacity:
                raise
            except BaseException as error:
                self._end(vendor, intent.token, error)
                raise

    def find(self, name: str) -> RentedHost | None:
        folder = HostFolder(self._home, name)
        intent = folder.intent()
        if intent is not None and folder.read("request.json") is None:
            return None  # none was ever asked for
        vendors = self.vendors()
        if intent is not None and intent.machine.rental is not None:
            vendors = [self.vendor_of(intent.machine.rental)]
        for vendor in vendors:
            if "/" in name and name.partition("/")[0] != vendor.key:
                continue
            own = [each for each in self._hosts_of(vendor) if name in (each.token, each.id)]
            if own:
                return min(own, key=lambda each: each.state == "gone")
            if intent is not None and (ended := vendor.ended(name_of(intent, self._home))) is not None:
                return self._rented(vendor, ended, intent)
        return None

    def admit(self, rented: RentedHost) -> None:
        pass

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        found, errors, vendors = list[RentedHost](), list[RemoterunError](), self.vendors()
        for vendor in vendors:
            try:
                found += [each for each in self._hosts_of(vendor) if each.state != "gone"]
            except RemoterunError as error:
                errors.append(error)
                note(f"`{vendor.key}` can't be asked: {error.message}")
        if errors and len(errors) == len(vendors):
            raise errors[0]
        return sorted(found, key=lambda each: each.began)

    def release(self, host: RentedHost) -> None:
        key, _, id = host.id.partition("/")
        began, asked, refused = time.monotonic(), -AGAIN, None
        for vendor in (each for each in self.vendors() if each.key == key):
            while any(each.id == id and each.state in ("pending", "running", "stopped") for each in vendor.hosts()):
                if time.monotonic() >= began + RELEASE:
                    why = f"`{key}` says that it has deleted the host {id}, which is still there"
                    raise refused or ProviderError(why, hint="end it on the provider's own page: it costs")
                if time.monotonic() >= asked + AGAIN:
                    asked = time.monotonic()
                    try:
                        vendor.delete(id)
                    except ProviderError as error:  # it may be ending already
                        refused = error
                time.sleep(ASK / 4)

    def end_of(self, machine: MachineType) -> str:
        return "" if machine.rental is None else by_whom(self.vendor_of(machine.rental).ends()[0])

    def folder_of(self, machine: MachineType, token: str = "") -> str:
        if machine.rental is None:
            return ""
        folder, mounted = self.vendor_of(machine.rental).folder()
        request = HostFolder(self._home, token).read("request.json") if token else None
        return folder if request is None or request.get("mounted", mounted) == mounted else ""

    def identity(self) -> Identity:
        for vendor in self.vendors():
            return vendor.identity()
        raise ProviderError("no machine of this kind is in config.toml", hint="remoterun machines add --help")

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        return [check for vendor in self.vendors() for check in checks_of(vendor)]

    # -- from an intent to a host

    def _given(self, vendor: Vendor, folder: HostFolder, say: Callable[[str], None]) -> ListedHost | None:
        """The host that an earlier try has asked for, if there is one."""
        request = folder.read("request.json")
        if request is None or request.get("refused"):
            return None
        say("the host that was asked for before")
        return self._listed(vendor, folder.token, time.monotonic() + HIDDEN - min(time.time() - request["at"], HIDDEN))

    def _first_given(
        self,
        vendor: Vendor,
        folder: HostFolder,
        intent: Intent,
        offers: Sequence[Offer],
        say: Callable[[str], None],
    ) -> ListedHost:
        """A new host by the first offer that can be had. Raises `NoCapacity`."""
        refused = []
        for offer in offers:
            say(f"capacity ({offer.type})")
            order, (_, mounted) = self._order(vendor, folder, intent, offer), vendor.folder()
            folder.write("request.json", json.dumps({"at": time.time(), "price": offer.price, "mounted": mounted}))
            unheard_of = None
            try:
                vendor.create(order)
            except NoCapacity as error:
                refused.append(f"{offer.type}: {error.message}")
                folder.write("request.json", json.dumps({"at": time.time(), "refused": error.message}))
                continue
            except ProviderUnreachable as error:
                unheard_of = error  # it may be made
            say("its place in the list")
            found = self._listed(vendor, intent.token, time.monotonic() + HIDDEN)
            if found is None:
                raise unheard_of or HostNeverCame(f"`{vendor.key}` lists no host {order.name}, which it has made")
            return found
        types = ", ".join(dict.fromkeys(offer.type for offer in offers)) or "nothing"
        hint = "try again later, or name more types"
        raise NoCapacity(f"`{vendor.key}` has no {types} now", evidence="\n".join(refused) or None, hint=hint)

    def _order(self, vendor: Vendor, folder: HostFolder, intent: Intent, offer: Offer) -> Order:
        rental = intent.machine.rental or Rental("", ())
        (_, words), left = vendor.ends(), intent.deadline - time.time()
        # The script knows its end, which is not to cost one more unit.
        terms = RentalTerms(intent.token, intent.deadline - vendor.unit, intent.idle, [])
        key, start = folder.text("key.pub").strip(), start_script(folder, terms, words, sshd=vendor.proxy is None)
        name, seconds = name_of(intent, self._home), max(int(left), 60)
        return Order(name, offer, seconds, intent.deadline, key, start, rental.disk, rental.image)

    def _ready(
        self, vendor: Vendor, folder: HostFolder, intent: Intent, found: ListedHost, say: Callable[[str], None]
    ) -> RentedHost:
        """A host that is listed, once its home has its terms."""
        from remoterun.hosts.ssh.host import SSHHost

        give_up_at, why, refused_at = time.monotonic() + BOOT, "it has no address", None
        say("its boot")
        while time.monotonic() < give_up_at:
            if found.state not in ("pending", "running"):
                image = intent.machine.rental.image if intent.machine.rental is not None else None
                what = f"the host {found.id} ended while it was waited for"
                hint = f"the image `{image}` has to be there, with Python 3.8 or newer" if image else None
                raise HostNeverCame(what, evidence=found.why or None, hint=hint)
            # Its provider may count from the host's start, which can be later than it was asked for.
            if vendor.ends()[0] == SERVER and (found.ends is None or found.ends > intent.deadline + BOOT):
                raise ProviderError(f"`{vendor.key}` does not say that it ends the host {found.id} at its deadline")
            if found.address and found.state == "running":
                self._reached(vendor, folder, intent, found)
                host = SSHHost(folder.token, config_file=folder.ssh_config, deadlines=Deadlines(connect=15, banner=15))
                with contextlib.closing(host):
                    try:
                        told = host.run(["sh", "-c", 'cat "$HOME/.remoterun/rented.json"'], 30).output
                        if intent.token in told:
                            folder.write("host.json", "{}")
                            return self._rented(vendor, found, intent)
                        why = "its start script has not run"
                    except HostError as error:
                        why = "\n".join(filter(None, [error.message, error.evidence]))
                        refused_at = None if error.passing else refused_at or time.monotonic()
                        if vendor.proxy and refused_at and time.monotonic() > refused_at + REFUSED:
                            what = f"the host {found.id} runs, and does not let us in"
                            raise HostNeverCame(what, evidence=why, hint=vendor.proxy.hint) from error
            time.sleep(ASK)
            with contextlib.suppress(ProviderUnreachable):
                found = self._listed(vendor, intent.token, time.monotonic()) or replace(found, state="gone")
        raise HostNeverCame(f"the host {found.id} was not ready within {BOOT / 60:.0f} minutes", evidence=why)

    def _listed(self, vendor: Vendor, token: str, until: float) -> ListedHost | None:
        """The host of a token, once it is in the list; also one that is gone, if that is still listed."""
        while True:
            own = [each for each in vendor.hosts() if (known := HostName.read(each.name)) and known.token == token]
            if own:
                return min(own, key=lambda each: each.state == "gone")
            if time.monotonic() >= until:
                return None
            time.sleep(ASK)

    def _end(self, vendor: Vendor, token: str, error: BaseException) -> None:
        """End a host that can't be used, or is not wanted any more."""
        try:
            found = self._listed(vendor, token, time.monotonic())
            if found is not None and found.state != "gone":
                vendor.delete(found.id)
        except RemoterunError as refused:
            if isinstance(error, RemoterunError):
                error.evidence = "\n".join(filter(None, [error.evidence, f"it could not be ended: {refused.message}"]))
                error.hint = "remoterun machines rented   shows whether it is there"

    # -- what is listed

    def _hosts_of(self, vendor: Vendor) -> list[RentedHost]:
        return [self._rented(vendor, each) for each in vendor.hosts() if HostName.read(each.name)]

    def _rented(self, vendor: Vendor, listed: ListedHost, intent: Intent | None = None) -> RentedHost:
        known = HostName.read(listed.name)
        assert known is not None
        folder = HostFolder(self._home, known.token)
        intent = intent or folder.intent()
        is_ours, request = known.mark == short_mark(self._home), folder.read("request.json") or {}
        price = listed.price if request.get("price") is None else request["price"]
        reached = intent is not None and is_ours and bool(listed.address)
        return RentedHost(
            f"{vendor.key}/{listed.id}",
            known.token,
            listed.state,
            Offer(listed.type, listed.region, price=price, limit=price),
            listed.began or request.get("at", time.time()),
            known.deadline,
            machine=self._reached(vendor, folder, intent, listed) if reached and intent is not None else None,
            run=known.run,
            number=known.number,
            attempt=known.attempt,
            owner="" if is_ours else f"another client ({known.mark})",
            why=listed.why,
            preempted=listed.taken_away,
            was_ended=listed.was_ended,
            ended=listed.ended,
            idle=known.idle,
            ours=is_ours,
            guarded=listed.ends is not None,
        )

    def _reached(self, vendor: Vendor, folder: HostFolder, intent: Intent, listed: ListedHost) -> MachineType:
        if listed.host_key:
            folder.know(listed.host_key)
        wanted, place = intent.machine, (listed.address, listed.user, listed.proxy, listed.port)
        return folder.reach(replace(wanted, engine="process"), wanted.gpus, *place, vendor.proxy)
