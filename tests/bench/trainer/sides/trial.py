"""`trainer.train` with its first weights drawn in another way: `trial KIND FLAG…`.

frequencies    as they are: Glorot's, and the characters' frequencies for the first guess
zero           all characters are as likely at first
uniform        from ± 0.08
orthogonal     the recurrent ones
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer import devices, train
from trainer.export import SOFTMAX_B, Floats

if TYPE_CHECKING:
    from trainer.model import Hyperparameters

RANGE = 0.08


def main() -> int:
    kind, *flags = sys.argv[1:]
    devices.import_tensorflow()
    from trainer import model as network

    glorot = network.new_weights

    def drawn(vocab_size: int, hyper: Hyperparameters, ids: NDArray[np.int32] | None = None) -> dict[str, Floats]:
        random = np.random.default_rng(hyper.seed)
        weights = glorot(vocab_size, hyper, ids)
        for name, array in weights.items():
            if kind == "zero" and name == SOFTMAX_B:
                array[:] = 0.0
            elif kind == "uniform" and array.ndim == 2:
                weights[name] = random.uniform(-RANGE, RANGE, array.shape).astype(np.float32)
            elif kind == "orthogonal" and name.endswith("kernel"):
                size = hyper.rnn_size
                for gate in range(array.shape[1] // size):
                    q, r = np.linalg.qr(random.standard_normal((size, size)))
                    array[-size:, gate * size : (gate + 1) * size] = q * np.sign(np.diag(r))
        return weights

    network.new_weights = drawn
    return train.main(flags)


if __name__ == "__main__":
    sys.exit(main())
