// The details of a run: command, parameters, commit, mounts, environment, machine, attempts, cost. What the server
// sends of them is shown as it is named there.

import { age, bytes, duration, el, money, number, stamp } from "./dom.js";

const SHOWN_LINES = 4000; // of a diff

/** The sections of the details, from what `api/runs/N` returned. */
export function details({ row, spec, folder, params, git, diff, mounts, environment, attempts, hosts, ports, again_of: of, again_as: as, events }) {
  const changes = diff && el("details", { open: diff.length < 20_000 }, el("summary", {}, "Changes that were not committed"), patch(diff));
  const until = spec?.until ? moment(spec.until) : null;
  const cost = Number.isFinite(row.cost) ? money(row.cost) : null;
  const link = (run) => [el("a", { href: `runs/${run}` }, `run ${run}`), " "];
  return [
    section("Command", el("pre.command", {}, spec?.command || row.command), facts({ "in the folder": spec?.workdir, "on its machine": folder })),
    section("Parameters", facts(params)),
    section("Code", facts({ commit: git?.commit, branch: git?.branch }), changes),
    section("Mounts", table(mounts?.map(({ typed, place, resource }) => ({ resource: typed || resource, at: place })))),
    section("Environment", facts(environment)),
    section("Machine", facts({ machine: row.machine, engine: spec?.engine, GPUs: spec?.gpus, slots: spec?.slots, "ends at": until, cost, ...used(row.usage) })),
    section("Attempts", facts({ attempts }), table(hosts)),
    section("Ports", table(ports)),
    section("Repeats", of && el("p", {}, "It repeats ", link(of)), as?.length > 0 && el("p", {}, "It is repeated by ", as.map(link))),
    section("Events", table(events?.map(({ t, state, reason, message, note }) => ({ at: moment(t), state, reason, note: note || message })))),
  ];
}

/** A diff as git prints it. */
export function patch(text) {
  const lines = text.split("\n");
  const kind = (line) => (/^(diff|index|---|\+\+\+|@@)/.test(line) ? ".head" : { "+": ".added", "-": ".gone" }[line[0]] || "");
  const drawn = lines.slice(0, SHOWN_LINES).map((line) => el(`div${kind(line)}`, {}, line || " "));
  const more = lines.length > SHOWN_LINES && el("p.note", {}, `${number(lines.length - SHOWN_LINES)} more lines`);
  return el("pre.patch", { tabindex: "0", role: "region", "aria-label": "Changes" }, drawn, more);
}

/** A section, unless there is nothing to show in it. */
function section(name, ...content) {
  const present = content.filter(Boolean);
  return present.length ? el("section.facts", {}, el("h2", {}, name), present) : null;
}

/** Names and values as a list, without what is empty. */
function facts(values) {
  const known = Object.entries(values || {}).filter(([, value]) => !isEmpty(value));
  const row = ([name, value]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, text(value))];
  return known.length ? el("dl", {}, known.map(row)) : null;
}

/** Objects as a table; their names are its columns. */
function table(rows) {
  if (!rows?.length) return null;
  const names = [...new Set(rows.flatMap((row) => Object.keys(row).filter((name) => !isEmpty(row[name]))))];
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name.replaceAll("_", " "))));
  const body = rows.map((row) => el("tr", {}, names.map((name) => el("td", {}, isEmpty(row[name]) ? "" : text(row[name])))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, body));
}

function isEmpty(value) {
  return !value || (typeof value === "object" && !(value instanceof Node) && !Object.values(value).some((each) => !isEmpty(each)));
}

function text(value) {
  if (value instanceof Node || typeof value !== "object") return value === true ? "yes" : value;
  const known = Object.entries(value).filter(([, each]) => !isEmpty(each));
  return known.map(([name, each]) => [Array.isArray(value) ? "" : `${name.replaceAll("_", " ")} `, text(each), "\n"]);
}

function used(usage) {
  const { memory, cpu_seconds: seconds, cpu, gpu_memory: gpu } = usage || {};
  if (!usage) return {};
  return { "memory at most": bytes(memory), "processor time": `${duration(seconds)}, ${Math.round(cpu)} % of one CPU`, "GPU memory at most": gpu && bytes(gpu) };
}

function moment(t) {
  const seconds = typeof t === "number" ? t : Date.parse(t) / 1000;
  return Number.isFinite(seconds) && el("span", {}, stamp(seconds), " · ", age(seconds, " ago"));
}
