// How far the arithmetic of a model's class is from the exact cosine, by position: two answers of
// /v1/cos_sin, and the rounding of each dtype as a band.
import { html, scaleLog, useEffect, useMemo, useState } from "./vendor.js";
import { ask, integer, significant, t } from "./page.js";
import { AxisX, decades, Figure, GridY, Key, Line, Marker, Plot, useWidth } from "./figure.js";
import { curl, isParameters, ropeText } from "./config-data.js";

const BANDS = [["bfloat16", 2 ** -9], ["float16", 2 ** -12], ["float32", 2 ** -25]]; // half a unit of cosines below 1

/** Positions of about equal factors, from 1 to the last, with no power of two among them favoured. */
function spread(last) {
  const found = new Set([1]);
  for (let at = 0; at <= 63; at++) found.add(Math.min(last, Math.round(last ** (at / 63)) | 1));
  return [...found].sort((one, other) => one - other);
}

/** Largest error of a cosine or sine of any pair, against position. */
export default function Numerics({ view, name }) {
  const [ref, width] = useWidth(800);
  const { answer, source } = view;
  const { trained, allowed } = answer.lengths ?? {};
  const positions = useMemo(() => spread(Math.max(trained ?? 0, allowed ?? 0, 8192) - 1), [answer]);
  const [errors, setErrors] = useState(null);
  const [index, setIndex] = useState(null);
  useEffect(() => {
    const old = new AbortController();
    const request = (arithmetic) => ask("v1/cos_sin", body(arithmetic), { signal: old.signal });
    const body = (arithmetic) => {
      const options = isParameters(source.text ?? "") ? { arithmetic } : { ...view.options, arithmetic };
      const several = answer.num_axes > 1 ? Array.from({ length: answer.num_axes }, () => positions) : positions;
      return `{"rope":${ropeText(source, options)},"positions":${JSON.stringify(several)}}`;
    };
    Promise.all([request("hf"), request("float64")]).then(([one, exact]) => {
      const gain = answer.attention_scaling || 1;
      const size = one.cos.data.length / positions.length;
      setErrors(positions.map((_, row) => {
        let most = 0;
        for (const part of ["cos", "sin"]) for (let at = row * size; at < (row + 1) * size; at++) most = Math.max(most, Math.abs(one[part].data[at] - exact[part].data[at]) / gain);
        return most;
      }));
    }, (refusal) => old.signal.aborted || setErrors(refusal));
    return () => old.abort();
  }, [answer, positions]);
  const isReady = Array.isArray(errors) && errors.length === positions.length;
  const [left, right, top, bottom] = [74, width - (width < 560 ? 8 : 118), 24, 330];
  const x = scaleLog().domain([1, positions.at(-1)]).range([left, right]);
  const y = scaleLog().domain([1e-8, 2]).range([bottom, top]).clamp(true);
  const shown = Math.min(index ?? Infinity, positions.length - 1);
  const read = (at) => (isReady ? t("config.error_read", { position: integer(positions[at]), error: significant(errors[at], 2) }) : "");
  const rows = () => [[t("config.position"), "hf", "float64"], ...positions.map((position, at) => [position, errors[at], `≤ ${significant(BANDS[2][1], 2)}`])];
  const legend = html`<span><${Key} />hf</span><span><${Key} kind="b" />float64</span>`;
  const nearest = (px) => { const wanted = x.invert(px); let best = 0; positions.forEach((position, at) => { if (Math.abs(Math.log(position / wanted)) < Math.abs(Math.log(positions[best] / wanted))) best = at; }); return best; };
  return html`<${Figure} id="numerics" title=${t("config.numerics")} name=${`${name}-numerics`} rows=${isReady && rows} curl=${() => curl("v1/cos_sin", { positions: [positions.at(-1)] })} legend=${legend} caption=${t("config.numerics_note")}>
    <div ref=${ref}><${Plot} width=${width} height="366" label=${t("config.numerics")} index=${shown} length=${positions.length} onIndex=${setIndex} indexAt=${nearest} readout=${read(shown)}
      cursor=${(at) => isReady && html`<line x1=${x(positions[at])} x2=${x(positions[at])} y1=${top} y2=${bottom} stroke="var(--ink-3)" /><${Marker} x=${x(positions[at])} y=${y(errors[at])} />`}>
      ${BANDS.map(([dtype, bound], at) => html`<rect x=${left} y=${y(bound)} width=${right - left} height=${(BANDS[at + 1] ? y(BANDS[at + 1][1]) : bottom) - y(bound)} fill="var(--mix)" fill-opacity=${[0.45, 0.7, 1][at]} />
        <text x=${width < 560 ? right - 4 : right + 10} y=${y(bound) + (width < 560 ? 14 : 4)} text-anchor=${width < 560 ? "end" : "start"} class="tm">${dtype}</text>${width >= 560 && html`<text x=${right + 10} y=${y(bound) + 18}>${significant(bound, 2)}</text>`}`)}
      <${GridY} y=${y} at=${decades(1e-8, 1)} left=${left} right=${right} form=${(value) => significant(value, 1).replace("1\u00d7", "")} /><${AxisX} x=${x} at=${decades(1, positions.at(-1), 8)} y="350" />
      <${Line} points=${[[left, y(BANDS[2][1])], [right, y(BANDS[2][1])]]} kind="b" />
      ${isReady && html`<${Line} points=${positions.flatMap((position, at) => (errors[at] > 0 ? [[x(position), y(errors[at])]] : []))} />`}</${Plot}></div>
    <p class="cap readout-line">${isReady ? read(shown) : errors?.message ? html`<span lang="en">${errors.message}</span>` : t("config.loading")}</p></${Figure}>`;
}
