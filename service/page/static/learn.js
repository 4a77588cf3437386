// Learn: seven lessons. The text stands in learn.html and learn-zh.html; this module shows one lesson
// at a time and loads what makes its figures move.
import { html, render } from "./vendor.js";
import { language, setState, start, state, wanted } from "./page.js";

const MODULES = ["circle", "turn", "distance", "clocks", "score", "stretch", "space"];

const sections = [...document.querySelectorAll(".lesson")];
const steps = [...document.querySelectorAll(".steps a")];
const kept = new Map(); // state of each lesson that was left
const mounted = new Set();
let shown = 0;

/** Number of the lesson in the address: `#lesson=3`, or `#lesson-3` as without JavaScript. */
function lessonOf(values) {
  const name = values.lesson ?? Object.keys(values).find((key) => key.startsWith("lesson-"))?.slice(7);
  const number = Math.round(Number(name));
  return number >= 1 && number <= MODULES.length ? number : 1;
}

/** Show a lesson, and load its figures when it is shown first. */
async function show(number) {
  if (number === shown) return;
  shown = number;
  sections.forEach((section, index) => section.classList.toggle("shown", index + 1 === number));
  steps.forEach((link, index) => {
    if (index + 1 === number) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  });
  const current = steps[number - 1];
  current.parentElement.parentElement.scrollLeft = current.offsetLeft - 16; // the list lies flat on a phone
  const section = sections[number - 1];
  document.title = `${section.querySelector("h2").textContent} · rope`;
  if (mounted.has(number)) return;
  const module = await import(`./learn/${MODULES[number - 1]}.js`).catch(() => null);
  if (!module || mounted.has(number)) return; // no answer: the next visit of the lesson asks again
  mounted.add(number);
  const { parts } = module;
  for (const place of section.querySelectorAll("[data-part]")) {
    const Part = parts[place.dataset.part];
    if (Part) render(html`<${Part} />`, place);
  }
  section.dataset.ready = "";
}

/** Go to a lesson: a step that Back returns from. What was set in the lesson that is left is kept. */
function go(number) {
  const { lesson, ...values } = state.value;
  kept.set(shown, values);
  const none = Object.fromEntries(Object.keys(state.value).map((name) => [name, null]));
  setState({ ...none, lesson: number, ...kept.get(number) }, { push: true });
}

function onClick(event) {
  const link = event.target.closest('a[href^="#lesson-"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(Number(link.hash.slice(8)));
  if (link.closest(".turns")) {
    const heading = sections[shown - 1].querySelector("h2");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

const MOVES = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, Home: -Infinity, End: Infinity };

/** In the list of lessons arrows go to the neighbours, Home and End to the ends. */
function onKey(event) {
  const index = steps.indexOf(event.target);
  if (index < 0 || !(event.key in MOVES) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const to = Math.max(0, Math.min(steps.length - 1, index + MOVES[event.key]));
  steps[to].focus();
  go(to + 1);
}

/** Other views choose their language by what the reader wants: name the one of this file. */
function keepLanguage() {
  for (const link of document.querySelectorAll('.tabs a:not([aria-current]), .turns a[href$=".html"]')) {
    link.search = `lang=${language}`;
  }
}

async function open() {
  document.getElementById("main").classList.add("alive");
  sections[lessonOf(state.value) - 1].classList.add("shown");
  await start(null);
  if (wanted !== language) keepLanguage();
  addEventListener("click", onClick);
  addEventListener("keydown", onKey);
  state.subscribe((values) => show(lessonOf(values)));
}

// The text of a file is in one language: move to the other file where the reader wants the other one.
const chosenHere = new URLSearchParams(location.search).has("lang");
if (wanted !== language && (language === "en" || chosenHere)) {
  location.replace(`${wanted === "zh" ? "learn-zh" : "learn"}.html${location.search}${location.hash}`);
} else {
  open();
}
