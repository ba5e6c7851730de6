"""Characters a second of one side's training step: `python -m tests.bench.steps SIDE TEXT [UNITS SEQUENCE BATCH]`.

All sides train two LSTM layers on the same batches, carry the state from batch to batch, clip the gradient's norm, and
use Adam. Each is a function that trains so many steps, and returns the seconds from the end of the first one on.
PyTorch's environment has nothing of this project's.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, RATE, CLIP = 2, 0.002, 5.0
WARM, SECONDS = 10, 3.0

Train = Callable[[int], float]


def trainer(inputs: Any, targets: Any, units: int, vocabulary: int) -> Train:
    """The trainer's own step, as `trainer.train` sets it up."""
    from trainer import devices

    used = devices.use_devices(devices.import_tensorflow(), inputs.shape[1], units)
    from trainer import model as network

    hyper = network.Hyperparameters("lstm", units, LAYERS, inputs.shape[1], CLIP, 1.0, 1.0, 1)
    how = {"shards": used.shards, "jit": used.jit, "way": used.way, "strategy": used.strategy}
    model = network.Model(network.new_weights(vocabulary, hyper), hyper, **how)
    return timed(len(inputs), lambda at, step: model.train_step(inputs[at], targets[at], rate=RATE, step=step))


def torch(inputs: Any, targets: Any, units: int, vocabulary: int) -> Train:
    """As PyTorch's examples do it, with its fastest Adam; time comes first in its batches, as `nn.LSTM` likes it."""
    import torch
    from torch import nn

    inputs, targets = (torch.from_numpy(ids).long().transpose(1, 2).contiguous() for ids in (inputs, targets))
    embed, lstm, out = nn.Embedding(vocabulary, units), nn.LSTM(units, units, LAYERS), nn.Linear(units, vocabulary)
    weights = [*embed.parameters(), *lstm.parameters(), *out.parameters()]
    adam = torch.optim.Adam(weights, lr=RATE, fused=True)
    state = [torch.zeros(LAYERS, inputs.shape[2], units) for _ in range(2)]

    def train_step(at: int, _: int) -> Any:
        adam.zero_grad(set_to_none=True)
        outputs, after = lstm(embed(inputs[at]), tuple(state))
        state[:] = [each.detach() for each in after]
        loss = nn.functional.cross_entropy(out(outputs).flatten(0, 1), targets[at].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        adam.step()
        return loss.detach()

    return timed(len(inputs), train_step)


def keras(inputs: Any, targets: Any, units: int, vocabulary: int) -> Train:
    """As Keras' guides do it, with a `tf.data.Dataset`: with arrays, `fit` stalls at its end. XLA makes it slower."""
    import keras
    import tensorflow as tf

    lstm = [keras.layers.LSTM(units, return_sequences=True, stateful=True) for _ in range(LAYERS)]
    first = [keras.Input(batch_shape=inputs.shape[1:], dtype="int32"), keras.layers.Embedding(vocabulary, units)]
    network = keras.Sequential([*first, *lstm, keras.layers.Dense(vocabulary)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(RATE, global_clipnorm=CLIP), loss, jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices((inputs, targets)).repeat().prefetch(tf.data.AUTOTUNE)

    def train(steps: int) -> float:
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.perf_counter()))
        network.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
        return ends[-1] - ends[0]

    return train


def timed(batches: int, train_step: Callable[[int, int], Any]) -> Train:
    """`train_step(batch, number of the step)` gives its loss, which may still be computed."""
    numbers = itertools.count(1)

    def train(steps: int) -> float:
        float(train_step(0, next(numbers)))
        begun = time.perf_counter()
        losses = [train_step(number % batches, number) for number in itertools.islice(numbers, steps - 1)]
        float(losses[-1])
        return time.perf_counter() - begun

    return train


def main(side: str, text: str, *size: str) -> None:
    units, sequence, batch = map(int, size or ("128", "50", "50"))  # ml5's defaults
    characters, ids = np.unique(np.frombuffer(Path(text).read_bytes(), np.uint8), return_inverse=True)
    used = (len(ids) - 1) // (sequence * batch) * sequence * batch
    both = (ids[start : start + used].astype(np.int32).reshape(batch, -1, sequence) for start in (0, 1))
    inputs, targets = (np.ascontiguousarray(part.swapaxes(0, 1)) for part in both)  # [number, batch, sequence]
    train = {"trainer": trainer, "torch": torch, "keras": keras}[side](inputs, targets, units, len(characters))
    train(WARM)
    steps = WARM + round(SECONDS / train(WARM) * WARM)
    print((steps - 1) * sequence * batch / train(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
