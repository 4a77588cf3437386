"""One request in every form: JSON, header, query and safetensors of `/v1`, `/v2`, gRPC, client."""

import json
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import torch
from torch import Tensor

from rope_client import Client
from service.oip.grpc.codec import read_params
from service.oip.infer.models import MODELS
from service.oip.infer.response import VERSION
from service.wire import Message, Parameters, json_codec, safetensors_codec
from tests.service.messages import read_answer
from tests.service.oip.conftest import ask
from tests.service.recorded.tensors import raw, wire

Answer = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and parameters."""


def in_v1(url: str, model: str, tensors: dict[str, Tensor], rope: Any, form: str) -> Answer:
    """Ask `/v1`: in `json` or `safetensors`, or with the rope in the `query` or a `header`."""
    codec = json_codec if form == "json" else safetensors_codec
    target, headers = url + MODELS[model].endpoint.path, {"content-type": codec.media_type}
    in_body = {} if form in ("query", "header") else {"rope": rope}
    if form == "query":
        target += "?rope=" + quote(json.dumps(rope))
    if form == "header":
        headers["x-rope-params"] = json.dumps({"rope": rope})
    body = b"".join(codec.encode(Message(tensors, Parameters.of(in_body)), True))
    response = httpx.post(target, content=body, headers=headers)
    assert response.status_code == 200, response.text
    message = read_answer(codec, response.content)
    return dict(message.tensors), dict(message.params.values)


def in_v2(
    url: str, model: str, tensors: dict[str, Tensor], rope: dict[str, Any], flat: bool
) -> Answer:
    """Ask `/v2`, with the rope as the text of one parameter, or as parameters of its own."""
    params = _flat(rope) if flat else {"rope": json.dumps(rope)}
    document, contents = post_binary(url, model, tensors, params)
    shapes = {output["name"]: output["shape"] for output in document["outputs"]}
    found = {name: _tensor(content, shapes[name]) for name, content in contents.items()}
    return found, document.get("parameters", {})


def post_binary(
    url: str, model: str, tensors: dict[str, Tensor], params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Ask `/v2` in binary; return the JSON of the answer, and the bytes of its tensors by name."""
    header = {
        "inputs": [wire(name, tensor, binary=True) for name, tensor in tensors.items()],
        "parameters": params | {"binary_data_output": True},
    }
    text = json.dumps(header).encode()
    headers = {"inference-header-content-length": str(len(text))}
    body = text + b"".join(map(raw, tensors.values()))
    response = httpx.post(f"{url}/v2/models/{model}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    at = int(response.headers["inference-header-content-length"])
    document, contents = json.loads(response.content[:at]), {}
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        contents[output["name"]] = response.content[at : at + size]
        at += size
    assert at == len(response.content)
    return document, contents


def in_grpc(
    channel: grpc.Channel, model: str, tensors: dict[str, Tensor], rope: dict[str, Any]
) -> Answer:
    """Ask over gRPC, with the members of the rope as parameters."""
    fields = {float: "double_param", int: "int64_param", str: "string_param"}
    inputs = [wire(name, tensor, binary=True) for name, tensor in tensors.items()]
    response = ask(
        channel,
        "ModelInfer",
        model_name=model,
        model_version=VERSION,
        parameters={name: {fields[type(value)]: value} for name, value in _flat(rope).items()},
        inputs=[{name: item[name] for name in ("name", "datatype", "shape")} for item in inputs],
        raw_input_contents=[*map(raw, tensors.values())],
    )
    data = zip(response.outputs, response.raw_output_contents, strict=True)
    found = {output.name: _tensor(content, [*output.shape]) for output, content in data}
    return found, read_params(response.parameters)


def in_client(url: str, model: str, tensors: dict[str, Tensor], rope: Any) -> Answer:
    """Ask with the client, in its default encoding."""
    method = MODELS[model].endpoint.operation
    with Client(url) as client:
        answer = getattr(client, method)(**tensors, rope=rope)
    values = {name: getattr(answer, name) for name in type(answer).__slots__}
    arrays = {name: torch.tensor(x) for name, x in values.items() if hasattr(x, "dtype")}
    return arrays, {n: x for n, x in values.items() if n not in arrays and x not in (None, ())}


def every_form(
    url: str, channel: grpc.Channel, model: str, tensors: dict[str, Tensor], rope: dict[str, Any]
) -> dict[str, Answer]:
    """Return the answers in all forms. Those that can have a plan are asked three times."""
    answers = {form: in_v1(url, model, tensors, rope, form) for form in ("json", "query", "header")}
    for time in range(3):
        answers[f"safetensors {time}"] = in_v1(url, model, tensors, rope, "safetensors")
        answers[f"/v2 {time}"] = in_v2(url, model, tensors, rope, flat=True)
        answers[f"gRPC {time}"] = in_grpc(channel, model, tensors, rope)
    answers["/v2, one text"] = in_v2(url, model, tensors, rope, flat=False)
    answers["client"] = in_client(url, model, tensors, rope)
    return answers


def _flat(rope: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a rope as parameters of the protocol, which has no lists."""
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value
        for name, value in rope.items()
    }


def _tensor(data: bytes, shape: list[int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
