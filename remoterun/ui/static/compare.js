// Several runs side by side: what differs in their parameters, their best values, curves, media at one step, their code.

import { Charts } from "./charts.js";
import { direction } from "./curve.js";
import { el, fill, number } from "./dom.js";
import { patch } from "./info.js";
import { stateOf } from "./list.js";
import { Diary } from "./media.js";
import { api, store } from "./state.js";

const MOST = 20; // as the server

export function view(element, all) {
  const numbers = all.slice(0, MOST);
  const [words, media, code] = ["div", "div.media", "div"].map((tag) => el(tag));
  const charts = el("section", { "aria-label": "Charts" });
  fill(element, el("div.compare", {}, el("h1", {}, `Runs ${numbers.join(", ")}`), all.length > MOST && el("p.note", {}, `These are the first ${MOST} of ${all.length} that were named; more are not compared at once.`), words, charts, media, code));
  api(`api/compare?runs=${numbers.join(",")}`).then(
    (found) => {
      fill(words, table(found));
      parts[0].compared(found.params);
      fill(code, found.diff ? [el("h2", {}, `From the code of run ${numbers[0]} to that of run ${numbers[1]}`), patch(found.diff)] : []);
    },
    (failure) => fill(words, el("p.note", {}, failure.message, " ", failure.hint)),
  );
  const parts = [new Charts(charts, numbers)];
  parts[0].loaded.then(() => parts[0].closed || parts.push(new Diary(media, numbers)));
  const known = new Map();
  const end = store.on("rows", () => {
    for (const row of numbers.map((each) => store.rows.get(each)).filter((each) => each && known.get(each.number) !== each)) {
      if (known.has(row.number)) parts[0].update(null, row.number);
      parts[1]?.update(row);
      known.set(row.number, row);
    }
  });
  return { close: () => (end(), parts.forEach((part) => part.close())) };
}

function table({ rows, params, differs, best }) {
  const swatch = (place) => el("i.stroke", { style: { "border-color": `var(--c${(place % 8) + 1})`, "border-style": place < 8 ? "solid" : "dashed" } });
  const head = rows.map((row, place) => el("th", { scope: "col" }, swatch(place), el("a", { href: `runs/${row.number}` }, `run ${row.number}`)));
  const part = (name, lines) => lines.length > 0 && el("tbody", {}, name && el("tr", {}, el("th.part", { scope: "rowgroup", colspan: rows.length + 1 }, name)),
    lines.map(([word, cells]) => el("tr", {}, el("th", { scope: "row" }, word), cells.map((cell) => el("td", {}, cell ?? "–")))));
  const values = ([name, found]) => {
    const top = Math.max(...found.filter((value) => value !== null).map((value) => value * direction(name)));
    return [name, found.map((value) => el(direction(name) && value !== null && value * direction(name) === top ? "b" : "span", {}, number(value)))];
  };
  return el("div.wide", {}, el("table", {}, el("thead", {}, el("tr", {}, el("td"), head)), part("", [["Command", rows.map((row) => el("code", {}, row.command))], ["State", rows.map(stateOf)]]),
    part("Best values", Object.entries(best).map(values)), part("Parameters that differ", differs.map((name) => [name, params[name]]))));
}
