"""A client that openapi-python-client generates from the OpenAPI document works."""

import importlib
import io
import json
import pkgutil
import subprocess
import sys

import httpx
import numpy as np
import pytest

NAME = "generated_rope_client"
CONFIG = {
    "http_timeout": 60,
    # the generator does not know this media type
    "content_type_overrides": {"application/x-safetensors": "application/octet-stream"},
    "post_hooks": [],
}
X = [[[[0.0, 1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0, 7.0]]]]
ROTATED = [0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492]


@pytest.fixture(scope="module")
def generated(server_url, tmp_path_factory):
    """Import a name of the package: `generated("api.rope.rotate")`."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    command += ["--url", f"{server_url}/openapi.json", "--config", folder / "config.json"]
    command += ["--meta", "none", "--output-path", folder / NAME]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"{NAME}.{name}")
    sys.path.remove(str(folder))


@pytest.fixture
def models(generated):
    return generated("models")


@pytest.fixture
def client(generated, server_url):
    with generated("client").Client(server_url, raise_on_unexpected_status=True) as client:
        yield client


def test_all_modules_import_and_every_operation_has_one(generated, server_url):
    package = generated("api")
    modules = {module.name for module in pkgutil.walk_packages(package.__path__, f"{NAME}.api.")}
    for name in modules:
        importlib.import_module(name)
    document = httpx.get(f"{server_url}/openapi.json").json()
    for methods in document["paths"].values():
        for operation in methods.values():
            tag = operation["tags"][0].lower().replace(" ", "_")
            assert f"{NAME}.api.{tag}.{operation['operationId']}" in modules


def test_rotate_over_v1(generated, models, client):
    rotate = generated("api.rope.rotate")
    body = models.RotateRequest(q=X, rope=models.Rope(theta=10000.0))
    answer = rotate.sync(client=client, body=body)
    assert answer.q.dtype == "float32"
    assert answer.q.shape == [1, 2, 1, 4]
    assert answer.q.data == pytest.approx(ROTATED, rel=1e-6)


async def test_attention_with_the_config_of_a_model(generated, models, server_url):
    """Unset parameters are not sent: the model's config decides `causal`."""
    attention = generated("api.rope.attention")
    config = {"model_type": "modernbert", "hidden_size": 4, "num_attention_heads": 1}
    rope = models.Model.from_dict({"config": config | {"global_rope_theta": 1e4}, "layer": 0})
    body = models.AttentionRequest(q=X, k=X, v=X, rope=rope)
    async with generated("client").Client(server_url) as client:
        answer = await attention.asyncio(client=client, body=body)
    assert isinstance(answer, models.AttentionAnswer), answer
    assert answer.out.data[:4] != pytest.approx(X[0][0][0]), "the first query sees the second key"


def test_errors_have_their_text(generated, models, client):
    rotate = generated("api.rope.rotate")
    body = models.RotateRequest(q=X, rope=models.Rope(theta=0.0))
    problem = rotate.sync(client=client, body=body)
    assert (problem.status, problem.code) == (422, "config")
    infer = generated("api.open_inference_protocol.infer_rope")
    refusal = infer.sync(client=client, body=models.RopeInferRequest(inputs=[]))
    assert "missing required tensor" in refusal.error


def test_inference_over_v2(generated, models, client):
    for name in ("infer_rope", "infer_rope_version"):
        infer = generated(f"api.open_inference_protocol.{name}")
        x = models.RopeInput(
            models.RopeInputName.Q, models.Datatype.FP32, [1, 2, 1, 4], np.arange(8.0).tolist()
        )
        parameters = models.RopeParameters(theta=10000.0, layout=models.RopeParametersLayout.HALF)
        body = models.RopeInferRequest(inputs=[x], id="r1", parameters=parameters)
        version = {"version": "1"} if name.endswith("version") else {}
        answer = infer.sync(client=client, body=body, **version)
        assert (answer.id, answer.model_name) == ("r1", "rope")
        assert answer.outputs[0].name == "q"
        assert answer.outputs[0].shape == [1, 2, 1, 4]
        assert answer.outputs[0].data == pytest.approx(ROTATED, rel=1e-6)


def test_tensors_are_sent_as_bytes(generated, models, client):
    infer = generated("api.open_inference_protocol.infer_rope")
    parameters = models.TensorParameters(binary_data_size=32)
    x = models.RopeInput(
        models.RopeInputName.Q, models.Datatype.FP32, [1, 2, 1, 4], parameters=parameters
    )
    text = json.dumps(models.RopeInferRequest(inputs=[x]).to_dict()).encode()
    body = generated("types").File(io.BytesIO(text + np.arange(8, dtype="<f4").tobytes()))
    answer = infer.sync(client=client, body=body, inference_header_content_length=len(text))
    assert answer.outputs[0].data == pytest.approx(ROTATED, rel=1e-6)


def test_status_and_control_routes(generated, models, client):
    assert generated("api.status.healthz").sync(client=client).status == "alive"
    assert "rope_requests_total" in generated("api.status.metrics").sync(client=client)
    protocol = "api.open_inference_protocol_control"
    assert generated(f"{protocol}.server_live").sync(client=client).live
    assert generated(f"{protocol}.server_ready").sync(client=client).ready
    config = generated(f"{protocol}.model_config").sync(models.ModelName.ROPE, client=client)
    assert [output.name for output in config.output] == ["q", "k"]
    index = generated(f"{protocol}.repository_index").sync(client=client)
    assert {entry.name for entry in index} == {*models.ModelName}
