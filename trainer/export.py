"""The model as ml5.js reads it: one file of raw numbers per weight, a manifest and a vocabulary.

    models/manifest.json     {"embedding": {"filename": "step-00000300-5be1c0de-embedding", "shape": [67, 128]}, …}
    models/vocab.json        {"a": 4, …}
    models/settings.json     what generate.py and people want to know besides; ml5.js does not read it
    models/step-…            little-endian 32-bit floats, no header

A reader at any moment, also one who copies file by file, finds one model and no mixture of two. The names of the
weights' files hold the step and a digest of all weights, so a name never gets another content; the manifest names them,
and is replaced last, a second later, in one move; the files of the model before it stay until the one after it. The
second is for copies: who lists the folder before the manifest changes and reads the manifest after that, has the new
files on the list.

The keys of the manifest are the names that TensorFlow 1 gave the variables of ml5's own training script; ml5.js finds
out what is a kernel, a bias or a cell, and which one, from them. The trainer uses them throughout.
NumPy only: `generate.py` starts in a moment because of it.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import TrainerError, ml5, tokens
from trainer.files import write_whole

Floats = NDArray[np.float32]

EMBEDDING = "embedding"
SOFTMAX_W = "rnnlm/softmax_w"
SOFTMAX_B = "rnnlm/softmax_b"
LEARNING_RATE = "Variable"

SETTLE = 1.0  # seconds between the last file of a model and its manifest

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
    vocabulary: list[str],
    *,
    learning_rate: float,
    largest_logits: tuple[float, float],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write or replace the model in `folder`, at once. The arguments are those of `ModelFolder.stage`."""
    models = ModelFolder(folder)
    models.stage(
        weights, vocabulary, learning_rate=learning_rate, largest_logits=largest_logits, settings=settings or {}
    )
    models.close()


class ModelFolder:
    """A folder whose model is replaced again and again, while others read it. One writer at a time."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._staged: _Staged | None = None

    def stage(
        self,
        weights: Mapping[str, Floats],
        vocabulary: list[str],
        *,
        learning_rate: float,
        largest_logits: tuple[float, float],
        settings: Mapping[str, Any],
    ) -> None:
        """Write the next model's files, which nothing names yet; what was staged before is published first.

        `largest_logits`: over some predictions, the smallest and the largest value of the winning logit.
        `settings` are for settings.json; of them, `step` gives the files their names.
        """
        self.publish()
        softmax_b = weights[SOFTMAX_B] - np.float32(ml5.shift(largest_logits))
        tensors = {
            LEARNING_RATE: np.array(learning_rate, np.float32),
            **_for_ml5({**weights, SOFTMAX_B: softmax_b}, vocabulary),
        }
        contents = {name: np.asarray(tensor, dtype="<f4").tobytes() for name, tensor in tensors.items()}
        digest = hashlib.sha256()
        for content in contents.values():
            digest.update(content)
        model = f"step-{settings.get('step', 0):08d}-{digest.hexdigest()[:8]}"
        manifest: dict[str, dict[str, Any]] = {
            name: {"filename": f"{model}-{_filename(name)}", "shape": list(tensor.shape)}
            for name, tensor in tensors.items()
        }
        for name, content in contents.items():
            _write(self._folder / manifest[name]["filename"], content)
        self._staged = _Staged(model, manifest, vocabulary, settings, self._clock())

    def tick(self) -> None:
        """Publish what was staged a second ago or earlier. To be called often."""
        if self._staged and self._clock() - self._staged.since >= SETTLE:
            self.publish()

    def publish(self) -> None:
        """Let the manifest name what was staged, if anything was. Removes all models but this and the one before."""
        if self._staged:
            model, self._staged = self._staged, None
            before = self._replace(model)
            self._remove_all_but({model.name, before})

    def close(self) -> None:
        """Publish what was staged, and leave no other model's files."""
        self.publish()
        self._remove_all_but({_model_of(self._manifest())})

    def _replace(self, model: "_Staged") -> str:
        """Gives the name of the model before. Where old and new files can't go together (another vocabulary), the old
        manifest goes first: a reader finds no model rather than a mixed one."""
        before = self._manifest()
        vocab = {token: place for place, token in enumerate(model.vocabulary)}
        if _read_json(self._folder / "vocab.json") != vocab or _turned(read_settings(self._folder), model.settings):
            (self._folder / "manifest.json").unlink(missing_ok=True)
            _write(self._folder / "vocab.json", _json(vocab))
        _write(self._folder / "settings.json", _json(model.settings))
        _write(self._folder / "manifest.json", _json(model.manifest))
        return _model_of(before)

    def _remove_all_but(self, models: Collection[str]) -> None:
        """Of files that this trainer names, also those that it did not finish."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            if (match := _WEIGHTS_FILE.match(path.name)) and match[1] not in models:
                path.unlink(missing_ok=True)

    def _manifest(self) -> dict[str, Any]:
        return _read_json(self._folder / "manifest.json")


@dataclass(frozen=True)
class _Staged:
    """A model whose files are there and that the manifest does not name yet. `since`: on the monotonic clock."""

    name: str
    manifest: Mapping[str, Any]
    vocabulary: list[str]
    settings: Mapping[str, Any]
    since: float


def read_model(folder: Path) -> tuple[dict[str, Floats], list[str]]:
    """The weights and the vocabulary of a model in ml5's format; a token's place is its id.

    Raises TrainerError if there is none, or half of one.
    """
    if not (folder / "manifest.json").is_file():
        raise TrainerError(f"{folder} holds no model (no manifest.json): train one with `python -m trainer.train`")
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
        weights = {name: _read_weights(folder, entry) for name, entry in manifest.items()}
        vocabulary = sorted(vocab, key=vocab.__getitem__)
        missing = {EMBEDDING, SOFTMAX_W, SOFTMAX_B, *names(cell_of(weights) or CELLS[0], 0)} - weights.keys()
        if missing:
            raise TrainerError(f"{folder} is not a whole model: manifest.json lacks {', '.join(sorted(missing))}")
        if len(vocabulary) != len(weights[EMBEDDING]):
            raise TrainerError(
                f"{folder} is not a whole model: {len(vocabulary)} characters in vocab.json,"
                f" {len(weights[EMBEDDING])} in the network"
            )
    except FileNotFoundError as error:
        raise TrainerError(
            f"{folder} is not a whole model: {Path(error.filename).name} is missing; if it was copied while a training"
            f" replaced it, copy it again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainerError(f"{folder} is not a whole model: {error}") from error
    return weights, vocabulary


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings.json of a model; {} if it has none."""
    return _read_json(folder / "settings.json")


def _read_weights(folder: Path, entry: Mapping[str, Any]) -> Floats:
    content = (folder / Path(entry["filename"]).name).read_bytes()
    return np.frombuffer(content, dtype="<f4").reshape(entry["shape"])


def _for_ml5(weights: dict[str, Floats], vocabulary: list[str]) -> dict[str, Floats]:
    """One LSTM layer as two, where ml5.js can use it; others as they are."""
    cell, layers, level, size = cell_of(weights), count_layers(weights), tokens.level_of(vocabulary), len(vocabulary)
    if layers != 1 or ml5.why_not(cell, layers, level, size):
        return weights
    (first_kernel, first_bias), (second_kernel, second_bias) = names("lstm", 0), names("lstm", 1)
    kernel, bias = ml5.one_hot_cell(size)
    return {
        EMBEDDING: np.eye(size, dtype=np.float32),
        first_kernel: kernel,
        first_bias: bias,
        second_kernel: ml5.after_one_hot(weights[EMBEDDING], weights[first_kernel]),
        second_bias: weights[first_bias],
        SOFTMAX_W: weights[SOFTMAX_W],
        SOFTMAX_B: weights[SOFTMAX_B],
    }


_WEIGHTS_FILE = re.compile(r"\.?(step-\d{8,}-[0-9a-f]{8})-")


def _model_of(manifest: Mapping[str, Any]) -> str:
    """The prefix that a model's file names share; "" where there is no model of this trainer."""
    try:
        match = _WEIGHTS_FILE.match(manifest[EMBEDDING]["filename"])
    except (KeyError, TypeError):
        return ""
    return match[1] if match else ""


def _turned(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether one model reads backwards and the other doesn't."""
    return bool(before.get("reverse")) != bool(now.get("reverse"))


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda file: file.write(content))


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
