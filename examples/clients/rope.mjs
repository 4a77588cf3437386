// Rotate two tokens with fetch: node rope.mjs [http://127.0.0.1:8000]

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const expected = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492];

const header = Buffer.from(JSON.stringify({
  inputs: [
    // [batch, sequence, heads, head_dim]
    { name: "q", shape: [1, 2, 1, 4], datatype: "FP32", parameters: { binary_data_size: 32 } },
    { name: "positions", shape: [1, 2], datatype: "INT64", parameters: { binary_data_size: 16 } },
  ],
  outputs: [{ name: "q", parameters: { binary_data: true } }],
}));

// the protocol is little-endian; a Float32Array has the byte order of this machine
const q = Buffer.alloc(32);
for (let i = 0; i < 8; i++) q.writeFloatLE(i, 4 * i);
const positions = Buffer.alloc(16);
for (let i = 0; i < 2; i++) positions.writeBigInt64LE(BigInt(i), 8 * i);

const response = await fetch(`${url}/v2/models/rope/infer`, {
  method: "POST",
  headers: { "Inference-Header-Content-Length": String(header.length) },
  body: Buffer.concat([header, q, positions]),
});
const body = Buffer.from(await response.arrayBuffer()); // reads until the end of the body
if (!response.ok) {
  console.error(`${response.status}: ${body}`); // {"error": "what is wrong"}
  process.exit(1);
}

const length = Number(response.headers.get("Inference-Header-Content-Length"));
const [{ shape, parameters }] = JSON.parse(body.subarray(0, length)).outputs;
const bytes = body.subarray(length, length + parameters.binary_data_size);
const rotated = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));

console.log("rotated", shape, ...rotated);
const close = rotated.length === 8 && expected.every((value, i) => Math.abs(value - rotated[i]) < 1e-5);
if (!close) {
  console.error("these are not the numbers expected:", expected);
  process.exit(1);
}
