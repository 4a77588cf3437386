"""A head that has been read is looked up: nothing of one request is ever seen in another."""

import json
import math

import pytest
import torch

from service.errors import ServiceError
from service.oip.grpc.codec import parse, read_plan
from service.oip.grpc.messages import ModelInferRequest
from service.oip.grpc.protobuf_wire import split_request
from service.oip.http.codec import HttpInferCodec
from service.oip.infer.models import MODELS
from service.oip.infer.parse import RequestParser
from service.oip.infer.plan import MAX_HEAD_BYTES, MAX_KNOWN, CachedHeader, HeaderCache, InferPlan
from service.oip.shm.registry import Regions
from service.wire import Message

ROPE = MODELS["rope"]


def described(x, **more):
    inputs = [{"name": "x", "datatype": "FP32", "shape": [*x.shape], **more}]
    return {"inputs": inputs, "parameters": {"theta": 500.0}}


class Http:
    """Reads requests of HTTP; `read` counts as `Planner.plan` does, by what is kept."""

    def __init__(self):
        self.parser = RequestParser(Regions(None), 2**20)

    def plan(self, x, request_id="", data=None, spaces=0):
        data = x.numpy().tobytes() if data is None else data
        document = described(x, parameters={"binary_data_size": x.nbytes})
        if request_id:
            document["id"] = request_id
        head = json.dumps(document).encode() + b" " * spaces
        exchange = HttpInferCodec(ROPE, length_of(head), self.parser, 2**20)
        message = exchange.decode(head + data).message
        return exchange.plan._replace(message=message)


class Grpc:
    """Reads requests of gRPC."""

    def __init__(self):
        self.parser = RequestParser(Regions(None), 2**20)

    def plan(self, x, request_id="", data=None, spaces=0):
        request = ModelInferRequest(model_name="rope", id=request_id)
        request.parameters["theta"].double_param = 500.0
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        request.raw_input_contents.append(x.numpy().tobytes() if data is None else data)
        if spaces:
            request.parameters["headers"].string_param = " " * spaces
        return read_plan(ROPE, self.parser, parse(split_request(request.SerializeToString())))


@pytest.fixture(params=[Http, Grpc], ids=["http", "grpc"])
def form(request):
    return request.param()


def length_of(head):
    return {b"inference-header-content-length": str(len(head)).encode()}


def num_known(form):
    return len(form.parser.heads._known)


def test_the_same_head_brings_its_own_tensors_and_its_own_id(form):
    for request_id in ("", "a", "", "b", "ü"):
        x = torch.randn(1, 2, 4, 8)
        plan = form.plan(x, request_id)
        assert plan.id == request_id
        assert torch.equal(plan.message.tensors["q"], x)
        assert plan.message.params.values == {"rope": {"theta": 500.0}}
    assert num_known(form) <= 2


def test_other_shapes_are_other_heads(form):
    for shape in ((1, 2, 4, 8), (1, 4, 2, 8), (2, 1, 4, 8), (1, 2, 4, 8)):
        x = torch.randn(shape)
        assert torch.equal(form.plan(x).message.tensors["q"], x)


@pytest.mark.parametrize("data", [b"", b"1234", bytes(257)])
def test_a_known_head_with_other_bytes_is_refused_as_an_unknown_one_is(form, data):
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(ServiceError) as unknown:
        form.plan(x, data=data)
    assert num_known(form) == 0
    form.plan(x)
    assert num_known(form) == 1
    with pytest.raises(ServiceError) as known:
        form.plan(x, data=data)
    assert str(known.value) == str(unknown.value)


def test_a_long_head_is_not_kept(form):
    form.plan(torch.randn(1, 2, 4, 8), spaces=MAX_HEAD_BYTES)
    assert num_known(form) == 0


def test_no_more_heads_are_kept_than_have_room():
    heads, plan = HeaderCache(), InferPlan("", Message({}), {}, False, None, 0)
    for number in range(MAX_KNOWN + 1):
        heads.keep("rope", str(number).encode(), plan, [])
    assert heads.find("rope", b"0") is None
    assert heads.find("rope", str(MAX_KNOWN).encode()) == CachedHeader(plan, (), [], 0)


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "BOOL", "name": "mask", "shape": [1, 1, 1, 4]},
        {"datatype": "INT32", "name": "positions", "shape": [1]},
    ],
    ids=["booleans are looked at", "int32 becomes int64"],
)
def test_tensors_that_are_not_views_of_any_bytes_are_read_each_time(change):
    parser = RequestParser(Regions(None), 2**20)
    model = MODELS["rope_attention"]
    x = torch.randn(1, 1, 1, 8)
    inputs = [
        {"name": n, "datatype": "FP32", "shape": [*x.shape], "parameters": {"binary_data_size": 32}}
        for n in "qkv"
    ]
    inputs.append({**change, "parameters": {"binary_data_size": 4}})
    head = json.dumps({"inputs": inputs}).encode()
    for _ in range(2):
        HttpInferCodec(model, length_of(head), parser, 2**20).decode(
            head + x.numpy().tobytes() * 3 + bytes(4)
        )
    assert not parser.heads._known


def test_numbers_in_json_are_read_each_time():
    parser = RequestParser(Regions(None), 2**20)
    for number in (1.0, 2.0):
        x = torch.full((1, 1, 1, 2), number)
        head = json.dumps(described(x, data=x.flatten().tolist())).encode()
        message = HttpInferCodec(ROPE, {}, parser, 2**20).decode(head).message
        assert torch.equal(message.tensors["q"], x)
    assert not parser.heads._known


def test_what_cannot_be_written_again_is_not_kept():
    parser = RequestParser(Regions(None), 2**20)
    x = torch.randn(1, 1, 1, 2)
    document = described(x, parameters={"binary_data_size": 8}) | {"id": "a"}
    document["parameters"] |= {"timeout": 2**64 - 1, "content_type": math.nan}
    head = json.dumps(document).encode()
    HttpInferCodec(ROPE, length_of(head), parser, 2**20).decode(head + x.numpy().tobytes())
    assert not parser.heads._known
