// The five rows of Live over one axis of time, and the crosshair that runs through all of them.
import { area, html, line, scaleLinear, scaleLog, useMemo } from "./vendor.js";
import { choose, chosen, decades, Figure, Plot, useWidth } from "./figure.js";
import { integer, significant, t } from "./page.js";
import { quantile } from "./live-data.js";
import { bound, brief, bytes, minute, percent, plural, rate, span, time, utc } from "./live-format.js";

const ROWS = { requests: 120, latency: 216, queue: 84, device: 84, runs: 84 };
const TITLE = 26;
const GAP = 12;
const SHADES = 8;
const STEPS = [5, 10, 15, 30, 60, 120, 180, 300];

/** Seconds of a bin, so that a column of the heat map is a few pixels wide. */
function binSize(seconds, width) {
  return [1, 2, 5, 10, 15, 30].find((size) => (width * size) / seconds >= 5.5) ?? 60;
}

/** Everything that does not depend on the chosen time: bins, scales, places of rows. */
function layOut(recent, seconds, width) {
  const wide = width >= 560;
  const left = wide ? 58 : 46;
  const right = width - (wide ? 124 : 6);
  const end = recent.answer.until;
  const bins = recent.bins(seconds, binSize(seconds, right - left));
  const x = scaleLinear().domain([end - seconds, end]).range([left, right]);
  const inside = (second) => x(Math.max(end - seconds, Math.min(end, second)));
  const places = bins.map((bin) => ({ ...bin, x0: inside(bin.from), x1: inside(bin.to), x: (inside(bin.from) + inside(bin.to)) / 2 }));
  const rows = {};
  let top = 0;
  for (const [name, height] of Object.entries(ROWS)) {
    rows[name] = { name, top: top + TITLE, bottom: top + TITLE + height };
    top += TITLE + height + GAP;
  }
  let memory = 0;
  for (const bin of places) bin.memory_bytes = memory = bin.memory_bytes || (bin.known ? memory : 0);
  return { recent, seconds, wide, left, right, width, height: top + 14, end, x, bins: places, rows, scales: scalesOf(recent, places, rows) };
}

function scalesOf(recent, bins, rows) {
  const { answer } = recent;
  const most = (value, least) => Math.max(least, ...bins.map(value));
  const linear = (row, top) => scaleLinear().domain([0, top]).range([row.bottom, row.top]);
  const filled = bins.flatMap(({ latency }) => [latency.findIndex(Boolean), latency.findLastIndex(Boolean)]).filter((index) => index >= 0);
  const { bounds } = answer;
  const edge = (index) => bounds[index] ?? 1.5 * bounds.at(-1);
  let low = filled.length ? 10 ** Math.floor(Math.log10(edge(Math.min(...filled) - 1) * 1.001)) : 1e-3;
  if (filled.length && Math.min(...filled) === 0) low = bounds[0] / 2;
  const high = filled.length ? 10 ** Math.ceil(Math.log10(edge(Math.max(...filled)) * 0.999)) : 1;
  low = Math.min(low, high / 100);
  const depth = most((bin) => bin.depth, 0);
  const limit = answer.limits.queue_calls;
  const limitShown = limit <= 5 * Math.max(4, depth);
  return {
    requests: linear(rows.requests, 1.12 * most((bin) => rateOf(bin, bin.requests), 3)),
    latency: scaleLog().domain([low, high]).range([rows.latency.bottom, rows.latency.top]).clamp(true),
    queue: linear(rows.queue, limitShown ? 1.15 * limit : 1.3 * Math.max(3, depth)),
    limitShown,
    device: linear(rows.device, 1),
    runs: linear(rows.runs, 1.15 * most((bin) => (bin.runs ? bin.calls / bin.runs : 0), 2)),
    tokens: linear(rows.runs, 1.15 * most((bin) => rateOf(bin, bin.tokens), 1)),
    edge,
  };
}

const rateOf = (bin, count) => count / Math.max(1, bin.known);
const busyOf = (bin, lanes) => Math.min(1, rateOf(bin, bin.busy_s) / lanes);

function Frame({ plan, row, unit, at, form, note }) {
  const { left, right } = plan;
  const y = plan.scales[row.name];
  return html`<text x=${left} y=${row.top - 11} class="t1">${t(`live.row.${row.name}`)}${unit && plan.wide && html`<tspan class="t3" dx="8" font-weight="400">${unit}</tspan>`}</text>
    ${note && plan.wide && html`<text x=${right} y=${row.top - 11} text-anchor="end" class="t3">${note}</text>`}
    ${at.map((value) => html`<line x1=${left} x2=${right} y1=${y(value)} y2=${y(value)} stroke="var(--grid)" /><text x=${left - 8} y=${y(value) + 4} text-anchor="end">${form(value)}</text>`)}`;
}

const Base = ({ plan, row }) => html`<line x1=${plan.left} x2=${plan.right} y1=${row.bottom} y2=${row.bottom} stroke="var(--ink-3)" />`;

const known = (bin) => bin.known > 0;

function Trace({ plan, y, kind, value, defined = known, width = 1.8, dash }) {
  const d = line().defined(defined).x((bin) => bin.x).y((bin) => y(value(bin)))(plan.bins);
  return html`<path d=${d} fill="none" stroke="var(--${kind})" stroke-width=${width} stroke-linejoin="round" stroke-linecap="round" stroke-dasharray=${dash} />`;
}

function Fill({ plan, y, kind, low = () => 0, high, opacity, defined = known }) {
  const d = area().defined(defined).x((bin) => bin.x).y0((bin) => y(low(bin))).y1((bin) => y(high(bin)))(plan.bins);
  return html`<path d=${d} fill="var(--${kind})" fill-opacity=${opacity} />`;
}

function Empty({ plan, row, text }) {
  const from = plan.bins.find(known)?.x0 ?? plan.left;
  if (plan.right - from < 130) return null;
  return html`<text x=${(from + plan.right) / 2} y=${(row.top + row.bottom) / 2 + 4} text-anchor="middle" class="t3">${text}</text>`;
}

function Requests({ plan, isEmpty }) {
  const row = plan.rows.requests;
  const y = plan.scales.requests;
  const upTo = (...names) => (bin) => rateOf(bin, names.reduce((sum, name) => sum + bin[name], 0));
  const answered = upTo("answered");
  const wrong = upTo("answered", "wrong");
  const all = upTo("answered", "wrong", "refused");
  const marks = plan.bins.filter((bin) => bin.refused).map((bin) => `M${bin.x.toFixed(1)} ${(y(all(bin)) - 3).toFixed(1)}l4.5 -8h-9z`);
  return html`<${Frame} plan=${plan} row=${row} unit=${t("live.unit.second")} at=${y.ticks(3).slice(1)} form=${(value) => rate(value)} />
    <${Fill} plan=${plan} y=${y} kind="a" high=${answered} opacity=".2" />
    <${Fill} plan=${plan} y=${y} kind="ink-3" low=${answered} high=${wrong} opacity=".45" />
    <${Fill} plan=${plan} y=${y} kind="b" low=${wrong} high=${all} opacity="1" />
    <${Trace} plan=${plan} y=${y} kind="a" value=${answered} />
    ${marks.length > 0 && html`<path d=${marks.join("")} fill="var(--b)" />`}
    <${Base} plan=${plan} row=${row} />${isEmpty && html`<${Empty} plan=${plan} row=${row} text=${t("live.none.requests")} />`}`;
}

function Latency({ plan, isEmpty }) {
  const row = plan.rows.latency;
  const { latency: y, edge } = plan.scales;
  const cells = Array.from({ length: SHADES }, () => []);
  const densest = Math.max(...plan.bins.map((bin) => Math.max(...bin.latency) / Math.max(1, bin.requests)));
  for (const bin of plan.bins) {
    bin.latency.forEach((value, bucket) => {
      if (!value) return;
      const top = y(edge(bucket));
      const bottom = bucket ? y(edge(bucket - 1)) : row.bottom;
      const shade = Math.min(SHADES - 1, Math.floor(SHADES * Math.sqrt(value / Math.max(1, bin.requests) / densest)));
      const gap = bin.x1 - bin.x0 > 3 ? 0.7 : 0;
      cells[shade].push(`M${bin.x0.toFixed(1)} ${(top + 0.4).toFixed(1)}H${(bin.x1 - gap).toFixed(1)}V${(bottom - 0.4).toFixed(1)}H${bin.x0.toFixed(1)}z`);
    });
  }
  const [low, high] = y.domain();
  return html`<${Frame} plan=${plan} row=${row} at=${decades(low, high)} form=${brief} />
    ${cells.map((rects, shade) => rects.length > 0 && html`<path class="cells" d=${rects.join("")} fill="var(--a)" fill-opacity=${(0.14 + (0.72 * (shade + 0.5)) / SHADES).toFixed(2)} />`)}
    <path d=${steps(plan, 0.5)} fill="none" stroke="var(--ink)" stroke-width="1.6" /><path d=${steps(plan, 0.99)} fill="none" stroke="var(--b)" stroke-width="2" />
    <${Base} plan=${plan} row=${row} />${isEmpty && html`<${Empty} plan=${plan} row=${row} text=${t("live.none.requests")} />`}`;
}

/** Path of a quantile in steps; there is none where nothing was requested. */
function steps({ bins, scales: { latency: y, edge } }, share) {
  let drawn = false;
  return bins.map((bin) => {
    const bucket = quantile(bin.latency, share);
    const move = drawn ? "L" : "M";
    drawn = bucket >= 0;
    return drawn ? `${move}${bin.x0.toFixed(1)} ${y(edge(bucket)).toFixed(1)}H${bin.x1.toFixed(1)}` : "";
  }).join("");
}

function Queue({ plan }) {
  const row = plan.rows.queue;
  const y = plan.scales.queue;
  const limit = plan.recent.answer.limits.queue_calls;
  const ticks = y.ticks(3).filter((value) => Number.isInteger(value) && !(plan.scales.limitShown && value > 0.8 * limit));
  let drawn = false;
  const d = plan.bins.map((bin) => {
    const move = drawn ? "L" : "M";
    drawn = bin.known > 0;
    return drawn ? `${move}${bin.x0.toFixed(1)} ${y(bin.depth).toFixed(1)}H${bin.x1.toFixed(1)}` : "";
  }).join("");
  return html`<${Frame} plan=${plan} row=${row} unit=${t("live.unit.calls")} at=${ticks} form=${integer} note=${plan.scales.limitShown ? "" : t("live.queue.limit", { n: integer(limit) })} />
    ${plan.scales.limitShown && html`<line x1=${plan.left} x2=${plan.right} y1=${y(limit)} y2=${y(limit)} stroke="var(--b)" stroke-width="1.2" stroke-dasharray="6 4" /><text x=${plan.left - 8} y=${y(limit) + 4} text-anchor="end" class="tb">${t("live.queue.full", { n: integer(limit) })}</text>`}
    <path d=${d} fill="none" stroke="var(--a)" stroke-width="1.8" /><${Base} plan=${plan} row=${row} />`;
}

function Device({ plan }) {
  const row = plan.rows.device;
  const y = plan.scales.device;
  const { lanes, memory_bytes: limit } = plan.recent.answer.limits;
  const busy = (bin) => busyOf(bin, lanes);
  return html`<${Frame} plan=${plan} row=${row} at=${[0, 0.5, 1]} form=${percent} note=${limit > 0 ? t("live.device.note") : ""} />
    <${Fill} plan=${plan} y=${y} kind="c" high=${busy} opacity=".2" /><${Trace} plan=${plan} y=${y} kind="c" value=${busy} />
    ${limit > 0 && html`<${Trace} plan=${plan} y=${y} kind="ink-2" value=${(bin) => Math.min(1, bin.memory_bytes / limit)} defined=${(bin) => bin.memory_bytes > 0} width="1.3" dash="2 3" />`}
    <${Base} plan=${plan} row=${row} />`;
}

function Runs({ plan }) {
  const row = plan.rows.runs;
  const { runs: y, tokens } = plan.scales;
  const ran = (bin) => bin.runs > 0;
  const isEmpty = !plan.bins.some(ran);
  const peak = Math.max(...plan.bins.map((bin) => rateOf(bin, bin.tokens)));
  return html`<${Frame} plan=${plan} row=${row} at=${y.ticks(2)} form=${(value) => significant(value, 3)} note=${isEmpty ? "" : t("live.runs.peak", { n: integer(peak) })} />
    <${Fill} plan=${plan} y=${tokens} kind="mix-ink" high=${(bin) => rateOf(bin, bin.tokens)} opacity=".16" />
    <${Trace} plan=${plan} y=${y} kind="a" value=${(bin) => bin.calls / bin.runs} defined=${ran} />
    <${Base} plan=${plan} row=${row} />${isEmpty && html`<${Empty} plan=${plan} row=${row} text=${t("live.none.runs")} />`}`;
}

/** Times below the rows, starts of the service, and what is not known. */
function Times({ plan, stopped }) {
  const { x, left, right, end, seconds, height } = plan;
  const step = STEPS.find((size) => (size * (right - left)) / seconds >= 76) ?? 600;
  const form = step % 60 ? time : minute;
  const ticks = [];
  for (let at = Math.ceil((end - seconds) / step) * step; at <= end; at += step) ticks.push(at);
  const y = plan.rows.runs.bottom;
  const last = stopped ? time(end) : t("live.now");
  return html`${ticks.map((at) => html`<line x1=${x(at)} x2=${x(at)} y1=${y} y2=${y + 4} stroke="var(--ink-3)" />
      ${x(at) < right - 52 && x(at) > left + 14 && html`<text x=${x(at)} y=${height - 4} text-anchor="middle">${form(at)}<title>${utc(at)}</title></text>`}`)}
    <text x=${right} y=${height - 4} text-anchor="end" class="t1">${last}<title>${utc(end)}</title></text>`;
}

function Unknown({ plan }) {
  const { recent, x, end, seconds, rows } = plan;
  const edges = [end - seconds, ...recent.spans.flatMap(([from, to]) => [Math.max(end - seconds, from - 1), Math.max(end - seconds, to)]), end];
  const gaps = [];
  for (let i = 0; i < edges.length; i += 2) if (edges[i + 1] > edges[i]) gaps.push([x(edges[i]), x(edges[i + 1])]);
  const d = gaps.flatMap(([from, to]) => Object.values(rows).map((row) => `M${from} ${row.top}H${to}V${row.bottom}H${from}z`));
  return html`<path d=${d.join("")} class="unknown" fill="var(--wash)" />
    ${gaps.filter(([from, to]) => to - from > 70).map(([from, to]) => html`<text x=${(from + to) / 2} y=${(rows.requests.top + rows.requests.bottom) / 2 + 4} text-anchor="middle" class="t3">${t("live.none.data")}</text>`)}
    ${recent.starts.filter((start) => start > end - seconds && start <= end).map((start) => html`<line x1=${x(start)} x2=${x(start)} y1=${rows.requests.top} y2=${rows.runs.bottom} stroke="var(--ink-3)" stroke-dasharray="1 3" />
      ${plan.wide && x(start) > plan.left + 180 && html`<text x=${Math.min(x(start), plan.right - 54)} y=${rows.requests.top - 11} text-anchor="middle" class="t3">${t("live.started", { time: time(start) })}</text>`}`)}`;
}

/** What stands beside each row: lines of text with the class of their colour. */
function readings(plan, bin) {
  const { answer } = plan.recent;
  const { limits, bounds } = answer;
  if (!bin.known) return { requests: [["t3", t("live.none.data")]] };
  const at = (share) => bound(bounds, quantile(bin.latency, share));
  const memory = bin.memory_bytes || answer.memory_bytes;
  const out = {
    requests: [["ta", t("live.read.answered", { n: rate(rateOf(bin, bin.answered)) })], ["", t("live.read.wrong", { n: rate(rateOf(bin, bin.wrong)) })], ["tb", t("live.read.refused", { n: rate(rateOf(bin, bin.refused)) })]],
    latency: bin.requests ? [["tb", `p99 ${at(0.99)}`], ["", `p95 ${at(0.95)}`], ["t1", `p50 ${at(0.5)}`]] : [["t3", t("live.none.requests")]],
    queue: [["ta", plural("live.read.waiting", bin.depth)], ["", bin.wait_max_s ? t("live.read.longest", { time: brief(bin.wait_max_s) }) : ""]],
    device: [["tc", t("live.read.busy", { share: percent(busyOf(bin, limits.lanes)) })], ["", limits.memory_bytes ? t("live.read.memory", { n: bytes(memory, bytes(memory).slice(-3) !== bytes(limits.memory_bytes).slice(-3)), of: bytes(limits.memory_bytes) }) : bytes(memory)]],
    runs: bin.runs ? [["ta", t("live.read.calls", { n: significant(bin.calls / bin.runs, 3) })], ["tm", t("live.read.tokens", { n: integer(rateOf(bin, bin.tokens)) })]] : [["t3", t("live.none.runs")]],
  };
  return out;
}

function Readings({ plan, bin }) {
  const lines = readings(plan, bin);
  return Object.values(plan.rows).map((row) => {
    const texts = (lines[row.name] ?? []).filter(([, text]) => text);
    if (plan.wide) return texts.map(([kind, text], index) => html`<text x=${plan.right + 12} y=${row.top + 10 + 17 * index} class=${kind}>${text}</text>`);
    const short = row.name === "requests" ? [texts[0], texts[2]] : row.name === "latency" ? [texts[2], texts[0]] : texts;
    return html`<text x=${plan.right} y=${row.top - 11} text-anchor="end">${short.filter(Boolean).map(([kind, text], index) => html`<tspan class=${kind} dx=${index ? 8 : 0}>${text}</tspan>`)}</text>`;
  });
}

function Crosshair({ plan, bin, chosenBin }) {
  if (!chosenBin) return html`<${Readings} plan=${plan} bin=${bin} />`;
  const { requests, device } = plan.scales;
  const { rows } = plan;
  const label = `${time(bin.to)} · ${utc(bin.to).slice(11, 19)} UTC`;
  const half = 94;
  const at = Math.max(plan.left + half, Math.min(plan.right - half, bin.x));
  const dot = (cy, kind) => html`<circle cx=${bin.x} cy=${cy} r="3.6" fill="var(--${kind})" stroke="var(--paper)" stroke-width="1.5" />`;
  return html`<line x1=${bin.x} x2=${bin.x} y1=${rows.requests.top} y2=${rows.runs.bottom} stroke="var(--ink)" />
    ${bin.known > 0 && html`${dot(requests(rateOf(bin, bin.answered)), "a")}${dot(plan.scales.queue(bin.depth), "a")}${dot(device(busyOf(bin, plan.recent.answer.limits.lanes)), "c")}
    ${bin.runs > 0 && dot(plan.scales.runs(bin.calls / bin.runs), "a")}`}
    <rect x=${at - half} y=${rows.runs.bottom + 6} width=${2 * half} height="20" rx="4" fill="var(--ink)" /><text x=${at} y=${rows.runs.bottom + 20} text-anchor="middle" class="chosen">${label}</text>
    <${Readings} plan=${plan} bin=${bin} />`;
}

/** A sentence of what a bin holds. */
function say(plan, bin) {
  const lines = Object.values(readings(plan, bin)).flat().map(([, text]) => text).filter(Boolean);
  return `${time(bin.to)} (${utc(bin.to)}): ${lines.join(", ")}`;
}

function table(plan) {
  const { bounds, limits } = plan.recent.answer;
  const names = ["time", "utc", "answered", "wrong", "refused", "p50", "p95", "p99", "queue", "busy", "memory", "calls", "tokens"];
  const at = (bin, share) => { const index = quantile(bin.latency, share); return index < 0 ? null : bounds[index] ?? Infinity; };
  const rounded = (value) => +value.toPrecision(4);
  const rows = plan.bins.filter((bin) => bin.known).map((bin) => [time(bin.to), utc(bin.to), rounded(rateOf(bin, bin.answered)), rounded(rateOf(bin, bin.wrong)), bin.refused,
    at(bin, 0.5), at(bin, 0.95), at(bin, 0.99), bin.depth, rounded(100 * busyOf(bin, limits.lanes)), rounded(bin.memory_bytes / 2 ** 20), bin.runs ? rounded(bin.calls / bin.runs) : null, rounded(rateOf(bin, bin.tokens))]);
  return [names.map((name) => t(`live.table.${name}`)), ...rows];
}

/** The figure. `revision` changes with the data; `stopped` says that no data comes. */
export function Rows({ recent, seconds, revision, stopped }) {
  const [ref, width] = useWidth(900);
  const plan = useMemo(() => layOut(recent, seconds, width), [revision, seconds, width]);
  const now = useMemo(() => recent.sum(recent.answer.until - Math.min(10, seconds), recent.answer.until), [revision]);
  const still = useMemo(() => {
    const isEmpty = recent.known(plan.end - seconds, plan.end) > 0 && !plan.bins.some((bin) => bin.requests);
    return html`<${Unknown} plan=${plan} /><${Requests} plan=${plan} isEmpty=${isEmpty} /><${Latency} plan=${plan} isEmpty=${isEmpty} /><${Queue} plan=${plan} /><${Device} plan=${plan} /><${Runs} plan=${plan} /><${Times} plan=${plan} stopped=${stopped} />`;
  }, [plan, stopped]);
  const at = Number(chosen("at").value ?? NaN);
  const found = plan.bins.findIndex((bin) => bin.from < at && at <= bin.to);
  const last = plan.bins.length - 1;
  const index = found < 0 ? last : found;
  const follow = () => choose({ at: null });
  let isPinned = false;
  const cursor = (_, pinned) => { isPinned = pinned; return html`<${Crosshair} plan=${plan} bin=${found < 0 ? now : plan.bins[index]} chosenBin=${found >= 0} />`; };
  const indexAt = (px) => { const to = plan.bins.findIndex((bin) => px < bin.x1); return to < 0 ? last : to; };
  return html`<${Figure} id="rows" title=${t("live.last", { span: span(seconds), time: time(plan.end) })} name="rope-live" rows=${() => table(plan)}>
    <div ref=${ref} class=${stopped === "silent" ? "stopped" : ""}><${Plot} width=${plan.width} height=${plan.height} label=${t("live.figure")} index=${index} length=${plan.bins.length} indexAt=${indexAt}
      onIndex=${(to) => choose({ at: to === last ? null : plan.bins[to].to })} readout=${say(plan, found < 0 ? now : plan.bins[index])} cursor=${cursor}
      onPointerLeave=${() => isPinned || follow()} onKeyUp=${(event) => event.key === "Escape" && follow()}>${still}</${Plot}></div>
  </${Figure}>`;
}
