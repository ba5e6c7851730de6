// The files of a run, or of an upload: a tree beside a preview. What is in them is shown as text, or by the browser's own players.

import { notice } from "./actions.js";
import { bytes, el, fill } from "./dom.js";
import { act, api, raw } from "./state.js";

const AGAIN = 15_000; // milliseconds after which the files of a run that goes on are listed again
const MOST_TEXT = 256 << 10;
const MOST_NOTEBOOK = 8 << 20; // its pictures are within it
const ROWS = 500;
const COLUMNS = 100;
const PLAYERS = { png: "img", jpg: "img", jpeg: "img", gif: "img", webp: "img", bmp: "img", svg: "img", wav: "audio", mp3: "audio", ogg: "audio", flac: "audio", m4a: "audio", mp4: "video", webm: "video" };

export function files(element, number) {
  return new Files(element, `api/runs/${number}`, "", number);
}

/** The address of a file below `base`. */
export function fileAt(base, path, query = "") {
  return `${base}/file/${path.split("/").map(encodeURIComponent).join("/")}${query && `?${query}`}`;
}

/** The beginning of a file as text; throws Failure. `null`: it is not text. */
export async function textOf(address, most = MOST_TEXT) {
  const reader = (await raw(address)).body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (let got = 0, part = await reader.read(); !part.done; part = await reader.read()) {
    text += decoder.decode(part.value.subarray(0, most - got), { stream: true });
    got += part.value.length;
    if (got >= most) await reader.cancel();
  }
  return text.includes("\0") ? null : text;
}

/** An element that shows a picture, or plays a sound or a film; null: the browser has none for such a file. */
export function player(address, path) {
  const tag = PLAYERS[extension(path)];
  return tag ? el(tag, { src: address, ...(tag === "img" ? { alt: path, decoding: "async" } : { controls: true, preload: "metadata", "aria-label": path }) }) : null;
}

export class Files {
  #open = new Set([""]);
  #chosen = null;
  #timer = 0;
  #said = "";

  constructor(element, base, query, run = null) {
    Object.assign(this, { base, query, run, closed: false });
    this.tree = el("div.tree");
    this.shown = el("div.preview", { "aria-live": "polite" }, el("p.note", {}, "Choose a file to see it."));
    fill(element, el("div.files-pane", {}, this.tree, this.shown));
    this.#list();
  }

  close() {
    this.closed = true;
    clearTimeout(this.#timer);
  }

  async #list() {
    try {
      const found = await api(`${this.base}/files${this.query && `?${this.query}`}`);
      if (this.closed) return;
      if (found.live) this.#timer = setTimeout(() => this.#list(), AGAIN);
      const said = JSON.stringify(found.files);
      if (said !== this.#said) this.#show(found);
      this.#said = said;
    } catch (failure) {
      fill(this.tree, el("p.note", {}, failure.message));
    }
  }

  #show({ files: found, more }) {
    const root = { folders: new Map(), files: [], size: 0 };
    for (const file of found) {
      const parts = file.path.split("/");
      let folder = root;
      root.size += file.size;
      for (const part of parts.slice(0, -1)) {
        if (!folder.folders.has(part)) folder.folders.set(part, { folders: new Map(), files: [], size: 0 });
        folder = folder.folders.get(part);
        folder.size += file.size;
      }
      folder.files.push({ ...file, name: parts.at(-1) });
    }
    const model = this.run !== null && found.some(({ path }) => /(^|\/)manifest\.json$/.test(path) && found.some((other) => other.path === path.replace(/manifest\.json$/, "vocab.json")));
    const count = `${found.length}${more ? " and more" : ""} files, ${bytes(root.size)}`;
    const open = model && el("button.primary", { onclick: ({ target }) => this.#openModel(target) }, "Open the model");
    fill(this.tree, [el("p.note", {}, found.length ? count : "There are no files yet."), open, this.#folder(root, "")]);
  }

  #folder(folder, path) {
    const below = [...folder.folders].sort(byName).map(([name, each]) => {
      const place = `${path}${name}/`;
      const inside = el("div");
      const show = () => inside.childNodes.length || fill(inside, this.#folder(each, place));
      const toggled = ({ target }) => (target.open ? (this.#open.add(place), show()) : this.#open.delete(place));
      if (this.#open.has(place)) show();
      return el("li", {}, el("details", { open: this.#open.has(place), ontoggle: toggled }, el("summary", {}, `${name}/`, el("span.size", {}, bytes(each.size))), inside));
    });
    const files = folder.files.map((file) => {
      const chosen = file.path === this.#chosen ? "true" : null;
      const download = el("a.quiet", { href: fileAt(this.base, file.path, `${this.query && `${this.query}&`}download=1`), download: file.name, title: "Download", "aria-label": `Download ${file.name}` }, "↓");
      return el("li.file", {}, el("button", { "aria-current": chosen, onclick: (event) => this.#preview(file, event.currentTarget) }, file.name), el("span.size", {}, bytes(file.size)), download);
    });
    return el("ul", {}, below, files);
  }

  async #preview({ path, size }, button) {
    this.#chosen = path;
    this.tree.querySelector("[aria-current]")?.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    const address = fileAt(this.base, path, this.query);
    const kind = extension(path);
    let content = player(address, path);
    try {
      content ??= shownText(await textOf(address, kind === "ipynb" ? MOST_NOTEBOOK : MOST_TEXT), kind);
    } catch (failure) {
      content = el("p.note", {}, failure.message);
    }
    const cut = size > MOST_TEXT && kind !== "ipynb" && !PLAYERS[kind] && el("p.note", {}, `The first ${bytes(MOST_TEXT)} of ${bytes(size)}.`);
    if (this.#chosen === path) fill(this.shown, [el("h2", {}, path), cut, content]);
  }

  async #openModel(button) {
    try {
      const { address } = await act(`runs/${this.run}/open`);
      button.replaceWith(el("a", { href: address, target: "_blank", rel: "noreferrer" }, "The model's page"));
      window.open(address, "_blank", "noreferrer");
    } catch (failure) {
      notice(failure);
    }
  }
}

function shownText(text, kind) {
  if (text === null) return el("p.note", {}, "This is not text; download it to see it.");
  if (kind === "csv" || kind === "tsv") return grid(cells(text, kind === "csv" ? "," : "\t"));
  if (kind === "ipynb") return notebook(text) ?? el("pre", {}, text.slice(0, MOST_TEXT));
  return el("pre", {}, text);
}

/** The rows of a file of separated values, at most 500. */
function cells(text, mark) {
  const rows = [[]];
  const parts = text.matchAll(mark === "," ? /("(?:[^"]|"")*"|[^,\r\n]*)(,|\r?\n|\r|$)/g : /([^\t\r\n]*)(\t|\r?\n|\r|$)/g);
  for (const [, cell, end] of parts) {
    rows.at(-1).push(cell.startsWith('"') && mark === "," ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (end === mark) continue;
    if (end === "" || rows.length > ROWS) break;
    rows.push([]);
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

function grid([head = [], ...rows]) {
  const line = (cell, row) => el("tr", {}, row.slice(0, COLUMNS).map((text) => el(cell, cell === "th" ? { scope: "col" } : {}, text)));
  return [el("table", {}, el("thead", {}, line("th", head)), el("tbody", {}, rows.map((row) => line("td", row)))), rows.length >= ROWS && el("p.note", {}, `The first ${ROWS} rows.`)];
}

/** The cells of a notebook with what they printed and drew; null: it is none. */
function notebook(text) {
  try {
    const joined = (value) => (Array.isArray(value) ? value.join("") : String(value ?? ""));
    const output = ({ data, text: printed, traceback }) => (data?.["image/png"]
      ? el("img", { src: `data:image/png;base64,${joined(data["image/png"]).replace(/\s/g, "")}`, alt: "output" })
      : el("pre.output", {}, joined(printed ?? data?.["text/plain"] ?? traceback?.join("\n")).replace(/\x1b\[[\d;]*m/g, "")));
    return JSON.parse(text).cells.map((cell) => el("div.cell", {}, el(cell.cell_type === "code" ? "pre" : "p.prose", {}, joined(cell.source)), (cell.outputs ?? []).map(output)));
  } catch {
    return null;
  }
}

function extension(path) {
  return path.slice(path.lastIndexOf(".") + 1).toLowerCase();
}

function byName([one], [other]) {
  return one < other ? -1 : 1;
}
