// Lesson 5: score against distance, of a query that equals its key and of random vectors.
import { area, html, useEffect, useMemo, useState } from "../vendor.js";
import { integer, short, t } from "../page.js";
import { Figure, GridY, Marker, Plot, choose, chosen, useWidth } from "../figure.js";
import { Ask, Choices, Control, Failure, fixed, numberOf, useFrequencies } from "./parts.js";
import { FAR, columnsOf, equalScores, halfDistance, randomScores, spread } from "./curves.js";

const WIDTHS = ["32", "64", "128", "256"];
const USUAL = 10000;

/** Distances that the crosshair stops at: each one up to 64, then in steps of a sixteenth octave. */
const PLACES = [...new Set([...Array.from({ length: 65 }, (_, index) => index), ...Array.from({ length: 145 }, (_, index) => Math.round(64 * 2 ** (index / 16)))])];

const thetaOf = () => numberOf("theta", { least: 1000, most: 1e7, fallback: USUAL });
const widthOf = () => (WIDTHS.includes(chosen("d").value) ? chosen("d").value : "128");
const distanceOf = () => Math.round(numberOf("t", { least: 0, most: FAR, fallback: 6 }));
const ropeOf = () => ({ theta: thetaOf(), head_dim: Number(widthOf()) });

const curves = new Map(); // of the last frequencies, shared by figure and numbers

/** The value of `make(frequencies)`, computed once for the same frequencies. */
function once(make, frequencies) {
  const last = curves.get(make);
  if (last?.frequencies !== frequencies) curves.set(make, { frequencies, value: make(frequencies) });
  return curves.get(make).value;
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
  const y = (value) => top + (1 - value) / 1.45 * (height - top - bottom);
  const equal = once(equalScores, frequencies);
  const indexAt = (px) => {
    const wanted = Math.expm1((px - left) / scale);
    return PLACES.reduce((best, place, index) => (Math.abs(place - wanted) < Math.abs(PLACES[best] - wanted) ? index : best), 0);
  };
  const distance = distanceOf();
  const still = useMemo(() => html`<${GridY} y=${y} at=${[-0.25, 0, 0.25, 0.5, 0.75, 1]} left=${left} right=${width - right} form=${(value) => fixed(value, value % 0.5 ? 2 : value % 1 ? 1 : 0)} />
    <path d=${`M${left} ${y(0)}H${width - right}`} stroke="var(--ink-3)" />
    ${[0, 1, 10, 100, 1000, 10000].map((value) => html`<text x=${x(value)} y=${height - 8} text-anchor="middle">${short(value)}</text>`)}
    ${random?.map((scores) => html`<${Curve} scores=${scores} x=${x} y=${y} colour="var(--ink-3)" width="1" wash=".10" opacity=".55" />`)}`, [random, width]);
  const before = useMemo(() => usual && html`<${Curve} scores=${equalScores(usual)} x=${x} y=${y} colour="var(--b)" width="1.6" dash="5 3" wash=".12" />`, [usual, width]);
  const line = useMemo(() => html`<${Curve} scores=${equal} x=${x} y=${y} colour="var(--a)" width="2.2" wash=".22" />`, [equal, width]);
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
function Curve({ scores, x, y, colour, width, dash, wash, opacity }) {
  const columns = columnsOf(scores, x);
  const band = area().x((column) => column.x).y0((column) => y(column.lowest)).y1((column) => y(column.highest)).digits(1);
  const path = columns.map((column, index) => `${index ? "L" : "M"}${column.x.toFixed(1)},${y(column.mean).toFixed(1)}`).join("");
  return html`<path d=${band(columns)} fill=${colour} fill-opacity=${wash} /><path d=${path} fill="none" stroke=${colour} stroke-width=${width} stroke-opacity=${opacity} stroke-dasharray=${dash} stroke-linejoin="round" />`;
}

function Controls() {
  return html`<${Control} id="theta" label=${html`<i class="v">Θ</i>`} value=${thetaOf()} least=${1000} most=${1e7} scale="log" onValue=${(theta) => choose({ theta })} />
    <${Choices} label=${t("learn.score.width")} name="d" value=${widthOf()} options=${WIDTHS.map((width) => [width, width])} />`;
}

function Numbers() {
  const { frequencies } = useFrequencies(ropeOf());
  const random = useRandom(frequencies);
  const distance = distanceOf();
  if (!frequencies) return null;
  const equal = once(equalScores, frequencies);
  const half = halfDistance(equal);
  const count = frequencies.length;
  const vector = [...Array(count).fill(1), ...Array(count).fill(0)];
  const body = { q: [[vector]], k: [[vector]], v: [[Array(2 * count).fill(0)]], q_positions: [distance], k_positions: [0], rope: ropeOf(), scale: 1 / count, causal: false, return_lse: true };
  const row = (name, value, id) => html`<tr><th scope="row">${name}</th><td class="num" id=${id}>${value}</td></tr>`;
  return html`<table class="laws"><tbody>
      ${row(t("learn.score.peak"), fixed(equal[0], 4), "peak")}
      ${row(t("learn.score.half"), half === null ? `> ${integer(FAR)}` : integer(half), "half")}
      ${row(t("learn.score.near"), random ? fixed(spread(random, 1, 1000), 3) : "", "near")}
      ${row(t("learn.score.far"), random ? fixed(spread(random, 10000, FAR), 3) : "", "far")}
    </tbody></table>
    <${Ask} own=${[[t("learn.score.at_distance", { distance: integer(distance) }), equal[distance]]]} calls=${() => [["v1/attention", body]]} read=${([answer]) => answer.lse.data} />`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
