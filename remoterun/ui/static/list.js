// The list of runs: only the rows that are seen are in the page, so thousands cost as much as twenty.

import { age, duration, el, fill, glyph, money, number } from "./dom.js";
import { isFinal, store } from "./state.js";

const LOW = 52; // pixels of a row
const HIGH = 74; // of one with metrics
const SPARE = 400; // pixels above and below what is seen

export class List {
  marked = new Set();
  #rows = [];
  #tops = [0]; // where each row begins, and where the last one ends
  #shown = new Map(); // number → {row, item}
  #chosen = null;
  #drawing = 0;

  /** `onfilter(text)` is called as one types; `open(path)` shows an address. */
  constructor(element, { filter, onfilter, open }) {
    this.open = open;
    this.filter = el("input", {
      id: "filter",
      type: "search",
      value: filter,
      placeholder: "Filter: text  state:running  label:x  loss<2",
      "aria-label": "Filter the runs",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => (onfilter(this.filter.value), this.#select(), (this.scroller.scrollTop = 0)),
    });
    this.filter.value = filter;
    this.compare = el("button.primary", { hidden: true, onclick: () => this.#compare() }, "Compare");
    this.rows = el("ol", { role: "list", "aria-label": "Runs" });
    this.scroller = el("div.scroller", { onscroll: () => this.#soon() }, this.rows);
    this.foot = el("p.foot");
    fill(element, [el("div.filter", {}, this.filter, this.compare), this.scroller, this.foot]);
    new ResizeObserver(() => this.#soon()).observe(this.scroller);
    store.on("rows", () => this.#select());
    this.#select();
  }

  setFilter(text) {
    if (text === this.filter.value) return;
    this.filter.value = text;
    this.#select();
  }

  /** Mark a run as the chosen one and scroll it into view. */
  choose(chosen) {
    if (chosen === this.#chosen) return;
    this.#chosen = chosen;
    const place = this.#place;
    const [top, bottom] = [this.#tops[place], this.#tops[place + 1]];
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    if (bottom > scrollTop + clientHeight) this.scroller.scrollTop = bottom - clientHeight;
    this.#draw(true);
  }

  get #place() {
    return this.#rows.findIndex((row) => row.number === this.#chosen);
  }

  /** The number of the run that stands `by` places from the chosen one. */
  beside(by) {
    const place = this.#place;
    const next = place < 0 ? 0 : Math.max(0, Math.min(this.#rows.length - 1, place + by));
    return this.#rows[next]?.number ?? null;
  }

  /** Put the keyboard on the chosen row. */
  focus() {
    (this.rows.querySelector("[aria-current]") || this.rows.querySelector("a"))?.focus({ preventScroll: true });
  }

  mark(chosen) {
    if (chosen === null) return;
    if (!this.marked.delete(chosen)) this.marked.add(chosen);
    this.compare.hidden = this.marked.size < 2;
    this.compare.textContent = `Compare ${this.marked.size}`;
    this.#draw(true);
  }

  #compare() {
    this.open(`compare/${[...this.marked].sort((a, b) => a - b).join(",")}`);
  }

  #select() {
    const fits = matcher(this.filter.value);
    const before = this.#tops[this.#place];
    this.#rows = store.order.filter(fits);
    this.#tops = [0];
    for (const row of this.#rows) this.#tops.push(this.#tops.at(-1) + (hasMetrics(row) ? HIGH : LOW));
    this.rows.style.height = `${this.#tops.at(-1)}px`;
    const live = this.#rows.filter((row) => !isFinal(row)).length;
    const moved = this.#tops[this.#place] - before;
    if (moved && this.scroller.scrollTop) this.scroller.scrollTop += moved; // new rows above do not push away what one looks at
    const count = `${this.#rows.length.toLocaleString("en")} of ${store.rows.size.toLocaleString("en")} runs`;
    const silent = new Set(this.#rows.map((row) => row.unreached && row.machine).filter(Boolean));
    this.foot.textContent = [count, live && `${live} live`, ...[...silent].map((name) => `${name} does not answer`)].filter(Boolean).join(" · ");
    this.foot.hidden = !store.rows.size;
    this.#draw();
  }

  #soon() {
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#draw();
    });
  }

  #draw(all = false) {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, this.#tops.findIndex((top) => top >= scrollTop - SPARE));
    const seen = this.#rows.slice(first, this.#tops.findLastIndex((top) => top < scrollTop + clientHeight + SPARE) + 1);
    const focused = document.activeElement?.dataset.number;
    const shown = new Map();
    seen.forEach((row, place) => {
      const old = this.#shown.get(row.number);
      const item = old && old.row === row && !all ? old.item : this.#item(row);
      item.style.transform = `translateY(${this.#tops[first + place]}px)`;
      item.setAttribute("aria-posinset", first + place + 1);
      item.setAttribute("aria-setsize", this.#rows.length);
      shown.set(row.number, { row, item });
    });
    const items = [...shown.values()].map(({ item }) => item);
    if (items.some((item, place) => this.rows.children[place] !== item) || items.length !== this.rows.children.length)
      fill(this.rows, items.length || !store.loaded ? items : this.#empty());
    this.#shown = shown;
    if (focused) this.rows.querySelector(`a[data-number="${focused}"]`)?.focus({ preventScroll: true });
  }

  #item(row) {
    const chosen = row.number === this.#chosen;
    const marked = this.marked.has(row.number);
    return el(
      `li${chosen ? ".chosen" : ""}${marked ? ".marked" : ""}${hasMetrics(row) ? ".high" : ""}`,
      {},
      el("input", {
        type: "checkbox",
        tabindex: "-1",
        checked: marked,
        "aria-label": `Compare run ${row.number}`,
        title: "Compare (x)",
        onchange: () => this.mark(row.number),
      }),
      el(
        "a",
        { href: `runs/${row.number}`, "data-number": row.number, "aria-current": chosen && "true", tabindex: chosen ? "0" : "-1" },
        el("div.line", {}, glyph(row.state), el("span.number", {}, row.number), el("span.command", {}, title(row)), stateOf(row)),
        el("div.line.under", {}, ...under(row)),
        hasMetrics(row) && el("div.line.metrics", {}, row.progress.series.slice(0, 2).map(metric)),
      ),
    );
  }

  #empty() {
    if (store.rows.size) return el("li.empty", {}, "No run fits this filter.");
    return el("li.empty", {}, el("p", {}, "No runs yet. In a project’s folder, type"), el("code", {}, "remoterun run python train.py"));
  }
}

/** A run by its description, or else by the first line of its command. */
export function title(row) {
  return row.description || row.command.trim().split("\n", 1)[0];
}

/** The word of a state, and since when it is so. */
export function stateOf(row) {
  const word = row.stopping && !isFinal(row) ? "stopping" : row.state;
  const since = isFinal(row) ? row.ended : row.started;
  const span = el(`span.state.${row.state}`, {}, word, " ", age(since || row.created, isFinal(row) ? " ago" : ""));
  return span;
}

const hasMetrics = (row) => Boolean(row.progress?.series?.length);

function under(row) {
  const left = !isFinal(row) && row.progress?.left;
  const why = row.line || (isFinal(row) && row.state !== "complete" && row.words) || row.note || row.remark;
  return [
    row.pinned && el("span.pin", {}, "pinned"),
    el("span.where", {}, [row.machine, ...row.labels].map((word) => el("span.chip", {}, word))),
    row.unreached ? el("span.why.lost", { title: row.unreached }, "does not answer") : why && el("span.why", { title: why }, why),
    Number.isFinite(left) && el("span", { title: "until it ends" }, `${duration(left)} left`),
    Number.isFinite(row.cost) && el("span", { title: "cost so far" }, money(row.cost)),
  ];
}

function metric({ name, last, best, spark }) {
  const top = Number.isFinite(best) && el("i", {}, "best ", number(best));
  return el("span.metric", { title: name }, el("span.name", {}, name), el("b", {}, number(last)), sparkline(spark || []), top);
}

export function sparkline(values) {
  const known = values.filter(Number.isFinite);
  if (known.length < 2) return null;
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const points = values.map((value, place) =>
    Number.isFinite(value) ? `${((place / (values.length - 1)) * 40).toFixed(1)},${(13 - ((value - least) / (most - least || 1)) * 11).toFixed(1)}` : "",
  );
  return el("svg.spark", { viewBox: "0 0 40 15", "aria-hidden": "true" }, el("polyline", { points: points.filter(Boolean).join(" ") }));
}

/** Whether a row fits what was typed: words, `state:` `label:` `machine:` `is:pinned|hidden|live`, `loss<2`, each of them; `-` before one excludes. */
function matcher(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = words.map((word) => (word.length > 1 && word.startsWith("-") ? not(test(word.slice(1))) : test(word)));
  const hidden = words.includes("is:hidden");
  return (row) => Boolean(row.hidden) === hidden && tests.every((fits) => fits(row));
}

const not = (fits) => (row) => !fits(row);

const KINDS = {
  state: (row, value) => row.state.startsWith(value) || (row.stopping && value === "stopping"),
  label: (row, value) => row.labels.some((label) => label.toLowerCase().includes(value)),
  machine: (row, value) => row.machine.toLowerCase().includes(value),
  is: (row, value) => (value === "live" ? !isFinal(row) : Boolean({ pinned: row.pinned, hidden: row.hidden }[value])),
};

function test(word) {
  const [, kind, value] = word.match(/^(state|label|machine|is):(.*)$/) || [];
  if (kind) return (row) => KINDS[kind](row, value);
  const [, name, sign, limit] = word.match(/^([^<>]+)([<>])(-?[\d.]+(?:e-?\d+)?)$/) || [];
  if (name) return (row) => compares(row, name, sign, Number(limit));
  return (row) => textOf(row).includes(word);
}

function compares(row, name, sign, limit) {
  const series = (row.progress?.series || []).find((each) => each.name.toLowerCase() === name);
  if (!Number.isFinite(series?.last)) return false;
  return sign === "<" ? series.last < limit : series.last > limit;
}

const texts = new WeakMap();

function textOf(row) {
  if (!texts.has(row))
    texts.set(row, [row.number, row.state, row.command, row.description, row.machine, row.remark, ...row.labels].join("\n").toLowerCase());
  return texts.get(row);
}
