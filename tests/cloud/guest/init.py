"""A small cloud-init, which runs inside of an instance's host: `python3 init.py STAGE` with the job on standard input.

It does what the real one does with the keys that it knows, in the same order, and fails on a key that it doesn't know:
what is silently passed over here would be a surprise on a real machine. Whatever it prints is the instance's console.

Standard library only: it runs with the Python of the host.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from typing import Any

ETC_SSH = "/etc/ssh"
KNOWN = {
    "bootcmd",
    "disable_root",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_keys",
    "ssh_pwauth",
    "write_files",
}
ROOT_OPTIONS = (
    'no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo \'Please login as the user \\"{user}\\" '
    'rather than the user \\"root\\".\';echo;sleep 10;exit 142"'
)


def main() -> None:
    stage = sys.argv[1]
    job = json.load(sys.stdin)
    config = job["config"]
    for key in sorted(set(config) - KNOWN):
        say(f"this small cloud-init doesn't know the key {key!r}: {sorted(KNOWN)}")
        sys.exit(1)
    if stage == "init":
        init(job, config)
    else:
        final(config)


def init(job: dict[str, Any], config: dict[str, Any]) -> None:
    """What comes before sshd."""
    say("running 'init'")
    run_all(config.get("bootcmd", []))
    for each in config.get("write_files", []):
        write_file(each)
    set_host_keys(config)
    authorize(job["user"], config["ssh_authorized_keys"])


def final(config: dict[str, Any]) -> None:
    """What comes last, when sshd answers already."""
    say("running 'modules:final'")
    worked = run_script("runcmd", shell_lines(config["runcmd"]))
    say("finished" if worked else "finished, and some of it failed")
    sys.exit(0 if worked else 1)


def write_file(each: dict[str, Any]) -> None:
    if set(each) != {"path", "content", "permissions", "owner"}:
        say(f"this small cloud-init doesn't know all of {sorted(each)}")
        sys.exit(1)
    path = each["path"]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(each["content"])
    os.chmod(path, int(each["permissions"], 8))
    shutil.chown(path, *each["owner"].split(":"))
    say(f"wrote {path}")


def set_host_keys(config: dict[str, Any]) -> None:
    """As cc_ssh does: with keys of the user's, the machine has these alone and makes none itself."""
    assert config["ssh_deletekeys"] and set(config["ssh_keys"]) == {"ed25519_private", "ed25519_public"}
    for name in os.listdir(ETC_SSH):
        if name.startswith("ssh_host_") and "key" in name:
            os.unlink(os.path.join(ETC_SSH, name))
    path = f"{ETC_SSH}/ssh_host_ed25519_key"
    for name, text, mode in (
        (path, config["ssh_keys"]["ed25519_private"], 0o600),
        (path + ".pub", config["ssh_keys"]["ed25519_public"], 0o644),
    ):
        with open(name, "w") as file:
            file.write(text)
        os.chmod(name, mode)
    with open(f"{ETC_SSH}/sshd_config") as file:
        kept = [line for line in file if not line.startswith("HostKey ")]  # as of Ubuntu: all that there are
    with open(f"{ETC_SSH}/sshd_config", "w") as file:
        file.writelines(kept)


def authorize(user: str, keys: list[str]) -> None:
    """The keys of the user-data, for the image's user; root is told to go there."""
    write_authorized(user, keys)
    write_authorized("root", [f"{ROOT_OPTIONS.format(user=user)} {key}" for key in keys])


def write_authorized(user: str, keys: list[str]) -> None:
    entry = pwd.getpwnam(user)
    folder = os.path.join(entry.pw_dir, ".ssh")
    os.makedirs(folder, 0o700, exist_ok=True)
    path = os.path.join(folder, "authorized_keys")
    with open(path, "a") as file:
        file.writelines(f"{key.strip()}\n" for key in keys)
    os.chmod(path, 0o600)
    for each in (folder, path):
        os.chown(each, entry.pw_uid, entry.pw_gid)


def run_all(commands: list[Any]) -> None:
    if commands and not run_script("bootcmd", shell_lines(commands)):
        say("bootcmd failed")


def shell_lines(commands: list[Any]) -> str:
    """The script that cloud-init makes of commands with their words."""
    lines = ["#!/bin/sh\n"]
    for each in commands:
        words = ["'" + str(word).replace("'", "'\\''") + "'" for word in each]
        lines.append(" ".join(words) + "\n")
    return "".join(lines)


def run_script(name: str, text: str) -> bool:
    folder = "/var/lib/cloud/instance/scripts"
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o700)
    sys.stdout.flush()
    done = subprocess.run([path], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        say(f"{name} ended with {done.returncode}")
    return done.returncode == 0


def say(text: str) -> None:
    print(f"cloud-init[{os.getpid()}]: {text}", flush=True)


if __name__ == "__main__":
    main()
