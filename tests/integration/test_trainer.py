"""The trainer as a user starts it: real TensorFlow, one process a training."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import require
from trainer import checkpoint, export

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[2]
SMALL = [
    "--rnn_size=24",
    "--batch_size=8",
    "--seq_length=16",
    "--learning_rate=0.01",
    "--save_every=100",
    "--steps=400",
]
TEXT = "".join(f"{n} green bottles hanging on the wall,\nand if one falls: {n - 1}!\n" for n in range(99, 0, -1))
LINE = re.compile(r"(\d+)/(\d+) \(epoch (\d+)\), train_loss = (\d+\.\d{3}), time/batch = (\d+\.\d{3})")

Array = NDArray[Any]


def run(folder: Path, *arguments: str, module: str = "trainer.train") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def folder_with_text(folder: Path, text: str = TEXT) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "input.txt").write_text(text)
    return folder


def last_checkpoint(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(max((folder / "checkpoints").iterdir()))


def assert_same_training(one: Path, other: Path) -> None:
    """Bit for bit: the same operations in the same order, with dropout that follows from the step."""
    a, b = last_checkpoint(one), last_checkpoint(other)
    assert a.step == b.step
    assert a.arrays.keys() == b.arrays.keys()
    assert [name for name in a.arrays if not np.array_equal(a.arrays[name], b.arrays[name])] == []


@pytest.fixture(scope="module", autouse=True)
def tensorflow_is_here() -> None:
    require(None if importlib.util.find_spec("tensorflow") else "TensorFlow is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one training ran from start to end; what it said is in `said`."""
    folder = folder_with_text(tmp_path_factory.mktemp("trained") / "work")
    result = run(folder, "--data_dir=./data", *SMALL, "--total_time", "1")
    assert (result.returncode, result.stderr) == (0, "")
    (folder / "said").write_text(result.stdout)
    return folder


def copy_of(trained: Path, to: Path) -> Path:
    return Path(shutil.copytree(trained, to / "work"))


def test_the_loss_falls_and_every_line_is_as_promised(trained: Path) -> None:
    said = (trained / "said").read_text().splitlines()
    assert re.fullmatch(r"TensorFlow [\d.]+, Python [\d.]+, on .*(CPU cores, no GPU|GPU|NVIDIA|Tesla).*", said[0])
    assert said[1].startswith(f"text: data/input.txt, {len(TEXT):,} characters, ")
    different = len(set(TEXT))
    parameters = different * 24 + 2 * (48 * 96 + 96) + 24 * different + different
    assert said[2] == f"model: 2 LSTM layers of 24, {parameters:,} parameters"
    progress = [match for line in said if (match := LINE.fullmatch(line))]
    steps = [int(match[1]) for match in progress]
    assert steps[0] == 1 and steps[-1] == 400 and steps == sorted(set(steps))
    first, last = float(progress[0][4]), float(progress[-1][4])
    assert first > 3 and last < 1
    other = [line for line in said[3:] if not LINE.fullmatch(line)]
    assert [line.split(" ")[0] for line in other] == ["Model"] * 4 + ["done:", "total"]

    metrics = [json.loads(line) for line in (trained / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == steps
    assert metrics[-1]["train_loss"] == pytest.approx(last, abs=5e-4)


class Ml5:
    """What ml5.js 0.12 does with a model's folder, in NumPy; nothing of the trainer is used."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.vocab = json.loads((folder / "vocab.json").read_text())
        self.kernels: dict[int, Array] = {}
        self.biases: dict[int, Array] = {}
        self.other: dict[str, Array] = {}
        for key, entry in manifest.items():
            raw = (folder / entry["filename"]).read_bytes()
            assert len(raw) % 4 == 0
            tensor = np.frombuffer(raw, "<f4").reshape(entry["shape"]).astype(np.float64)
            weight = re.search(r"weights|weight|kernel|kernels|w", key, re.IGNORECASE)
            if re.search(r"cell_[0-9]|lstm_[0-9]", key, re.IGNORECASE):
                digit = re.search(r"[0-9]", key)
                assert digit
                (self.kernels if weight else self.biases)[int(digit[0])] = tensor
            elif "softmax" in key.lower():
                self.other["W" if weight else "b"] = tensor
            else:
                self.other[key] = tensor

    def probabilities(self, text: str, temperature: float) -> Array:
        """After each character of `text`, those of the next: [time, vocab]."""
        layers = len(self.kernels)
        hidden = self.kernels[0].shape[1] // 4
        c, h = np.zeros((layers, hidden)), np.zeros((layers, hidden))
        rows = []
        for character in text:
            x = self.other["embedding"][self.vocab[character]]
            for n in range(layers):
                i, j, f, o = np.split(np.concatenate([x, h[n]]) @ self.kernels[n] + self.biases[n], 4)
                c[n] = sigmoid(i) * np.tanh(j) + c[n] * sigmoid(1.0 + f)
                x = h[n] = np.tanh(c[n]) * sigmoid(o)
            logits = (h[1] @ self.other["W"] + self.other["b"]).astype(np.float32)
            scores = np.exp(logits / np.float32(temperature))  # 32 bits, and no maximum taken off, as in ml5.js
            rows.append(scores / scores.sum())
        return np.array(rows)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


TF_PROBABILITIES = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from trainer import checkpoint, data, model
saved = checkpoint.newest(Path("checkpoints"))
weights = {n.removeprefix("weights/"): tf.constant(a) for n, a in saved.arrays.items() if n.startswith("weights/")}
ids = data.encode(sys.argv[1], saved.characters)[None]
logits, _ = model.forward(weights, ids, model.zero_state(1, 24, 2))
np.save("probabilities.npy", [tf.nn.softmax(logits[:, 0] / float(t)).numpy() for t in sys.argv[2:]])
"""


def test_ml5_computes_what_tensorflow_computes(trained: Path) -> None:
    text = "12 green bottles hanging on the wall, and if two fall"
    temperatures = (1.0, 0.5, 0.1)
    result = subprocess.run(
        [sys.executable, "-c", TF_PROBABILITIES, text, *map(str, temperatures)],
        cwd=trained, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    expected = np.load(trained / "probabilities.npy")
    ml5 = Ml5(trained / "models")
    assert set(ml5.kernels) == set(ml5.biases) == {0, 1}
    assert sorted(ml5.other) == ["Variable", "W", "b", "embedding"]
    for temperature, probabilities in zip(temperatures, expected, strict=True):
        np.testing.assert_allclose(ml5.probabilities(text, temperature), probabilities, rtol=0, atol=1e-5)


def test_generate_goes_on_as_the_text_would(trained: Path) -> None:
    result = run(
        trained, "models", "--seed", "57 green bot", "--length", "24", "--temperature", "0", module="trainer.generate"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("57 green bottles hanging on the")


@pytest.mark.parametrize(
    ("number", "status", "dropout"),
    [
        (signal.SIGTERM, 143, ()),
        (signal.SIGINT, 130, ("--input_keep_prob", "0.9", "--output_keep_prob", "0.8")),
    ],
)
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, trained: Path, number: signal.Signals, status: int, dropout: tuple[str, ...]
) -> None:
    arguments = ["--data_dir=./data", *SMALL, *dropout]
    whole = trained
    if dropout:
        whole = folder_with_text(tmp_path / "whole")
        assert run(whole, *arguments).returncode == 0

    folder = folder_with_text(tmp_path / "stopped")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.train", *arguments, "--print_every", "1"],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if LINE.fullmatch(line.strip()):
            process.send_signal(number)
            break
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait(60) == status
    stopped_at = last_checkpoint(folder).step
    assert 0 < stopped_at < 400
    assert rest[-1] == f"stopped by {number.name} at step {stopped_at} of 400; the same command goes on from there"
    export.read_model(folder / "models")  # is there, and whole

    result = run(folder, *arguments)
    assert result.returncode == 0
    assert f"resuming at step {stopped_at} from checkpoints/" in result.stdout
    assert_same_training(folder, whole)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path: Path, trained: Path) -> None:
    folder = copy_of(trained, tmp_path)
    newest = max((folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    result = run(folder, "--data_dir=./data", *SMALL)
    assert result.returncode == 0
    assert f"skipped: checkpoints/{newest.name} is damaged" in result.stdout
    assert "resuming at step 300 " in result.stdout
    assert_same_training(folder, trained)


def test_a_finished_training_is_not_done_again_and_another_seed_is_another_training(
    tmp_path: Path, trained: Path
) -> None:
    folder = copy_of(trained, tmp_path)
    again = run(folder, "--data_dir=./data", *SMALL)
    assert again.returncode == 0
    assert "nothing to do: step 400 was reached before" in again.stdout.splitlines()[-1]
    assert_same_training(folder, trained)

    other = run(folder, "--data_dir=./data", *SMALL, "--steps", "5", "--seed", "2")
    assert other.returncode == 0
    assert "is of another training (seed 1, now 2)" in other.stdout
    different = last_checkpoint_of_seed(folder, 2).arrays["weights/embedding"]
    assert not np.array_equal(different, last_checkpoint_of_seed(folder, 1).arrays["weights/embedding"])


def last_checkpoint_of_seed(folder: Path, seed: int) -> checkpoint.Checkpoint:
    saved = [checkpoint.load(path) for path in (folder / "checkpoints").iterdir()]
    return max((one for one in saved if one.settings["seed"] == seed), key=lambda one: one.step)


def test_a_training_can_start_from_the_weights_of_another(tmp_path: Path, trained: Path) -> None:
    folder = folder_with_text(tmp_path, TEXT[: len(TEXT) // 2])  # another text, of characters the model knows
    result = run(folder, "--data_dir=./data", *SMALL, "--steps", "2", "--init_from", str(trained / "checkpoints"))
    assert result.returncode == 0, result.stderr
    first = next(match for line in result.stdout.splitlines() if (match := LINE.fullmatch(line)))
    assert (first[1], first[3]) == ("1", "0")
    assert float(first[4]) < 1.5
    assert last_checkpoint(folder).characters == last_checkpoint(trained).characters


def test_a_short_text_and_three_layers_are_trained_and_said(tmp_path: Path) -> None:
    folder = folder_with_text(tmp_path, TEXT[:100])
    result = run(folder, "--data_path", "data/input.txt", "--rnn_size", "8", "--num_layers", "3", "--steps", "3")
    assert (result.returncode, result.stderr) == (0, "")
    assert "the text is too short for --batch_size 50: using 2" in result.stdout
    assert "warning: ml5.js is right for 2 layers only, not for 3" in result.stdout
    written = run(folder, "models", "--length", "5", module="trainer.generate")
    assert written.returncode == 0 and len(written.stdout) > 5


def test_a_training_that_runs_away_does_not_replace_a_good_model(tmp_path: Path) -> None:
    folder = folder_with_text(tmp_path)
    result = run(folder, "--data_dir=./data", *SMALL, "--learning_rate", "1e38", "--save_every", "10")
    assert result.returncode == 2
    assert re.fullmatch(
        r"error: train_loss is (nan|inf) at step \d+, not saved: try a smaller --learning_rate", result.stderr.strip()
    )


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (b"", ("--data_dir=./data",), "data/input.txt is empty"),
        (b"aaaaaaaa" * 99, ("--data_dir=./data",), "nothing but 'a'"),
        (b"to be", ("--data_dir=./data",), "the text has 5 characters, one sequence needs 51"),
        (b"caf\xe9", ("--data_dir=./data",), "data/input.txt is not UTF-8: byte 0xe9 at offset 3"),
        (b"to be", ("--data_dir=./elsewhere",), "elsewhere does not exist"),
        (b"to be", ("--data_dir=./data", "--init_from", "nothing.npz"), "nothing.npz cannot be read"),
        (b"to be", ("--model", "gru"), "only lstm, the one kind of model ml5.js can load"),
        (b"to be", ("--batch_size", "0"), "0 is not a positive number"),
        (b"to be", ("--input_keep_prob", "1.5"), "1.5 is not above 0 and at most 1"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_status_2(
    tmp_path: Path, text: bytes, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input.txt").write_bytes(text)
    result = run(tmp_path, *arguments)
    assert result.returncode == 2
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "models").exists()
