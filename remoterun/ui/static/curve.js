// The points of runs as data, without a page: what is drawn of a million points is chosen here.
//
// A point comes as four doubles: series, step, time, value. Each series holds its points twice, sorted by step and by
// time. At one step the newest value counts, as after a restart from a checkpoint; by time all points are there.

const POINT = 4;
const MOST_SERIES = 1000;
const MOST_MEANS = 2000; // points of a mean
const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800]; // seconds
const HUGE = 1e300; // a difference of two values is finite up to here

/** The points of one file of one run; `add` takes its bytes as they come, `bytes` is how many there were. Times are
 * relative to `start.time`, which the first point sets, if it is null, for all files of the run. */
export class Points {
  bytes = 0;
  series = [];
  #rest = new Uint8Array(0);

  constructor(start = { time: null }) {
    this.start = start;
  }

  add(buffer) {
    this.bytes += buffer.byteLength;
    const bytes = new Uint8Array(this.#rest.length + buffer.byteLength);
    bytes.set(this.#rest);
    bytes.set(new Uint8Array(buffer), this.#rest.length);
    const whole = bytes.length - (bytes.length % (8 * POINT));
    this.#rest = bytes.slice(whole);
    const numbers = new Float64Array(bytes.buffer, 0, whole / 8);
    for (let at = 0; at < numbers.length; at += POINT) {
      const index = numbers[at];
      const step = numbers[at + 1];
      const time = numbers[at + 2];
      const value = numbers[at + 3];
      if (!(index >= 0 && index < MOST_SERIES && Number.isInteger(index))) continue;
      const series = (this.series[index] ??= { step: new Line(true), time: new Line(false) });
      if (Number.isFinite(step)) series.step.push(step, value);
      if (Number.isFinite(time)) series.time.push(time - (this.start.time ??= time), value);
    }
  }
}

/** Points sorted by x, in arrays that grow. Read `x`, `y` and `count` after `settle`. */
export class Line {
  x = new Float64Array(64);
  y = new Float64Array(64);
  count = 0;
  #replaces;
  #sorted = true;
  #cached = {}; // what was computed of the points that there are

  constructor(replaces = true) {
    this.#replaces = replaces;
  }

  push(x, y) {
    const { count } = this;
    if (count === this.x.length) [this.x, this.y] = [this.x, this.y].map((array) => new Float64Array(array.buffer.transfer(2 * array.byteLength)));
    if (count && (x < this.x[count - 1] || (this.#replaces && x === this.x[count - 1]))) this.#sorted = false;
    this.x[count] = x;
    this.y[count] = y;
    this.count = count + 1;
    this.#cached = null;
  }

  settle() {
    this.#cached ??= {};
    if (this.#sorted) return this;
    const { x, y, count } = this;
    const order = Uint32Array.from({ length: count }, (_, index) => index).sort((one, other) => x[one] - x[other] || one - other);
    Object.assign(this, { x: new Float64Array(x.length), y: new Float64Array(y.length), count: 0 });
    this.#sorted = true;
    for (const index of order) {
      const at = this.#replaces && this.count && this.x[this.count - 1] === x[index] ? this.count - 1 : this.count++;
      this.x[at] = x[index];
      this.y[at] = y[index];
    }
    return this;
  }

  /** The values as an exponential moving average without the bias of its start, as TensorBoard shows them. */
  smoothed(weight) {
    if (weight === 0) return this.y;
    if (this.#cached.weight === weight) return this.#cached.smoothed;
    const smoothed = Float64Array.from(this.y);
    for (let at = 0, sum = 0, decay = 1; at < this.count; at += 1) {
      if (!Number.isFinite(this.y[at])) continue;
      sum = sum * weight + (1 - weight) * this.y[at];
      decay *= weight;
      smoothed[at] = sum / (1 - decay);
    }
    Object.assign(this.#cached, { weight, smoothed });
    return smoothed;
  }

  /** The same points at other places along an axis; `key` names the map, and how much it knew. */
  moved(key, map) {
    if (this.#cached.moved?.key !== key) {
      const line = Object.assign(new Line(false), { x: this.x.slice(0, this.count).map(map), y: this.y, count: this.count });
      line.#sorted = line.x.every((x, at) => at === 0 || x >= line.x[at - 1]);
      this.#cached.moved = { key, line: line.settle() };
    }
    return this.#cached.moved.line;
  }

  /** The index of the best value: the largest for direction 1, the least for -1; -1: there is none. */
  best(direction) {
    if (this.#cached.best !== undefined) return this.#cached.best;
    let best = -1;
    for (let at = 0; direction && at < this.count; at += 1) {
      if (Number.isFinite(this.y[at]) && (best < 0 || (this.y[at] - this.y[best]) * direction > 0)) best = at;
    }
    return (this.#cached.best = best);
  }

  /** The index of the first point at `x` or after it. */
  find(x) {
    let [low, high] = [0, this.count];
    for (let middle = high >> 1; low < high; middle = (low + high) >> 1) {
      if (this.x[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The index of the first point after `x`. */
  after(x) {
    let at = this.find(x);
    while (at < this.count && this.x[at] === x) at += 1;
    return at;
  }

  /** The index of the point nearest to `x`, of several there the last one; -1 where there is none. */
  nearest(x) {
    const after = this.after(x);
    if (after === this.count || this.x[after - 1] === x) return after - 1;
    return after > 0 && x - this.x[after - 1] <= this.x[after] - x ? after - 1 : after;
  }
}

/**
 * What to draw of `line` from x = `from` to `to`, on `width` pixels: {points, marks, low, high}. `points` are indexes, of
 * each column of pixels the least and the largest value, and -1 where the line is broken; `marks` those of values that
 * can't be drawn (NaN, infinite, or `floor` and below: for a log axis). One point on either side goes out of the picture.
 */
export function chosen(line, y, from, to, width, floor = -Infinity) {
  const end = Math.min(line.count, line.after(to) + 1);
  const { x } = line;
  const step = (to - from) / width;
  const [points, marks] = [[], []];
  let [low, high] = [Infinity, -Infinity];
  for (let at = Math.max(0, line.find(from) - 1); at < end; ) {
    const seen = x[at] >= from && x[at] <= to;
    const edge = x[at] < from ? from : from + (Math.floor((x[at] - from) / step) + 1) * step;
    let [least, most, bad] = [-1, -1, -1];
    do {
      const value = y[at];
      if (!(value < HUGE && value > -HUGE) || value <= floor) bad = at;
      else if (least < 0) least = most = at;
      else if (value < y[least]) least = at;
      else if (value > y[most]) most = at;
      at += 1;
    } while (at < end && x[at] < edge);
    if (bad >= 0) marks.push(bad);
    if (least < 0) points.push(-1);
    else if (least === most) points.push(least);
    else points.push(Math.min(least, most), Math.max(least, most));
    if (seen && least >= 0) [low, high] = [Math.min(low, y[least]), Math.max(high, y[most])];
  }
  return { points, marks, low, high };
}

/** The range of the values of `lines` that is not widened by outliers: what lies farther from the middle 90 % of them
 * than 1.5 times its height; and how many lie outside of it. `solid` of a line is what `chosen` found. */
export function usual(lines, from, to, floor) {
  const values = Float64Array.from(lines.flatMap(({ solid, y }) => solid.points.filter((index) => index >= 0).map((index) => y[index]))).sort();
  const [low, high] = [0.05, 0.95].map((share) => values[Math.round(share * (values.length - 1))]);
  const inner = values.filter((value) => value >= low - 1.5 * (high - low) && value <= high + 1.5 * (high - low));
  const range = { low: inner[0] ?? Infinity, high: inner.at(-1) ?? -Infinity, outside: 0 };
  const isOutside = (value) => value > range.high || (value < range.low && value > floor);
  for (const { line, y } of lines) for (let at = line.find(from); line.x[at] <= to && at < line.count; at += 1) range.outside += isOutside(y[at]);
  return range;
}

/** In place of the lines of runs that differ in a seed only (`groups` of their numbers), their mean, with the standard
 * deviation as `spread`, where at least two of them have values. */
export function averaged(lines, groups) {
  const alike = Map.groupBy(lines, ({ name, run }) => JSON.stringify([name, groups.find((numbers) => numbers.includes(run.number)) ?? run.number]));
  return [...alike.values()].flatMap((members) => {
    const [{ line: longest }] = members.toSorted((one, other) => other.line.count - one.line.count);
    const [mean, spread, most] = [new Line(false), [], Math.min(MOST_MEANS, longest.count)];
    for (let part = 0; part < most; part += 1) {
      const x = longest.x[Math.round((part / (most - 1 || 1)) * (longest.count - 1))];
      const values = members.map(({ line, y }) => between(line.x, y, line.count, x)).filter(Number.isFinite);
      if (values.length < 2) continue;
      const middle = values.reduce((sum, value) => sum + value / values.length, 0);
      mean.push(x, middle);
      spread.push(Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1)));
    }
    const of = `mean of ${members.map(({ run }) => run.number).join(", ")}`;
    const about = { of, best: -1, words: `${of} ${members[0].name}`, label: members[0].label.replace(/^\d+/, "mean") };
    return mean.count ? [{ ...members[0], ...about, line: mean.settle(), y: mean.y, spread }] : members;
  });
}

/** The value at `x` on the way from point to point; NaN outside of them. */
function between(xs, ys, count, x, isOpen = false) {
  if (!isOpen && !(x >= xs[0] && x <= xs[count - 1])) return NaN;
  let [low, high] = [0, count - 1];
  for (let middle = high >> 1; high - low > 1; middle = (low + high) >> 1) {
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  return xs[high] === xs[low] ? ys[low] : ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / (xs[high] - xs[low]);
}

/** What the series `epoch` says of steps: {count, at(step)}; null: it does not grow. An epoch begins at the first step
 * that has its number, and goes on evenly. */
export function epochsOf({ x, y, count }) {
  const knots = [...y.subarray(0, count).keys()].filter((at) => Number.isFinite(y[at]) && (at === 0 || y[at] !== y[at - 1]));
  const [steps, epochs] = [x, y].map((values) => knots.map((at) => values[at]));
  return knots.length > 1 ? { count: knots.length, at: (step) => between(steps, epochs, knots.length, step, true) } : null;
}

const SPLIT = /(?:^|[/_. -])(train|training|val|valid|validation|eval|test|p05|p50|p95)(?=[/_. -]|$)/i;

/** What a name of a series says of its data: train, val, …, or which percentile it is; "": nothing. */
export const kindOf = (name) => name.match(SPLIT)?.[1] ?? "";

/** A name without that: of `val_loss` and `train/loss` it is `loss`. */
export const stem = (name) => name.replace(SPLIT, "").replace(/^[/_. -]/, "") || name;

/** Names that belong into one chart, as those of training and validation, or percentiles: [[stem, names], …], each where its first name
 * was; that of the training comes first, so that it has the same colour in each. */
export function paired(names) {
  const rank = (name) => (/^v|^e/i.test(kindOf(name)) ? 1 : /^te/i.test(kindOf(name)) ? 2 : 0);
  return [...Map.groupBy(names, stem)].map(([key, found]) => [key, found.sort((one, other) => rank(one) - rank(other))]);
}

/** As `ticks`, for moments in seconds: whole minutes, hours, days by the clocks of this place. */
export function clockTicks(low, high, count) {
  const step = CLOCK.find((each) => (high - low) / each <= count) ?? 86400 * Math.ceil((high - low) / 86400 / count);
  const shift = new Date(low * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((low - shift) / step);
  return Array.from({ length: Math.max(0, Math.floor((high - shift) / step) - first + 1) }, (_, index) => (first + index) * step + shift);
}

/** Where an axis has its marks: about `count` of them, at 1, 2 or 5 times a power of ten. */
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((part, place) => rough / power < [1.5, 3.5, 7.5, Infinity][place]) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/** As `ticks`, for a logarithmic axis: powers of ten; 1, 2, 5 times them where they are few. */
export function logTicks(low, high, count) {
  if (high / low < 3) return ticks(low, high, count);
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const parts = last - first <= count / 2 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = first; power <= last; power += Math.ceil((last - first) / count)) found.push(...parts.map((part) => part * 10 ** power));
  return found.filter((value) => value >= low && value <= high);
}

// Which way a metric is better, and which come first: as `agent/shared/measured.py` has it.
const FIRST = /(?:^|[/_. -])(loss|perplexity|ppl|bpc|error|mae|mse|rmse|wer|cer)$/i;
const MORE_IS_BETTER = /acc|auc|f1|score|reward|return|precision|recall|bleu|rouge|iou|psnr|ssim|map\b/i;
const MORE_IS_WORSE = /loss|error|perplexity|ppl|bpc|mae|mse|rmse|wer|cer|fid|latency|time/i;

/** 1 where more is better, -1 where less is, 0 where the name does not say. */
export function direction(name) {
  return MORE_IS_WORSE.test(name) ? -1 : MORE_IS_BETTER.test(name) ? 1 : 0;
}

/** Names in the order in which they are shown: losses, of the validation first, then what has a direction, then others. */
export function ranked(names) {
  const rank = (name) => (FIRST.test(name) ? (/val|eval|test/i.test(name) ? 0 : 1) : direction(name) ? 2 : 3);
  return [...names].sort((one, other) => rank(one) - rank(other) || (one < other ? -1 : one > other ? 1 : 0));
}
