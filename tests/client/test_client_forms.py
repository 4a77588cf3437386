"""What callers have at hand is accepted: torch tensors, configs, paths, numbers of numpy."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from rope_client import RopeWarning, calls
from tests.client.test_client_calls import Q, echo, sent

CONFIG = {"model_type": "llama", "head_dim": 64, "rope_theta": 5e5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoding", ["safetensors", "json"])
async def test_a_tensor_of_torch_travels_bit_for_bit(connect, answering, dtype, encoding):
    q = torch.randn(2, 3, 4, 8).to(dtype).transpose(1, 2)  # strides that are not of a plain array
    server = answering(echo)
    answer = await connect(server, encoding=encoding)("rotate", q=q, positions=torch.arange(4))
    expected = {torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}.get(dtype)
    assert answer.q.dtype == (expected or np.dtype(str(dtype).removeprefix("torch.")))
    np.testing.assert_array_equal(answer.q.astype(np.float32), q.float().numpy())
    assert sent(server.requests[0]).tensors["positions"].dtype == np.int64


def test_a_tensor_is_not_copied_before_it_is_encoded():
    for dtype in (torch.float32, torch.bfloat16):
        q = torch.zeros(1, 2, 1, 4, dtype=dtype)
        array = calls.rotate(q).message.tensors["q"]
        assert array.ctypes.data == q.data_ptr()


def test_a_negated_view_and_a_subclass_are_tensors():
    x = torch.randn(4, dtype=torch.complex64)
    q = x.conj().imag  # a view with the bit that negates
    np.testing.assert_array_equal(calls.rotate(q).message.tensors["q"], -x.imag.numpy())
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    np.testing.assert_array_equal(calls.rotate(parameter).message.tensors["q"], [1, 1])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int8])
def test_a_dtype_that_the_api_lacks_is_refused_by_name(dtype):
    with pytest.raises(TypeError, match=rf"k must be one of float64, .*, got {dtype}"):
        calls.rotate(Q, torch.zeros(2).to(dtype))


async def test_a_tensor_that_requires_grad_is_detached_with_a_warning(connect, answering):
    q = torch.ones(1, 2, 1, 4, requires_grad=True)
    ask = connect(answering(echo))
    with pytest.warns(RopeWarning, match=r"q requires grad.*pass q\.detach\(\)"):
        answer = await ask("rotate", q=q * 2)
    np.testing.assert_array_equal(answer.q, np.full((1, 2, 1, 4), 2))
    await ask("rotate", q=q.detach())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("form", ["mapping", "object", "path", "text", "folder"])
def test_a_config_in_any_form_is_sent_as_a_mapping(tmp_path, form, nested):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    model = LlamaConfig(head_dim=64)
    given = {
        "mapping": CONFIG,
        "object": model,
        "path": file,
        "text": str(file),
        "folder": tmp_path,
    }[form]
    if form == "mapping" and not nested:
        given = {"config": given}
    rope = {"config": given, "layer": 1} if nested else given
    expected = model.to_dict() if form == "object" else CONFIG
    if nested:
        assert calls.resolve(rope).message.params["rope"] == {"config": expected, "layer": 1}
    else:
        assert calls.resolve(rope).message.params["rope"] == {"config": expected}


@pytest.mark.parametrize("rope", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B", {"theta": 5.0}, {}])
def test_names_and_parameters_are_sent_as_they_are(rope):
    assert calls.rotate(Q, rope=rope).message.params["rope"] == rope


@pytest.mark.parametrize(
    ("rope", "error", "text"),
    [
        (7, TypeError, r"rope must be a mapping, a config with to_dict\(\), .* got int"),
        ({"config": 7}, TypeError, r"rope\['config'\] must be a mapping"),
        ("missing/config.json", FileNotFoundError, "missing/config.json"),
    ],
)
def test_a_rope_of_another_type_is_refused(rope, error, text):
    with pytest.raises(error, match=text):
        calls.resolve(rope)


@pytest.mark.parametrize("content", ["no json", "[1]", "7", "\xff"])
def test_a_file_without_an_object_is_refused(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json must have one JSON object"):
        calls.resolve(file)


@pytest.mark.parametrize("encoding", ["safetensors", "json"])
async def test_numbers_of_numpy_are_parameters(connect, answering, encoding):
    server = answering(echo)
    rope = {"theta": np.float32(500), "mrope_section": np.array([1, 2, 1])}
    await connect(server, encoding=encoding)("rotate", q=Q, rope=rope)
    assert sent(server.requests[0]).params["rope"] == {"theta": 500, "mrope_section": [1, 2, 1]}
    with pytest.raises(TypeError, match="parameters must be JSON values, got set"):
        await connect(server, encoding=encoding)("rotate", q=Q, rope={"theta": {1}})


def test_the_first_arguments_have_no_names():
    for method, arguments, names in (
        ("rotate", (Q, Q), ["k", "q"]),
        ("attention", (Q, Q, Q), ["k", "q", "v"]),
        ("cos_sin", ([0, 1],), ["positions"]),
        ("shift", (Q, 1), ["delta", "k"]),
        ("merge", (Q, Q[..., 0]), ["lse", "out"]),
    ):
        options = {"rope": "x"} if method == "cos_sin" else {}
        call = getattr(calls, method)(*arguments, **options)
        assert sorted(call.message.tensors) == names
    assert calls.resolve("x").message.params == {"rope": "x"}
    assert calls.positions("b", length=3).message.params["builder"] == "b"
