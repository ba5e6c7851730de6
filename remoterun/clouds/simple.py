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
import re
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.machines import RentalTerms
from remoterun.clouds import front_of
from remoterun.clouds.base import (
    Busy,
    HostNeverCame,
    Identity,
    Intent,
    NoCapacity,
    NotListedYet,
    Offer,
    ProviderError,
    ProviderUnreachable,
    RentedHost,
    unheard,
)
from remoterun.clouds.boot.container import start_script
from remoterun.clouds.folder import HostFolder
from remoterun.clouds.host_name import HostName, name_of, short_mark
from remoterun.clouds.vendor import (
    CLIENT,
    CLOCK,
    SERVER,
    SET_CLOCK,
    WRONG,
    ListedHost,
    Order,
    Vendor,
    by_whom,
    checks_of,
    clock_words,
)
from remoterun.errors import HostError, HostKeyError, RemoterunError, UsageError
from remoterun.hosts.ssh.config import Deadlines
from remoterun.model import MachineType, Rental

ID = re.compile(r"[A-Za-z0-9][\w.:-]{0,99}", re.ASCII)
"""Of a host: it stands in commands to copy."""
HIDDEN, BOOT, RELEASE, REFUSED = 60.0, 900.0, 60.0, 30.0
"""Seconds until a new host is in the list, and for which a busy provider is asked again; until the host can be used; in
which one that was deleted leaves the list; and for which a provider's own proxy may refuse us."""
Answer = TypeVar("Answer")
Found = TypeVar("Found", ListedHost, RentedHost)

ASK, AGAIN = 2.0, 5.0
"""Seconds between two looks at the list, and between two times that a host is deleted."""


class Simple:
    """A `Provider` over vendors. A derived class says which there are."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._wrong_clocks: set[str] = set()  # the vendors of which that was said

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
        return _once_free(lambda: vendor.offers(rental, live))

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        if intent.machine.rental is None:
            raise UsageError(f"`{intent.machine.name}` is not rented", hint="remoterun machines")
        folder, vendor = HostFolder(self._home, intent.token), self.vendor_of(intent.machine.rental)
        folder.begin(intent)
        with folder.locked(say):
            try:
                self._check_clock(vendor, note)
                _check_steady(vendor)
                found = self._given(vendor, folder, say) or self._first_given(vendor, folder, intent, offers, say)
                return self._ready(vendor, folder, intent, found, say)
            except NoCapacity:
                raise
            except BaseException as error:
                self._end(vendor, folder, error, say, note)
                raise

    def find(self, name: str) -> RentedHost | None:
        folder = HostFolder(self._home, name)
        intent, request = folder.intent(), folder.read("request.json")
        if intent is not None and request is None:
            return None  # none was ever asked for
        vendors = self.vendors()
        if intent is not None and intent.machine.rental is not None:
            vendors = [self.vendor_of(intent.machine.rental)]
        for vendor in vendors:
            if "/" in name and name.partition("/")[0] != vendor.key:
                continue
            if own := _living(each for each in self._hosts_of(vendor) if name in (each.token, each.id)):
                return _only(vendor, own)
            if intent is not None and request is not None:
                ended = vendor.ended(request.get("name") or name_of(intent, self._home))
                if ended is not None:
                    return self._rented(vendor, ended, intent)
            if name.startswith(vendor.key + "/") or intent is not None:
                self._check_account(vendor, folder.token if intent is not None else "")
        if request is not None and not request.get("refused") and _hidden_until(request) > time.monotonic():
            raise NotListedYet(f"the host {name} was asked for a moment ago, and is not listed yet", hint="try again")
        return None

    def admit(self, rented: RentedHost) -> None:
        pass

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        found, errors, vendors = list[RentedHost](), list[RemoterunError](), self.vendors()
        for vendor in vendors:
            try:
                found += [each for each in self._hosts_of(vendor, note) if each.state != "gone"]
                self._check_clock(vendor, note)
                with contextlib.suppress(ProviderUnreachable):
                    if others := self._not_listed(vendor, listed={each.token for each in found}):
                        note(others)
            except RemoterunError as error:
                errors.append(error)
                note(f"`{vendor.key}` can't be asked: {error.message}")
        if errors and len(errors) == len(vendors):
            raise errors[0]
        return sorted(found, key=lambda each: each.began)

    def release(self, host: RentedHost) -> None:
        key, _, id = host.id.partition("/")
        began, asked = time.monotonic(), -AGAIN
        refused: RemoterunError | None = None
        for vendor in (each for each in self.vendors() if each.key == key):
            while any(
                each.id == id and each.state in ("pending", "running", "stopped") for each in _once_free(vendor.hosts)
            ):
                if time.monotonic() >= began + RELEASE:
                    why = f"`{key}` says that it has deleted the host {id}, which is still there"
                    raise refused or ProviderError(why, hint="end it on the provider's own page: it costs")
                if time.monotonic() >= asked + AGAIN:
                    asked = time.monotonic()
                    try:
                        vendor.delete(id)
                    except (Busy, ProviderError) as error:  # it may be ending already
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

    def unknown_proxy(self, machine: MachineType) -> MachineType | None:
        proxy = None if machine.rental is None else self.vendor_of(machine.rental).proxy
        return None if proxy is None else proxy.unknown(self._home)

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
        found = self._listed(vendor, folder.token, _hidden_until(request))
        if not found:
            self._check_account(vendor, folder.token)
        return _only(vendor, found)

    def _first_given(
        self,
        vendor: Vendor,
        folder: HostFolder,
        intent: Intent,
        offers: Sequence[Offer],
        say: Callable[[str], None],
    ) -> ListedHost:
        """A new host by the first offer that can be had. Raises `NoCapacity`."""
        refused, account = list[str](), _once_free(vendor.identity).account if offers else ""
        for offer in offers:
            try:
                return self._asked_for(vendor, folder, intent, offer, account, say)
            except NoCapacity as error:
                refused.append(f"{offer.type}: {error.message}")
        types = ", ".join(dict.fromkeys(offer.type for offer in offers)) or "nothing"
        hint = "try again later, or name more types"
        raise NoCapacity(f"`{vendor.key}` has no {types} now", evidence="\n".join(refused) or None, hint=hint)

    def _asked_for(
        self,
        vendor: Vendor,
        folder: HostFolder,
        intent: Intent,
        offer: Offer,
        account: str,
        say: Callable[[str], None],
    ) -> ListedHost:
        """The host of an offer, once it is listed. A provider that is busy is asked again."""
        give_up_at, unheard_of = time.monotonic() + HIDDEN, None
        while True:
            say(f"capacity ({offer.type})")
            order, (_, mounted) = self._order(vendor, folder, intent, offer), vendor.folder()
            request = {"at": time.time(), "name": order.name, "price": offer.price, "mounted": mounted}
            request["account"] = account
            folder.write("request.json", json.dumps(request))
            try:
                vendor.create(order)
                break
            except (Busy, ProviderError) as error:
                if not isinstance(error, Busy) or time.monotonic() >= give_up_at:
                    folder.write("request.json", json.dumps({"at": time.time(), "refused": error.message}))
                    raise
                say(f"`{vendor.key}`, which is busy")
                time.sleep(ASK)
                if found := _only(vendor, self._listed(vendor, intent.token, time.monotonic())):
                    return found
            except ProviderUnreachable as error:
                unheard_of = error  # it may be made
                break
        say("its place in the list")
        found = _only(vendor, self._listed(vendor, intent.token, time.monotonic() + HIDDEN))
        if found is None:
            raise unheard_of or HostNeverCame(f"`{vendor.key}` lists no host {order.name}, which it has made")
        return found

    def _order(self, vendor: Vendor, folder: HostFolder, intent: Intent, offer: Offer) -> Order:
        rental = intent.machine.rental or Rental("", ())
        (_, words), left = vendor.ends(), intent.deadline - time.time()
        by_theirs = replace(intent, deadline=intent.deadline + vendor.skew)
        # The script knows its end, which is not to cost one more minute.
        settle, ends = vendor.settle if vendor.folder()[1] else 0.0, by_theirs.deadline - min(vendor.unit, 60.0)
        terms = RentalTerms(intent.token, ends, intent.idle, [], settle=settle)
        key, start = folder.text("key.pub").strip(), start_script(folder, terms, words, sshd=vendor.proxy is None)
        name, seconds = name_of(by_theirs, self._home), max(int(left), 60)
        return Order(name, offer, seconds, by_theirs.deadline, key, start, rental.disk, rental.image)

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
                hints = [f"remoterun doctor {intent.machine.name}   asks its provider, whose own page may show why"]
                if image:
                    hints.insert(0, f"the image `{image}` has to be there, with Python 3.8 or newer")
                raise HostNeverCame(what, evidence=found.why or None, hint="\n".join(hints))
            # Its provider may count from the host's start, which can be later than it was asked for.
            latest = intent.deadline + vendor.skew + BOOT
            if vendor.ends()[0] == SERVER and not (found.ends is not None and found.ends <= latest):
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
                            hint = error.hint if isinstance(error, HostKeyError) else vendor.proxy.hint
                            raise HostNeverCame(what, evidence=why, hint=hint) from error
            time.sleep(ASK)
            with contextlib.suppress(ProviderUnreachable):
                listed = self._listed(vendor, intent.token, time.monotonic())
                found = _only(vendor, listed) or replace(found, state="gone")
        raise HostNeverCame(f"the host {found.id} was not ready within {BOOT / 60:.0f} minutes", evidence=why)

    def _listed(self, vendor: Vendor, token: str, until: float) -> list[ListedHost]:
        """The host of a token, once it is in the list; also one that is gone, if that is still listed; several where
        its provider has made several. A provider that is busy, or does not answer, is asked again for `HIDDEN` seconds
        at the least."""
        give_up_at = time.monotonic() + HIDDEN
        while True:
            unheard_of = None
            try:
                own = [each for each in vendor.hosts() if (known := HostName.read(each.name)) and known.token == token]
                if own:
                    return _living(own)
            except ProviderUnreachable as error:
                unheard_of = error
            if time.monotonic() >= (until if unheard_of is None else max(until, give_up_at)):
                if unheard_of is not None:
                    raise unheard_of
                return []
            time.sleep(ASK)

    def _end(
        self,
        vendor: Vendor,
        folder: HostFolder,
        error: BaseException,
        say: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        """End a host that can't be used, or is not wanted any more: also one that is not in the list yet."""
        request = folder.read("request.json")
        if request is None or request.get("refused"):
            return
        why = f"`{vendor.key}` does not list it: it may be there, and cost"
        try:
            say("the end of its host")
            found = self._listed(vendor, folder.token, _hidden_until(request))
            for each in found:
                if each.state != "gone":
                    vendor.delete(each.id)
            if found:
                return
        except (RemoterunError, KeyboardInterrupt) as refused:
            why = f"it could not be ended: {getattr(refused, 'message', 'that was interrupted')}"
        hint = "remoterun machines rented   shows whether it is there"
        if isinstance(error, RemoterunError):
            error.evidence, error.hint = "\n".join(filter(None, [error.evidence, why])), hint
        else:
            note(f"the host {folder.token}: {why}; `{hint.partition('   ')[0]}` shows whether it is there")

    def _check_clock(self, vendor: Vendor, note: Callable[[str], None]) -> None:
        """Warn, once, of a clock of this machine that is wrong by a provider's: hosts end, and cost, by that one."""
        if abs(vendor.skew) > CLOCK and vendor.key not in self._wrong_clocks:
            self._wrong_clocks.add(vendor.key)
            note(f"{clock_words(vendor)}: `{SET_CLOCK}` sets it")

    # -- what is listed

    def _check_account(self, vendor: Vendor, token: str) -> None:
        """Raises `ProviderError` where this login can't know of the host of a token, or of all that may be there."""
        if others := self._not_listed(vendor, token):
            of = front_of(f"{vendor.key}/0").name
            raise ProviderError(others, hint=f"remoterun doctor {of}   shows who is logged in")

    def _not_listed(self, vendor: Vendor, token: str = "", listed: Container[str] = ()) -> str:
        """Whose hosts this login does not list, in words; "" for nobody's. It is about the host of a token, or about
        all of this home that may be there and are not `listed`."""
        accounts = {""}
        for folder in [HostFolder(self._home, token)] if token else HostFolder.all(self._home):
            intent, request = folder.intent(), folder.read("request.json")
            if intent is None or folder.token in listed or (intent.deadline < time.time() and not token):
                continue
            if request and intent.machine.rental is not None and self.vendor_of(intent.machine.rental) is vendor:
                accounts.add(request.get("account", ""))
        own = vendor.identity().account if len(accounts) > 1 else ""
        others = " and ".join(f"`{each}`" for each in sorted(accounts - {"", own}))
        return f"this login is of `{own}`: hosts of {others} are not listed" if own and others else ""

    def _hosts_of(self, vendor: Vendor, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        """Those of ours. One of which the provider says odd things hides no other: it is listed without a way in, or,
        where it has no usable id, noted."""
        listed = vendor.hosts()
        for each in listed:
            if not ID.fullmatch(each.id):
                note(each.why or f"`{vendor.key}` lists a host whose id can't be one: {each.id!r}"[:500])
        own = [each for each in listed if ID.fullmatch(each.id) and HostName.read(each.name)]
        return [self._rented(vendor, each, note=note) for each in own]

    def _rented(
        self, vendor: Vendor, listed: ListedHost, intent: Intent | None = None, note: Callable[[str], None] = unheard
    ) -> RentedHost:
        known = HostName.read(listed.name)
        assert known is not None
        folder = HostFolder(self._home, known.token)
        intent, deadline = intent or folder.intent(), known.deadline - vendor.skew
        is_ours, request = known.mark == short_mark(self._home), folder.read("request.json") or {}
        if intent is not None and is_ours and abs(vendor.skew) > CLOCK:  # a clock that is wrong alone ends nothing
            deadline = max(deadline, intent.deadline)
        price = listed.price if request.get("price") is None else request["price"]
        machine, why = None, listed.why
        if intent is not None and is_ours and listed.address:
            try:
                machine = self._reached(vendor, folder, intent, listed)
            except ProviderError as error:
                why = error.message
        if why and machine is None and is_ours and listed.state == "running":
            note(f"the host {vendor.key}/{listed.id} can't be reached: {why}")
        return RentedHost(
            f"{vendor.key}/{listed.id}",
            known.token,
            listed.state,
            Offer(listed.type, listed.region, price=price, limit=price),
            _by_our_clock(vendor, listed.began) or request.get("at", time.time()),
            deadline,
            machine=machine,
            run=known.run,
            number=known.number,
            attempt=known.attempt,
            owner="" if is_ours else f"another client ({known.mark})",
            why=why,
            preempted=listed.taken_away,
            was_ended=listed.was_ended,
            ended=_by_our_clock(vendor, listed.ended),
            idle=known.idle,
            ours=is_ours,
            guarded=listed.ends is not None,
        )

    def _reached(self, vendor: Vendor, folder: HostFolder, intent: Intent, listed: ListedHost) -> MachineType:
        if listed.host_key and folder.read("host.json") is None:  # later it has the one that it had
            folder.know(listed.host_key)
        wanted, place = intent.machine, (listed.address, listed.user, listed.proxy, listed.port)
        return folder.reach(replace(wanted, engine="process"), wanted.gpus, *place, vendor.proxy)


def _once_free(ask: Callable[[], Answer]) -> Answer:
    """What a provider answers, which is asked again while it is busy."""
    give_up_at = time.monotonic() + HIDDEN
    while True:
        try:
            return ask()
        except Busy:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(ASK)


def _check_steady(vendor: Vendor) -> None:
    """Raises `ProviderError` for a clock that is not ours, and a moment later not its own: hosts would end by it."""
    skew = vendor.skew
    if abs(skew) > CLOCK:
        _once_free(vendor.identity)
        if abs(vendor.skew - skew) > CLOCK:
            what = f"the clock of `{vendor.key}` went {abs(vendor.skew - skew):.0f} s wrong between two answers"
            raise ProviderError(what, hint="try again; where it stays so, its clock can't be relied on")


def _by_our_clock(vendor: Vendor, moment: float | None) -> float | None:
    """A moment by a vendor's clock; None for none, and for what can't be one."""
    return moment - vendor.skew if moment is not None and WRONG < moment < time.time() + 2 * WRONG else None


def _living(hosts: Iterable[Found]) -> list[Found]:
    """Of the hosts of one token those that live; one of those that are gone, where none does."""
    own = list(hosts)
    return [each for each in own if each.state != "gone"] or own[:1]


def _only(vendor: Vendor, living: Sequence[Found]) -> Found | None:
    """Raises `ProviderError` for several: they cost, and nobody knows which one is meant."""
    if len(living) > 1:
        ids = [f"{vendor.key}/{each.id.removeprefix(vendor.key + '/')}" for each in living]
        what = f"`{vendor.key}` lists {len(living)} hosts that were made for one request: {', '.join(ids)}"
        raise ProviderError(what[:500], hint=f"remoterun machines rm {ids[-1]}   ends one")
    return living[0] if living else None


def _hidden_until(request: dict[str, Any]) -> float:
    """The moment of `time.monotonic` up to which a host that was asked for may not be in the list yet."""
    since = time.time() - float(request["at"])
    return time.monotonic() + HIDDEN - min(max(since, 0.0), HIDDEN)
