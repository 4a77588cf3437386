// Reads and writes safetensors files: 8 bytes with the length of the header, a header in JSON, numbers.

/** Bytes of one number of each dtype. */
export const WIDTH = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, U64: 8, I32: 4, U32: 4, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1, F8_E4M3: 1, F8_E5M2: 1 };

/** Longest header that is read, as in the safetensors library. */
export const MAX_HEADER = 100_000_000;

/** A file that is not safetensors. `code` names the reason, `values` go into its sentence
    (`safetensors.CODE` in i18n). */
export class BadFile extends Error {
  constructor(code, values = {}) {
    super(code);
    Object.assign(this, { code, values });
  }
}

/** Read the header of a File, a Blob or an ArrayBuffer; the numbers stay where they are.

    Returns `{tensors, metadata, blob}`: tensors are `{name, dtype, shape, count, start, end}`, with
    bytes counted from the start of the file, in the order of their bytes. Throws BadFile. */
export async function readHeader(source) {
  const blob = source instanceof Blob ? source : new Blob([source]);
  if (blob.size < 8) throw new BadFile("short", { size: blob.size });
  const length = new DataView(await blob.slice(0, 8).arrayBuffer()).getBigUint64(0, true);
  if (length > BigInt(Math.min(MAX_HEADER, blob.size - 8))) throw new BadFile("header_length", { length, size: blob.size });
  const start = 8 + Number(length);
  const header = parseHeader(await blob.slice(8, start).arrayBuffer());
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = Object.entries(entries).map(([name, entry]) => readEntry(name, entry, start, blob.size));
  tensors.sort((a, b) => a.start - b.start || a.end - b.end);
  let end = start;
  for (const tensor of tensors) {
    if (tensor.start !== end) throw new BadFile("gap", { name: tensor.name });
    end = tensor.end;
  }
  if (end !== blob.size) throw new BadFile("trailing", { bytes: blob.size - end });
  return { tensors, metadata, blob };
}

function parseHeader(bytes) {
  try {
    const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (header !== null && typeof header === "object" && !Array.isArray(header)) return header;
  } catch {
    // The same refusal as for JSON that is no object.
  }
  throw new BadFile("header_json");
}

function readEntry(name, entry, start, size) {
  const { dtype, shape, data_offsets: offsets } = entry ?? {};
  const isIndex = (value) => Number.isSafeInteger(value) && value >= 0;
  if (!Array.isArray(shape) || !shape.every(isIndex)) throw new BadFile("shape", { name });
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isIndex)) throw new BadFile("offsets", { name });
  if (typeof dtype !== "string" || !Object.hasOwn(WIDTH, dtype)) throw new BadFile("dtype", { name, dtype: String(dtype) });
  const count = shape.reduce((product, n) => product * n, 1);
  const [first, last] = offsets.map((offset) => start + offset);
  if (last > size) throw new BadFile("offsets", { name });
  if (last - first !== count * WIDTH[dtype]) throw new BadFile("bytes", { name });
  return { name, dtype, shape, count, start: first, end: last };
}

/** Return the numbers of a tensor: a Float64Array, or a BigInt64Array or BigUint64Array for I64 and
    U64. `from` and `to` choose a part of them in row-major order. */
export async function readNumbers(file, tensor, from = 0, to = tensor.count) {
  const width = WIDTH[tensor.dtype];
  return decode(tensor.dtype, await file.blob.slice(tensor.start + from * width, tensor.start + to * width).arrayBuffer());
}

/** Return the numbers in little-endian bytes of a dtype. */
export function decode(dtype, buffer) {
  const view = new DataView(buffer);
  const count = Math.floor(buffer.byteLength / WIDTH[dtype]);
  const read = READERS[dtype];
  const numbers = dtype === "I64" ? new BigInt64Array(count) : dtype === "U64" ? new BigUint64Array(count) : new Float64Array(count);
  for (let i = 0; i < count; i++) numbers[i] = read(view, i);
  return numbers;
}

const READERS = {
  F64: (view, i) => view.getFloat64(8 * i, true),
  F32: (view, i) => view.getFloat32(4 * i, true),
  F16: (view, i) => small(view.getUint16(2 * i, true), 5, 10),
  BF16: (view, i) => small(view.getUint16(2 * i, true), 8, 7),
  I64: (view, i) => view.getBigInt64(8 * i, true),
  U64: (view, i) => view.getBigUint64(8 * i, true),
  I32: (view, i) => view.getInt32(4 * i, true),
  U32: (view, i) => view.getUint32(4 * i, true),
  I16: (view, i) => view.getInt16(2 * i, true),
  U16: (view, i) => view.getUint16(2 * i, true),
  I8: (view, i) => view.getInt8(i),
  U8: (view, i) => view.getUint8(i),
  BOOL: (view, i) => view.getUint8(i),
  F8_E4M3: (view, i) => ((view.getUint8(i) & 127) === 127 ? NaN : small(view.getUint8(i), 4, 3, false)),
  F8_E5M2: (view, i) => small(view.getUint8(i), 5, 2),
};

/** Return the number with these bits: a sign, `exponentBits` and `fractionBits`. */
function small(bits, exponentBits, fractionBits, hasInfinity = true) {
  const largest = 2 ** exponentBits - 1;
  const exponent = (bits >> fractionBits) & largest;
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  const sign = bits >> (exponentBits + fractionBits) ? -1 : 1;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
  if (exponent === largest && hasInfinity) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** Return a file of tensors `{name, dtype, shape, bytes}`; `bytes` is a Blob, an ArrayBuffer or an
    array of its kind, in little-endian order. */
export function encode(tensors, metadata) {
  const header = metadata ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    const size = bytes.size ?? bytes.byteLength;
    header[name] = { dtype, shape, data_offsets: [offset, offset + size] };
    offset += size;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padding = -text.length & 7;
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(text.length + padding), true);
  return new Blob([length.buffer, text, " ".repeat(padding), ...tensors.map(({ bytes }) => bytes)], { type: "application/x-safetensors" });
}

/** Return a file with some tensors of a file, under other names: `names` is `{new name: old name}`. */
export function pick(file, names) {
  const tensors = Object.entries(names).map(([name, old]) => {
    const found = file.tensors.find((tensor) => tensor.name === old);
    return { name, dtype: found.dtype, shape: found.shape, bytes: file.blob.slice(found.start, found.end) };
  });
  return encode(tensors);
}
