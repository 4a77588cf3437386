// Scores at all whole distances, gathered into columns of pixels: lowest, highest and mean of each.

/** Number of distances that are computed: 0 to FAR. */
export const FAR = 32768;

/** Scores of q = k at distances 0 to FAR: the mean of cos(distance * frequency). */
export function equalScores(frequencies) {
  const scores = new Float64Array(FAR + 1);
  for (const frequency of frequencies) {
    walk(frequency, (distance, cos) => { scores[distance] += cos; });
  }
  return scores.map((sum) => sum / frequencies.length);
}

/** Scores of pairs of random vectors of length 1, one array for each pair. */
export function randomScores(frequencies, pairs = 6) {
  const random = normals(7);
  const all = Array.from({ length: pairs }, () => new Float64Array(FAR + 1));
  const drawn = all.map(() => frequencies.map(() => [random(), random(), random(), random()]));
  const sizes = drawn.map((vectors) => Math.sqrt(vectors.reduce((sum, [a, b]) => sum + a * a + b * b, 0) * vectors.reduce((sum, [, , c, d]) => sum + c * c + d * d, 0)));
  frequencies.forEach((frequency, index) => {
    const terms = drawn.map((vectors, pair) => {
      const [a, b, c, d] = vectors[index];
      return [(a * c + b * d) / sizes[pair], (a * d - b * c) / sizes[pair]];
    });
    walk(frequency, (distance, cos, sin) => {
      for (let pair = 0; pair < pairs; pair++) all[pair][distance] += terms[pair][0] * cos + terms[pair][1] * sin;
    });
  });
  return all;
}

/** Call `visit(distance, cos, sin)` for each distance; a turn a step, put right every 1 024 steps. */
function walk(frequency, visit) {
  const [stepCos, stepSin] = [Math.cos(frequency), Math.sin(frequency)];
  let [cos, sin] = [1, 0];
  for (let distance = 0; distance <= FAR; distance++) {
    if ((distance & 1023) === 0) [cos, sin] = [Math.cos(distance * frequency), Math.sin(distance * frequency)];
    visit(distance, cos, sin);
    const next = cos * stepCos - sin * stepSin;
    sin = cos * stepSin + sin * stepCos;
    cos = next;
  }
}

/** Normal numbers from a seed: the same six pairs in each browser. */
function normals(seed) {
  let last = seed;
  const uniform = () => (last = (Math.imul(last, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return () => Math.sqrt(-2 * Math.log(uniform() + 1e-12)) * Math.cos(2 * Math.PI * uniform());
}

/** Columns of a picture: `{x, lowest, highest, mean}` of all distances that `place` puts into a pixel. */
export function columnsOf(scores, place) {
  const columns = [];
  let [pixel, count] = [-1, 0];
  for (let distance = 0; distance < scores.length; distance++) {
    const at = Math.floor(place(distance));
    if (at !== pixel) {
      if (count) columns.at(-1).mean /= count;
      columns.push({ x: place(distance), lowest: Infinity, highest: -Infinity, mean: 0 });
      [pixel, count] = [at, 0];
    }
    const column = columns.at(-1);
    const score = scores[distance];
    column.lowest = Math.min(column.lowest, score);
    column.highest = Math.max(column.highest, score);
    column.mean += score;
    count += 1;
  }
  if (count) columns.at(-1).mean /= count;
  return columns;
}

/** First distance at which the score is below a half, or null. */
export function halfDistance(scores) {
  const found = scores.findIndex((score) => score < 0.5);
  return found < 0 ? null : found;
}

/** Root of the mean square of scores between two distances, over all curves. */
export function spread(curves, from, to) {
  let sum = 0;
  for (const scores of curves) for (let distance = from; distance <= to; distance++) sum += scores[distance] ** 2;
  return Math.sqrt(sum / (curves.length * (to - from + 1)));
}
