// The request of the Try view with Rust's standard library, over plain HTTP.

export const file = "request.rs";
export const run = "rustc request.rs && ./request";

const NORMAL = `
/// Numbers that are close to standard normal ones, and exact in each dtype.
fn normal(count: usize, seed: u32) -> impl Iterator<Item = f64> {
    let mut x = seed;
    (0..count).map(move |_| {
        let mut sum = -90;
        for _ in 0..3 {
            x = x.wrapping_mul(1664525).wrapping_add(1013904223);
            sum += (x >> 28) as i32 + (x >> 24 & 15) as i32 + (x >> 20 & 15) as i32 + (x >> 16 & 15) as i32;
        }
        sum as f64 / 16.0
    })
}
`;
const FLOAT16 = `
fn half(v: f64) -> u16 {
    let bits = (v as f32).to_bits(); // the upper bits of float32: all that these numbers need
    if v == 0.0 { 0 } else { (bits >> 16 & 0x8000) as u16 | (((bits & 0x7fffffff) >> 13) - (112 << 10)) as u16 }
}
`;
const WRITE = {
  float32: "(v as f32).to_le_bytes()", float64: "v.to_le_bytes()", int64: "(v as i64).to_le_bytes()", int32: "(v as i32).to_le_bytes()", bool: "[v as u8]",
  bfloat16: "(((v as f32).to_bits() >> 16) as u16).to_le_bytes()", float16: "half(v).to_le_bytes()",
};
const READ = `    // 8 bytes with the length of the header, the header, the numbers
    let size = u64::from_le_bytes(data[..8].try_into()?) as usize;
    let header = std::str::from_utf8(&data[8..8 + size])?;
    let mut parts = header.split("\\":{\\"dtype\\":\\"");
    let mut name = parts.next().unwrap_or("").rsplit('"').next().unwrap_or("");
    for part in parts {
        let dtype = part.split('"').next().unwrap_or("");
        let lists: Vec<&str> = part.split(['[', ']']).collect(); // between brackets: shape, offsets
        let offsets: Vec<usize> = lists[3].split(',').map(str::parse).collect::<Result<_, _>>()?;
        let bytes = &data[8 + size + offsets[0]..8 + size + offsets[1]];
        let numbers: Vec<String> = match dtype {
            "F32" => bytes.chunks(4).take(8).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).to_string()).collect(),
            "F64" => bytes.chunks(8).take(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()).to_string()).collect(),
            "I64" => bytes.chunks(8).take(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()).to_string()).collect(),
            "BF16" => bytes.chunks(2).take(8).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]]).to_string()).collect(),
            "F16" => bytes.chunks(2).take(8).map(|b| narrow(u16::from_le_bytes([b[0], b[1]])).to_string()).collect(),
            _ => bytes.iter().take(8).map(|b| b.to_string()).collect(),
        };
        println!("{} [{}] {}", name, lists[1], numbers.join(" "));
        name = part.rsplit('"').next().unwrap_or("");
    }`;
const NARROW = `
fn narrow(bits: u16) -> f64 { // float16; not for infinity and NaN
    let (e, f) = ((bits >> 10 & 31) as i32, (bits & 1023) as f64);
    let v = if e == 0 { f * 2f64.powi(-24) } else { (1024.0 + f) * 2f64.powi(e - 25) };
    if bits >> 15 == 1 { -v } else { v }
}
`;

// A raw text with as many # as it needs.
function literal(text) {
  const marks = "#".repeat(Math.max(0, ...(text.match(/"#*/g) ?? []).map((found) => found.length)));
  return `r${marks}"${text}"${marks}`;
}

function numbers({ kind, count, seed, data }) {
  if (kind === "normal") return `normal(${count}, ${seed})`;
  if (kind === "ones") return `std::iter::repeat(1.0f64).take(${count})`;
  return kind === "arange" ? `(0..${count}).map(|i| i as f64)` : `[${data.map((value) => `${Number(value)}f64`).join(", ")}]`;
}

/** Return the program, or null where the address is not plain HTTP. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile, header, paramsHeader } = request;
  const address = new URL(url);
  if (address.protocol !== "http:") return null;
  const asTensors = tensors.length > 0 && route.takesSafetensors;
  const generated = asTensors && !needsFile;
  const reads = asTensors && route.givesSafetensors;
  const kinds = generated ? new Set(tensors.map(({ kind }) => kind)) : new Set();
  const functions = [kinds.has("normal") && NORMAL, generated && tensors.some(({ dtype }) => dtype === "float16") && FLOAT16, reads && NARROW].filter(Boolean).join("");
  const main = [];
  if (generated) {
    main.push(`let header = ${literal(header)};`, "let mut body = (header.len() as u64).to_le_bytes().to_vec();", "body.extend(header.as_bytes());");
    for (const tensor of tensors) main.push(`for v in ${numbers(tensor)} {`, `    body.extend(${WRITE[tensor.dtype]}); // ${tensor.name}`, "}");
  } else if (asTensors) {
    main.push('let body = std::fs::read("request.safetensors")?;');
  } else {
    main.push(`let body = ${hasBody ? literal(JSON.stringify(params)) : '""'}.as_bytes().to_vec();`);
  }
  const fields = [`Host: ${address.host}`, "Connection: close", ...(hasBody ? [`Content-Type: application/${asTensors ? "x-safetensors" : "json"}`] : []), ...(asTensors ? [`Accept: application/${reads ? "x-safetensors" : "json"}`] : [])];
  if (generated && paramsHeader) fields.push(`X-Rope-Params: ${paramsHeader}`);
  main.push("let fields = [", ...[`${method} ${address.pathname}${address.search} HTTP/1.1`, ...fields].map((field) => `    ${literal(field)}.to_string(),`), ...(auth ? ['    format!("Authorization: Bearer {}", std::env::var("ROPE_API_KEY")?),'] : []), '    format!("Content-Length: {}\\r\\n\\r\\n", body.len()),', "];",
    `let mut stream = TcpStream::connect("${address.hostname.replace(/^\[|\]$/g, "")}:${address.port || 80}")?;`.replace(/"([0-9a-f:]+:[0-9a-f:]*):(\d+)"/, '"[$1]:$2"'), 'stream.write_all(&[fields.join("\\r\\n").as_bytes(), &body].concat())?;',
    "let mut response = Vec::new();", "stream.read_to_end(&mut response)?;", 'let end = response.windows(4).position(|w| w == b"\\r\\n\\r\\n").ok_or("no answer")? + 4;', "let (head, data) = response.split_at(end);", 'if !head.starts_with(b"HTTP/1.1 2") {', "    return Err(String::from_utf8_lossy(data).into()); // {\"code\": ..., \"detail\": ...}", "}");
  const print = reads ? READ : '    println!("{:.600}", String::from_utf8_lossy(data));';
  return `${reads ? "use std::convert::TryInto;\n" : ""}use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
${functions}
fn main() -> Result<(), Box<dyn Error>> {
${main.map((line) => `    ${line}`).join("\n")}
${print}
    Ok(())
}
`;
}
