"""Planned requests over gRPC answer as all others do; no client can tell which way a call went."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import pytest
import torch

from service.lifecycle import Lifecycle
from service.oip.grpc.infer import InferMethods
from service.oip.grpc.messages import METHODS, ModelInferRequest, ModelInferResponse
from service.oip.grpc.planned import MAX_PLANNED_BYTES
from service.oip.state import OipState
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from tests.service.oip.conftest import RunningGrpc, run_grpc
from tests.service.oip.test_grpc_infer import WRONG
from tests.waiting import wait_until_async

CODE = grpc.StatusCode
DATATYPES = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}
DATATYPES |= {torch.int64: "INT64", torch.int32: "INT32", torch.bool: "BOOL"}


class Planned(NamedTuple):
    """A service with gRPC alone, and the ways that its requests have gone."""

    running: RunningGrpc
    state: OipState
    ways: list[str]

    async def ask(self, request: Any, **more: Any) -> bytes | tuple[grpc.StatusCode, str]:
        """Return an answer without its id, or the status and the text of a failure."""
        try:
            return await self.running.ask("ModelInfer", request.SerializeToString(), **more)
        except grpc.aio.AioRpcError as failure:
            return failure.code(), failure.details() or ""


@asynccontextmanager
async def planned_service() -> AsyncIterator[Planned]:
    threads = torch.get_num_threads()
    lifecycle = Lifecycle()
    handler, device_threads = build_service(Settings(device="cpu", warm_up_shapes=""), lifecycle)
    state = OipState(handler, lifecycle)
    methods = InferMethods(state)
    ways: list[str] = []

    def infer(body: bytes, rpc: Any) -> Any:
        response = methods.unary(body, rpc)
        ways.append("planned" if response is None else "ordinary")
        return response

    async with (
        lifespan(state, device_threads),
        run_grpc(lifecycle, {"ModelInfer": infer}) as running,
    ):
        yield Planned(running, state, ways)
    torch.set_num_threads(threads)


@pytest.fixture
async def planned() -> AsyncIterator[Planned]:
    async with planned_service() as service:
        yield service


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def request(model: str, outputs: tuple[str, ...] = (), **tensors: torch.Tensor) -> Any:
    made = ModelInferRequest(model_name=model, outputs=[{"name": name} for name in outputs])
    for name, tensor in tensors.items():
        datatype = DATATYPES[tensor.dtype]
        made.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        made.raw_input_contents.append(bytes(tensor.view(torch.uint8).numpy().data))
    return made


def attention(*outputs: str, **more: torch.Tensor) -> Any:
    heads = {"q": random(1, 8, 4, 16), "k": random(1, 8, 2, 16), "v": random(1, 8, 2, 16)}
    return request("rope_attention", outputs, **heads, **more)


def with_params(made: Any, **params: Any) -> Any:
    for name, value in params.items():
        made.parameters[name].CopyFrom(ModelInferRequest(parameters={name: value}).parameters[name])
    return made


X = random(1, 6, 2, 8)
RIGHT = {
    "float32": request("rope", q=X),
    "bfloat16": request("rope", q=random(1, 6, 2, 8, dtype=torch.bfloat16)),
    "float16": request("rope", q=random(1, 6, 2, 8, dtype=torch.float16)),
    "positions": request("rope", q=X, positions=torch.arange(6)),
    "rows": request("rope", q=random(3, 5, 2, 8), positions=torch.arange(15).view(3, 5)),
    "packed": request("rope", q=random(6, 2, 8), cu_seqlens=torch.tensor([0, 2, 6])),
    "q and k": request("rope", q=X, k=X[:, :, :1].contiguous()),
    "k and q": request("rope", ("q", "k"), k=X, positions=torch.arange(6), q=X),
    "k alone": request("rope", ("k",), k=X),
    "inverse": with_params(request("rope", q=X), inverse={"bool_param": True}),
    "attention": attention(),
    "attention, output alone": attention("out"),
    "attention, packed": request(
        "rope_attention",
        q=random(8, 4, 16),
        k=random(8, 2, 16),
        v=random(8, 2, 16),
        cu_seqlens=torch.tensor([0, 3, 8]),
    ),
}
ORDINARY = {
    "int32": request("rope", q=X, positions=torch.arange(6, dtype=torch.int32)),
    "k of q and k": request("rope", ("k",), q=X, k=X),
    "k before q": request("rope", ("k", "q"), q=X, k=X),
    "lse alone": attention("lse"),
    "lse first": attention("lse", "out"),
    "mask": attention(mask=torch.ones(8, 8, dtype=torch.bool)),
    "table": with_params(
        request("rope_cos_sin", positions=torch.arange(4)), head_dim={"int64_param": 8}
    ),
    "timeout": with_params(request("rope", q=X), timeout={"int64_param": 10**6}),
    "too large": request("rope", q=torch.zeros(1, MAX_PLANNED_BYTES // 4 // 64, 1, 64)),
}


@pytest.mark.parametrize("made", RIGHT.values(), ids=RIGHT)
async def test_an_answer_is_the_same_whichever_way_it_came(planned, made):
    answers = [await planned.ask(made) for _ in range(4)]
    assert isinstance(answers[0], bytes)
    assert answers == [answers[0]] * 4
    assert planned.ways == ["ordinary", "planned", "planned", "planned"]


@pytest.mark.parametrize("made", ORDINARY.values(), ids=ORDINARY)
async def test_other_requests_go_the_ordinary_way(planned, made):
    answers = [await planned.ask(made) for _ in range(3)]
    assert isinstance(answers[0], bytes)
    assert answers == [answers[0]] * 3
    assert planned.ways == ["ordinary"] * 3


@pytest.mark.parametrize("made", [made for made, _ in WRONG.values()], ids=WRONG)
async def test_a_wrong_request_fails_the_same_each_time(planned, made):
    answers = [await planned.ask(made) for _ in range(4)]
    assert answers[0][0] is CODE.INVALID_ARGUMENT
    assert answers == [answers[0]] * 4


async def test_wrong_numbers_fail_alone_and_as_the_ordinary_way_says(planned):
    packed = random(6, 2, 8)
    right = request("rope", q=packed, cu_seqlens=torch.tensor([0, 2, 6]))
    wrong = request("rope", q=packed, cu_seqlens=torch.tensor([0, 7, 6]))
    first = await planned.ask(wrong)
    assert await planned.ask(wrong) == first
    answer = await planned.ask(right)
    answers = await asyncio.gather(*(planned.ask(r) for r in (right, wrong, right, wrong)))
    assert first[0] is CODE.INVALID_ARGUMENT
    assert isinstance(answer, bytes)
    assert answers == [answer, first, answer, first]
    assert planned.ways[-4:] == ["planned"] * 4


async def test_each_answer_has_the_id_and_the_numbers_of_its_request(planned):
    requests = [request("rope", q=X * i) for i in range(40)]
    for i, made in enumerate(requests[::2]):
        made.id = f"request {i}"
    answers = await asyncio.gather(*map(planned.ask, requests))
    for i, (made, answer) in enumerate(zip(requests, answers, strict=True)):
        response = ModelInferResponse.FromString(answer)
        assert response.id == made.id
        rotated = torch.frombuffer(bytearray(response.raw_output_contents[0]), dtype=torch.float32)
        assert torch.equal(rotated[:16], (X * i).flatten()[:16]), "position 0 rotates nothing"
    assert "planned" in planned.ways


async def test_an_id_that_is_too_long_is_refused_although_there_is_a_plan(planned):
    made = request("rope", q=X)
    for _ in range(3):
        await planned.ask(made)
    for length, is_refused in ((256, False), (257, True)):
        made.id = "é" * length
        answer = await planned.ask(made)
        if is_refused:
            assert answer == (CODE.INVALID_ARGUMENT, "id may have at most 256 characters, got 257")
        else:
            assert ModelInferResponse.FromString(answer).id == made.id
            assert planned.ways[-1] == "planned"


async def test_messages_of_one_length_are_told_apart(planned):
    a, b = (with_params(request("rope", q=X), theta={"double_param": t}) for t in (1e4, 5e5))
    answers = [await planned.ask(made) for made in (a, b, a, b, a, b)]
    assert answers[0] != answers[1]
    assert answers == answers[:2] * 3


async def test_a_call_that_waits_is_withdrawn_when_its_client_leaves(planned):
    made, batcher = request("rope", q=X), planned.state.handler.batcher
    for _ in range(2):
        await planned.ask(made)
    batcher.pause()
    call = planned.running.channel.unary_unary(METHODS["ModelInfer"].path)(made.SerializeToString())
    late = asyncio.create_task(planned.ask(made, timeout=1))

    async def two_wait() -> bool:
        return len(batcher.waiting) == 2

    async def all_is_released() -> bool:
        return not batcher.waiting and not planned.state.handler.admission.charged_bytes

    await wait_until_async(two_wait)
    call.cancel()
    code, _ = await late
    await wait_until_async(all_is_released)
    batcher.resume()
    assert code is CODE.DEADLINE_EXCEEDED
    assert planned.state.statistics["rope"].num_failed == {
        **dict.fromkeys(("REJECTED", "BACKEND"), 0),
        "CANCELED": 1,
        "OTHER": 1,
    }
    assert isinstance(await planned.ask(made), bytes)


async def test_planned_requests_are_counted(planned):
    made = request("rope", q=X)
    for _ in range(5):
        await planned.ask(made)
    assert planned.ways.count("planned") == 4
    assert planned.state.statistics["rope"].num_answered == 5
    text = planned.state.handler.metrics.render().decode()
    assert 'rope_backend_calls_total{backend="eager",operation="rotate"} 5.0' in text

    async def all_is_released() -> bool:
        return planned.state.handler.admission.charged_bytes == 0

    await wait_until_async(all_is_released)


async def test_a_warning_is_in_planned_and_ordinary_answers(planned: Planned):
    heads = {"q": random(1, 1, 4, 16), "k": random(1, 8, 2, 16), "v": random(1, 8, 2, 16)}
    counted = request("rope_attention", ("out",), **heads)
    first, *others = [await planned.ask(counted) for _ in range(4)]
    assert others == [first] * 3
    assert planned.ways[-1] == "planned"
    warning = ModelInferResponse.FromString(first).parameters["warnings"].string_param
    assert warning.endswith("as q_positions, from 7 on if they are the last tokens")
    quiet = await planned.ask(with_params(counted, rotate={"string_param": "k"}))
    assert b"warnings" not in quiet
    wide = with_params(attention("out"), tensor_layout={"string_param": "bhsd"})
    for _ in range(4):
        await planned.ask(wide)
        assert planned.ways[-1] == "ordinary"
