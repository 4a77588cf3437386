// Which mistake explains numbers: a safetensors file goes to /v1/diagnose, and its answer is shown.
import { effect, html, useEffect, useState } from "./vendor.js";
import { Refusal, ask, integer, request, significant, t } from "./page.js";
import { encode, pick, readHeader } from "./safetensors.js";
import { nameOf, ropeOf, sources } from "./compare-sources.js";
import { sentenceOf } from "./compare-source-card.js";
import { ofDiagnosis, strong } from "./compare-verdict.js";
import { Explanations } from "./compare-mistakes.js";

/** Tensors of each kind of evidence: those it needs, and others that it may have. */
const EVIDENCE = {
  rotation: [["before", "after"], ["positions", "cu_seqlens"]],
  table: [["cos", "sin"], ["positions"]],
  frequencies: [["inv_freq"], []],
  attention: [["q", "k", "v", "out"], ["lse", "positions", "q_positions", "k_positions", "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "sinks", "mask", "frequencies", "q_index", "k_index"]],
};

/** Longest parameters that go into a header; longer ones go into the file. */
const MAX_HEADER = 24_000;

let aborted = null;

/** Take a file: find out what it shows, and ask the service if that is clear. `against` is the side of
    the rope that the numbers should have; by default the first that has one. */
export async function begin(file, against, diagnosis) {
  aborted?.abort();
  const own = (diagnosis.value = { name: file.name, against });
  const [header, refusal] = await readHeader(file).then((read) => [read], (error) => [null, error]);
  if (diagnosis.value !== own) return; // another file came since
  if (refusal) {
    diagnosis.value = { ...own, refusal };
    return;
  }
  const names = namesOf(header.tensors);
  diagnosis.value = { ...own, header, names, needsNames: names === null };
  if (names) await send(diagnosis);
}

/** Return which tensors go to the service, `{name: name in the file}`; null if that is not clear. */
function namesOf(tensors) {
  const has = (name) => tensors.some((tensor) => tensor.name === name);
  const kind = Object.values(EVIDENCE).find(([needed]) => needed.every(has));
  return kind ? Object.fromEntries(kind.flat().filter(has).map((name) => [name, name])) : null;
}

/** Return the side with the rope that the numbers should have. */
export function sideOf({ against }) {
  const hasRope = (side) => sources[side].value.resolved !== null;
  return [against, "a", "b"].find((side) => side && hasRope(side)) ?? null;
}

/** Send the file to the service. */
export async function send(diagnosis) {
  const { header, names } = diagnosis.value;
  const side = sideOf(diagnosis.value);
  if (side === null) return (diagnosis.value = { ...diagnosis.value, waits: true });
  aborted?.abort();
  const own = (aborted = new AbortController());
  diagnosis.value = { ...diagnosis.value, waits: false, needsNames: false, busy: true, answer: null, refusal: null, side };
  const params = JSON.stringify({ rope: ropeOf(sources[side].value) }).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const isWhole = header.tensors.length === Object.keys(names).length && Object.entries(names).every(([name, old]) => name === old);
  let body = isWhole ? header.blob : pick(header, names);
  const headers = { "content-type": "application/x-safetensors", accept: "application/x-safetensors" };
  if (params.length < MAX_HEADER) headers["x-rope-params"] = params;
  else body = withParams(header, names, params);
  let changes;
  try {
    changes = { answer: await post(body, headers, own.signal) };
  } catch (refusal) {
    changes = refusal.name === "AbortError" ? { stopped: true } : { refusal };
  }
  if (aborted === own) diagnosis.value = { ...diagnosis.value, busy: false, ...changes };
}

function withParams(header, names, params) {
  const tensors = Object.entries(names).map(([name, old]) => {
    const { dtype, shape, start, end } = header.tensors.find((tensor) => tensor.name === old);
    return { name, dtype, shape, bytes: header.blob.slice(start, end) };
  });
  return encode(tensors, { params });
}

async function post(body, headers, stop) {
  const response = await request("v1/diagnose", { method: "POST", body, headers, signal: stop });
  if (!response.ok) throw new Refusal(response.status, await response.json().catch(() => ({})));
  return JSON.parse((await readHeader(await response.blob())).metadata.params);
}

/** Rotate random numbers by the rope of Llama 3, and find out why they are not those of Llama 3.1. */
export async function example(diagnosis) {
  const shape = [1, 24, 1, 128];
  const positions = Array.from({ length: 24 }, (_, index) => (index < 16 ? index : 2 ** (index - 4)));
  const numbers = Array.from({ length: 24 * 128 }, (_, index) => Math.fround(Math.sin(12.9898 * (index + 1)) * 2));
  const q = { shape, dtype: "float32", data: numbers };
  const rotated = await ask("v1/rotate", { q, positions: [positions], rope: "llama-3-8b" });
  const tensors = [["before", numbers], ["after", rotated.q.data]].map(([name, data]) => ({ name, dtype: "F32", shape, bytes: Float32Array.from(data) }));
  tensors.push({ name: "positions", dtype: "I64", shape: [1, 24], bytes: BigInt64Array.from(positions, BigInt) });
  await begin(new File([encode(tensors)], "example.safetensors"), "a", diagnosis);
}

/** Diagnose again when the file had to wait for a rope. */
export function watch(diagnosis) {
  return effect(() => {
    const isReady = Object.values(sources).some(({ value }) => value.resolved);
    if (isReady && diagnosis.peek()?.waits) send(diagnosis);
  });
}

/** What the service is doing with the file, or has found. */
export function Diagnosis({ diagnosis }) {
  useEffect(() => watch(diagnosis), []);
  const now = diagnosis.value;
  if (!now) return null;
  return html`<p class="cap">${t("diagnose.file", { name: now.name })}${now.side ? ` · ${t("diagnose.against", { side: now.side.toUpperCase(), name: nameOf(sources[now.side].value) })}` : ""}</p>
    ${now.refusal && html`<p class="problem" role="alert"><span lang=${now.refusal.detail ? "en" : undefined}>${sentenceOf(now.refusal)}</span></p>`}
    ${now.waits && html`<p class="problem" role="status">${t("diagnose.waits")}</p>`}
    ${now.stopped && !now.busy && html`<p class="cap" role="status">${t("diagnose.stopped")}</p>`}
    ${now.needsNames && html`<${Names} diagnosis=${diagnosis} />`}
    ${now.busy && html`<${Busy} />`}
    ${now.answer && html`<${Answer} answer=${now.answer} diagnosis=${diagnosis} />`}`;
}

function Busy() {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setSeconds((past) => past + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<div class="busy" role="status"><span class="bar" aria-hidden="true"></span><span>${t("diagnose.busy", { seconds })}</span><button type="button" onClick=${() => aborted?.abort()}>${t("diagnose.stop")}</button></div>`;
}

/** Return the names that may be before and after: q and q_rotated, or the first two of one shape. */
function likely(tensors) {
  const pairs = tensors.flatMap((one) => tensors.filter((other) => other !== one && String(other.shape) === String(one.shape)).map((other) => [one.name, other.name]));
  const [before = "", after = ""] = pairs.find(([one, other]) => other.startsWith(one)) ?? pairs[0] ?? [];
  return { before, after };
}

/** The reader says which tensors are before and after the rotation. */
function Names({ diagnosis }) {
  const { tensors } = diagnosis.value.header;
  const wide = tensors.filter(({ shape }) => shape.length === 3 || shape.length === 4);
  const [chosen, setChosen] = useState(() => ({ ...likely(wide), positions: tensors.find(({ name }) => /pos/i.test(name))?.name ?? "" }));
  const choose = (name, list, isOptional) => html`<div class="field"><label>${t(`diagnose.names.${name}`)}<select onChange=${(event) => setChosen({ ...chosen, [name]: event.target.value })}>
    ${isOptional && html`<option value="">${t("diagnose.names.none")}</option>`}${list.map((tensor) => html`<option value=${tensor.name} selected=${tensor.name === chosen[name]}>${tensor.name} ${tensor.dtype} [${tensor.shape.join(", ")}]</option>`)}</select></label></div>`;
  if (wide.length < 2) return html`<p class="problem" role="alert">${t("diagnose.no_evidence", { names: tensors.map(({ name }) => name).join(", ") || "—" })}</p>`;
  const go = () => {
    const names = Object.fromEntries(Object.entries(chosen).filter(([, name]) => name));
    diagnosis.value = { ...diagnosis.value, names };
    send(diagnosis);
  };
  return html`<div class="names"><p>${t("diagnose.names.which")}</p><div class="grid3">${choose("before", wide)}${choose("after", wide)}${choose("positions", tensors, true)}</div><button type="button" onClick=${go}>${t("diagnose.go")}</button></div>`;
}

function Answer({ answer, diagnosis }) {
  const [title, text] = ofDiagnosis({ answer });
  const [a, b] = [sources.a.value, sources.b.value];
  const sides = ["a", "b"].filter((side) => sources[side].value.resolved && side !== diagnosis.value.side);
  const isHeading = a.resolved && b.resolved; // otherwise the heading of the view says it
  return html`<div class="answer">${isHeading && html`<h3>${title}</h3><p class="lede">${strong(text)}</p>`}
    ${sides.map((side) => html`<button type="button" onClick=${() => { diagnosis.value = { ...diagnosis.value, against: side }; send(diagnosis); }}>${t("diagnose.again", { side: side.toUpperCase(), name: nameOf({ a, b }[side]) })}</button>`)}
    ${answer.warnings.map((warning) => html`<p class="note" lang="en">${warning}</p>`)}
    ${answer.next_probe && html`<p class="note probe"><b>${t("diagnose.next")}</b> <span lang="en">${answer.next_probe}</span></p>`}
    <${Explanations} answer=${answer} />
    ${answer.measured && html`<${Measured} measured=${answer.measured} />`}</div>`;
}

function Measured({ measured }) {
  const show = (value) => (typeof value !== "number" ? value : Number.isInteger(value) ? integer(value) : significant(value, 6));
  const entries = Object.entries(measured).filter(([name, value]) => value !== null && !Array.isArray(value) && name !== "fit");
  return html`<section class="measured"><h3>${t("diagnose.measured")}</h3><dl>${entries.map(([name, value]) => html`<div><dt><code>${name}</code></dt><dd>${show(value)}</dd></div>`)}
    ${measured.fit !== null && html`<div><dt>${t("diagnose.fit")}</dt><dd>${significant(measured.fit, 2)}</dd></div>`}
    ${measured.unresolved_pairs.length > 0 && html`<div><dt>${t("diagnose.unresolved")}</dt><dd>${measured.unresolved_pairs.length}</dd></div>`}</dl></section>`;
}
