"""The trainer's files: whole or not at all, checkpoints that are found again, models in ml5's format."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from trainer import TrainerError, checkpoint, export
from trainer.files import write_whole
from trainer.train import Log

SETTINGS: dict[str, Any] = {"rnn_size": 8, "text": "0f3a", "init_from": None}


def a_checkpoint(step: int, settings: dict[str, Any] = SETTINGS) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(step, settings, ["a", "\n", "🎵"], {"weights/x": np.full(3, step, np.float32)})


def some_weights(hidden: int = 3, vocab: int = 4, layers: int = 2) -> dict[str, export.Floats]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {export.EMBEDDING: (vocab, hidden)}
    for layer in range(layers):
        kernel, bias = export.names("lstm", layer)
        shapes[kernel] = (2 * hidden, 4 * hidden)
        shapes[bias] = (4 * hidden,)
    shapes |= {export.SOFTMAX_W: (hidden, vocab), export.SOFTMAX_B: (vocab,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, weights: dict[str, export.Floats], characters: str = "abc\n") -> None:
    export.write_model(folder, weights, list(characters), learning_rate=0.002, largest_logits=(2.0, 16.0))


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    def fail_half_way(file: BinaryIO) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    path = tmp_path / "models" / "embedding"
    write_whole(path, lambda file: file.write(b"old"))
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["embedding"]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(7))
    found, remarks = checkpoint.find(tmp_path, SETTINGS)
    assert found is not None and not remarks
    assert (found.step, found.settings, found.characters) == (7, SETTINGS, ["a", "\n", "🎵"])
    assert found.arrays["weights/x"].tolist() == [7, 7, 7]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        checkpoint.save(tmp_path, a_checkpoint(step))
    steps = [checkpoint.load(path).step for path in sorted(tmp_path.iterdir())]
    assert steps == [200, 300]


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, a_checkpoint(100))
    newest = checkpoint.save(tmp_path, a_checkpoint(200))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-100], "one bit": content, "empty": b""}[damage])
    found, remarks = checkpoint.find(tmp_path, SETTINGS)
    assert found is not None and found.step == 100
    assert len(remarks) == 1 and newest.name in remarks[0] and "damaged" in remarks[0]


def test_another_training_in_the_folder_is_left_alone_and_named(tmp_path: Path) -> None:
    other = checkpoint.save(tmp_path, a_checkpoint(500))
    settings = {**SETTINGS, "rnn_size": 16}
    found, remarks = checkpoint.find(tmp_path, settings)
    assert found is None
    assert "rnn_size 8, now 16" in remarks[0]
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, a_checkpoint(step, settings))
    assert other.exists()


def test_a_training_started_anew_removes_the_later_checkpoints_of_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(500))
    checkpoint.save(tmp_path, a_checkpoint(10))
    found, _ = checkpoint.find(tmp_path, SETTINGS)
    assert found is not None and found.step == 10


def test_a_model_has_the_files_ml5_asks_for(tmp_path: Path) -> None:
    write(tmp_path, some_weights())
    assert sorted(os.listdir(tmp_path)) == [
        "Variable",
        "embedding",
        "manifest.json",
        "rnnlm_multi_rnn_cell_cell_0_basic_lstm_cell_bias",
        "rnnlm_multi_rnn_cell_cell_0_basic_lstm_cell_kernel",
        "rnnlm_multi_rnn_cell_cell_1_basic_lstm_cell_bias",
        "rnnlm_multi_rnn_cell_cell_1_basic_lstm_cell_kernel",
        "rnnlm_softmax_b",
        "rnnlm_softmax_w",
        "vocab.json",
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["rnnlm/multi_rnn_cell/cell_1/basic_lstm_cell/kernel"] == {
        "filename": "rnnlm_multi_rnn_cell_cell_1_basic_lstm_cell_kernel",
        "shape": [6, 12],
    }
    assert manifest["Variable"] == {"filename": "Variable", "shape": []}
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"a": 0, "b": 1, "c": 2, "\n": 3}
    assert np.frombuffer((tmp_path / "Variable").read_bytes(), "<f4").tolist() == [np.float32(0.002)]


def test_a_model_comes_back_with_its_logits_moved_to_the_middle(tmp_path: Path) -> None:
    written = some_weights()
    write(tmp_path, written)
    weights, characters = export.read_model(tmp_path)
    assert characters == ["a", "b", "c", "\n"]
    np.testing.assert_allclose(weights.pop(export.SOFTMAX_B), written.pop(export.SOFTMAX_B) - 9)
    assert all(np.array_equal(weights[name], written[name]) for name in written)


def test_a_smaller_model_replaces_a_deeper_one_file_for_file(tmp_path: Path) -> None:
    write(tmp_path, some_weights(layers=3))
    write(tmp_path, some_weights(layers=2))
    assert not [name for name in os.listdir(tmp_path) if "cell_2" in name]


def test_a_manifest_cannot_have_files_elsewhere_removed_or_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"x": {"filename": "../outside", "shape": []}}))
    with pytest.raises(TrainerError, match="not a whole model"):
        export.read_model(folder)
    write(folder, some_weights())
    assert outside.read_text() == "precious"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no model"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a whole model"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json lacks embedding"),
        (lambda folder: (folder / "vocab.json").write_text('{"a": 0}'), "1 characters in vocab.json, 4 in the network"),
        (lambda folder: (folder / "embedding").write_bytes(b"12345"), "not a whole model"),
        (lambda folder: (folder / "embedding").unlink(), "not a whole model"),
    ],
)
def test_half_a_model_is_an_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, some_weights())
    spoil(tmp_path)
    with pytest.raises(TrainerError, match=said):
        export.read_model(tmp_path)


def test_a_resumed_log_takes_back_what_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    log = Log(path, 0, 30, every=10)
    for step in (10, 20, 20):
        assert log.due(step)
        log.write(step, 0, 2.5, 0.002)
    with open(path, "a") as file:
        file.write('{"step": 3')  # killed in the middle of a line
    Log(path, 15, 30, every=10).write(30, 1, 1.25, 0.001)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 30]
    assert capsys.readouterr().out.splitlines()[-1].startswith("30/30 (epoch 1), train_loss = 1.250, time/batch = ")
