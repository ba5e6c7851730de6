"""Trainings with the real TensorFlow, one process each."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import require
from tests.models import probabilities
from tests.nursery import Child
from trainer import checkpoint, data, export

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[2]
SMALL = [
    "--rnn_size=24", "--batch_size=8", "--seq_length=16", "--learning_rate=0.015", "--schedule=cosine",
    "--output_keep_prob=0.95", "--val_fraction=0.1", "--save_every=100", "--steps=400", "--print_every=20",
]  # fmt: skip
SHOWN = re.findall(r"^    (python -m trainer.*)$", (ROOT / "trainer" / "README.md").read_text(), re.MULTILINE)
TEXT = "".join(f"{n} green bottles hanging on the wall,\nand if one falls: {n - 1}!\n" for n in range(99, 0, -1))
LEARNED, TRIED = TEXT[: len(TEXT) - len(TEXT) // 10], TEXT[len(TEXT) - len(TEXT) // 10 :]
LINE = re.compile(
    r"(\d+)/(\d+) \(epoch (\d+)\), train_loss = (\d+\.\d{3}), time/batch = (\d+\.\d{3}),"
    r" (\?|\d+:\d\d:\d\d) left"
)
VALIDATION = re.compile(r"(\d+)/(\d+), val_loss = (\d+\.\d{3})(, best)?")

Array = NDArray[Any]


def run(folder: Path, *arguments: str, module: str = "trainer.train") -> subprocess.CompletedProcess[str]:
    return run_words(folder, "-m", module, *arguments)


def run_words(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return Child(folder, words).wait(200)


def folder_with_text(folder: Path, text: str = TEXT) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "input.txt").write_text(text)
    return folder


def checkpoints(folder: Path, kind: str = "step") -> list[Path]:
    return sorted((folder / "checkpoints").glob(f"{kind}-*.npz"))


def last_checkpoint(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoints(folder)[-1])


def metrics(folder: Path, names: Iterable[str] = ()) -> dict[tuple[int, str], float]:
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({(record["step"], record["name"]) for record in records}) == len(records)
    return {(record["step"], record["name"]): record["value"] for record in records if record["name"] in names}


LOSSES = ("train_loss", "bpc", "val_loss", "val_perplexity", "val_bpc", "learning_rate")


def assert_same_training(one: Path, other: Path) -> None:
    """Bit for bit, `one` is what `other` is, which was never stopped: weights, optimizer, best, losses, the export."""
    assert [path.name for path in checkpoints(one, "*")] == [path.name for path in checkpoints(other, "*")]
    for a, b in zip(checkpoints(one, "*"), checkpoints(other, "*"), strict=True):
        left, right = checkpoint.load(a), checkpoint.load(b)
        assert left.arrays.keys() == right.arrays.keys()
        assert [name for name in left.arrays if not np.array_equal(left.arrays[name], right.arrays[name])] == []
        assert (left.step, left.validated, left.best) == (right.step, right.validated, right.best)
    assert metrics(other, LOSSES).items() <= metrics(one, LOSSES).items()
    assert sorted(os.listdir(one / "models")) == sorted(os.listdir(other / "models")), "the names hold digests"
    for name in os.listdir(one / "models"):
        assert (one / "models" / name).read_bytes() == (other / "models" / name).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def tensorflow_is_here() -> None:
    require(None if importlib.util.find_spec("tensorflow") else "TensorFlow is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one training ran from start to end, as its README shows it; what it said is in `said`."""
    folder = folder_with_text(tmp_path_factory.mktemp("trained") / "work")
    words = [sys.executable, *shlex.split(SHOWN[0])[1:], *SMALL, "--total_time", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stderr) == (0, "")
    (folder / "said").write_text(result.stdout)
    return folder


def copy_of(trained: Path, to: Path) -> Path:
    return Path(shutil.copytree(trained, to / "work"))


def test_the_loss_falls_and_every_line_is_as_promised(trained: Path) -> None:
    text = (trained / "said").read_text()
    assert max(map(len, text.splitlines()[:-3])) <= 79
    said = text.replace("\n  ", " ").splitlines()
    assert said.pop(0) == "ml5's defaults for what was not typed; --auto chooses by the size of the text"
    different = len(set(TEXT))
    tried = len(TRIED) // 16 * 16
    epoch = len(LEARNED) // (8 * 16)
    assert said[0] == (
        f"text: data/input.txt, {len(TEXT):,} characters, {different} different; {tried} at the end are for validation;"
        f" an epoch is {epoch} batches of 8 x 16"
    )
    assert re.fullmatch(r"TensorFlow [\d.]+, Python [\d.]+, on .*(CPU cores?, no GPU|GPU|NVIDIA|Tesla).*", said[1])
    parameters = different * 24 + 2 * (48 * 96 + 96) + 24 * different + different
    assert said[2] == f"model: 2 LSTM layers of 24, {parameters:,} parameters; 400 steps, a checkpoint every 100"

    progress = [match for line in said if (match := LINE.fullmatch(line))]
    assert [int(match[1]) for match in progress] == list(range(20, 401, 20))
    assert [int(match[3]) for match in progress] == [(step - 1) // epoch for step in range(20, 401, 20)]
    first, last = float(progress[0][4]), float(progress[-1][4])
    assert first > 2 and last < 1.2
    assert metrics(trained, ["bpc"])[400, "bpc"] == pytest.approx(last / np.log(2), abs=2e-3)
    assert progress[-1][6] == "0:00:00"

    validation = [match for line in said if (match := VALIDATION.fullmatch(line))]
    assert [int(match[1]) for match in validation] == [100, 200, 300, 400]
    losses = [float(match[3]) for match in validation]
    assert metrics(trained, ["val_perplexity"])[100, "val_perplexity"] == pytest.approx(np.exp(losses[0]), rel=1e-3)
    assert [match[4] is not None for match in validation] == [
        loss == min(losses[: n + 1]) for n, loss in enumerate(losses)
    ]

    other = [line for line in said[3:] if not LINE.fullmatch(line) and not VALIDATION.fullmatch(line)]
    assert [line.split()[0] for line in other] == ["Saved", "sample:"] * 4 + [
        "done:",
        "best:",
        "loss",
        "models:",
        "total",
    ]
    assert re.fullmatch(
        r"Saved models \(step 100, the best\), checkpoints/step-00000100-[0-9a-f]{8}.npz",
        other[0],
    )
    assert "green bottles hanging on the wall, / and if" in other[7]
    samples = {path.name: path.read_text() for path in (trained / "logs" / "samples").iterdir()}
    assert sorted(samples) == [f"step-000{step}.txt" for step in (100, 200, 300, 400)]
    assert "green bottles hanging on the wall,\nand if" in samples["step-000400.txt"]
    assert {len(text) for text in samples.values()} == {301}
    assert re.fullmatch(rf"best: step \d+, val_loss = {min(losses):.3f}", other[9])
    assert other[11] == "models: ml5.js can load it; `python -m trainer.generate models` writes with it"


def test_the_best_is_exported_and_kept_apart_from_the_newest_two(trained: Path) -> None:
    assert [checkpoint.load(path).step for path in checkpoints(trained)] == [300, 400]
    (best,) = checkpoints(trained, "best")
    saved = checkpoint.load(best)
    losses = metrics(trained, ["val_loss"])
    assert saved.best is not None
    assert (saved.step, saved.best.val_loss) == (saved.best.step, min(losses.values()))
    weights, vocabulary = export.read_model(trained / "models")
    assert vocabulary == saved.vocabulary
    assert all(np.array_equal(weights[n], saved.weights[n]) for n in saved.weights if n != export.SOFTMAX_B)
    settings = export.read_settings(trained / "models")
    assert (settings["step"], settings["val_loss"], settings["ml5"]) == (saved.step, saved.best.val_loss, True)


READ_EVENTS = """
import glob, json, sys
import tensorflow as tf
from tensorflow.core.util.event_pb2 import Event
values = []
(path,) = glob.glob("logs/events.out.tfevents.*")
for record in tf.data.TFRecordDataset(path):
    event = Event.FromString(record.numpy())
    for value in event.summary.value:
        assert value.metadata.plugin_data.plugin_name == "scalars"
        values.append([event.step, value.tag, float(tf.make_ndarray(value.tensor))])
json.dump(values, sys.stdout)
"""

TF_PROBABILITIES = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from trainer import checkpoint, data, model
(best,) = Path("checkpoints").glob("best-*.npz")
saved = checkpoint.load(best)
weights = {name: tf.constant(array) for name, array in saved.weights.items()}
hyper = model.Hyperparameters("lstm", 24, 2, 1, 5.0, 1.0, 1.0, 1)
ids = data.encode(sys.argv[1], saved.vocabulary)[None]
logits, _ = model.forward(weights, ids, model.zero_state(1, hyper))
np.save("probabilities.npy", [tf.nn.softmax(logits[:, 0] / float(t)).numpy() for t in sys.argv[2:]])
ids = data.encode(Path("data/input.txt").read_text(), saved.vocabulary)[-int(Path("tried").read_text()):][None]
logits, _ = model.forward(weights, ids, model.zero_state(1, hyper))
used = ids.shape[1] // 16 * 16
following = np.append(ids[0, 1:], ids[0, 0])[:used, None]  # the last character of all is followed by the first
losses = tf.nn.sparse_softmax_cross_entropy_with_logits(following, logits[:used])
np.save("val_loss.npy", tf.reduce_mean(losses).numpy())
"""


def test_tensorflow_reads_the_log_and_computes_what_the_exported_model_gives(trained: Path) -> None:
    text = "12 green bottles hanging on the wall,\nand if one falls"
    temperatures = (1.0, 0.5, 0.1)
    (trained / "tried").write_text(str(len(TRIED)))
    result = run_words(trained, "-c", READ_EVENTS + TF_PROBABILITIES, text, *map(str, temperatures))
    assert result.returncode == 0, result.stderr

    names = (*LOSSES, "epoch", "seconds_per_batch", "characters_per_second")
    events = {(step, name): value for step, name, value in json.loads(result.stdout)}
    assert events == pytest.approx(metrics(trained, names), rel=1e-6)

    expected = np.load(trained / "probabilities.npy")
    weights, vocabulary = export.read_model(trained / "models")
    places = [int(place) for place in data.encode(text, vocabulary)]
    for temperature, by_tensorflow in zip(temperatures, expected, strict=True):
        np.testing.assert_allclose(probabilities(weights, places, temperature), by_tensorflow, rtol=0, atol=1e-5)

    reported = min(metrics(trained, ["val_loss"]).values())
    assert reported == pytest.approx(float(np.load(trained / "val_loss.npy")), rel=1e-4)


def test_the_curve_is_drawn(trained: Path) -> None:
    assert (trained / "logs" / "loss.png").read_bytes().startswith(b"\x89PNG")
    svg = (trained / "logs" / "loss.svg").read_text()
    assert "validation: " in svg and f"2 LSTM layers of 24, {len(TEXT):,} characters" in svg


def test_generate_goes_on_as_the_text_would(trained: Path) -> None:
    result = run(
        trained, "models", "--seed", "57 green bot", "--length", "9", "--until", "line", "--temperature", "0",
        module="trainer.generate",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "57 green bottles hanging on the wall,\n"
    shown = run_words(trained, *shlex.split(SHOWN[1])[1:])
    assert shown.returncode == 0 and len(shown.stdout) == len("he ") + 500 + 1  # it does not know the T of "The "


SIGNALLED_AT = """
import os, sys
from trainer import train

number, count, name, seconds, *arguments = sys.argv[1:]
train.SECONDS_BETWEEN_CHECKPOINTS = float(seconds)
left, replace = int(count), os.replace

def signal_and_replace(source, target):
    global left
    left -= str(target).startswith(name)
    if not left:
        left = -1
        os.kill(os.getpid(), int(number))
    replace(source, target)

os.replace = signal_and_replace
sys.exit(train.main(arguments))
"""


@pytest.mark.timeout(900)  # six trainings, one after the other
def test_a_training_that_is_stopped_and_killed_ends_as_one_that_was_not(tmp_path: Path, trained: Path) -> None:
    """SIGTERM; a kill before a checkpoint has its name; one between two files of an export; one between validation and
    the checkpoint that knows of it; SIGINT; and the end. Some of them save at every step."""
    folder = folder_with_text(tmp_path / "stopped")
    arguments = ["--data_dir=./data", *SMALL]

    def signalled(number: signal.Signals, name: str, count: int, seconds: float) -> subprocess.CompletedProcess[str]:
        words = ["-c", SIGNALLED_AT, str(int(number)), str(count), name, str(seconds), *arguments]
        done = run_words(folder, *words)
        export.read_model(folder / "models")  # is there, and whole
        return done

    def stop(number: signal.Signals, count: int) -> int:
        done = signalled(number, "checkpoints/step-", count, 0)
        assert done.returncode == 128 + number, done.stderr
        at = last_checkpoint(folder).step
        said = f"stopped by {number.name} at step {at} of 400; the same command goes on from there"
        assert done.stdout.splitlines()[-1] == said
        return at

    def kill(name: str, count: int, seconds: float) -> checkpoint.Checkpoint:
        done = signalled(signal.SIGKILL, name, count, seconds)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return last_checkpoint(folder)

    stopped_at = stop(signal.SIGTERM, 20)
    assert 20 <= stopped_at <= 22, "in the midst of the checkpoint of step 20, or of the next step"

    killed = kill("checkpoints/step-", 30, 0)
    assert killed.step > stopped_at
    assert list((folder / "checkpoints").glob(".step-*.tmp"))

    killed = kill("models/step-", 3, 600)
    assert killed.step % 100 == 0 and killed.validated == killed.step
    assert export.read_settings(folder / "models")["step"] < killed.step, "the model before is there still"

    killed = kill("checkpoints/step-", 2, 600)
    assert killed.step % 100 == 0 and killed.validated == killed.step - 100, "secured, tried, and not known to be"

    assert killed.step < stop(signal.SIGINT, 10) <= killed.step + 12

    result = run(folder, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert "resuming at step " in result.stdout
    assert_same_training(folder, trained)


def test_a_training_goes_on_from_the_checkpoints_of_another_folder(tmp_path: Path, trained: Path) -> None:
    """A run may mount another run's checkpoints. One that is damaged costs the steps since the one before."""
    folder = folder_with_text(tmp_path / "work")
    before = Path(shutil.copytree(trained / "checkpoints", folder / "before"))
    newest = max(before.glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    for path in before.glob("best-*"):
        if "00000400" in path.name:  # as it was at step 300
            path.unlink()
    there = {path.name: path.read_bytes() for path in before.iterdir()}
    before.chmod(0o500)
    result = run(folder, "--data_dir=./data", *SMALL, "--resume", "before")
    before.chmod(0o700)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"skipped: before/{newest.name} is damaged" in result.stdout
    assert "resuming at step 300 from before/step-00000300-" in result.stdout
    assert {path.name: path.read_bytes() for path in before.iterdir()} == there
    found, whole = last_checkpoint(folder), last_checkpoint(trained)
    assert [name for name in whole.arrays if not np.array_equal(found.arrays[name], whole.arrays[name])] == []
    after = {key: value for key, value in metrics(trained, LOSSES).items() if key[0] > 300}
    assert metrics(folder, LOSSES) == after

    other = run(folder, "--data_dir=./data", *SMALL, "--resume", "before", "--seed", "3")
    assert other.returncode == 2
    assert other.stderr.startswith("error: --resume before: there is no checkpoint of this training (")
    assert "(seed 1, now 3)" in other.stderr
    nothing = run(folder, "--data_dir=./data", *SMALL, "--resume", "nowhere")
    assert nothing.stderr.startswith("error: --resume nowhere: there is no such folder")


def test_a_finished_training_is_not_done_again_and_another_seed_is_another_training(
    tmp_path: Path, trained: Path
) -> None:
    folder = copy_of(trained, tmp_path)
    shutil.rmtree(folder / "models")
    again = run(folder, "--data_dir=./data", *SMALL)
    assert again.returncode == 0
    assert "nothing to do: step 400 was reached before" in again.stdout
    assert_same_training(folder, trained)

    other = run(folder, "--data_dir=./data", *SMALL, "--steps", "5", "--seed", "2")
    assert other.returncode == 0
    assert "is of another training (seed 1, now 2)" in other.stdout
    different, before = (last_checkpoint_of_seed(folder, seed) for seed in (2, 1))
    assert (different.step, before.step) == (5, 400)
    assert not np.array_equal(different.arrays["weights/embedding"], before.arrays["weights/embedding"])


def last_checkpoint_of_seed(folder: Path, seed: int) -> checkpoint.Checkpoint:
    saved = [checkpoint.load(path) for path in checkpoints(folder)]
    return max((one for one in saved if one.settings["seed"] == seed), key=lambda one: one.step)


def test_a_training_can_start_from_the_weights_of_another(tmp_path: Path, trained: Path) -> None:
    folder = folder_with_text(tmp_path, TEXT[: len(TEXT) // 2])  # another text, of characters the model knows
    init = ["--init_from", str(trained / "checkpoints")]
    result = run(folder, "--data_dir=./data", "--steps", "2", "--print_every", "1", *init)
    assert result.returncode == 0, result.stderr
    assert "--rnn_size 24" in result.stdout.splitlines()[0], "auto takes the size from there"
    first = next(match for line in result.stdout.splitlines() if (match := LINE.fullmatch(line)))
    assert (first[1], first[3]) == ("1", "0")
    assert float(first[4]) < 1.5
    assert last_checkpoint(folder).vocabulary == last_checkpoint(trained).vocabulary
    refused = run(folder, "--data_dir=./data", "--rnn_size", "25", *init)
    assert "has --rnn_size 24, asked for is 25: they must be equal" in refused.stderr


def test_auto_chooses_by_the_size_of_the_text_and_says_so(tmp_path: Path) -> None:
    folder = folder_with_text(tmp_path)
    result = run(folder, "--steps", "2", "--num_layers", "1", "--auto", "--print_every", "1")
    assert (result.returncode, result.stderr) == (0, "")
    said = result.stdout.replace("\n  ", " ").splitlines()[0]
    assert said.startswith("auto, for a text of less than 500,000 characters: --rnn_size 128 --batch_size 32")
    assert "--schedule cosine" in said and "--num_layers" not in said
    settings = last_checkpoint(folder).settings
    assert (settings["rnn_size"], settings["num_layers"], settings["seq_length"]) == (128, 1, 64)
    rates = metrics(folder, ["learning_rate"])
    assert rates[2, "learning_rate"] < rates[1, "learning_rate"] / 10


def test_a_short_text_and_three_layers_are_trained_and_said(tmp_path: Path) -> None:
    folder = folder_with_text(tmp_path, TEXT[:100])
    result = run(
        folder, "--data_path", "data/input.txt", "--rnn_size=8", "--num_layers=3", "--steps=3", "--val_fraction=0.1"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "the text is too short for --batch_size 50: using 2" in result.stdout
    assert "the text is too short for --val_fraction 0.1: going on without validation" in result.stdout
    reason = "it takes the output of the second layer, this model has 3"
    assert f"warning: ml5.js can't use this model: {reason}; trainer.generate can" in result.stdout
    assert f"models: ml5.js can't use it ({reason}); `python -m trainer.generate models` writes" in result.stdout
    written = run(folder, "models", "--length", "5", module="trainer.generate")
    assert written.returncode == 0 and len(written.stdout) > 5


@pytest.mark.parametrize(("cell", "flags"), [("gru", ["--level=word"]), ("rnn", ["--level=word", "--reverse"])])
def test_other_cells_words_and_backwards(tmp_path: Path, cell: str, flags: list[str]) -> None:
    """And a log is short unless lines are asked for."""
    folder = folder_with_text(tmp_path)
    result = run(folder, *SMALL[:-1], "--output_keep_prob=1", "--model", cell, *flags)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    shown = [line for line in lines if LINE.fullmatch(line)]
    assert len(lines) <= 34 and len(shown) <= min(12, len({step for step, name in metrics(folder, ["train_loss"])}))
    assert [line.partition("/")[0] for line in lines if VALIDATION.fullmatch(line)] == ["100", "200", "300", "400"]
    assert "warning: ml5.js can't use this model: it " in result.stdout
    assert 1 < len(list((folder / "models").glob("step-*"))) < 20
    reverse = "--reverse" in flags
    settings = export.read_settings(folder / "models")
    assert (settings["model"], settings["level"], settings["reverse"]) == (cell, "word", reverse)
    assert not settings["ml5"] and settings["ml5_why_not"]

    seed = " on the wall," if reverse else "57 green bottles"
    until = ["--length", "9", "--until", "line", "--temperature", "0"]
    written = run(folder, "models", "--seed", seed, *until, module="trainer.generate")
    assert (written.returncode, written.stderr) == (0, "")
    assert re.fullmatch(r"\d+ green bottles hanging on the wall,\n", written.stdout), written.stdout
    losses, tokens = metrics(folder, LOSSES), data.vocabulary(TEXT, "word")
    ratio = len(TRIED) / len(data.encode(TRIED, tokens))
    assert ratio > 1.5
    assert losses[400, "val_bpc"] == pytest.approx(losses[400, "val_loss"] / np.log(2) / ratio)


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
        (b"to be", ("--data_dir=./data", "--init_from", "nothing.npz"), "nothing.npz cannot be read"),
        (b"to be", ("--model", "nas"), "'nas' is none of lstm, gru, rnn"),
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
