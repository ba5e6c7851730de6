// The page's frame: which view an address shows, the keyboard, and what the page says of itself.

import { dialog } from "./actions.js";
import { age, el, fill } from "./dom.js";
import { List } from "./list.js";
import { RunView, TABS } from "./run.js";
import { store } from "./state.js";

const at = (id) => document.getElementById(id);
const base = new URL(document.baseURI);
const TYPE = el("code", {}, "remoterun run python train.py");

const KEYS = {
  "j k": "next and previous run; arrows too",
  Enter: "into the chosen run; Escape: back to the list",
  "/": "filter the runs",
  ";": "search in the log",
  "1 … 5": "overview, log, charts, files, details",
  "x c": "mark a run; compare those that are marked",
};
const FILTERS = {
  "state:running label:night machine:box": "by state, label, machine",
  "is:live is:pinned is:archived": "what goes on, is pinned, was archived",
  "loss<2.5": "by the last value of a metric",
  "-label:old": "a minus leaves out",
};

let view = null; // what the right side shows: {close(), number?, showTab?, search?}
let shown = null; // its address
const list = new List(at("list"), { filter: query(), open: go, onfilter: () => history.replaceState(null, "", address(path(), location.hash)) });

function query() {
  return new URLSearchParams(location.search).get("q") || "";
}

function path() {
  return decodeURIComponent(location.pathname.slice(base.pathname.length));
}

/** Where a path below the token is, with the filter that is set. */
function address(place, hash) {
  const found = new URL(place || ".", base);
  if (list.filter.value) found.searchParams.set("q", list.filter.value);
  found.hash = hash;
  return found;
}

/** Show the view of another path; from run to run the tab stays. */
function go(place, replace = false) {
  const keepsTab = place.startsWith("runs/") && path().startsWith("runs/");
  history[replace ? "replaceState" : "pushState"](null, "", address(place, keepsTab ? location.hash : ""));
  route();
}

/** Show what the address names. */
async function route() {
  const [kind, rest] = [path().split("/", 1)[0], path().split("/").slice(1).join("/")];
  const isRun = kind === "" || kind === "runs";
  const number = isRun && rest && rest !== "last" ? Number(rest) : store.last;
  document.body.dataset.place = isRun && !rest ? "list" : "view";
  for (const link of document.querySelectorAll("nav a"))
    link.toggleAttribute("aria-current", link.dataset.view === (isRun || kind === "compare" ? "runs" : kind));
  const key = isRun ? `runs/${number} ${store.loaded}` : path();
  if (key !== shown && !(isRun && view?.number === number)) {
    view?.close?.();
    view = null;
    shown = key;
    list.choose(isRun ? number : null);
    if (isRun) view = number === null ? nothing() : new RunView(at("pane"), number, go);
    else await other(kind, rest);
  }
  view?.showTab?.(location.hash.slice(1));
  const row = view && store.rows.get(view.number);
  document.title = row ? `${row.number} ${row.state} · remoterun` : "remoterun";
}

/** The views that are loaded on use. */
async function other(kind, rest) {
  const [pane, key] = [fill(at("pane"), []), shown];
  store.unfollow();
  try {
    if (!["compare", "machines", "uploads"].includes(kind)) throw new Error("There is no such view.");
    const module = await import(`./${kind}.js`);
    if (key === shown) view = module.view(pane, kind === "compare" ? rest.split(",").map(Number) : rest || null);
  } catch (error) {
    if (key === shown) fill(pane, el("p.empty", {}, error.message));
  }
}

function nothing() {
  const words = el("p", {}, "Runs that you start appear here, with their curves and their logs.");
  fill(at("pane"), store.loaded && el("div.empty", {}, words, TYPE));
  return {};
}

// -- the keyboard

const COMMANDS = {
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  Enter: () => (view?.number && go(`runs/${view.number}`, true), at("pane").focus()),
  Escape: () => (matchMedia("(max-width: 759px)").matches ? go("") : list.focus()),
  "/": () => list.filter.select(),
  ";": () => view?.search?.(),
  "?": help,
  x: () => view?.number && list.mark(view.number),
  c: () => list.compare(),
};
TABS.forEach(([tab], place) => (COMMANDS[place + 1] = () => view?.showTab && (location.hash = tab)));

function move(by) {
  const number = list.beside(by);
  if (number !== null) go(`runs/${number}`, path().startsWith("runs/"));
  if (at("list").contains(document.activeElement)) list.focus();
}

function pressed(event) {
  const { key, target } = event;
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const types = target.matches("input:not([type=checkbox]), textarea, select");
  const leaves = target === list.filter && ["Escape", "Enter", "ArrowDown"].includes(key);
  const scrolls = key.startsWith("Arrow") && at("pane").contains(target);
  const acts = key === "Enter" && target.matches("button, summary, a");
  if ((types && !leaves) || scrolls || acts || !Object.hasOwn(COMMANDS, key)) return;
  event.preventDefault();
  if (leaves) list.focus();
  else COMMANDS[key]();
}

function help() {
  const table = (title, rows) => [el("h2", {}, title), el("dl", {}, Object.entries(rows).map(([keys, words]) => [el("dt", {}, el("code", {}, keys)), el("dd", {}, words)]))];
  const tunnel = el("code", {}, `ssh -L ${location.port}:127.0.0.1:${location.port} THIS-MACHINE`);
  const close = el("button.primary", { onclick: () => open.close() }, "Close");
  const elsewhere = el("p.note", {}, "For another computer, type there ", tunnel, " and open this same address.");
  const open = dialog("Keys and filters", table("Keys", KEYS), table("Filters", FILTERS), elsewhere, el("div.buttons", {}, close));
}

// -- links, and the link to the server

function clicked(event) {
  const link = event.target.closest("a[href]");
  const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.defaultPrevented;
  if (!link || !isPlain || link.target || link.hasAttribute("download") || !link.href.startsWith(base.href)) return;
  const url = new URL(link.href);
  const place = url.pathname.slice(base.pathname.length);
  if (/^(api|static)\//.test(place)) return;
  event.preventDefault();
  if (url.hash) location.hash = url.hash;
  else go(place);
  if (event.detail === 0 && at("list").contains(link)) at("pane").focus(); // by Enter
}

function linkChanged() {
  const words = ["remoterun ui does not answer; this is as it was ", age((store.silent || 0) / 1000, " ago"), ". Start it again: "];
  fill(at("link"), store.silent && [...words, el("code", {}, "remoterun ui")]);
  at("link").hidden = !store.silent;
}

addEventListener("keydown", pressed);
addEventListener("click", clicked);
addEventListener("popstate", () => (list.setFilter(query()), route()));
at("help").addEventListener("click", help);
store.on("link", linkChanged);
store.on("rows", route);
route();
store.start().catch((error) => fill(at("pane"), el("p.empty", { role: "alert" }, error.message, " ", error.hint)));
