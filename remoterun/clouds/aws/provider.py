"""`clouds.base.Provider` for EC2: what each method promises stands there."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive.s3_codes import DENIED, login_fault
from remoterun.clouds.aws import catalogue, endpoint, guard, image, network, pricelist, quotas, roles, tags
from remoterun.clouds.aws.acquire import Acquisition, address_of, describe
from remoterun.clouds.aws.calls import DEFAULT_REGION, Calls, Refused
from remoterun.clouds.aws.front import AWSFront
from remoterun.clouds.base import (
    Identity,
    Intent,
    Leftover,
    Offer,
    ProviderError,
    ProviderUnreachable,
    RentedHost,
    Roles,
    Spent,
    unheard,
)
from remoterun.clouds.folder import HostFolder, home_mark
from remoterun.config import Config
from remoterun.errors import NotFound, RemoterunError
from remoterun.model import MachineType, Rental
from remoterun.sizes import iso
from remoterun.threads import each as each_at_once

DESCRIBED = 3600.0
"""Seconds for which AWS describes a host that has ended."""
Found = TypeVar("Found")


class AWS:
    def __init__(self, config: Config) -> None:
        self._config, self._home = config, config.home
        self._settings = AWSFront().of(config)
        named = [catalogue.rental(config.default), *(each.rental for each in config.machines.values())]
        self._wanted = {(each.types[0], each.spot) for each in named if each and each.provider == "aws"}
        self.calls = Calls(self._settings)
        self._subnets: dict[str, dict[str, dict[str, Any]]] = {}
        """By region, for the acquisition that follows a question about offers."""
        self._roles: Roles | None = None

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        rental = machine.rental
        if rental is None:
            raise NotFound(f"`{machine.name}` is not rented", hint="remoterun machines")
        region = rental.region or self.calls.region
        if live:
            return self._live_offers(rental, region)
        return [catalogue.offer(type, region, spot=rental.spot, disk=rental.disk) for type in rental.types]

    def check_quotas(self, offers: Sequence[Offer]) -> None:
        quotas.check(self.calls, offers)

    def acquire(
        self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None], note: Callable[[str], None] = unheard
    ) -> RentedHost:
        folder = HostFolder(self._home, intent.token)
        try:
            wide = roles.ANY in self.roles().buckets  # an older form, which who may narrows
            found = self.roles(make_for=self._settings.bucket or "" if wide else "")
        except RemoterunError as error:
            found = Roles(why_not=error.message)
        subnets = self._subnets.get(offers[0].region) if offers else None
        acquisition = Acquisition(self.calls, folder, intent, say, found, subnets, note)
        try:
            return acquisition.host(offers)
        finally:
            self._roles = acquisition.roles

    def find(self, name: str) -> RentedHost | None:
        folder, notes = HostFolder(self._home, name), list[str]()
        record = self._records().get(name) or folder.read("request.json")
        if record is None and folder.intent() is not None:
            return None  # no call was ever made for it
        id = name if name.startswith("i-") else record and record["instance"]
        regions = [record["offer"]["region"]] if record else self._regions()
        found = self._in_all(regions, lambda region: self._rented(region, name, id), notes.append)
        if not found and record and record.get("account") not in (None, "", self.identity().account):
            message = f"these AWS credentials are not of the account {record['account']}, which has the host"
            raise Refused("OtherAccount", message, hint='AWS_PROFILE=…, or profile = "…" below [aws] in config.toml')
        if not found and notes:
            raise ProviderUnreachable(f"{name} is not found", evidence="\n".join(notes), hint="try again in a minute")
        host = min(found, key=lambda each: (not each.alive, each.state == "gone", -each.began), default=None)
        with contextlib.suppress(RemoterunError, OSError):  # its alarm would go on to cost
            if host is not None and host.state == "gone":
                if guard.remove(self.calls, host.offer.region, host.token, unless_it_fired=True):
                    host = replace(host, was_ended=False, why="AWS ended it, as it had hung for 15 minutes")
            elif host is None and (folder.path / "request.json").stat().st_mtime < time.time() - DESCRIBED:
                guard.remove(self.calls, regions[0], folder.token)
        return host

    def guard(self, rented: RentedHost) -> RentedHost:
        if not self._settings.roles:
            return rented
        if not (role := self.roles().guard):
            raise ProviderError(self.roles().why_not)
        guard.make(self.calls, rented.offer.region, rented.id, rented.token, rented.deadline, role)
        return replace(rented, guarded=True)

    def admit(self, rented: RentedHost) -> None:
        region = rented.offer.region
        for instance in describe(self.calls, region, ids=[rented.id]):
            if "VpcId" in instance:
                endpoint.admit(self.calls, region, instance["VpcId"], self._settings, home_mark(self._home))

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        found = self._in_all(self._regions(), self._rented, note)
        self._note_other_accounts({host.id for host in found}, note)
        return sorted((each for each in found if each.state != "gone"), key=lambda each: each.began)

    def release(self, host: RentedHost) -> None:
        self.calls.if_there("ec2", "terminate_instances", host.offer.region, InstanceIds=[host.id])
        with contextlib.suppress(RemoterunError):  # else `leftovers` finds it
            guard.remove(self.calls, host.offer.region, host.token)

    def leftovers(self, note: Callable[[str], None] = unheard, everything: bool = False) -> list[Leftover]:
        def ask(region: str) -> list[Leftover]:
            hosts = self._instances(region)
            found = network.examined(self.calls, region, hosts, self._home, everything)
            return [*filter(None, found.values()), *guard.leftovers(self.calls, region, hosts, everything)]

        found = self._in_all(self._regions(), ask, note)
        try:
            return [*found, *(roles.leftovers(self.calls) if everything else ())]
        except Refused as refused:
            note(f"roles can't be asked: {refused.message}")
            return found

    def clear(self, leftover: Leftover, everything: bool = False) -> bool:
        region, _, name = leftover.id.partition("/")
        if leftover.kind == "role":
            roles.remove(self.calls, leftover.id)
            return True
        hosts = self._instances(region)
        if leftover.kind == "guard":
            if not everything and leftover not in guard.leftovers(self.calls, region, hosts):
                return False
            guard.remove(self.calls, region, name)
            return True
        needed = network.examined(self.calls, region, hosts, self._home, everything).get(leftover.id, leftover) is None
        return not needed and network.clear(self.calls, leftover)

    def roles(self, make_for: str = "") -> Roles:
        if make_for:
            self._roles = roles.make(self.calls, make_for, self._roles or roles.find(self.calls))
        elif self._roles is None:
            is_wanted = self._settings.roles
            self._roles = roles.find(self.calls) if is_wanted else Roles(why_not="`roles = false` in config.toml")
        if self._settings.endpoint is not None:  # a store that is not Amazon's takes no role of AWS
            self._roles = replace(self._roles, writer="")
        return self._roles

    def spent(self, since: float, until: float) -> list[Spent]:
        first, last = (datetime.datetime.fromtimestamp(each, datetime.UTC).date() for each in (since, until))
        asked: dict[str, Any] = {
            "TimePeriod": {"Start": f"{first}", "End": f"{last + datetime.timedelta(days=1)}"},
            "Granularity": "DAILY",
            "Metrics": ["UnblendedCost"],
            "GroupBy": [{"Type": "TAG", "Key": tags.PREFIX + "token"}],
        }
        return [
            Spent(day["TimePeriod"]["Start"], float(group["Metrics"]["UnblendedCost"]["Amount"]), token)
            for day in self.calls.pages("ce", "get_cost_and_usage", DEFAULT_REGION, "ResultsByTime", **asked)
            for group in day["Groups"]
            if (token := group["Keys"][0].partition("$")[2])  # without one it is all else of the account
        ]

    def identity(self) -> Identity:
        region = self.calls.region
        told = self.calls("sts", "get_caller_identity", region)
        return Identity(told["Arn"], told["Account"], region)

    def policy(self, setup: bool = False) -> str:
        from remoterun.clouds.aws import permissions

        arn = self.identity().name if AWSFront().can_log_in(self._config) else permissions.ANYBODY
        return permissions.document(arn, self._settings, setup)

    def how_to_allow(self) -> str:
        return (
            "An inline policy of a user can't be so long. Saved as policy.json, it is made a managed one by\n"
            "  aws iam create-policy --policy-name remoterun --policy-document file://policy.json"
        )

    def budget(self, dollars: float, email: str) -> tuple[str, str, str]:
        from remoterun.clouds.aws.budget import ACTIVATE, budget_command

        account = self.identity().account
        does = (
            f"A budget of ${dollars:g} a month for the hosts of remoterun in the account {account}.\n"
            f"At 50, 80 and 100 % of it AWS sends mail to {email}. It ends no host.\nPaste this:"
        )
        more = "AWS counts only what has a tag that its bill knows. Type this once, a day after the first host:"
        return does, budget_command(account, dollars, email), f"{more}\n  `{ACTIVATE}`"

    def checks(self, machine: MachineType | None = None) -> list[MachineCheck]:
        from remoterun.clouds.aws.checks import checks

        found = checks(self.calls, self._wanted)
        with contextlib.suppress(RemoterunError):  # a check says so, too
            if without := [host.id for host in self.hosts() if host.alive and not host.guarded]:
                lacking = f"no schedule of AWS's ends {', '.join(without)}"
                found.append(
                    MachineCheck("guard", False, lacking, "remoterun machines rented   makes it, by the roles")
                )
        return found

    # --- what there is at AWS ---

    def _regions(self) -> list[str]:
        """The regions that this account uses, the usual one first: a host in any other one costs as much. Those that
        our records name, where that can't be asked."""
        own = self.calls.region
        names = {str(record["offer"]["region"]) for record in self._records().values()} - {own}
        try:
            names = {each["RegionName"] for each in self.calls("ec2", "describe_regions", own)["Regions"]} - {own}
        except (Refused, ProviderUnreachable) as error:
            if login_fault(error.code) if isinstance(error, Refused) else not names:
                raise
        return [own, *sorted(names)]

    def _in_all(
        self, regions: Sequence[str], ask: Callable[[str], list[Found]], note: Callable[[str], None]
    ) -> list[Found]:
        """What `ask` finds in each region. One that errs is noted, as long as others answer; the usual one must take
        this login. Another one that the account forbids has nothing: none of it was made by us."""
        errors: list[RemoterunError] = []

        def ask_one(region: str) -> list[Found]:
            try:
                return ask(region)
            except (Refused, ProviderUnreachable) as error:
                code = error.code if isinstance(error, Refused) else ""
                is_usual, fault = region == regions[0], login_fault(code)
                if is_usual and fault:
                    raise
                errors.append(error)
                if is_usual or code not in DENIED:
                    note(f"{region} can't be asked: {'it refuses this login' if fault else error.message}")
                return []

        found = [item for found in each_at_once(ask_one, regions) for item in found]
        if len(errors) == len(regions):
            raise errors[0]
        return found

    def _records(self) -> dict[str, dict[str, Any]]:
        """The calls that made hosts, as this home has recorded them, by the ids of those."""
        found = [folder.read("request.json") for folder in HostFolder.all(self._home)]
        return {record["instance"]: record for record in found if record and record.get("instance")}

    def _instances(self, region: str, token: str | None = None, id: str | None = None) -> list[dict[str, Any]]:
        """Ours in a region, or one of them, with the tags that they were made with: somebody may have removed them."""
        records = self._records()
        found = describe(self.calls, region, token, [id] if id else ())
        if token is None:
            missing = {id for id, record in records.items() if record["offer"]["region"] == region}
            missing -= {each["InstanceId"] for each in found}
            found += describe(self.calls, region, ids=sorted(missing)[-200:]) if missing else []
        return [tags.restored(each, records.get(each["InstanceId"])) for each in found]

    def _rented(self, region: str, token: str | None = None, id: str | None = None) -> list[RentedHost]:
        found, proxy, own = [], endpoint.proxy(self._settings, region), home_mark(self._home)
        for instance in self._instances(region, token, id):
            rented, address = tags.rented_of(instance, region, own), address_of(instance, proxy)
            if rented is None:
                continue
            folder = HostFolder(self._home, rented.token)
            intent = folder.intent()
            if intent is not None and address and rented.alive:
                with contextlib.suppress(ProviderError):  # one that can't be reached hides no other
                    machine = folder.reach(intent.machine, rented.offer.gpus, address, image.HOST_IMAGE.user, proxy)
                    rented = replace(rented, machine=machine)
            found.append(rented)
        if token is None and any(each.alive for each in found):
            with contextlib.suppress(Refused, ProviderUnreachable):  # the tag says that there was one
                listed = self.calls.pages("scheduler", "list_schedules", region, "Schedules", NamePrefix="rr-")
                scheduled = {each["Name"] for each in listed}
                found = [replace(each, guarded=each.token in scheduled) for each in found]
        return found

    def _note_other_accounts(self, listed: set[str], note: Callable[[str], None]) -> None:
        """Say which hosts of this home nobody lists, since they are of another account than this login."""
        accounts = set()
        for id, record in self._records().items():
            labels = tags.ours(tags.restored({}, record)["Tags"])
            if id not in listed and labels.get("deadline", "") > iso(time.time()):  # in the order of their letters
                accounts.add(record.get("account", ""))
        with contextlib.suppress(RemoterunError):
            for account in accounts and accounts - {"", self.identity().account}:
                note(f"hosts of the account {account} are not listed: AWS_PROFILE=… with a login of that lists them")

    def _live_offers(self, rental: Rental, region: str) -> list[Offer]:
        """An offer for each type and zone that there is, with the spot price of now."""
        zones = self._subnets[region] = network.subnets(self.calls, region, self._settings.subnet)
        filters = [{"Name": "instance-type", "Values": list(rental.types)}]
        asked = {"LocationType": "availability-zone", "Filters": filters}
        listed = self.calls.pages("ec2", "describe_instance_type_offerings", region, "InstanceTypeOfferings", **asked)
        there = {(each["InstanceType"], each["Location"]) for each in listed}
        prices: dict[tuple[str, str], float] = {}
        if rental.spot:
            now = datetime.datetime.now(datetime.UTC)
            of = {"InstanceTypes": list(rental.types), "ProductDescriptions": ["Linux/UNIX"], "StartTime": now}
            for each in self.calls.pages("ec2", "describe_spot_price_history", region, "SpotPriceHistory", **of):
                prices.setdefault((each["InstanceType"], each["AvailabilityZone"]), float(each["SpotPrice"]))
        found: list[Offer] = []
        for type in rental.types:
            here = [
                catalogue.offer(type, region, zone, spot=rental.spot, price=prices.get((type, zone)))
                for zone in zones
                if (type, zone) in there
            ]
            if here and not here[0].vcpus:
                facts = self._facts(type, region)
                here = [replace(each, **facts) for each in here]
            here = pricelist.priced(self.calls, self._home, here)
            found += sorted(here, key=lambda each: each.price if each.price is not None and each.spot else 0.0)
        if not found:
            meant = " or ".join(catalogue.nearest(rental.types[0]))
            is_known = rental.types[0] in catalogue.table().types
            hint = f"did you mean {meant}?" if meant and not is_known else "remoterun machines"
            having = [each for each, types in catalogue.table().regions.items() if rental.types[0] in types]
            hint = f"these regions have it: {', '.join(having)}" if region not in having and having else hint
            raise NotFound(f"{region} has no {', '.join(rental.types)}", hint=hint)
        own = None if rental.image is None else image.resolve(self.calls, found[0], rental.image)
        if own is not None and own.costs_more:
            why = "its image has a price of its own"
            found = [replace(each, price=None, priced="", limit=None, unpriced=why) for each in found]
        size = None if own is None else own.size
        return [catalogue.with_disk(each, catalogue.disk_size(each.gpus, rental.disk, size)) for each in found]

    def _facts(self, type: str, region: str) -> dict[str, Any]:
        """What AWS says of a type that the table doesn't know."""
        told = self.calls("ec2", "describe_instance_types", region, InstanceTypes=[type])["InstanceTypes"][0]
        gpus = told.get("GpuInfo", {}).get("Gpus", [])
        return {
            "vcpus": told["VCpuInfo"]["DefaultVCpus"],
            "memory": told["MemoryInfo"]["SizeInMiB"] / 1024,
            "gpus": sum(each.get("Count", 0) for each in gpus),
            "gpu": gpus[0].get("Name", "") if gpus else "",
            "gpu_memory": gpus[0].get("MemoryInfo", {}).get("SizeInMiB", 0) / 1024 if gpus else 0.0,
        }
