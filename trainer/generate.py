"""Write text with a trained model: the network in NumPy alone, so that it starts in a moment.

python -m trainer.generate models --seed "The " --length 500 --temperature 0.5
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer import TrainerError, export, tokens
from trainer.export import EMBEDDING, SOFTMAX_B, SOFTMAX_W, Floats
from trainer.flags import Parser
from trainer.progress import WIDTH

UNITS = ("char", "word", "line", "sentence")
PATIENCE = 1000  # characters to wait for the end of a unit
TEMPERATURE = 0.5
SAMPLE = 300
NEAR = 8  # characters beside a place that show whether a unit ends there


class Reader:
    """The network with its state: reads one token at a time, says what may come next. Any of export.CELLS."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._embedding, self._softmax = weights[EMBEDDING], (weights[SOFTMAX_W], weights[SOFTMAX_B])
        cell = export.cell_of(weights)
        self._layers = [
            _LAYERS[cell](*(weights[name] for name in export.names(cell, layer)))
            for layer in range(export.count_layers(weights))
        ]

    def read(self, token: int) -> Floats:
        """The logits of the token after this one, [vocab]."""
        output: Floats = self._embedding[token]
        for layer in self._layers:
            output = layer.read(output)
        kernel, bias = self._softmax
        logits: Floats = output @ kernel + bias
        return logits


def generate(
    weights: Mapping[str, Floats],
    vocabulary: list[str],
    seed: Sequence[str],
    length: int | None,
    temperature: float,
    random: np.random.Generator,
) -> Iterator[str]:
    """Yield `length` tokens that follow `seed`, or tokens without end for None.

    `seed` has at least one, all of them in `vocabulary`; a string is a sequence of characters. A model that has learned
    a text backwards takes it, and gives what it writes, backwards. The higher the temperature, the more random; at 0
    always the likeliest.
    """
    ids = {token: place for place, token in enumerate(vocabulary)}
    reader = Reader(weights)
    for token in seed[:-1]:
        reader.read(ids[token])
    following = ids[seed[-1]]
    while length is None or length > 0:
        following = _choose(reader.read(following), temperature, random)
        yield vocabulary[following]
        length = None if length is None else length - 1


def until(written: Iterable[str], length: int, unit: str, *, seed: str = "", reverse: bool = False) -> Iterator[str]:
    """Of the tokens `written` after `seed`, at least `length` characters, then up to the end of the `unit` they are in.

    `reverse`: they are written backwards, so it is the unit's beginning; tokens come as they are, not turned round.
    A unit that does not end within `PATIENCE` characters is cut off there.
    """
    count, near = 0, seed[:NEAR] if reverse else seed[-NEAR:]
    for token in written:
        before, after = (token, near) if reverse else (near, token)
        if count >= length and (_between(before, after, unit) or count >= length + PATIENCE):
            return
        if unit == "char":
            left = length - count
            token = token[-left:] if reverse else token[:left]
        yield token
        count += len(token)
        near = (token + near)[:NEAR] if reverse else (near + token)[-NEAR:]


def sample(weights: Mapping[str, Floats], vocabulary: list[str], *, reverse: bool) -> str:
    """What the model writes by itself, `SAMPLE` characters, by the same random numbers each time."""
    start, random = [_line_start(vocabulary)], np.random.default_rng(SAMPLE)
    made = list(until(generate(weights, vocabulary, start, None, TEMPERATURE, random), SAMPLE, "char", reverse=reverse))
    return "".join(reversed(made) if reverse else made)


def shown(text: str) -> str:
    """A sample as a line of the trainer's log, with `/` between its lines; of blanks alone, how many."""
    if text.isspace():
        ends, tabs = text.count("\n"), text.count("\t")
        counts = {"space": len(text) - ends - tabs, "tab": tabs, "line end": ends}
        said = [f"{count} {noun}{'s' if count > 1 else ''}" for noun, count in counts.items() if count]
        return f"sample: ({', '.join(said)})"
    lines = " / ".join(line.strip() for line in text.splitlines() if line.strip())
    return f"sample: {''.join(each if each.isprintable() else ' ' for each in lines)}"[:WIDTH]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 for what the user can mend; 130 after ^C."""
    options = _parse(arguments)
    try:
        weights, vocabulary = export.read_model(options.models)
        reverse = options.reverse or bool(export.read_settings(options.models).get("reverse"))
        seed = _known(options.seed or "", vocabulary)
        start = (seed[::-1] if reverse else seed) or [_line_start(vocabulary)]
        random = np.random.default_rng(options.random_seed)
        endless = generate(weights, vocabulary, start, None, options.temperature, random)
        shown = "".join(seed)
        written = until(endless, options.length, options.until, seed=shown, reverse=reverse)
        if reverse:
            made = "".join(list(written)[::-1])
            print(made if options.until == "char" else made.lstrip(), end=shown)
        else:
            print(shown, end="")
            blank = not shown.strip()
            for token in written:
                print(token, end="", flush=True)
                blank = blank and token.isspace()
            if blank:
                print(
                    "nothing but blanks: --seed TEXT begins with words, a higher --temperature varies", file=sys.stderr
                )
        print(flush=True)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print()
        return 130
    return 0


class _Lstm:
    def __init__(self, kernel: Floats, bias: Floats) -> None:
        self._kernel, self._bias = kernel, bias
        self._c = self._h = np.zeros(len(bias) // 4, np.float32)

    def read(self, x: Floats) -> Floats:
        i, j, f, o = np.split(np.concatenate([x, self._h]) @ self._kernel + self._bias, 4)
        self._c = _sigmoid(f + 1) * self._c + _sigmoid(i) * np.tanh(j)
        self._h = _sigmoid(o) * np.tanh(self._c)
        return self._h


class _Gru:
    def __init__(self, gates_kernel: Floats, gates_bias: Floats, kernel: Floats, bias: Floats) -> None:
        self._gates_kernel, self._gates_bias, self._kernel, self._bias = gates_kernel, gates_bias, kernel, bias
        self._h = np.zeros(len(bias), np.float32)

    def read(self, x: Floats) -> Floats:
        gates = _sigmoid(np.concatenate([x, self._h]) @ self._gates_kernel + self._gates_bias)
        reset, update = np.split(gates, 2)
        candidate = np.tanh(np.concatenate([x, reset * self._h]) @ self._kernel + self._bias)
        self._h = update * self._h + (1 - update) * candidate
        return self._h


class _Rnn:
    def __init__(self, kernel: Floats, bias: Floats) -> None:
        self._kernel, self._bias = kernel, bias
        self._h = np.zeros(len(bias), np.float32)

    def read(self, x: Floats) -> Floats:
        self._h = np.tanh(np.concatenate([x, self._h]) @ self._kernel + self._bias)
        return self._h


_LAYERS: dict[str, Callable[..., _Lstm | _Gru | _Rnn]] = {"lstm": _Lstm, "gru": _Gru, "rnn": _Rnn}


def _sigmoid(x: Floats) -> Floats:
    squashed: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return squashed


def _choose(logits: Floats, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    scores = (logits.astype(np.float64) - np.max(logits)) / temperature
    sums = np.cumsum(np.exp(scores))
    return min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(logits) - 1)


def _between(before: str, after: str, unit: str) -> bool:
    """Whether a unit ends between two pieces of text that follow each other."""
    if unit == "word":
        return not (_in_word(before[-1:]) and _in_word(after[:1]))
    if unit == "line":
        return before.endswith("\n") or after.startswith("\n")
    if unit == "sentence":
        paragraph = before.endswith("\n\n") or (before.endswith("\n") and after.startswith("\n"))
        blank = before[-1:].isspace() or after[:1].isspace()
        return paragraph or (blank and before.rstrip().rstrip("\"'”’»)]").endswith((".", "!", "?", "…")))
    return True


def _in_word(character: str) -> bool:
    return character.isalnum() or character in ("'", "’")


def _known(seed: str, vocabulary: list[str]) -> list[str]:
    """The seed's tokens, without the characters the model has never seen; says so if there are any."""
    known = set(vocabulary)
    seed_tokens = list(tokens.spelt(tokens.split(seed, tokens.level_of(vocabulary)), known))
    unknown = sorted(set(seed_tokens) - known)
    if unknown:
        shown = " ".join(repr(character) for character in unknown)
        print(f"warning: left out of the seed, as the model does not know them: {shown}", file=sys.stderr)
    return [token for token in seed_tokens if token in known]


def _line_start(vocabulary: list[str]) -> str:
    """The seed where none was given; it is not printed."""
    return "\n" if "\n" in vocabulary else vocabulary[0]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m trainer.generate",
        usage="%(prog)s MODELS [--seed TEXT] [OPTION ...]",
        description="Write text with a trained model. The seed and what follows it go to stdout.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("models", type=Path, metavar="MODELS", help="folder with manifest.json")
    add(
        "--seed",
        metavar="TEXT",
        help="text to go on from, or with --reverse the end to lead up to (default: the start of a line)",
    )
    add("--length", type=_count, metavar="N", default=400, help="characters to write (default: %(default)s)")
    add(
        "--temperature",
        type=_temperature,
        metavar="T",
        default=TEMPERATURE,
        help="higher: more random; 0: always the likeliest (default: %(default)s)",
    )
    add("--until", choices=UNITS, default="char", help="after --length, go on to the end of it (default: %(default)s)")
    add("--reverse", action="store_true", help="the model has learned backwards (known from its settings.json)")
    add("--random-seed", type=_count, metavar="N", help="the same number writes the same text")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _temperature(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or above")
    return number


_count.__name__, _temperature.__name__ = "whole number", "number"  # for argparse's errors


if __name__ == "__main__":
    sys.exit(main())
