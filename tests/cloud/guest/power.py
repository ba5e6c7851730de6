#!/usr/bin/python3
"""What a lab's host has in place of systemd, and of what would get at the machine that it shares with others:
shutdown, poweroff, systemctl, systemd-run, sudo, apt-get, lsblk.

One program that does what its name says, so that what remoterun does on a real Ubuntu works on a host without systemd:
timers really run out, services are started again when they end, and shutting down really ends the host. What it doesn't
know is an error, never passed over: it knows what remoterun uses.

Standard library only: it runs with the Python of the host.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

STATE = "/run/lab-units"
UNITS = ("/etc/systemd/system", "/run/systemd/system")
ENABLED = "/etc/systemd/lab-enabled"  # a file an enabled unit
ROOT = "/run/lab-root/setpriv"
PATIENCE = 15.0  # seconds that processes have for ending when the host shuts down; systemd gives 90
UNIT_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0}
DAEMONS = {"ssh": ["/usr/sbin/sshd", "-D", "-e"], "docker": ["dockerd"], "containerd": ["containerd"]}
SOCKETS: dict[str, str | tuple[str, int]] = {
    "dockerd": "/run/docker.sock",
    "containerd": "/run/containerd/containerd.sock",
    "/usr/sbin/sshd": ("127.0.0.1", 22),
}
IMAGES = "/usr/local/lib/lab/images.tar"
INSTALLED = "/usr/local/lib/lab/docker-installed"


Section = dict[str, list[str]]
"""Of a unit file: the values of each key."""


def main() -> None:
    name = os.path.basename(sys.argv[0])
    words = sys.argv[1:]
    programs: dict[str, Callable[[], int]] = {
        "apt-get": lambda: apt_get(words),
        "lsblk": lambda: lsblk(words),
        "poweroff": end_now,
        "shutdown": lambda: shutdown(words),
        "systemctl": lambda: systemctl(words),
        "systemd-run": lambda: systemd_run(words),
        "sudo": lambda: sudo(words),
    }
    sys.exit(programs[name]())


# --- ending the host ---


def shutdown(words: list[str]) -> int:
    if words != ["-P", "now"]:
        return fail(f"shutdown: this stand-in doesn't know {words}")
    return end_now()


def end_now() -> int:
    need_root("poweroff")
    in_background("ending", end)
    return 0


def end() -> None:
    """As systemd does it: ask every process but those of containers, which dockerd ends, and then power off."""
    deadline = time.monotonic() + PATIENCE
    own = os.readlink("/proc/self/ns/pid")

    def others() -> dict[int, str]:
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in (1, os.getpid()):
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                if command and command != "sleep infinity" and os.readlink(f"/proc/{entry}/ns/pid") == own:
                    found[int(entry)] = command
            except OSError:
                continue
        return found

    def asked(command: str) -> bool:
        return not re.match(r"(\S*/)?containerd", command)

    seen: set[int] = set()
    while time.monotonic() < deadline:
        left = {pid for pid, command in others().items() if asked(command)}
        for pid in left - seen:
            for number in (signal.SIGTERM, signal.SIGCONT):
                send(pid, number)
        seen |= left
        if not left:
            break
        time.sleep(0.02)
    os.kill(1, signal.SIGTERM)


# --- units ---


def systemctl(words: list[str]) -> int:
    flags = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    if any(flag not in ("--now", "--no-block", "--no-pager", "--all") for flag in flags) or not rest:
        return fail(f"systemctl: this stand-in doesn't know {words}")
    verb, units = rest[0], [whole_name(unit) for unit in rest[1:]]
    if verb == "daemon-reload":
        return 0
    if verb == "is-active":
        states = [is_active(unit) for unit in units]
        for state in states:
            print("active" if state else "inactive")
        return 0 if all(states) else 3
    need_root(f"{verb} {' '.join(units)}")
    status = 0
    for unit in units:
        status |= change(verb, unit, "--now" in flags)
    return status


def change(verb: str, unit: str, now: bool) -> int:
    if verb == "enable":
        read_unit(unit)
        os.makedirs(ENABLED, exist_ok=True)
        open(os.path.join(ENABLED, unit), "w").close()
        return start(unit) if now else 0
    if verb not in ("start", "restart"):
        return fail(f"systemctl: this stand-in doesn't know the verb {verb}")
    if is_daemon(unit):
        return change_daemon(verb, unit)
    if verb == "restart":
        cancel(unit)
    return start(unit)


def start(unit: str) -> int:
    if is_active(unit):
        return 0
    sections = read_unit(unit)
    if unit.endswith(".timer"):
        seconds = seconds_of(last(sections["Timer"], "OnActiveSec", ""))
        target = unit[: -len(".timer")] + ".service"

        def count_down() -> None:
            wait(seconds)
            start(target)

        in_background(unit, count_down)
        return 0
    service = sections["Service"]
    in_background(unit, lambda: serve(service, unit))
    return 0


def serve(service: Section, unit: str) -> int:
    """Run a service's command, again and again if it is to be restarted. Returns its status."""
    pause = seconds_of(last(service, "RestartSec", "100ms"))
    while True:
        status = run_command(last(service, "ExecStart", ""), os.path.join("/var/log", f"{unit}.log"))
        if last(service, "Restart", "no") != "always":
            return status
        wait(pause)


def run_command(command: str, log: str) -> int:
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    with open(log, "ab") as output:
        child = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd="/",
            start_new_session=True,
        )

    def stop(number: int, frame: Any) -> None:
        try:
            os.killpg(child.pid, signal.SIGTERM)
            os.waitpid(child.pid, 0)  # not child.wait(), whose lock is held by what this signal has interrupted
        except (ProcessLookupError, ChildProcessError):
            pass
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    status = child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return abs(status)


def systemd_run(words: list[str]) -> int:
    """Options and then a command, which runs when its timer runs out."""
    options = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    early = [options.pop(kind, "") for kind in ("--timer-property", "--property")]
    if options.keys() != {"--no-block", "--unit", "--on-active"} or set(early) != {"DefaultDependencies=no"}:
        return fail(f"systemd-run: this stand-in doesn't know {words}")
    need_root("start transient unit")
    unit, command = options["--unit"], words[len(options) + len(early) :]
    if is_active(f"{unit}.timer") or is_active(f"{unit}.service"):
        return fail(f"Failed to start transient unit: Unit {unit} was already loaded")
    write_unit(f"{unit}.service", "Service", {"ExecStart": [" ".join(map(shlex.quote, command))]})
    write_unit(f"{unit}.timer", "Timer", {"OnActiveSec": [options["--on-active"]]})
    return start(f"{unit}.timer")


def read_unit(unit: str) -> dict[str, Section]:
    """A unit file as {section: {key: [values]}}."""
    for folder in UNITS:
        try:
            with open(os.path.join(folder, unit)) as file:
                text = file.read().replace("\\\n", " ")
            break
        except FileNotFoundError:
            continue
    else:
        sys.exit(fail(f"Failed to start {unit}: Unit {unit} not found.", 5))
    sections: dict[str, Section] = {}
    section: Section = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            section.setdefault(key.strip(), []).append(value.strip())
    return sections


def write_unit(unit: str, section: str, values: Section) -> None:
    os.makedirs(UNITS[1], exist_ok=True)
    with open(os.path.join(UNITS[1], unit), "w") as file:
        file.write(f"[{section}]\n" + "".join(f"{key}={each}\n" for key in values for each in values[key]))


def last(section: Section, key: str, default: str) -> str:
    return (section.get(key) or [default])[-1]


def whole_name(unit: str) -> str:
    return unit if re.search(r"\.(service|timer)$", unit) else f"{unit}.service"


def is_active(unit: str) -> bool:
    if is_daemon(unit):
        return bool(daemon_pids(unit))
    try:
        with open(os.path.join(STATE, unit)) as file:
            return os.path.exists(f"/proc/{int(file.read())}")
    except (OSError, ValueError):
        return False


# --- the daemons that the lab starts itself ---


def is_daemon(unit: str) -> bool:
    return unit.removesuffix(".service") in DAEMONS


def daemon_words(unit: str) -> list[str]:
    return DAEMONS[unit.removesuffix(".service")]


def daemon_pids(unit: str) -> list[int]:
    """The processes of this program whose parent is process 1: of sshd the one that listens."""
    program = daemon_words(unit)[0]
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read().decode(errors="replace").replace("\0", " ")
            with open(f"/proc/{entry}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if entry.isdigit() and parent == "1" and command.replace("sshd: ", "", 1).split(" ")[0] == program:
            found.append(int(entry))
    return found


def change_daemon(verb: str, unit: str) -> int:
    if verb == "restart":
        pids = daemon_pids(unit)
        for pid in pids:
            send(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while daemon_pids(unit) and time.monotonic() < deadline:
            time.sleep(0.02)
    if not daemon_pids(unit):
        if daemon_words(unit) == ["dockerd"]:
            if not docker_is_installed():
                return fail(f"Failed to {verb} docker.service: Unit docker.service not found.", 5)
            change_daemon("start", "containerd.service")
            move_images()
        with open(f"/var/log/{os.path.basename(daemon_words(unit)[0])}.log", "ab") as log:
            words = ["setsid", "--fork", *daemon_words(unit)]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        deadline = time.monotonic() + 20
        while not daemon_pids(unit) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not daemon_pids(unit) or not listens(unit):
            return 1
        if daemon_words(unit) == ["dockerd"] and os.path.exists(IMAGES):  # they were left in another folder
            return subprocess.run(["docker", "load", "--quiet", "--input", IMAGES]).returncode
    return 0


def listens(unit: str) -> bool:
    """Whether it can be talked to by now, as systemd waits for it."""
    name = daemon_words(unit)[0]
    address = SOCKETS[name]
    deadline = time.monotonic() + 60
    while daemon_pids(unit) and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as link:
            try:
                link.connect(address)
                if name != "dockerd":
                    return True
                link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in link.recv(4096):
                    return True
            except OSError:
                pass
        time.sleep(0.02)
    return False


def move_images() -> None:
    """A data-root of the user's own begins with the images that the lab put on the host: no registry has them."""
    try:
        with open("/etc/docker/daemon.json") as file:
            place = json.load(file).get("data-root")
    except FileNotFoundError:
        return
    if place and place != "/var/lib/docker" and not os.path.ismount(place):
        os.makedirs(place, exist_ok=True)
        if not os.listdir(place):
            subprocess.run(["mount", "--bind", "/var/lib/docker", place], check=True)


# --- what would get at the machine that the host shares with others ---


def docker_is_installed() -> bool:
    return shutil.which("dockerd") is not None


def apt_get(words: list[str]) -> int:
    """Knows the package docker.io alone, which is there already, but hidden."""
    rest = [word for word in words if not word.startswith("-")]
    if rest[:1] == ["update"]:
        return 0
    if rest[:1] != ["install"]:
        return fail(f"apt-get: this stand-in doesn't know {words}")
    need_root("install")
    for package in rest[1:]:
        if package != "docker.io":
            return fail(f"E: Unable to locate package {package}", 100)
    if not docker_is_installed():
        with open("/proc/self/mounts") as file:
            hidden = [line.split()[1] for line in file if re.search(r"/dockerd? ", line)]
        for path in hidden:
            if path.startswith("/usr/"):
                subprocess.run(["umount", path], check=True)
        open(INSTALLED, "w").close()
    return change_daemon("start", "docker.service")


def lsblk(words: list[str]) -> int:
    """One disk, which holds the system; and where Docker has its images with containerd, a fast one, too."""
    if "--json" not in words and "-J" not in words:
        return fail(f"lsblk: this stand-in doesn't know {words}")
    part = {"name": "nvme0n1p1", "path": "/dev/nvme0n1p1", "type": "part", "mountpoint": "/", "fstype": "ext4"}
    disk: dict[str, Any] = {
        "name": "nvme0n1",
        "path": "/dev/nvme0n1",
        "type": "disk",
        "model": "Amazon Elastic Block Store",
    }
    disk |= {"mountpoint": None, "fstype": None, "children": [part]}
    fast = {**disk, "name": "nvme1n1", "path": "/dev/nvme1n1", "model": "Amazon EC2 NVMe Instance Storage"}
    print(json.dumps({"blockdevices": [disk, fast] if os.path.exists(IMAGES) else [disk]}))
    return 0


# --- sudo ---


def sudo(words: list[str]) -> int:
    """Without a password, as the image's user may on a real machine."""
    words = words[1:] if words[:1] == ["-n"] else words
    if not words or words[0].startswith("-"):
        return fail(f"sudo: this stand-in doesn't know {words}")
    env = ["HOME=/root", "USER=root", "LOGNAME=root", "LANG=C.UTF-8"]
    env.append("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    program = [ROOT, "--reuid=0", "--regid=0", "--init-groups", "--", "env", "-i", *env, *words]
    return os.execv(program[0], program)


# --- processes ---


def in_background(name: str, work: Callable[[], object]) -> None:
    """Do `work` in a process of its own; `cancel(name)` ends it."""
    os.makedirs(STATE, exist_ok=True)
    path = os.path.join(STATE, name)
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.read(reader, 1)  # until it is written down
        os.close(reader)
        return
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(writer)
    os.close(reader)
    try:
        work()
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        os._exit(0)


def cancel(name: str) -> None:
    try:
        with open(os.path.join(STATE, name)) as file:
            send(int(file.read() or 0), signal.SIGTERM)
        os.unlink(os.path.join(STATE, name))
    except (OSError, ValueError):
        pass


def send(pid: int, number: int) -> None:
    if pid <= 0:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait(seconds: float) -> None:
    """By the wall clock, and the longest of sleeps in pieces."""
    until = time.time() + seconds
    while (left := until - time.time()) > 0:
        time.sleep(min(left, 60.0))


def seconds_of(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)([a-z]*)", text)
    if not found or found[2] not in UNIT_SECONDS:
        sys.exit(fail(f"this stand-in doesn't know the time {text!r}"))
    return float(found[1]) * UNIT_SECONDS[found[2]]


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        sys.exit(fail(f"Failed to {what}: Interactive authentication required."))


def fail(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
