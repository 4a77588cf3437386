// The live view: what the service does now, and what it did in the last 15 minutes.
import { html, signal, useEffect, useState } from "./vendor.js";
import { ask, device, integer, keyWanted, language, phase, poll, setState, start, t } from "./page.js";
import { chosen } from "./figure.js";
import { headline, quantile, Recent, SERVICE_CODES, timeShares, total } from "./live-data.js";
import { bound, brief, bytes, percent, plural, rate, span, time } from "./live-format.js";
import { Rows } from "./live-rows.js";

/** What stands between two sentences. */
const GAP = language === "zh" ? "" : " ";

const POLL_MS = 2000;
const MOST_MS = 30_000;
const ANSWER_MS = 5000;
const RANGES = [60, 300, 900];

/** What the service has said. */
export const recent = new Recent();
/** Grows with each answer, so that what reads it is drawn again. */
const revision = signal(0);
/** Since when there is no answer, in milliseconds of this browser; 0: the last request was answered. */
const silentSince = signal(0);
const clock = signal(0);
const refusal = signal(null);
const paused = signal(false);

let wait_ms = POLL_MS;
let running = false;
let stop = () => {};

/** Ask for what is new; return the milliseconds to the next time. */
async function readRecent() {
  if (running) return POLL_MS;
  running = true;
  const sent = Date.now();
  const controller = new AbortController();
  const abort = setInterval(() => keyWanted.value || controller.abort(), ANSWER_MS);
  try {
    recent.take(await ask(`v1/recent${recent.query}`, undefined, { signal: controller.signal }));
    refusal.value = null;
    silentSince.value = 0;
    wait_ms = POLL_MS;
    phase.value = recent.answer.phase;
    device.value = recent.answer.about.device;
    revision.value += 1;
  } catch (failure) {
    refusal.value = failure.status ? failure : null;
    silentSince.value ||= sent;
    clock.value = Date.now();
    wait_ms = Math.min(MOST_MS, wait_ms * 2);
    phase.value = "gone";
  } finally {
    clearInterval(abort);
    running = false;
  }
  return wait_ms;
}

function pollNow() {
  stop();
  wait_ms = POLL_MS;
  stop = poll(readRecent);
}

function pause() {
  paused.value = !paused.value;
  if (paused.value) stop();
  else pollNow();
}

/** A text whose values stand out. */
function Sentence({ name, values }) {
  const marked = Object.fromEntries(Object.keys(values).map((key) => [key, `\u0001${key}\u0001`]));
  return t(`live.${name}`, marked).split("\u0001").map((part, index) => (index % 2 ? html`<b>${values[part]}</b>` : part));
}

/** The range of the figure: that of the address, or the shortest that holds all that is known. */
function range() {
  const given = Number(chosen("range").value);
  if (RANGES.includes(given)) return given;
  const { until, oldest } = recent.answer;
  return RANGES.find((seconds) => until - oldest < seconds) ?? RANGES.at(-1);
}

function headText(name, values) {
  if (name === "silent") return t("live.head.silent", { span: span(values.n) });
  if (name === "brief") return t("live.head.brief", { time: brief(values.wait_s) });
  return "n" in values ? plural(`live.head.${name}`, values.n, values) : t(`live.head.${name}`, values);
}

function Head({ sum }) {
  const silent_s = silentSince.value ? Math.max(1, Math.round((clock.value - silentSince.value) / 1000)) : 0;
  const [name, values] = refusal.value ? ["refused", { code: refusal.value.code ?? refusal.value.status }] : headline(recent, silent_s);
  useEffect(() => {
    if (!silentSince.value) return undefined;
    const ticking = setInterval(() => (clock.value = Date.now()), 1000);
    return () => clearInterval(ticking);
  }, [silentSince.value > 0]);
  return html`<div class="fig-head live-head"><h1 class=${`state-${name.replace(" ", "-")}`}>${headText(name, values)}</h1>
    <div class="tools">
      <div class="seg" role="group" aria-label=${t("live.range")}>${RANGES.map((seconds) => html`<button type="button" aria-pressed=${recent.answer ? range() === seconds : false} onClick=${() => setState({ range: seconds, at: null })}>${span(seconds)}</button>`)}</div>
      <button type="button" aria-pressed=${paused.value} onClick=${pause}>${t(paused.value ? "live.resume" : "live.pause")}</button>
    </div></div>
    <p class="lede"><${Lede} name=${name} sum=${sum} /></p>`;
}

function Lede({ name, sum }) {
  if (name === "refused") return refusal.value.detail;
  if (!sum) return t(`live.lede.${name}`);
  const until = recent.answer.until;
  const parts = [];
  if (name === "silent") parts.push(html`<${Sentence} name="lede.silent" values=${{ time: time(until) }} />${GAP}<button type="button" class="link" onClick=${pollNow}>${t("live.retry")}</button>`);
  else if (paused.value) parts.push(html`<${Sentence} name="lede.paused" values=${{ time: time(until) }} />`);
  else if (!["flowing", "brief", "waiting", "refusing", "idle"].includes(name)) parts.push(t(`live.lede.${name}`));
  const values = { span: span(sum.known), busy: percent(Math.min(1, sum.busy_s / Math.max(1, sum.known) / recent.answer.limits.lanes)) };
  if (!sum.requests && !sum.messages) {
    parts.push(html`<${Sentence} name="lede.none" values=${{ span: values.span }} />`, name === "idle" && html`<a href="try.html">${t("live.try")}</a>`);
  } else {
    const now = recent.sum(until - 10, until);
    const bucket = quantile(now.latency, 0.99);
    if (!silentSince.value && now.requests) parts.push(html`<${Sentence} name="lede.rate" values=${{ rate: rate(now.requests / Math.max(1, now.known)), time: bound(recent.answer.bounds, bucket, "") }} />`);
    const key = { 0: "none", 1: "one" }[sum.refused] ?? "other";
    parts.push(html`<${Sentence} name=${`lede.busy.${key}`} values=${{ ...values, n: integer(sum.refused) }} />`);
  }
  if (recent.isMixed) parts.push(t("live.lede.mixed"));
  return parts.map((part, index) => html`${index > 0 && GAP}${part}`);
}

function Routes({ sum }) {
  const { bounds } = recent.answer;
  const rows = [...sum.routes].map(([route, counts]) => [recent.routes[route], total(counts), counts]).sort((a, b) => b[1] - a[1]);
  const at = (counts, share) => bound(bounds, quantile(counts, share), "");
  return html`<section><h2>${t("live.routes")}</h2>${rows.length === 0 ? html`<p class="cap">${t("live.none.yet")}</p>` : html`<table>
    <thead><tr><th scope="col">${t("live.route")}</th><th scope="col" class="num">${t("live.unit.second")}</th>${["p50", "p95", "p99"].map((name) => html`<th scope="col" class="num">${name} ≤</th>`)}</tr></thead>
    <tbody>${rows.map(([name, count, counts]) => html`<tr><th scope="row"><code>${name}</code></th><td class="num">${rate(count / Math.max(1, sum.known))}</td>${[0.5, 0.95, 0.99].map((share) => html`<td class="num">${at(counts, share)}</td>`)}</tr>`)}</tbody></table>
    <p class="cap">${t("live.routes.note")}</p>`}</section>`;
}

const KINDS = { wait: "b", copy: "ink-3", compute: "c", rest: "a" };

function Shares({ sum }) {
  const shares = timeShares(sum);
  if (!shares.length) return null;
  let from = 0;
  const label = shares.map(([name, share]) => `${t(`live.share.${name}`)} ${percent(share)}`).join(", ");
  return html`<section><h2>${t("live.shares")}</h2><svg class="shares" viewBox="0 0 372 22" role="img" aria-label=${label} preserveAspectRatio="none">${shares.map(([name, share]) => {
    const x = 372 * from;
    from += share;
    return html`<rect x=${x + 0.5} y="3" width=${Math.max(0, 372 * share - 1)} height="16" rx="2" fill=${`var(--${KINDS[name]})`} fill-opacity=".85" />`;
  })}</svg><table><tbody>${shares.map(([name, share]) => html`<tr><th scope="row"><svg class="key" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2" fill=${`var(--${KINDS[name]})`} fill-opacity=".85" /></svg>${t(`live.share.${name}`)}</th><td class="num">${percent(share)}</td></tr>`)}</tbody></table></section>`;
}

function Refusals({ sum }) {
  const service = ({ code }) => (SERVICE_CODES.has(code) ? 1 : 0);
  const rows = [...sum.refusals.values()].sort((a, b) => service(b) - service(a) || b.count - a.count);
  const advice = (code) => { const text = t(`refusal.${code}`); return text.startsWith("refusal.") ? t("refusal.http") : text; };
  return html`<section><h2>${t("live.refusals")}</h2>
    ${rows.length === 0 && html`<p class="cap">${t("live.none.refused")}</p>`}
    <ul class="refusals">${rows.map((row) => html`<li class=${service(row) ? "service" : "client"}><div class="row"><span class="mono">${row.status} <a href=${`#code=${encodeURIComponent(row.code)}`} onClick=${(event) => { event.preventDefault(); setState({ code: row.code }); }}>${row.code}</a></span><span class="chip">${t(service(row) ? "live.side.service" : "live.side.client")}</span><b class="mono">${integer(row.count)}</b></div>
      <p class="cap">${advice(row.code)} <span class="t3">${t("live.seen", { time: time(row.last) })}</span></p></li>`)}</ul><${Codes} /></section>`;
}

/** The list of all codes, loaded when it is opened. */
function Codes() {
  const [List, setList] = useState(null);
  const wanted = chosen("code").value;
  const load = async () => { const module = await import("./live-codes.js"); setList(() => module.Codes); };
  useEffect(() => { if (wanted) load(); }, [wanted]);
  return html`<details class="codes" open=${Boolean(wanted)} onToggle=${(event) => (event.target.open ? load() : wanted && setState({ code: null }))}>
    <summary>${t("live.codes")}</summary>${List && html`<${List} wanted=${wanted} />`}</details>`;
}

function Facts({ title, rows }) {
  return html`<section><h2>${title}</h2><table><tbody>${rows.filter(([, value]) => value).map(([name, value, plain]) => html`<tr><th scope="row">${plain ? html`<code>${name}</code>` : name}</th><td class="num">${value}</td></tr>`)}</tbody></table></section>`;
}

function Sessions() {
  const { sessions } = recent.answer;
  if (!sessions) return null;
  const { live, pages, oldest_idle_s } = sessions;
  const all = pages.reserved + pages.free;
  return html`<${Facts} title=${t("live.sessions")} rows=${[
    [t("live.sessions.live"), integer(live)],
    [t("live.sessions.pages"), all > 0 && `${percent(pages.reserved / all)} · ${t("live.sessions.of", { n: integer(pages.reserved), of: integer(all) })}`],
    [t("live.sessions.used"), all > 0 && percent(pages.used / all)],
    [t("live.sessions.idle"), oldest_idle_s != null && span(oldest_idle_s)],
  ]} />`;
}

function Running() {
  const { about, now, started, connections, limits, admitted_bytes } = recent.answer;
  const settings = Object.entries(about.settings);
  return html`<${Facts} title=${t("live.running")} rows=${[
    [t("live.about.version"), about.version], [t("live.about.device"), about.device], ["torch", about.torch], ["Python", about.python],
    [t("live.about.up"), span(now - started)], [t("live.about.connections"), t("live.about.of", { n: integer(connections), of: integer(limits.connections) })],
    [t("live.about.admitted"), t("live.about.of", { n: bytes(admitted_bytes), of: bytes(limits.admitted_bytes) })],
  ]} />
  ${settings.length > 0 && html`<${Facts} title=${t("live.settings")} rows=${settings.map(([name, value]) => [`ROPE_${name.toUpperCase()}`, value, true])} />`}`;
}

function View() {
  const drawn = revision.value;
  const sum = recent.answer && recent.sum(recent.answer.until - range(), recent.answer.until);
  const stopped = silentSince.value ? "silent" : paused.value && "paused";
  return html`<${Head} sum=${sum} />
    ${sum && html`<div class="live"><div><${Rows} recent=${recent} seconds=${range()} revision=${drawn} stopped=${stopped} /></div>
      <div class=${silentSince.value ? "details stopped" : "details"}><${Routes} sum=${sum} /><${Shares} sum=${sum} /><${Refusals} sum=${sum} /><${Sessions} /><${Running} /></div></div>`}`;
}

await start(View, { phase: false });
pollNow();
