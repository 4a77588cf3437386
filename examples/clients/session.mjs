// A session: created with fetch, three steps over a WebSocket. Node 22 and browsers have WebSocket;
// Node 20: node --experimental-websocket session.mjs [http://127.0.0.1:8000]

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const configuration = { heads: 1, head_dim: 2, rope: { theta: 10000 }, max_tokens: 64 };

async function call(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(url + path, { method, headers, body });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${text}`); // {"code": "config", "detail": "what is wrong", ...}
  return text;
}

// Return a function that sends a message, and resolves to its answer.
async function open(path) {
  const socket = new WebSocket(url.replace("http", "ws") + path, "rope.session.v1");
  socket.binaryType = "arraybuffer";
  const waiting = []; // answers come in the order of the messages
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = socket.onclose = () => reject(new Error("no WebSocket"));
  });
  socket.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.shift();
    // text is a problem: {"code": "session_conflict", "detail": "what is wrong", "seq": 0, ...}
    typeof data === "string" ? reject(new Error(data)) : resolve(data);
  };
  socket.onerror = null; // a close event follows
  socket.onclose = ({ code }) => waiting.forEach(({ reject }) => reject(new Error(`closed: ${code}`)));
  const exchange = (message) =>
    new Promise((resolve, reject) => {
      if (socket.readyState !== WebSocket.OPEN) throw new Error("the stream is closed");
      waiting.push({ resolve, reject });
      socket.send(message);
    });
  return { exchange, close: () => socket.close() };
}

// safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
function step(params, q, k, v) {
  const shape = [1, 1, 1, 2]; // [batch, tokens, heads, head_dim]
  const header = new TextEncoder().encode(JSON.stringify({
    __metadata__: { params: JSON.stringify({ op: "step", ...params }) },
    q: { dtype: "F32", shape, data_offsets: [0, 8] },
    k: { dtype: "F32", shape, data_offsets: [8, 16] },
    v: { dtype: "F32", shape, data_offsets: [16, 24] },
  }));
  const message = new Uint8Array(8 + header.length + 24);
  const view = new DataView(message.buffer); // the format is little-endian
  view.setBigUint64(0, BigInt(header.length), true);
  message.set(header, 8);
  [...q, ...k, ...v].forEach((x, i) => view.setFloat32(8 + header.length + 4 * i, x, true));
  return message;
}

function read(message) {
  const view = new DataView(message);
  const start = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(message.slice(8, start)));
  const [first, end] = header.out.data_offsets;
  const out = Array.from({ length: (end - first) / 4 }, (_, i) => view.getFloat32(start + first + 4 * i, true));
  return { out, ...JSON.parse(header.__metadata__.params) };
}

// q and k rotate by one radian a token, so the product of the query and a key is 4 times the cosine
// of their distance. Return the first number of the output.
function attention(token) {
  let [out, total] = [0, 0];
  for (let j = 0; j <= token; j++) {
    const weight = Math.exp((4 * Math.cos(token - j)) / Math.sqrt(2));
    out += weight * (j + 2);
    total += weight;
  }
  return out / total;
}

try {
  const { id } = JSON.parse(await call("POST", "/v1/sessions", JSON.stringify(configuration)));
  const stream = await open(`/v1/sessions/${id}/stream`);
  for (const [seq, token] of [0, 1, 2, 2].entries()) { // the last step again, as after a lost answer
    const params = { seq, layer: 0, expected_length: token, expected_generation: 0 };
    const answer = await stream.exchange(step(params, [2, 0], [2, 0], [token + 2, token + 3]));
    const { out, length } = read(answer);
    console.log(`step${seq}`, ...out);
    const expected = [attention(token), attention(token) + 1];
    const close = out.length === 2 && expected.every((value, i) => Math.abs(value - out[i]) < 1e-5);
    if (!close || length[0] !== token + 1) throw new Error(`these are not the numbers expected: ${expected}`);
  }
  stream.close();
  await call("DELETE", `/v1/sessions/${id}`);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
