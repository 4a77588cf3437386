"""Every form of the protocol, by one face: `infer` of a model with tensors, and its answer."""

import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

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
from service.server.app import build_app, build_service, lifespan
from service.settings import Settings
from tests.service.conftest import asking

LENGTH = "inference-header-content-length"
METHOD = METHODS["ModelInfer"]
LIMITS = {"max_body_bytes": 2**20, "max_json_bytes": 2**18}


@dataclass(frozen=True)
class PreparedCall:
    """A request; `inputs` are tensors, or documents of the protocol with its keys."""

    model: str
    inputs: Mapping[str, Tensor | dict[str, Any]]
    params: Mapping[str, Any] = field(default_factory=dict)
    outputs: list[str | dict[str, Any]] | None = None
    id: str = ""
    version: str = ""


@dataclass(frozen=True)
class OutputTensor:
    """An answer."""

    outputs: dict[str, Tensor]
    head: dict[str, Any]


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

    async def infer(self, asked: PreparedCall) -> OutputTensor:
        body, headers = self.write(asked)
        version = f"/versions/{asked.version}" if asked.version else ""
        path = f"/v2/models/{asked.model}{version}/infer"
        return self.read(await self._client.post(path, content=body, headers=headers))

    def write(self, asked: PreparedCall) -> tuple[bytes, dict[str, str]]:
        header: dict[str, Any] = {"inputs": [], "parameters": dict(asked.params)}
        header["parameters"]["binary_data_output"] = self._binary
        if asked.id:
            header["id"] = asked.id
        if asked.outputs is not None:
            header["outputs"] = [
                each if isinstance(each, dict) else {"name": each} for each in asked.outputs
            ]
        blobs = []
        for name, tensor in asked.inputs.items():
            head: dict[str, Any] = {"name": name, **described(tensor)}
            if isinstance(tensor, Tensor) and self._binary:
                blobs.append(bytes(tensors.to_bytes(tensor)))
                head["parameters"] = {"binary_data_size": len(blobs[-1])}
            elif isinstance(tensor, Tensor):
                head["data"] = tensor.tolist()
            header["inputs"].append(head)
        text = json.dumps(header).encode()
        return b"".join([text, *blobs]), {LENGTH: str(len(text))} if blobs else {}

    @staticmethod
    def read(response: httpx.Response) -> OutputTensor:
        if response.status_code != 200:
            assert [*response.json()] == ["error"]
            assert response.headers["content-type"] == "application/json"
            raise Refused(response.status_code, response.json()["error"])
        at = int(response.headers.get(LENGTH, len(response.content)))
        header, found = json.loads(response.content[:at]), {}
        for output in header["outputs"]:
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            dtype = tensors.DATATYPES[datatype]
            size = output.get("parameters", {}).get("binary_data_size")
            if "data" not in output and size is None:
                continue
            if size is None:
                found[name] = torch.tensor(output["data"], dtype=dtype).view(shape)
            else:
                found[name] = tensors.from_bytes(
                    name, dtype, shape, response.content[at : at + size]
                )
                at += size
        assert at == len(response.content)
        return OutputTensor(found, header)


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

    async def infer(self, asked: PreparedCall) -> OutputTensor:
        return self.read(await self.ask(self.write(asked).SerializeToString()))

    async def ask(self, request: bytes) -> Any:
        try:
            return await self._call(request, timeout=30)
        except grpc.aio.AioRpcError as refused:
            raise Refused(refused.code(), refused.details() or "") from None

    def write(self, asked: PreparedCall) -> Any:
        request = ModelInferRequest(
            model_name=asked.model,
            model_version=asked.version,
            id=asked.id,
            parameters={name: parameter(each) for name, each in asked.params.items()},
            outputs=[in_grpc(each) for each in asked.outputs or ()],
        )
        kinds = [described(each)["datatype"] for each in asked.inputs.values()]
        raw = self._raw or not CONTENTS.keys() >= {*kinds}
        for name, tensor in asked.inputs.items():
            head = request.inputs.add(name=name)
            head.datatype = described(tensor)["datatype"]
            head.shape.extend(described(tensor)["shape"])
            if not isinstance(tensor, Tensor):
                for key, value in tensor.get("parameters", {}).items():
                    head.parameters[key].MergeFrom(InferParameter(**parameter(value)))
                continue
            if raw:
                request.raw_input_contents.append(bytes(tensors.to_bytes(tensor)))
            else:
                getattr(head.contents, CONTENTS[head.datatype]).extend(tensor.flatten().tolist())
        return request

    @staticmethod
    def read(response: Any) -> OutputTensor:
        assert len(response.outputs) == len(response.raw_output_contents)
        found = {
            each.name: tensors.from_bytes(
                each.name, tensors.DATATYPES[each.datatype], [*each.shape], blob
            )
            for each, blob in zip(response.outputs, response.raw_output_contents, strict=True)
            if not each.parameters
        }
        head: dict[str, Any] = {
            n: getattr(response, n) for n in ("model_name", "model_version", "id")
        }
        head["outputs"] = [
            {"name": each.name, "parameters": read_params(each.parameters)}
            for each in response.outputs
        ]
        head["parameters"] = read_params(response.parameters)
        return OutputTensor(found, head)


def described(tensor: Tensor | dict[str, Any]) -> dict[str, Any]:
    if isinstance(tensor, dict):
        return tensor
    return {"datatype": tensors.NAMES[tensor.dtype], "shape": [*tensor.shape]}


def parameter(value: bool | int | float | str) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return {kinds[type(value)]: value}


def in_grpc(output: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(output, str):
        return {"name": output}
    given = {name: parameter(each) for name, each in output.get("parameters", {}).items()}
    return {"name": output["name"], "parameters": given}


SPOKEN = ("json", "binary", "raw", "typed")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@asynccontextmanager
async def speaking(**settings: Any) -> AsyncIterator[dict[str, Http | Grpc]]:
    """Run the service in this process, and speak to it in each way."""
    threads = torch.get_num_threads()
    own = Settings(device="cpu", log_level="warning", grpc_port=free_port(), **LIMITS | settings)
    lifecycle = Lifecycle()
    service, device_threads = build_service(own, lifecycle)
    oip_state = OipState(service, lifecycle)
    door = GrpcServer(own, lifecycle, grpc_methods(oip_state), service.metrics)
    async with (
        lifespan(oip_state, device_threads),
        asking(build_app(oip_state, device_threads)) as client,
    ):
        await door.open()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{own.grpc_port}") as channel:
            yield {
                "json": Http(client, binary=False),
                "binary": Http(client, binary=True),
                "raw": Grpc(channel, raw=True),
                "typed": Grpc(channel, raw=False),
            }
        await door.close(0)
    torch.set_num_threads(threads)
