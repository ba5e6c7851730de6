// The network that ml5.js knows: a table of characters, layers of LSTM cells, and a score for each character to come.

import * as tf from "@tensorflow/tfjs";
import "@tensorflow/tfjs-backend-wasm";

import { EMBEDDING, SOFTMAX_B, SOFTMAX_W, bias, kernel } from "./ml5.mjs";

/** WebAssembly: it is in the npm package, needs no compiler, and is several times as fast as plain JavaScript. */
export async function start() {
  tf.enableProdMode();
  await tf.setBackend("wasm");
  // Its product of matrices is quick only when none is to be read transposed, as the usual gradient wants it.
  tf.registerGradient({
    kernelName: tf.BatchMatMul,
    inputsToSave: ["a", "b"],
    gradFunc: (dy, [a, b]) => ({ a: () => tf.matMul(dy, tf.transpose(b)), b: () => tf.matMul(tf.transpose(a), dy) }),
  });
}

export class Network {
  /** `weights` as ml5.mjs reads them. */
  constructor(weights) {
    this.weights = {};
    for (const [name, { values, shape }] of Object.entries(weights)) {
      this.weights[name] = tf.variable(tf.tensor(values, shape), true, name);
    }
    this.sizes = []; // units of each layer
    while (kernel(this.sizes.length) in weights) this.sizes.push(weights[kernel(this.sizes.length)].shape[1] / 4);
    this.vocabulary = weights[EMBEDDING].shape[0];
    this.forget = tf.scalar(1);
  }

  /**
   * A new one with two layers, since ml5.js takes the second one's output whatever there is. `shares`: how much of the
   * text is each character; before it has learned anything, that is what it expects.
   */
  static random(shares, size, seed) {
    const vocabulary = shares.length;
    const shapes = { [EMBEDDING]: [vocabulary, size], [SOFTMAX_W]: [size, vocabulary], [SOFTMAX_B]: [vocabulary] };
    for (const layer of [0, 1]) {
      shapes[kernel(layer)] = [2 * size, 4 * size];
      shapes[bias(layer)] = [4 * size];
    }
    const weights = {};
    Object.entries(shapes).forEach(([name, shape], number) => {
      const reach = shape.length === 1 ? 0 : Math.sqrt(6 / (shape[0] + shape[1]));
      const values = tf.randomUniform(shape, -reach, reach, "float32", seed + number);
      weights[name] = { values: values.dataSync(), shape };
      values.dispose();
    });
    weights[SOFTMAX_B].values = Float32Array.from(shares, Math.log);
    return new Network(weights);
  }

  /** The state before the first character, for `batch` texts at once: c and h of each layer, [batch, its size]. */
  zeroState(batch) {
    const zeros = () => this.sizes.map((size) => tf.zeros([batch, size]));
    return { c: zeros(), h: zeros() };
  }

  /** Read a character of each text: ids is an int32 tensor, [batch]. Gives {output: [batch, size], state}. */
  read(ids, state) {
    // as ml5.js does; a product with a table of ones is quicker here than looking up, and so is its gradient
    let output = tf.matMul(tf.oneHot(ids, this.vocabulary).toFloat(), this.weights[EMBEDDING]);
    const next = { c: [], h: [] };
    for (let layer = 0; layer < this.sizes.length; layer++) {
      const [w, b] = [this.weights[kernel(layer)], this.weights[bias(layer)]];
      const [c, h] = tf.basicLSTMCell(this.forget, w, b, output, state.c[layer], state.h[layer]);
      next.c.push(c);
      next.h.push(h);
      output = h;
    }
    return { output, state: next };
  }

  /** The scores of what may come after outputs of `read`, [n, size]: [n, vocabulary]. */
  logits(output) {
    return tf.add(tf.matMul(output, this.weights[SOFTMAX_W]), this.weights[SOFTMAX_B]);
  }

  /**
   * Read `inputs`, [time, batch] of int32, whose next characters are `targets`: {loss, state}. The loss is a scalar,
   * in nats per character.
   */
  loss(inputs, targets, state) {
    const outputs = [];
    for (const ids of tf.unstack(inputs)) {
      const read = this.read(ids, state);
      outputs.push(read.output);
      state = read.state;
    }
    const wanted = tf.oneHot(tf.reshape(targets, [-1]), this.vocabulary).toFloat();
    return { loss: tf.losses.softmaxCrossEntropy(wanted, this.logits(tf.concat(outputs))), state };
  }

  /** The weights as ml5.mjs writes them. */
  values() {
    return Object.fromEntries(
      Object.entries(this.weights).map(([name, each]) => [name, { values: each.dataSync(), shape: each.shape }]),
    );
  }
}

/** A source of random numbers from 0 to 1, the same for the same seed (mulberry32). */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Write `length` characters after `seed`, ids of characters, at least one. Gives their ids, and their probabilities as
 * the network sees them, whatever the temperature. The higher that is, the more random; 0 takes the likeliest.
 */
export function write(network, seed, length, temperature, random) {
  const ids = [];
  const probabilities = [];
  let state = network.zeroState(1);
  let waiting = [...seed];
  while (ids.length < length) {
    const [scores, next] = tf.tidy(() => {
      let read = { state };
      for (const id of waiting) read = network.read(tf.tensor1d([id], "int32"), read.state);
      return [network.logits(read.output), read.state];
    });
    tf.dispose(state);
    state = next;
    const logits = scores.dataSync();
    scores.dispose();
    const id = choose(logits, temperature, random);
    ids.push(id);
    probabilities.push(softmax(logits, 1)[id]);
    waiting = [id];
  }
  tf.dispose(state);
  return { ids, probabilities };
}

function choose(logits, temperature, random) {
  if (temperature === 0) return logits.indexOf(Math.max(...logits));
  let rest = random();
  const chances = softmax(logits, temperature);
  for (const [id, chance] of chances.entries()) {
    rest -= chance;
    if (rest < 0) return id;
  }
  return chances.length - 1;
}

function softmax(logits, temperature) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (each) => Math.exp((each - largest) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((each) => each / sum);
}
