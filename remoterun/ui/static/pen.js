// A chart as a file: a picture, which the code of the canvas draws, or its numbers.

import { el } from "./dom.js";

const [WIDTH, HEIGHT, HEAD, DENSE] = [900, 420, 24, 2];

/** Save a chart as "png", "svg" or "csv". The file's name says runs and chart. */
export async function save(chart, form) {
  const { runs } = chart.all;
  const name = `run${runs.length > 1 ? "s" : ""}-${runs.map(({ number }) => number).join("-")}-${chart.title}`;
  const { colour, font } = chart.all.ink;
  const picture = chart.picture(WIDTH, HEIGHT, colour, font, HEAD);
  const blob = await { png, svg, csv }[form](chart, picture);
  const link = el("a", { href: URL.createObjectURL(blob), download: `${name.replace(/[^\w.+-]+/g, "_").slice(0, 100)}.${form}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function painted(pen, chart, picture) {
  pen.fillStyle = picture.colour("--ground");
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  chart.paint(pen, picture);
}

function png(chart, picture) {
  const canvas = new OffscreenCanvas(WIDTH * DENSE, HEIGHT * DENSE);
  const pen = canvas.getContext("2d");
  pen.scale(DENSE, DENSE);
  painted(pen, chart, picture);
  return canvas.convertToBlob();
}

function svg(chart, picture) {
  const pen = new SvgPen();
  painted(pen, chart, picture);
  return new Blob([`<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}">${pen.text}</svg>`], { type: "image/svg+xml" });
}

function csv(_, { lines, axis }) {
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = lines.flatMap(({ run, name, line, of, spread }) => {
    const start = `${spread ? quoted(of) : run.number},${quoted(name)},`;
    return Array.from({ length: line.count }, (_, at) => `${start}${line.x[at]},${line.y[at]}${spread ? `,${spread[at]}` : ""}\n`);
  });
  const head = `run,series,${axis === "time" ? "seconds" : axis},value${lines.some(({ spread }) => spread) ? ",deviation" : ""}\n`;
  return new Blob([head, ...rows], { type: "text/csv" });
}

/** What of a canvas's pen the charts use, as the text of SVG elements. */
class SvgPen {
  text = "";
  piece = Infinity; // a line is one path
  globalAlpha = 1;
  lineWidth = 1;
  #path = "";
  #clip = "";
  #dash = [];
  #measure = new OffscreenCanvas(1, 1).getContext("2d");

  beginPath = () => (this.#path = "");
  moveTo = (x, y) => (this.#path += `M${round(x)} ${round(y)}`);
  lineTo = (x, y) => (this.#path += `${this.#path ? "L" : "M"}${round(x)} ${round(y)}`);
  rect = (x, y, width, height) => (this.#path += `M${x} ${y}h${width}v${height}h${-width}z`);
  arc = (x, y, radius) => (this.#path += `M${round(x - radius)} ${round(y)}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0`);
  setLineDash = (dash) => (this.#dash = dash);
  stroke = () => this.#add(`path d="${this.#path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" stroke-linejoin="bevel"${this.#dash.length ? ` stroke-dasharray="${this.#dash}"` : ""}`);
  fill = () => this.#add(`path d="${this.#path}" fill="${this.fillStyle}"`);
  fillRect = (x, y, width, height) => this.#add(`rect x="${round(x)}" y="${round(y)}" width="${width}" height="${height}" fill="${this.fillStyle}"`);

  clip() {
    this.text += `<clipPath id="inside"><path d="${this.#path}"/></clipPath>`;
    this.#clip = ' clip-path="url(#inside)"';
  }

  measureText(text) {
    this.#measure.font = this.font;
    return this.#measure.measureText(text);
  }

  fillText(text, x, y) {
    const [anchor, line] = [{ right: "end" }[this.textAlign] ?? "start", { middle: "central", top: "hanging" }[this.textBaseline] ?? "auto"];
    const safe = text.replace(/[\0-\x1f&<>"\ufffe\uffff]/g, (sign) => (sign < " " || sign > "\ufffd" ? "�" : `&#${sign.charCodeAt(0)};`));
    this.#add(`text x="${round(x)}" y="${round(y)}" fill="${this.fillStyle}" style="font: ${this.font.replaceAll('"', "'")}" text-anchor="${anchor}" dominant-baseline="${line}"`, safe);
  }

  #add(element, content = "") {
    const faint = this.globalAlpha < 1 ? ` opacity="${this.globalAlpha}"` : "";
    this.text += `<${element}${faint}${this.#clip}>${content}</${element.split(" ", 1)}>`;
  }
}

const round = (value) => Number(value.toFixed(2));
