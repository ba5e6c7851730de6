"""The lab: hosts, the network between them, the keys to them and the images in them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import record
from tests.lab.disk import Disks, copy
from tests.lab.error import LabError, LabUnavailable
from tests.lab.host import REPOSITORY, LabHost, Setup
from tests.lab.images import BASE_IMAGE, OLD_IMAGE, OLD_SUITE, Images, import_words, recipe_digest
from tests.lab.keys import ClientKeys
from tests.lab.local_docker import LocalDocker, local_docker, sweep_local_docker
from tests.lab.network import Network
from tests.lab.process import PATIENCE, run
from tests.lab.relay import Relay

TOOLS = (
    "apt-config containerd cp debootstrap docker dockerd ip iptables mkfs.ext4 nsenter setpriv ss ssh ssh-keygen tar",
    "truncate unshare",
)


BASE = "base"  # the key of the disk that a host has unless told otherwise


@dataclass(frozen=True)
class Slow:
    """A slow way to a host: the name that SSH knows it by, and the relay in the middle."""

    alias: str
    relay: Relay


class Lab:
    """Some hosts for one test session. A context manager: what it makes is gone afterwards, however it ends.

    `cache` holds what is kept for the next session (images); default: `remoterun-lab` in the user's cache folder.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or cache_folder()
        self.hosts: dict[str, LabHost] = {}
        self._lock = threading.RLock()  # hosts are made and discarded by several threads
        self._known: dict[str, list[str]] = {}
        self._slow: dict[str, tuple[LabHost, int]] = {}

    @staticmethod
    def missing() -> str | None:
        """Why this machine can't have a lab; None if it can."""
        if sys.platform != "linux":
            return "the lab needs Linux"
        if os.geteuid() != 0:
            return "the lab needs root"
        absent = [tool for tool in " ".join(TOOLS).split() if shutil.which(tool) is None]
        absent += [tool for tool in ("/usr/sbin/sshd", "/usr/bin/python3") if not os.access(tool, os.X_OK)]
        if not (shutil.which("docker-init") or shutil.which("tini")):
            absent.append("docker-init")
        if absent:
            return f"the lab needs programs that are not installed: {', '.join(absent)}"
        trial = run(["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"], check=False)
        return f"the lab needs namespaces: {trial.stderr.strip()}" if trial.returncode else None

    def __enter__(self) -> Lab:
        reason = self.missing()
        if reason is not None:
            raise LabUnavailable(reason)
        record.sweep()
        sweep_local_docker()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.images = Images(self.cache)
        self._disks = Disks(self.cache)
        self._record = record.claim(self.cache / "sessions")
        with (record.RECORDS / "watch.log").open("ab") as log:
            self._watch = subprocess.Popen(
                [sys.executable, "-m", "tests.lab", self._record.name, str(self._record.owner)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        try:
            shutil.rmtree(self._record.data, ignore_errors=True)
            self._record.data.mkdir(parents=True)
            self.keys = ClientKeys(self._record.data / "client")
            self.network = Network(self._record)
            self.network.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch every host off and remove all that was made, but for the cache. May be called twice."""
        for host in self.hosts.values():
            host.down()
        self.hosts.clear()
        with record.locked():
            if self._record in record.records():
                record.remove(self._record)
        assert self._watch.stdin is not None
        self._watch.stdin.close()
        self._watch.wait(2 * PATIENCE)

    @property
    def folder(self) -> Path:
        """Where everything of this session is, and goes with it however it ends."""
        return self._record.data

    # --- hosts ---

    def host(self, name: str, kind: type[LabHost] = LabHost, **options: Any) -> LabHost:
        """Make a host, which is off until `up`. `options` are the fields of `Setup`, such as `home_size="64m"`."""
        setup = Setup(**options)
        return self._add(name, setup, lambda folder: self._fill_disk(setup.image, folder), kind)

    def discard(self, host: LabHost) -> None:
        """Switch a host off and delete its disks."""
        host.down()
        shutil.rmtree(self._record.data / host.name, ignore_errors=True)
        with self._lock:
            del self.hosts[host.name]
            del self._known[host.name]
            self._write_client_files()

    def trust(self, host: LabHost) -> None:
        """Write the host's keys of now to the client's known_hosts, in place of earlier ones."""
        with self._lock:
            self._known[host.name] = host.host_keys()
            self._write_client_files()

    # --- coming in by SSH ---

    def ssh_config(self) -> Path:
        """A client configuration which knows every host by its name. `ssh -F` takes it."""
        return self.keys.config

    def known_hosts(self) -> Path:
        """The host keys as they were when each host was made, or last trusted."""
        return self.keys.known_hosts

    def ssh(
        self,
        host: LabHost,
        *words: str,
        options: Sequence[str] = (),
        input: str | None = None,
        timeout: float = 60,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line on a host as its user, with the OpenSSH client; it goes through the user's shell."""
        client = ["ssh", "-F", str(self.ssh_config()), *options, host.name, *words]
        return run(client, input=input, timeout=timeout, check=check)

    @contextmanager
    def slow(self, host: LabHost, *, rtt: float, rate: float | None = None) -> Iterator[Slow]:
        """A second way to a host, a round trip of `rtt` seconds long and `rate` bits a second wide: see `Relay`.

        `ssh_config` knows it as `host-a-80ms` meanwhile; the way without a relay stays as it is.
        """
        alias = f"{host.name}-{rtt * 1000:g}ms"
        with Relay(host.address, host.port, rtt=rtt, rate=rate) as relay:
            self._slow[alias] = host, relay.port
            self._write_client_files()
            try:
                yield Slow(alias, relay)
            finally:
                del self._slow[alias]
                self._write_client_files()

    # --- images ---

    def bring_old_image(self, host: LabHost) -> None:
        """Let a host's Docker have `OLD_IMAGE`, whose Python is 3.11. About 5 s, and 40 s for its first time ever."""
        with self.images.locked(), self.images.files(OLD_SUITE).open("rb") as stdin:
            host.exec_on(import_words(OLD_IMAGE), stdin)

    def cache_image(self, host: LabHost, ref: str, key: str) -> None:
        """Keep an image of a host's Docker for this session and later ones: about 2 s, for which dockerd is stopped.

        It is kept as part of a disk, with whatever other images are there. A key is `NAME@VERSION`, and replaces every
        other version of NAME, as each may take gigabytes. Raises `LabError` while the host has containers.
        """
        if host.image_id(ref) is None:
            raise LabError(f"{host.name} has no image {ref}", host.exec(["docker", "image", "ls"]).stdout)
        if host.exec(["docker", "ps", "--quiet"]).stdout:
            raise LabError(f"{host.name} has containers that run", host.exec(["docker", "ps"]).stdout)
        host.stop_dockerd()
        try:
            with self.images.locked():
                self._disks.keep(*_disk_name(key), host.docker_folder())
        finally:
            host.start_dockerd()

    def has_image(self, key: str) -> bool:
        """Whether `cache_image` kept an image under this key (and neither Docker nor the base image changed)."""
        return self._disks.find(*_disk_name(key)) is not None

    @contextmanager
    def local_docker(self) -> Iterator[LocalDocker]:
        """The Docker engine of this machine itself, with the base image: the running one, or one of our own."""
        with self.images.locked():
            self._disk(BASE)  # makes the base image's archive
        with local_docker(self.cache, self.images) as engine:
            yield engine

    # --- how it is made ---

    def _add(
        self, name: str, setup: Setup, fill_disk: Callable[[Path], None], kind: type[LabHost] = LabHost
    ) -> LabHost:
        with self._lock:
            if name in self.hosts:
                raise LabError(f"there is a host {name} already")
            taken = {host.index for host in self.hosts.values()}
            index = next(index for index in range(200) if index not in taken)
            folder = self._record.data / name
            shutil.rmtree(folder, ignore_errors=True)
            host = kind(name, index, self.network, folder, setup, self.keys.public, fill_disk)
            self.hosts[name] = host
            self.trust(host)
            return host

    def _write_client_files(self) -> None:
        ways = {host.name: (host.address, host.port, host.user) for host in self.hosts.values()}
        slow = {alias: ("127.0.0.1", port, host.user) for alias, (host, port) in self._slow.items()}
        self.keys.write_config({**ways, **slow})
        known = {self.hosts[name].address: keys for name, keys in self._known.items()}
        for host, port in self._slow.values():
            known[f"[127.0.0.1]:{port}"] = self._known[host.name]
        self.keys.write_known_hosts(known)

    def _fill_disk(self, key: str | None, folder: Path) -> None:
        with self.images.locked():
            copy(self._disk(key or BASE), folder)

    def _disk(self, key: str) -> Path:
        """The disk kept under a key; the one with the base image is made first if there is none."""
        found = self._disks.find(*_disk_name(key))
        if found is not None and (key != BASE or self.images.archive().exists()):
            return found
        if key != BASE:
            raise LabError(f"no image was kept as {key}")
        press = self._add("press", Setup(), lambda folder: None).up()
        try:
            with self.images.files().open("rb") as stdin:
                press.exec_on(import_words(), stdin)
            press.save_image(BASE_IMAGE, self.images.archive())
            press.stop_dockerd()
            return self._disks.keep(*_disk_name(BASE), press.docker_folder())
        finally:
            self.discard(press)


def cache_folder() -> Path:
    """Where sessions keep what the next one can use."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "remoterun-lab"


def _disk_name(key: str) -> tuple[str, str]:
    """The label and version of the disk for `NAME@VERSION`: another version whenever its ground is another."""
    name, _, version = key.partition("@")
    ground = "\0".join([version, recipe_digest(), _docker_version()])
    return re.sub("[^A-Za-z0-9._-]", "_", name), hashlib.sha256(ground.encode()).hexdigest()[:16]


@functools.cache
def _docker_version() -> str:
    return run(["dockerd", "--version"]).stdout
