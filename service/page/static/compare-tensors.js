// Compares the tensors of two files by their names: what two programs have computed.
import { html } from "./vendor.js";
import { integer, significant, t } from "./page.js";
import { Permutation } from "./compare-result.js";
import { readNumbers } from "./safetensors.js";

/** Largest relative error that is rounding, as in /v1/diagnose. */
const TOLERANCE = { F64: 2e-5, F32: 2e-5, F16: 3e-3, BF16: 2e-2 };

/** Numbers that are read at a time, and most numbers that are read to match channels. */
const PIECE = 2 ** 20;

/** Compare two files that `readHeader` has read: `{verdict, rows, first}`. Rows are the tensors of one
    name and shape; `first` is the one that differs most. */
export async function compareFiles(a, b) {
  const positions = await positionsOf(a);
  const rows = [];
  for (const tensor of a.tensors) {
    const other = b.tensors.find(({ name }) => name === tensor.name);
    if (other && String(other.shape) === String(tensor.shape)) rows.push(await compareTensors(a, tensor, b, other, positions));
  }
  const order = ["equal", "rounding", "permuted", "different"];
  const worst = (one, two) => order.indexOf(two.verdict) - order.indexOf(one.verdict) || (two.relative ?? Infinity) - (one.relative ?? Infinity);
  const [first] = [...rows].sort(worst);
  return { verdict: first?.verdict ?? null, rows, first };
}

async function positionsOf(file) {
  const tensor = file.tensors.find(({ name }) => name === "positions");
  return tensor && tensor.count <= PIECE ? Array.from(await readNumbers(file, tensor), Number) : null;
}

async function compareTensors(a, tensor, b, other, positions) {
  const { name, shape, count } = tensor;
  const width = shape.length > 2 ? shape.at(-1) : 1;
  const perToken = shape.length > 2 ? width * shape.at(-2) : 1;
  const [tokens, step] = [shape.length === 4 ? shape[1] : Infinity, Math.max(1, Math.floor(PIECE / perToken)) * perToken];
  const tolerance = Math.max(TOLERANCE[tensor.dtype] ?? 0, TOLERANCE[other.dtype] ?? 0);
  const sums = { error: 0, size: 0, isEqual: tensor.dtype === other.dtype, largest: 0, first: null };
  const note = (token) => {
    const index = token % tokens;
    const position = positions ? (positions[token] ?? positions[index]) : index;
    if (sums.first === null || position < sums.first) sums.first = position;
  };
  for (let from = 0; from < count; from += step) {
    const to = Math.min(count, from + step);
    const [x, y] = await Promise.all([numbers(a, tensor, from, to), numbers(b, other, from, to)]);
    for (let start = 0; start < x.length; start += perToken) {
      let [error, size] = [0, 0];
      for (let i = start; i < Math.min(start + perToken, x.length); i++) {
        const difference = x[i] - y[i];
        if (!Object.is(x[i], y[i])) sums.isEqual = false;
        error += difference * difference;
        size += x[i] * x[i];
        if (!(Math.abs(difference) <= sums.largest)) sums.largest = Math.abs(difference);
      }
      sums.error += error;
      sums.size += size;
      if (!(Math.sqrt(error) <= tolerance * Math.sqrt(size)) && shape.length > 2) note((from + start) / perToken);
    }
  }
  const relative = sums.size ? Math.sqrt(sums.error / sums.size) : sums.error ? null : 0;
  const row = { name, shape, dtypes: [tensor.dtype, other.dtype], relative, largest: sums.largest, first: sums.first };
  if (sums.isEqual) return { ...row, verdict: "equal" };
  if (relative !== null && relative <= tolerance && tolerance) return { ...row, verdict: "rounding" };
  const permutation = width > 2 ? await findPermutation(a, tensor, b, other, width, tolerance) : null;
  return { ...row, permutation, verdict: permutation ? "permuted" : "different" };
}

async function numbers(file, tensor, from, to) {
  const values = await readNumbers(file, tensor, from, to);
  return values instanceof Float64Array ? values : Array.from(values, Number);
}

/** Return the order of the last axis that makes B of A, or null. */
async function findPermutation(a, tensor, b, other, width, tolerance) {
  const rows = Math.min(tensor.count / width, Math.floor(PIECE / width), 4096);
  const [x, y] = await Promise.all([numbers(a, tensor, 0, rows * width), numbers(b, other, 0, rows * width)]);
  const distance = (i, j, count) => {
    let [error, size] = [0, 0];
    for (let row = 0; row < count; row++) {
      error += (x[row * width + i] - y[row * width + j]) ** 2;
      size += x[row * width + i] ** 2;
    }
    return Math.sqrt(error / size);
  };
  const free = new Set(Array.from({ length: width }, (_, index) => index));
  const order = [];
  for (let j = 0; j < width; j++) {
    const found = [...free].find((i) => distance(i, j, Math.min(rows, 24)) <= 4 * tolerance && distance(i, j, rows) <= 4 * tolerance);
    if (found === undefined) return null;
    free.delete(found);
    order.push(found);
  }
  return order;
}

/** Heading and sentence of a comparison of files. */
export function sentencesOf({ verdict, rows, first }, [a, b]) {
  if (!verdict) return [t("compare.tensors.none"), t("compare.tensors.none.text", { a: namesOf(a), b: namesOf(b) })];
  if (verdict === "equal") return [t("compare.equal"), t("compare.tensors.equal", { count: rows.length })];
  const values = { name: first.name, error: first.relative === null ? "—" : significant(first.relative, 2), position: integer(first.first ?? 0) };
  if (verdict === "rounding") return [t("compare.rounding"), t("compare.tensors.rounding", values)];
  if (verdict === "permuted") return [t("compare.permuted"), t("compare.tensors.permuted", values)];
  const differing = rows.filter((row) => row.verdict === "different").length;
  return [t(first.first === null ? "compare.tensors.different" : "compare.tensors.different.from", values), t("compare.tensors.different.text", { ...values, differing, count: rows.length })];
}

const namesOf = (header) => header.tensors.map(({ name }) => name).join(", ") || "—";

/** The tensors that both files have. */
export function Tensors({ found: { rows, first } }) {
  if (!rows.length) return null;
  const columns = ["tensor", "dtype", "shape", "relative", "largest", "first"];
  return html`<section class="fig parameters" aria-labelledby="tensors"><h2 id="tensors">${t("compare.tensors.both")}</h2><div class="wide" tabindex="0" role="group" aria-label=${t("compare.tensors.both")}><table>
    <thead><tr>${columns.map((name, index) => html`<th scope="col" class=${index > 2 ? "num" : ""}>${t(`compare.tensors.column.${name}`)}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr><th scope="row"><code>${row.name}</code></th><td>${[...new Set(row.dtypes)].join(" / ")}</td><td>[${row.shape.join(", ")}]</td>
      <td class="num">${row.relative === null ? "—" : significant(row.relative, 2)}</td><td class="num">${significant(row.largest, 2)}</td><td class="num">${row.first === null ? "—" : integer(row.first)}</td></tr>`)}</tbody></table></div></section>
    ${first.permutation && html`<${Permutation} order=${first.permutation} />`}`;
}
