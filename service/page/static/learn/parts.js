// What the lessons share: turns in the plane, numbers, controls, arrows, and "Ask the service".
import { html, line, useEffect, useRef, useState } from "../vendor.js";
import { Refusal, ask, significant, t } from "../page.js";
import { Command, choose, chosen, perFrame } from "../figure.js";

export const TAU = 2 * Math.PI;
export const RADIAN = Math.PI / 180;

/** Turn a vector of the plane by an angle in radians. */
export function turn([x, y], angle) {
  const cos = Math.cos(angle);
  const sin = Math.sin(angle);
  return [x * cos - y * sin, x * sin + y * cos];
}

/** Inner product of two vectors. */
export function dot(one, other) {
  return one.reduce((sum, value, index) => sum + value * other[index], 0);
}

/** Angle of a vector of the plane, in radians. */
export function angleOf([x, y]) {
  return Math.atan2(y, x);
}

/** The same angle between -π and π. */
export function within(angle) {
  return angle - TAU * Math.round(angle / TAU);
}

/** Return a number with that many digits after the point, a true minus, and no minus before 0. */
export function fixed(value, digits = 6) {
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

/** A number of the state between `least` and `most`, or the fallback. */
export function numberOf(name, { least, most, fallback }) {
  const text = chosen(name).value;
  const value = Number(text);
  return text && Number.isFinite(value) ? Math.max(least, Math.min(most, value)) : fallback;
}

/** Label, slider and number field in a row. `kind` is the colour; `scale` "log" moves by factors. */
export function Control({ id, label, value, least, most, step = 1, kind = "a", scale, unit = "", onValue, disabled }) {
  const send = useRef(onValue);
  send.current = onValue;
  const [frame] = useState(() => perFrame((to) => send.current(to)));
  const log = scale === "log" && Math.log(most / least);
  const slide = log ? 1000 * Math.log(value / least) / log : value;
  const back = (at) => (log ? Number((least * Math.exp(at / 1000 * log)).toPrecision(2)) : at);
  const commit = (event) => {
    const typed = event.target.valueAsNumber;
    const kept = Number.isFinite(typed) ? Math.max(least, Math.min(most, typed)) : value;
    event.target.value = kept;
    onValue(kept);
  };
  const onInput = (event) => event.target.validity.valid && event.target.value !== "" && frame(event.target.valueAsNumber);
  return html`<div class="ctl">
    <label for=${id}>${label}</label>
    <input id=${id} class=${`of-${kind}`} type="range" min=${log ? 0 : least} max=${log ? 1000 : most} step=${log ? 1 : step} value=${slide} disabled=${disabled}
      aria-valuetext=${`${value}${unit}`} onInput=${(event) => frame(back(event.target.valueAsNumber))} />
    <input id=${`${id}-number`} type="number" aria-label=${t("learn.exact", { name: id })} min=${least} max=${most} step=${step} value=${value} disabled=${disabled} onInput=${onInput} onChange=${commit} />
  </div>`;
}

/** Buttons of which one is pressed. */
export function Choices({ label, name, options, value, onValue = (to) => choose({ [name]: to }) }) {
  return html`<div class="ctl"><span class="label" id=${`${name}-label`}>${label}</span><div class="seg" role="group" aria-labelledby=${`${name}-label`}>
    ${options.map(([key, text]) => html`<button type="button" aria-pressed=${key === value} onClick=${() => onValue(key)}>${text}</button>`)}
  </div></div>`;
}

/** An arrow from the origin to a point in pixels. */
export function Arrow({ to: [x, y], kind, faint }) {
  const angle = Math.atan2(y, x);
  const head = faint ? 11 : 15;
  const corner = (side) => `${x - head * Math.cos(angle + side)},${y - head * Math.sin(angle + side)}`;
  return html`<g opacity=${faint ? 0.5 : 1}><line x2=${x - 9 * Math.cos(angle)} y2=${y - 9 * Math.sin(angle)} stroke=${`var(--${kind})`} stroke-width=${faint ? 1.6 : 3} stroke-dasharray=${faint ? "5 4" : undefined} />
    <polygon points=${`${x},${y} ${corner(0.33)} ${corner(-0.33)}`} fill=${`var(--${kind})`} /></g>`;
}

/** Path of an arc, counter-clockwise from an angle; the radius may grow on the way (a spiral). */
export function arcPath(from, to, radius, start = radius) {
  const count = Math.max(2, Math.ceil(Math.abs(to - from) * 14));
  return line()(Array.from({ length: count + 1 }, (_, index) => {
    const part = index / count;
    const at = from + (to - from) * part;
    const r = start + (radius - start) * part;
    return [r * Math.cos(at), -r * Math.sin(at)];
  }));
}

/** Grid and axes of the complex plane around the origin; `unit` is the length of 1 in pixels. */
export function Plane({ half, unit, plain }) {
  const ends = [-1, 1].filter(() => unit < half - 20);
  return html`${ends.map((side) => html`<path d=${`M${side * unit} ${16 - half}V${half - 16}M${16 - half} ${side * unit}H${half - 16}`} stroke="var(--grid)" />`)}
    <path d=${`M${8 - half} 0H${half - 8}M0 ${8 - half}V${half - 8}`} stroke="var(--ink-3)" />
    ${!plain && html`<text x=${half - 8} y="17" text-anchor="end" class="t3">${t("learn.real")}</text><text x="8" y=${20 - half} class="t3">${t("learn.imaginary")}</text>`}
    <text x=${unit + 4} y="16" class="t3">1</text><text x="6" y=${-unit - 5} class="t3 it-small">i</text>`;
}

const answers = new Map(); // by path and body

function answerOf(path, body, key) {
  if (!answers.has(key)) {
    const answer = ask(path, body);
    answers.set(key, answer);
    answer.catch(() => answers.delete(key));
    if (answers.size > 64) answers.delete(answers.keys().next().value);
  }
  return answers.get(key);
}

/** Answer of the service to a body, `{ answer, error }`: the same object for the same body. The last
    good one stays until the next arrives. */
export function useService(path, body) {
  const key = `${path} ${JSON.stringify(body)}`;
  const [found, setFound] = useState({});
  useEffect(() => {
    let latest = true;
    answerOf(path, body, key).then(
      (answer) => latest && setFound({ answer }),
      (error) => latest && setFound((last) => ({ answer: last.answer, error })),
    );
    return () => { latest = false; };
  }, [key]);
  return found;
}

/** Frequencies of a rope, as the service resolves it: `{ frequencies, error }`. */
export function useFrequencies(rope) {
  const { answer, error } = useService("v1/resolve", { rope });
  return { frequencies: answer?.inv_freq.data, error };
}

/** A sentence about a call that failed. */
export function Failure({ error }) {
  if (!error) return null;
  const detail = error instanceof Refusal ? error.detail : t("learn.no_answer");
  return html`<p class="note" lang=${error instanceof Refusal ? "en" : undefined}>${detail}</p>`;
}

/** A button that sends the numbers of the lesson to the service and prints its digits beside ours.

    `calls()` returns the requests, `[path, body]`, or a function of the answers before; `read(answers)`
    the numbers of the service; `own` the rows of the page, `[name, value]`. */
export function Ask({ own, calls, read }) {
  const [found, setFound] = useState(null);
  const stamp = own.map(([, value]) => value).join();
  const current = useRef(stamp);
  current.current = stamp;
  useEffect(() => setFound(null), [stamp]);
  const show = (answer) => current.current === stamp && setFound(answer); // not beside other numbers
  const send = async () => {
    const sent = [];
    const answers = [];
    try {
      for (const call of calls()) {
        const [path, body] = typeof call === "function" ? call(answers) : call;
        sent.push([path, body]);
        answers.push(await ask(path, body));
      }
      show({ numbers: read(answers), sent });
    } catch (error) {
      show({ error, sent });
    }
  };
  return html`<div class="ask"><button type="button" onClick=${send}>${t("learn.ask")}</button>
    <div aria-live="polite">${found && (found.error ? html`<${Failure} error=${found.error} />` : html`<${Compared} own=${own} ...${found} />`)}</div></div>`;
}

function Compared({ own, numbers, sent }) {
  const largest = Math.max(...own.map(([, value], index) => Math.abs(value - numbers[index])));
  const address = (path) => new URL(`../${path}`, location.href).href;
  const command = ([path, body]) => `curl -s ${address(path)} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`;
  return html`<table><thead><tr><th></th><th class="num">${t("learn.page")}</th><th class="num">${t("learn.service")}</th></tr></thead>
    <tbody>${own.map(([name, value], index) => html`<tr><th scope="row">${name}</th><td class="num">${fixed(value)}</td><td class="num answer">${fixed(numbers[index])}</td></tr>`)}</tbody></table>
    <p class="cap" data-largest=${largest}>${largest === 0 ? t("learn.equal") : t("learn.apart", { value: significant(largest, 2) })}</p>
    <details><summary><code>${`POST /${sent[0][0]}`}</code></summary><${Command} text=${sent.map(command).join("\n")} /></details>`;
}
