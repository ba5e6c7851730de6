"""What a training reports: lines, metrics.jsonl, the loss curve. TensorBoard's log is of TensorFlow's making."""

import json
import math
import sys
from pathlib import Path

import pytest

from tests.models import a_training
from trainer import curve, log_folder
from trainer.progress import Metrics, bits, duration, train_line, validation_line


def records(path: Path) -> list[tuple[int, str, float]]:
    return [
        (record["step"], record["name"], record["value"]) for record in map(json.loads, path.read_text().splitlines())
    ]


def test_lines_do_not_wrap_in_80_columns() -> None:
    """Those of a long training with a bad beginning, and on a slow machine."""
    assert train_line(142, 2840, 0, 2.2251, 0.0201, "0:00:55") == (
        "142/2840 (epoch 0), train_loss = 2.225, time/batch = 0.020, 0:00:55 left"
    )
    assert validation_line(142, 2840, 2.318, True) == "142/2840, val_loss = 2.318, best"
    assert len(train_line(100000, 100000, 199, 9.999, 9.999, "9:59:59")) <= 79
    assert len(validation_line(100000, 100000, 700.0, True)) <= 79


def test_metrics_are_one_record_a_value(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    Metrics(path, 0, 0).write(10, {"train_loss": 2.5, "bpc": 3.6})
    assert records(path) == [(10, "train_loss", 2.5), (10, "bpc", 3.6)]
    record = json.loads(path.read_text().splitlines()[0])
    assert sorted(record) == ["name", "step", "time", "value"]
    assert record["time"] > 1.7e9


def test_a_resumed_log_takes_back_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0, 0)
    for step in (10, 20):
        metrics.write(step, {"train_loss": 2.5, "val_loss": 3.0})
    with open(path, "a") as file:
        file.write('{"step": 3')  # killed in the middle of a line
    Metrics(path, 15, 10).write(30, {"train_loss": 1.25})
    assert records(path) == [(10, "train_loss", 2.5), (10, "val_loss", 3.0), (30, "train_loss", 1.25)]
    Metrics(path, 10, 9)
    assert records(path) == [(10, "train_loss", 2.5)], "it was killed before it was saved that it was validated"
    Metrics(path, 0, 0)
    assert path.read_text() == "", "a training that starts anew has a log of its own"


def test_another_training_sets_the_log_aside_until_its_own_goes_on(tmp_path: Path) -> None:
    def train(size: int, step: int) -> None:
        log_folder.take_over(tmp_path, {"rnn_size": size})
        (tmp_path / f"events.out.tfevents.{step}.trainer").write_bytes(b"")
        Metrics(tmp_path / "metrics.jsonl", step, step).write(step + 10, {"train_loss": float(size)})
        log_folder.write_sample(tmp_path, step + 10, f"of {size}")

    def events(folder: Path) -> set[str]:
        return {path.name.split(".")[3] for path in folder.glob("events*")}

    train(128, 0)
    train(64, 0)
    train(64, 10)
    assert records(tmp_path / "metrics.jsonl") == [(10, "train_loss", 64), (20, "train_loss", 64)]
    assert json.loads((tmp_path / "training.json").read_text())["rnn_size"] == 64
    (aside,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name != "samples")
    assert records(aside / "metrics.jsonl") == [(10, "train_loss", 128)]
    (tmp_path / "notes.txt").write_text("mine")

    train(128, 10)
    assert records(tmp_path / "metrics.jsonl") == [(10, "train_loss", 128), (20, "train_loss", 128)]
    assert events(tmp_path) == {"0", "10"}
    (other,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name != "samples")
    assert other != aside and events(other) == {"0", "10"}
    assert (tmp_path / "notes.txt").exists()
    for folder, size in ((tmp_path, 128), (other, 64)):
        texts = {path.name: path.read_text() for path in (folder / "samples").iterdir()}
        assert texts == {"step-000010.txt": f"of {size}\n", "step-000020.txt": f"of {size}\n"}
        assert json.loads((folder / "params.json").read_text()) == {"rnn_size": size}
    log_folder.forget_samples(tmp_path, after=10)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-000010.txt"]


def test_a_log_that_is_nobodys_is_taken_over_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"training": "../elsewhere"}')
    (tmp_path / "metrics.jsonl").write_text("")
    log_folder.take_over(tmp_path, {"rnn_size": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "params.json", "training.json"]


def test_bits_a_character() -> None:
    assert bits(math.log(8), 1.0) == pytest.approx(3)
    assert bits(math.log(8), 2.5) == pytest.approx(1.2), "of a token of two and a half characters"


def test_a_duration_is_read_at_a_glance() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3661, 90_000)] == ["0:00:00", "0:01:00", "1:01:01", "25:00:00"]


def test_without_matplotlib_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = curve.draw(a_training(tmp_path / "metrics.jsonl"), tmp_path, "title", "character")
    assert "matplotlib is not installed; `pip install matplotlib`" in said and "\n" not in said
    assert not (tmp_path / "loss.png").exists()
