// Where each value of the config view comes from, which keys are ignored, and the answer as it is.
import { html, useMemo } from "./vendor.js";
import { integer, significant, t } from "./page.js";
import { Command } from "./figure.js";
import { curl, parse, textOf } from "./config-data.js";

/** Return the value at a path of the config, such as text_config.rope_scaling.factor. */
function valueAt(config, path) {
  if (config && path in config) return config[path];
  const [first, ...rest] = path.split(".");
  const below = config?.[first];
  return rest.length && below && typeof below === "object" ? valueAt(below, rest.join(".")) : undefined;
}

function show(value) {
  if (value === undefined || value === null) return "—";
  if (typeof value === "number") return Number.isInteger(value) && Math.abs(value) < 1e15 ? integer(value) : significant(value, 7);
  if (Array.isArray(value)) {
    if (value.length > 4 && value.every((one) => typeof one === "number")) return t("config.list", { n: value.length, first: significant(value[0]), last: significant(value.at(-1)) });
    return value.length > 4 ? t("config.entries", { n: value.length }) : value.map(show).join(", ");
  }
  return typeof value === "object" ? t("config.entries", { n: Object.keys(value).length }) : String(value);
}

/** The table of sources, the ignored keys and the raw answer. */
export default function Sources({ view: { answer, source }, name }) {
  const config = useMemo(() => parse(textOf(source)) ?? {}, [source, answer]);
  const { provenance = {}, why = {}, parameters = {}, rope = {}, keys_ignored: ignored = [], position_keys_not_applied: missed = [] } = answer;
  const value = (key) => parameters[key] ?? (rope ?? {})[key] ?? valueAt(config, why[key] ?? key) ?? (key === "rope_theta" ? rope?.theta : undefined);
  const derived = rope && answer.rotates ? [["layout", rope.layout, ""], ["attention_scaling", answer.attention_scaling, "derived"], ["softmax_scale", answer.softmax_scale, "derived"]].filter(([key, one]) => !(key in provenance) && one != null) : [];
  const rows = [...Object.keys(provenance).map((key) => [key, value(key), provenance[key], why[key] ?? ""]), ...derived.map(([key, one, from]) => [key, one, from, ""])];
  const chip = (from) => from && html`<span class=${`chip ${from === "given" ? "given" : from === "derived" ? "derived" : "class"}`}>${t(`from.${from}`)}</span>`;
  return html`<section class="fig" aria-labelledby="sources"><div class="fig-head"><h2 id="sources">${t("config.sources")}</h2></div>
    ${rows.length ? html`<div class="wide"><table id="prov"><thead><tr><th>${t("config.parameter")}</th><th class="num">${t("config.value")}</th><th>${t("config.from")}</th><th>${t("config.why")}</th></tr></thead>
      <tbody>${rows.map(([key, one, from, reason]) => html`<tr><td><code>${key}</code></td><td class="num">${show(one)}</td><td>${chip(from)}</td><td class="why" lang="en">${reason}</td></tr>`)}</tbody></table></div>` : html`<p class="cap">${t("config.no_sources")}</p>`}</section>
    ${missed.length > 0 && html`<section class="fig"><h2>${t("config.missed")}</h2><p class="keys">${missed.map((key) => html`<code class="chip class">${key}</code> `)}</p><p class="cap">${t("config.missed_note")}</p></section>`}
    <section class="fig"><h2>${t("config.ignored")}</h2>${ignored.length ? html`<p class="keys">${ignored.slice(0, 200).map((key) => html`<code class="chip">${key}</code> `)}</p>` : html`<p class="cap">${t("config.none_ignored")}</p>`}</section>
    <details><summary>${t("config.raw")}</summary><${Command} text=${curl()} /><pre class="raw" tabindex="0">${JSON.stringify(answer, null, 1).replace(/\[\s+([^\][{}]*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s+/g, " ")}]`).slice(0, 60_000)}</pre></details>`;
}
