"""The first process of a container that is a rented host, or a process that cloud-init starts in a virtual machine: it
lets us in, where its provider does not, and ends the host. Standard library only.

It ends at the deadline, and when no process of remoterun was seen for long, by the time that the host is up; and when
it is told to (SIGTERM), as the agent's keeper does once the host is idle. Its provider is asked by a command where the
end of this process alone does not end what is paid for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from typing import Any

HOME = os.path.join(os.path.expanduser("~"), ".remoterun")
OWN = "/etc/remoterun"
SSHD = "/usr/sbin/sshd"
AGAIN = 30.0  # seconds between two times that the provider is asked for the end


def main(settings: dict[str, Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end(settings))
    os.makedirs(HOME, 0o700, exist_ok=True)
    settings["terms"]["end"] = ["kill", "-TERM", str(os.getpid())]  # 1 in a container
    write(os.path.join(HOME, "rented.json"), json.dumps(settings["terms"]))
    if "key" in settings:
        let_in(settings)
    used = time.monotonic()
    while time.time() < settings["terms"]["deadline"] and time.monotonic() - used < settings["unused"]:
        reap()
        running = commands()
        if any(b"\0--home\0" + HOME.encode() + b"\0" in words for words in running):
            used = time.monotonic()
        if not any(b"\0keep\0--home\0" in words for words in running):
            start_keeper()
        time.sleep(min(2.0, settings["unused"] / 4))
    end(settings)


def let_in(settings: dict[str, Any]) -> None:
    """Our key and the host key of the first contact, for an sshd that is there, or is installed."""
    os.makedirs(OWN, 0o700, exist_ok=True)
    write(os.path.join(OWN, "host_key"), settings["host_key"])
    write(os.path.join(OWN, "authorized_keys"), settings["key"] + "\n")
    if not os.path.exists(SSHD) and shutil.which("apt-get"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "openssh-server"]):
            subprocess.call(["apt-get", *words], stdin=subprocess.DEVNULL)
    os.makedirs("/run/sshd", 0o755, exist_ok=True)
    with open("/etc/shadow") as file:
        if any(line.startswith("root:!") for line in file):  # sshd lets nobody in whose password is locked
            subprocess.call(["usermod", "-p", "*", "root"])
    options = {
        "Port": os.environ.get("SSHD_PORT", "22"),
        "HostKey": os.path.join(OWN, "host_key"),
        "AuthorizedKeysFile": os.path.join(OWN, "authorized_keys"),
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "MaxSessions": "100",
    }
    if os.path.exists(SSHD):
        subprocess.Popen([SSHD, "-f", "/dev/null", "-D", *(f"-o{name}={value}" for name, value in options.items())])


def commands() -> list[bytes]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found.append(file.read())
        except OSError:
            pass
    return found


def start_keeper() -> None:
    """Start the keeper by the words that an agent has left, if one ever came."""
    try:
        with open(os.path.join(HOME, "keeper.json")) as file:
            left = json.load(file)
        subprocess.Popen(left["words"], env=left["variables"], cwd=HOME, stdin=subprocess.DEVNULL).wait(10)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        pass


def reap() -> None:
    """Wait for the processes that have ended: the first one inherits all others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end(settings: dict[str, Any]) -> None:
    while settings["end"]:
        subprocess.call(["/bin/sh", "-c", settings["end"]], stdin=subprocess.DEVNULL)
        time.sleep(AGAIN)
    os._exit(0)


def write(path: str, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
