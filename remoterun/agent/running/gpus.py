"""The GPUs of this host, by NVIDIA's own tool. Standard library only; Python >= 3.8."""

from __future__ import annotations

import shutil
import subprocess
from typing import Dict, List, NamedTuple

TIMEOUT = 15.0


class GpuError(Exception):
    """There is a driver, and it doesn't tell: nothing is known of the GPUs."""


class Gpu(NamedTuple):
    """One GPU; memory in MiB."""

    number: int
    uuid: str
    name: str
    memory: int
    memory_used: int


class GpuProcess(NamedTuple):
    gpu: str  # uuid
    pid: int
    name: str
    memory: int


def list_gpus() -> List[Gpu]:
    """Every GPU; empty where there is none, or no driver. Raises `GpuError`."""
    found = []
    for row in _query("--query-gpu=index,uuid,name,memory.total,memory.used"):
        if len(row) == 5:
            found.append(Gpu(_number(row[0]), row[1], row[2], _number(row[3]), _number(row[4])))
    return found


def compute_processes() -> List[GpuProcess]:
    """Every process that computes on a GPU, of every user, as far as the driver shows them. Raises `GpuError`."""
    found = []
    for row in _query("--query-compute-apps=gpu_uuid,pid,process_name,used_memory"):
        if len(row) == 4:
            found.append(GpuProcess(row[0], _number(row[1]), row[2], _number(row[3])))
    return found


def busy() -> Dict[str, GpuProcess]:
    """By GPU, one process that computes on it. Raises `GpuError`."""
    return {process.gpu: process for process in compute_processes()}


_hanging: List["subprocess.Popen[bytes]"] = []
"""Those that did not even end when they were killed: as long as one is there, no other is started."""


def _query(what: str) -> List[List[str]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    if any(process.poll() is None for process in _hanging):
        raise GpuError("nvidia-smi does not answer")
    _hanging.clear()
    try:
        process = subprocess.Popen(
            [tool, what, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise GpuError("nvidia-smi can't be started: %s" % error.strerror)
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: one that hangs in the driver doesn't end
        assert process.stdout is not None
        process.stdout.close()
        _hanging.append(process)
        raise GpuError("nvidia-smi does not answer")
    if process.returncode != 0:
        raise GpuError("nvidia-smi fails, with %d" % process.returncode)
    return [[cell.strip() for cell in line.split(",")] for line in said.decode("utf-8", "replace").splitlines()]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0  # "[N/A]"
