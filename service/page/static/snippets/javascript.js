// The request of the Try view with fetch, for Node 18 or a browser, without packages.

export const file = "request.mjs";
export const run = "node request.mjs";

const NORMAL = `function normal(count, seed) { // close to standard normal numbers, exact in each dtype
  let x = seed;
  return Array.from({ length: count }, () => {
    let sum = -90;
    for (let j = 0; j < 3; j++) {
      x = (x * 1664525 + 1013904223) % 2 ** 32;
      sum += (x >>> 28) + ((x >>> 24) & 15) + ((x >>> 20) & 15) + ((x >>> 16) & 15);
    }
    return sum / 16;
  });
}`;
const HALF = `// the upper bits of float32: all that these numbers need
const bfloat16 = (numbers) => Uint16Array.from(new Uint32Array(Float32Array.from(numbers).buffer), (bits) => bits >>> 16);`;
const FLOAT16 = `const float16 = (numbers) => Uint16Array.from(new Uint32Array(Float32Array.from(numbers).buffer), (bits) =>
  bits << 1 ? ((bits >>> 16) & 0x8000) | (((bits & 0x7fffffff) >>> 13) - (112 << 10)) : 0);`;
const READ = `const bytes = await response.arrayBuffer();
if (!response.ok) throw new Error(new TextDecoder().decode(bytes)); // {"code": ..., "detail": ...}
// 8 bytes with the length of the header, the header, the numbers
const size = Number(new DataView(bytes).getBigUint64(0, true));
const { __metadata__, ...tensors } = JSON.parse(new TextDecoder().decode(bytes.slice(8, 8 + size)));
const half = (exponent, fraction) => (bits) => {
  const e = (bits >> fraction) & (2 ** exponent - 1), f = (bits & (2 ** fraction - 1)) / 2 ** fraction;
  return (bits >> 15 ? -1 : 1) * (e ? (1 + f) * 2 ** (e - 2 ** (exponent - 1) + 1) : f * 2 ** (2 - 2 ** (exponent - 1)));
};
const READERS = {
  F32: (b) => [...new Float32Array(b)], F64: (b) => [...new Float64Array(b)], I64: (b) => [...new BigInt64Array(b)],
  I32: (b) => [...new Int32Array(b)], BOOL: (b) => [...new Uint8Array(b)],
  F16: (b) => [...new Uint16Array(b)].map(half(5, 10)), BF16: (b) => [...new Uint16Array(b)].map(half(8, 7)),
};
for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(tensors)) {
  const numbers = READERS[dtype](bytes.slice(8 + size + start, 8 + size + end));
  console.log(name, JSON.stringify(shape), ...numbers.slice(0, 8).map(String));
}`;
const ARRAYS = { float32: "Float32Array", float64: "Float64Array", int32: "Int32Array", bool: "Uint8Array" };

function bytes({ kind, dtype, count, seed, data }) {
  const list = JSON.stringify(data?.map(Number));
  const numbers = { normal: `normal(${count}, ${seed})`, ones: `Array(${count}).fill(1)`, arange: `Array.from({ length: ${count} }, (_, i) => i)`, values: list }[kind];
  if (dtype in ARRAYS) return `${ARRAYS[dtype]}.from(${numbers})`;
  if (dtype === "int64") return `BigInt64Array.from(${numbers}, BigInt)`.replace(`${list}, BigInt`, `[${data?.map((value) => `${value}n`)}]`);
  return `${dtype}(${numbers})`;
}

/** Return the program. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile, header, paramsHeader } = request;
  const key = auth ? ["Authorization: `Bearer ${process.env.ROPE_API_KEY}`"] : [];
  const fetching = (headers, body) => `const response = await fetch(${JSON.stringify(url)}, {\n  method: ${JSON.stringify(method)},\n${headers.length ? `  headers: { ${headers.join(", ")} },\n` : ""}${body ? `  body${body === "body" ? "" : `: ${body}`},\n` : ""}});`;
  const print = "console.log((await response.text()).slice(0, 600));";
  if (!hasBody) return `${fetching(key, "")}\n${print}\n`;
  if (tensors.length === 0 || !route.takesSafetensors) {
    return `${fetching([...key, '"Content-Type": "application/json"'], `JSON.stringify(${JSON.stringify(params)})`)}\n${print}\n`;
  }
  const headers = [...key, '"Content-Type": "application/x-safetensors"'];
  if (route.givesSafetensors) headers.push('Accept: "application/x-safetensors"');
  const lines = [];
  if (needsFile) {
    lines.push('import { readFile } from "node:fs/promises";', "", 'const body = await readFile("request.safetensors");');
  } else {
    if (tensors.some(({ kind }) => kind === "normal")) lines.push(NORMAL, "");
    if (tensors.some(({ dtype }) => dtype === "bfloat16")) lines.push(HALF, "");
    if (tensors.some(({ dtype }) => dtype === "float16")) lines.push(FLOAT16, "");
    if (paramsHeader) headers.push(`"X-Rope-Params": ${JSON.stringify(paramsHeader)}`);
    lines.push(`const description = ${JSON.stringify(header)};`, "const body = new Blob([", "  BigUint64Array.of(BigInt(description.length)), description,", ...tensors.map((tensor) => `  ${bytes(tensor)}, // ${tensor.name}`), "]);");
  }
  lines.push(fetching(headers, "body"), route.givesSafetensors ? READ : print, "");
  return lines.join("\n");
}
