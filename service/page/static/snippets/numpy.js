// What the two Python programs share: literals, and tensors in numpy.

/** Return a value of JSON as Python writes it. */
export function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const NORMAL = `
def normal(shape, seed):
    """Return numbers that are close to standard normal ones, and exact in each dtype."""
    x, numbers = seed, np.empty(shape, np.float32)
    for i in range(numbers.size):
        total = -90
        for _ in range(3):
            x = (x * 1664525 + 1013904223) % 2**32
            total += (x >> 28) + (x >> 24 & 15) + (x >> 20 & 15) + (x >> 16 & 15)
        numbers.flat[i] = total / 16
    return numbers

`;

/** Return imports and functions that the tensors need. */
export function preamble({ tensors, needsFile }) {
  if (needsFile) return { imports: ["from safetensors.numpy import load_file"], functions: "" };
  const half = tensors.some(({ dtype }) => dtype === "bfloat16");
  return {
    imports: [...(half ? ["import ml_dtypes"] : []), ...(tensors.length ? ["import numpy as np"] : [])],
    functions: tensors.some(({ kind }) => kind === "normal") ? NORMAL : "",
  };
}

/** Return the expression of a tensor. */
export function array({ name, kind, dtype, shape, count, seed, data }, needsFile) {
  if (needsFile) return `tensors[${JSON.stringify(name)}]`;
  const type = dtype === "bfloat16" ? "ml_dtypes.bfloat16" : dtype === "bool" ? "np.bool_" : `np.${dtype}`;
  const tuple = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  if (kind === "normal") return `normal(${tuple}, ${seed})${dtype === "float32" ? "" : `.astype(${type})`}`;
  if (kind === "ones") return `np.ones(${tuple}, ${type})`;
  if (kind === "arange") return `np.arange(${count}).astype(${type})${shape.length === 1 ? "" : `.reshape${tuple}`}`;
  if (shape.length === 0) return `np.array(${literal(data[0])}, ${type})`;
  const list = `np.array(${literal(data)}, ${type})`;
  return shape.length === 1 ? list : `${list}.reshape${tuple}`;
}
