// Figures of the config view: wavelengths, score against distance, the hands of one pair.
import { area, html, line, scaleLinear, scaleLog, useEffect, useMemo, useState } from "./vendor.js";
import { integer, short, significant, t } from "./page.js";
import { AxisX, choiceOf, choose, decades, Dots, Figure, GridY, Key, Line, Marker, Plot, Slider, useWidth } from "./figure.js";
import { axisName, curl } from "./config-data.js";

const SAME = 3e-6; // float32 frequencies of one divisor differ by so much

/** Return what the figures draw: of each pair the frequency with and without scaling, its divisor
    and its band, and how many positions a turn takes; Infinity where it does not turn. */
export function pairsOf(answer) {
  const scaled = answer.inv_freq.data.map(Math.abs);
  const plain = (answer.inv_freq_unscaled ?? answer.inv_freq).data.map(Math.abs);
  const divisor = scaled.map((value, pair) => (value ? plain[pair] / value : NaN));
  const { kept, blended, divided, factor } = answer.scaling ?? { kept: scaled.length, blended: 0, divided: 0, factor: 1 };
  const band = divisor.map((value) => (Number.isNaN(value) ? "still" : Math.abs(value - 1) < SAME ? "kept" : Math.abs(value / factor - 1) < SAME ? "divided" : "blended"));
  const turn = (value) => (value ? 2 * Math.PI / value : Infinity);
  return { scaled, plain, divisor, band, turns: scaled.map(turn), plainTurns: plain.map(turn), counts: { kept, blended, divided, still: band.filter((name) => name === "still").length },
    factor, isScaled: blended + divided > 0, hasBands: blended + divided > 0 && (divided > 1 || !blended), size: scaled.length };
}

/** Return a number of positions: whole from 1 000 on. */
export const amount = (value) => (value >= 1000 && value < 1e15 ? integer(value) : significant(value));

/** Return the pair that is chosen; the middle one before a choice. */
export const chosenPair = (size) => choiceOf("pair", { most: size - 1, fallback: size >> 1 });

/** Runs of equal values: `[value, first, last]` each. */
export function runs(values) {
  const found = [];
  values.forEach((value, index) => (found.at(-1)?.[0] === value ? (found.at(-1)[2] = index) : found.push([value, index, index])));
  return found;
}

/** Return the length of the call that is chosen; null before a choice. */
const callOf = () => choiceOf("length", { least: 1, most: 2 ** 24, fallback: null });

const finite = (values) => values.filter((value) => Number.isFinite(value));

function rangeOf(pairs, answer, other, call = 0) {
  const all = [...finite(pairs.turns), ...finite(pairs.plainTurns), ...finite(other?.turns ?? []), ...[answer.lengths?.trained, answer.lengths?.allowed, call].filter(Boolean)];
  const low = 10 ** Math.floor(Math.log10(Math.min(...all, 1e3)) + 0.3) / 2;
  return [low, Math.max(...all, low * 1e3) * 2];
}

/** The main figure: positions for one turn of each pair, lengths, bands and divisors. */
export function Waves({ view: { answer, other }, name }) {
  const [ref, width] = useWidth(800);
  const pairs = useMemo(() => pairsOf(answer), [answer]);
  const beyond = useMemo(() => other && pairsOf(other.answer), [other]);
  const rows = () => [[t("config.pair"), t("config.turn"), t("config.turn_plain"), t("config.divisor"), t("config.radians")],
    ...pairs.turns.map((turn, pair) => [pair, Number.isFinite(turn) ? turn : null, Number.isFinite(pairs.plainTurns[pair]) ? pairs.plainTurns[pair] : null, Number.isNaN(pairs.divisor[pair]) ? null : pairs.divisor[pair], answer.inv_freq.data[pair]])];
  const call = callOf();
  const otherName = other && t(other.isLonger ? "config.for_longer" : "config.for_shorter", { n: integer(other.isLonger ? answer.length_dependence.above : other.length) });
  const legend = html`<span><${Key} />${t("config.as_is")}</span>
    ${pairs.isScaled && html`<span><${Key} kind="b" />${t("config.without")}</span>`}
    ${other && html`<span><i><svg class="key" width="26" height="12" viewBox="0 0 26 12" aria-hidden="true"><path d="M0 6H26" stroke="var(--mix-ink)" stroke-width="2" stroke-dasharray="1 4" stroke-linecap="round" /></svg></i>${otherName}</span>`}`;
  const drawing = useMemo(() => drawWaves({ width, pairs, answer, beyond, otherName, call }), [width, pairs, answer, beyond, call]);
  const readout = (pair) => (Number.isFinite(pairs.turns[pair])
    ? t(pairs.isScaled ? "config.read_both" : "config.read", { pair, turn: amount(pairs.turns[pair]), plain: amount(pairs.plainTurns[pair]), by: significant(pairs.divisor[pair]) })
    : t("config.read_still", { pair }));
  const label = pairs.isScaled ? t("config.waves_scaled", { n: pairs.size, ...pairs.counts, by: significant(pairs.factor) }) : t("config.waves_plain", { n: pairs.size });
  return html`<${Figure} id="waves" title=${t("config.waves")} name=${`${name}-wavelengths`} rows=${rows} curl=${() => curl()} legend=${legend}>
    <div ref=${ref}><${Plot} width=${width} height=${drawing.height} label=${label} choice="pair" fallback=${pairs.size >> 1} length=${pairs.size}
      indexAt=${drawing.pairAt} readout=${readout} cursor=${drawing.cursor}>${drawing.marks}</${Plot}></div>
  </${Figure}>`;
}

function drawWaves({ width, pairs, answer, beyond, otherName, call }) {
  const small = width < 560;
  const left = small ? 44 : 62;
  const right = width - (small ? 8 : 118);
  const strip = pairs.isScaled;
  const [top, bottom, height] = [30, strip ? 324 : 380, 432];
  const base = height - 34;
  const [low, high] = rangeOf(pairs, answer, beyond, call);
  const x = scaleLinear().domain([-0.7, pairs.size - 0.3]).range([left, right]);
  const level = scaleLog().domain([low, high]).range([bottom, top]);
  const y = (turn) => (Number.isFinite(turn) ? level(turn) : bottom + 8);
  const points = (turns) => runs(turns.map((turn) => Number.isFinite(turn))).filter(([turning]) => turning).map(([, first, last]) => turns.slice(first, last + 1).map((turn, at) => [x(first + at), y(turn)]));
  const all = (turns) => points(turns).flat();
  const marks = [bands({ pairs, x, top, base, small }),
    html`<${GridY} y=${level} at=${decades(low, high, 8)} left=${left} right=${right} />`,
    !small && html`<text x=${left - 8} y=${top - 10} text-anchor="end" class="t3">${t("config.positions")}</text>`,
    lengthLines({ answer, call, y, left, right, top, small, high }),
    beyond && points(beyond.turns).map((line_) => html`<path d=${line()(line_)} fill="none" stroke="var(--mix-ink)" stroke-width="2.2" stroke-dasharray="1 4" stroke-linecap="round"><title>${otherName}</title></path>`),
    strip && html`${points(pairs.plainTurns).map((line_) => html`<${Line} points=${line_} kind="b" />`)}<${Dots} kind="b" size=${pairs.size > 80 ? 4.4 : 6} points=${all(pairs.plainTurns.map((turn, pair) => (pairs.band[pair] === "kept" ? Infinity : turn)))} />`,
    points(pairs.turns).map((line_) => html`<${Line} points=${line_} />`), html`<${Dots} points=${all(pairs.turns)} size=${pairs.size > 80 ? 4.4 : 6} />`,
    pairs.counts.still > 0 && html`<${Dots} kind="b" size="5" points=${pairs.turns.flatMap((turn, pair) => (Number.isFinite(turn) ? [] : [[x(pair), y(turn)]]))} />`,
    strip && divisorStrip({ pairs, x, base, bottom, left, right, small }),
    axisTicks({ pairs, x, height, left, small })];
  const cursor = (pair, pinned) => {
    const [turn, plain] = [pairs.turns[pair], pairs.plainTurns[pair]];
    const isRight = x(pair) > right - 90;
    const isLeft = x(pair) < left + 90;
    const shows = strip && pairs.band[pair] !== "kept" && pairs.band[pair] !== "still";
    const place = (over) => (isLeft || (!isRight && !over) ? [10, "start"] : [-10, "end"]);
    const value = (kind, at, over) => html`<text x=${x(pair) + place(over)[0]} y=${y(at) + (over ? -8 : 18)} text-anchor=${place(over)[1]} class=${`t${kind} halo`}>${Number.isFinite(at) ? amount(at) : t("config.still")}</text>`;
    return html`<line x1=${x(pair)} x2=${x(pair)} y1=${top} y2=${base} stroke="var(--ink)" stroke-width=${pinned ? 1.6 : 1} />
      ${shows && html`<${Marker} x=${x(pair)} y=${y(plain)} kind="b" />${value("b", plain, plain > turn)}`}
      <${Marker} x=${x(pair)} y=${y(turn)} />${value("a", turn, !(shows && plain > turn))}`;
  };
  return { height, marks, cursor, pairAt: (px) => Math.round(x.invert(px)) };
}

function bands({ pairs, x, top, base, small }) {
  if (!pairs.hasBands && !pairs.counts.still) return null;
  const look = { kept: ["none", "t1"], blended: ["var(--mix)", "tm"], divided: ["var(--a-wash)", "ta"], still: ["var(--wash)", "t3"] };
  const named = new Set();
  return runs(pairs.band).map(([name, first, last]) => {
    if (!pairs.hasBands && name !== "still") return null;
    const [from, to] = [x(first - 0.5), x(last + 0.5)];
    const n = pairs.counts[name];
    const by = significant(pairs.factor);
    const text = [t(`config.band_${name}`, { n, by }), t(`config.band_${name}_short`, { n, by }), String(n)].find((one) => one.length * 6.4 < to - from + (name === "blended" ? 14 : 0));
    const isNamed = named.has(name);
    if (text && !isNamed) named.add(name);
    return html`<rect x=${from} y=${top} width=${to - from} height=${base - top} fill=${look[name][0]} />
      ${text && !isNamed && html`<text x=${(from + to) / 2} y=${top - 10} text-anchor="middle" class=${look[name][1]}>${text}</text>`}`;
  });
}

function lengthLines({ answer, call, y, left, right, top, small, high }) {
  const { trained, allowed } = answer.lengths ?? {};
  const lines = [["allowed", allowed], ["trained", trained === allowed ? null : trained], ["call", call === allowed || call === trained ? null : call]].filter(([, value]) => value).sort((one, other) => other[1] - one[1]);
  let last = -Infinity;
  const marks = lines.map(([name, value]) => {
    const at = Math.max(y(value), last + 30);
    last = at;
    const text = small ? html`<text x=${right - 4} y=${y(value) - 4} text-anchor="end" class="t1 halo">${t(`config.${name}`)} ${short(value)}</text>`
      : html`<text x=${right + 10} y=${at - 2} class=${name === "call" ? "tc" : "t1"}>${t(`config.${name}`)}</text><text x=${right + 10} y=${at + 12}>${integer(value)}</text>`;
    return html`<line x1=${left} x2=${right + (small ? 0 : 6)} y1=${y(value)} y2=${y(value)} stroke=${name === "call" ? "var(--c)" : "var(--ink)"} stroke-width="1.2" />${text}`;
  });
  const longest = lines[0]?.[1];
  const room = longest ? y(longest) - top : 0;
  if (small || room < 62 || high < longest * 3) return marks;
  const at = y(longest) - 36;
  return [...marks, html`<text x=${right + 10} y=${at} class="t3">${t("config.never1")}</text><text x=${right + 10} y=${at + 14} class="t3">${t("config.never2")}</text>
    <path d="M${right + 14} ${at - 16}V${Math.max(top + 4, at - 60)}m-3 6l3 -6l3 6" fill="none" stroke="var(--ink-3)" />`];
}

function divisorStrip({ pairs, x, base, bottom, left, right, small }) {
  const values = finite(pairs.divisor);
  const ends = [Math.min(1, ...values), Math.max(1, ...values)];
  const scale = (ends[1] / ends[0] > 24 ? scaleLog() : scaleLinear()).domain(ends).range([base, bottom + 38]);
  const floor = scale(1);
  const steps = pairs.divisor.flatMap((value, pair) => [[x(pair - 0.5), scale(Number.isNaN(value) ? 1 : value)], [x(pair + 0.5), scale(Number.isNaN(value) ? 1 : value)]]);
  const shape = area().y0(floor)(steps);
  return html`<line x1=${left} x2=${right} y1=${floor} y2=${floor} stroke="var(--line)" />
    ${[...new Set([...ends, 1])].map((value) => html`<text x=${left - 8} y=${scale(value) + 4} text-anchor="end">÷ ${significant(value, 3)}</text>`)}
    <path d=${shape} fill="var(--a)" fill-opacity=".28" /><path d=${line()(steps)} fill="none" stroke="var(--a)" stroke-width="1.2" />
    ${!small && html`<text x=${right + 10} y=${scale(ends[1]) + 5}>${t("config.divided1")}</text><text x=${right + 10} y=${scale(ends[1]) + 19}>${t("config.divided2")}</text>`}`;
}

function axisTicks({ pairs, x, height, left, small }) {
  const step = [1, 2, 4, 8, 16, 32, 64].find((one) => pairs.size / one <= (small ? 5 : 9)) ?? 128;
  const last = pairs.size - 1;
  const ticks = Array.from({ length: Math.ceil(pairs.size / step) }, (_, at) => at * step).filter((pair) => last - pair >= step / 2).concat(last);
  const edges = pairs.hasBands ? runs(pairs.band).slice(1).map(([, first]) => first) : [];
  const isFree = (edge) => ticks.every((tick) => Math.abs(x(tick) - x(edge)) > 18);
  return html`<${AxisX} x=${x} at=${ticks} y=${height - 16} form=${String} />
    ${edges.length < 5 && edges.map((edge) => html`<path d="M${x(edge - 0.5)} ${height - 34}v7" stroke="var(--mix-ink)" stroke-width="1.5" />${isFree(edge) && html`<text x=${x(edge)} y=${height - 16} text-anchor="middle" class="tm">${edge}</text>`}`)}
    <text x=${left - 8} y=${height - 16} text-anchor="end" class="t3">${t("config.pair")}</text>`;
}

/** Small figures of the kinds of layers, at most three; a click shows the layers of that kind. */
export function Kinds({ view: { kinds, answer, options }, onLayer }) {
  const shown = kinds.slice(0, 3);
  const all = shown.map((kind) => pairsOf(kind.answer));
  const [low, high] = rangeOf({ turns: all.flatMap((one) => one.turns), plainTurns: [] }, answer);
  return html`<div class="kinds">${shown.map((kind, at) => {
    const pairs = all[at];
    const x = scaleLinear().domain([0, Math.max(1, pairs.size - 1)]).range([4, 236]);
    const y = scaleLog().domain([low, high]).range([92, 4]);
    const isShown = kind.layers.includes(options.layer) || (options.layer === undefined && at === 0);
    const points = pairs.turns.flatMap((turn, pair) => (Number.isFinite(turn) ? [[x(pair), y(turn)]] : []));
    const { trained, allowed } = kind.answer.lengths ?? {};
    return html`<button type="button" aria-pressed=${isShown} onClick=${() => onLayer(kind.layers[0])}>
      <svg viewBox="0 0 240 96" aria-hidden="true">${[trained, allowed].filter(Boolean).map((value) => html`<line x1="0" x2="240" y1=${y(value)} y2=${y(value)} stroke="var(--ink-3)" stroke-width="1" />`)}<${Line} points=${points} /></svg>
      <span>${[...new Set(kind.types)].filter(Boolean).join(", ") || t("config.kind", { n: at + 1 })}</span>
      <small>${t("config.kind_layers", { n: kind.layers.length })} · ${t("config.kind_slowest", { n: short(Math.max(...finite(pairs.turns), 0)) })}</small></button>`;
  })}</div>`;
}

const STEP = 2; // pixels of a column
const MOST_DISTANCES = 1024; // of one column

/** Lowest, highest and mean score of the distances of each column of pixels. The mean is that of all
    integers, by the sum of a geometric series; the ends are of at most 1024 of them. */
export function scoreColumns(frequencies, edges) {
  const size = frequencies.length;
  return edges.slice(0, -1).map((edge, column) => {
    const from = Math.max(0, Math.ceil(edge));
    const to = Math.max(from, Math.ceil(edges[column + 1]) - 1);
    const stride = Math.max(1, Math.ceil((to - from + 1) / MOST_DISTANCES));
    const count = Math.floor((to - from) / stride) + 1;
    const sums = new Float64Array(count);
    let mean = 0;
    for (const frequency of frequencies) {
      const half = Math.sin(frequency / 2);
      const n = to - from + 1;
      mean += Math.abs(half) < 1e-12 ? Math.cos(frequency * (from + to) / 2) : Math.sin(n * frequency / 2) / (n * half) * Math.cos(frequency * (from + to) / 2);
      const [turnX, turnY] = [Math.cos(stride * frequency), Math.sin(stride * frequency)];
      let [x, y] = [Math.cos(from * frequency), Math.sin(from * frequency)];
      for (let at = 0; at < count; at++) {
        sums[at] += x;
        [x, y] = [x * turnX - y * turnY, x * turnY + y * turnX];
      }
    }
    let [low, high] = [Infinity, -Infinity];
    for (const sum of sums) { if (sum < low) low = sum; if (sum > high) high = sum; }
    return { distance: from, low: low / size, high: high / size, mean: mean / size };
  });
}

/** The score of a vector with itself against the distance. */
export function Score({ view: { answer }, name }) {
  const [ref, width] = useWidth(400);
  const pairs = useMemo(() => pairsOf(answer), [answer]);
  const { trained, allowed } = answer.lengths ?? {};
  const most = Math.max(trained ?? 0, allowed ?? 0, 8192);
  const [left, right, top, bottom, height] = [36, width - 12, 10, 180, 210];
  const x = scaleLog().domain([1, most]).range([left, right]);
  const [curves, setCurves] = useState(null);
  useEffect(() => { // after the first picture: a few million cosines
    const timer = setTimeout(() => {
      const edges = Array.from({ length: Math.floor((right - left) / STEP) + 1 }, (_, at) => x.invert(left + at * STEP));
      setCurves({ a: scoreColumns(pairs.scaled, edges), b: pairs.isScaled ? scoreColumns(pairs.plain, edges) : null, left });
    }, 60);
    return () => clearTimeout(timer);
  }, [pairs, width, most]);
  const [index, setIndex] = useState(null);
  const columns = curves?.a ?? [];
  const y = scaleLinear().domain([Math.min(-0.25, ...columns.map((one) => one.low), ...(curves?.b ?? []).map((one) => one.low)), 1]).range([bottom, top]);
  const at = (column) => left + (column + 0.5) * STEP;
  const curve = (kind) => curves?.[kind] && html`<path d=${area().x((_, i) => at(i)).y0((one) => y(one.low)).y1((one) => y(one.high))(curves[kind])} fill="var(--${kind})" fill-opacity=".18" /><${Line} kind=${kind} points=${curves[kind].map((one, i) => [at(i), y(one.mean)])} />`;
  const marks = useMemo(() => html`<${GridY} y=${y} at=${[1, 0.5, 0, -0.5].filter((value) => value >= y.domain()[0])} left=${left} right=${right} form=${significant} /><${AxisX} x=${x} at=${decades(1, most, width < 400 ? 4 : 7)} y=${height - 10} />
    ${trained && html`<line x1=${x(trained)} x2=${x(trained)} y1=${top} y2=${bottom} stroke="var(--ink)" /><text x=${x(trained) + (x(trained) > right - 60 ? -5 : 5)} y=${top + 10} text-anchor=${x(trained) > right - 60 ? "end" : "start"} class="t1 halo">${t(trained === allowed ? "config.allowed" : "config.trained")}</text>`}
    ${curve("b")}${curve("a")}`, [curves, width, most]);
  const shown = Math.min(index ?? 0, columns.length - 1);
  const readout = index !== null && columns[shown] ? t("config.score_read", { d: integer(columns[shown].distance), mean: significant(columns[shown].mean, 3), low: significant(columns[shown].low, 3), high: significant(columns[shown].high, 3) }) : "";
  const cursor = (column) => index !== null && columns[column] && html`<line x1=${at(column)} x2=${at(column)} y1=${top} y2=${bottom} stroke="var(--ink-3)" /><${Marker} x=${at(column)} y=${y(columns[column].mean)} />`;
  const rows = () => [[t("config.distance"), t("config.low"), t("config.mean"), t("config.high")], ...columns.map((one) => [one.distance, one.low, one.mean, one.high])];
  return html`<${Figure} id="score" title=${t("config.score")} name=${`${name}-score`} rows=${rows} caption=${t("config.score_note", { n: pairs.size })}>
    <div ref=${ref}><${Plot} width=${width} height=${height} label=${t("config.score_label")} index=${Math.max(0, shown)} length=${columns.length} onIndex=${setIndex} indexAt=${(px) => Math.round((px - left) / STEP - 0.5)} readout=${readout} cursor=${cursor}>${marks}</${Plot}></div>
    <p class="cap readout-line">${readout}</p>
  </${Figure}>`;
}

/** The two hands of the chosen pair at a position, and its numbers. */
export function Clock({ view: { answer }, name }) {
  const pairs = useMemo(() => pairsOf(answer), [answer]);
  const pair = chosenPair(pairs.size);
  const { trained, allowed } = answer.lengths ?? {};
  const most = Math.max(trained ?? 0, allowed ?? 0, 8192) - 1;
  const position = choiceOf("position", { most, fallback: Math.min(5000, most) });
  const [a, b] = [pairs.scaled[pair], pairs.plain[pair]];
  const [first, second] = answer.pairs.data.slice(2 * pair, 2 * pair + 2);
  const axis = answer.num_axes > 1 ? answer.pair_axis.data[pair] : null;
  const rows = () => [[t("config.quantity"), t("config.unscaled"), t("config.as_is_short")], ...numbers.map(([key, was, is]) => [key, was, is])];
  const numbers = [[t("config.radians"), b, answer.inv_freq.data[pair]], [t("config.turn"), pairs.plainTurns[pair], pairs.turns[pair]],
    ...[...new Set([trained, allowed, callOf()])].filter(Boolean).map((n) => [t("config.turns_in", { n: integer(n) }), n / pairs.plainTurns[pair], n / pairs.turns[pair]]),
    ...(pairs.isScaled ? [[t("config.divisor"), 1, pairs.divisor[pair]]] : [])];
  const cell = (value) => (Number.isFinite(value) ? amount(value) : "—");
  const title = t("config.pair_title", { pair, first, second }) + (axis === null ? "" : ` · ${axis < 0 ? t("axis.several") : axisName(answer.rope, axis)}`);
  return html`<div class="readout"><${Figure} id="clock" title=${title} name=${`${name}-pair-${pair}`} rows=${rows} curl=${() => curl("v1/cos_sin", { positions: answer.num_axes > 1 ? Array.from({ length: answer.num_axes }, () => [position]) : [position] })}>
    <div class="row hands"><svg viewBox="-90 -90 180 180" width="180" height="180" role="img" aria-label=${t("config.hands", { pair, position: integer(position) })}>
      <circle r="74" fill="none" stroke="var(--line)" stroke-width="1.5" /><path d="M-80 0H80M0 -80V80" stroke="var(--grid)" />
      ${pairs.isScaled && html`<${Hand} angle=${position * b} radius="30" kind="b" />`}<${Hand} angle=${position * a} radius="42" kind="a" /></svg>
      <dl><dt></dt><dd class="was">${pairs.isScaled && t("config.unscaled")}</dd><dd class="is">${t("config.as_is_short")}</dd>
        ${numbers.map(([key, was, is]) => html`<dt>${key}</dt><dd class="was">${pairs.isScaled && cell(was)}</dd><dd class="is">${cell(is)}</dd>`)}</dl></div>
  </${Figure}><${Slider} id="position" label=${t("config.at_position")} value=${position} most=${most} onValue=${(to) => choose({ position: to })} /></div>`;
}

function Hand({ angle, radius, kind }) {
  const [x, y] = [74 * Math.cos(angle), -74 * Math.sin(angle)];
  const swept = Math.min(angle, 2 * Math.PI);
  const arc = Array.from({ length: 61 }, (_, at) => [radius * Math.cos(swept * at / 60), -radius * Math.sin(swept * at / 60)]);
  const dash = kind === "b" ? { "stroke-width": 2, "stroke-dasharray": "5 4" } : { "stroke-width": 3 };
  return html`<path d=${line()(arc)} fill="none" stroke="var(--${kind})" stroke-width="2" stroke-opacity=".55" /><line x2=${x} y2=${y} stroke="var(--${kind})" stroke-linecap="round" ...${dash} />
    <circle cx=${x} cy=${y} r="5" fill=${kind === "b" ? "var(--paper)" : "var(--a)"} stroke="var(--${kind})" stroke-width="2" />`;
}
