// Requests of the Try view: routes of the OpenAPI document, the fields of a form, and the body.
// This file knows forms of JSON schemas and of tensors; it has no rule of a route.

/** Default limits of the service, until /version has answered. */
export const LIMITS = { max_body_bytes: 268435456, max_json_bytes: 16777216 };

/** Dtypes of the service: name in safetensors files, and bytes of a number. */
export const DTYPES = {
  float32: ["F32", 4], float16: ["F16", 2], bfloat16: ["BF16", 2], float64: ["F64", 8],
  int64: ["I64", 8], int32: ["I32", 4], bool: ["BOOL", 1],
};

/** Ways to fill a tensor. */
export const KINDS = ["normal", "ones", "arange", "values", "file"];

// First requests that are larger than the examples of the document.
const FIRST = {
  "POST /v1/rotate": { tensors: { q: "normal float32 1,16,8,128 0", positions: "arange int64 16" }, params: { rope: "llama-3.1-8b" } },
  "POST /v1/attention": {
    tensors: { q: "normal float32 1,16,8,128 0", k: "normal float32 1,16,2,128 1", v: "normal float32 1,16,2,128 2" },
    params: { rope: "llama-3.1-8b", return_lse: "true" },
  },
  "POST /v1/cos_sin": { tensors: { positions: "arange int64 16" }, params: { rope: "llama-3.1-8b" } },
  "POST /v1/shift": { tensors: { k: "normal float32 1,16,2,128 0", delta: "values int64 100" }, params: { rope: "llama-3.1-8b" } },
  "POST /v1/merge": { tensors: { out: "normal float32 2,16,8,64 0", lse: "normal float32 2,16,8 1" }, params: {} },
};

/** Return the routes of a document: `{key, method, path, summary, tag, fields, ...}`. */
export function readRoutes(document) {
  const deref = (schema) => (schema?.$ref ? deref(schema.$ref.slice(2).split("/").reduce((node, name) => node?.[name], document)) : schema ?? {});
  const routes = [];
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const method of ["get", "post", "put", "patch", "delete"]) {
      if (item[method]) routes.push(readRoute(path, method.toUpperCase(), item[method], deref));
    }
  }
  return routes;
}

function readRoute(path, method, operation, deref) {
  const content = deref(operation.requestBody).content ?? {};
  const json = content["application/json"];
  const { properties, required } = members(json?.schema, deref);
  const fields = Object.entries(properties).map(([name, schema]) => readField(name, schema, required.has(name), deref));
  for (const parameter of (operation.parameters ?? []).map(deref)) {
    if (parameter.in === "header" || fields.some((field) => field.name === parameter.name)) continue;
    const field = readField(parameter.name, { ...parameter.schema, description: parameter.description }, parameter.required, deref);
    fields.push({ ...field, place: parameter.in });
  }
  const ok = Object.entries(operation.responses ?? {}).find(([status]) => status.startsWith("2"))?.[1];
  return {
    key: `${method} ${path}`, method, path, fields,
    summary: operation.summary ?? "", description: operation.description ?? "",
    tag: operation.tags?.[0] ?? "", operation: operation.operationId ?? "", responses: operation.responses ?? {},
    example: Object.values(json?.examples ?? {})[0]?.value ?? json?.example ?? {},
    hasBody: Object.keys(content).length > 0,
    takesSafetensors: "application/x-safetensors" in content,
    givesSafetensors: "application/x-safetensors" in (deref(ok).content ?? {}),
    takesParams: (operation.parameters ?? []).some((parameter) => deref(parameter).name === "X-Rope-Params"),
    answerTensors: tensorNames(deref(ok).content?.["application/json"]?.schema, deref),
  };
}

function tensorNames(schema, deref) {
  const { properties } = members(schema, deref);
  return Object.keys(properties).filter((name) => /schemas\/(Flat)?Tensor"/.test(JSON.stringify(properties[name])));
}

// The members of an object, or of all objects that a body may be.
function members(schema, deref) {
  const { properties = {}, required = [], anyOf, oneOf, allOf } = deref(schema);
  const parts = (anyOf ?? oneOf ?? []).map((part) => members(part, deref));
  const all = (allOf ?? []).map((part) => members(part, deref));
  const needed = parts.length ? [...parts[0].required].filter((name) => parts.every((part) => part.required.has(name))) : [];
  return {
    properties: Object.assign({}, ...[...parts, ...all].map((part) => part.properties), properties),
    required: new Set([...required, ...needed, ...all.flatMap((part) => [...part.required])]),
  };
}

function readField(name, schema, required, deref) {
  const options = schema.anyOf ?? schema.oneOf ?? [];
  const refs = JSON.stringify([schema.$ref, options]);
  const description = schema.description ?? deref(schema).description ?? "";
  const field = { name, description, required: Boolean(required), place: "body", choices: null };
  if (/schemas\/Tensor"/.test(refs)) {
    const dtype = description.match(/\b(float32|float16|bfloat16|float64|int64|int32|bool)\b/)?.[0] ?? "float32";
    return { ...field, kind: "tensor", dtype };
  }
  if (/schemas\/Rope"/.test(refs)) return { ...field, kind: "rope" };
  const kinds = [deref(schema), ...options.map(deref)];
  const choices = kinds.find((kind) => kind.enum)?.enum;
  if (choices) return { ...field, kind: "choice", choices: choices.map(String) };
  const types = new Set(kinds.flatMap((kind) => kind.type ?? []));
  types.delete("null");
  const [type] = types.size === 1 ? types : [];
  if (type === "boolean") return { ...field, kind: "choice", choices: ["true", "false"] };
  return { ...field, kind: { integer: "number", number: "number", string: "text" }[type] ?? "json" };
}

/** Return the first form of a route: texts by name, as in the address. */
export function firstForm(route) {
  const known = FIRST[route.key];
  if (known && Object.keys(known.tensors).every((name) => route.fields.some((field) => field.name === name))) return known;
  const form = { tensors: {}, params: {} };
  for (const field of route.fields) {
    const value = route.example[field.name];
    if (field.kind === "tensor") {
      if (value !== undefined) form.tensors[field.name] = specOfExample(value, field.dtype);
      else if (field.required) form.tensors[field.name] = `normal ${field.dtype} 1,16,8,128 0`;
    } else if (value !== undefined) {
      form.params[field.name] = textOf(value);
    } else if (field.required) {
      form.params[field.name] = field.choices?.[0] ?? "";
    }
  }
  return form;
}

/** Return a value as it is typed: text stays text, everything else is JSON. */
export function textOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function specOfExample(value, dtype) {
  const { shape, data } = Array.isArray(value) || typeof value !== "object" ? flatten(value) : value;
  if (data.length > 16 && data.every((number) => number === 1)) return `ones ${dtype} ${shape}`;
  return `values ${value.dtype ?? dtype} ${JSON.stringify(value.data ? nested(shape, [...data]) : value)}`;
}

const nested = (shape, data) => (shape.length < 2 ? data : Array.from({ length: shape[0] }, (_, i) => {
  const size = data.length / shape[0];
  return nested(shape.slice(1), data.slice(i * size, (i + 1) * size));
}));

/** Return the shape and the numbers of nested lists; throws an Error where they are ragged. */
export function flatten(value) {
  if (!Array.isArray(value)) {
    if (typeof value !== "number" && typeof value !== "boolean") throw new Error("values");
    return { shape: [], data: [Number(value)] };
  }
  const parts = value.map(flatten);
  const inner = parts[0]?.shape ?? [];
  if (parts.some(({ shape }) => String(shape) !== String(inner))) throw new Error("values");
  return { shape: [value.length, ...inner], data: parts.flatMap(({ data }) => data) };
}

/** Read the text of a tensor: `{kind, dtype, rest, seed}`. */
export function readSpec(text) {
  const [kind, dtype, ...rest] = text.split(" ");
  if (kind === "file") return { kind, dtype: "", rest: [dtype, ...rest].join(" "), seed: "" };
  if (kind === "values") return { kind, dtype, rest: rest.join(" "), seed: "" };
  return { kind, dtype, rest: rest[0] ?? "", seed: rest[1] ?? "0" };
}

/** Return the text of a tensor, as it stands in the address. */
export function writeSpec({ kind, dtype, rest, seed }) {
  if (kind === "file") return `file ${rest}`;
  return kind === "normal" ? `${kind} ${dtype} ${rest.replaceAll(" ", "")} ${seed}` : `${kind} ${dtype} ${kind === "values" ? rest : rest.replaceAll(" ", "")}`;
}

/** Return the tensor of a text, `{name, kind, dtype, shape, count, bytes, ...}`, or `{name, error}`. */
export function tensorOf(name, text, file) {
  const spec = readSpec(text);
  if (spec.kind === "file") {
    const found = file?.tensors.find((tensor) => tensor.name === spec.rest);
    if (!found) return { name, kind: "file", error: file ? "no_tensor" : "no_file" };
    const dtype = Object.keys(DTYPES).find((key) => DTYPES[key][0] === found.dtype);
    if (!dtype) return { name, kind: "file", error: "dtype" };
    return { name, kind: "file", dtype, shape: found.shape, count: found.count, bytes: found.end - found.start, found, file };
  }
  const width = DTYPES[spec.dtype]?.[1];
  if (!width) return { name, kind: spec.kind, error: "dtype" };
  if (spec.kind === "values") {
    try {
      const { shape, data } = flatten(JSON.parse(spec.rest));
      return { name, kind: "values", dtype: spec.dtype, shape, data, count: data.length, bytes: data.length * width };
    } catch {
      return { name, kind: "values", error: "values" };
    }
  }
  const shape = spec.rest === "" ? [] : spec.rest.split(",").map(Number);
  if (!/^(\d{1,15}(,\d{1,15})*)?$/.test(spec.rest)) return { name, kind: spec.kind, error: "shape" };
  const count = shape.reduce((product, n) => product * n, 1);
  const seed = Number(spec.seed);
  if (spec.kind === "normal" && !(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) return { name, kind: "normal", error: "seed" };
  return { name, kind: spec.kind, dtype: spec.dtype, shape, count, seed, bytes: count * width };
}

/** Return the numbers of a generated tensor.

    "normal" sums twelve numbers of four bits from a linear congruential generator. The sum has
    the mean 90 and the standard deviation 15.97, so (sum - 90) / 16 is close to a standard normal
    number. It is exact in each dtype, so programs in all languages make the same bytes. */
export function generate({ kind, data, count, seed }) {
  if (kind === "values") return Float64Array.from(data);
  const numbers = new Float64Array(count);
  if (kind === "ones") return numbers.fill(1);
  if (kind === "arange") return numbers.map((_, i) => i);
  let x = seed;
  for (let i = 0; i < count; i++) {
    let sum = -90;
    for (let j = 0; j < 3; j++) {
      x = (x * 1664525 + 1013904223) % 4294967296;
      sum += (x >>> 28) + ((x >>> 24) & 15) + ((x >>> 20) & 15) + ((x >>> 16) & 15);
    }
    numbers[i] = sum / 16;
  }
  return numbers;
}

/** Return numbers as little-endian bytes of a dtype. */
export function bytesOf(dtype, numbers) {
  const whole = (value) => BigInt(Math.trunc(Number.isFinite(value) ? value : 0));
  if (dtype === "float32") return Float32Array.from(numbers);
  if (dtype === "float64") return Float64Array.from(numbers);
  if (dtype === "int32") return Int32Array.from(numbers);
  if (dtype === "bool") return Uint8Array.from(numbers, Boolean);
  if (dtype === "int64") return BigInt64Array.from(Array.from(numbers, whole));
  const bits = new Uint32Array(Float32Array.from(numbers).buffer);
  return Uint16Array.from(bits, dtype === "bfloat16" ? bfloat16 : float16);
}

const bfloat16 = (bits) => (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;

// Half of float32 bits: rounded to the nearest, of two to the even one.
function float16(bits) {
  const sign = (bits >>> 16) & 0x8000;
  const size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x47800000) return sign | 0x7c00;
  const shift = size < 0x38800000 ? Math.min(126 - (size >>> 23), 31) : 13;
  const value = size < 0x38800000 ? (size & 0x7fffff) | 0x800000 : size - 0x38000000;
  const rest = value & (2 ** shift - 1);
  const half = 2 ** (shift - 1);
  const low = value >>> shift;
  return sign | (rest > half || (rest === half && low & 1) ? low + 1 : low);
}

/** Return whether each number of a generated tensor is exact in its dtype. */
export function isExact({ kind, dtype, count }) {
  if (kind === "file") return false;
  if (kind === "arange") return !{ bfloat16: count > 257, float16: count > 2049 }[dtype];
  return kind !== "values" || !["float16", "bfloat16"].includes(dtype);
}

/** Return the value of a parameter from its text; throws an Error where it cannot be read. */
export function valueOf(field, text) {
  if (field.kind === "text") return text;
  if (field.kind === "rope") return /^\s*(\{|null\s*$)/.test(text) ? JSON.parse(text) : text.trim();
  if (field.kind === "choice") return ["true", "false", "null"].includes(text) ? JSON.parse(text) : text;
  return JSON.parse(text);
}

/** Return the whole request of a form: target, parameters, tensors, errors by field, size. */
export function requestOf(route, form, { file = null, body = "json", answer = "json" } = {}) {
  const errors = {};
  const tensors = [];
  const params = {};
  const query = new URLSearchParams();
  let path = route.path;
  for (const field of route.fields) {
    const { name } = field;
    if (field.kind === "tensor" && name in form.tensors) {
      const tensor = tensorOf(name, form.tensors[name], file);
      if (tensor.error) errors[name] = tensor.error;
      else tensors.push(tensor);
    } else if (name in form.params && field.kind !== "tensor") {
      const text = form.params[name];
      if (field.place === "path") {
        if (text === "") errors[name] = "needed";
        else path = path.replace(`{${name}}`, encodeURIComponent(text));
      } else if (field.place === "query") {
        if (text !== "") query.append(name, text);
      } else {
        try {
          params[name] = valueOf(field, text);
        } catch {
          errors[name] = "json";
        }
      }
    }
  }
  const search = String(query);
  const form_ = body === "safetensors" && route.takesSafetensors ? "safetensors" : "json";
  const request = {
    route, method: route.method, path: path.slice(1) + (search && `?${search}`), tensors, params, errors,
    hasBody: route.hasBody, form: form_, accept: answer === "safetensors" && route.givesSafetensors ? "safetensors" : "json",
  };
  return { ...request, bytes: sizeOf(request) };
}

/** Estimate the bytes of a body from the first numbers of each tensor. */
function sizeOf({ form, tensors, params, hasBody }) {
  if (!hasBody) return 0;
  const base = JSON.stringify(params).length;
  if (form === "safetensors") return tensors.reduce((sum, { name, shape, bytes }) => sum + bytes + name.length + String(shape).length + 60, base + 40);
  return tensors.reduce((sum, tensor) => {
    const least = Math.min(tensor.count, 2048);
    const width = tensor.kind === "file" ? 12 : String(Array.from(generate({ ...tensor, count: least }))).length / (least || 1);
    const last = tensor.kind === "arange" ? String(tensor.count).length + 1 : 0;
    return sum + Math.ceil(tensor.count * Math.max(width, last)) + tensor.name.length + String(tensor.shape).length + 50;
  }, base);
}

/** Return the body of a request: text or a Blob. */
export async function bodyOf({ form, tensors, params, hasBody }) {
  if (!hasBody) return undefined;
  if (form === "json") {
    const parts = { ...params };
    for (const tensor of tensors) {
      const { name, shape, dtype } = tensor;
      parts[name] = { shape, dtype, data: jsonNumbers(dtype, await numbersOf(tensor)) };
    }
    return JSON.stringify(parts);
  }
  const { encode } = await import("./safetensors.js");
  const written = tensors.map((tensor) => ({
    name: tensor.name, dtype: DTYPES[tensor.dtype][0], shape: tensor.shape,
    bytes: tensor.file ? tensor.file.blob.slice(tensor.found.start, tensor.found.end) : bytesOf(tensor.dtype, generate(tensor)),
  }));
  return encode(written, { params: JSON.stringify(params) });
}

async function numbersOf(tensor) {
  if (!tensor.file) return generate(tensor);
  const { readNumbers } = await import("./safetensors.js");
  return Array.from(await readNumbers(tensor.file, tensor.found), Number);
}

const jsonNumbers = (dtype, numbers) => (dtype === "bool" ? Array.from(numbers, Boolean) : Array.from(numbers));

/** Return a number of bytes in words. */
export function bytes(count) {
  const [unit, size] = count >= 2 ** 30 ? ["GiB", 2 ** 30] : count >= 2 ** 20 ? ["MiB", 2 ** 20] : count >= 1024 ? ["KiB", 1024] : ["B", 1];
  return `${+(count / size).toPrecision(3)}\u202f${unit}`;
}
