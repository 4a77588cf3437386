// A session with the standard library: three steps over one connection, in safetensors:
// rustc session.rs && ./session [http://127.0.0.1:8000]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const CONFIGURATION: &str =
    r#"{"heads": 1, "head_dim": 2, "rope": {"theta": 10000}, "max_tokens": 64}"#;
const JSON: &str = "application/json";
const SAFETENSORS: &str = "application/x-safetensors";

fn main() {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("http://127.0.0.1:8000".into());
    if let Err(error) = run(&url) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(url: &str) -> Result<(), Box<dyn Error>> {
    let host = url
        .strip_prefix("http://")
        .ok_or("the address must begin with http://")?;
    let mut connection = BufReader::new(TcpStream::connect(host)?);
    let mut call = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        exchange(&mut connection, &[head.as_bytes(), body].concat())
    };

    let created = call("POST", "/v1/sessions", JSON, CONFIGURATION.as_bytes())?;
    let created = String::from_utf8(created)?;
    let session = format!("/v1/sessions/{}", between(&created, r#""id":""#, "\"")?);
    // the last step again, as after a lost answer
    for (number, &token) in [0, 1, 2, 2].iter().enumerate() {
        let path = format!("{session}/step");
        let (out, length) = read(&call("POST", &path, SAFETENSORS, &step(token))?)?;
        println!("step{number} {out:?}");
        let expected = attention(token);
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-5;
        if !close(out[0], expected) || !close(out[1], expected + 1.0) || length != token + 1 {
            let expected = [expected, expected + 1.0];
            return Err(format!("these are not the numbers expected: {expected:?}").into());
        }
    }
    call("DELETE", &session, JSON, b"")?;
    Ok(())
}

/// Send a request over the connection, which is kept, and return the body of the answer.
fn exchange(
    connection: &mut BufReader<TcpStream>,
    request: &[u8],
) -> Result<Vec<u8>, Box<dyn Error>> {
    connection.get_mut().write_all(request)?;
    let mut lines = connection.by_ref().lines();
    let status = lines.next().ok_or("no response")??;
    let mut size = 0;
    for line in lines {
        match line?.to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => size = value.trim().parse()?,
            Some(_) => {}
            None => break, // the empty line
        }
    }
    let mut body = vec![0; size];
    connection.read_exact(&mut body)?; // one read may return less
    if !status.starts_with("HTTP/1.1 2") {
        // {"code": "session_conflict", "detail": "what is wrong", ...}
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(body)
}

/// safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
/// [batch, tokens, heads, head_dim].
fn step(token: usize) -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__": {{"params":
  "{{\"layer\": 0, \"expected_length\": {token}, \"expected_generation\": 0}}"}},
 "q": {{"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [0, 8]}},
 "k": {{"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [8, 16]}},
 "v": {{"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [16, 24]}}}}"#
    );
    let mut message = (header.len() as u64).to_le_bytes().to_vec();
    message.extend(header.as_bytes());
    for x in [2.0, 0.0, 2.0, 0.0, token as f32 + 2.0, token as f32 + 3.0] {
        message.extend(&x.to_le_bytes());
    }
    message
}

/// Return the output of a step, and the length after it.
fn read(message: &[u8]) -> Result<([f32; 2], usize), Box<dyn Error>> {
    let (mut length, mut numbers) = ([0; 8], [[0; 4]; 2]);
    length.copy_from_slice(message.get(..8).ok_or("no tensors")?);
    let start = 8 + u64::from_le_bytes(length) as usize;
    let header = std::str::from_utf8(message.get(8..start).ok_or("no tensors")?)?;
    let out = between(header, r#""out":{"#, "}")?;
    let first = start + between(&out, r#""data_offsets":["#, ",")?.parse::<usize>()?;
    for (i, number) in numbers.iter_mut().enumerate() {
        let at = first + 4 * i;
        number.copy_from_slice(message.get(at..at + 4).ok_or("no output")?);
    }
    let length = between(header, r#"\"length\":["#, "]")?.parse()?;
    Ok((numbers.map(f32::from_le_bytes), length))
}

/// Return the text between two others. A parser of JSON is the better choice in a program.
fn between(text: &str, before: &str, after: &str) -> Result<String, Box<dyn Error>> {
    let (_, rest) = text.split_once(before).ok_or("not the answer expected")?;
    let (found, _) = rest.split_once(after).ok_or("not the answer expected")?;
    Ok(found.into())
}

/// Compute the first number of the output. q and k rotate by one radian a token, so the product of
/// the query and a key is 4 times the cosine of their distance.
fn attention(token: usize) -> f64 {
    let (mut out, mut total) = (0.0, 0.0);
    for j in 0..=token {
        let weight = (4.0 * ((token - j) as f64).cos() / 2f64.sqrt()).exp();
        out += weight * (j + 2) as f64;
        total += weight;
    }
    out / total
}
