"""Write text with a trained model: the network in NumPy alone, so that it starts in a moment.

python -m trainer.generate models --seed "The " --length 500 --temperature 0.5
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer import TrainerError, export
from trainer.export import EMBEDDING, SOFTMAX_B, SOFTMAX_W, Floats


class Reader:
    """The network with its state: reads one character at a time, says what may come next."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = weights
        self._layers = export.count_layers(weights)
        hidden = weights[SOFTMAX_W].shape[0]
        self._c = [np.zeros(hidden, np.float32)] * self._layers
        self._h = [np.zeros(hidden, np.float32)] * self._layers

    def read(self, character: int) -> Floats:
        """The logits of the character after this one, [vocab]."""
        output: Floats = self._weights[EMBEDDING][character]
        for layer in range(self._layers):
            kernel, bias = (self._weights[name] for name in export.names("lstm", layer))
            i, j, f, o = np.split(np.concatenate([output, self._h[layer]]) @ kernel + bias, 4)
            self._c[layer] = _sigmoid(f + 1) * self._c[layer] + _sigmoid(i) * np.tanh(j)
            self._h[layer] = output = _sigmoid(o) * np.tanh(self._c[layer])
        logits: Floats = output @ self._weights[SOFTMAX_W] + self._weights[SOFTMAX_B]
        return logits


def generate(
    weights: Mapping[str, Floats],
    characters: list[str],
    seed: str,
    length: int,
    temperature: float,
    random: np.random.Generator,
) -> Iterator[str]:
    """Yield `length` characters that follow `seed`, which has at least one, all of them in `characters`.

    The higher the temperature, the more random; at 0 always the likeliest character.
    """
    ids = {character: place for place, character in enumerate(characters)}
    reader = Reader(weights)
    for character in seed[:-1]:
        reader.read(ids[character])
    following = ids[seed[-1]]
    for _ in range(length):
        logits = reader.read(following)
        following = _choose(logits, temperature, random)
        yield characters[following]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.generate",
        description="Write text with a trained model. The seed and what follows it go to stdout.",
        allow_abbrev=False,
    )
    parser.add_argument("models", type=Path, metavar="MODELS", help="folder with manifest.json")
    parser.add_argument("--seed", help="text to go on from (default: the start of a line)")
    parser.add_argument("--length", type=_count, default=400, help="characters to write (default: %(default)s)")
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.5,
        help="higher: more random; 0: always the likeliest (default: %(default)s)",
    )
    parser.add_argument("--random-seed", type=_count, help="the same number writes the same text")
    options = parser.parse_args(arguments)
    try:
        weights, characters = export.read_model(options.models)
        seed = _known(options.seed, characters)
        random = np.random.default_rng(options.random_seed)
        sys.stdout.write(seed)
        for character in generate(weights, characters, seed, options.length, options.temperature, random):
            sys.stdout.write(character)
            sys.stdout.flush()
        print()
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def _sigmoid(x: Floats) -> Floats:
    squashed: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return squashed


def _choose(logits: Floats, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    scores = (logits.astype(np.float64) - np.max(logits)) / temperature
    probabilities = np.exp(scores)
    return int(random.choice(len(logits), p=probabilities / probabilities.sum()))


def _known(seed: str | None, characters: list[str]) -> str:
    """The seed without the characters the model has never seen; says so if there are any."""
    start = "\n" if "\n" in characters else characters[0]
    if not seed:
        return start
    unknown = sorted(set(seed) - set(characters))
    if unknown:
        shown = " ".join(repr(character) for character in unknown)
        print(f"warning: left out of the seed, as the model does not know them: {shown}", file=sys.stderr)
    return "".join(character for character in seed if character in characters) or start


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


if __name__ == "__main__":
    sys.exit(main())
