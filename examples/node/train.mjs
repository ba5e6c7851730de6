// Train a character LSTM on a text, in a form that ml5.js, write.mjs and `python -m trainer.generate` read.
//
//     node train.mjs data [--from models] [--out models]

import * as tf from "@tensorflow/tfjs";

import { UserError, run, toCount, toNumber } from "./command.mjs";
import { readModel, readText, writeModel } from "./ml5.mjs";
import { Network, randomNumbers, start, write } from "./network.mjs";

const USAGE = "node train.mjs TEXT, a file or a folder that holds input.txt";
const OPTIONS = {
  from: [undefined, "the folder of a model to go on from, also one that Python trained"],
  out: ["models", "where the model goes"],
  size: ["64", "units of each of the two layers"],
  steps: ["600", "how long to train"],
  batch: ["32", "places of the text at which each step reads"],
  length: ["32", "characters that it reads there"],
  rate: ["0.01", "of learning, at the start"],
  every: ["100", "steps between the lines that tell how far it is"],
  seed: ["1", "the same number trains the same model"],
};
const SAMPLE = 120;
const LARGEST_NORM = 5;

async function main(place, options) {
  const [size, steps, batch, length, every, seed] = ["size", "steps", "batch", "length", "every", "seed"].map((name) =>
    toCount(name, options[name], 1),
  );
  const rate = toNumber("rate", options.rate, 0);
  const text = await readText(place);
  await start();
  const before = options.from === undefined ? null : await readModel(options.from);
  const characters = before?.characters ?? vocabulary(text);
  const ids = known(text, characters);
  const network = before ? new Network(before.weights) : Network.random(shares(ids, characters.length), size, seed);
  const streams = cut(ids, batch, length, place);
  console.log(
    `${ids.length} characters, ${characters.length} different ones; layers of ${network.sizes.join(" and ")} units;` +
      ` a step reads ${batch} x ${length}`,
  );

  const optimizer = tf.train.adam(rate);
  const random = randomNumbers(seed);
  const newline = Math.max(characters.indexOf("\n"), 0);
  let stopped = 0;
  for (const [signal, status] of [["SIGTERM", 143], ["SIGINT", 130]]) process.on(signal, () => (stopped = status));
  let state = network.zeroState(batch);
  let [sum, count, since] = [0, 0, Date.now()];
  for (let step = 1; step <= steps && !stopped; step++) {
    const turn = (step - 1) % streams.batches;
    if (turn === 0) {
      tf.dispose(state);
      state = network.zeroState(batch);
    }
    optimizer.learningRate = rate * (1 - (0.9 * (step - 1)) / steps);
    const { loss, state: next } = learn(network, optimizer, streams.inputs[turn], streams.targets[turn], state);
    tf.dispose(state);
    state = next;
    sum += (await loss.data())[0];
    count += 1;
    loss.dispose();
    if (step % every === 0 || step === steps || stopped) {
      const seconds = (Date.now() - since) / 1000;
      const speed = Math.round((count * batch * length) / seconds);
      console.log(`step ${step}/${steps}, loss ${(sum / count).toFixed(3)}, ${speed} characters/s`);
      const written = write(network, [newline], SAMPLE, 0.6, random).ids.map((id) => characters[id]).join("");
      console.log(written.trim().replace(/^/gm, "    "));
      [sum, count, since] = [0, 0, Date.now()];
    }
    await new Promise((resolve) => setImmediate(resolve)); // signals are heard between steps
  }
  await writeModel(options.out, { weights: network.values(), characters });
  console.log(`the model is in ${options.out}/`);
  process.exitCode = stopped;
}

/** One step of Adam; disposes of nothing it is given. The loss and the state are the caller's. */
function learn(network, optimizer, inputs, targets, state) {
  return tf.tidy(() => {
    let after;
    const { value, grads } = tf.variableGrads(() => {
      const { loss, state: next } = network.loss(inputs, targets, state);
      after = { c: next.c.map((each) => tf.keep(each)), h: next.h.map((each) => tf.keep(each)) };
      return loss;
    });
    const norm = tf.sqrt(tf.addN(Object.values(grads).map((each) => tf.sum(tf.square(each)))));
    const scale = tf.div(LARGEST_NORM, tf.maximum(norm, LARGEST_NORM));
    for (const name of Object.keys(grads)) grads[name] = tf.mul(grads[name], scale);
    optimizer.applyGradients(grads);
    return { loss: value, state: after };
  });
}

/** Characters by how often they come, as ml5's own training does it. */
function vocabulary(text) {
  const counts = new Map();
  for (const each of text) counts.set(each, (counts.get(each) ?? 0) + 1);
  return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
}

/** How much of the text each character is. */
function shares(ids, count) {
  const found = new Array(count).fill(0);
  for (const id of ids) found[id] += 1 / ids.length;
  return found;
}

function known(text, characters) {
  const places = new Map(characters.map((each, place) => [each, place]));
  const found = [...text];
  const ids = found.map((each) => places.get(each)).filter((each) => each !== undefined);
  const strange = new Set(found.filter((each) => !places.has(each)));
  if (strange.size) console.warn(`left out, since the model does not know them: ${[...strange].join(" ")}`);
  return Int32Array.from(ids);
}

/** `batch` streams of text side by side, cut in pieces of `length`: lists of tensors [length, batch]. */
function cut(ids, batch, length, place) {
  const batches = Math.floor((ids.length - 1) / batch / length);
  if (batches < 1) {
    throw new UserError(`${place} has less than ${batch * length + 1} characters; --batch 4 --length 16 needs fewer`);
  }
  const take = (start) => {
    const rows = Array.from({ length }, (_, t) =>
      Array.from({ length: batch }, (_, b) => ids[b * batches * length + start + t]),
    );
    return tf.tensor2d(rows, [length, batch], "int32");
  };
  const starts = Array.from({ length: batches }, (_, each) => each * length);
  return { batches, inputs: starts.map(take), targets: starts.map((start) => take(start + 1)) };
}

run(main, USAGE, OPTIONS);
