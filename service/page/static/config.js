// The config view: what a config.json or a preset does to each pair of channels.
import { html, useEffect, useId, useMemo, useRef, useState } from "./vendor.js";
import { integer, setState, start, t } from "./page.js";
import { choiceOf, chosen, choose, Plot, Slider, useWidth } from "./figure.js";
import { axisName, choosePreset, chooseText, follow, isParameters, parse, presets, sentence, source, textOf, titleOf, view } from "./config-data.js";
import { Clock, Kinds, runs, Score, Waves } from "./config-figures.js";

const LONGEST_SHOWN = 200_000;
const HUES = ["a", "b", "c", "mix-ink"];
const PARTS = { vision: /vision/i, audio: /audio|speech/i, indexer: /^index_/ };

/** Loads a module when its place comes near the window, or at once. */
function Later({ load, at = "near", ...rest }) {
  const [module, setModule] = useState(null);
  const ref = useRef(null);
  useEffect(() => {
    const fetch = () => load().then((loaded) => setModule(() => loaded));
    if (at === "once") return void fetch();
    const watch = new IntersectionObserver(([entry]) => entry.isIntersecting && (watch.disconnect(), fetch()));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  const Part = module?.default;
  return html`<div ref=${ref} class="later">${Part && html`<${Part} ...${rest} />`}</div>`;
}

/** A combobox of presets: substring of name, family, type or address. */
function Presets() {
  const [text, setText] = useState(null);
  const [active, setActive] = useState(0);
  const id = useId();
  const list = useRef(null);
  const current = source.value?.preset ?? "";
  const described = useMemo(() => presets.value.map((preset) => ({ ...preset, ...describe(preset.config) })), [presets.value]);
  const wanted = (text ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const found = text === null ? [] : described.filter((one) => wanted.every((word) => `${one.name} ${one.family} ${one.type} ${one.source}`.toLowerCase().includes(word)));
  const isOpen = text !== null;
  const close = () => { setText(null); setActive(0); };
  const pick = (name) => { close(); if (name && name !== current) choosePreset(name); };
  useEffect(() => list.current?.children[active]?.scrollIntoView({ block: "nearest" }), [active, text]);
  const onKeyDown = (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.key in moves) {
      event.preventDefault();
      if (!isOpen) return setText("");
      setActive(Math.max(0, Math.min(found.length - 1, active + moves[event.key])));
    } else if (event.key === "Enter") {
      event.preventDefault();
      pick(found[active]?.name ?? text?.trim());
    } else if (event.key === "Escape") close();
  };
  return html`<div class="field combo"><label for="preset">${t("config.model")}</label>
    <input type="text" id="preset" role="combobox" autocomplete="off" spellcheck="false" placeholder=${t("config.model_hint", { n: presets.value.length })} aria-expanded=${isOpen} aria-controls=${`${id}-list`} aria-autocomplete="list"
      aria-activedescendant=${isOpen && found.length ? `${id}-${active}` : undefined} value=${text ?? current} onKeyDown=${onKeyDown}
      onFocus=${(event) => event.target.select()} onClick=${() => !isOpen && setText("")} onInput=${(event) => { setText(event.target.value); setActive(0); }} onBlur=${close} />
    <ul id=${`${id}-list`} ref=${list} role="listbox" aria-label=${t("config.model")} hidden=${!isOpen || !found.length} onMouseDown=${(event) => event.preventDefault()}>
      ${found.map((one, at) => html`<li key=${one.name} id=${`${id}-${at}`} role="option" aria-selected=${at === active} onClick=${() => pick(one.name)}><span>${one.name}</span><small>${one.family} · ${one.type}</small></li>`)}</ul>
    <output class="sr">${isOpen ? t("config.found", { n: found.length }) : ""}</output></div>`;
}

/** Family and rope_type as a config names them, at its top or in a nested config. */
function describe(config) {
  const levels = [config, ...Object.values(config).filter((value) => value && typeof value === "object" && !Array.isArray(value))];
  const first = (read) => levels.map(read).find((value) => typeof value === "string");
  const type = first((level) => [level.rope_scaling, level.rope_parameters].map((scaling) => scaling?.rope_type ?? scaling?.type).find((name) => typeof name === "string"));
  return { family: first((level) => level.model_type) ?? "—", type: type ?? "default" };
}

/** The text of the config, and beside it why the service refuses it. */
function ConfigText() {
  const from = source.value;
  const shown = from ? textOf(from) : "";
  const isLong = shown.length > LONGEST_SHOWN;
  const [draft, setDraft] = useState(null);
  const [problem, setProblem] = useState(null);
  const timer = useRef(0);
  useEffect(() => { setDraft(null); setProblem(null); }, [from]);
  const { refusal } = view.value;
  const onInput = (event) => {
    const { value } = event.target;
    setDraft(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      const isObject = parse(value) !== null;
      setProblem(isObject || !value.trim() ? null : whyNoObject(value));
      if (isObject) chooseText(value, { push: from.preset !== undefined });
    }, 350);
  };
  const text = problem ?? (refusal && (refusal.code === "link" ? t("config.lost_link") : refusal.status ? refusal.detail : t("config.no_answer")));
  const isEnglish = problem || refusal?.status;
  return html`<div class="field"><label for="json">${t("config.or_json")}</label>
    <textarea id="json" spellcheck="false" aria-invalid=${Boolean(text)} aria-describedby="json-problem" placeholder=${t(isLong ? "config.too_long" : "config.paste_here", { n: integer(shown.length / 1024) })} value=${draft ?? (isLong ? "" : shown)} onInput=${onInput}></textarea>
    <div id="json-problem" role="alert">${text && html`<p class="refusal"><span lang=${isEnglish ? "en" : undefined}>${text.slice(0, 2000)}</span>${view.value.answer && html` <small>${t("config.last_good")}</small>`}</p>`}</div></div>`;
}

function whyNoObject(text) {
  try { JSON.parse(text); } catch (error) { return error.message; }
  return t("config.no_object");
}

/** One cell for each layer: its hue is the type, and a hollow one does not rotate. */
function Layers() {
  const [ref, width] = useWidth(300);
  const { answer, options, kinds } = view.value;
  const groups = answer.layers ?? [];
  const order = groups.flatMap((group, hue) => group.layers.map((layer) => ({ layer, group, hue: HUES[hue % 4] }))).sort((one, other) => one.layer - other.layer);
  if (!order.length) return null;
  const size = order.length;
  const cell = width / size;
  const layer = options.layer ?? null;
  const gap = cell > 4 ? 1.5 : 0.5;
  const note = groups.length === 1 ? t(size > 1 ? "config.all_alike" : "config.one_layer") : kinds.length ? t("config.kinds", { n: kinds.length }) : t("config.types", { n: groups.length });
  const name = ({ layer_type: type, nope }) => [type ?? t("config.attention"), nope !== null && t("config.nope")].filter(Boolean).join(", ");
  const readout = (index) => (layer === null ? t("config.any_layer") : t("config.layer_read", { n: order[index].layer, name: name(order[index].group) }));
  const marks = order.map(({ group, hue, layer: at }, index) => (group.nope === null
    ? html`<rect x=${index * cell + gap / 2} y="2" width=${cell - gap} height="18" rx="2" fill=${`var(--${hue})`} fill-opacity=${layer === null || layer === at ? (layer === null ? 0.6 : 1) : 0.35} />`
    : html`<rect x=${index * cell + gap / 2 + 0.5} y="2.5" width=${Math.max(0.5, cell - gap - 1)} height="17" rx="2" fill=${layer === at ? "var(--wash)" : "none"} stroke=${`var(--${hue})`} stroke-opacity=${layer === at ? 1 : 0.6} /><path d=${`M${index * cell + gap / 2 + 1} 19L${(index + 1) * cell - gap / 2 - 1} 3`} stroke=${`var(--${hue})`} stroke-opacity="0.8" />`));
  const index = Math.max(0, order.findIndex((one) => one.layer === layer));
  return html`<div class="field"><div class="row spread"><span class="label">${t("config.layers")} · ${note}</span>
      <input type="number" class="small" aria-label=${t("config.layer")} min="0" max=${size - 1} placeholder=${t("config.any")} value=${layer ?? ""} onChange=${(event) => setState({ layer: event.target.value === "" ? null : Math.max(0, Math.min(size - 1, Math.round(event.target.valueAsNumber))) }, { push: true })} /></div>
    <div ref=${ref}><${Plot} width=${width} height="36" label=${t("config.layers_label", { n: size })} index=${index} length=${size} hover=${false} onIndex=${(to) => choose({ layer: order[to].layer })}
      indexAt=${(x) => Math.floor(x / cell)} readout=${readout}>${marks}${layer !== null && html`<rect x=${index * cell} y="0.5" width=${cell} height="21" rx="2.5" fill="none" stroke="var(--ink)" stroke-width="1.5" />`}<text x="0" y="34">${order[0].layer}</text>${size > 1 && html`<text x=${width} y="34" text-anchor="end">${order.at(-1).layer}</text>`}</${Plot}></div>
    ${groups.length > 1 && html`<ul class="types">${groups.map((group, hue) => html`<li><i class=${`swatch ${HUES[hue % 4]} ${group.nope === null ? "" : "hollow"}`}></i>${name(group)} <small>${group.layers.length}</small></li>`)}</ul>`}</div>`;
}

/** Return the pair of the rotated channel that is nearest. */
function nearest(owner, channel) {
  const distance = (at) => Math.abs(at - channel);
  return owner[owner.reduce((best, pair, at) => (pair >= 0 && (best < 0 || distance(at) < distance(best)) ? at : best), -1)];
}

/** One cell for each channel of a head; an arc joins the channels of the chosen pair. */
function Head() {
  const [ref, width] = useWidth(300);
  const { answer } = view.value;
  const hatch = useId().replace(/\W/g, "");
  const { rope, pairs: { data }, pair_axis: axes, inv_freq: frequencies } = answer;
  const size = rope.head_dim;
  const count = frequencies.data.length;
  const cell = width / size;
  const gap = cell > 1.6 ? 0.6 : 0;
  const owner = useMemo(() => { const found = new Array(size).fill(-1); for (let at = 0; at < 2 * count; at++) found[data[at]] = at >> 1; return found; }, [answer]);
  const kind = (channel) => { const pair = owner[channel]; return pair < 0 ? "passed" : frequencies.data[pair] === 0 ? "still" : axes.data[pair]; };
  const kinds = owner.map((_, channel) => kind(channel));
  const hue = (name) => (name === "passed" || name === "still" ? `url(#${hatch})` : `var(--${name < 0 ? "mix-ink" : HUES[name % 4]})`);
  const names = [...new Set(kinds)];
  const letters = (axis) => t(rope.axes?.startsWith("mrope") ? `axis.${axis}.letter` : "axis.letter", { n: axis });
  const marks = useMemo(() => html`<defs><pattern id=${hatch} width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="4" height="4" fill="var(--wash)" /><path d="M0 0V4" stroke="var(--ink-3)" stroke-width="1.2" /></pattern></defs>
    ${names.map((name) => html`<path fill=${hue(name)} fill-opacity=${typeof name === "number" ? 0.45 : 0.8} d=${runs(kinds).filter(([one]) => one === name).map(([, first, last]) => (gap && typeof name === "number" ? Array.from({ length: last - first + 1 }, (_, at) => `M${(first + at) * cell + gap / 2} 30h${cell - gap}v18h-${cell - gap}z`).join("") : `M${first * cell} 30h${(last - first + 1) * cell}v18h-${(last - first + 1) * cell}z`)).join("")} />`)}
    ${answer.num_axes > 1 && runs(kinds).filter(([name, first, last]) => name >= 0 && (last - first + 1) * cell > 12).map(([name, first, last]) => html`<text x=${(first + last + 1) / 2 * cell} y="43" text-anchor="middle" class="t1">${letters(name)}</text>`)}
    ${[0, size >> 1, size - 1].map((channel, at) => html`<text x=${[0, width / 2, width][at]} y="63" text-anchor=${["start", "middle", "end"][at]}>${channel}</text>`)}`, [answer, width]);
  const cursor = (pair) => {
    const [from, to] = [data[2 * pair], data[2 * pair + 1]].map((channel) => (channel + 0.5) * cell);
    const wide = Math.max(cell, 2.5);
    return html`<path d=${`M${from} 29C${from} 4 ${to} 4 ${to} 29`} fill="none" stroke="var(--a)" stroke-width="1.5" />${[from, to].map((x) => html`<rect x=${x - wide / 2} y="29" width=${wide} height="20" fill="var(--a)" />`)}`;
  };
  const pairAt = (x) => { const channel = Math.max(0, Math.min(size - 1, Math.floor(x / cell))); return owner[channel] >= 0 ? owner[channel] : nearest(owner, channel); };
  const passed = kinds.filter((name) => name === "passed").length;
  return html`<div class="field"><span class="label">${t("config.head")}</span><div ref=${ref}>
    <${Plot} width=${width} height="66" label=${t("config.head_label", { n: size })} choice="pair" fallback=${frequencies.data.findLastIndex((value) => value !== 0) + 1 >> 1} length=${count} indexAt=${pairAt} readout=${(pair) => t("config.pair_title", { pair, first: data[2 * pair], second: data[2 * pair + 1] })} cursor=${cursor}>${marks}</${Plot}></div>
    <p class="cap">${t(`layout.${rope.layout}`, { n: Math.abs(data[1] - data[0]) })}${rope.blocks > 1 ? ` ${t("config.blocks", { n: rope.blocks })}` : ""}${passed ? ` ${t("config.passed", { n: passed })}` : ""}</p>
    ${answer.num_axes > 1 && html`<ul class="types">${names.filter((name) => typeof name === "number").map((axis) => html`<li><i class=${`swatch ${axis < 0 ? "mix-ink" : HUES[axis % 4]}`}></i>${axis < 0 ? t("axis.several") : `${letters(axis)} ${axisName(rope, axis)}`} <small>${axes.data.filter((one) => one === axis).length}</small></li>`)}</ul>`}</div>`;
}

/** Length of the call, and how to read the config. */
function Choices() {
  const { answer, source: from } = view.value;
  const depends = answer?.length_dependence;
  const config = useMemo(() => parse(textOf(from ?? {}) || "{}") ?? {}, [from, presets.value]);
  const keys = [config, ...Object.values(config).filter((value) => value && typeof value === "object" && !Array.isArray(value))].flatMap(Object.keys);
  const parts = Object.keys(PARTS).filter((part) => keys.some((key) => PARTS[part].test(key)));
  const part = chosen("part").value ?? "text";
  const compat = chosen("compat").value === "4.57" ? "4.57" : "5.23";
  const seg = (name, values, current) => html`<div class="seg" role="group" aria-label=${t(`config.${name}`)}>${values.map(([value, label, first]) => html`<button type="button" aria-pressed=${value === current} onClick=${() => setState({ [name]: first ? null : value, ...(name === "part" ? { layer: null, length: null, pair: null } : {}) }, { push: true })}>${label}</button>`)}</div>`;
  const shown = choiceOf("length", { least: 1, most: 2 ** 24, fallback: answer?.length || (depends?.above > 1 ? depends.above : answer?.lengths?.allowed) || 4096 });
  const most = Math.max(2 ** 17, 4 * (depends?.above ?? 0), answer?.lengths?.allowed ?? 0);
  const hint = depends && answer.rope?.rope_type !== "xpos" ? t("config.length_hint", { n: integer(depends.above) }) : t("config.length_free");
  return html`${answer?.inv_freq && html`<${Slider} id="length" label=${t("config.length")} value=${shown} least=${1} most=${most} scale="log" onValue=${(length) => choose({ length })} hint=${hint} />`}
    ${!isParameters(from?.text ?? "") && html`<div class="field"><span class="label">${t("config.compat")}</span>${seg("compat", [["5.23", "transformers 5.23", true], ["4.57", "4.57"]], compat)}</div>`}
    ${(parts.length > 0 || part !== "text") && html`<div class="field"><span class="label">${t("config.part")}</span>${seg("part", [["text", t("part.text"), true], ...parts.map((one) => [one, t(`part.${one}`)])], part)}</div>`}`;
}

/** Reads a file, or a text, that is dropped or pasted anywhere. */
function useDrop() {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    const onOver = (event) => { event.preventDefault(); setOver(true); };
    const onLeave = (event) => event.relatedTarget === null && setOver(false);
    const onDrop = async (event) => {
      event.preventDefault();
      setOver(false);
      const file = event.dataTransfer.files[0];
      const text = file ? await file.text() : event.dataTransfer.getData("text");
      if (text.trim()) chooseText(text);
    };
    const onPaste = (event) => {
      if (event.target.closest?.("input, textarea")) return;
      const text = event.clipboardData.getData("text").trim();
      if (text.startsWith("{")) chooseText(text);
      else if (text && text.length < 200 && !/\s/.test(text)) choosePreset(text);
    };
    const listeners = { dragover: onOver, dragleave: onLeave, drop: onDrop, paste: onPaste };
    for (const [name, listener] of Object.entries(listeners)) addEventListener(name, listener);
    return () => { for (const [name, listener] of Object.entries(listeners)) removeEventListener(name, listener); };
  }, []);
  return isOver;
}

function Sentence({ answer }) {
  const { language, parts } = sentence(answer);
  return html`<p class="lede verdict" lang=${language}>${parts.map(([text, isStrong]) => (isStrong ? html`<b>${text}</b>` : text))}</p>`;
}

function View() {
  useEffect(follow, []);
  const isOver = useDrop();
  const now = view.value;
  const { answer, refusal } = now;
  const title = now.source ? titleOf(now.source) : t("config.title");
  useEffect(() => { document.title = `${title} · rope`; }, [title]);
  const stale = refusal && answer ? "stale" : "";
  const draws = answer?.rotates && answer.inv_freq;
  const tab = chosen("tab").value === "numerics" ? "numerics" : "turns";
  const tabs = html`<div class="seg tabs" role="group" aria-label=${t("config.tabs")}>${["turns", "numerics"].map((name) => html`<button type="button" aria-pressed=${tab === name} onClick=${() => setState({ tab: name === "turns" ? null : name })}>${t(`config.tab_${name}`)}</button>`)}</div>`;
  return html`<div class=${`config${isOver ? " drop" : ""}`}>
    <div class=${stale}><h1>${title}</h1>${answer ? html`<${Sentence} answer=${answer} />` : html`<p class="lede">${refusal ? t("config.refused") : t("config.loading")}</p>`}</div>
    <div class="layout"><form class="panel" aria-label=${t("config.shown")} onSubmit=${(event) => event.preventDefault()}>
      <${Presets} /><${ConfigText} />${answer && html`<div class=${stale}><${Layers} /></div>`}<${Choices} />${draws && html`<div class=${stale}><${Head} /></div>`}</form>
    <div class=${stale}>
      ${answer?.warnings?.map((warning) => html`<p class="note" lang="en">${warning}</p>`)}
      ${answer && !draws && html`<p class="card">${t(answer.rotates ? "config.no_frequencies" : "config.nothing_turns")}</p>`}
      ${draws && html`${tabs}${tab === "turns" ? html`<${Waves} view=${now} name=${title} />` : html`<${Later} at="once" load=${() => import("./config-numerics.js")} view=${now} name=${title} />`}
        ${now.kinds.length > 1 && html`<${Kinds} view=${now} onLayer=${(layer) => setState({ layer }, { push: true })} />`}
        ${answer.rope.rope_type === "xpos" && html`<${Later} at="once" load=${() => import("./config-scale.js")} view=${now} name=${title} />`}
        <div class="grid2"><${Score} view=${now} name=${title} /><${Clock} view=${now} name=${title} /></div>`}
      ${answer && html`<${Later} load=${() => import("./config-sources.js")} view=${now} name=${title} />`}
    </div></div></div>`;
}

start(View);
