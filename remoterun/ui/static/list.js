// The list of runs: only the rows that are seen are in the page, so thousands cost as much as twenty.

import { direction, ranked } from "./curve.js";
import { age, bytes, duration, el, fill, glyph, money, number, stamp, template } from "./dom.js";
import { isFinal, set, setting, store } from "./state.js";

const LOW = 52; // pixels of a row
const HIGH = 74; // of one with metrics
const SPARE = 400; // pixels above and below what is seen

const at = (id) => document.getElementById(id);

export class List {
  filter = at("filter");
  button = at("compare");
  scroller = at("list");
  rows = at("rows");
  #rows = [];
  #tops = [0]; // where each row begins, and where the last one ends
  #items = new Map(); // key → {row, item}, of those in the page
  #opened = new Set(); // the keys of sets whose runs are shown
  #marked = new Set();
  #chosen = null;
  #frame = 0;

  /** `open(path)` shows an address. */
  constructor({ open }) {
    this.open = open;
    this.filter.value = setting("q");
    this.filter.addEventListener("input", () => (set({ q: this.filter.value }), (this.scroller.scrollTop = 0), this.#select()));
    this.button.addEventListener("click", () => this.compare());
    this.scroller.addEventListener("scroll", () => this.#soon());
    new ResizeObserver(() => this.#soon()).observe(this.scroller);
    store.on("rows", () => this.#select());
  }

  /** Mark a run as the chosen one and scroll it into view. */
  choose(chosen) {
    this.#chosen = chosen;
    this.#reveal();
    this.#draw(true);
  }

  /** The number of the run that stands `by` places from the chosen one, if there is any. */
  beside(by) {
    const place = this.#place + by;
    const at = this.#rows[place]?.open ? place + Math.sign(by) : place;
    return this.#rows[Math.max(0, Math.min(this.#rows.length - 1, at))]?.number;
  }

  /** Put the keyboard on the chosen row. */
  focus() {
    (this.rows.querySelector("[aria-current]") || this.rows.querySelector("a"))?.focus({ preventScroll: true });
  }

  mark(chosen) {
    if (!this.#marked.delete(chosen)) this.#marked.add(chosen);
    this.button.hidden = this.#marked.size < 2;
    this.button.textContent = `Compare ${this.#marked.size}`;
    this.#draw(true);
  }

  compare() {
    if (this.#marked.size > 1) this.open(`compare/${[...this.#marked].sort((a, b) => a - b).join(",")}`);
  }

  get #place() {
    return this.#rows.findIndex((row) => this.#isChosen(row));
  }

  #isChosen({ number, members, open }) {
    return members ? !open && members.some((row) => row.number === this.#chosen) : number === this.#chosen;
  }

  #reveal() {
    const [top, bottom] = [this.#tops[this.#place], this.#tops[this.#place + 1]];
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    if (bottom > scrollTop + clientHeight) this.scroller.scrollTop = bottom - clientHeight;
  }

  #select() {
    const before = this.#tops[this.#place];
    const fitting = store.order.filter(matcher(this.filter.value));
    this.#rows = this.filter.value.trim() ? fitting : folded(fitting, this.#opened);
    this.#tops = [0];
    for (const row of this.#rows) this.#tops.push(this.#tops.at(-1) + (metricsOf(row).length ? HIGH : LOW));
    this.rows.style.height = `${this.#tops.at(-1)}px`;
    if (before === undefined) this.#reveal();
    else if (this.scroller.scrollTop) this.scroller.scrollTop += (this.#tops[this.#place] ?? before) - before; // what one sees stays
    at("foot").textContent = summary(fitting);
    this.#draw();
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => ((this.#frame = 0), this.#draw()));
  }

  #draw(all = false) {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, this.#tops.findIndex((top) => top >= scrollTop - SPARE));
    const seen = this.#rows.slice(first, this.#tops.findLastIndex((top) => top < scrollTop + clientHeight + SPARE) + 1);
    const focused = this.rows.contains(document.activeElement) && document.activeElement.dataset.number;
    const items = seen.map((row, place) => {
      const old = this.#items.get(keyOf(row));
      const item = !all && old?.row === row ? old.item : row.members ? this.#set(row) : this.#item(row);
      item.style.transform = `translateY(${this.#tops[first + place]}px)`;
      item.setAttribute("aria-posinset", first + place + 1);
      item.setAttribute("aria-setsize", this.#rows.length);
      return item;
    });
    this.#items = new Map(seen.map((row, place) => [keyOf(row), { row, item: items[place] }]));
    if (items.length !== this.rows.children.length || items.some((item, place) => this.rows.children[place] !== item))
      fill(this.rows, items);
    if (!items.length && store.rows.size) fill(this.rows, el("li.empty", {}, "No run fits this filter."));
    else if (!items.length && store.loaded) template(this.rows.appendChild(el("li")), "no-runs");
    if (focused) this.rows.querySelector(`a[data-number="${focused}"]`)?.focus({ preventScroll: true });
  }

  /** A set of runs in one line, which opens. */
  #set(row) {
    const { members, open, set } = row;
    const numbers = members.map((each) => each.number);
    const ended = members.filter(isFinal);
    const failed = ended.filter((each) => each.state !== "complete").length;
    const state = ended.length < members.length ? "running" : failed ? "failed" : "complete";
    const toggle = () => (this.#opened.delete(set.key) || this.#opened.add(set.key), this.#select(), this.rows.querySelector(`[data-set="${set.key}"]`)?.focus());
    const button = { "data-set": set.key, "aria-expanded": String(open), onclick: toggle };
    const name = [set.name, Object.keys(set.params).join(" × ")].filter(Boolean).join(": ");
    const first = [glyph(state), el("span.number", {}, `${Math.min(...numbers)}–${Math.max(...numbers)}`), el("span.command", {}, name), el(`span.state.${state}`, {}, `${ended.length} of ${members.length} done`)];
    const last = [el("span.where", {}, el("span.chip", {}, row.machine)), failed > 0 && el("span", {}, `${failed} failed`), el("span.best", {}, bestOf(members))];
    return el(`li.set${this.#isChosen(row) ? ".chosen" : ""}`, {}, el("button", button, el("div.line", {}, first), el("div.line.under", {}, last)));
  }

  #item(row) {
    const [isChosen, isMarked, metrics] = [this.#isChosen(row), this.#marked.has(row.number), metricsOf(row)];
    const classes = [isChosen && ".chosen", isMarked && ".marked", metrics.length && ".high"].filter(Boolean).join("");
    const box = { type: "checkbox", tabindex: "-1", checked: isMarked, title: "Compare (x)", onchange: () => this.mark(row.number) };
    const link = { href: `runs/${row.number}`, "data-number": row.number, "aria-current": isChosen && "true", tabindex: isChosen ? "0" : "-1" };
    const first = [glyph(row.state), el("span.number", {}, row.number), el("span.command", {}, title(row)), stateOf(row)];
    const last = metrics.length ? el("div.metrics", {}, metrics.map(metric)) : null;
    const lines = [el("div.line", {}, first), el("div.line.under", {}, under(row)), last];
    return el(`li${classes}`, {}, el("input", { ...box, "aria-label": `Compare run ${row.number}` }), el("a", link, lines));
  }
}

/** The rows, with one in the place of each set of runs: as its newest run, with all as `members`, which follow if it is `open`. */
function folded(rows, opened) {
  const sets = new Map();
  for (const row of rows) if (row.set) sets.get(row.set.key)?.push(row) ?? sets.set(row.set.key, [row]);
  return rows.flatMap((row) => {
    if (!row.set) return [row];
    const members = sets.get(row.set.key);
    const open = opened.has(row.set.key);
    return row === members[0] ? [{ ...row, progress: null, members, open }, ...(open ? members : [])] : [];
  });
}

const keyOf = (row) => (row.members ? row.set.key : row.number);

/** The best value of the metric that counts most, and whose it is. */
function bestOf(rows) {
  const found = rows.flatMap((row) => (row.progress?.series || []).filter(({ best }) => Number.isFinite(best)).map((each) => ({ ...each, run: row.number })));
  const [name] = ranked([...new Set(found.map((each) => each.name))]);
  const [top] = found.filter((each) => each.name === name).sort((a, b) => direction(name) * (b.best - a.best));
  return top ? `best ${name} ${number(top.best, 3)} (run ${top.run})` : "";
}

/** A run by the first line of its command. */
export function title(row) {
  return row.command.trim().split("\n", 1)[0];
}

/** The word of a state, and since when it is so. */
export function stateOf(row) {
  const since = isFinal(row) ? row.ended : row.started;
  return el(`span.state.${row.state}`, {}, row.stopping && !isFinal(row) ? "stopping " : `${row.state} `, age(since || row.created, isFinal(row) ? " ago" : ""));
}

/** A line through values, as wide as a word. */
export function sparkline(values) {
  const known = values.filter(Number.isFinite);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const point = (value, place) => `${((place / (known.length - 1)) * 40).toFixed(1)},${(13 - ((value - least) / (most - least || 1)) * 11).toFixed(1)}`;
  const line = known.length > 1 && el("polyline", { points: known.map(point).join(" ") });
  return el("svg.spark", { viewBox: "0 0 40 15", "aria-hidden": "true" }, line);
}

function summary(rows) {
  const live = rows.filter((row) => !isFinal(row)).length;
  const silent = new Set(rows.filter((row) => row.unreached).map((row) => `${row.machine} does not answer`));
  return [`${number(rows.length)} of ${number(store.rows.size)} runs`, ...(live ? [`${live} live`] : []), ...silent].join(" · ");
}

function metricsOf(row) {
  return (row.progress?.series || []).slice(0, 2);
}

function under(row) {
  const why = row.why || row.note || row.remark || row.description;
  return [
    row.pinned && el("span.pin", {}, "pinned"),
    el("span.where", {}, [row.machine, ...row.labels].map((word) => el("span.chip", {}, word))),
    row.unreached ? el("span.why.lost", { title: row.unreached }, "does not answer") : why && el("span.why", { title: why }, why),
    ...row.figures.filter(([, , , listed]) => listed).map((each) => el("span", {}, figure(each))),
  ];
}

const FORMS = { moment: stamp, duration, bytes, dollars: money };

/** The words of a fact that the server has chosen for the page. */
export function figure([words, form, value]) {
  return words.replace("{}", form ? FORMS[form](value) : value);
}

function metric({ name, last, best, spark }) {
  const known = !Number.isFinite(best) ? "" : best === last ? "the best" : `best ${number(best, 3)}`;
  return el("span.metric", { title: name }, el("span.name", {}, name), el("b", {}, number(last, 3)), sparkline(spark || []), el("i", {}, known));
}

// -- the filter

/** Whether a row fits all that was typed: words, `state:` `label:` `machine:` `is:`, `loss<2`; `-` before one excludes. */
function matcher(text) {
  const typed = text.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = typed.map((word) => [/^-./.test(word), test(word.replace(/^-(?=.)/, ""))]);
  const archived = typed.includes("is:archived");
  return (row) => Boolean(row.hidden) === archived && tests.every(([isNot, fits]) => fits(row) !== isNot);
}

const KINDS = {
  state: (row, value) => (row.stopping && !isFinal(row) ? "stopping" : row.state).startsWith(value),
  label: (row, value) => row.labels.some((label) => label.toLowerCase().includes(value)),
  machine: (row, value) => row.machine.toLowerCase().includes(value),
  is: (row, value) => Boolean({ live: !isFinal(row), pinned: row.pinned, archived: row.hidden }[value]),
};

function test(word) {
  const [, kind, value] = word.match(/^(state|label|machine|is):(.*)$/) || [];
  if (kind) return (row) => KINDS[kind](row, value);
  const [, name, sign, limit] = word.match(/^([^<>]+)([<>])(-?[\d.]+(?:e-?\d+)?)$/) || [];
  if (!name) return (row) => words(row).join("\n").toLowerCase().includes(word);
  return (row) => {
    const last = row.progress?.series.find((each) => each.name.toLowerCase() === name)?.last;
    return Number.isFinite(last) && (sign === "<" ? last < limit : last > limit);
  };
}

const words = (row) => [row.number, row.state, row.command, row.description, row.machine, row.remark, ...row.labels];
