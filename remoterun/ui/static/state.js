// What the page knows: the rows of the runs, and the one event stream that keeps them and the chosen run new.

const FIRST = 100; // rows before the first paint
const MOST = 20_000;
const INFOS = 40; // runs of which the details are held
const PATIENCE = 500; // milliseconds that the chosen run has to say from where the stream should follow it
const RETRY = 2000; // milliseconds between attempts to reach a server that refused the stream
const DOUBT = 3000; // milliseconds without a stream before the page says so
const BEATS = 13_000; // milliseconds in which two signs of life have come of a server that lives
const KINDS = ["runs", "run", "log", "points", "lost", "back"];
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
  const response = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Failure("`remoterun ui` does not answer", "start `remoterun ui` again");
  });
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

/** What a person has set on the page: parameters of its address, which a reload and every view keep. */
export function setting(name, usual = "") {
  return new URLSearchParams(location.search).get(name) ?? usual;
}

/** Put settings into the address: `set({q: "loss"})`; an empty one is left out. */
export function set(settings) {
  const url = new URL(location);
  for (const [name, value] of Object.entries(settings)) value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
  history.replaceState(null, "", url);
}

class Store {
  rows = new Map(); // by number
  infos = new Map();
  loaded = false;
  silent = null; // since when the server does not answer, in milliseconds
  ended = false; // whether another server is where ours was
  #version = 0;
  #listeners = new Map();
  #source = null;
  #followed = null;
  #doubt = null;
  #heard = Date.now(); // when something came last, in milliseconds
  #watch = 0;

  /** Call `listener` for each event of a kind: rows, link, run, log, points, lost, back. Returns the function that ends it. */
  on(kind, listener) {
    if (!this.#listeners.has(kind)) this.#listeners.set(kind, new Set());
    this.#listeners.get(kind).add(listener);
    return () => this.#listeners.get(kind).delete(listener);
  }

  /** The rows in the order of the list: pinned, then live, then newest. */
  get order() {
    const rank = (row) => (row.pinned ? 0 : isFinal(row) ? 2 : 1);
    return [...this.rows.values()].sort((a, b) => rank(a) - rank(b) || b.number - a.number);
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
    this.#tell("rows");
  }

  /** Details of a run, new from the server; those it had before are in `infos` meanwhile. */
  async info(number) {
    const before = this.rows.get(number);
    const info = await api(`api/runs/${number}`);
    if (this.infos.size >= INFOS) this.infos.clear();
    this.infos.set(number, info);
    if (this.rows.get(number) === before) this.put([info.row]); // else there is a newer one
    return info;
  }

  /** Let the stream follow a run, and its log from this byte on. */
  follow(run, log) {
    this.#followed = { run, log };
    this.#close();
    this.#open();
  }

  unfollow() {
    this.#followed = null; // the list goes on
  }

  async #load(limit) {
    const found = await api(`api/runs?limit=${limit}`);
    this.#version ||= found.version;
    this.loaded = true;
    const isNewest = found.version >= this.#version; // else the stream was faster
    this.put(found.runs.filter((row) => isNewest || !this.rows.has(row.number)));
    return found.more;
  }

  #open() {
    if (document.hidden || this.#source || !this.loaded || this.ended) return;
    const known = Object.entries({ version: this.#version, ...this.#followed }).filter(([, value]) => value !== undefined);
    const source = (this.#source = new EventSource(`events?${new URLSearchParams(known)}`));
    source.onopen = () => this.#hear(true);
    source.onerror = () => this.#failed(source);
    source.addEventListener("alive", () => this.#hear(true));
    for (const kind of KINDS) source.addEventListener(kind, ({ data }) => (this.#hear(true), this.#take(kind, JSON.parse(data))));
    this.#await();
  }

  /** A server that is stuck, or a dead tunnel, cuts no stream: of one that stays silent another stream is asked for. */
  #await() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => (this.#hear(false), this.#close(), this.#open()), BEATS);
  }

  #close() {
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  /** A stream that was cut connects again by itself; one that was refused does not. */
  async #failed(source) {
    this.#hear(false);
    if (source !== this.#source || source.readyState !== EventSource.CLOSED) return;
    this.#close();
    const refused = await api("api/runs?limit=0").catch(({ status }) => status); // a stream does not say why
    this.ended = refused === 403;
    if (this.ended) this.#tell("link");
    else setTimeout(() => this.#open(), RETRY);
  }

  /** A stream ends now and then, where many pages are open; that it does not come back is worth a word. */
  #hear(well) {
    if (!well) return void (this.#doubt ||= setTimeout(() => ((this.silent = this.#heard), this.#tell("link")), DOUBT));
    this.#heard = Date.now();
    this.#await();
    if (this.#doubt) {
      clearTimeout(this.#doubt);
      this.#doubt = this.silent = null;
      this.#tell("link");
    }
  }

  #take(kind, said) {
    if (kind === "runs") {
      this.#version = said.version;
      this.put(said.runs, said.gone);
    } else if (this.#followed) {
      if (kind === "log") this.#followed.log = said.end ?? said.start;
      if (kind === "run") this.put([said.row]);
      this.#tell(kind, said);
    }
  }

  #tell(kind, said) {
    for (const listener of [...(this.#listeners.get(kind) || [])]) listener(said);
  }
}

export const store = new Store();
