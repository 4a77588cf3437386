// Rotate two tokens with the standard library: rustc rope.rs && ./rope [http://127.0.0.1:8000]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

// q is [batch, sequence, heads, head_dim]
const HEADER: &str = r#"{"inputs": [
  {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}},
  {"name": "positions", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}],
 "outputs": [{"name": "q", "parameters": {"binary_data": true}}]}"#;
const EXPECTED: [f32; 8] = [
    0.0, 1.0, 2.0, 3.0, -2.8876166, 4.9297514, 6.607698, 7.0496492,
];

fn main() {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("http://127.0.0.1:8000".into());
    if let Err(error) = rotate(&url) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn rotate(url: &str) -> Result<(), Box<dyn Error>> {
    let host = url
        .strip_prefix("http://")
        .ok_or("the address must begin with http://")?;

    let mut body = HEADER.as_bytes().to_vec();
    for i in 0..8 {
        body.extend((i as f32).to_le_bytes());
    }
    for position in 0..2i64 {
        body.extend(position.to_le_bytes());
    }
    let headers = format!(
        "POST /v2/models/rope/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
         Inference-Header-Content-Length: {}\r\n\r\n",
        body.len(),
        HEADER.len()
    );
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(&[headers.as_bytes(), &body].concat())?; // one packet, if it fits

    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let status = lines.next().ok_or("no response")??;
    let (mut size, mut length) = (0, 0);
    for line in lines {
        match line?.to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => size = value.trim().parse()?,
            Some(("inference-header-content-length", value)) => length = value.trim().parse()?,
            Some(_) => {}
            None => break, // the empty line
        }
    }
    let mut data = vec![0; size];
    reader.read_exact(&mut data)?; // one read may return less
    if status.split(' ').nth(1) != Some("200") {
        // {"error": "what is wrong"}
        return Err(format!("{status}: {}", String::from_utf8_lossy(&data)).into());
    }

    // one output was requested, so its numbers are everything after the JSON
    let (json, numbers) = data.split_at(length);
    let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let rotated: Vec<f32> = numbers.chunks_exact(4).map(float).collect();
    println!("{}", String::from_utf8_lossy(json));
    println!("rotated {rotated:?}");
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    if rotated.len() != 8 || !rotated.iter().zip(&EXPECTED).all(close) {
        return Err(format!("these are not the numbers expected: {EXPECTED:?}").into());
    }
    Ok(())
}
