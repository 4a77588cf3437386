"""HTTP requests as bytes."""

import json
import math
from typing import Any

from torch import Tensor

from tests.service.recorded.exchange import encode
from tests.service.recorded.tensors import SAFETENSORS, raw

BINARY_LENGTH = "inference_header_content_length"

Case = dict[str, Any]
Exchange = dict[str, Any]


def case(name: str, *exchanges: Exchange, **compared: Any) -> Case:
    """Return a case: exchanges in order, on a connection each.

    `compared` says how answers are compared where that is not the default, see `compare.py`.
    """
    encoded = [
        {**item, "request": encode(item["request"])} if "request" in item else {**item}
        for item in exchanges
    ]
    return {"name": name, **compared, "exchanges": encoded}


def request(
    method: str, path: str, body: bytes | None = None, chunk: int = 0, **headers: str
) -> Exchange:
    """Return one request; header names have underscores for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: service"]
    headers.setdefault("connection", "close")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    framed = body or b""
    if chunk:
        lines.append("Transfer-Encoding: chunked")
        pieces = [framed[at : at + chunk] for at in range(0, len(framed), chunk)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(item), item) for item in pieces) + b"0\r\n\r\n"
    elif body is not None and "content_length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return {"request": "\r\n".join([*lines, "", ""]).encode() + framed}


def get(path: str, **headers: str) -> Exchange:
    return request("GET", path, **headers)


def post(path: str, body: bytes, chunk: int = 0, **headers: str) -> Exchange:
    return request("POST", path, body, chunk, **headers)


def post_json(path: str, body: Any, **headers: str) -> Exchange:
    """Return a request whose body is JSON, or empty where `body` is None."""
    text = b"" if body is None else json.dumps(body).encode()
    return post(path, text, content_type="application/json", **headers)


def safetensors(tensors: dict[str, Tensor], params: str | None) -> bytes:
    """Return a body of safetensors; `params` is JSON text."""
    names = {dtype: name for name, dtype in SAFETENSORS.items()}
    header: dict[str, Any] = {} if params is None else {"__metadata__": {"params": params}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(map(raw, tensors.values()))


def post_safetensors(
    path: str, tensors: dict[str, Tensor], headers: dict[str, str] | None = None, **params: Any
) -> Exchange:
    body = safetensors(tensors, json.dumps(params) if params else None)
    return post(path, body, content_type="application/x-safetensors", **headers or {})
