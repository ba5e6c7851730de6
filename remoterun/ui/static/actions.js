// What can be done with a run, and the questions that the page asks before it does it.

import { el, fill } from "./dom.js";
import { act, isFinal } from "./state.js";

const SURE = 4000; // milliseconds in which a second click confirms the first

/** The buttons of a run. `show(path)` shows another address. */
export class Actions {
  constructor(element, row, show) {
    this.show = show;
    this.buttons = {
      stop: button("Stop", "End it as by a timeout: it may save what it has", () => this.#do("stop")),
      kill: confirmed("Kill", "Kill it now?", () => this.#do("kill")),
      rerun: button("Run again", "The same files and environment", () => this.#rerun()),
      pin: button("Pin", "Keep it at the top of the list", () => this.#do("pin", { on: !this.row.pinned })),
      label: button("Labels", "", () => this.#label()),
      remark: button("Note", "A note of yours", () => this.#remark()),
      notify: button("Notify", "Word when it ends", () => this.#notify()),
      hide: button("Put away", "Out of the list; the filter is:hidden shows it", () => this.#do("hide", { on: !this.row.hidden })),
    };
    fill(element, Object.values(this.buttons));
    this.update(row);
  }

  update(row) {
    this.row = row;
    const { stop, kill, pin, hide, notify, rerun } = this.buttons;
    stop.hidden = kill.hidden = notify.hidden = isFinal(row);
    stop.disabled = row.stopping;
    rerun.hidden = !isFinal(row);
    pin.textContent = row.pinned ? "Unpin" : "Pin";
    hide.textContent = row.hidden ? "Take back" : "Put away";
  }

  async #do(action, body = {}) {
    try {
      const answer = await act(`runs/${this.row.number}/${action}`, body);
      if (action === "rerun" && answer.row) this.show(`runs/${answer.row.number}`);
    } catch (failure) {
      notice(failure);
    }
  }

  #rerun() {
    ask({ title: `Run ${this.row.number} again`, label: "Command", value: this.row.command, lines: 4, verb: "Run" }, (command) =>
      this.#do("rerun", command.trim() === this.row.command.trim() ? {} : { command }),
    );
  }

  #label() {
    const before = this.row.labels;
    ask({ title: `Labels of run ${this.row.number}`, label: "Labels, with spaces between them", value: before.join(" "), verb: "Save" }, (text) => {
      const after = text.split(/[\s,]+/).filter(Boolean);
      this.#do("label", { add: after.filter((each) => !before.includes(each)), remove: before.filter((each) => !after.includes(each)) });
    });
  }

  #remark() {
    ask({ title: `Note on run ${this.row.number}`, label: "Note", value: this.row.remark || "", lines: 5, verb: "Save" }, (text) => this.#do("remark", { text }));
  }

  #notify() {
    const label = "Secret that holds the address; empty: the one of the settings";
    ask({ title: `Word when run ${this.row.number} ends`, label, value: "", verb: "Notify" }, (secret) => this.#do("notify", secret ? { secret } : {}));
  }
}

function button(text, title, onclick) {
  return el("button.quiet", { title, onclick }, text);
}

/** A button that acts when it is clicked a second time while it shows its question. */
export function confirmed(text, question, action) {
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    self.classList.remove("sure");
    self.textContent = text;
  };
  const self = button(text, "", () => {
    if (timer) return calm(), action();
    timer = setTimeout(calm, SURE);
    self.classList.add("sure");
    self.textContent = question;
  });
  return self;
}

/** A dialog with one field; `done(text)` is called when it is confirmed. */
export function ask({ title, label, value, lines = 1, verb }, done) {
  const field = lines > 1 ? el("textarea", { rows: lines, spellcheck: "false" }) : el("input", { type: "text", spellcheck: "false" });
  field.value = value;
  const submit = (event) => {
    event.preventDefault();
    dialog.close();
    done(field.value);
  };
  const keys = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event);
  const buttons = el("div.buttons", {}, el("button.quiet", { type: "button", onclick: () => dialog.close() }, "Cancel"), el("button.primary", {}, verb));
  const form = el("form", { onsubmit: submit, onkeydown: keys }, el("h2", {}, title), el("label", {}, label, field), buttons);
  const dialog = el("dialog", { "aria-label": title, onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  field.focus();
}

/** Say what went wrong, until it is clicked away or ten seconds are over. */
export function notice(failure) {
  const close = () => note.remove();
  const note = el("div.notice", {}, el("p", {}, failure.message), failure.hint && el("p.note", {}, failure.hint), el("button.quiet", { onclick: close, "aria-label": "Close" }, "×"));
  document.getElementById("notices").append(note);
  setTimeout(close, 10_000);
}
