// What all views share: texts in two languages, numbers, the state in the address, calls of the
// service, and the header of the page.
import { html, render, signal } from "./vendor.js";

/** Language of the page: "en" or "zh". */
export const language = chooseLanguage();

function chooseLanguage() {
  const asked = new URLSearchParams(location.search).get("lang");
  if (asked === "en" || asked === "zh") {
    localStorage.setItem("rope-language", asked);
    return asked;
  }
  const wanted = [localStorage.getItem("rope-language"), ...navigator.languages];
  const known = wanted.filter(Boolean).map((name) => name.slice(0, 2));
  return known.find((name) => name === "en" || name === "zh") ?? "en";
}

let texts = {};

/** Return the text of a key, with its `{name}` replaced by values. */
export function t(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const THIN = "\u202f";

/** Return an integer with thin spaces between thousands, and a true minus. */
export function integer(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN).replace("-", "\u2212");
}

/** Return a number with that many significant digits; powers of ten as superscripts. */
export function significant(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 && size < 1e15) return integer(value);
  if (size >= 1e-4 && size < 1e15) return String(+value.toPrecision(digits)).replace("-", "\u2212");
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const raised = [...power.replace("+", "")].map((c) => "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"["-0123456789".indexOf(c)]);
  return `${String(+mantissa).replace("-", "\u2212")}\u00d710${raised.join("")}`;
}

/** Return a short form of a large number: 8 192, 131 k, 10 M. */
export function short(value) {
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}${THIN}M`;
  if (value >= 1e4) return `${+(value / 1e3).toPrecision(3)}${THIN}k`;
  return integer(value);
}

/** The state of the view: names and values, as they stand in the fragment of the address. */
export const state = signal(readFragment());

function readFragment() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

addEventListener("hashchange", () => (state.value = readFragment()));

/** Change values of the state; null removes one. `push` makes a step that Back returns from. */
export function setState(changes, { push = false } = {}) {
  const next = Object.entries({ ...state.value, ...changes }).filter(([, value]) => value != null);
  state.value = Object.fromEntries(next.map(([name, value]) => [name, String(value)]));
  const fragment = `#${new URLSearchParams(state.value)}`;
  history[push ? "pushState" : "replaceState"](null, "", fragment);
}

/** A refusal of the service: `status`, `code`, `detail`, and `field` where it names one. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `HTTP ${status}`);
    Object.assign(this, { status, code: problem.code, detail: this.message, problem });
  }
}

/** Call a route below the service's own address and return its JSON; `body` makes it a POST.

    Throws a Refusal where the service refuses, and a TypeError where it does not answer. */
export async function ask(path, body, { signal: aborted } = {}) {
  const options = { signal: aborted, headers: { accept: "application/json" } };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    options.headers["content-type"] = "application/json";
  }
  const response = await fetch(new URL(`../${path}`, location.href), options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, answer);
  return answer;
}

/** Phase of the service, as /readyz answers it; "" before the first answer. */
export const phase = signal("");

function Phase() {
  return html`<span class="dot ${phase.value}"></span>${t(`phase.${phase.value || "unknown"}`)}`;
}

async function readPhase() {
  const response = await fetch("../readyz").catch(() => null);
  phase.value = response ? (await response.json()).status : "gone";
}

/** Keys of all texts that begin like that, in their order. */
export function textKeys(prefix) {
  return Object.keys(texts).filter((key) => key.startsWith(prefix));
}

/** Load the texts and show a view in the page. A view that sets `phase` itself says `phase: false`. */
export async function start(View, { phase: readsPhase = true } = {}) {
  texts = await (await fetch(`i18n/${language}.json`)).json();
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = t(element.dataset.text);
  }
  const link = document.getElementById("language");
  link.href = `?lang=${language === "zh" ? "en" : "zh"}`;
  link.lang = language === "zh" ? "en" : "zh";
  link.textContent = language === "zh" ? "English" : "中文";
  link.addEventListener("click", () => (link.hash = location.hash));
  const main = document.getElementById("main");
  main.replaceChildren();
  render(html`<${View} />`, main);
  render(html`<${Phase} />`, document.getElementById("phase"));
  if (readsPhase) readPhase();
}
