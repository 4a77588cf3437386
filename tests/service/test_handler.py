"""The one path of all requests: what it keeps in memory, and for how long."""

import asyncio
import json
import time
import weakref

import pytest
import torch
from torch import Tensor

import service.oip.grpc.codec
import service.oip.http.routes
from service.access.tenant import ANONYMOUS
from service.batching.admission import Charge
from service.endpoints.table import ENDPOINTS
from service.errors import TimedOut, TooLarge
from service.inference.handler import InferenceHandler, RequestContext
from service.lifecycle import Lifecycle
from service.oip.grpc.infer import InferMethods
from service.oip.grpc.messages import ModelInferRequest
from service.oip.state import OipState
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from service.wire import Message, Parameters, json_codec, safetensors_codec
from tests.service.conftest import asking

ROTATE, POSITIONS = (
    next(endpoint for endpoint in ENDPOINTS if endpoint.path == path)
    for path in ("/v1/rotate", "/v1/positions")
)


@pytest.fixture
async def handler():
    lifecycle = Lifecycle()
    settings = Settings(device="cpu", log_level="error", max_body_bytes=2**20, max_json_bytes=2**16)
    handler, device_threads = build_service(settings, lifecycle)
    async with lifespan(OipState(handler, lifecycle), device_threads):
        yield handler


def context_of(handler: InferenceHandler, timeout_s: float = 30) -> RequestContext:
    return RequestContext(time.monotonic() + timeout_s, Charge(handler.admission))


def alive(refs: list[weakref.ref[Tensor]]) -> int:
    return sum(ref() is not None for ref in refs)


async def test_the_tensors_of_a_request_are_freed_when_its_call_has_run(handler):
    q = torch.ones(1, 3, 2, 8)
    refs = [weakref.ref(q)]
    serving = handler.infer(ROTATE, Message({"q": q}), context_of(handler), 1)
    del q
    handler.batcher.pause()
    task = asyncio.create_task(serving)
    del serving
    await asyncio.sleep(0)
    assert alive(refs) == 1, "the call waits"
    handler.batcher.resume()
    served = await task
    assert served.message.tensors["q"].shape == (1, 3, 2, 8)
    assert alive(refs) == 0


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc"])
async def test_each_protocol_gives_the_tensors_away(protocol, monkeypatch):
    """Here the tensors are gone when the answer is written."""
    refs: list[weakref.ref[Tensor]] = []
    alive_at_write: list[int] = []
    lifecycle = Lifecycle()
    handler, device_threads = build_service(Settings(device="cpu", log_level="error"), lifecycle)
    state = OipState(handler, lifecycle)

    def spy(module, name, act):
        function = getattr(module, name)

        def call(*args):
            return act(function, *args)

        monkeypatch.setattr(module, name, call)

    def note_read(decode, *args):
        decoded = decode(*args)
        refs.extend(weakref.ref(tensor) for tensor in decoded.message.tensors.values())
        return decoded

    def note_write(encode, *args):
        alive_at_write.append(alive(refs))
        return encode(*args)

    module = {
        "v1": safetensors_codec,
        "v2": service.oip.http.routes,
        "grpc": service.oip.grpc.codec,
    }[protocol]
    x = torch.ones(1, 3, 2, 8)
    async with lifespan(state, device_threads), asking(build_app(state, device_threads)) as client:
        spy(module, "decode", note_read)
        spy(module, "encode", note_write)
        if protocol == "v1":
            body = b"".join(safetensors_codec.encode(Message({"q": x})))
            alive_at_write.clear()
            headers = {"content-type": safetensors_codec.media_type}
            response = await client.post("/v1/rotate", content=body, headers=headers)
            assert response.status_code == 200
        elif protocol == "v2":
            inputs = [{"name": "q", "shape": [*x.shape], "datatype": "FP32", "data": x.tolist()}]
            body = json.dumps({"inputs": inputs})
            response = await client.post("/v2/models/rope/infer", content=body)
            assert response.status_code == 200
        else:
            assert await InferMethods(state).unary(grpc_request(x), FakeServicer())
    assert len(refs) == 1
    assert alive_at_write == [0]


def grpc_request(x: Tensor) -> bytes:
    inputs = [{"name": "q", "datatype": "FP32", "shape": [*x.shape]}]
    raw = [bytes(x.numpy().data)]
    request = ModelInferRequest(model_name="rope", inputs=inputs, raw_input_contents=raw)
    return bytes(request.SerializeToString())


class FakeServicer:
    """The context of an RPC without a deadline."""

    tenant = ANONYMOUS

    def __init__(self) -> None:
        self.log_fields: dict[str, object] = {}

    def add_done_callback(self, callback) -> None:
        pass

    def time_remaining(self) -> None:
        return None


async def test_an_answer_has_one_limit_for_each_memory_factor(handler):
    q = torch.ones(1, 2**9, 1, 64)  # 2**17 bytes
    assert (await handler.infer(ROTATE, Message({"q": q}), context_of(handler), 1)).num_bytes
    serving = handler.infer(ROTATE, Message({"q": q}), context_of(handler), 32)
    with pytest.raises(TooLarge, match="an answer in JSON, in bytes, may be at most 65,536"):
        await serving


async def test_an_answer_is_charged_before_its_call_waits(handler):
    handler.batcher.pause()
    context = context_of(handler)
    task = asyncio.create_task(
        handler.infer(ROTATE, Message({"q": torch.ones(1, 3, 2, 8)}), context, 32)
    )
    await asyncio.sleep(0)
    assert handler.admission.charged_bytes >= 32 * 3 * 2 * 8 * 4
    handler.batcher.resume()
    await task
    context.charge.release()
    assert handler.admission.charged_bytes == 0


async def test_work_on_a_thread_ends_at_the_deadline(handler):
    with pytest.raises(TimedOut):
        await handler.to_thread(time.monotonic() - 1, time.monotonic)
    assert await handler.to_thread(time.monotonic() + 30, lambda: 7) == 7


async def test_an_answer_that_needs_no_device_has_the_same_limit_and_is_charged(handler):
    params = Parameters.of({"builder": "offset_positions", "arguments": {"length": 2**14}})
    context = context_of(handler)
    served = await handler.infer(POSITIONS, Message({}, params), context, 1)
    assert served.completed is None
    assert handler.admission.charged_bytes == served.num_bytes == 8 * 2**14
    with pytest.raises(TooLarge, match="an answer in JSON"):
        await handler.infer(
            POSITIONS, Message({}, params), context, json_codec.answer_memory_factor
        )
