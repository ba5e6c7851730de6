// The page's frame: which view an address shows, the keyboard, and what the page says of itself.

import { remove } from "./actions.js";
import { view as compare } from "./compare.js";
import { age, el, fill } from "./dom.js";
import { List, title } from "./list.js";
import { view as machines } from "./machines.js";
import { RunView } from "./run.js";
import { store } from "./state.js";
import { view as uploads } from "./uploads.js";

const at = (id) => document.getElementById(id);
const base = new URL(document.baseURI);
const VIEWS = { compare: (pane, rest) => compare(pane, rest.split(",").map(Number)), machines, uploads };
let view = null; // what the right side shows: {close(), number?, showTab?, search?}
let shown = null; // its address
const list = new List({ open: go, remove });

const wide = matchMedia("(min-width: 760px)");
const isWide = () => wide.matches;

function path() {
  return decodeURIComponent(location.pathname.slice(base.pathname.length));
}

/** Where a path below the token is, with all that is set. */
function address(place, hash) {
  const found = new URL(place || ".", base);
  found.search = location.search;
  found.hash = hash;
  return found;
}

/** Show the view of another path; from run to run the tab stays. */
function go(place, replace = false) {
  const keepsTab = place.startsWith("runs/") && path().startsWith("runs/");
  history[replace ? "replaceState" : "pushState"](null, "", address(place, keepsTab ? location.hash.split(":")[0] : ""));
  route();
}

/** Show what the address names. */
function route() {
  const [, kind, rest] = path().match(/^([^/]*)\/?(.*)$/s);
  const isRun = kind === "" || kind === "runs";
  const isWhole = isRun && !rest && (list.isTable || !isWide()); // the list has the whole window
  const number = isRun && rest && rest !== "last" ? Number(rest) || 0 : isWhole ? null : store.last;
  document.body.dataset.place = isRun && !rest ? "list" : "view";
  for (const link of document.querySelectorAll("#top nav a"))
    link.toggleAttribute("aria-current", link.dataset.view === (isRun || kind === "compare" ? "runs" : kind));
  const key = isRun ? `runs/${number} ${store.loaded}` : path();
  if (key !== shown && !(isRun && view?.number === number)) {
    view?.close();
    shown = key;
    list.choose(isRun ? number : null, Boolean(rest));
    store.unfollow();
    fill(at("pane"));
    if (isRun) view = number === null ? null : new RunView(at("pane"), number, go);
    else view = VIEWS[kind](at("pane"), rest);
  }
  view?.showTab?.(location.hash.slice(1));
  const row = view && store.rows.get(view.number);
  document.title = row ? `${row.number} ${row.state} · remoterun` : "remoterun";
}

// -- the keyboard

const COMMANDS = {
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  Enter: () => (view?.number && go(`runs/${view.number}`, true), at("pane").focus()),
  Escape: () => (path() && (list.isTable || !isWide()) ? go("") : list.focus()),
  "/": () => list.filter.select(),
  ";": () => view?.search?.(),
  "?": help,
  x: () => list.mark(Number(document.activeElement.dataset.number) || view?.number),
  c: () => list.compare(),
};
["", "log", "charts", "files", "details"].forEach((tab, place) => (COMMANDS[place + 1] = () => (location.hash = tab)));

function move(by) {
  const number = list.beside(by);
  if (number) go(`runs/${number}`, path().startsWith("runs/"));
  if (at("list").contains(document.activeElement)) return list.focus();
  const row = store.rows.get(number);
  fill(at("said"), row && `run ${number}, ${row.state}: ${title(row)}`); // to a screen reader: the focus stays
}

function pressed(event) {
  const { key, target } = event;
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open], :popover-open")) return;
  const types = target.matches("input:not([type=checkbox]), textarea, select");
  const leaves = target === list.filter && ["Escape", "Enter", "ArrowDown"].includes(key);
  const scrolls = key.startsWith("Arrow") && at("pane").contains(target);
  const acts = key === "Enter" && target.matches("button, summary, a");
  if ((types && !leaves) || scrolls || acts || !Object.hasOwn(COMMANDS, key)) return;
  event.preventDefault();
  if (leaves && key === "Escape" && list.filter.value) list.clear();
  else if (leaves) list.focus();
  else COMMANDS[key]();
}

function help() {
  fill(at("tunnel"), `ssh -L ${location.port}:127.0.0.1:${location.port} THIS-MACHINE`);
  at("keys").showModal();
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
  const ui = () => el("code", {}, "remoterun ui");
  const words = [ui(), " does not answer; this is as it was ", age((store.silent || 0) / 1000, " ago"), ". A new page opens by ", ui()];
  const ended = ["This page belongs to a ", ui(), " that has ended; ", ui(), " opens a new one"];
  fill(at("link"), store.ended ? ended : store.silent && words);
  at("link").hidden = !store.ended && !store.silent;
}

addEventListener("keydown", pressed);
wide.addEventListener("change", route);
addEventListener("click", clicked);
addEventListener("popstate", () => {
  list.read();
  route();
});
at("help").addEventListener("click", help);
store.on("link", linkChanged);
store.on("rows", route);
route();
store.start().catch((error) => fill(at("pane"), el("p.empty", { role: "alert" }, error.message, " ", error.hint)));
