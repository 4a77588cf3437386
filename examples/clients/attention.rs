// Attention of two tokens over /v1, in safetensors, with the standard library:
// rustc attention.rs && ./attention [http://127.0.0.1:8000]

use std::convert::TryInto;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

// q, k and v are [batch, sequence, heads, head_dim]
const HEADER: &str = r#"{"__metadata__": {"params": "{\"rope\": {\"theta\": 10000.0}, \"return_lse\": true}"},
 "q": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [0, 32]},
 "k": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [32, 64]},
 "v": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [64, 96]},
 "positions": {"dtype": "I64", "shape": [2], "data_offsets": [96, 112]}}"#;
const EXPECTED: [(&str, &[f32]); 2] = [
    (
        "out",
        &[
            0.0, 1.0, 2.0, 3.0, 3.7503535, 4.7503535, 5.7503535, 6.7503535,
        ],
    ),
    ("lse", &[0.4375, 4.0019443]),
];

fn main() {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("http://127.0.0.1:8000".into());
    if let Err(error) = attention(&url) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn attention(url: &str) -> Result<(), Box<dyn Error>> {
    let host = url
        .strip_prefix("http://")
        .ok_or("the address must begin with http://")?;

    // safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
    let mut body = (HEADER.len() as u64).to_le_bytes().to_vec();
    body.extend(HEADER.as_bytes());
    for scale in [0.25, 0.25, 1.0] {
        for i in 0..8 {
            body.extend((i as f32 * scale).to_le_bytes());
        }
    }
    for position in 0..2i64 {
        body.extend(position.to_le_bytes());
    }
    let headers = format!(
        "POST /v1/attention HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
         Content-Type: application/x-safetensors\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(&[headers.as_bytes(), &body].concat())?; // one packet, if it fits

    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let status = lines.next().ok_or("no response")??;
    let mut size = 0;
    for line in lines {
        match line?.to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => size = value.trim().parse()?,
            Some(_) => {}
            None => break, // the empty line
        }
    }
    let mut data = vec![0; size];
    reader.read_exact(&mut data)?; // one read may return less
    if status.split(' ').nth(1) != Some("200") {
        // {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
        return Err(format!("{status}: {}", String::from_utf8_lossy(&data)).into());
    }
    for (name, expected) in EXPECTED {
        let numbers = tensor(&data, name).ok_or("not the safetensors expected")?;
        println!("{name} {numbers:?}");
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        if numbers.len() != expected.len() || !numbers.iter().zip(expected).all(close) {
            return Err(format!("these are not the numbers expected: {expected:?}").into());
        }
    }
    Ok(())
}

fn tensor(data: &[u8], name: &str) -> Option<Vec<f32>> {
    let length = u64::from_le_bytes(data.get(..8)?.try_into().ok()?) as usize;
    // a parser of JSON is the better choice in a program
    let json = std::str::from_utf8(data.get(8..8 + length)?).ok()?;
    let (_, entry) = json.split_once(&format!("\"{name}\":{{"))?;
    let (_, offsets) = entry.split_once("\"data_offsets\":[")?;
    let (first, end) = offsets.split_once(']')?.0.split_once(',')?;
    let (first, end): (usize, usize) = (first.parse().ok()?, end.parse().ok()?);
    let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let numbers = data.get(8 + length + first..8 + length + end)?;
    Some(numbers.chunks_exact(4).map(float).collect())
}
