"""What a host starts from: Ubuntu, or for GPUs AWS's deep learning base image, which is Ubuntu with the driver and
Docker. Its number changes with each of AWS's releases, so a parameter of theirs is asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from remoterun.clouds.aws.calls import Calls, Refused
from remoterun.clouds.aws.catalogue import architecture
from remoterun.clouds.base import Offer
from remoterun.clouds.boot.user_data import HostImage

HOST_IMAGE = HostImage("ubuntu", "Instance Storage", "/opt/dlami/nvme")
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
_DEEP_LEARNING = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-ubuntu-{}/latest/ami-id"
_FREE = "Linux/UNIX"


@dataclass(frozen=True)
class Image:
    """An AMI in a region. `size` is that of its root disk in GB. It `costs_more` where it has a price by the hour
    beside that of the machine: its system has a licence, or it is sold on AWS's marketplace."""

    id: str
    name: str
    root_device: str
    size: int
    costs_more: bool = False


def parameters(offer: Offer) -> list[str]:
    """The names of the parameters that hold the image for an offer, the best one first."""
    arch = architecture(offer.type)
    if not offer.gpus:
        return [_UBUNTU.format({"x86_64": "amd64"}.get(arch, arch))]
    return [_DEEP_LEARNING.format(arch, version) for version in ("24.04", "22.04")]


def resolve(calls: Calls, offer: Offer, asked_for: str | None) -> Image:
    """The image for an offer; `asked_for` is the number of an AMI of the user's. Raises `Refused`."""
    known = (calls.if_there("ssm", "get_parameter", offer.region, Name=name) for name in parameters(offer))
    image = asked_for or next((found["Parameter"]["Value"] for found in known if found), None)
    if image is None:
        raise Refused(
            "ParameterNotFound",
            f"{offer.region} has no image of AWS's for {offer.type}",
            evidence="\n".join(parameters(offer)),
            hint=f"remoterun machines add NAME --aws {offer.type} --image AMI   an Ubuntu with Docker"
            + (" and NVIDIA's driver" if offer.gpus else ""),
        )
    found = calls.if_there("ec2", "describe_images", offer.region, ImageIds=[image]).get("Images")
    if not found:
        raise Refused(
            "InvalidAMIID.NotFound",
            f"there is no image `{image}` in {offer.region}",
            hint="an AMI belongs to a region, and must be public or yours",
        )
    return _image(found[0])


def _image(record: dict[str, Any]) -> Image:
    root = record.get("RootDeviceName") or "/dev/sda1"
    disks = [each.get("Ebs", {}) for each in record.get("BlockDeviceMappings", ()) if each.get("DeviceName") == root]
    size = max((disk.get("VolumeSize", 0) for disk in disks), default=0)
    costs_more = record.get("PlatformDetails", _FREE) != _FREE or bool(record.get("ProductCodes"))
    return Image(record["ImageId"], record.get("Name", ""), root, size, costs_more)
