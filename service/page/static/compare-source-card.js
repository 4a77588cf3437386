// The card of one source: a preset, a config.json, frequencies or tensors; and what is dropped or
// pasted anywhere on the view.
import { html, signal, useId } from "./vendor.js";
import { ask, integer, t } from "./page.js";
import { change, kindOf, nameOf, sources, textOf } from "./compare-sources.js";

const KINDS = ["preset", "config", "inv_freq", "tensors"];

/** Largest text of a config, as in the service. */
const MAX_TEXT = 8 * 2 ** 20;

const presets = signal([]);
let loading = null;

/** Load the names of presets when the first field is entered. */
function loadPresets() {
  loading ??= ask("v1/presets").then((answer) => (presets.value = answer.presets), () => (loading = null));
}

/** The card of a source. `onEvidence(file)` takes a file of tensors that is no rope. */
export function Source({ side, onEvidence }) {
  const source = sources[side].value;
  const id = useId();
  return html`<section class="source ${side}" data-drop=${side} aria-labelledby=${`${id}-name`}>
    <h2 id=${`${id}-name`}><span class="badge">${side.toUpperCase()}</span><span class="name">${nameOf(source) || t(`compare.source.${side}`)}</span></h2>
    <div class="seg" role="group" aria-label=${t("compare.kind")}>${KINDS.map((kind) => html`<button type="button" aria-pressed=${source.kind === kind} onClick=${() => change(side, { kind, layer: null, file: null })}>${t(`compare.kind.${kind}`)}</button>`)}</div>
    <${Field} side=${side} id=${id} onEvidence=${onEvidence} />
    <${Layers} side=${side} id=${id} />
    <${State} source=${source} isWaiting=${source.file?.evidence && !sources[side === "a" ? "b" : "a"].value.file?.evidence} />
  </section>`;
}

function Field({ side, id, onEvidence }) {
  const source = sources[side].value;
  const { kind } = source;
  if (kind === "tensors") {
    const pick = (event) => event.target.files[0] && takeFile(event.target.files[0], side, onEvidence);
    return html`<div class="field drop"><label class="file"><input type="file" accept=".safetensors" onChange=${pick} /><span>${t("compare.choose_file")}</span></label><p class="cap">${t("compare.tensors.hint")}</p></div>`;
  }
  const textsOf = (event) => ({ ...sources[side].value.texts, [kind]: event.target.value, name: null });
  const set = (event) => change(side, { texts: textsOf(event), layer: null });
  const keep = (event) => (sources[side].value = { ...sources[side].value, texts: textsOf(event) });
  if (kind === "preset") {
    const onInput = (event) => (presets.peek().some(({ name }) => name === event.target.value) ? set(event) : keep(event));
    return html`<div class="field"><label for=${id}>${t("compare.preset.label")}</label><input type="text" id=${id} list=${`${id}-list`} value=${source.texts.preset ?? ""} autocomplete="off" spellcheck="false" placeholder=${t("compare.preset.placeholder")} onFocus=${loadPresets} onInput=${onInput} onChange=${set} />
      <${PresetList} id=${`${id}-list`} /></div>`;
  }
  return html`<div class="field"><label for=${id}>${t(`compare.${kind}.label`)}</label><textarea id=${id} spellcheck="false" placeholder=${t(`compare.${kind}.placeholder`)} value=${source.texts[kind] ?? ""} onInput=${keep} onChange=${set} /></div>`;
}

function PresetList({ id }) {
  return html`<datalist id=${id}>${presets.value.map(({ name, config }) => html`<option value=${name}>${labelOf(config)}</option>`)}</datalist>`;
}

/** Family and scaling of a preset. */
function labelOf(config) {
  const scaling = config.rope_scaling ?? config.rope_parameters;
  return [config.model_type, scaling?.rope_type ?? scaling?.type].filter(Boolean).join(" · ");
}

function Layers({ side, id }) {
  const source = sources[side].value;
  const groups = source.resolved?.layers ?? [];
  if (groups.length < 2) return null;
  const chosen = source.layer ?? 0;
  const label = ({ layer_type: type, layers, nope }) => `${type ?? t("compare.layers")}${nope ? ` (${t("compare.nope")})` : ""}: ${layers.slice(0, 4).join(", ")}${layers.length > 4 ? ", …" : ""}`;
  return html`<div class="field"><label for=${`${id}-layer`}>${t("compare.layer")}</label><select id=${`${id}-layer`} onChange=${(event) => change(side, { layer: Number(event.target.value) })}>
    ${groups.map((group) => html`<option value=${group.layers[0]} selected=${group.layers.includes(chosen)}>${label(group)}</option>`)}</select></div>`;
}

function State({ source, isWaiting }) {
  const { refusal, resolved } = source;
  if (refusal) return html`<p class="problem" role="alert"><span lang=${refusal.detail ? "en" : undefined}>${sentenceOf(refusal)}</span></p>`;
  if (!resolved) return html`<p class="cap">${source.busy ? t("compare.busy") : isWaiting ? t("compare.tensors.below") : ""}</p>`;
  const { rope, lengths } = resolved;
  const facts = rope && [t("compare.fact.pairs", { pairs: resolved.inv_freq.shape[0], width: rope.head_dim }), rope.rope_type, ...["trained", "allowed"].filter((name) => lengths[name]).map((name) => `${t(`compare.${name}`)} ${integer(lengths[name])}`)];
  const text = textOf(source);
  const address = source.kind === "preset" ? { preset: text, layer: source.layer ?? 0 } : source.kind === "config" ? { config: text, layer: source.layer ?? 0 } : null;
  return html`<p class="cap">${facts ? facts.join(" · ") : t("compare.fact.none")} ${address && html`<a href=${`config.html#${new URLSearchParams(address)}`}>${t("compare.open_config")}</a>`}</p>
    ${resolved.warnings?.map((warning) => html`<p class="note" lang="en">${warning}</p>`)}`;
}

/** Return a sentence for what went wrong. */
export function sentenceOf(error) {
  if (error instanceof SyntaxError) return t("compare.refused.json", { reason: error.message });
  if (error.name === "BadFile") return t(`safetensors.${error.code}`, error.values);
  return error.detail ?? t("compare.refused.no_answer");
}

/** Take a file that was dropped: tensors go to the diagnosis, unless they are frequencies. */
export async function takeFile(file, side, onEvidence) {
  if (/\.safetensors$/i.test(file.name)) return takeTensors(file, side, onEvidence);
  const refuse = (refusal) => change(side, { kind: "config", texts: {}, file: null, layer: null, refusal: null }).then(() => (sources[side].value = { ...sources[side].value, refusal }));
  if (file.size > MAX_TEXT) return refuse({ detail: t("compare.refused.large", { size: integer(file.size / 2 ** 20) }) });
  const text = await file.text();
  const kind = kindOf(text) === "preset" ? "config" : kindOf(text);
  const name = file.name.replace(/\.(json|txt)$/i, "");
  return change(side, { kind, texts: { [kind]: text, name: name === "config" ? null : name }, file: null, layer: null });
}

async function takeTensors(file, side, onEvidence) {
  const { readHeader, readNumbers } = await import("./safetensors.js");
  const header = await readHeader(file).catch((refusal) => ({ refusal, tensors: [] }));
  const list = header.tensors.find(({ name }) => name === "inv_freq");
  const isRope = list && list.count <= 4096 && header.tensors.every(({ name }) => name === "inv_freq");
  const isEvidence = !isRope && !header.refusal;
  if (!side) return onEvidence(file);
  const rope = isRope ? { inv_freq: Array.from(await readNumbers(header, list), Number) } : null;
  await change(side, { kind: "tensors", texts: {}, layer: null, file: { name: file.name, rope, evidence: isEvidence ? { file, header } : null } });
  if (header.refusal) sources[side].value = { ...sources[side].value, refusal: header.refusal };
}

/** Files dropped anywhere: on a card they are its source, elsewhere the first card without one. */
export async function onDrop(event, onEvidence) {
  event.preventDefault();
  const place = event.target.closest?.("[data-drop]")?.dataset.drop;
  for (const file of [...event.dataTransfer.files]) { // the list is empty after the event
    const isTensors = /\.safetensors$/i.test(file.name);
    if (place === "evidence" || (isTensors && place === undefined)) await onEvidence(file);
    else await takeFile(file, place ?? freeSide(), onEvidence);
  }
}

/** A text pasted outside a field is a source. */
export function onPaste(event) {
  if (event.target.closest?.("input, textarea")) return;
  const text = event.clipboardData.getData("text");
  if (!text.trim()) return;
  event.preventDefault();
  const kind = kindOf(text);
  change(freeSide(), { kind, texts: { [kind]: text.trim() }, file: null, layer: null });
}

const freeSide = () => (nameOf(sources.a.value) ? "b" : "a");
