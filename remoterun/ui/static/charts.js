// The charts of one run, or of several over each other: their points, their order, and what a person sets of all of them.

import { correct } from "./actions.js";
import { Chart, UNITS } from "./chart.js";
import { Points, epochsOf, paired, ranked } from "./curve.js";
import { el, fill } from "./dom.js";
import { api, raw, set, setting } from "./state.js";

const FEW = 3000; // points of a run in the first picture of several
const SETTLE = 250; // milliseconds from picture to picture while points are still arriving, or from address to address
const MANY = 6; // charts from which on they can be searched
const USAGE = Object.keys(UNITS);
const FILES = { usage: "usage", metrics: "points" }; // the usage first: it begins with the command, so times count from there
const AXES = ["step", "time", "epoch", "clock"];
const EPOCH = /(^|[/_])epochs?$/i; // the series that says the epoch of steps
const SEED = /seed|random_?state/i; // parameters in which runs may differ that are one experiment
const word = { read: (text) => text, write: (text) => text };
const list = { read: (text) => text.split("\n").filter(Boolean), write: (names) => names.join("\n") };
const flag = { read: (text) => text === "1", write: (isOn) => isOn && "1" };
const SETTINGS = { // what the address says of charts
  find: word, chart: word, pin: list, hide: list, fold: list, with: list, off: list, log: flag, out: flag, mean: flag,
  x: { read: (text) => AXES.find((each) => each === text) ?? "step", write: (x) => x !== "step" && x },
  smooth: { read: (text) => Math.min(0.99, Math.max(0, Number(text) || 0)), write: (share) => share && String(share) },
  zoom: { read: readZoom, write: (zoom) => zoom && [zoom.axis, zoom.from.toPrecision(12), zoom.to.toPrecision(12)].map((part) => (Number(part) || part)).join(":") },
};

/** The charts of a run, or of several, by their numbers. They fetch their points, and more after each `update`. */
export class Charts {
  view = { ...each((form, name) => form.read(setting(name))), cursor: null, lit: null }; // zoom: {axis, from, to}; cursor: {axis, x}; lit: the line that stands out
  said = el("p.unseen", { role: "status" });
  names = []; // of all series of metrics
  groups = []; // the numbers of runs that differ in their seed only
  #charts = new Map(); // by the name in the address
  #heads = new Map(); // of groups, by what their names begin with
  #seen = new Set();
  #frame = 0;
  #stale = true;
  #changedAt = 0;
  #unsaved = null; // settings that the address does not have yet, and the timer
  #grid = el("div.chart-grid");
  #menu = el("div.menu", { popover: "auto", onkeydown: throughMenu });
  #watch = new IntersectionObserver((entries) => this.#appeared(entries), { rootMargin: "150px" });
  #sizes = new ResizeObserver(() => this.draw());
  #dark = matchMedia("(prefers-color-scheme: dark)");
  #escape = (event) => {
    if (event.key !== "Escape" || !this.large || !this.element.offsetParent || document.querySelector(":popover-open, dialog[open]")) return;
    event.stopPropagation();
    this.enlarge("");
  };

  constructor(element, runs) {
    this.runs = [runs].flat().map((number) => ({ number, label: `run ${number}`, names: [], ...noPoints() }));
    this.element = el("div", { hidden: true }, this.#controls(), this.#grid, this.#menu, this.said);
    fill(element, this.element);
    addEventListener("keydown", this.#escape, true);
    this.#sizes.observe(this.#grid);
    this.#dark.onchange = () => this.draw();
    this.loaded = this.#sketch().then(() => Promise.all(this.runs.map((run) => this.update(null, run.number))));
  }

  /** What a `points` event says of a run: how many bytes there are, and names; null: ask for it. */
  async update(event, of = this.runs[0].number) {
    const run = this.runs.find((each) => each.number === of);
    run.ends = event ?? {};
    if (Array.isArray(event?.names)) run.names = event.names;
    if (run.busy) return;
    run.busy = true;
    try {
      const isUnknown = event === null || event.metrics < run.metrics.bytes;
      await Promise.all([isUnknown && this.#ask(run), this.#fetch(run)]);
      if (run.metrics.series.length > run.names.length) await this.#ask(run).then(() => this.#fetch(run));
    } catch {
      // The page says that the machine, or the server, can't be reached; the next event goes on from where this ended.
    } finally {
      run.busy = false;
      this.#changed();
    }
  }

  /** Of several runs, first one picture of few points each: to fetch all of them may take seconds. */
  async #sketch() {
    if (this.runs.length === 1) return;
    const few = async (run) => {
      run.busy = true;
      const [answer] = await Promise.all([raw(`api/runs/${run.number}/points?from=0&most=${FEW}`), this.#ask(run)]);
      run.metrics.add(await answer.arrayBuffer());
      run.metrics.bytes = 0; // all of them take their place
    };
    await Promise.allSettled(this.runs.map(few));
    for (const run of this.runs) run.busy = false;
    this.#changed();
  }

  /** The parameters of the runs: name → a value of each. Runs that differ in a seed only can be shown as their mean. */
  compared(params) {
    const alike = Map.groupBy(this.runs.keys(), (place) => JSON.stringify(Object.entries(params).map(([name, values]) => SEED.test(name) || values[place])));
    this.groups = [...alike.values()].filter((places) => places.length > 1).map((places) => places.map((place) => this.runs[place].number));
    this.#arrange();
  }

  close() {
    this.closed = true;
    this.#save();
    removeEventListener("keydown", this.#escape, true);
    this.#dark.onchange = null;
    for (const observer of [this.#watch, this.#sizes]) observer.disconnect();
    this.element.remove();
  }

  /** Draw what is in view, once a frame; or the cursor alone. */
  draw(cursorOnly = false) {
    this.#stale ||= !cursorOnly;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.closed) return;
      const { ink } = this;
      const places = [...this.#seen].map((chart) => [chart, chart.plot.clientWidth, chart.plot.clientHeight]);
      for (const [chart, width, height] of places) if (width && (this.#stale || !chart.point())) chart.draw(width, height, ink);
      this.#stale = false;
    });
  }

  /** The colours of the page as it is now, and its font. */
  get ink() {
    const style = getComputedStyle(this.#grid);
    return { colour: (name) => style.getPropertyValue(name).trim() || "gray", font: style.fontFamily };
  }

  /** Set what all charts show; what a person set, and not where the mouse is, goes into the address. */
  set(changes) {
    Object.assign(this.view, changes);
    if (Object.keys(changes).some((name) => name in SETTINGS)) {
      this.#unsaved ??= setTimeout(() => this.#save(), SETTLE); // a wheel sets a hundred a second
      this.#arrange();
    }
    this.draw(Object.keys(changes).every((name) => name === "cursor"));
  }

  /** Put a name into one of the lists of settings, or take it out. */
  toggle(list, name) {
    const names = this.view[list];
    this.set({ [list]: names.includes(name) ? names.filter((each) => each !== name) : [...names, name] });
  }

  /** The chart on the whole pane. */
  get large() {
    return this.#charts.get(this.view.chart);
  }

  /** Show one chart on the whole pane; or all again. */
  enlarge(key) {
    const { large: before } = this;
    this.set({ chart: key });
    (this.large?.canvas ?? before?.larger)?.focus();
  }

  /** The points of a series of a run along an axis; undefined: it has none. */
  line(run, file, name, axis) {
    const series = run[file].series[(file === "usage" ? USAGE : run.names).lastIndexOf(name)];
    if (!series || axis === "step" || axis === "time") return series?.[axis].settle();
    if (axis === "clock") return series.time.settle().moved(axis, (seconds) => seconds + run.start.time);
    const { step } = run.metrics.series[run.names.findLastIndex((each) => EPOCH.test(each))] ?? {};
    if (step && run.epochs?.known !== step.count) run.epochs = { known: step.count, ...epochsOf(step.settle()) };
    return run.epochs?.at && series.step.settle().moved(`epoch ${run.epochs.count}`, run.epochs.at);
  }

  async #ask(run) {
    const before = run.metrics.bytes;
    run.ends = await api(`api/runs/${run.number}/names`);
    run.names = run.ends.names;
    if (run.ends.metrics < before) Object.assign(run, noPoints()); // it began anew, or goes on elsewhere
  }

  async #fetch(run) {
    for (const [file, path] of Object.entries(FILES)) {
      while (!this.closed && !(run[file].bytes >= run.ends[file])) {
        const got = await (await raw(`api/runs/${run.number}/${path}?from=${run[file].bytes}`)).arrayBuffer();
        if (!got.byteLength) break;
        if (!run[file].bytes) run[file] = new Points(run.start);
        run[file].add(got);
        this.#changed();
      }
    }
  }

  /** There are more points, or names. */
  #changed() {
    const now = performance.now();
    if (this.closed || (now - this.#changedAt < SETTLE && this.runs.some((run) => run.busy))) return;
    this.#changedAt = now;
    const isKnown = (run) => (name) => run.metrics.series[run.names.lastIndexOf(name)]; // a name that is there again was withdrawn
    const metrics = new Set(this.runs.flatMap((run) => run.names.filter(isKnown(run))));
    const usage = USAGE.filter((_, index) => this.runs.some((run) => run.usage.series[index]));
    const all = [...paired(ranked(metrics)), ...usage.map((name) => [`usage:${name}`, [name]])];
    for (const [key, names] of all) {
      if (!this.#charts.has(key)) this.#charts.set(key, new Chart(this, key, key === `usage:${names[0]}` ? "usage" : "metrics"));
      this.#charts.get(key).setNames(names);
      this.#watch.observe(this.#charts.get(key).element);
    }
    this.#charts = new Map(all.map(([key]) => [key, this.#charts.get(key)]));
    this.names = [...metrics];
    this.element.hidden = all.length === 0;
    this.#arrange();
    this.draw();
  }

  /** Put the charts into their order: pinned ones, those of no group, groups; hide what is not asked for. */
  #arrange() {
    const { view, large } = this;
    const isPinned = ({ key }) => view.pin.includes(key);
    const charts = [...this.#charts.values()].sort((one, other) => isPinned(other) - isPinned(one));
    const words = view.find.toLowerCase().split(/\s+/);
    const isFound = ({ names }) => words.every((word) => names.some((name) => name.toLowerCase().includes(word)));
    const isShown = (chart) => (large ? chart === large : !view.hide.includes(chart.key) && isFound(chart));
    const alike = Map.groupBy(charts, ({ group }) => group);
    const groups = Map.groupBy(charts, (chart) => (isPinned(chart) || alike.size < 3 || alike.get(chart.group).length === 1 ? "" : chart.group));
    const order = groups.get("") ?? [];
    groups.delete("");
    for (const chart of charts) chart.element.hidden = !isShown(chart);
    for (const [name, members] of groups) {
      const isFolded = view.fold.includes(name) && !view.find && !large;
      order.push({ element: this.#head(name, large ? 0 : members.filter(isShown).length, isFolded) }, ...members);
      if (isFolded) for (const { element } of members) element.hidden = true;
    }
    const { activeElement: focused } = document;
    order.forEach(({ element }, place) => this.#grid.children[place] !== element && this.#grid.insertBefore(element, this.#grid.children[place] ?? null));
    while (this.#grid.children.length > order.length) this.#grid.lastChild.remove();
    if (focused !== document.activeElement) focused.focus(); // it was moved
    for (const chart of charts) chart.arranged(isPinned(chart), chart === large, groups.get(chart.group)?.includes(chart) && !large);
    this.element.classList.toggle("charts-one", Boolean(large));
    this.#bar(charts, isFound);
  }

  #head(name, count, isFolded) {
    if (!this.#heads.has(name)) this.#heads.set(name, el("h2.chart-group", {}, el("button", { onclick: () => this.toggle("fold", name) }, el("b", {}, name), el("span"))));
    const head = this.#heads.get(name);
    head.hidden = !count;
    head.firstChild.setAttribute("aria-expanded", String(!isFolded));
    head.querySelector("span").textContent = count;
    return head;
  }

  #appeared(entries) {
    for (const { target, isIntersecting } of entries) {
      const chart = [...this.#charts.values()].find((each) => each.element === target);
      if (isIntersecting) chart && this.#seen.add(chart);
      else if (this.#seen.delete(chart)) chart.release();
    }
    this.draw();
  }

  // -- what is set of all charts

  #save() {
    if (this.#unsaved) set(each((form, name) => form.write(this.view[name])));
    this.#unsaved = clearTimeout(this.#unsaved);
  }

  #controls() {
    const { view } = this;
    const choice = (name, text, title) => el("button.switch", { title, onclick: () => this.set({ [name]: !view[name] }) }, text);
    const slider = { type: "range", min: 0, max: 0.99, step: 0.01, value: String(view.smooth), oninput: ({ target }) => this.set({ smooth: Number(target.value) }) };
    const search = { type: "search", placeholder: "Find charts", "aria-label": "Find charts", value: view.find, spellcheck: "false", oninput: ({ target }) => this.set({ find: target.value }) };
    const axes = AXES.map((name) => el("option", { selected: view.x === name }, name));
    this.parts = {
      back: el("button.quiet", { onclick: () => this.enlarge("") }, `‹ All charts of ${this.runs.length > 1 ? "these runs" : this.runs[0].label}`),
      find: el("input", search),
      found: el("span", { role: "status" }),
      smooth: el("label", {}, "smooth", el("input", slider), el("b")),
      x: el("label", {}, "x", el("select", { onchange: ({ target }) => this.set({ x: target.value }) }, axes)),
      log: choice("log", "log", "A logarithmic axis of values"),
      out: choice("out", "ignore outliers", "Values far from all others do not widen the axis"),
      mean: choice("mean", "mean of seeds", "One line of runs that differ in a seed only, and their standard deviation"),
      hide: el("button.quiet", { onclick: () => this.set({ hide: [] }) }),
      correct: el("button.quiet", { title: "What is read from the log is a guess, which you can correct", onclick: () => this.#correct() }, "How the log is read…"),
      zoom: el("button", { title: "0, Escape, or a double click", onclick: () => this.set({ zoom: null }) }, "Show the whole"),
    };
    return el("div.charts-bar", {}, Object.values(this.parts));
  }

  #bar(charts, isFound) {
    const { view, parts, large } = this;
    const hidden = charts.filter(({ key }) => view.hide.includes(key)).length;
    parts.smooth.lastChild.textContent = view.smooth.toFixed(2);
    parts.hide.textContent = `${hidden} hidden: show`;
    parts.found.textContent = `${charts.filter(isFound).length} of ${charts.length}`;
    for (const name of ["log", "out", "mean"]) parts[name].setAttribute("aria-pressed", String(view[name]));
    const shown = { back: large, find: !large && (view.find || charts.length > MANY), found: !large && view.find, hide: !large && hidden, mean: this.groups.length, zoom: view.zoom, correct: this.runs.length === 1 && !large };
    for (const [name, isShown] of Object.entries(shown)) parts[name].hidden = !isShown;
    parts.x.lastChild.children[2].hidden = view.x !== "epoch" && !this.names.some((name) => EPOCH.test(name));
  }

  #correct(names) {
    correct(this.runs[0].number, () => this.update(null), names);
  }

  /** The menu of a chart, below its button. */
  menu(chart, button) {
    const item = (text, act) => el("button", { onclick: () => (this.#menu.hidePopover(), act()) }, text);
    const save = (form) => item(`Save as ${form.toUpperCase()}`, () => import("./pen.js").then((pen) => pen.save(chart, form)));
    const isLarge = chart === this.large;
    const pin = item(this.view.pin.includes(chart.key) ? "Unpin" : "Pin: show it first", () => this.toggle("pin", chart.key));
    const hide = !isLarge && item("Hide", () => this.toggle("hide", chart.key));
    const no = this.runs.length === 1 && chart.file === "metrics" && item("Not a metric…", () => this.#correct(chart.names));
    const add = chart.file === "metrics" && this.names.length > chart.names.length && item("Put another metric in…", () => (this.enlarge(chart.key), chart.addOne()));
    fill(this.#menu, item(isLarge ? "All charts" : "Enlarge", () => chart.larger.click()), add, pin, hide, no, ["png", "svg", "csv"].map(save));
    this.#menu.showPopover();
    const { left, bottom } = button.getBoundingClientRect();
    const { width, height } = this.#menu.getBoundingClientRect();
    this.#menu.style.translate = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px ${Math.max(4, Math.min(bottom, innerHeight - height - 4))}px`;
    this.#menu.firstChild.focus();
  }
}

function noPoints() {
  const start = { time: null };
  return { start, usage: new Points(start), metrics: new Points(start), ends: {}, epochs: null };
}

function each(make) {
  return Object.fromEntries(Object.entries(SETTINGS).map(([name, form]) => [name, make(form, name)]));
}

/** Arrows, Home and End go from button to button of a menu. */
function throughMenu(event) {
  const buttons = [...event.currentTarget.children];
  const place = buttons.indexOf(document.activeElement);
  const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: -1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  buttons.at(next % buttons.length).focus();
}

function readZoom(text) {
  const [axis, from, to] = text.split(":").map((part, place) => (place ? Number(part) : part));
  return from < to ? { axis, from, to } : null;
}
