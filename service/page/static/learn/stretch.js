// Lesson 6: five ways to stretch a context, with the frequencies that the service resolves.
import { html, scaleLinear, scaleLog, useEffect } from "../vendor.js";
import { integer, language, short, significant, t, wanted } from "../page.js";
import { AxisX, Dots, Figure, GridY, Key, Line, Reference, choose, chosen, decades, useWidth } from "../figure.js";
import { Choices, Control, Failure, TAU, numberOf, useService } from "./parts.js";

const TRAINED = 4096;
const WAYS = ["linear", "dynamic", "yarn", "llama3", "longrope"];
const PRESET = "phi-3.5-mini-instruct"; // its config has the two lists of LongRoPE
const PRESET_LENGTH = 131072;

const wayOf = () => (WAYS.includes(chosen("way").value) ? chosen("way").value : "yarn");
const factorOf = () => numberOf("factor", { least: 1, most: 64, fallback: 8 });

/** The config of a model that was trained on 4 096 positions, stretched in that way. */
export function configOf(way, factor) {
  const original = { original_max_position_embeddings: TRAINED };
  const more = { yarn: original, llama3: { low_freq_factor: 1, high_freq_factor: 4, ...original } }[way];
  return {
    model_type: "llama", hidden_size: 4096, num_attention_heads: 32, rope_theta: 10000,
    max_position_embeddings: more ? TRAINED * factor : TRAINED,
    rope_scaling: { rope_type: way, factor, ...more },
  };
}

/** The rope that is sent to the service; ways that look at the length of the call get the whole one. */
export function ropeOf(way, factor) {
  if (way === "longrope") return { preset: PRESET, length: PRESET_LENGTH };
  return way === "dynamic" ? { config: configOf(way, factor), length: TRAINED * factor } : { config: configOf(way, factor) };
}

function useAnswer() {
  return useService("v1/resolve", { rope: ropeOf(wayOf(), factorOf()) });
}

/** Runs of pairs that are kept, blended or divided: `[kind, first, last]`. */
export function bandsOf({ inv_freq, inv_freq_unscaled, scaling }) {
  const kinds = inv_freq.data.map((frequency, pair) => {
    const by = inv_freq_unscaled.data[pair] / frequency;
    if (Math.abs(by - 1) < 1e-6) return "kept";
    return Math.abs(by / scaling.factor - 1) < 1e-6 ? "divided" : "blended";
  });
  const runs = [];
  kinds.forEach((kind, pair) => {
    if (runs.at(-1)?.[0] === kind) runs.at(-1)[2] = pair;
    else runs.push([kind, pair, pair]);
  });
  return runs;
}

function Picture() {
  const { answer, error } = useAnswer();
  const [ref, width] = useWidth(1000);
  const rows = () => [[t("learn.clocks.pair"), t("learn.stretch.before"), t("learn.stretch.after"), t("learn.stretch.divided_by")], ...answer.inv_freq.data.map((frequency, pair) => {
    const plain = answer.inv_freq_unscaled.data[pair];
    return [pair, +(TAU / plain).toPrecision(6), +(TAU / frequency).toPrecision(6), +(plain / frequency).toPrecision(6)];
  })];
  const legend = html`<span><${Key} />${t("learn.stretch.after")}</span><span><${Key} kind="b" />${t("learn.stretch.before")}</span>`;
  return html`<${Figure} id="stretch" title=${t("learn.stretch.title")} name="stretch" rows=${rows} legend=${legend}><${Failure} error=${error} /><div ref=${ref}>${answer && html`<${Drawing} answer=${answer} width=${width} />`}</div><//>`;
}

function Drawing({ answer, width }) {
  const narrow = width < 560;
  const [height, left, right, top, bottom] = [380, 56, narrow ? 8 : 108, 26, 32];
  const waves = answer.inv_freq.data.map((frequency) => TAU / frequency);
  const plain = answer.inv_freq_unscaled.data.map((frequency) => TAU / frequency);
  const last = waves.length - 1;
  const x = scaleLinear().domain([0, last]).range([left + 8, width - right - 8]);
  const y = scaleLog().domain([4, Math.max(1e6, ...waves) * 1.3]).range([height - bottom, top]);
  const points = (values) => values.map((value, pair) => [x(pair), y(value)]);
  const { trained } = answer.lengths;
  const allowed = answer.length ?? answer.lengths.allowed;
  const stretched = wayOf() === "longrope" ? PRESET_LENGTH : TRAINED * factorOf();
  const fill = { kept: "none", blended: "var(--mix)", divided: "var(--a-wash)" };
  const ink = { kept: "t1", blended: "tm", divided: "ta" };
  const half = (x(1) - x(0)) / 2;
  const name = ([kind, from, to]) => {
    const count = to - from + 1;
    const by = significant(answer.scaling.factor, 3);
    const long = t(`learn.stretch.${kind}`, { count, by });
    return long.length * 6.4 < (to - from + 1) * 2 * half + 12 ? long : count > 2 ? String(count) : "";
  };
  return html`<svg viewBox="0 0 ${width} ${height}" role="img" aria-label=${t("learn.stretch.label", { ...answer.scaling, factor: significant(answer.scaling.factor, 4) })}>
    ${bandsOf(answer).map((run) => html`<rect x=${x(run[1]) - half} y=${top} width=${x(run[2]) - x(run[1]) + 2 * half} height=${height - top - bottom} fill=${fill[run[0]]} /><text x=${(x(run[1]) + x(run[2])) / 2} y=${top - 9} text-anchor="middle" class=${ink[run[0]]}>${name(run)}</text>`)}
    <${GridY} y=${y} at=${decades(...y.domain())} left=${left} right=${width - right} />
    <text x=${left - 8} y=${top - 9} text-anchor="end" class="t3">${narrow ? "" : t("learn.stretch.positions")}</text><text x=${left - 8} y=${height - 8} text-anchor="end" class="t3">${t("learn.stretch.pair")}</text>
    <${AxisX} x=${x} at=${narrow ? [0, 16, 32, 48, 64].filter((pair) => pair <= last) : [0, 8, 16, 24, 32, 40, 48, 56].filter((pair) => pair < last - 2).concat(last)} y=${height - 8} form=${String} />
    ${narrow ? [trained, stretched].map((value) => html`<path d=${`M${left} ${y(value)}H${width - right}`} stroke="var(--ink)" stroke-width="1.2" /><text x=${left + 6} y=${y(value) - 5} class="t1 halo">${short(value)}</text>`)
      : html`<${Reference} y=${y(trained)} left=${left} right=${width - right} name=${t("learn.stretch.trained")} number=${integer(trained)} />${stretched > trained * 1.8 && html`<${Reference} y=${y(stretched)} left=${left} right=${width - right} name=${t("learn.stretch.stretched")} number=${integer(stretched)} />`}`}
    <${Line} points=${points(plain)} kind="b" /><${Dots} points=${points(plain)} kind="b" size=${5} /><${Line} points=${points(waves)} /><${Dots} points=${points(waves)} size=${5} />
  </svg>`;
}

function Controls() {
  const way = wayOf();
  const own = way === "longrope";
  return html`<${Choices} label=${t("learn.stretch.way")} name="way" value=${way} options=${WAYS.map((key) => [key, t(`learn.stretch.${key}`)])} />
    <${Control} id="factor" label=${t("learn.stretch.factor")} value=${own ? 32 : factorOf()} least=${1} most=${64} disabled=${own} onValue=${(factor) => choose({ factor })} />
    ${own && html`<p class="cap">${t("learn.stretch.lists", { preset: PRESET })}</p>`}`;
}

function Numbers() {
  const { answer } = useAnswer();
  if (!answer) return null;
  const { kept, blended, divided, factor } = answer.scaling;
  const row = (name, value, id) => html`<tr><th scope="row">${name}</th><td class="num" id=${id}>${value}</td></tr>`;
  return html`<table class="laws"><tbody>
    ${row(t("learn.stretch.n_kept"), kept, "kept")}${row(t("learn.stretch.n_blended"), blended, "blended")}
    ${row(t("learn.stretch.n_divided", { by: significant(factor, 4) }), divided, "divided")}
    ${row(t("learn.stretch.gain"), significant(answer.attention_scaling, 5), "gain")}
  </tbody></table><${Link} />`;
}

/** Link to Config with the same state; the link in the text of the lesson follows. */
function Link() {
  const [way, factor] = [wayOf(), factorOf()];
  const { config, preset, length } = ropeOf(way, factor);
  const values = { ...(preset ? { preset } : { config: JSON.stringify(config) }), ...(length && { length }) };
  const address = `config.html${language === wanted ? "" : `?lang=${language}`}#${new URLSearchParams(values)}`;
  useEffect(() => document.querySelector(".config-link").setAttribute("href", address), [address]);
  return html`<p class="cap"><a id="to-config" href=${address}>${t("learn.stretch.config")}</a></p>`;
}

export const parts = { figure: Picture, control: Controls, numbers: Numbers };
