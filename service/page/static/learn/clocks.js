// Lesson 4: 16 of the 64 clocks of a head, and the matrix of a head of 8 channels.
import { html, useEffect, useMemo, useRef, useState } from "../vendor.js";
import { integer, short, significant, t } from "../page.js";
import { Figure, choose, useWidth } from "../figure.js";
import { Arrow, Ask, Control, Failure, TAU, arcPath, fixed, numberOf, useFrequencies } from "./parts.js";

const LAST = 1024;
const PACE = 12; // positions a second while it plays
const HEAD = { theta: 10000, head_dim: 128 };
const SMALL = { theta: 10000, head_dim: 8, layout: "interleaved" }; // its four pairs turn like these of the large head:
const FOUR = [0, 16, 32, 48];
const SHOWN = Array.from({ length: 16 }, (_, index) => 4 * index);

const positionOf = () => Math.round(numberOf("p", { least: 0, most: LAST, fallback: 11 }));

function Picture() {
  const { frequencies, error } = useFrequencies(HEAD);
  const heading = [t("learn.clocks.pair"), t("learn.clocks.radians"), t("learn.clocks.wave"), t("learn.clocks.turns")];
  const rows = () => [heading, ...(frequencies ?? []).map((frequency, pair) => [pair, frequency, +(TAU / frequency).toPrecision(6), +(positionOf() * frequency / TAU).toPrecision(6)])];
  return html`<${Figure} id="clocks" title=${t("learn.clocks.title")} name="clocks" rows=${rows} caption=${t("learn.clocks.caption")}>
    <${Failure} error=${error} />${frequencies && html`<${Clocks} frequencies=${frequencies} />`}<//>`;
}

function Clocks({ frequencies }) {
  const position = positionOf();
  const [ref, width] = useWidth(490);
  const cell = width / 4;
  const radius = Math.min(44, cell / 2 - 6);
  const height = 2 * radius + 46;
  const label = t("learn.clocks.label", { position });
  return html`<div ref=${ref}><svg viewBox="0 0 ${width} ${4 * height}" role="img" aria-label=${label}>${SHOWN.map((pair, index) => {
    const angle = position * frequencies[pair];
    const turns = Math.floor(angle / TAU);
    const place = `translate(${(index % 4 + 0.5) * cell} ${Math.floor(index / 4) * height + radius + 4})`;
    return html`<g transform=${place}>
      <circle r=${radius} fill="var(--card)" stroke=${turns ? "var(--a)" : "var(--line)"} stroke-opacity=${turns ? 0.4 : 1} stroke-width=${turns ? 3 : 1.5} />
      <path d=${`M${radius - 5} 0h5`} stroke="var(--ink-3)" />
      <path d=${`M0 0L${arcPath(0, angle % TAU, radius).slice(1)}Z`} fill="var(--a)" fill-opacity=".13" />
      <${Arrow} to=${[(radius - 4) * Math.cos(angle), -(radius - 4) * Math.sin(angle)]} kind="a" />
      <text y=${radius + 15} text-anchor="middle" class="t1">${pair}</text>
      <text y=${radius + 29} text-anchor="middle" class="t3">${short(TAU / frequencies[pair])}</text>
    </g>`;
  })}</svg></div>`;
}

/** Position, and a button that moves it on: a position a click where motion is not wanted. */
function Controls() {
  const [plays, setPlays] = useState(false);
  const [still, setStill] = useState(() => matchMedia("(prefers-reduced-motion: reduce)").matches);
  const position = positionOf();
  const current = useRef(position);
  current.current = position;
  useEffect(() => {
    const wish = matchMedia("(prefers-reduced-motion: reduce)");
    const change = () => { setStill(wish.matches); setPlays(false); };
    wish.addEventListener("change", change);
    return () => wish.removeEventListener("change", change);
  }, []);
  useEffect(() => {
    if (!plays) return undefined;
    let [frame, began, from] = [0, 0, current.current];
    const step = (now) => {
      began ||= now;
      const to = Math.min(LAST, from + Math.floor((now - began) * PACE / 1000));
      if (to !== current.current) choose({ p: to });
      if (to < LAST && !document.hidden) frame = requestAnimationFrame(step);
      else setPlays(false);
    };
    frame = requestAnimationFrame(step);
    return () => cancelAnimationFrame(frame);
  }, [plays]);
  const set = (to) => { setPlays(false); choose({ p: Math.min(LAST, to) }); };
  const onPlay = () => (still ? set(position + 1) : setPlays(!plays));
  const text = still ? "learn.clocks.step" : plays ? "learn.clocks.pause" : "learn.clocks.play";
  return html`<${Control} id="p" label=${html`${t("learn.clocks.position")} <i class="m">m</i>`} value=${position} least=${0} most=${LAST} onValue=${set} />
    <div class="stops"><button type="button" id="play" aria-pressed=${plays} onClick=${onPlay}>${t(text)}</button><button type="button" class="quiet" onClick=${() => set(0)}>${t("learn.clocks.back")}</button></div>`;
}

function Numbers() {
  const { frequencies } = useFrequencies(HEAD);
  return html`<${Done} frequencies=${frequencies} /><${Matrix} frequencies=${frequencies} />`;
}

function Done({ frequencies }) {
  const position = positionOf();
  const done = frequencies?.filter((frequency) => position * frequency >= TAU).length;
  return html`<p class="cap">${frequencies && t("learn.clocks.done", { position: integer(position), done, last: integer(TAU / frequencies.at(-1)) })}</p>`;
}

const CELLS = [0, 1, 2, 3, 4, 5, 6, 7];

/** A number of the matrix of a head of 8 channels. */
function valueAt(row, column, frequencies, position) {
  if (row >> 1 !== column >> 1) return 0;
  const angle = position * frequencies[FOUR[row >> 1]];
  return row === column ? Math.cos(angle) : (row > column ? 1 : -1) * Math.sin(angle);
}

function Matrix({ frequencies }) {
  const rows = () => [["", ...CELLS], ...CELLS.map((row) => [row, ...CELLS.map((column) => +valueAt(row, column, frequencies, positionOf()).toFixed(6))])];
  return html`<${Figure} id="matrix" title=${t("learn.clocks.matrix")} name="matrix" rows=${rows}>${frequencies && html`<${Blocks} frequencies=${frequencies} />`}<//>
    ${frequencies && html`<${Turned} frequencies=${frequencies} />`}`;
}

function Blocks({ frequencies }) {
  const position = positionOf();
  const [ref, width] = useWidth(490);
  const narrow = width < 430;
  const cell = narrow ? width / 8 : Math.min(50, (width - 84) / 8);
  const zeros = useMemo(() => CELLS.map((row) => CELLS.filter((column) => row >> 1 !== column >> 1).map((column) => html`<${Cell} x=${column * cell} y=${row * cell} size=${cell} zero />`)), [cell]);
  const names = useMemo(() => FOUR.map((pair, block) => html`<path d=${`M${8 * cell + 4} ${block * 2 * cell + 5}h4v${2 * cell - 10}h-4`} fill="none" stroke="var(--ink-3)" /><text x=${8 * cell + 15} y=${block * 2 * cell + cell + 4}><tspan class="it-small">θ</tspan> = ${significant(frequencies[pair])}</text>`), [cell, frequencies]);
  return html`<div ref=${ref}><svg viewBox="0 0 ${width} ${8 * cell}" role="img" aria-label=${t("learn.clocks.matrix_label", { position })}>${zeros}${!narrow && names}
    ${CELLS.map((row) => [row & ~1, row | 1].map((column) => html`<${Cell} x=${column * cell} y=${row * cell} size=${cell} value=${valueAt(row, column, frequencies, position)} digits=${narrow ? 2 : 3} />`))}
  </svg></div>`;
}

/** A vector of 8 channels, turned by the matrix and by the service. */
function Turned({ frequencies }) {
  const position = positionOf();
  const vector = CELLS.map((channel) => 1 - channel / 8);
  const turned = CELLS.map((row) => CELLS.reduce((sum, column) => sum + valueAt(row, column, frequencies, position) * vector[column], 0));
  return html`<${Ask} own=${turned.map((number, channel) => [channel, number])} calls=${() => [["v1/rotate", { q: [[vector]], positions: [position], rope: SMALL }]]} read=${([answer]) => answer.q.data} />`;
}

function Cell({ x, y, size, value, zero, digits }) {
  const kind = value < 0 ? "b" : "a";
  const shade = zero ? { fill: "var(--wash)" } : { fill: `var(--${kind})`, "fill-opacity": 0.08 + 0.32 * Math.abs(value), stroke: `var(--${kind})`, "stroke-opacity": 0.35 };
  return html`<rect x=${x + 1} y=${y + 1} width=${size - 2} height=${size - 2} rx="4" ...${shade} /><text x=${x + size / 2} y=${y + size / 2 + 4} text-anchor="middle" data-cell=${zero ? "zero" : "turn"} class=${zero ? "cell t3" : "cell t1"}>${zero ? "0" : fixed(value, digits)}</text>`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
