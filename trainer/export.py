"""The model as ml5.js reads it: one file of raw numbers per weight, a manifest and a vocabulary.

    models/manifest.json     {"embedding": {"filename": "embedding", "shape": [67, 128]}, …}
    models/vocab.json        {"a": 4, …}
    models/embedding …       little-endian 32-bit floats, no header

These are the names that TensorFlow 1 gave the variables of ml5's own training script; ml5.js finds out
what is a kernel, a bias or a cell, and which one, from them. The trainer uses them throughout.
NumPy only: `generate.py` starts in a moment because of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import TrainerError
from trainer.files import write_whole

Floats = NDArray[np.float32]

EMBEDDING = "embedding"
SOFTMAX_W = "rnnlm/softmax_w"
SOFTMAX_B = "rnnlm/softmax_b"
LEARNING_RATE = "Variable"

# The only depth at which ml5.js is right: it always takes the output of the second layer.
ML5_LAYERS = 2


CELLS = ("lstm", "gru", "rnn")


def names(cell: str, layer: int) -> tuple[str, ...]:
    """The keys of one layer's weights, a kernel before its bias.

    lstm    kernel [input + hidden, 4 * hidden], gates in the order i, j, f, o, and bias [4 * hidden]; the forget
            gate's 1.0 is added by the cell, not stored
    gru     the gates' kernel [input + hidden, 2 * hidden], reset before update, and bias [2 * hidden]; the
            candidate's kernel [input + hidden, hidden] and bias [hidden]
    rnn     kernel [input + hidden, hidden] and bias [hidden]
    """
    here = f"rnnlm/multi_rnn_cell/cell_{layer}"
    if cell == "gru":
        return tuple(f"{here}/gru_cell/{part}/{kind}" for part in ("gates", "candidate") for kind in ("kernel", "bias"))
    own = {"lstm": "basic_lstm_cell", "rnn": "basic_rnn_cell"}[cell]
    return f"{here}/{own}/kernel", f"{here}/{own}/bias"


def cell_of(weights: Mapping[str, object]) -> str:
    """Which of `CELLS` a network is made of; "" if it has no layer."""
    return next((cell for cell in CELLS if names(cell, 0)[0] in weights), "")


def count_layers(weights: Mapping[str, object]) -> int:
    cell, layer = cell_of(weights) or CELLS[0], 0
    while names(cell, layer)[0] in weights:
        layer += 1
    return layer


def write_model(
    folder: Path,
    weights: Mapping[str, Floats],
    characters: list[str],
    *,
    learning_rate: float,
    largest_logits: tuple[float, float],
) -> None:
    """Write or replace the model in `folder`. May be repeated, and read from at any moment.

    Every file is replaced in one move. Where old and new files do not fit together (another size, another
    vocabulary), the old manifest goes first and the new one comes last: a reader finds no model rather
    than a mixed one.

    `largest_logits`: over some predictions, the smallest and the largest value of the winning logit.
    """
    softmax_b = weights[SOFTMAX_B] - np.float32(_shift(largest_logits))
    tensors = {LEARNING_RATE: np.array(learning_rate, np.float32), **weights, SOFTMAX_B: softmax_b}
    manifest = {name: {"filename": _filename(name), "shape": list(tensor.shape)} for name, tensor in tensors.items()}
    vocab = {character: place for place, character in enumerate(characters)}

    manifest_path, vocab_path = folder / "manifest.json", folder / "vocab.json"
    old_manifest = _read_json(manifest_path)
    if old_manifest != manifest or _read_json(vocab_path) != vocab:
        manifest_path.unlink(missing_ok=True)
    for name, tensor in tensors.items():
        content = np.asarray(tensor, dtype="<f4").tobytes()
        write_whole(folder / _filename(name), lambda file, content=content: file.write(content))  # type: ignore[misc]
    write_whole(vocab_path, lambda file: file.write(_json(vocab)))
    write_whole(manifest_path, lambda file: file.write(_json(manifest)))
    for name in old_manifest:
        if name not in manifest:  # a layer the model no longer has
            (folder / _filename(name)).unlink(missing_ok=True)


def read_model(folder: Path) -> tuple[dict[str, Floats], list[str]]:
    """The weights and characters of a model in ml5's format. Raises TrainerError if there is none, or half of one."""
    if not (folder / "manifest.json").is_file():
        raise TrainerError(f"{folder} holds no model (no manifest.json): train one with `python -m trainer.train`")
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
        weights = {
            name: np.frombuffer((folder / Path(entry["filename"]).name).read_bytes(), dtype="<f4").reshape(
                entry["shape"]
            )
            for name, entry in manifest.items()
        }
        characters = sorted(vocab, key=vocab.__getitem__)
        missing = {EMBEDDING, SOFTMAX_W, SOFTMAX_B, *names(cell_of(weights) or CELLS[0], 0)} - weights.keys()
        if missing:
            raise TrainerError(f"{folder} is not a whole model: manifest.json lacks {', '.join(sorted(missing))}")
        if len(characters) != len(weights[EMBEDDING]):
            raise TrainerError(
                f"{folder} is not a whole model: {len(characters)} characters in vocab.json,"
                f" {len(weights[EMBEDDING])} in the network"
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainerError(f"{folder} is not a whole model: {error}") from error
    return weights, characters


def _shift(largest_logits: tuple[float, float]) -> float:
    """What to take off every logit, so that ml5.js's numbers stay in range.

    ml5.js takes exp(logit / temperature) in 32-bit floats, which is infinite from 88.7 up: at temperature
    0.1 a logit of 9 is too large, and common. A constant changes no probability; this one puts the winning
    logits around zero, so that neither the largest overflow nor the smallest vanish.
    """
    smallest, largest = largest_logits
    return (smallest + largest) / 2


def _filename(name: str) -> str:
    kept = name.replace("/", "_")
    return "".join(character for character in kept if character.isalnum() or character == "_")


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode("ascii")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
