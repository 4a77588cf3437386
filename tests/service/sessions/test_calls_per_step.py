"""How many calls of our Python a warm step over a stream takes.

Counted as in `tests/service/test_calls_per_request.py`, from the message, after the library has
parsed its frames, to the answer that is to be sent. The step before it is the same, but for its
numbers, so everything is warm.
"""

import asyncio
import math

import pytest
import torch

from rope_core.kvcache.compute import compiled_attend
from service.batching.admission import Charge
from service.inference.handler import RequestContext
from service.lifecycle import Lifecycle
from service.oip.state import OipState
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.sessions.handler import CreateOptions
from service.settings import Settings
from service.v1.session_stream import SessionStream, StreamCall
from service.wire import Message, Parameters, safetensors_codec
from tests.service.sessions.http_sessions import SMALL, qkv
from tests.service.test_calls_per_request import Profile

MAX_CALLS, MAX_FUNCTIONS = 175, 152
"""Bounds of a step of one token in one row, by compiled code: what is called today, and some."""

NUM_STEPS = 6


@pytest.mark.skipif(compiled_attend.extension() is None, reason="torch takes more calls")
async def test_calls_of_a_warm_step():
    lifecycle = Lifecycle()
    settings = Settings(device="cpu", grpc_port=0, warm_up_shapes="", kv_bytes=2**24)
    inference, device_threads = build_service(settings, lifecycle, None)
    state = OipState(inference, lifecycle)
    build_app(state, device_threads)
    inference.metrics.recent.end = math.inf  # no second ends: a row is rendered once a second
    threads = torch.get_num_threads()
    others = asyncio.all_tasks()
    async with lifespan(state, device_threads):
        await asyncio.wait(asyncio.all_tasks() - others)  # the warm-up
        with Charge(inference.admission) as charge:
            context = RequestContext(inference.deadline(None), charge)
            message = Message({}, Parameters.of({**SMALL, "dtype": "bfloat16", "max_tokens": 64}))
            created = await state.sessions.create(message, context, CreateOptions())
        session_id = created.message.params.values["id"]
        stream = SessionStream(state.sessions, inference, "/v1/stream", [], session_id)
        profiles = [await _step(stream, number) for number in range(NUM_STEPS)]
    torch.set_num_threads(threads)
    first, *rest = (profile.calls for profile in profiles[NUM_STEPS // 2 :])
    assert all(each == first for each in rest), "each warm step takes the same calls"
    count = f"{first.total()} calls of {len(first)} functions\n{profiles[-1].table()}"
    print(count)  # noqa: T201 - shown by pytest -s, and where the test fails
    assert first.total() <= MAX_CALLS, count
    assert len(first) <= MAX_FUNCTIONS, count


async def _step(stream: SessionStream, number: int) -> Profile:
    """Answer the message of a step, and return its calls."""
    params = {"op": "step", "seq": number, "layer": 0}
    guard = {"expected_length": number, "expected_generation": 0}
    message = Message(qkv(1, dtype=torch.bfloat16), Parameters.of(params | guard))
    call = StreamCall(b"".join(safetensors_codec.encode(message)))
    with Profile() as profile:
        await asyncio.get_running_loop().create_task(stream.answer(call))
    assert call.answer is not None
    assert not call.answer.is_failure, call.answer.data
    call.end()
    return profile
