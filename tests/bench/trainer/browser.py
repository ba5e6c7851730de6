"""The same probabilities everywhere, and cold text without a wrong character, in the real ml5.js."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import browser
from tests.bench.table import Row, at_most
from tests.bench.trainer import place
from tests.bench.trainer.once import run
from tests.bench.trainer.place import Unavailable
from trainer import export, generate

BACKENDS = ("webgl", "cpu")
LARGEST_DIFFERENCE = 1e-5
SEED_CHARACTERS = 120  # of the text's end, which was not learned from

TEMPERATURES = (1.0, 0.5, 0.3, 0.2, 0.15, 0.1)
CHARACTERS = 500
IMPOSSIBLE = 1e-9  # a drawn character less likely than this was not drawn from these probabilities
WRONG = 1e-3  # a probability this far from the exact one comes from numbers out of range, not from rounding

Floats = NDArray[np.float64]


def missing() -> str | None:
    """Why ml5.js can't be run here."""
    return browser.missing() or browser.missing_npm()


def same_probabilities(trained: Callable[[], Path]) -> tuple[Row, dict[str, float]]:
    """The largest difference between any two; and that of each two. `trained` gives the model, or is Unavailable."""
    what = f"next-character probabilities: TensorFlow, NumPy, ml5.js {' and '.join(BACKENDS)}; largest difference"
    bound = at_most(LARGEST_DIFFERENCE)
    if why := missing():
        return Row(what, "difference", bound, why=why), {}
    seed = place.text().read_text()[-SEED_CHARACTERS:]
    try:
        model = trained()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "tensorflow.npy"
            run("probabilities", str(model), seed, str(out))
            found: dict[str, Any] = {"TensorFlow": np.load(out), "NumPy": _numpy(model, seed)}
        with browser.Ml5() as ml5:
            for backend in BACKENDS:
                found[f"ml5.js {backend}"] = ml5.probabilities(model, seed, backend)
    except (Unavailable, AssertionError) as error:
        return Row(what, "difference", bound, why=str(error)), {}
    pairs = {
        f"{one}, {other}": float(np.max(np.abs(found[one].astype(np.float64) - found[other])))
        for one, other in combinations(found, 2)
    }
    return Row(what, "difference", bound, max(pairs.values())), pairs


def cold_text(trained: Callable[[], Path], characters: int = CHARACTERS) -> tuple[Row, dict[str, int]]:
    """Of all characters ml5.js writes at each temperature and backend: how many are wrong, missing or NaN."""
    what = f"ml5.js at {TEMPERATURES[0]:g} to {TEMPERATURES[-1]:g}: wrong of {characters} characters, worst"
    if why := missing():
        return Row(what, "count", at_most(0), why=why), {}
    seed = place.text().read_text()[-SEED_CHARACTERS:]
    counts: dict[str, int] = {}
    try:
        model = trained()
        weights, vocabulary = export.read_model(model)
        with browser.Ml5() as ml5:
            for backend in BACKENDS:
                for temperature in TEMPERATURES:
                    written = ml5.generate(model, seed, characters, temperature, backend)
                    counts[f"{backend} {temperature:g}"] = count_wrong(
                        weights, vocabulary, seed, temperature, written.characters, written.probabilities
                    )
                # Its own generate(), which leaves out characters it lost.
                text = ml5.text(model, seed, characters, TEMPERATURES[-1], backend)
                known = sum(character in vocabulary for character in text)
                counts[f"{backend} {TEMPERATURES[-1]:g}, generate()"] = characters - known
    except (Unavailable, AssertionError) as error:
        return Row(what, "count", at_most(0), why=str(error)), counts
    wrong = [f"{count} at {name}" for name, count in counts.items() if count]
    return Row(what, "count", at_most(0), max(counts.values()), why=", ".join(wrong)), counts


def count_wrong(
    weights: Mapping[str, Any], vocabulary: list[str], seed: str, temperature: float,
    characters: list[str | None], probabilities: NDArray[np.float32],
) -> int:  # fmt: skip
    """How many of `characters` are none of the vocabulary, impossible, or drawn from numbers that are not the model's.

    The model's own are computed in 64 bits, from the seed and what was really written; after a missing character there
    is nothing to compute from, and all that follow count.
    """
    exact = Exact(weights, temperature)
    ids = {character: place for place, character in enumerate(vocabulary)}
    for character in seed:
        expected = exact.read(ids[character])
    wrong = 0
    for number, (written, row) in enumerate(zip(characters, probabilities, strict=True)):
        if written is None or written not in ids:
            return wrong + len(characters) - number
        likely = expected[ids[written]] > IMPOSSIBLE
        if not likely or not np.all(np.abs(row - expected) < WRONG):  # a NaN is not below anything
            wrong += 1
        expected = exact.read(ids[written])
    return wrong


class Exact:
    """The network in 64-bit numbers, written apart from the trainer: probabilities at a temperature."""

    def __init__(self, weights: Mapping[str, Any], temperature: float) -> None:
        as_64 = {name: np.asarray(array, np.float64) for name, array in weights.items()}
        self._embedding = as_64[export.EMBEDDING]
        self._softmax = as_64[export.SOFTMAX_W], as_64[export.SOFTMAX_B]
        layers = range(export.count_layers(weights))
        self._layers = [tuple(as_64[name] for name in export.names("lstm", layer)) for layer in layers]
        hidden = len(self._softmax[0])
        self._c, self._h = ([np.zeros(hidden) for _ in layers] for _ in range(2))
        self._temperature = temperature

    def read(self, character: int) -> Floats:
        """Those of the character after this one, [vocab]."""
        x = self._embedding[character]
        for n, (kernel, bias) in enumerate(self._layers):
            i, j, f, o = np.split(np.concatenate([x, self._h[n]]) @ kernel + bias, 4)
            self._c[n] = self._c[n] / (1 + np.exp(-f - 1)) + np.tanh(j) / (1 + np.exp(-i))
            x = self._h[n] = np.tanh(self._c[n]) / (1 + np.exp(-o))
        logits = (x @ self._softmax[0] + self._softmax[1]) / self._temperature
        scores = np.exp(logits - np.max(logits))
        return np.asarray(scores / scores.sum())


def _numpy(model: Path, text: str) -> Floats:
    """What `trainer.generate` computes."""
    weights, characters = export.read_model(model)
    reader = generate.Reader(weights)
    rows = []
    for character in text:
        logits = reader.read(characters.index(character)).astype(np.float64)
        scores = np.exp(logits - np.max(logits))
        rows.append(scores / scores.sum())
    return np.array(rows)
