"""The matrix products of a training step and nothing else: the same shapes, the same loops over time, compiled by XLA
and cut into the same shards as in the trainer. What a step takes beyond this is not multiplication.
"""

from __future__ import annotations

import time
from typing import Any

from tests.bench.trainer.sides.lap import FIRST_STEPS, WARM_STEPS, serve, task
from trainer import devices

TASK = task()


def main() -> None:
    tf = devices.import_tensorflow()
    used = devices.use_devices(tf, TASK.batch_size, TASK.rnn_size)
    size, vocab, steps_in_time = TASK.rnn_size, TASK.vocab_size, TASK.seq_length
    batch = TASK.batch_size // used.shards
    rows = batch * steps_in_time

    def random(*shape: int) -> Any:
        return tf.random.stateless_uniform(shape, (1, 2), -0.05, 0.05)

    recurrent, embedding, softmax_w = random(size, 4 * size), random(vocab, size), random(size, vocab)
    hidden, gates, logits = random(rows, size), random(rows, 4 * size), random(rows, vocab)
    which = tf.one_hot(tf.range(rows) % vocab, vocab)
    start = random(batch, size)

    def over_time(product: Any, value: Any) -> Any:
        """As many products as steps in time, each waiting for the one before."""
        return tf.while_loop(
            lambda t, _: t < steps_in_time, lambda t, x: (t + 1, product(x)), (0, value),
            maximum_iterations=steps_in_time,
        )[1]  # fmt: skip

    def all_products(
        recurrent: Any,
        embedding: Any,
        softmax_w: Any,
        hidden: Any,
        gates: Any,
        logits: Any,
        which: Any,
        start: Any,
    ) -> list[Any]:
        transposed = tf.transpose(recurrent)
        found = [
            embedding @ recurrent,  # the table, and its two gradients
            tf.matmul(which, gates, transpose_a=True),
            tf.matmul(embedding, gates[:vocab], transpose_a=True),
            gates[:vocab] @ transposed,
            hidden @ softmax_w,  # the logits, and theirs
            tf.matmul(hidden, logits, transpose_a=True),
            tf.matmul(logits, softmax_w, transpose_b=True),
        ]
        for layer in range(TASK.num_layers):
            scale = 1.0 + layer  # or XLA would see that all layers are one
            weights, weights_transposed, columns = recurrent * scale, transposed * scale, gates * scale
            found += [
                over_time(lambda h, weights=weights: tf.add_n(tf.split(h @ weights, 4, axis=1)), start),
                over_time(lambda g, back=weights_transposed: tf.tile(g @ back, [1, 4]), gates[:batch]),
                tf.matmul(hidden, columns, transpose_a=True),
            ]
            if layer:  # the input's share of the gates, and its two gradients
                inputs = hidden + scale
                found += [
                    inputs @ weights,
                    tf.matmul(inputs, columns, transpose_a=True),
                    columns @ weights_transposed,
                ]
        return found

    compiled = tf.function(all_products, jit_compile=used.jit, autograph=False)
    arguments = recurrent, embedding, softmax_w, hidden, gates, logits, which, start

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step() -> Any:
        shards = [compiled(*(argument + 0.001 * shard for argument in arguments)) for shard in range(used.shards)]
        return tf.add_n([tf.reduce_sum(found[0]) for found in shards])

    def lap(steps: int) -> float:
        for _ in range(WARM_STEPS):
            step()
        begun = time.perf_counter()
        for _ in range(steps):
            value = step()
        float(value)
        return time.perf_counter() - begun

    lap(FIRST_STEPS)
    serve(f"TensorFlow {tf.__version__}, {used.shards} shards", lap)


if __name__ == "__main__":
    main()
