// The page itself: its forms, the writing, and the walk through what was written.
"use strict";

const at = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const LETTERS_A_FRAME = 4; // what an eye can follow; a model is faster
const FRAME = 10; // milliseconds of a frame that may be computed in

/** What stands on the paper: characters in the order they were written, with what could have come instead of each. */
const text = { seed: [], letters: [], next: null };

let model = null;
let halt = false;
let sketch = null;
let suggested = ""; // the seed that came with the model

async function open(name) {
  await stopped();
  say("loading", `Loading “${name}”…`);
  at("trouble").hidden = true;
  at("about").textContent = "";
  wipe();
  if (model) model.dispose();
  model = null;
  try {
    model = await Model.load(name, new URLSearchParams(location.search).get("backend") || "");
  } catch (error) {
    fail(error);
    return;
  }
  document.title = `…and so on: ${name}`;
  document.body.classList.toggle("reverse", model.reverse);
  at("about").textContent = describe(model);
  at("seed-label").textContent = model.reverse ? "It ends with" : "It begins with";
  at("motto").textContent = model.reverse
    ? "You end. A small network, trained backwards, finds what led there, letter by letter, here in this page."
    : "You begin. A small network goes on, letter by letter, here in this page.";
  suggest(typeof model.settings.seed === "string" ? model.settings.seed : "");
  nameUnknown();
  say("ready", "Ready.");
}

/** Put a seed where nobody has typed another one. */
function suggest(seed) {
  if (at("seed").value === suggested) at("seed").value = seed;
  suggested = seed;
}

function describe({ shape, settings, characters, backend }) {
  const parts = [
    `${shape.layers} layer${shape.layers === 1 ? "" : "s"} of ${shape.units}`,
    `${characters.length} characters`,
  ];
  if (Number.isFinite(settings.step)) parts.push(`step ${settings.step.toLocaleString("en")}`);
  if (Number.isFinite(settings.val_bpc)) parts.push(`${settings.val_bpc.toFixed(2)} bits a character on text it never saw`);
  parts.push(`on ${backend}`);
  return parts.join(" · ");
}

// -- writing

/** Write `length` letters after the seed, or after what is there. */
async function write(goOn) {
  const { seed, length } = wanted();
  if (!goOn) wipe();
  halt = false;
  at("trouble").hidden = true;
  say("writing", goOn ? "Going on…" : "Reading…");
  const start = performance.now();
  const before = text.letters.length;
  try {
    if (!goOn) await read(seed);
    say("writing", "Writing…");
    while (!halt && text.letters.length - before < length) await writeSome(before + length);
  } catch (error) {
    fail(error);
    return;
  } finally {
    finish();
  }
  const count = text.letters.length - before;
  const seconds = (performance.now() - start) / 1000;
  say("ready", `${halt ? "Stopped after" : "Wrote"} ${count} letter${count === 1 ? "" : "s"} in ${seconds.toFixed(1)} s${blanks(before)}.`);
  if (text.letters.length) showChoice(text.letters.length - 1);
}

/** Let the model read the seed: the end of a text comes first for one that was trained backwards. */
async function read(seed) {
  model.reset();
  text.seed = [...seed].filter((character) => model.knows(character));
  const order = model.reverse ? [...text.seed].reverse() : text.seed;
  show(text.seed.map((character) => letter(character, "seed")), "append");
  let pause = performance.now();
  for (const character of order.length ? order : [opening()]) {
    if (halt) return;
    text.next = await model.read(character);
    if (performance.now() - pause > FRAME) {
      await frame();
      pause = performance.now();
    }
  }
}

/** As many letters as fit into a frame. */
async function writeSome(end) {
  const start = performance.now();
  const made = [];
  do {
    const id = pick(temper(text.next, temperature()));
    const character = model.characters[id];
    made.push(letter(character, surprise(text.next[id]), text.letters.length));
    text.letters.push({ character, expected: text.next });
    text.next = await model.read(character);
  } while (!halt && text.letters.length < end && made.length < LETTERS_A_FRAME && performance.now() - start < FRAME);
  show(model.reverse ? made.reverse() : made, model.reverse ? "prepend" : "append");
  if (!still.matches) showChoice(text.letters.length - 1);
  await frame();
}

/** That the letters from a place on can't be seen, as all are blanks: how many of which. */
function blanks(start) {
  const written = text.letters.slice(start).map(({ character }) => character);
  if (!written.length || written.join("").trim()) return "";
  const ends = written.filter((character) => character === "\n").length;
  const counts = [[written.length - ends, "space"], [ends, "line end"]].filter(([count]) => count);
  const said = counts.map(([count, noun]) => `${count} ${noun}${count === 1 ? "" : "s"}`).join(", ");
  return `: nothing but blanks (${said}). Another beginning, or a higher temperature, may bring words`;
}

/** What a text starts after, where nothing was typed. */
function opening() {
  return model.knows("\n") ? "\n" : model.characters[0];
}

function finish() {
  const whole = writtenText();
  at("plain").textContent = whole;
  at("more").disabled = at("copy").disabled = whole === "";
}

function wipe() {
  Object.assign(text, { seed: [], letters: [], next: null });
  at("letters").replaceChildren();
  at("plain").textContent = "";
  at("choice").textContent = "";
  at("more").disabled = at("copy").disabled = true;
  document.body.classList.add("empty");
  chosen = null;
  if (sketch) sketch.clear();
}

function writtenText() {
  const letters = text.letters.map(({ character }) => character);
  return (model && model.reverse ? [...letters.reverse(), ...text.seed] : [...text.seed, ...letters]).join("");
}

function letter(character, kind, place = null) {
  const span = document.createElement("span");
  span.textContent = character;
  span.className = kind;
  span.place = place;
  return span;
}

function show(letters, how) {
  at("letters")[how](...letters);
  document.body.classList.remove("empty");
}

/** How little a letter was expected, from 0 to 3. */
function surprise(probability) {
  return `s${[0.3, 0.08, 0.015].filter((limit) => probability < limit).length}`;
}

/** The next frame; a page that nobody looks at has none, and goes on all the same. */
function frame() {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, document.hidden ? 0 : 250);
    if (!document.hidden) requestAnimationFrame(() => (clearTimeout(late), resolve()));
  });
}

/** Wait until nothing is written any more. */
async function stopped() {
  halt = true;
  while (document.body.dataset.state === "writing") await frame();
}

// -- what could have come

let chosen = null; // the span that was tapped, or walked to

/** Show what could have stood at a place; and say it, unless the next is being written already. */
function showChoice(place) {
  const { character, expected } = text.letters[place];
  const tempered = temper(expected, temperature());
  const candidates = [...tempered]
    .map((probability, id) => ({ character: model.characters[id], probability }))
    .sort((a, b) => b.probability - a.probability);
  sketch.show(candidates, character);
  if (document.body.dataset.state === "writing") return;
  const [likeliest] = candidates;
  const share = (probability) => `${percent(probability)}\u00a0%`;
  const own = candidates.find((each) => each.character === character);
  const context = text.letters.slice(Math.max(0, place - 12), place).map((each) => each.character);
  const near = (model.reverse ? context.reverse() : context).join("").replaceAll("\n", "¶");
  const where = near ? `${model.reverse ? "Before" : "After"} “${near}”` : "First";
  const other = likeliest.character === character ? "" : `; likeliest was ${called(likeliest.character)} with ${share(likeliest.probability)}`;
  at("choice").textContent = `${where} came ${called(character)}, a chance of ${share(own.probability)}${other}.`;
}

function choose(span) {
  if (chosen) chosen.classList.remove("chosen");
  chosen = span;
  if (!span) return;
  span.classList.add("chosen");
  showChoice(span.place);
}

function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: "first", End: "last" }[event.key];
  const letters = [...at("letters").children].filter((span) => span.place !== null);
  if (step === undefined || !letters.length || document.body.dataset.state === "writing") return;
  event.preventDefault();
  const now = chosen ? letters.indexOf(chosen) : -1;
  const place = step === "first" ? 0 : step === "last" ? letters.length - 1 : now < 0 ? (step > 0 ? 0 : letters.length - 1) : now + step;
  const span = letters[Math.max(0, Math.min(letters.length - 1, place))];
  choose(span);
  span.scrollIntoView({ block: "nearest" });
}

// -- words

function say(state, words) {
  document.body.dataset.state = state;
  at("status").textContent = words;
  const writing = state === "writing";
  at("write").textContent = writing ? "Stop" : "Write";
  at("write").disabled = !writing && !model;
  if (writing) at("more").disabled = at("copy").disabled = true;
}

function fail(error) {
  const known = error instanceof Trouble;
  if (!known) console.error(error);
  say("failed", "");
  const what = document.createElement("p");
  what.textContent = known ? error.message : `The page has a fault: ${error.message}`;
  const hint = document.createElement("p");
  (known ? error.hint : "").split("`").forEach((part, place) => {
    const piece = document.createElement(place % 2 ? "code" : "span");
    piece.textContent = part;
    hint.append(piece);
  });
  at("trouble").replaceChildren(what, ...(hint.textContent ? [hint] : []));
  at("trouble").hidden = false;
}

/** Name what the model has never seen: ml5.js would read it as nothing, and say nothing. */
function nameUnknown() {
  const unknown = model ? [...new Set(at("seed").value)].filter((character) => !model.knows(character)) : [];
  at("unknown").textContent = unknown.length
    ? `Left out, as the model has never seen ${unknown.length === 1 ? "it" : "them"}: ${unknown.map(called).join(", ")}`
    : "";
}

function wanted() {
  return { seed: at("seed").value, length: Number(at("length").value) };
}

function temperature() {
  return Number(at("temperature").value);
}

function turn() {
  const degrees = temperature();
  at("degrees").textContent = degrees.toFixed(2).replace(/0$/, "");
  at("temperature").setAttribute("aria-valuetext", `${at("degrees").textContent}, ${mood(degrees)}`);
  if (text.letters.length && document.body.dataset.state !== "writing") showChoice(chosen ? chosen.place : text.letters.length - 1);
}

function mood(degrees) {
  if (degrees < 0.35) return "the likeliest letters only";
  if (degrees < 0.85) return "rather likely letters";
  if (degrees <= 1.15) return "as often as it learned";
  return degrees < 1.6 ? "unlikely letters too" : "almost anything";
}

async function copy() {
  try {
    await navigator.clipboard.writeText(writtenText());
    at("status").textContent = "Copied.";
  } catch {
    at("status").textContent = "The browser does not let this page copy: select the text instead.";
  }
}

function start() {
  const name = () => new URLSearchParams(location.search).get("model") || "models";
  const reopen = () => {
    at("name").value = name();
    return open(name());
  };
  at("opening").addEventListener("submit", (event) => {
    event.preventDefault();
    const address = new URL(location.href);
    address.searchParams.set("model", at("name").value.trim() || "models");
    history.pushState(null, "", address);
    reopen();
  });
  at("writing").addEventListener("submit", (event) => {
    event.preventDefault();
    if (document.body.dataset.state === "writing") halt = true;
    else if (model) {
      write(false);
      if (innerWidth < 800) document.querySelector(".press").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    }
  });
  at("seed").addEventListener("input", nameUnknown);
  at("seed").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("writing").requestSubmit();
  });
  at("temperature").addEventListener("input", turn);
  at("stop").addEventListener("click", () => {
    halt = true;
  });
  at("more").addEventListener("click", () => write(true));
  at("copy").addEventListener("click", copy);
  at("letters").addEventListener("click", ({ target }) => {
    if (target.place !== undefined && target.place !== null && document.body.dataset.state !== "writing") choose(target);
  });
  at("paper").addEventListener("keydown", walk);
  addEventListener("popstate", reopen);
  turn();
  if (typeof p5 !== "undefined") {
    sketch = new TypeCase(at("sketch"), still);
    const refresh = () => sketch.refresh();
    addEventListener("resize", refresh);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
    document.fonts.ready.then(refresh);
  }
  reopen();
}

start();
