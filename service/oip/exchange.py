"""One inference over HTTP: JSON, then the bytes of its binary tensors; and the same back."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
import torch
from torch import Tensor

from service.errors import BadHeader, BadMessage, BadTensor, TooLarge, UnknownName, printable
from service.oip import tensors
from service.oip.models import VERSION, Model
from service.oip.params import translate
from service.wire import Buffer, Message
from service.wire import json as json_codec

LENGTH = b"inference-header-content-length"

KINDS = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}

K = TypeVar("K")


class Exchange:
    """Reads a request of `model` and writes its answer: a codec that lives as long as it.

    Args:
        model: whom it asks.
        length: value of the header that tells the length of the JSON part, None where missing.
        max_json_bytes: longest JSON part.
    """

    prompt_bytes = 64 * 2**10

    def __init__(self, model: Model, length: bytes | None, max_json_bytes: int) -> None:
        self._model = model
        self._length = None if length is None else _natural(length)
        if self._length is not None and self._length > max_json_bytes:
            raise TooLarge("the JSON part, in bytes,", max_json_bytes, f"{self._length:,}")
        self.media_type = "application/json"
        self.json_bytes: int | None = None
        """Length of the JSON part of an answer that has binary tensors."""
        self._id = ""
        self._wanted: Mapping[str, bool] = {}

    @property
    def expansion(self) -> int:
        """Bytes of memory for each of the request, or of the answer once the request is read."""
        in_text = not all(self._wanted.values()) if self._wanted else self._length is None
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
            raise BadMessage(f"model {self._model.name} has several inputs: JSON must name them")
        view = memoryview(body)
        header = _object("the request", _loads(view[:length]))
        self._id = _of_kind("id", header.get("id", ""), str)
        given = _object("parameters", header.get("parameters", {}))
        found = self._read_inputs(header.get("inputs"), view[length:])
        self._wanted = self._read_outputs(header.get("outputs", []), given)
        lse = {"return_lse": True} if "lse" in self._wanted and header.get("outputs") else {}
        return Message(found, translate(given | lse, self._model.endpoint.params))

    def encode(self, message: Message) -> list[Buffer]:
        """Write the answer."""
        of = {slot.name: slot.tensor for slot in self._model.outputs}
        told = {
            name: message.tensors[of[name]] for name in self._wanted if of[name] in message.tensors
        }
        binary = [tensor for name, tensor in told.items() if self._wanted[name]]
        text = self._text(told, message.params)
        if binary:
            self.media_type, self.json_bytes = "application/octet-stream", len(text)
        return [text, *map(tensors.bytes_of, binary)]

    def _text(self, told: Mapping[str, Tensor], params: bytes) -> bytes:
        head: dict[str, Any] = {"model_name": self._model.name, "model_version": VERSION}
        if self._id:
            head["id"] = self._id
        more = {k: v for k, v in orjson.loads(params).items() if isinstance(v, str | int | float)}
        if more:
            head["parameters"] = more
        outputs = [self._output(name, tensor) for name, tensor in told.items()]
        return orjson.dumps(head)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"

    def _output(self, name: str, tensor: Tensor) -> bytes:
        datatype = tensors.NAMES[tensor.dtype]
        head: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [*tensor.shape]}
        if self._wanted[name]:
            return orjson.dumps(head | {"parameters": {"binary_data_size": tensor.nbytes}})
        return orjson.dumps(head)[:-1] + b',"data":' + tensors.json_of(tensor) + b"}"

    def _read_inputs(self, inputs: object, blobs: memoryview) -> dict[str, Tensor]:
        slots = {slot.name: slot for slot in self._model.inputs}
        found: dict[str, Tensor] = {}
        at = 0
        for each in _list("inputs", inputs):
            given = _object("an input", each)
            name = _of_kind("the name of an input", given.get("name"), str)
            if name not in slots:
                raise UnknownName("input", name, [*slots])
            if slots[name].tensor in found:
                raise BadMessage(f"input {name} is given twice")
            params = _object(f"parameters of {name}", given.get("parameters", {}))
            if "shared_memory_region" in params:
                raise BadMessage(f"{name}: shared memory is not served here")
            dtype = tensors.dtype_of(name, given.get("datatype"))
            size = params.get("binary_data_size")
            if (size is None) == ("data" not in given):
                expected = "given once, as data or as binary_data_size"
                raise BadTensor(name, expected, "neither" if size is None else "both")
            if size is None:
                tensor = tensors.of_numbers(name, dtype, given.get("shape"), given["data"])
            else:
                if type(size) is not int or not 0 <= size <= len(blobs) - at:
                    left = f"of a binary_data_size within the {len(blobs) - at} bytes left"
                    raise BadTensor(name, left, printable(size))
                data = blobs[at : at + size]
                tensor = tensors.of_bytes(name, dtype, given.get("shape"), data)
                at += size
            if slots[name].datatype == "INT64" and dtype is torch.int32:
                tensor = tensor.long()
            found[slots[name].tensor] = tensor
        if at < len(blobs):
            raise BadMessage(f"{len(blobs) - at} bytes are left over behind the inputs")
        for slot in slots.values():
            if not slot.optional and slot.tensor not in found:
                raise BadTensor(slot.name, "an input of the request", "none")
        return found

    def _read_outputs(self, outputs: object, given: Mapping[str, Any]) -> dict[str, bool]:
        known = [slot.name for slot in self._model.outputs]
        usual = given.get("binary_data_output", False)
        if type(usual) is not bool:
            raise BadMessage("parameter binary_data_output must be a boolean")
        wanted: dict[str, bool] = {}
        for each in _list("outputs", outputs):
            output = _object("an output", each)
            name = _of_kind("the name of an output", output.get("name"), str)
            if name not in known:
                raise UnknownName("output", name, known)
            if name in wanted:
                raise BadMessage(f"output {name} is asked for twice")
            params = _object(f"parameters of {name}", output.get("parameters", {}))
            if params.get("classification") or "shared_memory_region" in params:
                raise BadMessage(f"{name}: classification and shared memory are not served here")
            wanted[name] = _of_kind(
                f"binary_data of {name}", params.get("binary_data", usual), bool
            )
        return wanted or dict.fromkeys(known, usual)


def _natural(text: bytes) -> int:
    stripped = text.strip()
    if not stripped.isdigit() or len(stripped) > 10 or int(stripped) >= 2**31:
        raise BadHeader("Inference-Header-Content-Length must be a number of bytes, below 2**31")
    return int(stripped)


def _loads(text: memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        wrong = str(broken)
    try:
        return json.loads(bytes(text))  # NaN and Infinity, which some clients write
    except (ValueError, RecursionError):
        raise BadMessage(f"not JSON: {wrong}") from None


def _object(what: str, given: object) -> dict[str, Any]:
    return _of_kind(what, given, dict)


def _list(what: str, given: object) -> list[Any]:
    return _of_kind(what, given, list)


def _of_kind(what: str, given: object, kind: type[K]) -> K:
    if isinstance(given, kind) and type(given) is kind:
        return given
    raise BadMessage(f"{printable(what)} must be {KINDS[kind]}, got {type(given).__name__}")
