"""A small cloud-init, which runs inside of an instance's host: `python3 init.py STAGE` with the job on standard input.

It does what the real one does with the keys that it knows, in the same order, and fails on a key that it doesn't know:
what is silently passed over here would be a surprise on a real machine. Whatever it prints is the instance's console.

Standard library only: it runs with the Python of the host.
"""

from __future__ import annotations

import base64
import gzip
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
    "package_update",
    "package_upgrade",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_genkeytypes",
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
    config = job["config"] or {}
    for key in sorted(set(config) - KNOWN):
        say(f"this small cloud-init doesn't know the key {key!r}: {sorted(KNOWN)}")
        sys.exit(1)
    if stage == "init":
        init(job, config)
    else:
        final(job, config)


def init(job: dict[str, Any], config: dict[str, Any]) -> None:
    """What comes before sshd: bootcmd at each boot, the rest once in the life of an instance."""
    say("running 'init'")
    run_all(config.get("bootcmd", []))
    if job["first"]:
        for each in config.get("write_files", []):
            write_file(each)
        set_host_keys(config)
        authorize(job, config)
    print_host_keys()


def final(job: dict[str, Any], config: dict[str, Any]) -> None:
    """What comes last, when sshd answers already: runcmd, or the script that the user-data is."""
    say("running 'modules:final'")
    failed = False
    if job["first"] and config.get("runcmd"):
        failed |= not run_script("runcmd", shell_lines(config["runcmd"]))
    if job["first"] and job["script"]:
        failed |= not run_script("part-001", job["script"])
    say("finished, and some of it failed" if failed else "finished")
    sys.exit(1 if failed else 0)


def write_file(each: dict[str, Any]) -> None:
    unknown = set(each) - {"path", "content", "permissions", "owner", "encoding", "append", "defer"}
    if unknown:
        say(f"write_files knows no {sorted(unknown)}")
        sys.exit(1)
    content = each.get("content", "")
    encoding = str(each.get("encoding", "text/plain")).lower()
    data = content.encode()
    if encoding in ("b64", "base64", "gz+b64", "gz+base64", "gzip+b64", "gzip+base64"):
        data = base64.b64decode(content)
    elif encoding not in ("text/plain", "gz", "gzip"):
        say(f"write_files knows no encoding {encoding!r}")
        sys.exit(1)
    if encoding.startswith(("gz", "gzip")):
        data = gzip.decompress(data)
    path = each["path"]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab" if each.get("append") else "wb") as file:
        file.write(data)
    os.chmod(path, int(str(each.get("permissions", "0644")), 8))
    user, _, group = each.get("owner", "root:root").partition(":")
    shutil.chown(path, user, group or None)
    say(f"wrote {path}")


def set_host_keys(config: dict[str, Any]) -> None:
    """As cc_ssh does: with keys of the user's, the machine has these alone and makes none itself."""
    given = config.get("ssh_keys") or {}
    if config.get("ssh_deletekeys", True) and given:
        for name in os.listdir(ETC_SSH):
            if name.startswith("ssh_host_") and "key" in name:
                os.unlink(os.path.join(ETC_SSH, name))
    for name, text in sorted(given.items()):
        kind, _, part = name.rpartition("_")
        if part not in ("private", "public", "certificate") or kind not in ("rsa", "ecdsa", "ed25519"):
            say(f"ssh_keys knows no {name!r}")
            sys.exit(1)
        path = f"{ETC_SSH}/ssh_host_{kind}_key" + {"private": "", "public": ".pub", "certificate": "-cert.pub"}[part]
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o600 if part == "private" else 0o644)
    with open(f"{ETC_SSH}/sshd_config") as file:
        kept = [line for line in file if not line.startswith("HostKey ")]  # as of Ubuntu: all that there are
    with open(f"{ETC_SSH}/sshd_config", "w") as file:
        file.writelines(kept)


def authorize(job: dict[str, Any], config: dict[str, Any]) -> None:
    """The keys of the user-data and of the EC2 key pair, for the image's user; root is told to go there."""
    keys = [*job["keys"], *config.get("ssh_authorized_keys", [])]
    if not keys:
        return
    user = job["user"]
    write_authorized(user, keys)
    options = ROOT_OPTIONS.format(user=user)
    write_authorized("root", [f"{options} {key}" for key in keys] if config.get("disable_root", True) else keys)


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


def print_host_keys() -> None:
    """As write-ssh-key-fingerprints does it, on the console."""
    paths = [os.path.join(ETC_SSH, name) for name in sorted(os.listdir(ETC_SSH)) if name.endswith("_key.pub")]
    say("-----BEGIN SSH HOST KEY FINGERPRINTS-----")
    for path in paths:
        shown = subprocess.run(["ssh-keygen", "-l", "-f", path], stdout=subprocess.PIPE, text=True, check=False)
        say(shown.stdout.strip())
    say("-----END SSH HOST KEY FINGERPRINTS-----")
    print("-----BEGIN SSH HOST KEY KEYS-----")
    for path in paths:
        with open(path) as file:
            print(file.read().strip())
    print("-----END SSH HOST KEY KEYS-----", flush=True)


def run_all(commands: list[Any]) -> None:
    if commands and not run_script("bootcmd", shell_lines(commands)):
        say("bootcmd failed")


def shell_lines(commands: list[Any]) -> str:
    """The script that cloud-init makes: a string is a line of shell, a list is a command with its words."""
    lines = ["#!/bin/sh\n"]
    for each in commands:
        if isinstance(each, str):
            lines.append(each + "\n")
        elif isinstance(each, list):
            lines.append(" ".join("'" + str(word).replace("'", "'\\''") + "'" for word in each) + "\n")
        else:
            say(f"neither a string nor a list is a command: {each!r}")
            sys.exit(1)
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
