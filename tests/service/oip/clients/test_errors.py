"""Invalid requests by the clients of tritonclient."""

import numpy as np
import pytest
import torch

from tests.service.oip.clients.expected import check_rotated, rotate

X = torch.ones(1, 3, 2, 8)
POSITIONS = torch.arange(3)[None]
HEADS = {"q": X, "k": X, "v": X}

INVALID = {  # model, inputs, other arguments; status, words of the text
    "a model": ("nope", {"x": X}, {}, "404", ["nope"]),
    "a version": ("rope", {"x": X}, {"model_version": "2"}, "404", ["2"]),
    "an input": ("rope", {"x": X, "y": X}, {}, "400", ["y"]),
    "an input of another model": ("rope_attention", {"x": X}, {}, "400", ["x"]),
    "no inputs": ("rope", {}, {}, "400", ["x"]),
    "a missing input": ("rope_attention", {"q": X, "k": X}, {}, "400", ["v"]),
    "only what is optional": ("rope", {"positions": POSITIONS}, {}, "400", ["x"]),
    "an output": ("rope", {"x": X}, {"outputs": ["turned"]}, "400", ["turned"]),
    "an output twice": ("rope", {"x": X}, {"outputs": ["rotated"] * 2}, "400", ["rotated"]),
    "a datatype": ("rope", {"x": X.double()}, {}, "400", ["x"]),
    "heads of integers": ("rope", {"x": X.long()}, {}, "400", ["x"]),
    "heads of two datatypes": ("rope_attention", HEADS | {"v": X.half()}, {}, "400", ["v"]),
    "positions of booleans": (
        "rope",
        {"x": X, "positions": POSITIONS > 0},
        {},
        "400",
        ["positions"],
    ),
    "a rank": ("rope", {"x": X[0, 0]}, {}, "400", ["x"]),
    "an odd width": ("rope", {"x": X[..., :7]}, {}, "400", []),
    "positions of another length": (
        *("rope", {"x": X, "positions": POSITIONS[:, :2]}),
        *({}, "400", ["positions"]),
    ),
    "heads that do not divide": (
        *("rope_attention", {"q": torch.ones(1, 3, 3, 8), "k": X, "v": X}),
        *({}, "400", []),
    ),
    "a parameter": ("rope", {"x": X}, {"parameters": {"bse": 1}}, "400", ["bse"]),
    "a parameter of another model": ("rope", {"x": X}, {"parameters": {"causal": True}}, "400", []),
    "a value": ("rope", {"x": X}, {"parameters": {"theta": 0}}, "400", ["theta"]),
    "a kind of value": ("rope", {"x": X}, {"parameters": {"theta": "many"}}, "400", ["theta"]),
    "a layout": ("rope", {"x": X}, {"parameters": {"layout": "none"}}, "400", ["layout"]),
    "a preset": ("rope", {"x": X}, {"parameters": {"rope": "nope-7b"}}, "400", ["nope-7b"]),
    "a rope that is no JSON": ("rope", {"x": X}, {"parameters": {"rope": "{"}}, "400", ["rope"]),
}


@pytest.mark.parametrize(
    ("model", "inputs", "arguments", "status", "words"), INVALID.values(), ids=INVALID
)
def test_an_invalid_request_is_refused(client, refused, model, inputs, arguments, status, words):
    with refused(status, *words):
        client.infer(model, inputs, **arguments)
    assert client.is_server_ready()


def test_a_duplicate_input_is_refused(client, refused):
    x = client.input("x", X)
    with refused("400", "x"):
        client.infer("rope", {"x": x, "again": x})


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [[1, 3, 2, 9], [1, 3, 2, 4], [2**40, 2**40, 1, 8], [-1, 3, 2, 8]])
def test_a_shape_that_does_not_fit_the_data_is_refused(client, refused, shape, binary):
    x = client.input("x", X, binary).set_shape(shape)
    with refused("400", "x"):
        client.infer("rope", {"x": x})


@pytest.mark.parametrize("datatype", ["FP16", "FP64", "fp32", "FLOAT", "TYPE_FP32", "BYTES", ""])
def test_a_datatype_that_does_not_fit_the_data_is_refused(client, refused, datatype):
    x = client.input("x", X)
    if client.wire == "http":
        x._datatype = datatype
    else:
        x._input.datatype = datatype
    with refused("400", "x"):
        client.infer("rope", {"x": x})


def test_classification_is_refused(client, refused):
    with refused("400", "rotated"):
        client.infer("rope", {"x": X}, [client.output("rotated", class_count=3)])


def test_an_input_without_data_is_refused(client, refused):
    with refused("400"):
        client.infer("rope", {"x": client.empty_input("x", X)})


def test_an_input_of_texts_is_refused(client, refused):
    x = client.empty_input("x", X)
    if client.wire == "http":
        x._datatype = "BYTES"
    else:
        x._input.datatype = "BYTES"
    x.set_data_from_numpy(np.full(X.shape, b"one", dtype=np.object_))
    with refused("400", "x"):
        client.infer("rope", {"x": x})


def test_an_unknown_region_is_refused(client, refused):
    x = client.empty_input("x", X).set_shared_memory("nowhere", X.nbytes)
    with pytest.raises(Exception, match=r"(?i)shared|nowhere") as failure:
        client.infer("rope", {"x": x})
    codes = ("400", "404", "501", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
    assert failure.value.status().rpartition(".")[2] in codes


def test_an_invalid_request_does_not_affect_concurrent_requests(client):
    good = client.request("rope", {"x": X})
    invalid = client.request("rope", {"x": X[0, 0]})
    answers = client.infer_all([good, invalid] * 8)
    for answer in answers[::2]:
        check_rotated(answer["rotated"], rotate(X), torch.float32)
    assert all(isinstance(answer, Exception) for answer in answers[1::2])


@pytest.mark.parametrize("kind", ["http", "http.aio"], indirect=True)
def test_a_stale_header_length_is_refused(client, refused):
    """The clients write the length of the JSON part into the caller's own dict."""
    for request_id in ("", "long" * 500):  # the stale length is within the next body, and beyond
        headers: dict[str, str] = {}
        client.infer("rope", {"x": X}, request_id=request_id, headers=headers)
        headers = {name: str(value) for name, value in headers.items()}
        assert "Inference-Header-Content-Length" in headers
        stale = {"x": X[:, :2]} if request_id else {"x": X.expand(4, 3, 2, 8)}
        with refused("400"):
            client.infer("rope", stale, in_json=["x"], headers=headers)
        check_rotated(client.infer("rope", {"x": X})["rotated"], rotate(X), torch.float32)
