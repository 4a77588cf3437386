"""Which requests get a plan, and that a plan says the same as the ordinary way of reading."""

from collections.abc import Iterator

import numpy as np
import orjson
import pytest
import torch

from rope_core import rotate
from rope_core.calls import tensor_fields
from service.asgi.request_header import HeaderLimits
from service.lifecycle import Lifecycle
from service.oip.state import OipState
from service.planned.header import parse, without_identifiers
from service.planned.plan import Plan
from service.planned.planner import MAX_PLANS, Planner
from service.server.bootstrap import build_service
from service.settings import Settings
from service.wire import Message, Parameters, json_codec, safetensors_codec

X = torch.arange(2 * 3 * 4 * 8.0).view(2, 3, 4, 8)
POSITIONS = torch.tensor([[0, 5, 1], [7, 7, 2]])


@pytest.fixture(scope="module")
def state() -> Iterator[OipState]:
    threads = torch.get_num_threads()
    settings = Settings(device="cpu", max_body_bytes=2**16, allow_backend=True)
    handler, device_threads = build_service(settings, Lifecycle())
    yield OipState(handler, Lifecycle())
    device_threads.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture
def planner(state) -> Planner:
    return Planner(state)


def v1(tensors, params=None, path="/v1/rotate", codec=safetensors_codec, **fields) -> bytes:
    body = b"".join(codec.encode(Message(tensors, Parameters.of(params or {}))))
    return post(path, body, content_type=codec.media_type, **fields)


def v2(tensors, model="rope", message_id=None, outputs=None, **fields) -> bytes:
    datatypes = {torch.float32: "FP32", torch.int64: "INT64", torch.int32: "INT32"}
    document = {} if message_id is None else {"id": message_id}
    document["inputs"] = [
        {
            "name": name,
            "shape": [*x.shape],
            "datatype": datatypes[x.dtype],
            "parameters": {"binary_data_size": x.nbytes},
        }
        for name, x in tensors.items()
    ]
    if outputs is not None:
        document["outputs"] = [{"name": n, "parameters": {"binary_data": True}} for n in outputs]
    document["parameters"] = {"binary_data_output": True}
    text = orjson.dumps(document)
    body = text + b"".join(x.numpy().tobytes() for x in tensors.values())
    length = str(len(text))
    path = f"/v2/models/{model}/infer"
    return post(path, body, inference_header_content_length=length, **fields)


def post(
    path: str, body: bytes, method: str = "POST", version: str = "1.1", **fields: str
) -> bytes:
    fields = {"host": "service", "content-length": str(len(body)), **fields}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    header = "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""])
    return header.encode() + body


def plan_of(planner: Planner, data: bytes) -> Plan | None:
    """Return the plan that a request gets when it comes for the second time."""
    assert planner.match(data) is None
    match = planner.match(data)
    if match is None:
        return None
    assert match.plan is None
    plan = planner.make(match, memoryview(data)[match.start : match.end])
    if plan is not None:
        assert planner.match(data).plan is plan
    return plan


ROTATION = {"q": X, "positions": POSITIONS}
ATTENTION = {"q": X, "k": X[:, :, :2], "v": X[:, :, :2], "positions": torch.arange(3)}


@pytest.mark.parametrize(
    "data",
    [
        v1(ROTATION),
        v1({"q": X, "k": X[:, :, :1]}),
        v1(ROTATION, {"rope": {"rope_type": "linear", "factor": 2.0}, "inverse": True}),
        v1(ROTATION, {"rope": {"inv_freq": [1.0, -0.5, 0.0], "attention_factor": 1.5}}),
        v1({"q": X.bfloat16().flatten(0, 1)}),
        v1(ROTATION, accept="application/x-safetensors", connection="keep-alive"),
        v1(ROTATION, connection="close"),
        v1(ROTATION, accept="*/*"),
        v1(ROTATION, x_request_timeout_ms="1000", user_agent="someone/1.0"),
        v1(ATTENTION, path="/v1/attention"),
        v1(ATTENTION, {"return_lse": True, "window": 2}, path="/v1/attention"),
        v2({"q": X, "positions": POSITIONS}),
        v2({"q": X}, message_id="abc"),
        v2({"q": X}, outputs=["q"], accept_encoding="gzip, deflate"),
        v2({"q": X, "k": X[:, :, :1], "positions": POSITIONS}),
        v2({"k": X[:, :, :1], "q": X}, outputs=["q", "k"]),
        v2({"k": X}),
        v2({"k": X}, outputs=["k"]),
        v2({"q": X, "k": X, "v": X}, model="rope_attention", outputs=["out", "lse"]),
    ],
)
def test_requests_that_get_a_plan(planner, data):
    plan = plan_of(planner, data)
    assert plan is not None
    assert data.startswith(plan.prefix) or b'"id"' in data
    assert sum(span.num_bytes for span in plan.spans) == plan.num_bytes


@pytest.mark.parametrize(
    "data",
    [
        v1(ROTATION, codec=json_codec),
        v1(ROTATION, accept="application/json"),
        v1(ROTATION, {"backend": "eager"}),
        v1(ROTATION, {"rope": {"arithmetic": "hf"}}),
        v1(
            ROTATION,
            {"rope": {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 4}},
        ),
        v1({"q": X, "wrong": X}),
        v1({"q": X}, {"wrong": 1}),
        v1({"q": X[..., :7]}),
        v1({"q": torch.zeros(1, 5000, 1, 8)}),
        v1(ROTATION, path="/v1/shift"),
        v1(ROTATION, path="/v1/rotate?x=1"),
        v1(ROTATION, path="/v1/rotat%65"),
        v1(ROTATION, version="1.0"),
        v1(ROTATION, method="PUT"),
        v1(ROTATION, connection="close, te"),
        v1(ROTATION, expect="100-continue"),
        v1(ROTATION, upgrade="h2c"),
        v1(ROTATION, content_encoding="gzip"),
        v1(ROTATION, host="service/healthz?"),
        v1(ROTATION, host=""),
        v1(ROTATION, x_request_timeout_ms="soon"),
        v1(ROTATION, x_request_id="not safe to log!"),
        v1({**ATTENTION, "mask": torch.ones(3, 3, dtype=torch.bool)}, path="/v1/attention"),
        v1(ROTATION).replace(b"content-type", b"Content-Length: 1\r\ncontent-type", 1),
        v1(ROTATION).replace(b"content-type", b"host: twice\r\ncontent-type", 1),
        v2({"q": X, "positions": POSITIONS.int()}),
        v2({"q": X}, accept_encoding="gzip"),
        v2({"q": X}, message_id="not plain: \n"),
        v2({"q": X}, message_id="one").replace(b'{"binary_data_o', b'{"id":2,"binary_data_o'),
        v2({"q": X, "k": X, "v": X}, model="rope_attention", outputs=["lse", "out"]),
        v2({"q": X, "k": X, "v": X}, model="rope_attention", outputs=["lse"]),
        v2({"q": X, "k": X}, outputs=["q"]),
        v2({"q": X, "k": X}, outputs=["k"]),
        v2({"q": X, "k": X}, outputs=["k", "q"]),
        v2({"q": X}, outputs=["k"]),
        v2({"positions": POSITIONS}),
        v2({"q": X}, model="unknown"),
    ],
)
def test_requests_without_a_plan(planner, data):
    assert plan_of(planner, data) is None


def test_identifiers_are_no_part_of_a_plan(planner):
    plan = plan_of(planner, v1(ROTATION))
    for n in range(3):
        trace = f"00-{n:032x}-{n:016x}-01"
        data = v1(ROTATION, x_request_id=f"request-{n}", traceparent=trace, tracestate="a=b,c=d")
        match = planner.match(data)
        assert match.plan is plan
        assert match.identifiers[b"x-request-id"] == b"request-%d" % n
        assert match.identifiers[b"traceparent"] == trace.encode()
        assert data[match.start : match.end] == X.numpy().tobytes() + POSITIONS.numpy().tobytes()


def test_an_id_in_the_json_part_is_no_part_of_a_plan(planner):
    plan = plan_of(planner, v2({"q": X}, message_id="one"))
    match = planner.match(v2({"q": X}, message_id="two"))
    assert match.plan is plan
    assert match.description.message_id == b"two"


def test_headers_that_differ_each_time_cost_no_plan(planner):
    data = v1(ROTATION)
    plan = plan_of(planner, data)
    for n in range(3 * MAX_PLANS):
        assert planner.match(v1({"q": X}, x_trace=str(n))) is None
    assert planner.match(data).plan is plan


def test_a_part_of_a_request_matches_nothing_it_cannot_know(planner):
    data = v1(ROTATION)
    plan = plan_of(planner, data)
    header_end = data.index(b"\r\n\r\n") + 4
    for end in range(header_end):
        assert planner.match(data[:end]) is None
    for end in range(header_end, len(plan.prefix)):
        match = planner.match(data[:end])
        assert match.plan is None
        assert match.start > end, "the description is not complete"
    assert planner.match(data[: len(plan.prefix)]).plan is plan


@pytest.mark.parametrize("message_id", [None, "an.id-1"])
def test_the_answer_of_a_plan_is_that_of_the_ordinary_way(planner, message_id):
    """Type, length and the bytes before the tensors, for both protocols."""
    for data in (v1(ROTATION), v2({"q": X, "positions": POSITIONS}, message_id=message_id)):
        plan = plan_of(planner, data)
        body = memoryview(bytearray(data[-plan.num_bytes :]))
        result = rotate(plan.build_call(body))
        header_lines, preamble = plan.answer_format.header_lines, plan.answer_format.preamble
        if b'"id"' in data:
            header_lines, preamble = plan.answer_format.with_id(message_id.encode())
        tensors = b"".join(x.numpy().tobytes() for x in tensor_fields(result).values())
        assert b"content-length: %d\r\n" % len(preamble + tensors) in header_lines
        if plan.answer_format.route.startswith("/v1"):
            message, _ = safetensors_codec.decode(preamble + tensors)
            assert torch.equal(message.tensors["q"], result.q)
            continue
        document = orjson.loads(preamble)
        assert b"inference-header-content-length: %d\r\n" % len(preamble) in header_lines
        assert document.get("id") == message_id
        (output,) = document["outputs"]
        assert output["parameters"] == {"binary_data_size": len(tensors)}
        assert np.prod(output["shape"]) * 4 == len(tensors)


def test_a_plan_builds_the_call_of_its_request(planner):
    data = v1(ROTATION, {"inverse": True})
    plan = plan_of(planner, data)
    call = plan.build_call(memoryview(bytearray(data[-plan.num_bytes :])))
    assert call.inverse
    assert torch.equal(call.q, X)
    assert torch.equal(call.positions, POSITIONS)


def test_costs_of_packed_rows_are_those_of_the_longest_sequence(planner):
    """The header does not say how the tokens are divided."""
    q = torch.zeros(64, 1, 8)
    many = torch.arange(0, 65, 8)
    plan = plan_of(planner, v1({"q": q, "k": q, "v": q, "cu_seqlens": many}, path="/v1/attention"))
    one = plan_of(planner, v1({"q": q, "k": q, "v": q}, path="/v1/attention"))
    assert plan.job.seconds >= one.job.seconds


def test_headers_with_wrong_bytes_have_no_plan():
    text = post("/v1/rotate", b"")
    assert parse(text, HeaderLimits()) is not None
    for position in range(len(text)):
        for byte in (0, 1, 10, 13, 127, 255):
            changed = bytearray(text)
            changed[position] = byte
            if bytes(changed) != text:
                header = parse(bytes(changed), HeaderLimits())
                assert header is None or header.target == b"/v1/rotate" or byte > 126
    assert without_identifiers(text) == (text, {})


@pytest.mark.parametrize("line", [b"x-request-id: a ", b"x-request-id: a\t", b"traceparent: a "])
def test_an_identifier_ends_where_its_line_ends(line):
    """Other servers keep the space, and then the value is no identifier."""
    head = post("/v1/rotate", b"")
    assert without_identifiers(head[:-2] + line.strip() + b"\r\n\r\n") is not None
    assert without_identifiers(head[:-2] + line + b"\r\n\r\n") is None


@pytest.mark.parametrize("start", [b"", b"\r\n", b"\n\r\n"])
def test_an_identifier_before_the_request_line_stays(start):
    text = start + b"x-request-id: a\r\n" + post("/v1/rotate", b"")
    assert without_identifiers(text) in (None, (text, {}))


def test_a_request_with_wrong_numbers_leaves_the_plan_to_the_next_one(planner):
    wrong = v1({"q": torch.zeros(3, 1, 8), "cu_seqlens": torch.tensor([0, 4])})
    right = v1({"q": torch.zeros(3, 1, 8), "cu_seqlens": torch.tensor([0, 3])})
    assert plan_of(planner, wrong) is None
    match = planner.match(right)
    assert planner.make(match, memoryview(right)[match.start : match.end]) is not None


def test_a_description_whose_requests_fail_again_has_no_plan(planner):
    wrong = v1({"q": torch.zeros(3, 1, 8), "cu_seqlens": torch.tensor([0, 4])})
    assert plan_of(planner, wrong) is None
    match = planner.match(wrong)
    assert planner.make(match, memoryview(wrong)[match.start : match.end]) is None
    assert planner.match(wrong) is None, "its body would be received in vain"
