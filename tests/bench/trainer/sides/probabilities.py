"""The trainer's network in TensorFlow, with an exported model's weights: after each character, of the next one.

Not a racing side: `probabilities MODEL TEXT OUT` writes float32 [len(TEXT), vocab] to OUT, a .npy file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from trainer import devices, export


def main() -> None:
    folder, text, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    weights, characters = export.read_model(folder)
    tf = devices.import_tensorflow()
    devices.use_devices(tf, 1, 1)
    from trainer import model as network

    hyper = network.Hyperparameters(
        cell=export.cell_of(weights),
        rnn_size=weights[export.SOFTMAX_W].shape[0],
        num_layers=export.count_layers(weights),
        batch_size=1,
        grad_clip=1.0,
        input_keep_prob=1.0,
        output_keep_prob=1.0,
        seed=1,
    )
    ids = tf.constant([[characters.index(character) for character in text]])
    forward = tf.function(network.forward, jit_compile=True, autograph=False)
    tensors = {name: tf.constant(array) for name, array in weights.items()}
    logits, _ = forward(tensors, ids, network.zero_state(1, hyper))
    np.save(out, tf.nn.softmax(logits[:, 0]).numpy())


if __name__ == "__main__":
    main()
