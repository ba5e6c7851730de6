// The chosen run: what it is, where its time went, its media and curves, its log; files and details behind tabs.

import { Actions, correct } from "./actions.js";
import { Charts } from "./charts.js";
import { age, duration, el, fill, glyph, number as shown, stamp, template } from "./dom.js";
import { files } from "./files.js";
import { details } from "./info.js";
import { figure, sparkline, stateOf, title } from "./list.js";
import { Log } from "./log.js";
import { media } from "./media.js";
import { isFinal, store } from "./state.js";

const MOST_LAST = 200; // characters of the last line of a log
const SETTLE = 100; // milliseconds for which a run is chosen before the server is asked about it: j j j asks once

export class RunView {
  #isOpen = true;
  #lost = null; // why its machine can't be asked
  #seen = null; // when it was asked last, in seconds
  #known = false; // whether the list had it
  #phases = [];
  #last = ""; // the last line of the log of a run that failed
  #timer = 0;
  #ends;

  /** `open(path)` shows another address. */
  constructor(element, number, open) {
    Object.assign(this, { element, number, at: template(element, "run-view") });
    element.scrollTop = 0;
    this.actions = new Actions(this.at.actions, number, open);
    this.log = new Log(this.at.log, number);
    const clock = setInterval(() => this.#time(), 1000);
    this.#ends = [
      store.on("rows", () => this.#row()),
      store.on("run", () => this.#ask()),
      store.on("points", (said) => this.charts?.update(said)),
      store.on("lost", ({ message }) => this.#lose(message)),
      store.on("back", () => (this.#lose(null), this.#ask())),
      () => clearInterval(clock),
    ];
    this.#row();
    this.#details();
    this.#timer = setTimeout(() => this.#start(), SETTLE);
  }

  close() {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    for (const end of this.#ends) end();
    for (const part of [this.log, this.charts, this.media, this.files]) part?.close();
  }

  /** Put the keyboard into the search of the log. */
  search() {
    if (!this.log.at.query.offsetParent) location.hash = "log";
    this.log.at.query.select();
  }

  /** Show a part of the run, and in its log the line that begins at byte N: `log:N`. */
  showTab(place) {
    const [name, line] = place.split(":");
    if (line && this.charts && (Number(line) || 0) !== this.log.linked) this.log.jump(Number(line) || 0).catch(() => {});
    const links = [...this.at.tabs.children];
    const chosen = links.find((link) => link.dataset.tab === name) || links[0];
    for (const link of links) {
      link.href = `${location.pathname}${location.search}#${link.dataset.tab}`;
      link.toggleAttribute("aria-current", link === chosen);
    }
    this.at.body.dataset.tab = chosen.dataset.tab;
    if (chosen.dataset.tab === "files") this.files ??= files(this.at.files, this.number);
  }

  /** Ask for all of it, and let the stream go on from there. */
  async #start() {
    this.charts = new Charts(this.at.charts, this.number);
    const [, line] = location.hash.split(":");
    const shown = line ? this.log.jump(Number(line) || 0) : this.log.end();
    const [, log] = await Promise.all([this.#ask(), shown.catch(() => undefined)]);
    if (!this.#isOpen) return;
    this.charts.loaded.then(() => this.charts.element.hidden && this.at.charts.append(...remains(store.rows.get(this.number))));
    this.#row();
    if (store.rows.has(this.number)) store.follow(this.number, log);
    this.media = media(this.at.media, this.number);
  }

  async #ask() {
    try {
      await store.info(this.number);
      if (this.#isOpen) this.#details();
    } catch (failure) {
      if (!this.#isOpen) return;
      if (failure.status !== 404 || store.rows.has(this.number)) return this.#lose(failure.message);
      this.#gone();
    }
  }

  #gone() {
    this.close();
    fill(this.element, el("p.empty", { role: "alert" }, `There is no run ${this.number}.`));
  }

  #details() {
    const info = store.infos.get(this.number);
    if (!info) return;
    fill(this.at.details, details(info));
    this.log.offer(Boolean(info.spec?.split));
  }

  #row() {
    const row = store.rows.get(this.number);
    if (!row && this.#known) this.#gone();
    if (!row) return;
    this.#known = true;
    const info = store.infos.get(this.number);
    this.actions.update(row);
    fill(this.at.heading, el("span.number", {}, row.number), " ", title(row));
    fill(this.at.description, row.description);
    fill(this.at.command, title(row) !== row.command.trim() && row.command);
    if (row.state === "failed") this.#last ||= this.log.at.lines.lastElementChild?.lastElementChild?.textContent.slice(0, MOST_LAST) ?? "";
    this.log.at.lines.dataset.none = isFinal(row) ? "Nothing was printed." : "Nothing was printed yet.";
    fill(this.at.about, about(row, info, this.#last));
    fill(this.at.remark, row.remark);
    const name = el("button.quiet", { onclick: () => correct(this.number, () => this.charts.update(null)) }, "Name them…");
    const unread = row.progress?.unread > 0 && el("li", {}, `${row.progress.unread} numbers a line, in which no metric was found. `, name);
    fill(this.at.alerts, alerts(row, info).map((text) => el("li", {}, text)), unread);
    this.media?.update(row);
    this.#phases = (info?.phases || []).map((phase) => ({ ...phase, bar: phaseBar(phase) }));
    fill(this.at.phases, this.#phases.map(({ bar }) => bar));
    this.#time();
    this.#lose(this.#lost);
  }

  /** Say what the page does not know, and since when it does not. */
  #lose(message) {
    this.#lost = message;
    const why = message || store.rows.get(this.number)?.unreached;
    if (!why) this.#seen = Date.now() / 1000;
    fill(this.at.lost, why && [why, "; this is as it was ", this.#seen ? age(this.#seen, " ago") : "last seen"]);
  }

  #time() {
    const now = Date.now() / 1000;
    if (!this.at.lost.textContent) this.#seen &&= now;
    const { step, total } = store.rows.get(this.number)?.progress || {};
    for (const { state, start, end, bar } of this.#phases) {
      const seconds = Math.max(0, (end || now) - start);
      bar.style.flexGrow = Math.max(seconds, 0.01);
      bar.title = `${state} for ${duration(seconds)}, from ${stamp(start)}${end ? ` to ${stamp(end)}` : ""}`;
      bar.style.setProperty("--share", state === "running" && !end && total > 0 ? Math.min(1, step / total) : 1);
      bar.querySelector("b").textContent = duration(seconds);
    }
  }
}

/** What stays known of the curves of a run, in the place of their points. */
function remains(row) {
  if (!row?.progress?.series.length) return [];
  const why = isFinal(row) ? "The points of these curves are gone; their values were" : "The points of these curves can’t be read now; their values are";
  const head = ["", "first", "last", "best", ""].map((word) => (word ? el("th", { scope: "col" }, word) : el("td")));
  const lines = row.progress.series.map(({ name, first, last, best, spark }) =>
    el("tr", {}, el("th", { scope: "row" }, name), [first, last, best].map((value) => el("td", {}, shown(value))), el("td", {}, sparkline(spark || []))));
  return [el("div.remains", {}, el("p.note", {}, why), el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, lines)))];
}

function phaseBar({ state }) {
  return el(`div.phase.${state}`, {}, el("span.bar"), el("span.room"), el("span.word", {}, state, " ", el("b")));
}

/** The one line of what a run is. */
function about(row, info, last) {
  const { step, total } = row.progress || {};
  const commit = info?.git?.commit;
  const words = [
    el("span.whole", {}, glyph(row.state), stateOf(row)),
    row.why,
    row.note,
    last && el("code", { title: "The last line of the log" }, last),
    Number.isFinite(step) && `step ${shown(step)}${Number.isFinite(total) ? ` of ${shown(total)}` : ""}`,
    ...row.figures.map(figure),
    row.machine,
    commit && ["commit ", el("code", {}, commit.slice(0, 8)), info.diff && " and changes"],
    ...row.labels.map((label) => el("span.chip", {}, label)),
  ];
  return words.filter(Boolean).map((word, place) => [place > 0 && " · ", word]);
}

function alerts(row, info) {
  const { alerts: found = [], left_out: leftOut } = row.progress || {};
  const cutAt = info?.cut_at ?? row.progress?.cut_at; // a time limit is known of the chosen run only
  const cut = !isFinal(row) && Number.isFinite(cutAt) && `The deadline will cut it at step ${shown(cutAt)}.`;
  const out = leftOut > 0 && `${shown(leftOut)} points or names were left out: more than are stored of one run, or read at its end.`;
  return [...found, cut, out].filter(Boolean);
}
