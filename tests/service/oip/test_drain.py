"""When the doors close, nobody's request is lost: each is answered, or known not to be done."""

import asyncio
import signal
from collections import Counter

import grpc
import httpx

from service.oip.grpc.messages import METHODS, ModelInferRequest

INFER, STREAM = METHODS["ModelInfer"].path, METHODS["ModelStreamInfer"].path
ASKED = ModelInferRequest(
    model_name="rope",
    inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 1, 1, 64]}],
    raw_input_contents=[bytes(256)],
).SerializeToString()


async def test_no_request_is_lost(serve):
    with serve(ROPE_DRAIN_DELAY_S="0.5", ROPE_LOG_LEVEL="warning") as started:
        url, process = started
        told: Counter[str] = Counter()

        async def call(channel: grpc.aio.Channel) -> None:
            answer = channel.unary_unary(INFER)
            while True:
                try:
                    await answer(ASKED)
                except grpc.aio.AioRpcError as refused:
                    told[refused.code().name] += 1
                    return
                told["OK"] += 1

        async def stream(channel: grpc.aio.Channel) -> None:
            answers = channel.stream_stream(STREAM)()
            asked = 0
            try:
                while True:
                    await answers.write(ASKED)
                    asked += 1
                    assert await answers.read() is not grpc.aio.EOF
                    asked -= 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AssertionError):
                # INTERNAL is the client's own word for a write that meets the stream's end
                assert (await answers.code()).name in ("UNAVAILABLE", "INTERNAL")
                assert asked <= 1
                told["stream"] += 1

        async def get() -> None:
            async with httpx.AsyncClient() as client:
                while True:
                    try:
                        answer = await client.get(f"{url}/v2/models/rope")
                    except httpx.HTTPError as refused:
                        told[type(refused).__name__] += 1
                        return
                    told[str(answer.status_code)] += 1

        async with grpc.aio.insecure_channel(started.grpc_target) as channel:
            callers = [asyncio.create_task(call(channel)) for _ in range(24)]
            callers += [asyncio.create_task(stream(channel)) for _ in range(4)]
            callers += [asyncio.create_task(get()) for _ in range(8)]
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*callers), 20)
        assert process.wait(10) == 0
    assert told.keys() == {"OK", "200", "UNAVAILABLE", "ConnectError", "stream"}
    assert told["UNAVAILABLE"] == 24
    assert told["ConnectError"] == 8
