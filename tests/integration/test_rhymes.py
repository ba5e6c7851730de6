"""The rhymes example without its network: which words rhyme, lines turned round, couplets of the Markov chain."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorder import Recorded
from trainer import export

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "rhymes"
VERSE = """
He came to the river before it was night,
And carried a lantern that gave him no light.
She waited for him by the side of the sea,
And nobody waited as gladly as she.
The birds of the morning were singing with might,
And nobody knew that the old king was right.
A man in the garden was planting a tree,
And never a garden was finer to see.
The clock in the tower was striking at three,
And out of the river there came a delight.
A knight of the castle has nothing to see,
And all that he carried was hidden from sight.
""".strip()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example's own requirements.txt installs, in a folder by itself."""
    folder = tmp_path_factory.mktemp("packages")
    words = ["install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    requirements = ["--target", str(folder), "-r", str(EXAMPLE / "requirements.txt")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, *requirements], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def rhymes(packages: Path) -> Iterator[ModuleType]:
    """The program as a module."""
    before = list(sys.path)
    sys.path[:0] = [str(EXAMPLE), str(packages)]
    try:
        yield importlib.import_module("rhymes")
    finally:
        sys.path[:] = before


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def program(packages: Path) -> Program:
    """`program(folder, *words)`: the program, as it is started in `folder`; warnings are errors."""

    def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLE / "rhymes.py"), *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(packages)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample corpus in data/input.txt."""
    folder = tmp_path_factory.mktemp("plays")
    script = ROOT / "examples" / "corpus" / "make_sample.py"
    subprocess.run([sys.executable, str(script), "data/input.txt"], cwd=folder, check=True, timeout=180)
    return folder


@pytest.fixture(scope="module")
def trained(plays: Path, program: Program) -> Path:
    """That folder with models/rhymes.json and models/markov.json."""
    done = program(plays, "train", "--data", "data", "--out", "models", "--no-lstm")
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert re.fullmatch(r"text: data, 308,000 characters, [\d,]+ lines of verse", said[0])
    assert re.fullmatch(r"models/rhymes.json: \d+ words to end a line with, in \d+ rhymes", said[1])
    assert re.fullmatch(r"models/markov.json: a Markov chain of [\d,]+ states, backwards", said[2])
    return plays


def groups_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    stored = json.loads((folder / "models" / "rhymes.json").read_text())
    assert stored["format"] == 1
    groups: dict[str, list[dict[str, Any]]] = stored["groups"]
    return groups


# -- lines


WORDS = st.lists(st.text(alphabet="abcdefghij'-,.é", min_size=1, max_size=8), min_size=1, max_size=15)


@given(words=WORDS)
def test_a_line_turned_round_twice_is_the_line(rhymes: ModuleType, words: list[str]) -> None:
    line = " ".join(words)
    assert rhymes.turned(line).split() == words[::-1]
    assert rhymes.turned(rhymes.turned(line)) == line


def test_the_last_word_of_a_line(rhymes: ModuleType, recorded: Recorded) -> None:
    recorded.cases(rhymes.last_word)


def test_what_is_a_line_of_verse(rhymes: ModuleType) -> None:
    text = (
        "HAMLET:\nTo be, or not to be, that is “the” question:\nWhether ’tis nobler (in the mind) to suffer\n"
        "and prose goes on wherever its line was broken\nA line that ends in 1603\n" + "word " * 13
    )
    assert rhymes.verses(text) == [
        "To be, or not to be, that is the question:",
        "Whether 'tis nobler in the mind to suffer",
    ]
    small = "all of it is in small letters\nas many write their songs today\n"
    assert rhymes.verses(small) == small.splitlines()


def test_syllables_are_counted_about_right(rhymes: ModuleType, recorded: Recorded) -> None:
    recorded.cases(rhymes.syllables)


def test_syllables_are_those_of_the_dictionary_for_most_words_of_the_text(rhymes: ModuleType, plays: Path) -> None:
    import pronouncing

    words = [word.lower() for word in rhymes.WORD.findall((plays / "data" / "input.txt").read_text())]
    spoken = {
        word: {pronouncing.syllable_count(phones) for phones in pronouncing.phones_for_word(word)}
        for word in set(words)
    }
    known = [word for word in words if spoken[word]]
    assert len(known) > 40_000
    assert sum(rhymes.syllables(word) in spoken[word] for word in known) / len(known) > 0.95


# -- rhymes


def test_what_rhymes(rhymes: ModuleType, recorded: Recorded) -> None:
    """What is found of two words: each with those that it rhymes with."""

    def found(words: str) -> list[str]:
        groups = rhymes.rhymes([f"This is a line that ends in {word}" for word in (*words.split(), "orange")])
        entries = [(entry, group) for group in groups.values() for entry in group]
        return sorted(
            f"{entry['word']}: {[one['word'] for one in rhymes.partners(entry, of)]}" for entry, of in entries
        )

    recorded.cases(found)


def test_every_pair_rhymes_and_none_sounds_the_same(rhymes: ModuleType, trained: Path) -> None:
    import pronouncing

    groups = groups_of(trained)
    ends = {rhymes.last_word(line) for line in (trained / "data" / "input.txt").read_text().splitlines()}
    pairs = [(one, other) for group in groups.values() for one in group for other in rhymes.partners(one, group)]
    assert len(pairs) > 2000
    for one, other in pairs:
        assert one["word"] != other["word"]
        assert {one["word"], other["word"]} <= ends
        assert one["word"] in pronouncing.rhymes(other["word"])
        said = pronouncing.phones_for_word(one["word"])
        assert not set(said) & set(pronouncing.phones_for_word(other["word"]))
    assert all(rhymes.partners(entry, group) for group in groups.values() for entry in group)
    assert all(
        rhymes.last_word(end) == entry["word"] for group in groups.values() for entry in group for end in entry["ends"]
    )


def test_pairs_are_drawn_of_one_rhyme_and_common_words_more_often(rhymes: ModuleType, trained: Path) -> None:
    groups = groups_of(trained)
    chance = random.Random(1)
    drawn = [rhymes.rhyming_pair(groups, chance) for _ in range(2000)]
    assert all(
        any(one in group and other in rhymes.partners(one, group) for group in groups.values()) for one, other in drawn
    )
    words = [one["word"] for one, _ in drawn]
    assert len(set(words)) > 300
    assert words.count("you") > 2000 / len({entry["word"] for group in groups.values() for entry in group})


def test_the_page_gets_no_more_words_than_it_can_use(
    rhymes: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (trained / "models" / "rhymes.json").stat().st_size < 200_000
    lines = rhymes.verses((trained / "data" / "input.txt").read_text())
    monkeypatch.setattr(rhymes, "MOST_RHYMES", 100)
    few = rhymes.rhymes(lines)
    assert 20 < sum(len(group) for group in few.values()) <= 100
    assert all(len(entry["ends"]) <= rhymes.ENDS for group in few.values() for entry in group)


# -- couplets of the Markov chain


def check_couplets(rhymes: ModuleType, said: str, folder: Path, count: int) -> None:
    """Each of two new lines that end in two words which rhyme."""
    groups = groups_of(folder)
    known = set(rhymes.verses((folder / "data" / "input.txt").read_text()))
    couplets = [couplet.splitlines() for couplet in said.strip().split("\n\n")]
    assert [len(lines) for lines in couplets] == [2] * count
    for first, second in couplets:
        group = next(group for group in groups.values() if rhymes.last_word(first) in {e["word"] for e in group})
        entry = next(entry for entry in group if entry["word"] == rhymes.last_word(first))
        assert rhymes.last_word(second) in {other["word"] for other in rhymes.partners(entry, group)}, (first, second)
        for line in (first, second):
            assert line not in known
            assert len(line.split()) in rhymes.WORDS


def test_of_several_lines_the_one_most_like_the_text_is_taken(rhymes: ModuleType) -> None:
    known = rhymes.Known.of(["The cat is on the mat", "The dog is in the house", "The bird is out of sight today"])
    assert known.length == 6
    lines = [
        "The dog of cat is mat",
        "The cat is in the house",
        "the cat is on the mat",
        "The cat is out of sight today",
    ]
    assert rhymes.best(lines, known, 6) == "The cat is in the house"
    assert rhymes.best(lines, known, 8) == "The cat is out of sight today"
    assert rhymes.best([], known, 6) is None


def test_the_markov_chain_writes_couplets(rhymes: ModuleType, program: Program, trained: Path) -> None:
    words = ["write", "--model", "markov", "--couplets", "25"]
    done = program(trained, *words, "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    check_couplets(rhymes, done.stdout, trained, 25)
    text = (trained / "data" / "input.txt").read_text()
    assert set(done.stdout.split()) <= set(re.sub(r'["()\[\]]', " ", text).split())

    assert program(trained, *words, "--seed", "7").stdout == done.stdout
    assert program(trained, *words, "--seed", "8").stdout != done.stdout


def test_a_small_text_will_do(rhymes: ModuleType, program: Program, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = VERSE.splitlines(keepends=True)
    (tmp_path / "data" / "1.txt").write_text("".join(lines[:5]))  # every file of the folder, as the trainer reads it
    (tmp_path / "data" / "2.txt").write_text("".join(lines[5:]))
    assert program(tmp_path, "train", "--no-lstm").returncode == 0
    ends = {entry["word"] for group in groups_of(tmp_path).values() for entry in group}
    assert ends == {"night", "light", "sea", "she", "might", "right", "tree", "see", "three", "delight", "sight"}
    done = program(tmp_path, "write", "--model", "markov", "--couplets", "3", "--seed", "1")
    assert done.returncode == 0, done.stderr
    (tmp_path / "data" / "input.txt").write_text(VERSE)
    check_couplets(rhymes, done.stdout, tmp_path, 3)


# -- what goes wrong


def test_what_the_user_can_put_right_is_one_line_and_status_2(program: Program, tmp_path: Path) -> None:
    def refused(said: str, *words: str) -> None:
        done = program(tmp_path, *words)
        assert done.returncode == 2, done.stdout
        assert re.search(said, done.stderr.splitlines()[-1]), done.stderr
        assert "Traceback" not in done.stderr

    refused("error: data does not exist: ", "train")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input.txt").write_text(
        "This is a line that ends in orange\nThis is a line that ends in month\n"
    )
    refused("error: no two lines of data rhyme: it must hold English verse, a line a line,", "train")
    assert not (tmp_path / "models").exists()
    refused(r"error: there is no models/rhymes\.json: make it with `python rhymes.py train`", "write")
    refused("argument --temperature: 0 is not above 0", "write", "--temperature", "0")
    refused("argument --couplets: invalid whole number value: 'x'", "write", "--couplets", "x")
    refused("invalid choice: 'gpt'", "write", "--model", "gpt")

    (tmp_path / "data" / "input.txt").write_text(
        "We walked along the river late at night\nAnd had no more than half a candle light\n"
    )
    assert program(tmp_path, "train", "--no-lstm").returncode == 0
    refused("error: models holds no model", "write", "--model", "lstm")
    refused(
        "error: no couplet after 40 pairs of rhyming words", "write", "--model", "markov"
    )  # of two lines nothing new can be made
    refused("--rnn_size: 0 is not a positive number", "train", "--", "--rnn_size", "0")  # the trainer's own word


def test_rhymes_of_another_version_are_refused(program: Program, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "rhymes.json").write_text('{"format": 2}')
    done = program(tmp_path, "write", "--model", "markov")
    said = "error: models/rhymes.json has format 2, this program reads 1: train again\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_network_that_reads_forwards_is_refused(program: Program, tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input.txt").write_text(VERSE)
    assert program(tmp_path, "train", "--no-lstm").returncode == 0
    vocabulary = sorted(set(VERSE))
    weights = {
        export.EMBEDDING: np.zeros((len(vocabulary), 4), np.float32),
        export.SOFTMAX_W: np.zeros((4, len(vocabulary)), np.float32),
        export.SOFTMAX_B: np.zeros(len(vocabulary), np.float32),
    }
    for layer in range(2):
        kernel, bias = export.names("lstm", layer)
        weights |= {kernel: np.zeros((8, 16), np.float32), bias: np.zeros(16, np.float32)}
    export.write_model(tmp_path / "models", weights, vocabulary, learning_rate=0.1, largest_logits=(0, 1))
    done = program(tmp_path, "write", "--model", "lstm")
    assert done.returncode == 2
    assert done.stderr == ("error: the LSTM in models was not trained backwards: `python rhymes.py train` does that\n")
