"""One host of the lab: a machine of its own as far as anyone who comes in by SSH can see."""

from __future__ import annotations

import enum
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.lab import gpu, keys
from tests.lab.error import LabError
from tests.lab.network import Network
from tests.lab.process import PATIENCE, Process, birth, listed, run, tail, until

USER = "me"
UID = 1500
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = Path(__file__).resolve().parents[2]


class Docker(enum.Enum):
    """What a host's user finds of Docker."""

    RUNNING = "dockerd runs and the user may use it"
    STOPPED = "there is a docker command, but no dockerd"
    FORBIDDEN = "dockerd runs, but the user isn't in the group docker"
    ABSENT = "there is no docker command and no dockerd"


@dataclass(frozen=True)
class Setup:
    """How a host is made; `Lab.host` takes each field as an option."""

    docker: Docker = Docker.RUNNING
    gpus: Sequence[gpu.Gpu] = ()
    """Cards that a fake `nvidia-smi` lists; none, no `nvidia-smi`."""
    home_size: str | None = None
    """Such as "64m": /home is a file system of its own, of that size."""
    home_in_memory: bool = False
    """/home is a tmpfs, for figures without a disk in them; a power cut takes all that was written there."""
    image: str | None = None
    """The key of a kept image (`Lab.cache_image`) that its Docker has from the start, beside the base image."""
    live_restore: bool = False
    """Whether containers live on while dockerd is stopped."""
    user: str = USER
    """Who comes in by SSH; as well as root, unless its keys are taken away."""


class LabHost:
    """A host; made by `Lab.host`, and off until `up`.

    It shares this machine's kernel and /usr; /etc, /home, /root, /run, /tmp, /usr/local, /var/lib/docker, /dev/shm
    and the boot id are its own, and the folder of this repository is empty there. What it writes to /home, /root,
    /etc and /var/lib/docker outlives a power cut, unless `home_in_memory`.
    """

    uid = UID
    port = 22

    def __init__(
        self,
        name: str,
        index: int,
        network: Network,
        folder: Path,
        setup: Setup,
        public_key: str,
        fill_disk: Callable[[Path], None],
    ) -> None:
        """`fill_disk` is called before the first start of dockerd, with the folder of its images."""
        self.name = name
        self.user = setup.user
        self.cuts = 0
        """How often `cut` was called."""
        self.address = network.address(index)
        self.setup = setup
        self.logs = folder / "log"
        self.index = index
        self._network = network
        self._namespace = f"{network.name}-{name}"
        self._folder = folder
        self._fill_disk = fill_disk
        self._machine: subprocess.Popen[bytes] | None = None
        self._init: int | None = None
        self._make_folders(public_key)

    def __repr__(self) -> str:
        return f"<LabHost {self.name} {self.address} {'up' if self.is_up() else 'down'}>"

    # --- power ---

    def up(self) -> LabHost:
        """Switch on, wait until sshd and dockerd answer (about 2 s), and return the host. May be called twice."""
        if self.is_up():
            return self
        self.down()
        if self._has_dockerd() and not os.listdir(self.docker_folder()):
            self._fill_disk(self.docker_folder())
        self._network.plug(self._namespace, self.index)
        self._boot()
        self._start_services()
        return self

    def down(self) -> None:
        """Cut the power: the link falls silent and every process dies, at once. May be called twice."""
        self._network.unplug(self._namespace, self.index)
        if self._machine is not None:
            self._machine.kill()
            self._machine.wait()
        self._machine = self._init = None

    def is_up(self) -> bool:
        """Whether it is switched on; it may still not answer (`cut`, `stop_sshd`)."""
        return self._machine is not None and self._machine.poll() is None

    def mend(self) -> None:
        """Undo every fault: afterwards it is up, reachable, and its sshd and dockerd run."""
        self.up()
        self.heal()
        self.start_sshd()
        if self._has_dockerd():
            self.start_dockerd()
        if self.setup.gpus:
            self.set_gpu_processes([])
        self.free_home()

    # --- link ---

    def cut(self) -> None:
        """Lose every packet from now on, silently, in both directions."""
        self.cuts += 1
        self._network.set_link(self.index, "down")

    def heal(self) -> None:
        """Undo `cut`; connections that were not given up meanwhile go on."""
        self._network.set_link(self.index, "up")

    def sever(self) -> None:
        """Reset every TCP connection to its port 22; new ones are welcome."""
        self.exec(["ss", "--kill", "state", "connected", f"sport = :{self.port}"], check=True)

    # --- services ---

    def start_sshd(self, *, wait: bool = True) -> None:
        """Start sshd unless it runs, and wait until it listens."""
        log = self.logs / "sshd.log"
        if not self._pids("/usr/sbin/sshd"):
            self._spawn(["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config"], log)
        if wait:
            listening = ["ss", "-Hltn", f"sport = :{self.port}"]
            until(lambda: self.exec(listening).stdout, PATIENCE, f"sshd of {self.name} listens", lambda: tail(log))

    def stop_sshd(self) -> None:
        """End the sshd that listens; sessions go on."""
        self._end(self._pids("/usr/sbin/sshd"), signal.SIGTERM)

    def start_dockerd(self) -> None:
        """Start dockerd unless it runs, and wait until it answers.

        As on Debian, containerd is a service of its own, which neither `stop_dockerd` nor `kill_dockerd` touches: with
        `live_restore`, an exit code that falls while dockerd is down isn't lost.
        """
        log = self.logs / "dockerd.log"
        if not self._pids("containerd"):
            self._spawn(["containerd"], self.logs / "containerd.log")
        if not self._pids("dockerd"):
            until(
                lambda: self._listens("/run/containerd/containerd.sock"),
                PATIENCE,
                f"containerd of {self.name} listens",
                lambda: tail(self.logs / "containerd.log"),
            )
            self._spawn(["dockerd"], log)
        until(self._dockerd_answers, PATIENCE, f"dockerd of {self.name} answers", lambda: tail(log))

    def stop_dockerd(self) -> None:
        """Ask dockerd to end, as an upgrade does, and wait for it; its containers end too, unless `live_restore`."""
        self._end(self._pids("dockerd"), signal.SIGTERM)

    def kill_dockerd(self) -> None:
        """Kill dockerd; its containers live on until it is started again."""
        self._end(self._pids("dockerd"), signal.SIGKILL)

    def host_keys(self) -> list[str]:
        """Its public host keys, a line each."""
        return keys.public_host_keys(self._folder / "etc/ssh")

    # --- inside ---

    def exec(
        self,
        words: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60,
        check: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root. Raises `LabError` after `timeout`, or with `check` when it fails."""
        return run(self._enter("/root", "root", words, env or {}), input=input, timeout=timeout, check=check)

    def exec_user(
        self, words: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside as the SSH user, without SSH and without a shell. `options` are those of `exec`."""
        home = f"/home/{self.user}"
        variables = {"HOME": home, "USER": self.user, "LOGNAME": self.user, **(env or {})}
        user = ["env", f"--chdir={home}", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups"]
        return self.exec([*user, *words], env=variables, **options)

    def path(self, inside: str) -> Path:
        """A path on this machine to the same file as `inside` on the host, to read and write. Only while it is up."""
        return Path(f"/proc/{self._pid()}/root") / inside.lstrip("/")

    def processes(self) -> list[Process]:
        """All that runs there, containers too, numbered as the host numbers them; [] when it is off."""
        if not self.is_up():
            return []
        return listed(self.path("/proc"))

    # --- disk and images ---

    def exec_on(self, words: Sequence[str], stdin: IO[bytes]) -> None:
        """Run a program inside, as root, on a file of this machine. Raises `LabError` when it fails."""
        run(self._enter("/root", "root", words, {}), stdin=stdin, timeout=600)

    def save_image(self, ref: str, archive: Path) -> None:
        """Write an image to a file, which appears whole."""
        new = archive.with_name(f".{archive.name}.{os.getpid()}")
        with new.open("wb") as stdout:
            run(self._enter("/root", "root", ["docker", "save", ref], {}), stdout=stdout, timeout=600)
        new.replace(archive)

    def docker_folder(self) -> Path:
        """Where this machine has the host's /var/lib/docker."""
        return self._folder / "docker"

    def image_id(self, ref: str) -> str | None:
        """The image's content address; None if its Docker doesn't have it."""
        found = self.exec(["docker", "image", "inspect", "--format", "{{.Id}}", ref])
        return None if found.returncode else found.stdout.strip()

    def fill_home(self, leave: int = 0) -> None:
        """Fill /home but for about `leave` bytes. Only for hosts with a `home_size`: the others have no bounds."""
        if self.setup.home_size is None:
            raise LabError(f"{self.name} has no home_size: filling its /home would fill this machine")
        free = os.statvfs(self.path("/home"))
        ballast = max(0, free.f_bavail * free.f_frsize - leave)
        self.exec(["dd", "if=/dev/zero", "of=/home/ballast", "bs=64k", f"count={-(-ballast // 65536)}"])

    def free_home(self) -> None:
        """Undo `fill_home`."""
        self.path("/home/ballast").unlink(missing_ok=True)

    # --- cards ---

    def set_gpu_processes(self, processes: Sequence[gpu.GpuProcess]) -> None:
        """Change what `nvidia-smi` says of the processes on its cards."""
        gpu.write_processes(self._folder / "usr-local", processes)

    # --- how it is made ---

    def _make_folders(self, public_key: str) -> None:
        self.logs.mkdir(parents=True)
        kept = "etc/ssh etc/docker etc/containerd etc-work home root var-tmp containerd docker usr-local/bin"
        for name in kept.split():
            (self._folder / name).mkdir(parents=True)
        (self._folder / "var-tmp").chmod(0o1777)
        self._make_etc()
        self._make_home(public_key)
        if self.setup.gpus:
            gpu.install(self._folder / "usr-local", self.setup.gpus)
        for index, folder in enumerate(self._hidden()):
            (self._folder / f"hide-{index}").mkdir()
            (self._folder / f"hide-{index}-work").mkdir()
            for path in self._hidden()[folder]:
                os.mknod(self._folder / f"hide-{index}" / path.name, 0o600 | 0o020000)  # overlayfs: not there

    def _make_etc(self) -> None:
        etc = self._folder / "etc"
        etc.chmod(0o755)
        group = Path("/etc/group").read_text().splitlines()
        gid = next((line.split(":")[2] for line in group if line.startswith("docker:")), "1499")
        group = [line for line in group if line.split(":")[0] not in ("docker", self.user)]
        members = "" if self.setup.docker is Docker.FORBIDDEN else self.user
        group += [f"docker:x:{gid}:{members}", f"{self.user}:x:{UID}:"]
        home = f"/home/{self.user}"
        self._account("passwd", f"{self.user}:x:{UID}:{UID}:A person:{home}:/bin/bash", 0o644)
        self._account("shadow", f"{self.user}:*:20000:0:99999:7:::", 0o640)
        (etc / "group").write_text("\n".join(group) + "\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (etc / "resolv.conf").write_text(_resolv_conf())
        (etc / "docker/daemon.json").write_text(json.dumps(self._daemon_json(), indent=2))
        (etc / "containerd/config.toml").write_text(CONTAINERD_CONFIG)
        (etc / "ssh/sshd_config").write_text(SSHD_CONFIG)
        keys.make_host_keys(etc / "ssh")

    def _account(self, name: str, line: str, mode: int) -> None:
        path = self._folder / "etc" / name
        others = [each for each in Path("/etc", name).read_text().splitlines() if not each.startswith(f"{self.user}:")]
        path.write_text("\n".join([*others, line]) + "\n")
        path.chmod(mode)

    def _make_home(self, public_key: str) -> None:
        home = self._folder / "home" / self.user
        shutil.copytree("/etc/skel", home)
        (home / ".ssh").mkdir(mode=0o700)
        (home / ".ssh/authorized_keys").write_text(public_key)
        for path in [home, *home.rglob("*")]:
            os.chown(path, UID, UID)
        root = self._folder / "root"
        root.chmod(0o700)
        (root / ".ssh").mkdir(mode=0o700)
        (root / ".ssh/authorized_keys").write_text(public_key)
        if self.setup.home_size is not None:
            image = self._folder / "home.ext4"
            run(["truncate", "-s", self.setup.home_size, str(image)])
            run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", str(self._folder / "home"), str(image)])

    def _daemon_json(self) -> dict[str, object]:
        return {
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self._namespace}",
            "mtu": self._network.mtu,
            "live-restore": self.setup.live_restore,
            "storage-driver": "overlay2",
        }

    def _hidden(self) -> dict[Path, list[Path]]:
        """The programs that aren't to be found there, by folder."""
        folder, patterns = Path("/usr/bin"), ["docker", "podman"] if self.setup.docker is Docker.ABSENT else []
        found = sorted(path for pattern in patterns for path in folder.glob(pattern))
        return {folder: found} if found else {}

    def _boot(self) -> None:
        (self._folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self._folder / "booted").unlink(missing_ok=True)
        script = self._folder / "boot.sh"
        script.write_text(self._boot_script())
        log = self.logs / "boot.log"
        with log.open("ab") as output:
            self._machine = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._namespace}"]
                + [
                    "unshare",
                    "--uts",
                    "--ipc",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--kill-child=SIGKILL",
                ]
                + ["sh", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": PATH},
                cwd="/",
                start_new_session=True,
            )
        until(self._booted, PATIENCE, f"{self.name} boots", lambda: tail(log))

    def _start_services(self) -> None:
        self.start_sshd(wait=False)
        if self._has_dockerd():
            self.start_dockerd()
        self.start_sshd()

    def _booted(self) -> bool:
        assert self._machine is not None
        if self._machine.poll() is not None:
            raise LabError(f"{self.name} doesn't boot", tail(self.logs / "boot.log"))
        if not (self._folder / "booted").exists() or not (self._folder / "booted").read_text():
            return False
        children = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text().split()
        self._init = int(children[0])
        return True

    def _boot_script(self) -> str:
        mine = {name: shlex.quote(str(self._folder / name)) for name in os.listdir(self._folder)}
        lines = ["set -eu", f"exec 3> {shlex.quote(str(self._folder / 'booted'))}", f"hostname {self.name}"]
        for index, folder in enumerate(self._hidden()):
            layers = f"lowerdir={folder},upperdir={mine[f'hide-{index}']},workdir={mine[f'hide-{index}-work']}"
            lines.append(f"mount -t overlay overlay -o {layers} {folder}")
        lines += [
            f"mount -t overlay overlay -o lowerdir=/etc,upperdir={mine['etc']},workdir={mine['etc-work']} /etc",
            f"mount --bind {mine['boot_id']} /proc/sys/kernel/random/boot_id",
            "mount -t tmpfs -o mode=755 run /run",
            "mkdir -p /run/sshd /run/lock /run/user /run/.home /run/.root",
            *self._more_mounts(mine),
            self._mount_home(mine),
            f"mount --bind {mine['root']} /run/.root",
            "mount -t tmpfs -o mode=1777 shm /dev/shm",
            f"mkdir -p /var/lib/docker && mount --bind {mine['docker']} /var/lib/docker",
            f"mkdir -p /var/lib/containerd && mount --bind {mine['containerd']} /var/lib/containerd",
            f"mount --bind {mine['var-tmp']} /var/tmp",
            f"mount --bind {mine['usr-local']} /usr/local",
            f"mount -t tmpfs -o mode=755 repository {shlex.quote(str(REPOSITORY))}",
            # from here on, the lab's own folder may be out of sight
            "mount --move /run/.home /home && mount --move /run/.root /root && rmdir /run/.home /run/.root",
            "mount -t tmpfs -o mode=1777 tmp /tmp",
            f"echo booted >&3 && exec 3>&- && exec {self._first_process()}",
        ]
        return "\n".join(lines) + "\n"

    def _first_process(self) -> str:
        """What becomes the host's process 1, in the words of a shell."""
        init = shutil.which("docker-init") or shutil.which("tini")
        assert init is not None
        return f"{os.path.realpath(init)} -s -- sleep infinity"

    def _more_mounts(self, mine: Mapping[str, str]) -> list[str]:
        """Lines of the boot script for a kind of host that has more of its own; `mine` are quoted paths by name."""
        return []

    def _mount_home(self, mine: Mapping[str, str]) -> str:
        if self.setup.home_size is not None:
            return f"mount -o loop {mine['home.ext4']} /run/.home"
        if self.setup.home_in_memory:
            return f"mount -t tmpfs -o mode=755 home /run/.home && cp -a {mine['home']}/. /run/.home"
        return f"mount --bind {mine['home']} /run/.home"

    # --- what the rest stands on ---

    def _has_dockerd(self) -> bool:
        return self.setup.docker in (Docker.RUNNING, Docker.FORBIDDEN)

    def _pid(self) -> int:
        if self._init is None or birth(self._init) is None:
            raise LabError(f"{self.name} is switched off", tail(self.logs / "boot.log"))
        return self._init

    def _enter(self, folder: str, user: str, words: Sequence[str], env: Mapping[str, str]) -> list[str]:
        whole = {"PATH": PATH, "HOME": folder, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8", **env}
        settings = [f"{name}={value}" for name, value in whole.items()]
        inside = ["nsenter", f"--target={self._pid()}", "--net", "--uts", "--ipc", "--mount", "--pid"]
        return [*inside, "env", "-i", f"--chdir={folder}", *settings, *words]

    def _spawn(self, words: Sequence[str], log: Path) -> None:
        """Start a service that belongs to the host alone: its parent is the host's process 1."""
        with log.open("ab") as output:
            try:
                subprocess.run(
                    self._enter("/", "root", ["setsid", "--fork", *words], {}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=True,
                    timeout=PATIENCE,
                )
            except subprocess.SubprocessError as error:  # as when the host is switched off meanwhile
                raise LabError(f"{words[0]} doesn't start on {self.name}: {error}") from error

        def runs() -> bool:
            self._pid()  # raises once the host is switched off, as nothing will ever run there then
            return bool(self._pids(words[0]))

        until(runs, PATIENCE, f"{words[0]} runs on {self.name}", lambda: tail(log))

    def _pids(self, *programs: str) -> list[int]:
        """The processes of one of these programs, as the host numbers them; sshd renames itself."""
        return [
            process.pid
            for process in self.processes()
            if process.command.removeprefix("sshd: ").split(" ")[0] in programs
        ]

    def _end(self, pids: Sequence[int], number: signal.Signals) -> None:
        """Signal processes of the host and wait until they are gone."""
        if not pids:
            return
        self.exec(["sh", "-c", f'kill -{number.value} "$@" 2>/dev/null || true', "sh", *map(str, pids)])

        def gone() -> bool:
            return not {process.pid for process in self.processes()} & set(pids)

        until(gone, PATIENCE, f"processes {pids} of {self.name} end", lambda: tail(self.logs / "dockerd.log"))

    def _dockerd_answers(self) -> bool:
        if not self._pids("dockerd"):
            raise LabError(f"dockerd of {self.name} ended", tail(self.logs / "dockerd.log"))
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            try:
                link.connect(str(self.path("/run/docker.sock")))
                link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in link.recv(4096)
            except OSError:
                return False

    def _listens(self, inside: str) -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(self.path(inside)))
                return True
            except OSError:
                return False


def _resolv_conf() -> str:
    """This machine's, unless it names only itself (a local stub), which no host could reach."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            servers = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("nameserver ")]
            if any(not server.startswith("127.") for server in servers):
                return path.read_text()
    return ""


CONTAINERD_CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""

SSHD_CONFIG = """\
# Debian's, without PAM
Port 22
KbdInteractiveAuthentication no
PasswordAuthentication no
UsePAM no
X11Forwarding yes
PrintMotd no
AcceptEnv LANG LC_* COLORTERM NO_COLOR
Subsystem sftp /usr/lib/openssh/sftp-server
HostKey /etc/ssh/ssh_host_ed25519_key
HostKey /etc/ssh/ssh_host_ecdsa_key
PidFile /run/sshd.pid
"""
