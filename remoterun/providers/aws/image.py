"""What a host starts from: Ubuntu, or for GPUs AWS's deep learning base image, which is Ubuntu with the driver and
Docker. Its number changes with each of AWS's releases, so a parameter of theirs is asked for it."""

from __future__ import annotations

from dataclasses import dataclass

from remoterun.providers.aws.calls import Calls, Refused, is_gone
from remoterun.providers.aws.catalogue import architecture
from remoterun.providers.base import Offer

USER = "ubuntu"
"""The user of these images, as whom we log in."""
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
_DEEP_LEARNING = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-ubuntu-{}/latest/ami-id"
_FREE = "Linux/UNIX"


@dataclass(frozen=True)
class Image:
    """An AMI in a region. `size` is that of its root disk in GB."""

    id: str
    name: str
    root_device: str
    size: int


def parameters(offer: Offer) -> list[str]:
    """The names of the parameters that hold the image for an offer, the best one first."""
    arch = architecture(offer.type)
    if not offer.gpus:
        return [_UBUNTU.format({"x86_64": "amd64"}.get(arch, arch))]
    return [_DEEP_LEARNING.format(arch, version) for version in ("24.04", "22.04")]


def resolve(calls: Calls, offer: Offer, asked_for: str | None) -> Image:
    """The image for an offer; `asked_for` is the number of an AMI of the user's. Raises `Refused`."""
    known = (_parameter(calls, parameter, offer.region) for parameter in parameters(offer))
    image = asked_for or next((found for found in known if found is not None), None)
    if image is None:
        raise Refused(
            "ParameterNotFound",
            f"{offer.region} has no image of AWS's for {offer.type}",
            evidence="\n".join(parameters(offer)),
            hint=f"remoterun machines add NAME --aws {offer.type} --image AMI   an Ubuntu with Docker"
            + (" and NVIDIA's driver" if offer.gpus else ""),
        )
    try:
        found = calls("ec2", "describe_images", offer.region, ImageIds=[image])["Images"]
    except Refused as refused:
        if not is_gone(refused):
            raise
        found = []
    if not found:
        raise Refused(
            "InvalidAMIID.NotFound",
            f"there is no image `{image}` in {offer.region}",
            hint="an AMI belongs to a region, and must be public or yours",
        )
    return _image(found[0])


def costs_more(calls: Calls, image: str, region: str) -> bool:
    """Whether an AMI of the user's costs by the hour, beside the machine: its system has a licence, or it is sold on
    AWS's marketplace. One that is not there costs nothing."""
    try:
        found = calls("ec2", "describe_images", region, ImageIds=[image])["Images"]
    except Refused as refused:
        if not is_gone(refused):
            raise
        return False
    return any(each.get("PlatformDetails", _FREE) != _FREE or each.get("ProductCodes") for each in found)


def _parameter(calls: Calls, name: str, region: str) -> str | None:
    try:
        return str(calls("ssm", "get_parameter", region, Name=name)["Parameter"]["Value"])
    except Refused as refused:
        if is_gone(refused):
            return None
        raise


def _image(record: dict[str, object]) -> Image:
    root = str(record.get("RootDeviceName") or "/dev/sda1")
    devices = record.get("BlockDeviceMappings")
    sizes = [
        int(device.get("Ebs", {}).get("VolumeSize") or 0)
        for device in (devices if isinstance(devices, list) else [])
        if device.get("DeviceName") == root
    ]
    return Image(str(record["ImageId"]), str(record.get("Name", "")), root, max(sizes, default=0))
