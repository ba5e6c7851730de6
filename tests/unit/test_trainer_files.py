"""The trainer's files: whole or not at all; checkpoints that are found again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from trainer import TrainerError, checkpoint
from trainer.checkpoint import Best, Checkpoint
from trainer.files import write_whole

SETTINGS: dict[str, Any] = {"rnn_size": 8, "text": "0f3a", "init_from": None}


def a_checkpoint(step: int, settings: dict[str, Any] = SETTINGS, best: Best | None = None) -> Checkpoint:
    arrays = {"weights/x": np.full(3, step, np.float32), "adam_m/x": np.zeros(3, np.float32)}
    return Checkpoint(step, 1000, settings, ["a", "\n", "🎵", "word"], arrays, step // 100 * 100, best)


def names(folder: Path) -> list[str]:
    """What is in it, without the digest of the settings."""
    return sorted(path.name[: -len("-00000000.npz")] for path in folder.iterdir())


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
    saved = a_checkpoint(170, best=Best(100, 1.25))
    path = checkpoint.save(tmp_path, saved)
    found, remarks = checkpoint.find([tmp_path], SETTINGS)
    assert remarks == [f"resuming at step 170 from {path}"]
    assert found is not None
    assert replace(found, arrays={}) == replace(saved, arrays={})
    assert found.arrays.keys() == saved.arrays.keys()
    assert found.weights["x"].tolist() == [170, 170, 170]


def test_the_best_is_kept_apart_until_there_is_a_better_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(100, best=Best(100, 2.0)))
    for step in (200, 300, 400):
        checkpoint.save(tmp_path, a_checkpoint(step, best=Best(100, 2.0)))
    assert names(tmp_path) == ["best-00000100", "step-00000300", "step-00000400"]
    newest, _ = checkpoint.find([tmp_path], SETTINGS)
    assert newest is not None and newest.step == 400
    best = checkpoint.find_best([tmp_path], newest)
    assert best is not None and best.step == 100
    assert checkpoint.newest(tmp_path).step == 400

    checkpoint.save(tmp_path, a_checkpoint(500, best=Best(500, 1.5)))
    assert names(tmp_path) == ["best-00000500", "step-00000400", "step-00000500"]


def test_a_best_one_that_is_gone_or_damaged_is_none(tmp_path: Path) -> None:
    saved = a_checkpoint(100, best=Best(100, 2.0))
    checkpoint.save(tmp_path, saved)
    assert checkpoint.find_best([tmp_path / "elsewhere", tmp_path], saved) is not None
    best = checkpoint.path_of(tmp_path, 100, SETTINGS, "best")
    best.write_bytes(best.read_bytes()[:-1])
    assert checkpoint.find_best([tmp_path], saved) is None


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "a longer tail"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, a_checkpoint(100))
    newest = checkpoint.save(tmp_path, a_checkpoint(200))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt = {"cut": content[:-100], "one bit": content, "empty": b"", "a longer tail": newest.read_bytes() + b"x"}
    newest.write_bytes(spoilt[damage])
    found, remarks = checkpoint.find([tmp_path], SETTINGS)
    assert found is not None and found.step == 100
    assert len(remarks) == 2 and newest.name in remarks[0] and "damaged" in remarks[0]


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, a_checkpoint(100))
    (tmp_path / f".{saved.name.replace('100', '200')}.tmp").write_bytes(b"half of one")
    assert checkpoint.newest(tmp_path).step == 100
    checkpoint.save(tmp_path, a_checkpoint(300))
    assert names(tmp_path) == ["step-00000100", "step-00000300"]


def test_another_training_in_the_folder_is_left_alone_and_named(tmp_path: Path) -> None:
    other = checkpoint.save(tmp_path, a_checkpoint(500, best=Best(500, 1.0)))
    settings = {**SETTINGS, "rnn_size": 16}
    found, remarks = checkpoint.find([tmp_path], settings)
    assert found is None
    assert remarks == [f"{other} is of another training (rnn_size 8, now 16)"]
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, a_checkpoint(step, settings))
    assert other.exists()
    assert checkpoint.path_of(tmp_path, 500, SETTINGS, "best").exists()


def test_a_training_started_anew_removes_the_later_checkpoints_of_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, a_checkpoint(500, best=Best(500, 1.0)))
    checkpoint.save(tmp_path, a_checkpoint(10))
    found, _ = checkpoint.find([tmp_path], SETTINGS)
    assert found is not None and found.step == 10
    assert names(tmp_path) == ["step-00000010"]


def test_the_newest_of_several_folders_is_found(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "own", a_checkpoint(100))
    checkpoint.save(tmp_path / "before", a_checkpoint(300))
    found, _ = checkpoint.find([tmp_path / "own", tmp_path / "before", tmp_path / "none"], SETTINGS)
    assert found is not None and found.step == 300


def test_a_checkpoint_of_another_format_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.save(tmp_path, a_checkpoint(1))
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(TrainerError, match="written by another version of the trainer"):
        checkpoint.load(path)
