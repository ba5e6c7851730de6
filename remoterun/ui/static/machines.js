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
      if (found && !closed) fill(element, el("div.machines", {}, el("h1", {}, "Machines"), found.machines.map(machine), hosts(found.hosts, ask)));
    } catch (failure) {
      if (!closed) fill(element, el("p.empty", {}, failure.message));
    }
    if (!closed) timer = setTimeout(ask, AGAIN);
  }

  ask();
  return { close() { closed = true; clearTimeout(timer); } };
}

function machine({ name, kind, runs, line, gpus, disk, load, unreached }) {
  const used = disk?.total && (disk.total - disk.free) / disk.total;
  const facts = [
    line && ["waiting", String(line)],
    gpus?.length && ["GPUs", gpus.map((gpu) => el("div", {}, typeof gpu === "string" ? gpu : Object.values(gpu).join(" · ")))],
    disk?.total && ["disk", [el("meter", { value: used, high: 0.9, "aria-label": "disk in use" }), ` ${bytes(disk.free)} free of ${bytes(disk.total)}`]],
    Number.isFinite(load) && ["load", load.toFixed(1)],
  ].filter(Boolean);
  const running = (runs ?? []).map((run) => el("li", {}, el("a", { href: `runs/${run.number ?? run}` }, `run ${run.number ?? run}`), run.command && ` ${run.command}`));
  return el("section.facts", {}, el("h2", {}, name, " ", el("span.note", {}, kind)), unreached && el("p.lost", {}, unreached),
    running.length ? el("ul", {}, running) : !unreached && el("p.note", {}, "Nothing of yours runs here."), el("dl", {}, facts.map(([word, value]) => [el("dt", {}, word), el("dd", {}, value)])));
}

function hosts(found, ask) {
  if (!found?.length) return null;
  const end = (id) => confirmed("End", "End this host, and its run?", () => act(`hosts/${id}/end`).then(ask, notice));
  const left = (ends) => (ends ? `ends by itself in ${duration(ends - Date.now() / 1000)}` : "");
  const rows = found.map(({ id, type, region, state, cost, ends, run }) => el("tr", {},
    [id, type, region, state, Number.isFinite(cost) && `${money(cost)} so far`, left(ends), run && el("a", { href: `runs/${run}` }, `run ${run}`), end(id)].map((each) => el("td", {}, each))));
  return el("section.facts", {}, el("h2", {}, "Rented hosts"), el("table", {}, el("tbody", {}, rows)));
}
