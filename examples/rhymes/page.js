// The page itself: it loads the models, and at each press of the button has both write to the same two words.
"use strict";

const PAIRS = 40; // of rhyming words, tried for a couplet
const KEPT = 20; // couplets, below the newest
const FRAME = 12; // milliseconds, after which the page may be painted

const at = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

let groups = null;
let known = null;
const writers = {}; // markov, lstm

/** Something the reader of the page can put right: what, and what to type or do. */
class Trouble extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

async function load() {
  const asked = new URLSearchParams(location.search).get("model") || "models";
  const folder = asked.split("/").filter(Boolean).join("/"); // below this page: no other server's
  try {
    const [rhymes, markov] = await Promise.all([read(folder, "rhymes.json"), read(folder, "markov.json")]);
    if (!rhymes || !markov) {
      throw new Trouble(
        `In “${folder}” there is no ${rhymes ? "markov" : "rhymes"}.json.`,
        `\`python rhymes.py train\` makes it; \`remoterun cp runs/N/models ${folder}\` brings it beside this page`,
      );
    }
    if (rhymes.format !== 1) throw new Trouble(`rhymes.json in “${folder}” is of another version.`, "Train it again");
    groups = rhymes.groups;
    known = new Known(markov);
    writers.markov = new Markov(markov);
    const [words, lines] = [Object.values(groups).flat().length, known.lines.size].map((n) => n.toLocaleString("en"));
    at("about").textContent = `${words} words to end a line with, ${lines} lines learned from`;
    await loadLstm(folder);
    say("ready", "Ready.");
  } catch (error) {
    fail(error);
  }
}

/** Without the LSTM there is still the Markov chain. */
async function loadLstm(folder) {
  if (typeof ml5 === "undefined") throw new Trouble("ml5.js is not here.", "In the folder of this page: npm ci");
  if (!(await read(folder, "manifest.json"))) {
    at("about").textContent += `; no LSTM in “${folder}”, so the Markov chain writes alone`;
    return;
  }
  const settings = (await read(folder, "settings.json")) || {};
  if (settings.reverse !== true) {
    throw new Trouble(`The LSTM in “${folder}” was not trained backwards.`, "python rhymes.py train does that");
  }
  if ((settings.level || "char") !== "char" || (settings.cell || "lstm") !== "lstm") {
    throw new Trouble(`ml5.js can't use the network in “${folder}”.`, "Train it with --model lstm and --level char");
  }
  await ml5.tf.setBackend("cpu"); // a network this small is faster there than on a graphics card
  writers.lstm = new Lstm(await ml5.charRNN(address(folder)).ready);
}

function address(folder) {
  return folder.split("/").map(encodeURIComponent).join("/");
}

/** A file of the models; null if it isn't there. */
async function read(folder, file) {
  const answer = await fetch(`${address(folder)}/${file}`);
  if (answer.status === 404) return null;
  try {
    return JSON.parse(await answer.text());
  } catch {
    throw new Trouble(`${file} in “${folder}” can't be read as JSON.`, "Copy the whole folder again");
  }
}

/** One press of the button: two words, and what each model makes of them. */
async function rhyme() {
  say("writing", "Looking for two words that rhyme…");
  if (writers.lstm) writers.lstm.temperature = Number(at("temperature").value);
  try {
    for (let pair = 0; pair < PAIRS; pair += 1) {
      const words = rhymingPair(groups);
      const made = await couplet(writers.markov, words, known);
      if (!made) continue; // all that leads to these words stands in the text
      const sheet = newSheet(words);
      show(sheet, "markov", words, made);
      if (await lstmToo(sheet, words)) {
        say("ready", "There it is. Again?");
        return;
      }
      sheet.remove();
    }
    say("ready", "Nothing came of it: the models have learned too little, or the temperature is too high.");
  } catch (error) {
    fail(error);
  }
}

/** Whether the LSTM, where there is one, found two lines; they grow on the page from right to left. */
async function lstmToo(sheet, words) {
  if (!writers.lstm) return true;
  say("writing", "The LSTM writes, from right to left…");
  let painted = performance.now();
  const grow = async (lines) => {
    if (still.matches || performance.now() - painted < FRAME) return;
    show(sheet, "lstm", words, lines);
    await frame();
    painted = performance.now();
  };
  sheet.querySelector("[data-model=lstm]").classList.add("growing");
  const made = await couplet(writers.lstm, words, known, grow);
  sheet.querySelector("[data-model=lstm]").classList.remove("growing");
  if (made) show(sheet, "lstm", words, made);
  return made !== null;
}

function newSheet(words) {
  const sheet = at("sheet").content.firstElementChild.cloneNode(true);
  sheet.querySelector("h2").textContent = words.map(({ word }) => (word === "i" ? "I" : word)).join(" · ");
  if (!writers.lstm) sheet.querySelector("[data-model=lstm]").remove();
  at("rhymes").prepend(sheet);
  while (at("rhymes").children.length > KEPT) at("rhymes").lastElementChild.remove();
  return sheet;
}

/** Put lines on the sheet, the words that rhyme in red. */
function show(sheet, model, words, lines) {
  const places = sheet.querySelectorAll(`[data-model=${model}] .line`);
  lines.forEach((line, number) => {
    const space = line.lastIndexOf(" ") + 1;
    const [before, word, after] = line.slice(space).split(new RegExp(`(${words[number].word})`, "i"));
    const red = document.createElement("b");
    red.textContent = word ?? "";
    places[number].replaceChildren(line.slice(0, space) + before, red, after ?? "");
  });
}

/** The next frame; a page that nobody looks at has none, and goes on all the same. */
function frame() {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, document.hidden ? 0 : 250);
    if (!document.hidden) requestAnimationFrame(() => (clearTimeout(late), resolve()));
  });
}

function say(state, words) {
  document.body.dataset.state = state;
  at("status").textContent = words;
  at("rhyme").disabled = state !== "ready";
}

function fail(error) {
  if (!(error instanceof Trouble)) console.error(error);
  say(groups && writers.markov ? "ready" : "failed", "");
  const lines = error instanceof Trouble ? [error.message, error.hint] : [`The page has a fault: ${error.message}`];
  at("trouble").replaceChildren(
    ...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })),
  );
  at("trouble").hidden = false;
}

at("desk").addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.body.dataset.state === "ready") rhyme();
});
at("temperature").addEventListener("input", () => {
  at("degrees").textContent = Number(at("temperature").value).toFixed(2).replace(/0$/, "");
});
load();
