// Parts of the Try view: fields for the tensors and parameters of a route, and programs that send the
// request on the screen, in the languages of snippets/.
import { html, useEffect, useRef, useState } from "./vendor.js";
import { apiKey, ask, setState, state, t } from "./page.js";
import { DTYPES, KINDS, bodyOf, isExact, readSpec, writeSpec } from "./try-request.js";

/** The fields of a route that have a value, and buttons that add the others.

    `edit(group, name, text)` changes a field; null removes it. `marked` is the field that a refusal
    names, with its sentence. */
export function Fields({ request, form, file, edit, marked }) {
  const { fields } = request.route;
  const groupOf = (field) => (field.kind === "tensor" ? "tensors" : "params");
  const given = (field) => field.name in form[groupOf(field)];
  const shown = (group) => fields.filter((field) => groupOf(field) === group && (given(field) || field.place === "path"));
  const rest = fields.filter((field) => !given(field) && field.place !== "path");
  const add = (field) => {
    const text = field.kind !== "tensor" ? field.choices?.[0] ?? "" : field.dtype.startsWith("int") ? `arange ${field.dtype} 16` : `normal ${field.dtype} 1,16,8,128 1`;
    edit(groupOf(field), field.name, text);
    requestAnimationFrame(() => document.getElementById(`f-${field.name}`)?.focus());
  };
  const fieldOf = (field) => {
    const Kind = field.kind === "tensor" ? TensorField : field.kind === "rope" ? RopeField : ParameterField;
    const error = request.errors[field.name] ? t(`try.error.${request.errors[field.name]}`) : marked?.name === field.name ? marked.detail : null;
    const group = groupOf(field);
    return html`<${Kind} key=${`${request.route.key} ${field.name}`} field=${field} text=${form[group][field.name] ?? ""} file=${file} error=${error} edit=${(text) => edit(group, field.name, text)} />`;
  };
  const [path, others] = [shown("params").filter((field) => field.place === "path"), shown("params").filter((field) => field.place !== "path")];
  return html`${[...path, ...shown("tensors"), ...others].map(fieldOf)}
    ${rest.length > 0 && html`<div class="field"><span class="label" id="add">${t("try.add")}</span><div class="chips" role="group" aria-labelledby="add">
      ${rest.map((field) => html`<button type="button" key=${field.name} class="add" onClick=${() => add(field)}>+ ${field.name}</button>`)}</div></div>`}`;
}

/** Words of the document, with what is between backquotes as code. */
export function Prose({ text }) {
  return text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));
}

function Frame({ field, error, edit, head, children }) {
  const { name, required, description } = field;
  return html`<div class=${`tensor ${error ? "wrong" : ""}`} role="group" aria-labelledby=${`n-${name}`} aria-describedby=${error ? `e-${name}` : null}>
    <div class="tensor-head"><span id=${`n-${name}`} class="mono name">${name}</span>${head}
      ${!required && html`<button type="button" class="quiet drop" aria-label=${t("try.remove", { name })} onClick=${() => edit(null)}>×</button>`}</div>
    ${children}
    ${error && html`<p class="wrong-text" id=${`e-${name}`}>${error}</p>`}
    ${description && html`<p class="hint" lang="en"><${Prose} text=${description} /></p>`}</div>`;
}

function TensorField({ field, text, file, error, edit }) {
  const spec = readSpec(text);
  const { name } = field;
  const change = (part) => edit(writeSpec({ ...spec, ...part }));
  const changeKind = (kind) => {
    const shape = spec.kind === "values" || spec.kind === "file" ? "16" : spec.rest;
    const rest = { values: "[0, 1, 2, 3]", file: file?.tensors[0]?.name ?? "" }[kind] ?? shape;
    edit(writeSpec({ kind, rest, dtype: spec.dtype || field.dtype, seed: "0" }));
  };
  const head = html`<select id=${`f-${name}`} aria-label=${t("try.fill", { name })} value=${spec.kind} onChange=${(event) => changeKind(event.target.value)}>
    ${KINDS.map((kind) => html`<option value=${kind} selected=${kind === spec.kind}>${t(`try.kind.${kind}`)}</option>`)}</select>`;
  const wrong = error ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {};
  const dtype = html`<label>${t("try.dtype")}<select value=${spec.dtype} onChange=${(event) => change({ dtype: event.target.value })}>
    ${Object.keys(DTYPES).map((each) => html`<option value=${each} selected=${each === spec.dtype}>${each}</option>`)}</select></label>`;
  const typed = (part) => (event) => change({ [part]: event.target.value });
  const parts = {
    file: () => html`<label>${t("try.tensor")}<select ...${wrong} value=${spec.rest} onChange=${typed("rest")}>
      ${!file?.tensors.some((tensor) => tensor.name === spec.rest) && html`<option value=${spec.rest} selected>${spec.rest || "\u2014"}</option>`}
      ${(file?.tensors ?? []).slice(0, 400).map((tensor) => html`<option value=${tensor.name} selected=${tensor.name === spec.rest}>${tensor.name} ${tensor.dtype} [${tensor.shape.join(", ")}]</option>`)}</select></label>`,
    values: () => html`<label class="wide">${t("try.values")}<textarea class="short" rows="2" spellcheck="false" ...${wrong} value=${spec.rest} onInput=${typed("rest")}></textarea></label>${dtype}`,
  };
  const generated = () => html`<label class="wide">${t("try.shape")}<input type="text" class="mono" spellcheck="false" autocomplete="off" ...${wrong} value=${spec.rest.replaceAll(",", ", ")} onChange=${typed("rest")} /></label>${dtype}
    ${spec.kind === "normal" && html`<label class="seed">${t("try.seed")}<input type="text" inputmode="numeric" class="mono" autocomplete="off" value=${spec.seed} onChange=${(event) => change({ seed: event.target.value.trim() })} /></label>`}`;
  return html`<${Frame} field=${field} error=${error} edit=${edit} head=${head}><div class="parts">${(parts[spec.kind] ?? generated)()}</div><//>`;
}

function RopeField({ field, text, error, edit }) {
  const { name } = field;
  const isJson = /^\s*(\{|null\s*$)/.test(text);
  const [presets, setPresets] = useState([]);
  const load = () => presets.length || ask("v1/presets").then(({ presets: found }) => setPresets(found.map((preset) => preset.name))).catch(() => {});
  const wrong = error ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {};
  const switchTo = (json) => edit(json ? (text && !isJson ? JSON.stringify({ preset: text }) : "{}") : readPreset(text));
  const head = html`<div class="seg" role="group" aria-label=${t("try.form", { name })}>
    <button type="button" aria-pressed=${!isJson} onClick=${() => isJson && switchTo(false)}>${t("try.preset")}</button>
    <button type="button" aria-pressed=${isJson} onClick=${() => isJson || switchTo(true)}>JSON</button></div>`;
  return html`<${Frame} field=${field} error=${error} edit=${edit} head=${head}>
    ${isJson
      ? html`<textarea id=${`f-${name}`} class="short" rows="4" spellcheck="false" aria-label=${name} ...${wrong} value=${text} onInput=${(event) => edit(event.target.value || "{}")}></textarea>`
      : html`<input id=${`f-${name}`} type="text" list=${`l-${name}`} autocomplete="off" spellcheck="false" aria-label=${name} ...${wrong} value=${text} onFocus=${load} onInput=${(event) => edit(event.target.value)} />
        <datalist id=${`l-${name}`}>${presets.map((preset) => html`<option value=${preset}></option>`)}</datalist>`}<//>`;
}

function readPreset(text) {
  try {
    return JSON.parse(text)?.preset ?? "";
  } catch {
    return "";
  }
}

function ParameterField({ field, text, error, edit }) {
  const { name, kind, choices } = field;
  const wrong = error ? { "aria-invalid": "true", "aria-describedby": `e-${name}` } : {};
  const shared = { id: `f-${name}`, "aria-label": name, value: text, ...wrong };
  const head = choices
    ? html`<select ...${shared} onChange=${(event) => edit(event.target.value)}>${choices.map((choice) => html`<option value=${choice} selected=${choice === text}>${choice}</option>`)}</select>`
    : kind === "json" ? null : html`<input type="text" class="mono" autocomplete="off" spellcheck="false" ...${shared} onInput=${(event) => edit(event.target.value)} />`;
  return html`<${Frame} field=${field} error=${error} edit=${edit} head=${head}>
    ${kind === "json" && html`<textarea class="short" rows="3" spellcheck="false" ...${shared} onInput=${(event) => edit(event.target.value)}></textarea>`}<//>`;
}

/** Languages in their order: the file in snippets/ and its name. */
export const LANGUAGES = {
  curl: "curl", "curl-safetensors": "curl + safetensors", python: "Python", httpx: "httpx", javascript: "JavaScript",
  go: "Go", java: "Java", cpp: "C++", rust: "Rust",
};

// A text without other characters than ASCII; JSON stays the same JSON.
const ascii = (text) => text.replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Return what a program has to know of a request. */
export function programOf(request) {
  const { route, method, path, tensors, params, hasBody } = request;
  const base = new URL("..", location.href).href.replace(/[?#].*$/, "");
  const text = ascii(JSON.stringify(params));
  const inHeader = route.takesParams && text.length < 4000;
  const paramsHeader = inHeader && text !== "{}" ? text : "";
  const header = {};
  if (!inHeader) header.__metadata__ = { params: text };
  let size = 0;
  for (const { name, dtype, shape, bytes: count } of tensors) {
    header[name] = { dtype: DTYPES[dtype][0], shape, data_offsets: [size, size + count] };
    size += count;
  }
  const lines = Object.entries(header).map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const needsFile = !tensors.every(isExact) || tensors.some(({ kind, count }) => kind === "values" && count > 64);
  return {
    base, url: base + path, method, route, tensors, params, hasBody, needsFile, size, paramsHeader, auth: apiKey.value !== null,
    header: `{${lines.join(",\n ")}}`,
  };
}

/** The tabs of languages, the program, and a button that copies it. */
export function Programs({ program, request }) {
  const chosen = state.value.code in LANGUAGES ? state.value.code : "curl";
  const [snippet, setSnippet] = useState(null);
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    let current = true;
    import(`./snippets/${chosen}.js`).then((module) => current && setSnippet({ ...module, name: chosen }));
    return () => (current = false);
  }, [chosen]);
  useEffect(() => setCopied(false), [chosen, program]);
  const tabs = useRef(null);
  const onKey = (event) => {
    const names = Object.keys(LANGUAGES);
    const at = names.indexOf(chosen);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + names.length) % names.length;
    setState({ code: names[next] });
    tabs.current.children[next].focus();
  };
  const wrong = Object.keys(request.errors).length > 0;
  const ready = snippet?.name === chosen && !wrong;
  const shown = ready ? { ...program } : null;
  const code = ready ? snippet.code(shown) : null;
  const copy = async () => {
    await copyText(code);
    setCopied(true);
  };
  return html`<section class="programs" aria-label=${t("try.programs")}>
    <div class="fig-head"><div class="languages" role="tablist" aria-label=${t("try.programs")} ref=${tabs} onKeyDown=${onKey}>
      ${Object.entries(LANGUAGES).map(([name, title]) => html`<button type="button" role="tab" key=${name} id=${`tab-${name}`} aria-selected=${name === chosen} aria-controls="program" tabindex=${name === chosen ? 0 : -1} onClick=${() => setState({ code: name })}>${title}</button>`)}</div></div>
    <div id="program" class="program" role="tabpanel" aria-labelledby=${`tab-${chosen}`}>
      ${code !== null && html`<button type="button" class="copy" onClick=${copy}>${t(copied ? "try.copied" : "try.copy")}</button><pre tabindex="0" aria-label=${snippet.file}><code>${code}</code></pre>`}
      ${ready && code === null && html`<p class="cap">${t(`try.no_program.${chosen}`)}</p>`}
      ${wrong && html`<p class="cap">${t("try.mend_first")}</p>`}</div>
    <p class="cap" aria-live="polite">${code !== null && html`<span class="mono">${snippet.run}</span>`}
      ${code?.includes("request.safetensors") && shown.needsFile && html` · ${t("try.needs_file")} <button type="button" class="link" onClick=${() => saveBody(request)}>${t("try.save_request")}</button>`}
      ${program.auth && ` · ${t("try.needs_key")}`}</p>
  </section>`;
}

async function saveBody(request) {
  const { save } = await import("./try-answer.js");
  save(await bodyOf({ ...request, form: "safetensors" }), "request.safetensors");
}

// Pages that are not on localhost or HTTPS have no navigator.clipboard.
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
