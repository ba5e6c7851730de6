"""moto, changed where it says what a real EC2 doesn't: its instances become hosts, a ClientToken counts, and so on.

Everything that is changed in moto's modules is put back afterwards.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import moto.settings
from moto.ec2.exceptions import DependencyViolationError, InvalidInstanceIdError, InvalidInstanceTypeError
from moto.ec2.models import amis, iam_instance_profile, instances, security_groups
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.scheduler.models import EventBridgeSchedulerBackend, Schedule
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.models import ServiceQuotasBackend
from moto.ssm.models import Parameter, ParameterDict

from tests.cloud import guards
from tests.cloud.gate import Refusal
from tests.cloud.images import IMAGES
from tests.cloud.machine import USER_SHUTDOWN, Machine

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

Wrapper = Callable[..., Any]

REGIONS = ("eu-central-1", "us-east-1", "us-west-2")
"""Those that the account uses. EC2 lists no others; moto would list 38, and a client asks each one for its hosts."""


class HostedInstance(instances.Instance):
    """moto's instance, whose state is that of a machine."""

    cloud: ClassVar[Cloud]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if kwargs.get("instance_market_options"):
            self.spot_instance_request_id = f"sir-{secrets.token_hex(4)}"
        self.machine = Machine(self.cloud, self)

    def stop(self) -> instances.InstanceState:
        before = self._state
        self.machine.end("stopped", USER_SHUTDOWN)
        return before

    def terminate(self) -> instances.InstanceState:
        before = self._state
        self.machine.end("terminated", USER_SHUTDOWN)
        return before

    # --- what the machine says ---

    def set_state(self, name: str, code: int) -> None:
        self._state = instances.InstanceState(name, code)

    def give_reason(self, code: str, message: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
        self._reason = f"User initiated ({now})" if code.startswith("Client.User") else code
        self.state_reason = instances.StateReason(message, code)

    def leave(self) -> None:
        """Give back its volumes and addresses."""
        super().terminate()


@contextmanager
def changed(cloud: Cloud) -> Iterator[None]:
    """moto plays this cloud meanwhile."""
    put_back: list[Callable[[], None]] = []

    def change(owner: Any, name: str, value: Any) -> None:
        missing = object()
        before = owner.__dict__.get(name, missing)
        setattr(owner, name, value)
        put_back.append(lambda: delattr(owner, name) if before is missing else setattr(owner, name, before))

    change(moto.settings, "ENABLE_AMI_VALIDATION", True)
    change(moto.settings, "EC2_ENABLE_INSTANCE_TYPE_VALIDATION", True)
    change(instances, "Instance", type("HostedInstance", (HostedInstance,), {"cloud": cloud}))
    backend = instances.InstanceBackend
    change(backend, "run_instances", _run_instances(cloud, backend.run_instances))
    change(backend, "describe_instances", _describe_instances(cloud, backend.describe_instances))
    by_id = backend.get_reservations_by_instance_ids
    change(backend, "get_reservations_by_instance_ids", _reservations_by_id(cloud, by_id))
    regions = [region for region in RegionsAndZonesBackend.regions if region.name in REGIONS]
    change(RegionsAndZonesBackend, "regions", regions)
    change(amis.AmiBackend, "_load_amis", _load_amis)
    change(ParameterDict, "__init__", _parameters(ParameterDict.__init__))
    change(ServiceQuotasBackend, "get_service_quota", _get_service_quota(cloud))
    profiles = iam_instance_profile.IamInstanceProfileAssociationBackend
    change(profiles, "associate_iam_instance_profile", _associate(profiles.associate_iam_instance_profile))
    schedules = EventBridgeSchedulerBackend
    change(schedules, "create_schedule", _create_schedule(cloud, schedules.create_schedule))
    change(Schedule, "to_dict", _summary(Schedule.to_dict))
    groups = security_groups.SecurityGroupBackend
    change(groups, "delete_security_group", _delete_security_group(groups.delete_security_group))
    for name in ("authorize_security_group_ingress", "revoke_security_group_ingress"):
        change(groups, name, _then_firewall(cloud, getattr(groups, name)))
    try:
        yield
    finally:
        for each in reversed(put_back):
            each()


def _run_instances(cloud: Cloud, original: Wrapper) -> Wrapper:
    def run_instances(
        self: Any, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
    ) -> Any:
        token = kwargs.get("client_token") or ""
        known_by = (self.account_id, self.region_name, token)
        for group in [each for nic in kwargs.get("nics") or () for each in nic.get("Groups") or ()]:
            if self.get_security_group_from_id(group) is None:
                raise Refusal(400, "InvalidGroup.NotFound", f"The security group '{group}' does not exist")
        wanted = json.dumps(
            [image_id, count, str(user_data), security_group_names, kwargs], default=str, sort_keys=True
        )
        with cloud.lock:
            if token and known_by in cloud.tokens:
                before, reservation = cloud.tokens[known_by]
                if before != wanted:
                    raise Refusal(
                        400,
                        "IdempotentParameterMismatch",
                        "Arguments on this idempotent request are inconsistent with arguments used in previous "
                        "request(s).",
                    )
                return reservation
            kwargs["placement"] = _zone(cloud, self, kwargs)
            try:
                reservation = original(self, image_id, count, user_data, security_group_names, **kwargs)
            except InvalidInstanceTypeError:
                message = f"Invalid value '{kwargs['instance_type']}' for InstanceType."
                raise Refusal(400, "InvalidParameterValue", message)
            for instance in reservation.instances:
                cloud.add(instance.machine)
            if token:
                cloud.tokens[known_by] = wanted, reservation
            for instance in reservation.instances:
                instance.machine.launch()
        return reservation

    return run_instances


def _associate(original: Wrapper) -> Wrapper:
    """Once for an instance: a call may be repeated with its ClientToken."""

    def associate_iam_instance_profile(self: Any, instance_id: str, **kwargs: Any) -> Any:
        known = self.iam_instance_profile_associations.get(instance_id)
        return known or original(self, instance_id, **kwargs)

    return associate_iam_instance_profile


def _create_schedule(cloud: Cloud, original: Wrapper) -> Wrapper:
    def create_schedule(self: Any, **kwargs: Any) -> Any:
        if not guards.may_be_assumed(cloud.role_of(kwargs["target"]["RoleArn"])):
            message = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
            raise Refusal(400, "ValidationException", message)
        return original(self, **kwargs)

    return create_schedule


def _summary(original: Wrapper) -> Wrapper:
    """A list of schedules has these fields of each; moto's has them all."""
    listed = ("Arn", "CreationDate", "GroupName", "LastModificationDate", "Name", "State", "Target")

    def to_dict(self: Any, short: bool = False) -> Any:
        found = original(self, short)
        return {name: found[name] for name in listed} if short else found

    return to_dict


def _zone(cloud: Cloud, backend: Any, kwargs: dict[str, Any]) -> str | None:
    """The zone in which there is room, as the request has it; raises what EC2 says where there is none."""
    kind, spot = kwargs["instance_type"], bool(kwargs.get("instance_market_options"))
    subnet_id = kwargs.get("subnet_id") or next((nic["SubnetId"] for nic in kwargs["nics"] if "SubnetId" in nic), None)
    zones: list[str] = sorted(zone.name for zone in backend.describe_availability_zones())
    zone = backend.get_subnet(subnet_id).availability_zone if subnet_id else kwargs.get("placement")
    asked = None if zone is None else str(zone)
    if asked is None:
        free = [zone for zone in zones if cloud.refusal(kind, zone, spot) is None]
        if free:
            return free[0]
    refusal = cloud.refusal(kind, asked or zones[0], spot)
    if refusal is not None:
        raise refusal
    return None if subnet_id else asked


def _describe_instances(cloud: Cloud, original: Wrapper) -> Wrapper:
    def describe_instances(self: Any, filters: Any = None) -> Any:
        found = original(self, filters)
        for reservation in found:
            reservation.instances = [each for each in reservation.instances if not cloud.still_hidden(each.id)]
        return [reservation for reservation in found if reservation.instances]

    return describe_instances


def _reservations_by_id(cloud: Cloud, original: Wrapper) -> Wrapper:
    def get_reservations_by_instance_ids(self: Any, instance_ids: list[str], filters: Any = None) -> Any:
        hidden = [each for each in instance_ids if cloud.still_hidden(each)]
        if hidden:
            raise InvalidInstanceIdError(hidden)
        return original(self, instance_ids, filters)

    return get_reservations_by_instance_ids


def _load_amis(self: Any) -> None:
    for image in IMAGES:
        identity = image.id_in(self.region_name)
        ami = amis.Ami(
            self,
            identity,
            name=image.name,
            description=image.name,
            owner_id=image.owner,
            public=True,
            virtualization_type="hvm",
            architecture="x86_64",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name="/dev/sda1",
            region_name=f"{self.region_name}a",
        )
        ami.ebs_snapshot.volume.size = image.gigabytes
        self.amis[identity] = _sized(ami, image.gigabytes)


def _sized(ami: amis.Ami, gigabytes: int) -> amis.Ami:
    """The same image, whose root volume is as large as a real one's; moto says 15 GB of every image."""

    class Sized(type(ami)):  # type: ignore[misc]
        @property
        def block_device_mappings(self) -> list[dict[str, Any]]:
            ebs = {"SnapshotId": self.ebs_snapshot.id, "VolumeSize": gigabytes}
            ebs |= {"DeleteOnTermination": True, "VolumeType": "gp3", "Encrypted": False}
            return [{"DeviceName": self.root_device_name, "Ebs": ebs}]

    ami.__class__ = Sized
    return ami


def _parameters(original: Wrapper) -> Wrapper:
    def initialise(self: Any, account_id: str, region_name: str) -> None:
        original(self, account_id, region_name)
        self.latest_ecs_amis_loaded = True
        for image in IMAGES:
            parameter = Parameter(  # type: ignore[abstract]
                account_id=account_id,
                name=image.parameter,
                value=image.id_in(region_name),
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime.datetime.now(datetime.UTC),
                version=1,
                data_type="aws:ec2:image",
            )
            dict.__setitem__(self, image.parameter, [parameter])

    return initialise


def _get_service_quota(cloud: Cloud) -> Wrapper:
    def get_service_quota(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2" or quota_code not in cloud.quotas:
            raise NoSuchResource
        return {"ServiceCode": "ec2", "QuotaCode": quota_code, "Value": float(cloud.quotas[quota_code].vcpus)}

    return get_service_quota


def _delete_security_group(original: Wrapper) -> Wrapper:
    def delete_security_group(self: Any, name: str | None = None, group_id: str | None = None) -> Any:
        for instance in self.all_instances():
            used = {group.id for nic in instance.nics.values() for group in nic.group_set}
            if group_id in used and instance.state != "terminated":
                raise DependencyViolationError(f"resource {group_id} has a dependent object")
        return original(self, name, group_id)

    return delete_security_group


def _then_firewall(cloud: Cloud, original: Wrapper) -> Wrapper:
    def change(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = original(self, *args, **kwargs)
        cloud.set_firewalls()
        return done

    return change
