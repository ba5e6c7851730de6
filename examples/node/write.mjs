// Write with a model that ml5.js can load, at several temperatures, and compare what comes.
//
//     node write.mjs models [--text data] [--seed "The "] [--temperatures 0.2,0.5,0.8,1.1]

import fs from "node:fs/promises";
import path from "node:path";

import { run, toCount, toNumber } from "./command.mjs";
import { readModel, readText } from "./ml5.mjs";
import { Network, randomNumbers, start, write } from "./network.mjs";

const USAGE = "node write.mjs MODELS, a folder that holds manifest.json";
const OPTIONS = {
  text: [undefined, "what the model was trained on, a file or a folder, to compare with"],
  seed: ["\n", "text to go on from"],
  length: ["300", "characters to write"],
  temperatures: ["0.2,0.5,0.8,1.1", "higher is more random; 0 takes the likeliest"],
  random: ["1", "the same number writes the same text"],
  out: ["songs", "where the texts go"],
};

async function main(place, options) {
  const temperatures = options.temperatures.split(",").map((each) => toNumber("temperatures", each, 0));
  const [length, seed] = [toCount("length", options.length, 1), toCount("random", options.random, 0)];
  const model = await readModel(place);
  const text = options.text === undefined ? null : await readText(options.text);
  await start();
  const network = new Network(model.weights);
  const given = known(options.seed, model.characters);
  const order = (characters) => (model.backwards ? [...characters].reverse() : characters);

  await fs.mkdir(options.out, { recursive: true });
  const compared = text === null ? [] : ["words of the text", "longest copy"];
  const rows = [["temperature", "bits per character", ...compared]];
  for (const temperature of temperatures) {
    const { ids, probabilities } = write(network, order(given), length, temperature, randomNumbers(seed));
    const written = order(ids).map((id) => model.characters[id]).join("");
    const before = given.map((id) => model.characters[id]).join("");
    const whole = model.backwards ? written + before : before + written;
    await fs.writeFile(path.join(options.out, `temperature-${temperature}.txt`), `${whole}\n`);
    console.log(`--- temperature ${temperature}\n${whole.trim()}\n`);
    const bits = probabilities.reduce((sum, each) => sum - Math.log2(each), 0) / length;
    const comparison = text === null ? [] : [sharedWords(whole, text), longestCopy(whole, text)];
    rows.push([`${temperature}`, bits.toFixed(2), ...comparison]);
  }
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  for (const row of rows) console.log(row.map((cell, column) => cell.padStart(widths[column])).join("  "));
  console.log(`\nthe texts are in ${options.out}/`);
}

/** The ids of a text's characters; what the model doesn't know is left out and said. */
function known(text, characters) {
  const strange = [...new Set(text)].filter((each) => !characters.includes(each) && each !== "\n");
  if (strange.length) console.warn(`left out of the seed, since the model does not know them: ${strange.join(" ")}`);
  const ids = [...text].map((each) => characters.indexOf(each)).filter((id) => id >= 0);
  return ids.length ? ids : [0];
}

/** How many of the words written are words of the text, such as "87%". */
function sharedWords(written, text) {
  const words = (of) => of.toLowerCase().match(/[\p{L}\p{M}']+/gu) ?? [];
  const all = new Set(words(text));
  const mine = words(written);
  return mine.length ? `${Math.round((100 * mine.filter((word) => all.has(word)).length) / mine.length)}%` : "-";
}

/** The number of characters of the longest passage that stands in the text, word for word. */
function longestCopy(written, text) {
  let longest = 0;
  for (let from = 0; from + longest < written.length; from++) {
    while (from + longest < written.length && text.includes(written.slice(from, from + longest + 1))) longest++;
  }
  return `${longest} characters`;
}

run(main, USAGE, OPTIONS);
