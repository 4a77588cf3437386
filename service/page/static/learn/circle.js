// Lesson 1: a point on the circle, and its two coordinates unrolled.
import { html, scaleLinear, useMemo } from "../vendor.js";
import { t } from "../page.js";
import { Figure, Line, Marker, choose, useWidth } from "../figure.js";
import { Ask, Control, TAU, arcPath, fixed, numberOf } from "./parts.js";

const STOPS = [[-2, "\u22122π"], [-1, "\u2212π"], [0, "0"], [0.5, "π/2"], [1, "π"], [2, "2π"]];

/** x in units of π. */
const turnsOf = () => numberOf("x", { least: -2, most: 2, fallback: 0.35 });

function Picture() {
  const [ref, width] = useWidth(1000);
  return html`<${Figure} id="circle" title=${t("learn.circle.title")} name="circle" rows=${rows}><div ref=${ref}><${Drawing} width=${width} /></div><//>`;
}

function rows() {
  const heading = [t("learn.circle.x"), "cos x", "sin x"];
  return [heading, ...Array.from({ length: 17 }, (_, index) => [index / 4 - 2, +Math.cos((index / 4 - 2) * Math.PI).toFixed(6), +Math.sin((index / 4 - 2) * Math.PI).toFixed(6)])];
}

function Drawing({ width }) {
  const narrow = width < 640;
  const radius = narrow ? Math.min(110, width / 2 - 40) : 122;
  const height = narrow ? 2 * radius + 300 : 2 * radius + 76;
  const centre = [narrow ? width / 2 : radius + 44, radius + 34];
  const turns = turnsOf();
  const angle = turns * Math.PI;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const left = narrow ? 26 : centre[0] + radius + 92;
  const middle = narrow ? height - 110 : centre[1];
  const label = t("learn.circle.label", { x: fixed(turns, 2), cos: fixed(cos, 4), sin: fixed(sin, 4) });
  const x = scaleLinear().domain([-2, 2]).range([left, width - (narrow ? 8 : 44)]);
  const y = scaleLinear().domain([-1, 1]).range([middle + (narrow ? 82 : radius), middle - (narrow ? 82 : radius)]);
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label=${label}>
    <g transform=${`translate(${centre})`}>
      <path d=${`M${-radius - 22} 0H${radius + 22}M0 ${-radius - 22}V${radius + 22}`} stroke="var(--ink-3)" />
      <circle r=${radius} fill="none" stroke="var(--line)" stroke-width="1.5" />
      <path d=${arcPath(0, angle, radius, radius - 9 * Math.abs(turns) / 2)} fill="none" stroke="var(--c)" stroke-width="3" stroke-linecap="round" />
      <path d=${`M0 0H${radius * cos}`} stroke="var(--a)" stroke-width="4" /><path d=${`M${radius * cos} 0V${-radius * sin}`} stroke="var(--b)" stroke-width="4" />
      <path d=${`M0 0L${radius * cos} ${-radius * sin}`} stroke="var(--ink)" stroke-width="1.6" />
      <text x=${radius * cos / 2} y=${sin < 0 ? -8 : 18} text-anchor="middle" class="ta halo">cos</text>
      <text x=${radius * cos + (cos < 0 ? -8 : 8)} y=${-radius * sin / 2 + 4} text-anchor=${cos < 0 ? "end" : "start"} class="tb halo">sin</text>
      <text x=${radius + 10} y="16" class="t3">1</text><text x="7" y=${-radius - 8} class="t3 it-small">i</text><text x=${-radius - 24} y="16" class="t3">−1</text>
      <${Marker} x=${radius * cos} y=${-radius * sin} kind="c" />
    </g>
    ${!narrow && html`<path d=${`M${centre[0] + radius * cos} ${y(sin)}H${x(turns)}`} stroke="var(--b)" stroke-opacity=".45" stroke-dasharray="2 4" />`}
    <${Waves} x=${x} y=${y} left=${left} width=${width} narrow=${narrow} height=${height} />
    <path d=${`M${x(turns)} ${y(1)}V${y(-1)}`} stroke="var(--ink-3)" />
    <${Marker} x=${x(turns)} y=${y(cos)} /><${Marker} x=${x(turns)} y=${y(sin)} kind="b" />
  </svg>`;
}

/** The two waves; they do not depend on x. */
function Waves({ x, y, narrow, height }) {
  const [from, to] = x.range();
  return useMemo(() => {
    const wave = (of) => Array.from({ length: 161 }, (_, index) => index / 40 - 2).map((turns) => [x(turns), y(of(turns * Math.PI))]);
    const names = { "-2": "\u22122π", "-1": "\u2212π", 0: "0", 1: "π", 2: "2π" };
    return html`${[-1, 0, 1].map((value) => html`<path d=${`M${from} ${y(value)}H${to}`} stroke=${value ? "var(--grid)" : "var(--ink-3)"} /><text x=${from - 8} y=${y(value) + 4} text-anchor="end">${fixed(value, 0)}</text>`)}
      ${[-2, -1, 0, 1, 2].map((turns) => html`<text x=${x(turns)} y=${height - 8} text-anchor="middle">${names[turns]}</text>`)}
      <${Line} points=${wave(Math.cos)} /><${Line} points=${wave(Math.sin)} kind="b" />
      ${!narrow && html`<text x=${to + 8} y=${y(1) + 4} class="ta">cos x</text><text x=${to + 8} y=${y(0) + 4} class="tb">sin x</text>`}
      ${narrow && html`<text x=${x(0)} y=${y(1) - 6} text-anchor="middle" class="ta">cos x</text><text x=${x(-1.5)} y=${y(1) - 6} text-anchor="middle" class="tb">sin x</text>`}`;
  }, [from, to, height]);
}

function Controls() {
  const turns = turnsOf();
  return html`<${Control} id="x" label=${html`<i class="v">x</i> / π`} value=${turns} least=${-2} most=${2} step=${0.01} kind="c" unit=" π" onValue=${(x) => choose({ x })} />
    <div class="stops" role="group" aria-label=${t("learn.circle.stops")}>${STOPS.map(([x, name]) => html`<button type="button" class="quiet" aria-pressed=${turns === x} onClick=${() => choose({ x })}>${name}</button>`)}</div>`;
}

function Numbers() {
  const turns = turnsOf();
  const angle = turns * Math.PI;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const sign = Number(fixed(sin).replace("\u2212", "-")) < 0 ? "\u2212" : "+";
  return html`<output class="big" for="x">${fixed(cos)} ${sign} ${fixed(Math.abs(sin))} <i class="v">i</i></output>
    <p class="cap">${Math.abs(turns) === 1 ? t("learn.circle.half") : turns % 2 === 0 ? t("learn.circle.whole") : t("learn.circle.walk", { x: fixed(angle, 4), turns: fixed(angle / TAU, 3) })}</p>
    <${Ask} own=${[["cos x", cos], ["sin x", sin]]} calls=${() => [["v1/rotate", { q: [[[1, 0]]], positions: [1], rope: { inv_freq: [angle] } }]]} read=${([answer]) => answer.q.data} />`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
