"""What gRPC tells of the service and its models: the words of HTTP."""

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.errors import Overloaded, TimedOut, TooLarge
from service.lifecycle import Lifecycle, Phase
from service.oip.errors import NotLoadable
from service.oip.grpc.control import control_methods
from service.oip.grpc.errors import CODES, status_of
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.infer.models import MODELS
from service.oip.metadata import TRACE_SETTINGS, log_settings
from service.oip.state import OipState
from service.server.app import build_service
from service.settings import Settings
from tests.service.oip.conftest import ask, opened

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("ServerMetadata", "/v2"),
        ("ServerLive", "/v2/health/live"),
        *(("ModelMetadata", f"/v2/models/{name}") for name in MODELS),
        *(("ModelConfig", f"/v2/models/{name}/config") for name in MODELS),
    ],
)
def test_answers_are_those_of_http(channel, server_url, method, route):
    told = httpx.get(server_url + route).json()
    name = route.split("/")[3] if "/models/" in route else ""
    for version in ("", "1") if name else ("",):
        asked = {"name": name, "version": version} if name else {}
        document = {"config": told} if method == "ModelConfig" else told
        assert ask(channel, method, **asked) == METHODS[method].answer(document)


def test_the_index_is_that_of_http(channel, server_url):
    told = {"models": httpx.post(f"{server_url}/v2/repository/index").json()}
    for ready in (False, True):
        asked = ask(channel, "RepositoryIndex", ready=ready)
        assert asked == METHODS["RepositoryIndex"].answer(told)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("rope", "2"), ("", "")])
def test_unknown_models_and_versions_are_not_found(channel, server_url, method, name, version):
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, method, name=name, version=version)
    assert refused.value.code() is CODE.NOT_FOUND
    assert "model" in refused.value.details()


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
@pytest.mark.parametrize("field", ["model_name", "repository_name"], ids=["triton", "kserve"])
def test_loading_is_refused(channel, method, field):
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, method, **{field: "rope"})
    assert refused.value.code() is CODE.UNAVAILABLE
    assert refused.value.details() == str(NotLoadable())


def test_tritons_client_gets_what_it_asks_for(grpc_target):
    with InferenceServerClient(grpc_target) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rope_attention", "1")
        assert not client.is_model_ready("rope", "2")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "rope-service"
        config = client.get_model_config("rope").config
        assert [each.name for each in config.input] == [s.name for s in MODELS["rope"].inputs]
        assert config.version_policy.latest.num_versions == 1
        assert not client.get_cuda_shared_memory_status().regions
        client.unregister_cuda_shared_memory()
        settings = client.get_trace_settings("rope").settings
        assert {n: v.value for n, v in settings.items()}.keys() == TRACE_SETTINGS.keys()
        assert [*settings["trace_level"].value] == ["OFF"]
        logged = client.get_log_settings().settings
        assert logged["log_info"].bool_param
        assert not logged["log_verbose_level"].uint32_param
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.update_trace_settings(settings={"trace_rate": "1"})
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.update_log_settings({"log_info": False})
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.get_trace_settings("nobody")
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 1)
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.get_cuda_shared_memory_status("r")


@pytest.mark.parametrize("level", ["error", "warning", "info", "debug"])
def test_log_settings_say_what_is_logged(level):
    told = log_settings(level)
    rank = ["error", "warning", "info", "debug"].index(level)
    seen = [told["log_error"], told["log_warning"], told["log_info"], told["log_verbose_level"]]
    assert [bool(each) for each in seen] == [i <= rank for i in range(4)]


def protocol_of(lifecycle: Lifecycle) -> OipState:
    service, _ = build_service(Settings(device="cpu"), lifecycle)
    return OipState(service, lifecycle)


async def test_nobody_is_ready_before_and_after():
    lifecycle = Lifecycle()
    async with opened(lifecycle, control_methods(protocol_of(lifecycle))) as there:

        async def ready() -> tuple[bool, ...]:
            request = METHODS["ModelReady"].request(name="rope").SerializeToString()
            bodies = {"ServerLive": b"", "ServerReady": b"", "ModelReady": request}
            live, *told = [
                METHODS[name].response.FromString(await there.ask(name, body))
                for name, body in bodies.items()
            ]
            return live.live, *(each.ready for each in told)

        async def index(**asked: bool) -> list[str]:
            method = METHODS["RepositoryIndex"]
            body = await there.ask("RepositoryIndex", method.request(**asked).SerializeToString())
            return [each.state for each in method.response.FromString(body).models]

        assert await ready() == (True, False, False)
        assert set(await index()) == {"UNAVAILABLE"}
        assert await index(ready=True) == []
        lifecycle.warmed_up()
        assert await ready() == (True, True, True)
        assert set(await index(ready=True)) == {"READY"}
        lifecycle.fail(Phase.STUCK)
        assert await ready() == (False, False, False)


async def test_nonsense_is_an_invalid_argument():
    lifecycle = Lifecycle()
    methods = control_methods(protocol_of(lifecycle))
    async with opened(lifecycle, methods) as there:
        for name in methods:
            with pytest.raises(grpc.aio.AioRpcError, match="not a message") as refused:
                await there.ask(name, b"\xff\xff\xff")
            assert refused.value.code() is CODE.INVALID_ARGUMENT, name


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TooLarge("it", 1, 2), CODE.RESOURCE_EXHAUSTED),
        (Overloaded("full"), CODE.UNAVAILABLE),
        (TimedOut(), CODE.DEADLINE_EXCEEDED),
        (ValueError("our bug"), CODE.INTERNAL),
    ],
)
def test_failures_have_one_status(failure, code):
    told, text = status_of(failure)
    assert told is code
    assert text == ("internal error" if code is CODE.INTERNAL else str(failure))


def test_no_text_is_longer_than_a_header():
    told, text = status_of(Overloaded("ä" * 2000))
    assert told in CODES.values()
    assert text.startswith("ää")
    assert len(text.encode()) <= 1024


def test_reflection_resolves_all_services(channel):
    known = ProtoReflectionDescriptorDatabase(channel)
    services = set(known.get_services())
    assert {SERVICE, "grpc.health.v1.Health"} < services
    pool = DescriptorPool(known)
    for service in services:
        found = pool.FindServiceByName(service)
        for method in found.methods:
            assert method.input_type.full_name
            assert method.output_type.full_name
    assert {m.name for m in pool.FindServiceByName(SERVICE).methods} == METHODS.keys()


def test_both_versions_of_reflection_answer(channel):
    from grpc_reflection.v1alpha import reflection_pb2

    asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    told = []
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        told += [*channel.stream_stream(path)(iter([asked]), timeout=10)]
    assert len(told) == 2
    assert told[0] == told[1]


def test_a_method_that_there_is_not_is_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/NoSuch")(b"")
    assert refused.value.code() is CODE.UNIMPLEMENTED
