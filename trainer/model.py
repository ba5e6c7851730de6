"""The network and one step of its training.

    characters → embedding → recurrent layers → a score (logit) for each next character

Fast on a CPU by four things: XLA compiles a step; each batch is cut into one shard per core; the first layer's
input is a table look-up; and the LSTM's gradient is written out (cells.py). On several GPUs, or nodes, each has its
replica of the weights and its part of the batch (tf.distribute.MirroredStrategy, MultiWorkerMirroredStrategy).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import cells
from trainer.cells import LayerState, Tensor
from trainer.export import EMBEDDING, SOFTMAX_B, SOFTMAX_W, Floats, cell_of, count_layers, names

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
LARGEST_TABLE = 1024  # characters; of a larger vocabulary a batch uses too few for the table to pay


@dataclass(frozen=True)
class Hyperparameters:
    """What the network looks like and how it learns; see the flags of train.py."""

    cell: str
    rnn_size: int
    num_layers: int
    batch_size: int
    grad_clip: float
    input_keep_prob: float
    output_keep_prob: float
    seed: int


def new_weights(vocab_size: int, hyper: Hyperparameters, ids: NDArray[np.int32] | None = None) -> dict[str, Floats]:
    """Fresh weights under ml5's names: Glorot's uniform distribution, zero biases; a GRU's gates start half open.

    `ids`: the tokens to learn from. The first guess is then how often each comes (one more than that, so that none is
    impossible): else the layers' first lesson is that some are rare, which they would unlearn later.
    """
    random = np.random.default_rng(hyper.seed)
    size = hyper.rnn_size

    def glorot(rows: int, columns: int) -> Floats:
        limit = (6 / (rows + columns)) ** 0.5
        return random.uniform(-limit, limit, (rows, columns)).astype(np.float32)

    columns = {"lstm": (4 * size,), "gru": (2 * size, size), "rnn": (size,)}[hyper.cell]
    weights = {EMBEDDING: glorot(vocab_size, size)}
    for layer in range(hyper.num_layers):
        kernels_and_biases = names(hyper.cell, layer)
        for kernel, bias, width in zip(kernels_and_biases[::2], kernels_and_biases[1::2], columns, strict=True):
            weights[kernel] = glorot(2 * size, width)
            weights[bias] = np.full(width, 1.0 if width == 2 * size else 0.0, np.float32)
    weights[SOFTMAX_W] = glorot(size, vocab_size)
    weights[SOFTMAX_B] = np.zeros(vocab_size, np.float32)
    if ids is not None:
        counts = np.bincount(ids.ravel(), minlength=vocab_size) + 1
        weights[SOFTMAX_B] = np.log(counts / counts.sum()).astype(np.float32)
    return weights


def zero_state(batch_size: int, hyper: Hyperparameters) -> list[LayerState]:
    parts = 2 if hyper.cell == "lstm" else 1
    return [(tf.zeros([batch_size, hyper.rnn_size]),) * parts for _ in range(hyper.num_layers)]


def forward(
    weights: Mapping[str, Tensor],
    ids: Tensor,
    state: Sequence[LayerState],
    dropout: "Dropout | None" = None,
    *,
    way: str = "fast",
) -> tuple[Tensor, list[LayerState]]:
    """Read `ids`, [batch, time]. Gives the logits, [time, batch, vocab], and the state after the last.

    `way`: of cells.WAYS, how an LSTM is computed.
    """
    cell = cell_of(weights)
    ids = tf.transpose(ids)  # time first, as the loop goes
    outputs: Tensor = None
    new_state = []
    for layer in range(count_layers(weights)):
        inputs = tf.gather(weights[EMBEDDING], ids) if layer == 0 else outputs
        if dropout:
            inputs = dropout.input(dropout.output(inputs) if layer == 0 else inputs)
        if way == "cudnn" and cell == "lstm":
            kernel, bias = (weights[name] for name in names(cell, layer))
            outputs, layer_state = cells.lstm_of_keras(inputs, kernel, bias, state[layer])
        else:
            table = layer == 0 and not dropout and weights[EMBEDDING].shape[0] <= LARGEST_TABLE
            kernels = [weights[name] for name in names(cell, layer)[::2]]
            bias = tf.concat([weights[name] for name in names(cell, layer)[1::2]], axis=0)
            width = weights[EMBEDDING].shape[1] if layer == 0 else outputs.shape[2]
            from_input = tf.concat([kernel[:width] for kernel in kernels], axis=1)
            recurrent = [kernel[width:] for kernel in kernels]
            # The input's share of the gates is one product for all time steps; only the hidden state's has to wait.
            if table:  # a few dozen characters: their gates make a table, and a step is a look-up
                gates = cells.look_up(weights[EMBEDDING] @ from_input + bias, ids)
                bias = tf.zeros_like(bias)
            else:
                gates = tf.tensordot(inputs, from_input, axes=1)
            if cell == "lstm":
                outputs, layer_state = cells.lstm(gates, bias, recurrent, state[layer], way=way)
            else:
                layer_of = cells.gru if cell == "gru" else cells.rnn
                outputs, layer_state = layer_of(gates + bias, recurrent, state[layer])
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
        # 16 random bits a value: TensorFlow's own stateless_dropout takes a hundred times as long on a CPU.
        seed = tf.random.experimental.stateless_fold_in(self._seed, self._calls, alg="philox")
        count = int(np.prod(values.shape))
        bits = tf.random.stateless_uniform(
            [(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        draws = tf.reshape(tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:count], values.shape)
        kept = tf.cast(draws, tf.int32) < round(keep_prob * 2**16)
        return tf.where(kept, values / keep_prob, 0.0)


class Model:
    """The weights, Adam's averages and the state carried from batch to batch."""

    def __init__(
        self,
        weights: Mapping[str, Floats],
        hyper: Hyperparameters,
        *,
        shards: int,
        jit: bool,
        way: str = "fast",
        strategy: Any = None,
    ) -> None:
        """`shards`: into how many parts each replica's share of a batch is cut, to be worked on at once.

        `strategy`: one of tf.distribute, or None for one device. Replicas times shards divide the batch. On several
        nodes each makes the same calls: all but `evaluate` and `weights` wait for those of the others.
        `way`: of cells.WAYS; "cudnn" goes with a GPU, `shards` 1 and `jit` False.
        """
        self._hyper, self._shards, self._way = hyper, shards, way
        self._strategy = strategy or tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        self._across = isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy) and self._replicas > 1
        if way == "cudnn":
            cells.keras_layer(hyper.rnn_size, hyper.rnn_size)
        with self._strategy.scope():
            self._weights = {name: tf.Variable(array) for name, array in weights.items()}
            self._m = {name: tf.Variable(np.zeros_like(array)) for name, array in weights.items()}
            self._v = {name: tf.Variable(np.zeros_like(array)) for name, array in weights.items()}
            self._largest_logits = tf.Variable([0.0, 0.0])
        self._gradients = tf.function(self._shard_gradients, jit_compile=jit, autograph=False)
        self._state: Any = None
        self._losses = tf.function(self._batch_loss, jit_compile=jit, autograph=False)
        self._step = tf.function(self._on_all_replicas, autograph=False)
        self._gather = tf.function(self._on_each, autograph=False)
        self.reset_state()

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(variable.shape)) for variable in self._weights.values())

    def reset_state(self) -> None:
        """Forget what was read: at the start of an epoch."""
        size = self._hyper.batch_size // (self._replicas * self._shards)
        self._set_state([[zero_state(size, self._hyper) for _ in range(self._shards)] for _ in range(self._replicas)])

    def train_step(self, inputs: NDArray[np.int32], targets: NDArray[np.int32], *, rate: float, step: int) -> Tensor:
        """Learn from one batch, [batch, time]; `step` counts from 1. Gives the mean loss in nats a character.

        Does not wait for the result: float() of it does.
        """
        loss, self._state = self._step(
            self._parts(inputs), self._parts(targets), self._state, tf.constant(rate), tf.constant(step)
        )
        return loss

    def evaluate(self, inputs: NDArray[np.int32], targets: NDArray[np.int32]) -> float:
        """The mean loss in nats over batches that follow each other, [n, batch, time], from a zero state.

        The state carried from batch to batch in training stays as it was.
        """
        state = zero_state(inputs.shape[1], self._hyper)
        weights = self._values()
        losses = []
        for batch_inputs, batch_targets in zip(inputs, targets, strict=True):
            loss, state = self._losses(weights, tf.constant(batch_inputs), tf.constant(batch_targets), state)
            losses.append(loss)
        return float(np.mean([float(loss) for loss in losses]))

    def each(self, *values: float) -> list[tuple[float, ...]]:
        """The values, one at least, of each node. Waits for the calls of the other nodes."""
        if not self._across:
            return [values]
        own = self._distributed([tf.constant([values], tf.float64)] * self._replicas)
        return [tuple(*rows.tolist()) for rows in self._local(own)]

    def weights(self) -> dict[str, Floats]:
        return {name: value.numpy() for name, value in self._values().items()}

    def largest_logits(self) -> tuple[float, float]:
        """Over the last batch's predictions, the smallest and the largest value of the winning logit."""
        smallest, largest = self._largest_logits.numpy()
        return float(smallest), float(largest)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to save."""
        shards = [shard for replica in self._local(self._state) for shard in replica]
        state = [[np.concatenate([shard[layer][part] for shard in shards]) for part in range(len(shards[0][layer]))]
                 for layer in range(self._hyper.num_layers)]  # fmt: skip
        return {**{name: variable.numpy() for name, variable in self._variables().items()}, "state": np.array(state)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `arrays`; the number of replicas and of shards may be another."""
        for name, variable in self._variables().items():
            variable.assign(arrays[name])
        shards = [
            [tuple(tf.constant(part) for part in layer) for layer in shard]
            for shard in np.split(arrays["state"], self._replicas * self._shards, axis=2)
        ]
        self._set_state([shards[i : i + self._shards] for i in range(0, len(shards), self._shards)])

    def _variables(self) -> dict[str, Tensor]:
        return {
            **{f"weights/{name}": variable for name, variable in self._weights.items()},
            **{f"adam_m/{name}": variable for name, variable in self._m.items()},
            **{f"adam_v/{name}": variable for name, variable in self._v.items()},
            "largest_logits": self._largest_logits,
        }

    def _values(self) -> dict[str, Tensor]:
        return {name: variable.read_value() for name, variable in self._weights.items()}

    # Replicas. With one device all of this is the identity.

    def _parts(self, batch: NDArray[np.int32]) -> Tensor:
        """A batch cut into one part per replica."""
        parts = np.split(batch, self._replicas)
        return self._distributed([tf.constant(part) for part in parts])

    def _set_state(self, state: list[list[list[LayerState]]]) -> None:
        """[replica][shard][layer] → what `_step` takes."""
        self._state = self._distributed(state)

    def _distributed(self, parts: Sequence[Any]) -> Any:
        if self._replicas == 1:
            return parts[0]
        return tf.nest.map_structure(
            lambda *each: self._strategy.experimental_distribute_values_from_function(
                lambda context: each[context.replica_id_in_sync_group]
            ),
            *parts,
        )

    def _local(self, distributed: Any) -> list[Any]:
        if self._replicas == 1:
            return [distributed]
        if self._across:
            distributed = self._gather(distributed)

        def part(values: Any, replica: int) -> Any:
            own = self._strategy.experimental_local_results(values)
            return np.split(own[0].numpy(), self._replicas)[replica] if self._across else own[replica]

        return [tf.nest.map_structure(partial(part, replica=each), distributed) for each in range(self._replicas)]

    def _on_each(self, values: Tensor) -> Tensor:
        """Those of all replicas, one after the other along the first axis, to each."""
        return self._strategy.run(
            lambda own: tf.distribute.get_replica_context().all_gather(tf.nest.map_structure(tf.identity, own), axis=0),
            args=(values,),
        )

    def _on_all_replicas(self, inputs: Tensor, targets: Tensor, state: Tensor, rate: Tensor, step: Tensor) -> Tensor:
        losses, new_state = self._strategy.run(self._update, args=(inputs, targets, state, rate, step))
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None), new_state

    # One replica.

    def _update(self, inputs: Tensor, targets: Tensor, state: Tensor, rate: Tensor, step: Tensor) -> Tensor:
        replica = tf.distribute.get_replica_context()
        weights = self._values()
        parts = [
            self._gradients(weights, x, y, shard_state, self._dropout_seed(step, replica, shard))
            for shard, (x, y, shard_state) in enumerate(
                zip(tf.split(inputs, self._shards), tf.split(targets, self._shards), state, strict=True)
            )
        ]
        losses, gradients, new_state, largest = zip(*parts, strict=True)
        means = [tf.add_n([part[name] for part in gradients]) / self._shards for name in weights]
        if self._replicas > 1:
            means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, means)
        clipped, _ = tf.clip_by_global_norm(means, self._hyper.grad_clip)
        power = tf.cast(step, tf.float32)
        for name, gradient in zip(weights, clipped, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=self._weights[name].handle, m=self._m[name].handle, v=self._v[name].handle,
                beta1_power=BETA1**power, beta2_power=BETA2**power,
                lr=rate, beta1=BETA1, beta2=BETA2, epsilon=EPSILON, grad=gradient,
            )  # fmt: skip
        winners = tf.stack(largest)
        extremes = tf.stack([tf.reduce_min(winners), tf.reduce_max(winners)])
        if self._replicas > 1:
            extremes = replica.all_reduce(tf.distribute.ReduceOp.MEAN, extremes)
        tf.raw_ops.AssignVariableOp(resource=self._largest_logits.handle, value=extremes)
        return tf.add_n(losses) / self._shards, list(new_state)

    def _dropout_seed(self, step: Tensor, replica: Any, shard: int) -> Tensor:
        """The seed of dropout: a whole number that differs for each step and each part of the batch."""
        part = replica.replica_id_in_sync_group * self._shards + shard
        return tf.stack([step, self._hyper.seed * self._replicas * self._shards + part])

    def _shard_gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, state: Tensor, seed: Tensor
    ) -> tuple[Tensor, ...]:
        keep = self._hyper.input_keep_prob, self._hyper.output_keep_prob
        dropout = None if keep == (1.0, 1.0) else Dropout(*keep, seed)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, new_state = forward(weights, inputs, state, dropout, way=self._way)
            loss = _mean_loss(logits, targets)
        winners = tf.reduce_max(logits, axis=-1)
        extremes = tf.stack([tf.reduce_min(winners), tf.reduce_max(winners)])
        return loss, tape.gradient(loss, weights), new_state, extremes

    def _batch_loss(self, weights: Tensor, inputs: Tensor, targets: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, new_state = forward(weights, inputs, state, way=self._way)
        return _mean_loss(logits, targets), new_state


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.transpose(targets), logits))
