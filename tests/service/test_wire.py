"""The codecs: a decoded body is the encoded message, and other bodies are refused with a reason."""

import contextlib
import json
import re
import struct
from base64 import b64encode

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from service.errors import BadMessage, BadTensor, NotAcceptable, UnsupportedMediaType
from service.wire import (
    CODECS,
    Codec,
    Message,
    Parameters,
    codec_for,
    json_codec,
    negotiate_response_codec,
    safetensors_codec,
)
from service.wire.elements import DTYPES

SHAPES = [(2, 3), (1, 2, 3, 4), (0,), (2, 0, 3), (1,), ()]


def encode(codec: Codec, message: Message) -> bytes:
    return b"".join(codec.encode(message))


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.randn(shape) * 100).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("base64", [False, True])
def test_a_decoded_body_is_the_encoded_message(codec, dtype, shape, base64):
    tensors = {"q": random_tensor(dtype, shape), "positions": torch.arange(4)}
    params = {"rope": {"theta": 500.0}, "causal": True}

    body = b"".join(codec.encode(Message(tensors, Parameters.of(params)), base64))
    message, as_base64 = codec.decode(body)

    torch.testing.assert_close(dict(message.tensors), tensors, rtol=0, atol=0)
    assert message.params.values == params
    assert as_base64 == (base64 and codec is json_codec)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_safetensors_agrees_with_the_safetensors_library(dtype):
    tensors = {"q": random_tensor(dtype, (2, 3)), "k": random_tensor(dtype, (5,))}

    torch.testing.assert_close(load(encode(safetensors_codec, Message(tensors))), tensors)
    read, _ = safetensors_codec.decode(save(tensors, metadata={"params": '{"a":1}'}))
    torch.testing.assert_close(dict(read.tensors), tensors)
    assert read.params.values == {"a": 1}


def test_safetensors_are_views_of_the_body():
    body = bytearray(encode(safetensors_codec, Message({"q": torch.ones(8)})))
    q = safetensors_codec.decode(body).message.tensors["q"]
    body[-4:] = struct.pack("<f", 7.0)
    assert q[-1] == 7


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).T,
        torch.arange(6.0)[::2],
        torch.ones(1).expand(3),
        torch.ones(()).expand(2, 3),
    ],
    ids=["transposed", "every other", "one repeated", "scalar repeated"],
)
def test_a_strided_answer_is_written_in_order(codec, tensor):
    read = codec.decode(encode(codec, Message({"q": tensor}))).message
    assert torch.equal(read.tensors["q"], tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_lacks_is_written_in_base64(value):
    lse = torch.tensor([1.0, value])
    body = encode(json_codec, Message({"lse": lse}))
    assert json.loads(body)["lse"]["encoding"] == "base64"
    assert torch.equal(json_codec.decode(body).message.tensors["lse"], lse) or value != value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_numbers_are_read_and_written_as_text(dtype):
    """Their sum is infinite, and they are not."""
    q = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    body = encode(json_codec, Message({"q": q}))
    assert "encoding" not in json.loads(body)["q"]
    assert torch.equal(json_codec.decode(body).message.tensors["q"], q)


def test_nested_lists_are_float32_and_positions_int64():
    body = b'{"q": [[[1, 2.5]], [[3, 4]]], "positions": [0, -1], "delta": 5}'
    tensors = json_codec.decode(body).message.tensors
    assert tensors["q"].shape == (2, 1, 2)
    assert {n: t.dtype for n, t in tensors.items()} == {
        "q": torch.float32,
        "positions": torch.int64,
        "delta": torch.int64,
    }


def test_lists_of_true_and_false_are_booleans():
    flat = '{"shape": [2, 2], "dtype": "bool", "data": [true, false, false, true]}'
    base64 = '{"shape": [2, 2], "dtype": "bool", "data": "AQAAAQ==", "encoding": "base64"}'
    for mask in ("[[true, false], [false, true]]", flat, base64):
        read = json_codec.decode(f'{{"mask": {mask}}}'.encode()).message.tensors["mask"]
        assert torch.equal(read, torch.eye(2, dtype=torch.bool))


def test_a_byte_that_is_not_a_boolean_is_refused():
    """Whatever torch would make of it."""
    for good, byte in ((True, b"\1"), (False, b"\2"), (False, b"\xff")):
        data = b"\0" + byte
        flat = {"shape": [2], "dtype": "bool", "data": b64encode(data).decode()}
        text = json.dumps({"q": flat | {"encoding": "base64"}}).encode()
        safetensors_body = with_header(entry([2], 0, 2, "BOOL"), data)
        for codec, body in ((json_codec, text), (safetensors_codec, safetensors_body)):
            if good:
                assert codec.decode(body).message.tensors["q"].tolist() == [False, True]
                continue
            with pytest.raises(BadTensor, match="q must be made of booleans"):
                codec.decode(body)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("[true, 1]", "made of booleans, got int"),
        ("[[true], [null]]", "made of booleans, got NoneType"),
        ('{"shape": [1], "dtype": "bool", "data": [1]}', "made of booleans, got int"),
        ('{"shape": [1], "dtype": "float32", "data": [true]}', "numbers, got bool"),
        ('{"shape": [1], "dtype": "int64", "data": [true]}', "integers, got bool"),
        ('{"shape": [2], "dtype": "bool", "data": [true]}', "2 elements"),
        ("[[1, 2], [3]]", "ragged"),
        ("[[1, 2], 3]", "list"),
        ("[1, true]", "bool"),
        ('[1, "2"]', "str"),
        ("[1, null]", "NoneType"),
        ("[1e39]", "float32"),
        ("[[[[[[[[[1]]]]]]]]]", "axes"),
        ('{"data": [1]}', "dtype"),
        ('{"shape": [1], "dtype": "float32", "data": [1], "x": 1}', "x"),
        ('{"shape": [2], "dtype": "float32", "data": [1]}', "2 elements"),
        ('{"shape": [-1], "dtype": "float32", "data": [1]}', "non-negative integers"),
        ('{"shape": [1.0], "dtype": "float32", "data": [1]}', "non-negative integers"),
        ('{"shape": [true], "dtype": "float32", "data": [1]}', "non-negative integers"),
        ('{"shape": 1, "dtype": "float32", "data": [1]}', "axes"),
        ('{"shape": [4294967296, 4294967296], "dtype": "float32", "data": [1]}', "bytes"),
        ('{"shape": [0, 9223372036854775808], "dtype": "float32", "data": []}', "bytes"),
        ('{"shape": [0, 4611686018427387904, 4], "dtype": "int64", "data": []}', "bytes"),
        ('{"shape": [1], "dtype": "complex64", "data": [1]}', "complex64"),
        ('{"shape": [1], "dtype": ["float32"], "data": [1]}', "dtype"),
        ('{"shape": [1], "dtype": "float16", "data": [70000]}', "float16"),
        ('{"shape": [1], "dtype": "int32", "data": [4294967296]}', "int32"),
        (
            '{"shape": [1], "dtype": "int64", "data": [9223372036854775808]}',
            "integers in the range of int64",
        ),
        ('{"shape": [1], "dtype": "int64", "data": [1.5]}', "float"),
        ('{"shape": [1], "dtype": "float32", "data": "AACAPw=="}', "encoding"),
        ('{"shape": [1], "dtype": "float32", "data": "?", "encoding": "base64"}', "base64"),
        ('{"shape": [1], "dtype": "float32", "data": "AAA=", "encoding": "base64"}', "4 bytes"),
        ('{"shape": [1], "dtype": "float32", "data": [1], "encoding": "base64"}', "valid base64"),
        ('{"shape": [1], "dtype": "float32", "data": "", "encoding": "hex"}', "hex"),
    ],
)
def test_json_that_is_not_a_tensor_is_refused(tensor, words):
    with pytest.raises(BadTensor, match=words) as refusal:
        json_codec.decode(f'{{"q": {tensor}}}'.encode())
    assert re.match("((shape|dtype|data|encoding) of )?q must be ", str(refusal.value))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b'{"q": [1', b'{"q": [1,]}', b"{} x", b"\xef\xbb\xbf{}"),
        *(b'{"q": [NaN]}', b'{"q": [-Infinity]}', b'{"q": [1e999]}', b'{"q": "\xff"}'),
        b'{"q": ' + b"[" * 100_000,
        b'{"x": ' + b"9" * 5000 + b"}",
        json.dumps({f"t{i}": [1] for i in range(17)}).encode(),
        b'{"rope": ' + b'{"a": ' * 300 + b"1" + b"}" * 301,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_json_that_is_not_a_message_is_refused(body):
    with pytest.raises(BadMessage):
        json_codec.decode(body)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"1.5"])
def test_json_that_is_not_an_object_is_refused(body):
    with pytest.raises(BadTensor, match="the body must be a JSON object"):
        json_codec.decode(body)


@pytest.mark.parametrize("start", [b"", b'{"q": ', b'{"rope": ', b'{"q": [1, '])
def test_json_that_is_nested_too_deep_is_refused(start):
    deep = b"[" * 300 + b"]" * 300
    end = {b"": b"", b'{"q": [1, ': b"]}"}.get(start, b"}")
    with pytest.raises(BadMessage, match="nested too deep"):
        json_codec.decode(start + deep + end)


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: object, start: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"q": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"\x01",
            (2**64 - 1).to_bytes(8, "little"),
            with_header(b"{")[:-1],
            with_header(b"[]"),
        ),
        *(with_header(b"{"), with_header(b"\xff\xfe"), with_header(b" " * 70_000)),
        with_header({"q": 1}),
        with_header({"q": {"dtype": "F32", "shape": [1]}}),
        with_header(entry([1], 0, 4, "F8_E4M3"), bytes(4)),
        with_header(entry([1], 0, 4, "BOOL"), bytes(4)),
        with_header(entry([-1], 0, 4), bytes(4)),
        with_header(entry([1.5], 0, 4), bytes(4)),
        with_header(entry([True], 0, 4), bytes(4)),
        with_header(entry([1] * 9, 0, 4), bytes(4)),
        with_header(entry([2], 0, 4), bytes(4)),
        with_header(entry([1], 0, 8), bytes(8)),
        with_header(entry([2**62, 4], 0, 0)),
        with_header(entry([0, 2**62, 2**62], 0, 0)),
        with_header(entry([2**64 - 1, 0], 0, 0)),
        with_header(entry([2**32, 2**32], 0, 4), bytes(4)),
        with_header(entry([1], -4, 0), bytes(4)),
        with_header(entry([1], 4, 8), bytes(8)),
        with_header(entry([1], 0, 4), bytes(3)),
        with_header(entry([1], 0, 4), bytes(5)),
        with_header(entry([1], "0", 4), bytes(4)),
        with_header(entry([1], 0, 4) | {"k": entry([1], 2, 6)["q"]}, bytes(6)),
        with_header({f"t{i}": entry([0], 0, 0)["q"] for i in range(17)}),
        with_header({"__metadata__": []}),
        with_header({"__metadata__": {"params": 1}}),
        with_header({"__metadata__": {"params": "{"}}),
        with_header({"__metadata__": {"params": "[]"}}),
    ],
    ids=lambda body: repr(body[8:48]),
)
def test_safetensors_that_are_not_a_message_are_refused(body):
    with pytest.raises((BadMessage, BadTensor)):
        safetensors_codec.decode(body)


@given(body=st.binary(max_size=200), cut=st.integers(0, 120), flip=st.integers(0, 10_000))
def test_no_body_raises_another_error(body, cut, flip):
    good = bytearray(with_header(entry([3], 0, 12) | {"__metadata__": {"params": "{}"}}, bytes(12)))
    good[flip % len(good)] ^= 1 + flip % 255
    for each in CODECS:
        for candidate in (body, bytes(good), bytes(good[:cut])):
            with contextlib.suppress(BadMessage, BadTensor):
                assert isinstance(each.decode(candidate).message, Message)


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [
        (b"application/json", json_codec),
        (b"application/json; charset=utf-8", json_codec),
        (b"Application/JSON;charset=UTF-8", json_codec),
        (b"application/x-safetensors", safetensors_codec),
    ],
)
def test_a_codec_is_found_by_its_media_type(content_type, codec):
    assert codec_for(content_type) is codec


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"text/plain",
        b"application/json; charset=utf-16",
        b"multipart/form-data; boundary=x",
    ],
)
def test_other_media_types_are_refused(content_type):
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        codec_for(content_type)


def test_accept_chooses_the_codec_of_the_answer():
    for accept in (None, b"*/*", b"text/html, */*;q=0.1", b"application/*"):
        assert negotiate_response_codec(accept) is None
    assert negotiate_response_codec(b"application/x-safetensors") is safetensors_codec
    with pytest.raises(NotAcceptable):
        negotiate_response_codec(b"text/html")
