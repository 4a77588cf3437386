// Frame, axes and lines of figures in SVG, and the keys that move the chosen place.
import { html, line, useEffect, useRef, useState } from "./vendor.js";
import { short, t } from "./page.js";

/** Width of an element in CSS pixels, kept up to date: `[ref, width]`. */
export function useWidth(initial = 640) {
  const ref = useRef(null);
  const [width, setWidth] = useState(initial);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

/** A figure with its title and tools.

    `rows()` returns the table behind the figure, `[heading, ...rows]`; `name` is the start of the
    names of saved files; `curl()` returns the command of the same numbers, or null. */
export function Figure({ id, title, name, rows, curl, legend, caption, children }) {
  const [table, setTable] = useState(false);
  const body = useRef(null);
  const save = async (form) => (await import("./export.js")).save(form, { body: body.current, title, name, rows });
  return html`<section class="fig" aria-labelledby=${id}>
    <div class="fig-head"><h2 id=${id}>${title}</h2><div class="tools">
      <button type="button" class="quiet" aria-pressed=${table} onClick=${() => setTable(!table)}>${t("figure.table")}</button>
      ${["svg", "png", "csv"].map((form) => html`<button type="button" class="quiet" onClick=${() => save(form)}>${t(`figure.${form}`)}</button>`)}
    </div></div>
    ${legend && html`<div class="legend">${legend}</div>`}
    <div ref=${body}>${table ? html`<${Table} rows=${rows()} />` : children}</div>
    ${caption && html`<p class="cap">${caption}</p>`}
  </section>`;
}

function Table({ rows: [heading, ...rows] }) {
  return html`<table><thead><tr>${heading.map((cell) => html`<th class="num">${cell}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td class="num">${cell}</td>`)}</tr>`)}</tbody></table>`;
}

/** An SVG of that size that a keyboard can enter.

    `label` is the sentence that a screen reader says. `index`, `length` and `onIndex` name the
    chosen place: arrows move it by 1, PageUp and PageDown by 8, Home and End to the ends, and the
    pointer to `indexAt(x, y)`. `readout` says what is there. */
export function Plot({ width, height, label, index, length, onIndex, indexAt, readout, children }) {
  const root = useRef(null);
  const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -8, PageDown: 8, Home: -length, End: length };
  const choose = (to) => onIndex(Math.max(0, Math.min(length - 1, to)));
  const onKey = (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(index + moves[event.key]);
  };
  const onPointer = (event) => {
    const box = root.current.getBoundingClientRect();
    const scale = width / box.width;
    choose(indexAt((event.clientX - box.left) * scale, (event.clientY - box.top) * scale));
  };
  const interactive = onIndex && { tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": length - 1, "aria-valuenow": index, "aria-valuetext": readout, onKeyDown: onKey, onPointerMove: onPointer, onPointerDown: onPointer };
  return html`<svg ref=${root} viewBox="0 0 ${width} ${height}" role="img" aria-label=${label} ...${interactive}>${children}</svg>`;
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

/** A line of a given length with its name and number at the right edge. */
export function Reference({ y, left, right, name, number }) {
  return html`<line x1=${left} x2=${right + 6} y1=${y} y2=${y} stroke="var(--ink)" stroke-width="1.2" />
    <text x=${right + 10} y=${y - 2} class="t1">${name}</text><text x=${right + 10} y=${y + 12}>${number}</text>`;
}
