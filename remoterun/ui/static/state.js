// What the page knows: the rows of the runs, and the one event stream that keeps them and the chosen run new.

const FIRST = 100; // rows before the first paint
const MOST = 20_000;
const PATIENCE = 500; // milliseconds that the chosen run has to say from where the stream should follow it
const RETRY = 2000; // milliseconds between attempts to reach a server that refused the stream

const FINAL = new Set(["complete", "failed", "stopped", "killed", "interrupted"]);
export const isFinal = (row) => FINAL.has(row.state);

/** What the server refused, or that it does not answer (`status` 0). */
export class Failure extends Error {
  constructor(message, hint = "", status = 0) {
    super(message);
    Object.assign(this, { hint, status });
  }
}

/** Ask the server; `path` is below the token. Throws Failure. */
export async function raw(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("remoterun ui does not answer", "start `remoterun ui` again");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Failure(said.error || `the server answered ${response.status}`, said.hint || "", response.status);
}

export async function api(path, options) {
  return (await raw(path, options)).json();
}

/** Change something; returns what the server answers. Throws Failure. */
export async function act(path, body = {}) {
  const headers = { "Content-Type": "application/json", "X-Remoterun": "1" };
  const answer = await api(`api/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.row) store.put([answer.row]);
  return answer;
}

class Store {
  rows = new Map();
  infos = new Map();
  loaded = false;
  /** Since when the server does not answer (milliseconds), or null. */
  silent = null;
  #version = 0;
  #order = null;
  #listeners = new Map();
  #told = false;
  #source = null;
  #followed = null;
  #timer = 0;

  /** Call `listener` for each event of a kind: rows, link, run, log, points, lost, back. Returns the function that ends it. */
  on(kind, listener) {
    const all = this.#listeners.get(kind) || this.#listeners.set(kind, new Set()).get(kind);
    all.add(listener);
    return () => all.delete(listener);
  }

  /** The rows in the order of the list: pinned, then live, then newest. */
  get order() {
    const rank = (row) => (row.pinned ? 0 : isFinal(row) ? 2 : 1);
    this.#order ||= [...this.rows.values()].sort((a, b) => rank(a) - rank(b) || b.number - a.number);
    return this.#order;
  }

  get last() {
    return this.rows.size ? Math.max(...this.rows.keys()) : null;
  }

  async start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
    const more = await this.#load(FIRST);
    setTimeout(() => this.#open(), PATIENCE);
    if (more) await this.#load(MOST);
  }

  put(rows, gone = []) {
    for (const row of rows) this.rows.set(row.number, row);
    for (const each of gone) this.rows.delete(each);
    this.#order = null;
    if (this.#told) return;
    this.#told = true;
    queueMicrotask(() => {
      this.#told = false;
      this.#tell("rows");
    });
  }

  /** Details of a run, new from the server; those it had before are in `infos` meanwhile. */
  async info(number, options) {
    const info = await api(`api/runs/${number}`, options);
    this.infos.delete(number);
    this.infos.set(number, info);
    if (this.infos.size > 40) this.infos.delete(this.infos.keys().next().value);
    this.put([info.row]);
    return info;
  }

  /** Let the stream follow a run from these bytes of its log and its points on. */
  follow(number, at = {}) {
    this.#followed = { number, ...at };
    this.#close();
    this.#open();
  }

  /** Hear of no run; the list goes on. */
  unfollow() {
    this.#followed = null;
  }

  async #load(limit) {
    const found = await api(`api/runs?limit=${limit}`);
    this.#version ||= found.version;
    this.loaded = true;
    this.put(found.runs);
    return found.more;
  }

  #open() {
    if (document.hidden || this.#source || !this.loaded) return;
    const query = new URLSearchParams({ version: this.#version });
    const { number, log, metrics } = this.#followed || {};
    for (const [name, value] of Object.entries({ run: number, log, metrics })) if (value !== undefined) query.set(name, value);
    const source = (this.#source = new EventSource(`events?${query}`));
    source.onopen = () => this.#heard(true);
    source.onerror = () => this.#failed(source);
    for (const kind of ["runs", "run", "log", "points", "lost", "back"])
      source.addEventListener(kind, (event) => this.#take(kind, JSON.parse(event.data)));
  }

  #close() {
    if (this.#source) this.#source.close();
    this.#source = null;
  }

  /** A stream that was cut connects again by itself; one that was refused does not. */
  #failed(source) {
    this.#heard(false);
    if (source !== this.#source || source.readyState !== EventSource.CLOSED) return;
    this.#close();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), RETRY);
  }

  #heard(well) {
    if (well === (this.silent === null)) return;
    this.silent = well ? null : Date.now();
    this.#tell("link");
  }

  #take(kind, said) {
    this.#heard(true);
    if (kind === "runs") {
      this.#version = said.version;
      this.put(said.runs, said.gone);
      return;
    }
    const followed = this.#followed;
    if (!followed) return;
    if (kind === "log" && said.end !== undefined) followed.log = said.end;
    if (kind === "points") followed.metrics = said.metrics;
    if (kind === "run" && said.row) this.put([said.row]);
    this.#tell(kind, said);
  }

  #tell(kind, said) {
    for (const listener of [...(this.#listeners.get(kind) || [])]) listener(said);
  }
}

export const store = new Store();
