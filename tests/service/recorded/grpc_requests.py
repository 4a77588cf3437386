"""Requests of gRPC, as serialized messages."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.service.recorded.exchange import REGION_NAME, encode
from tests.service.recorded.http_requests import Case, case
from tests.service.recorded.messages import request_class
from tests.service.recorded.tensors import DTYPES, OIP, heads, integers, raw

CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
KINDS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
X, POSITIONS = heads(1, 3, 2, 8), integers(0, 5, 2).view(1, 3)
QKV = {"q": heads(1, 3, 4, 8), "k": heads(1, 3, 2, 8), "v": heads(1, 3, 2, 8)}


def call(method: str, *requests: Any, **more: Any) -> dict[str, Any]:
    """Return an exchange; a request is a message, or the fields of one."""
    serialized = [
        item
        if isinstance(item, bytes)
        else _message(method, item).SerializeToString(deterministic=True)
        for item in requests
    ]
    return {"method": method, "requests": [encode(item) for item in serialized], **more}


def infer(
    model: str,
    inputs: Mapping[str, Tensor],
    params: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] = (),
    typed: bool = False,
    **fields: Any,
) -> Any:
    """Return a `ModelInferRequest`, with raw tensors unless they are `typed`."""
    names = {dtype: name for name, dtype in OIP.items()}
    request = _message("ModelInfer", {"model_name": model, **fields})
    for name, value in (params or {}).items():
        setattr(request.parameters[name], KINDS[type(value)], value)
    for name in outputs:
        request.outputs.add(name=name)
    for name, tensor in inputs.items():
        datatype = names[tensor.dtype]
        head = request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        if typed:
            getattr(head.contents, CONTENTS[datatype]).extend(tensor.flatten().tolist())
        else:
            request.raw_input_contents.append(raw(tensor))
    return request


def cases() -> Iterator[Case]:
    yield from inferences()
    yield from streams()
    yield from control()
    yield from refused()


def inferences() -> Iterator[Case]:
    both = {"q": X, "positions": POSITIONS}
    for typed in (False, True):
        form = "typed" if typed else "raw"
        plain = infer("rope", both, typed=typed)
        yield case(f"grpc rope {form}", call("ModelInfer", plain))
        named = infer(
            "rope",
            {"q": X},
            {"theta": 500.0, "layout": "interleaved", "inverse": True},
            ("q",),
            typed,
            id="a b",
            model_version="1",
        )
        yield case(f"grpc rope {form} parameters", call("ModelInfer", named))
        pair = infer("rope", {"k": X[:, :, :1], "q": X}, typed=typed)
        yield case(f"grpc rope {form} q and k", call("ModelInfer", pair))
        attention = infer("rope_attention", QKV, typed=typed)
        yield case(f"grpc attention {form}", call("ModelInfer", attention))
        one = infer("rope_attention", QKV, {"window": 2, "lse": False}, ("out",), typed)
        yield case(f"grpc attention {form} one output", call("ModelInfer", one))
        cos_sin = infer(
            "rope_cos_sin", {"positions": integers(0, 1, 2)}, {"head_dim": 8}, (), typed
        )
        yield case(f"grpc cos_sin {form}", call("ModelInfer", cos_sin))
    for dtype in ("float16", "bfloat16"):
        typed_x = {"q": X.to(DTYPES[dtype])}
        yield case(f"grpc rope {dtype}", call("ModelInfer", infer("rope", typed_x)))
    controls = {
        "timeout": 5_000_000,
        "priority": 1,
        "sequence_id": 7,
        "triton_enable_empty_final_response": True,
    }
    yield case("grpc controls", call("ModelInfer", infer("rope", {"q": X}, controls)))
    warned = {"rope": '{"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 2}'}
    yield case("grpc dynamic", call("ModelInfer", infer("rope", {"q": X}, warned)))
    zeros = torch.zeros(1, 480, dtype=torch.int64)
    large = infer("rope", {"q": heads(1, 480, 4, 64), "positions": zeros})
    yield case("grpc large", call("ModelInfer", large), numbers="exact")
    scaling = {"type": "linear", "factor": 2.0, "x": 1}
    config = {"hidden_size": 32, "num_attention_heads": 4, "rope_scaling": scaling}
    warned_request = infer("rope", {"q": X}, {"rope": json.dumps({"config": config})})
    yield case("grpc warning", call("ModelInfer", warned_request))
    yarn = {"rope": '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}'}
    scaled = infer("rope_cos_sin", {"positions": integers(0, 1)}, {"head_dim": 8, **yarn})
    yield case("grpc cos_sin yarn", call("ModelInfer", scaled))
    metadata = [["x-request-id", "my-id.1"]]
    yield case("grpc request id", call("ModelInfer", infer("rope", {"q": X}), metadata=metadata))


def streams() -> Iterator[Case]:
    good, bad = infer("rope", {"q": X}, id="1"), infer("rope", {"q": X}, {"theta": 0}, id="2")
    final = infer("rope", {"q": X}, {"triton_enable_empty_final_response": True}, id="3")
    unknown = infer("nope", {"q": X}, id="4")
    bad_final = infer(
        "rope", {"q": X}, {"theta": 0, "triton_enable_empty_final_response": True}, id="5"
    )
    infers = "ModelStreamInfer"
    yield case("stream nothing", call(infers, stream=True))
    yield case("stream good", call(infers, good, good, stream=True))
    yield case("stream errors", call(infers, good, bad, unknown, b"\xff", good, stream=True))
    yield case("stream final", call(infers, final, good, bad_final, stream=True))
    fails = [["triton_grpc_error", "true"]]
    yield case("stream that fails", call(infers, good, bad, good, stream=True, metadata=fails))


def control() -> Iterator[Case]:
    for method in ("ServerLive", "ServerReady"):
        yield case(f"grpc {method}", call(method, {}))
    yield case("grpc ServerMetadata", call("ServerMetadata", {}), mask_version=True)
    for model in ("rope", "rope_attention", "rope_cos_sin"):
        for method in ("ModelReady", "ModelMetadata", "ModelConfig"):
            yield case(f"grpc {method} {model}", call(method, {"name": model}))
        version = {"name": model, "version": "1"}
        yield case(f"grpc version {model}", call("ModelMetadata", version))
    yield case("grpc statistics", call("ModelStatistics", {}), mask_numbers=True)
    yield case("grpc statistics one", call("ModelStatistics", {"name": "rope"}), mask_numbers=True)
    for ready in (False, True):
        yield case(f"grpc index {ready}", call("RepositoryIndex", {"ready": ready}))
    for verb in ("Load", "Unload"):
        request = call(f"RepositoryModel{verb}", {"model_name": "rope"})
        yield case(f"grpc {verb}", request)
    yield case("grpc trace", call("TraceSetting", {}))
    yield case("grpc trace of a model", call("TraceSetting", {"model_name": "rope"}))
    yield case("grpc logging", call("LogSettings", {}))
    for kind in (
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
    ):
        for fields in ({}, {"name": "r"}):
            yield case(f"grpc {kind} {fields}", call(kind, fields))
    key = {"name": "g", "key": f"/{REGION_NAME}", "offset": 8, "byte_size": 120}
    register, unregister = (
        call("SystemSharedMemoryRegister", key),
        call("SystemSharedMemoryUnregister", {"name": "g"}),
    )
    status = call("SystemSharedMemoryStatus", {})
    yield case("grpc memory", register, status, _from_region(), unregister, status)
    yield case("grpc memory twice", register, register, unregister)
    yield case("grpc memory unknown", call("SystemSharedMemoryStatus", {"name": "nope"}))
    wrong = call("SystemSharedMemoryRegister", {**key, "key": "/etc/passwd"})
    yield case("grpc memory key", wrong)


def refused() -> Iterator[Case]:
    for method in ("ModelInfer", "ModelConfig", "RepositoryIndex"):
        yield case(f"grpc no message {method}", call(method, b"\xff"))
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        yield case(f"grpc unknown model {method}", call(method, {"name": "nope"}))
        yield case(f"grpc unknown version {method}", call(method, {"name": "rope", "version": "2"}))
    yield case("grpc unknown trace", call("TraceSetting", {"model_name": "nope"}))
    settings = _message("LogSettings", {})
    settings.settings["log_info"].bool_param = True
    yield case("grpc change logging", call("LogSettings", settings))
    bad: dict[str, Any] = {
        "model": infer("nope", {"q": X}),
        "version": infer("rope", {"q": X}, model_version="2"),
        "no inputs": infer("rope", {}),
        "input": infer("rope", {"y": X}),
        "output": infer("rope", {"q": X}, outputs=("y",)),
        "parameter": infer("rope", {"q": X}, {"tehta": 1.0}),
        "theta": infer("rope", {"q": X}, {"theta": 0}),
        "rope": infer("rope", {"q": X}, {"rope": 500.0}),
        "output k": infer("rope", {"q": X}, outputs=("k",)),
        "id": infer("rope", {"q": X}, id="a" * 257),
        "timeout": infer("rope", {"q": X}, {"timeout": -1}),
        "positions": infer("rope", {"q": X, "positions": POSITIONS[:, :1]}),
        "too large": infer(
            "rope_cos_sin", {"positions": integers(*range(2**12))}, {"head_dim": 8192}
        ),
    }
    both = infer("rope", {"q": X})
    both.inputs[0].contents.fp32_contents.append(1.0)
    bad["both contents"] = both
    few = infer("rope", {"q": X, "positions": POSITIONS})
    del few.raw_input_contents[1]
    bad["few raw"] = few
    many = infer("rope", {"q": X})
    many.raw_input_contents.append(b"")
    bad["many raw"] = many
    wrong = infer("rope", {"q": X}, typed=True)
    wrong.inputs[0].datatype = "INT64"
    bad["contents"] = wrong
    shape = infer("rope", {"q": X})
    shape.inputs[0].shape[0] = 7
    bad["shape"] = shape
    for name, request in bad.items():
        yield case(f"grpc bad {name}", call("ModelInfer", request))


def _from_region() -> dict[str, Any]:
    request = _message("ModelInfer", {"model_name": "rope"})
    head = request.inputs.add(name="q", datatype="FP32", shape=[1, 2, 1, 4])
    output = request.outputs.add(name="q")
    for item, offset in ((head, 0), (output, 56)):
        item.parameters["shared_memory_region"].string_param = "g"
        item.parameters["shared_memory_byte_size"].int64_param = 32
        item.parameters["shared_memory_offset"].int64_param = offset
    return call("ModelInfer", request)


def _message(method: str, fields: Any) -> Any:
    return request_class(method)(**fields) if isinstance(fields, dict) else fields
