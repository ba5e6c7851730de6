#!/usr/bin/python3
"""What a lab's host has in place of systemd, and of what would get at the machine that it shares with others:
shutdown, poweroff, reboot, halt, systemctl, systemd-run, sudo, apt-get, lsblk.

One program that does what its name says, so that what is written for a real Ubuntu works on a host without systemd:
timers really run out, services are started again when they end, and shutting down really ends the host. What it doesn't
know is an error, never passed over.

Standard library only: it runs with the Python of the host.
"""

from __future__ import annotations

import datetime
import json
import os
import pwd
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
ENDING = "/usr/local/lib/lab/ending"  # which the lab reads when the host is off
ROOT = "/run/lab-root/setpriv"
PATIENCE = 15.0  # seconds that processes have for ending when the host shuts down; systemd gives 90
UNIT_SECONDS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "sec": 1,
    "second": 1,
    "seconds": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
}
DAEMONS = {"ssh": ["/usr/sbin/sshd", "-D", "-e"], "docker": ["dockerd"], "containerd": ["containerd"]}
SOCKETS: dict[str, str | tuple[str, int]] = {
    "dockerd": "/run/docker.sock",
    "containerd": "/run/containerd/containerd.sock",
    "/usr/sbin/sshd": ("127.0.0.1", 22),
}
INSTALLED = "/usr/local/lib/lab/docker-installed"
ALIASES = {"sshd": "ssh", "ssh.socket": "ssh", "docker.socket": "docker"}


Section = dict[str, list[str]]
"""Of a unit file: the values of each key."""


def main() -> None:
    name = os.path.basename(sys.argv[0])
    words = sys.argv[1:]
    programs: dict[str, Callable[[], int]] = {
        "apt": lambda: apt_get(words),
        "apt-get": lambda: apt_get(words),
        "lsblk": lambda: lsblk(words),
        "halt": lambda: end_now("poweroff"),
        "poweroff": lambda: end_now("poweroff"),
        "reboot": lambda: end_now("reboot"),
        "shutdown": lambda: shutdown(words),
        "systemctl": lambda: systemctl(words),
        "systemd-run": lambda: systemd_run(words),
        "sudo": lambda: sudo(words),
    }
    sys.exit(programs[name]())


# --- ending the host ---


def shutdown(words: list[str]) -> int:
    flags = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    unknown = [flag for flag in flags if flag not in ("-h", "-P", "-H", "-r", "-c", "--no-wall", "--poweroff")]
    if unknown:
        return fail(f"shutdown: this stand-in doesn't know {unknown}")
    need_root("shutdown")
    cancel("shutdown")
    if "-c" in flags:
        return 0
    what = "reboot" if "-r" in flags else "poweroff"
    when = rest[0] if rest else "+1"
    if when in ("now", "+0", "0"):
        return end_now(what)
    if re.fullmatch(r"\+?\d+", when):
        seconds = 60.0 * int(when)
    elif re.fullmatch(r"\d\d?:\d\d", when):
        now = datetime.datetime.now()
        at = now.replace(hour=int(when.split(":")[0]), minute=int(when.split(":")[1]), second=0, microsecond=0)
        seconds = (at - now).total_seconds() % 86400
    else:
        return fail(f"Failed to parse time specification: {when}")
    in_background("shutdown", lambda: end_now(what), seconds)
    print(f"Shutdown scheduled, use 'shutdown -c' to cancel: {what} in {seconds:g} s", file=sys.stderr)
    return 0


def end_now(what: str) -> int:
    need_root(what)
    with open(ENDING, "w") as file:
        file.write(what)
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
    known = (
        "--now",
        "--no-block",
        "--quiet",
        "-q",
        "--no-pager",
        "--force",
        "-f",
        "--no-wall",
        "--no-ask-password",
        "--all",
    )
    if any(flag not in known for flag in flags) or not rest:
        return fail(f"systemctl: this stand-in doesn't know {words}")
    verb, units = rest[0], [whole_name(unit) for unit in rest[1:]]
    if verb in ("poweroff", "reboot", "halt"):
        return end_now("reboot" if verb == "reboot" else "poweroff")
    if verb in ("daemon-reload", "reset-failed", "is-system-running"):
        print("running") if verb == "is-system-running" else None
        return 0
    if verb == "list-timers":
        return list_timers()
    if verb in ("is-active", "is-enabled", "status"):
        states = [(is_enabled(unit) if verb == "is-enabled" else is_active(unit)) for unit in units]
        for state in states:
            print({"is-enabled": ("disabled", "enabled")}.get(verb, ("inactive", "active"))[state])
        return 0 if all(states) else 3
    need_root(f"{verb} {' '.join(units)}")
    status = 0
    for unit in units:
        status |= change(verb, unit, "--now" in flags, "--no-block" in flags)
    return status


def list_timers() -> int:
    """Those that are active, with the moment that each one names."""
    print("NEXT LEFT LAST PASSED UNIT ACTIVATES")
    for unit in sorted(os.listdir(STATE) if os.path.isdir(STATE) else []):
        if unit.endswith(".timer") and is_active(unit):
            timer = read_unit(unit).get("Timer", {})
            named = [moment(value) for value in timer.get("OnCalendar", [])]
            at = [datetime.datetime.fromtimestamp(each, datetime.UTC) for each in named]
            shown = f"{min(at):%a %Y-%m-%d %H:%M:%S} UTC" if at else "-"
            print(f"{shown} - - - {unit} {last(timer, 'Unit', unit[: -len('.timer')] + '.service')}")
    return 0


def change(verb: str, unit: str, now: bool, no_block: bool) -> int:
    if verb in ("enable", "disable", "unmask", "mask"):
        if verb in ("enable", "disable"):
            if not is_daemon(unit):
                read_unit(unit)
            os.makedirs(ENABLED, exist_ok=True)
            path = os.path.join(ENABLED, unit)
            if verb == "enable":
                open(path, "w").close()
            elif os.path.exists(path):
                os.unlink(path)
        if now:
            return change("start" if verb == "enable" else "stop", unit, False, no_block)
        return 0
    if is_daemon(unit):
        return change_daemon(verb, unit)
    if verb == "start":
        return start(unit, no_block)
    if verb == "stop":
        cancel(unit)
        return 0
    if verb in ("restart", "try-restart", "reload-or-restart"):
        cancel(unit)
        return start(unit, no_block)
    return fail(f"systemctl: this stand-in doesn't know the verb {verb}")


def start(unit: str, no_block: bool = False) -> int:
    if is_active(unit):
        return 0
    sections = read_unit(unit)
    if unit.endswith(".timer"):
        seconds, every = elapses(sections.get("Timer", {}))
        target = last(sections["Timer"], "Unit", unit[: -len(".timer")] + ".service")

        def count_down() -> None:
            wait(seconds)
            start(target)
            while every is not None:
                wait(every)
                start(target)

        in_background(unit, count_down)
        return 0
    service = sections.get("Service", {})
    oneshot = last(service, "Type", "simple") == "oneshot"
    if oneshot and not no_block:
        return serve(service, unit)
    in_background(unit, lambda: serve(service, unit))
    return 0


def serve(service: Section, unit: str) -> int:
    """Run a service's commands; the last one again and again if it is to be restarted. Returns its status."""
    status = 0
    commands = [*service.get("ExecStartPre", []), *service.get("ExecStart", [])]
    if not commands:
        return fail(f"{unit} has no ExecStart")
    restart = last(service, "Restart", "no")
    pause = seconds_of(last(service, "RestartSec", "100ms"))
    log = os.path.join("/var/log", f"{unit}.log")
    for command in commands[:-1]:
        run_command(command, service, log)
    while True:
        status = run_command(commands[-1], service, log)
        again = restart == "always" or (restart == "on-failure" and status) or (restart == "on-success" and not status)
        if not again:
            return status
        wait(pause)


def run_command(command: str, service: Section, log: str) -> int:
    ignore = command.startswith("-")
    words = shlex.split(command.lstrip("-+!@"))
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    for line in service.get("Environment", []):
        env.update((each.partition("=")[0], each.partition("=")[2]) for each in shlex.split(line))
    user = last(service, "User", "root")
    entry = pwd.getpwnam(user)
    env.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)

    def become() -> None:
        os.setsid()
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    folder = last(service, "WorkingDirectory", "/").lstrip("-")
    with open(log, "ab") as output:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=folder, preexec_fn=become
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
    return 0 if ignore else abs(status)


def elapses(timer: Section) -> tuple[float, float | None]:
    """Seconds until the timer runs out first, and from then on (None: once)."""
    first = []
    for key, values in timer.items():
        for value in values:
            if key in ("OnActiveSec", "OnStartupSec"):
                first.append(seconds_of(value))
            elif key == "OnBootSec":
                booted = os.stat("/run/lab-root").st_mtime  # /proc/uptime is that of the whole machine
                first.append(max(0.0, booted + seconds_of(value) - time.time()))
            elif key == "OnCalendar":
                first.append(max(0.0, moment(value) - time.time()))
            elif key not in (
                "Unit",
                "AccuracySec",
                "RandomizedDelaySec",
                "Persistent",
                "OnUnitActiveSec",
                "WakeSystem",
            ):
                sys.exit(fail(f"this stand-in doesn't know the timer's {key}"))
    every = timer.get("OnUnitActiveSec")
    if not first and every is None:
        sys.exit(fail("a timer that never runs out"))
    return min(first, default=0.0), seconds_of(every[-1]) if every else None


def moment(text: str) -> float:
    """Of OnCalendar only what names one moment."""
    if text.startswith("@"):
        return float(text[1:])
    found = re.fullmatch(r"(?:[A-Z][a-z]{2} )?(\d{4}-\d\d-\d\d) (\d\d:\d\d(?::\d\d)?)( UTC)?", text.strip())
    if not found:
        sys.exit(fail(f"this stand-in doesn't know the calendar event {text!r}"))
    clock = found[2] if found[2].count(":") == 2 else found[2] + ":00"
    at = datetime.datetime.strptime(f"{found[1]} {clock}", "%Y-%m-%d %H:%M:%S")
    return (at.replace(tzinfo=datetime.UTC) if found[3] else at).timestamp()


def systemd_run(words: list[str]) -> int:
    """Options and then a command, which runs at once, or when its timer runs out."""
    timer: Section = {}
    service: Section = {}
    unit = f"run-{os.getpid()}"
    follow = scope = False
    values = iter(words)
    command = []
    for word in values:
        if not word.startswith("-"):
            command = [word, *values]
            break
        if word == "--":
            command = list(values)
            break
        key, equals, value = word.partition("=")
        if key in ("--collect", "-G", "--no-block", "--quiet", "-q", "--no-ask-password", "--remain-after-exit", "-r"):
            continue
        if key == "--scope":
            scope = True
            continue
        if key in ("--wait", "--pipe", "-P"):
            follow = True
            continue
        value = value if equals else next(values, "")
        if key in ("--unit", "-u"):
            unit = re.sub(r"\.(service|timer)$", "", value)
        elif key in ("--property", "-p"):
            name, _, each = value.partition("=")
            service.setdefault(name, []).append(each)
        elif key == "--timer-property":
            name, _, each = value.partition("=")
            timer.setdefault(name, []).append(each)
        elif key in ("--on-active", "--on-boot", "--on-startup", "--on-unit-active"):
            timer.setdefault("On" + "".join(part.title() for part in key[5:].split("-")) + "Sec", []).append(value)
        elif key == "--on-calendar":
            timer.setdefault("OnCalendar", []).append(value)
        elif key == "--uid":
            service["User"] = [value]
        elif key in ("--setenv", "-E"):
            service.setdefault("Environment", []).append(shlex.quote(value))
        elif key == "--working-directory":
            service["WorkingDirectory"] = [value]
        elif key not in ("--description", "--slice", "--gid"):
            return fail(f"systemd-run: this stand-in doesn't know {word}")
    if not command:
        return fail("systemd-run: Command line to execute required.")
    need_root("start transient unit")
    if scope:
        os.execvp(command[0], command)
    service["ExecStart"] = [" ".join(map(shlex.quote, command))]
    if follow:
        return subprocess.run(command, check=False).returncode
    if is_active(f"{unit}.timer") or is_active(f"{unit}.service"):
        return fail(f"Failed to start transient unit: Unit {unit} was already loaded")
    write_unit(f"{unit}.service", "Service", service)
    print(f"Running {'timer' if timer else 'as unit'}: {unit}{'.timer' if timer else '.service'}", file=sys.stderr)
    if timer:
        write_unit(f"{unit}.timer", "Timer", timer)
        return start(f"{unit}.timer")
    return start(f"{unit}.service", no_block=True)


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
    unit = ALIASES.get(unit, unit)
    return unit if re.search(r"\.(service|timer|target|socket)$", unit) else f"{unit}.service"


def is_enabled(unit: str) -> bool:
    return is_daemon(unit) or os.path.exists(os.path.join(ENABLED, unit))


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
    name = re.sub(r"\.service$", "", unit)
    return ALIASES.get(name, name) in DAEMONS


def daemon_words(unit: str) -> list[str]:
    name = re.sub(r"\.service$", "", unit)
    return DAEMONS[ALIASES.get(name, name)]


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
    if verb in ("reload", "try-reload-or-restart") or (verb == "reload-or-restart" and "ssh" in unit):
        for pid in daemon_pids(unit):
            send(pid, signal.SIGHUP)
        return 0
    if verb in ("stop", "restart", "try-restart", "reload-or-restart"):
        pids = daemon_pids(unit)
        for pid in pids:
            send(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while daemon_pids(unit) and time.monotonic() < deadline:
            time.sleep(0.02)
    if verb in ("start", "restart", "reload-or-restart") and not daemon_pids(unit):
        if daemon_words(unit) == ["dockerd"]:
            if not docker_is_installed():
                return fail(f"Failed to {verb} docker.service: Unit docker.service not found.", 5)
            change_daemon("start", "containerd")
            move_images()
        with open(f"/var/log/{os.path.basename(daemon_words(unit)[0])}.log", "ab") as log:
            words = ["setsid", "--fork", *daemon_words(unit)]
            subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        deadline = time.monotonic() + 20
        while not daemon_pids(unit) and time.monotonic() < deadline:
            time.sleep(0.02)
        return 0 if daemon_pids(unit) and listens(unit) else 1
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
    return change_daemon("start", "docker")


def lsblk(words: list[str]) -> int:
    """One disk, which holds the system."""
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
    print(json.dumps({"blockdevices": [disk]}))
    return 0


# --- sudo ---


def sudo(words: list[str]) -> int:
    """Without a password, as the image's user may on a real machine."""
    user, login = "root", False
    settings: list[str] = []
    while words and words[0].startswith("-"):
        word, words = words[0], words[1:]
        if word == "--":
            break
        if word in ("-u", "--user"):
            user, words = words[0], words[1:]
        elif word in ("-i", "--login"):
            login = True
        elif word not in ("-n", "--non-interactive", "-E", "--preserve-env", "-H", "--set-home", "-S"):
            return fail(f"sudo: this stand-in doesn't know {word}")
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        settings, words = [*settings, words[0]], words[1:]
    entry = pwd.getpwnam(user)
    words = words or ["/bin/sh"]
    env = [f"HOME={entry.pw_dir}", f"USER={user}", f"LOGNAME={user}", "LANG=C.UTF-8", *settings]
    env.append("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    folder = ["--chdir=" + entry.pw_dir] if login else []
    become = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    program = [ROOT, *become, "--", "env", "-i", *folder, *env, *words]
    return os.execv(program[0], program)


# --- processes ---


def in_background(name: str, work: Callable[[], object], seconds: float = 0) -> None:
    """Do `work` in a process of its own, after so many seconds; `cancel(name)` ends it."""
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
        wait(seconds)
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
    text = str(text).strip()
    if re.fullmatch(r"[\d.]+", text):
        return float(text)
    parts = re.findall(r"([\d.]+)\s*([a-z]+)", text)
    if not parts or any(unit not in UNIT_SECONDS for _, unit in parts):
        sys.exit(fail(f"this stand-in doesn't know the time {text!r}"))
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        sys.exit(fail(f"Failed to {what}: Interactive authentication required."))


def fail(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
