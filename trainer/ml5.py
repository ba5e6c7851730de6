"""What ml5.js can load, and how it gets more than it was made for.

ml5.js's charRNN computes LSTM cells, takes the output of the second one whatever there is, and looks characters up in
the vocabulary. So it reads two layers of LSTM cells as they stand; one layer gets a first cell that does nothing
(`one_hot_cell`); the rest it can't use, and `why_not` says so.
NumPy only.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LAYERS = 2
MOST_ONE_HOT = 512  # characters: the cell's kernel has 8 times their square

OPEN, SHUT = 30.0, -40.0  # sigmoid(30) and tanh(30) are 1 in 32-bit floats; sigmoid(-40 + 1) is 1e-17


def why_not(cell: str, layers: int, level: str, vocabulary_size: int) -> str | None:
    """Why ml5.js can't use such a model; None if it can."""
    if cell != "lstm":
        return f"it computes LSTM cells, this model has {cell.upper()} cells"
    if level != "char":
        return f"it reads and writes characters, this model has {level}s"
    if layers > LAYERS:
        return f"it takes the output of the second layer, this model has {layers}"
    if layers < LAYERS and vocabulary_size > MOST_ONE_HOT:
        return (
            f"a model of one layer can have {MOST_ONE_HOT} different characters there, this one has {vocabulary_size}"
        )
    return None


def one_hot_cell(size: int) -> tuple[Floats, Floats]:
    """Kernel and bias of an LSTM cell whose output is tanh(1) times its input, a one-hot code of `size`.

    It forgets what it had, and lets all of tanh(30 * input) in and out. Up to rounding this is exact; it needs no
    small numbers, which would cost the next cell its digits.
    """
    kernel = np.zeros((2 * size, 4 * size), np.float32)
    kernel[:size, size : 2 * size] = OPEN * np.eye(size, dtype=np.float32)
    i, j, f, o = OPEN, 0.0, SHUT, OPEN
    return kernel, np.repeat(np.array([i, j, f, o], np.float32), size)


def after_one_hot(embedding: Floats, kernel: Floats) -> Floats:
    """The kernel of a layer that reads the output of `one_hot_cell` where it read `embedding` before."""
    width = embedding.shape[1]
    table = embedding.astype(np.float64) @ kernel[:width].astype(np.float64) / np.tanh(1.0)
    return np.concatenate([table.astype(np.float32), kernel[width:]])


def shift(largest_logits: tuple[float, float]) -> float:
    """What to take off every logit, so that ml5.js's numbers stay in range.

    ml5.js takes exp(logit / temperature) in 32-bit floats, which is infinite from 88.7 up: at temperature
    0.1 a logit of 9 is too large, and common. A constant changes no probability; this one puts the winning
    logits around zero, so that neither the largest overflow nor the smallest vanish.

    `largest_logits`: over some predictions, the smallest and the largest value of the winning logit.
    """
    smallest, largest = largest_logits
    return (smallest + largest) / 2
