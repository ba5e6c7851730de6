// What can be done with a run, and what the page asks and says about it.

import { el, fill, glyph } from "./dom.js";
import { stateOf, title as titleOf } from "./list.js";
import { act, isFinal, store } from "./state.js";

const READ = 10_000; // milliseconds for which a notice is shown
const SLOW = 1000; // milliseconds of an answer, after which the page says what it waits for

const WORDS = { stop: ["Stop", "Stopping…"], kill: ["Kill", "Killing…"] };

/** The buttons of a run. `open(path)` shows another address. */
export class Actions {
  #waits = new Set(); // the actions that were asked for and not answered

  constructor(element, number, open) {
    Object.assign(this, { element, number, open });
    this.buttons = Object.fromEntries([...element.children].map((button) => [button.dataset.action, button]));
    const actions = {
      rerun: () => this.#rerun(),
      pin: () => this.do("pin", { on: !this.row.pinned }),
      label: () => this.#label(),
      remark: () => this.#remark(),
      hide: () => this.do("hide", { on: !this.row.hidden }),
      remove: () => remove([number], () => open("")),
    };
    for (const [name, button] of Object.entries(this.buttons)) {
      const action = actions[name] ?? (() => this.do(name));
      if (button.dataset.sure) confirmed(button, action);
      else button.addEventListener("click", action);
    }
  }

  update(row) {
    this.row = row;
    const { stop, kill, notify, rerun, pin, hide, remove: removes } = this.buttons;
    this.element.hidden = false;
    stop.hidden = kill.hidden = notify.hidden = isFinal(row);
    for (const [name, button] of Object.entries(this.buttons)) button.disabled = this.#waits.has(name) || (name === "stop" && row.stopping);
    for (const [name, [word, doing]] of Object.entries(WORDS)) {
      const waits = this.#waits.has(name) && `${doing}${row.unreached ? ` ${row.machine} does not answer` : ""}`;
      if (!this.buttons[name].classList.contains("sure")) fill(this.buttons[name], waits || word);
    }
    rerun.hidden = removes.hidden = !isFinal(row);
    pin.textContent = row.pinned ? "Unpin" : "Pin";
    hide.textContent = row.hidden ? "Unarchive" : "Archive";
  }

  async do(action, body) {
    this.#waits.add(action);
    this.update(this.row);
    try {
      const { row } = await act(`runs/${this.number}/${action}`, body);
      if (action === "rerun" && row) this.open(`runs/${row.number}`);
      if (action === "notify") notice({ message: "A message will be sent when this run has ended." });
    } catch (failure) {
      notice(failure);
    } finally {
      this.#waits.delete(action);
      this.update(this.row);
    }
  }

  #rerun() {
    const command = store.infos.get(this.number)?.spec?.command ?? this.row.command; // a row may have its beginning only
    const done = (text) => this.do("rerun", text.trim() === command.trim() ? {} : { command: text });
    ask({ title: `Run ${this.number} again`, label: "Command", value: command, lines: 4, verb: "Run" }, done);
  }

  #label() {
    const before = this.row.labels;
    const without = (these, those) => these.filter((each) => each && !those.includes(each));
    const change = (after) => this.do("label", { add: without(after, before), remove: without(before, after) });
    const done = (text) => change(text.split(/[\s,]+/));
    ask({ title: `Labels of run ${this.number}`, label: "With spaces between them", value: before.join(" "), verb: "Save" }, done);
  }

  #remark() {
    const value = this.row.remark || "";
    ask({ title: `Note on run ${this.number}`, label: "Note", value, lines: 5, verb: "Save" }, (text) => this.do("remark", { text }));
  }
}

/** Let a button act when it is clicked a second time while it shows its question. Returns it. */
export function confirmed(button, action) {
  const text = button.textContent;
  const show = (sure) => {
    button.classList.toggle("sure", sure);
    button.textContent = sure ? button.dataset.sure : text;
  };
  button.addEventListener("click", () => {
    const sure = button.classList.contains("sure");
    show(!sure);
    if (sure) action();
  });
  button.addEventListener("blur", () => button.classList.contains("sure") && show(false));
  return button;
}

/** Ask whether runs may be removed, as `remoterun rm` does; those that have not ended stay. `done()` is called if they were. */
export function remove(numbers, done = () => {}) {
  const rows = numbers.map((each) => store.rows.get(each)).filter(Boolean);
  const [ended, others] = [rows.filter(isFinal), rows.filter((row) => !isFinal(row))];
  const line = (row) => el("li.line", {}, glyph(row.state), el("span.number", {}, row.number), el("span.command", {}, titleOf(row)), stateOf(row));
  const which = ended.length === 1 ? `run ${ended[0].number}` : `these ${ended.length} runs`;
  const words = el("p.note", {}, "Log, files and curves are deleted, on the machine and here, for good.");
  const stay = others.length > 0 && el("p.note", {}, `What has not ended stays: ${others.map((row) => row.number).join(", ")}.`);
  if (!ended.length) return notice({ message: "What is marked has not ended; stop it first." });
  ask({ title: `Remove ${which}?`, content: [el("ul.some", {}, ended.map(line)), words, stay], verb: "Remove", isDanger: true }, async () => {
    const slow = setTimeout(() => notice({ message: `Removing ${which}…` }), SLOW);
    try {
      const { removed, failed } = await act("remove", { runs: ended.map((row) => row.number) });
      store.put([], removed);
      if (removed.length) notice({ message: `${removed.length === 1 ? `Run ${removed[0]} was` : `${removed.length} runs were`} removed.` });
      failed.slice(0, 3).forEach(notice);
      if (failed.length > 3) notice({ message: `and ${failed.length - 3} more` });
      if (!failed.length) done();
    } catch (failure) {
      notice(failure);
    } finally {
      clearTimeout(slow);
    }
  });
}

/** Ask how the metrics are read from the log of a run, which is a guess, and let it be read so; `none` are no metrics; `done()` is called then. */
export function correct(number, done, none = []) {
  const { metrics = [], metric_step: step = "", metric_hide: hide = [] } = store.infos.get(number)?.spec ?? {};
  const lines = (values) => el("textarea", { rows: 3, spellcheck: "false" }, values.join("\n"));
  const fields = { step: el("input", { value: step, spellcheck: "false" }), hide: lines([...new Set([...hide, ...none])]), metrics: lines(metrics) };
  const content = [
    el("label", {}, "The number of a line that is its step, such as iters; empty: what grows from line to line", fields.step),
    el("label", {}, "What is no metric, a name a line", fields.hide),
    el("label", {}, "Regular expressions, one a line: each named group is a metric, as in loss=(?P<loss>[0-9.]+)", fields.metrics),
    el("p.note", {}, "The log is read once more, from its start. A rerun of this run keeps it."),
  ];
  ask({ title: `How the log of run ${number} is read`, content, verb: "Read it again" }, async () => {
    const list = ({ value }) => value.split("\n").map((each) => each.trim()).filter(Boolean);
    try {
      await act(`runs/${number}/read`, { metrics: list(fields.metrics), metric_step: fields.step.value.trim(), metric_hide: list(fields.hide) });
      await store.info(number);
      done();
    } catch (failure) {
      notice(failure);
    }
  });
}

/** Ask for a text, or about what `content` shows; `done(text)` is called with it, unless the dialog is closed. */
function ask({ title, label, value = "", lines = 1, verb, content, isDanger }, done) {
  const field = lines > 1 ? el("textarea", { rows: lines }) : el("input", { type: "text" });
  field.value = value;
  const submit = (event) => (event.preventDefault(), dialog.close(), done(field.value));
  const keys = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event);
  const cancel = el("button.quiet", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const buttons = el("div.buttons", {}, cancel, el(`button.${isDanger ? "sure" : "primary"}`, {}, verb));
  const form = el("form", { onsubmit: submit, onkeydown: keys }, el("h2", {}, title), content ?? el("label", {}, label, field), buttons);
  const dialog = el("dialog", { "aria-label": title, onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  (content ? form.querySelector("input, textarea") : field)?.focus();
}

/** Say what went wrong, for a while. */
export function notice({ message, hint }) {
  const note = el("div.notice", {}, message, hint && el("p.note", {}, hint));
  document.getElementById("notices").append(note);
  setTimeout(() => note.remove(), READ);
}
