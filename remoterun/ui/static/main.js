// The page's frame: which view an address shows, the keyboard, and what the page says of itself.

import { age, el, fill } from "./dom.js";
import { List } from "./list.js";
import { RunView } from "./run.js";
import { store } from "./state.js";

const at = (id) => document.getElementById(id);
const base = new URL(document.baseURI);
const wide = matchMedia("(min-width: 760px)");

const KEYS = [
  ["j k or arrows", "next and previous run"],
  ["Enter", "into the chosen run; Escape: back to the list"],
  ["/", "filter the runs"],
  [";", "search in the log"],
  ["1 to 5", "overview, log, charts, files, details"],
  ["x", "mark a run to compare; c: compare those that are marked"],
];
const FILTERS = [
  ["state:running label:night machine:box", "by state, label, machine"],
  ["is:pinned is:live is:hidden", "what is pinned, goes on, or was put away"],
  ["loss<2.5", "by the last value of a metric"],
  ["-label:old", "a minus leaves out"],
];

const list = new List(at("list"), { filter: query(), onfilter: keepQuery, open: go });
let view = null; // what the right side shows: {close(), update?(), number?}
let shown = null;

function query() {
  return new URLSearchParams(location.search).get("q") || "";
}

/** Where a path below the token is, with the filter that is set. */
function address(path, hash = "") {
  const found = new URL(path, base);
  if (list.filter.value) found.searchParams.set("q", list.filter.value);
  found.hash = hash;
  return found;
}

function keepQuery() {
  history.replaceState(null, "", address(path(), location.hash));
}

function path() {
  return decodeURIComponent(location.pathname.slice(base.pathname.length));
}

function go(place, { replace = false } = {}) {
  const keepsTab = /^runs\//.test(place) && /^runs\//.test(path());
  history[replace ? "replaceState" : "pushState"](null, "", address(place, keepsTab ? location.hash : ""));
  route();
}

/** Show what the address names. */
async function route() {
  const place = path();
  const [kind, rest = ""] = place.split(/\/(.*)/s);
  const isHome = kind === "" || kind === "runs" && rest === "";
  document.body.dataset.place = isHome ? "list" : "view";
  for (const link of document.querySelectorAll("nav a"))
    link.toggleAttribute("aria-current", link.dataset.view === (isHome || kind === "compare" ? "runs" : kind));
  const number = isHome || rest === "last" ? store.last : Number(rest);
  const key = kind === "runs" || isHome ? `runs/${number}` : place;
  if (key !== shown) {
    shown = key;
    if (view) view.close();
    view = null;
    list.choose(kind === "runs" || isHome ? number : null);
    if (kind === "runs" || isHome) view = number === null ? nothing() : new RunView(at("pane"), number, go);
    else view = await other(kind, rest, key);
  }
  if (view && view.showTab) view.showTab(location.hash.slice(1));
  retitle();
}

/** The views that are loaded on use. */
async function other(kind, rest, key) {
  const argument = kind === "compare" ? rest.split(",").map(Number) : rest;
  const pane = fill(at("pane"), []);
  store.unfollow();
  try {
    if (!["compare", "machines", "uploads"].includes(kind)) throw new Error(`There is no view named ${kind}.`);
    const { view: make } = await import(`./${kind}.js`);
    return shown === key ? make(pane, argument) : null;
  } catch (error) {
    fill(pane, el("p.empty", {}, error.message));
    return null;
  }
}

function nothing() {
  const words = store.loaded ? "Runs that you start appear here, with their curves and their logs." : "";
  fill(at("pane"), el("div.empty", {}, el("p", {}, words), store.loaded && el("code", {}, "remoterun run python train.py")));
  return { close() {} };
}

function retitle() {
  const row = view && store.rows.get(view.number);
  document.title = row ? `${row.number} ${row.state} · remoterun` : "remoterun";
}

// -- the keyboard

const TABS = ["", "log", "charts", "files", "details"];

const COMMANDS = {
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  Enter: () => at("pane").focus(),
  Escape: () => (wide.matches ? list.focus() : go("")),
  "/": () => list.filter.select(),
  ";": () => view?.search?.(),
  "?": help,
  x: () => list.mark(view?.number ?? null),
  c: () => list.marked.size > 1 && list.compare.click(),
};

function move(by) {
  const number = list.beside(by);
  if (number !== null) go(`runs/${number}`, { replace: /^runs\//.test(path()) });
  if (at("list").contains(document.activeElement)) list.focus();
}

function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches("input:not([type=checkbox]), textarea, select")) {
    if (target === list.filter && ["Escape", "Enter", "ArrowDown"].includes(key)) (event.preventDefault(), list.focus());
    return;
  }
  const scrolls = key.startsWith("Arrow") && at("pane").contains(target);
  const acts = key === "Enter" && target.matches("button, summary, [tabindex='0']:not(li a), a:not(li a)");
  if (event.defaultPrevented || scrolls || acts) return;
  const number = Number(key);
  const command = COMMANDS[key] || (number >= 1 && number <= TABS.length && (() => (location.hash = TABS[number - 1])));
  if (!command) return;
  event.preventDefault();
  command();
}

function help() {
  const table = (rows) => el("dl", {}, rows.map(([keys, words]) => [el("dt", {}, el("code", {}, keys)), el("dd", {}, words)]));
  const close = el("button.primary", { onclick: () => dialog.close() }, "Close");
  const dialog = el(
    "dialog",
    { "aria-label": "Keys and filters", onclose: () => dialog.remove() },
    el("h2", {}, "Keys"),
    table(KEYS),
    el("h2", {}, "Filters"),
    table(FILTERS),
    el("p.note", {}, "From another computer: ", el("code", {}, `ssh -L ${location.port}:127.0.0.1:${location.port} this-machine`), ", then this very address there."),
    el("div.buttons", {}, close),
  );
  document.body.append(dialog);
  dialog.showModal();
}

// -- links, and the link to the server

function clicked(event) {
  const link = event.target.closest("a[href]");
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.defaultPrevented;
  if (!link || !plain || link.target || link.hasAttribute("download")) return;
  const url = new URL(link.href);
  const place = url.pathname.slice(base.pathname.length);
  if (!url.href.startsWith(base.href) || /^(api|static)\//.test(place)) return;
  event.preventDefault();
  if (url.hash && place === path()) location.hash = url.hash;
  else go(place);
}

function linkChanged() {
  const since = store.silent;
  fill(at("link"), since === null ? [] : ["remoterun ui does not answer; this is as it was ", age(since / 1000, " ago"), ". Start it again: ", el("code", {}, "remoterun ui")]);
  at("link").hidden = since === null;
}

function start() {
  document.body.append(el("p", { id: "link", role: "alert", hidden: true }));
  addEventListener("keydown", pressed);
  addEventListener("click", clicked);
  addEventListener("popstate", () => (list.setFilter(query()), route()));
  at("help").addEventListener("click", help);
  store.on("link", linkChanged);
  store.on("rows", route);
  route();
  store.start().catch((error) => fill(at("pane"), el("p.empty", { role: "alert" }, error.message, " ", error.hint)));
}

start();
