// A chart as a file: a picture, which the code of the canvas draws, or its numbers.

import { el } from "./dom.js";

const [WIDTH, HEIGHT, HEAD, DENSE] = [900, 420, 24, 2];

/** Save a chart as "png", "svg" or "csv". The file's name says runs and chart. */
export async function save(chart, form) {
  const { runs, ink } = chart.all;
  const picture = chart.picture(WIDTH, HEIGHT, ink, HEAD);
  const name = `run${runs.length > 1 ? "s" : ""}-${runs.map(({ number }) => number).join("-")}-${chart.title}`;
  const canvas = new OffscreenCanvas(WIDTH * DENSE, HEIGHT * DENSE);
  const pen = form === "svg" ? new SvgPen() : canvas.getContext("2d");
  if (form === "png") pen.scale(DENSE, DENSE);
  pen.fillStyle = ink.colour("--ground");
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  Object.assign(pen, { font: `600 13px ${ink.font}`, fillStyle: ink.colour("--ink"), textAlign: "left", textBaseline: "top" });
  pen.fillText(`${chart.title}, ${runs.length > 1 ? `runs ${runs.map(({ number }) => number).join(", ")}` : runs[0].label}`, 46, 10);
  chart.paint(pen, picture);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}">${pen.text}</svg>`;
  const blob = form === "png" ? await canvas.convertToBlob() : form === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : new Blob(csv(picture), { type: "text/csv" });
  const link = el("a", { href: URL.createObjectURL(blob), download: `${name.replace(/[^\w.+-]+/g, "_").slice(0, 100)}.${form}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** All points of the lines that are seen, whatever part of them is. */
function csv({ lines, axis }) {
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const row = ({ run, name, line, of, spread }, at) => `${spread ? quoted(of) : run.number},${quoted(name)},${line.x[at]},${line.y[at]},${spread?.[at] ?? ""}\n`;
  return [`run,series,${axis === "time" ? "seconds" : axis},value,deviation\n`, ...lines.flatMap((each) => Array.from({ length: each.line.count }, (_, at) => row(each, at)))];
}

/** What the charts use of a canvas's pen; it writes the text of SVG elements. */
class SvgPen {
  text = "";
  piece = Infinity; // a line is one path
  globalAlpha = this.lineWidth = 1;
  #path = "";
  #clip = "";
  #dash = "";
  #measure = new OffscreenCanvas(1, 1).getContext("2d");

  beginPath = () => (this.#path = "");
  moveTo = (x, y) => (this.#path += `M${round(x)} ${round(y)}`);
  lineTo = (x, y) => (this.#path += `${this.#path ? "L" : "M"}${round(x)} ${round(y)}`);
  rect = (x, y, width, height) => (this.#path += `M${x} ${y}h${width}v${height}h${-width}z`);
  arc = (x, y, radius) => (this.#path += `M${round(x - radius)} ${round(y)}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0`);
  setLineDash = (dash) => (this.#dash = dash.length ? ` stroke-dasharray="${dash}"` : "");
  stroke = () => this.#add(`path d="${this.#path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" stroke-linejoin="bevel"${this.#dash}`);
  fill = () => this.#add(`path d="${this.#path}" fill="${this.fillStyle}"`);
  fillRect = (x, y, width, height) => this.#add(`rect x="${round(x)}" y="${round(y)}" width="${width}" height="${height}" fill="${this.fillStyle}"`);
  measureText = (text) => ((this.#measure.font = this.font), this.#measure.measureText(text));

  clip() {
    this.text += `<clipPath id="inside"><path d="${this.#path}"/></clipPath>`;
    this.#clip = ' clip-path="url(#inside)"';
  }

  fillText(text, x, y) {
    const place = `x="${round(x)}" y="${round(y)}" text-anchor="${this.textAlign === "right" ? "end" : "start"}"`;
    const line = { middle: "central", top: "hanging" }[this.textBaseline] ?? "auto";
    const safe = text.replace(/[\0-\x1f&<>"\ufffe\uffff]/g, (sign) => (sign < " " || sign > "\ufffd" ? "�" : `&#${sign.charCodeAt(0)};`));
    this.#add(`text ${place} dominant-baseline="${line}" fill="${this.fillStyle}" style="font: ${this.font.replaceAll('"', "'")}"`, safe);
  }

  #add(element, content = "") {
    this.text += `<${element}${this.globalAlpha < 1 ? ` opacity="${this.globalAlpha}"` : ""}${this.#clip}>${content}</${element.split(" ", 1)}>`;
  }
}

const round = (value) => Number(value.toFixed(2));
