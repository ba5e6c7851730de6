// Numbers, sizes and times as people read them.

/** About four significant digits; 12.3k, 1.2M; 1.2e-7. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e15) ? value.toExponential(2)
    : size >= 1e9 ? `${trim(value / 1e9)}G` : size >= 1e6 ? `${trim(value / 1e6)}M` : size >= 1e4 ? `${trim(value / 1e3)}k` : trim(value);
  return text.replace("-", "−");
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** 12 s, 4 min 10 s, 1 h 05 min, 3 d 4 h. */
export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const [days, hours, minutes, rest] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60, total % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
  return minutes ? `${minutes} min${rest ? ` ${rest} s` : ""}` : `${rest} s`;
}

export function ago(time, now = Date.now() / 1000) {
  const seconds = now - time;
  return seconds < 5 ? "now" : `${duration(seconds).replace(/ \d+ s$| \d+ min$/, (rest) => (seconds < 60 ? rest : ""))} ago`;
}

export function money(dollars) {
  return dollars === null || dollars === undefined ? "" : `$${dollars.toFixed(dollars < 100 ? 2 : 0)}`;
}

function trim(value) {
  return String(Number(value.toPrecision(4)));
}
