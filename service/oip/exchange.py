"""One inference over HTTP: JSON, then the bytes of its binary tensors; and the same back."""

import json
import math
from collections.abc import Iterator
from typing import Any

import orjson

from service.errors import BadHeader, BadMessage, BadTensor, TooLarge, printable
from service.oip import kinds, tensors
from service.oip.encoding import coding_for, coding_of, compress
from service.oip.models import Model
from service.oip.request import Input, Plan, Planner
from service.oip.response import Told, describe, tell
from service.wire import Buffer, Message
from service.wire import json as json_codec

LENGTH = b"inference-header-content-length"


class Exchange:
    """Reads a request of `model` and writes its answer: a codec that lives as long as it.

    Args:
        model: whom it asks.
        headers: of the request.
        planner: reads it.
        max_json_bytes: longest JSON part.

    Raises:
        BadHeader, TooLarge, UnsupportedMediaType: headers that no request can have.
    """

    def __init__(
        self, model: Model, headers: dict[bytes, bytes], planner: Planner, max_json_bytes: int
    ) -> None:
        self._model = model
        self._planner = planner
        self._length = _length_of(headers.get(LENGTH))
        if self._length is not None and self._length > max_json_bytes:
            raise TooLarge("the JSON part, in bytes,", max_json_bytes, f"{self._length:,}")
        self.coding = coding_of(headers.get(b"content-encoding"))
        self.answer_coding = coding_for(headers.get(b"accept-encoding"))
        self.media_type = "application/json"
        self.json_bytes: int | None = None
        """Length of the JSON part of an answer that has binary tensors."""
        self.plan: Plan | None = None
        """What the request asks for, once it is read."""

    @property
    def prompt_bytes(self) -> int:
        """Up to here a body is read, or written, at once: compression takes a thread."""
        return 0 if self.answer_coding else json_codec.prompt_bytes

    @property
    def expansion(self) -> int:
        """Bytes of memory for each of the request, or of the answer once the request is read."""
        if self.plan is None:
            in_text = self._length is None
        else:
            in_text = not all(each.binary or each.place for each in self.plan.outputs.values())
        return json_codec.expansion if in_text else 1

    def decode(self, body: Buffer) -> Message:
        """Read a request.

        Raises:
            BadMessage, BadTensor, UnknownName, ConfigError: it is not as the protocol says.
        """
        length = len(body) if self._length is None else self._length
        if length > len(body):
            raise BadHeader(f"Inference-Header-Content-Length is {length}, of {len(body)} bytes")
        if not length:
            name = self._model.name
            raise BadMessage(
                f"model {name} takes parameters and several inputs: JSON must name them"
            )
        view = memoryview(body)
        header = kinds.mapping("the request", _loads(view[:length]))
        outputs = kinds.sequence("outputs", header.get("outputs", []))
        self.plan = self._planner.plan(
            self._model,
            header.get("id", ""),
            kinds.mapping("parameters", header.get("parameters", {})),
            _inputs(header.get("inputs"), view[length:]),
            [(each.get("name"), _params(each)) for each in map(_an_output, outputs)],
        )
        return self.plan.message

    def encode(self, message: Message) -> list[Buffer]:
        """Write the answer."""
        assert self.plan is not None, "decoded before"
        told = tell(self._model, self.plan, message)
        head = describe(self._model, self.plan, message)
        outputs = b",".join(map(_output, told))
        text = orjson.dumps(head)[:-1] + b',"outputs":[' + outputs + b"]}"
        blobs = [tensors.bytes_of(each.tensor) for each in told if each.output.binary]
        if blobs:
            self.media_type, self.json_bytes = "application/octet-stream", len(text)
        parts: list[Buffer] = [text, *blobs]
        return compress(parts, self.answer_coding) if self.answer_coding else parts


def _output(told: Told) -> bytes:
    params = dict(told.params)
    if told.output.binary:
        params["binary_data_size"] = told.tensor.nbytes
    if params:
        return orjson.dumps(told.head | {"parameters": params})
    return orjson.dumps(told.head)[:-1] + b',"data":' + tensors.json_of(told.tensor) + b"}"


def _an_output(each: object) -> dict[str, Any]:
    return kinds.mapping("an output", each)


def _params(given: dict[str, Any]) -> dict[str, Any]:
    return kinds.mapping(
        f"parameters of {printable(given.get('name'))}", given.get("parameters", {})
    )


def _inputs(inputs: object, blobs: memoryview) -> Iterator[Input]:
    """Cut the bytes behind the JSON part into those of each input that has some."""
    at = 0
    for each in kinds.sequence("inputs", inputs):
        given = kinds.mapping("an input", each)
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
            carried = kinds.sequence(f"data of {name}", given["data"])
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


def _loads(text: memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        wrong = str(broken)
    try:
        # NaN and Infinity, which some clients write
        return json.loads(bytes(text), parse_float=_finite)
    except (ValueError, RecursionError):
        raise BadMessage(f"not JSON: {wrong}") from None


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits)
    return number
