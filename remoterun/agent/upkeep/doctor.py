"""What this machine has and lacks, from the inside."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import List, Optional

from ..running import gpus, variants
from ..running.engines import engine_of
from ..running.queues import QUEUES, queue_named
from ..shared.api import Examine, MachineCheck
from ..shared.files import no_room
from ..shared.machines import CAPABILITIES, candidates
from ..store.home import Home

LITTLE_SPACE = 10 << 30
OLD_DRIVER = "sudo apt install nvidia-driver-470-server"
"""Brings the last driver for GPUs of compute capability 3.x."""
_DRIVER = "sudo apt install nvidia-driver   or, for a Tesla K20, K40 or K80: " + OLD_DRIVER


def examine(home: Home, asked: Examine) -> List[MachineCheck]:
    engine, queue, base = asked.engine, asked.queue, asked.base
    old = _old_gpus() if asked.gpus and not queue else []
    if old:
        base = variants.base_for(base, variants.CUDA11)
    name, *others = candidates(engine)
    of_engine = engine_of(home, name).examine(base, CAPABILITIES[others[-1]].title if others else "")
    of_queue = [] if queue else _gpu(home, engine, asked.gpus, old)
    of_queue += [row for each in QUEUES if queue in ("", each) for row in queue_named(home, each).examine(asked)]
    python = MachineCheck("python3", True, "%s (%s)" % (platform.python_version(), sys.executable))
    clock = MachineCheck("clock", True, time=time.time())
    return [python, _disk(home), *_logout(), *of_engine, *of_queue, clock]


def _check(name: str, ok: Optional[bool], detail: str, fix: Optional[str] = None) -> MachineCheck:
    return MachineCheck(name, ok, detail, None if ok else fix)


def _disk(home: Home) -> MachineCheck:
    about = os.statvfs(home.path)
    free, total = (blocks * about.f_frsize for blocks in (about.f_bavail, about.f_blocks))
    unit, name = (1e9, "GB") if total >= 1e10 else (1e6, "MB")
    detail = "%.0f %s free of %.0f %s at %s" % (free / unit, name, total / unit, name, home.path)
    read_only = about.f_flag & os.ST_RDONLY
    fault = "read-only: %s" % home.path if read_only else no_room(home.path)
    fix = "mount it for writing (after a fault of the disk, `dmesg` says which)" if read_only else ""
    fix = (fix or "`remoterun rm runs --failed`, `remoterun machines gc`,") + " or give the machine another `home`"
    return _check("disk", free > LITTLE_SPACE and not fault, fault or detail, fix)


def _logout() -> List[MachineCheck]:
    """Nothing, unless systemd ends what a user leaves behind when he logs out: then runs end with the connection."""
    if os.getuid() == 0 or not _kills_user_processes():
        return []
    detail = "systemd ends your processes, and so your runs, when you log out (KillUserProcesses=yes)"
    file = "/etc/systemd/logind.conf.d/remoterun.conf"
    fix = "sudo mkdir -p %s && printf '[Login]\\nKillUserProcesses=no\\n' | sudo tee %s" % (os.path.dirname(file), file)
    return [_check("logout", False, detail, fix + " && sudo systemctl restart systemd-logind")]


def _kills_user_processes() -> bool:
    """What systemd-logind says, where there is one."""
    logind = "org.freedesktop.login1"
    words = ["busctl", "get-property", logind, "/org/freedesktop/login1", logind + ".Manager", "KillUserProcesses"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(words, stderr=subprocess.DEVNULL, timeout=10).strip() == b"b true"
    return False


def _old_gpus() -> List[gpus.Generation]:
    try:
        return [card for card in gpus.generations() if variants.is_old(card.capability)]
    except gpus.GpuError:
        return []  # `_gpu` says why


def _gpu(home: Home, engine: str, wanted: int, old: List[gpus.Generation]) -> List[MachineCheck]:
    if shutil.which("nvidia-smi") is None:
        if wanted:
            return [_check("gpu", False, "no NVIDIA driver (nvidia-smi)", _DRIVER)]
        return [_check("gpu", None, "none, and none is asked for")]
    try:
        every, busy = gpus.list_gpus(), gpus.busy()
    except gpus.GpuError as error:
        return [_check("gpu", False, str(error), "nvidia-smi")]
    if not every:
        return [_check("gpu", False, "nvidia-smi finds no GPU", _DRIVER)]
    detail = ", ".join("%s (%.0f GB)" % (gpu.name, gpu.memory / 1024) for gpu in every)
    checks = [_check("gpu", len(every) >= wanted, detail, "ask for at most %d GPUs" % len(every))]
    if busy:
        checks.append(_check("gpu use", True, "; ".join("process %d (%s)" % (p.pid, p.name) for p in busy.values())))
    tool = candidates(engine)[0]
    containers = CAPABILITIES[tool].containers and engine_of(home, tool).problem() is None
    checks += _for_old(old, containers)
    if containers:
        toolkit = shutil.which("nvidia-container-cli") or shutil.which("nvidia-ctk")
        fix = "sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker"
        checks.append(_check("nvidia container toolkit", bool(toolkit), toolkit or "not installed", fix))
    return checks


def _for_old(old: List[gpus.Generation], containers: bool) -> List[MachineCheck]:
    """What is used for GPUs that TensorFlow's present packages have no code for, and what that needs."""
    if not old:
        return []
    driver = old[0].driver
    kepler = any(card.capability is not None and card.capability < (5, 0) for card in old)
    detail = "%s: %s will be used; driver %s is needed, %s is there" % (
        variants.describe(old),
        variants.VARIANTS[variants.CUDA11].title,
        "470.x" if kepler else "450.80 or newer",
        driver,
    )
    numbers = [int(part) for part in driver.split(".")[:2] if part.isdigit()]
    checks = [_check("gpu software", numbers >= [450, 80], detail, OLD_DRIVER)]  # what any CUDA 11 runs with
    if not containers and variants.python_for(variants.CUDA11) is None:
        detail = variants.lacking_python(variants.CUDA11)
        checks.append(_check("gpu python", False, detail, variants.INSTALL_PYTHON))
    return checks
