"""The health service: SERVING while the service is ready; every change is sent once."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.lifecycle import Lifecycle, Phase
from service.oip.grpc.messages import SERVICE
from tests.service.oip.conftest import run_grpc

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health_request(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_check_shows_whether_the_service_is_ready(service):
    lifecycle = Lifecycle()
    async with run_grpc(lifecycle, {}) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        assert (await health.Check(health_request(service))).status == NOT_SERVING
        lifecycle.warmed_up()
        assert (await health.Check(health_request(service))).status == SERVING
        lifecycle.drain()
        assert (await health.Check(health_request(service))).status == NOT_SERVING
        lifecycle.fail(Phase.LOST)
        assert (await health.Check(health_request(service))).status == NOT_SERVING


async def test_an_unknown_service_is_not_found_but_may_be_watched():
    lifecycle = Lifecycle()
    async with run_grpc(lifecycle, {}) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        with pytest.raises(grpc.aio.AioRpcError, match="unknown service nobody") as refused:
            await health.Check(health_request("nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watching = health.Watch(health_request("nobody"))
        assert (await watching.read()).status == SERVICE_UNKNOWN
        lifecycle.warmed_up()
        lifecycle.close_streams()
        assert await watching.read() is grpc.aio.EOF


async def test_every_change_is_sent_once():
    lifecycle = Lifecycle()
    async with run_grpc(lifecycle, {}) as running:
        health = health_pb2_grpc.HealthStub(running.channel)
        watching = [health.Watch(health_request(service)) for service in ("", SERVICE)]

        async def next_statuses() -> list[int]:
            return [(await watch.read()).status for watch in watching]

        assert await next_statuses() == [NOT_SERVING] * 2
        lifecycle.warmed_up()
        assert await next_statuses() == [SERVING] * 2
        lifecycle.drain()
        assert await next_statuses() == [NOT_SERVING] * 2
        lifecycle.fail(Phase.LOST)
        lifecycle.close_streams()
        for watch in watching:
            assert await watch.read() is grpc.aio.EOF, "an unchanged status is not sent again"
            assert await watch.code() is grpc.StatusCode.OK


async def test_a_watcher_that_leaves_is_forgotten():
    lifecycle = Lifecycle()
    async with run_grpc(lifecycle, {}) as running:
        watching = health_pb2_grpc.HealthStub(running.channel).Watch(health_request())
        await watching.read()
        watching.cancel()
        async with asyncio.timeout(5):
            await running.server.close(60)
        text = running.metrics.render().decode()
        assert 'route="/grpc.health.v1.Health/Watch",status="CANCELLED"} 1.0' in text


async def test_a_broken_message_is_an_invalid_argument():
    async with run_grpc(Lifecycle(), {}) as running:
        for call in (
            running.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"),
            running.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff"),
            running.channel.stream_stream(REFLECTION)(iter([b"\xff"])),
        ):
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_change_before_the_wait_is_not_missed():
    lifecycle = Lifecycle()
    seen = []
    async for phase in lifecycle.changes():
        seen.append(phase)
        match phase:
            case Phase.WARMING_UP:
                lifecycle.warmed_up()
            case Phase.READY:
                lifecycle.drain()
            case Phase.DRAINING:
                lifecycle.close_streams()
    assert seen == [Phase.WARMING_UP, Phase.READY, Phase.DRAINING]
