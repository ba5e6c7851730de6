"""The recurrent layers: one layer over all time steps of a batch.

The LSTM is written out because it must be ml5.js's cell to the letter: one kernel for input and hidden state,
gates in the order i, j, f, o, and 1.0 added to the forget gate. There are three ways to compute it, with the
same results up to rounding:

    fast        the gradient written out by hand: the loop backwards has one product per step, and the weights'
                gradient is a single product over all steps after it. What a CPU uses.
    plain       the gradient left to TensorFlow, which adds one to the weights' gradient at every step
    cudnn       Keras' layer, which on a GPU is one call of NVIDIA's cuDNN

Shapes: time first. `gates` is the input's share of the gates, [time, batch, n * hidden], computed for all steps
at once; what has to wait for the step before is the hidden state's share, `hidden @ recurrent`.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf

Tensor = Any  # TensorFlow has no types of its own
LayerState = tuple[Tensor, ...]  # what a layer carries from step to step, each [batch, hidden]: c and h, or h alone

WAYS = ("fast", "plain", "cudnn")


def lstm(
    gates: Tensor, bias: Tensor, recurrent: Sequence[Tensor], state: LayerState, *, way: str
) -> tuple[Tensor, LayerState]:
    """`gates` i, j, f, o [time, batch, 4 * hidden] → outputs [time, batch, hidden], the state after the last.

    `bias` [4 * hidden] is added step by step, while a step's gates are at hand: to add it to all of them beforehand
    would cost a way through memory.
    """
    layer = _lstm_fast if way == "fast" else _lstm_plain
    outputs, c, h = layer(gates, bias, recurrent[0], *state)
    return outputs, (c, h)


def gru(gates: Tensor, recurrent: Sequence[Tensor], state: LayerState) -> tuple[Tensor, LayerState]:
    """`gates` reset, update, candidate [time, batch, 3 * hidden]; TensorFlow 1's cell."""
    gates_recurrent, candidate_recurrent = recurrent
    size = state[0].shape[1]

    def step(gates_now: Tensor, h: Tensor) -> Tensor:
        reset, update = tf.split(tf.sigmoid(gates_now[:, : 2 * size] + h @ gates_recurrent), 2, axis=1)
        candidate = tf.tanh(gates_now[:, 2 * size :] + (reset * h) @ candidate_recurrent)
        return update * h + (1.0 - update) * candidate

    return _over_time(gates, state[0], step)


def rnn(gates: Tensor, recurrent: Sequence[Tensor], state: LayerState) -> tuple[Tensor, LayerState]:
    """`gates` [time, batch, hidden]; the plain cell, tanh."""
    return _over_time(gates, state[0], lambda gates_now, h: tf.tanh(gates_now + h @ recurrent[0]))


def lstm_of_keras(inputs: Tensor, kernel: Tensor, bias: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
    """As `lstm`, from the layer's `inputs` [time, batch, input] and its whole kernel and bias.

    Keras has the gates in the order i, f, j, o and the forget gate's 1.0 in the bias; with a GPU it calls cuDNN.
    """
    i, j, f, o = tf.split(kernel, 4, axis=1)
    bias_i, bias_j, bias_f, bias_o = tf.split(bias, 4)
    kernel = tf.concat([i, f, j, o], axis=1)
    bias = tf.concat([bias_i, bias_f + 1.0, bias_j, bias_o], axis=0)
    width = inputs.shape[2]
    layer = keras_layer(kernel.shape[1] // 4, width)
    c, h = state
    if not hasattr(layer, "stateless_call"):
        keras_2 = sys.modules[layer.__module__]  # of TensorFlow 2.14, the last one for old GPUs
        _, outputs, h, c, _ = keras_2.lstm_with_backend_selection(  # what the layer calls, with weights of its own
            inputs, h, c, kernel[:width], kernel[width:], bias, mask=None, time_major=True, go_backwards=False,
            sequence_lengths=None, zero_output_for_mask=False, return_sequences=True,
        )  # fmt: skip
        return outputs, (c, h)
    (outputs, h, c), _ = layer.stateless_call(
        [kernel[:width], kernel[width:], bias], layer.non_trainable_variables,
        tf.transpose(inputs, [1, 0, 2]), initial_state=[h, c],
    )  # fmt: skip
    return tf.transpose(outputs, [1, 0, 2]), (c, h)


@cache
def keras_layer(size: int, width: int) -> Any:
    """Keras' layer for `lstm_of_keras`, whose own weights are not used. The first call is made outside tf.function."""
    layer = tf.keras.layers.LSTM(size, return_sequences=True, return_state=True)
    layer.build((None, None, width))
    return layer


@tf.custom_gradient  # type: ignore[untyped-decorator]
def look_up(table: Tensor, ids: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, None]]]:
    """Rows of a small `table`, [rows, n]. Its gradient is a product: XLA adds up rows one by one on a CPU."""

    def gradient(rows: Tensor) -> tuple[Tensor, None]:
        which = tf.one_hot(tf.reshape(ids, [-1]), table.shape[0])
        return tf.matmul(which, tf.reshape(rows, [-1, table.shape[1]]), transpose_a=True), None

    return tf.gather(table, ids), gradient


def _lstm_plain(gates: Tensor, bias: Tensor, recurrent: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    steps = gates.shape[0]

    def step(time: Tensor, c: Tensor, h: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        i, j, f, o = tf.split(gates[time] + bias + h @ recurrent, 4, axis=1)
        c = tf.sigmoid(i) * tf.tanh(j) + tf.sigmoid(f + 1.0) * c
        h = tf.tanh(c) * tf.sigmoid(o)
        return time + 1, c, h, outputs.write(time, h)

    outputs = tf.TensorArray(tf.float32, steps, element_shape=h.shape)
    _, c, h, outputs = tf.while_loop(lambda time, *_: time < steps, step, (0, c, h, outputs), maximum_iterations=steps)
    return outputs.stack(), c, h


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _lstm_fast(
    gates: Tensor, bias: Tensor, recurrent: Tensor, first_c: Tensor, first_h: Tensor
) -> tuple[Any, Callable[..., Any]]:
    """As `_lstm_plain`, but the forward pass writes the slopes that the backward pass needs over the gates."""
    steps, size = gates.shape[0], recurrent.shape[0]

    # sigmoid(x) = 1/2 + 1/2 tanh(x/2), so all four gates are one tanh; the halves are multiplied in before the loop.
    scale, forget = _by_gate(size, 0.5, 1.0, 0.5, 0.5), _by_gate(size, 0.0, 0.0, 1.0, 0.0)
    scaled_bias, scaled_recurrent = (bias + forget) * scale, recurrent * scale

    def step(time: Tensor, c: Tensor, h: Tensor, rows: Tensor, hs: Tensor, by_hs: Tensor, fs: Tensor) -> Any:
        now = scale * tf.tanh(scale * rows.read(time) + scaled_bias + h @ scaled_recurrent) + (1.0 - scale)
        i, j, f, o = tf.split(now, 4, axis=1)
        c_before, c = c, i * j + f * c
        squashed_c = tf.tanh(c)
        h = squashed_c * o
        # Of c by the gates i, j and f, and of h by the gate o, before they are squashed; and of h by c.
        slopes = tf.concat([j * i * (1.0 - i), i * (1.0 - j * j), c_before * f * (1.0 - f), h * (1.0 - o)], axis=1)
        by_h = o - h * squashed_c
        return time + 1, c, h, rows.write(time, slopes), hs.write(time, h), by_hs.write(time, by_h), fs.write(time, f)

    arrays = [tf.TensorArray(tf.float32, steps, element_shape=first_c.shape) for _ in range(3)]
    start = (0, first_c, first_h, _rows(gates), *arrays)
    _, last_c, last_h, *kept = tf.while_loop(lambda time, *_: time < steps, step, start, maximum_iterations=steps)
    slopes, hs, by_hs, fs = (array.stack() for array in kept)

    def gradient(d_hs: Tensor, d_last_c: Tensor, d_last_h: Tensor) -> tuple[Tensor, ...]:
        """From the loss's derivatives by the outputs to those by the inputs; d_x is the derivative by x."""
        recurrent_transposed = tf.transpose(recurrent)
        hs_before = tf.concat([first_h[None], hs[:-1]], axis=0)

        def step_back(time: Tensor, d_c: Tensor, d_h: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            by_i, by_j, by_f, by_o = tf.split(rows.read(time), 4, axis=1)
            d_h += d_hs[time]
            d_c += d_h * by_hs[time]
            d_now = tf.concat([d_c * by_i, d_c * by_j, d_c * by_f, d_h * by_o], axis=1)
            return time - 1, d_c * fs[time], d_now @ recurrent_transposed, rows.write(time, d_now)

        _, d_first_c, d_first_h, rows = tf.while_loop(
            lambda time, *_: time >= 0, step_back, (steps - 1, d_last_c, d_last_h, _rows(slopes)),
            maximum_iterations=steps,
        )  # fmt: skip
        d_gates = rows.stack()
        d_recurrent = tf.matmul(
            tf.reshape(hs_before, [-1, size]), tf.reshape(d_gates, [-1, 4 * size]), transpose_a=True
        )
        return d_gates, tf.reduce_sum(d_gates, [0, 1]), d_recurrent, d_first_c, d_first_h

    return (hs, last_c, last_h), gradient


def _rows(tensor: Tensor) -> Tensor:
    """The rows as a TensorArray. Each is read, then overwritten, so that XLA needs no second array."""
    return tf.TensorArray(tf.float32, tensor.shape[0], element_shape=tensor.shape[1:]).unstack(tensor)


def _by_gate(size: int, i: float, j: float, f: float, o: float) -> Tensor:
    """One number for each column of the gates."""
    return tf.repeat(tf.constant([i, j, f, o]), size)


def _over_time(gates: Tensor, h: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, LayerState]:
    """Runs a cell whose whole state is its output over all time steps."""
    steps = gates.shape[0]
    outputs = tf.TensorArray(tf.float32, steps, element_shape=h.shape)

    def one(time: Tensor, h: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        h = step(gates[time], h)
        return time + 1, h, outputs.write(time, h)

    _, h, outputs = tf.while_loop(lambda time, *_: time < steps, one, (0, h, outputs), maximum_iterations=steps)
    return outputs.stack(), (h,)
