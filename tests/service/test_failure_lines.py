"""The log line of a failed request says what failed, where, and with which tensors."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import torch

from service.lifecycle import Lifecycle
from service.observability import logs
from service.observability.metrics import Metrics
from service.observability.request_log import Record, RequestLog, describe_shapes
from service.oip.grpc.infer import InferMethods
from service.oip.grpc.messages import METHODS
from service.oip.infer.models import MODELS
from service.oip.state import OipState
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from tests.service.oip.conftest import run_grpc
from tests.service.oip.test_grpc_planned import request, with_params
from tests.service.planned.requests import Client, know, rotation
from tests.service.planned.servers import Running, running, until
from tests.service.planned.test_overload import busy

JSON = {"content-type": "application/json"}
Q = [[[1.0, 2.0, 3.0, 4.0]] * 3]
EXCHANGE = rotation(64)
SHAPES = {"q": "float32[1, 64, 8, 64]", "positions": "int64[1, 64]"}
NUM_BYTES = len(EXCHANGE.request.partition(b"\r\n\r\n")[2])


class Lines:
    """Lines that are written to standard output."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, **fields: object) -> list[dict[str, Any]]:
        """Return the lines that have these fields."""
        lines = map(json.loads, self.texts)
        return [line for line in lines if fields.items() <= line.items()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    lines = Lines()
    monkeypatch.setattr(logs.output, "write", lines.texts.extend)
    return lines


def client_of(service: Running) -> httpx.AsyncClient:
    host, port = service.address
    return httpx.AsyncClient(base_url=f"http://{host}:{port}")


async def test_the_lines_of_requests_that_fail_over_http(lines: Lines):
    async with running(log_level="info", max_json_bytes=2**16) as service, client_of(service) as c:
        input_name = (await c.get("/v2/models/rope")).json()["inputs"][0]["name"]
        tensor = {"name": input_name, "datatype": "FP32", "shape": [1, 1, 1, 4], "data": [1] * 4}
        infer = {"inputs": [tensor], "parameters": {"theta": 0}}
        lines.texts.clear()
        await c.post("/v1/rotate", json={"q": Q, "rope": {"theta": 0}})
        await c.post("/v1/rotate", json={"q": Q, "rope": {"theta": 1e4}})
        await c.post("/v1/rotate", content=iter_bytes(b'{"q": '), headers=JSON)
        await c.post("/v1/rotate", content=b" " * (2**16 + 1), headers=JSON)
        await c.get("/no/such/route?key=secret", headers={"authorization": "Bearer secret"})
        await c.put("/v2/logging")
        await c.post("/v2/models/rope/infer", json=infer)
        await c.post("/v2/logging", json={"log_info": False})

    def line(**fields: object) -> dict[str, Any]:
        (found,) = lines.of(**fields)
        assert found.pop("time") > 1e9
        assert found.pop("ms") > 0
        assert found.pop("request_id")
        assert found.pop("message") == "request"
        return found

    bad = line(code="config", path="/v1/rotate")
    assert "theta" in bad.pop("detail")
    assert bad.pop("bytes") > 20
    common = {"level": "info", "method": "POST"}
    v1 = {**common, "path": "/v1/rotate", "route": "/v1/rotate"}
    shapes = {"q": "float32[1, 3, 4]"}
    assert bad == {**v1, "status": 422, "code": "config", "shapes": shapes}
    good = {**common, "path": "/v1/rotate", "status": 200}
    assert line(status=200) == good, "it has no more fields"
    cut = line(code="bad_message")
    assert cut["bytes"] == len(b'{"q": ')
    assert "shapes" not in cut
    large = line(status=413)
    assert (large["code"], large["bytes"]) == ("too_large", 2**16 + 1)
    assert "ROPE_MAX_JSON_BYTES" in large["detail"]
    lost = line(status=404)
    assert (lost["route"], lost["path"]) == ("other", "/no/such/route")
    assert (lost["code"], lost["detail"][:24]) == ("not_found", "no route /no/such/route;")
    assert line(status=405)["code"] == "method_not_allowed"
    oip = line(path="/v2/models/rope/infer")
    assert (oip["status"], oip["code"]) == (400, "config")
    assert oip["shapes"] == {"q": "float32[1, 1, 1, 4]"}
    not_served = line(status=501)
    assert (not_served["level"], not_served["code"]) == ("warning", "not_served")
    assert "secret" not in "".join(lines.texts)


async def iter_bytes(*parts: bytes):
    for part in parts:
        yield part


async def test_the_lines_of_planned_requests_that_fail(lines: Lines):
    async with running(log_level="info") as service:
        know(service, [EXCHANGE])
        client = await Client.connect(service.address)
        for _ in range(2):
            assert (await client.ask(EXCHANGE.request)).status == 200
        run = service.handler.batcher.run
        service.handler.batcher.run = lose
        assert (await client.ask(EXCHANGE.request)).status == 500
        service.handler.batcher.run = run
        with busy(service):
            assert (await client.ask(EXCHANGE.request)).status == 503
        await until(lambda: service.statuses == [200, 200, 500, 503])
        await until(lambda: len(lines.of(method="POST")) == 4)
        client.leave()
    facts = {"shapes": SHAPES, "bytes": NUM_BYTES, "route": "/v1/rotate", "backend": "auto"}
    (failed,) = lines.of(status=500, level="warning", code="internal", **facts)
    assert failed["detail"] == "internal error"
    (refused,) = lines.of(status=503, level="warning", code="overloaded", **facts)
    assert "predicted wait" in refused["detail"]
    for line in lines.of(status=200):
        assert line.keys().isdisjoint(("code", "detail", "shapes", "bytes", "route", "backend"))


def lose(_: object) -> Any:
    raise RuntimeError("a secret of the service")


async def test_the_lines_of_rpcs_that_fail(lines: Lines, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "rope.requests")
    threads, lifecycle = torch.get_num_threads(), Lifecycle()
    handler, device_threads = build_service(Settings(device="cpu", warm_up_shapes=""), lifecycle)
    state = OipState(handler, lifecycle)
    infer = InferMethods(state)
    methods = {"ModelInfer": infer.unary, "ModelStreamInfer": infer.stream}
    name = MODELS["rope"].inputs[0].name
    good = request("rope", **{name: torch.ones(1, 2, 1, 4)})
    bad = with_params(
        request("rope", **{name: torch.ones(1, 3, 1, 4)}), theta={"double_param": 0.0}
    )
    unknown = request("llama", **{name: torch.ones(1, 2, 1, 4)}).SerializeToString()
    async with (
        lifespan(state, device_threads),
        run_grpc(lifecycle, methods, log_level="info") as running,
    ):

        async def ask(body: bytes) -> grpc.StatusCode:
            try:
                await running.ask("ModelInfer", body)
            except grpc.aio.AioRpcError as failure:
                return failure.code()
            return grpc.StatusCode.OK

        stream = running.channel.stream_stream(METHODS["ModelStreamInfer"].path)
        assert len([answer async for answer in stream(iter([unknown]))]) == 1
        for _ in range(3):
            assert await ask(good.SerializeToString()) is grpc.StatusCode.OK
        assert await ask(bad.SerializeToString()) is grpc.StatusCode.INVALID_ARGUMENT
        assert await ask(unknown) is grpc.StatusCode.NOT_FOUND
        assert await ask(b"not a message") is grpc.StatusCode.INVALID_ARGUMENT
        handler.batcher.run = lose
        assert await ask(good.SerializeToString()) is grpc.StatusCode.INTERNAL
        await until(lambda: len(lines) == 8)
    torch.set_num_threads(threads)
    path = METHODS["ModelInfer"].path
    facts = {"level": "info", "method": "gRPC", "path": path, "route": path}
    (wrong,) = lines.of(**facts, status="INVALID_ARGUMENT", code="config")
    assert wrong["shapes"] == {"q": "float32[1, 3, 1, 4]"}
    assert wrong["bytes"] == len(bad.SerializeToString())
    assert "theta" in wrong["detail"]
    (missing,) = lines.of(**facts, status="NOT_FOUND", code="unknown_model")
    assert missing["bytes"] == len(unknown)
    assert "llama" in missing["detail"]
    assert lines.of(**facts, status="INVALID_ARGUMENT", code="bad_message")
    shapes = {"q": "float32[1, 2, 1, 4]"}
    facts |= {"level": "warning", "shapes": shapes, "backend": "auto"}
    assert lines.of(**facts, status="INTERNAL", code="internal", detail="internal error")
    (record,) = [item for item in caplog.records if item.name == "rope.requests"]
    fields = record.fields
    assert (record.levelname, fields["status"]) == ("INFO", "NOT_FOUND")
    assert (fields["code"], fields["bytes"]) == ("unknown_model", len(unknown))
    assert len(fields["request_id"]) == 16


def test_at_the_level_of_warnings_only_failures_of_the_service_are_logged(lines: Lines):
    for level, expected in (
        ("info", [200, 404, 503, "OK", "NOT_FOUND", "UNAVAILABLE"]),
        ("warning", [503, "UNAVAILABLE"]),
        ("error", []),
    ):
        log = RequestLog(Metrics(), level=level, quiet=frozenset(("/readyz",)))
        lines.texts.clear()
        for status in (200, 404, 503, "OK", "NOT_FOUND", "UNAVAILABLE"):
            failure = None if status in (200, "OK") else {"code": "a"}
            for route in ("/v1/rotate", "/readyz"):
                log.record_all([Record("1", "GET", route, route, status, 0.0, {}, None, failure)])
        assert [json.loads(line)["status"] for line in lines.texts] == expected


def test_the_line_of_a_failure_is_printable_and_bounded(lines: Lines):
    shape, name = [1] * 1000, "\x1b\u202e" * 1000
    tensors = [(f"{n}{name}", torch.float32, shape) for n in range(1000)]
    failure = {"code": "shape", "detail": "\x9b\u2028", "shapes": describe_shapes(tensors)}
    log = RequestLog(Metrics(), level="info", quiet=frozenset())
    log.record_all([Record("1", "GET", "/", "/", 422, 0.0, {}, None, failure)])
    (line,) = lines.texts
    assert line.endswith("}\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert len(line) < 3000
    assert len(json.loads(line)["shapes"]) == 8
