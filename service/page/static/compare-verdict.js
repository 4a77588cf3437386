// The first sentences: what the comparison, or else the diagnosis, has found.
import { html } from "./vendor.js";
import { integer, language, significant, t } from "./page.js";
import { largestError, numbersOf, verdictOf } from "./compare-numbers.js";
import { sentenceOf } from "./compare-source-card.js";

/** Heading and first sentence of the view. */
export function Verdict({ found, diagnosis }) {
  const [title, lede, english] = found?.sentences ?? (found ? ofComparison(found) : diagnosis?.answer ? ofDiagnosis(diagnosis) : [t("compare.title"), t("compare.what")]);
  return html`<h1>${title}</h1><p class="lede" lang=${english ? "en" : undefined}>${strong(lede)}</p>`;
}

/** Show what stands between ** in bold. */
export function strong(text) {
  return text.split("**").map((part, index) => (index % 2 ? html`<b>${part}</b>` : part));
}

function ofComparison({ answer, refusal, a, b, curve }) {
  if (refusal) return [t("compare.refused"), sentenceOf(refusal), Boolean(refusal.detail)];
  const verdict = verdictOf(answer);
  if (verdict === "equal") {
    const names = answer.differences.map(({ parameter }) => parameter).join(", ");
    return [t("compare.equal"), names ? t("compare.equal.although", { names }) : t("compare.equal.text")];
  }
  if (verdict === "rounding") return [t("compare.rounding"), roundingOf(answer)];
  if (verdict === "permuted") return [t("compare.permuted"), t("compare.permuted.text", { a: a.rope.layout, b: b.rope.layout })];
  return [headingOf(answer), differenceOf(answer, a, b, curve)];
}

function roundingOf(answer) {
  const error = largestError(answer);
  const rounds = answer.differences.filter(({ parameter }) => parameter === "arithmetic" || parameter === "rounding");
  const names = rounds.map(({ parameter, rope, other }) => `${parameter} ${rope} / ${other}`).join(", ");
  if (answer.first_position !== null) return t("compare.rounding.from", { position: integer(answer.first_position) });
  return [error ? t("compare.rounding.frequencies", { error: significant(error, 2) }) : t("compare.rounding.none"), names && t("compare.rounding.names", { names })].filter(Boolean).join(language === "zh" ? "" : " ");
}

/** Parameters in the order in which they say most. */
const ORDER = ["rotates", "head_dim", "rotary_dim", "rope_type", "theta", "layout", "axes", "trailing", "negative", "factor", "mrope_section", "attention_scaling"];

/** Return what differs most, in words. */
export function causeOf({ differences }) {
  const place = ({ parameter }) => (ORDER.includes(parameter) ? ORDER.indexOf(parameter) : ORDER.length);
  const [first] = [...differences].sort((one, other) => place(one) - place(other));
  if (!first) return "";
  const { parameter, rope, other } = first;
  const values = { parameter, a: valueText(rope), b: valueText(other) };
  if (parameter === "rotates") return t(rope ? "compare.cause.only_a" : "compare.cause.only_b");
  if (parameter === "rope_type" && other === "default") return t("compare.cause.unscaled", { side: "B", type: rope });
  if (parameter === "rope_type" && rope === "default") return t("compare.cause.unscaled", { side: "A", type: other });
  return t(["rope_type", "theta", "layout", "rotary_dim", "head_dim"].includes(parameter) ? `compare.cause.${parameter}` : "compare.cause.other", values);
}

function headingOf(answer) {
  const values = { position: integer(answer.first_position ?? 0), cause: causeOf(answer) };
  return t(answer.first_position === null ? "compare.different" : "compare.different.from", values);
}

function differenceOf(answer, a, b, curve) {
  const [own, other] = [numbersOf(answer.inv_freq), numbersOf(answer.inv_freq_other)];
  const count = Math.min(own.length, other.length);
  const parts = [];
  if (count) {
    const turning = own.slice(0, count).filter((value, i) => Math.abs(value - other[i]) > 1e-9 * Math.abs(value)).length;
    const key = turning === 0 ? "compare.pairs.none" : turning === count ? "compare.pairs.all" : "compare.pairs";
    parts.push(t(key, { turning, count }));
    if (own.length !== other.length) parts.push(t("compare.pairs.widths", { a: own.length, b: other.length }));
  }
  if (curve?.values.length) parts.push(t("compare.agrees_to", { list: listOf(curve.values.map(({ position, value }) => t("compare.agrees_at", { value: value.toFixed(2).replace("-", "\u2212"), position: integer(position) }))) }));
  const gains = [a, b].map((each) => each.attention_scaling ?? 1);
  if (Math.abs(gains[0] - gains[1]) > 1e-6) parts.push(t("compare.gains", { a: significant(gains[0]), b: significant(gains[1]) }));
  parts.push(t("compare.silent"));
  return parts.join(language === "zh" ? "" : " ");
}

/** Join a list by the comma of the language. */
export const listOf = (items) => items.join(language === "zh" ? "、" : ", ");

/** Return a value of a parameter as text. */
export function valueText(value) {
  if (value === null || value === undefined) return "—";
  if (typeof value === "number") return Number.isInteger(value) ? integer(value) : significant(value, 6);
  if (typeof value === "boolean") return t(value ? "compare.yes" : "compare.no");
  if (Array.isArray(value)) return value.length > 12 ? t("compare.list", { count: value.length }) : `[${value.map(valueText).join(", ")}]`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Return the name of a mistake, with what the wrong code has. */
export function mistakeName({ code, parameters }) {
  return t(`mistake.${code}`, Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, valueText(value)])));
}

/** Heading and sentence of a diagnosis. */
export function ofDiagnosis({ answer }) {
  const { verdict, error, explanations } = answer;
  const relative = error.relative === null ? "—" : significant(error.relative, 2);
  if (verdict === "agrees") return [t(answer.next_probe ? "diagnose.agrees.weak" : "diagnose.agrees"), t("diagnose.agrees.text", { error: relative, tolerance: significant(error.tolerance, 2) })];
  if (verdict === "unexplained") return [t("diagnose.unexplained"), t("diagnose.unexplained.text", { error: relative })];
  const [best, next] = explanations;
  const names = (each) => each.mistakes.map(mistakeName).join(t("diagnose.and"));
  const heading = t("diagnose.explained", { names: names(best) });
  const first = error.first_position === null ? "" : t("diagnose.first", { position: integer(error.first_position) });
  const text = [t("diagnose.residual", { residual: significant(best.relative_error, 2), error: relative }), first, next && t("diagnose.also", { names: names(next), residual: significant(next.relative_error, 2) })];
  return [heading, text.filter(Boolean).join(language === "zh" ? "" : " ")];
}
