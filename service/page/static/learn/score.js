// Lesson 5: score against distance, of a query that equals its key and of random vectors.
import { area, html, useEffect, useMemo, useState } from "../vendor.js";
import { integer, short, t } from "../page.js";
import { Figure, GridY, Marker, Plot, choose, chosen, useWidth } from "../figure.js";
import { Ask, Choices, Control, Failure, fixed, numberOf, useFrequencies } from "./parts.js";

/** Scores are computed at all whole distances from 0 to this one. */
export const FAR = 32768;

const WIDTHS = ["32", "64", "128", "256"];
const USUAL = 10000;

/** Distances that the crosshair stops at: each one up to 64, then in steps of a sixteenth octave. */
const PLACES = [...new Set([...Array.from({ length: 65 }, (_, index) => index), ...Array.from({ length: 145 }, (_, index) => Math.round(64 * 2 ** (index / 16)))])];

const thetaOf = () => numberOf("theta", { least: 1000, most: 1e7, fallback: USUAL });
const widthOf = () => (WIDTHS.includes(chosen("d").value) ? chosen("d").value : "128");
const distanceOf = () => Math.round(numberOf("t", { least: 0, most: FAR, fallback: 6 }));
const ropeOf = () => ({ theta: thetaOf(), head_dim: Number(widthOf()) });

const values = new Map(); // of the last frequencies, shared by figure and numbers

/** The value of `make(from)`, computed once for the same frequencies or curves. */
function once(make, from) {
  const last = values.get(make);
  if (last?.from !== from) values.set(make, { from, value: make(from) });
  return values.get(make).value;
}

/** Curves of random vectors; they follow when the hand rests. */
function useRandom(frequencies) {
  const [random, setRandom] = useState(null);
  useEffect(() => {
    if (!frequencies) return undefined;
    const timer = setTimeout(() => setRandom(once(randomScores, frequencies)), random ? 120 : 0);
    return () => clearTimeout(timer);
  }, [frequencies]);
  return random;
}

function Picture() {
  const { frequencies, error } = useFrequencies(ropeOf());
  const usual = useFrequencies({ ...ropeOf(), theta: USUAL }).frequencies;
  const random = useRandom(frequencies);
  const [ref, width] = useWidth(1000);
  const rows = () => {
    const equal = once(equalScores, frequencies);
    const heading = [t("learn.score.distance"), "q = k", ...(random ?? []).map((_, index) => t("learn.score.random_pair", { index: index + 1 }))];
    return [heading, ...PLACES.map((distance) => [distance, ...[equal, ...(random ?? [])].map((scores) => +scores[distance].toFixed(6))])];
  };
  const legend = html`<span class="k1">${t("learn.score.equal")}</span>${thetaOf() !== USUAL && html`<span class="k2">${t("learn.score.usual")}</span>`}<span class="k4">${t("learn.score.random")}</span>`;
  return html`<${Figure} id="score-figure" title=${t("learn.score.title")} name="score" rows=${rows} legend=${legend}><${Failure} error=${error} /><div ref=${ref}>
    ${frequencies && html`<${Drawing} frequencies=${frequencies} usual=${thetaOf() === USUAL ? null : usual} random=${random} width=${width} />`}</div><//>`;
}

function Drawing({ frequencies, usual, random, width }) {
  const [height, left, right, top, bottom] = [360, 40, 14, 14, 30];
  const scale = (width - left - right) / Math.log1p(FAR);
  const x = (distance) => left + scale * Math.log1p(distance);
  const places = useMemo(() => Float64Array.from({ length: FAR + 1 }, (_, distance) => x(distance)), [width]);
  const y = (value) => top + (1 - value) / 1.45 * (height - top - bottom);
  const equal = once(equalScores, frequencies);
  const indexAt = (px) => {
    const wanted = Math.expm1((px - left) / scale);
    return PLACES.reduce((best, place, index) => (Math.abs(place - wanted) < Math.abs(PLACES[best] - wanted) ? index : best), 0);
  };
  const distance = distanceOf();
  const still = useMemo(() => html`<${GridY} y=${y} at=${[-0.25, 0, 0.25, 0.5, 0.75, 1]} left=${left} right=${width - right} form=${(value) => fixed(value, value % 0.5 ? 2 : value % 1 ? 1 : 0)} />
    <path d=${`M${left} ${y(0)}H${width - right}`} stroke="var(--ink-3)" />
    <text x=${width - right} y=${height - 8} text-anchor="end" class="t3">${t("learn.score.distance")}</text>
    ${[0, 1, 10, 100, 1000, 10000].filter((value) => x(value) < width - right - 60).map((value) => html`<text x=${x(value)} y=${height - 8} text-anchor="middle">${short(value)}</text>`)}
    ${random?.map((scores) => html`<${Curve} scores=${scores} places=${places} y=${y} colour="var(--ink-3)" width="1" wash=".10" opacity=".55" />`)}`, [random, width]);
  const before = useMemo(() => usual && html`<${Curve} scores=${equalScores(usual)} places=${places} y=${y} colour="var(--b)" width="1.6" dash="5 3" wash=".12" />`, [usual, width]);
  const line = useMemo(() => html`<${Curve} scores=${equal} places=${places} y=${y} colour="var(--a)" width="2.2" wash=".22" />`, [equal, width]);
  const value = equal[distance];
  const text = t("learn.score.at", { distance: integer(distance), value: fixed(value, 4) });
  const end = x(distance) > width - 180;
  return html`<${Plot} width=${width} height=${height} label=${t("learn.score.label")} length=${PLACES.length} index=${indexAt(x(distance))} onIndex=${(index) => choose({ t: PLACES[index] })} indexAt=${indexAt} readout=${text}>
    ${still}${before}${line}
    <path d=${`M${x(distance)} ${top}V${height - bottom}`} stroke="var(--ink-3)" /><${Marker} x=${x(distance)} y=${y(value)} kind="c" />
    <text x=${x(distance) + (end ? -10 : 10)} y=${y(Math.max(value, 0.05)) - 10} text-anchor=${end ? "end" : "start"} class="tc halo">${text}</text>
  <//>`;
}

/** Lowest to highest as a wash, the mean as a line. */
function Curve({ scores, places, y, colour, width, dash, wash, opacity }) {
  const columns = columnsOf(scores, places);
  const band = area().x((column) => column.x).y0((column) => y(column.lowest)).y1((column) => y(column.highest)).digits(1);
  const path = columns.map((column, index) => `${index ? "L" : "M"}${column.x.toFixed(1)},${y(column.mean).toFixed(1)}`).join("");
  return html`<path d=${band(columns)} fill=${colour} fill-opacity=${wash} /><path d=${path} fill="none" stroke=${colour} stroke-width=${width} stroke-opacity=${opacity} stroke-dasharray=${dash} stroke-linejoin="round" />`;
}

function Controls() {
  return html`<${Control} id="theta" label=${html`<i class="v">Θ</i>`} value=${thetaOf()} least=${1000} most=${1e7} scale="log" onValue=${(theta) => choose({ theta })} />
    <${Choices} label=${t("learn.score.width")} name="d" value=${widthOf()} options=${WIDTHS.map((width) => [width, width])} />`;
}

const near = (random) => spread(random, 1, 1000);
const far = (random) => spread(random, 10000, FAR);

function Numbers() {
  const { frequencies } = useFrequencies(ropeOf());
  const random = useRandom(frequencies);
  const distance = distanceOf();
  if (!frequencies) return null;
  const equal = once(equalScores, frequencies);
  const half = once(halfDistance, equal);
  const count = frequencies.length;
  const vector = [...Array(count).fill(1), ...Array(count).fill(0)];
  const body = { q: [[vector]], k: [[vector]], v: [[Array(2 * count).fill(0)]], q_positions: [distance], k_positions: [0], rope: ropeOf(), scale: 1 / count, causal: false, return_lse: true };
  const row = (name, value, id) => html`<tr><th scope="row">${name}</th><td class="num" id=${id}>${value}</td></tr>`;
  return html`<table class="laws"><tbody>
      ${row(t("learn.score.peak"), fixed(equal[0], 4), "peak")}
      ${row(t("learn.score.half"), half === null ? `> ${integer(FAR)}` : integer(half), "half")}
      ${row(t("learn.score.near"), random ? fixed(once(near, random), 3) : "", "near")}
      ${row(t("learn.score.far"), random ? fixed(once(far, random), 3) : "", "far")}
    </tbody></table>
    <${Ask} own=${[[t("learn.score.at_distance", { distance: integer(distance) }), equal[distance]]]} calls=${() => [["v1/attention", body]]} read=${([answer]) => answer.lse.data} />`;
}

/** Scores of q = k at distances 0 to FAR: the mean of cos(distance * frequency). */
export function equalScores(frequencies) {
  const scores = new Float64Array(FAR + 1);
  for (const frequency of frequencies) {
    walk(frequency);
    for (let distance = 0; distance <= FAR; distance++) scores[distance] += COS[distance];
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
    walk(frequency);
    drawn.forEach((vectors, pair) => {
      const [a, b, c, d] = vectors[index];
      const [even, odd] = [(a * c + b * d) / sizes[pair], (a * d - b * c) / sizes[pair]];
      const scores = all[pair];
      for (let distance = 0; distance <= FAR; distance++) scores[distance] += even * COS[distance] + odd * SIN[distance];
    });
  });
  return all;
}

const [COS, SIN] = [new Float64Array(FAR + 1), new Float64Array(FAR + 1)];

/** Write cos and sin of distance * frequency into COS and SIN; a turn a step, put right each 1 024. */
function walk(frequency) {
  const [stepCos, stepSin] = [Math.cos(frequency), Math.sin(frequency)];
  let [cos, sin] = [1, 0];
  for (let distance = 0; distance <= FAR; distance++) {
    if ((distance & 1023) === 0) [cos, sin] = [Math.cos(distance * frequency), Math.sin(distance * frequency)];
    COS[distance] = cos;
    SIN[distance] = sin;
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

/** Columns of a picture, `{x, lowest, highest, mean}`: of all distances that fall into the same pixel.
    `places` are the distances in pixels. */
export function columnsOf(scores, places) {
  const columns = [];
  let [pixel, count] = [-1, 0];
  for (let distance = 0; distance < scores.length; distance++) {
    const at = Math.floor(places[distance]);
    if (at !== pixel) {
      if (count) columns.at(-1).mean /= count;
      columns.push({ x: places[distance], lowest: Infinity, highest: -Infinity, mean: 0 });
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

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
