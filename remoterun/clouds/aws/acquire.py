"""From an intent to a host that answers: the offers one after the other, and the wait for the one that was given.

Before each call that may make a host, the call stands on disk word for word (`request.json`). Whoever comes after a
crash repeats it: AWS gives the same host for the same `ClientToken`. Only when a call was refused for good, so that it
made nothing, comes the next offer; so an intent stands for one host at the most.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from remoterun.agent.shared.machines import RentalTerms
from remoterun.agent.shared.records import encode, from_json
from remoterun.archive.s3_codes import DENIED, account_fault
from remoterun.clouds.aws import catalogue, endpoint, guard, network, quotas, tags
from remoterun.clouds.aws.calls import REPEATS, Calls, NoCapacityHere, QuotaReached, Refused, is_gone, reason_of
from remoterun.clouds.aws.image import HOST_IMAGE, Image, resolve
from remoterun.clouds.base import HostNeverCame, Intent, NoCapacity, Offer, ProviderUnreachable, RentedHost, Roles
from remoterun.clouds.boot.user_data import END, user_data
from remoterun.clouds.folder import HostFolder, home_mark
from remoterun.errors import HostUnreachable, RemoterunError
from remoterun.model import MachineType, Rental

BOOT_SECONDS = 900.0
"""Until an instance runs; and from then on until the sshd of a large one answers, whose memory is checked first."""
SSHD_SECONDS = 300.0
"""From when another one runs until its sshd answers. After 10 minutes without use it ends by itself."""
ASK_SECONDS = 2.0
"""Between questions about an instance that boots."""
ADMIT_SECONDS = 30.0
"""Between two times that this machine lets itself in, while the host does not answer."""
CLOSED_SECONDS = 90.0
"""From a host's boot on, until it is noted that the wait for its sshd is a long one."""
CLOSED = "port 22 does not answer yet: does this network let no ssh out? `remoterun doctor aws` knows another way"
HIDDEN_SECONDS = 120.0
"""AWS may say for so long that it doesn't know an instance which it has made just now."""
TAKEN_BACK = ("Server.InsufficientInstanceCapacity", "Server.InternalError", "Server.ScheduledStop")
"""Why AWS ends an instance that it has given, before it runs, where another zone may have one."""
USER_DATA_LIMIT = 16 << 10
"""Bytes that RunInstances takes."""
NOTICES = "aws"
"""A key of the agent's `NOTICES`."""


@dataclass
class LaunchRequest:
    """A call that may have made a host, as it stands in `request.json`.

    `number` counts the calls of an intent. `instance` is the host that it made, and `account` whose it is; `refused`
    why it made none; without either nobody knows.
    """

    offer: Offer
    parameters: dict[str, Any]
    number: int
    instance: str | None = None
    refused: str | None = None
    account: str = ""


@dataclass
class Acquisition:
    """One try to get the host of an intent, in one region."""

    _calls: Calls
    _folder: HostFolder
    _intent: Intent
    _say: Callable[[str], None]
    roles: Roles
    """Those that could be used: a host whose role AWS refuses is acquired without it."""
    _subnets: dict[str, dict[str, Any]] | None
    """Those of its region that are known, as `network.subnets` gives them."""
    _note: Callable[[str], None]
    _images: dict[str, Image] = field(default_factory=dict)
    _admitted: tuple[str, list[str]] | None = None

    def host(self, offers: Sequence[Offer]) -> RentedHost:
        """See `Provider.acquire`."""
        self._folder.begin(self._intent)
        with self._folder.locked(self._say):
            request, tried = self._given(), dict[str, str]()
            while True:
                request = request or self._first_given(offers, tried)
                try:
                    self._guard(request)
                    return self._ready(request)
                except NoCapacityHere as refused:  # it was given, and taken back before it ran
                    request.instance, request.refused = None, refused.code
                    self._keep(request)
                    tried[_place(request.offer)] = refused.message
                    request = None
                except BaseException as error:
                    self._end(request, error)
                    raise

    # --- the call ---

    def _given(self) -> LaunchRequest | None:
        """The request of an earlier try that was given a host; its call is repeated where nobody heard the answer."""
        record = self._folder.read("request.json")
        if record is None:
            return None
        request = from_json(LaunchRequest, record)
        if request.instance is not None:
            return request
        if request.refused is not None:
            return None
        self._say("the answer to an earlier call")
        try:
            self._send(request, again=True)
        except (NoCapacityHere, QuotaReached):
            found = describe(self._calls, request.offer.region, self._intent.token)  # whoever made it
            there = [each["InstanceId"] for each in found if each["State"]["Name"] in ("pending", "running")]
            request.instance = next(iter(there), None)
            self._keep(request)
        return request if request.instance is not None else None

    def _first_given(self, offers: Sequence[Offer], tried: dict[str, str]) -> LaunchRequest:
        """The request for the first offer that can be had, of those whose place is not among those that were `tried`,
        with what for. Raises `NoCapacity`, or what is final."""
        reached: dict[object, QuotaReached] = {}
        for offer in offers:
            quota = quotas.quota_of(offer.type, offer.spot) or offer.type
            if quota in reached or _place(offer) in tried:
                continue
            self._say(f"capacity in {offer.zone or offer.region} ({offer.type})")
            try:
                return self._requested(offer)
            except NoCapacityHere as refused:
                if refused.code == "InsufficientFreeAddressesInSubnet" and (own := self._calls.settings.subnet):
                    message, hint = f"the subnet {own} has no free address", "name another `subnet` below [aws]"
                    raise Refused(refused.code, message, evidence=refused.message, hint=hint)
                tried[_place(offer)] = refused.message
            except QuotaReached as refused:
                reached[quota] = quotas.error(self._calls, offer, refused) or refused
        if reached and not tried:
            raise next(iter(reached.values()))
        lines = [f"{place}: {why}" for place, why in tried.items()] + [each.message for each in reached.values()]
        hint = "try again later, or another machine type or region"
        if offers and all(offer.spot for offer in offers):
            hint = "try again later, without `spot=True`, or another machine type or region"
        types = ", ".join(dict.fromkeys(offer.type for offer in offers)) or "nothing"
        raise NoCapacity(f"AWS has no capacity for {types} now", evidence="\n".join(lines) or None, hint=hint)

    def _requested(self, offer: Offer) -> LaunchRequest:
        """The request for an offer, which was given a host."""
        number = int((self._folder.read("request.json") or {}).get("number", 0))
        for pause in (*REPEATS, 0.0, None):
            number += 1
            request = None
            try:
                request = LaunchRequest(offer, self._parameters(offer, number), number)
                self._send(request)
                return request
            except Refused as refused:
                maybe_made = request is not None and request.refused is None
                said = f"{refused.message} {refused.evidence}"
                is_role = self.roles.writer and re.search("IAM Instance Profile|iam:PassRole", said)
                is_new = refused.code.startswith("InvalidGroup") and not self._calls.settings.security_group
                if pause is None or maybe_made or not (is_role or is_new):
                    raise
                if is_role and (not pause or refused.code in DENIED):
                    self.roles = replace(self.roles, writer="", why_not=refused.message)
            self._admitted = None  # somebody's `gc` has removed our security group, or AWS does not know it yet
            time.sleep(pause)
        raise AssertionError("the last try returns, or raises")

    def _send(self, request: LaunchRequest, *, again: bool = False) -> None:
        """Put the call on disk, then make it, until there is an answer. Raises what it is refused with.

        Once a call of it may have been heard (`again`), only an answer about capacity says that there is no host.
        """
        self._keep(request)
        for pause in (*REPEATS, None):
            try:
                made = self._calls("ec2", "run_instances", request.offer.region, **request.parameters)
                request.instance = made["Instances"][0]["InstanceId"]
                request.account = made.get("OwnerId", "")
                self._keep(request)
                return
            except ProviderUnreachable:
                if pause is None:
                    raise
                again = True
                time.sleep(pause)
            except Refused as refused:
                if not again or isinstance(refused, (NoCapacityHere, QuotaReached)):
                    request.refused = refused.code
                    self._keep(request)
                raise

    def _guard(self, request: LaunchRequest) -> None:
        """Let AWS end the host once it hangs, and after its deadline. Where that fails the host goes on without."""
        region, host, intent = request.offer.region, str(request.instance), self._intent
        try:
            guard.make(self._calls, region, host, intent.token, intent.deadline, self.roles.guard)
        except RemoterunError as error:
            self.roles = replace(self.roles, guard="", why_not=error.message)

    def _keep(self, request: LaunchRequest) -> None:
        self._folder.write("request.json", encode(request).decode())

    def _parameters(self, offer: Offer, number: int) -> dict[str, Any]:
        rental = self._intent.machine.rental or Rental("aws", (offer.type,))
        image = self._images.get(offer.type) or resolve(self._calls, offer, rental.image)
        self._images[offer.type] = image
        self._subnets = self._subnets or network.subnets(self._calls, offer.region, self._calls.settings.subnet)
        self._admitted = self._admitted or self._admit(offer.region, next(iter(self._subnets.values()))["VpcId"])
        group, sources = self._admitted
        terms = RentalTerms(
            token=self._intent.token,
            deadline=self._intent.deadline + self._calls.clock_skew,
            idle=self._intent.idle,
            end=list(END),
            notices=NOTICES if offer.spot else "",
        )
        disk = catalogue.disk_size(offer.gpus, rental.disk, image.size)
        priced = catalogue.with_disk(offer, disk)
        role, left = self.roles.writer, max(self._intent.deadline - time.time(), 60.0)
        labels = tags.of_intent(self._intent, priced, " ".join(sources), home_mark(self._folder.home), role)
        kinds = ["instance", "volume", *(["network-interface"] if self._calls.settings.tags else [])]
        subnet = self._subnets.get(offer.zone, {})  # behind an endpoint, it knows whether its hosts need an address
        is_public = self._calls.settings.connect != endpoint.CONNECT or bool(subnet.get("MapPublicIpOnLaunch"))
        return {
            "ClientToken": client_token(self._intent.token, offer, number),
            "UserData": user_data(HOST_IMAGE, self._folder, terms, left, USER_DATA_LIMIT).decode(),
            "TagSpecifications": [tags.specification(kind, {**self._calls.settings.tags, **labels}) for kind in kinds],
            **({"IamInstanceProfile": {"Name": self._calls.settings.host_role}} if role else {}),
            **launch_parameters(offer, image, disk, group, subnet.get("SubnetId"), is_public),
        }

    def _admit(self, region: str, vpc: str) -> tuple[str, list[str]]:
        return endpoint.admit(self._calls, region, vpc, self._calls.settings, home_mark(self._folder.home))

    # --- the wait ---

    def _ready(self, request: LaunchRequest) -> RentedHost:
        """The host of a request that was given one, once it can be used. Where it is reached through a proxy, whether
        sshd answers is known by logging in alone. Raises `HostNeverCame`, `NoCapacityHere`."""
        from remoterun.hosts.ssh.dial import answers

        region, began, is_running, is_silent = request.offer.region, time.monotonic(), False, False
        proxy = endpoint.proxy(self._calls.settings, region)
        why = "it never got a public address"
        admit_at, closed_at, limit = math.inf, math.inf, BOOT_SECONDS
        self._say("its boot")
        while True:
            waited = time.monotonic() - began
            instance = self._described(request, waited < HIDDEN_SECONDS, is_running, why if is_silent else "")
            if instance is not None and instance["State"]["Name"] == "running" and not is_running:
                is_running, is_silent = True, proxy is None
                admit_at, closed_at = waited + ADMIT_SECONDS, waited + CLOSED_SECONDS
                is_slow = request.offer.gpus >= 8 or "metal" in request.offer.type
                limit = waited + (BOOT_SECONDS if is_slow else SSHD_SECONDS)
                self._say("sshd")
            address = instance and address_of(instance, proxy)
            if instance is not None and address and is_running:
                why = f"its address is {address}"
                if proxy is not None or answers(address):
                    is_silent, limit = False, max(limit, BOOT_SECONDS)
                    wanted, user = self._intent.machine, HOST_IMAGE.user
                    machine = self._folder.reach(wanted, request.offer.gpus, address, user, proxy)
                    try:
                        return self._met(request, instance, machine)
                    except HostUnreachable as error:
                        why = error.message
            if instance is not None and waited > admit_at:  # from where this machine is now; `gc` elsewhere may err
                with contextlib.suppress(RemoterunError):
                    self._admit(region, instance["VpcId"])
                admit_at = waited + ADMIT_SECONDS
            if waited > closed_at and proxy is None:
                closed_at = math.inf
                self._note(CLOSED)
            if waited > (HIDDEN_SECONDS if is_running and not address else limit):
                how_long = f"within {waited / 60:.0f} minutes"
                if not is_silent and is_running and address:
                    raise HostNeverCame(f"the host {request.instance} was not ready {how_long}", evidence=why)
                raise _silent(request, how_long, why)
            time.sleep(ASK_SECONDS)

    def _met(self, request: LaunchRequest, instance: dict[str, Any], machine: MachineType) -> RentedHost:
        """The host after its first session."""
        from remoterun.clouds.boot.first_session import learn_key

        found = learn_key(self._folder, self._say)
        rented = tags.rented_of(instance, request.offer.region)
        if rented is None:
            raise HostNeverCame(f"`{request.instance}` has lost its tags", hint="remoterun machines rented")
        self._folder.write("host.json", json.dumps(found, indent=1))
        return replace(rented, machine=machine, state="running", guarded=bool(self.roles.guard))

    def _described(self, request: LaunchRequest, hidden: bool, has_run: bool, silent: str) -> dict[str, Any] | None:
        """The instance now; None where AWS can't be asked, or may not know it yet (`hidden`). `silent`: what is known
        of one whose sshd never answered. Raises `HostNeverCame`; of one that never ran `NoCapacityHere`, or why not."""
        try:
            found = describe(self._calls, request.offer.region, ids=[str(request.instance)])
        except ProviderUnreachable:
            return None
        if not found and hidden:
            return None
        instance = found[0] if found else {"State": {"Name": "terminated"}}
        state, code = instance["State"]["Name"], (instance.get("StateReason") or {}).get("Code", "")
        if not has_run and state in ("shutting-down", "terminated"):
            if code in TAKEN_BACK:
                raise NoCapacityHere(code, reason_of(instance) or code)
            if fault := account_fault(code, "", request.offer.region):
                raise Refused(code, fault[0], evidence=reason_of(instance) or code, hint=fault[1])
        if code == "Client.InstanceInitiatedShutdown" and silent:
            raise _silent(request, "until it ended by itself", silent)
        if tags.STATES.get(state) in ("stopped", "ending", "gone"):
            raise HostNeverCame(
                f"the host {request.instance} ended while it was waited for ({state})",
                evidence=reason_of(instance) or None,
                hint="try again",
            )
        return instance

    def _end(self, request: LaunchRequest, error: BaseException) -> None:
        """End a host that can't be used, or is not wanted any more. One that AWS has made just now may be unknown to it
        for a moment."""
        region, host = request.offer.region, request.instance
        try:
            self._calls.patiently("ec2", "terminate_instances", region, InstanceIds=[host])
            with contextlib.suppress(RemoterunError):  # it fires, and finds nothing
                guard.remove(self._calls, region, self._intent.token)
        except RemoterunError as refused:
            if isinstance(error, RemoterunError) and not is_gone(refused):
                ends = f"{host} ends by itself after 10 minutes without use"
                said = [error.evidence, f"it could not be ended, either: {refused.message}", ends]
                error.evidence = "\n".join(filter(None, said))
                error.hint = "remoterun machines gc aws   ends it now"


def _silent(request: LaunchRequest, how_long: str, evidence: str) -> HostNeverCame:
    message = f"the host {request.instance} did not answer on port 22 {how_long}"
    hint = "remoterun doctor aws   says how hosts are reached where that is closed"
    return HostNeverCame(message, evidence=evidence, hint=hint)


def _place(offer: Offer) -> str:
    return f"{offer.type} in {offer.zone or offer.region}"


def launch_parameters(
    offer: Offer, image: Image, disk: int, group: str, subnet: str | None, public: bool = True
) -> dict[str, Any]:
    """RunInstances for an offer, but for what tells one host from another; `disk`: GB of its root disk; `public`: with
    an address that all can reach."""
    interface = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": public,
        "DeleteOnTermination": True,
        "Groups": [group],
        **({} if subnet is None else {"SubnetId": subnet}),
    }
    volume = {"VolumeType": "gp3", "VolumeSize": disk, "DeleteOnTermination": True, "Encrypted": True}
    parameters: dict[str, Any] = {
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": image.id,
        "InstanceType": offer.type,
        "NetworkInterfaces": [interface],
        "BlockDeviceMappings": [{"DeviceName": image.root_device, "Ebs": volume}],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
    }
    if offer.spot:
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if offer.limit is not None:
            options["MaxPrice"] = f"{offer.limit:.6f}"
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return parameters


def client_token(token: str, offer: Offer, number: int) -> str:
    """What makes AWS give the same host for the same call, and another one for another."""
    text = f"{token} {offer.type} {offer.region} {offer.zone} {offer.spot} {number}"
    return "rr-" + hashlib.sha256(text.encode()).hexdigest()[:48]


def address_of(instance: dict[str, Any], proxy: str | None) -> str | None:
    """Where an instance is reached; None where it is not yet, or no more. A proxy knows it by its id."""
    found: str | None = instance.get("PublicIpAddress") if proxy is None else instance["InstanceId"]
    return found


def describe(calls: Calls, region: str, token: str | None = None, ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The instances in a region that carry a token, or any token of ours; or those with these ids."""
    key = tags.PREFIX + "token"
    filters = [{"Name": f"tag:{key}", "Values": [token]} if token else {"Name": "tag-key", "Values": [key]}]
    if ids:
        filters = [{"Name": "instance-id", "Values": list(ids)}]
    found = calls.pages("ec2", "describe_instances", region, "Reservations", Filters=filters)
    return [instance for reservation in found for instance in reservation["Instances"]]
