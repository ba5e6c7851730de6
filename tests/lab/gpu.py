"""A stand-in for `nvidia-smi`, which answers from two tables that a test writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TABLES = "/usr/local/share/lab-gpus"

DRIVER = "550.54.15"
OLD_DRIVER = "470.256.02"
"""The last driver for the K80; its nvidia-smi does not know the field `compute_cap`."""


@dataclass(frozen=True)
class Gpu:
    """One card, as `nvidia-smi` tells it; its index is its place in the list."""

    name: str = "Tesla K80"
    memory_mib: int = 11441
    used_mib: int = 0
    utilization: int = 0
    compute_cap: str = "3.7"

    @staticmethod
    def uuid(index: int) -> str:
        return f"GPU-00000000-0000-0000-0000-{index:012d}"


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on card number `gpu`; `pid` as the host sees it."""

    pid: int
    gpu: int = 0
    used_mib: int = 100
    name: str = "python3"


def install(local: Path, gpus: Sequence[Gpu], tables: str = TABLES) -> None:
    """Put the program and its tables under a host's /usr/local; `tables` is where that host finds them.

    Docker's `--gpus` asks only that `nvidia-container-runtime-hook` be on dockerd's PATH when it starts, so that is
    there too: the container gets NVIDIA_VISIBLE_DEVICES, and no device.
    """
    for name, text in (
        ("nvidia-smi", NVIDIA_SMI.replace(TABLES, tables)),
        ("nvidia-container-runtime-hook", "#!/bin/sh\nexit 0\n"),
    ):
        program = local / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    write_gpus(local, gpus)
    write_processes(local, ())


def write_gpus(local: Path, gpus: Sequence[Gpu]) -> None:
    """Replace the table of cards. A card of compute capability 3.x has the old driver, and so have those beside it."""
    old = any(gpu.compute_cap.startswith("3.") for gpu in gpus)
    driver = OLD_DRIVER if old else DRIVER
    names = "index,name,uuid,driver_version,memory.total,memory.used,memory.free,utilization.gpu"
    rows = [names if old else names + ",compute_cap"] + [
        f"{index},{gpu.name},{Gpu.uuid(index)},{driver},{gpu.memory_mib},{gpu.used_mib},"
        f"{gpu.memory_mib - gpu.used_mib},{gpu.utilization}" + ("" if old else f",{gpu.compute_cap}")
        for index, gpu in enumerate(gpus)
    ]
    _write(local, "gpu", rows)


def write_processes(local: Path, processes: Sequence[GpuProcess]) -> None:
    """Replace the table of computing processes."""
    rows = ["gpu_uuid,pid,process_name,name,used_memory,used_gpu_memory"] + [
        f"{Gpu.uuid(each.gpu)},{each.pid},{each.name},{each.name},{each.used_mib},{each.used_mib}" for each in processes
    ]
    _write(local, "compute-apps", rows)


def _write(local: Path, table: str, rows: Sequence[str]) -> None:
    folder = local / TABLES.removeprefix("/usr/local/")
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{table}.new"
    new.write_text("\n".join(rows) + "\n")
    new.replace(folder / f"{table}.csv")


NVIDIA_SMI = rf"""#!/bin/sh
# Answers --query-gpu and --query-compute-apps, as the agent asks them, and -L, from the tables in {TABLES}
while [ $# -gt 0 ]; do
    case $1 in
    --query-gpu=*) query=${{1#*=}} table=gpu ;;
    --query-compute-apps=*) query=${{1#*=}} table=compute-apps ;;
    --format=csv,noheader,nounits) ;;
    -L | --list-gpus)
        exec awk -F, 'NR > 1 {{ printf "GPU %s: %s (UUID: %s)\n", $1, $2, $3 }}' {TABLES}/gpu.csv ;;
    *) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help." >&2; exit 6 ;;
    esac
    shift
done
exec awk -F, -v query="${{query:?}}" '
NR == 1 {{
    for (i = 1; i <= NF; i++) column[$i] = i
    wanted = split(query, field, / *, */)
    for (i = 1; i <= wanted; i++) if (!(field[i] in column)) {{
        print "Field \"" field[i] "\" is not a valid field to query.\n"
        exit 2
    }}
    next
}}
{{
    for (i = 1; i <= wanted; i++) printf "%s%s", $column[field[i]], i < wanted ? ", " : "\n"
}}' {TABLES}/$table.csv
"""
