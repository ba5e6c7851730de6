// Notes when the page shows what: put into each page before its own code. Times are in milliseconds; a moment counts
// when the frame that shows it has been painted, from the start of the navigation.
const bench = (globalThis.bench = { seen: {}, ages: [], pictures: [], zooms: {} });
const PARTS = { list: "#list a[data-number]", log: ".log .lines div div" };
const CURVES = ".chart:last-child .chart-values > :nth-child(10)"; // a picture is of all charts; each has words a run
const stamps = new Set();

/** Call `then` when the frame that is drawn next has been painted. */
function painted(then) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => then(performance.now());
  requestAnimationFrame(() => port2.postMessage(null));
}

/** How old the lines are that only hold the time at which they were written. */
function age(node) {
  const text = node.textContent;
  if (node.nodeName !== "DIV" || !/^\d{10}\.\d{9}$/.test(text) || stamps.has(text)) return;
  stamps.add(text);
  painted((now) => bench.ages.push(performance.timeOrigin + now - 1000 * Number(text)));
}

new MutationObserver((records) => {
  for (const [part, selector] of Object.entries(PARTS)) {
    if (part in bench.seen || !document.querySelector(selector)?.getClientRects().length) continue;
    bench.seen[part] = null;
    painted((now) => (bench.seen[part] = now));
  }
  for (const { addedNodes } of records) for (const node of addedNodes) (age(node), node.childNodes.forEach(age));
}).observe(document, { childList: true, subtree: true });

// A picture is what is drawn on canvas in one frame: by the number of its lines one can tell when it is whole.
const { lineTo } = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.lineTo = function (x, y) {
  const frame = document.timeline.currentTime;
  if (bench.pictures.at(-1)?.frame !== frame) {
    const picture = { frame, lines: 0, at: Infinity };
    bench.pictures.push(picture);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      picture.at = performance.now();
      if (document.querySelector(CURVES)) bench.seen.curves ??= picture.at;
    };
    port2.postMessage(null);
  }
  bench.pictures.at(-1).lines += 1;
  lineTo.call(this, x, y);
};

for (const kind of ["pointerup", "dblclick"]) {
  const zoomed = (event) => {
    const before = bench.pictures.length;
    painted((now) => bench.pictures.length > before && (bench.zooms[kind] = now - event.timeStamp));
  };
  addEventListener(kind, zoomed, true);
}
