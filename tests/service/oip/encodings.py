"""Each encoding of the protocol behind one method: `infer` takes tensors and returns tensors."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import httpx
import torch
from torch import Tensor

from service.lifecycle import Lifecycle
from service.oip.grpc.codec import CONTENTS, read_params
from service.oip.grpc.messages import METHODS, InferParameter, ModelInferRequest
from service.oip.grpc.methods import grpc_methods
from service.oip.grpc.server import GrpcServer
from service.oip.infer import tensors
from service.oip.state import OipState
from service.resident_memory import ResidentLimit
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from tests.free_ports import free_port
from tests.service.conftest import asking

LENGTH = "inference-header-content-length"
METHOD = METHODS["ModelInfer"]
LIMITS = {"max_body_bytes": 2**20, "max_json_bytes": 2**18}


@dataclass(frozen=True)
class InferCall:
    """A request; an input is a tensor, or the JSON object of the protocol."""

    model: str
    inputs: Mapping[str, Tensor | dict[str, Any]]
    params: Mapping[str, Any] = field(default_factory=dict)
    outputs: list[str | dict[str, Any]] | None = None
    id: str = ""
    version: str = ""


@dataclass(frozen=True)
class InferAnswer:
    """The answer to a request: its outputs, and everything beside their numbers."""

    outputs: dict[str, Tensor]
    header: dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int | grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.status = status


class Http:
    """HTTP, with tensors as JSON or as bytes."""

    statuses = (400, 404, 413, 503, 504)

    def __init__(self, client: httpx.AsyncClient, binary: bool) -> None:
        self._client = client
        self._binary = binary

    async def infer(self, call: InferCall) -> InferAnswer:
        body, headers = self.write(call)
        version = f"/versions/{call.version}" if call.version else ""
        path = f"/v2/models/{call.model}{version}/infer"
        return self.read(await self._client.post(path, content=body, headers=headers))

    def write(self, call: InferCall) -> tuple[bytes, dict[str, str]]:
        header: dict[str, Any] = {"inputs": [], "parameters": dict(call.params)}
        header["parameters"]["binary_data_output"] = self._binary
        if call.id:
            header["id"] = call.id
        if call.outputs is not None:
            header["outputs"] = [
                output if isinstance(output, dict) else {"name": output} for output in call.outputs
            ]
        blobs = []
        for name, tensor in call.inputs.items():
            item: dict[str, Any] = {"name": name, **described(tensor)}
            if isinstance(tensor, Tensor) and self._binary:
                blobs.append(bytes(tensors.to_bytes(tensor)))
                item["parameters"] = {"binary_data_size": len(blobs[-1])}
            elif isinstance(tensor, Tensor):
                item["data"] = tensor.tolist()
            header["inputs"].append(item)
        text = json.dumps(header).encode()
        return b"".join([text, *blobs]), {LENGTH: str(len(text))} if blobs else {}

    @staticmethod
    def read(response: httpx.Response) -> InferAnswer:
        if response.status_code != 200:
            assert [*response.json()] == ["error"]
            assert response.headers["content-type"] == "application/json"
            raise Refused(response.status_code, response.json()["error"])
        at = int(response.headers.get(LENGTH, len(response.content)))
        header, outputs = json.loads(response.content[:at]), {}
        for output in header["outputs"]:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            dtype = tensors.DATATYPES[datatype]
            size = output.get("parameters", {}).get("binary_data_size")
            if "data" not in output and size is None:
                continue
            if size is None:
                outputs[name] = torch.tensor(output["data"], dtype=dtype).view(shape)
            else:
                outputs[name] = tensors.from_bytes(
                    name, dtype, shape, response.content[at : at + size]
                )
                at += size
        assert at == len(response.content)
        return InferAnswer(outputs, header)


class Grpc:
    """gRPC, with tensors raw or typed."""

    statuses = tuple(
        getattr(grpc.StatusCode, name)
        for name in (
            *("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"),
            *("UNAVAILABLE", "DEADLINE_EXCEEDED"),
        )
    )

    def __init__(self, channel: grpc.aio.Channel, raw: bool) -> None:
        self.channel = channel
        self._call = channel.unary_unary(
            METHOD.path, response_deserializer=METHOD.response.FromString
        )
        self._raw = raw

    async def infer(self, call: InferCall) -> InferAnswer:
        return self.read(await self.ask(self.write(call).SerializeToString()))

    async def ask(self, request: bytes) -> Any:
        try:
            return await self._call(request, timeout=30)
        except grpc.aio.AioRpcError as refused:
            raise Refused(refused.code(), refused.details() or "") from None

    def write(self, call: InferCall) -> Any:
        request = ModelInferRequest(
            model_name=call.model,
            model_version=call.version,
            id=call.id,
            parameters={name: parameter(value) for name, value in call.params.items()},
            outputs=[in_grpc(output) for output in call.outputs or ()],
        )
        datatypes = {described(tensor)["datatype"] for tensor in call.inputs.values()}
        raw = self._raw or not CONTENTS.keys() >= datatypes
        for name, tensor in call.inputs.items():
            item = request.inputs.add(name=name)
            item.datatype = described(tensor)["datatype"]
            item.shape.extend(described(tensor)["shape"])
            if not isinstance(tensor, Tensor):
                for key, value in tensor.get("parameters", {}).items():
                    item.parameters[key].MergeFrom(InferParameter(**parameter(value)))
                continue
            if raw:
                request.raw_input_contents.append(bytes(tensors.to_bytes(tensor)))
            else:
                getattr(item.contents, CONTENTS[item.datatype]).extend(tensor.flatten().tolist())
        return request

    @staticmethod
    def read(response: Any) -> InferAnswer:
        assert len(response.outputs) == len(response.raw_output_contents)
        outputs = {
            output.name: tensors.from_bytes(
                output.name, tensors.DATATYPES[output.datatype], [*output.shape], data
            )
            for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
            if not output.parameters
        }
        header: dict[str, Any] = {
            name: getattr(response, name) for name in ("model_name", "model_version", "id")
        }
        header["outputs"] = [
            {"name": output.name, "parameters": read_params(output.parameters)}
            for output in response.outputs
        ]
        header["parameters"] = read_params(response.parameters)
        return InferAnswer(outputs, header)


def described(tensor: Tensor | dict[str, Any]) -> dict[str, Any]:
    if isinstance(tensor, dict):
        return tensor
    return {"datatype": tensors.NAMES[tensor.dtype], "shape": [*tensor.shape]}


def parameter(value: bool | int | float | str) -> dict[str, Any]:
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return {fields[type(value)]: value}


def in_grpc(output: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(output, str):
        return {"name": output}
    params = {name: parameter(value) for name, value in output.get("parameters", {}).items()}
    return {"name": output["name"], "parameters": params}


ENCODINGS = ("json", "binary", "raw", "typed")


class Service(NamedTuple):
    """A service in this process, and its clients."""

    oip_state: OipState
    encodings: dict[str, Http | Grpc]
    client: httpx.AsyncClient
    grpc_target: str


@asynccontextmanager
async def all_encodings(**settings: Any) -> AsyncIterator[dict[str, Http | Grpc]]:
    """Run the service in this process, with a client of each encoding."""
    async with serving(**settings) as service:
        yield service.encodings


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Service]:
    """Run the service in this process."""
    threads = torch.get_num_threads()
    chosen = Settings(device="cpu", log_level="warning", grpc_port=free_port(), **LIMITS | settings)
    lifecycle = Lifecycle()
    handler, device_threads = build_service(chosen, lifecycle)
    oip_state = OipState(handler, lifecycle)
    limit = ResidentLimit(handler.admission.max_bytes)
    server = GrpcServer(
        chosen, lifecycle, grpc_methods(oip_state), handler.metrics, limit, handler.gate
    )
    async with (
        lifespan(oip_state, device_threads),
        asking(build_app(oip_state, device_threads)) as client,
    ):
        await server.open()
        target = f"127.0.0.1:{chosen.grpc_port}"
        async with grpc.aio.insecure_channel(target) as channel:
            encodings = {
                "json": Http(client, binary=False),
                "binary": Http(client, binary=True),
                "raw": Grpc(channel, raw=True),
                "typed": Grpc(channel, raw=False),
            }
            yield Service(oip_state, encodings, client, target)
        await server.close(0)
    torch.set_num_threads(threads)
