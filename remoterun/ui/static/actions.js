// What can be done with a run, and what the page asks and says about it.

import { el, fill } from "./dom.js";
import { act, isFinal, store } from "./state.js";

const SURE = 4000; // milliseconds in which a second click confirms the first
const READ = 10_000; // milliseconds for which a notice is shown

/** The buttons of a run. `open(path)` shows another address. */
export class Actions {
  constructor(element, number, open) {
    Object.assign(this, { element, number, open });
    this.buttons = {
      stop: button("Stop", () => this.#do("stop"), "As a timeout does: it may save what it has"),
      kill: confirmed("Kill", "Kill it now?", () => this.#do("kill")),
      rerun: button("Run again", () => this.#rerun(), "With the same files and environment"),
      pin: button("Pin", () => this.#do("pin", { on: !this.row.pinned }), "At the top of the list"),
      label: button("Labels", () => this.#label()),
      remark: button("Note", () => this.#remark()),
      notify: button("Notify", () => this.#notify(), "Word when it ends"),
      hide: button("Archive", () => this.#do("hide", { on: !this.row.hidden }), "Out of the list; is:archived shows it"),
    };
  }

  update(row) {
    if (!this.row) fill(this.element, Object.values(this.buttons));
    this.row = row;
    const { stop, kill, rerun, pin, notify, hide } = this.buttons;
    stop.hidden = kill.hidden = notify.hidden = isFinal(row);
    stop.disabled = row.stopping;
    rerun.hidden = !isFinal(row);
    pin.textContent = row.pinned ? "Unpin" : "Pin";
    hide.textContent = row.hidden ? "Unarchive" : "Archive";
  }

  async #do(action, body) {
    try {
      const { row } = await act(`runs/${this.number}/${action}`, body);
      if (action === "rerun" && row) this.open(`runs/${row.number}`);
    } catch (failure) {
      notice(failure);
    }
  }

  #rerun() {
    const command = store.infos.get(this.number)?.spec?.command ?? this.row.command; // a row may have its beginning only
    const done = (text) => this.#do("rerun", text.trim() === command.trim() ? {} : { command: text });
    ask({ title: `Run ${this.number} again`, label: "Command", value: command, lines: 4, verb: "Run" }, done);
  }

  #label() {
    const before = this.row.labels;
    ask({ title: `Labels of run ${this.number}`, label: "With spaces between them", value: before.join(" "), verb: "Save" }, (text) => {
      const after = text.split(/[\s,]+/).filter(Boolean);
      const [add, remove] = [after.filter((each) => !before.includes(each)), before.filter((each) => !after.includes(each))];
      if (add.length || remove.length) this.#do("label", { add, remove });
    });
  }

  #remark() {
    const value = this.row.remark || "";
    ask({ title: `Note on run ${this.number}`, label: "Note", value, lines: 5, verb: "Save" }, (text) => this.#do("remark", { text }));
  }

  #notify() {
    const label = "Secret with the address; empty: that of your settings";
    ask({ title: `Word when run ${this.number} ends`, label, verb: "Notify" }, (secret) => this.#do("notify", secret ? { secret } : {}));
  }
}

function button(text, onclick, title = null) {
  return el("button.quiet", { title, onclick }, text);
}

/** A button that acts when it is clicked a second time while it shows its question. */
export function confirmed(text, question, action) {
  let timer = 0;
  const show = (sure) => {
    clearTimeout(timer);
    timer = sure ? setTimeout(() => show(false), SURE) : 0;
    self.classList.toggle("sure", sure);
    self.textContent = sure ? question : text;
  };
  const self = button(text, () => {
    if (timer) action();
    show(!timer);
  });
  return self;
}

/** A dialog, shown; Escape closes it. */
export function dialog(title, ...content) {
  const self = el("dialog", { "aria-label": title, onclose: () => self.remove() }, content);
  document.body.append(self);
  self.showModal();
  return self;
}

/** Ask for a text; `done(text)` is called with it, unless the dialog is closed. */
function ask({ title, label, value = "", lines = 1, verb }, done) {
  const field = lines > 1 ? el("textarea", { rows: lines }) : el("input", { type: "text" });
  field.value = value;
  const submit = (event) => (event.preventDefault(), shown.close(), done(field.value));
  const keys = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event);
  const buttons = [el("button.quiet", { type: "button", onclick: () => shown.close() }, "Cancel"), el("button.primary", {}, verb)];
  const form = el("form", { onsubmit: submit, onkeydown: keys }, el("h2", {}, title), el("label", {}, label, field), el("div.buttons", {}, buttons));
  const shown = dialog(title, form);
  field.focus();
}

/** Say what went wrong, for a while. */
export function notice({ message, hint }) {
  const close = () => note.remove();
  const note = el("div.notice", {}, message, hint && el("p.note", {}, hint), el("button.quiet", { onclick: close, "aria-label": "Close" }, "×"));
  document.getElementById("notices").append(note);
  setTimeout(close, READ);
}
