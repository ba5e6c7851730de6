"""The GPUs of this host, by NVIDIA's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Dict, List, Optional, Tuple

from ..shared.records import Record

TIMEOUT = 15.0

Capability = Tuple[int, int]
"""NVIDIA's number for what a GPU can do, its compute capability: 3.7 is (3, 7)."""

_BY_NAME = (
    (re.compile(r"\bTesla K80"), (3, 7)),
    (re.compile(r"\bTesla K[24]0|\bQuadro K(5200|6000)|\bGTX (780|TITAN(?! X))"), (3, 5)),
    (re.compile(r"\bTesla M\d|\bQuadro M\d|\bGTX (9\d\d|TITAN X)"), (5, 2)),
    (re.compile(r"\bGTX 75\d"), (5, 0)),
)
"""The compute capability of GPUs of before 2016, for the drivers that can only name them."""


class GpuError(Exception):
    """There is a driver, and it doesn't tell: nothing is known of the GPUs."""


class Gpu(Record):
    """One GPU; memory in MiB."""

    number: int
    uuid: str
    name: str
    memory: int
    memory_used: int
    percent: Optional[float] = None
    """How busy it is; None where the driver does not say."""


class Generation(Record):
    """What decides on the software for a GPU; `capability` is None where it could not be found out."""

    uuid: str
    name: str
    capability: Optional[Capability]
    driver: str


class GpuProcess(Record):
    gpu: str  # uuid
    pid: int
    name: str
    memory: int


def list_gpus(timeout: float = TIMEOUT) -> List[Gpu]:
    """Every GPU; empty where there is none, or no driver. Raises `GpuError`."""
    found = []
    for row in _query("--query-gpu=index,uuid,name,memory.total,memory.used,utilization.gpu", timeout):
        if len(row) == 6:
            percent = float(row[5]) if row[5].isdigit() else None
            found.append(Gpu(_number(row[0]), row[1], row[2], _number(row[3]), _number(row[4]), percent))
    return found


def generations() -> List[Generation]:
    """Every GPU. Raises `GpuError`."""
    fields = "--query-gpu=uuid,name,driver_version"
    try:
        rows = _query(fields + ",compute_cap")
    except GpuError:  # a driver of the 470 series, which is the last for the K80, does not know that field
        rows = [row + [""] for row in _query(fields)]
    return [Generation(row[0], row[1], _capability(row[3], row[1]), row[2]) for row in rows if len(row) == 4]


def compute_processes(timeout: float = TIMEOUT) -> List[GpuProcess]:
    """Every process that computes on a GPU, of every user, as far as the driver shows them. Raises `GpuError`."""
    found = []
    for row in _query("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", timeout):
        if len(row) == 4:
            found.append(GpuProcess(row[0], _number(row[1]), row[2], _number(row[3])))
    return found


def busy() -> Dict[str, GpuProcess]:
    """By GPU, one process that computes on it. Raises `GpuError`."""
    return {process.gpu: process for process in compute_processes()}


_hanging: List["subprocess.Popen[bytes]"] = []
"""Those that did not even end when they were killed: as long as one is there, no other is started."""


def _query(what: str, timeout: float = TIMEOUT) -> List[List[str]]:
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
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: one that hangs in the driver doesn't end
        assert process.stdout is not None
        process.stdout.close()
        _hanging.append(process)
        raise GpuError("nvidia-smi does not answer")
    if process.returncode != 0:
        raise GpuError("nvidia-smi fails, with %d" % process.returncode)
    return [[cell.strip() for cell in line.split(",")] for line in said.decode("utf-8", "replace").splitlines()]


def _capability(said: str, name: str) -> Optional[Capability]:
    numbers = re.match(r"(\d+)\.(\d+)\Z", said)
    if numbers:
        return int(numbers.group(1)), int(numbers.group(2))
    return next((capability for pattern, capability in _BY_NAME if pattern.search(name)), None)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0  # "[N/A]"
