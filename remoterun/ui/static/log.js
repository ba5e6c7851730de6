// The log of a run: a window of it that is moved over the file, so that its size does not matter. It follows the end
// while one is at the end. Every position is a byte of the log, and the window's parts begin and end with lines.

import { PLAIN, paint } from "./ansi.js";
import { bytes, el, fill, template } from "./dom.js";
import { api, isFinal, raw, set, setting, store } from "./state.js";

const PART = 128 << 10; // bytes that are fetched at once
const PARTS = 6; // that the page holds
const NEAR = 600; // pixels from an edge of the window at which the next part is fetched
const MOST_DRAWN = 4; // events of the stream, of 64 KiB, that are drawn in one frame
const AGAIN = 1500; // milliseconds after which times, and stderr, are asked for again
const LONGEST = 64 << 10; // characters of a line; what is longer is broken

export class Log {
  #parts = []; // in order, without gaps: {start, end, node, rest: its unfinished last line, style}
  #total = null;
  #following = true;
  #loading = false;
  #height = 0;
  #hits = null;
  #came = []; // what was not drawn yet
  #frame = 0;
  #name = "log"; // or "err"
  #asks = false; // for times, or for stderr
  linked = null; // the byte at which the line begins that the address names
  #leaving = new AbortController();

  constructor(element, number) {
    this.number = number;
    this.at = template(element, "log-view");
    this.at.query.addEventListener("keydown", (event) => this.#typed(event));
    this.at.jump.addEventListener("click", () => (this.#mark(null), this.end().catch(() => {})));
    this.at.scroller.addEventListener("scroll", () => this.#scrolled());
    this.at.err.addEventListener("click", () => (set({ err: this.#name === "log" && "1" }), this.#mark(null), this.#turn()));
    this.at.times.addEventListener("click", () => (set({ times: !setting("times") && "1" }), this.#times()));
    this.at.lines.addEventListener("click", ({ target, offsetX }) => offsetX < parseFloat(getComputedStyle(target).paddingLeft) && this.#link(target));
    this.at.scroller.addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), this.#link()));
    const unlisten = store.on("log", (said) => this.#name === "log" && this.#grow(said));
    const clock = setInterval(() => this.#again(), AGAIN);
    this.#times();
    const sizes = new ResizeObserver(() => this.#following && this.#toBottom());
    sizes.observe(this.at.scroller);
    this.close = () => (unlisten(), clearInterval(clock), sizes.disconnect(), this.#leaving.abort());
  }

  /** Show the end; returns how many bytes the log has by now. Throws Failure. */
  async end() {
    this.#hold([await this.#fetch(-PART)]);
    this.#toBottom();
    return this.#total;
  }

  /** Show the line that begins at this byte, and put it into the address; returns as `end`. Throws Failure. */
  async jump(offset) {
    const before = Math.max(0, offset - PART);
    this.linked = offset;
    const parts = await Promise.all([before < offset && this.#fetch(before, offset - before), this.#fetch(offset, PART, true)]);
    this.#hold(parts.filter(Boolean));
    this.#following = false;
    const line = this.#parts.at(-1).node.firstElementChild;
    this.#mark(line, offset);
    this.at.scroller.scrollTop = (line?.offsetTop || 0) - this.at.scroller.clientHeight / 3;
    return this.#total;
  }

  /** Let the address name a line: usually the topmost one that is seen. */
  async #link(line = [...this.at.lines.querySelectorAll(":scope > div > div")].find(({ offsetTop }) => offsetTop >= this.at.scroller.scrollTop)) {
    const part = this.#parts.find(({ node }) => node === line?.parentNode);
    if (!part) return;
    const response = await raw(`${this.#address(part.start)}&size=${part.end - part.start}`, { signal: this.#leaving.signal });
    const data = new Uint8Array(await response.arrayBuffer());
    let at = 0;
    for (let before = line.previousElementSibling; before; before = before.previousElementSibling) at = data.indexOf(10, at) + 1;
    this.#mark(line, part.start + at);
    const isCopied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
    this.at.found.textContent = isCopied ? "The link is copied." : "The address names this line.";
  }

  #mark(line, offset = null) {
    this.at.lines.querySelector(".hit")?.classList.remove("hit");
    line?.classList.add("hit");
    this.linked = offset;
    const url = new URL(location);
    url.hash = url.hash.slice(1).split(":")[0] + (offset === null ? "" : `:${offset}`);
    history.replaceState(null, "", url);
  }

  // -- stderr, and times

  /** Let one choose stderr, where it is apart. */
  offer(isApart) {
    this.at.err.hidden = !isApart;
    if (isApart && setting("err") && this.#name === "log") this.#turn();
  }

  #turn() {
    [this.#name, this.#total] = [this.#name === "log" ? "err" : "log", null];
    this.#showHits(null);
    this.#times();
    (this.linked === null ? this.end() : this.jump(this.linked)).catch(() => {});
  }

  #times() {
    const isOn = Boolean(setting("times")) && this.#name === "log";
    this.at.save.href = `api/runs/${this.number}/whole-log?name=${this.#name}`;
    this.at.err.setAttribute("aria-pressed", this.#name === "err");
    this.at.times.hidden = this.#name === "err";
    this.at.times.setAttribute("aria-pressed", isOn);
    this.at.lines.classList.toggle("timed", isOn);
    this.#again();
  }

  /** Ask for what the stream does not bring: the times of lines, and stderr. */
  async #again() {
    if (document.hidden || this.#asks || !this.at.scroller.clientHeight) return;
    const last = this.#parts.at(-1);
    this.#asks = true;
    try {
      if (this.#name === "err" && this.#atEnd && !isFinal(store.rows.get(this.number) ?? {})) {
        const came = await this.#fetch(last.end, PART, true);
        if (came.end > last.end && this.#name === "err") this.#grow(came);
      }
      const isOn = this.at.lines.classList.contains("timed");
      for (const part of this.#parts.filter((each) => isOn && each.timed !== each.end)) await this.#time(part);
    } catch {
      // it is asked for again
    } finally {
      this.#asks = false;
    }
  }

  async #time(part) {
    const { start, end, node } = part;
    const { times } = await api(`api/runs/${this.number}/times?start=${start}&end=${end}`, { signal: this.#leaving.signal });
    const isGrowing = part === this.#parts.at(-1) && !isFinal(store.rows.get(this.number) ?? {});
    let place = 0;
    for (const [seconds, count] of times) {
      const text = new Date(seconds * 1000).toLocaleString("sv").slice(5);
      for (const until = place + count; place < until && place < node.children.length; place += 1) node.children[place].dataset.time = text;
    }
    if (place === node.children.length || !isGrowing) part.timed = end; // else the last lines have none yet
  }

  #address(start) {
    return `api/runs/${this.number}/log?name=${this.#name}&start=${start}`;
  }

  /** Bytes from `start` on, without the lines of which only an end or a beginning is among them. */
  async #fetch(start, size = PART, exact = false) {
    const response = await raw(`${this.#address(start)}&size=${size}`, { signal: this.#leaving.signal });
    const from = Number(response.headers.get("X-Start"));
    this.#total = Math.max(this.#total, Number(response.headers.get("X-Total")));
    const data = new Uint8Array(await response.arrayBuffer());
    const first = from === 0 || exact ? 0 : data.indexOf(10) + 1;
    const last = from + data.length >= this.#total ? data.length : data.lastIndexOf(10) + 1;
    const [begin, end] = first < last ? [first, last] : [0, data.length]; // one line that is longer than this
    return { start: from + begin, end: from + end, text: new TextDecoder().decode(data.subarray(begin, end)) };
  }

  #hold(parts) {
    this.#parts = [];
    fill(this.at.lines);
    for (const part of parts) this.#add(part);
  }

  /** Add a part at the end, or at the beginning; one at the other end goes where there are too many. */
  #add({ start, end, text }, first = false) {
    const part = { start, end: start, node: el("div"), rest: "", style: (!first && this.#parts.at(-1)?.style) || PLAIN };
    this.#parts[first ? "unshift" : "push"](part);
    this.at.lines[first ? "prepend" : "append"](part.node);
    write(part, text, end);
    if (this.#parts.length > PARTS) this.#parts[first ? "pop" : "shift"]().node.remove();
  }

  /** What came is drawn once a frame: of a log that is faster, only the end. */
  #grow(said) {
    this.#came.push(said);
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    this.#scrolled(); // by hand, in this very moment
    const came = this.#came.splice(0);
    const latest = this.#following ? came.slice(-MOST_DRAWN) : came;
    for (const { start, end = start, text, skipped } of latest) {
      const last = this.#parts.at(-1);
      const fits = (last?.end || 0) === start;
      this.#total = Math.max(this.#total, end);
      if (skipped && this.#following) this.end().catch(() => {});
      if (skipped || (last && end <= last.end) || !(this.#following || (fits && this.#parts.length < PARTS))) continue;
      if (!fits) this.#hold([]); // what is before this comes as one scrolls; it begins with a whole line
      const cut = fits ? 0 : text.indexOf("\n") + 1;
      const from = start + new TextEncoder().encode(text.slice(0, cut)).length;
      if (!last || !fits || (last.end - last.start > PART && !last.rest)) this.#add({ start: from, end, text: text.slice(cut) });
      else write(last, text, end);
    }
    this.#following ? this.#toBottom() : this.#tellWhere();
  }

  #toBottom() {
    this.#following = true;
    this.at.scroller.scrollTop = this.at.scroller.scrollHeight;
    this.#tellWhere();
  }

  get #atEnd() {
    return this.#parts.length > 0 && this.#parts.at(-1).end >= this.#total;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.at.scroller;
    const below = scrollHeight - clientHeight - scrollTop;
    const isResized = clientHeight !== this.#height; // it was not scrolled by hand
    this.#height = clientHeight;
    if (isResized && this.#following) return this.#toBottom();
    this.#following = below < 8 && (this.#following || this.#atEnd);
    this.#tellWhere();
    if (!this.#parts.length || !clientHeight) return;
    if (scrollTop < NEAR && this.#parts[0].start > 0) this.#more(true);
    else if (below < NEAR && !this.#atEnd && !this.#following) this.#more(false);
  }

  /** Hold one part more, before or after those that are held, without moving what one looks at. */
  async #more(earlier) {
    if (this.#loading) return;
    this.#loading = true;
    const { start, end } = this.#parts.at(earlier ? 0 : -1);
    const from = Math.max(0, start - PART);
    try {
      const part = await (earlier ? this.#fetch(from, start - from) : this.#fetch(end, PART, true));
      if (this.#parts.at(earlier ? 0 : -1)?.[earlier ? "start" : "end"] !== (earlier ? start : end)) return;
      const mark = this.#parts[earlier ? 0 : 1]?.node;
      const before = mark?.offsetTop;
      this.#add(part, earlier);
      if (mark) this.at.scroller.scrollTop += mark.offsetTop - before;
    } catch {
      return; // it is asked for again as one scrolls
    } finally {
      this.#loading = false;
    }
    this.#scrolled();
  }

  #tellWhere() {
    const [first, last] = [this.#parts[0], this.#parts.at(-1)];
    this.at.jump.hidden = this.#following || !last;
    this.at.lines.classList.toggle("none", this.#total === 0);
    const { scrollTop, scrollHeight } = this.at.scroller;
    const place = last && !this.#following ? first.start + ((last.end - first.start) * scrollTop) / scrollHeight : null;
    this.at.where.textContent = place === null ? bytes(this.#total || 0) : `at ${bytes(place)} of ${bytes(this.#total)}`;
  }

  // -- search, by the host

  #typed({ key, shiftKey }) {
    if (key === "Escape") {
      this.at.query.value = "";
      this.#showHits(null);
      this.at.scroller.focus();
    }
    if (key !== "Enter" || !this.at.query.value) return;
    if (this.#hits?.text === this.at.query.value) this.#step(this.#hits.place + (shiftKey ? -1 : 1));
    else this.#search(this.at.query.value);
  }

  async #search(text) {
    this.at.found.textContent = "searching…";
    try {
      const query = `q=${encodeURIComponent(text)}&start=0&name=${this.#name}`;
      const found = await api(`api/runs/${this.number}/search?${query}`, { signal: this.#leaving.signal });
      this.#showHits({ text, place: -1, ...found });
      this.#step(0);
    } catch (failure) {
      this.at.found.textContent = failure.message;
    }
  }

  #showHits(hits) {
    this.#hits = hits;
    this.at.found.textContent = hits ? "not found" : "";
    this.at.hits.hidden = !hits?.hits.length;
    const item = ({ line }, place) => el("li", {}, el("button", { onclick: () => this.#step(place) }, paint(line, PLAIN).nodes));
    fill(this.at.hits, (hits?.hits || []).map(item));
  }

  #step(wanted) {
    const { hits, place, until, total } = this.#hits;
    if (!hits.length) return;
    const next = (wanted + hits.length) % hits.length;
    this.at.hits.children[place]?.classList.remove("chosen");
    this.at.hits.children[next].classList.add("chosen");
    this.at.hits.scrollTop = this.at.hits.children[next].offsetTop - this.at.hits.clientHeight / 2;
    this.#hits.place = next;
    this.at.found.textContent = `${next + 1} of ${hits.length}${until < total ? " or more" : ""}`;
    this.jump(hits[next].offset).catch((failure) => (this.at.found.textContent = failure.message));
  }
}

/** Add text to the end of a part. The line that has no end yet is drawn anew when more of it comes. */
function write(part, text, end) {
  if (part.rest) part.node.lastElementChild.remove();
  const lines = (part.rest + text).split("\n");
  part.rest = lines.at(-1).length < LONGEST ? lines.pop() : lastBar(lines.pop());
  const drawn = lines.map((line) => draw(part, line.replace(/\r$/, "")));
  const { style } = part;
  if (part.rest) drawn.push(draw(part, part.rest));
  part.style = style; // the rest begins with it again
  part.node.append(...drawn);
  part.end = end;
}

function draw(part, line) {
  const { nodes, style } = paint(line, part.style);
  part.style = style;
  return el("div", {}, nodes);
}

/** What matters of a long line without an end: of a bar that is drawn over and over, the last two states. */
function lastBar(line) {
  return line.slice(Math.max(line.lastIndexOf("\r", line.lastIndexOf("\r") - 1), line.length - LONGEST + 1));
}
