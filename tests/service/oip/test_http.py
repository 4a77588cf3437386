"""The Open Inference Protocol over HTTP: the answers of `/v1`, in the protocol's form."""

import gzip
import json
import math
import zlib

import numpy as np
import pytest
import torch

from service.oip.infer import tensors
from service.oip.infer.models import MODELS
from service.wire import NO_PARAMETERS, Message, Parameters, safetensors_codec
from tests.service.conftest import post

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LENGTH = "inference-header-content-length"
Q, K, V = (
    torch.randn(2, 3, heads, 8, generator=torch.Generator().manual_seed(heads))
    for heads in (4, 2, 1)
)
V = V.expand(2, 3, 2, 8)


def infer_request(inputs, binary, outputs=None, **fields):
    """Return body and headers of a request; tensors named in `binary` travel as bytes."""
    header = {"inputs": [], **fields} | ({} if outputs is None else {"outputs": outputs})
    blobs = []
    for name, tensor in inputs.items():
        head = {"name": name, "shape": [*tensor.shape], "datatype": tensors.NAMES[tensor.dtype]}
        if name in binary:
            blobs.append(bytes(tensors.to_bytes(tensor)))
            head["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            head["data"] = tensor.tolist()
        header["inputs"].append(head)
    text = json.dumps(header).encode()
    return b"".join([text, *blobs]), {LENGTH: str(len(text))} if blobs else {}


def read_response(response):
    """Return the tensors of a response, and its JSON part."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    header, at, outputs = json.loads(response.content[:length]), length, {}
    for output in header["outputs"]:
        dtype, shape = tensors.DATATYPES[output["datatype"]], output["shape"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = torch.tensor(output["data"], dtype=dtype).view(shape)
        else:
            data = response.content[at : at + size]
            outputs[output["name"]] = tensors.from_bytes(output["name"], dtype, shape, data)
            at += size
    assert at == len(response.content)
    return outputs, header


async def of_v1(client, path, inputs, **params):
    response = await post(client, safetensors_codec, path, Message(inputs, Parameters.of(params)))
    assert response.status_code == 200, response.text
    return safetensors_codec.decode(response.content).message.tensors


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary", [(), ("q",), ("q", "positions")], ids=len)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_rope_rotates_as_v1(client, dtype, binary, binary_out):
    x, positions = Q.to(dtype), torch.tensor([[0, 5, 2], [9, 9, 1]])
    body, headers = infer_request(
        {"q": x, "positions": positions},
        binary,
        [{"name": "q", "parameters": {"binary_data": binary_out}}],
        id="a b",
        parameters={"layout": "interleaved", "theta": 500.0, "rotary_dim": 4, "inverse": True},
    )
    response = await client.post("/v2/models/rope/infer", content=body, headers=headers)
    outputs, header = read_response(response)
    rope = {"layout": "interleaved", "theta": 500.0, "rotary_dim": 4}
    expected = await of_v1(
        client, "/v1/rotate", {"q": x, "positions": positions}, rope=rope, inverse=True
    )
    assert torch.equal(outputs["q"], expected["q"])
    assert (header["id"], header["model_name"], header["model_version"]) == ("a b", "rope", "1")
    assert (LENGTH in response.headers) is binary_out
    kind = "application/octet-stream" if binary_out else "application/json"
    assert response.headers["content-type"] == kind


async def test_numbers_that_are_not_finite_are_read_and_written(client):
    x = torch.tensor([math.nan, math.inf, 1.0, -math.inf]).view(1, 1, 1, 4)
    body, _ = infer_request({"q": x}, ())
    response = await client.post("/v2/models/rope/infer", content=body)
    rotated = read_response(response)[0]["q"].flatten()
    assert rotated[[0, 2]].isnan().all()  # elements 0 and 2 are a pair
    assert b"NaN" in response.content


async def test_the_worked_example_of_the_protocol(client):
    text = (
        b'{"id":"r1","inputs":[{"name":"q","shape":[1,2,1,4],"datatype":"FP32","parameters":'
        b'{"binary_data_size":32}},{"name":"positions","shape":[1,2],"datatype":"INT64","data":'
        b'[0,1]}],"outputs":[{"name":"q","parameters":{"binary_data":true}}]}'
    )
    body = text + np.arange(8, dtype="<f4").tobytes()
    headers = {LENGTH: f" {len(text)} ", "content-type": "application/x-www-form-urlencoded"}
    response = await client.post("/v2/models/rope/infer", content=body, headers=headers)
    rotated = read_response(response)[0]["q"].flatten().tolist()
    expected = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]
    assert rotated == pytest.approx(expected, rel=1e-6)


async def test_metadata_of_the_service_and_its_models(client):
    assert (await client.get("/v2")).json()["name"] == "rope-service"
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    for name in ("rope", "rope_attention", "rope_cos_sin"):
        metadata = (await client.get(f"/v2/models/{name}")).json()
        config = (await client.get(f"/v2/models/{name}/config")).json()
        for key, config_key in (("inputs", "input"), ("outputs", "output")):
            names = [tensor["name"] for tensor in metadata[key]]
            assert names == [tensor["name"] for tensor in config[config_key]]
        assert metadata["versions"] == ["1"]
        assert config["max_batch_size"] == 0
    index = (await client.post("/v2/repository/index")).json()
    assert [model["name"] for model in index] == ["rope", "rope_attention", "rope_cos_sin"]


X = {"name": "q", "shape": [1, 1, 1, 2], "datatype": "FP32", "data": [1, 2]}
BINARY = X | {"parameters": {"binary_data_size": 8}}
del BINARY["data"]
NUM_BINARY = len(json.dumps({"inputs": [BINARY]}))
WRONG = {
    "malformed JSON": (b"{", {}, "not JSON"),
    "a list": (b"[]", {}, "must be an object"),
    "no inputs": ({}, {}, "inputs must be a list"),
    "inputs that are an object": ({"inputs": {}}, {}, "inputs must be a list"),
    "an empty list of inputs": ({"inputs": []}, {}, "missing required tensor 'q' or 'k'"),
    "an id that is a number": ({"inputs": [X], "id": 7}, {}, "id must be text"),
    "an id that is 0": ({"inputs": [X], "id": 0}, {}, "id must be text"),
    "parameters that are a list": (
        {"inputs": [X], "parameters": []},
        {},
        "parameters must be an object",
    ),
    "outputs that are false": ({"inputs": [X], "outputs": False}, {}, "outputs must be a list"),
    "an unknown input": ({"inputs": [X | {"name": "y"}]}, {}, "unknown input y"),
    "an input twice": ({"inputs": [X, X]}, {}, "input q is given twice"),
    "no datatype": ({"inputs": [{**X, "datatype": None}]}, {}, "q must be of datatype"),
    "a datatype in small letters": ({"inputs": [X | {"datatype": "fp32"}]}, {}, "of datatype"),
    "too few numbers": ({"inputs": [X | {"data": [1]}]}, {}, "q must be 2 elements"),
    "too many numbers": ({"inputs": [X | {"data": [1, 2, 3]}]}, {}, "q must be 2 elements"),
    "booleans": ({"inputs": [X | {"data": [True, 2]}]}, {}, "q must be made of numbers"),
    "text": ({"inputs": [X | {"data": ["1", 2]}]}, {}, "q must be made of numbers"),
    "data that is an object": ({"inputs": [X | {"data": {}}]}, {}, "data of q must be a list"),
    "a negative dim": ({"inputs": [X | {"shape": [-1]}]}, {}, "non-negative integers"),
    "a dim that is no integer": ({"inputs": [X | {"shape": [1.5]}]}, {}, "non-negative integers"),
    "a dim that is true": ({"inputs": [X | {"shape": [True]}]}, {}, "non-negative integers"),
    "a product that overflows": ({"inputs": [X | {"shape": [2**40, 2**40]}]}, {}, "2**63"),
    "a huge sibling of 0": ({"inputs": [X | {"shape": [2**62, 0, 1, 8]}]}, {}, "2**63"),
    "a wrong rank": ({"inputs": [X | {"shape": [2]}]}, {}, "[B, S, H, D]"),
    "positions of floats": (
        {"inputs": [X, {"name": "positions", "shape": [1], "datatype": "INT64", "data": [0.5]}]},
        {},
        "positions must be made of integers",
    ),
    "positions of heads": (
        {
            "inputs": [
                X | {"shape": [1, 4, 6, 2], "data": [0] * 48},
                {"name": "positions", "shape": [6], "datatype": "INT32", "data": [*range(6)]},
            ]
        },
        {},
        "q has 4 tokens in axis S (shape [B=1, S=4, H=6, D=2]); positions has 6: are the axes "
        '[B, H, S, D]? Then send "tensor_layout": "bhsd"',
    ),
    "both kinds of data": (
        {"inputs": [X | {"parameters": {"binary_data_size": 8}}]},
        {},
        "q must be given once",
    ),
    "no data": ({"inputs": [{n: X[n] for n in X if n != "data"}]}, {}, "q must be given once"),
    "a blob that is not there": ({"inputs": [BINARY]}, {}, "q must be of a binary_data_size"),
    "an unknown output": ({"inputs": [X], "outputs": [{"name": "y"}]}, {}, "unknown output y"),
    "an output twice": (
        {"inputs": [X], "outputs": [{"name": "q"}] * 2},
        {},
        "q is listed twice",
    ),
    "classification": (
        {"inputs": [X], "outputs": [{"name": "q", "parameters": {"classification": 1}}]},
        {},
        "classification",
    ),
    "an unknown parameter": (
        {"inputs": [X], "parameters": {"bse": 1}},
        {},
        "unknown parameter bse",
    ),
    "a parameter that is a list": (
        {"inputs": [X], "parameters": {"theta": [1]}},
        {},
        "theta must be text (JSON text for a list or an object), a boolean or a number, got a list",
    ),
    "a rope that is an object": (
        {"inputs": [X], "parameters": {"rope": {"theta": 5e5}}},
        {},
        "rope must be the name of a preset or JSON text, such as '{\"theta\": 500000.0}', "
        "got an object",
    ),
    "a rope that is a list": ({"inputs": [X], "parameters": {"rope": []}}, {}, "JSON text"),
    "a rope that is null": ({"inputs": [X], "parameters": {"rope": None}}, {}, "JSON text"),
    "a theta of 0": ({"inputs": [X], "parameters": {"theta": 0}}, {}, "theta must be finite"),
    "a rope that is no JSON": (
        {"inputs": [X], "parameters": {"rope": "{"}},
        {},
        "rope must be JSON",
    ),
    "a length that is no number": ({"inputs": [X]}, {LENGTH: "12abc"}, "must be a number of bytes"),
    "a length below 0": ({"inputs": [X]}, {LENGTH: "-1"}, "must be a number of bytes"),
    "a length beyond the body": ({"inputs": [X]}, {LENGTH: "9999"}, "is 9999, but the body has"),
    "binary tensors without the header": (
        json.dumps({"inputs": [BINARY]}).encode() + bytes(range(248, 256)),
        {"content-type": "application/json"},
        f"after {NUM_BINARY} bytes of JSON the body has 8 other bytes: for binary tensors send the "
        f"header Inference-Header-Content-Length: {NUM_BINARY}",
    ),
    "binary tensors that are missing": (
        {"inputs": [BINARY]},
        {},
        "within the 0 bytes left (bytes after the JSON need the header Inference-Header-Content-",
    ),
    "a length that cuts the JSON": (
        {"inputs": [X]},
        {LENGTH: "20"},
        "Inference-Header-Content-Length is 20, but the JSON has",
    ),
    "gzip without its header": (
        gzip.compress(json.dumps({"inputs": [X]}).encode()),
        {},
        "the body seems to be compressed: send the header Content-Encoding: gzip",
    ),
    "zlib without its header": (
        zlib.compress(json.dumps({"inputs": [X]}).encode()),
        {},
        "send the header Content-Encoding: deflate",
    ),
    "safetensors": (
        b"".join(safetensors_codec.encode(Message({"q": torch.ones(1, 1, 1, 2)}, NO_PARAMETERS))),
        {},
        "the body seems to be safetensors, which /v1 reads",
    ),
    "a raw body": ({"inputs": [X]}, {LENGTH: "0"}, "JSON must name them"),
}


@pytest.mark.parametrize(("body", "headers", "text"), WRONG.values(), ids=WRONG)
async def test_bad_input_is_an_error_of_one_line(client, body, headers, text):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post("/v2/models/rope/infer", content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    assert [*error] == ["error"]
    assert text in error["error"]
    assert "\n" not in error["error"]


async def test_octets_without_the_length_of_the_json_name_the_header(client):
    json_part = json.dumps({"inputs": [BINARY]}).encode()
    for body in (json_part + bytes(range(248, 256)), b"{", b"\x93NUMPY"):
        headers = {"content-type": "application/octet-stream"}
        response = await client.post("/v2/models/rope/infer", content=body, headers=headers)
        assert response.status_code == 415
        assert "Inference-Header-Content-Length" in response.json()["error"]


FLOATS = "FP32, FP16 or BF16"
POSITIONS = "INT64, INT32, FP32 or FP64"
TAKEN = {  # the datatypes of each input, in the words of an error
    **dict.fromkeys(("q", "k", "v", "sinks"), FLOATS),
    **dict.fromkeys(("positions", "q_positions", "k_positions"), POSITIONS),
    **dict.fromkeys(("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"), "INT64 or INT32"),
    **dict.fromkeys(("q_index", "k_index"), "INT64 or INT32"),
    "mask": "BOOL, FP32, FP16 or BF16",
    "frequencies": "FP32 or FP64",
}
DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_other_datatypes_are_refused_with_those_that_are_taken(client, model):
    for name in [slot.name for slot in model.inputs]:
        refused = [d for d in DATATYPES if d not in TAKEN[name].replace(" or", ",").split(", ")]
        assert len(refused) >= 10
        for datatype in refused:
            item = {"name": name, "shape": [1], "datatype": datatype, "data": [1]}
            response = await client.post(
                f"/v2/models/{model.name}/infer", content=json.dumps({"inputs": [item]})
            )
            text = f"{name} must be of datatype {TAKEN[name]}, got {datatype}"
            assert (response.status_code, response.json()) == (400, {"error": text})


async def test_bytes_that_do_not_fit_their_shape_are_refused(client):
    good, headers = infer_request({"q": Q}, ("q",))
    for body in (good[:-1], good + b"\0"):
        response = await client.post("/v2/models/rope/infer", content=body, headers=headers)
        assert response.status_code == 400
        assert [*response.json()] == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/rope/versions/2", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/rope/versions/7/infer", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/rope/infer", 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/repository/models/rope/load", 503),
        ("POST", "/v2/systemsharedmemory/region/r/register", 501),
    ],
)
async def test_unknown_routes_and_methods(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == status
    assert [*response.json()] == ["error"]


async def test_requests_and_answers_over_a_limit_are_refused(client):
    """Of a JSON part and of an answer in JSON: the tests' limit is 2**18 bytes."""
    x = torch.zeros(1, 2**10, 1, 128)
    binary = [{"name": "q", "parameters": {"binary_data": True}}]
    for outputs, status in ((None, 413), (binary, 200)):
        body, headers = infer_request({"q": x}, ("q",), outputs)
        response = await client.post("/v2/models/rope/infer", content=body, headers=headers)
        assert response.status_code == status
    headers = {LENGTH: str(2**18 + 1)}
    response = await client.post("/v2/models/rope/infer", content=b" " * 2**19, headers=headers)
    assert response.status_code == 413
    assert [*response.json()] == ["error"]
