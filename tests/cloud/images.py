"""The public images that remoterun may choose, under the names that AWS gives them in the parameter store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.lab import Gpu


@dataclass(frozen=True)
class Image:
    """An AMI: `parameters` are its names in the parameter store, `docker` whether Docker comes with it."""

    name: str
    parameters: tuple[str, ...]
    owner: str
    owner_alias: str | None
    root_device: str
    gigabytes: int
    user: str
    docker: bool = True
    driver: bool = False
    """Whether the NVIDIA driver comes with it: `nvidia-smi` is there on a machine with cards."""
    mounts_store: bool = False
    """Whether it mounts the machine's fast disks at its first boot."""

    def id_in(self, region: str) -> str:
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


def _deep_learning(system: str, title: str, user: str, device: str) -> Image:
    return Image(
        name=f"Deep Learning Base OSS Nvidia Driver GPU AMI ({title}) 20261120",
        parameters=(f"/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-{system}/latest/ami-id",),
        owner="898082745236",
        owner_alias="amazon",
        root_device=device,
        gigabytes=75,
        user=user,
        driver=True,
        mounts_store=True,
    )


IMAGES = (
    _deep_learning("ubuntu-24.04", "Ubuntu 24.04", "ubuntu", "/dev/sda1"),
    _deep_learning("ubuntu-22.04", "Ubuntu 22.04", "ubuntu", "/dev/sda1"),
    _deep_learning("amazon-linux-2023", "Amazon Linux 2023", "ec2-user", "/dev/xvda"),
    Image(
        name="al2023-ami-ecs-hvm-2023.0.20261118-kernel-6.1-x86_64",
        parameters=("/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id",),
        owner="591542846629",
        owner_alias="amazon",
        root_device="/dev/xvda",
        gigabytes=30,
        user="ec2-user",
    ),
    Image(
        name="al2023-ami-ecs-gpu-hvm-2023.0.20261118-kernel-6.1-x86_64-ebs",
        parameters=("/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id",),
        owner="591542846629",
        owner_alias="amazon",
        root_device="/dev/xvda",
        gigabytes=30,
        user="ec2-user",
        driver=True,
    ),
    Image(
        name="ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261115",
        parameters=("/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",),
        owner="099720109477",
        owner_alias=None,
        root_device="/dev/sda1",
        gigabytes=8,
        user="ubuntu",
        docker=False,
    ),
)

CARDS = {  # of a family of types: one of its cards
    "g4dn": Gpu("Tesla T4", 15360, compute_cap="7.5"),
    "g5": Gpu("NVIDIA A10G", 23028, compute_cap="8.6"),
    "g6": Gpu("NVIDIA L4", 23034, compute_cap="8.9"),
    "g6e": Gpu("NVIDIA L40S", 46068, compute_cap="8.9"),
    "p4d": Gpu("NVIDIA A100-SXM4-40GB", 40960, compute_cap="8.0"),
    "p4de": Gpu("NVIDIA A100-SXM4-80GB", 81920, compute_cap="8.0"),
    "p5": Gpu("NVIDIA H100 80GB HBM3", 81559, compute_cap="9.0"),
}
SEVERAL = {  # how many, where it isn't one
    "g4dn.12xlarge": 4,
    "g4dn.metal": 8,
    "g5.12xlarge": 4,
    "g5.24xlarge": 4,
    "g5.48xlarge": 8,
    "g6.12xlarge": 4,
    "g6.24xlarge": 4,
    "g6.48xlarge": 8,
    "g6e.12xlarge": 4,
    "g6e.24xlarge": 4,
    "g6e.48xlarge": 8,
    "p4d.24xlarge": 8,
    "p4de.24xlarge": 8,
    "p5.48xlarge": 8,
}


def cards(instance_type: str) -> tuple[Gpu, ...]:
    """The cards in a machine of this type."""
    card = CARDS.get(instance_type.partition(".")[0])
    return (card,) * SEVERAL.get(instance_type, 1) if card else ()
