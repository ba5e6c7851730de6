// The chosen run: what it is, where its time went, its media and curves, its log; files and details behind tabs.

import { Actions } from "./actions.js";
import { Charts } from "./charts.js";
import { age, duration, el, fill, glyph, money, number as shown, stamp, tick } from "./dom.js";
import { details } from "./info.js";
import { stateOf, title } from "./list.js";
import { Log } from "./log.js";
import { isFinal, store } from "./state.js";

export const TABS = [
  ["", "Overview"],
  ["log", "Log"],
  ["charts", "Charts"],
  ["files", "Files"],
  ["details", "Details"],
];
const SETTLE = 100; // milliseconds for which a run is chosen before the server is asked about it: j j j asks once

export class RunView {
  #info;
  #isOpen = true;
  #lost = null; // why its machine can't be asked
  #seen = null; // when it was asked last, in seconds
  #phases = [];
  #loaded = {}; // parts whose code comes on use
  #timer = 0;
  #ends;

  /** `open(path)` shows another address. */
  constructor(element, number, open) {
    this.number = number;
    this.at = build(element);
    this.actions = new Actions(this.at.actions, number, open);
    this.log = new Log(this.at.log, number);
    this.charts = new Charts(this.at.charts, number);
    this.#info = store.infos.get(number) || null;
    store.unfollow();
    this.#ends = [
      store.on("rows", () => this.#row()),
      store.on("run", () => this.#ask(false)),
      store.on("points", (said) => this.charts.update(said)),
      store.on("lost", ({ message }) => this.#lose(message)),
      store.on("back", () => (this.#lose(null), this.#ask(false))),
      tick(() => this.#time()),
    ];
    if (this.#info) this.#fill();
    else this.#row();
    this.#ask(true);
  }

  close() {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    for (const end of this.#ends) end();
    for (const part of [this.log, this.charts, ...Object.values(this.#loaded)]) part?.close();
  }

  /** Put the keyboard into the search of the log. */
  search() {
    if (!this.log.query.offsetParent) location.hash = "log";
    this.log.query.select();
  }

  showTab(name) {
    const tab = TABS.some(([each]) => each === name) ? name : "";
    for (const link of this.at.tabs.children) link.toggleAttribute("aria-current", link.dataset.tab === tab);
    this.at.body.dataset.tab = tab;
    if (tab === "files") this.#load("files");
  }

  /** Ask for the details in a moment; the first time, also for the log, and let the stream go on from there. */
  #ask(first) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fetch(first).catch((failure) => this.#isOpen && this.#lose(failure.message)), this.#timer && !first ? 2 * SETTLE : SETTLE);
  }

  async #fetch(first) {
    const end = first && this.log.end().catch(() => undefined);
    try {
      this.#info = await store.info(this.number);
      if (this.#isOpen) this.#fill();
    } finally {
      if (first && this.#isOpen && store.rows.has(this.number)) store.follow(this.number, await end);
    }
    if (first && this.#isOpen) this.#load("media");
  }

  async #load(part) {
    if (part in this.#loaded) return;
    this.#loaded[part] = null;
    const module = await import(`./${part}.js`);
    if (this.#isOpen) this.#loaded[part] = module[part](this.at[part], this.number);
  }

  #fill() {
    this.#row();
    fill(this.at.details, details(this.#info));
  }

  #row() {
    const row = store.rows.get(this.number);
    if (!row) return;
    this.actions.update(row);
    fill(this.at.heading, [el("span.number", {}, row.number), " ", title(row)]);
    fill(this.at.description, row.description);
    fill(this.at.command, title(row) !== row.command.trim() && row.command);
    fill(this.at.about, about(row, this.#info));
    fill(this.at.remark, row.remark);
    fill(this.at.alerts, alerts(row).map((text) => el("li", {}, text)));
    this.#loaded.media?.update?.(row);
    this.#showPhases(row);
    this.#lose(this.#lost);
  }

  /** Say what the page does not know, and since when it does not. */
  #lose(message) {
    this.#lost = message;
    const why = message || store.rows.get(this.number)?.unreached;
    if (!why) this.#seen = Date.now() / 1000;
    fill(this.at.lost, why && [why, "; this is as it was ", this.#seen ? age(this.#seen, " ago") : "last seen"]);
  }

  #showPhases(row) {
    const phases = this.#info?.phases?.length ? this.#info.phases : roughly(row);
    const bar = ({ state }) => el(`div.phase.${state}`, {}, el("span.bar"), el("span.room"), el("span.word", {}, state, " ", el("b")));
    this.#phases = phases.map((phase) => ({ ...phase, bar: bar(phase) }));
    fill(this.at.phases, this.#phases.map((phase) => phase.bar));
    this.#time();
  }

  #time() {
    const now = Date.now() / 1000;
    if (!this.at.lost.textContent) this.#seen &&= now;
    const { step, total } = store.rows.get(this.number)?.progress || {};
    for (const { state, start, end, bar } of this.#phases) {
      const seconds = Math.max(0, (end || now) - start);
      bar.style.flexGrow = Math.max(seconds, 0.01);
      bar.title = `${state} for ${duration(seconds)}, from ${stamp(start)}${end ? ` to ${stamp(end)}` : ""}`;
      bar.classList.toggle("open", !end);
      bar.firstChild.style.setProperty("--share", state === "running" && !end && total > 0 ? Math.min(1, step / total) : 1);
      bar.querySelector("b").textContent = duration(seconds);
    }
  }
}

function build(element) {
  const at = {
    heading: el("h1"),
    description: el("p.note"),
    command: el("pre.command"),
    about: el("p.about"),
    actions: el("div.actions", { role: "group", "aria-label": "Actions" }),
    remark: el("p.remark"),
    lost: el("p.lost", { role: "status" }),
    alerts: el("ul.alerts", { "aria-label": "Alerts" }),
    phases: el("div.phases"),
  };
  const header = el("header.run", {}, el("a.back", { href: "." }, "‹ Runs"), Object.values(at));
  for (const part of ["media", "charts", "log", "files", "details"]) at[part] = el(`section.${part}`, { "aria-label": part, tabindex: /media|log/.test(part) ? null : "0" });
  const tab = ([name, word], place) => el("a", { href: `${location.pathname}#${name}`, "data-tab": name, title: `(${place + 1})` }, word);
  at.tabs = el("nav.tabs", { "aria-label": "Parts of the run" }, TABS.map(tab));
  at.body = el("div.body", {}, at.media, at.charts, at.log, at.files, at.details);
  fill(element, [header, at.tabs, at.body]).scrollTop = 0;
  return at;
}

/** The one line of what a run is. */
function about(row, info) {
  const { step, total, left, cost_left: costLeft } = row.progress || {};
  const isLive = !isFinal(row);
  const commit = info?.git?.commit;
  const words = [
    el("span.whole", {}, glyph(row.state), stateOf(row)),
    !isLive && row.state !== "complete" && row.words,
    row.exit_status ? `exit status ${row.exit_status}` : null,
    row.line || row.note,
    Number.isFinite(step) && `step ${shown(step)}${Number.isFinite(total) ? ` of ${shown(total)}` : ""}`,
    row.state === "running" && Number.isFinite(left) && `about ${duration(left)} left`,
    Number.isFinite(row.cost) && money(row.cost) + (isLive && Number.isFinite(costLeft) ? ` so far, ${money(costLeft)} more to the end` : ""),
    row.machine,
    commit && ["commit ", el("code", {}, commit.slice(0, 8)), info.diff && " and changes"],
    ...row.labels.map((label) => el("span.chip", {}, label)),
  ];
  return words.filter(Boolean).map((word, place) => [place > 0 && " · ", word]);
}

function alerts(row) {
  const { alerts: found = [], cut_at: cutAt, left_out: leftOut } = row.progress || {};
  const cut = !isFinal(row) && Number.isFinite(cutAt) && `The deadline will cut it at step ${shown(cutAt)}.`;
  const out = leftOut > 0 && `${shown(leftOut)} points or names beyond what is stored of one run were left out.`;
  return [...found, cut, out].filter(Boolean);
}

/** The phases of a run as its row tells them, until its events are known. */
function roughly({ state, created, started, ended }) {
  const waiting = { state: started ? "waiting" : state, start: created, end: started || ended };
  return started ? [waiting, { state: "running", start: started, end: ended }] : [waiting];
}
