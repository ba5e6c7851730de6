"""Where the bench keeps what is made once: below the user's cache folder.

~/.cache/remoterun/bench/
    shakespeare.txt     the text all figures are taken on
    torch-1a2b3c4d/     a virtual environment with PyTorch
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
ROOT = HERE.parents[1]
MAKE_SAMPLE = ROOT / "examples" / "corpus" / "make_sample.py"
REQUIREMENTS = HERE / "requirements-torch.txt"

TEXT_BYTES = 1_194_086
PIP_VARIABLE = "REMOTERUN_BENCH_PIP"  # further words for pip, such as `--index-url …`
REMEMBERED = 600.0  # seconds for which it is known that there is no PyTorch here: one run of the bench


class Unavailable(Exception):
    """Why a figure can't be taken on this machine."""


def cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "remoterun" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment() -> dict[str, str]:
    """For a process that imports the trainer or the bench from any folder; GPUs are hidden, the figures are a CPU's."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}


def text() -> Path:
    """The text, made on first use. Raises Unavailable without a network."""
    path = cache() / "shakespeare.txt"
    if not path.exists() or path.stat().st_size != TEXT_BYTES:
        words = [sys.executable, str(MAKE_SAMPLE), str(path), "--bytes", str(TEXT_BYTES)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise Unavailable(f"no text: {_last_line(done.stderr)}")
    return path


def torch_python() -> Path:
    """The Python of an environment with PyTorch, made on first use. Raises Unavailable if that can't be.

    On Linux PyTorch's package brings some gigabytes of CUDA unless pip is led to a build for CPUs, which it may be for
    one Python of this machine and not for another: the first is taken for which pip would get no CUDA. If there is
    none, nothing is fetched, and the error says how to get the other build.
    """
    extra = shlex.split(os.environ.get(PIP_VARIABLE, ""))
    made_of = [REQUIREMENTS.read_text(), *sys.version_info[:2], *extra]
    folder = cache() / f"torch-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]}"
    python, ready, no_torch = folder / "bin" / "python", folder / ".ready", folder / ".none"
    if ready.exists():
        return python
    if no_torch.exists() and time.time() - no_torch.stat().st_mtime < REMEMBERED:
        raise Unavailable(no_torch.read_text())
    print(f"making an environment with PyTorch: {folder}", file=sys.stderr)
    wanted = ["-r", str(REQUIREMENTS), *extra]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    whys = []
    for base in _pythons():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _run([base, "-m", "venv", str(folder)])
            if not extra:
                _refuse_cuda(json.loads(_run([*pip, "--dry-run", "--report", "-", *wanted])))
            _run([*pip, *wanted])
        except Unavailable as error:
            whys.append(str(error))
            continue
        ready.touch()
        return python
    folder.mkdir(exist_ok=True)
    no_torch.write_text(whys[0])
    raise Unavailable(whys[0])


def _pythons() -> list[str]:
    """This one, and the others of this machine that the bench's own code runs on."""
    names = [f"python3.{minor}" for minor in range(11, 15)]
    found = [path for name in names if (path := shutil.which(name))]
    return [sys.executable, *found]


def _refuse_cuda(report: Any) -> None:
    """Raises Unavailable if pip would install CUDA. `report`: of its dry run."""
    cuda = [each["metadata"]["name"] for each in report["install"] if each["metadata"]["name"].startswith("nvidia")]
    if cuda:
        raise Unavailable(
            f"PyTorch would come with CUDA here ({len(cuda)} packages, gigabytes): set"
            f" {PIP_VARIABLE}='--index-url ADDRESS', the address for CPU on PyTorch's page of installation"
        )


def _run(words: list[str]) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unavailable(f"no PyTorch: `{shlex.join(words)}`: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
