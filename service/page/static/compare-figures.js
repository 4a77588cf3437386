// The two figures of a comparison: frequencies of B as multiples of those of A, and the cosine of a
// vector rotated by A and by B against the position.
import { area, html, line, scaleLinear, scaleLog, useMemo } from "./vendor.js";
import { integer, significant, t } from "./page.js";
import { AxisX, Figure, GridY, Marker, Plot, choiceOf, decades, useWidth } from "./figure.js";
import { cosineAt, lengthsOf, numbersOf, ratiosOf } from "./compare-numbers.js";

const HEIGHT = 264;
const [TOP, BOTTOM] = [28, 34];

/** Write a ratio as a factor or as a divisor: × 8, ÷ 8. */
export function ratioText(ratio) {
  if (ratio === null) return "—";
  if (Math.abs(ratio - 1) < 5e-7) return "1";
  return ratio > 1 ? `× ${significant(ratio, 4)}` : `÷ ${significant(1 / ratio, 4)}`;
}

/** Factors and divisors within a range: powers of 2, or of 10 with the threes between where they fit. */
function ticksOf([low, high]) {
  const span = high / low;
  const factors = span < 64 ? [2, 4, 8, 16, 32] : decades(10, Math.max(high, 1 / low) * 10, 4).flatMap((ten) => (span < 1e3 ? [0.3 * ten, ten] : [ten]));
  return [1, ...factors, ...factors.map((factor) => 1 / factor)].filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

/** The frequency of each pair of B, as a multiple of that of A. */
export function RatioFigure({ found }) {
  const [ref, width] = useWidth();
  const ratios = useMemo(() => ratiosOf(found.answer), [found]);
  const [own, other] = useMemo(() => [numbersOf(found.answer.inv_freq), numbersOf(found.answer.inv_freq_other)], [found]);
  const known = ratios.filter((ratio) => ratio !== null);
  const range = [Math.min(0.5, ...known) / 1.15, Math.max(2, ...known) * 1.15];
  const [left, right] = [56, width - (width < 480 ? 12 : 64)];
  const x = scaleLinear().domain([-0.5, ratios.length - 0.5]).range([left, right]);
  const y = scaleLog().domain(range).range([HEIGHT - BOTTOM, TOP]);
  const points = ratios.map((ratio, i) => ratio && [x(i), y(ratio)]);
  const step = ratios.length > 40 ? 16 : ratios.length > 16 ? 8 : 4;
  const at = ratios.map((_, i) => i).filter((i) => i % step === 0);
  const rows = () => [[t("compare.pair"), "A", "B", "B / A"], ...ratios.map((ratio, i) => [i, own[i], other[i], ratio])];
  const last = ratios.findLastIndex((ratio) => ratio !== null);
  const readout = (i) => t("compare.ratio.readout", { pair: i, ratio: ratioText(ratios[i]), a: significant(own[i]), b: significant(other[i]), turnA: turn(own[i]), turnB: turn(other[i]) });
  const cursor = (i) => html`<line x1=${x(i)} x2=${x(i)} y1=${TOP} y2=${HEIGHT - BOTTOM} stroke="var(--ink)" />${points[i] && html`<${Marker} x=${points[i][0]} y=${points[i][1]} kind="b" />`}`;
  return html`<${Figure} id="ratio" name="ratio" title=${t("compare.ratio")} rows=${rows} curl=${() => curlOf(found)} caption=${html`<${Readout} choice="pair" most=${ratios.length - 1} fallback=${ratios.length >> 1} readout=${readout} />`}><div ref=${ref}>
    <${Plot} width=${width} height=${HEIGHT} label=${t("compare.ratio.label", { low: ratioText(Math.min(...known)), high: ratioText(Math.max(...known)) })} choice="pair" fallback=${ratios.length >> 1} length=${ratios.length} indexAt=${(px) => Math.round(x.invert(px))} readout=${readout} cursor=${cursor}>
      <text x=${left - 8} y=${TOP - 12} text-anchor="end" class="t3">B / A</text>
      <${GridY} y=${y} at=${ticksOf(range)} left=${left} right=${right} form=${ratioText} />
      <line x1=${left} x2=${right} y1=${y(1)} y2=${y(1)} stroke="var(--a)" stroke-width="2.2" />
      <text x=${left + 6} y=${y(1) + (known.some((ratio) => ratio > 1.001) ? 17 : -7)} class="ta halo">A</text>
      <path d=${line().defined(Boolean)(points)} fill="none" stroke="var(--b)" stroke-width="1.4" stroke-dasharray="4 3" />
      ${points.map((point) => point && html`<circle cx=${point[0]} cy=${point[1]} r=${ratios.length > 80 ? 2 : 2.8} fill="var(--paper)" stroke="var(--b)" stroke-width="1.5" />`)}
      ${last >= 0 && width >= 480 && html`<text x=${right + 8} y=${y(ratios[last]) + 4} class="tb">${ratioText(ratios[last])}</text>`}
      <${AxisX} x=${x} at=${at} y=${HEIGHT - 12} form=${String} /><text x=${left - 8} y=${HEIGHT - 12} text-anchor="end" class="t3">${t("compare.pair")}</text>
    <//></div><//>`;
}

/** What is at the chosen place; it alone is drawn again when the place moves. */
function Readout({ choice, most, fallback, readout }) {
  return readout(choiceOf(choice, { most, fallback }));
}

/** The request of the comparison for a shell. */
function curlOf({ a, b }) {
  const body = JSON.stringify({ rope: a.source, other: b.source }).replace(/'/g, `'\\''`);
  return `curl -s ${new URL("../v1/compare", location.href)} -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

/** Positions of one turn. */
function turn(frequency) {
  const positions = (2 * Math.PI) / Math.abs(frequency);
  return frequency ? (positions < 1000 ? significant(positions) : integer(positions)) : "—";
};

const decimal = (value, digits = 2) => value.toFixed(digits).replace("-", "\u2212");

/** The cosine of a vector rotated by A and the same rotated by B, by position. */
export function CosineFigure({ found, curve: { curve, last, terms } }) {
  const [ref, width] = useWidth();
  const marks = lengthsOf(found).filter(({ position }) => position <= last);
  const lowest = Math.min(0, ...curve.map((column) => column.lowest));
  const [left, right] = [width < 480 ? 40 : 66, width - 44];
  const x = scaleLog().domain([1, last]).range([left, right]);
  const y = scaleLinear().domain([lowest, 1]).range([HEIGHT - BOTTOM, TOP]);
  const { band, mean } = useMemo(() => ({
    band: area().x(({ position }) => x(position)).y0(({ lowest: low }) => y(low)).y1(({ highest }) => y(highest))(curve),
    mean: line().x(({ position }) => x(position)).y((column) => y(column.mean))(curve),
  }), [curve, width]);
  const rows = () => [[t("compare.position"), t("compare.cosine.mean"), t("compare.cosine.lowest"), t("compare.cosine.highest")], ...curve.map((column) => [column.position, column.mean, column.lowest, column.highest])];
  const of = (index) => curve[Math.min(index, curve.length - 1)];
  const readout = (index) => {
    const { position, end, lowest: low, highest } = of(index);
    if (position === end) return t("compare.cosine.readout", { position: integer(position), value: decimal(cosineAt(terms, position), 3) });
    return t("compare.cosine.readout.range", { position: integer(position), end: integer(end), mean: decimal(of(index).mean, 3), low: decimal(low, 3), high: decimal(highest, 3) });
  };
  const indexAt = (px) => {
    const position = x.invert(px);
    const index = curve.findIndex(({ end }) => end >= position);
    return index < 0 ? curve.length - 1 : index;
  };
  const cursor = (index) => html`<line x1=${x(of(index).position)} x2=${x(of(index).position)} y1=${TOP} y2=${HEIGHT - BOTTOM} stroke="var(--ink-3)" /><${Marker} x=${x(of(index).position)} y=${y(of(index).mean)} kind="c" />`;
  const fallback = Math.max(0, curve.findIndex(({ end }) => end >= 1000));
  const ticks = (lowest < -0.25 ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]).filter((value) => value >= lowest);
  return html`<${Figure} id="cosine" name="cosine" title=${t("compare.cosine")} rows=${rows} curl=${() => curlOf(found)} caption=${html`<${Readout} choice="at" most=${curve.length - 1} fallback=${fallback} readout=${readout} /> ${t("compare.cosine.caption")}`}><div ref=${ref}>
    <${Plot} width=${width} height=${HEIGHT} label=${t("compare.cosine.label", { value: decimal(cosineAt(terms, last)), position: integer(last) })} choice="at" fallback=${fallback} length=${curve.length} indexAt=${indexAt} readout=${readout} cursor=${cursor}>
      <${GridY} y=${y} at=${ticks} left=${left} right=${right} form=${(value) => String(value).replace("-", "\u2212")} />
      ${marks.map((mark) => html`<${Length} mark=${mark} x=${x} y=${y} value=${cosineAt(terms, mark.position)} isTwo=${marks.length > 1} />`)}
      <path d=${band} fill="var(--c)" fill-opacity=".18" /><path d=${mean} fill="none" stroke="var(--c)" stroke-width="2.2" stroke-linejoin="round" />
      ${marks.map(({ position }) => html`<circle cx=${x(position)} cy=${y(cosineAt(terms, position))} r="4" fill="var(--c)" stroke="var(--paper)" stroke-width="1.5" />
        <text x=${x(position) + 8} y=${y(cosineAt(terms, position)) + 4} class="tc halo">${decimal(cosineAt(terms, position))}</text>`)}
      <${AxisX} x=${x} at=${decades(1, last, width < 480 ? 4 : 7)} y=${HEIGHT - 12} />${width >= 480 && html`<text x=${left - 12} y=${HEIGHT - 12} text-anchor="end" class="t3">${t("compare.position")}</text>`}
    <//></div><//>`;
}

function Length({ mark, x, y, isTwo }) {
  const at = x(mark.position);
  const anchor = isTwo && mark.name === "allowed" ? "start" : "end";
  return html`<line x1=${at} x2=${at} y1=${TOP} y2=${HEIGHT - BOTTOM} stroke="var(--ink)" stroke-width="1.2" />
    <text x=${at + (anchor === "end" ? 4 : -4)} y=${TOP - 10} text-anchor=${anchor} class="t1">${t(`compare.${mark.name}`)}</text>`;
}
