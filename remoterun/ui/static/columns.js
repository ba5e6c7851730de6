// What the list of runs sorts by, filters by and shows: each column has a key, as it stands in the address.
//
// `number`, `state`, `duration`, `cost`, …; `best:loss` and `last:loss` of a metric; else the name of a parameter
// (`param:state`, where it is one of those words). A sort is a key; with a minus before it the largest comes first.

import { direction, ranked } from "./curve.js";
import { isFinal } from "./state.js";

const OWN = {
  number: ["run", (row) => row.number],
  state: ["state", (row) => (row.stopping && !isFinal(row) ? "stopping" : row.state)],
  when: ["when", (row) => row.started || row.created],
  duration: ["duration", (row) => row.started && (row.ended || Date.now() / 1000) - row.started],
  cost: ["cost", (row) => row.cost],
  machine: ["machine", (row) => row.machine],
  labels: ["labels", (row) => row.labels.join(" ") || null],
};
const KIND = /^(best|last|param):(.+)$/s;
const LARGEST_FIRST = ["number", "when", "duration", "cost"];
const words = new Intl.Collator("en", { numeric: true });

const parsed = (key) => key.match(KIND)?.slice(1) ?? [Object.hasOwn(OWN, key) ? "own" : "param", key];

/** The value of a run in a column: a number, a text, or null if it has none; a parameter `asText`, if that is asked for. */
export function valueOf(row, key, asText = false) {
  const [kind, name] = parsed(key);
  if (kind === "own") return OWN[name][1](row) ?? null;
  if (kind === "param") return Object.hasOwn(row.params || {}, name) ? (asText ? String : numeric)(row.params[name]) : null;
  const value = row.progress?.series.find((each) => each.name === name)?.[kind];
  return Number.isFinite(value) ? value : null;
}

/** A text as the number that it is, if it is one. */
export function numeric(text) {
  return text.trim() && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** What a column is called. */
export function wordOf(key) {
  const [kind, name] = parsed(key);
  return kind === "own" ? OWN[name][0] : kind === "param" ? name : `${kind} ${name}`;
}

/** The keys of all columns that these rows have values for, by what they are of. */
export function keysOf(rows) {
  const names = ranked(new Set(rows.flatMap((row) => (row.progress?.series || []).map(({ name }) => name))));
  const params = [...new Set(rows.flatMap((row) => Object.keys(row.params || {})))].sort(words.compare);
  return {
    Run: Object.keys(OWN).filter((key) => key !== "cost" || rows.some((row) => row.cost)),
    Best: names.filter(direction).map((name) => `best:${name}`),
    Last: names.map((name) => `last:${name}`),
    Parameter: params.map((name) => (Object.hasOwn(OWN, name) || KIND.test(name) ? `param:${name}` : name)),
  };
}

/** The columns that are shown if nobody has chosen any: some facts, the first metrics, parameters that differ. */
export function usual(rows, { Run, Best, Last, Parameter }) {
  const differs = (key) => rows.some((row) => valueOf(row, key) !== valueOf(rows[0], key));
  const metrics = [...Best.slice(0, 2), ...Last.slice(0, 1)];
  return [...Run.slice(1, -2), ...metrics, ...Parameter.filter(differs).slice(0, 3)];
}

/** Whether a column has amounts, which stand at its right. */
export function isAmount(key) {
  return ["duration", "cost"].includes(key) || /^(best|last):/.test(key);
}

/** The sort by a column as one wants it first: what is best, or longest, or newest at the top. */
export function sortBy(key) {
  const [kind, name] = parsed(key);
  return LARGEST_FIRST.includes(key) || (kind !== "own" && kind !== "param" && direction(name) >= 0) ? `-${key}` : key;
}

/** The rows in the order of a sort: numbers before texts, a run without a value last, of equal ones the newest first. */
export function sorted(rows, sort) {
  const [, minus, key] = sort.match(/^(-?)(.*)$/s);
  const order = (a, b) => (typeof a === typeof b ? (typeof a === "number" ? a - b : words.compare(a, b)) : typeof a === "number" ? -1 : 1);
  return rows
    .map((row) => [valueOf(row, key), row])
    .sort(([a, one], [b, other]) => (a === null) - (b === null) || (a !== null && order(a, b) * (minus ? -1 : 1)) || other.number - one.number)
    .map(([, row]) => row);
}
