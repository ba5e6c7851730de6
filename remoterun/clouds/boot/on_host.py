"""What runs as root on a rented host: it is sent there by user-data, and knows nothing but `/etc/remoterun/host.json`.

    on_host.py prepare           at each boot: the instance store, Docker, the home with its terms
    on_host.py watch             for ever: ends the host at its deadline, or when nobody has used it for long, and
                                 starts the agent's keeper again if it was killed, or hangs
    on_host.py await             waits until `prepare` is done, and prints what it found, and the host's own key

Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SETTINGS = "/etc/remoterun/host.json"
STATE = "/run/remoterun"
PREPARED = STATE + "/prepared.json"
HOST_KEY = "/etc/ssh/ssh_host_ecdsa_key"
"""Made here, so that nobody else has read it: of another kind than the one of user-data, and sshd shows both."""
DATA = "/var/lib/remoterun"
LABEL = "remoterun"
"""Of the file system that we make on a fast disk, which keeps its data when the host boots again."""
CONTAINERD = "/var/lib/containerd"
"""Where Docker has its images, from version 29 on."""
DOCKER_SETTINGS = "/etc/docker/daemon.json"
SHUTDOWN = ["shutdown", "-P", "now"]
CHECK_SECONDS = 5.0
HANGS_SECONDS = 120.0
"""Without a sign of its life after which a keeper is killed, and another one started."""
PREPARE_SECONDS = 600.0
MOUNT_SECONDS = 300.0
APT_TRIES, APT_SECONDS = 6, 10.0


def main(words: list[str]) -> None:
    with open(SETTINGS) as file:
        settings = json.load(file)
    if words == ["prepare"]:
        prepare(settings)
    elif words == ["watch"]:
        watch(settings)
    elif words == ["await"]:
        print(json.dumps({**await_prepared(), "key": host_key()}))
    else:
        sys.exit("usage: on_host.py prepare | watch | await")


# --- at each boot ---


def prepare(settings: dict[str, Any]) -> None:
    """Make the host ready for an agent. What fails is told in `prepared.json`, and stops nothing else.

    A boot undoes all mounts. The home comes last: what was killed by the boot starts again once that is there."""
    if os.path.exists(PREPARED):
        return
    problems: list[str] = []
    attempt(problems, "host key", make_host_key)
    store = attempt(problems, "instance store", lambda: instance_store(settings["disk_model"], settings["disk_folder"]))
    attempt(problems, "Docker", lambda: prepare_docker(settings["user"], store))
    attempt(problems, "home", lambda: make_home(settings, store))
    os.makedirs(STATE, 0o755, exist_ok=True)
    write_whole(PREPARED, json.dumps({"problems": problems, "store": store}), 0o644)


def attempt(problems: list[str], what: str, step: Callable[[], Any]) -> Any:
    try:
        return step()
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        said = getattr(error, "stderr", None) or b""
        problems.append(f"{what}: {error} {said.decode('utf-8', 'replace')[-500:]}")
        return None


def make_host_key() -> None:
    """A host key of its own, which sshd shows from now on, too. Sessions go on."""
    if os.path.exists(HOST_KEY):
        return
    run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", HOST_KEY])
    run(["systemctl", "restart", "ssh"], seconds=30)


def host_key() -> str:
    with open(HOST_KEY + ".pub") as file:
        return " ".join(file.read().split()[:2])


def instance_store(model: str, own: str) -> str | None:
    """The folder of the fast disks that come with the machine, and go with it; None where it has none."""
    disks = instance_disks(model)
    if not disks:
        return None
    if own and os.path.isdir(os.path.dirname(own)):  # this image has a service that mounts them
        give_up_at = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(own):
            if time.monotonic() >= give_up_at:
                raise ValueError(f"{own} was not mounted within {MOUNT_SECONDS:g} s")
            time.sleep(0.5)
        return own
    found = [disk for disk in disks if disk.get("label") == LABEL]
    if not found:
        found = [disk for disk in disks if not any(disk.get(key) for key in ("mountpoint", "fstype", "children"))]
        if not found:
            return None
        run(["mkfs.ext4", "-q", "-L", LABEL, "-E", "nodiscard", min(disk["path"] for disk in found)])
    os.makedirs(DATA, exist_ok=True)
    run(["mount", "-o", "noatime", min(disk["path"] for disk in found), DATA])
    return DATA


def instance_disks(model: str) -> list[dict[str, Any]]:
    """The disks of such a model, as lsblk tells them."""
    if not model or not shutil.which("lsblk"):
        return []
    if shutil.which("udevadm"):  # at a boot, lsblk knows what is on a disk once udev has looked
        run(["udevadm", "settle"], seconds=150)
    listed = json.loads(run(["lsblk", "--json", "--output", "PATH,MODEL,TYPE,MOUNTPOINT,FSTYPE,LABEL"]))["blockdevices"]
    return [disk for disk in listed if disk.get("type") == "disk" and model in (disk.get("model") or "")]


def make_home(settings: dict[str, Any], store: str | None) -> None:
    """The home, on the fast disks where there are any, with its terms. While these are not mounted it is root's, which
    no agent takes for its home."""
    user, home = pwd.getpwnam(settings["user"]), settings["home"]
    if store is not None:
        os.makedirs(home, 0o700, exist_ok=True)
        run(["mount", "--bind", make_folder(os.path.join(store, "remoterun-home"), user), home])
    else:
        make_folder(home, user)
    path = os.path.join(home, "rented.json")
    write_whole(path, json.dumps(settings["terms"]), 0o600)
    os.chown(path, user.pw_uid, user.pw_gid)


def make_folder(path: str, user: pwd.struct_passwd) -> str:
    os.makedirs(path, 0o700, exist_ok=True)
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


def prepare_docker(user: str, store: str | None) -> None:
    """Docker is there, keeps its images on the fast disks, and our user may use it. A boot may have started it before
    these were mounted: it starts again."""
    if not shutil.which("dockerd"):
        install_docker()
    run(["usermod", "-aG", "docker", user])
    if store is None:
        run(["systemctl", "start", "docker"], seconds=120)
        return
    settings: dict[str, Any] = {}
    if os.path.exists(DOCKER_SETTINGS):
        with open(DOCKER_SETTINGS) as file:
            settings = json.load(file)
    settings["data-root"] = os.path.join(store, "docker")
    place = os.path.join(store, "containerd")
    for folder in (place, CONTAINERD):
        os.makedirs(folder, 0o711, exist_ok=True)
    run(["mount", "--bind", place, CONTAINERD])
    os.makedirs(os.path.dirname(DOCKER_SETTINGS), exist_ok=True)
    write_whole(DOCKER_SETTINGS, json.dumps(settings, indent=1), 0o644)
    run(["systemctl", "restart", "containerd", "docker"], seconds=120)


def install_docker() -> None:
    """From Ubuntu's own packages. At the first boot the system's own updates may hold the locks for a while."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for left in range(APT_TRIES, 0, -1):
        try:
            run(["apt-get", "-q", "update"], env=env, seconds=300)
            break
        except subprocess.SubprocessError:
            if left == 1:
                raise
            time.sleep(APT_SECONDS)
    words = ["apt-get", "-q", "-y", "--no-install-recommends", "-oDPkg::Lock::Timeout=300", "install", "docker.io"]
    run(words, env=env, seconds=600)


# --- as long as it lives ---


def watch(settings: dict[str, Any]) -> None:
    """End the host at its deadline, or when no process of its user was seen for long. Not by the clock, which may be
    set, but by the time that the machine is up. A keeper that hangs is no use of the host."""
    used = lives = time.monotonic()
    sign = 0.0
    while True:
        with contextlib.suppress(KeyError, ProcessLookupError):  # an image without that user: nobody can use it
            user, now = pwd.getpwnam(settings["user"]), time.monotonic()
            running = commands(user.pw_uid)
            keepers = [pid for pid in running if f"\0keep\0--home\0{settings['home']}\0".encode() in running[pid]]
            before = sign
            with contextlib.suppress(OSError):  # a keeper changes it every 10 s
                sign = os.stat(os.path.join(settings["home"], "locks", "keep")).st_mtime
            if not keepers or sign != before:
                lives = now
            if len(running) > len(keepers) or (keepers and lives == now):
                used = now
            if not keepers:
                start_keeper(settings["home"], user)
            elif now - lives >= HANGS_SECONDS:
                for pid in keepers:
                    os.kill(pid, signal.SIGKILL)
        if time.time() >= settings["terms"]["deadline"] or time.monotonic() - used >= settings["unused"]:
            subprocess.call(SHUTDOWN)
        time.sleep(min(CHECK_SECONDS, settings["unused"] / 4))


def commands(user: int) -> dict[int, bytes]:
    """The processes of a user: an agent, a supervisor, a keeper, or somebody who has logged in."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat("/proc/" + name).st_uid == user:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found[int(name)] = file.read()
    return found


def start_keeper(home: str, user: pwd.struct_passwd) -> None:
    """As an agent has left word, if one ever came. The keeper starts what else was killed. Nothing of what the user
    may write is in the environment of root's own process."""
    words = ["/usr/bin/setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--"]
    with contextlib.suppress(OSError, ValueError, KeyError, subprocess.SubprocessError):
        with open(os.path.join(home, "keeper.json")) as file:
            left = json.load(file)
        words += ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in left["variables"].items())]
        subprocess.run(words + left["words"], env={}, cwd=home, timeout=10)


# --- in the first session ---


def await_prepared() -> dict[str, Any]:
    """What `prepare` found, once it is done."""
    give_up_at = time.monotonic() + PREPARE_SECONDS
    while True:
        try:
            with open(PREPARED) as file:
                found: dict[str, Any] = json.load(file)
                return found
        except FileNotFoundError:
            if time.monotonic() >= give_up_at:
                return {"problems": [f"the first boot was not done after {PREPARE_SECONDS:g} s"]}
        time.sleep(0.2)


# --- what all of it uses ---


def run(words: list[str], env: dict[str, str] | None = None, seconds: float = 60) -> bytes:
    """The output of a command. Raises `subprocess.SubprocessError`."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=seconds)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return done.stdout


def write_whole(path: str, text: str, mode: int) -> None:
    temporary = path + ".tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


if __name__ == "__main__":
    main(sys.argv[1:])
