"""A drain loses no request: each one is answered, or its client knows that it was not run."""

import asyncio
import signal
from collections import Counter

import grpc
import httpx

from service.oip.grpc.messages import METHODS, ModelInferRequest

INFER, STREAM = METHODS["ModelInfer"].path, METHODS["ModelStreamInfer"].path
REQUEST = ModelInferRequest(
    model_name="rope",
    inputs=[{"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 64]}],
    raw_input_contents=[bytes(256)],
).SerializeToString()
NUM_CALLERS, NUM_STREAMS, NUM_GETTERS = 24, 4, 8


async def test_no_request_is_lost(serve):
    with serve(ROPE_DRAIN_DELAY_S="0.5", ROPE_LOG_LEVEL="warning") as started:
        url, process = started
        outcomes: Counter[str] = Counter()
        all_answered = asyncio.Barrier(NUM_CALLERS + NUM_STREAMS + NUM_GETTERS + 1)
        """Passed after the first answer of every client."""

        async def call(channel: grpc.aio.Channel) -> None:
            infer = channel.unary_unary(INFER)
            await infer(REQUEST)
            await all_answered.wait()
            while True:
                try:
                    await infer(REQUEST)
                except grpc.aio.AioRpcError as failure:
                    outcomes[failure.code().name] += 1
                    return
                outcomes["OK"] += 1

        async def stream(channel: grpc.aio.Channel) -> None:
            rpc = channel.stream_stream(STREAM)()
            await rpc.write(REQUEST)
            await rpc.read()
            await all_answered.wait()
            num_pending = 0
            try:
                while True:
                    await rpc.write(REQUEST)
                    num_pending += 1
                    assert await rpc.read() is not grpc.aio.EOF
                    num_pending -= 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AssertionError):
                # The client itself says INTERNAL if the stream ends during a write.
                assert (await rpc.code()).name in ("UNAVAILABLE", "INTERNAL")
                assert num_pending <= 1
                outcomes["stream"] += 1

        async def get() -> None:
            async with httpx.AsyncClient() as client:
                await client.get(f"{url}/v2/models/rope")
                await all_answered.wait()
                while True:
                    try:
                        response = await client.get(f"{url}/v2/models/rope")
                    except httpx.HTTPError as failure:
                        outcomes[type(failure).__name__] += 1
                        return
                    outcomes[str(response.status_code)] += 1

        async with grpc.aio.insecure_channel(started.grpc_target) as channel:
            clients = [asyncio.create_task(call(channel)) for _ in range(NUM_CALLERS)]
            clients += [asyncio.create_task(stream(channel)) for _ in range(NUM_STREAMS)]
            clients += [asyncio.create_task(get()) for _ in range(NUM_GETTERS)]
            async with asyncio.timeout(20):
                await all_answered.wait()
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), 20)
        assert process.wait(10) == 0
    assert outcomes.keys() == {"OK", "200", "UNAVAILABLE", "ConnectError", "stream"}
    assert outcomes["UNAVAILABLE"] == NUM_CALLERS
    assert outcomes["ConnectError"] == NUM_GETTERS
    assert outcomes["stream"] == NUM_STREAMS
