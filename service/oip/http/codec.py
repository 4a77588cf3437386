"""One inference over HTTP: JSON, then the bytes of its binary tensors; and the same back."""

import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

from service.asgi import io
from service.errors import BadHeader, BadMessage, BadTensor, TooLarge, printable
from service.oip import validate
from service.oip.http.compression import coding_for, coding_of, compress
from service.oip.infer import tensors
from service.oip.infer.models import Model
from service.oip.infer.parse import Input, RequestParser
from service.oip.infer.plan import MAX_HEAD_BYTES, InferPlan
from service.oip.infer.response import Head, OutputTensor, describe, render_outputs
from service.wire import Buffer, Decoded, Message, json_codec, safetensors_codec

LENGTH = b"inference-header-content-length"

_STRING_OR_INF = re.compile(r'"(?:[^"\\]|\\.)*"|\bInf\b')
_INF = {"Inf": "Infinity"}


class HttpInferCodec:
    """Reads a request of `model` and writes its answer: a codec that lives as long as it.

    Args:
        model: whom it asks.
        headers: of the request.
        parser: reads it.
        max_json_bytes: longest JSON part.

    Raises:
        BadHeader, TooLarge, UnsupportedMediaType: headers that no request can have.
    """

    def __init__(
        self, model: Model, headers: dict[bytes, bytes], parser: RequestParser, max_json_bytes: int
    ) -> None:
        self._model = model
        self._planner = parser
        self._length = _length_of(headers.get(LENGTH))
        self.coding = coding_of(headers.get(b"content-encoding"))
        if self.coding is None:
            self._check_length(io.declared_bytes(headers))
        if self._length is not None and self._length > max_json_bytes:
            raise TooLarge("the JSON part, in bytes,", max_json_bytes, f"{self._length:,}")
        self.answer_coding = coding_for(headers.get(b"accept-encoding"))
        self.media_type = "application/json"
        self.json_bytes: int | None = None
        """Length of the JSON part of an answer that has binary tensors."""
        self.plan: InferPlan | None = None
        """What the request asks for, once it is read."""

    @property
    def inline_limit_bytes(self) -> int:
        """Up to here a body is read, or written, at once: all but bytes takes a thread."""
        if self.plan is None and self._planner.reads_regions:
            return 0
        if self.plan is None:
            in_bytes = self._length is not None and self._length <= json_codec.inline_limit_bytes
        elif self.answer_coding is not None:
            return 0
        else:
            in_bytes = all(each.binary for each in self.plan.outputs.values())
        return safetensors_codec.inline_limit_bytes if in_bytes else json_codec.inline_limit_bytes

    @property
    def text_bytes(self) -> int:
        """Bytes of memory that a JSON part of known length takes beside those of `expansion`."""
        return (self._length or 0) * (json_codec.memory_factor - 1)

    @property
    def memory_factor(self) -> int:
        """Bytes of memory for each of the request, or of the answer once the request is read."""
        in_text = self._length is None if self.plan is None else self.plan.in_text
        return json_codec.memory_factor if in_text else 1

    def decode(self, body: Buffer) -> Decoded:
        """Read a request.

        Raises:
            BadMessage, BadTensor, UnknownName, ConfigError: it is not as the protocol says.
        """
        length = len(body) if self._length is None else self._length
        self._check_length(len(body))
        if not length:
            name = self._model.name
            raise BadMessage(
                f"model {name} takes parameters and several inputs: JSON must name them"
            )
        view = memoryview(body)
        text, body = bytes(view[:length]), view[length:]
        known = self._known(text, "", body)
        plan = self._plan(text, body) if known is None else known
        self.plan = plan._replace(message=Message({}))  # its tensors are the call's alone
        return Decoded(plan.message)

    def _check_length(self, num_bytes: int | None) -> None:
        length = self._length
        if length is not None and num_bytes is not None and length > num_bytes:
            raise BadHeader(f"Inference-Header-Content-Length is {length}, of {num_bytes} bytes")

    def _plan(self, text: bytes, body: memoryview) -> InferPlan:
        read, exactly = _loads(text)
        header = validate.mapping("the request", read)
        head = text if exactly else None
        request_id = validate.text("id", header.pop("id", ""))
        if request_id and exactly and len(text) <= MAX_HEAD_BYTES:
            head = _written(header)
            if head and (known := self._known(head, request_id, body)):
                return known
        outputs = validate.sequence("outputs", header.get("outputs", []))
        return self._planner.plan(
            self._model,
            head,
            request_id,
            validate.mapping("parameters", header.get("parameters", {})),
            _inputs(header.get("inputs"), body),
            ((each.get("name"), _params(each)) for each in map(_an_output, outputs)),
        )

    def _known(self, head: bytes, request_id: str, body: memoryview) -> InferPlan | None:
        known = self._planner.heads.find(self._model.name, head)
        return known and known.of_body(request_id, body)

    def encode(self, message: Message, as_base64: bool = False) -> list[Buffer]:
        """Write the answer."""
        assert self.plan is not None, "decoded before"
        told = render_outputs(self._model, self.plan, message)
        head = describe(self._model, self.plan, message)
        outputs = b",".join(map(_output, told))
        text = orjson.dumps(head)[:-1] + b',"outputs":[' + outputs + b"]}"
        blobs = [tensors.bytes_of(each.tensor) for each in told if each.output.binary]
        if blobs:
            self.media_type, self.json_bytes = "application/octet-stream", len(text)
        parts: list[Buffer] = [text, *blobs]
        return compress(parts, self.answer_coding) if self.answer_coding else parts


def _output(told: OutputTensor) -> bytes:
    if told.output.binary:
        return _binary_output(told.head, told.tensor.nbytes)
    text = _described(told.head, dict(told.head.where))
    return (
        text if told.head.where else text[:-1] + b',"data":' + tensors.json_of(told.tensor) + b"}"
    )


@lru_cache(maxsize=1024)
def _binary_output(head: Head, num_bytes: int) -> bytes:
    return _described(head, {"binary_data_size": num_bytes})


def _described(head: Head, params: dict[str, str | int]) -> bytes:
    told = {"name": head.name, "datatype": head.datatype, "shape": head.shape}
    return orjson.dumps(told | {"parameters": params} if params else told)


def _an_output(each: object) -> dict[str, Any]:
    return validate.mapping("an output", each)


def _params(given: dict[str, Any]) -> dict[str, Any]:
    return validate.mapping(
        f"parameters of {printable(given.get('name'))}", given.get("parameters", {})
    )


def _inputs(inputs: object, blobs: memoryview) -> Iterator[Input]:
    """Cut the bytes behind the JSON part into those of each input that has some."""
    at = 0
    for each in validate.sequence("inputs", inputs):
        given = validate.mapping("an input", each)
        params = _params(given)
        name, size = printable(given.get("name")), params.get("binary_data_size")
        carried: Buffer | list[Any] | None = None
        if size is not None and "data" in given:
            raise BadTensor(name, "given once, as data or as binary_data_size", "both")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(blobs) - at:
                left = f"of a binary_data_size within the {len(blobs) - at} bytes left"
                raise BadTensor(name, left, printable(size))
            carried = blobs[at : at + size]
            at += size
        if "data" in given:
            carried = validate.sequence(f"data of {name}", given["data"])
        yield Input(given.get("name"), given.get("datatype"), given.get("shape"), params, carried)
    if at < len(blobs):
        raise BadMessage(f"{len(blobs) - at} bytes are left over behind the inputs")


def _length_of(header: bytes | None) -> int | None:
    if header is None:
        return None
    digits = header.strip(b" \t")
    if not digits.isdigit() or len(digits) > 10 or int(digits) >= 2**31:
        raise BadHeader("Inference-Header-Content-Length must be a number of bytes, below 2**31")
    return int(digits)


def _loads(text: bytes) -> tuple[Any, bool]:
    """Return what a text says, and whether it can be written again as it was."""
    try:
        return orjson.loads(text), True
    except orjson.JSONDecodeError as broken:
        wrong = str(broken)
    try:
        return _loads_more(str(text, "utf-8")), False
    except (ValueError, RecursionError):
        raise BadMessage(f"not JSON: {wrong}") from None


def _loads_more(text: str) -> Any:
    """Read JSON with the numbers that some clients write beside: NaN, Infinity and Inf."""
    if "Inf" in text:
        text = _STRING_OR_INF.sub(lambda found: _INF.get(found[0], found[0]), text)
    read = json.loads(text, parse_float=_finite)
    if "\\u" in text:
        json.dumps(read, ensure_ascii=False).encode()  # fails where half of a pair is alone
    return read


def _written(header: dict[str, Any]) -> bytes | None:
    try:
        return orjson.dumps(header)
    except orjson.JSONEncodeError:  # nested deeper than it writes, though not than it reads
        return None


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits)
    return number
