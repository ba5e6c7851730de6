"""Models as the trainer writes them, and what their network says, without a training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from remoterun.model_page import libraries
from trainer import export
from trainer.generate import Reader
from trainer.progress import Metrics


def some_weights(hidden: int = 3, vocab: int = 4, layers: int = 2, cell: str = "lstm") -> dict[str, export.Floats]:
    """Of any network, drawn at random."""
    random = np.random.default_rng(0)
    columns = {"lstm": (4 * hidden,), "gru": (2 * hidden, hidden), "rnn": (hidden,)}[cell]
    shapes: dict[str, tuple[int, ...]] = {export.EMBEDDING: (vocab, hidden)}
    for layer in range(layers):
        names = export.names(cell, layer)
        for kernel, bias, width in zip(names[::2], names[1::2], columns, strict=True):
            shapes[kernel] = (2 * hidden, width)
            shapes[bias] = (width,)
    shapes |= {export.SOFTMAX_W: (hidden, vocab), export.SOFTMAX_B: (vocab,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, weights: dict[str, export.Floats], characters: str = "abc\n", **settings: Any) -> None:
    export.write_model(
        folder, weights, list(characters), learning_rate=0.002, largest_logits=(2.0, 16.0), settings=settings
    )


def probabilities(weights: dict[str, export.Floats], ids: list[int], temperature: float = 1) -> Any:
    """By the plain network, after each of `ids`."""
    reader = Reader(weights)
    logits = np.array([reader.read(place) for place in ids], np.float64) / temperature
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def write_model(folder: Path, *weights: str, settings: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in weights:
        (folder / name).write_bytes(b"1234")
    (folder / "vocab.json").write_text("{}")
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "manifest.json").write_text(json.dumps({name: {"filename": name, "shape": [1]} for name in weights}))
    return folder


def a_training(path: Path, validation: bool = True) -> Path:
    metrics = Metrics(path, 0, 0)
    for step in range(1, 301):
        metrics.write(step, {"train_loss": 1.2 + 3 / step**0.5 + 0.05 * math.sin(step), "bpc": 1.0})
        if validation and step % 50 == 0:
            metrics.write(step, {"val_loss": 1.4 + 3 / step**0.5 + max(0, step - 200) / 400})
    return path


def lend_libraries(home: Path, to: Path) -> None:
    (to / "page").mkdir(parents=True)
    (to / "page" / libraries(home).name).symlink_to(libraries(home))
