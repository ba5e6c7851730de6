"""The lesson on a K80, with the TensorFlow that still has code for it: 2.14, under Python 3.11 or 3.10, on the CPU.

The GPU is what a stand-in of nvidia-smi says. The agent chooses the variant for old GPUs by it, and builds that from an
installation in which its requirements are the same TensorFlow without CUDA: gigabytes less.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remoterun.agent.running.variants import CUDA11
from remoterun.agent.shared.environment import Environment
from tests.commands import PYTHONS
from tests.conftest import require
from tests.e2e.conftest import Place, make_place
from tests.lab import OLD_IMAGE, Gpu, Lab, gpu
from tests.lab.lab import cache_folder
from trainer import checkpoint, export

pytestmark = [pytest.mark.tensorflow, pytest.mark.index]

ROOT = Path(__file__).parents[2]
TRAIN = (
    "-m trainer.train --data_dir=./data --rnn_size 32 --batch_size 16 --seq_length 32 --output_keep_prob 0.9"
    " --steps 60 --save_every 30 --print_every 20"
)
CHOSEN = "Tesla K80 (compute capability 3.7), so it runs with TensorFlow 2.14 with CUDA 11.8"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installation")
    for name in ("remoterun", "trainer"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docker", folder / "docker")
    file = folder / "docker" / f"requirements-{CUDA11}.txt"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("nvidia-")]
    assert [line for line in lines if line.startswith("tensorflow")] == ["tensorflow==2.14.1"]
    file.write_text("\n".join(lines).replace("tensorflow==", "tensorflow-cpu==") + "\n")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, installation: Path) -> Place:
    return place_with(installation, tmp_path_factory.mktemp("old"))


def place_with(installation: Path, folder: Path) -> Place:
    """A place whose machine has a K80 and a Python that fits."""
    place = make_place(folder)
    gpu.install(folder, [Gpu()], str(folder / "share/lab-gpus"))
    python = next((PYTHONS[version] for version in ("3.11", "3.10") if version in PYTHONS), None)
    if python is not None:
        (folder / "bin" / f"python{'3.11' if '3.11' in PYTHONS else '3.10'}").symlink_to(python)
    place.env |= {"PATH": f"{folder / 'bin'}:{place.env['PATH']}", "PYTHONPATH": str(installation)}
    return place


@pytest.fixture(scope="module")
def in_a_venv(place: Place, installation: Path) -> str:
    """A machine whose runs use the virtual environment for old GPUs, which is kept for later sessions."""
    require(None if {"3.11", "3.10"} & PYTHONS.keys() else "neither Python 3.11 nor 3.10 is installed")
    words = ("machines", "add", "k80", "local", "--engine", "process", "--gpus", "1")
    requirements = (installation / "docker" / f"requirements-{CUDA11}.txt").read_bytes()
    version = hashlib.sha256(requirements + repr(sorted(PYTHONS.items())).encode()).hexdigest()[:16]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"old-tensorflow@{version}"
    with (cache / "old-tensorflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "built").exists():
            for old in cache.glob("old-tensorflow@*"):
                shutil.rmtree(old)
            kept.mkdir()
            builder = place_with(installation, kept)
            builder.run(*words)
            done = builder.run("run", "-y", "-t", "k80", "--framework", "tensorflow", "true")
            assert "building the environment" in done.stderr
            (kept / "built").touch()
    environments = Path(place.env["REMOTERUN_HOME"], "envs")
    environments.mkdir(parents=True)
    (environment,) = (kept / "home" / "envs").glob("venv-*")
    (environments / environment.name).symlink_to(environment)
    place.run(*words)
    return "k80"


@pytest.fixture(scope="module")
def in_docker(place: Place, lab: Lab, installation: Path) -> str:
    """A machine whose Docker has the image for old GPUs, which the product builds, and which is kept."""
    words = [sys.executable, "-c", "from remoterun.environments import context; print(context()[0].digest)"]
    said = subprocess.run(words, cwd=installation, env=place.env, check=True, capture_output=True, text=True)
    digest = said.stdout.strip()
    image = Environment(OLD_IMAGE, CUDA11, digest).bundled_image
    key = "old-tensorflow@" + image.partition(":")[2]
    kept = lab.has_image(key)
    host = lab.host("k80.example.org", gpus=[Gpu()], image=key if kept else None).up()
    place.env["REMOTERUN_SSH_CONFIG"] = str(lab.ssh_config())
    place.run(
        "machines", "add", "box", "k80.example.org", "--engine", "docker", "--gpus", "1", "--base-image", OLD_IMAGE
    )
    if not kept:
        lab.bring_old_image(host)
        done = place.run("run", "-y", "-t", "box", "--framework", "tensorflow", "true")
        assert "building the environment" in done.stderr
        lab.cache_image(host, image, key)
    return "box"


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Path:
    """The same training, in this process' Python, with the TensorFlow of today."""
    folder = tmp_path_factory.mktemp("today")
    (folder / "data").symlink_to(place.folder / "data")
    said = train_here(folder)
    assert re.search(r"^TensorFlow 2\.21", said, re.MULTILINE), said
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, place: Place, in_a_venv: str) -> Path:
    """What the training makes in a virtual environment for old GPUs."""
    folder = tmp_path_factory.mktemp("trained") / "old"
    said = train_there(place, in_a_venv, folder)
    assert re.search(r"^TensorFlow 2\.14\.1, Python 3\.1[01]\.", said, re.MULTILINE), said
    return folder


def train_here(folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, *TRAIN.split(), *more],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train_there(place: Place, machine: str, to: Path, *mounts: str, resume: str = "") -> str:
    """What a training says on a machine; its outputs are copied into `to`."""
    place.run("upload", "data/input.txt", "--name", "doom")
    options = [word for mount in ("uploads/doom:data", *mounts) for word in ("-m", mount)]
    done = place.run("run", "-y", "-t", machine, *options, f"python {TRAIN} {resume}".strip())
    number = place.newest()["number"]
    assert CHOSEN in [event.get("note") for event in place.json("info", str(number))["events"]]
    place.run("cp", f"runs/{number}", str(to))
    return str(done.stdout)


def test_a_training_in_a_virtual_environment_gives_the_model_of_today(old: Path, today: Path) -> None:
    assert_same(old, today)


def test_in_docker_it_goes_on_from_a_checkpoint_of_today_and_writes(
    place: Place, in_docker: str, today: Path, tmp_path: Path
) -> None:
    half = copy_first(today, place.folder / "half")
    place.run("upload", "half", "--name", "half")
    shutil.rmtree(half)
    said = train_there(place, in_docker, tmp_path / "old", "uploads/half:half", resume="--resume half")
    assert re.search(r"^TensorFlow 2\.14\.1, Python 3\.11\.", said, re.MULTILINE), said
    assert "resuming at step 30 from half/step-00000030-" in said
    assert_same(tmp_path / "old", today)
    number = place.newest()["number"]
    words = "python -m trainer.generate models --seed ROMEO --length 50"
    done = place.run("run", "-y", "-t", in_docker, "-m", f"runs/{number}/models:models", words)
    assert done.stdout.startswith("ROMEO") and len(done.stdout) >= 50


def test_today_goes_on_from_a_checkpoint_of_the_old_one(place: Place, old: Path, today: Path, tmp_path: Path) -> None:
    """As when somebody has got a new machine."""
    (tmp_path / "data").symlink_to(place.folder / "data")
    copy_first(old, tmp_path / "half")
    assert "resuming at step 30 from half/step-00000030-" in train_here(tmp_path, "--resume", "half")
    assert_same(tmp_path, today)


def copy_first(trained: Path, to: Path) -> Path:
    """The first of a training's checkpoints in a folder of its own."""
    (before,) = (trained / "checkpoints").glob("step-00000030-*")
    to.mkdir()
    shutil.copy(before, to)
    return to


def assert_same(one: Path, other: Path) -> None:
    """The model in ml5's format: the same files and shapes, the same numbers up to rounding; and so the checkpoint."""
    ours, theirs = (json.loads((folder / "models" / "manifest.json").read_text()) for folder in (one, other))
    assert {name: about["shape"] for name, about in ours.items()} == {
        name: about["shape"] for name, about in theirs.items()
    }
    (weights, vocabulary), (expected, same) = (export.read_model(folder / "models") for folder in (one, other))
    assert vocabulary == same
    assert max(float(np.max(np.abs(weights[name] - expected[name]))) for name in expected) < 1e-3
    ended = [checkpoint.newest(folder / "checkpoints") for folder in (one, other)]
    assert ended[0].step == ended[1].step == 60 and ended[0].settings == ended[1].settings
