// The files of a run, or of an upload: a tree beside a preview. What is in them is text, or for the browser's own players.

import { notice } from "./actions.js";
import { bytes, el, fill, legible } from "./dom.js";
import { act, api, raw } from "./state.js";

const AGAIN = 15_000; // milliseconds after which the files of a run that goes on are listed again
const MOST_TEXT = 256 << 10;
const MOST_COPIED = 64 << 20; // a file comes to this machine as a whole, before its beginning is shown
const MOST_NOTEBOOK = 8 << 20; // its pictures are within it
const [ROWS, COLUMNS] = [500, 100];
const PLAYERS = { img: /\.(png|jpe?g|gif|webp|bmp|svg)$/i, audio: /\.(wav|mp3|ogg|flac|m4a)$/i, video: /\.(mp4|webm)$/i };

export function files(element, number) {
  return new Files(element, `api/runs/${number}`, "", number);
}

/** The address of a file below `base`. */
export function fileAt(base, path, query = "") {
  return `${base}/file/${path.split("/").map(encodeURIComponent).join("/")}?${query}`;
}

/** The beginning of a file as text; null: it is not text. Throws Failure. */
export async function textOf(address, most = MOST_TEXT) {
  const nothing = (failure) => (failure.status === 416 ? new Response("") : Promise.reject(failure)); // an empty file has no first byte
  const text = await (await raw(address, { headers: { Range: `bytes=0-${most - 1}` } }).catch(nothing)).text();
  return text.includes("\0") ? null : text.slice(0, most);
}

/** An element that shows a picture, or plays a sound or a film; null: the browser has none for such a file. */
export function player(src, path) {
  const tag = Object.keys(PLAYERS).find((each) => PLAYERS[each].test(path));
  return tag ? el(tag, { src, ...(tag === "img" ? { alt: path } : { controls: true, preload: "metadata", "aria-label": path }) }) : null;
}

export class Files {
  #open = new Set();
  #timer = 0;
  #said = "";

  constructor(element, base, query, run = null) {
    Object.assign(this, { base, query, run, closed: false, chosen: null });
    this.tree = el("div.tree");
    this.shown = el("div.preview", { "aria-live": "polite" }, el("p.note", {}, "Choose a file to see it."));
    fill(element, el("div.files-pane", {}, this.tree, this.shown));
    this.#list().catch((failure) => fill(this.tree, el("p.note", {}, failure.message)));
  }

  close() {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  async #list() {
    const found = await api(`${this.base}/files?${this.query}`);
    if (this.closed) return;
    if (found.live) this.#timer = setTimeout(() => this.#list().catch(() => {}), AGAIN);
    const said = JSON.stringify(found.files);
    if (said !== this.#said) this.#show(found);
    this.#said = said;
  }

  #show({ files: found, more }) {
    const count = found.length ? `${found.length}${more ? " and more" : ""} file${found.length === 1 ? "" : "s"}, ${bytes(sizeOf(found))}` : "There are no files yet.";
    const hasModel = this.run && found.some(({ path }) => /(^|\/)vocab\.json$/.test(path));
    fill(this.tree, [el("p.note", {}, count), hasModel && el("button.primary", { onclick: () => this.#openModel() }, "Open the model"), this.#listOf(found, "")]);
  }

  /** The files below `path` as a list; what is below a folder that was never opened is not made. */
  #listOf(found, path) {
    const folders = Map.groupBy(found, (file) => file.path.slice(path.length).match(/^[^/]*\/|/)[0]);
    const below = [...folders].filter(([name]) => name).sort().map(([name, inside]) => {
      const place = path + name;
      const isOpen = this.#open.has(place);
      const content = el("div", {}, isOpen && this.#listOf(inside, place));
      const toggled = ({ target }) => {
        this.#open[target.open ? "add" : "delete"](place);
        if (target.open && !content.firstChild) fill(content, this.#listOf(inside, place));
      };
      return el("li", {}, el("details", { open: isOpen, ontoggle: toggled }, el("summary", {}, name, el("span.size", {}, bytes(sizeOf(inside)))), content));
    });
    const rows = (folders.get("") ?? []).map((file) => {
      const name = file.path.slice(path.length);
      const show = el("button", { "aria-current": file.path === this.chosen && "true", onclick: () => this.#preview(file, show) }, name);
      const link = { href: fileAt(this.base, file.path, `${this.query}&download=1`), download: name, "aria-label": `Download ${name}`, title: "Download" };
      return el("li.file", {}, show, el("span.size", {}, bytes(file.size)), el("a.quiet", link, "↓"));
    });
    return el("ul", {}, below, rows);
  }

  async #preview({ path, size }, button) {
    this.chosen = path;
    this.tree.querySelector("[aria-current]")?.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    const address = fileAt(this.base, path, this.query);
    const most = path.endsWith(".ipynb") ? MOST_NOTEBOOK : MOST_TEXT;
    let content = player(address, path);
    if (!content && size > MOST_COPIED) content = el("p.note", {}, "This is too large to be shown here; download it to see it.");
    const cut = !content && size > most && el("p.note", {}, `The first ${bytes(most)} of ${bytes(size)}.`);
    content ??= await textOf(address, most).then((text) => shown(text, path), (failure) => el("p.note", {}, failure.message));
    if (this.chosen === path) fill(this.shown, [el("h2", {}, path), cut, content]);
  }

  #openModel() {
    act(`runs/${this.run}/open`).then(({ address }) => fill(this.shown, el("a", { href: address, target: "_blank" }, "The page of the model")), notice);
  }
}

const sizeOf = (found) => found.reduce((sum, { size }) => sum + size, 0);

function shown(text, path) {
  if (text === null) return el("p.note", {}, "This is not text; download it to see it.");
  if (/\.(csv|tsv)$/i.test(path)) return table(text, /\.csv$/i.test(path) ? "," : "\t");
  return (path.endsWith(".ipynb") && notebook(text)) || el("pre", {}, legible(text));
}

/** Separated values: the first 500 rows and 100 columns of them. */
function table(text, mark) {
  const rows = [[]];
  const quoted = mark === "," ? '"(?:[^"]|"")*"|' : "";
  for (const [, cell, end] of text.matchAll(new RegExp(`(${quoted}[^${mark}\\r\\n]*)(${mark}|\\r?\\n|\\r|$)`, "g"))) {
    rows.at(-1).push(quoted && cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (end !== mark && (end === "" || rows.length > ROWS)) break;
    if (end !== mark) rows.push([]);
  }
  const filled = rows.filter((row) => row.join(""));
  const [head, ...body] = filled.map((row) => row.slice(0, COLUMNS));
  const isWide = filled.some((row) => row.length > COLUMNS);
  const line = (tag) => (row) => el("tr", {}, row.map((cell) => el(tag, {}, cell)));
  const cut = [body.length >= ROWS && `${ROWS} rows`, isWide && `${COLUMNS} columns`].filter(Boolean).join(" and ");
  return [cut && el("p.note", {}, `The first ${cut}.`), head && el("table", {}, el("thead", {}, line("th")(head)), el("tbody", {}, body.map(line("td"))))];
}

/** The cells of a notebook with what they printed and drew; null: it is none. */
function notebook(text) {
  const joined = (value) => [value ?? ""].flat().join("");
  const output = ({ data, text: printed, traceback }) => {
    const png = data?.["image/png"];
    if (png) return el("img", { src: `data:image/png;base64,${joined(png)}`, alt: "what the cell drew" });
    return el("pre.output", {}, joined(printed ?? data?.["text/plain"] ?? traceback).replace(/\x1b\[[\d;]*m/g, ""));
  };
  try {
    return JSON.parse(text).cells.map(({ cell_type: kind, source, outputs = [] }) =>
      el("div.cell", {}, el(kind === "code" ? "pre" : "p.prose", {}, joined(source)), outputs.map(output)));
  } catch {
    return null;
  }
}
