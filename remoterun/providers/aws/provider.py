"""`providers.base.Provider` for EC2: what each method promises stands there."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from remoterun.agent.shared.api import MachineCheck
from remoterun.archive.workers import each as each_at_once
from remoterun.aws_codes import DENIED
from remoterun.config import Config
from remoterun.errors import NotFound, RemoterunError
from remoterun.model import MachineType, Rental
from remoterun.providers.aws import catalogue, endpoint, image, network, tags
from remoterun.providers.aws.acquire import Acquisition, address_of, describe
from remoterun.providers.aws.calls import Calls, QuotaReached, Refused, is_gone, quota_error
from remoterun.providers.base import Identity, Intent, Leftover, Offer, RentedHost, Roles, Spent, unheard
from remoterun.providers.folder import HostFolder

Found = TypeVar("Found")


class AWS:
    def __init__(self, config: Config) -> None:
        self._home = config.home
        self._settings = config.aws
        self.calls = Calls(config.aws)
        self._subnets: dict[str, dict[str, dict[str, Any]]] = {}
        """By region, for the acquisition that follows a question about offers."""

    def offers(self, machine: MachineType, live: bool = False) -> list[Offer]:
        rental = machine.rental
        if rental is None:
            raise NotFound(f"`{machine.name}` is not rented", hint="remoterun machines")
        region = rental.region or self.calls.region
        if live:
            return self._live_offers(rental, region)
        return [catalogue.offer(type, region, spot=rental.spot, disk=rental.disk) for type in rental.types]

    def check_quotas(self, offers: Sequence[Offer]) -> None:
        errors = []
        for offer in {each.type: each for each in offers}.values():
            quota = catalogue.quota_of(offer.type, offer.spot)
            if quota is None:
                return
            asked = {"ServiceCode": "ec2", "QuotaCode": quota.code}
            try:
                limit = self.calls("service-quotas", "get_service_quota", offer.region, **asked)["Quota"]["Value"]
            except RemoterunError:  # `acquire` finds out
                return
            if limit >= offer.vcpus:
                return
            reached = QuotaReached("VcpuLimitExceeded", "", evidence=f"{quota.code} is {limit:.0f} vCPUs")
            errors.append(quota_error(reached, offer.type, offer.region, offer.spot, offer.vcpus))
        if errors:
            raise errors[0]

    def acquire(self, intent: Intent, offers: Sequence[Offer], say: Callable[[str], None]) -> RentedHost:
        folder = HostFolder(self._home, intent.token)
        subnets = self._subnets.get(offers[0].region) if offers else None
        return Acquisition(self.calls, self._settings, folder, intent, say, subnets).host(offers)

    def find(self, name: str) -> RentedHost | None:
        token = name
        if name.startswith("i-"):
            found = [each for each in self._rented(self._regions(), None) if each.id == name]
            return found[0] if found else None
        folder = HostFolder(self._home, token)
        record = folder.read("request.json")
        if record is None and folder.intent() is not None:
            return None  # no call was ever made for it
        regions = [record["offer"]["region"]] if record else self._regions()
        found = self._rented(regions, token)
        if not found and record:
            self._check_account(record.get("account"))
        return min(found, key=lambda each: (not each.alive, each.state == "gone", -each.began), default=None)

    def admit(self, rented: RentedHost) -> None:
        region = rented.offer.region
        answer = self.calls("ec2", "describe_instances", region, InstanceIds=[rented.id])
        instance = answer["Reservations"][0]["Instances"][0]
        if "VpcId" in instance:
            source = endpoint.source(self.calls, region, instance["VpcId"], self._settings)
            network.admit(self.calls, region, instance["VpcId"], source)

    def hosts(self, note: Callable[[str], None] = unheard) -> list[RentedHost]:
        found = self._rented(self._regions(), None)
        return sorted((each for each in found if each.state != "gone"), key=lambda each: each.began)

    def release(self, host: RentedHost) -> None:
        try:
            self.calls("ec2", "terminate_instances", host.offer.region, InstanceIds=[host.id])
        except Refused as refused:
            if not is_gone(refused):
                raise

    def leftovers(self, note: Callable[[str], None] = unheard, everything: bool = False) -> list[Leftover]:
        def ask(region: str) -> list[Leftover]:
            hosts = [each for each in describe(self.calls, region) if each["State"]["Name"] != "terminated"]
            return network.leftovers(self.calls, region, hosts, self._settings.address)

        return self._in_all(self._regions(), ask)

    def clear(self, leftover: Leftover) -> bool:
        network.clear(self.calls, leftover)
        return True

    def roles(self, make: bool = False) -> Roles:
        return Roles(why_not="not made yet")

    def spent(self, since: float, until: float) -> list[Spent]:
        return []

    def identity(self) -> Identity:
        region = self.calls.region
        told = self.calls("sts", "get_caller_identity", region)
        return Identity(told["Arn"], told["Account"], region)

    def policy(self) -> str:
        from remoterun.providers.aws import permissions

        return permissions.document(self.identity().name, self._settings.bucket)

    def checks(self) -> list[MachineCheck]:
        from remoterun.providers.aws.checks import checks

        return checks(self.calls, self._settings)

    # --- what there is at AWS ---

    def _regions(self) -> list[str]:
        """The regions that this account uses, the usual one first: a host in any other one costs as much."""
        own = self.calls.region
        try:
            listed = self.calls("ec2", "describe_regions", own)["Regions"]
        except Refused as refused:
            if refused.code not in DENIED:
                raise
            return [own]
        return [own, *sorted({each["RegionName"] for each in listed} - {own})]

    def _in_all(self, regions: Sequence[str], ask: Callable[[str], list[Found]]) -> list[Found]:
        """What `ask` finds in each region; nothing where the account forbids one: none of it was made by us."""

        def ask_unless_denied(region: str) -> list[Found]:
            try:
                return ask(region)
            except Refused as refused:
                if refused.code in DENIED and region != regions[0]:
                    return []
                raise

        return [item for found in each_at_once(ask_unless_denied, regions) for item in found]

    def _rented(self, regions: Sequence[str], token: str | None) -> list[RentedHost]:
        def ask(region: str) -> list[RentedHost]:
            listed = describe(self.calls, region, token)
            return [rented for each in listed if (rented := self._as_rented(each, region)) is not None]

        return self._in_all(regions, ask)

    def _as_rented(self, instance: dict[str, Any], region: str) -> RentedHost | None:
        rented = tags.rented_of(instance, region)
        if rented is None:
            return None
        rented = replace(rented, ours=tags.ours(instance["Tags"]).get("home") == tags.home_mark(self._home))
        folder = HostFolder(self._home, rented.token)
        proxy = endpoint.proxy(self._settings, region)
        address = address_of(instance, proxy)
        intent = folder.intent()
        if intent is None or not address or not rented.alive:
            return rented
        return replace(rented, machine=folder.reach(intent.machine, rented.offer.gpus, address, image.USER, proxy))

    def _check_account(self, account: str | None) -> None:
        """Raises `Refused` where these credentials are of another account, which knows nothing of this one's hosts."""
        if account and self.identity().account != account:
            raise Refused(
                "OtherAccount",
                f"these AWS credentials are not of the account {account}, which has the host",
                hint='AWS_PROFILE=…, or profile = "…" below [aws] in config.toml',
            )

    def _live_offers(self, rental: Rental, region: str) -> list[Offer]:
        """An offer for each type and zone that there is, with the spot price of now."""
        zones = self._subnets[region] = network.subnets(self.calls, region)
        filters = [{"Name": "instance-type", "Values": list(rental.types)}]
        listed = self.calls.pages(
            "ec2",
            "describe_instance_type_offerings",
            region,
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=filters,
        )
        there = {(each["InstanceType"], each["Location"]) for each in listed}
        prices = self._spot_prices(rental.types, region) if rental.spot else {}
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
            found += sorted(here, key=lambda each: each.price if each.price is not None and each.spot else 0.0)
        if not found:
            meant = " or ".join(catalogue.nearest(rental.types[0]))
            is_known = rental.types[0] in catalogue.table().types
            hint = f"did you mean {meant}?" if meant and not is_known else "remoterun machines"
            raise NotFound(f"{region} has no {', '.join(rental.types)}", hint=hint)
        size = None
        if rental.image is not None:
            size = image.resolve(self.calls, found[0], rental.image).size
            if image.costs_more(self.calls, rental.image, region):
                found = [replace(each, price=None, priced="", limit=None) for each in found]
        return [catalogue.with_disk(each, catalogue.disk_size(each.gpus, rental.disk, size)) for each in found]

    def _spot_prices(self, types: Sequence[str], region: str) -> dict[tuple[str, str], float]:
        listed = self.calls.pages(
            "ec2",
            "describe_spot_price_history",
            region,
            "SpotPriceHistory",
            InstanceTypes=list(types),
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.datetime.now(datetime.UTC),
        )
        return {(each["InstanceType"], each["AvailabilityZone"]): float(each["SpotPrice"]) for each in reversed(listed)}

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
