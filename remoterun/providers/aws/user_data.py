"""What a new host is told at its first boot: `#cloud-config` and JSON, which is YAML as well.

Nothing is put together as a shell command: `on_host.py` goes along as a file, and its settings as another. What is
secret in it is the host key of the first contact alone, which is changed in the first session; no key of AWS's, and
nothing that may write to a bucket.
"""

from __future__ import annotations

import datetime
import gzip
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from remoterun.agent.shared.machines import RentalTerms
from remoterun.providers.aws.image import USER

LIMIT = 16 << 10
"""Bytes that AWS takes."""
PROGRAM = "/usr/local/lib/remoterun/on_host.py"
SETTINGS = "/etc/remoterun/host.json"
PYTHON = "/usr/bin/python3"
HOME = f"/home/{USER}/.remoterun"
UNUSED = 1800
"""Seconds after which a host ends on which nothing runs as its user, be it that no agent ever came."""
END = ("sudo", "-n", "shutdown", "-P", "now")
"""How the agent ends its host, as its user. The instance is terminated by that."""


@dataclass(frozen=True)
class FirstBoot:
    """`seconds`: from now to the deadline of the terms."""

    host_key: str
    host_key_public: str
    authorized: str
    terms: RentalTerms
    seconds: float


def user_data(boot: FirstBoot) -> bytes:
    """As RunInstances takes it (boto3 encodes it in base64). Raises `ValueError` where it is too long for AWS."""
    text = f"#cloud-config\n{json.dumps(cloud_config(boot), indent=1)}\n".encode()
    data = text if len(text) <= LIMIT else gzip.compress(text, mtime=0)
    if len(data) > LIMIT:
        raise ValueError(f"user-data of {len(data)} bytes")
    return data


def cloud_config(boot: FirstBoot) -> dict[str, Any]:
    """What cloud-init does: host key, our key, files, and then `on_host.py prepare`."""
    settings = {
        "user": USER,
        "home": HOME,
        "terms": boot.terms._asdict(),
        "unused": UNUSED,
    }
    return {
        "disable_root": True,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": boot.host_key, "ed25519_public": boot.host_key_public},
        "ssh_authorized_keys": [boot.authorized],
        "bootcmd": [last_resort(boot.seconds)],
        "write_files": [
            _file(PROGRAM, resources.files(__package__).joinpath("on_host.py").read_text("utf-8"), "0755"),
            _file(SETTINGS, json.dumps(settings, indent=1) + "\n", "0600"),
            *(_file(f"/etc/systemd/system/{name}", text) for name, text in units(boot.terms.deadline).items()),
        ],
        "runcmd": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "remoterun-deadline.timer", "remoterun-watch.service"],
            [PYTHON, PROGRAM, "prepare"],
        ],
    }


def last_resort(seconds: float) -> list[str]:
    """Ends a host whose boot goes no further. It comes before all else that cloud-init does, and waits for nothing: the
    system has not started whole."""
    words = ["systemd-run", "--no-block", "--unit=remoterun-last-resort", f"--on-active={int(seconds)}s"]
    return [*words, "/sbin/shutdown", "-P", "now"]


def units(deadline: float) -> dict[str, str]:
    """What ends the host whatever the agent does: a timer of systemd's at the deadline, and a watch that sees whether
    anybody uses it."""
    moment = datetime.datetime.fromtimestamp(int(deadline), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "remoterun-deadline.timer": _unit(
            Unit={"Description": "remoterun ends this host at its deadline"},
            Timer={"OnCalendar": moment, "AccuracySec": "1s", "Unit": "remoterun-deadline.service"},
            Install={"WantedBy": "timers.target"},
        ),
        "remoterun-deadline.service": _unit(
            Unit={"Description": "remoterun ends this host"},
            Service={"Type": "oneshot", "ExecStart": "/sbin/shutdown -P now"},
        ),
        "remoterun-watch.service": _unit(
            Unit={"Description": "remoterun ends this host when nobody uses it"},
            Service={"ExecStart": f"{PYTHON} {PROGRAM} watch", "Restart": "always", "RestartSec": "5s"},
            Install={"WantedBy": "multi-user.target"},
        ),
    }


def _unit(**sections: dict[str, str]) -> str:
    parts = []
    for name, values in sections.items():
        parts.append(f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items()))
    return "\n".join(parts)


def _file(path: str, content: str, permissions: str = "0644") -> dict[str, str]:
    return {"path": path, "content": content, "permissions": permissions, "owner": "root:root"}
