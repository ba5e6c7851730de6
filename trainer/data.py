"""The text: from files to tokens, from tokens to batches. A token is a character, or a word (tokens.py).

The text is cut into `batch_size` streams of equal length that are read side by side, `seq_length`
tokens a step, so that the state at the end of one batch is the right start for the next:

    stream 0   To be, or not | to be, that i | s the questio | …
    stream 1   Whether 'tis  | nobler in the |  mind to suff | …
               batch 0         batch 1         batch 2
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer import TrainerError, tokens

Ids = NDArray[np.int32]

VALIDATION_STREAM = 1000  # tokens that a stream of the validation text has at least: each starts with an empty memory

WORDS, LONGEST_SEED = 3, 30  # of `first_words`: how many, and their characters, as some languages have no spaces


@dataclass(frozen=True)
class Text:
    """The training text and where it was read."""

    text: str
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Batches:
    """One epoch: `inputs` and `targets` are [num_batches, batch_size, seq_length] ids of tokens."""

    inputs: Ids
    targets: Ids

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def batch_size(self) -> int:
        return int(self.inputs.shape[1])


def read_text(source: Path) -> Text:
    """Read a file, or a folder's `input.txt`, or all `.txt` files of a folder in the order of their names.

    Each of several files ends a line. Raises TrainerError for a missing path, a folder without text, bytes that are
    not UTF-8, and a text from which nothing can be learned.
    """
    files = _text_files(source)
    texts = [_read_file(file) for file in files]
    text = "".join(_ends_a_line(each) for each in texts) if len(files) > 1 else texts[0]
    named = str(files[0]) if len(files) == 1 else f"{source} ({len(files)} files)"
    if not text:
        raise TrainerError(f"{named} is empty: put the text to learn from in it")
    if len(set(text)) == 1:
        raise TrainerError(f"{named} holds nothing but {text[0]!r}: there is nothing to learn from one character")
    return Text(text, files)


def first_words(text: str, *, reverse: bool) -> str:
    """Words for a model to begin with: the first three of a line that is not indented, if there is one. A model that
    has learned backwards ends with them: they are the last three of that line."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if not line[0].isspace()), lines[0] if lines else "")
    words = line.split()
    return " ".join(words[-WORDS:])[-LONGEST_SEED:] if reverse else " ".join(words[:WORDS])[:LONGEST_SEED]


def vocabulary(text: str, level: str = "char") -> list[str]:
    """The tokens of `text`, the most frequent first; equally frequent ones in order of appearance.

    A token's place is its id.
    """
    if level == "word":
        return tokens.words_and_letters(text)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    values, first_seen, counts = np.unique(points, return_index=True, return_counts=True)
    return [chr(values[i]) for i in np.lexsort((first_seen, -counts))]


def encode(text: str, vocabulary: list[str]) -> Ids:
    """The ids of `text`'s tokens. Raises TrainerError for characters that are not in `vocabulary`."""
    if tokens.level_of(vocabulary) == "word":
        return _encode_words(text, vocabulary)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    known = np.array([ord(character) for character in vocabulary], dtype=np.uint32)
    by_point = np.argsort(known)
    place = np.searchsorted(known, points, sorter=by_point)
    ids: Ids = by_point[np.minimum(place, len(known) - 1)].astype(np.int32)
    unknown = np.unique(points[known[ids] != points])
    if len(unknown):
        raise _unknown([chr(point) for point in unknown])
    return ids


@dataclass(frozen=True)
class Material:
    """A text as the network gets it. `validation` is None where none is wanted, or the text is too short for it.

    The last two are how many characters a token has, on average: 1, or more if tokens are words.
    """

    batches: Batches
    validation: Batches | None
    characters_a_token: float
    characters_a_validation_token: float


def prepare(
    text: str, vocabulary: list[str], *, batch_size: int, seq_length: int, val_fraction: float = 0.0,
    reverse: bool = False,
) -> Material:  # fmt: skip
    """Cut `text` in what to learn from and the last `val_fraction` of it, to be tried on; and each into batches.

    `reverse`: both are read from their end. Raises TrainerError as `encode` and `make_batches` do.
    """
    rest = len(text) - int(len(text) * val_fraction)
    learned, tried = encode(text[:rest], vocabulary), encode(text[rest:], vocabulary)
    if min(len(learned), len(tried)) <= seq_length:
        learned, tried, rest = encode(text, vocabulary), learned[:0], len(text)
    if reverse:
        learned, tried = learned[::-1], tried[::-1]
    unit = "characters" if tokens.level_of(vocabulary) == "char" else "words and characters"
    return Material(
        make_batches(learned, batch_size, seq_length, unit),
        make_batches(tried, _validation_streams(tried, batch_size), seq_length) if len(tried) else None,
        rest / len(learned),
        (len(text) - rest) / max(1, len(tried)),
    )


def make_batches(ids: Ids, batch_size: int, seq_length: int, unit: str = "characters") -> Batches:
    """Cut `ids` into batches; what is left over at the end is not used. `unit`: what they are of, for people.

    A text too short for `batch_size` streams gets as many as it has sequences. Raises TrainerError for a
    text shorter than one sequence and the character after it.
    """
    if len(ids) <= seq_length:
        raise TrainerError(
            f"the text has {len(ids)} {unit}, one sequence needs {seq_length + 1}:"
            f" give more text, or a smaller --seq_length"
        )
    batch_size = min(batch_size, len(ids) // seq_length)
    num_batches = len(ids) // (batch_size * seq_length)
    used = num_batches * batch_size * seq_length
    following = np.append(ids, ids[0])[1 : used + 1]  # the last character of all is followed by the first

    def streams(stream_ids: Ids) -> Ids:
        side_by_side = stream_ids.reshape(batch_size, num_batches, seq_length)
        return np.ascontiguousarray(side_by_side.transpose(1, 0, 2))

    return Batches(streams(ids[:used]), streams(following))


def _validation_streams(ids: Ids, batch_size: int) -> int:
    return max(1, min(batch_size, len(ids) // VALIDATION_STREAM))


def _text_files(source: Path) -> tuple[Path, ...]:
    if source.is_file():
        return (source,)
    if not source.is_dir():
        raise TrainerError(
            f"{source} does not exist: name a folder that holds input.txt with --data_dir,"
            f" or a text file with --data_path"
        )
    if (source / "input.txt").is_file():
        return (source / "input.txt",)
    names = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    texts = tuple(source / name for name in names if name.endswith(".txt") and (source / name).is_file())
    if not texts:
        there = f"it holds {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "it is empty"
        raise TrainerError(f"{source} has no input.txt and no other .txt file ({there})")
    return texts


def _read_file(file: Path) -> str:
    content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        charset = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise TrainerError(
            f"{file} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} (line {line});"
            f" save it as UTF-8, or convert it with `iconv -f {charset} -t UTF-8 {file} > new.txt`"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _ends_a_line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _encode_words(text: str, vocabulary: list[str]) -> Ids:
    places = {token: place for place, token in enumerate(vocabulary)}
    spelt = list(tokens.spelt(tokens.split(text, "word"), places))
    unknown = set(spelt) - places.keys()
    if unknown:
        raise _unknown(sorted(unknown))
    return np.fromiter((places[token] for token in spelt), np.int32, len(spelt))


def _unknown(characters: list[str]) -> TrainerError:
    shown = " ".join(repr(character) for character in characters[:10])
    return TrainerError(f"the text has {len(characters)} characters the model does not know: {shown}")
