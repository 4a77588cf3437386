// The compare view: two sources, what differs between them, and which mistake explains numbers.
import { effect, html, signal, useEffect } from "./vendor.js";
import { ask, start, state, t } from "./page.js";
import { change, nameOf, restore, sources, swap } from "./compare-sources.js";
import { Source, onDrop, onPaste } from "./compare-source-card.js";

/** The answer for both sources: `{answer, a, b}`, `{refusal}` or null. */
const result = signal(null);

/** What /v1/diagnose is doing, or has answered; its module is loaded with the first file. */
const diagnosis = signal(null);

/** Components, with modules that are loaded when there is something to show. */
const Verdict = signal(null);
const Result = signal(null);
const Diagnosis = signal(null);

const loadVerdict = async () => (Verdict.value = (await import("./compare-verdict.js")).Verdict);

let latest = 0;
let diagnosed = null;

effect(() => {
  const [a, b] = [sources.a.value, sources.b.value];
  const call = ++latest;
  const files = [a, b].map(({ file }) => file?.evidence);
  if (files.every(Boolean)) {
    compareFiles(files).then((found) => call === latest && (result.value = found));
    return;
  }
  const side = files[0] ? "b" : "a";
  const evidence = files[0] ?? files[1];
  if (evidence && sources[side].value.resolved && evidence !== diagnosed) {
    diagnosed = evidence;
    diagnose(evidence.file, side);
  }
  if (!a.resolved || !b.resolved) {
    if (!a.busy && !b.busy) result.value = null;
    return;
  }
  compareBoth(a.resolved, b.resolved).then(
    (found) => call === latest && (result.value = found),
    (refusal) => call === latest && (result.value = { refusal }),
  );
});

async function compareFiles(files) {
  const [module] = await Promise.all([import("./compare-tensors.js"), loadVerdict()]);
  const tensors = await module.compareFiles(...files.map(({ header }) => header));
  Result.value = () => html`<${module.Tensors} found=${tensors} />`;
  return { tensors, sentences: module.sentencesOf(tensors, files.map(({ header }) => header)) };
}

async function compareBoth(a, b) {
  await loadVerdict();
  const [answer, module] = await Promise.all([ask("v1/compare", { rope: a.source, other: b.source }), import("./compare-result.js")]);
  Result.value = module.Result;
  if (answer.differences.some(({ parameter }) => parameter === "layout")) [a, b] = await Promise.all([a, b].map(withOrder));
  return { answer, a, b };
}

/** Add `order` to a resolved rope: which channel each channel of the output is made of. At position 0
    nothing turns, so the service shows it by rotating the numbers of the channels. */
async function withOrder(resolved) {
  if (!resolved.rotates) return resolved;
  const numbers = Array.from({ length: resolved.rope.head_dim }, (_, index) => index + 1);
  const positions = Array(resolved.num_axes).fill([[0]]);
  const rotated = await ask("v1/rotate", { q: [[[numbers]]], positions: resolved.num_axes === 1 ? [[0]] : positions, rope: resolved.source }).catch(() => null);
  const order = rotated?.q.data.map((value) => Math.round(value / resolved.attention_scaling) - 1);
  return { ...resolved, order };
}

const keepCurve = (found, curve) => result.value?.answer === found.answer && (result.value = { ...found, curve });

async function diagnose(file, side) {
  const [module] = await Promise.all([import("./compare-diagnose.js"), loadVerdict()]);
  Diagnosis.value = module.Diagnosis;
  await module.begin(file, side, diagnosis);
}

const EXAMPLES = {
  scaling: { a: "llama-3.1-8b", b: "llama-3-8b" },
  theta: { a: "mistral-7b-v0.1", b: "mistral-7b-instruct-v0.2" },
  layout: { a_text: { head_dim: 64, theta: 10000 }, b_text: { head_dim: 64, theta: 10000, layout: "interleaved" } },
  mistake: {},
};

async function showExample(name) {
  if (name === "mistake") {
    await change("a", { kind: "preset", texts: { preset: "llama-3.1-8b" }, file: null, layer: null });
    const [module] = await Promise.all([import("./compare-diagnose.js"), loadVerdict()]);
    Diagnosis.value = module.Diagnosis;
    return module.example(diagnosis);
  }
  const example = EXAMPLES[name];
  for (const side of ["a", "b"]) {
    const text = example[`${side}_text`];
    change(side, { kind: text ? "config" : "preset", texts: text ? { config: JSON.stringify(text, null, 2) } : { preset: example[side] }, file: null, layer: null });
  }
}

function Examples() {
  return html`<section class="examples" aria-label=${t("compare.examples")}><h2>${t("compare.examples")}</h2><div class="cards">
    ${Object.keys(EXAMPLES).map((name) => html`<button type="button" class="example" onClick=${() => showExample(name)}><b>${t(`compare.example.${name}`)}</b><span>${t(`compare.example.${name}.text`)}</span></button>`)}
  </div></section>`;
}

function View() {
  useEffect(() => {
    restore();
    return state.subscribe(restore);
  }, []);
  useEffect(() => {
    const listeners = { dragover: (event) => event.preventDefault(), drop: (event) => onDrop(event, diagnose), paste: onPaste };
    for (const [name, listen] of Object.entries(listeners)) addEventListener(name, listen);
    return () => Object.entries(listeners).forEach(([name, listen]) => removeEventListener(name, listen));
  }, []);
  const [VerdictView, ResultView, DiagnosisView] = [Verdict.value, Result.value, Diagnosis.value];
  const found = result.value;
  const isOld = Boolean(found?.answer) && ["a", "b"].some((side) => found[side].source !== sources[side].value.resolved?.source);
  const isEmpty = !found && !diagnosis.value && !Object.values(sources).some(({ value }) => nameOf(value));
  return html`<div class="verdict" aria-live="polite">${VerdictView ? html`<${VerdictView} found=${found} diagnosis=${diagnosis.value} />` : html`<h1>${t("compare.title")}</h1><p class="lede">${t("compare.what")}</p>`}</div>
    <div class="sources"><${Source} side="a" onEvidence=${diagnose} />
      <button type="button" class="swap" aria-label=${t("compare.swap")} title=${t("compare.swap")} onClick=${swap}>⇄</button>
      <${Source} side="b" onEvidence=${diagnose} /></div>
    ${isEmpty && html`<${Examples} />`}
    ${(found?.answer || found?.tensors) && ResultView && html`<div class=${isOld ? "stale" : ""} aria-busy=${isOld}><${ResultView} found=${found} onCurve=${keepCurve} /></div>`}
    <section class="mistake" aria-labelledby="mistake"><h2 id="mistake">${t("diagnose.title")}</h2>
      <p class="lede">${t("diagnose.what")}</p>
      <${Evidence} onEvidence=${diagnose} />
      ${DiagnosisView && html`<${DiagnosisView} diagnosis=${diagnosis} />`}</section>`;
}

function Evidence({ onEvidence }) {
  const pick = (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) onEvidence(file);
  };
  return html`<div class="evidence" data-drop="evidence"><label class="file"><input type="file" accept=".safetensors" onChange=${pick} /><span>${t("diagnose.choose")}</span></label>
    <p class="cap">${t("diagnose.names")}</p></div>`;
}

start(View);
