// A line of a log as a terminal would show it: colours, and what moves within the line. It becomes text nodes, never markup.

import { unturned } from "./dom.js";

export const PLAIN = Object.freeze({});

const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/;
// Text · CSI, with its parameters and its letter · strings of the terminal (titles, links) up to their end · other escapes · one control
const PART = /([^\x00-\x08\x0a-\x1f\x7f-\x9f]+)|\x1b\[([0-?]*)[ -\/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -\/]*[0-~]?|([^])/g;
const WIDEST = 2000; // columns to which a cursor may be moved; text may be longer
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 39: ["color"], 49: ["background"] };

/** One line, without its end: {nodes, style}; `style` is that at its end, with which the next line begins. */
export function paint(line, style = PLAIN) {
  line = unturned(line);
  if (style === PLAIN && !CONTROL.test(line)) return { nodes: line ? [document.createTextNode(line)] : [], style };
  const cells = [];
  let column = 0;
  for (const [, text, parameters, letter, control] of line.matchAll(PART)) {
    const count = Math.min(Math.max(parseInt(parameters, 10) || 1, 1), WIDEST);
    if (text) {
      while (cells.length < column) cells.push({ text: " ", style: PLAIN });
      for (const character of text) cells[column++] = { text: character, style };
    } else if (letter === "m") style = restyled(style, parameters.split(/[;:]/).map(Number));
    else if (letter === "K") cells.splice(parseInt(parameters, 10) ? 0 : column); // to the end of the line, or all of it
    else if (letter === "C") column = Math.min(column + count, Math.max(column, WIDEST));
    else if (letter === "D" || control === "\b") column = Math.max(0, column - count);
    else if (letter === "G") column = count - 1;
    else if (control === "\r") column = 0;
  }
  return { nodes: nodesOf(cells), style };
}

function restyled(style, codes) {
  const next = { ...style };
  for (let at = 0; at < codes.length; at += 1) {
    const [code, tens] = [codes[at], Math.floor(codes[at] / 10)];
    const slot = tens === 4 || tens === 10 ? "background" : "color";
    if (code === 0) for (const name of Object.keys(next)) delete next[name];
    else if (FLAGS[code]) next[FLAGS[code]] = true;
    else if (ENDS[code]) for (const name of ENDS[code]) delete next[name];
    else if (code === 38 || code === 48) {
      const taken = { 5: 2, 2: 4 }[codes[at + 1]] ?? 0;
      next[slot] = palette(codes.slice(at + 1, at + 1 + taken)) ?? next[slot];
      at += taken;
    } else if ([3, 4, 9, 10].includes(tens) && code % 10 < 8) next[slot] = code % 10;
  }
  return Object.keys(next).length ? next : PLAIN;
}

/** The colour of 5;N or 2;R;G;B: a number from 0 to 7 is one of the theme, bright or not; undefined: it is none. */
function palette([kind, ...values]) {
  if (!values.length || values.some((value) => !(value >= 0 && value <= 255))) return undefined;
  const [index] = values;
  const cube = () => [36, 6, 1].map((part) => Math.floor((index - 16) / part) % 6).map((level) => level && 55 + 40 * level);
  if (kind === 5 && index < 16) return index % 8;
  return `rgb(${(kind === 2 ? values : index < 232 ? cube() : Array(3).fill(8 + (index - 232) * 10)).join(", ")})`;
}

function nodesOf(cells) {
  const nodes = [];
  for (let at = 0; at < cells.length; ) {
    const { style } = cells[at];
    let text = "";
    for (; at < cells.length && cells[at].style === style; at += 1) text += cells[at].text;
    const node = style === PLAIN ? document.createTextNode(text) : document.createElement("span");
    const flags = Object.keys(style).filter((name) => style[name] === true).map((name) => `ansi-${name}`);
    for (const slot of ["color", "background"].filter((name) => style[name] !== undefined)) {
      if (typeof style[slot] === "number") flags.push(`ansi-${slot}-${style[slot]}`);
      else node.style[slot] = style[slot];
    }
    if (style !== PLAIN) Object.assign(node, { textContent: text, className: flags.join(" ") });
    nodes.push(node);
  }
  return nodes;
}
