// The two sources of a comparison: what each is, the rope that the service makes of it, and how it
// stands in the address.
import { signal } from "./vendor.js";
import { ask, setState, state } from "./page.js";

const EMPTY = { kind: "preset", texts: {}, file: null, layer: null, resolved: null, refusal: null, busy: false };

/** The sources "a" and "b". `kind` is preset, config, inv_freq or tensors, `texts` what stands in the
    field of each kind, `file` the tensors; `resolved` the answer of /v1/resolve. */
export const sources = { a: signal(EMPTY), b: signal(EMPTY) };

/** Longest text that is unpacked from an address. */
const MAX_TEXT = 8 * 2 ** 20;

/** Longest name of a preset that is taken from an address. */
const MAX_NAME = 200;

const calls = { a: 0, b: 0 };
let written = "";
let writing = 0;
let reading = 0;

/** Return the text of a source, as it stands in its field. */
export const textOf = (source) => (source.texts[source.kind] ?? "").trim();

/** Return a short name of a source, or "". */
export function nameOf(source) {
  if (source.kind === "tensors") return source.file?.name ?? "";
  if (source.kind === "preset") return textOf(source);
  if (source.kind === "inv_freq" || !source.resolved) return textOf(source) && source.kind;
  return source.texts.name ?? source.resolved.model_type ?? source.kind;
}

/** Return `rope` of the service's API for a source; null if there is none yet. Throws a SyntaxError
    where a text is no JSON. */
export function ropeOf(source) {
  const text = textOf(source);
  if (source.kind === "tensors") return source.file?.rope ?? null;
  if (!text) return null;
  const layer = source.layer ?? 0;
  if (source.kind === "preset") return { preset: text, layer };
  if (source.kind === "inv_freq") return { inv_freq: readList(text) };
  const value = readJson(text);
  return isParameters(value) ? value : { config: value, layer };
}

/** Tell which kind of source a text is. */
export function kindOf(text) {
  const start = text.trim()[0] ?? "";
  if (start === "{") return "config";
  return start === "[" || !Number.isNaN(parseFloat(text)) ? "inv_freq" : "preset";
}

/** Parse JSON as Python writes it: NaN and infinities, which no rope reads, become null. */
function readJson(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    const plain = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g, (found) => (found[0] === '"' ? found : "null"));
    if (plain === text) throw error;
    return JSON.parse(plain);
  }
}

function readList(text) {
  if (text.startsWith("[")) return readJson(text);
  return text.split(/[\s,;]+/).filter(Boolean).map(Number);
}

/** Tell parameters of a rope from a model's config, which names its family or its sizes. */
function isParameters(value) {
  const names = Object.keys(value ?? {});
  const isOf = (known) => names.some((name) => known.includes(name));
  return isOf(["theta", "layout", "rope_type", "inv_freq", "head_dim", "rotary_dim", "preset", "config"]) && !isOf(["model_type", "hidden_size", "architectures"]);
}

/** Tell whether a rope has parameters that apply to heads of any width. */
const hasNoWidth = (rope) => !["preset", "config", "head_dim", "rotary_dim", "inv_freq", "freq_factors"].some((name) => name in rope);

/** Change a source, and let the service resolve it. */
export async function change(side, changes, { push = true } = {}) {
  sources[side].value = { ...sources[side].value, resolved: null, refusal: null, ...changes };
  if (push) write();
  await resolve(side);
}

/** Exchange A and B. */
export function swap() {
  const { a, b } = sources;
  [a.value, b.value] = [b.value, a.value];
  for (const side of ["a", "b"]) {
    calls[side]++; // an answer on its way is for the other side now
    if (sources[side].value.busy) resolve(side);
  }
  write();
}

async function resolve(side) {
  const call = ++calls[side];
  const set = (changes) => call === calls[side] && (sources[side].value = { ...sources[side].value, busy: false, ...changes });
  let rope;
  try {
    rope = ropeOf(sources[side].value);
  } catch (error) {
    return set({ refusal: error });
  }
  if (rope === null) return set({});
  const other = sources[side === "a" ? "b" : "a"];
  if (hasNoWidth(rope)) rope = { ...rope, head_dim: other.value.resolved?.rope?.head_dim ?? 128 };
  set({ busy: true });
  try {
    const resolved = await ask("v1/resolve", { rope });
    if (call !== calls[side]) return undefined;
    const turning = resolved.layers?.find((group) => group.nope === null)?.layers[0];
    if (!resolved.rotates && sources[side].value.layer === null && turning !== undefined) return change(side, { layer: turning });
    set({ resolved: { ...resolved, source: rope } });
  } catch (error) {
    set({ refusal: error });
  }
}

/** Write both sources to the address: a preset by its name, a text compressed. */
async function write() {
  const call = ++writing;
  const changes = {};
  for (const [side, { value }] of Object.entries(sources)) {
    const text = textOf(value);
    changes[side] = value.kind === "preset" ? text || null : null;
    changes[`${side}_text`] = value.kind !== "preset" && value.kind !== "tensors" && text ? await pack(text) : null;
    changes[`${side}_layer`] = value.layer;
  }
  if (call !== writing) return; // a text took longer than the next change
  written = keyOf(changes);
  setState(changes, { push: keyOf(state.value) !== written });
}

const keyOf = (values) => ["a", "a_text", "a_layer", "b", "b_text", "b_layer"].map((name) => values[name] ?? "").join("|");

/** Read both sources from the address, at the start and after a step back. */
export async function restore() {
  const values = state.value;
  if (keyOf(values) === written) return;
  const call = ++reading;
  written = keyOf(values);
  await Promise.all(Object.keys(sources).map(async (side) => {
    const packed = values[`${side}_text`];
    const text = packed ? (/^\s*[[{]/.test(packed) ? packed : await unpack(packed).catch(() => "")) : (values[side] ?? "").slice(0, MAX_NAME);
    if (call !== reading) return; // the address has changed since
    const kind = packed ? kindOf(text) : "preset";
    const layer = values[`${side}_layer`];
    await change(side, { kind, texts: { [kind]: text }, file: null, layer: /^\d{1,4}$/.test(layer) ? Number(layer) : null }, { push: false });
  }));
}

/** Compress a text for the address. */
export async function pack(text) {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** Return a text that `pack` compressed; a longer one than a config may be is refused. */
export async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    if (size > MAX_TEXT) throw new RangeError("too long");
    parts.push(part.value);
  }
  return new TextDecoder().decode(await new Blob(parts).arrayBuffer());
}
