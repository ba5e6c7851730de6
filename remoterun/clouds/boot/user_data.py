"""What a new host is told at its first boot: `#cloud-config` and JSON, which is YAML as well.

Nothing is put together as a shell command: `on_host.py` goes along as a file, and its settings as another. What is
secret in it is the host key of the first contact alone, which is changed in the first session; no key of its
provider's, and nothing that may write to a bucket.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from remoterun.agent.shared.machines import RentalTerms
from remoterun.clouds.folder import HostFolder

PROGRAM = "/usr/local/lib/remoterun/on_host.py"
SETTINGS = "/etc/remoterun/host.json"
PYTHON = "/usr/bin/python3"
UNUSED = 600
"""Seconds after which a host ends on which nothing runs as its user, be it that no agent ever came."""
END = ("sudo", "-n", "shutdown", "-P", "now")
"""How the agent ends its host, as its user. Its provider takes the host back by that."""


@dataclass(frozen=True)
class HostImage:
    """What is known of the images that hosts of a provider start from."""

    user: str
    """As whom we log in."""
    disk_model: str = ""
    """A part of the model, as lsblk has it, of the fast disks that come with a machine, and go with it."""
    disk_folder: str = ""
    """Where a service of the image's own mounts these, if it has one."""


def user_data(image: HostImage, folder: HostFolder, terms: RentalTerms, seconds: float, limit: int) -> bytes:
    """`seconds`: from now to the deadline of the terms. Raises `ValueError` for more than `limit` bytes."""
    data = f"#cloud-config\n{json.dumps(cloud_config(image, folder, terms, seconds), indent=1)}\n".encode()
    if len(data) > limit:
        raise ValueError(f"user-data of {len(data)} bytes")
    return data


def cloud_config(image: HostImage, folder: HostFolder, terms: RentalTerms, seconds: float) -> dict[str, Any]:
    """What cloud-init does: host key, our key, files, and then the services of `on_host.py`."""
    settings = {**asdict(image), "home": f"/home/{image.user}/.remoterun", "terms": terms._asdict(), "unused": UNUSED}
    host_key = {"ed25519_private": folder.text("host_key"), "ed25519_public": folder.text("host_key.pub").strip()}
    return {
        "disable_root": True,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": host_key,
        "ssh_authorized_keys": [folder.text("key.pub").strip()],
        "bootcmd": [last_resort(seconds)],
        "write_files": [
            _file(PROGRAM, resources.files(__package__).joinpath("on_host.py").read_text("utf-8"), "0755"),
            _file(SETTINGS, json.dumps(settings, indent=1) + "\n", "0600"),
            _service("prepare", "Type=oneshot"),
            _service("watch", "Restart=always\nRestartSec=5s\nKillMode=process"),
        ],
        "runcmd": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "remoterun-watch.service"],
            ["systemctl", "enable", "--now", "remoterun-prepare.service"],
        ],
    }


def last_resort(seconds: float) -> list[str]:
    """Ends a host at its deadline also where its boot goes no further. It comes before all else that cloud-init does,
    and waits for nothing: the system has not started whole."""
    words = ["systemd-run", "--no-block", "--unit=remoterun-last-resort", f"--on-active={int(seconds)}s"]
    words += [f"--{kind}=DefaultDependencies=no" for kind in ("timer-property", "property")]
    return [*words, "/sbin/shutdown", "-P", "now"]


def _service(name: str, lines: str) -> dict[str, str]:
    """One that starts at each boot, and runs `on_host.py NAME`."""
    unit = f"[Service]\nExecStart={PYTHON} {PROGRAM} {name}\n{lines}\n\n[Install]\nWantedBy=multi-user.target\n"
    return _file(f"/etc/systemd/system/remoterun-{name}.service", unit, "0644")


def _file(path: str, content: str, permissions: str) -> dict[str, str]:
    return {"path": path, "content": content, "permissions": permissions, "owner": "root:root"}
