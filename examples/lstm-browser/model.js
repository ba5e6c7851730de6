// A character model in the real ml5.js, with the traps of its charRNN closed; README.md here lists them.
"use strict";

/** Something the reader of the page can put right: what, and what to do, with what to type in backticks. */
class Trouble extends Error {
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

class Model {
  /**
   * Load the model of a folder of this server, such as "models". Rejects with a Trouble that says what is wrong.
   * `backend`: "cpu", "webgl", or nothing for the faster one.
   */
  static async load(name, backend = "") {
    if (typeof ml5 === "undefined" || typeof p5 === "undefined") {
      throw new Trouble("ml5.js and p5 are not here.", "In the folder of this page: `npm ci`");
    }
    const address = Model.address(name);
    const [manifest, vocab, settings] = await Promise.all([
      readJson(address, "manifest.json", name),
      readJson(address, "vocab.json", name),
      readJson(address, "settings.json", name),
    ]);
    const shape = check(name, manifest, vocab, settings || {});
    const rnn = await loadWeights(name, address, backend === "webgl" ? "webgl" : "cpu");
    const model = new Model(name, rnn, settings || {}, shape);
    if (!backend) await model.useFaster();
    return model;
  }

  /** Where a model's files are, relative to the page. Only folders of the page's own server are taken. */
  static address(name) {
    const path = name.trim().split("/").filter(Boolean).map(encodeURIComponent).join("/");
    if (!path || /^[a-z]+:/i.test(name.trim())) {
      throw new Trouble(`“${name}” is not a folder beside this page.`, "Type the name of one, such as `models`");
    }
    return path;
  }

  constructor(name, rnn, settings, shape) {
    this.name = name;
    this.settings = settings;
    this.shape = shape;
    this.reverse = settings.reverse === true;
    this._rnn = rnn;
    this.characters = [];
    for (const [character, id] of Object.entries(rnn.vocab)) this.characters[id] = character;
    this._zero = { c: rnn.zeroState.c, h: rnn.zeroState.h };
    this.reset();
  }

  get backend() {
    return ml5.tf.getBackend();
  }

  knows(character) {
    return Object.hasOwn(this._rnn.vocab, character);
  }

  /** Forget all that was read. ml5's own reset() doesn't: what it calls its zero state is the state it has written on. */
  reset() {
    const old = this._rnn.getState();
    this._rnn.setState({ c: this._zero.c, h: this._zero.h });
    this._dispose(old);
  }

  /**
   * Read one character that the model `knows`; the probability of each next one, by id, at temperature 1.
   *
   * One character for each feed(), which else reads its first one twice and never its last; in a scope, or 13 tensors
   * stay behind; and always at temperature 1, where exp() of ml5's 32-bit logits is in range: `temper` does the rest.
   */
  async read(character) {
    const { tf } = ml5;
    const old = this._rnn.getState();
    const before = { c: old.c, h: old.h };
    let found;
    tf.engine().startScope();
    try {
      await this._rnn.feed([character]);
      const { c, h } = this._rnn.getState();
      [...c, ...h].forEach((tensor) => tf.keep(tensor));
      found = (await this._rnn.predict(1)).probabilities;
    } finally {
      tf.engine().endScope();
    }
    this._dispose(before);
    const probabilities = new Float32Array(this.characters.length);
    for (const { char, probability } of found) probabilities[this._rnn.vocab[char]] = probability;
    if (!probabilities.every(Number.isFinite)) {
      throw new Trouble("This model's numbers leave the range of ml5.js.", "Export it anew with remoterun's trainer.");
    }
    return probabilities;
  }

  /** A model is small for a graphics card: asking it costs more than the sum. A large one is timed on both. */
  async useFaster() {
    if (this.shape.weights < 2_000_000) return;
    const times = {};
    for (const backend of ["cpu", "webgl"]) {
      if (!(await backendIs(backend))) continue;
      await this.read(this.characters[0]); // webgl compiles its shaders
      const start = performance.now();
      for (let i = 0; i < 4; i += 1) await this.read(this.characters[0]);
      times[backend] = performance.now() - start;
    }
    await backendIs(times.webgl < times.cpu ? "webgl" : "cpu");
    this.reset();
  }

  /** Give back what the model holds. */
  dispose() {
    this.reset();
    this._dispose({ c: Object.values(this._rnn.model), h: [...this._zero.c, ...this._zero.h] }, true);
  }

  _dispose({ c, h }, all = false) {
    for (const tensor of [...c, ...h]) {
      const zero = this._zero.c.includes(tensor) || this._zero.h.includes(tensor);
      if (all || !zero) tensor.dispose();
    }
  }
}

/** Probabilities at another temperature: p^(1/T), normalised. Higher is flatter: more random. */
function temper(probabilities, temperature) {
  let most = 0;
  for (const p of probabilities) most = Math.max(most, p);
  const result = new Float64Array(probabilities.length);
  let sum = 0;
  for (let i = 0; i < result.length; i += 1) {
    result[i] = Math.exp(Math.log(probabilities[i] / most) / temperature);
    sum += result[i];
  }
  for (let i = 0; i < result.length; i += 1) result[i] /= sum;
  return result;
}

/** An id, drawn with these probabilities. (Not called draw: p5 would take it for its own.) */
function pick(probabilities) {
  let left = Math.random();
  let last = 0;
  for (let i = 0; i < probabilities.length; i += 1) {
    if (probabilities[i] === 0) continue;
    last = i;
    left -= probabilities[i];
    if (left < 0) break;
  }
  return last;
}

// What ml5.js takes a weight for, by its name; these are its own expressions.
const CELL = /cell_[0-9]|lstm_[0-9]/i;
const WEIGHTS = /weights|weight|kernel|kernels|w/i;
const SOFTMAX = /softmax/i;

/** The facts of a model that ml5.js can use. A Trouble if it can't, which ml5.js itself would not say. */
function check(name, manifest, vocab, settings) {
  if (manifest === null) {
    throw new Trouble(
      `There is no model in “${name}”: no manifest.json.`,
      `\`remoterun cp runs/N/models ${name}\` brings one beside this page; \`remoterun open runs/N\` shows one at once.`,
    );
  }
  const whole = Object.values(manifest).every((entry) => entry && entry.filename && Array.isArray(entry.shape));
  const keys = Object.keys(manifest);
  if (!whole || !keys.some((key) => SOFTMAX.test(key)) || !keys.some((key) => CELL.test(key))) {
    throw new Trouble(
      `“${name}” is not a model for ml5's charRNN: its manifest.json lists other things.`,
      "The folder that `python -m trainer.train` writes is called `models`.",
    );
  }
  if (settings.ml5 === false) {
    throw new Trouble(
      `ml5.js can't use this model: ${settings.ml5_why_not || "so its settings.json says"}.`,
      "`python -m trainer.generate` writes with it.",
    );
  }
  const cell = settings.model || (/gru_cell/.test(keys) ? "gru" : /basic_rnn_cell/.test(keys) ? "rnn" : "lstm");
  if (cell !== "lstm") {
    throw new Trouble(
      `This is a network of ${cell} cells, and ml5.js knows lstm alone.`,
      "`python -m trainer.generate` writes with it; for this page train with `--model lstm`.",
    );
  }
  const cells = keys.filter((key) => CELL.test(key) && WEIGHTS.test(key)).length;
  if (cells !== 2) {
    throw new Trouble(
      `This network has ${cells} layer${cells === 1 ? "" : "s"}, and ml5.js always takes the word of the second.`,
      "`python -m trainer.generate` writes with it; for this page train with `--num_layers 2`.",
    );
  }
  if (vocab === null) {
    throw new Trouble(`vocab.json is missing in “${name}”.`, "Copy the whole folder again.");
  }
  const characters = Object.keys(vocab);
  if (settings.level === "word" || characters.some((text) => [...text].length > 1)) {
    throw new Trouble(
      "This model writes word by word, and ml5.js reads single characters only.",
      "`python -m trainer.generate` writes with it; for this page train with `--level char`.",
    );
  }
  const softmax = keys.find((key) => SOFTMAX.test(key) && WEIGHTS.test(key));
  const [units, outputs] = manifest[softmax].shape;
  if (outputs !== characters.length) {
    throw new Trouble(
      `“${name}” is of two models: ${characters.length} characters in vocab.json, ${outputs} in the network.`,
      "Copy the whole folder again.",
    );
  }
  const weights = Object.values(manifest).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  return { units, layers: settings.num_layers || cells, weights };
}

async function loadWeights(name, address, backend) {
  if (!(await backendIs(backend))) {
    throw new Trouble(`This browser has no ${backend} backend.`, "Leave `?backend=` out of the address.");
  }
  try {
    return await ml5.charRNN(address).ready; // a promise, whatever ml5's manual says
  } catch (error) {
    throw new Trouble(`“${name}” is not whole: ${shortened(error.message)}`, "Copy the whole folder again.");
  }
}

/** Whether ml5's TensorFlow.js computes there from now on. */
async function backendIs(backend) {
  try {
    return (await ml5.tf.setBackend(backend)) && ml5.tf.getBackend() === backend;
  } catch {
    return false;
  }
}

/** A file of a model; null if it isn't there. */
async function readJson(address, file, name) {
  let answer;
  try {
    answer = await fetch(`${address}/${file}`, { cache: "no-store" });
  } catch {
    throw new Trouble("The server of this page does not answer any more.", "Start it again, and reload.");
  }
  if (answer.status === 404) return null;
  try {
    if (!answer.ok) throw new Error(answer.status);
    const value = JSON.parse(await answer.text());
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("no object");
    return value;
  } catch {
    throw new Trouble(`${file} in “${name}” can't be read as JSON.`, "Copy the whole folder again.");
  }
}

function shortened(text) {
  return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}
