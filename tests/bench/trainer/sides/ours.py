"""The trainer's own step, set up as `trainer.train` sets it up."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.trainer.sides.lap import FIRST_STEPS, GRAD_CLIP, LEARNING_RATE, WARM_STEPS, places, serve, task
from trainer import devices

TASK = task()


def main() -> None:
    tf = devices.import_tensorflow()
    used = devices.use_devices(tf, TASK.batch_size, TASK.rnn_size)
    from trainer import model as network

    inputs, targets = TASK.load()
    hyper = network.Hyperparameters(
        cell="lstm",
        rnn_size=TASK.rnn_size,
        num_layers=TASK.num_layers,
        batch_size=TASK.batch_size,
        grad_clip=GRAD_CLIP,
        input_keep_prob=1.0,
        output_keep_prob=1.0,
        seed=1,
    )
    weights = network.new_weights(TASK.vocab_size, hyper)
    model = network.Model(weights, hyper, shards=used.shards, jit=used.jit, way=used.way, strategy=used.strategy)
    place = places(len(inputs))
    done = 0

    def step() -> Any:
        nonlocal done
        done += 1
        at = next(place)
        return model.train_step(inputs[at], targets[at], rate=LEARNING_RATE, step=done)

    def lap(steps: int) -> float:
        for _ in range(WARM_STEPS):
            loss = step()
        float(loss)
        begun = time.perf_counter()
        for _ in range(steps):
            loss = step()
        float(loss)
        return time.perf_counter() - begun

    lap(FIRST_STEPS)
    serve(f"trainer, TensorFlow {tf.__version__}; {used.shards} shards, {used.way}{', XLA' if used.jit else ''}", lap)


if __name__ == "__main__":
    main()
