// The chosen run: what it is, where its time went, its media and curves, its log; files and details behind tabs.

import { Actions } from "./actions.js";
import { Charts } from "./charts.js";
import { age, duration, el, fill, glyph, money, number as shownNumber, stamp, tick } from "./dom.js";
import { details } from "./info.js";
import { stateOf, title } from "./list.js";
import { Log } from "./log.js";
import { isFinal, store } from "./state.js";

const SETTLE = 100; // milliseconds for which a run is chosen before its details are asked for
const TABS = [
  ["", "Overview"],
  ["log", "Log"],
  ["charts", "Charts"],
  ["files", "Files"],
  ["details", "Details"],
];

export class RunView {
  #open = true;
  #ends = [];
  #lazy = {};
  #info = null;
  #lost = null;

  constructor(element, number, show) {
    this.number = number;
    this.parts = build();
    fill(element, Object.values(this.parts.sections));
    element.scrollTop = 0;
    this.#info = store.infos.get(number) || null;
    this.#log = new Log(this.parts.log, number);
    this.#charts = new Charts(this.parts.charts, number);
    this.actions = null;
    this.show = show;
    this.#ends = [
      store.on("rows", () => this.#row()),
      store.on("run", ({ event }) => event?.state && this.#later()),
      store.on("points", (said) => this.#points(said)),
      store.on("lost", ({ message }) => this.#answers({ message, since: Date.now() / 1000 })),
      store.on("back", () => (this.#answers(null), this.#later())),
      tick(() => this.#time()),
    ];
    store.unfollow();
    this.#row();
    if (this.#info) this.#fill();
    this.#later(true);
  }

  #log;
  #charts;
  #timer = 0;

  close() {
    this.#open = false;
    clearTimeout(this.#timer);
    for (const end of this.#ends) end();
    for (const part of [this.#log, this.#charts, ...Object.values(this.#lazy)]) part?.close?.();
  }

  search() {
    this.#log.query.select();
  }

  showTab(name) {
    const tab = TABS.some(([each]) => each === name) ? name : "";
    for (const link of this.parts.tabs.children) link.toggleAttribute("aria-current", link.dataset.tab === tab);
    this.parts.body.dataset.tab = tab;
    if (tab === "files") this.#load("files", "files.js", "files");
    if (this.#log) this.#log.shown();
  }

  get #rowNow() {
    return store.rows.get(this.number);
  }

  /** Ask for the details in a moment, unless another run is chosen until then. */
  #later(first = false) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(first).catch((failure) => this.#open && this.#failed(failure)), SETTLE);
  }

  async #ask(first) {
    const info = store.info(this.number);
    const end = first ? this.#log.end().catch(() => undefined) : null;
    this.#info = await info;
    if (!this.#open) return;
    this.#fill();
    if (first) store.follow(this.number, { log: await end, metrics: this.#info.metrics });
    if (first) this.#load("media", "media.js", "media");
  }

  #failed(failure) {
    const { status } = failure;
    this.#answers(status === 404 ? { message: `There is no run ${this.number}.` } : { message: failure.message });
    if (status !== 404) store.follow(this.number, {});
  }

  async #load(part, file, name) {
    if (this.#lazy[part]) return;
    this.#lazy[part] = {};
    const module = await import(`./${file}`);
    if (this.#open) this.#lazy[part] = module[name](this.parts[part], this.number);
  }

  #row() {
    const row = this.#rowNow;
    if (!row) return;
    if (this.actions) this.actions.update(row);
    else this.actions = new Actions(this.parts.actions, row, this.show);
    fill(this.parts.heading, [el("span.number", {}, row.number), " ", title(row)]);
    fill(this.parts.command, row.description && row.description !== row.command ? row.command : []);
    fill(this.parts.about, about(row, this.#info));
    fill(this.parts.alerts, alerts(row));
    if (row.remark) fill(this.parts.remark, row.remark);
    this.parts.remark.hidden = !row.remark;
    this.#lazy.media?.update?.(row);
    this.#bars();
    this.#answers(this.#lost);
  }

  #fill() {
    this.#row();
    fill(this.parts.details, details(this.#info));
    this.#points(this.#info);
  }

  #points({ metrics, usage, names }) {
    this.#charts.update({ metrics, usage, names });
  }

  /** Say what is not known, and since when; null: all is. */
  #answers(lost) {
    this.#lost = lost;
    const row = this.#rowNow;
    const message = lost?.message || row?.unreached;
    fill(this.parts.lost, !message ? [] : [message, lost?.since ? ["; this is as it was ", age(lost.since, " ago")] : "; this is as it was last seen"]);
    this.parts.lost.hidden = !message;
  }

  #phases = [];

  #bars() {
    const row = this.#rowNow;
    const phases = this.#info?.phases?.length ? this.#info.phases : roughly(row);
    const key = phases.map(({ state, end }) => `${state}${end}`).join();
    if (key !== this.#phases.key) {
      const bars = phases.map(({ state }) => el(`div.phase.${state}`, {}, el("span.bar", {}), el("span.word", {}, state, " ", el("b"))));
      fill(this.parts.phases, bars);
      this.#phases = phases.map((phase, place) => ({ ...phase, bar: bars[place], time: bars[place].querySelector("b") }));
      this.#phases.key = key;
    }
    this.#time();
  }

  #time() {
    const now = Date.now() / 1000;
    const [total, step] = [this.#rowNow?.progress?.total, this.#rowNow?.progress?.step];
    for (const { state, start, end, bar, time } of this.#phases) {
      const seconds = Math.max(0, (end || now) - start);
      bar.style.flexGrow = Math.max(seconds, 0.01);
      bar.title = `${state} from ${stamp(start)}${end ? ` to ${stamp(end)}` : ""}`;
      bar.classList.toggle("open", !end);
      const share = state === "running" && !end && total > 0 ? Math.min(1, step / total) : 1;
      bar.firstElementChild.style.setProperty("--share", share);
      time.textContent = duration(seconds);
    }
  }
}

function build() {
  const heading = el("h1");
  const command = el("pre.command");
  const about = el("p.about");
  const actions = el("div.actions", { role: "group", "aria-label": "Actions" });
  const phases = el("div.phases");
  const alerts = el("ul.alerts", { role: "status" });
  const lost = el("p.lost", { role: "status", hidden: true });
  const remark = el("p.remark", { hidden: true });
  const tabs = el("nav.tabs", { "aria-label": "Parts of the run" }, TABS.map(([tab, word], place) => el("a", { href: `${location.pathname}${location.search}#${tab}`, "data-tab": tab, title: `(${place + 1})` }, word)));
  const [media, charts, log, files, info] = ["media", "charts", "log", "files", "details"].map((name) => el(`section.${name}`, { "aria-label": name }));
  const body = el("div.body", {}, media, charts, log, files, info);
  const back = el("a.back", { href: "." }, "‹ Runs");
  const head = el("header.run", {}, back, heading, command, about, actions, remark, lost, alerts, phases);
  return { heading, command, about, actions, phases, alerts, lost, remark, tabs, media, charts, log, files, details: info, body, sections: [head, tabs, body] };
}

/** The one line of what a run is. */
function about(row, info) {
  const { step, total, left, cost_left: costLeft } = row.progress || {};
  const words = [
    el("span.whole", {}, glyph(row.state), stateOf(row)),
    isFinal(row) && row.state !== "complete" && [row.words, row.exit_status !== null && `exit status ${row.exit_status}`].filter(Boolean).join(", "),
    row.line,
    row.note,
    Number.isFinite(step) && `step ${shownNumber(step)}${Number.isFinite(total) ? ` of ${shownNumber(total)}` : ""}`,
    !isFinal(row) && Number.isFinite(left) && `about ${duration(left)} left`,
    Number.isFinite(row.cost) && `${money(row.cost)}${!isFinal(row) && Number.isFinite(costLeft) ? ` so far, ${money(costLeft)} more to the end` : ""}`,
    row.machine,
    commitOf(info),
    ...row.labels.map((label) => el("span.chip", {}, label)),
  ];
  return words.filter(Boolean).flatMap((word, place) => [place ? " · " : null, word]);
}

function commitOf(info) {
  const commit = info?.git?.commit;
  return commit && ["commit ", el("code", {}, commit.slice(0, 8)), info.diff && " and changes"];
}

function alerts(row) {
  const { alerts: found = [], cut_at: cutAt, left_out: leftOut } = row.progress || {};
  const cut = Number.isFinite(cutAt) && `The deadline will cut it at step ${shownNumber(cutAt)}.`;
  const out = leftOut > 0 && `${shownNumber(leftOut)} points or names beyond what is stored of one run were left out.`;
  return [...found, !isFinal(row) && cut, out].filter(Boolean).map((text) => el("li", {}, text));
}

/** The phases of a run as its row tells them, until its events are known. */
function roughly(row) {
  if (!row) return [];
  const waiting = { state: row.started ? "waiting" : row.state, start: row.created, end: row.started || row.ended };
  return [waiting, ...(row.started ? [{ state: "running", start: row.started, end: row.ended }] : [])];
}
