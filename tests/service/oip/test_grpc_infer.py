"""Inference over gRPC only: raw and typed tensors, streams, deadlines, and messages."""

import asyncio
from typing import Any

import grpc
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.oip.grpc.messages import (
    METHODS,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from service.oip.grpc.protobuf_wire import join_response, join_stream_response, split_request
from tests.service.oip.encodings import Grpc, InferCall, Refused, all_encodings

CODE = grpc.StatusCode
ROTATED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]
X = torch.arange(8.0).view(1, 2, 1, 4)
ROPE = InferCall("rope", {"q": X})
STREAM = METHODS["ModelStreamInfer"].path


@pytest.fixture
async def raw():
    async with all_encodings() as encodings:
        yield encodings["raw"]


def request(**fields: Any) -> Any:
    x = {"name": "q", "datatype": "FP32", "shape": [1, 2, 1, 4]}
    contents = {"fp32_contents": X.flatten().tolist()}
    defaults = {"model_name": "rope", "inputs": [x | {"contents": contents}]}
    return ModelInferRequest(**defaults | fields)


def x(**fields: Any) -> dict[str, Any]:
    return {"name": "q", "datatype": "FP32", "shape": [1, 2, 1, 4]} | fields


RAW = bytes(X.numpy().data)
TYPED = {"fp32_contents": [0.0] * 8}
WRONG = {
    "raw and typed": (request(raw_input_contents=[RAW]), "without contents"),
    "no raw for the second": (
        request(inputs=[x(), x(name="positions", datatype="INT64")], raw_input_contents=[RAW]),
        "positions must be in raw_input_contents",
    ),
    "one raw too many": (request(inputs=[x()], raw_input_contents=[RAW, b""]), "1 more than"),
    "raw too short": (request(inputs=[x()], raw_input_contents=[RAW[:-1]]), "32 bytes"),
    "raw too long": (request(inputs=[x()], raw_input_contents=[RAW + b"x"]), "32 bytes"),
    "neither": (request(inputs=[x()]), "given once"),
    "too few typed": (request(inputs=[x(contents={"fp32_contents": [1]})]), "8 elements"),
    "the field of another datatype": (
        request(inputs=[x(contents={"fp64_contents": [0.0] * 8})]),
        "in fp32_contents",
    ),
    "two fields": (
        request(inputs=[x(contents=TYPED | {"int_contents": [1]})]),
        "in fp32_contents",
    ),
    "FP16 in a typed field": (
        request(inputs=[x(datatype="FP16", contents=TYPED)]),
        "in raw_input_contents",
    ),
    "positions of heads": (
        request(
            inputs=[
                x(shape=[1, 1, 4, 2], contents=TYPED),
                x(
                    name="positions",
                    datatype="INT32",
                    shape=[4],
                    contents={"int_contents": [0] * 4},
                ),
            ]
        ),
        "q has 1 token in axis S (shape [B=1, S=1, H=4, D=2]); positions has 4: are the axes",
    ),
    "UINT32": (
        request(
            inputs=[
                x(contents=TYPED),
                x(name="positions", datatype="UINT32", contents={"uint_contents": [0, 1]}),
            ]
        ),
        "positions must be of datatype INT64, INT32, FP32 or FP64, got UINT32",
    ),
    "BYTES": (
        request(inputs=[x(datatype="BYTES", contents={"bytes_contents": [b"one"]})]),
        "q must be of datatype FP32, FP16 or BF16, got BYTES",
    ),
    "UINT32 in the field of INT32": (
        request(
            inputs=[
                x(contents=TYPED),
                x(name="positions", datatype="INT32", contents={"uint_contents": [0, 1]}),
            ]
        ),
        "positions must be in int_contents, as INT32 is, got uint_contents",
    ),
    "a parameter of no kind": (request(parameters={"theta": {}}), "theta must be text"),
    "a rope of no kind": (request(parameters={"rope": {}}), "JSON text"),
    "an input twice": (request(inputs=[x(), x()], raw_input_contents=[RAW, RAW]), "twice"),
}


@pytest.mark.parametrize(("infer_call", "text"), WRONG.values(), ids=WRONG)
async def test_wrong_tensors_are_invalid_arguments(raw, infer_call, text):
    with pytest.raises(Refused) as refused:
        await raw.ask(infer_call.SerializeToString())
    assert refused.value.status is CODE.INVALID_ARGUMENT
    assert text in str(refused.value)


async def test_typed_numbers_of_every_datatype(raw):
    positions = {"name": "positions", "datatype": "INT32", "shape": [2]}
    infer_call = request()
    infer_call.inputs.add(**positions, contents={"int_contents": [0, 1]})
    answer = raw.read(await raw.ask(infer_call.SerializeToString()))
    assert answer.outputs["q"].flatten().tolist() == pytest.approx(ROTATED, rel=1e-6)
    heads = {n: {"name": n, "datatype": "FP32", "shape": [1, 1, 1, 2]} for n in "qkv"}
    ones = {"fp32_contents": [1.0, 1.0]}
    attention = ModelInferRequest(
        model_name="rope_attention",
        inputs=[tensor | {"contents": ones} for tensor in heads.values()],
    )
    mask = {"name": "mask", "datatype": "BOOL", "shape": [1, 1]}
    attention.inputs.add(**mask, contents={"bool_contents": [True]})
    answer = raw.read(await raw.ask(attention.SerializeToString()))
    assert answer.outputs["out"].flatten().tolist() == [1.0, 1.0]


async def test_parameters_of_http_have_no_effect(raw):
    params = {"binary_data_output": {"string_param": "x"}}
    outputs = [{"name": "q", "parameters": {"binary_data": {"bool_param": False}}}]
    infer_call = request(parameters=params, outputs=outputs)
    assert raw.read(await raw.ask(infer_call.SerializeToString())).outputs


async def stream(raw: Grpc, requests: list[bytes], **kwargs: Any) -> list[Any]:
    call = raw.channel.stream_stream(STREAM)(iter(requests), timeout=30, **kwargs)
    return [ModelStreamInferResponse.FromString(message) async for message in call]


async def test_a_stream_is_answered_in_order_and_goes_on_after_an_error(raw):
    infer_calls = [request(id=str(index)) for index in range(100)]
    infer_calls[7].model_name = "nope"
    infer_calls[8].parameters["theta"].int64_param = 0
    responses = await stream(raw, [call.SerializeToString() for call in infer_calls])
    assert [response.infer_response.id for response in responses] == [
        str(index) for index in range(100)
    ]
    assert {index for index, response in enumerate(responses) if response.error_message} == {7, 8}
    assert responses[7].infer_response.model_name == "nope"
    assert "unknown model" in responses[7].error_message
    good = Grpc.read(responses[9].infer_response).outputs["q"]
    assert good.flatten().tolist() == pytest.approx(ROTATED, rel=1e-6)


async def test_a_stream_repeats_no_long_text(raw):
    """Not in an answer, nor in an error."""
    infer_calls = [request(id="a" * 256), request(id="b" * 2**19), request(model_name="c" * 2**19)]
    responses = await stream(raw, [call.SerializeToString() for call in infer_calls])
    assert responses[0].infer_response.id == "a" * 256
    assert responses[1].error_message == "id may have at most 256 characters, got 524,288"
    assert "unknown model" in responses[2].error_message
    assert max(response.ByteSize() for response in responses[1:]) < 2500


async def test_a_broken_message_in_a_stream_is_one_error(raw):
    responses = await stream(raw, [b"\xff\xff", request().SerializeToString()])
    assert ["not a message" in response.error_message for response in responses] == [True, False]


async def test_the_final_response_is_marked_on_request(raw):
    name = "triton_enable_empty_final_response"
    infer_calls = [request(parameters={name: {"bool_param": flag}}) for flag in (True, False)]
    responses = await stream(raw, [call.SerializeToString() for call in infer_calls])
    finals = [dict(response.infer_response.parameters) for response in responses]
    assert finals[0]["triton_final_response"].bool_param
    assert finals[1] == {}


async def test_a_stream_ends_at_the_first_error_on_request(raw):
    infer_calls = [request(), request(model_name="nope"), request()]
    bodies = [call.SerializeToString() for call in infer_calls]
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stream(raw, bodies, metadata=(("triton_grpc_error", "true"),))
    assert ended.value.code() is CODE.NOT_FOUND


async def test_a_client_that_leaves_its_stream_disturbs_no_other(raw):
    call = raw.channel.stream_stream(STREAM)()
    for _ in range(5):
        await call.write(request().SerializeToString())
    await call.read()
    call.cancel()
    assert (await raw.infer(ROPE)).outputs


async def test_the_unanswered_requests_of_a_stream_are_limited(raw):
    """The service stops reading until the client reads answers; then it answers the rest."""
    call = raw.channel.stream_stream(STREAM)()
    big = request(inputs=[x(shape=[1, 8192, 1, 4])], raw_input_contents=[bytes(2**17)])
    sent = 0

    async def write() -> None:
        nonlocal sent
        for _ in range(2000):
            await call.write(big.SerializeToString())
            sent += 1

    writing, previous = asyncio.create_task(write()), -1
    while previous < sent:  # until nothing is written during 50 calls on the same connection
        previous = sent
        for _ in range(50):
            await raw.infer(ROPE)
    assert 0 < sent < 1000, "the service keeps the client from writing"
    for _ in range(sent):
        assert not ModelStreamInferResponse.FromString(await call.read()).error_message
    writing.cancel()
    call.cancel()


async def test_the_deadline_of_an_rpc_is_that_of_its_client(raw):
    big = torch.ones(1, 700, 8, 8)
    infer_call = raw.write(InferCall("rope_attention", dict.fromkeys("qkv", big)))
    call = raw.channel.unary_unary(METHODS["ModelInfer"].path)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await call(infer_call.SerializeToString(), timeout=0.001)
    assert late.value.code() is CODE.DEADLINE_EXCEEDED
    assert (await raw.infer(ROPE)).outputs


FIELDS = st.one_of(
    st.builds(lambda text: ModelInferRequest(model_name=text), st.text(max_size=5)),
    st.builds(lambda text: ModelInferRequest(id=text), st.text(max_size=5)),
    st.builds(
        lambda blobs: ModelInferRequest(raw_input_contents=blobs),
        st.lists(st.binary(max_size=300), max_size=3),
    ),
    st.builds(
        lambda shape: ModelInferRequest(inputs=[{"shape": shape}]), st.lists(st.integers(-3, 9))
    ),
)


@given(st.lists(FIELDS, max_size=6))
def test_raw_tensors_are_split_off_at_any_place(parts):
    """Serialized messages, one behind the other, are the serialized message of them all."""
    text = b"".join(part.SerializeToString() for part in parts)
    whole = ModelInferRequest.FromString(text)
    head, request_id, raw = split_request(text)
    assert [bytes(blob) for blob in raw] == [*whole.raw_input_contents]
    assert request_id == whole.id
    whole.ClearField("raw_input_contents")
    whole.ClearField("id")
    assert ModelInferRequest.FromString(head) == whole


@given(st.binary(max_size=40))
def test_any_bytes_are_split_or_refused(text):
    try:
        head, request_id, raw = split_request(text)
        joined = ModelInferRequest.FromString(head)
    except DecodeError:
        return
    joined.id = request_id
    joined.raw_input_contents.extend(bytes(blob) for blob in raw)
    assert joined == ModelInferRequest.FromString(text)


@given(st.text(max_size=300), st.text(max_size=9), st.lists(st.binary(max_size=300), max_size=3))
def test_joined_responses_are_valid_messages(name, request_id, blobs):
    head = ModelInferResponse(model_name=name)
    parts = join_response(head.SerializeToString(), request_id, blobs)
    head.id = request_id
    head.raw_output_contents.extend(blobs)
    assert ModelInferResponse.FromString(b"".join(parts)) == head
    streamed = ModelStreamInferResponse.FromString(join_stream_response(parts))
    assert streamed == ModelStreamInferResponse(infer_response=head)


LEGAL = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.RESOURCE_EXHAUSTED}
GOOD = request(raw_input_contents=[]).SerializeToString()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(GOOD) - 1), other=st.binary(max_size=3), cut=st.integers(0, 3))
def test_any_request_is_answered(fuzzed, at, other, cut):
    assert fuzzed(GOOD[:at] + other + GOOD[at + cut :]) in LEGAL


@pytest.fixture(scope="module")
def fuzzed(grpc_target: str):
    """Return the status of any bytes, of the service that all tests share."""
    with grpc.insecure_channel(grpc_target) as channel:
        call = channel.unary_unary(METHODS["ModelInfer"].path)

        def status(text: bytes) -> grpc.StatusCode:
            try:
                call(text, timeout=30)
            except grpc.RpcError as refused:
                return refused.code()
            return CODE.OK

        yield status
