"""The public images that remoterun may choose, under the names that AWS gives them in the parameter store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.lab import Gpu


@dataclass(frozen=True)
class Image:
    """An AMI of Ubuntu: `parameter` is its name in the parameter store. With `gpu` it is a deep learning image: Docker
    and the NVIDIA driver come with it, and it mounts the machine's fast disks at its first boot."""

    name: str
    parameter: str
    owner: str
    gigabytes: int
    gpu: bool

    def id_in(self, region: str) -> str:
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


IMAGES = (
    Image(
        name="Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261120",
        parameter="/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
        owner="898082745236",
        gigabytes=75,
        gpu=True,
    ),
    Image(
        name="ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261115",
        parameter="/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
        owner="099720109477",
        gigabytes=8,
        gpu=False,
    ),
)


def cards(instance_type: str) -> tuple[Gpu, ...]:
    """The cards in a machine of this type: there are types with a T4, and those without any."""
    return (Gpu("Tesla T4", 15360, compute_cap="7.5"),) if instance_type.startswith("g4dn.") else ()
