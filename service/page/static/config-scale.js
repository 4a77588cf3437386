// The scale of q and k where it depends on the position (xPos): numbers of /v1/cos_sin.
import { html, scaleLinear, scaleLog, useEffect, useState } from "./vendor.js";
import { ask, integer, significant, t } from "./page.js";
import { AxisX, Figure, GridY, Line, Marker, Plot, useWidth } from "./figure.js";
import { curl, ropeText } from "./config-data.js";

/** The strip of scales: one line at the first position of the call and one at the last. */
export default function Scale({ view, name }) {
  const [ref, width] = useWidth(800);
  const [rows, setRows] = useState(null);
  const last = Math.max(1, (view.answer.length || 4096) - 1);
  useEffect(() => {
    const old = new AbortController();
    ask("v1/cos_sin", `{"rope":${ropeText(view.source, view.options)},"positions":[0,${last}]}`, { signal: old.signal }).then(({ scale }) => {
      const size = scale.data.length / 2;
      setRows([scale.data.slice(0, size), scale.data.slice(size)]);
    }, () => old.signal.aborted || setRows(null));
    return () => old.abort();
  }, [view.answer]);
  const drawing = rows && draw({ rows, width, last });
  const table = () => [[t("config.pair"), t("config.scale_at", { n: 0 }), t("config.scale_at", { n: last })], ...rows[0].map((value, pair) => [pair, value, rows[1][pair]])];
  return html`<${Figure} id="scale" title=${t("config.scale")} name=${`${name}-scale`} rows=${rows && table} curl=${() => curl("v1/cos_sin", { positions: [0, last] })} caption=${t("config.scale_note")}>
    <div ref=${ref}><${Plot} width=${width} height="180" label=${t("config.scale")} choice="pair" fallback=${drawing ? rows[0].length >> 1 : 0} length=${drawing ? rows[0].length : 1} indexAt=${drawing?.pairAt ?? (() => 0)}
      readout=${(pair) => drawing && t("config.scale_read", { pair, first: significant(rows[0][pair]), last: significant(rows[1][pair]) })} cursor=${drawing?.cursor}>${drawing?.marks}</${Plot}></div></${Figure}>`;
}

function draw({ rows, width, last }) {
  const size = rows[0].length;
  const [left, right, top, bottom] = [62, width - (width < 560 ? 8 : 118), 24, 150];
  const [low, high] = [Math.min(...rows.flat()), Math.max(...rows.flat())];
  const x = scaleLinear().domain([-0.7, size - 0.3]).range([left, right]);
  const y = scaleLog().domain([low / 1.1, high * 1.1]).range([bottom, top]);
  const points = (row) => row.map((value, pair) => [x(pair), y(value)]);
  const end = (at) => html`<text x=${x(0)} y=${y(rows[at][0]) + (rows[at][0] > 1 ? -8 : 18)} class=${at ? "tb" : "ta"}>${t("config.position_n", { n: integer(at ? last : 0) })}</text>`;
  const marks = html`<${GridY} y=${y} at=${[low, 1, high]} left=${left} right=${right} form=${(value) => significant(value, 3)} /><${AxisX} x=${x} at=${[0, size >> 1, size - 1]} y="172" form=${String} />
    <${Line} points=${points(rows[1])} kind="b" /><${Line} points=${points(rows[0])} />${end(0)}${end(1)}`;
  const cursor = (pair) => html`<line x1=${x(pair)} x2=${x(pair)} y1=${top} y2=${bottom} stroke="var(--ink)" /><${Marker} x=${x(pair)} y=${y(rows[0][pair])} /><${Marker} x=${x(pair)} y=${y(rows[1][pair])} kind="b" />`;
  return { marks, cursor, pairAt: (px) => Math.round(x.invert(px)) };
}
