"""Writing text with a model, without TensorFlow."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_trainer_files import some_weights, write
from trainer import export
from trainer.generate import generate, main

CHARACTERS = ["a", "b", "c", "\n"]


def text(temperature: float, random_seed: int = 0, length: int = 50) -> str:
    random = np.random.default_rng(random_seed)
    return "".join(generate(some_weights(), CHARACTERS, "ab", length, temperature, random))


def entropy(written: str) -> float:
    shares = np.array([written.count(character) for character in set(written)]) / len(written)
    return float(-(shares * np.log(shares)).sum())


def test_a_temperature_near_zero_takes_the_likeliest_as_zero_does() -> None:
    assert text(0.0) == text(1e-6, random_seed=1) == text(1e-300, random_seed=2)


def test_a_higher_temperature_is_more_random() -> None:
    assert entropy(text(0.1, length=1000)) < entropy(text(1.0, length=1000)) < entropy(text(20.0, length=1000))


def test_the_same_random_seed_writes_the_same_text() -> None:
    assert text(1.0, random_seed=3) == text(1.0, random_seed=3) != text(1.0, random_seed=4)


def test_a_constant_on_all_logits_changes_nothing() -> None:
    moved = some_weights()
    moved[export.SOFTMAX_B] = moved[export.SOFTMAX_B] + np.float32(1000)
    written = "".join(generate(moved, CHARACTERS, "ab", 50, 0.0, np.random.default_rng(0)))
    assert written == text(0.0)


def test_the_seed_stands_before_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, some_weights())
    assert main([str(tmp_path), "--seed", "ab", "--length", "5", "--temperature", "0", "--random-seed", "1"]) == 0
    assert capsys.readouterr().out == f"ab{text(0.0, length=5)}\n"


def test_unknown_characters_of_the_seed_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, some_weights())
    assert main([str(tmp_path), "--seed", "aXb", "--length", "3", "--random-seed", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("ab")
    assert "'X'" in said.err


def test_a_folder_without_a_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path} holds no model (no manifest.json): train one with `python -m trainer.train`"
    ]


def test_it_starts_in_a_moment_and_without_tensorflow(tmp_path: Path) -> None:
    write(tmp_path, some_weights())
    program = (
        "import sys; from trainer.generate import main; status = main(sys.argv[1:]);"
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules or 'keras' in sys.modules else status)"
    )
    seconds = []
    for _ in range(3):  # the machine may be busy: the best of three
        started = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), "--length", "20"], capture_output=True, text=True, timeout=60
        )
        seconds.append(time.monotonic() - started)
        assert result.returncode == 0, result.stderr
    assert min(seconds) < 0.5


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, some_weights())
    command = f"{sys.executable} -m trainer.generate {tmp_path} --length 20000 | head -c 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
