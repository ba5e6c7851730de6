"""The engine `docker`, and `podman` by the same words.

Longer than other files: it is one class with the methods of `Engine`, and the words of each command of Docker's stand
where they are used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Sequence, Tuple

from ...shared.api import MachineCheck
from ...shared.archive import ImageAccess
from ...shared.environment import Environment
from ...shared.files import locked, remove_tree, write_whole
from ...shared.machines import CAPABILITIES
from ...shared.spec import NONE, TENSORFLOW, ResolvedMount, RunSpec
from ...store.errors import HomeError
from ...store.home import Home
from ...store.run_folder import RunFolder
from ..counters import PRINT, Counters, group_of, of_group, printed
from ..cpus import choose
from ..network import Network
from ..variants import title_of
from . import BaseImageUnavailable, CommandState, EngineError, Kept, Presence, container_network
from .building import MOST_CONTENTS, BuildJob, explain
from .mount_points import make_mount_point
from .wrapper import END, START, Program, known_variable, mark, mark_stopping, prepare_io

CONTENTS = "remoterun.contents"
"""The label of an image that says what is in it."""
IO = "/.remoterun"
CONTROL = "/.remoterun-control"
WORK = "/remoterun"
DETACH = "ctrl-^,ctrl-],ctrl-^,ctrl-],ctrl-^,ctrl-]"
"""Keys that leave an `exec` of Docker's. It has to have some, and holds the first of them back: nobody types these."""
_VERSION = ("version", "--format", "{{.Server.Version}}")
TIMEOUT = 60.0
"""Seconds for a command of the engine that isn't a build or a pull."""
SILENT = 124
"""The status of a command of an engine that does not answer."""


class Docker:
    """Containers are named after their run, so that a new supervisor finds them."""

    def __init__(self, home: Home, tool: str = "docker") -> None:
        self.home = home
        self.name = tool
        self._tool = tool
        self._first_processes: Dict[str, int] = {}
        """By the key of its run, the pid of a container's first process; 0 where that isn't known."""

    # -- commands, as data

    def run_command(
        self, run: RunFolder, spec: RunSpec, mounts: Sequence[ResolvedMount], gpus: List[str], user: str, memory: int,
        cpus: str = "",
    ) -> List[str]:  # fmt: skip
        """The words that start a run. `user` is "uid:gid", `memory` the host's in bytes, `cpus` "0,3", "" for any."""
        words = [
            self._tool, "run", "--detach", "--init",
            "--name", container(run),
            "--label", "remoterun.run=" + run.key,
            "--label", "remoterun.home=" + self.home.id,
            "--user", user,
            "--entrypoint", "/bin/sh",
            "--security-opt", "label=disable",
            "--security-opt", "no-new-privileges",
            "--shm-size", str(max(memory // 2, 64 << 20)),
            "--env", "HOME=%s/home" % IO,
            "--env", "USER=remoterun",
        ]  # fmt: skip
        if cpus:  # rather than a share of all, of each of which its programs would make use
            words += ["--cpuset-cpus", cpus]
        if spec.memory:
            words += ["--memory", str(spec.memory), "--memory-swap", str(spec.memory)]
        if gpus:
            words += ["--gpus", '"device=%s"' % ",".join(gpus)]
        words += ["--mount", _bind(run.control, CONTROL, read_only=True)]
        words += ["--mount", _bind(run.io, IO), "--mount", _bind(run.work, WORK)]
        for source, target in mount_points(run, mounts):
            words += ["--mount", _bind(source, target, read_only=True)]
        return words + [Environment.of(spec).final_image, CONTROL + "/wrapper.sh", IO, _start_folder(spec), "container"]

    # -- the contract

    def mount(self, run: RunFolder, spec: RunSpec) -> None:
        for number, mount in enumerate(run.mounts()):
            folder = os.path.join(run.path, "mounts", str(number))
            remove_tree(folder)
            self.home.checkout(self.home.blobs.tree(mount.tree), folder, private=False)
            if not mount.is_absolute:
                make_mount_point(run.work, mount.place, bool(mount.file))

    def problem(self) -> Optional[str]:
        title = CAPABILITIES[self.name].title
        if shutil.which(self._tool) is None:
            return "%s is not installed here" % title
        status, _, said = self._tried(*_VERSION, timeout=20)
        if status == 0:
            return None
        if status == SILENT:
            return "%s does not answer here" % title
        if "permission denied" in said.lower():
            return "this user may not use %s here" % title
        return "%s is not running here" % title

    def examine(self, base: str, instead: str) -> List[MachineCheck]:
        problem, fix = self.problem(), None
        if problem is None:
            checks = [MachineCheck(self.name, True, self._call(*_VERSION, timeout=20)[1].strip())]
            if base:
                here = self.has_image(base)
                detail = "%s is here" % base if here else "%s is not here; the first run pulls it" % base
                checks.append(MachineCheck("base image", True if here else None, detail))
            return checks
        if instead:  # not a fault: every run works without it
            return [MachineCheck(self.name, None, "%s, so runs use %s" % (problem, instead))]
        if shutil.which(self._tool) is None:
            podman = self._tool == "podman"
            fix = "sudo apt install podman" if podman else "curl -fsSL https://get.docker.com | sudo sh"
        elif "may not use" in problem:
            fix = "sudo usermod -aG docker $USER   then log out and in"
        else:
            fix = "sudo systemctl enable --now docker"
        return [MachineCheck(self.name, False, problem, fix)]

    def needs(self, spec: RunSpec) -> List[str]:
        environment = Environment.of(spec)
        return [environment.final_image, environment.bundled_image]

    def build(self, run: RunFolder, spec: RunSpec, job: BuildJob) -> None:
        environment = Environment.of(spec)
        built: List[str] = []
        if not self.has_image(environment.final_image):
            with locked(self.home.lock("image-" + environment.hash), waiting=job.check):
                if not self.has_image(environment.final_image):
                    archived = {access.image: access for access in run.images() if self.name == "docker"}
                    built = self._make(environment, archived, job)
        run.save_images(built)

    def start(self, run: RunFolder, spec: RunSpec, gpus: List[str]) -> None:
        state = self._state(run)
        if state and state.get("Status") == "created":  # by a supervisor that died then
            self.remove(run)
        elif state:
            return
        prepare_io(run, spec, run.values(), CONTROL)
        os.makedirs(os.path.join(run.io, "home"), exist_ok=True)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        cpus = choose(self.home, run, spec.cpus) if spec.cpus else ""
        words = self.run_command(run, spec, run.mounts(), gpus, self._user(), memory, cpus)
        # It holds the run's lock: if we die meanwhile, nobody makes the work tree anew under a container that starts.
        keep = [run.supervision] if run.supervision is not None else []
        status, _, said = self._call(*words[1:], timeout=300, keep=keep)
        if status == 0 or "is already in use" in said:
            return
        self.remove(run)
        raise EngineError("%s could not start the container" % self._tool, said, _start_hint(said))

    def inspect(self, run: RunFolder) -> CommandState:
        state = self._state(run)
        if state is None:
            return CommandState(Presence.UNKNOWN)
        if not state:
            return CommandState(Presence.ABSENT)
        if state.get("Status") in ("exited", "dead"):
            code = int(state.get("ExitCode", 255))  # podman's is -1 where it doesn't know
            return CommandState(Presence.ENDED, code if 0 <= code <= 255 else 255, bool(state.get("OOMKilled")))
        if state.get("Status") == "created":
            return CommandState(Presence.ABSENT)
        return CommandState(Presence.RUNNING, out_of_memory=bool(state.get("OOMKilled")))

    def _state(self, run: RunFolder) -> Optional[Dict[str, Any]]:
        """What the engine says of the container; {} if there is none, None if it doesn't say."""
        words = ["inspect", "--type", "container", "--format", "{{json .State}}", container(run)]
        status, out, said = self._tried(*words)
        if status != 0:
            return {} if "no such" in said.lower() else None
        try:
            state: Dict[str, Any] = json.loads(out)
        except ValueError:
            return None
        return state

    def alive(self, run: RunFolder) -> bool:
        return self.inspect(run).presence is Presence.RUNNING

    def exec(self, run: RunFolder, spec: RunSpec, words: Sequence[str], name: str, terminal: str = "") -> Program:
        tty = ["--tty", "--detach-keys", DETACH, "--env", "TERM=" + terminal] if terminal else []
        start = [IO, _start_folder(spec), known_variable(spec), *words]
        return Program(
            [self._tool, "exec", "--interactive", *tty, "--user", self._user(), "--env", mark(name), container(run),
             "/bin/sh", "-c", START, "sh", *start],
            dict(os.environ), None, bool(terminal),
        )  # fmt: skip

    def end_exec(self, run: RunFolder, name: str) -> None:
        words = ["exec", "--user", self._user(), container(run), "/bin/sh", "-c", END, "sh", mark(name)]
        self._tried(*words, timeout=10, quiet=True)

    def counters(self, run: RunFolder) -> Optional[Counters]:
        if run.key not in self._first_processes:
            self._first_processes[run.key] = int((self._state(run) or {}).get("Pid") or 0)
        found = of_group(group_of(self._first_processes[run.key]))
        if found is None:  # Docker is in a machine of its own
            words = ["exec", "--user", self._user(), container(run), "/bin/sh", "-c", PRINT]
            found = of_group(printed(self._first_of(words)))
        return found

    def terminate(self, run: RunFolder) -> bool:
        mark_stopping(run)
        words = ["exec", "--user", self._user(), container(run), "/bin/sh", "-c", "kill -s TERM -- -1"]
        status, _, _ = self._tried(*words, timeout=10, quiet=True)
        if status != 0:  # also where the container's own shell never ends
            status, _, _ = self._tried("kill", "--signal", "TERM", container(run))
        return status == 0 or (status != SILENT and self._has_ended(run))

    def kill(self, run: RunFolder) -> bool:
        if self._tried("kill", "--signal", "KILL", container(run))[0] == SILENT:
            return False
        self._tried("wait", container(run), timeout=10)
        return self._has_ended(run)

    def _has_ended(self, run: RunFolder) -> bool:
        return self.inspect(run).presence in (Presence.ENDED, Presence.ABSENT)

    def network(self, run: RunFolder) -> ContextManager[Network]:
        def start(folder: str) -> None:
            steps = [container_network.maker_words(self._tool, container(run), self._user(), folder)[1:]]
            if not self.has_image(container_network.IMAGE):
                write_whole(nothing := os.path.join(folder, "nothing.tar"), bytes(10240), 0o600)
                label = "LABEL remoterun.home=" + self.home.id
                steps.insert(0, ["import", "--change", label, nothing, container_network.IMAGE])
            for words in steps:
                status, _, said = self._call(*words)
                if status != 0:
                    raise HomeError("no_network", "the container's network can't be reached: %s" % said[-300:])

        return container_network.opened(self.home, start)

    def remove(self, run: RunFolder) -> bool:
        status, _, said = self._tried("rm", "--force", "--volumes", container(run))
        return status == 0 or "no such container" in said.lower()

    # -- images

    def has_image(self, reference: str) -> bool:
        """Whether the engine has it; nothing is pulled."""
        status, _, _ = self._call("image", "inspect", "--format", "{{.Id}}", reference)
        return status == 0

    def kept(self, orphans: bool = False, without: Sequence[str] = ()) -> List[Kept]:
        """The images that were built for this home."""
        if orphans or self.problem() is not None:
            return []
        label = "label=remoterun.home=" + self.home.id
        try:
            ours = set(self._ids("--filter", label))
            if not ours:
                return []
            status, out, _ = self._tried("image", "inspect", *sorted(ours | set(self._ids())))
            every = json.loads(out) if status == 0 else []
            known = {_bare(item["Id"]): item for item in every if _bare(item["Id"]) not in without}
        except (ValueError, KeyError, TypeError):
            return []
        images = [_image(known[id], known) for id in sorted(ours) if id in known]
        return sorted(images, key=lambda image: -image.size)

    def free(self, kept: Kept, discard: Callable[[str], None]) -> bool:
        """An image that a container uses, or on which another one stands, can't be deleted."""
        return self._tried("image", "rm", kept.name, timeout=600)[0] == 0

    def _ids(self, *words: str) -> List[str]:
        status, out, _ = self._tried("image", "ls", "--quiet", "--no-trunc", *words)
        return [_bare(word) for word in out.split()] if status == 0 else []

    def _make(self, environment: Environment, archived: Mapping[str, ImageAccess], job: BuildJob) -> List[str]:
        """Download or build what is missing; the names of the images that were built. `archived`: those that the
        archive may have."""
        built: List[str] = []
        bundled = environment.bundled_image
        if not environment.plain and self._downloaded(environment.final_image, archived, job):
            return built
        if environment.image or environment.framework == NONE:
            self._pull(environment.image or environment.base, job)
        elif not self.has_image(bundled) and not self._downloaded(bundled, archived, job):
            self._build_bundled(environment, job)
            built.append(bundled)
        if not environment.plain:
            self._build_packages(environment, job)
            built.append(environment.final_image)
        return built

    def _downloaded(self, image: str, archived: Mapping[str, ImageAccess], job: BuildJob) -> bool:
        """Whether it could be had from the archive, which saves the time to build it."""
        stored = archived[image].stored if image in archived else []
        if not stored:
            return False
        from ..images import Unusable, load  # few runs need it

        try:
            load(self.home, self._tool, image, stored, job)
            return True
        except Unusable as error:
            job.say("the environment in the archive can't be used, so it is built: %s" % error)
            return False

    def _pull(self, reference: str, job: BuildJob) -> None:
        if self.has_image(reference):
            return
        job.say("pulling the image %s" % reference)
        if job.run([self._tool, "pull", "--quiet", reference]) != 0:
            raise BaseImageUnavailable(
                "the image %s is not on this machine and can't be pulled" % reference,
                job.tail(3),
                "check its name, and that the machine reaches the registry: %s pull %s" % (self._tool, reference),
            )

    def _build_bundled(self, environment: Environment, job: BuildJob) -> None:
        self._pull(environment.base, job)
        contents = title_of(environment.variant)
        if environment.framework != TENSORFLOW:
            job.say("building the environment, once for this machine: plain Python")
            with self.home.temporary("image") as folder:
                write_whole(os.path.join(folder, "Dockerfile"), environment.bundled_dockerfile().encode(), 0o644)
                self._build(environment.bundled_image, contents, [folder], job)
            return
        job.say("building the environment, once for this machine: TensorFlow takes minutes")
        with self.home.temporary("image") as folder:
            context = os.path.join(folder, "context")
            self.home.checkout(self.home.blobs.tree(environment.context), context, private=True)
            self._build(
                environment.bundled_image,
                contents,
                ["--build-arg", "BASE=" + environment.base, "--build-arg", "VARIANT=" + environment.variant,
                 "--file", os.path.join(context, "docker", "Dockerfile"), context],
                job,
            )  # fmt: skip

    def _build_packages(self, environment: Environment, job: BuildJob) -> None:
        job.say("installing packages: %s" % " ".join(environment.apt + environment.pip or ("requirements",)))
        with self.home.temporary("image") as folder:
            write_whole(os.path.join(folder, "Dockerfile"), environment.dockerfile().encode(), 0o644)
            write_whole(os.path.join(folder, "requirements.txt"), environment.all_requirements.encode(), 0o644)
            contents = environment.contents(environment.image or title_of(environment.variant))
            self._build(environment.final_image, contents, [folder], job)

    def _build(self, reference: str, contents: str, words: List[str], job: BuildJob) -> None:
        label = ["--label", "remoterun.home=" + self.home.id, "--label", "%s=%s" % (CONTENTS, contents)]
        if job.run([self._tool, "build", "--tag", reference, *label, *words]) != 0:
            raise explain(job)

    def _user(self) -> str:
        """Outputs shall belong to the user. In a rootless engine that is the container's root."""
        if os.getuid() != 0 and (self._tool == "podman" or self._rootless()):
            return "0:0"
        return "%d:%d" % (os.getuid(), os.getgid())

    def _rootless(self) -> bool:
        if "DOCKER_HOST" not in os.environ and not os.path.exists("/run/user/%d/docker.sock" % os.getuid()):
            return False  # saves 30 ms where the answer is plain
        status, out, _ = self._call("info", "--format", "{{json .SecurityOptions}}")
        return status == 0 and "rootless" in out

    def _tried(self, *words: str, timeout: Optional[float] = None, quiet: bool = False) -> Tuple[int, str, str]:
        """As `_call`, with the status SILENT where the engine does not answer."""
        try:
            return self._call(*words, timeout=timeout, quiet=quiet)
        except subprocess.TimeoutExpired:
            return SILENT, "", ""

    def _first_of(self, words: List[str]) -> str:
        """The first 64 KiB that a command prints within 10 s: a program of a container may print without an end."""
        nothing = subprocess.DEVNULL
        try:
            process = subprocess.Popen([self._tool, *words], stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)
        except OSError:
            return ""
        with process:
            timer = threading.Timer(10, process.kill)
            timer.start()
            assert process.stdout is not None
            text: bytes = process.stdout.read(1 << 16)
            timer.cancel()
            process.kill()
        return text.decode("utf-8", "replace")

    def _call(
        self, *words: str, timeout: Optional[float] = None, keep: Sequence[int] = (), quiet: bool = False
    ) -> Tuple[int, str, str]:
        """A command's exit status, what it prints, and its errors. Raises `subprocess.TimeoutExpired`. `quiet`: read
        nothing that it prints: a program of a container may print without an end."""
        into = subprocess.DEVNULL if quiet else subprocess.PIPE
        try:
            done = subprocess.run(
                [self._tool, *words],
                stdin=subprocess.DEVNULL,
                stdout=into,
                stderr=into,
                timeout=TIMEOUT if timeout is None else timeout,
                pass_fds=keep,
            )
        except OSError as error:
            return 127, "", str(error)
        out, errors = done.stdout or b"", done.stderr or b""
        return done.returncode, out.decode("utf-8", "replace"), errors.decode("utf-8", "replace").strip()


def container(run: RunFolder) -> str:
    return "remoterun-" + run.key


def _start_folder(spec: RunSpec) -> str:
    return WORK + ("/" + spec.workdir if spec.workdir else "")


def mount_points(run: RunFolder, mounts: Sequence[ResolvedMount]) -> List[Tuple[str, str]]:
    """(path on the host, path in the container) of each mount, in the order given."""
    found = []
    for number, mount in enumerate(mounts):
        target = mount.place if mount.is_absolute else WORK + "/" + mount.place
        folder = os.path.join(run.path, "mounts", str(number))
        found.append((os.path.join(folder, mount.file) if mount.file else folder, target))
    return found


def _bare(id: str) -> str:
    return id.partition(":")[2] or id


def _image(about: Dict[str, Any], known: Dict[str, Dict[str, Any]]) -> Kept:
    """From what `inspect` says. Layers that it has from another image, or another has from it, are not its alone."""
    layers = _layers(about)
    shared = 0
    for other in known.values():
        theirs = _layers(other)
        if other is not about and theirs and layers[: len(theirs)] == theirs:
            shared = max(shared, int(other["Size"]))
        elif other is not about and layers and theirs[: len(layers)] == layers:
            shared = int(about["Size"])
    tags = [tag for tag in about.get("RepoTags") or [] if tag != "<none>:<none>"]
    if len(tags) > 1:
        shared = int(about["Size"])
    ours = [tag.rpartition("localhost/")[2] for tag in tags]
    name = next((tag for tag in ours if tag.startswith("remoterun-")), _bare(about["Id"]))
    size = int(about["Size"])
    contents = str(((about.get("Config") or {}).get("Labels") or {}).get(CONTENTS, ""))[:MOST_CONTENTS]
    created = _seconds(about.get("Created"))
    return Kept("image", name, _bare(about["Id"]), size, max(size - shared, 0), created, contents)


def _layers(about: Dict[str, Any]) -> List[str]:
    return list((about.get("RootFS") or {}).get("Layers") or [])


def _seconds(text: Any) -> float:
    """Of a time like 2026-01-02T03:04:05.678Z."""
    import calendar

    try:
        return float(calendar.timegm(time.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return 0.0


def _bind(source: str, target: str, read_only: bool = False) -> str:
    fields = ["type=bind", "source=" + source, "target=" + target] + (["readonly"] if read_only else [])
    return ",".join('"%s"' % field.replace('"', '""') if set(field) & set(',"\n') else field for field in fields)


def _start_hint(said: str) -> Optional[str]:
    if "could not select device driver" in said or "nvidia" in said.lower():
        return "install the NVIDIA container toolkit on that machine; `remoterun doctor` shows how"
    if "cpuset" in said:
        return "leave out --cpus, or let systemd delegate the controller cpuset to this user"
    if "/bin/sh" in said and ("no such file" in said or "not found" in said):
        return "the image needs /bin/sh"
    return None
