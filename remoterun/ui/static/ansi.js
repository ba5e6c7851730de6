// A line of a log as a terminal would show it: colours, and what moves within the line. It becomes text nodes, never markup.

export const PLAIN = Object.freeze({});

const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/;
// Text · CSI, with its parameters and its letter · strings of the terminal (titles, links) up to their end · other escapes · one control
const PART = /([^\x00-\x08\x0a-\x1f\x7f-\x9f]+)|\x1b\[([0-?]*)[ -\/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -\/]*[0-~]?|([^])/g;
const WIDEST = 2000; // columns to which a cursor may be moved; text may be longer
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "struck" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["struck"], 39: ["colour"], 49: ["ground"] };

/** One line, without its end: {nodes, style}; `style` is that at its end, with which the next line begins. */
export function paint(line, style = PLAIN) {
  if (style === PLAIN && !CONTROL.test(line)) return { nodes: line ? [document.createTextNode(line)] : [], style };
  const folded = fold(line, style);
  const nodes = [];
  for (let at = 0; at < folded.cells.length; ) {
    const { style: own } = folded.cells[at];
    let text = "";
    for (; at < folded.cells.length && folded.cells[at].style === own; at += 1) text += folded.cells[at].text;
    nodes.push(span(text, own));
  }
  return { nodes, style: folded.style };
}

/** The text of one line. */
export function plain(line) {
  return CONTROL.test(line) ? fold(line, PLAIN).cells.map((cell) => cell.text).join("") : line;
}

/** The characters that are left of a line, each with its style; and the style at its end. */
function fold(line, style) {
  const cells = [];
  let column = 0;
  for (const [, text, parameters, letter, control] of line.matchAll(PART)) {
    const count = Math.min(Math.max(parseInt(parameters, 10) || 1, 1), WIDEST);
    if (text) {
      while (cells.length < column) cells.push({ text: " ", style: PLAIN });
      for (const character of text) cells[column++] = { text: character, style };
    } else if (letter === "m") style = restyled(style, parameters);
    else if (letter === "K") erase(cells, column, parseInt(parameters, 10) || 0);
    else if (letter === "C") column = Math.min(column + count, Math.max(column, WIDEST));
    else if (letter === "D") column = Math.max(0, column - count);
    else if (letter === "G") column = count - 1;
    else if (letter === "P") cells.splice(column, count);
    else if (control === "\r") column = 0;
    else if (control === "\b") column = Math.max(0, column - 1);
  }
  return { cells, style };
}

function erase(cells, column, what) {
  if (what === 0) cells.splice(column);
  else for (let at = 0; at < cells.length && (what === 2 || at <= column); at += 1) cells[at] = { text: " ", style: PLAIN };
  if (what === 2) cells.length = 0;
}

function restyled(style, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  const next = { ...style };
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    const slot = [4, 10].includes(Math.floor(code / 10)) ? "ground" : "colour";
    if (code === 0) for (const name of Object.keys(next)) delete next[name];
    else if (FLAGS[code]) next[FLAGS[code]] = true;
    else if (ENDS[code]) for (const name of ENDS[code]) delete next[name];
    else if (code === 38 || code === 48) {
      const taken = codes[at + 1] === 5 ? 2 : codes[at + 1] === 2 ? 4 : 0;
      const colour = palette(codes.slice(at + 1, at + 1 + taken));
      if (colour !== null) next[slot] = colour;
      at += taken;
    } else if ((code >= 30 && code <= 37) || (code >= 40 && code <= 47)) next[slot] = code % 10;
    else if ((code >= 90 && code <= 97) || (code >= 100 && code <= 107)) next[slot] = (code % 10) + 8;
  }
  return Object.keys(next).length ? next : PLAIN;
}

/** The colour of 5;N or 2;R;G;B: 0 to 15 by the theme, else "rgb(…)"; null: it is none. */
function palette([kind, ...values]) {
  if (kind === undefined || values.some((value) => !(value >= 0 && value <= 255))) return null;
  if (kind === 2) return values.length === 3 ? `rgb(${values.map(Math.floor).join(", ")})` : null;
  const [index] = values.map(Math.floor);
  if (index === undefined || index < 16) return index ?? null;
  if (index >= 232) return `rgb(${Array(3).fill(8 + (index - 232) * 10).join(", ")})`;
  return `rgb(${[36, 6, 1].map((part) => Math.floor((index - 16) / part) % 6).map((level) => level && 55 + 40 * level).join(", ")})`;
}

function span(text, style) {
  if (style === PLAIN) return document.createTextNode(text);
  const node = document.createElement("span");
  const flags = Object.values(FLAGS).filter((name) => style[name]).map((name) => `ansi-${name}`);
  for (const [slot, property] of [["colour", "color"], ["ground", "backgroundColor"]]) {
    if (typeof style[slot] === "number") flags.push(`ansi-${slot}-${style[slot]}`);
    else if (style[slot]) node.style[property] = style[slot];
  }
  node.className = flags.join(" ");
  node.textContent = text;
  return node;
}
