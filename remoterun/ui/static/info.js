// The details of a run: command, parameters, commit, mounts, environment, machine, attempts, cost. What the server
// sends of them is shown as it is named there.

import { age, bytes, duration, el, money, number, stamp } from "./dom.js";

const SHOWN_LINES = 4000; // of a diff

/** The sections of the details, from what `api/runs/N` returned. */
export function details(info) {
  const { row, spec } = info;
  return [
    section("Command", el("pre.command", {}, row.command), el("p.note", {}, folderOf(spec, info))),
    section("Parameters", facts(info.params)),
    section("Code", code(info)),
    section("Mounts", mounts(info.mounts)),
    section("Environment", facts(tidy(info.environment))),
    section("Machine", facts(machine(info))),
    section("Use", facts(use(info.usage))),
    section("Attempts", table(info.attempts)),
    section("Hosts", table(info.hosts)),
    section("Ports", table(info.ports)),
    section("Repeats", repeats(info)),
    section("Events", events(info.events)),
  ];
}

/** A section, unless there is nothing to show in it. */
function section(name, ...content) {
  const present = content.flat().filter((each) => each && each.childNodes.length);
  return present.length ? el("section.facts", {}, el("h2", {}, name), present) : null;
}

function folderOf(spec, { folder }) {
  const workdir = spec?.workdir && ["in ", el("code", {}, spec.workdir), " of the project. "];
  return [workdir, folder && ["On its machine: ", el("code", {}, folder)]].filter(Boolean);
}

/** A list of names and values; null where none is known. */
function facts(values) {
  const known = Object.entries(values || {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.length ? el("dl", {}, known.map(([name, value]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, shown(value))])) : null;
}

function shown(value) {
  if (value instanceof Node) return value;
  if (typeof value === "number") return number(value);
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join(", ");
  return typeof value === "object" ? el("code", {}, JSON.stringify(value)) : String(value);
}

/** An object without what is empty in it. */
function tidy(values) {
  const isEmpty = (value) => value === null || value === "" || value === false || (typeof value === "object" && !Object.keys(value).length);
  return Object.fromEntries(Object.entries(values || {}).filter(([, value]) => !isEmpty(value)));
}

function code({ git, diff }) {
  const about = facts(tidy(git));
  return [about, diff ? el("details", { open: diff.length < 20_000 }, el("summary", {}, "Changes that were not committed"), patch(diff)) : null];
}

/** A diff as git prints it. */
export function patch(text) {
  const lines = text.split("\n");
  const kind = (line) => (/^(diff|index|---|\+\+\+|@@)/.test(line) ? ".head" : line.startsWith("+") ? ".added" : line.startsWith("-") ? ".gone" : "");
  const shownLines = lines.slice(0, SHOWN_LINES).map((line) => el(`div${kind(line)}`, {}, line));
  const more = lines.length > SHOWN_LINES && el("p.note", {}, `${number(lines.length - SHOWN_LINES)} more lines`);
  return el("pre.patch", { tabindex: "0", role: "region", "aria-label": "Changes" }, shownLines, more);
}

function mounts(found) {
  return found?.length ? table(found.map((mount) => tidy(mount))) : null;
}

function machine({ row, spec }) {
  const cost = typeof row.cost === "number" ? money(row.cost) : null;
  return { machine: row.machine, engine: spec?.engine, GPUs: spec?.gpus || null, slots: spec?.slots, cost, "ends at": spec?.until };
}

function use(usage) {
  if (!usage) return null;
  const { memory, cpu_seconds: seconds, cpu, gpu_memory: gpu } = usage;
  return { "memory at most": bytes(memory), "processor time": `${duration(seconds)}, ${Math.round(cpu)} % of one CPU`, "GPU memory at most": gpu && bytes(gpu) };
}

/** Objects as a table; their names are its columns. */
function table(rows) {
  if (!rows?.length) return null;
  const records = rows.map((row) => (typeof row === "object" && row ? row : { "": row }));
  const names = [...new Set(records.flatMap(Object.keys))];
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name.replaceAll("_", " "))));
  const body = records.map((record) => el("tr", {}, names.map((name) => el("td", {}, record[name] === undefined || record[name] === null ? "" : shown(record[name])))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, body));
}

function repeats({ again_of: before, again_as: after }) {
  const link = (number) => [el("a", { href: `runs/${number}` }, `run ${number}`), " "];
  return [before && el("p", {}, "It repeats ", link(before)), after?.length && el("p", {}, "It is repeated by ", after.map(link))].filter(Boolean);
}

function events(found) {
  if (!found?.length) return null;
  const words = ({ state, reason, message, note, code }) => [state, reason, message, note, Number.isInteger(code) && `exit status ${code}`].filter((each) => typeof each === "string").join(" · ");
  return el("dl.events", {}, found.filter(words).map((event) => [el("dt", {}, when(event.t)), el("dd", {}, words(event))]));
}

function when(t) {
  const moment = typeof t === "number" ? t : Date.parse(t) / 1000;
  return Number.isFinite(moment) ? [stamp(moment), " ", age(moment, " ago")] : "";
}
