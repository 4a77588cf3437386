// Saves figures and their tables as files; loaded when the first one is saved.
import { language, t } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 16;
const TITLE_HEIGHT = 30;
const SOURCE_HEIGHT = 26;
const PNG_SCALE = 2;

/** Properties that an SVG file needs as attributes, because it has no style sheet. */
const INHERITED = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity",
  "stroke-linecap", "stroke-linejoin", "paint-order", "visibility", "font-family", "font-size", "font-weight",
  "font-style", "font-variant-numeric", "text-anchor", "dominant-baseline"];
const OWN = { opacity: "1", display: "inline" };

/** Save a figure as "svg", "png" or "csv". */
export async function save(form, { body, title, name, rows }) {
  const make = { csv: () => csv(rows()), svg: () => picture(body, title), png: () => png(picture(body, title)) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await make[form]());
  link.download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, "-")}.${form}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Return rows as CSV (RFC 4180), with a mark by which spreadsheets know UTF-8. */
export function csv(rows) {
  const text = rows.map((row) => row.map(quote).join(",")).join("\r\n");
  return new Blob(["\ufeff", text, "\r\n"], { type: "text/csv;charset=utf-8" });
}

function quote(cell) {
  if (cell == null) return "";
  if (typeof cell === "number" || typeof cell === "bigint") return String(cell);
  const text = /^[=+\-@\t\r]/.test(cell) && !Number.isFinite(Number(cell)) ? `'${cell}` : String(cell); // no formula
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return a figure as an SVG file: as on the screen, in light colours, with its title and source. */
export function picture(body, title) {
  const figure = body.closest("section.fig") ?? body;
  const parts = [figure.querySelector(":scope > .legend"), body].filter(Boolean);
  const box = bounds(parts);
  const width = box.width + 2 * MARGIN;
  const height = box.height + 2 * MARGIN + TITLE_HEIGHT + SOURCE_HEIGHT;
  const root = element("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height });
  const place = (rect) => [rect.left - box.left + MARGIN, rect.top - box.top + MARGIN + TITLE_HEIGHT];
  // a light copy of the figure has the colours; the figure on the screen has the places
  const sheet = document.createElement("div");
  sheet.className = "light sheet";
  const copy = figure.cloneNode(true);
  sheet.append(copy);
  figure.after(sheet);
  try {
    root.append(element("rect", { width, height, fill: getComputedStyle(sheet).getPropertyValue("--paper") }));
    root.append(heading(sheet, title), source(sheet, height));
    for (const part of parts) {
      const twin = copyOf(part, figure, copy);
      const svgs = outermost(part);
      root.append(...texts(part, twin, place), ...outermost(twin).map((svg, index) => still(svg, svgs[index], place)));
    }
  } finally {
    sheet.remove();
  }
  root.prepend(Object.assign(element("title"), { textContent: title }));
  return new Blob([new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" });
}

function element(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function bounds(parts) {
  const rects = parts.map((part) => part.getBoundingClientRect());
  const left = Math.min(...rects.map((rect) => rect.left));
  const top = Math.min(...rects.map((rect) => rect.top));
  return { left, top, width: Math.max(...rects.map((rect) => rect.right)) - left, height: Math.max(...rects.map((rect) => rect.bottom)) - top };
}

function copyOf(part, figure, copy) {
  return part === figure ? copy : copy.querySelectorAll("*")[[...figure.querySelectorAll("*")].indexOf(part)];
}

function outermost(part) {
  return [...part.querySelectorAll("svg")].filter((svg) => !svg.parentElement.closest("svg"));
}

/** Return a drawing with its styles as attributes, at the place of the one on the screen. */
function still(svg, onScreen, place) {
  for (const each of [svg, ...svg.querySelectorAll("*")]) {
    const style = getComputedStyle(each);
    const around = each === svg ? null : getComputedStyle(each.parentElement);
    for (const name of INHERITED) {
      const value = style.getPropertyValue(name);
      if (value !== around?.getPropertyValue(name) || each.hasAttribute(name)) each.setAttribute(name, value);
    }
    for (const [name, usual] of Object.entries(OWN)) {
      if (style.getPropertyValue(name) !== usual) each.setAttribute(name, style.getPropertyValue(name));
    }
  }
  for (const each of [svg, ...svg.querySelectorAll("*")]) {
    for (const name of ["class", "tabindex", "role", "style", ...each.getAttributeNames().filter((key) => key.startsWith("aria-"))]) {
      each.removeAttribute(name);
    }
  }
  const rect = onScreen.getBoundingClientRect();
  const [x, y] = place(rect);
  for (const [name, value] of Object.entries({ x, y, width: rect.width, height: rect.height, overflow: "visible" })) svg.setAttribute(name, value);
  svg.removeAttribute("display");
  return svg;
}

/** Return the HTML text beside the drawings, line by line. */
function texts(part, copy, place) {
  const found = [];
  const [walker, copies] = [part, copy].map((each) => document.createTreeWalker(each, NodeFilter.SHOW_TEXT));
  while (walker.nextNode() && copies.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (parent.closest("svg, .sr, [hidden]")) continue;
    const style = getComputedStyle(copies.currentNode.parentElement);
    for (const { text, rect } of lines(walker.currentNode)) {
      const [x, y] = place(rect);
      const at = { x, y: y + rect.height * 0.78, fill: style.color, "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight };
      found.push(Object.assign(element("text", at), { textContent: text }));
    }
  }
  return found;
}

function lines(node) {
  const found = [];
  for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
    const range = document.createRange();
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    const rect = range.getBoundingClientRect();
    const last = found.at(-1);
    if (last && Math.abs(last.rect.top - rect.top) < 2) last.text += ` ${word}`;
    else if (rect.width) found.push({ text: word, rect });
  }
  return found;
}

function heading(sheet, title) {
  const style = getComputedStyle(sheet);
  const at = { x: MARGIN, y: MARGIN + 14, fill: style.getPropertyValue("--ink"), "font-family": style.fontFamily, "font-size": "15px", "font-weight": "620" };
  return Object.assign(element("text", at), { textContent: title });
}

function source(sheet, height) {
  const style = getComputedStyle(sheet);
  const at = { x: MARGIN, y: height - MARGIN, fill: style.getPropertyValue("--ink-3"), "font-family": style.fontFamily, "font-size": "11px" };
  const file = location.pathname.split("/").at(-1) || "config.html";
  const address = `${file}${location.hash}`;
  const date = new Date().toLocaleDateString(language === "zh" ? "zh-CN" : "en-GB", { year: "numeric", month: "long", day: "numeric" });
  const shown = address.length > 90 ? `${address.slice(0, 89)}…` : address;
  return Object.assign(element("text", at), { textContent: t("figure.source", { date, address: shown }) });
}

/** Return an SVG file as a PNG file, of twice its size. */
export async function png(svg) {
  const url = URL.createObjectURL(svg);
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width * PNG_SCALE;
    canvas.height = image.height * PNG_SCALE;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  } finally {
    URL.revokeObjectURL(url);
  }
}
