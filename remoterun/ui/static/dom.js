// Elements, and numbers and times as people read them. Nothing of a run becomes markup: texts are text nodes.

const SVG_SPACE = "http://www.w3.org/2000/svg";
const SEEN = new Set(["title", "aria-label"]); // attributes that are read
const TURNS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A text whose marks of direction are shown, not obeyed: "gpj.exe" must not read "exe.jpg". */
export function unturned(text) {
  return String(text).replace(TURNS, (mark) => `⟨U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

/** A name in two parts: where there is not enough room, it is the first that is cut, so that its end tells it apart. */
export function middle(text) {
  const [end] = text.match(/(?<=.{4})[\s/._-].{2,10}$/s) ?? text.match(/(?<=.{4}).{10}$/s) ?? [""];
  return el("span.middle", { title: text }, el("span", {}, text.slice(0, text.length - end.length)), el("span", {}, end));
}

/** An element: `el("button.quiet", {onclick, title, style: {width: "3px"}}, "text", node, null, [more])`. A property that
 * is null or false is left out, and so are such children. */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = ["svg", "polyline"].includes(name) ? document.createElementNS(SVG_SPACE, name) : document.createElement(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [each, size] of Object.entries(value)) node.style.setProperty(each, size);
    else node.setAttribute(key, value === true ? "" : SEEN.has(key) ? unturned(value) : value);
  }
  return children.length ? fill(node, children) : node;
}

/** Put children into an element, in place of those it has. */
export function fill(node, ...children) {
  const present = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  node.replaceChildren(...present.map((child) => (child instanceof Node ? child : unturned(child))));
  return node;
}

/** Put a template of the document into an element, in place of what it has; returns its named parts. */
export function template(element, id) {
  fill(element, document.getElementById(id).content.cloneNode(true));
  return Object.fromEntries([...element.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
}

/** The shape of a state; its word stands beside it, so a screen reader skips it. */
export function glyph(state) {
  const { children } = document.getElementById("glyphs").content;
  return ([...children].find((each) => each.classList.contains(state)) ?? children[0]).cloneNode(true);
}

/** A number as people read it, of so many digits if it is not a whole one. */
const WHOLE = new Intl.NumberFormat("en"); // as toLocaleString, which makes one each time

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return WHOLE.format(value);
  if (size >= 1e7 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return size >= 1000 ? WHOLE.format(Math.round(value)) : String(Number(value.toPrecision(digits)));
}

/** A text to read; of blanks alone, how many: (300 spaces, 2 line ends), without the last line's end. */
export function legible(text) {
  const blanks = text.replace(/\n$/, "");
  if (!blanks || blanks.trim()) return text;
  const ends = blanks.split("\n").length - 1;
  const counts = [[blanks.length - ends, "space"], [ends, "line end"]].filter(([count]) => count);
  return `(${counts.map(([count, noun]) => `${count} ${noun}${count === 1 ? "" : "s"}`).join(", ")})`;
}

export function bytes(count) {
  const power = Math.min(4, Math.floor(Math.log(Math.max(count, 1)) / Math.log(1000)));
  const value = count / 1000 ** power;
  return `${power && value < 10 ? value.toFixed(1) : Math.round(value)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export function money(dollars) {
  if (dollars > 0 && dollars < 0.1) return dollars < 0.001 ? "<$0.001" : `$${Number(dollars.toPrecision(2))}`;
  return `$${dollars < 100 ? dollars.toFixed(2) : Math.round(dollars).toLocaleString("en")}`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [minutes, hours, days] = [Math.floor(whole / 60), Math.floor(whole / 3600), Math.floor(whole / 86400)];
  if (!minutes) return `${whole} s`;
  if (!hours) return `${minutes} min`;
  if (!days) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return days < 10 && hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** A moment as the clocks of this place show it. */
export function stamp(moment) {
  return new Date(moment * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
}

/** How long ago a moment was; it goes on counting. `words` come after it: " ago". */
export function age(moment, words = "") {
  const node = el("time", { datetime: new Date(moment * 1000).toISOString(), title: stamp(moment), "data-words": words });
  showAge(node);
  return node;
}

function showAge(node) {
  const [seconds, { words }] = [(Date.now() - Date.parse(node.dateTime)) / 1000, node.dataset];
  const text = words === " ago" && seconds < 1 ? "just now" : duration(seconds) + words;
  if (node.textContent !== text) node.textContent = text;
}

setInterval(() => document.hidden || document.querySelectorAll("time[data-words]").forEach(showAge), 1000);
