#!/usr/bin/env python3
"""Rhyming couplets in the manner of a text, by models that have learned it backwards.

    python rhymes.py train --data data --out models [-- OPTIONS OF trainer.train]
    python rhymes.py write --models models --model lstm --couplets 4 --temperature 0.6 --seed 7

A rhyme stands at the end of a line, so that is where to begin: choose two words that rhyme, let a model that has
read everything backwards go on from each of them to the start of its line, and turn the lines round. Two models
can do it: a Markov chain of words (markovify), and remoterun's LSTM of characters. `pronouncing` knows what rhymes.
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NoReturn

FORMAT = 1  # of rhymes.json
WORDS = range(4, 13)  # in a line: what is shorter is a heading or a speaker, what is longer is prose
STATE_SIZE = 2  # words from which the Markov chain goes on
MOST_RHYMES = 1500  # words in rhymes.json
ENDS = 4  # spellings kept of one of them: "love," "love." "love" "Love,"
TRIES = 60  # for a line, of which the first
CANDIDATES = 20  # good ones are compared
PAIRS = 40  # tried for a couplet
LETTERS = 100  # after which a line is given up
MEMORY = 120  # characters of the lines below that the LSTM reads before it writes one

WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
VOWELS = re.compile(r"[aeiouyäöüàáâèéêìíîòóôùúû]+")
SILENT = re.compile(
    r"(?<=[^aeiouyl])e$|(?<=[^aeiouydt])e(?=d$)|(?<=[bdfkmnprtv])e(?=s$)"
)  # the e of here, heaped, comes
FULL_STOP = re.compile(r"[.!?…]$")  # for the second line of a couplet
NO_STOP = re.compile(r"[^.!?…]$")  # for the first

Entry = dict[str, Any]  # of rhymes.json: {"word": "night", "after": ["N"], "ends": {"night.": 12, "night,": 9}}
Line = Callable[[str, str], str]  # how it ends, and the lines below it → the line


class RhymesError(Exception):
    """Something the user can put right: said in one line, with no traceback, exit status 2."""


def main() -> int:
    options = parse_options()
    try:
        return train(options) if options.task == "train" else write(options)
    except RhymesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed here: `remoterun run --pip-req requirements.txt …` brings it,"
            f" or install it: pip install -r requirements.txt numpy tensorflow",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


# -- train: the text's lines → rhymes.json, markov.json, and the LSTM


def train(options: argparse.Namespace) -> int:
    text = read_text(options.data)
    lines = verses(text)
    print(f"text: {options.data}, {len(text):,} characters, {len(lines):,} lines of verse")

    groups = rhymes(lines)
    if not groups:
        raise RhymesError(
            f"no two lines of {options.data} rhyme: it must hold English verse, a line a line,"
            f" each of {WORDS.start} to {WORDS.stop - 1} words"
        )
    count = sum(len(words) for words in groups.values())
    write_json(options.out / "rhymes.json", {"format": FORMAT, "groups": groups})
    print(f"{options.out / 'rhymes.json'}: {count:,} words to end a line with, in {len(groups):,} rhymes")

    chain = markov(lines)
    write_json(options.out / "markov.json", chain.to_dict())
    print(f"{options.out / 'markov.json'}: a Markov chain of {len(chain.chain.model):,} states, backwards", flush=True)
    return 0 if options.no_lstm else become_trainer(options)


def verses(text: str) -> list[str]:
    """The lines a poem could have; without quotation marks and brackets, which would lose their other half."""
    plain = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    lines = (" ".join(re.sub(r'["“”„«»()\[\]{}*_]', " ", line).split()) for line in plain.splitlines())
    fit = [line for line in lines if len(line.split()) in WORDS and last_word(line)]
    return usual(fit, lambda line: line[0].isupper())  # where verse starts with a capital, the others are prose


def usual(lines: list[str], test: Callable[[str], bool]) -> list[str]:
    """The lines that pass, if most do; otherwise it is not the way of this text, and all stay."""
    passed = [line for line in lines if test(line)]
    return passed if len(passed) > len(lines) / 2 else lines


def turned(line: str) -> str:
    """A line from its last word to its first, and back."""
    return " ".join(reversed(line.split()))


def last_word(line: str) -> str:
    """In small letters, without what stands around it; "" if the line does not end in a word."""
    found = WORD.findall(line.rpartition(" ")[2])
    return found[0].lower() if len(found) == 1 else ""


def rhymes(lines: list[str]) -> dict[str, list[Entry]]:
    """The words at the ends of `lines` that have a partner to rhyme with, by the sound they share.

    Only the commonest `MOST_RHYMES` that have a known sound; in each group the commonest first. Where most lines end
    with a mark, a line without one breaks off in the middle of a phrase, and is not an example of an end.
    """
    ends: dict[str, Counter[str]] = {}
    for line in usual(lines, lambda line: not line[-1].isalnum()):
        end = line.rpartition(" ")[2]
        if end[0].isalpha():  # and not 'em, half a word
            ends.setdefault(last_word(line), Counter())[end] += 1
    common = sorted(ends, key=lambda word: (-ends[word].total(), word))
    heard = ((word, *sounds) for word in common if (sounds := sound(word)))
    groups: dict[str, list[Entry]] = {}
    for word, rhyme, after in islice(heard, MOST_RHYMES):
        entry = {"word": word, "after": sorted(after), "ends": dict(ends[word].most_common(ENDS))}
        groups.setdefault(rhyme, []).append(entry)
    paired = {rhyme: [entry for entry in group if partners(entry, group)] for rhyme, group in groups.items()}
    return {rhyme: group for rhyme, group in paired.items() if group}


def sound(word: str) -> tuple[str, set[str]] | None:
    """What a word rhymes by, from its stressed vowel on, and the consonants before that in the same syllable.

    "night" is AY1 T after N. "light" is AY1 T after L and rhymes with it; so is "delight", which doesn't rhyme with
    "light", nor does "knight" with "night". A word that is said in several ways rhymes as in the first of them, after
    the consonants of any. None: it is not in the dictionary (or there as a letter's name), or has no stress.
    """
    import pronouncing

    said = pronouncing.phones_for_word(word) or pronouncing.phones_for_word(word + "'")  # runnin'
    if not said or not re.search("[12]", said[0]) or (len(word) == 1 and word != "i"):
        return None
    rhyme = pronouncing.rhyming_part(said[0])
    before = [phones.split()[: -len(rhyme.split())] for phones in said if pronouncing.rhyming_part(phones) == rhyme]
    return rhyme, {onset(phones) for phones in before}


def onset(phones: list[str]) -> str:
    """The consonants at the end of `phones` with which a syllable begins: as many as may begin a word."""
    consonants = list(takewhile(str.isalpha, reversed(phones)))[::-1]
    return next(text for n in range(len(consonants) + 1) if (text := " ".join(consonants[n:])) in onsets())


@functools.cache
def onsets() -> frozenset[str]:
    """What English words begin with, such as S T R, or nothing. A beginning that is rare is a foreign one."""
    import pronouncing

    pronouncing.init_cmu()
    counts = Counter(" ".join(takewhile(str.isalpha, phones.split())) for _, phones in pronouncing.pronunciations)
    return frozenset({"", *(text for text, count in counts.items() if count >= 50)})


def partners(entry: Entry, group: Iterable[Entry]) -> list[Entry]:
    """Those of a group that rhyme with one of it: whose sounds before the rhyme are others."""
    return [other for other in group if not set(entry["after"]) & set(other["after"])]


def markov(lines: Iterable[str]) -> Any:
    """A chain that goes from the last word of a line to its first."""
    import markovify

    return markovify.NewlineText("\n".join(map(turned, lines)), state_size=STATE_SIZE, well_formed=False)


def become_trainer(options: argparse.Namespace) -> NoReturn:
    """Train the LSTM in this very process: its log, its signals and its exit status are the trainer's own."""
    paths = [str(trainer_folder()), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    words = ["--data_path", str(options.data), "--save_model", str(options.out), "--reverse", *options.trainer]
    os.execv(sys.executable, [sys.executable, "-m", "trainer.train", *words])


# -- write: two words that rhyme → the lines that lead to them


@dataclass(frozen=True)
class Known:
    """What new lines are compared with: those of the text, which words follow each other there, how long they are."""

    lines: dict[str, None]  # in their order
    pairs: frozenset[tuple[str, str]]
    length: int  # in syllables, of the line in the middle

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Known":
        text = dict.fromkeys(lines)
        lengths = sorted(map(syllables, text))
        return cls(text, frozenset(pair for line in text for pair in neighbours(line)), lengths[len(lengths) // 2])


def write(options: argparse.Namespace) -> int:
    folder, chance = options.models, random.Random(options.seed)
    groups = read_rhymes(folder / "rhymes.json")
    stored = read_json(folder / "markov.json")
    known = Known.of(" ".join(reversed(words)) for words in stored["parsed_sentences"])
    line = markov_line(stored, chance) if options.model == "markov" else lstm_line(folder, options.temperature, chance)

    poem: list[tuple[str, str]] = []  # the LSTM reads what comes below, so the last couplet is written first
    for _ in range(options.couplets):
        below = "\n".join(poem[0]) if poem else chance.choice(list(known.lines))
        poem.insert(0, write_couplet(line, groups, known, below, chance))
    print("\n\n".join("\n".join(couplet) for couplet in poem))
    return 0


def write_couplet(
    line: Line, groups: dict[str, list[Entry]], known: Known, below: str, chance: random.Random
) -> tuple[str, str]:
    """Two lines that rhyme. Raises RhymesError if the model finds none for any of `PAIRS` pairs."""
    for _ in range(PAIRS):
        first_word, second_word = rhyming_pair(groups, chance)
        second = best(good_lines(line, second_word, FULL_STOP, known, below, chance), known, known.length)
        if second:
            lower = f"{second}\n{below}"
            first = best(good_lines(line, first_word, NO_STOP, known, lower, chance), known, syllables(second))
            if first:
                return first, second
    raise RhymesError(
        f"no couplet after {PAIRS} pairs of rhyming words: the model has learned too little,"
        f" or only lines of the text itself; train longer, on more text, or try another --temperature"
    )


def rhyming_pair(groups: dict[str, list[Entry]], chance: random.Random) -> tuple[Entry, Entry]:
    """Two words, drawn by how often they end a line, but not so much that it is always the same ones."""
    entries = [(entry, group) for group in groups.values() for entry in group]
    first, group = chance.choices(entries, [weight(entry) for entry, _ in entries])[0]
    others = partners(first, group)
    return first, chance.choices(others, [weight(entry) for entry in others])[0]


def weight(entry: Entry) -> float:
    return math.sqrt(sum(entry["ends"].values()))


def good_lines(
    line: Line, entry: Entry, mark: re.Pattern[str], known: Known, below: str, chance: random.Random
) -> Iterator[str]:
    """Up to `CANDIDATES` lines that end in the word, are as long as a line is, and don't stand in the text.

    They end in the `mark`, if the text has the word with it at the end of a line.
    """
    ends = {end: count for end, count in entry["ends"].items() if mark.search(end)} or entry["ends"]
    found = 0
    for _ in range(TRIES):
        end = chance.choices(list(ends), list(ends.values()))[0]
        text = line(end, below)
        if len(text.split()) in WORDS and last_word(text) == entry["word"] and text not in known.lines:
            yield text
            found += 1
            if found == CANDIDATES:
                return


def best(lines: Iterable[str], known: Known, wanted: int) -> str | None:
    """The line in which the fewest words follow each other as never in the text, and about as long as `wanted`."""

    def fault(line: str) -> int:
        unheard = sum(pair not in known.pairs for pair in neighbours(line))
        return 2 * unheard + abs(syllables(line) - wanted)

    return min(lines, key=fault, default=None)


def neighbours(line: str) -> list[tuple[str, str]]:
    """Each word with the one before it; the first with whether the line starts with a capital."""
    words = ["^" if line[:1].isupper() else "", *WORD.findall(line.lower())]
    return list(pairwise(words))


def syllables(line: str) -> int:
    """About how many: the groups of vowels, without a silent e."""
    words = (SILENT.sub("", word) for word in WORD.findall(line.lower()))
    return sum(max(1, len(VOWELS.findall(word))) for word in words)


def markov_line(stored: dict[str, Any], chance: random.Random) -> Line:
    """Lines of the chain, but none of which markovify finds that it is too much like one of the text."""
    import markovify
    from markovify.chain import BEGIN

    random.seed(chance.random())  # markovify draws from the module's own numbers
    chain = markovify.NewlineText.from_dict(stored)

    def line(end: str, below: str) -> str:
        start = (BEGIN,) * (STATE_SIZE - 1) + (end,)
        return turned(chain.make_sentence(start, tries=1) or "") if start in chain.chain.model else ""

    return line


def lstm_line(folder: Path, temperature: float, chance: random.Random) -> Line:
    """Lines of the LSTM, which reads the lines below first, and all of it from right to left."""
    trainer_folder()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for one vector at a time, more only wait for each other
    import numpy as np

    from trainer import TrainerError, export, generate, tokens

    try:
        weights, vocabulary = export.read_model(folder)
    except TrainerError as error:
        raise RhymesError(str(error)) from None
    if not export.read_settings(folder).get("reverse"):
        raise RhymesError(f"the LSTM in {folder} was not trained backwards: `python rhymes.py train` does that")
    level, known = tokens.level_of(vocabulary), set(vocabulary)
    numbers = np.random.default_rng(chance.getrandbits(64))

    def line(end: str, below: str) -> str:
        read = [
            token for token in tokens.spelt(tokens.split(f"{end}\n{below[:MEMORY]}", level), known) if token in known
        ]
        written = generate.generate(weights, vocabulary, read[::-1], LETTERS, temperature, numbers)
        start = list(takewhile(lambda token: token != "\n", written))
        return "".join(reversed(start)) + end if len(start) < LETTERS else ""

    return line


# -- files, options


def read_text(source: Path) -> str:
    """As the trainer reads it: a file, or a folder's input.txt, or else all its .txt files."""
    trainer_folder()
    from trainer import TrainerError, data

    try:
        return data.read_text(source).text
    except TrainerError as error:
        raise RhymesError(str(error)) from None


def trainer_folder() -> Path:
    """Where the package `trainer` is: in every run of remoterun; elsewhere in its repository, two folders up."""
    found = importlib.util.find_spec("trainer")
    if found is None:
        sys.path.append(str(Path(__file__).resolve().parents[2]))
        found = importlib.util.find_spec("trainer")
    if found is None or found.origin is None:
        raise RhymesError("there is no package `trainer` here: put `remoterun run` in front, or set PYTHONPATH to it")
    return Path(found.origin).parents[1]


def read_rhymes(path: Path) -> dict[str, list[Entry]]:
    stored = read_json(path)
    if stored.get("format") != FORMAT:
        raise RhymesError(f"{path} has format {stored.get('format')}, this program reads {FORMAT}: train again")
    groups: dict[str, list[Entry]] = stored["groups"]
    return groups


def read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RhymesError(
            f"there is no {path}: make it with `python rhymes.py train`, or name its folder with --models"
        )
    except (OSError, ValueError) as error:
        raise RhymesError(f"{path} can't be read: {error}")
    return value


def write_json(path: Path, value: object) -> None:
    from trainer.files import write_whole

    write_whole(path, lambda file: file.write(json.dumps(value, ensure_ascii=False).encode("utf-8")))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rhyming couplets by models that have learned a text backwards.")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="train|write")
    train = tasks.add_parser("train", help="make the models from a text")
    train.add_argument("--data", type=Path, default=Path("data"), help="the text, or its folder (default: %(default)s)")
    train.add_argument("--out", type=Path, default=Path("models"), help="folder for all of it (default: %(default)s)")
    train.add_argument("--no-lstm", action="store_true", help="only the Markov chain, which takes a second")
    train.add_argument("trainer", nargs="*", metavar="-- OPTION", help="options of `python -m trainer.train`")
    write = tasks.add_parser("write", help="write couplets")
    write.add_argument("--models", type=Path, default=Path("models"), help="what `train` made (default: %(default)s)")
    write.add_argument("--model", choices=("markov", "lstm"), default="lstm", help="who writes (default: %(default)s)")
    write.add_argument("--couplets", type=whole, default=4, help="how many (default: %(default)s)")
    write.add_argument(
        "--temperature", type=above_zero, default=0.6, help="of the LSTM: higher is more random (default: %(default)s)"
    )
    write.add_argument("--seed", type=whole, help="the same number writes the same couplets")
    return parser.parse_args()


def whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


whole.__name__, above_zero.__name__ = "whole number", "number"  # for argparse's errors


if __name__ == "__main__":
    sys.exit(main())
