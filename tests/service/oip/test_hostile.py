"""Requests that once broke the service or cost it too much: refused quickly, in bounded memory."""

import http.client
import json
import math
import re
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest
import torch

from service.oip.grpc.messages import METHODS, ModelInferRequest
from tests.service.oip.encodings import ENCODINGS, Grpc, InferCall, Refused, all_encodings
from tests.waiting import wait_until_async

PATH = "/v2/models/rope/infer"
X = {"name": "q", "shape": [1, 1, 1, 2], "datatype": "FP32", "data": [1, 2]}
ONE = torch.ones(1, 1, 1, 2)
HEADS = dict.fromkeys("qkv", torch.ones(1, 2, 1, 2))


@pytest.fixture(params=ENCODINGS)
async def form(request):
    async with all_encodings() as encodings:
        yield encodings[request.param]


REQUEST = json.dumps({"inputs": [X], "id": "ID", "parameters": {"layout": "half"}}).encode()
NO_TEXT = {
    "half of a pair, escaped": REQUEST.replace(b"ID", rb"a\ud800b"),
    "the other half": REQUEST.replace(b"ID", rb"\udc00"),
    "half of a pair, as bytes": REQUEST.replace(b"ID", b"\xed\xa0\x80"),
    "half of a pair in a parameter": REQUEST.replace(b"half", rb"\ud800"),
    "half of a pair beside NaN": REQUEST.replace(b"ID", rb"\ud800").replace(b"[1, 2]", b"[NaN, 2]"),
    "UTF-16": REQUEST.decode().encode("utf-16"),
    "UTF-32": REQUEST.decode().encode("utf-32"),
    "a number beyond all beside NaN": REQUEST.replace(b"[1, 2]", b"[NaN, 1e999]"),
    "5000 digits": REQUEST.replace(b"[1, 2]", b"[1, " + b"9" * 5000 + b"]"),
    "deep lists beside NaN": REQUEST.replace(b"[1, 2]", b"[" * 9999 + b"NaN" + b"]" * 9999),
}


@pytest.mark.parametrize("body", NO_TEXT.values(), ids=NO_TEXT)
async def test_invalid_json_is_refused(client, body):
    response = await client.post(PATH, content=body)
    assert response.status_code == 400
    assert [*response.json()] == ["error"]


async def test_nan_and_infinity_are_read_and_texts_are_unchanged(client):
    body = REQUEST.replace(b"[1, 2]", b"[-Inf, Infinity]").replace(
        b"ID", rb"[Inf,\"Inf\" \ud83d\ude00"
    )
    response = await client.post(PATH, content=body)
    assert response.status_code == 200, response.text
    answer = json.loads(response.text)
    assert answer["id"] == '[Inf,"Inf" \U0001f600'
    (output,) = answer["outputs"]
    assert not any(map(math.isfinite, output["data"]))


DEEP = "[" * 300 + "]" * 300
DEEP_DATA = REQUEST.replace(b"[1, 2]", b"[" * 90 + b"1, 2" + b"]" * 90)
NOT_WRITTEN = {
    "data nested deep, with an id": (DEEP_DATA, 200),
    "data nested deeper, with an id": (REQUEST.replace(b"[1, 2]", DEEP.encode()), 400),
    "a rope nested deep": (
        REQUEST.replace(b'"layout": "half"', b'"rope": "%s"' % DEEP.encode()),
        400,
    ),
    "a theta nested deep": (
        REQUEST.replace(b'"layout": "half"', b'"theta": "%s"' % DEEP.encode()),
        400,
    ),
    "a theta of 40 digits beside NaN": (
        REQUEST.replace(b'"layout": "half"', b'"theta": 1%s' % (b"0" * 40)).replace(
            b"1, 2]", b"NaN, 2]"
        ),
        400,
    ),
}


@pytest.mark.parametrize(("body", "status"), NOT_WRITTEN.values(), ids=NOT_WRITTEN)
async def test_json_that_orjson_reads_but_does_not_write(client, body, status):
    response = await client.post(PATH, content=body)
    assert response.status_code == status, response.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["rope", "scale", "softcap", "window", "theta", "backend"])
async def test_parameters_must_be_finite(form, name, value):
    with pytest.raises(Refused, match="must be finite") as refused:
        await form.infer(InferCall("rope_attention", HEADS, {name: value}))
    assert refused.value.status == form.statuses[0]


@pytest.mark.parametrize(
    "params",
    [
        {"theta": 500.0, "base": 600.0},
        {"rope": '{"theta": 500.0}', "theta": 600.0},
        {"lse": True, "return_lse": False},
    ],
)
async def test_a_parameter_is_given_once(form, params):
    with pytest.raises(Refused, match="given twice"):
        await form.infer(InferCall("rope_attention", HEADS, params))


async def test_the_text_of_rope_may_be_a_json_string(form):
    infer_call = InferCall(
        "rope_cos_sin", {"positions": torch.arange(2)}, {"rope": '"llama-3.1-8b"'}
    )
    assert (await form.infer(infer_call)).outputs["cos"].shape == (2, 64)


async def test_tensors_of_three_axes_need_cu_seqlens(form):
    x = torch.ones(3, 1, 2)
    with pytest.raises(Refused, match="with cu_seqlens"):
        await form.infer(InferCall("rope", {"q": x}))
    packed = {"q": x, "cu_seqlens": torch.tensor([0, 1, 3])}
    assert (await form.infer(InferCall("rope", packed))).outputs["q"].shape == (3, 1, 2)


async def test_a_json_length_beyond_the_body_is_a_bad_header(client):
    headers = {"inference-header-content-length": "2147483647"}
    response = await client.post(PATH, content=REQUEST, headers=headers)
    assert response.status_code == 400


GOOD = ModelInferRequest(
    model_name="rope",
    inputs=[{"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 2]}],
    raw_input_contents=[bytes(8)],
)
SPAM = {
    "raw tensors": b"\x3a\x00" * 1_000_000,
    "inputs": b"\x2a\x00" * 1_000_000,
    "outputs": b"\x32\x00" * 1_000_000,
    "unknown fields": b"\x78\x00" * 1_000_000,
    "parameters": ModelInferRequest(
        parameters={str(i): {"bool_param": True} for i in range(100_000)}
    ).SerializeToString(),
    "parameters of an input": ModelInferRequest(
        inputs=[{"parameters": {str(i): {"bool_param": True} for i in range(100_000)}}]
    ).SerializeToString(),
    "dims": ModelInferRequest(inputs=[{"name": "q", "shape": [1] * 10**6}]).SerializeToString(),
}


async def processor_time(call: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds of processor time that a call takes.

    Other threads of the process and the garbage collector may take more than the call, so the
    shortest time of three counts.
    """
    times = []
    for _ in range(3):
        begun = time.process_time()
        await call()
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize("spam", SPAM.values(), ids=SPAM)
async def test_a_message_of_very_many_fields_is_refused_at_once(spam):
    async with all_encodings(max_body_bytes=2**26) as encodings:
        raw = encodings["raw"]
        assert isinstance(raw, Grpc)

        async def refuse() -> None:
            with pytest.raises(Refused) as refused:
                await raw.ask(GOOD.SerializeToString() + spam)
            assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT

        assert await processor_time(refuse) < 0.5, "client and server together"


async def metric(client, name: str) -> float:
    """Return the sum of the samples of a metric."""
    page = (await client.get("/metrics")).text
    samples = [line for line in page.splitlines() if re.match(rf"{name}[ {{]", line)]
    return sum(float(sample.rpartition(" ")[2]) for sample in samples)


async def test_answers_that_the_client_does_not_read_are_charged():
    infer_call = ModelInferRequest(
        model_name="rope_cos_sin",
        parameters={"head_dim": {"int64_param": 128}},
        inputs=[{"name": "positions", "datatype": "INT64", "shape": [2**11]}],
        raw_input_contents=[bytes(2**14)],
    ).SerializeToString()
    async with all_encodings(max_body_bytes=2**24, memory_budget_bytes=2**23) as encodings:
        http_client, raw = encodings["json"]._client, encodings["raw"]

        async def is_one_refused() -> bool:
            return await metric(http_client, "nv_inference_request_failure") > 0

        async def is_all_returned() -> bool:
            return await metric(http_client, "rope_admitted_bytes") == 0

        call = raw.channel.stream_stream(METHODS["ModelStreamInfer"].path)()
        for _ in range(30):
            await call.write(infer_call)
        await wait_until_async(is_one_refused)
        assert await metric(http_client, "rope_admitted_bytes") > 2**20
        responses = [
            METHODS["ModelStreamInfer"].response.FromString(await call.read()) for _ in range(30)
        ]
        refused = [response for response in responses if "requests hold" in response.error_message]
        assert refused, "memory is bounded"
        assert len(refused) < 30
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        await wait_until_async(is_all_returned)


@pytest.mark.parametrize("with_length", [False, True], ids=["no length", "a length"])
async def test_json_is_charged_for_the_memory_of_reading_it(client, with_length):
    """Some clients always send the header with the length of the JSON part."""
    admitted = []

    async def body():
        yield REQUEST[:10]
        admitted.append(await metric(client, "rope_admitted_bytes"))
        yield REQUEST[10:]

    headers = {"content-length": str(len(REQUEST))}
    if with_length:
        headers["inference-header-content-length"] = str(len(REQUEST))
    assert (await client.post(PATH, content=body(), headers=headers)).status_code == 200
    assert admitted == [54 * len(REQUEST)]


async def test_very_many_outputs_are_refused_at_once(client):
    body = json.dumps({"inputs": [X], "outputs": [{"name": "q"}] * 5000}).encode()

    async def refuse() -> None:
        assert (await client.post(PATH, content=body)).status_code == 400

    assert await processor_time(refuse) < 0.5


def test_a_client_that_sends_too_much_gets_an_answer(server_url):
    """http.client reads the answer after it has sent all: the service must read until then."""
    host = server_url.removeprefix("http://")
    for path in ("/v1/rotate", PATH, "/v2/repository/index"):
        connection = http.client.HTTPConnection(host, timeout=30)
        headers = {"content-type": "application/json"}
        connection.request("POST", path, bytes(16 * 2**20 + 1), headers)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]
        connection.close()


async def test_connections_are_closed_while_draining(client, lifecycle):
    lifecycle.warmed_up()
    assert "connection" not in (await client.get("/v2")).headers
    lifecycle.drain()
    for path in ("/v2", "/v1/presets", "/nope"):
        assert (await client.get(path)).headers["connection"] == "close"


async def test_an_error_is_marked_as_the_final_response_on_request():
    name = "triton_enable_empty_final_response"
    infer_call = ModelInferRequest(model_name="nope", parameters={name: {"bool_param": True}})
    method = METHODS["ModelStreamInfer"]
    async with all_encodings() as encodings:
        call = encodings["raw"].channel.stream_stream(method.path)(
            iter([infer_call.SerializeToString()])
        )
        (response,) = [method.response.FromString(message) async for message in call]
    assert response.error_message
    assert response.infer_response.parameters["triton_final_response"].bool_param
