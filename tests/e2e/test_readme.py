"""Every command that the README shows is run, in its order, in one place: a git folder, this machine, and a GPU box."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remoterun.model import MachineType
from tests.cloud.cloud import Cloud
from tests.e2e.conftest import Place, bundled_image, make_place
from tests.lab import BASE_IMAGE, Gpu, Lab, LabHost
from tests.lab.process import Process
from tests.readme import CLOUD, CLUSTER, README, follow, section, shown
from tests.rented_jobs import Jobs

AT_AWS = "### At AWS\n"
ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "remoterun" / "cli" / "REFERENCE.md").read_text()


@pytest.fixture(scope="module")
def gpu_box(lab: Lab, prepared_host: LabHost, image_key: str) -> LabHost:
    """`gpu.example.org`: a box with a K80, whose image has been built. No GPU is here: the image is the one for CPUs,
    under the name of the one for old GPUs, and NVIDIA's hook is a stand-in."""
    host = lab.host("gpu.example.org", gpus=[Gpu()], image=image_key).up()
    host.exec(["docker", "tag", bundled_image(BASE_IMAGE, "cpu"), bundled_image("python:3.11-slim", "gpu-cuda11")])
    return host


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, lab: Lab, gpu_box: LabHost, shared: Place) -> Place:
    """A reader of the guide, who has the environment of the engine `process` already."""
    place = make_place(tmp_path_factory.mktemp("reader"), lab.ssh_config())
    home = Path(place.env["REMOTERUN_HOME"])
    home.mkdir()
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y")
    shared.run("run", "-y", "-t", "plain", "true")  # builds it, if no test did before
    (home / "config.toml").write_text(
        f'[machines.local]\nengine = "process"\nhome = "{shared.env["REMOTERUN_HOME"]}"\n'
    )
    return place


@pytest.mark.lab
@pytest.mark.tensorflow
@pytest.mark.timeout(900)
def test_every_command_of_the_guide(reader: Place, lab: Lab, gpu_box: LabHost) -> None:
    commands = shown(README.replace(section(CLOUD), "").replace(section(CLUSTER), ""))
    assert len(commands) >= 12

    def supervisors() -> list[Process]:
        return [each for each in gpu_box.processes() if ".pyz" in each.command]

    follow(reader, commands, lab.ssh_config(), supervisors)
    assert (reader.folder / "model" / "manifest.json").exists()
    assert (reader.folder / "results" / "answer.txt").read_text() == "42\n"
    on_box = [run["state"] for run in reader.json("ps") if run["machine"] == "box"]
    assert len(on_box) > 3 and set(on_box[:-1]) == {"complete"}, "the last one was asked to stop"
    assert (reader.folder / "first" / "manifest.json").exists()


@pytest.mark.lab
@pytest.mark.tensorflow
def test_every_command_about_rented_machines(
    cloud: Cloud, prepared_host: LabHost, image_key: str, tmp_path: Path
) -> None:
    """With nothing but AWS's variables. A rented machine has an image of the environment for CPUs, under the name of
    that for GPUs: no registry is here, and its cards are stand-ins."""
    cloud.disk = image_key
    cloud.docker_tags = {bundled_image(MachineType("t4").base_image, "gpu"): bundled_image(BASE_IMAGE, "cpu")}
    place = make_place(tmp_path)
    cloud.s3.ready()
    place.env.update(cloud.environment())
    place.run("upload", "data/input.txt", "--name", "doom")
    commands = shown(README.partition(AT_AWS)[2].partition("\n## ")[0])
    assert len(commands) >= 6
    rents(place, commands, "t4")


@pytest.mark.lab
@pytest.mark.tensorflow
def test_every_command_about_hugging_face(tensorflow: Path, tmp_path: Path) -> None:
    """By somebody who has never heard of AWS. Its hosts have the environment with TensorFlow already."""
    with Jobs(tmp_path / "hf", environment=tensorflow) as jobs:
        place = make_place(tmp_path)
        place.env.update(jobs.variables)
        jobs.trust(Path(place.env["REMOTERUN_HOME"]))
        place.env["AWS_EC2_METADATA_DISABLED"] = "true"
        place.run("upload", "data/input.txt", "--name", "doom")
        commands = shown(section(CLOUD).partition(AT_AWS)[0])
        assert len(commands) >= 6
        rents(place, commands, "hf-t4")
        assert "Hugging Face" in place.run("machines", "--all").stderr
        assert 0 < jobs.jobs[0].bill(time.time()) < 0.1


def rents(place: Place, commands: list[str], machine: str) -> None:
    """Type commands of the guide, one of which trains on a machine that is rented."""
    for command in commands:
        words = shlex.split(command)
        assert words.pop(0) == "remoterun", command
        place.run(*words)
    (run,) = place.json("ps")
    assert (run["state"], run["machine"]) == ("complete", machine) and run["cost"] > 0
    assert (place.folder / "model" / "manifest.json").exists()


@pytest.mark.lab
@pytest.mark.tensorflow
def test_the_library_example(reader: Place) -> None:
    code = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert code is not None
    (reader.folder / "example.py").write_text(code[1])
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=reader.folder, env=reader.env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "data/input.txt" in (reader.folder / "results" / "count.txt").read_text()


@pytest.mark.index
@pytest.mark.tensorflow
def test_the_demo(tensorflow: Path, tmp_path: Path) -> None:
    """With few steps of training, where a demo was interrupted before. Whoever runs it has another default machine."""
    place = make_place(tmp_path)
    (home := Path(place.env["REMOTERUN_HOME"])).mkdir()
    (home / "envs").mkdir()
    (home / "envs" / tensorflow.name).symlink_to(tensorflow)
    (home / "config.toml").write_text("""default = "box"
[machines.box]
host = "192.0.2.1"
[machines.local]
engine = "process"
""")
    subprocess.run(["git", "init", "-q", str(tmp_path / "demo")], env=place.env, check=True)
    (tmp_path / "demo" / "models").mkdir()
    (manifest := tmp_path / "demo" / "models" / "manifest.json").touch()
    words = [sys.executable, str(ROOT / "examples" / "demo.py"), "--folder", str(tmp_path / "demo"), "--steps", "3"]
    done = subprocess.run(
        words, cwd=tmp_path, env=place.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "embedding" in json.loads(manifest.read_text())
    assert [(run["state"], run["machine"]) for run in place.json("ps")] == [("complete", "local")] * 2
    following = re.findall(r"^  \S*remoterun (logs .*)$", done.stdout, re.MULTILINE)
    assert "3/3" in place.run(*following[0].split()).stdout


def test_the_two_commands_are_real() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    from remoterun.config import Config, parse

    text = re.search(r"^```toml\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
    assert text is not None
    config = parse(text[1], Config(tmp_path))
    assert config.default == "box" and config.machines["box"].gpus == 1
