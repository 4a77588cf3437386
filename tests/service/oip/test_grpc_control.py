"""The methods of gRPC that do not infer answer as the routes of HTTP do."""

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
from service.oip.control import REFUSALS, TRACE_SETTINGS, log_settings
from service.oip.errors import NotLoadable
from service.oip.grpc.control import control_methods
from service.oip.grpc.errors import CODES, status_of
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.infer.models import MODELS
from service.oip.state import OipState
from service.server.bootstrap import build_service
from service.settings import Settings
from tests.service.oip.conftest import ask, run_grpc

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
def test_metadata_is_the_same_over_http(channel, server_url, method, route):
    over_http = httpx.get(server_url + route).json()
    name = route.split("/")[3] if "/models/" in route else ""
    for version in ("", "1") if name else ("",):
        fields = {"name": name, "version": version} if name else {}
        document = {"config": over_http} if method == "ModelConfig" else over_http
        assert ask(channel, method, **fields) == METHODS[method].answer(document)


def test_the_index_is_the_same_over_http(channel, server_url):
    document = {"models": httpx.post(f"{server_url}/v2/repository/index").json()}
    assert document["models"]
    for ready in (False, True):
        index = ask(channel, "RepositoryIndex", ready=ready)
        assert index == METHODS["RepositoryIndex"].answer(document)


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


REGION = "/v2/cudasharedmemory/region/r"
REFUSED = [
    ("RepositoryModelLoad", {"model_name": "rope"}, "POST", "/v2/repository/models/rope/load"),
    ("RepositoryModelUnload", {"model_name": "rope"}, "POST", "/v2/repository/models/rope/unload"),
    ("CudaSharedMemoryStatus", {"name": "r"}, "GET", f"{REGION}/status"),
    ("CudaSharedMemoryRegister", {"name": "r"}, "POST", f"{REGION}/register"),
    ("TraceSetting", {"settings": {"trace_rate": {"value": ["1"]}}}, "POST", "/v2/trace/setting"),
    ("LogSettings", {"settings": {"log_info": {"bool_param": True}}}, "POST", "/v2/logging"),
]


@pytest.mark.parametrize(("method", "fields", "http_method", "path"), REFUSED)
def test_refusals_are_the_same_over_http(channel, server_url, method, fields, http_method, path):
    over_http = httpx.request(http_method, server_url + path, content=b'{"log_info": true}')
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, method, **fields)
    assert refused.value.code() is CODES[over_http.status_code]
    assert refused.value.details() == over_http.json()["error"]


def test_every_refusal_is_compared_with_http():
    assert len(REFUSED) == len(REFUSALS) + 1, "two methods refuse to change settings"


def test_control_calls_of_tritonclient(grpc_target):
    with InferenceServerClient(grpc_target) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rope_attention", "1")
        assert not client.is_model_ready("rope", "2")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "rope-service"
        config = client.get_model_config("rope").config
        assert [tensor.name for tensor in config.input] == [s.name for s in MODELS["rope"].inputs]
        assert config.version_policy.latest.num_versions == 1
        assert not client.get_cuda_shared_memory_status().regions
        client.unregister_cuda_shared_memory()
        settings = client.get_trace_settings("rope").settings
        assert {n: v.value for n, v in settings.items()}.keys() == TRACE_SETTINGS.keys()
        assert [*settings["trace_level"].value] == ["OFF"]
        log_settings = client.get_log_settings().settings
        assert log_settings["log_info"].bool_param
        assert not log_settings["log_verbose_level"].uint32_param
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
def test_log_settings_follow_the_log_level(level):
    settings = log_settings(level)
    rank = ["error", "warning", "info", "debug"].index(level)
    keys = ["log_error", "log_warning", "log_info", "log_verbose_level"]
    assert [bool(settings[key]) for key in keys] == [i <= rank for i in range(4)]


def make_state(lifecycle: Lifecycle) -> OipState:
    service, _ = build_service(Settings(device="cpu"), lifecycle)
    return OipState(service, lifecycle)


async def test_readiness_follows_the_phase():
    lifecycle = Lifecycle()
    async with run_grpc(lifecycle, control_methods(make_state(lifecycle))) as server:

        async def ready() -> tuple[bool, ...]:
            request = METHODS["ModelReady"].request(name="rope").SerializeToString()
            bodies = {"ServerLive": b"", "ServerReady": b"", "ModelReady": request}
            live, *others = [
                METHODS[name].response.FromString(await server.ask(name, body))
                for name, body in bodies.items()
            ]
            return live.live, *(response.ready for response in others)

        async def index(**fields: bool) -> list[str]:
            method = METHODS["RepositoryIndex"]
            body = await server.ask("RepositoryIndex", method.request(**fields).SerializeToString())
            return [model.state for model in method.response.FromString(body).models]

        assert await ready() == (True, False, False)
        assert set(await index()) == {"UNAVAILABLE"}
        assert await index(ready=True) == []
        lifecycle.warmed_up()
        assert await ready() == (True, True, True)
        assert set(await index(ready=True)) == {"READY"}
        lifecycle.fail(Phase.STUCK)
        assert await ready() == (False, False, False)


async def test_a_malformed_message_is_an_invalid_argument():
    lifecycle = Lifecycle()
    methods = control_methods(make_state(lifecycle))
    async with run_grpc(lifecycle, methods) as server:
        for name in methods:
            with pytest.raises(grpc.aio.AioRpcError, match="not a message") as refused:
                await server.ask(name, b"\xff\xff\xff")
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
def test_each_error_has_one_status(failure, code):
    status, text, _ = status_of(failure)
    assert status is code
    assert text == ("internal error" if code is CODE.INTERNAL else str(failure))


def test_error_texts_fit_into_a_header():
    status, text, _ = status_of(Overloaded("ä" * 2000))
    assert status in CODES.values()
    assert text.startswith("ää")
    assert len(text.encode()) <= 1024


def test_reflection_describes_all_services(channel):
    reflection = ProtoReflectionDescriptorDatabase(channel)
    services = set(reflection.get_services())
    assert {SERVICE, "grpc.health.v1.Health"} < services
    pool = DescriptorPool(reflection)
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            assert method.input_type.full_name
            assert method.output_type.full_name
    assert {m.name for m in pool.FindServiceByName(SERVICE).methods} == METHODS.keys()


def test_both_versions_of_reflection_answer(channel):
    from grpc_reflection.v1alpha import reflection_pb2

    request = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    responses = []
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        responses += [*channel.stream_stream(path)(iter([request]), timeout=10)]
    assert len(responses) == 2
    assert responses[0] == responses[1]


def test_an_unknown_method_is_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/NoSuch")(b"")
    assert refused.value.code() is CODE.UNIMPLEMENTED
