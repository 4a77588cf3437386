"""Compare an answer with the recorded one.

All bytes are compared but these:

- values of `date`, of a generated `x-request-id`, and the durations of `server-timing`;
- texts: of errors (`error`, `title`, `detail`, gRPC's details), of warnings and of summaries. Their
  keys, their number and whether they are empty are compared;
- computed numbers, which depend on the processor: within 2 units in the last place, of the largest
  number of the same list. The text around them, names, shapes and dtypes are compared exactly;
- compressed bodies and maps of gRPC, whose bytes may differ where they say the same.

A case may say more: `numbers` is "exact" where no number is computed, or "each" where a number is
compared by its own size; `mask` names JSON keys whose values are not compared; `mask_numbers`
compares no number (times, counts); `mask_version` is `mask` of gRPC's field `version`.
"""

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from tests.service.recorded.exchange import Answer, decode
from tests.service.recorded.messages import response_class
from tests.service.recorded.tensors import DTYPES, OIP, SAFETENSORS, from_raw
from tests.ulp import within_ulp

TEXTS = ("error", "title", "detail", "summary")
BINARY_LENGTH = "inference-header-content-length"

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|-?Infinity|NaN')
_TEXT = re.compile(rf'"({"|".join(TEXTS)})": ?"((?:[^"\\]|\\.)*)"')
_WARNINGS = re.compile(r'"warnings": ?\[((?:"(?:[^"\\]|\\.)*",? ?)*)\]')
_WARNING_LINES = re.compile(r'"warnings":"((?:[^"\\]|\\.)*)"')
_PARAMS = re.compile(r'"params":("(?:[^"\\]|\\.)*")')
_BASE64 = re.compile(r'"dtype":"(\w+)","data":"([A-Za-z0-9+/=]*)"')
_DTYPE = re.compile(r'"(?:dtype|datatype)":"(\w+)"')
_NUMBER = "\0"
_LIST = re.compile(f"{_NUMBER}(?:, ?{_NUMBER})*")
_ID = re.compile(r"[0-9a-f]{16}")
_DURATION = re.compile(r"dur=\d+\.\d{3}")


class Differs(AssertionError):
    """The answer is not the recorded one."""


def compare(actual: Answer, expected: Answer, case: dict[str, Any], method: str) -> None:
    """Raise `Differs` where an answer is not the recorded one.

    Args:
        actual: what came.
        expected: what was recorded.
        case: says how to compare.
        method: name of gRPC's method, "" for HTTP.
    """
    if method:
        _compare_grpc(actual, expected, case, method)
        return
    _same("number of responses", len(actual["responses"]), len(expected["responses"]))
    for response, recorded in zip(actual["responses"], expected["responses"], strict=True):
        _compare_http(response, recorded, case)


def compare_floats(actual: bytes, expected: bytes) -> None:
    """Compare float32 numbers, within 2 ulp."""
    _compare_bytes(actual, expected, torch.float32, {})


def _same(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise Differs(f"{what}: got {actual!r}, recorded {expected!r}")


def _compare_http(actual: Answer, expected: Answer, case: dict[str, Any]) -> None:
    _same("status line", actual["status"], expected["status"])
    bodies = decode(actual["body"]), decode(expected["body"])
    headers = dict(expected["headers"])
    if "content-encoding" in headers:
        bodies = zlib.decompress(bodies[0], 47), zlib.decompress(bodies[1], 47)
    media_type = headers.get("content-type", "")
    is_binary = media_type in ("application/octet-stream", "application/x-safetensors")
    # the length of text depends on its numbers, and on what errors say
    loose = "json" in media_type or "content-encoding" in headers
    loose = loose or b'"data":[' in bodies[1] or b"warnings" in bodies[1]
    shown = [[_header(n, v, loose) for n, v in item["headers"]] for item in (actual, expected)]
    _same("headers", *shown)
    if not is_binary and "json" not in media_type:
        _same("body", *bodies)
    elif media_type == "application/x-safetensors":
        _compare_safetensors(*bodies, case)
    elif BINARY_LENGTH in headers:
        lengths = [int(dict(item["headers"])[BINARY_LENGTH]) for item in (actual, expected)]
        _compare_blobs(*bodies, *lengths, case)
    else:
        _compare_json(bodies[0].decode(), bodies[1].decode(), case)


def _header(name: str, value: str, loose: bool) -> tuple[str, str]:
    match name:
        case "date":
            value = "masked"
        case "x-request-id" if _ID.fullmatch(value):
            value = "generated"
        case "server-timing":
            value = _DURATION.sub("dur=masked", value)
        case "content-length" | "inference-header-content-length" if loose:
            value = "masked"
    return name, value


def _compare_safetensors(actual: bytes, expected: bytes, case: dict[str, Any]) -> None:
    (header, params, data), (recorded, recorded_params, recorded_data) = (
        _cut_safetensors(body) for body in (actual, expected)
    )
    _same("header", header, recorded)
    _compare_json(params, recorded_params, case)
    _same("bytes of tensors", len(data), len(recorded_data))
    entries = json.loads(recorded)
    entries.pop("__metadata__")
    for entry in entries.values():
        cut = slice(*entry["data_offsets"])
        dtype = SAFETENSORS[entry["dtype"]]
        _compare_bytes(data[cut], recorded_data[cut], dtype, case, entry["shape"])


def _cut_safetensors(body: bytes) -> tuple[str, str, bytes]:
    """Return the header without the parameters, the parameters, and the tensors."""
    (size,) = struct.unpack("<Q", body[:8])
    text = body[8 : 8 + size].decode()
    if size % 8 or len(text) - len(text.rstrip()) > 7:
        raise Differs(f"the header has {size} bytes, and must end with spaces at a multiple of 8")
    match = _PARAMS.search(text)
    if match is None:
        raise Differs(f"the header has no params: {text}")
    header = text[: match.start()] + '"params":"masked"' + text[match.end() :].rstrip()
    return header, json.loads(match[1]), body[8 + size :]


def _compare_blobs(
    actual: bytes, expected: bytes, length: int, recorded_length: int, case: dict[str, Any]
) -> None:
    header, recorded_header = actual[:length].decode(), expected[:recorded_length].decode()
    _compare_json(header, recorded_header, case)
    actual, expected = actual[length:], expected[recorded_length:]
    _same("bytes of tensors", len(actual), len(expected))
    at = 0
    for output in json.loads(recorded_header)["outputs"]:
        cut = slice(at, at + output.get("parameters", {}).get("binary_data_size", 0))
        dtype = OIP[output["datatype"]]
        _compare_bytes(actual[cut], expected[cut], dtype, case, output["shape"])
        at = cut.stop
    _same("end of the outputs", at, len(actual))


def _compare_json(actual: str, expected: str, case: dict[str, Any]) -> None:
    frames, numbers, blobs = zip(_split(actual, case), _split(expected, case), strict=True)
    _same("JSON around the numbers", *frames)
    _same("number of tensors in base64", len(blobs[0]), len(blobs[1]))
    for (dtype, a), (_, b) in zip(*blobs, strict=True):
        _compare_bytes(base64.b64decode(a), base64.b64decode(b), DTYPES[dtype], case)
    if case.get("mask_numbers"):
        return
    at = 0
    for match in _LIST.finditer(frames[0]):
        end = at + match[0].count(_NUMBER)
        is_tensor = frames[0][match.start() - 1] == "[" and '"data":[' in frames[0]
        named = _DTYPE.findall(frames[0], 0, match.start())
        dtype = (DTYPES | OIP)[named[-1]] if is_tensor and named else torch.float64
        _compare_texts(numbers[0][at:end], numbers[1][at:end], dtype, case)
        at = end


def _compare_texts(
    actual: list[str], expected: list[str], dtype: torch.dtype, case: dict[str, Any]
) -> None:
    if actual == expected:
        return
    if not dtype.is_floating_point:
        raise Differs(f"numbers: got {actual}, recorded {expected}")
    if not all(is_float(a) == is_float(b) for a, b in zip(actual, expected, strict=True)):
        raise Differs(f"kinds of numbers: got {actual}, recorded {expected}")
    tensors = (
        torch.tensor([*map(float, item)], dtype=torch.float64) for item in (actual, expected)
    )
    _compare_tensors(*(item.to(dtype) for item in tensors), case)


def is_float(text: str) -> bool:
    """Tell whether the text of a number is that of a float."""
    return not text.lstrip("-").isdigit()


def _split(text: str, case: dict[str, Any]) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Cut JSON into the text around its numbers, the numbers, and its tensors in base64."""
    blobs: list[tuple[str, str]] = []
    numbers: list[str] = []

    def cut_blob(match: re.Match[str]) -> str:
        blobs.append((match[1], match[2]))
        return f'"dtype":"{match[1]}","data":"masked"'

    def cut_number(match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        numbers.append(match[0])
        return _NUMBER

    def cut_warnings(match: re.Match[str]) -> str:
        texts = json.loads(f"[{match[1]}]")
        return f'"warnings":[{",".join(f"text {bool(each)}" for each in texts)}]'

    text = _BASE64.sub(cut_blob, text)
    text = _WARNINGS.sub(cut_warnings, text)
    text = _WARNING_LINES.sub(
        lambda match: f'"warnings":"{len(match[1].split(chr(92) + "n"))} lines"', text
    )
    text = _TEXT.sub(lambda match: f'"{match[1]}":"text {bool(match[2])}"', text)
    for name in case.get("mask", ()):
        text = re.sub(rf'"{name}":"[^"]*"', f'"{name}":"masked"', text)
    return _TOKEN.sub(cut_number, text), numbers, blobs


def _compare_bytes(
    actual: bytes,
    expected: bytes,
    dtype: torch.dtype,
    case: dict[str, Any],
    shape: list[int] | None = None,
) -> None:
    if actual == expected:
        return
    if len(actual) != len(expected) or not dtype.is_floating_point:
        raise Differs(f"bytes of {dtype}: got {actual.hex()}, recorded {expected.hex()}")
    tensors = [from_raw(data, dtype) for data in (actual, expected)]
    _compare_tensors(*(t if shape is None else t.view(shape) for t in tensors), case)


def _compare_tensors(actual: Tensor, expected: Tensor, case: dict[str, Any]) -> None:
    rule = case.get("numbers", "list")
    finite = expected.isfinite()
    # what is not finite is the same number, and NaN is NaN
    strange = torch.equal(actual[~finite].nan_to_num(7.0), expected[~finite].nan_to_num(7.0))
    if rule == "exact" or not strange or not bool(actual[finite].isfinite().all()):
        raise Differs(f"numbers: got {actual.tolist()}, recorded {expected.tolist()}")
    actual, expected = actual.where(finite, 0.0), expected.where(finite, 0.0)
    size = expected.abs().double()
    if rule == "list" and size.numel():
        size = size.amax(-1, keepdim=True) if size.ndim > 1 else size.max()
    if not within_ulp(actual, expected, size=size):
        raise Differs(f"numbers: got {actual.tolist()}, recorded {expected.tolist()}")


def _compare_grpc(actual: Answer, expected: Answer, case: dict[str, Any], method: str) -> None:
    _same("code", actual["code"], expected["code"])
    _same("whether it has details", bool(actual["details"]), bool(expected["details"]))
    trailing = [
        sorted(_header(*pair, False) for pair in item["trailing"]) for item in (actual, expected)
    ]
    _same("trailing metadata", *trailing)
    _same("number of messages", len(actual["messages"]), len(expected["messages"]))
    for messages in zip(actual["messages"], expected["messages"], strict=True):
        try:
            a, b = (response_class(method).FromString(decode(item)) for item in messages)
        except DecodeError as broken:
            raise Differs(str(broken)) from None
        if case.get("mask_version"):
            a.version = b.version = "masked"
        has_texts = [_mask_texts(item) for item in (a, b)][1]
        blobs = [[*_take_blobs(item)] for item in (a, b)]
        if case.get("mask_numbers"):
            a, b = (_without_numbers(item) for item in (a, b))
        _same("message", *(item.SerializeToString(deterministic=True) for item in (a, b)))
        if not (has_texts or case.get("mask_numbers") or case.get("mask_version")):
            # the order of a map's entries is free, the number of their bytes is not
            _same("length of the message", *(len(decode(item)) for item in messages))
        for (dtype, shape, x), (_, _, y) in zip(*blobs, strict=True):
            _compare_bytes(x, y, dtype, case, shape)


def _mask_texts(message: Any) -> bool:
    """Mask the texts of a message, and tell whether it had some."""
    response = message.infer_response if hasattr(message, "infer_response") else message
    warnings = getattr(response, "parameters", {}).get("warnings")
    if warnings is not None:
        warnings.string_param = f"{len(warnings.string_param.splitlines())} lines"
    error = getattr(message, "error_message", "")
    if error:
        message.error_message = "text"
    return bool(warnings or error)


def _take_blobs(message: Any) -> Iterator[tuple[torch.dtype, list[int], bytes]]:
    """Take the tensors out of a response, so that the rest can be compared exactly."""
    response = message.infer_response if hasattr(message, "infer_response") else message
    raw = [*getattr(response, "raw_output_contents", ())]
    for at, (output, data) in enumerate(zip(getattr(response, "outputs", ()), raw, strict=False)):
        response.raw_output_contents[at] = b"%d bytes" % len(data)
        yield OIP[output.datatype], [*output.shape], data


def _without_numbers(message: Any) -> Any:
    """Set all numbers of a message of statistics to 1, so that fields remain that are set."""
    for field, value in message.ListFields():
        if field.message_type is None:
            if not isinstance(value, str):
                setattr(message, field.name, 1)
        elif field.is_repeated:
            for item in value:
                _without_numbers(item)
        else:
            _without_numbers(value)
    return message
