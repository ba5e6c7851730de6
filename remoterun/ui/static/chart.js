// One chart on canvas: its curves, what is said of them, and what mouse, keys and fingers do with it.

import { averaged, chosen, clockTicks, direction, kindOf, logTicks, stem, ticks, usual } from "./curve.js";
import { bytes, el, fill, number, unturned } from "./dom.js";

export const UNITS = { cpu: "%", memory: "B", gpu: "%", "gpu memory": "B" }; // the series of `usage.points`, which has no names
const EDGE = { left: 46, right: 10, top: 8, bottom: 18 };
const PIECE = 16; // points that are stroked at once: a long zigzag that crosses itself takes five times as long
const ANOTHER = "Put another metric in";
const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [1, 3]];
const [ROWS, LABEL, COLOURS] = [200, 11, 8]; // of a table; pixels of a label's height; colours until lines are dashed
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Chart {
  names = [];
  canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": "Chart" });
  larger = el("button.quiet", { onclick: () => this.all.enlarge(this.all.large === this ? "" : this.key) }, "⤢");
  #more = el("button.quiet", { title: "Pin, hide, save", onclick: ({ currentTarget }) => this.all.menu(this, currentTarget) }, "⋯");
  #line = el("div.chart-cursor", { hidden: true });
  #label = el("div.chart-place", { hidden: true }, el("span"));
  #band = el("div.chart-band", { hidden: true });
  #name = el("span.chart-name");
  #values = el("div.chart-values");
  #rows = el("div.chart-rows", { tabindex: "0", role: "region" });
  #table = el("details", { ontoggle: () => this.all.draw() }, el("summary", {}, "table"), this.#rows);
  #add = el("div.chart-add", { hidden: true });
  #drag = null; // where it began and is now, in pixels
  #fingers = new Map(); // of two fingers: id → [pixels, x]
  #drawn = null; // what the picture shows
  #keys = ""; // of the lines in the legend

  constructor(all, key, file) {
    Object.assign(this, { all, key, file });
    this.plot = el("div.plot", {}, this.canvas, this.#line, this.#label, this.#band);
    const tools = el("div.chart-tools", {}, this.larger, this.#more);
    this.element = el("figure.chart", {}, el("figcaption", {}, this.#name, this.#values), tools, this.plot, this.#add, this.#table);
    const acts = { pointermove: this.#moved, pointerdown: this.#down, pointerup: this.#up, keydown: this.#key, wheel: this.#wheel };
    for (const [kind, act] of Object.entries(acts)) this.canvas.addEventListener(kind, (event) => this.#drawn && act.call(this, event), { passive: false });
    this.canvas.onpointerleave = () => this.#drag ?? all.set({ cursor: null });
    this.canvas.onpointercancel = () => (this.#fingers.clear(), (this.#drag = null));
    this.canvas.ondblclick = () => all.set({ zoom: null });
    const entry = ({ target }) => target.closest?.("[data-of]")?.dataset ?? {};
    const light = (event, lit = (event.type !== "focusout" && entry(event).of) || null) => lit !== all.view.lit && all.set({ lit });
    for (const kind of ["pointerover", "pointerleave", "focusin", "focusout"]) this.#values.addEventListener(kind, light);
    this.#values.onclick = (event) => (entry(event).added ? this.#put(entry(event).added) : entry(event).of && all.toggle("off", entry(event).of));
  }

  /** The series that it shows, the most important one first. */
  setNames(names) {
    if (names.join("\n") === this.names.join("\n")) return;
    this.names = names;
    this.title = unturned(names.length > 1 ? this.key : names[0]);
    this.unit = this.file === "usage" ? UNITS[this.title] : "";
    this.group = this.file === "usage" ? "usage" : this.title.slice(0, Math.max(0, this.title.indexOf("/")));
    this.#name.title = unturned(names.join(", "));
    this.#rows.ariaLabel = `${this.title} as a table`;
    this.#more.ariaLabel = `Menu of ${this.title}`;
  }

  /** It was put into its place: pinned, as the only one, or below the head of its group, which says the begin of its name. */
  arranged(isPinned, isLarge, isHeaded) {
    const short = isHeaded ? this.title.slice(this.group.length + 1) : this.title;
    const end = short.length > 20 ? -12 : Infinity; // a long name is cut before its end, which tells it from others
    if (this.#name.textContent !== short) fill(this.#name, el("span", {}, short.slice(0, end)), end < 0 && el("span", {}, short.slice(end)));
    this.larger.textContent = isLarge ? "⤡" : "⤢";
    [this.larger.title, this.larger.ariaLabel] = isLarge ? ["Back to all charts (Escape)", "Back to all charts"] : ["Enlarge", `Enlarge ${this.title}`];
    this.element.classList.toggle("pinned", isPinned);
    const others = isLarge && !this.unit ? this.all.names.filter((name) => !this.#series.includes(name)) : [];
    this.#add.hidden = !others.length;
    if ((this.#add.dataset.names ?? "") === others.join("\n")) return;
    this.#add.dataset.names = others.join("\n");
    const choose = ({ target, inputType }) => inputType !== "insertText" && others.includes(target.value) && this.#put(target.value);
    const input = { list: "series", placeholder: ANOTHER, "aria-label": ANOTHER, oninput: choose, onchange: choose };
    const hadFocus = this.#add.contains(document.activeElement);
    fill(this.#add, others.length > 0 && [el("input", input), el("datalist", { id: "series" }, others.map((value) => el("option", { value })))]);
    if (hadFocus) this.addOne();
  }

  draw(width, height, ink) {
    const picture = this.picture(width, height, ink);
    if (!picture) return;
    this.#drawn = picture;
    const dense = globalThis.devicePixelRatio;
    Object.assign(this.canvas, { width: Math.round(width * dense), height: Math.round(height * dense) }); // and it is empty
    const pen = this.canvas.getContext("2d");
    pen.scale(dense, dense);
    this.paint(pen, picture);
    this.point();
    if (this.#table.open) this.#fillTable();
  }

  /** What is to be drawn: lines, their points, and where a value is, in pixels; null: nothing. `head`: pixels above. */
  picture(width, height, ink, head = 0) {
    const { view, groups } = this.all;
    const asked = this.unit && view.x !== "clock" ? "time" : view.x;
    let [axis, single] = [asked, []];
    for (axis of new Set([asked, "step", "time"])) { // a run may have no epochs, and what a log says no step
      single = this.#lines(axis);
      if (single.length) break;
    }
    const all = view.mean && !this.unit ? averaged(single, groups) : single;
    if (!all.length) return null;
    const seen = all.filter(({ of }) => !view.off.includes(of));
    const lines = seen.length ? seen : all;
    const log = view.log && !this.unit;
    const [top, bottom] = [EDGE.top + head, height - EDGE.bottom];
    const right = width - EDGE.right - (all.length > 1 ? Math.min(80, 8 + 6 * Math.max(...all.map(({ label }) => label.length))) : 0);
    const whole = [Math.min(...lines.map(({ line }) => line.x[0])), Math.max(...lines.map(({ line }) => line.x[line.count - 1]))];
    if (whole[0] === whole[1]) whole[1] += 1;
    let [from, to] = whole;
    if (view.zoom?.axis === axis && view.zoom.from < to && view.zoom.to > from) ({ from, to } = view.zoom);
    for (const each of lines) {
      const choose = (y) => chosen(each.line, y, from, to, right - EDGE.left, log ? 0 : -Infinity);
      each.solid = choose(each.y);
      each.faint = each.y === each.line.y || each.spread ? null : choose(each.line.y);
    }
    let [low, high] = [Math.min(...lines.map(({ solid }) => solid.low)), Math.max(...lines.map(({ solid }) => solid.high))];
    const inner = view.out && !this.unit && usual(lines, from, to, log ? 0 : -Infinity);
    if (inner) ({ low, high } = inner);
    if (low > high) [low, high] = [0.1, 1]; // nothing can be drawn
    if (this.unit) [low, high] = [0, this.unit === "%" ? Math.max(100, high) : high * 1.1 || 1];
    else if (log) [low, high] = [low / 1.1, high * 1.1];
    else [low, high] = [low, high].map((value, place, [one, other]) => value + (place - 0.5) * ((other - one) * 0.12 || Math.abs(other) * 0.2 || 2));
    const scale = log ? Math.log10 : (value) => value;
    const x = (value) => EDGE.left + ((value - from) / (to - from)) * (right - EDGE.left);
    const y = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (bottom - top);
    const lit = lines.some(({ of }) => of === view.lit) && view.lit;
    return { axis, log, lit, legend: all, lines, isEmpty: !seen.length, whole, from, to, low, high, outside: inner.outside ?? 0, x, y, top, right, bottom, width, height, ...ink };
  }

  /** Draw it with a pen of a canvas, or one that writes SVG. */
  paint(pen, picture) {
    const { right, top, bottom, lines, font, isEmpty } = picture;
    pen.font = `10.5px ${font}`;
    this.#axes(pen, picture);
    if (lines.length > 1 && !isEmpty) this.#ends(pen, picture);
    pen.beginPath();
    pen.rect(EDGE.left - 1, top - EDGE.top, right - EDGE.left + 4, bottom + 1 - top + EDGE.top);
    pen.clip();
    if (!isEmpty) for (const each of lines) this.#curve(pen, each, picture);
  }

  /** Give back the memory of the pictures while they are not seen. */
  release() {
    this.#drawn = null;
    this.canvas.width = 0;
  }

  /** Let one choose what is put in. */
  addOne() {
    this.#add.firstChild?.focus();
  }

  #put(name) {
    this.all.toggle("with", `${this.key}\t${name}`);
  }

  get #series() {
    const others = this.all.view.with.map((each) => each.split("\t")).filter(([key]) => key === this.key);
    return [...new Set([...this.names, ...others.map(([, name]) => name)])];
  }

  /** Each line that it could have: {of: what toggles it, label, words, line, y, colour, dash}. */
  #lines(axis) {
    const { runs, view } = this.all;
    const [names, several] = [this.#series, runs.length > 1];
    const kinds = names.map((name) => (stem(name) === this.key && kindOf(name)) || name);
    const shorts = names.length === 1 ? [""] : new Set(kinds).size === names.length ? kinds : names;
    return runs.flatMap((run, place) => names.flatMap((name, index) => {
      const line = this.all.line(run, this.file, name, axis);
      if (!line?.count) return [];
      const label = unturned([several && run.number, shorts[index]].filter(Boolean).join(" "));
      const words = unturned([(several || names.length === 1) && run.label, shorts[index] && name].filter(Boolean).join(" "));
      const [hue, pattern] = several ? [place, Math.floor(place / COLOURS) + 3 * index] : [index, Math.floor(index / COLOURS)];
      const colour = several || names.length > 1 ? `--c${(hue % COLOURS) + 1}` : "--accent";
      const about = { of: several ? String(run.number) : name, added: index >= this.names.length, run, name, label, words, colour, dash: DASHES[pattern % DASHES.length] };
      return [{ ...about, line, y: line.smoothed(this.unit ? 0 : view.smooth), best: line.best(this.unit ? 0 : direction(name)) }];
    }));
  }

  #axes(pen, { axis, log, from, to, low, high, x, y, right, colour, height }) {
    Object.assign(pen, { fillStyle: colour("--faint"), strokeStyle: colour("--rule"), textAlign: "right", textBaseline: "middle" });
    pen.beginPath();
    for (const value of (log ? logTicks : ticks)(low, high, height > 200 ? 7 : 4)) {
      const at = Math.round(y(value)) + 0.5;
      pen.moveTo(EDGE.left, at);
      pen.lineTo(right, at);
      pen.fillText(this.#text(value), EDGE.left - 6, at);
    }
    pen.stroke();
    Object.assign(pen, { textAlign: "left", textBaseline: "bottom" });
    const [unit, count] = [axis === "time" ? unitOf(to)[0] : 1, Math.max(2, (right - EDGE.left) / 80)];
    const places = axis === "clock" ? clockTicks(from, to, count) : ticks(from / unit, to / unit, count).map((value) => value * unit);
    for (const value of places) {
      const text = along(axis, value, to, to - from);
      const { width: wide } = pen.measureText(text);
      pen.fillText(text, Math.min(x(value) - wide / 2, right - wide + 4), height - 1);
    }
  }

  /** The names of lines where they end, one below the other. */
  #ends(pen, { lines, lit, y, to, right, top, bottom, colour }) {
    const ends = lines.flatMap(({ label, colour: own, line, y: values, solid, of }) => {
      const last = solid.points.findLast((index) => index >= 0 && line.x[index] <= to);
      return last === undefined ? [] : [{ label, own, of, at: clamp(y(values[last]), top, bottom) }];
    });
    const fit = ends.slice(0, Math.floor((bottom - top) / LABEL) + 1).sort((one, other) => one.at - other.at);
    fit.forEach((each, place) => (each.at = Math.max(each.at, place ? fit[place - 1].at + LABEL : top)));
    fit.reduceRight((below, each) => (each.at = Math.min(each.at, below - LABEL)), bottom + LABEL);
    Object.assign(pen, { textAlign: "left", textBaseline: "middle" });
    for (const { label, own, of, at } of fit) {
      Object.assign(pen, { globalAlpha: !lit || lit === of ? 1 : 0.3, fillStyle: colour(own) });
      pen.fillText(label.length > 13 ? `${label.slice(0, 5)}…${label.slice(-7)}` : label, right + 6, at);
    }
    pen.globalAlpha = 1;
  }

  #curve(pen, { line, y: values, best, solid, faint, spread, dash, colour: own, of }, { lit, x, y, bottom, colour }) {
    const [strength, piece] = [!lit || lit === of ? 1 : 0.2, pen.piece ?? PIECE];
    const trace = ({ points }, from, pattern) => {
      let [length, before] = [0, null]; // of a dashed line, so that a piece goes on where the one before it ended
      pen.setLineDash(pattern);
      pen.lineDashOffset = 0;
      pen.beginPath();
      points.forEach((index, place) => {
        if (index < 0) return;
        const [right, down] = [x(line.x[index]), y(from[index])];
        const isFirst = place === 0 || points[place - 1] < 0;
        if (isFirst && !(points[place + 1] >= 0)) pen.rect(right - 1, down - 1, 2, 2); // a point alone is a dot
        if (isFirst) pen.moveTo(right - 0.6, down);
        else if (pattern.length) length += Math.hypot(right - before[0], down - before[1]);
        pen.lineTo(right, down);
        before = [right, down];
        if ((place + 1) % piece) return;
        pen.stroke();
        pen.lineDashOffset = length;
        pen.beginPath();
        pen.moveTo(right, down);
      });
      pen.stroke();
    };
    Object.assign(pen, { strokeStyle: colour(own), fillStyle: colour(own), lineJoin: "bevel" });
    if (spread) {
      const edge = (index, sign) => pen.lineTo(x(line.x[index]), y(values[index] + sign * spread[index]));
      const indexes = solid.points.filter((index) => index >= 0);
      pen.globalAlpha = 0.2 * strength;
      pen.beginPath();
      for (const index of indexes) edge(index, 1);
      for (const index of indexes.reverse()) edge(index, -1);
      pen.fill();
    }
    pen.globalAlpha = 0.25 * strength;
    if (faint) trace(faint, line.y, []);
    pen.globalAlpha = strength;
    pen.lineWidth = lit === of ? 2.2 : 1.3;
    trace(solid, values, dash);
    pen.setLineDash([]);
    pen.fillStyle = colour("--bad"); // what is NaN or infinite, or not above 0 on a log axis
    for (const index of solid.marks) pen.fillRect(x(line.x[index]) - 1, bottom - 4, 2, 5);
    if (best < 0) return;
    pen.fillStyle = colour("--ground");
    pen.beginPath();
    pen.arc(x(line.x[best]), y(values[best]), 3, 0, 7);
    pen.fill();
    pen.stroke();
    pen.globalAlpha = 1;
  }

  /** Show what is at the cursor; false: there is no picture yet. */
  point() {
    if (!this.#drawn) return false;
    const { axis, from, to, x, right, width } = this.#drawn;
    const { cursor } = this.all.view;
    this.#line.hidden = this.#label.hidden = cursor?.axis !== axis || cursor.x < from || cursor.x > to;
    if (!this.#line.hidden) {
      const [at, { firstChild: label }] = [x(cursor.x), this.#label];
      label.textContent = this.#place(cursor.x);
      this.#label.style.width = `${width - 30}px`;
      this.#line.style.left = label.style.left = `${at}px`;
      label.style.transform = `translateX(-${(100 * (at - EDGE.left)) / (right - EDGE.left)}%)`; // it stays within the chart
    }
    this.#band.hidden = !this.#drag;
    if (this.#drag) Object.assign(this.#band.style, { left: `${Math.min(...this.#drag)}px`, width: `${Math.abs(this.#drag[1] - this.#drag[0])}px` });
    this.#words();
    return true;
  }

  /** The caption and the description: what each line has at the cursor, or last, and its best. */
  #words() {
    const { axis, legend, outside } = this.#drawn;
    const { cursor, off } = this.all.view;
    const isOne = legend.length === 1;
    const best = (line, at) => at >= 0 && ` best ${this.#text(line.y[at])}`;
    const keys = legend.map(({ words }) => words).join("\n");
    const stroke = ({ colour, dash }) => el("i.stroke", { style: { "border-color": `var(${colour})`, "border-style": dash.length ? "dashed" : "solid" } });
    const entry = (each) => el("button", { "data-of": each.of, "data-added": each.added && each.name, title: each.words }, stroke(each), `${each.label} `, el("b"), each.added && " ×");
    if (keys !== this.#keys || isOne) fill(this.#values, legend.map((each) => (isOne ? el("span", { title: each.words }, el("b")) : entry(each))));
    this.#keys = keys;
    [...this.#values.children].forEach((node, place) => {
      const { line, best: at, of, added, spread } = legend[place];
      const here = cursor?.axis === axis ? line.nearest(cursor.x) : -1;
      const index = here < 0 ? line.count - 1 : here;
      node.querySelector("b").textContent = this.#text(line.y[index]) + (spread ? ` ± ${number(spread[index], 2)}` : "");
      if (isOne) node.append((here < 0 && best(line, at)) || "");
      else if (!added) node.ariaPressed = String(!off.includes(of));
    });
    const summary = ({ words, line, best: at }) => `${words}: ${line.count} points, first ${this.#text(line.y[0])}, last ${this.#text(line.y[line.count - 1])}` +
      ` at ${this.#place(line.x[line.count - 1])}${at < 0 ? "" : `,${best(line, at)} at ${this.#place(line.x[at])}`}`;
    const out = (this.#name.dataset.outside = outside > 0 ? ` ${number(outside)} beyond the axis` : "");
    this.canvas.ariaLabel = `Chart of ${this.title}. ${legend.map(summary).join(". ")}.${out && `${out}.`} Arrow keys move a cursor, + and − zoom.`;
  }

  #text(value) {
    return this.unit === "B" && Number.isFinite(value) ? bytes(value) : `${number(value)}${this.unit}`;
  }

  #place(x) {
    const { axis } = this.#drawn;
    return `${axis === "step" || axis === "epoch" ? `${axis} ` : ""}${along(axis, x)}`;
  }

  /** x at these pixels from the left, within the picture. */
  #at(pixels) {
    const { from, to, right } = this.#drawn;
    return from + ((clamp(pixels, EDGE.left, right) - EDGE.left) / (right - EDGE.left)) * (to - from);
  }

  #zoom(from, to) {
    const { axis, whole: [first, last] } = this.#drawn;
    const size = Math.min(to - from, last - first);
    const start = clamp(from, first, last - size);
    if (size > (last - first) * 1e-7) this.all.set({ zoom: size < (last - first) * 0.999 ? { axis, from: start, to: start + size } : null });
  }

  /** Closer or farther, around an x that stays where it is. */
  #scale(by, around) {
    this.#zoom(around - (around - this.#drawn.from) * by, around + (this.#drawn.to - around) * by);
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey && this.all.large !== this) return; // the page scrolls
    event.preventDefault();
    const { from, to, width } = this.#drawn;
    const way = event.shiftKey ? event.deltaX || event.deltaY : Math.abs(event.deltaX) > Math.abs(event.deltaY) && event.deltaX;
    if (way) this.#zoom(from + (way / width) * (to - from), to + (way / width) * (to - from));
    else this.#scale(Math.exp(clamp(event.deltaY, -80, 80) / 300), this.#at(event.offsetX));
  }

  #moved({ offsetX, pointerId }) {
    if (this.#fingers.has(pointerId)) this.#fingers.get(pointerId)[0] = offsetX;
    if (this.#fingers.size === 2) return this.#pinch();
    if (this.#drag) this.#drag[1] = offsetX;
    const { axis, lines, x } = this.#drawn;
    const wanted = this.#at(offsetX);
    const near = lines.map(({ line }) => line.x[line.nearest(wanted)]).sort((one, other) => Math.abs(one - wanted) - Math.abs(other - wanted))[0];
    this.all.set({ cursor: { axis, x: Math.abs(x(near) - offsetX) < 30 ? near : wanted } });
  }

  /** Both fingers stay at the x on which they were put: apart they zoom, together they move. */
  #pinch() {
    const [[left, first], [right, second]] = [...this.#fingers.values()].sort(([one], [other]) => one - other);
    const each = (second - first) / Math.max(10, right - left);
    if (each > 0) this.#zoom(first - (left - EDGE.left) * each, first + (this.#drawn.right - left) * each);
  }

  #down({ button, offsetX, pointerId, pointerType }) {
    if (button) return;
    this.canvas.setPointerCapture(pointerId);
    if (pointerType === "touch") this.#fingers.set(pointerId, [offsetX, this.#at(offsetX)]);
    this.#drag = this.#fingers.size > 1 ? null : [offsetX, offsetX];
  }

  #up({ pointerId }) {
    this.#fingers.delete(pointerId);
    const [from, to] = (this.#drag ?? [0, 0]).sort((one, other) => one - other);
    this.#drag = null;
    this.all.set(to - from < 6 ? { cursor: null } : { zoom: { axis: this.#drawn.axis, from: this.#at(from), to: this.#at(to) } });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { axis, lines, from, to } = this.#drawn;
    const { line } = lines[0];
    const { cursor, zoom } = this.all.view;
    const [first, last] = [line.find(from), line.nearest(to)];
    const x = cursor?.axis === axis ? cursor.x : null;
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const closer = { "+": 0.7, "=": 0.7, "-": 1 / 0.7 }[event.key];
    if (by) {
      const index = x === null ? (Math.abs(by) === 1 ? first : by) : line.nearest(x) + by * (event.shiftKey ? 10 : 1);
      const at = line.x[clamp(index, first, last)];
      const said = lines.map(({ words, line: other }) => `${words} ${this.#text(other.y[other.nearest(at)])}`);
      this.all.said.textContent = `${this.title}, ${this.#place(at)}: ${said.join(", ")}`;
      this.all.set({ cursor: { axis, x: at } });
    } else if (closer) {
      this.#scale(closer, x ?? (from + to) / 2);
    } else if (event.key === "Enter") {
      this.larger.click();
    } else if ((event.key === "Escape" || event.key === "0") && (cursor || zoom)) {
      this.all.set({ zoom: null, cursor: null });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** What is in the picture, in at most 200 rows: every so many points of the first line, and what the others have near them. */
  #fillTable() {
    const { axis, lines, from, to } = this.#drawn;
    const { line } = lines[0];
    const [first, last] = [line.find(from), line.nearest(to)];
    const most = Math.min(ROWS - 1, last - first);
    const rows = Array.from({ length: most + 1 }, (_, row) => {
      const x = line.x[first + Math.round((row / Math.max(1, most)) * (last - first))];
      const cells = lines.map(({ line: other }) => el("td", {}, this.#text(other.y[other.nearest(x)])));
      return el("tr", {}, el("th", { scope: "row" }, along(axis, x)), cells);
    });
    const heads = [axis, ...lines.map(({ words }) => words)].map((text) => el("th", { scope: "col" }, text));
    fill(this.#rows, el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
  }
}

function unitOf(seconds) {
  return seconds >= 172800 ? [86400, "d"] : seconds >= 7200 ? [3600, "h"] : seconds >= 120 ? [60, "min"] : seconds >= 1 ? [1, "s"] : [0.001, "ms"];
}

/** A time in the unit of `most`. */
function clock(seconds, most = seconds) {
  const [unit, name] = unitOf(most);
  return `${Number((seconds / unit).toFixed(most < 10 * unit ? 2 : 1))} ${name}`;
}

/** A place on an axis, as exactly as one needs it that ends at `most` and is `span` long. */
function along(axis, x, most = x, span = 0) {
  return axis === "time" ? clock(x, most) : axis === "clock" ? moment(x, span) : number(x);
}

/** A moment by the clocks of this place. */
function moment(seconds, span) {
  const [day, time] = [{ month: "short", day: "numeric" }, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }];
  const form = span > 400_000 ? day : span > 600 ? time : { ...(span ? {} : day), ...time, second: "2-digit" };
  return new Intl.DateTimeFormat([], form).format(seconds * 1000);
}
