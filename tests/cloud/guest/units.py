"""What an instance's host has beside this machine's systemd, as files of its /etc and /usr/local: units of the services
that its image would bring, and stand-ins of two programs that would get at the machine which it shares."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

LAB = "/usr/local/lib/lab"
IMAGES, INSTALLED = f"{LAB}/images.tar", f"{LAB}/docker-installed"
PATIENCE = 15
"""Seconds that a service has for its end when the host shuts down; systemd gives 90."""
ITS_OWN = (
    "sysinit.target basic.target multi-user.target timers.target shutdown.target umount.target final.target "
    "poweroff.target systemd-poweroff.service"
)
"""Of systemd's own units; what else this machine has enabled is not for its hosts."""
ENVIRONMENT = {
    "container": "lab",
    "SYSTEMD_UNIT_PATH": "/etc/systemd/system:/run/systemd/system:/run/systemd/transient",
    "SYSTEMD_GENERATOR_PATH": "/nonexistent",
    "SYSTEMD_LOG_TARGET": "null",
}

MANAGER = f"""\
[Manager]
DefaultStandardOutput=inherit
DefaultStandardError=inherit
DefaultTimeoutStopSec={PATIENCE}s
DefaultTimerAccuracySec=50ms
"""
SSH = """\
[Unit]
Wants=sessions.service
[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D -e
KillMode=process
[Install]
WantedBy=multi-user.target
"""
SESSIONS = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh {LAB}/end-sessions
"""
CLOUD_INIT = f"""\
[Service]
Type=oneshot
StandardInput=file:{LAB}/job.json
StandardOutput=append:/var/log/cloud-init-output.log
StandardError=append:/var/log/cloud-init-output.log
ExecStart=/usr/bin/python3 {LAB}/init.py %i
"""
CONTAINERD = """\
[Service]
Type=notify
ExecStart={program}
KillMode=process
"""
DOCKER = """\
[Unit]
Requires=containerd.service
After=containerd.service
[Service]
Type=notify
ExecStartPre=/bin/sh {lab}/move-images
ExecStart={program}
ExecStartPost=/bin/sh -c "if [ -e {images} ]; then docker load --quiet --input {images}; fi"
KillMode=process
[Install]
WantedBy=multi-user.target
"""

END_SESSIONS = """\
# As logind ends the sessions of users when the host shuts down: what they have left behind goes with them.
group=system.slice/ssh.service/cgroup.procs
all() { cat /sys/fs/cgroup/$group /sys/fs/cgroup/systemd/$group; }
exec 2>/dev/null
kill -TERM $(all)
kill -CONT $(all)
while [ -n "$(all)" ]; do sleep 0.05; done
"""
MOVE_IMAGES = """\
# A data-root of the user's own begins with the images that the lab put on the host: no registry has them.
place=$(sed -n 's/.*"data-root": "\\([^"]*\\)".*/\\1/p' /etc/docker/daemon.json)
if [ -z "$place" ] || [ "$place" = /var/lib/docker ] || mountpoint -q "$place"; then exit; fi
mkdir -p "$place"
if [ -z "$(ls -A "$place")" ]; then mount --bind /var/lib/docker "$place"; fi
"""
APT_GET = f"""\
#!/bin/sh
# Knows the package docker.io alone, which is there already, but hidden.
case "$*" in
    *" update"|update) exit 0 ;;
    *" install docker.io") ;;
    *) echo "apt-get: this stand-in doesn't know $*" >&2; exit 100 ;;
esac
set -e
for each in $(awk '$2 ~ "^/usr/.*/dockerd?$" {{ print $2 }}' /proc/self/mounts); do umount "$each"; done
touch {INSTALLED}
exec systemctl enable --now docker
"""


def write(etc: Path, local: Path) -> None:
    """`etc` and `local`: the folders of this machine that are the host's /etc and /usr/local."""
    units = etc / "systemd" / "system"
    units.mkdir(parents=True)
    os.setxattr(units, "trusted.overlay.opaque", b"y")  # none of this machine's
    for name in ITS_OWN.split():
        (units / name).symlink_to(f"/usr/lib/systemd/system/{name}")
    (units / "default.target").symlink_to("multi-user.target")
    (units / "ssh.service").write_text(SSH)
    (units / "sessions.service").write_text(SESSIONS)
    (units / "cloud-init@.service").write_text(CLOUD_INIT)
    (units / "containerd.service").write_text(CONTAINERD.format(program=shutil.which("containerd")))
    docker = DOCKER.format(lab=LAB, images=IMAGES, program=shutil.which("dockerd"))
    (units / "docker.service").write_text(docker)
    (units.parent / "system.conf").write_text(MANAGER)
    (etc / "sudoers.d").mkdir()
    (etc / "sudoers.d/90-cloud-init-users").write_text("ubuntu ALL=(ALL) NOPASSWD:ALL\n")
    (local / "lib/lab").mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("init.py"), local / "lib/lab/init.py")
    (local / "lib/lab/end-sessions").write_text(END_SESSIONS)
    (local / "lib/lab/move-images").write_text(MOVE_IMAGES)
    (local / "bin/apt-get").write_text(APT_GET)
    (local / "bin/apt-get").chmod(0o755)


def show_disks(local: Path, fast: bool) -> None:
    """What `lsblk` says: of the one disk, which holds the system, and of a fast one."""
    part = {"name": "nvme0n1p1", "path": "/dev/nvme0n1p1", "type": "part", "mountpoint": "/", "fstype": "ext4"}
    kind = {"type": "disk", "mountpoint": None, "fstype": None, "children": [part]}
    disks = [{"name": "nvme0n1", "path": "/dev/nvme0n1", "model": "Amazon Elastic Block Store", **kind}]
    if fast:
        disks.append({"name": "nvme1n1", "path": "/dev/nvme1n1", "model": "Amazon EC2 NVMe Instance Storage", **kind})
    program = local / "bin/lsblk"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'blockdevices': disks})}\nEND\n")
    program.chmod(0o755)
