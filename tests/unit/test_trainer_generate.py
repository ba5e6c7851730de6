"""Writing text with a model, without TensorFlow."""

from pathlib import Path

import numpy as np
import pytest

from tests.models import some_weights, write
from tests.recorder import Recorded
from trainer import export
from trainer.generate import PATIENCE, SAMPLE, generate, main, sample, shown, until

CHARACTERS = ["a", "b", "c", "\n"]


def text(temperature: float, random_seed: int = 0, length: int = 50) -> str:
    random = np.random.default_rng(random_seed)
    return "".join(generate(some_weights(), CHARACTERS, "ab", length, temperature, random))


def entropy(written: str) -> float:
    shares = np.array([written.count(character) for character in set(written)]) / len(written)
    return float(-(shares * np.log(shares)).sum())


def test_who_gets_blanks_alone_is_told_what_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, some_weights(), " \t\n\r")
    assert main([str(tmp_path), "--length", "9", "--random-seed", "1"]) == 0
    done = capsys.readouterr()
    assert done.out.isspace() and "nothing but blanks: --seed TEXT begins with words" in done.err


def test_a_temperature_near_zero_takes_the_likeliest_as_zero_does() -> None:
    assert text(0.0) == text(1e-6, random_seed=1) == text(1e-300, random_seed=2)


def test_a_higher_temperature_is_more_random() -> None:
    assert entropy(text(0.1, length=1000)) < entropy(text(1.0, length=1000)) < entropy(text(20.0, length=1000))


def test_characters_come_as_often_as_the_network_says() -> None:
    weights = some_weights()
    weights[export.SOFTMAX_W][:] = 0
    weights[export.SOFTMAX_B] = np.log([0.1, 0.2, 0.7, 1e-9]).astype(np.float32)
    written = "".join(generate(weights, CHARACTERS, "a", 20_000, 1.0, np.random.default_rng(0)))
    shares = [written.count(character) / len(written) for character in CHARACTERS]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7, 0.0], atol=0.01)


def test_the_same_random_seed_writes_the_same_text() -> None:
    assert text(1.0, random_seed=3) == text(1.0, random_seed=3) != text(1.0, random_seed=4)


def test_a_constant_on_all_logits_changes_nothing() -> None:
    moved = some_weights()
    moved[export.SOFTMAX_B] = moved[export.SOFTMAX_B] + np.float32(1000)
    written = "".join(generate(moved, CHARACTERS, "ab", 50, 0.0, np.random.default_rng(0)))
    assert written == text(0.0)


def upto(written: str, length: int, unit: str, seed: str = "") -> str:
    """Of a text that is written from left to right."""
    return "".join(until(iter(written), length, unit, seed=seed))


def backto(written: str, length: int, unit: str, seed: str = "") -> str:
    """Of a text that is written from right to left."""
    return "".join(until(iter(written[::-1]), length, unit, seed=seed, reverse=True))[::-1]


STORY = 'He said: "Go!" She went.\nAnd then, what\'s more, she came back. The end\n\nFIN\n'


def test_it_goes_on_to_the_end_of_the_unit(recorded: Recorded) -> None:
    def written(title: str) -> str:
        length, unit = title.split()
        return repr(upto(STORY, int(length), unit))

    recorded.cases(written)


def test_backwards_it_goes_on_to_the_beginning_of_the_unit(recorded: Recorded) -> None:
    def written(title: str) -> str:
        length, unit = title.split()
        return repr(backto(STORY[:70], int(length), unit))

    recorded.cases(written)


def test_the_seed_is_the_unit_begun() -> None:
    assert upto("lo there", 0, "word", seed="hel") == "lo"
    assert upto(" there", 0, "word", seed="hello") == ""
    assert backto("say hel", 0, "word", seed="lo") == "hel"


def test_words_are_not_cut_but_for_characters() -> None:
    words = ["so", " ", "nevermore", " ", "!"]
    assert list(until(words, 5, "word")) == ["so", " ", "nevermore"]
    assert "".join(until(words, 5, "char")) == "so ne"
    assert "".join(reversed(list(until(reversed(words), 5, "char", reverse=True)))) == "ore !"


def test_a_unit_without_end_is_cut_off() -> None:
    assert len("".join(until(iter("a" * 10 * PATIENCE), 10, "word"))) == 10 + PATIENCE


def test_the_seed_stands_before_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, some_weights())
    assert main([str(tmp_path), "--seed", "ab", "--length", "5", "--temperature", "0", "--random-seed", "1"]) == 0
    assert capsys.readouterr().out == f"ab{text(0.0, length=5)}\n"


def test_without_a_seed_it_starts_a_line_and_does_not_show_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, some_weights())
    assert main([str(tmp_path), "--length", "5", "--temperature", "0"]) == 0
    expected = "".join(generate(some_weights(), CHARACTERS, "\n", 5, 0.0, np.random.default_rng(0)))
    assert capsys.readouterr().out == expected + "\n"


def test_a_model_that_learned_backwards_leads_up_to_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backwards = "".join(generate(some_weights(), CHARACTERS, "ab", 5, 0.0, np.random.default_rng(0)))
    for settings, flags in (({"reverse": True}, []), ({}, ["--reverse"])):
        write(tmp_path, some_weights(), **settings)
        assert main([str(tmp_path), "--seed", "ba", "--length", "5", "--temperature", "0", *flags]) == 0
        assert capsys.readouterr().out == f"{backwards[::-1]}ba\n"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_model_of_words_reads_and_writes_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reverse: bool
) -> None:
    vocabulary = ["the", " ", "t", "h", "e", "raven", "x", "\n"]
    weights = some_weights(hidden=4, vocab=8)
    settings = {"reverse": reverse, "level": "word"}
    export.write_model(tmp_path, weights, vocabulary, learning_rate=0.1, largest_logits=(0.0, 0.0), settings=settings)
    read = ["the", " ", "h", "e", "x"]
    written = list(generate(weights, vocabulary, read[::-1] if reverse else read, 9, 0.0, np.random.default_rng(0)))
    length = len("".join(written))
    assert main([str(tmp_path), "--seed", "the hex!", "--length", str(length), "--temperature", "0"]) == 0
    said = capsys.readouterr()
    assert "'!'" in said.err
    assert said.out == ("".join(written[::-1]) + "the hex\n" if reverse else "the hex" + "".join(written) + "\n")


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


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sample_is_the_same_each_time_and_fits_in_a_line_of_the_log(reverse: bool) -> None:
    """Nothing of the text moves a terminal's cursor."""
    strange = ["a", "\x1b", "\r", "\n"]
    text = sample(some_weights(), strange, reverse=reverse)
    assert text == sample(some_weights(), strange, reverse=reverse) and len(text) == SAMPLE
    line = shown(text)
    assert len(line) <= 79 and line.isprintable() and line.startswith("sample: ")


def test_a_sample_of_blanks_alone_is_said_to_be_that(recorded: Recorded) -> None:
    recorded.cases(shown)
