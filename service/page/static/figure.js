// Figures in SVG: frame with tools, axes, lines, dots, bands, and the keys and the pointer that move
// the chosen place. A figure knows numbers and pixels; what they mean is up to the view.
import { computed, html, line, signal, useEffect, useId, useRef, useState } from "./vendor.js";
import { short, setState, state, t } from "./page.js";

/** Width of an element in CSS pixels, kept up to date: `[ref, width]`. */
export function useWidth(initial = 640) {
  const ref = useRef(null);
  const [width, setWidth] = useState(initial);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width) || initial));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

const choices = new Map();

/** A signal with one value of the state: what reads it is drawn again only if this value changes. */
export function chosen(name) {
  if (!choices.has(name)) choices.set(name, computed(() => state.value[name]));
  return choices.get(name);
}

let writing = 0;

/** Choose places in all figures at once. The address follows when the hand rests, because browsers
    limit how often it may change. */
export function choose(changes) {
  const next = { ...state.value };
  for (const [name, value] of Object.entries(changes)) {
    if (value == null) delete next[name];
    else next[name] = String(value);
  }
  state.value = next;
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 200);
}

function writeAddress() {
  clearTimeout(writing);
  if (writing) setState({});
  writing = 0;
}

addEventListener("pagehide", writeAddress);

/** Return an integer of the state between `least` and `most`, or the fallback. */
export function choiceOf(name, { least = 0, most, fallback = least }) {
  const text = chosen(name).value;
  const value = Number(text);
  return text && Number.isFinite(value) ? Math.round(Math.max(least, Math.min(most, value))) : fallback;
}

/** Return a function that runs `work` at most once in an animation frame, with the last arguments. */
export function perFrame(work) {
  let last = null;
  return (...values) => {
    if (!last) requestAnimationFrame(() => { const now = last; last = null; work(...now); });
    last = values;
  };
}

/** A figure with its title and tools.

    `rows()` returns the table behind the figure, `[heading, ...rows]`; `name` is the start of the
    names of saved files; `curl()` returns the command of the same numbers, or null. */
export function Figure({ id, title, name, rows, curl, legend, caption, children }) {
  const [table, setTable] = useState(false);
  const [command, setCommand] = useState(false);
  const body = useRef(null);
  const save = async (form) => (await import("./export.js")).save(form, { body: body.current, title, name, rows });
  const toggle = (text, pressed, set) => html`<button type="button" class="quiet" aria-expanded=${pressed} onClick=${() => set(!pressed)}>${text}</button>`;
  return html`<section class="fig" aria-labelledby=${id}>
    <div class="fig-head"><h2 id=${id}>${title}</h2><div class="tools">
      ${rows && toggle(t("figure.table"), table, setTable)}
      ${(rows ? ["svg", "png", "csv"] : ["svg", "png"]).map((form) => html`<button type="button" class="quiet" onClick=${() => save(form)}>${t(`figure.${form}`)}</button>`)}
      ${curl && toggle(t("figure.curl"), command, setCommand)}
    </div></div>
    ${legend && html`<div class="legend">${legend}</div>`}
    <div ref=${body}>${children}</div>
    ${caption && html`<p class="cap">${caption}</p>`}
    ${command && html`<${Command} text=${curl()} />`}
    ${table && html`<${Table} rows=${rows()} label=${title} />`}
  </section>`;
}

/** A command with a button that copies it. */
export function Command({ text }) {
  const [copied, setCopied] = useState(false);
  const code = useRef(null);
  const copy = async () => {
    getSelection().selectAllChildren(code.current); // without https there is no clipboard: select it at least
    const isCopied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    setCopied(isCopied === true);
  };
  return html`<div class="command"><pre tabindex="0"><code ref=${code}>${text}</code></pre>
    <button type="button" onClick=${copy}>${t("figure.copy")}</button><output>${copied ? t("figure.copied") : ""}</output></div>`;
}

/** The table behind a figure; a heading sorts by its column. Numbers stand as they are. */
export function Table({ rows: [heading, ...rows], label }) {
  const [{ column, sign }, sortBy] = useState({ column: -1, sign: 1 });
  const order = (one, other) => sign * (typeof one[column] === "number" && typeof other[column] === "number" ? one[column] - other[column] : String(one[column]).localeCompare(String(other[column])));
  const sorted = column < 0 ? rows : [...rows].sort(order);
  const next = (index) => sortBy({ column: index, sign: index === column ? -sign : 1 });
  const direction = (index) => (index !== column ? undefined : sign > 0 ? "ascending" : "descending");
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${label}><table>
    <thead><tr>${heading.map((cell, index) => html`<th class="num" scope="col" aria-sort=${direction(index)}><button type="button" class="quiet" onClick=${() => next(index)}>${cell}</button></th>`)}</tr></thead>
    <tbody>${sorted.map((row) => html`<tr>${row.map((cell) => html`<td class="num">${cell ?? "—"}</td>`)}</tr>`)}</tbody></table></div>`;
}

const pins = signal(new Set());

/** Pin a chosen place, in all figures that show it, or let it go. */
function pin(name, on) {
  if (pins.value.has(name) === on) return;
  const next = new Set(pins.value);
  next[on ? "add" : "delete"](name);
  pins.value = next;
}

const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 8, PageDown: -8, Home: -Infinity, End: Infinity };

/** An SVG of that size that a keyboard can enter.

    `label` is the sentence that a screen reader says. A plot with places takes `length`, how many
    there are, and either `choice`, the name of the state that holds the chosen one (with `fallback`),
    or `index` and `onIndex`. Arrows move by 1, PageUp and PageDown by 8, Home and End to the ends;
    Enter or a click pins the place, Escape lets go; the pointer moves to `indexAt(x, y)` until then.
    With `hover` false it moves only by a click or a drag.
    `readout`, a text or a function of the index, says what is there. `cursor(index, pinned)` draws
    the chosen place: with `choice` it alone is drawn again when the place changes. */
export function Plot({ width, height, label, choice, fallback = 0, index, length, onIndex, indexAt, readout, cursor, hover = true, children, ...rest }) {
  const root = useRef(null);
  const id = useId();
  const pinName = choice ?? id;
  const pinned = pins.value.has(pinName);
  const setPinned = (on) => pin(pinName, on);
  const place = choice ? choiceOf(choice, { most: length - 1, fallback }) : index;
  const latest = useRef({});
  const set = onIndex ?? (choice && ((to) => choose({ [choice]: to })));
  latest.current = { place, set, indexAt, length, width };
  const [frame] = useState(() => perFrame((clientX, clientY, force) => {
    const now = latest.current;
    if (!root.current || (pins.peek().has(pinName) && !force)) return;
    const box = root.current.getBoundingClientRect();
    const scale = now.width / box.width;
    const to = Math.max(0, Math.min(now.length - 1, now.indexAt((clientX - box.left) * scale, (clientY - box.top) * scale)));
    if (to !== now.place) now.set(to);
  }));
  const text = typeof readout === "function" ? readout(place) : readout;
  const said = useSettled(text ?? "", 150);
  if (!set) {
    return html`<svg ref=${root} viewBox="0 0 ${width} ${height}" role="img" aria-label=${label} ...${rest}>${children}${cursor?.(place, false)}</svg>`;
  }
  const onKeyDown = (event) => {
    if (event.key === "Enter") setPinned(!pinned && hover);
    if (event.key === "Escape") setPinned(false);
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(Math.max(0, Math.min(length - 1, place + KEYS[event.key])));
  };
  const onPointerMove = (event) => indexAt && (hover || event.buttons > 0) && frame(event.clientX, event.clientY, event.buttons > 0);
  const onClick = (event) => { frame(event.clientX, event.clientY, true); setPinned(hover); };
  return html`<svg ref=${root} class=${pinned ? "plot pinned" : "plot"} viewBox="0 0 ${width} ${height}" tabindex="0" role="slider" aria-label=${label}
    aria-valuemin="0" aria-valuemax=${Math.max(0, length - 1)} aria-valuenow=${place} aria-valuetext=${said || String(place)}
    onKeyDown=${onKeyDown} onPointerMove=${onPointerMove} onClick=${indexAt && onClick} ...${rest}>${children}${cursor?.(place, pinned)}</svg>
    <output class="sr" aria-live=${pinned ? "polite" : "off"}>${said}</output>`;
}

/** Return a text after it has stayed the same for that many milliseconds. */
export function useSettled(text, wait) {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), wait);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

/** A slider with a number field beside it. `scale` "log" moves by factors; values are clamped when
    the field is left, not while it is typed. */
export function Slider({ id, label, unit, value, least = 0, most, step = 1, scale, onValue, hint }) {
  const toSlider = (v) => (scale === "log" ? 1000 * Math.log(v / Math.max(1, least)) / Math.log(most / Math.max(1, least)) : v);
  const fromSlider = (v) => (scale === "log" ? Math.round(Math.max(1, least) * (most / Math.max(1, least)) ** (v / 1000)) : v);
  const [frame] = useState(() => ({ current: null, send: perFrame((v) => frame.current(v)) }));
  frame.current = onValue;
  const commit = (event) => {
    const typed = event.target.valueAsNumber;
    const kept = Number.isFinite(typed) ? Math.max(least, Math.min(most, typed)) : value;
    event.target.value = kept;
    onValue(kept);
  };
  return html`<div class="field"><label for=${id}>${label}</label><div class="row">
    <input type="range" id=${`${id}-slider`} aria-label=${label} min=${scale === "log" ? 0 : least} max=${scale === "log" ? 1000 : most} step=${scale === "log" ? 1 : step}
      value=${toSlider(Math.max(least, Math.min(most, value)))} aria-valuetext=${`${value} ${unit ?? ""}`} onInput=${(event) => frame.send(fromSlider(event.target.valueAsNumber))} />
    <input type="number" id=${id} min=${least} max=${most} step=${step} value=${value} onChange=${commit} />
  </div>${hint && html`<p class="cap">${hint}</p>`}</div>`;
}

/** Return the powers of ten between two values; every second or third one where there are many. */
export function decades(low, high, most = 9) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const step = Math.max(1, Math.ceil((last - first + 1) / most));
  return Array.from({ length: Math.max(0, Math.floor((last - first) / step) + 1) }, (_, i) => 10 ** (first + i * step));
}

/** Horizontal grid lines with their values at the left: `at` are values, `y` is the scale. */
export function GridY({ y, at, left, right, form = short }) {
  return at.map((value) => html`<line x1=${left} x2=${right} y1=${y(value)} y2=${y(value)} stroke="var(--grid)" />
    <text x=${left - 8} y=${y(value) + 4} text-anchor="end">${form(value)}</text>`);
}

/** Values below the horizontal axis. */
export function AxisX({ x, at, y, form = short }) {
  return at.map((value) => html`<text x=${x(value)} y=${y} text-anchor="middle">${form(value)}</text>`);
}

/** A line through points `[x, y]` in pixels. Kind "a" is solid and "b" is dashed, in their colours. */
export function Line({ points, kind = "a" }) {
  const style = kind === "b" ? { "stroke-width": 1.4, "stroke-dasharray": "4 3" } : { "stroke-width": 2.2 };
  return html`<path d=${line()(points)} fill="none" stroke="var(--${kind})" ...${style} />`;
}

/** Dots at points `[x, y]` in pixels, all in one element: filled, or hollow for kind "b". */
export function Dots({ points, kind = "a", size = 6 }) {
  const d = points.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("");
  const dot = (stroke, width) => html`<path d=${d} fill="none" stroke=${stroke} stroke-width=${width} stroke-linecap="round" />`;
  return kind === "b" ? html`${dot("var(--b)", size)}${dot("var(--paper)", size - 2.8)}` : dot(`var(--${kind})`, size);
}

/** One dot that stands out: the chosen place on a line. */
export function Marker({ x, y, kind = "a" }) {
  return kind === "b"
    ? html`<circle cx=${x} cy=${y} r="4.5" fill="var(--paper)" stroke="var(--b)" stroke-width="2" />`
    : html`<circle cx=${x} cy=${y} r="5" fill="var(--${kind})" stroke="var(--paper)" stroke-width="1.5" />`;
}

/** The sign of a line in a legend: `<i>` with a small picture. */
export function Key({ kind = "a" }) {
  return html`<i><svg class="key" width="26" height="12" viewBox="0 0 26 12" aria-hidden="true"><${Line} points=${[[0, 6], [26, 6]]} kind=${kind} /><${Dots} points=${[[13, 6]]} kind=${kind} /></svg></i>`;
}

/** A line of a given length with its name and number at the right edge. */
export function Reference({ y, left, right, name, number }) {
  return html`<line x1=${left} x2=${right + 6} y1=${y} y2=${y} stroke="var(--ink)" stroke-width="1.2" />
    <text x=${right + 10} y=${y - 2} class="t1">${name}</text><text x=${right + 10} y=${y + 12}>${number}</text>`;
}
