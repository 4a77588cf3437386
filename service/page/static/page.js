// What all views share: texts in two languages, numbers, the state in the address, calls of the
// service, and the header of the page.
import { effect, html, render, signal } from "./vendor.js";

// --- Language and texts

/** Language that the reader wants: "en" or "zh". */
export const wanted = chooseLanguage();

/** Language of the page; an HTML file with its text in one language names it. */
export const language = document.documentElement.dataset.language ?? wanted;

function chooseLanguage() {
  const named = new URLSearchParams(location.search).get("lang");
  if (named === "en" || named === "zh") {
    store("localStorage", "rope-language", named);
    return named;
  }
  const names = [stored("localStorage", "rope-language"), ...navigator.languages];
  const known = names.filter(Boolean).map((name) => name.slice(0, 2));
  return known.find((name) => name === "en" || name === "zh") ?? "en";
}

/** Return a stored text; null where there is none, or where the browser keeps nothing. */
function stored(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

function store(storage, name, text) {
  try {
    if (text === null) window[storage].removeItem(name);
    else window[storage].setItem(name, text);
  } catch {
    // the browser keeps nothing: the choice holds for this view
  }
}

let texts = {};
const loading = loadTexts(); // before the first view is drawn, while other files load

async function loadTexts() {
  for (let pause = 500; ; pause *= 2) {
    try {
      return await (await fetch(`i18n/${language}.json`)).json();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pause)); // the service starts, perhaps
    }
  }
}

/** Return the text of a key, with its `{name}` replaced by values. */
export function t(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Return the keys of all texts that begin with a prefix, in their order. */
export function textKeys(prefix) {
  return Object.keys(texts).filter((key) => key.startsWith(prefix));
}

// --- Numbers

const THIN = "\u202f";
const MINUS = "\u2212";
const NONE = "\u2014";
const SUPERSCRIPTS = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

/** Return an integer with thin spaces between thousands, and a true minus. */
export function integer(value) {
  if (value == null) return NONE;
  return String(typeof value === "bigint" ? value : Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN).replace("-", MINUS);
}

/** Return a number with that many significant digits; integers of four digits and more are whole,
    and very large and small numbers have a power of ten. */
export function significant(value, digits = 4) {
  if (value == null) return NONE;
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value < 0 ? `${MINUS}\u221e` : "\u221e";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 10 ** (digits - 1) && size < 1e15) return integer(value);
  if (size >= 1e-4 && size < 1e15) return String(+value.toPrecision(digits)).replace("-", MINUS);
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const raised = [...power.replace("+", "")].map((c) => SUPERSCRIPTS["-0123456789".indexOf(c)]);
  return `${String(+mantissa).replace("-", MINUS)}\u00d710${raised.join("")}`;
}

const UNITS = [[1e9, "G"], [1e6, "M"], [1e4, "k"]];

/** Return a short form of a number, for axes: 0.5, 8 192, 131 k, 10 M. */
export function short(value) {
  const size = Math.abs(value);
  const unit = UNITS.find(([least]) => size >= least && size < 1e15);
  if (!unit) return significant(value);
  const factor = unit[1] === "k" ? 1e3 : unit[0];
  return `${String(+(value / factor).toPrecision(3)).replace("-", MINUS)}${THIN}${unit[1]}`;
}

// --- State in the address

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
  history[push ? "pushState" : "replaceState"](null, "", fragment === "#" ? location.pathname + location.search : fragment);
}

// --- Calls of the service

/** A refusal of the service: `status`, `code`, `detail`, and the whole `problem` document. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `HTTP ${status}`);
    Object.assign(this, { status, code: problem.code, detail: this.message, problem });
  }
}

/** The API key of this tab, null without one. It is kept until the tab is closed. */
export const apiKey = signal(stored("sessionStorage", "rope-key"));

/** Whether calls wait for an API key: "" no, "needed", or "refused" after a wrong one. */
export const keyWanted = signal("");

/** Set the API key, or forget it with null. Calls that wait for one are sent again. */
export function setKey(key) {
  store("sessionStorage", "rope-key", key);
  keyWanted.value = "";
  apiKey.value = key;
}

/** Return headers for calls of the service, with the API key if there is one. */
export function authorized(headers = {}) {
  return apiKey.value ? { ...headers, authorization: `Bearer ${apiKey.value}` } : headers;
}

/** Fetch a path below the service's own address, with the API key; return the response.

    A call that needs a key waits until a person has entered one. */
export async function request(path, options = {}) {
  for (;;) {
    const key = apiKey.value;
    const response = await fetch(new URL(`../${path}`, location.href), { ...options, headers: authorized(options.headers) });
    if (response.status !== 401) return response;
    if (key === apiKey.value) {
      keyWanted.value = key ? "refused" : "needed";
      await nextKey(key, options.signal);
    }
  }
}

function nextKey(key, aborted) {
  return new Promise((resolve, reject) => {
    const stop = apiKey.subscribe((value) => value !== key && settle(resolve));
    const settle = (finish, reason) => {
      queueMicrotask(() => stop());
      finish(reason);
    };
    aborted?.addEventListener("abort", () => settle(reject, aborted.reason), { once: true });
  });
}

/** Call a route below the service's own address and return its JSON. `body` makes it a POST: a text
    is sent as it is, anything else as JSON.

    Throws a Refusal where the service refuses, and a TypeError where it does not answer. */
export async function ask(path, body, { signal: aborted } = {}) {
  const options = { signal: aborted, headers: { accept: "application/json" } };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) });
    options.headers["content-type"] = "application/json";
  }
  const response = await request(path, options);
  if (!response.ok) throw new Refusal(response.status, await response.json().catch(() => ({})));
  return response.json();
}

// --- Phase of the service

/** Phase of the service, as /readyz answers it; "" before the first answer, "gone" without one. */
export const phase = signal("");

/** Name of the device that computes; "" before the first answer. */
export const device = signal("");

const POLL_MS = 10_000;
const MOST_MS = 30_000;

async function readPhase() {
  try {
    const response = await fetch("../readyz", { signal: AbortSignal.timeout(5_000) });
    phase.value = (await response.json()).status ?? "gone";
    device.value = response.headers.get("x-rope-device") ?? "";
  } catch {
    phase.value = "gone";
  }
}

/** Call `work` at once and then again and again, while the page is visible.

    `work` returns the milliseconds to the next call, or a promise of them. Returns a function that
    stops the calls, also where one is running. */
export function poll(work) {
  let timer = 0;
  let running = false;
  let stopped = false;
  const turn = async () => {
    clearTimeout(timer);
    if (running || document.hidden) return;
    running = true;
    const pause = await work();
    running = false;
    if (!stopped && !document.hidden) timer = setTimeout(turn, pause);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", turn);
  };
}

let failures = 0;

async function pollPhase() {
  await readPhase();
  failures = phase.value === "gone" ? failures + 1 : 0;
  if (failures) return Math.min(2 ** failures * 1_000, MOST_MS);
  return phase.value === "ready" ? POLL_MS : 2_000;
}

function Phase() {
  const name = phase.value || "unknown";
  const where = device.value && name !== "gone" ? ` · ${device.value}` : "";
  return html`<span class="dot ${name.replace(/ /g, "-")}"></span>${t(`phase.${name}`)}<span class="device">${where}</span>`;
}

// --- The view

/** Load the texts and show a view in the page; null leaves the content of the HTML file.

    `phase: false` leaves it to the view to set `phase`. */
export async function start(View, { phase: polls = true } = {}) {
  texts = await loading;
  translateHeader();
  if (View) {
    const main = document.getElementById("main");
    main.replaceChildren();
    render(html`<${View} />`, main);
  }
  const place = document.getElementById("phase");
  place.setAttribute("role", "status");
  render(html`<${Phase} />`, place);
  if (polls) poll(pollPhase);
  effect(() => void ((keyWanted.value || apiKey.value) && import("./key.js").then((key) => key.show())));
}

function translateHeader() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = t(element.dataset.text);
  }
  const tabs = document.querySelector("nav.tabs");
  tabs.setAttribute("aria-label", t("shell.views"));
  if (!document.documentElement.dataset.language) {
    const view = tabs.querySelector("[aria-current]").textContent;
    document.title = t("shell.page", { view });
  }
  const link = document.getElementById("language");
  const other = language === "zh" ? "en" : "zh";
  link.href = `${link.dataset.page ?? ""}?lang=${other}`;
  link.lang = link.hreflang = other === "zh" ? "zh-Hans" : "en";
  link.textContent = t("shell.language");
  link.addEventListener("click", () => (link.hash = location.hash));
}
