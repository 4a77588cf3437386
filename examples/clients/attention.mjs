// Attention of two tokens over /v1, in safetensors, with fetch: node attention.mjs [http://127.0.0.1:8000]

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const expected = { out: [0, 1, 2, 3, 3.7503535, 4.7503535, 5.7503535, 6.7503535], lse: [0.4375, 4.0019443] };

// safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
const shape = [1, 2, 1, 4]; // [batch, sequence, heads, head_dim]
const header = Buffer.from(JSON.stringify({
  __metadata__: { params: JSON.stringify({ rope: { theta: 10000 }, return_lse: true }) },
  q: { dtype: "F32", shape, data_offsets: [0, 32] },
  k: { dtype: "F32", shape, data_offsets: [32, 64] },
  v: { dtype: "F32", shape, data_offsets: [64, 96] },
  positions: { dtype: "I64", shape: [2], data_offsets: [96, 112] },
}));
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(header.length));

// the format is little-endian; a Float32Array has the byte order of this machine
const data = Buffer.alloc(112);
for (let i = 0; i < 8; i++) {
  data.writeFloatLE(i / 4, 4 * i);
  data.writeFloatLE(i / 4, 32 + 4 * i);
  data.writeFloatLE(i, 64 + 4 * i);
}
for (let i = 0; i < 2; i++) data.writeBigInt64LE(BigInt(i), 96 + 8 * i);

const response = await fetch(`${url}/v1/attention`, {
  method: "POST",
  headers: { "Content-Type": "application/x-safetensors" },
  body: Buffer.concat([length, header, data]),
});
const body = Buffer.from(await response.arrayBuffer()); // reads until the end of the body
if (!response.ok) {
  // {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
  console.error(`${response.status}: ${body}`);
  process.exit(1);
}

const start = 8 + Number(body.readBigUInt64LE(0));
const tensors = JSON.parse(body.subarray(8, start));
for (const name of ["out", "lse"]) {
  const [first, end] = tensors[name].data_offsets;
  const bytes = body.subarray(start + first, start + end);
  const numbers = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
  console.log(name, ...numbers);
  const close = expected[name].every((value, i) => Math.abs(value - numbers[i]) < 1e-5);
  if (!close || numbers.length !== expected[name].length) {
    console.error("these are not the numbers expected:", expected[name]);
    process.exit(1);
  }
}
