// Times, sizes and shares as Live writes them.
import { integer, language, significant, t } from "./page.js";

const THIN = "\u202f";
const clock = (options) => new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...options });
const toMinute = clock({});
const toSecond = clock({ second: "2-digit" });

/** Local time of a second since 1970: 14:05:31. */
export function time(second) {
  return toSecond.format(second * 1000);
}

/** Local time to the minute: 14:05. */
export function minute(second) {
  return toMinute.format(second * 1000);
}

/** The same second in UTC: 2026-11-30T06:05:31Z. */
export function utc(second) {
  return `${new Date(second * 1000).toISOString().slice(0, 19)}Z`;
}

/** A short time: 150 µs, 10 ms, 2.5 s. */
export function brief(seconds) {
  if (seconds >= 1) return `${+seconds.toPrecision(2)}${THIN}s`;
  if (seconds >= 1e-3) return `${+(seconds * 1e3).toPrecision(2)}${THIN}ms`;
  return `${+(seconds * 1e6).toPrecision(2)}${THIN}µs`;
}

/** The bound of a bucket: "≤ 10 ms", "> 100 s" behind the last one, "—" without values. */
export function bound(bounds, index, sign = "≤ ") {
  if (index < 0) return "—";
  return index < bounds.length ? sign + brief(bounds[index]) : `> ${brief(bounds.at(-1))}`;
}

/** A long time in at most two units: 45 s, 15 min, 2 h 5 min. */
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.max(0, Math.round(seconds));
  const first = Math.max(0, units.findIndex(([, size]) => rest >= size));
  const parts = units.slice(rest ? first : 3, rest ? first + 2 : 4).map(([unit, size]) => {
    const n = Math.floor(rest / size);
    rest -= n * size;
    return [n, unit];
  });
  return parts.filter(([n], index) => n || !index).map(([n, unit]) => t(`live.span.${unit}`, { n })).join(" ");
}

/** A share in percent: 20 %, 0.4 %. */
export function percent(share) {
  const value = 100 * share;
  return `${value >= 10 || value === 0 ? Math.round(value) : significant(value, value < 1 ? 1 : 2)}${THIN}%`;
}

/** Bytes in MiB or GiB. */
export function bytes(value, unit = true) {
  const large = value >= 10 * 2 ** 30;
  return `${integer(value / 2 ** (large ? 30 : 20))}${unit ? `${THIN}${large ? "GiB" : "MiB"}` : ""}`;
}

/** A number a second: 0.4, 3.6, 113. */
export function rate(value) {
  return value >= 10 ? integer(value) : significant(value, value < 1 ? 1 : 2);
}

/** A text of a number of things: the key with ".one" or ".other". */
export function plural(key, n, values = {}) {
  return t(`${key}.${n === 1 ? "one" : "other"}`, { ...values, n: integer(n) });
}
