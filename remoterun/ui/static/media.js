// The diary of a run: pictures, sounds, films and texts of one step, on one slider for all of them.

import { el, fill, legible, number as shown } from "./dom.js";
import { fileAt, player, textOf } from "./files.js";
import { api, isFinal } from "./state.js";

const AGAIN = 10_000; // milliseconds after which a run that goes on is asked for more
const PLAY = 500; // milliseconds for which a step is shown
const THUMBS = 16;
const MOST_TILES = 24; // the others are under Files
const EXCERPT = 4000; // characters of a text
const ORDER = ["image", "video", "text", "sound"];

export function media(element, number) {
  return new Diary(element, [number]);
}

/** The diary of one run, or of several, with the same step side by side. */
export class Diary {
  #axes = []; // one for each unit
  #asked = 0;
  #known = "";

  constructor(element, runs) {
    Object.assign(this, { element, runs, closed: false });
    this.#ask();
  }

  /** The row of a run has changed: there may be more. */
  update(row) {
    if (row.state !== this.state || (!isFinal(row) && Date.now() - this.#asked > AGAIN)) this.#ask();
    this.state = row.state;
  }

  close() {
    this.closed = true;
    for (const axis of this.#axes) axis.close();
  }

  async #ask() {
    this.#asked = Date.now();
    const found = await Promise.all(this.runs.map((run) => api(`api/runs/${run}/files`).catch(() => null)));
    const groups = found.flatMap((files, place) => (files?.diary ?? []).map((group) => ({ ...group, run: this.runs[place] })));
    groups.sort((one, other) => ORDER.indexOf(one.kind) - ORDER.indexOf(other.kind) || one.name.localeCompare(other.name));
    const known = JSON.stringify(groups);
    if (this.closed || found.includes(null) || !groups.length || known === this.#known) return;
    this.#known = known;
    const before = this.#axes;
    for (const axis of before) axis.close();
    const units = Map.groupBy(groups.slice(0, MOST_TILES), ({ unit }) => unit ?? "step");
    this.#axes = [...units].map(([unit, some]) => new Axis(this.runs, unit, some, before.find((axis) => axis.unit === unit)));
    fill(this.element, this.#axes.map(({ element }) => element));
  }
}

/** The groups whose numbers count the same, and one slider for all of them. */
class Axis {
  #tiles = [];
  #at = -1;
  #playing = 0;

  /** `before`: the one in whose place it comes, where that is. */
  constructor(runs, unit, groups, before) {
    Object.assign(this, { runs, unit, element: el("div.axis") });
    this.steps = [...new Set(groups.flatMap(({ steps }) => steps.map((each) => each.step)))].sort((one, other) => one - other);
    this.#build(groups);
    const isLast = !before || before.#at === before.steps.length - 1;
    this.#go(isLast ? Infinity : this.steps.indexOf(before.steps[before.#at]));
    if (before?.#playing && !isLast) this.#play();
  }

  close() {
    clearInterval(this.#playing);
  }

  #build(groups) {
    const button = (text, name, onclick) => el("button.quiet", { "aria-label": name, title: name, onclick }, text);
    const input = { type: "range", min: 0, max: this.steps.length - 1, "aria-label": this.unit, oninput: ({ target }) => this.#go(Number(target.value)) };
    [this.slider, this.step, this.start] = [el("input", input), el("output"), button("▶", "Play or pause", () => this.#play())];
    this.#tiles = groups.map((group) => ({ ...group, content: el("div") }));
    const figures = this.#tiles.map(({ name, run, content }) => el("figure.tile", {}, content, el("figcaption", { title: name }, this.runs.length > 1 && `${run} · `, name)));
    const thumbs = groups.filter(({ kind, steps }) => kind === "image" && steps.length > 2).slice(0, 1).map((group) => this.#strip(group));
    const large = button("⤢", "As large as the screen", () => (document.fullscreenElement ? document.exitFullscreen() : this.element.parentNode.requestFullscreen()).then(() => this.slider.focus()));
    const bar = [button("‹", `The ${this.unit} before`, () => this.#go(this.#at - 1)), this.start, button("›", `The next ${this.unit}`, () => this.#go(this.#at + 1)), this.slider, this.step, large];
    fill(this.element, [el("div.media-bar", {}, bar), thumbs, el("div.tiles", {}, figures)]);
  }

  /** Small pictures of some steps of a group, to jump by. */
  #strip({ run, steps }) {
    const some = steps.filter((_, place) => place % Math.ceil(steps.length / THUMBS) === 0);
    return el("div.thumbs", {}, some.map(({ step, path }) => {
      const name = `${this.unit} ${shown(step)}`;
      const picture = el("img", { src: fileAt(`api/runs/${run}`, path), alt: "", loading: "lazy" });
      return el("button", { title: name, "aria-label": name, onclick: () => this.#go(this.steps.indexOf(step)) }, picture);
    }));
  }

  #go(place) {
    this.#at = Math.min(Math.max(place, 0), this.steps.length - 1);
    const step = this.steps[this.#at];
    this.slider.value = String(this.#at);
    this.step.textContent = `${this.unit} ${shown(step)}`;
    this.slider.setAttribute("aria-valuetext", this.step.textContent);
    for (const tile of this.#tiles) show(tile, step);
  }

  #play() {
    const starts = !this.#playing;
    const isLast = () => this.#at === this.steps.length - 1;
    if (starts && isLast()) this.#go(0);
    clearInterval(this.#playing);
    this.#playing = starts && setInterval(() => (isLast() ? this.#play() : this.#go(this.#at + 1)), PLAY);
    this.start.textContent = starts ? "❚❚" : "▶";
  }
}

/** Show what a group has at `step`, or had last before it. */
async function show(tile, step) {
  const path = tile.steps.filter((each) => each.step <= step).at(-1)?.path;
  if (path === tile.path) return;
  tile.path = path;
  const address = path && fileAt(`api/runs/${tile.run}`, path);
  const picture = tile.content.querySelector("img");
  if (path && picture) {
    picture.style.opacity = "0.3"; // it is of another step until this one has come
    return void Object.assign(picture, { src: address, alt: path, onload: () => picture.style.removeProperty("opacity") });
  }
  const text = () => textOf(address).then((all) => el("pre", { tabindex: "0" }, legible(all ?? "").slice(0, EXCERPT)), ({ message }) => el("p.note", {}, message));
  const content = path ? (player(address, path) ?? (await text())) : el("p.note", {}, "nothing yet");
  if (tile.path === path) fill(tile.content, content);
}
