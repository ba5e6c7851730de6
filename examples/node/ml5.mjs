// A model's folder as ml5.js reads it: manifest.json, vocab.json, and a file of raw numbers for each weight.

import fs from "node:fs/promises";
import path from "node:path";

import { UserError } from "./command.mjs";

const CELL = "rnnlm/multi_rnn_cell/cell_";
export const EMBEDDING = "embedding";
export const SOFTMAX_W = "rnnlm/softmax_w";
export const SOFTMAX_B = "rnnlm/softmax_b";
export const kernel = (layer) => `${CELL}${layer}/basic_lstm_cell/kernel`;
export const bias = (layer) => `${CELL}${layer}/basic_lstm_cell/bias`;

/**
 * {weights: {name: {values: Float32Array, shape}}, characters: [string], backwards: boolean}.
 * Throws UserError if there is no model of characters and LSTM cells in the folder.
 */
export async function readModel(folder) {
  const manifest = await readJson(path.join(folder, "manifest.json"));
  if (manifest === null) {
    throw new UserError(`${folder} holds no model (no manifest.json); train one: node train.mjs TEXT`);
  }
  const vocab = (await readJson(path.join(folder, "vocab.json"))) ?? {};
  const settings = (await readJson(path.join(folder, "settings.json"))) ?? {};
  const characters = Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]);
  const weights = {};
  for (const [name, { filename, shape }] of Object.entries(manifest)) {
    const bytes = await fs.readFile(path.join(folder, path.basename(filename)));
    const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    if (values.length !== shape.reduce((a, b) => a * b, 1)) throw new UserError(`${folder}: ${filename} is not whole`);
    weights[name] = { values, shape };
  }
  for (const name of [EMBEDDING, SOFTMAX_W, SOFTMAX_B, kernel(0), bias(0)]) {
    if (!(name in weights)) throw new UserError(`${folder} is not a model of LSTM cells: it has no ${name}`);
  }
  if (characters.some((each) => [...each].length !== 1)) {
    throw new UserError(`${folder} is a model of words; python -m trainer.generate ${folder} can write with it`);
  }
  if (characters.length !== weights[EMBEDDING].shape[0]) throw new UserError(`${folder}: vocab.json does not fit`);
  return { weights, characters, backwards: Boolean(settings.reverse) };
}

/** Write or replace a model. The manifest is written last, when all that it names is there. */
export async function writeModel(folder, { weights, characters }) {
  await fs.mkdir(folder, { recursive: true });
  const manifest = {};
  for (const [name, { values, shape }] of Object.entries(weights)) {
    const filename = name.replaceAll("/", "_");
    manifest[name] = { filename, shape };
    await writeWhole(path.join(folder, filename), Buffer.from(values.buffer, values.byteOffset, values.byteLength));
  }
  const vocab = Object.fromEntries(characters.map((each, place) => [each, place]));
  await writeWhole(path.join(folder, "vocab.json"), JSON.stringify(vocab));
  await writeWhole(path.join(folder, "manifest.json"), JSON.stringify(manifest, null, 2));
}

/** The text of a file, or of input.txt in a folder. */
export async function readText(place) {
  try {
    const folder = (await fs.stat(place)).isDirectory();
    return await fs.readFile(folder ? path.join(place, "input.txt") : place, "utf8");
  } catch (error) {
    const why = error.code === "ENOENT" ? "nothing is there" : error.message;
    throw new UserError(`no text at ${place}: ${why}; name a file, or a folder that holds input.txt`);
  }
}

async function readJson(file) {
  try {
    return JSON.parse(await fs.readFile(file, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw new UserError(`${file} can't be read: ${error.message}`);
  }
}

async function writeWhole(file, content) {
  await fs.writeFile(`${file}.new`, content, { flush: true });
  await fs.rename(`${file}.new`, file);
}
