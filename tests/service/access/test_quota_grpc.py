"""Quotas over gRPC: for unary RPCs, and for each request of a stream."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from service.access.tenant import Tenant
from service.oip.grpc.messages import METHODS, ModelStreamInferResponse
from tests.service.access.keys_files import INFER, OTHER, table
from tests.service.access.test_grpc import BODY, CODE, Keyed, authorization, keyed_service
from tests.service.planned.servers import until

ONE = Tenant("one")


def limit(service: Keyed) -> None:
    """Write limits of tenants; the next request reloads the file."""
    service.path.write_text(
        table("one", [INFER], "compute_s_per_s = 1") + table("two", [OTHER], "max_concurrent = 1")
    )
    service.state.handler.gate.file.next_look = 0.0


async def test_a_debt_refuses_rpcs_and_requests_of_a_stream(tmp_path: Path):
    async with keyed_service(tmp_path / "keys.toml") as service:
        limit(service)
        quotas = service.state.handler.gate.quotas
        for _ in range(3):
            assert await service.infer(INFER) is CODE.OK
        quotas.add_compute(ONE, 1000.0)
        rpc = service.running.channel.unary_unary(METHODS["ModelInfer"].path)(
            BODY, metadata=authorization(INFER)
        )
        assert await rpc.code() is CODE.RESOURCE_EXHAUSTED
        assert await rpc.details() == "the API key is limited to 1 seconds of computing per second"

        messages: asyncio.Queue[bytes] = asyncio.Queue()

        async def send() -> AsyncIterator[bytes]:
            while message := await messages.get():
                yield message

        stream = service.running.channel.stream_stream(METHODS["ModelStreamInfer"].path)
        call = stream(send(), metadata=authorization(INFER))
        for error in ("seconds of computing", "seconds of computing", ""):
            messages.put_nowait(BODY)
            if not error:
                quotas.add_compute(ONE, -1001.0)
            response = ModelStreamInferResponse.FromString(await call.read())
            assert error in response.error_message
            assert bool(error) == bool(response.error_message)
        messages.put_nowait(b"")
        assert await call.read() is grpc.aio.EOF
        assert await service.infer(INFER) is CODE.OK


async def test_max_concurrent(tmp_path: Path):
    """A cancelled RPC is no longer in progress."""
    async with keyed_service(tmp_path / "keys.toml") as service:
        limit(service)
        batcher = service.state.handler.batcher
        infer = service.running.channel.unary_unary(METHODS["ModelInfer"].path)
        for _ in range(3):
            assert await service.infer(OTHER) is CODE.OK
            batcher.pause()
            waiting = infer(BODY, metadata=authorization(OTHER))
            await until(lambda: service.state.handler.batcher.waiting)
            assert await service.infer(OTHER) is CODE.RESOURCE_EXHAUSTED
            waiting.cancel()
            await until(lambda: not service.state.handler.batcher.waiting)
            batcher.resume()
