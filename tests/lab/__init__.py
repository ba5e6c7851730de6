"""Hosts made on this machine, for tests: each has its own network, mounts, processes, sshd and dockerd.

    with Lab() as lab:
        host = lab.host("host-a").up()
        lab.ssh(host, "docker", "run", "--rm", BASE_IMAGE, "true")

Needs root on Linux; `Lab.missing()` says what is absent.
"""

from tests.lab.error import LabError, LabUnavailable
from tests.lab.gpu import Gpu, GpuProcess
from tests.lab.host import Docker, LabHost
from tests.lab.images import BASE_IMAGE, OLD_IMAGE
from tests.lab.lab import Lab, Slow
from tests.lab.local_docker import LocalDocker
from tests.lab.process import Process
from tests.lab.relay import Relay

__all__ = [
    "BASE_IMAGE",
    "Docker",
    "Gpu",
    "GpuProcess",
    "Lab",
    "LabError",
    "LabHost",
    "LabUnavailable",
    "OLD_IMAGE",
    "LocalDocker",
    "Process",
    "Relay",
    "Slow",
]
