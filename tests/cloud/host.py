"""An instance's host: a lab host that only its user-data lets in, and that can end itself."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.cloud.guest import units
from tests.lab.error import LabError
from tests.lab.host import PATH, LabHost
from tests.lab.images import BASE_IMAGE
from tests.lab.process import PATIENCE, run, until

INSTALLED = units.INSTALLED.replace("/usr/local", "usr-local", 1)
STORE = "/opt/dlami/nvme"  # where the deep learning images mount the fast disks
OWN_FOLDERS = ("/opt", "/mnt", "/srv", "/var/lib", "/var/log")
TO_CONTAINERD = f"""\
docker save {BASE_IMAGE} >{units.IMAGES}
mkdir -p /var/lib/containerd
mount -t tmpfs -o mode=711 images /var/lib/containerd
echo '{{"features": {{"containerd-snapshotter": true}}}}' >/etc/docker/daemon.json
systemctl restart containerd docker
"""
METADATA_ADDRESS = "169.254.169.254"


@dataclass(frozen=True)
class Rule:
    """Of a security group: who may come in where. `protocol` -1 is any."""

    source: str
    protocol: str
    first: int | None
    last: int | None


def cloud_config(user_data: bytes) -> dict[str, Any]:
    """What a user-data text asks of cloud-init."""
    text = gzip.decompress(user_data) if user_data[:2] == b"\x1f\x8b" else user_data
    config = yaml.safe_load(text)
    assert text.startswith(b"#cloud-config") and isinstance(config, dict)
    return config


class CloudHost(LabHost):
    """Made by `Lab.host`; `prepare` comes before `up`, which only boots: `init`, sshd and so on are steps of their own,
    that whoever plays the cloud takes in turn."""

    def prepare(
        self, user_data: bytes, *, docker: bool, store: bool, tags: dict[str, str], in_containerd: bool
    ) -> None:
        """Before the first boot: the user-data, whether the image has Docker (else `apt-get install docker.io` brings
        it), and whether the machine has fast disks, which the image mounts; `tags`: more names for images of its
        Docker."""
        self._config = cloud_config(user_data)
        self._store = store
        self._tags = tags
        self._in_containerd = in_containerd
        self._booting = threading.Lock()
        units.show_disks(self._folder / "usr-local", fast=in_containerd)
        if docker:
            (self._folder / INSTALLED).touch()
        self.note(f"Linux version {os.uname().release}")

    def init(self) -> None:
        """The part of cloud-init that comes before sshd."""
        self._cloud_init("init")

    def start_docker(self) -> None:
        """If it is installed. Its images lie with containerd if they are to, as those of Docker 29 do."""
        if (self._folder / INSTALLED).exists():
            self.start_dockerd()
            if self._in_containerd:
                self.exec(["sh", "-ec", TO_CONTAINERD], timeout=300, check=True)
            for name, image in self._tags.items():
                self.exec(["docker", "tag", image, name])

    def finish(self) -> None:
        """The rest of cloud-init of the first boot."""
        self._cloud_init("final")

    def start_sshd(self, *, wait: bool = True) -> None:
        self.exec(["systemctl", "enable", "--now", "ssh"], check=True)

    def start_dockerd(self) -> None:
        self.exec(["systemctl", "enable", "--now", "docker"], check=True)

    def reboot(self) -> None:
        """As after a panic of its kernel: every process is gone, and so is what was mounted since its first boot, and
        what lies in /run. The disks have what was written, also the fast ones; their service has mounted these."""
        with self._booting:
            assert self._machine is not None
            self._machine.kill()
            self._machine.wait()
            self._boot()

    def hang(self) -> None:
        """Nothing in it goes on, though it is on."""
        os.kill(self._pid(), signal.SIGSTOP)
        self.exec(["/bin/sh", "-c", "kill -STOP -1"])

    def shut_down(self, seconds: float) -> None:
        """Press its power button and wait; without success within `seconds`, it is switched off."""
        try:
            if seconds:
                self.exec(["systemctl", "poweroff", "--no-block"], timeout=seconds, check=True)
            until(lambda: not self.is_up(), seconds, f"{self.name} shuts down", pause=0.02)
        except LabError as error:
            self.note(f"no clean shutdown: {error}")
        self.down()

    def wait_for_end(self) -> None:
        """Blocks until it is off."""
        while True:
            machine = self._machine
            assert machine is not None
            machine.wait()
            with self._booting:
                if self._machine is machine or self._machine is None:
                    return

    def let_in(self, rules: Iterable[Rule], metadata_hops: int) -> None:
        """Let in what the rules say and nothing else; connections that are there go on. Nothing else than the host
        itself gets at the metadata service, unless its answers may go further than one hop."""
        lines = ["*filter", ":LAB-IN - [0:0]"]
        if metadata_hops <= 1:
            lines.append(f"-A LAB-IN -d {METADATA_ADDRESS} ! -i lo -j DROP")
        lines += ["-A LAB-IN ! -i eth0 -j RETURN", "-A LAB-IN -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]
        for rule in rules:
            words = f"-A LAB-IN -s {rule.source}"
            if rule.protocol != "-1":
                words += f" -p {rule.protocol}"
            if rule.protocol in ("tcp", "udp"):
                words += f" --dport {rule.first}:{rule.last}"
            lines.append(f"{words} -j RETURN")
        lines += ["-A LAB-IN -j DROP", "COMMIT"]
        inside = ["nsenter", f"--net=/run/netns/{self._namespace}"]
        run([*inside, "iptables-restore", "-w", "--noflush"], input="\n".join(lines) + "\n")
        if run([*inside, "iptables", "-w", "-C", "INPUT", "-j", "LAB-IN"], check=False).returncode:
            run([*inside, "iptables", "-w", "-A", "INPUT", "-j", "LAB-IN"])

    def note(self, text: str) -> None:
        """A line on its console."""
        with (self.logs / "boot.log").open("a") as file:
            file.write(f"[{time.time():.3f}] {text}\n")

    @property
    def namespace(self) -> str:
        """The name of its network namespace."""
        return self._namespace

    # --- how it is made ---

    def _make_folders(self, public_key: str) -> None:
        super()._make_folders("")
        for folder in OWN_FOLDERS:
            for suffix in ("", "-work"):
                (self._folder / (_flat(folder) + suffix)).mkdir()
        with (self._folder / "etc/ssh/sshd_config").open("a") as file:
            file.write(f"SetEnv PATH={PATH}\n")  # as PAM does it there, from /etc/environment
        (self._folder / "store").mkdir()
        units.write(self._folder / "etc", self._folder / "usr-local")

    def _boot(self) -> None:
        super()._boot()
        answers = ["systemctl", "is-system-running", "--wait"]
        until(lambda: self.exec(answers).stdout.strip() in ("running", "degraded"), PATIENCE, f"{self.name} boots")
        words = ["-n", self._namespace, "addr", "replace", f"{METADATA_ADDRESS}/32", "dev", "lo"]
        run(["ip", *words])

    def _start_services(self) -> None:
        pass

    def _more_mounts(self, mine: Mapping[str, str]) -> list[str]:
        lines = []
        for folder in OWN_FOLDERS:
            upper, work = mine[_flat(folder)], mine[_flat(folder) + "-work"]
            options = f"lowerdir={folder},upperdir={upper},workdir={work}"
            lines.append(f"mkdir -p {folder} && mount -t overlay overlay -o {options} {folder}")
        if not (self._folder / INSTALLED).exists():
            programs = [shutil.which("docker"), shutil.which("dockerd")]
            lines += [f"mount --bind /dev/null {program}" for program in programs if program]
        if self._store:
            lines.append(f"mkdir -p {STORE} && mount --bind {mine['store']} {STORE}")
        return lines

    def _first_process(self) -> str:
        """systemd, which needs a tree of control groups of its own."""
        settings = " ".join(f"{name}={value}" for name, value in units.ENVIRONMENT.items())
        place, what = "/sys/fs/cgroup/systemd", "cgroup -o none,name=systemd"
        if not os.path.isdir(place):
            place, what = "/sys/fs/cgroup", "cgroup2"
        mine = f"{place}/{self._namespace}"
        run(["mkdir", "-p", mine])
        inside = f"mount -t {what} systemd {place} && exec env {settings} /usr/lib/systemd/systemd"
        return shlex.join(["sh", "-c", f"echo 0 >{mine}/cgroup.procs && exec unshare --cgroup sh -c '{inside}'"])

    def _cloud_init(self, stage: str) -> None:
        """As a service: `nsenter`, stopped with its child when the host shuts down, would keep that from its end."""
        job = {"user": self.user, "config": self._config}
        (self._folder / "usr-local/lib/lab/job.json").write_text(json.dumps(job))
        self.exec(["systemctl", "start", *(["--no-block"] if stage == "final" else []), f"cloud-init@{stage}"])


def _flat(folder: str) -> str:
    return "own" + folder.replace("/", "-")
