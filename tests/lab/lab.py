"""The lab: hosts, the network between them, the keys to them and the images in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab import record
from tests.lab.disk import Disks, copy
from tests.lab.error import LabError, LabUnavailable
from tests.lab.host import REPOSITORY, LabHost, Setup
from tests.lab.images import BASE_IMAGE, Images, file_name, import_words
from tests.lab.keys import ClientKeys
from tests.lab.local_docker import LocalDocker, local_docker, sweep_local_docker
from tests.lab.network import Network
from tests.lab.process import run

TOOLS = (
    "apt-config containerd cp debootstrap docker dockerd ip iptables mkfs.ext4 nsenter setpriv ss ssh ssh-keygen tar",
    "truncate unshare",
)


class Lab:
    """Some hosts for one test session. A context manager: what it makes is gone afterwards, however it ends.

    `cache` holds what is kept for the next session (images); default: `remoterun-lab` in the user's cache folder.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or cache_folder()
        self.hosts: dict[str, LabHost] = {}
        self._known: dict[str, list[str]] = {}

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
        self._watch = subprocess.Popen(  # cleans up when this process is killed: the end of its input tells it
            [sys.executable, "-m", "tests.lab.record"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch every host off and remove all that was made, but for the cache. May be called twice."""
        for host in self.hosts.values():
            host.down()
        self.hosts.clear()
        record.remove(self._record)
        assert self._watch.stdin is not None
        self._watch.stdin.close()
        self._watch.wait(timeout=30)

    # --- hosts ---

    def host(self, name: str, **options: Any) -> LabHost:
        """Make a host, which is off until `up`. `options` are the fields of `Setup`, such as `home_size="64m"`."""
        setup = Setup(**options)
        return self._add(name, setup, lambda folder: self._fill_disk(setup.images, folder))

    def discard(self, host: LabHost) -> None:
        """Switch a host off and delete its disks."""
        host.down()
        del self.hosts[host.name]
        del self._known[host.name]
        shutil.rmtree(self._record.data / host.name, ignore_errors=True)
        self._write_client_files()

    def trust(self, host: LabHost) -> None:
        """Write the host's keys of now to the client's known_hosts, in place of earlier ones."""
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

    # --- images ---

    def share_image(self, source: LabHost, target: LabHost, ref: str) -> None:
        """Copy an image from one host's Docker to another's, unless it is there already."""
        if source.image_id(ref) == target.image_id(ref):
            return
        archive = self._record.data / "shared.tar"
        source.save_image(ref, archive)
        target.load_image(archive)
        archive.unlink()

    def cache_image(self, host: LabHost, ref: str, key: str) -> None:
        """Keep an image of a host's Docker for this session and later ones, in place of what had the same key.

        A key `NAME@VERSION` replaces every other version of NAME: what takes gigabytes is kept once.
        """
        if host.image_id(ref) is None:
            raise LabError(f"{host.name} has no image {ref}", host.exec(["docker", "image", "ls"]).stdout)
        archive = self._record.data / "kept.tar"
        host.save_image(ref, archive)
        with self.images.locked():
            self.images.forget(key.partition("@")[0])
            archive.rename(self.images.archive(key))

    def has_image(self, key: str) -> bool:
        """Whether `cache_image` kept an image under this key."""
        return self.images.archive(key).exists()

    def restore_image(self, host: LabHost, key: str) -> bool:
        """Load a kept image into a host's Docker, under its own name; False if none was kept."""
        if not self.has_image(key):
            return False
        host.load_image(self.images.archive(key))
        return True

    def forget_image(self, key: str) -> None:
        """Undo `cache_image`."""
        with self.images.locked():
            self.images.archive(key).unlink(missing_ok=True)
            self._disks.forget(_disk_label([key]))

    @contextmanager
    def local_docker(self) -> Iterator[LocalDocker]:
        """The Docker engine of this machine itself, with the base image: the running one, or one of our own."""
        with self.images.locked():
            self._disk(())  # makes the base image's archive
        with local_docker(self.cache, self.images) as engine:
            yield engine

    # --- how it is made ---

    def _add(self, name: str, setup: Setup, fill_disk: Callable[[Path], None]) -> LabHost:
        if name in self.hosts:
            raise LabError(f"there is a host {name} already")
        taken = {host.index for host in self.hosts.values()}
        index = next(index for index in range(200) if index not in taken)
        folder = self._record.data / name
        shutil.rmtree(folder, ignore_errors=True)
        host = LabHost(name, index, self.network, folder, setup, self.keys.public, fill_disk)
        self.hosts[name] = host
        self.trust(host)
        return host

    def _write_client_files(self) -> None:
        self.keys.write_config({host.name: (host.address, host.port, host.user) for host in self.hosts.values()})
        self.keys.write_known_hosts({self.hosts[name].address: keys for name, keys in self._known.items()})

    def _fill_disk(self, keys: Sequence[str], folder: Path) -> None:
        with self.images.locked():
            copy(self._disk(keys), folder)

    def _disk(self, keys: Sequence[str]) -> Path:
        """A disk with the base image and those kept under `keys`, made first if there is none."""
        absent = [key for key in keys if not self.has_image(key)]
        if absent:
            raise LabError(f"no image was kept as {', '.join(absent)}")
        archives = [self.images.base_archive(), *(self.images.archive(key) for key in keys)]
        if archives[0].exists():
            found = self._disks.find(_disk_label(keys), _disk_version(archives))
            if found is not None:
                return found
        return self._make_disk(_disk_label(keys), archives)

    def _make_disk(self, label: str, archives: Sequence[Path]) -> Path:
        """Load the archives on a host which is there for nothing else, and keep its disk."""
        press = self._add("press", Setup(), lambda folder: None).up()
        try:
            base, *others = archives
            if not base.exists():
                with self.images.base_files().open("rb") as stdin:
                    press.exec_on(import_words(), stdin)
                press.save_image(BASE_IMAGE, base)
            else:
                press.load_image(base)
            for archive in others:
                press.load_image(archive)
            press.stop_dockerd()
            return self._disks.keep(label, _disk_version(archives), self._record.data / "press" / "docker")
        finally:
            self.discard(press)


def cache_folder() -> Path:
    """Where sessions keep what the next one can use."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "remoterun-lab"


def _disk_label(keys: Sequence[str]) -> str:
    return "+".join(["base", *(file_name(key).partition("@")[0] for key in keys)])


def _disk_version(archives: Sequence[Path]) -> str:
    """Another one whenever an archive or Docker itself is another one."""
    parts = [run(["dockerd", "--version"]).stdout]
    for archive in archives:
        state = archive.stat()
        parts.append(f"{archive.name} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
