// Lesson 2: one turn in three forms.
import { html } from "../vendor.js";
import { t } from "../page.js";
import { Figure, choose } from "../figure.js";
import { Arrow, Ask, Control, Plane, RADIAN, angleOf, arcPath, fixed, numberOf } from "./parts.js";

const VECTOR = [1.2, 0.7];
const SECOND = 30; // degrees of the second turn

/** The angle in degrees. */
const degreesOf = () => numberOf("a", { least: -180, most: 180, fallback: 75 });

/** (a + bi)(c + di) */
export const product = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];

/** The matrix of a turn, in rows. */
export const matrixOf = (angle) => [[Math.cos(angle), -Math.sin(angle)], [Math.sin(angle), Math.cos(angle)]];

const times = (matrix, vector) => matrix.map((row) => row[0] * vector[0] + row[1] * vector[1]);
const multiply = (one, other) => one.map((row) => [0, 1].map((column) => row[0] * other[0][column] + row[1] * other[1][column]));
const transpose = ([[a, b], [c, d]]) => [[a, c], [b, d]];

/** The three forms, each by its own way of computing. */
export const FORMS = {
  complex: (vector, angle) => product(vector, [Math.cos(angle), Math.sin(angle)]),
  matrix: (vector, angle) => times(matrixOf(angle), vector),
  elementwise: ([x, y], angle) => {
    const swapped = [-y, x];
    return [x, y].map((value, index) => value * Math.cos(angle) + swapped[index] * Math.sin(angle));
  },
};

function Picture() {
  const rows = () => [["", "x", "y"], ["z", ...VECTOR], ...Object.keys(FORMS).map((name) => [t(`learn.turn.${name}`), ...FORMS[name](VECTOR, degreesOf() * RADIAN).map((v) => +v.toFixed(6))])];
  return html`<${Figure} id="turn" title=${t("learn.turn.title")} name="turn" rows=${rows}><${Drawing} /><//>`;
}

function Drawing() {
  const degrees = degreesOf();
  const [half, unit] = [196, 118];
  const at = ([x, y]) => [x * unit, -y * unit];
  const turned = FORMS.complex(VECTOR, degrees * RADIAN);
  const from = angleOf(VECTOR);
  const radius = Math.hypot(...VECTOR) * unit;
  const label = t("learn.turn.label", { angle: fixed(degrees, 0), x: fixed(turned[0], 4), y: fixed(turned[1], 4) });
  const name = ([x, y], text, kind) => html`<text x=${x * 1.13} y=${y * 1.13 + 5} text-anchor="middle" class=${`halo it t${kind}`}>${text}</text>`;
  return html`<svg class="square" viewBox="${-half} ${-half} ${2 * half} ${2 * half}" role="img" aria-label=${label}>
    <${Plane} half=${half} unit=${unit} /><circle r=${radius} fill="none" stroke="var(--line)" stroke-dasharray="2 4" />
    <path d=${arcPath(from, from + degrees * RADIAN, 46)} fill="none" stroke="var(--c)" stroke-width="2.5" />
    <path d=${arcPath(from, from + degrees * RADIAN, radius)} fill="none" stroke="var(--a)" stroke-opacity=".35" stroke-width="3" />
    <text x=${68 * Math.cos(from + degrees * RADIAN / 2)} y=${-68 * Math.sin(from + degrees * RADIAN / 2) + 4} text-anchor="middle" class="tc halo">${fixed(degrees, 0)}°</text>
    <${Arrow} to=${at(VECTOR)} kind="a" faint /><${Arrow} to=${at(turned)} kind="a" />
    ${Math.abs(degrees) > 8 && name(at(VECTOR), "z", "a")}${name(at(turned), html`z e<tspan dy="-6" font-size="12">${"iα"}</tspan>`, "a")}
  </svg>`;
}

function Controls() {
  return html`<${Control} id="a" label=${html`<i class="v">α</i> ${t("learn.degrees")}`} value=${degreesOf()} least=${-180} most=${180} kind="c" unit="°" onValue=${(a) => choose({ a })} />`;
}

/** One result of the three: the digits under its formula. */
function form(name) {
  return function Form() {
    const [x, y] = FORMS[name](VECTOR, degreesOf() * RADIAN);
    return html`<output class="digits" for="a"><span>${fixed(x)}</span> <span>${fixed(y)}</span></output>`;
  };
}

function Numbers() {
  const degrees = degreesOf();
  const [angle, second] = [degrees * RADIAN, SECOND * RADIAN];
  const turned = FORMS.matrix(VECTOR, angle);
  const [both] = multiply(matrixOf(angle), matrixOf(second));
  const [sum] = matrixOf(angle + second);
  const back = times(transpose(matrixOf(angle)), turned);
  const pair = (values) => values.map((value) => fixed(value)).join("  ");
  const law = (name, one, other) => html`<tr><th scope="row">${name}</th><td class="num">${one}</td><td class="num">${other}</td></tr>`;
  return html`<table class="laws"><caption>${t("learn.turn.laws")}</caption><tbody>
    ${law(t("learn.turn.length"), fixed(Math.hypot(...VECTOR)), fixed(Math.hypot(...turned)))}
    ${law(t("learn.turn.sum", { angle: SECOND }), pair(both), pair(sum))}
    ${law(t("learn.turn.undo"), pair(VECTOR), pair(back))}
  </tbody></table>
  <${Ask} own=${[["x", turned[0]], ["y", turned[1]]]} calls=${() => [["v1/rotate", { q: [[VECTOR]], positions: [degrees], rope: { inv_freq: [RADIAN] } }]]} read=${([answer]) => answer.q.data} />`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers, complex: form("complex"), matrix: form("matrix"), elementwise: form("elementwise") };
