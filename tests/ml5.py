"""What ml5.js 0.12 does with a model's folder, in NumPy; nothing of the trainer is used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Ml5:
    """`charRNN`: `model` as its loader fills it; every sum in 32 bits, as a graphics card has them."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.vocab = json.loads((folder / "vocab.json").read_text())
        self.kernels: dict[int, Array] = {}
        self.biases: dict[int, Array] = {}
        self.other: dict[str, Array] = {}
        for key, entry in manifest.items():
            raw = (folder / entry["filename"]).read_bytes()
            assert len(raw) % 4 == 0
            tensor = np.frombuffer(raw, "<f4").reshape(entry["shape"])
            weight = re.search(r"weights|weight|kernel|kernels|w", key, re.IGNORECASE)
            if re.search(r"cell_[0-9]|lstm_[0-9]", key, re.IGNORECASE):
                digit = re.search(r"[0-9]", key)
                assert digit
                (self.kernels if weight else self.biases)[int(digit[0])] = tensor
            elif "softmax" in key.lower():
                self.other["W" if weight else "b"] = tensor
            else:
                self.other[key] = tensor

    def probabilities(self, text: str, temperature: float) -> Array:
        """After each character of `text`, those of the next: [time, vocab]."""
        sizes = [len(self.biases[n]) // 4 for n in range(len(self.kernels))]
        c = [np.zeros(size, np.float32) for size in sizes]
        h = [np.zeros(size, np.float32) for size in sizes]
        rows = []
        for character in text:
            x = self.other["embedding"][self.vocab[character]]
            for n in range(len(sizes)):
                i, j, f, o = np.split(np.concatenate([x, h[n]]) @ self.kernels[n] + self.biases[n], 4)
                c[n] = sigmoid(i) * np.tanh(j) + c[n] * sigmoid(np.float32(1.0) + f)
                x = h[n] = np.tanh(c[n]) * sigmoid(o)
            logits = h[1] @ self.other["W"] + self.other["b"]
            scores = np.exp(logits / np.float32(temperature))  # no maximum taken off
            rows.append(scores / scores.sum())
        return np.array(rows)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))
