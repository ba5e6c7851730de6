"""The engine `process`: no container, a virtual environment of the home."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, ContextManager, Dict, List, Optional, Sequence, Set

from ...shared import identity
from ...shared.api import MachineCheck
from ...shared.environment import Environment
from ...shared.files import locked, own_bytes, read_json, remove_tree, text_of, write_whole
from ...shared.machines import CAPABILITIES, PREFERRED
from ...shared.spec import NONE, TENSORFLOW, RunSpec
from ...shared.tree import Manifest, show
from ...store.home import Home
from ...store.run_folder import RunFolder
from .. import cpus, network, processes
from ..counters import OOM_FILES, Counters, of_processes, oom_kills, path_of
from ..variants import INSTALL_PYTHON, lacking_python, python_for, title_of
from . import CommandState, EngineError, Kept, Presence
from .building import MOST_CONTENTS, BuildJob, find_uv, install, make_layer, make_venv
from .mount_points import make_mount_point
from .wrapper import Program, known_variable, mark_stopping, prepare_io

KILL_DEADLINE = 10.0
MOST_NAMED = 4
"""Packages of an environment that a line names."""


class ProcessEngine:
    """The wrapper runs as the user, in a session of its own; its processes are found by what `processes` follows."""

    def __init__(self, home: Home, name: str = "process") -> None:
        self.home = home
        self.name = name
        self._children: Dict[str, "subprocess.Popen[bytes]"] = {}

    def problem(self) -> Optional[str]:
        return None

    def examine(self, base: str, instead: str) -> List[MachineCheck]:
        title = CAPABILITIES[self.name].title
        return [MachineCheck(PREFERRED[0], None, "not needed: runs use %s" % title)]

    def needs(self, spec: RunSpec) -> List[str]:
        environment = Environment.of(spec)
        folders = [] if environment.image else self.folders(environment)
        return [os.path.basename(folder) for folder in folders]

    def kept(self, orphans: bool = False, without: Sequence[str] = ()) -> List[Kept]:
        found = []
        for name in sorted(os.listdir(self.home.envs)):
            path, library = os.path.join(self.home.envs, name), name.startswith("lib-")
            whole, ready, lock = self.is_whole(path), os.path.join(path, "ready"), "env-lib" if library else name
            with contextlib.suppress(FileNotFoundError):
                if not (orphans and whole):
                    used = os.stat(ready if os.path.exists(ready) else path).st_mtime
                    contents = "the trainer" if library else text_of(os.path.join(path, "contents"))[:MOST_CONTENTS]
                    size = own_bytes(path)
                    found.append(Kept("environment", name, name, size, size, used, contents, whole, lock))
        return found

    def free(self, kept: Kept, discard: Callable[[str], None]) -> bool:
        path = os.path.join(self.home.envs, kept.name)
        if not kept.whole and self.is_whole(path):
            return False  # it has been built meanwhile
        discard(path)
        return True

    def build(self, run: RunFolder, spec: RunSpec, job: BuildJob) -> None:
        environment = Environment.of(spec)
        if (spec.cpus or spec.memory) and sys.platform != "linux":
            raise EngineError("--cpus and --memory need Linux, or a container", hint="leave them out, or use Docker")
        if environment.image or environment.apt:
            words = "runs have no images and no apt packages here: they use a virtual environment"
            raise EngineError(words, hint="leave out --image and --apt, or use a machine with Docker")
        if environment.framework == NONE:
            return
        if environment.framework == TENSORFLOW:
            with locked(self.home.lock("env-lib")):
                self._install_library(environment)
        self._ensure(environment, job)

    def _ensure(self, environment: Environment, job: BuildJob) -> None:
        """Its virtual environment, and the one below it, exist and count as used now."""
        folder = self._venv(environment)
        if not self.is_whole(folder):
            uv = find_uv()  # it links what it has into a second environment, which costs next to nothing
            if uv is None and environment.base_environment is not None:
                self._ensure(environment.base_environment, job)
            with locked(self.home.lock(os.path.basename(folder)), waiting=job.check) as lock:
                if not self.is_whole(folder):
                    self._make(environment, folder, uv, job, lock)
        for used in (folder, os.path.join(folder, "base")):
            with contextlib.suppress(FileNotFoundError):
                os.utime(os.path.join(used, "ready"))

    def mount(self, run: RunFolder, spec: RunSpec) -> None:
        writable = os.geteuid() == 0  # root may write what is read-only: that must not be a blob of the home
        for mount in run.mounts():
            place = mount.place
            if mount.is_absolute:
                raise EngineError(
                    "runs can't mount at an absolute path here (%s): they use a virtual environment" % show(place),
                    hint="mount it at a relative one, or use a machine with Docker",
                )
            make_mount_point(run.work, place, bool(mount.file))
            target = os.path.join(run.work, place)
            if mount.file:
                os.unlink(target)
                target = os.path.dirname(target)
            manifest = self.home.blobs.tree(mount.tree)
            if mount.file:
                entry = next(iter(manifest))
                manifest = Manifest([entry._replace(path=os.path.basename(place))])
            self.home.checkout(manifest, target, private=writable)

    def start(self, run: RunFolder, spec: RunSpec, gpus: List[str]) -> None:
        if self.inspect(run).presence is not Presence.ABSENT:
            return
        prepare_io(run, spec, run.values())
        counts = [*map(path_of(os.getpid()), OOM_FILES), os.path.join(run.control, "oom")]
        kills = {file: oom_kills(file) for file in counts}
        bound = ["taskset", "-c", cpus.choose(self.home, run, spec.cpus)] if spec.cpus else []
        process = subprocess.Popen(
            [*bound, "/bin/sh", run.wrapper_file, run.io, self._start_folder(run, spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=run.work,
            env=self._variables(run, spec, gpus),
            start_new_session=True,
        )
        self._children[run.key] = process
        about = {"pid": process.pid, "started": identity.started(process.pid), "oom_kills": kills}
        write_whole(os.path.join(run.path, "process.json"), json.dumps(about).encode())

    def inspect(self, run: RunFolder) -> CommandState:
        child = self._children.get(run.key)
        if child is not None:
            code = child.poll()
            if code is None:
                return CommandState(Presence.RUNNING)
            return self._ended(run, code if code >= 0 else 128 - code)
        leader = self._leader(run)
        if leader is not None or processes.of_run(run.key, None):
            return CommandState(Presence.RUNNING)
        if os.path.lexists(run.pid_file):
            return self._ended(run, None)
        return CommandState(Presence.ABSENT)

    def _ended(self, run: RunFolder, code: Optional[int]) -> CommandState:
        """Its control group is its supervisor's: that of a job, a container, or a login."""
        killed = (run.exit_code() if code is None else code) in (None, 137)
        before = self._about(run).get("oom_kills", {}).items()
        return CommandState(Presence.ENDED, code, killed and any(oom_kills(file) > count for file, count in before))

    def alive(self, run: RunFolder) -> bool:
        return bool(self._pids(run, programs=False))

    def exec(self, run: RunFolder, spec: RunSpec, words: Sequence[str], name: str, terminal: str = "") -> Program:
        variables = self._of_command(run, spec)
        variables[processes.PROGRAM] = name
        variables.pop("TERM", None)
        if terminal:
            variables["TERM"] = terminal
        return Program(list(words), variables, self._start_folder(run, spec), bool(terminal))

    def end_exec(self, run: RunFolder, name: str) -> None:
        processes.send(processes.of_program(run.key, name), signal.SIGKILL)

    def _of_command(self, run: RunFolder, spec: RunSpec) -> Dict[str, str]:
        """The variables of the command, from its process; where those can't be read, without the user's values."""
        known, deadline = known_variable(spec), time.monotonic() + 1
        while time.monotonic() < deadline:
            leader = self._leader(run)
            for pid in processes.children(leader) if leader is not None else []:
                variables = processes.environment(pid)
                if variables and (not known or known in variables):
                    return variables
            time.sleep(0.02)
        return dict(self._variables(run, spec, []), **spec.env)

    def counters(self, run: RunFolder) -> Optional[Counters]:
        return of_processes(self._pids(run)) if os.path.isdir("/proc/self") else None

    def terminate(self, run: RunFolder) -> bool:
        mark_stopping(run)
        processes.send(set(self._pids(run)) - self._launcher(run), signal.SIGTERM)
        return True

    def kill(self, run: RunFolder) -> bool:
        deadline = time.monotonic() + KILL_DEADLINE
        launcher = self._launcher(run)
        processes.send(launcher, signal.SIGTERM)
        while time.monotonic() < deadline:
            pids = self._pids(run)
            if not pids:
                return True
            patient = time.monotonic() < deadline - KILL_DEADLINE / 2
            processes.send(set(pids) - launcher if patient else pids, signal.SIGKILL)
            child = self._children.get(run.key)
            if child is not None:
                child.poll()
            time.sleep(0.01)
        return False

    def network(self, run: RunFolder) -> ContextManager[network.Network]:
        return network.of_this_machine(lambda: self._pids(run))

    def remove(self, run: RunFolder) -> bool:
        gone = self.kill(run)  # what the command left behind ends with it, as in a container
        child = self._children.pop(run.key, None) if gone else None
        if child is not None:
            child.wait(KILL_DEADLINE)  # else it stays a zombie
        return gone

    # -- the environment

    def folders(self, environment: Environment) -> List[str]:
        """What a run of `environment` uses of the home's envs/. Raises `HomeError` when its context isn't there."""
        if environment.framework == NONE:
            return []
        library = [self._library(environment)] if environment.framework == TENSORFLOW else []
        base = environment.base_environment
        return [*library, *([self._venv(base)] if base is not None else []), self._venv(environment)]

    def is_whole(self, folder: str) -> bool:
        """Whether a folder of envs/ is of use as it is: a virtual environment appears before all is in it, and one that
        is a layer needs its base."""
        if not os.path.basename(folder).startswith("venv-"):
            return True
        base = os.path.join(folder, "base")
        needed = [folder, base] if os.path.lexists(base) else [folder]
        return all(os.path.exists(os.path.join(each, "ready")) for each in needed)

    def _library(self, environment: Environment) -> str:
        """The folder that holds the bundled trainer, and the requirements."""
        return os.path.join(self.home.envs, "lib-" + environment.context[:16])

    def _install_library(self, environment: Environment) -> None:
        folder = self._library(environment)
        if os.path.exists(folder):
            os.utime(folder)
        else:
            with self.home.temporary("lib") as temporary:
                staged = os.path.join(temporary, "lib")
                self.home.checkout(self.home.blobs.tree(environment.context), staged, private=True)
                os.rename(staged, folder)

    def _venv(self, environment: Environment) -> str:
        """Named by what is installed: a new trainer needs no new environment."""
        entry = None
        if environment.framework == TENSORFLOW:
            entry = self.home.blobs.tree(environment.context).find(environment.requirements_file)
        return os.path.join(self.home.envs, "venv-" + environment.packages_hash(entry.digest if entry else ""))

    def _make(self, environment: Environment, folder: str, uv: Optional[str], job: BuildJob, lock: int) -> None:
        """The programs that build hold the lock, too: should we die, the next one waits until they have ended."""
        tensorflow, base = environment.framework == TENSORFLOW, None if uv else environment.base_environment
        once = "this machine" if environment.plain else "these packages"
        title = "TensorFlow" if tensorflow else "plain Python"
        what = "TensorFlow takes minutes" if tensorflow and base is None else _named(environment.contents(title))
        job.say("building the environment, once for %s: %s" % (once, what))
        remove_tree(folder)  # what an interrupted build left
        os.makedirs(folder, 0o700)
        contents = environment.contents(title_of(environment.variant))
        write_whole(os.path.join(folder, "contents"), contents.encode("utf-8", "replace"))
        venv = os.path.join(folder, "venv")
        if base is not None:
            os.symlink(os.path.join(os.pardir, os.path.basename(self._venv(base))), os.path.join(folder, "base"))
            make_layer(os.path.join(self._venv(base), "venv"), venv, job, lock)
        else:
            python = python_for(environment.variant)
            if python is None:
                raise EngineError(lacking_python(environment.variant), hint=INSTALL_PYTHON)
            make_venv(python, venv, uv, job, lock)
        own = os.path.join(folder, "requirements.txt")
        write_whole(own, environment.all_requirements.encode())
        bundled = [os.path.join(self._library(environment), environment.requirements_file)] if tensorflow else []
        files = bundled + ([] if environment.plain else [own])
        if files:
            install(venv, files, uv, job, lock)
        write_whole(os.path.join(folder, "ready"), b"")

    def _variables(self, run: RunFolder, spec: RunSpec, gpus: List[str]) -> Dict[str, str]:
        environment = Environment.of(spec)
        not_its = ("PYTHON", "SSH_AUTH_SOCK")  # the ssh-agent of who submits it is not for what it runs
        variables = {name: value for name, value in os.environ.items() if not name.startswith(not_its)}
        if environment.framework != NONE:
            folder = self._venv(environment)
            places = [os.path.join(folder, part, "bin") for part in ("venv", "base/venv")]
            variables["PATH"] = os.pathsep.join([*filter(os.path.isdir, places), variables.get("PATH", os.defpath)])
            variables["VIRTUAL_ENV"] = os.path.join(folder, "venv")
        if environment.framework == TENSORFLOW:
            variables["PYTHONPATH"] = self._library(environment)
        variables["PYTHONUNBUFFERED"] = "1"
        variables["REMOTERUN_KEY"] = run.key
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return variables

    # -- processes

    def _leader(self, run: RunFolder) -> Optional[int]:
        """The wrapper's pid while it lives, also when an earlier supervisor started it."""
        about = self._about(run)
        started = identity.started(about["pid"]) if about else None
        return about["pid"] if started is not None and started == about["started"] else None

    def _about(self, run: RunFolder) -> Dict[str, Any]:
        """What was noted when it was started; {} where nothing is."""
        try:
            about: Dict[str, Any] = read_json(os.path.join(run.path, "process.json"))
        except (OSError, ValueError):
            return {}
        return about

    def _pids(self, run: RunFolder, programs: bool = True) -> List[int]:
        child = self._children.get(run.key)
        leader = child.pid if child is not None else self._leader(run)
        return sorted(processes.of_run(run.key, leader, programs))

    def _launcher(self, run: RunFolder) -> Set[int]:
        """The pids of srun and its shell, by which the command is on each of several nodes: SIGTERM to them ends all at
        once. None of them where a run has one node."""
        return processes.of_session(self._leader(run)) if os.path.exists(run.on_node_file) else set()

    @staticmethod
    def _start_folder(run: RunFolder, spec: RunSpec) -> str:
        return os.path.join(run.work, spec.workdir) if spec.workdir else run.work


def _named(contents: str) -> str:
    """What an environment holds, in a line: `plain Python, numpy, scipy, pandas and 4 more`."""
    names = contents.split(", ")
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (" and %d more" % more if more > 0 else "")
