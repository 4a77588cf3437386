// Lesson 3: query and key turn by their positions; the score depends on the distance alone.
import { html, scaleLinear, useMemo, useRef } from "../vendor.js";
import { t } from "../page.js";
import { Figure, GridY, choose, chosen, perFrame, useWidth } from "../figure.js";
import { Arrow, Ask, Control, Plane, RADIAN, TAU, angleOf, arcPath, dot, fixed, numberOf, turn, within } from "./parts.js";

const LAST = 64;
const STEP = 12; // degrees a position: a turn in 30
const THETA = STEP * RADIAN;
const QUERY = [1.62, 0.42];
const KEY = [1.02, 1.06];

const positionOf = (name) => Math.round(numberOf(name, { least: 0, most: LAST, fallback: name === "m" ? 11 : 5 }));
const locked = () => chosen("lock").value !== "0";

/** Inner product of the query turned for position m and the key turned for position n. */
export const score = (m, n) => dot(turn(QUERY, m * THETA), turn(KEY, n * THETA));

/** Move the query or the key; with the lock, the other one keeps its distance. */
function move(name, value) {
  const other = name === "m" ? "n" : "m";
  const gap = positionOf(other) - positionOf(name);
  const [least, most] = locked() ? [Math.max(0, -gap), Math.min(LAST, LAST - gap)] : [0, LAST];
  const to = Math.max(least, Math.min(most, Math.round(value)));
  choose(locked() ? { [name]: to, [other]: to + gap } : { [name]: to });
}

const [HALF, UNIT] = [250, 128];
const at = ([x, y], far = 1) => [x * UNIT * far, -y * UNIT * far];

function Picture() {
  const rows = () => [["m", "n", t("learn.distance.score")], ...Array.from({ length: LAST + 1 }, (_, index) => [index, positionOf("n"), +score(index, positionOf("n")).toFixed(6)])];
  return html`<${Figure} id="plane" title=${t("learn.distance.title")} name="distance" rows=${rows}><${Drawing} /><//>`;
}

function Drawing() {
  const [m, n] = [positionOf("m"), positionOf("n")];
  const [toQ, toK] = [angleOf(QUERY) + m * THETA, angleOf(KEY) + n * THETA];
  const between = within(toQ - toK);
  const label = t("learn.distance.label", { q: m * STEP, k: n * STEP, angle: fixed(between / RADIAN, 0) });
  const still = useMemo(() => html`<${Plane} half=${HALF} unit=${UNIT} />${[QUERY, KEY].map((vector) => html`<circle r=${Math.hypot(...vector) * UNIT} fill="none" stroke="var(--line)" stroke-dasharray="2 4" />`)}`, []);
  const middle = toK + between / 2;
  const trail = (vector, angle, kind) => {
    const radius = Math.hypot(...vector) * UNIT * 0.98;
    return html`<path d=${arcPath(angleOf(vector), angleOf(vector) + angle, radius, radius - 9 * angle / TAU)} fill="none" stroke=${`var(--${kind})`} stroke-width="3" stroke-opacity=".35" stroke-linecap="round" />`;
  };
  return html`<svg class="square" viewBox="${-HALF} ${-HALF} ${2 * HALF} ${2 * HALF}" role="group" aria-label=${label}>
    ${still}${trail(QUERY, m * THETA, "a")}${trail(KEY, n * THETA, "b")}
    <${Arrow} to=${at(QUERY)} kind="a" faint /><${Arrow} to=${at(KEY)} kind="b" faint />
    <path d=${`M0,0L${arcPath(toK, toK + between, 62).slice(1)}Z`} fill="var(--c)" fill-opacity=".14" />
    <path d=${arcPath(toK, toK + between, 62)} fill="none" stroke="var(--c)" stroke-width="2.5" />
    <text x=${86 * Math.cos(middle)} y=${-86 * Math.sin(middle) + 4} text-anchor="middle" class="tc halo">${fixed(between / RADIAN, 0)}°</text>
    ${m > 1 && html`<${Name} vector=${QUERY} text="q" kind="a" />`}${n > 1 && html`<${Name} vector=${KEY} text="k" kind="b" />`}
    <${Handle} name="n" kind="b" vector=${KEY} position=${n} /><${Handle} name="m" kind="a" vector=${QUERY} position=${m} />
  </svg>`;
}

function Name({ vector, text, sub, kind }) {
  const [x, y] = at(vector, 1.14);
  const turned = sub && html`R<tspan dy="5" font-size="12">${sub}</tspan><tspan dy="-5">${text}</tspan>`;
  return html`<text x=${x} y=${y + 5} text-anchor="middle" class=${`halo it t${kind}`}>${turned ?? text}</text>`;
}

const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 8, PageDown: -8, Home: -LAST, End: LAST };

/** The turned arrow: it can be dragged around, and moved by keys. */
function Handle({ name, kind, vector, position }) {
  const turned = turn(vector, position * THETA);
  const root = useRef(null);
  const drag = useMemo(() => perFrame((clientX, clientY) => {
    const box = root.current.ownerSVGElement.getBoundingClientRect();
    const pointer = Math.atan2(box.y + box.height / 2 - clientY, clientX - box.x - box.width / 2);
    const now = positionOf(name);
    move(name, now + Math.round(within(pointer - angleOf(vector) - now * THETA) / THETA));
  }), []);
  const onPointerDown = (event) => { event.preventDefault(); root.current.setPointerCapture(event.pointerId); root.current.focus(); };
  const onPointerMove = (event) => root.current.hasPointerCapture(event.pointerId) && drag(event.clientX, event.clientY);
  const onKeyDown = (event) => {
    if (!(event.key in KEYS) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(name, position + KEYS[event.key]);
  };
  const [x, y] = at(turned);
  return html`<g ref=${root} class="handle" tabindex="0" role="slider" id=${`arrow-${name}`} aria-label=${t(`learn.distance.${name}`)} aria-valuemin="0" aria-valuemax=${LAST} aria-valuenow=${position}
    onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onKeyDown=${onKeyDown}>
    <circle class="target" cx=${x} cy=${y} r="20" fill="transparent" /><${Arrow} to=${[x, y]} kind=${kind} /><${Name} vector=${turned} text=${name === "m" ? "q" : "k"} sub=${name} kind=${kind} /></g>`;
}

function Controls() {
  return html`${["m", "n"].map((name) => html`<${Control} id=${name} key=${name} label=${html`${t(`learn.distance.${name}`)} <i class=${name}>${name}</i>`} value=${positionOf(name)} least=${0} most=${LAST} kind=${name === "m" ? "a" : "b"} onValue=${(value) => move(name, value)} />`)}
    <label class="check"><input type="checkbox" id="lock" checked=${locked()} onChange=${(event) => choose({ lock: event.target.checked ? null : 0 })} /> ${t("learn.distance.lock")}</label>`;
}

function Numbers() {
  const [m, n] = [positionOf("m"), positionOf("n")];
  const start = Math.round((angleOf(QUERY) - angleOf(KEY)) / RADIAN);
  const sum = start + (m - n) * STEP;
  const values = { distance: fixed(m - n, 0), step: STEP, turn: fixed((m - n) * STEP, 0), start: fixed(start, 0), sum: fixed(sum, 0) };
  const body = () => ({ q: [[QUERY]], k: [[KEY]], v: [[[0, 0]]], q_positions: [m], k_positions: [n], rope: { inv_freq: [THETA] }, scale: 1, causal: false, return_lse: true });
  return html`<output class="big" id="score" for="m n">${fixed(score(m, n))}</output>
    <p class="cap">${t("learn.distance.angles", values)}</p>
    <${Trace} m=${m} n=${n} />
    <${Ask} own=${[[t("learn.distance.score"), score(m, n)]]} calls=${() => [["v1/attention", body()]]} read=${([answer]) => answer.lse.data} />`;
}

function Trace({ m, n }) {
  const [ref, width] = useWidth(480);
  const [height, left, right, top, bottom] = [150, 30, 8, 10, 24];
  const x = scaleLinear().domain([0, LAST]).range([left, width - right]);
  const y = scaleLinear().domain([-2.6, 2.6]).range([height - bottom, top]);
  const behind = useMemo(() => Array.from({ length: 2 * LAST + 1 }, (_, index) => `${index ? "L" : "M"}${x(index / 2).toFixed(1)},${y(score(index / 2, n)).toFixed(1)}`).join(""), [n, width]);
  const level = y(score(m, n));
  const [from, to] = [Math.max(0, m - n), Math.min(LAST, LAST + m - n)];
  return html`<div ref=${ref} class="trace"><svg viewBox="0 0 ${width} ${height}" role="img" aria-label=${t("learn.distance.trace")}>
      <${GridY} y=${y} at=${[-2, 0, 2]} left=${left} right=${width - right} form=${(value) => fixed(value, 0)} />
      ${[0, 16, 32, 48, 64].map((value) => html`<text x=${x(value)} y=${height - 5} text-anchor="middle">${value}</text>`)}
      <text x=${width - right} y=${height - 18} text-anchor="end" class="it-small t3">m</text>
      <path d=${behind} fill="none" stroke="var(--b)" stroke-width="1.8" stroke-dasharray="5 3" /><path d=${`M${x(from)} ${level}H${x(to)}`} stroke="var(--c)" stroke-width="2.4" />
      <path d=${`M${x(m)} ${top}V${height - bottom}`} stroke="var(--ink-3)" /><circle cx=${x(m)} cy=${level} r="5.5" fill="var(--c)" stroke="var(--paper)" stroke-width="2" />
    </svg></div>
    <p class="cap">${t("learn.distance.over")} <span class="k2">${t("learn.distance.behind")}</span> · <span class="k3">${t("learn.distance.along")}</span></p>`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
