// Several runs side by side: what differs in their parameters, their best values, curves, media at one step, their code.

import { Charts } from "./charts.js";
import { direction } from "./curve.js";
import { el, fill, number } from "./dom.js";
import { patch } from "./info.js";
import { stateOf, title } from "./list.js";
import { Diary } from "./media.js";
import { api, store } from "./state.js";

export function view(element, numbers) {
  const charts = el("div");
  const diary = el("div.media");
  const words = el("div");
  const code = el("div");
  fill(element, el("div.compare", {}, el("h1", {}, `Runs ${numbers.join(", ")}`), words, charts, diary, code));
  const colour = (place) => ({ style: { background: `var(--c${(place % 8) + 1})` } });
  const heads = (rows) => rows.map((row, place) => el("th", { scope: "col" }, el("i.swatch", colour(place)), el("a", { href: `runs/${row.number}` }, `run ${row.number}`)));
  const table = (rows, caption, lines) => lines.length > 0 && el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, el("td"), heads(rows))),
    el("tbody", {}, lines.map(([name, cells]) => el("tr", {}, el("th", { scope: "row" }, name), cells.map((cell) => el("td", {}, cell))))));

  async function ask() {
    try {
      const { rows, params, differs, best, diff } = await api(`api/compare?runs=${numbers.join(",")}`);
      const about = [["what", rows.map(title)], ["state", rows.map(stateOf)]];
      const same = Object.keys(params).filter((name) => !differs.includes(name));
      const bests = Object.entries(best).map(([name, values]) => {
        const known = values.filter((value) => value !== null);
        const top = known.length > 1 && direction(name) ? Math[direction(name) > 0 ? "max" : "min"](...known) : null;
        return [name, values.map((value) => el(value !== null && value === top ? "b" : "span", {}, number(value)))];
      });
      fill(words, [
        table(rows, "", about),
        table(rows, "Parameters that differ", differs.map((name) => [name, params[name].map((value) => value ?? "–")])),
        same.length > 0 && el("details", {}, el("summary", {}, `${same.length} parameters are the same`), table(rows, "", same.map((name) => [name, params[name]]))),
        table(rows, "Best values", bests),
      ]);
      fill(code, diff ? [el("h2", {}, `Code of run ${numbers[1]} beside that of run ${numbers[0]}`), patch(diff)] : []);
    } catch (failure) {
      fill(words, el("p.note", {}, failure.message, " ", failure.hint));
    }
  }

  ask();
  const parts = [new Charts(charts, numbers.map((each) => ({ number: each }))), new Diary(diary, numbers)];
  const known = new Map();
  const end = store.on("rows", () => {
    for (const row of numbers.map((each) => store.rows.get(each)).filter((each) => each && known.get(each.number) !== each)) {
      parts[0].update(null, row.number);
      parts[1].update(row);
      known.set(row.number, row);
    }
  });
  return { close: () => (end(), parts.forEach((part) => part.close())) };
}
