// Small charts of one run, or of several over each other, on canvas. What they show is in words and in a table, too.

import { Points, chosen, direction, logTicks, ranked, ticks } from "./curve.js";
import { bytes, el, fill, number } from "./dom.js";
import { api, raw } from "./state.js";

const HEIGHT = 150;
const EDGE = { left: 46, right: 10, top: 8, bottom: 18 };
const ROWS = 200;
const PIECE = 16; // points that are stroked at once: a long zigzag that crosses itself takes five times as long
const FEW = 3000; // points of a run in the first picture of several
const SETTLE = 250; // milliseconds from picture to picture while points are still arriving
const UNITS = { cpu: "%", memory: "B", gpu: "%", "gpu memory": "B" }; // the series of `usage.points`, which has no names
const USAGE = Object.keys(UNITS);
const FILES = { usage: "usage", metrics: "points" }; // the usage first: it begins with the command, so times count from there
const settings = { axis: "step", log: false, smooth: 0 }; // as last chosen, also for the next run

/** The charts of a run, or of several, by their numbers. They fetch their points, and more after each `update`. */
export class Charts {
  view = { ...settings, zoom: null, cursor: null }; // zoom: {axis, from, to}; cursor: {axis, x}
  said = el("p.unseen", { role: "status" });
  #charts = new Map();
  #seen = new Set();
  #frame = 0;
  #stale = true;
  #changedAt = 0;
  #grid = el("div.chart-grid");
  #watch = new IntersectionObserver((entries) => this.#appeared(entries), { rootMargin: "150px" });
  #sizes = new ResizeObserver(() => this.draw());
  #dark = matchMedia("(prefers-color-scheme: dark)");

  constructor(element, runs) {
    this.runs = [runs].flat().map((number, index, { length }) => {
      const colour = length > 1 ? `--c${(index % 8) + 1}` : "--accent";
      return { number, label: `run ${number}`, colour, names: [], ...noPoints() };
    });
    this.element = el("section", { "aria-label": "Charts", hidden: true }, this.#controls(), this.#grid, this.said);
    fill(element, this.element);
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

  close() {
    this.closed = true;
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
      const style = getComputedStyle(this.#grid);
      const colour = (name) => style.getPropertyValue(name).trim() || "gray";
      const places = [...this.#seen].map((chart) => [chart, chart.plot.clientWidth]);
      for (const [chart, width] of places) if (width && (this.#stale || !chart.point())) chart.draw(width, colour, style.fontFamily);
      this.#stale = false;
    });
  }

  set(changes) {
    Object.assign(this.view, changes);
    this.draw(Object.keys(changes).every((name) => name === "cursor"));
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
    const metrics = new Set(this.runs.flatMap((run) => run.names.filter((_, index) => run.metrics.series[index])));
    const usage = USAGE.filter((_, index) => this.runs.some((run) => run.usage.series[index]));
    const all = [...ranked(metrics).map((name) => ["metrics", name]), ...usage.map((name) => ["usage", name])];
    all.forEach(([file, name], place) => {
      const key = `${file} ${name}`;
      if (!this.#charts.has(key)) this.#charts.set(key, new Chart(this, file, name));
      const { element } = this.#charts.get(key);
      if (this.#grid.children[place] !== element) this.#grid.insertBefore(element, this.#grid.children[place] ?? null);
      this.#watch.observe(element);
    });
    this.element.hidden = all.length === 0;
    this.draw();
  }

  #appeared(entries) {
    for (const { target, isIntersecting } of entries) {
      const chart = [...this.#charts.values()].find((each) => each.element === target);
      if (isIntersecting) this.#seen.add(chart);
      else if (this.#seen.delete(chart)) chart.release();
    }
    this.draw();
  }

  #controls() {
    const change = (changes) => this.set(Object.assign(settings, changes));
    const choice = (text, name, off, on) => {
      const click = ({ target }) => {
        change({ [name]: this.view[name] === off ? on : off });
        target.setAttribute("aria-pressed", String(this.view[name] === on));
      };
      return el("button.quiet", { "aria-pressed": String(this.view[name] === on), onclick: click }, text);
    };
    const slider = { type: "range", min: 0, max: 0.99, step: 0.01, value: String(settings.smooth), oninput: ({ target }) => change({ smooth: Number(target.value) }) };
    return el("div.charts-bar", {}, el("label", {}, "smooth", el("input", slider)), choice("time", "axis", "step", "time"), choice("log", "log", false, true));
  }
}

class Chart {
  #canvas;
  #line = el("div.chart-cursor", {}, el("span"));
  #band = el("div.chart-band");
  #values = el("div.chart-values");
  #rows = el("div.chart-rows", { tabindex: "0", role: "region" });
  #table = el("details", { ontoggle: () => this.all.draw() }, el("summary", {}, "table"), this.#rows);
  #drag = null; // where it began and is now, in pixels
  #drawn = null; // what the picture shows

  constructor(all, file, name) {
    Object.assign(this, { all, file, name, unit: file === "usage" ? UNITS[name] : "" });
    this.#canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": `Chart of ${name}` });
    this.direction = this.unit ? 0 : direction(name);
    this.plot = el("div.plot", {}, this.#canvas, this.#line, this.#band);
    const caption = el("figcaption", {}, el("span.chart-name", { title: name }, name), this.#values);
    this.element = el(`figure.chart${all.runs.length > 1 ? ".several" : ""}`, {}, caption, this.plot, this.#table);
    this.#rows.setAttribute("aria-label", `${name} as a table`);
    const drawn = (act) => (event) => this.#drawn && act(event);
    this.#canvas.onpointermove = drawn((event) => this.#moved(event));
    this.#canvas.onpointerleave = () => this.#drag ?? all.set({ cursor: null });
    this.#canvas.onpointerdown = drawn((event) => this.#down(event));
    this.#canvas.onpointerup = drawn(() => this.#up());
    this.#canvas.ondblclick = () => all.set({ zoom: null });
    this.#canvas.onkeydown = drawn((event) => this.#key(event));
  }

  draw(width, colour, font) {
    const { view, runs } = this.all;
    const axis = this.unit ? "time" : view.axis;
    const log = view.log && !this.unit;
    const lines = runs.flatMap((run) => {
      const line = run[this.file].series[(this.unit ? USAGE : run.names).lastIndexOf(this.name)]?.[axis].settle();
      return line?.count ? [{ run, line, y: line.smoothed(this.unit ? 0 : view.smooth), best: line.best(this.direction) }] : [];
    });
    if (!lines.length) return;
    const [right, bottom] = [width - EDGE.right, HEIGHT - EDGE.bottom];
    let [from, to] = [Math.min(...lines.map(({ line }) => line.x[0])), Math.max(...lines.map(({ line }) => line.x[line.count - 1]))];
    if (view.zoom?.axis === axis && view.zoom.from < to && view.zoom.to > from) ({ from, to } = view.zoom);
    if (from === to) [from, to] = [from - 1, to + 1];
    for (const each of lines) {
      const choose = (y) => chosen(each.line, y, from, to, right - EDGE.left, log ? 0 : -Infinity);
      each.solid = choose(each.y);
      each.faint = each.y === each.line.y ? null : choose(each.line.y);
    }
    let [low, high] = [Math.min(...lines.map(({ solid }) => solid.low)), Math.max(...lines.map(({ solid }) => solid.high))];
    if (low > high) [low, high] = [0.1, 1]; // nothing can be drawn
    if (this.unit) [low, high] = [0, this.unit === "%" ? Math.max(100, high) : high * 1.1 || 1];
    else if (log) [low, high] = [low / 1.1, high * 1.1];
    else [low, high] = [low, high].map((value, place, [one, other]) => value + (place - 0.5) * ((other - one) * 0.12 || Math.abs(other) * 0.2 || 2));
    const scale = log ? Math.log10 : (value) => value;
    const x = (value) => EDGE.left + ((value - from) / (to - from)) * (right - EDGE.left);
    const y = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (bottom - EDGE.top);
    this.#drawn = { axis, log, lines, from, to, low, high, x, y, right, bottom, colour };

    const dense = globalThis.devicePixelRatio;
    Object.assign(this.#canvas, { width: Math.round(width * dense), height: Math.round(HEIGHT * dense) }); // and it is empty
    const pen = this.#canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.font = `10.5px ${font}`;
    this.#axes(pen);
    pen.rect(EDGE.left - 1, 0, right - EDGE.left + 4, bottom + 1);
    pen.clip();
    for (const each of lines) this.#curve(pen, each);
    this.point();
    if (this.#table.open) this.#fillTable();
  }

  /** Give back the memory of the pictures while they are not seen. */
  release() {
    this.#drawn = null;
    this.#canvas.width = 0;
  }

  #axes(pen) {
    const { axis, log, from, to, low, high, x, y, right, colour } = this.#drawn;
    pen.fillStyle = colour("--faint");
    pen.strokeStyle = colour("--rule");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of (log ? logTicks : ticks)(low, high, 4)) {
      const at = Math.round(y(value)) + 0.5;
      pen.moveTo(EDGE.left, at);
      pen.lineTo(right, at);
      pen.fillText(this.#text(value), EDGE.left - 6, at);
    }
    pen.stroke();
    pen.beginPath();
    pen.textAlign = "left";
    pen.textBaseline = "bottom";
    const unit = axis === "time" ? unitOf(to)[0] : 1;
    const places = ticks(from / unit, to / unit, Math.max(2, (right - EDGE.left) / 80)).map((value) => value * unit);
    for (const value of places) {
      const text = axis === "time" ? clock(value, to) : number(value);
      const wide = pen.measureText(text).width;
      pen.fillText(text, Math.min(x(value) - wide / 2, right - wide + 4), HEIGHT - 1);
    }
  }

  #curve(pen, { run, line, y: values, best, solid, faint }) {
    const { x, y, bottom, colour } = this.#drawn;
    const trace = ({ points }, from) => {
      pen.beginPath();
      points.forEach((index, place) => {
        if (index < 0) return;
        const [right, down] = [x(line.x[index]), y(from[index])];
        if (place === 0 || points[place - 1] < 0) pen.moveTo(right - 0.6, down); // a point alone is a dot
        pen.lineTo(right, down);
        if (place % PIECE) return;
        pen.stroke();
        pen.beginPath();
        pen.moveTo(right, down);
      });
      pen.stroke();
    };
    pen.strokeStyle = pen.fillStyle = colour(run.colour);
    pen.lineJoin = "bevel";
    pen.globalAlpha = 0.25;
    if (faint) trace(faint, line.y);
    pen.globalAlpha = 1;
    pen.lineWidth = 1.3;
    trace(solid, values);
    pen.fillStyle = colour("--bad"); // what is NaN or infinite, or not above 0 on a log axis
    for (const index of solid.marks) pen.fillRect(x(line.x[index]) - 1, bottom - 4, 2, 5);
    if (best < 0) return;
    pen.fillStyle = colour("--ground");
    pen.beginPath();
    pen.arc(x(line.x[best]), y(values[best]), 3, 0, 7);
    pen.fill();
    pen.stroke();
  }

  /** Show what is at the cursor; false: there is no picture yet. */
  point() {
    if (!this.#drawn) return false;
    const { axis, from, to, x } = this.#drawn;
    const { cursor } = this.all.view;
    this.#line.hidden = cursor?.axis !== axis || cursor.x < from || cursor.x > to;
    if (!this.#line.hidden) {
      this.#line.style.left = `${x(cursor.x)}px`;
      this.#line.firstChild.textContent = this.#place(cursor.x);
    }
    this.#band.hidden = !this.#drag;
    if (this.#drag) Object.assign(this.#band.style, { left: `${Math.min(...this.#drag)}px`, width: `${Math.abs(this.#drag[1] - this.#drag[0])}px` });
    this.#words();
    return true;
  }

  /** The caption and the description: what each run has at the cursor, or last, and its best. */
  #words() {
    const { axis, lines } = this.#drawn;
    const { cursor } = this.all.view;
    const several = this.all.runs.length > 1;
    const best = (line, at) => at >= 0 && ` best ${this.#text(line.y[at])}`;
    fill(this.#values, lines.map(({ run, line, best: at }) => {
      const here = cursor?.axis === axis ? line.nearest(cursor.x) : -1;
      const value = el("b", {}, this.#text(line.y[here < 0 ? line.count - 1 : here]));
      const who = several && [el("i.swatch", { style: { background: `var(${run.colour})` } }), `${run.number} `];
      return el("span", { title: run.label }, who, value, !several && here < 0 && best(line, at));
    }));
    const summary = ({ run, line, best: at }) => `${run.label}: ${line.count} points, first ${this.#text(line.y[0])}, last ${this.#text(line.y[line.count - 1])}` +
      ` at ${this.#place(line.x[line.count - 1])}${at < 0 ? "" : `,${best(line, at)} at ${this.#place(line.x[at])}`}`;
    this.#canvas.setAttribute("aria-label", `Chart of ${this.name}. ${lines.map(summary).join(". ")}. Arrow keys move a cursor.`);
  }

  #text(value) {
    return this.unit === "B" && Number.isFinite(value) ? bytes(value) : `${number(value)}${this.unit}`;
  }

  #place(x) {
    return this.#drawn.axis === "time" ? clock(x) : `step ${number(x)}`;
  }

  /** x at these pixels from the left, within the picture. */
  #at(pixels) {
    const { from, to, right } = this.#drawn;
    return from + ((Math.min(Math.max(pixels, EDGE.left), right) - EDGE.left) / (right - EDGE.left)) * (to - from);
  }

  #moved({ offsetX }) {
    if (this.#drag) this.#drag[1] = offsetX;
    const { axis, lines, x } = this.#drawn;
    const wanted = this.#at(offsetX);
    const near = lines.map(({ line }) => line.x[line.nearest(wanted)]).sort((one, other) => Math.abs(one - wanted) - Math.abs(other - wanted))[0];
    this.all.set({ cursor: { axis, x: Math.abs(x(near) - offsetX) < 30 ? near : wanted } });
  }

  #down({ button, offsetX, pointerId }) {
    if (button) return;
    this.#drag = [offsetX, offsetX];
    this.#canvas.setPointerCapture(pointerId);
  }

  #up() {
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
    if (by) {
      const index = x === null ? (Math.abs(by) === 1 ? first : by) : line.nearest(x) + by * (event.shiftKey ? 10 : 1);
      const at = line.x[Math.min(Math.max(index, first), last)];
      const said = lines.map(({ run, line: other }) => `${run.label} ${this.#text(other.y[other.nearest(at)])}`);
      this.all.said.textContent = `${this.name}, ${this.#place(at)}: ${said.join(", ")}`;
      this.all.set({ cursor: { axis, x: at } });
    } else if (event.key === "Escape" && (cursor || zoom)) {
      this.all.set({ zoom: null, cursor: null });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** What is in the picture, in at most 200 rows: every so many points of the first run, and what the others have near them. */
  #fillTable() {
    const { axis, lines, from, to } = this.#drawn;
    const { line } = lines[0];
    const [first, last] = [line.find(from), line.nearest(to)];
    const most = Math.min(ROWS - 1, last - first);
    const rows = Array.from({ length: most + 1 }, (_, row) => {
      const x = line.x[first + Math.round((row / Math.max(1, most)) * (last - first))];
      const cells = lines.map(({ line: other }) => el("td", {}, this.#text(other.y[other.nearest(x)])));
      return el("tr", {}, el("th", { scope: "row" }, axis === "time" ? clock(x) : number(x)), cells);
    });
    const heads = [axis, ...lines.map(({ run }) => run.label)].map((text) => el("th", { scope: "col" }, text));
    fill(this.#rows, el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
  }
}

function noPoints() {
  const start = { time: null };
  return { start, usage: new Points(start), metrics: new Points(start), ends: {} };
}

function unitOf(seconds) {
  return seconds >= 172800 ? [86400, "d"] : seconds >= 7200 ? [3600, "h"] : seconds >= 120 ? [60, "min"] : [1, "s"];
}

/** A time in the unit of `most`. */
function clock(seconds, most = seconds) {
  const [unit, name] = unitOf(most);
  return `${Number((seconds / unit).toFixed(1))} ${name}`;
}
