// The diary of a run: pictures, sounds, films and texts of one step, on one slider for all of them.

import { el, fill, number as shown } from "./dom.js";
import { fileAt, player, textOf } from "./files.js";
import { api, isFinal } from "./state.js";

const AGAIN = 10_000; // milliseconds after which a run that goes on is asked for more
const PLAY = 500;
const THUMBS = 16;
const MOST_TILES = 24;
const EXCERPT = 4000; // characters of a text

export function media(element, number) {
  return new Diary(element, [number]);
}

/** The diary of one run, or of several, the same step side by side. */
export class Diary {
  #tiles = [];
  #steps = [];
  #at = -1;
  #asked = 0;
  #state = "";
  #playing = 0;

  constructor(element, runs) {
    Object.assign(this, { element, runs, closed: false });
    element.addEventListener("keydown", (event) => this.#key(event));
    this.#ask();
  }

  /** The row of a run has changed. */
  update(row) {
    if (row.state === this.#state && (isFinal(row) || Date.now() - this.#asked < AGAIN)) return;
    this.#state = row.state;
    this.#ask();
  }

  close() {
    this.closed = true;
    clearInterval(this.#playing);
  }

  async #ask() {
    this.#asked = Date.now();
    const found = await Promise.all(this.runs.map((run) => api(`api/runs/${run}/files`).catch(() => null)));
    if (this.closed || found.includes(null)) return;
    const groups = found.flatMap(({ diary }, place) => diary.map((group) => ({ ...group, run: this.runs[place] })));
    const steps = [...new Set(groups.flatMap((group) => group.steps.map(({ step }) => step)))].sort((one, other) => one - other);
    const names = [...new Set(groups.map(({ name }) => name))];
    groups.sort((one, other) => names.indexOf(one.name) - names.indexOf(other.name));
    if (!groups.length || JSON.stringify(groups) === this.said) return;
    this.said = JSON.stringify(groups);
    const atEnd = this.#at === this.#steps.length - 1;
    const step = this.#steps[this.#at];
    this.#steps = steps;
    this.#build(groups);
    this.#go(atEnd ? steps.length - 1 : Math.max(0, steps.indexOf(step)));
  }

  #build(groups) {
    const move = (by) => () => this.#go(this.#at + by);
    this.slider = el("input", { type: "range", min: 0, max: this.#steps.length - 1, "aria-label": "step", oninput: ({ target }) => this.#go(Number(target.value)) });
    this.step = el("output.step");
    this.start = el("button.quiet", { onclick: () => this.#play(), "aria-label": "Play" }, "▶");
    const bar = el("div.media-bar", { hidden: this.#steps.length < 2 }, el("button.quiet", { onclick: move(-1), "aria-label": "The step before" }, "‹"), this.start,
      el("button.quiet", { onclick: move(1), "aria-label": "The next step" }, "›"), this.slider, this.step);
    this.#tiles = groups.slice(0, MOST_TILES).map((group) => ({ ...group, ...this.#tile(group) }));
    const more = groups.length > MOST_TILES && el("p.note", {}, `${groups.length - MOST_TILES} more under Files`);
    fill(this.element, [bar, this.#strip(groups), el("div.tiles", {}, this.#tiles.map(({ figure }) => figure), more)]);
  }

  #tile(group) {
    const caption = el("figcaption", { title: group.name }, this.runs.length > 1 && el("b", {}, `${group.run} `), group.name);
    const content = el("div");
    const large = el("button.quiet", { "aria-label": `${group.name}, large`, onclick: () => (document.fullscreenElement ? document.exitFullscreen() : figure.requestFullscreen()) }, "⤢");
    const figure = el("figure.tile", {}, content, el("div", {}, caption, large));
    return { content, figure };
  }

  /** Small pictures of the first group of pictures, to jump by. */
  #strip(groups) {
    const group = groups.find(({ kind, steps }) => kind === "image" && steps.length > 2);
    if (!group) return null;
    const count = Math.min(THUMBS, group.steps.length);
    const chosen = Array.from({ length: count }, (_, place) => group.steps[Math.round((place * (group.steps.length - 1)) / (count - 1))]);
    this.thumbs = el("div.thumbs", {}, chosen.map(({ step, path }) => {
      const picture = el("img", { src: fileAt(`api/runs/${group.run}`, path), alt: "", loading: "lazy", decoding: "async" });
      return el("button", { "data-step": step, title: `step ${shown(step)}`, "aria-label": `step ${shown(step)}`, onclick: () => this.#go(this.#steps.indexOf(step)) }, picture);
    }));
    return this.thumbs;
  }

  #go(place) {
    this.#at = Math.min(Math.max(place, 0), this.#steps.length - 1);
    const step = this.#steps[this.#at];
    this.slider.value = String(this.#at);
    this.slider.setAttribute("aria-valuetext", `step ${shown(step)}`);
    this.step.textContent = `step ${shown(step)}`;
    for (const tile of this.#tiles) show(tile, step);
    const thumbs = [...(this.thumbs?.children ?? [])];
    const near = thumbs.filter((thumb) => Number(thumb.dataset.step) <= step).at(-1);
    for (const thumb of thumbs) thumb.toggleAttribute("aria-current", thumb === near);
  }

  /** The arrows go from step to step, also while a picture fills the screen. */
  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || ["INPUT", "AUDIO", "VIDEO"].includes(event.target.tagName)) return;
    event.preventDefault();
    event.stopPropagation();
    this.#go(this.#at + by);
  }

  #play() {
    const stops = this.#playing !== 0;
    clearInterval(this.#playing);
    fill(this.start, stops ? "▶" : "❚❚");
    this.start.setAttribute("aria-label", stops ? "Play" : "Pause");
    if (!stops && this.#at === this.#steps.length - 1) this.#go(0);
    this.#playing = stops ? 0 : setInterval(() => (this.#at < this.#steps.length - 1 ? this.#go(this.#at + 1) : this.#play()), PLAY);
  }
}

/** Show what a group has at `step`, or last before it. */
function show(tile, step) {
  const entry = tile.steps.filter((each) => each.step <= step).at(-1);
  if (entry?.path === tile.path) return;
  tile.path = entry?.path;
  if (!entry) return fill(tile.content, el("p.note", {}, "nothing yet"));
  const address = fileAt(`api/runs/${tile.run}`, entry.path);
  const { firstElementChild: before } = tile.content;
  if (before?.src && tile.kind === "image") return Object.assign(before, { src: address, alt: entry.path });
  const playing = player(address, entry.path);
  if (playing) return fill(tile.content, playing);
  return textOf(address).then(
    (text) => tile.path === entry.path && fill(tile.content, el("pre", { tabindex: 0 }, (text ?? "").slice(0, EXCERPT))),
    (failure) => fill(tile.content, el("p.note", {}, failure.message)),
  );
}
