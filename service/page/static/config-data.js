// What the config view shows: the source that the address names, and the answers of the service.
import { computed, effect, signal } from "./vendor.js";
import { ask, integer, language, setState, significant, t } from "./page.js";
import { chosen } from "./figure.js";

const FIRST = "llama-3.1-8b";
const LONGEST_IN_ADDRESS = 60_000;
const LARGEST = 16 * 2 ** 20;

/** Presets of the service, those of the operator's folder first. */
export const presets = signal([]);

/** Where the rope comes from: `{preset}`, or `{text}` of a config; null before it is known. */
export const source = signal(null);

/** What is shown: `answer` of /v1/resolve and its `source`; `kinds` of layers that rotate in
    different ways; `other`, the answer for calls of another length; and `refusal` of the last try. */
export const view = signal({ answer: null, source: null, kinds: [], other: null, refusal: null });

/** Load the presets, and follow the address from now on. */
export function follow() {
  ask("v1/presets").then((answer) => {
    const own = (preset) => (/^https?:/.test(preset.source ?? "") ? 1 : 0);
    presets.value = answer.presets.sort((one, other) => own(one) - own(other));
  }).catch(() => {});
  let reading = 0;
  effect(() => {
    const packed = chosen("config").value;
    const preset = chosen("preset").value ?? FIRST;
    const call = ++reading; // a long text is unpacked later than the next choice
    if (packed) unpack(packed).then((text) => call === reading && (source.value = { text, packed }), (error) => call === reading && refuse(error));
    else source.value = { preset };
  });
  effect(() => { if (request.value.source) update(); });
}

/** Show a preset, from now on without what was chosen for the one before. */
export function choosePreset(name) {
  setState({ ...FORGET, preset: name, config: null }, { push: true });
}

/** Show the text of a config; `push` makes a step that Back returns from. */
export async function chooseText(text, { push = true } = {}) {
  setState({ ...(push ? FORGET : {}), preset: null, config: await pack(text) }, { push });
}

const FORGET = { layer: null, part: null, length: null, pair: null };

/** Return what a source is called: the model's name in the address of a preset, or in a config. */
export function titleOf({ preset, text }) {
  if (preset !== undefined) return presets.value.find((entry) => entry.name === preset)?.source?.match(/huggingface\.co\/[^/]+\/([^/]+)/)?.[1] ?? preset;
  const config = parse(text) ?? {};
  const named = [config._name_or_path, config.model_type, config.rope_type].find((name) => typeof name === "string" && name);
  return named?.split("/").filter(Boolean).pop().slice(0, 120) ?? "config.json";
}

/** Return the text of a source's config; "" if it is not known. */
export function textOf({ preset, text }) {
  if (preset === undefined) return text;
  const config = presets.value.find((entry) => entry.name === preset)?.config;
  return config ? JSON.stringify(config, null, 2) : "";
}

let parsed = { text: "", value: null };

/** Return the object in a text, or null. Python also writes NaN and Infinity. */
export function parse(text) {
  if (parsed.text !== text) parsed = { text, value: read(text) };
  return parsed.value;
}

function read(text) {
  for (const readable of [text, text.replace(/([:[,]\s*)-?(?:NaN|Infinity)\b/g, "$1null")]) {
    try {
      const value = JSON.parse(readable);
      return value && typeof value === "object" && !Array.isArray(value) ? value : null;
    } catch { /* the next form */ }
  }
  return null;
}

/** Return the JSON text of the rope: the config as it was written, because numbers lose digits in
    JavaScript. An object without a model's keys is taken for the parameters of a rope. */
export function ropeText({ preset, text }, options = {}) {
  const more = Object.entries(options).map(([name, value]) => `,${JSON.stringify(name)}:${JSON.stringify(value)}`).join("");
  if (preset !== undefined) return `{"preset":${JSON.stringify(preset)}${more}}`;
  if (!isParameters(text)) return `{"config":${text}${more}}`;
  return text.trim().slice(0, -1) + (Object.keys(parse(text)).length ? more : more.slice(1)) + "}";
}

/** Whether a text has the parameters of a rope, as /v1/rotate takes them, and not a model's config. */
export function isParameters(text) {
  const value = parse(text);
  return value !== null && !("model_type" in value || "architectures" in value || "hidden_size" in value)
    && ["preset", "config", "rope_type", "theta", "rotary_dim", "layout", "inv_freq"].some((name) => name in value);
}

/** Return the command that asks for what is shown. */
export function curl(path = "v1/resolve", members = {}) {
  const { source: from, options } = view.value;
  const rest = Object.entries(members).map(([name, value]) => `,${JSON.stringify(name)}:${JSON.stringify(value)}`).join("");
  const body = `{"rope":${ropeText(from, options)}${rest}}`.replaceAll("'", "'\\''");
  return `curl -s ${new URL(`../${path}`, location.href)} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

const request = computed(() => {
  const options = {};
  if (chosen("part").value) options.part = chosen("part").value;
  if (chosen("compat").value === "4.57") options.compat = "4.57";
  const layer = Number(chosen("layer").value ?? NaN);
  if (Number.isInteger(layer)) options.layer = layer;
  const length = Math.round(Number(chosen("length").value));
  return { source: source.value, options, length: length > 0 ? length : null };
});

const answers = new WeakMap();

/** Return the service's answer for a source with these options, kept for the next time. */
async function resolve(from, options) {
  if (!answers.has(from)) answers.set(from, new Map());
  const known = answers.get(from);
  const key = JSON.stringify(options);
  if (!known.has(key)) {
    if (known.size > 60) known.delete(known.keys().next().value);
    known.set(key, await ask("v1/resolve", `{"rope":${ropeText(from, options)}}`));
  }
  return known.get(key);
}

let isBusy = false;

/** Ask for what the address says. One request at a time: the newest follows when it is answered. */
async function update() {
  if (isBusy) return;
  isBusy = true;
  let now;
  do {
    now = request.peek();
    await show(now).catch((refusal) => now === request.peek() && refuse(refusal));
  } while (now !== request.peek());
  isBusy = false;
}

function refuse(refusal) {
  view.value = { ...view.value, refusal };
}

async function show({ source: from, options: wanted, length }) {
  const { base, options, kinds } = isParameters(from.text ?? "") ? { base: await resolve(from, {}), options: {}, kinds: [] } : await chooseLayer(from, wanted);
  const depends = base.length_dependence !== undefined && base.inv_freq !== undefined;
  const fixed = depends && length ? { ...options, length } : options;
  const answer = fixed === options ? base : await resolve(from, fixed);
  const before = view.value;
  view.value = { answer, source: from, options: fixed, kinds, other: before.source === from ? before.other : null, refusal: null };
  const other = depends ? await otherLength(from, options, answer) : null;
  if (view.value.answer === answer) view.value = { ...view.value, other };
}

/** Return the answer for the layer that is wanted; without one, that for all layers if they have the
    same parameters, and that for the first kind if not. */
async function chooseLayer(from, options) {
  const first = await resolve(from, { layer: 0, ...options });
  const groups = (first.layers ?? []).filter((group) => group.nope === null);
  const answers = [];
  if (groups.length > 1) for (const { layers } of groups) answers.push(await resolve(from, { ...options, layer: layers[0] }));
  const kinds = kindsOf(groups, answers);
  if ("layer" in options || (first.layers ?? []).length < 2) return { base: first, options, kinds };
  const differ = new Set(answers.map(({ parameters }) => JSON.stringify(parameters))).size > 1;
  const fixed = differ || kinds.length ? { ...options, layer: groups[0].layers[0] } : options;
  const whole = await resolve(from, fixed).catch(() => null); // refused where single layers differ
  return whole ? { base: whole, options: fixed, kinds } : { base: first, options: { ...options, layer: 0 }, kinds };
}

/** Return one answer for each way in which layers rotate, with the layers that do; [] for one way. */
function kindsOf(groups, answers) {
  const kinds = new Map();
  answers.forEach((answer, at) => {
    const key = JSON.stringify([answer.inv_freq?.data, answer.pairs?.data, answer.attention_scaling]);
    const kind = kinds.get(key) ?? { types: [], layers: [], answer };
    kinds.set(key, { ...kind, types: [...kind.types, groups[at].layer_type], layers: [...kind.layers, ...groups[at].layers] });
  });
  return kinds.size > 1 ? [...kinds.values()] : [];
}

/** Return the answer for calls that are longer, or not so long, as these; null if frequencies stay. */
async function otherLength(from, options, answer) {
  const { above } = answer.length_dependence;
  const longer = Math.max(answer.lengths?.allowed ?? 0, 4 * above);
  const length = (answer.length ?? 0) > above ? above : longer;
  const other = await resolve(from, { ...options, length }).catch(() => null);
  const differs = other?.inv_freq.data.some((value, pair) => value !== answer.inv_freq.data[pair]);
  return differs ? { answer: other, length, isLonger: length > above } : null;
}

/** Return a text for the address: compressed, or a name under which this tab keeps a long one. */
async function pack(text) {
  const bytes = await through(new Blob([text]).stream(), new CompressionStream("deflate-raw"));
  const isShort = bytes.length < LONGEST_IN_ADDRESS * 3 / 4;
  const name = isShort ? btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "") : `~${Date.now().toString(36)}`;
  last = { name, text };
  if (isShort) return name;
  try { sessionStorage.setItem(`rope-config-${name}`, text); } catch { /* full: until the tab is loaded again */ }
  return name;
}

let last = {}; // what was packed last need not be unpacked

/** Return the text of the address; throws with the `code` "link" if it has none. */
async function unpack(packed) {
  if (packed.trimStart().startsWith("{")) return packed; // a link written by hand
  const text = packed === last.name ? last.text : (packed[0] === "~" ? sessionStorage.getItem(`rope-config-${packed}`) : null);
  if (text !== null) return text;
  try {
    const bytes = Uint8Array.from(atob(packed.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return new TextDecoder().decode(await through(new Blob([bytes]).stream(), new DecompressionStream("deflate-raw")));
  } catch {
    throw Object.assign(new Error("link"), { code: "link" });
  }
}

async function through(stream, change) {
  const parts = [];
  let size = 0;
  for (let reader = stream.pipeThrough(change).getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    if ((size += value.length) > LARGEST) throw new Error("too large");
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Return the sentences about an answer, `[text, isStrong]` each: the service's own in English, and
    in Chinese composed from its members. `language` is that of the text. */
export function sentence(answer) {
  const composed = language === "zh" ? compose(answer) : null;
  const text = composed ?? marked(answer.summary.replace(/(\d) (?=\d{3}\b)/g, "$1\u202f"));
  const parts = text.split("**").map((part, index) => [part, index % 2 === 1]);
  return { language: composed ? "zh" : "en", parts };
}

const STRONG = [
  /\b\d+(?: of \d+)? pairs? turns?\b/,
  /\b\d+ keeps? /,
  /\b\d+ (?:is|are) (?:blended|divided by [\d.]+(?: to [\d.]+)?)/,
];

/** Return the service's sentence with ** around its counts of pairs, as in the Chinese texts. */
function marked(text) {
  return text.replace(new RegExp(STRONG.map((each) => each.source).join("|"), "g"), "**$&**");
}

/** Return the Chinese sentences, or null where a member has no text for its case. */
function compose(answer) {
  if (!answer.rotates) return t((answer.layers ?? []).some((group) => group.nope === null) ? "summary.layer_still" : "summary.model_still", { why: answer.nope });
  const { rope, inv_freq: frequencies, scaling } = answer;
  const odd = rope.negative || rope.learned || rope.rope_type === "inv_freq" || rope.rope_type === "freq_factors" || rope.axes === "interpolated" || rope.axes === "xdrope";
  if (odd || !frequencies || !scaling || !answer.inv_freq_unscaled) return null;
  const sentences = [turning(answer), axes(answer), scaled(answer) + lengths(answer)];
  if (sentences.includes(null)) return null;
  const depends = answer.length_dependence;
  if (rope.rope_type === "xpos") sentences.push(t("summary.xpos"));
  else if (depends) sentences.push(t(answer.length > depends.above ? "summary.longer" : "summary.depends", { n: integer(depends.above) }));
  if (rope.values !== "kept") sentences.push(t(rope.values === "and_back" ? "summary.values_back" : "summary.values"));
  const gain = answer.attention_scaling === 1 ? t("summary.no_gain") : t("summary.gain", { gain: significant(answer.attention_scaling) });
  sentences.push([gain, layersOf(answer)].filter(Boolean).join("；"));
  return sentences.filter(Boolean).map((text) => `${text}。`).join("");
}

function turning({ rope, inv_freq: { data }, provenance }) {
  const count = data.filter((value) => value !== 0).length;
  const values = { n: count, half: data.length, width: rope.head_dim, rest: rope.head_dim - rope.rotary_dim };
  const first = rope.trailing ? values.rest : 0;
  let text = t("qk_rope_head_dim" in provenance && !values.rest ? "summary.turning_part" : "summary.turning", values);
  if (values.rest) text = t("summary.turning_channels", { ...values, first, last: first + rope.rotary_dim - 1 });
  return count < data.length ? `${text}，${t("summary.zero", { n: data.length - count, half: data.length })}` : text;
}

function axes({ rope, num_axes: count, pair_axis: { data }, inv_freq }) {
  if (count === 1) return "";
  if (data.includes(-1)) return null;
  const turn = (axis) => t("summary.axis", { n: data.filter((one, pair) => one === axis && inv_freq.data[pair] !== 0).length, name: axisName(rope, axis) });
  return t("summary.axes", { n: count, list: Array.from({ length: count }, (_, axis) => turn(axis)).join("、") });
}

/** Return the name of an axis of a position. */
export function axisName(rope, axis) {
  return rope.axes?.startsWith("mrope") ? t(`axis.${axis}`) : t("axis.n", { n: axis });
}

function scaled({ rope, inv_freq, inv_freq_unscaled: plain, scaling: { kept, blended, divided, factor } }) {
  const base = integer(rope.theta);
  if (!blended && !divided) return t("summary.unscaled", { base });
  if (!kept && !blended) return t("summary.all", { factor: significant(factor), base });
  if (divided > 1 || !blended) return [["kept", kept], ["blended", blended], ["divided", divided]].filter(([, n]) => n).map(([name, n]) => t(`summary.${name}`, { n, factor: significant(factor) })).join("，");
  const by = inv_freq.data.map((value, pair) => plain.data[pair] / value).filter((value) => Math.abs(value - 1) > 1e-6);
  return t(kept ? "summary.some" : "summary.range", { kept, n: blended + divided, low: significant(Math.min(...by)), high: significant(Math.max(...by)), base });
}

function lengths({ lengths: { trained, allowed } }) {
  if (trained === null && allowed === null) return "";
  if (allowed === null || trained === null || trained === allowed) return t(allowed === null ? "summary.trained" : "summary.allowed", { n: integer(allowed ?? trained) });
  return t("summary.both", { trained: integer(trained), allowed: integer(allowed) });
}

function layersOf({ layers = [], layer_type: type }) {
  const total = layers.reduce((sum, group) => sum + group.layers.length, 0);
  if (layers.length === 1) return total > 1 ? t("summary.alike", { n: total }) : t("summary.one_layer");
  const mine = layers.filter((group) => group.nope === null && (type == null || group.layer_type === type)).reduce((sum, group) => sum + group.layers.length, 0);
  return total ? t("summary.layers", { n: mine, total }) : "";
}
