"""Read and write inference over HTTP: a JSON part, then the bytes of binary tensors."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import simdjson

from service.asgi import io
from service.errors import BadHeader, BadMessage, BadTensor, TooLarge, printable
from service.oip import validate
from service.oip.http.compression import compress, request_coding, response_coding
from service.oip.infer import response, tensors
from service.oip.infer.models import Model
from service.oip.infer.parse import Input, RequestParser
from service.oip.infer.plan import MAX_HEADER_BYTES, InferPlan, InferRequest
from service.oip.infer.response import OutputHeader, OutputTensor
from service.wire import Buffer, Message, typed_json
from service.wire.body_format import body_format, json_end
from service.wire.typed_json import Document, Numbers

JSON_LENGTH_NAME = "Inference-Header-Content-Length"

JSON_LENGTH = JSON_LENGTH_NAME.lower().encode()
"""Header that says how long the JSON part of a body is; without it the whole body is JSON."""

_STRING_OR_INF = re.compile(r'"(?:[^"\\]|\\.)*"|\bInf\b')
_INF = {"Inf": "Infinity"}


class NotJson(BadMessage):
    """The JSON part of a request is not valid JSON."""


class InferHeaders(NamedTuple):
    """The headers of a request that say how to read its body and how to write the answer."""

    json_bytes: int | None
    """Length of the JSON part; None: the whole body."""
    coding: bytes | None
    """Compression of the body."""
    response_coding: bytes | None
    """Compression of the answer."""


def parse_headers(headers: Mapping[bytes, bytes], max_json_bytes: int) -> InferHeaders:
    """Parse the headers of a request.

    Raises:
        BadHeader, TooLarge, UnsupportedMediaType: no request may have such headers.
    """
    if b"x-rope-params" in headers:
        raise BadHeader("X-Rope-Params is a header of /v1; here parameters are in the JSON")
    json_bytes = _parse_json_length(headers.get(JSON_LENGTH))
    coding = request_coding(headers.get(b"content-encoding"))
    if coding is None and b"content-length" in headers:
        _check_json_length(json_bytes, int(headers[b"content-length"]))
    if json_bytes is not None and json_bytes > max_json_bytes:
        remedy = "send tensors as binary tensor data, or raise ROPE_MAX_JSON_BYTES"
        raise TooLarge("the JSON part, in bytes,", max_json_bytes, f"{json_bytes:,}", remedy)
    return InferHeaders(json_bytes, coding, response_coding(headers.get(b"accept-encoding")))


def decode(
    model: Model, parser: RequestParser, json_bytes: int | None, body: Buffer
) -> InferRequest:
    """Read a request.

    Args:
        model: the model that the request names.
        parser: checks the request.
        json_bytes: length of the JSON part; None: the whole body.
        body: the request, decompressed.

    Raises:
        NotJson: its JSON part, or the whole body, is not valid JSON.
        BadHeader, BadMessage, BadTensor, UnknownName, ConfigError: it is not one of the protocol.
        UnknownRegion, BadRegion, TooLarge: its shared memory is not usable.
    """
    length = len(body) if json_bytes is None else json_bytes
    _check_json_length(json_bytes, len(body))
    if not length:
        expected = "JSON must name them"
        raise BadMessage(f"model {model.name} takes parameters and several inputs: {expected}")
    view = memoryview(body)
    return decode_parts(model, parser, bytes(view[:length]), view[length:])


def decode_parts(
    model: Model, parser: RequestParser, text: bytes, data: memoryview
) -> InferRequest:
    """Read a request whose JSON part is `text`; `data` are the bytes of its binary tensors.

    Raises:
        ServiceError, ConfigError: as `decode`.
    """
    cached = parser.header_cache.get(model.name, text)
    request = cached and cached.read_body("", data)
    return request or _parse(model, parser, text, data)


def explain_not_json(body: Buffer, json_bytes: int | None) -> str:
    """Return what to do about a body that is not JSON, "" if its bytes do not show what it is.

    Args:
        body: the request, decompressed.
        json_bytes: length of the JSON part; None: the whole body.
    """
    end = json_end(body)
    if json_bytes is not None:
        if end is None or end == json_bytes:
            return ""
        return f"{JSON_LENGTH_NAME} is {json_bytes}, but the JSON has {end} bytes"
    if end is not None and (others := len(body) - end):
        return (
            f"after {end} bytes of JSON the body has {others} other bytes: for binary tensors send "
            f"the header {JSON_LENGTH_NAME}: {end}"
        )
    seems = body_format(body)
    if seems in ("gzip", "deflate"):
        return f"the body seems to be compressed: send the header Content-Encoding: {seems}"
    if seems == "safetensors":
        return (
            "the body seems to be safetensors, which /v1 reads: send JSON here, and the bytes of "
            f"tensors after it, with the header {JSON_LENGTH_NAME}"
        )
    return ""


def encode(
    model: Model, request_id: str, plan: InferPlan, coding: bytes | None, message: Message
) -> tuple[io.Headers, list[Buffer]]:
    """Write an answer: its headers and the parts of its body.

    Raises:
        BadRegion: an output does not fit its place in shared memory.
    """
    outputs = response.render_outputs(plan, message)
    text = orjson.dumps(response.describe(model, request_id, message))[:-1]
    text += b',"outputs":[' + b",".join(map(_write_output, outputs)) + b"]}"
    binary = [tensors.to_bytes(o.tensor) for o in outputs if o.output.binary]
    parts: list[Buffer] = [text, *binary]
    headers = [(b"content-type", b"application/octet-stream" if binary else b"application/json")]
    if binary:
        headers.append((JSON_LENGTH, str(len(text)).encode()))
    if coding:
        headers.append((b"content-encoding", coding))
        parts = compress(parts, coding)
    headers.append((b"content-length", str(sum(map(len, parts))).encode()))
    return headers, parts


def _check_json_length(json_bytes: int | None, num_bytes: int) -> None:
    if json_bytes is not None and json_bytes > num_bytes:
        text = f"{JSON_LENGTH_NAME} is {json_bytes}, but the body has {num_bytes} bytes"
        raise BadHeader(text)


def _parse_json_length(value: bytes | None) -> int | None:
    if value is None:
        return None
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > 10 or int(digits) >= 2**31:
        raise BadHeader(f"{JSON_LENGTH_NAME} must be a number of bytes, below 2**31")
    return int(digits)


def _parse(model: Model, parser: RequestParser, text: bytes, data: memoryview) -> InferRequest:
    if request := typed_json.read(
        text, lambda typed: _parse_document(model, parser, None, _load_typed(typed), data)
    ):
        return request
    loaded, can_cache = _load_json(text)
    document = validate.instance("the request", loaded, dict)
    return _parse_document(model, parser, text if can_cache else None, document, data)


def _parse_document(
    model: Model,
    parser: RequestParser,
    header: bytes | None,
    document: dict[str, Any],
    data: memoryview,
) -> InferRequest:
    """Parse a request; where it has an id, its header is cached without the id."""
    request_id = validate.name("id", validate.instance("id", document.pop("id", ""), str))
    if request_id and header is not None and len(header) <= MAX_HEADER_BYTES:
        header = _dump(document)
        cached = parser.header_cache.get(model.name, header) if header else None
        if cached and (request := cached.read_body(request_id, data)):
            return request
    outputs = validate.instance("outputs", document.get("outputs", []), list)
    return parser.parse(
        model,
        header,
        request_id,
        validate.instance("parameters", document.get("parameters", {}), dict),
        _inputs(document.get("inputs"), data),
        (
            (item.get("name"), _params(item))
            for item in (validate.instance("an output", output, dict) for output in outputs)
        ),
    )


def _params(item: dict[str, Any]) -> dict[str, Any]:
    what = f"parameters of {printable(item.get('name'))}"
    return validate.instance(what, item.get("parameters", {}), dict)


def _inputs(inputs: object, data: memoryview) -> Iterator[Input]:
    """Yield the inputs; those of binary data get their part of the bytes behind the JSON part."""
    start = 0
    for raw_item in validate.instance("inputs", inputs, list):
        item = validate.instance("an input", raw_item, dict)
        params = _params(item)
        name, size = printable(item.get("name")), params.get("binary_data_size")
        carried: Buffer | list[Any] | Numbers | None = None
        if size is not None and "data" in item:
            raise BadTensor(name, "given once, as data or as binary_data_size", "both")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(data) - start:
                expected = f"of a binary_data_size within the {len(data) - start} bytes left"
                if not data:
                    expected += f" (bytes after the JSON need the header {JSON_LENGTH_NAME})"
                raise BadTensor(name, expected, printable(size))
            carried = data[start : start + size]
            start += size
        if "data" in item:
            carried = item["data"]
            if not isinstance(carried, Numbers):
                carried = validate.instance(f"data of {name}", carried, list)
        yield Input(item.get("name"), item.get("datatype"), item.get("shape"), params, carried)
    if start < len(data):
        raise BadMessage(f"{len(data) - start} trailing bytes after the inputs")


def _write_output(output: OutputTensor) -> bytes:
    is_binary = output.output.binary
    text = _write_output_header(output.header, output.tensor.nbytes if is_binary else None)
    if is_binary or output.output.shm:
        return text
    return text[:-1] + b',"data":' + tensors.to_json(output.tensor) + b"}"


@lru_cache(maxsize=1024)
def _write_output_header(header: OutputHeader, binary_bytes: int | None) -> bytes:
    params = dict(header.shm_params)
    if binary_bytes is not None:
        params["binary_data_size"] = binary_bytes
    document = {"name": header.name, "datatype": header.datatype, "shape": header.shape}
    return orjson.dumps(document | {"parameters": params} if params else document)


def _load_typed(document: Document) -> dict[str, Any]:
    """Return the members of a request; lists of numbers in the data of inputs are `Numbers`."""
    members = document.members(document.root)
    for name, value in members.items():
        is_inputs = name == "inputs" and isinstance(value, simdjson.Array)
        members[name] = document.tensors(value) if is_inputs else document.plain(value)
    document.check_lists()
    return members


def _load_json(text: bytes) -> tuple[Any, bool]:
    """Return the value of a JSON text, and whether orjson can read it."""
    try:
        return orjson.loads(text), True
    except orjson.JSONDecodeError as error:
        reason = str(error)
    try:
        return _load_extended_json(str(text, "utf-8")), False
    except (ValueError, RecursionError):
        raise NotJson(f"not JSON: {reason}") from None


def _load_extended_json(text: str) -> Any:
    """Read JSON that may have NaN, Infinity and Inf, as some clients write them."""
    if "Inf" in text:
        text = _STRING_OR_INF.sub(lambda match: _INF.get(match[0], match[0]), text)
    loaded = json.loads(text, parse_float=_finite)
    if "\\u" in text:
        json.dumps(loaded, ensure_ascii=False).encode()  # fails at a surrogate that is alone
    return loaded


def _dump(document: dict[str, Any]) -> bytes | None:
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:  # it is nested deeper than orjson writes, but not than it reads
        return None


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits)
    return number
