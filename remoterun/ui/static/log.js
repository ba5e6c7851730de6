// The log of a run: a window of it that is moved over the file, so that its size does not matter. It follows the end
// while one is at the end. Every position is a byte of the log.

import { PLAIN, paint } from "./ansi.js";
import { bytes, el, fill } from "./dom.js";
import { api, raw, store } from "./state.js";

const PART = 128 << 10; // bytes that are fetched at once
const BLOCKS = 6; // parts that the page holds
const NEAR = 600; // pixels from an edge of the window at which the next part is fetched

export class Log {
  #blocks = []; // in order, without gaps: {start, end, element, rest, style}
  #total = 0;
  #known = false; // the total, from the server
  #loading = null;
  #hits = null;
  #aborting = new AbortController();
  #ends = [];

  constructor(element, number) {
    this.number = number;
    this.query = el("input", {
      type: "search",
      placeholder: "Search the log",
      "aria-label": "Search the log",
      spellcheck: "false",
      onkeydown: (event) => this.#queryKey(event),
      oninput: () => this.query.value || this.#showHits(null),
    });
    this.found = el("span.found", { "aria-live": "polite" });
    this.where = el("span.where");
    this.toEnd = el("button.quiet", { onclick: () => this.end(), hidden: true }, "Jump to the end ↓");
    const plain = el("a.quiet", { href: `api/runs/${number}/log?start=0&download=1`, download: `run-${number}.log` }, "Download");
    this.hits = el("ol.hits", { hidden: true, "aria-label": "Lines that were found" });
    this.lines = el("div.lines");
    const label = `Log of run ${number}`;
    this.scroller = el("div.scroller", { tabindex: "0", role: "region", "aria-label": label, onscroll: () => this.#scrolled() }, this.lines);
    fill(element, [el("div.bar", {}, el("h2", {}, "Log"), this.query, this.found, this.where, plain, this.toEnd), this.hits, this.scroller]);
    this.#ends = [store.on("log", (said) => this.#grow(said)), () => this.#aborting.abort()];
    const sizes = new ResizeObserver(() => this.#following && this.#toBottom());
    sizes.observe(this.scroller);
    this.#ends.push(() => sizes.disconnect());
  }

  close() {
    for (const end of this.#ends) end();
  }

  /** Show the end of the log; returns how many bytes it has by now. Throws Failure. */
  async end() {
    await this.#window([await this.#fetch(-PART)]);
    this.#toBottom();
    return this.#total;
  }

  /** It was hidden, and is seen now. */
  shown() {
    if (this.#following) this.#toBottom();
  }

  /** Show the line that begins at this byte. */
  async jump(offset) {
    const parts = await Promise.all([this.#fetch(offset), offset > 0 && this.#fetch(Math.max(0, offset - PART), Math.min(PART, offset))]);
    const [after, before] = parts;
    await this.#window([before, after].filter(Boolean), offset);
    const line = this.#blocks.at(-1).element.firstElementChild;
    if (!line) return;
    line.classList.add("hit");
    this.scroller.scrollTop = line.offsetTop - this.scroller.clientHeight / 3;
  }

  #following = true;

  get #atEnd() {
    return this.#blocks.length > 0 && this.#blocks.at(-1).end >= this.#total;
  }

  async #fetch(start, size = PART) {
    const response = await raw(`api/runs/${this.number}/log?start=${start}&size=${size}`, { signal: this.#aborting.signal });
    const [from, total] = ["X-Start", "X-Total"].map((name) => Number(response.headers.get(name)));
    this.#total = Math.max(this.#total, total);
    this.#known = true;
    return { start: from, data: new Uint8Array(await response.arrayBuffer()) };
  }

  /** Hold these parts, one after the other, in place of what is held; `exact`: where a part begins with a line. */
  async #window(parts, exact = null) {
    this.#blocks = [];
    fill(this.lines, []);
    for (const part of parts) this.#append(part.start === exact ? part : fromLine(part));
    this.#tellWhere();
  }

  #append({ start, data }) {
    const block = { start, end: start, element: el("div.block"), rest: "", style: this.#blocks.at(-1)?.style || PLAIN };
    const before = this.#blocks.at(-1);
    if (before?.rest) this.#take(block, before); // its last line goes on in this one
    this.#blocks.push(block);
    this.lines.append(block.element);
    write(block, new TextDecoder().decode(data), start + data.length);
  }

  /** Move the unfinished line at the end of a block to the beginning of the next one. */
  #take(block, before) {
    block.rest = before.rest;
    before.rest = "";
    before.element.lastElementChild?.remove();
  }

  #grow({ start, end, text, skipped }) {
    const last = this.#blocks.at(-1);
    const attached = !last || last.end >= this.#total;
    this.#total = Math.max(this.#total, end || 0, skipped ? start : 0);
    if (skipped || (attached && last && start > last.end)) {
      if (this.#following) this.end().catch(() => {});
      return;
    }
    if (attached && end > (last?.end || 0)) this.#live(start, end, text);
    this.#tellWhere();
  }

  #live(start, end, text) {
    const last = this.#blocks.at(-1);
    if (last && start < last.end) return; // it came by a fetch meanwhile
    if (!last || last.end - last.start > PART) this.#append({ start, data: new Uint8Array() });
    write(this.#blocks.at(-1), text, end);
    if (!this.#following) return;
    while (this.#blocks.length > BLOCKS) this.#blocks.shift().element.remove();
    this.#toBottom();
  }

  #toBottom() {
    this.#following = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#tellWhere();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - clientHeight - scrollTop;
    this.#following = below < 8 && this.#atEnd;
    this.#tellWhere();
    if (this.#loading || !this.#blocks.length) return;
    if (scrollTop < NEAR && this.#blocks[0].start > 0) this.#load(this.#earlier());
    else if (below < NEAR && !this.#atEnd) this.#load(this.#later());
  }

  #load(loading) {
    this.#loading = loading
      .catch(() => false)
      .then((more) => {
        this.#loading = null;
        if (more) this.#scrolled();
      });
  }

  async #earlier() {
    const first = this.#blocks[0];
    const start = Math.max(0, first.start - PART);
    const part = fromLine(await this.#fetch(start, first.start - start));
    if (this.#blocks[0] !== first) return false;
    const block = { start: part.start, end: part.start, element: el("div.block"), rest: "", style: PLAIN };
    write(block, new TextDecoder().decode(part.data), part.start + part.data.length);
    const before = this.scroller.scrollHeight;
    this.#blocks.unshift(block);
    this.lines.prepend(block.element);
    this.scroller.scrollTop += this.scroller.scrollHeight - before;
    while (this.#blocks.length > BLOCKS) this.#blocks.pop().element.remove();
    return true;
  }

  async #later() {
    const last = this.#blocks.at(-1);
    const part = await this.#fetch(last.end);
    if (this.#blocks.at(-1) !== last || !part.data.length) return false;
    this.#append(whole(part));
    if (this.#blocks.length > BLOCKS) {
      const before = this.scroller.scrollHeight;
      this.#blocks.shift().element.remove();
      this.scroller.scrollTop -= before - this.scroller.scrollHeight;
    }
    return true;
  }

  #tellWhere() {
    const [first, last] = [this.#blocks[0], this.#blocks.at(-1)];
    this.toEnd.hidden = this.#following || !last;
    const all = !last || (first.start === 0 && this.#atEnd);
    const { scrollTop, scrollHeight } = this.scroller;
    const place = all ? 0 : first.start + ((last.end - first.start) * scrollTop) / Math.max(1, scrollHeight);
    this.where.textContent = all || this.#following ? bytes(this.#total) : `at ${bytes(place)} of ${bytes(this.#total)}`;
    this.lines.classList.toggle("none", !this.#total && this.#known);
  }

  // -- search

  #queryKey(event) {
    if (event.key === "Escape") {
      this.query.value = "";
      this.#showHits(null);
      this.scroller.focus();
    }
    if (event.key !== "Enter" || !this.query.value) return;
    if (this.#hits?.text === this.query.value) this.#step(event.shiftKey ? -1 : 1);
    else this.#search(this.query.value);
  }

  async #search(text) {
    this.found.textContent = "searching…";
    try {
      const found = await api(`api/runs/${this.number}/search?q=${encodeURIComponent(text)}&start=0`, { signal: this.#aborting.signal });
      this.#showHits({ text, place: -1, ...found });
      if (found.hits.length) this.#step(1);
    } catch (failure) {
      if (failure.name !== "AbortError") this.found.textContent = failure.message;
    }
  }

  #showHits(hits) {
    this.#hits = hits;
    this.hits.hidden = !hits?.hits.length;
    const go = (place) => () => this.#step(place - this.#hits.place);
    fill(this.hits, (hits?.hits || []).map(({ offset, line }, place) => el("li", {}, el("button", { onclick: go(place), title: `byte ${offset}` }, paint(line, PLAIN).nodes))));
    this.found.textContent = !hits ? "" : hits.hits.length ? countOf(hits) : "not found";
  }

  #step(by) {
    const hits = this.#hits;
    this.hits.children[hits.place]?.classList.remove("chosen");
    hits.place = (hits.place + by + hits.hits.length) % hits.hits.length;
    const item = this.hits.children[hits.place];
    item.classList.add("chosen");
    this.hits.scrollTop = item.offsetTop - this.hits.clientHeight / 2;
    this.found.textContent = countOf(hits);
    this.jump(hits.hits[hits.place].offset).catch((failure) => (this.found.textContent = failure.message));
  }
}

function countOf({ hits, place, total }) {
  const more = total > hits.length ? ` of the first ${hits.length}; ${total.toLocaleString("en")} in all` : ` of ${hits.length}`;
  return place < 0 ? `${hits.length} lines` : `${place + 1}${more}`;
}

/** Add text to the end of a block. The line that has no end yet is written anew when more of it comes. */
function write(block, text, end) {
  const lines = (block.rest + text).split("\n");
  const rest = lines.pop();
  if (block.rest) block.element.lastElementChild.remove();
  const nodes = lines.map((line) => painted(block, line.endsWith("\r") ? line.slice(0, -1) : line));
  block.rest = lastBar(rest);
  const style = block.style;
  if (block.rest) nodes.push(painted(block, block.rest));
  block.style = style;
  block.element.append(...nodes);
  block.end = end;
}

/** What of a line without an end is worth holding: the states of a bar that were written over are not. */
function lastBar(line) {
  const before = line.lastIndexOf("\r", line.length - 2);
  return line.length > 4096 && before > 0 ? line.slice(line.lastIndexOf("\r", before - 1) + 1) : line;
}

function painted(block, line) {
  const { nodes, style } = paint(line, block.style);
  block.style = style;
  return el("div", {}, nodes);
}

/** A part without the end of a line that it may begin with. */
function fromLine(part) {
  if (part.start === 0) return part;
  const skipped = part.data.indexOf(10) + 1 || part.data.findIndex((byte) => (byte & 0xc0) !== 0x80);
  return { start: part.start + skipped, data: part.data.subarray(skipped) };
}

/** A part without a character at its end that goes on in the next one. */
function whole(part) {
  const { data } = part;
  let end = data.length;
  while (end > data.length - 4 && end > 1 && (data[end - 1] & 0xc0) === 0x80) end -= 1;
  const lead = data[end - 1];
  const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  return end - 1 + size > data.length && end > 1 ? { start: part.start, data: data.subarray(0, end - 1) } : { start: part.start, data };
}
