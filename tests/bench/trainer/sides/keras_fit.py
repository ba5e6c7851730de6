"""Keras as its guides have it: Embedding, LSTM layers with `stateful=True`, Dense, `fit`.

The batches come from a tf.data.Dataset: given NumPy arrays, `fit` stalls for up to five seconds at its end. XLA is off,
because with it `fit` is slower here (48,000 instead of 61,000 characters a second).
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from tests.bench.trainer.sides.lap import FIRST_STEPS, GRAD_CLIP, LEARNING_RATE, WARM_STEPS, serve, task

TASK = task()


class Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Times a lap by its batches: what `fit` does before the first and after the last is not counted."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last
        self.begun = self.ended = 0.0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch == WARM_STEPS - 1:
            self.begun = time.perf_counter()
        if batch == self._last:
            self.ended = time.perf_counter()


def main() -> None:
    keras.utils.set_random_seed(1)
    inputs, targets = TASK.load()
    network = keras.Sequential(
        [
            keras.Input(batch_shape=(TASK.batch_size, TASK.seq_length), dtype="int32"),
            keras.layers.Embedding(TASK.vocab_size, TASK.rnn_size),
            *(
                keras.layers.LSTM(TASK.rnn_size, return_sequences=True, stateful=True)
                for _ in range(TASK.num_layers)
            ),
            keras.layers.Dense(TASK.vocab_size),
        ]
    )  # fmt: skip
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=GRAD_CLIP),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    batches = tf.data.Dataset.from_tensor_slices((inputs, targets)).repeat().prefetch(tf.data.AUTOTUNE)

    def lap(steps: int) -> float:
        clock = Clock(WARM_STEPS + steps - 1)
        network.fit(batches, steps_per_epoch=WARM_STEPS + steps, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
        return clock.ended - clock.begun

    lap(FIRST_STEPS)
    serve(f"Keras {keras.__version__} fit, TensorFlow {tf.__version__}", lap)


if __name__ == "__main__":
    main()
