"""Invalid requests by the clients of tritonclient."""

import numpy as np
import pytest
import torch

from tests.service.oip.clients.expected import check_rotated, rotate

X = torch.ones(1, 3, 2, 8)
POSITIONS = torch.arange(3)[None]
HEADS = {"q": X, "k": X, "v": X}

INVALID = {  # model, inputs, other arguments; status, words of the text
    "a model": ("nope", {"q": X}, {}, "404", ["nope"]),
    "a version": ("rope", {"q": X}, {"model_version": "2"}, "404", ["2"]),
    "an input": ("rope", {"q": X, "y": X}, {}, "400", ["y"]),
    "an input of another model": ("rope_attention", {"q": X}, {}, "400", ["q"]),
    "no inputs": ("rope", {}, {}, "400", ["q"]),
    "a missing input": ("rope_attention", {"q": X, "k": X}, {}, "400", ["v"]),
    "only what is optional": ("rope", {"positions": POSITIONS}, {}, "400", ["q"]),
    "an output": ("rope", {"q": X}, {"outputs": ["turned"]}, "400", ["turned"]),
    "an output twice": ("rope", {"q": X}, {"outputs": ["q"] * 2}, "400", ["q"]),
    "a datatype": ("rope", {"q": X.double()}, {}, "400", ["q"]),
    "heads of integers": ("rope", {"q": X.long()}, {}, "400", ["q"]),
    "heads of two datatypes": ("rope_attention", HEADS | {"v": X.half()}, {}, "400", ["v"]),
    "positions of booleans": (
        "rope",
        {"q": X, "positions": POSITIONS > 0},
        {},
        "400",
        ["positions"],
    ),
    "a rank": ("rope", {"q": X[0, 0]}, {}, "400", ["q"]),
    "an odd width": ("rope", {"q": X[..., :7]}, {}, "400", []),
    "positions of another length": (
        *("rope", {"q": X, "positions": POSITIONS[:, :2]}),
        *({}, "400", ["positions"]),
    ),
    "heads that do not divide": (
        *("rope_attention", {"q": torch.ones(1, 3, 3, 8), "k": X, "v": X}),
        *({}, "400", []),
    ),
    "a parameter": ("rope", {"q": X}, {"parameters": {"bse": 1}}, "400", ["bse"]),
    "a parameter of another model": ("rope", {"q": X}, {"parameters": {"causal": True}}, "400", []),
    "a value": ("rope", {"q": X}, {"parameters": {"theta": 0}}, "400", ["theta"]),
    "a kind of value": ("rope", {"q": X}, {"parameters": {"theta": "many"}}, "400", ["theta"]),
    "a layout": ("rope", {"q": X}, {"parameters": {"layout": "none"}}, "400", ["layout"]),
    "a preset": ("rope", {"q": X}, {"parameters": {"rope": "nope-7b"}}, "400", ["nope-7b"]),
    "a rope that is no JSON": ("rope", {"q": X}, {"parameters": {"rope": "{"}}, "400", ["rope"]),
}


@pytest.mark.parametrize(
    ("model", "inputs", "arguments", "status", "words"), INVALID.values(), ids=INVALID
)
def test_an_invalid_request_is_refused(client, refused, model, inputs, arguments, status, words):
    with refused(status, *words):
        client.infer(model, inputs, **arguments)
    assert client.is_server_ready()


def test_a_duplicate_input_is_refused(client, refused):
    x = client.input("q", X)
    with refused("400", "q"):
        client.infer("rope", {"q": x, "again": x})


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [[1, 3, 2, 9], [1, 3, 2, 4], [2**40, 2**40, 1, 8], [-1, 3, 2, 8]])
def test_a_shape_that_does_not_fit_the_data_is_refused(client, refused, shape, binary):
    x = client.input("q", X, binary).set_shape(shape)
    with refused("400", "q"):
        client.infer("rope", {"q": x})


@pytest.mark.parametrize("datatype", ["FP16", "FP64", "fp32", "FLOAT", "TYPE_FP32", "BYTES", ""])
def test_a_datatype_that_does_not_fit_the_data_is_refused(client, refused, datatype):
    x = client.input("q", X)
    if client.wire == "http":
        x._datatype = datatype
    else:
        x._input.datatype = datatype
    with refused("400", "q"):
        client.infer("rope", {"q": x})


def test_classification_is_refused(client, refused):
    with refused("400", "q"):
        client.infer("rope", {"q": X}, [client.output("q", class_count=3)])


def test_an_input_without_data_is_refused(client, refused):
    with refused("400"):
        client.infer("rope", {"q": client.empty_input("q", X)})


def test_an_input_of_texts_is_refused(client, refused):
    x = client.empty_input("q", X)
    if client.wire == "http":
        x._datatype = "BYTES"
    else:
        x._input.datatype = "BYTES"
    x.set_data_from_numpy(np.full(X.shape, b"one", dtype=np.object_))
    with refused("400", "q"):
        client.infer("rope", {"q": x})


def test_an_unknown_region_is_refused(client, refused):
    x = client.empty_input("q", X).set_shared_memory("nowhere", X.nbytes)
    with pytest.raises(Exception, match=r"(?i)shared|nowhere") as failure:
        client.infer("rope", {"q": x})
    codes = ("400", "404", "501", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
    assert failure.value.status().rpartition(".")[2] in codes


def test_an_invalid_request_does_not_affect_concurrent_requests(client):
    good = client.request("rope", {"q": X})
    invalid = client.request("rope", {"q": X[0, 0]})
    answers = client.infer_all([good, invalid] * 8)
    for answer in answers[::2]:
        check_rotated(answer["q"], rotate(X), torch.float32)
    assert all(isinstance(answer, Exception) for answer in answers[1::2])


@pytest.mark.parametrize("kind", ["http", "http.aio"], indirect=True)
def test_a_stale_header_length_is_refused(client, refused):
    """The clients write the length of the JSON part into the caller's own dict."""
    for unused in ("", "long" * 500):  # the stale length is within the next body, and beyond
        headers: dict[str, str] = {}
        client.infer("rope", {"q": X}, parameters={"content_type": unused}, headers=headers)
        headers = {name: str(value) for name, value in headers.items()}
        assert "Inference-Header-Content-Length" in headers
        stale = {"q": X[:, :2]} if unused else {"q": X.expand(4, 3, 2, 8)}
        with refused("400"):
            client.infer("rope", stale, in_json=["q"], headers=headers)
        check_rotated(client.infer("rope", {"q": X})["q"], rotate(X), torch.float32)
