"""A header that was parsed before is looked up: nothing of one request is seen in another."""

import json
import math

import pytest
import torch

from service.errors import ServiceError
from service.oip.grpc import codec as grpc_codec
from service.oip.grpc.messages import ModelInferRequest
from service.oip.grpc.protobuf_wire import split_request
from service.oip.http import codec as http_codec
from service.oip.infer.models import MODELS
from service.oip.infer.parse import RequestParser
from service.oip.infer.plan import (
    MAX_CACHED_HEADERS,
    MAX_HEADER_BYTES,
    HeaderCache,
    InferPlan,
    InferRequest,
)
from service.oip.shm.registry import SharedMemoryRegistry
from service.wire import Message

ROPE = MODELS["rope"]


@pytest.fixture
def parser():
    return RequestParser(SharedMemoryRegistry(None), 2**20)


def document(x, **fields):
    inputs = [{"name": "q", "datatype": "FP32", "shape": [*x.shape], **fields}]
    return {"inputs": inputs, "parameters": {"theta": 500.0}}


def decode_http(parser, x, request_id="", data=None, spaces=0):
    data = x.numpy().tobytes() if data is None else data
    request = document(x, parameters={"binary_data_size": x.nbytes})
    if request_id:
        request["id"] = request_id
    header = json.dumps(request).encode() + b" " * spaces
    return http_codec.decode(ROPE, parser, len(header), header + data)


def decode_grpc(parser, x, request_id="", data=None, spaces=0):
    request = ModelInferRequest(model_name="rope", id=request_id)
    request.parameters["theta"].double_param = 500.0
    request.inputs.add(name="q", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.numpy().tobytes() if data is None else data)
    if spaces:
        request.parameters["headers"].string_param = " " * spaces
    parsed = grpc_codec.parse(split_request(request.SerializeToString()))
    return grpc_codec.decode(ROPE, parser, parsed)


both_protocols = pytest.mark.parametrize("decode", [decode_http, decode_grpc], ids=["http", "grpc"])


@both_protocols
def test_a_cached_header_brings_its_own_tensors_and_its_own_id(parser, decode):
    for request_id in ("", "a", "", "b", "ü"):
        x = torch.randn(1, 2, 4, 8)
        request = decode(parser, x, request_id)
        assert request.id == request_id
        assert torch.equal(request.message.tensors["q"], x)
        assert request.message.params.values == {"rope": {"theta": 500.0}}
    assert 1 <= len(parser.header_cache) <= 2


@both_protocols
def test_other_shapes_are_other_headers(parser, decode):
    for shape in ((1, 2, 4, 8), (1, 4, 2, 8), (2, 1, 4, 8), (1, 2, 4, 8)):
        x = torch.randn(shape)
        assert torch.equal(decode(parser, x).message.tensors["q"], x)


@both_protocols
@pytest.mark.parametrize("data", [b"", b"1234", bytes(257)])
def test_a_cached_header_with_other_bytes_is_refused_like_a_new_one(parser, decode, data):
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(ServiceError) as uncached:
        decode(parser, x, data=data)
    assert len(parser.header_cache) == 0
    decode(parser, x)
    assert len(parser.header_cache) == 1
    with pytest.raises(ServiceError) as cached:
        decode(parser, x, data=data)
    assert str(cached.value) == str(uncached.value)


@both_protocols
def test_a_long_header_is_not_cached(parser, decode):
    decode(parser, torch.randn(1, 2, 4, 8), spaces=MAX_HEADER_BYTES)
    assert len(parser.header_cache) == 0


def test_the_cache_is_cleared_when_it_is_full():
    cache = HeaderCache()
    request = InferRequest("", InferPlan({}, None, 1, True), Message({}))
    for number in range(MAX_CACHED_HEADERS + 1):
        cache.add("rope", str(number).encode(), request, [])
    assert cache.get("rope", b"0") is None
    assert cache.get("rope", str(MAX_CACHED_HEADERS).encode()).plan == request.plan


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "BOOL", "name": "mask", "shape": [1, 1, 1, 4]},
        {"datatype": "INT32", "name": "positions", "shape": [1]},
    ],
    ids=["booleans are checked", "int32 becomes int64"],
)
def test_tensors_that_are_not_views_of_any_bytes_are_parsed_each_time(parser, change):
    x = torch.randn(1, 1, 1, 8)
    inputs = [
        {"name": n, "datatype": "FP32", "shape": [*x.shape], "parameters": {"binary_data_size": 32}}
        for n in "qkv"
    ]
    inputs.append({**change, "parameters": {"binary_data_size": 4}})
    header = json.dumps({"inputs": inputs}).encode()
    body = header + x.numpy().tobytes() * 3 + bytes(4)
    for _ in range(2):
        http_codec.decode(MODELS["rope_attention"], parser, len(header), body)
    assert len(parser.header_cache) == 0


def test_numbers_in_json_are_parsed_each_time(parser):
    for number in (1.0, 2.0):
        x = torch.full((1, 1, 1, 2), number)
        body = json.dumps(document(x, data=x.flatten().tolist())).encode()
        request = http_codec.decode(ROPE, parser, None, body)
        assert torch.equal(request.message.tensors["q"], x)
    assert len(parser.header_cache) == 0


def test_json_with_nan_is_not_cached(parser):
    x = torch.randn(1, 1, 1, 2)
    request = document(x, parameters={"binary_data_size": 8}) | {"id": "a"}
    request["parameters"] |= {"timeout": 2**64 - 1, "content_type": math.nan}
    header = json.dumps(request).encode()
    http_codec.decode(ROPE, parser, len(header), header + x.numpy().tobytes())
    assert len(parser.header_cache) == 0
