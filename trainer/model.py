"""The network and one step of its training.

    characters → embedding → LSTM layers → a score (logit) for each next character

The LSTM is written out because it must be ml5.js's cell to the letter: one kernel for input and hidden
state, gates in the order i, j, f, o, and 1.0 added to the forget gate. It costs nothing: compiled by XLA it
is faster on a CPU than the ready-made layer, the more so as the batch is cut into one shard per core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.export import EMBEDDING, SOFTMAX_B, SOFTMAX_W, Floats, count_layers, names

Tensor = Any  # TensorFlow has no types of its own
LayerState = tuple[Tensor, Tensor]  # c and h, each [batch, hidden]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Hyperparameters:
    """What the network looks like and how it learns; see the flags of train.py."""

    rnn_size: int
    num_layers: int
    batch_size: int
    grad_clip: float
    input_keep_prob: float
    output_keep_prob: float
    seed: int


def new_weights(vocab_size: int, rnn_size: int, num_layers: int, seed: int) -> dict[str, Floats]:
    """Fresh weights under ml5's names: Glorot's uniform distribution, zero biases."""
    random = np.random.default_rng(seed)

    def glorot(rows: int, columns: int) -> Floats:
        limit = (6 / (rows + columns)) ** 0.5
        return random.uniform(-limit, limit, (rows, columns)).astype(np.float32)

    weights = {EMBEDDING: glorot(vocab_size, rnn_size)}
    for layer in range(num_layers):
        kernel, bias = names("lstm", layer)
        weights[kernel] = glorot(2 * rnn_size, 4 * rnn_size)
        weights[bias] = np.zeros(4 * rnn_size, np.float32)
    weights[SOFTMAX_W] = glorot(rnn_size, vocab_size)
    weights[SOFTMAX_B] = np.zeros(vocab_size, np.float32)
    return weights


def zero_state(batch_size: int, rnn_size: int, num_layers: int) -> list[LayerState]:
    zeros = tf.zeros([batch_size, rnn_size])
    return [(zeros, zeros) for _ in range(num_layers)]


def forward(
    weights: Mapping[str, Tensor], ids: Tensor, state: Sequence[LayerState], dropout: "Dropout | None" = None
) -> tuple[Tensor, list[LayerState]]:
    """Read `ids`, [batch, time]. Gives the logits, [time, batch, vocab], and the state after the last."""
    ids = tf.transpose(ids)  # time first, as the loop goes
    outputs: Tensor = None
    new_state = []
    for layer in range(count_layers(weights)):
        kernel, bias = (weights[name] for name in names("lstm", layer))
        width = kernel.shape[0] - kernel.shape[1] // 4
        # The input's share of the gates is one product for all time steps; only the hidden state's has to wait.
        if layer == 0 and dropout is None:
            # A few dozen characters: their gates make a table, and a step is a look-up.
            gates = tf.gather(weights[EMBEDDING] @ kernel[:width] + bias, ids)
        else:
            inputs = tf.gather(weights[EMBEDDING], ids) if layer == 0 else outputs
            if dropout:
                inputs = dropout.input(dropout.output(inputs) if layer == 0 else inputs)
            gates = tf.tensordot(inputs, kernel[:width], axes=1) + bias
        outputs, layer_state = _lstm(gates, kernel[width:], *state[layer])
        if dropout:
            outputs = dropout.output(outputs)
        new_state.append(layer_state)
    return tf.tensordot(outputs, weights[SOFTMAX_W], axes=1) + weights[SOFTMAX_B], new_state


class Dropout:
    """Zeroes a share of the values in training; which ones follows from the seed, so a resumed run repeats it."""

    def __init__(self, input_keep_prob: float, output_keep_prob: float, seed: Tensor) -> None:
        self._input, self._output, self._seed = input_keep_prob, output_keep_prob, seed
        self._calls = 0

    def input(self, values: Tensor) -> Tensor:
        return self._drop(values, self._input)

    def output(self, values: Tensor) -> Tensor:
        return self._drop(values, self._output)

    def _drop(self, values: Tensor, keep_prob: float) -> Tensor:
        self._calls += 1
        if keep_prob == 1.0:
            return values
        seed = tf.random.experimental.stateless_fold_in(self._seed, self._calls)
        return tf.nn.experimental.stateless_dropout(values, 1.0 - keep_prob, seed)


def _lstm(gates: Tensor, recurrent: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, LayerState]:
    """One layer over all time steps: `gates` [time, batch, 4 * hidden] → outputs [time, batch, hidden]."""
    steps = gates.shape[0]

    def step(time: Tensor, c: Tensor, h: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        i, j, f, o = tf.split(gates[time] + h @ recurrent, 4, axis=1)
        c = tf.sigmoid(i) * tf.tanh(j) + tf.sigmoid(f + 1.0) * c
        h = tf.tanh(c) * tf.sigmoid(o)
        return time + 1, c, h, outputs.write(time, h)

    outputs = tf.TensorArray(tf.float32, steps, element_shape=h.shape)
    _, c, h, outputs = tf.while_loop(lambda time, *_: time < steps, step, (0, c, h, outputs), maximum_iterations=steps)
    return outputs.stack(), (c, h)


class Model:
    """The weights, Adam's averages and the state carried from batch to batch."""

    def __init__(self, weights: Mapping[str, Floats], hyper: Hyperparameters, *, shards: int, jit: bool) -> None:
        """`shards`: into how many parts each batch is cut, to be worked on at once; divides the batch."""
        self._hyper = hyper
        self._shards = shards
        self._weights = {name: tf.Variable(array) for name, array in weights.items()}
        self._m = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in self._weights.items()}
        self._v = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in self._weights.items()}
        self._largest_logits = tf.Variable([0.0, 0.0])
        self._gradients = tf.function(self._shard_gradients, jit_compile=jit)
        self._step = tf.function(self._update)
        self.reset_state()

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(variable.shape)) for variable in self._weights.values())

    def reset_state(self) -> None:
        """Forget what was read: at the start of an epoch."""
        size = self._hyper.batch_size // self._shards
        self._state = [zero_state(size, self._hyper.rnn_size, self._hyper.num_layers) for _ in range(self._shards)]

    def train_step(self, inputs: NDArray[np.int32], targets: NDArray[np.int32], *, rate: float, step: int) -> Tensor:
        """Learn from one batch, [batch, time]; `step` counts from 1. Gives the mean loss in nats a character.

        Does not wait for the result: float() of it does.
        """
        loss, self._state = self._step(
            tf.constant(inputs), tf.constant(targets), self._state, tf.constant(rate), tf.constant(step)
        )
        return loss

    def weights(self) -> dict[str, Floats]:
        return {name: variable.numpy() for name, variable in self._weights.items()}

    def largest_logits(self) -> tuple[float, float]:
        """Over the last batch's predictions, the smallest and the largest value of the winning logit."""
        smallest, largest = self._largest_logits.numpy()
        return float(smallest), float(largest)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to save."""
        state = [[np.concatenate([shard[layer][part] for shard in self._state]) for part in (0, 1)]
                 for layer in range(self._hyper.num_layers)]  # fmt: skip
        return {
            **{name: variable.numpy() for name, variable in self._variables().items()},
            "state": np.array(state),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `arrays`; the number of shards may be another."""
        for name, variable in self._variables().items():
            variable.assign(arrays[name])
        self._state = [
            [(tf.constant(c), tf.constant(h)) for c, h in shard]
            for shard in np.split(arrays["state"], self._shards, axis=2)
        ]

    def _variables(self) -> dict[str, Tensor]:
        return {
            **{f"weights/{name}": variable for name, variable in self._weights.items()},
            **{f"adam_m/{name}": variable for name, variable in self._m.items()},
            **{f"adam_v/{name}": variable for name, variable in self._v.items()},
            "largest_logits": self._largest_logits,
        }

    def _update(self, inputs: Tensor, targets: Tensor, state: Tensor, rate: Tensor, step: Tensor) -> Tensor:
        weights = {name: variable.read_value() for name, variable in self._weights.items()}
        parts = [
            self._gradients(weights, x, y, shard_state, tf.stack([step, self._hyper.seed * self._shards + shard]))
            for shard, (x, y, shard_state) in enumerate(
                zip(tf.split(inputs, self._shards), tf.split(targets, self._shards), state, strict=True)
            )
        ]
        losses, gradients, new_state, largest = zip(*parts, strict=True)
        means = [tf.add_n([part[name] for part in gradients]) / self._shards for name in weights]
        clipped, _ = tf.clip_by_global_norm(means, self._hyper.grad_clip)
        power = tf.cast(step, tf.float32)
        for name, gradient in zip(weights, clipped, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=self._weights[name].handle, m=self._m[name].handle, v=self._v[name].handle,
                beta1_power=BETA1**power, beta2_power=BETA2**power,
                lr=rate, beta1=BETA1, beta2=BETA2, epsilon=EPSILON, grad=gradient,
            )  # fmt: skip
        winners = tf.stack(largest)
        self._largest_logits.assign([tf.reduce_min(winners), tf.reduce_max(winners)])
        return tf.add_n(losses) / self._shards, list(new_state)

    def _shard_gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, state: Tensor, seed: Tensor
    ) -> tuple[Tensor, ...]:
        keep = self._hyper.input_keep_prob, self._hyper.output_keep_prob
        dropout = None if keep == (1.0, 1.0) else Dropout(*keep, seed)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, new_state = forward(weights, inputs, state, dropout)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.transpose(targets), logits)
            loss = tf.reduce_mean(losses)
        winners = tf.reduce_max(logits, axis=-1)
        extremes = tf.stack([tf.reduce_min(winners), tf.reduce_max(winners)])
        return loss, tape.gradient(loss, weights), new_state, extremes
