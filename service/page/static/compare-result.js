// What differs between two ropes: figures, first positions, parameters, permutation, self-test.
import { html, useEffect, useState } from "./vendor.js";
import { integer, t } from "./page.js";
import { cosineAt, cosineTerms, curveOf, firstAngle, lastOf, lengthsOf, ratiosOf, verdictOf } from "./compare-numbers.js";
import { CosineFigure, RatioFigure } from "./compare-figures.js";
import { valueText } from "./compare-verdict.js";

/** All that is below the two sources. */
export function Result({ found, onCurve }) {
  const verdict = verdictOf(found.answer);
  const curve = useCurve(found, onCurve);
  return html`${verdict === "different" && html`<${Positions} found=${found} curve=${curve} />`}
    ${(verdict === "different" || verdict === "permuted") && html`<div class="grid2 figures">
      ${ratiosOf(found.answer).some((ratio) => ratio !== null && Math.abs(ratio - 1) > 1e-9) && html`<${RatioFigure} found=${found} />`}
      ${curve && html`<${CosineFigure} found=${found} curve=${curve} />`}</div>`}
    ${found.answer.permutation && html`<${Permutation} order=${found.answer.permutation} />`}
    <${Parameters} found=${found} />
    <${SelfTest} found=${found} />`;
}

/** The curve of cosines; it is computed in steps, so it is null for a moment. Undefined: there is none. */
function useCurve(found, onCurve) {
  const [curve, setCurve] = useState(null);
  useEffect(() => {
    let isCurrent = true;
    setCurve(null);
    const terms = cosineTerms(found.a, found.b);
    if (terms === null) {
      setCurve(undefined);
      return undefined;
    }
    const marks = lengthsOf(found);
    const last = lastOf(terms, Math.max(...marks.map(({ position }) => position), 1024) === 1024 ? 65_536 : marks.at(-1).position);
    curveOf(terms, last).then((computed) => {
      if (!isCurrent) return;
      const positions = [...new Set([1000, ...marks.map(({ position }) => position)])].filter((position) => position <= last).sort((one, other) => one - other);
      const values = positions.map((position) => ({ position, value: cosineAt(terms, position) }));
      const next = { ...computed, last, values, terms };
      setCurve(next);
      onCurve(found, next);
    });
    return () => (isCurrent = false);
  }, [found.answer]);
  return curve;
}

function Positions({ found, curve }) {
  const rows = [["cosine", found.answer.first_position], ["angle", firstAngle(found.answer)], ...(curve === undefined ? [] : [["vector", curve?.below]])];
  return html`<section class="firsts" aria-label=${t("compare.firsts")}><h2>${t("compare.firsts")}</h2><dl>${rows.map(([name, position]) => html`<div><dt>${t(`compare.first.${name}`)}</dt><dd>${position === undefined ? "…" : position === null ? t("compare.first.never") : integer(position)}</dd></div>`)}</dl></section>`;
}

/** A text with a button that copies it. */
export function Copy({ text, label }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => setCopied(true), () => {});
  return html`<button type="button" onClick=${copy} aria-label=${label}>${t("figure.copy")}</button><output class="cap">${copied ? t("figure.copied") : ""}</output>`;
}

/** The order of channels that makes B of A. */
export function Permutation({ order }) {
  const text = `[${order.join(", ")}]`;
  return html`<section class="fig" aria-labelledby="permutation"><h2 id="permutation">${t("compare.permutation")}</h2>
    <p class="cap">${t("compare.permutation.text")}</p>
    <div class="command"><pre tabindex="0"><code>p = ${text}</code></pre><${Copy} text=${text} label=${t("compare.permutation.copy")} /></div></section>`;
}

function SelfTest({ found }) {
  const { trained, allowed } = Object.fromEntries(lengthsOf(found).flatMap(({ position, name }) => (name === "trained_allowed" ? [["trained", position], ["allowed", position]] : [[name, position]])));
  const positions = [0, 1, 7, trained - 1, trained, allowed - 1].filter((position) => position >= 0);
  const sorted = [...new Set(positions)].sort((one, other) => one - other);
  return html`<section class="fig" aria-labelledby="selftest"><h2 id="selftest">${t("compare.selftest")}</h2>
    <div class="command"><pre tabindex="0"><code>${sorted.join(", ")}</code></pre><${Copy} text=${`[${sorted.join(", ")}]`} label=${t("compare.selftest.copy")} /></div>
    <p class="cap">${t("compare.selftest.text")}</p></section>`;
}

/** Names that a config has for parameters. */
const IN_CONFIG = { theta: "rope_theta", rotary_dim: "partial_rotary_factor", attention_scaling: "attention_factor", trained: "original_max_position_embeddings", allowed: "max_position_embeddings" };

function originOf(resolved, name) {
  const known = [name, IN_CONFIG[name]].find((each) => each in (resolved.provenance ?? {}));
  const kind = known ? resolved.provenance[known] : name in (resolved.rope ?? {}) ? "default" : "";
  const why = known && resolved.why[known];
  return { kind, why: why === "default" ? "" : why };
}

function Origin({ resolved, name, value }) {
  if (value === undefined || value === null) return "—";
  const { kind, why } = originOf(resolved, name);
  return kind && html`<span class=${`chip ${kind.split(" ")[0]}`}>${t(`compare.origin.${kind}`)}</span> <span class="why">${why}</span>`;
}

function Parameters({ found }) {
  const { answer, a, b } = found;
  const valuesOf = (resolved) => ({ ...resolved.rope, ...(resolved.rope ? { attention_scaling: resolved.attention_scaling } : {}), ...(resolved.lengths?.trained ? { trained: resolved.lengths.trained } : {}), ...(resolved.lengths?.allowed ? { allowed: resolved.lengths.allowed } : {}) });
  const [own, other] = [valuesOf(a), valuesOf(b)];
  const differing = answer.differences.map(({ parameter, rope, other: value }) => [parameter, rope, value]);
  const named = new Set(differing.map(([name]) => name));
  const rest = [...new Set([...Object.keys(own), ...Object.keys(other)])].filter((name) => !named.has(name) && name !== "inv_freq");
  const isEqual = (name) => JSON.stringify(own[name] ?? null) === JSON.stringify(other[name] ?? null);
  differing.push(...rest.filter((name) => !isEqual(name) && ["trained", "allowed"].includes(name)).map((name) => [name, own[name], other[name]]));
  const equal = rest.filter((name) => isEqual(name) && own[name] !== null).map((name) => [name, own[name], other[name]]);
  const row = ([name, x, y], kind) => html`<tr class=${kind}><th scope="row"><code>${name}</code></th><td class="num own">${valueText(x)}</td><td class="num other">${valueText(y)}</td>
    <td><${Origin} resolved=${a} name=${name} value=${x} /></td><td><${Origin} resolved=${b} name=${name} value=${y} /></td></tr>`;
  const head = html`<thead><tr><th scope="col">${t("compare.parameter")}</th><th scope="col" class="num">A</th><th scope="col" class="num">B</th><th scope="col">${t("compare.from", { side: "A" })}</th><th scope="col">${t("compare.from", { side: "B" })}</th></tr></thead>`;
  return html`<section class="fig parameters" aria-labelledby="parameters"><h2 id="parameters">${t("compare.parameters")}</h2>
    ${differing.length ? html`<div class="wide" tabindex="0" role="group" aria-label=${t("compare.parameters")}><table>${head}<tbody>${differing.map((each) => row(each, "differs"))}</tbody></table></div>` : html`<p class="cap">${t("compare.parameters.none")}</p>`}
    ${equal.length > 0 && html`<details><summary>${t("compare.parameters.equal", { count: equal.length })}</summary><div class="wide" tabindex="0" role="group" aria-label=${t("compare.parameters.equal", { count: equal.length })}><table>${head}<tbody>${equal.map((each) => row(each, "alike"))}</tbody></table></div></details>`}</section>`;
}
