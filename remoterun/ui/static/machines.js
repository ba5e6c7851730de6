// Who runs what on which machine, and the rented hosts with what they cost.

import { confirmed, notice } from "./actions.js";
import { bytes, duration, el, fill, money } from "./dom.js";
import { act, api } from "./state.js";

const AGAIN = 5000; // milliseconds

export function view(element) {
  let timer = 0;
  let closed = false;

  async function ask() {
    try {
      const found = document.hidden ? null : await api("api/machines");
      if (found && !closed) fill(element, el("div.machines", {}, el("h1", {}, "Machines"), found.machines.map(machine), hosts(found, ask)));
    } catch (failure) {
      if (!closed) fill(element, el("p.empty", {}, failure.message));
    }
    if (!closed) timer = setTimeout(ask, AGAIN);
  }

  ask();
  return { close() { closed = true; clearTimeout(timer); } };
}

function machine({ name, kind, runs, line, gpus, disk, load, unreached }) {
  const fact = (word, value) => Boolean(value) && [el("dt", {}, word), el("dd", {}, value)];
  const running = (runs ?? []).map((run) => el("div", {}, el("a", { href: `runs/${run.number}` }, `run ${run.number}`), ` ${run.command}`));
  const used = disk?.total && el("meter", { value: (disk.total - disk.free) / disk.total, high: 0.9, "aria-label": "disk in use" });
  return el("section.facts", {}, el("h2", {}, name, " ", el("span.note", {}, kind)), unreached && el("p.lost", {}, unreached), el("dl", {},
    fact("runs", running.length ? running : !unreached && "nothing of yours"), fact("waiting", line && String(line)), fact("GPUs", gpus?.length > 0 && gpus.map((gpu) => el("div", {}, gpu))),
    fact("disk", used && [used, ` ${bytes(disk.free)} free of ${bytes(disk.total)}`]), fact("load", Number.isFinite(load) && load.toFixed(1))));
}

function hosts({ hosts: found, notes }, ask) {
  if (!found.length && !notes.length) return null;
  const row = ({ id, type, region, state, cost, ends, run }) => {
    const button = el("button.quiet", { "data-sure": "End this host, and its run?" }, "End");
    const end = confirmed(button, () => act(`hosts/${encodeURIComponent(id)}/end`).then(ask, notice));
    const left = ends && `ends by itself in ${duration(ends - Date.now() / 1000)}`;
    return [id, type, region, state, Number.isFinite(cost) && `${money(cost)} so far`, left, run && el("a", { href: `runs/${run}` }, `run ${run}`), end];
  };
  return el("section.facts", {}, el("h2", {}, "Rented hosts"), notes.map((note) => el("p.lost", {}, note)), el("table", {}, found.map((host) => el("tr", {}, row(host).map((cell) => el("td", {}, cell))))));
}
