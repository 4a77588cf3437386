// Lesson 7: two cubes turned in different orders, and a plane where the order does not matter.
import { html, useState } from "../vendor.js";
import { t } from "../page.js";
import { Figure, choose } from "../figure.js";
import { Arrow, Ask, Control, Plane, RADIAN, fixed, numberOf, turn } from "./parts.js";

const anglesOf = () => ["a", "b"].map((name) => Math.round(numberOf(name, { least: 0, most: 180, fallback: 90 })));
const stepOf = () => Math.round(numberOf("step", { least: 0, most: 2, fallback: 2 }));
const POINT = [1, 0];
const CORNER = [1, 1, 1];

/** Turn a vector of space about an axis, 0 for x and 1 for y. */
export function turnAbout(axis, [x, y, z], angle) {
  if (axis === 0) {
    const [toY, toZ] = turn([y, z], angle);
    return [x, toY, toZ];
  }
  const [toZ, toX] = turn([z, x], angle);
  return [toX, y, toZ];
}

/** Turn a vector by steps, `[axis, angle]`, one after the other. */
export const turnBy = (steps, vector) => steps.reduce((now, [axis, angle]) => turnAbout(axis, now, angle), vector);

/** The turns up to a step, which may be a fraction while it moves. */
const until = (order, angles, step) => order.map((axis, index) => [axis, angles[axis] * RADIAN * Math.max(0, Math.min(1, step - index))]);

/** From space to the picture: seen from the front, a little from the right and from above. */
const view = (vector) => turnAbout(0, turnAbout(1, vector, -28 * RADIAN), 22 * RADIAN);
const SCALE = 62;
const flat = ([x, y]) => [x * SCALE, -y * SCALE];
const path = (points) => `M${points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join("L")}Z`;

const PIPS = { 1: [[0, 0]], 2: [[-0.5, -0.5], [0.5, 0.5]], 3: [[-0.55, -0.55], [0, 0], [0.55, 0.55]], 4: [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]], 5: [[-0.55, -0.55], [-0.55, 0.55], [0, 0], [0.55, -0.55], [0.55, 0.55]], 6: [[-0.55, -0.5], [0, -0.5], [0.55, -0.5], [-0.55, 0.5], [0, 0.5], [0.55, 0.5]] };

/** Faces of a die: number, colour, normal and the two directions within the face. */
const FACES = [[1, "a", [0, 0, 1], [1, 0, 0], [0, 1, 0]], [6, "a", [0, 0, -1], [-1, 0, 0], [0, 1, 0]], [2, "b", [1, 0, 0], [0, 0, -1], [0, 1, 0]], [5, "b", [-1, 0, 0], [0, 0, 1], [0, 1, 0]], [3, "c", [0, 1, 0], [1, 0, 0], [0, 0, -1]], [4, "c", [0, -1, 0], [1, 0, 0], [0, 0, 1]]];

const combine = (normal, right, up, u, v) => normal.map((value, index) => value + u * right[index] + v * up[index]);

/** The six faces in the picture, the far ones first. */
export function facesOf(steps) {
  const place = (vector) => view(turnBy(steps, vector));
  return FACES.map(([number, kind, normal, right, up]) => {
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([u, v]) => flat(place(combine(normal, right, up, u, v))));
    const pips = PIPS[number].map(([u, v]) => path(Array.from({ length: 12 }, (_, index) => flat(place(combine(normal, right, up, u + 0.17 * Math.cos(index * Math.PI / 6), v + 0.17 * Math.sin(index * Math.PI / 6)))))));
    return { number, kind, depth: place(normal)[2], outline: path(corners), pips };
  }).sort((one, other) => one.depth - other.depth);
}

function Cube({ order, angles, step, name }) {
  const steps = until(order, angles, step);
  const axes = [["x", [2.1, 0, 0]], ["y", [0, 2.0, 0]], ["z", [0, 0, 2.3]]];
  const label = t("learn.space.cube", { first: "xy"[order[0]], second: "xy"[order[1]], step: Math.ceil(step) });
  return html`<svg viewBox="-165 -150 330 300" role="img" id=${name} aria-label=${label}>
    ${axes.map(([text, end]) => {
      const [x, y] = flat(view(end));
      return html`<path d=${`M0 0L${x} ${y}`} stroke="var(--ink-3)" /><text x=${x * 1.09} y=${y * 1.09 + 4} text-anchor="middle" class="it-small t3">${text}</text>`;
    })}
    ${facesOf(steps).map(({ number, kind, depth, outline, pips }) => html`<g class=${`face of-${kind}`} data-face=${number} data-depth=${depth.toFixed(3)}>
      <path class="side" d=${outline} /><path class="side tint" d=${outline} stroke=${`var(--${kind})`} />${pips.map((pip) => html`<path d=${pip} fill=${`var(--${kind})`} />`)}</g>`)}
  </svg>`;
}

function Flat({ angles, step }) {
  const [half, radius] = [140, 108];
  const end = (order) => {
    const [, [, one]] = [0, until([order[0]], angles, step)[0]];
    const two = until(order, angles, step)[1][1];
    const [x, y] = turn(POINT, one + two);
    return [x * radius, -y * radius];
  };
  return html`<svg viewBox="-165 -150 330 300" role="img" id="flat" aria-label=${t("learn.space.flat", { sum: angles[0] + angles[1] })}>
    <${Plane} half=${half} unit=${radius} plain /><circle r=${radius} fill="none" stroke="var(--line)" stroke-dasharray="2 4" />
    <${Arrow} to=${[radius, 0]} kind="a" faint />
    <${Arrow} to=${end([0, 1])} kind="a" /><g stroke-dasharray="6 5"><${Arrow} to=${end([1, 0])} kind="b" /></g>
  </svg>`;
}

const ORDERS = [[0, 1], [1, 0]];

function Picture() {
  const rows = () => [["", "x", "y", "z"], ...ORDERS.map((order) => [t(`learn.space.order_${order[0]}`), ...turnBy(until(order, anglesOf(), 2), CORNER).map((value) => +value.toFixed(6))])];
  return html`<${Figure} id="cubes" title=${t("learn.space.title")} name="cubes" rows=${rows}><${Drawing} /><//>`;
}

function Drawing() {
  const angles = anglesOf();
  const step = moving.use();
  const plan = (order) => html`<p class="plan">${order.map((axis, index) => html`<span class=${step > index ? "done" : ""}>${index + 1}. ${t("learn.space.about", { axis: "xy"[axis], angle: angles[axis] })}</span>`)}</p>`;
  return html`<div class="three">
    ${ORDERS.map((order) => html`<div>${plan(order)}<${Cube} name=${`cube-${"xy"[order[0]]}`} order=${order} angles=${angles} step=${step} /></div>`)}
    <div><p class="plan"><span class="done">${t("learn.space.plane")}</span></p><${Flat} angles=${angles} step=${step} /></div>
  </div>`;
}

/** The step on show: it goes to the chosen one in 150 ms, or at once where motion is not wanted. */
const moving = {
  use() {
    const target = stepOf();
    const [at, setAt] = useState(target);
    moving.set = setAt;
    return moving.running ? at : target;
  },
  go(to) {
    const from = stepOf();
    if (to > from && !matchMedia("(prefers-reduced-motion: reduce)").matches) moving.run(from, to);
    choose({ step: to });
  },
  run(from, to) {
    let began = 0;
    moving.running = true;
    moving.set(from);
    const frame = (now) => {
      began ||= now;
      const part = Math.min(1, (now - began) / 150);
      moving.running = part < 1;
      moving.set(from + (to - from) * part);
      if (part < 1) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  },
};

function Controls() {
  const angles = anglesOf();
  const step = stepOf();
  return html`${["a", "b"].map((name, index) => html`<${Control} id=${name} key=${name} label=${html`<i class="v">${"αβ"[index]}</i> ${t("learn.space.axis", { axis: "xy"[index] })}`} value=${angles[index]} least=${0} most=${180} kind=${name} unit="°" onValue=${(value) => choose({ [name]: value })} />`)}
    <div class="ctl"><span class="label" id="steps-label">${t("learn.space.show")}</span><div class="seg" role="group" aria-labelledby="steps-label">${[0, 1, 2].map((to) => html`<button type="button" aria-pressed=${step === to} onClick=${() => moving.go(to)}>${t(`learn.space.step_${to}`)}</button>`)}</div></div>`;
}

function Numbers() {
  const angles = anglesOf();
  const ends = ORDERS.map((order) => turnBy(until(order, angles, 2), CORNER));
  const [one, other] = ORDERS.map((order) => turn(turn(POINT, angles[order[0]] * RADIAN), angles[order[1]] * RADIAN));
  const gap = Math.hypot(...ends[0].map((value, index) => value - ends[1][index]));
  const flatGap = Math.hypot(one[0] - other[0], one[1] - other[1]);
  const row = (name, value, id) => html`<tr><th scope="row">${name}</th><td class="num" id=${id}>${value}</td></tr>`;
  const spin = (q, degrees) => ["v1/rotate", { q: [[q]], positions: [degrees], rope: { inv_freq: [RADIAN] } }];
  const chain = (order) => [() => spin(POINT, angles[order[0]]), (answers) => spin(answers.at(-1).q.data, angles[order[1]])];
  const own = [["α, β: x", one[0]], ["α, β: y", one[1]], ["β, α: x", other[0]], ["β, α: y", other[1]]];
  return html`<table class="laws"><caption>${t("learn.space.corner")}</caption><tbody>
      ${ORDERS.map((order, index) => row(t(`learn.space.order_${order[0]}`), ends[index].map((value) => fixed(value, 4)).join("  ")))}
      ${row(t("learn.space.apart"), fixed(gap, 6), "gap")}${row(t("learn.space.apart_flat"), fixed(flatGap, 6), "flat-gap")}
    </tbody></table>
    <${Ask} own=${own} calls=${() => ORDERS.flatMap(chain)} read=${(answers) => [...answers[1].q.data, ...answers[3].q.data]} />`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
