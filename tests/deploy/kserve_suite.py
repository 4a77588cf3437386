"""deploy/kserve with the types and the clients of KServe's SDK; test_kserve.py runs this file.

It needs its own process, because KServe and tritonclient register the same protobuf messages.
"""

import asyncio
import copy
import os

import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from tests.deploy.kserve_models import schema_errors
from tests.deploy.manifests.kserve import load, services

URL, TARGET = os.environ.get("OIP_HTTP", ""), os.environ.get("OIP_GRPC", "")
KEY = {"authorization": f"Bearer {os.environ['OIP_KEY']}"} if "OIP_KEY" in os.environ else {}
FILES = ["serving-runtime", "cluster-serving-runtime", *services()]
needs_service = pytest.mark.skipif(not URL, reason="no service")
needs_sessions = pytest.mark.skipif(not KEY, reason="no sessions")


@pytest.mark.parametrize("name", FILES)
def test_a_file_fits_the_types_of_kserve(name):
    assert schema_errors(load(name)) == []


@pytest.mark.parametrize(
    ("name", "path", "value", "expected"),
    [
        ("serving-runtime", ("spec", "terminationGracePeriodSeconds"), 60, "unknown field"),
        ("serving-runtime", ("spec", "enableServiceLinks"), False, "unknown field"),
        ("serving-runtime", ("spec", "protocolVersion"), ["v2"], "unknown field"),
        ("serving-runtime", ("spec", "containers", 0, "port"), [], "unknown field"),
        ("serving-runtime", ("spec", "containers", 0, "ports", 0, "containerPort"), "8", "no int"),
        ("serving-runtime", ("spec", "containers"), None, "no list"),
        ("serving-runtime", ("kind",), "Runtime", "no model"),
        ("inference-service-cpu", ("spec", "predictor", "minReplica"), 1, "unknown field"),
        ("inference-service-cpu", ("spec", "predictor", "minReplicas"), "1", "no int"),
        ("inference-service-cpu", ("spec", "predictor", "model", "format"), {}, "unknown field"),
        ("serving-runtime", ("spec", "containers", 0, "ports", 0), {"name": "http"}, "container"),
        ("inference-service-cpu", ("apiVersion",), "serving.kserve.io/v1", "no model"),
        (
            "inference-service-sessions",
            ("spec", "predictor", "autoScaling", "metrics", 0, "external", "target", "value"),
            "most",
            "no quantity",
        ),
    ],
)
def test_a_wrong_field_is_found(name, path, value, expected):
    wrong = copy.deepcopy(load(name))
    at = wrong
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert expected in "\n".join(schema_errors(wrong))


def tensor(name, x):
    made = InferInput(name, [*x.shape], {"f": "FP32", "i": "INT64"}[x.dtype.kind])
    made.set_data_from_numpy(x)
    return made


def request(model, parameters=None, **inputs):
    return InferRequest(model, [tensor(*item) for item in inputs.items()], parameters=parameters)


async def over_both(what):
    """Run `what(infer)` over HTTP, then over gRPC; return both results."""
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(TARGET)

    async def infer_rest(each):
        return await rest.infer(URL, each, model_name=each.model_name, headers={**KEY})

    async def infer_grpc(each):
        return await grpc.infer(each, headers=[*KEY.items()])

    try:
        return [await what(infer_rest), await what(infer_grpc)]
    finally:
        await rest.close()
        await grpc.close()


@needs_service
def test_both_ports_rotate():
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 64), dtype=np.float32)
    positions = np.array([[0, 5, 900]])
    angles = positions[0, :, None] / 10000.0 ** (np.arange(0, 64, 2) / 64)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :32], x[..., 32:]
    expected = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    async def rotate(infer):
        response = await infer(request("rope", {"theta": 10000}, q=x, positions=positions))
        return response.get_output_by_name("q").as_numpy()

    for rotated in asyncio.run(over_both(rotate)):
        np.testing.assert_allclose(rotated.reshape(x.shape), expected, atol=2e-4)


@needs_service
def test_health_as_kserve_reads_it():
    async def check():
        rest = InferenceRESTClient(RESTConfig(protocol="v2"))
        grpc = InferenceGRPCClient(TARGET)
        try:
            assert await rest.is_server_live(URL)
            assert await rest.is_server_ready(URL)
            assert await rest.is_model_ready(URL, "rope_attention", headers=KEY)
            assert await grpc.is_server_ready()
            assert await grpc.is_model_ready("rope_attention", headers=[*KEY.items()])
        finally:
            await rest.close()
            await grpc.close()

    asyncio.run(check())


@needs_sessions
def test_a_sequence_keeps_its_tokens():
    rng = np.random.default_rng(0)
    start = {"heads": 2, "kv_heads": 1, "head_dim": 64, "theta": 10000, "max_tokens": 16}

    async def lengths(infer):
        seen = []
        for n in range(3):
            q, k, v = (
                rng.standard_normal((1, 1, heads, 64), dtype=np.float32) for heads in (2, 1, 1)
            )
            parameters = {
                **(start if n == 0 else {}),
                "sequence_id": 7,
                "sequence_start": n == 0,
                "sequence_end": n == 2,
            }
            response = await infer(request("rope_session", parameters, q=q, k=k, v=v))
            seen.append(response.parameters["length"])
        return seen

    for seen in asyncio.run(over_both(lengths)):
        assert [getattr(each, "int64_param", each) for each in seen] == [1, 2, 3]
