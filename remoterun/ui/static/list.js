// The list of runs: only the rows that are seen are in the page, so thousands cost as much as twenty.

import { isAmount, keysOf, numeric, sortBy, sorted, usual, valueOf, wordOf } from "./columns.js";
import { direction, ranked } from "./curve.js";
import { age, bytes, duration, el, fill, glyph, middle, money, number, stamp, template } from "./dom.js";
import { isFinal, set, setting, store } from "./state.js";

const LOW = 52; // pixels of a row
const HIGH = 74; // of one with metrics
const DENSE = 32; // of one in the table
const NAME = 350; // of what stands before the columns of the table
const CELL = 98; // of a column of it
const GAP = 14;
const MOST_KEYS = 400; // columns to choose from
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
  #isPressed = false; // a row that is replaced meanwhile gets no click
  #isLate = false; // whether there was something to draw meanwhile
  #look = ""; // of the controls, as JSON
  columns = []; // of the table

  /** `open(path)` shows an address; `remove(numbers)` asks whether runs may be removed. */
  constructor({ open, remove }) {
    this.open = open;
    this.filter.addEventListener("input", () => this.#change({ q: this.filter.value }));
    this.button.addEventListener("click", () => this.compare());
    at("remove").addEventListener("click", () => remove([...this.#marked]));
    at("unmark").addEventListener("click", () => (this.#marked.clear(), this.#select()));
    at("sort").addEventListener("change", ({ target }) => this.#change({ sort: target.value && sortBy(target.value) }));
    at("turn").addEventListener("click", () => this.#change({ sort: turned(setting("sort")) }));
    at("dense").addEventListener("click", () => (this.#change({ dense: this.isTable ? "" : "1" }), open("")));
    at("chooser").addEventListener("toggle", ({ newState }) => newState === "open" && this.#choose());
    this.scroller.addEventListener("scroll", () => this.#soon());
    this.scroller.addEventListener("pointerdown", ({ button }) => (this.#isPressed = button === 0));
    for (const kind of ["pointerup", "pointercancel", "contextmenu"]) addEventListener(kind, () => setTimeout(() => this.#release()));
    addEventListener("click", () => (this.#isPressed = false), true); // what it does is drawn at once
    new ResizeObserver(() => (this.isTable ? this.#select() : this.#soon())).observe(this.scroller);
    store.on("rows", () => this.#select(true));
    this.read();
  }

  get isTable() {
    return setting("dense") === "1";
  }

  /** Show what the address has set. */
  read() {
    this.filter.value = setting("q");
    this.#select();
  }

  /** Take out what was typed to filter. */
  clear() {
    this.#change({ q: (this.filter.value = "") });
  }

  #change(settings) {
    set(settings);
    this.scroller.scrollTop = 0;
    this.#select();
  }

  /** Mark a run as the chosen one, and scroll it into view if somebody chose it. */
  choose(chosen, reveals) {
    Object.assign(this, { reveals });
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
    if (!chosen) return;
    if (!this.#marked.delete(chosen)) this.#marked.add(chosen);
    this.#select();
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
    if (!this.reveals) return;
    const [top, bottom] = [this.#tops[this.#place], this.#tops[this.#place + 1]];
    const { scrollTop, clientHeight } = this.scroller;
    const seen = clientHeight - at("heads").offsetHeight;
    if (top < scrollTop) this.scroller.scrollTop = top;
    if (bottom > scrollTop + seen) this.scroller.scrollTop = bottom - seen;
  }

  /** `isByItself`: nobody has asked for another order, so what the mouse points at stays where it is. */
  #select(isByItself = false) {
    const places = isByItself && this.scroller.matches(":hover") && new Map(this.#rows.map(({ number }, place) => [number, place]));
    const before = this.#tops[this.#place];
    const fitting = store.order.filter(matcher(this.filter.value));
    const sort = setting("sort");
    const place = ({ number }) => places.get(number) ?? Infinity;
    this.#rows = sort ? (places ? sorted(fitting, sort).sort((one, other) => place(one) - place(other) || 0) : sorted(fitting, sort)) : this.filter.value.trim() ? fitting : folded(fitting, this.#opened);
    const [changed, isTable] = [this.#arrange(fitting, sort), this.isTable];
    this.#tops = [0];
    for (const row of this.#rows) this.#tops.push(this.#tops.at(-1) + (isTable ? DENSE : row.progress?.series.length ? HIGH : LOW));
    this.rows.style.height = `${this.#tops.at(-1)}px`;
    if (before === undefined) this.#reveal();
    else if (this.scroller.scrollTop) this.scroller.scrollTop += (this.#tops[this.#place] ?? before) - before; // what one sees stays
    at("foot").textContent = summary(fitting);
    this.#draw(changed);
  }

  /** The controls above the list, the heads of the table, and what is marked, as they are now; whether any is new. */
  #arrange(rows, sort) {
    const [key, isTable, keys] = [turned(sort, ""), this.isTable, keysOf(rows)];
    for (const each of this.#marked) if (!store.rows.has(each)) this.#marked.delete(each);
    this.columns = isTable ? this.#fitting(columns() ?? usual(rows, keys), key) : [];
    const look = JSON.stringify([sort, isTable, this.columns, keys, [...this.#marked]]);
    if (look === this.#look) return false;
    this.#look = look;
    const option = (each) => el("option", { value: each, selected: each === key }, wordOf(each));
    const groups = Object.entries(keys).map(([kind, found]) => found.length > 0 && el("optgroup", { label: kind }, found.slice(0, MOST_KEYS).map(option)));
    const isOther = key && !Object.values(keys).some((found) => found.slice(0, MOST_KEYS).includes(key));
    fill(at("sort"), el("option", { value: "" }, "live first"), isOther && option(key), groups);
    at("turn").hidden = !sort;
    at("turn").textContent = sort.startsWith("-") ? "↓" : "↑";
    at("dense").setAttribute("aria-pressed", isTable);
    at("columns").hidden = at("heads").hidden = !isTable;
    document.body.toggleAttribute("data-table", isTable);
    const { length } = this.columns;
    this.scroller.style.setProperty("--cells", `14px 58px minmax(90px, 1fr) ${`${CELL}px `.repeat(length)}`);
    this.scroller.style.setProperty("--wide", length > 1 ? `${NAME + length * (CELL + GAP)}px` : "0px");
    fill(at("heads"), isTable && [el("span"), ["number", null, ...this.columns].map((each) => (each ? this.#head(each, sort, key) : el("span", {}, "command")))]);
    this.button.hidden = this.#marked.size < 2;
    this.button.textContent = `Compare ${this.#marked.size}`;
    at("remove").textContent = `Remove ${this.#marked.size}`;
    at("marked").hidden = !this.#marked.size;
    return true;
  }

  /** Of the columns of the table those that there is room for beside a run; one of them is the one that is sorted by. */
  #fitting(keys, key) {
    const all = key && key !== "number" && !keys.includes(key) ? [key, ...keys] : keys;
    const { clientWidth } = this.scroller;
    if (document.body.dataset.place === "list" && clientWidth >= 480) return all; // and one scrolls
    const first = all.includes(key) ? [key] : [];
    const most = Math.max(1, Math.floor((clientWidth - NAME) / (CELL + GAP)));
    return [...first, ...all.filter((each) => each !== key)].slice(0, most);
  }

  #head(each, sort, key) {
    const next = each !== key ? sortBy(each) : sort === sortBy(each) ? turned(sort) : "";
    const said = each === key ? `, the ${sort.startsWith("-") ? "largest" : "smallest"} first` : "";
    const show = () => (this.#change({ sort: next }), at("heads").querySelector(`[data-key="${CSS.escape(each)}"]`)?.focus());
    return el(`button${isAmount(each) ? ".amount" : ""}`, { "data-key": each, title: wordOf(each), "aria-label": `${wordOf(each)}${said}`, onclick: show }, middle(wordOf(each)), each === key && (sort.startsWith("-") ? "↓" : "↑"));
  }

  /** The columns that can be shown, each with a box. */
  #choose() {
    const rows = this.#rows.flatMap((row) => row.members ?? [row]);
    const groups = keysOf(rows);
    const shown = columns() ?? usual(rows, groups);
    const toggle = (key, on) => this.#change({ cols: [...shown.filter((each) => each !== key), ...(on ? [key] : [])].map(packed).join() || "none" });
    const box = (key) => el("label", { title: wordOf(key) }, el("input", { type: "checkbox", checked: shown.includes(key), onchange: ({ target }) => (toggle(key, target.checked), this.#choose(), at("chooser").querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus()), "data-key": key }), middle(wordOf(key)));
    const group = ([kind, keys]) => keys.length > 0 && el("fieldset", {}, el("legend", {}, kind), keys.filter((key) => key !== "number").slice(0, MOST_KEYS).map(box));
    const reset = el("button.quiet", { onclick: () => (this.#change({ cols: "" }), this.#choose()), disabled: !setting("cols") }, "As usual");
    const scrolled = at("chooser").scrollTop;
    fill(at("chooser"), Object.entries(groups).map(group), el("div.buttons", {}, reset, el("button.primary", { popovertarget: "chooser" }, "Done")));
    at("chooser").scrollTop = scrolled;
  }

  #release() {
    this.#isPressed = false;
    if (this.#isLate) this.#draw(true);
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => ((this.#frame = 0), this.#draw()));
  }

  #draw(all = false) {
    if (this.#isPressed) return void (this.#isLate = true);
    this.#isLate = false;
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
    if (this.#place < 0) items[0]?.querySelector("a")?.setAttribute("tabindex", "0"); // else none is reached by Tab
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
    const sort = turned(setting("sort"), "");
    const [isChosen, isMarked, metrics] = [this.#isChosen(row), this.#marked.has(row.number), metricsOf(row, sort)];
    const classes = [isChosen && ".chosen", isMarked && ".marked", metrics.length && ".high"].filter(Boolean).join("");
    const box = { type: "checkbox", tabindex: "-1", checked: isMarked, "aria-label": `Mark run ${row.number}`, onchange: () => this.mark(row.number) };
    const link = { href: `runs/${row.number}`, "data-number": row.number, "aria-current": isChosen && "true", tabindex: isChosen ? "0" : "-1" };
    const first = [glyph(row.state), el("span.number", {}, row.number), el("span.command", { title: title(row) }, middle(own(row)))];
    const last = metrics.length ? el("div.metrics", {}, metrics.map(metric)) : null;
    const lines = [el("div.line", {}, first, stateOf(row)), el("div.line.under", {}, under(row, sort)), last];
    const mark = el("label.mark", { title: "Mark, to compare or remove (x)" }, el("input", box));
    return el(`li${classes}`, {}, mark, el("a", link, this.isTable ? el("div.cells", {}, first, this.columns.map((key) => cell(row, key))) : lines));
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

const SEEN = /^(best:|last:|(number|state|when|cost|machine|labels)$)/; // what a high row shows in any case

/** The other way round of a sort; or the sort with this in the place of its sign. */
const turned = (sort, sign = sort.startsWith("-") ? "" : "-") => sort && sign + sort.replace(/^-/, "");

/** The columns that the address names, or null. */
function columns() {
  const text = setting("cols");
  return text ? text.split(",").filter((key) => key !== "none").map(unpacked) : null;
}

const packed = (key) => key.replace(/[%,]/g, encodeURIComponent);
const unpacked = (key) => key.replace(/%25|%2C/g, decodeURIComponent);

/** What the table shows of a run in a column. */
function cell(row, key) {
  const value = valueOf(row, key);
  const forms = { duration: () => (isFinal(row) ? duration(value) : age(row.started)), cost: () => money(value), when: () => age(value, " ago"), state: () => el(`span.state.${row.state}`, {}, value) };
  const shown = forms[key] ?? (() => (isAmount(key) ? number(value) : middle(String(valueOf(row, key, true)))));
  return el(`span${isAmount(key) ? ".amount" : ""}`, {}, value !== null && shown());
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

/** What tells a run from the others of its list: of one of a set its parameters. */
function own(row) {
  const given = Object.entries(row.set?.params ?? {}).map(([name, value]) => `${name} ${value}`);
  return given.join(" · ") || title(row);
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

/** The two metrics that a row shows; the one that is sorted by comes first. */
function metricsOf(row, sort) {
  const isFirst = ({ name }) => sort === `best:${name}` || sort === `last:${name}`;
  return [...(row.progress?.series || [])].sort((a, b) => isFirst(b) - isFirst(a)).slice(0, 2);
}

function under(row, sort) {
  const why = row.why || row.note || row.remark || row.description;
  return [
    row.pinned && el("span.pin", {}, "pinned"),
    el("span.where", {}, [row.machine, ...row.labels].map((word) => el("span.chip", {}, word))),
    row.unreached ? el("span.why.lost", { title: row.unreached }, "does not answer") : why && el("span.why", { title: why }, why),
    sort && !SEEN.test(sort) && el("span.by", {}, wordOf(sort), " ", cell(row, sort)),
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
  return el("span.metric", { title: name }, el("span.name", {}, middle(name)), el("b", {}, number(last, 3)), sparkline(spark || []), el("i", {}, known));
}

// -- the filter

/** Whether a row fits all that was typed: words, `state:` `label:` `machine:` `is:`, `loss<2`, `lr=0.1`; `-` before one excludes. */
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
  const [, name, sign, text] = word.match(/^([^<>=]+)([<>]=?|=)([^'"]+)$/) || [];
  const limit = numeric(text || "");
  const has = (row) => words(row).join("\n").toLowerCase().includes(word);
  if (!name || (sign !== "=" && typeof limit !== "number")) return has;
  return (row) => {
    const values = measured(row, name);
    return sign === "=" && !values.length ? has(row) : values.some((value) => typeof value === typeof limit && SIGNS[sign](value, limit));
  };
}

const SIGNS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

/** The last value of the metric of this name, and the parameter. */
function measured(row, name) {
  const last = (row.progress?.series || []).filter((each) => each.name.toLowerCase() === name).map((each) => each.last);
  const params = Object.entries(row.params || {}).filter(([each]) => each.toLowerCase() === name);
  return [...last, ...params.map(([, value]) => numeric(value.toLowerCase()))];
}

const words = (row) => [row.number, row.state, row.command, row.description, row.machine, row.remark, ...row.labels];
