// The answer of the Try view: status and times, tensors in short, or why the service refused.
import { html, useMemo, useState } from "./vendor.js";
import { integer, request, significant, t } from "./page.js";
import { DTYPES, bytes, bytesOf } from "./try-request.js";
import { encode, readHeader, readNumbers } from "./safetensors.js";

/** Send a request and return what came back; never throws. */
export async function exchange({ method, path, accept, form, hasBody }, body, signal) {
  const headers = { accept: accept === "safetensors" ? "application/x-safetensors" : "*/*" };
  if (hasBody) headers["content-type"] = form === "json" ? "application/json" : "application/x-safetensors";
  const start = performance.now();
  try {
    const response = await request(path, { method, headers, body, signal });
    const blob = await response.blob();
    const outcome = {
      status: response.status, ms: performance.now() - start, size: blob.size, type: response.headers.get("content-type") ?? "",
      id: response.headers.get("x-request-id"), timing: readTiming(response.headers.get("server-timing") ?? ""), tensors: [],
    };
    return Object.assign(outcome, await readAnswer(outcome, blob));
  } catch (error) {
    if (error.name === "AbortError") return { aborted: true };
    return { status: 0, ms: performance.now() - start, failure: error.message, timing: [], tensors: [] };
  }
}

/** Read a Server-Timing field: `[{name, ms, text}]`. */
export function readTiming(field) {
  return field.split(",").filter((part) => part.trim()).map((part) => {
    const [name, ...values] = part.trim().split(";");
    const given = Object.fromEntries(values.map((value) => value.trim().split("=")));
    return { name, ms: given.dur === undefined ? null : Number(given.dur), text: given.desc?.replaceAll('"', "") };
  });
}

async function readAnswer({ status, type }, blob) {
  if (type.includes("safetensors")) {
    const file = await readHeader(blob);
    const tensors = [];
    for (const tensor of file.tensors) tensors.push({ ...tensor, numbers: await readNumbers(file, tensor) });
    return { tensors, document: parse(file.metadata.params ?? "{}"), file: blob };
  }
  const text = await blob.text();
  const document = type.includes("json") ? parse(text) : undefined;
  if (document === undefined) return { text: text.slice(0, 4000) };
  if (status >= 400) return { problem: { detail: document.detail ?? document.error ?? text.slice(0, 500), code: document.code, title: document.title } };
  return { ...splitTensors(document) };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Tensors of a JSON answer, also those of lists such as `outputs`, and the rest.
function splitTensors(document) {
  const tensors = [];
  const isTensor = (value) => Array.isArray(value?.shape) && Array.isArray(value?.data);
  const take = (name, value) => tensors.push({ name, dtype: DTYPES[value.dtype]?.[0] ?? value.dtype ?? value.datatype, shape: value.shape, count: value.data.length, numbers: value.data.map(Number) });
  const rest = {};
  for (const [name, value] of Object.entries(document ?? {})) {
    if (isTensor(value)) take(name, value);
    else if (Array.isArray(value) && value.length && value.every(isTensor)) value.forEach((each) => take(each.name ?? name, each));
    else rest[name] = value;
  }
  return { tensors, document: Array.isArray(document) ? document : rest };
}

/** Save a Blob under a name. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function saveTensors(tensors) {
  const parts = tensors.map(({ name, dtype, shape, numbers }) => {
    const known = Object.keys(DTYPES).find((key) => DTYPES[key][0] === dtype);
    return { name, dtype: known ? dtype : "F32", shape, bytes: bytesOf(known ?? "float32", numbers) };
  });
  save(encode(parts), "answer.safetensors");
}

/** Return lowest, highest, Euclidean norm, and how many are NaN. */
export function statistics(numbers) {
  let [least, most, squares, nan] = [Infinity, -Infinity, 0, 0];
  for (const number of numbers) {
    const value = Number(number);
    if (Number.isNaN(value)) {
      nan++;
      continue;
    }
    if (value < least) least = value;
    if (value > most) most = value;
    squares += value * value;
  }
  return { least, most, norm: Math.sqrt(squares), nan, any: least <= most };
}

// A number as the service gave it: the fewest digits that are the same float32.
function exact(number, dtype) {
  if (typeof number === "bigint" || !Number.isFinite(number)) return String(number);
  if (dtype !== "F32") return String(number);
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(number.toPrecision(digits));
    if (Math.fround(short) === Math.fround(number)) return String(short);
  }
  return String(Number(number.toPrecision(9)));
}

/** The answer, or the refusal, in the page. */
export function Answer({ outcome, route }) {
  const { status, ms, size, id, timing, tensors, document, text, problem, failure, file } = outcome;
  if (failure !== undefined) return html`<p class="note" role="alert">${t("try.no_answer")} <span lang="en">${failure}</span></p>`;
  const rest = document && Object.keys(document).length > 0;
  return html`<p class="status"><b class=${status < 400 ? "good" : "refused"}>${status}</b> <span>${t("try.ms", { ms: significant(ms, 3) })}</span> <span>${bytes(size)}</span>
      ${id && html`<span class="mono">${t("try.request_id", { id })}</span>`}
      ${tensors.length > 0 && html`<button type="button" class="save" onClick=${() => (file ? save(file, "answer.safetensors") : saveTensors(tensors))}>${t("try.save_answer")}</button>`}</p>
    ${timing.length > 0 && html`<${Timing} timing=${timing} ms=${ms} />`}
    ${problem && html`<${Refused} problem=${problem} status=${status} route=${route} />`}
    ${tensors.map((tensor) => html`<${Tensor} key=${tensor.name} tensor=${tensor} />`)}
    ${rest && html`<details open=${tensors.length === 0}><summary>${t("try.members")}</summary><pre class="json" tabindex="0" lang="en">${shortJson(document)}</pre></details>`}
    ${text && html`<pre class="json" tabindex="0" lang="en">${text}</pre>`}`;
}

const PARTS = { queue: "b", copy: "ink-3", compute: "c" };

function Timing({ timing, ms }) {
  const timed = timing.filter((part) => part.ms !== null);
  const rest = Math.max(0, ms - timed.reduce((sum, part) => sum + part.ms, 0));
  const parts = [...timed.map((part) => ({ ...part, colour: PARTS[part.name] ?? "mix-ink" })), { name: "rest", ms: rest, colour: "a" }];
  let x = 0;
  const bars = parts.map((part) => {
    const width = (part.ms / ms) * 1000;
    x += width;
    return html`<rect x=${x - width} y="0" width=${width} height="14" fill=${`var(--${part.colour})`} />`;
  });
  const name = (part) => (part.name in PARTS || part.name === "rest" ? t(`try.time.${part.name}`) : part.name);
  const label = parts.map((part) => `${name(part)} ${t("try.ms", { ms: significant(part.ms, 3) })}`).join(", ");
  return html`<svg class="timing" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label=${label}>${bars}</svg>
    <p class="legend">${parts.map((part) => html`<span><svg class="key" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" fill=${`var(--${part.colour})`} /></svg>${name(part)} ${t("try.ms", { ms: significant(part.ms, 3) })}</span>`)}
      ${timing.filter((part) => part.text).map((part) => html`<span>${part.name} <b>${part.text}</b></span>`)}</p>`;
}

function Refused({ problem, status, route }) {
  const { code, detail } = problem;
  const examples = Object.values(route.responses[status]?.content?.["application/problem+json"]?.examples ?? {});
  const known = examples.filter((example) => example.value?.code === code);
  const same = known.find((example) => example.value.title === problem.title) ?? known[0];
  const key = `refusal.${code}`;
  const advice = t(key) === key ? null : t(key); // the words of the document are English
  return html`<div class="refusal"><p><code>${code ?? status}</code> <span lang="en">${detail}</span></p>
    ${advice ? html`<p class="hint">${advice}</p>` : same?.description && html`<p class="hint" lang="en">${same.summary} ${same.description}</p>`}
    ${code && html`<p class="hint"><a href=${`live.html#${new URLSearchParams({ code })}`}>${t("try.all_errors")}</a></p>`}</div>`;
}

function Tensor({ tensor: { name, dtype, shape, count, numbers } }) {
  const { least, most, norm, nan, any } = useMemo(() => statistics(numbers), [numbers]);
  const first = Array.from(numbers.slice(0, 8), (number) => exact(number, dtype));
  return html`<section class="answer-tensor" aria-label=${name}>
    <p class="facts"><b class="mono">${name}</b><span class="mono">[${shape.join(", ")}]</span><span>${Object.keys(DTYPES).find((key) => DTYPES[key][0] === dtype) ?? dtype}</span>
      ${any && html`<span>${t("try.least")} ${significant(least)}</span><span>${t("try.most")} ${significant(most)}</span><span>${t("try.norm")} ${significant(norm)}</span>`}<span class=${nan ? "refused" : ""}>${t("try.nan", { count: integer(nan) })}</span></p>
    ${count > 1 && html`<${HeatMap} name=${name} shape=${shape} numbers=${numbers} most=${Math.max(Math.abs(least), Math.abs(most))} />`}
    <p class="first"><code>${first.join("  ")}</code> <span class="hint">${count > 8 ? t("try.first_of", { shown: 8, count: integer(count) }) : ""}</span></p></section>`;
}

const ROWS = 32;
const COLUMNS = 128;
const LEVELS = 6;
const FEW = 8;

// One cell for each number, or for a block of numbers: then the one that is largest in it.
function cellsOf(shape, numbers) {
  const wide = shape.length ? shape[shape.length - 1] : 1;
  const high = wide ? numbers.length / wide : 0;
  const columns = Math.min(wide, COLUMNS);
  const rows = Math.min(high, ROWS);
  const cells = Array.from({ length: rows * columns }, () => -1);
  for (let i = 0; i < numbers.length; i++) {
    const cell = Math.floor((Math.floor(i / wide) * rows) / high) * columns + Math.floor(((i % wide) * columns) / wide);
    if (cells[cell] < 0 || Math.abs(Number(numbers[i])) > Math.abs(Number(numbers[cells[cell]])) || Number.isNaN(numbers[i])) cells[cell] = i;
  }
  return { rows, columns, cells };
}

function HeatMap({ name, shape, numbers, most }) {
  const { rows, columns, cells, paths } = useMemo(() => {
    const map = cellsOf(shape, numbers);
    const found = {};
    map.cells.forEach((place, cell) => {
      const value = Number(numbers[place]);
      const level = Number.isNaN(value) ? "nan" : Math.min(LEVELS, Math.ceil((Math.abs(value) / (most || 1)) * LEVELS));
      if (level !== 0) (found[`${value < 0 ? "b" : level === "nan" ? "ink" : "a"} ${level === "nan" ? 1 : level / LEVELS}`] ??= []).push(`M${cell % map.columns} ${Math.floor(cell / map.columns)}h1v1h-1z`);
    });
    return { ...map, paths: found };
  }, [numbers]);
  const [chosen, setChosen] = useState(null);
  const at = (cell) => {
    let rest = cells[cell];
    const index = shape.map((_, axis) => {
      const step = shape.slice(axis + 1).reduce((product, n) => product * n, 1);
      const place = Math.floor(rest / step);
      rest -= place * step;
      return place;
    });
    return `${name}[${index.join(", ")}] = ${significant(Number(numbers[cells[cell]]))}`;
  };
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -8 * columns, PageDown: 8 * columns, Home: -Infinity, End: Infinity };
  const move = (event) => {
    if (event.key === "Escape") return setChosen(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    setChosen(Math.max(0, Math.min(cells.length - 1, (chosen ?? 0) + moves[event.key])));
  };
  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const place = (offset, length, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / length) * count)));
    setChosen(place(event.clientY - box.top, box.height, rows) * columns + place(event.clientX - box.left, box.width, columns));
  };
  const label = t("try.heat_label", { name, rows: integer(rows), columns: integer(columns) });
  // Few cells have their numbers in them; many are as wide as the page.
  const few = columns <= FEW && rows <= 2 * FEW;
  const [width, height] = few ? [68, 24] : [1, 1];
  const high = few ? rows * height : rows * (rows <= 4 ? 16 : rows <= 16 ? 9 : 6);
  const wide = `min(100%, ${columns * (columns <= FEW ? 68 : 24)}px)`;
  const look = few ? { width: wide } : { width: wide, height: `${high}px` };
  const number = (cell) => {
    const value = Number(numbers[cells[cell]]);
    const level = Number.isNaN(value) ? "nan" : Math.ceil((Math.abs(value) / (most || 1)) * LEVELS);
    return html`<text x=${((cell % columns) + 0.5) * width} y=${(Math.floor(cell / columns) + 0.5) * height + 4} text-anchor="middle" class=${`on-${value < 0 ? "b" : "a"}-${level}`}>${significant(value, 3)}</text>`;
  };
  return html`<svg class="heat" style=${look} viewBox=${`0 0 ${columns * width} ${rows * height}`} preserveAspectRatio=${few ? "xMinYMin" : "none"} shape-rendering="crispEdges" tabindex="0" role="slider" aria-label=${label}
      aria-valuemin="0" aria-valuemax=${cells.length - 1} aria-valuenow=${chosen ?? 0} aria-valuetext=${at(chosen ?? 0)} onKeyDown=${move} onPointerMove=${point} onPointerDown=${point}>
      <g transform=${`scale(${width} ${height})`}>${Object.entries(paths).map(([fill, parts]) => html`<path d=${parts.join("")} fill=${`var(--${fill.split(" ")[0]})`} fill-opacity=${fill.split(" ")[1]} />`)}
        ${chosen !== null && html`<rect x=${chosen % columns} y=${Math.floor(chosen / columns)} width="1" height="1" fill="none" stroke="var(--ink)" stroke-width="2" vector-effect="non-scaling-stroke" />`}</g>
      ${few && cells.map((_, cell) => number(cell))}</svg>
    <p class="hint">${chosen === null ? t("try.heat_hint", { most: significant(most) }) : html`<span class="mono">${at(chosen)}</span>`}</p>`;
}

/** Return a document as JSON: long lists as their length, and not more than 6,000 characters. */
export function shortJson(document) {
  const cut = (value) => {
    if (Array.isArray(value)) return value.length > 8 ? [...value.slice(0, 8).map(cut), `… ${value.length}`] : value.map(cut);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, cut(each)]));
    return value;
  };
  const text = JSON.stringify(cut(document), null, 2);
  return text.length > 6000 ? `${text.slice(0, 6000)}\n…` : text;
}

