// Numbers of a comparison. An angle is position * frequency; which channels turn, with which partner
// and how fast comes from the service.

/** Parameters that say how frequencies are made, and nothing else of a rotation. */
const OF_FREQUENCIES = ["rope_type", "theta", "inv_freq", "freq_factors", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "max_position_embeddings", "beta_fast", "beta_slow", "short_factor", "long_factor", "truncate", "partial_rotary_factor", "frequency_dim", "length", "arithmetic", "rounding"];

/** Largest relative difference of frequencies that are the same in float32. */
const ROUNDING = 2 ** -22;

/** Return the verdict of an answer of /v1/compare: equal, rounding, permuted or different. */
export function verdictOf(answer) {
  if (!answer.same && answer.permutation) return "permuted";
  if (!answer.same) {
    const [a, b] = [answer.inv_freq, answer.inv_freq_other].map(numbersOf);
    const isAlike = a.length === b.length && a.length > 0 && answer.differences.every(({ parameter }) => OF_FREQUENCIES.includes(parameter));
    return isAlike && largestError(answer) <= ROUNDING ? "rounding" : "different";
  }
  const rounds = answer.differences.some(({ parameter }) => parameter === "arithmetic" || parameter === "rounding");
  return rounds || largestError(answer) > 0 ? "rounding" : "equal";
}

/** Return the numbers of a tensor of a JSON answer, as they are in memory. */
export function numbersOf(tensor) {
  if (!tensor) return [];
  return tensor.dtype === "float32" ? tensor.data.map(Math.fround) : tensor.data;
}

/** Return the largest difference of two frequencies, as a share of the first. */
export function largestError(answer) {
  const [a, b] = [numbersOf(answer.inv_freq), numbersOf(answer.inv_freq_other)];
  const errors = a.map((value, i) => (value === b[i] ? 0 : Math.abs(value - b[i]) / Math.max(Math.abs(value), Number.MIN_VALUE)));
  return Math.max(0, ...errors);
}

/** Return, by pair, the frequency of B as a multiple of that of A; null where one does not turn. */
export function ratiosOf(answer) {
  const [a, b] = [numbersOf(answer.inv_freq), numbersOf(answer.inv_freq_other)];
  const count = Math.min(a.length, b.length);
  return a.slice(0, count).map((value, i) => (value && b[i] ? Math.abs(b[i] / value) : null));
}

/** Return the first position at which an angle differs by 0.01 rad; null: none. */
export function firstAngle(answer) {
  const [a, b] = [numbersOf(answer.inv_freq), numbersOf(answer.inv_freq_other)];
  const largest = Math.max(0, ...a.slice(0, b.length).map((value, i) => Math.abs(value - b[i])));
  return largest * 2 ** 24 < 0.01 ? null : Math.ceil(0.01 / largest);
}

/** Return what each channel of a rotated head is: its source, and its partner's sign and frequency. */
function channelsOf(resolved) {
  const width = resolved.rope?.head_dim ?? 0;
  const channels = Array.from({ length: width }, (_, index) => still(index));
  const frequencies = numbersOf(resolved.inv_freq);
  const direction = resolved.rope?.negative ? -1 : 1;
  for (const [pair, frequency] of frequencies.entries()) {
    const [x, y] = resolved.pairs.data.slice(2 * pair, 2 * pair + 2);
    channels[x] = { own: x, partner: y, sign: -1, frequency: direction * frequency };
    channels[y] = { own: y, partner: x, sign: 1, frequency: direction * frequency };
  }
  return (resolved.order ?? channels.map((_, index) => index)).map((index) => channels[index]);
}

/** Return the cosine of a vector rotated by A and the same rotated by B, in the mean over all vectors:
    a sum of `cos * cos(position * speed) + sin * sin(position * speed)`, `[{speed, cos, sin}]`. Null
    where widths differ or channels do not turn in pairs.

    `order` of an answer of /v1/resolve, if there is one, names the channel that each channel of the
    output is made of. */
export function cosineTerms(a, b) {
  const [first, second] = [channelsOf(a), channelsOf(b)];
  const width = Math.max(first.length, second.length);
  if (first.length && second.length && first.length !== second.length) return null;
  if (a.rope?.layout !== b.rope?.layout && [a, b].some(({ rope }) => rope?.layout === "interleaved_tiled")) return null;
  const sums = new Map();
  const add = (speed, cos, sin) => {
    const term = sums.get(Math.abs(speed)) ?? { speed: Math.abs(speed), cos: 0, sin: 0 };
    sums.set(term.speed, { ...term, cos: term.cos + cos / width / 2, sin: term.sin + (Math.sign(speed) * sin) / width / 2 });
  };
  for (let i = 0; i < width; i++) {
    const p = first[i] ?? still(i);
    const q = second[i] ?? still(i);
    const cosCos = p.own === q.own ? 1 : 0;
    const sinSin = p.partner === q.partner ? p.sign * q.sign : 0;
    const cosSin = p.own === q.partner ? q.sign : 0;
    const sinCos = p.partner === q.own ? p.sign : 0;
    add(p.frequency - q.frequency, cosCos + sinSin, sinCos - cosSin); // products as cosines and sines of sums
    add(p.frequency + q.frequency, cosCos - sinSin, sinCos + cosSin);
  }
  return [...sums.values()].filter(({ cos, sin }) => Math.abs(cos) + Math.abs(sin) > 1e-12);
}

/** A channel that does not turn. */
const still = (index) => ({ own: index, partner: index, sign: 1, frequency: 0 });

/** Return the cosine at a position. */
export function cosineAt(terms, position) {
  return terms.reduce((sum, { speed, cos, sin }) => sum + cos * Math.cos(position * speed) + sin * Math.sin(position * speed), 0);
}

/** Lengths of the model, those of A if it has any: `[{position, name}]`. */
export function lengthsOf({ a, b }) {
  const lengths = [a.lengths, b.lengths].find(({ trained, allowed }) => trained || allowed) ?? {};
  const { trained, allowed } = lengths;
  if (trained && trained === allowed) return [{ position: trained, name: "trained_allowed" }];
  return ["trained", "allowed"].filter((name) => lengths[name]).map((name) => ({ position: lengths[name], name }));
}

/** Most steps of a curve: positions times terms that move. */
const MAX_STEPS = 2 ** 27;

/** Return the last position that a curve of these terms reaches. */
export function lastOf(terms, length) {
  const moving = terms.filter(({ speed }) => speed).length;
  return Math.max(2, Math.min(length, Math.floor(MAX_STEPS / Math.max(1, moving))));
}

/** Return the curve up to a position: columns `{position, lowest, highest, mean}` of equal width on a
    logarithmic axis. Each whole position counts, none is a sample. Also `below`, the first position
    with a cosine under 0.99, or null. */
export async function curveOf(terms, last, columns = 280) {
  const constant = terms.filter(({ speed }) => !speed).reduce((sum, { cos }) => sum + cos, 0);
  const moving = terms.filter(({ speed }) => speed);
  const curve = [];
  let [position, below, pause] = [1, null, performance.now()];
  while (position <= last) {
    const end = Math.min(last, Math.max(position, Math.floor(last ** ((curve.length + 1) / columns))));
    const column = { position, end, lowest: Infinity, highest: -Infinity, mean: 0 };
    for (let start = position; start <= end; start += 4096) {
      const values = valuesOf(moving, constant, start, Math.min(4096, end - start + 1));
      for (let i = 0; i < values.length; i++) {
        if (values[i] < column.lowest) column.lowest = values[i];
        if (values[i] > column.highest) column.highest = values[i];
        if (below === null && values[i] < 0.99) below = start + i;
        column.mean += values[i];
      }
      if (performance.now() - pause > 12) {
        await new Promise((go) => setTimeout(go));
        pause = performance.now();
      }
    }
    column.mean /= end - position + 1;
    if (end >= position) curve.push(column);
    position = end + 1;
  }
  return { curve, below };
}

/** Return the cosine at `count` positions from `start` on: each term turns by one step at a time. */
function valuesOf(moving, constant, start, count) {
  const values = new Float64Array(count).fill(constant);
  for (const { speed, cos, sin } of moving) {
    const [c0, s0] = [Math.cos(start * speed), Math.sin(start * speed)];
    let [x, y] = [cos * c0 + sin * s0, cos * s0 - sin * c0];
    const [c, s] = [Math.cos(speed), Math.sin(speed)];
    for (let i = 0; i < count; i++) {
      values[i] += x;
      const next = x * c - y * s;
      y = x * s + y * c;
      x = next;
    }
  }
  return values;
}
