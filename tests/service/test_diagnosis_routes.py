"""`/v1/diagnose` and `/v1/compare`: what reaches the library, and what comes back."""

import pytest
import torch

import rope_core
from rope_core import AttentionConfig, RopeConfig, ShapeError
from rope_core.diagnosis.result import (
    Diagnosis,
    Difference,
    Explanation,
    Measured,
    NamedMistake,
    WorstElement,
)
from rope_core.hf import Resolved
from service.endpoints import diagnosis
from service.wire import Message
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import params, read_answer

pytestmark = every_test_in_one_loop

T, H, D = 5, 2, 8
HEADS = torch.arange(T * H * D, dtype=torch.float32).view(T, H, D)
LLAMA = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "rope_theta": 5e5}

FOUND = Diagnosis(
    verdict="explained",
    error=Difference(
        relative=0.5,
        max_abs=None,
        tolerance=2e-5,
        first_position=1.0,
        worst=WorstElement(index=(1, 0, 3), expected=1.0, got=2.0),
    ),
    explanations=(
        Explanation(
            mistakes=(
                NamedMistake(code="wrong_base", parameters={"theta": 1e4}, text="A text."),
                NamedMistake(code="layout_swapped", parameters={"layout": "half"}, text="Two."),
            ),
            relative_error=1e-7,
            remedy="Do this.",
            rope={"theta": 1e4, "mrope_section": (1, 2)},
        ),
    ),
    measured=Measured(layout="half", rotary_dim=8, unresolved_pairs=(3,)),
    next_probe="send positions 1 and 4096",
    warnings=("a warning",),
    tensors={"expected": HEADS, "error_by_pair": torch.zeros(4, dtype=torch.float64)},
)


class Recorder:
    """In place of `rope_core.diagnose`."""

    def __init__(self) -> None:
        self.found = FOUND

    def __call__(self, rope, **arguments):
        self.rope, self.arguments = rope, arguments
        return self.found


@pytest.fixture
def library(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(diagnosis, "diagnose", recorder)
    return recorder


async def test_an_answer_has_all_that_the_library_found(shared_client, codec, library):
    message = Message({"before": HEADS, "after": HEADS}, params(rope={"theta": 1e4}))
    response = await post(shared_client, codec, "/v1/diagnose", message, as_base64=True)
    assert response.status_code == 200, response.text
    assert response.headers["server-timing"].startswith("queue;dur=")
    assert "compute;dur=" in response.headers["server-timing"]
    answer = read_answer(codec, response.content)
    assert answer.params.values == {
        "verdict": "explained",
        "error": {
            "relative": 0.5,
            "max_abs": None,
            "tolerance": 2e-5,
            "first_position": 1.0,
            "worst": {"index": [1, 0, 3], "expected": 1.0, "got": 2.0},
        },
        "explanations": [
            {
                "mistakes": [
                    {"code": "wrong_base", "parameters": {"theta": 1e4}, "text": "A text."},
                    {"code": "layout_swapped", "parameters": {"layout": "half"}, "text": "Two."},
                ],
                "relative_error": 1e-7,
                "remedy": "Do this.",
                "rope": {"theta": 1e4, "mrope_section": [1, 2]},
            }
        ],
        "measured": {
            "layout": "half",
            "rotary_dim": 8,
            "slice_start": None,
            "direction": None,
            "gain": None,
            "position_offset": None,
            "position_scale": None,
            "theta": None,
            "rope_type": None,
            "fit": None,
            "unresolved_pairs": [3],
        },
        "next_probe": "send positions 1 and 4096",
        "warnings": ["a warning"],
    }
    assert torch.equal(answer.tensors["expected"], HEADS)
    assert answer.tensors["error_by_pair"].dtype is torch.float64


async def test_parameters_of_a_rope_are_a_value_of_the_library(shared_client, codec, library):
    positions = torch.arange(T)
    message = Message(
        {"before": HEADS, "after": HEADS, "positions": positions},
        params(rope={"theta": 5.0}, max_mistakes=1, tolerance=0.25),
    )
    assert (await post(shared_client, codec, "/v1/diagnose", message)).status_code == 200
    assert library.rope == RopeConfig.of(D, theta=5.0)
    assert library.arguments.keys() == {
        "before",
        "after",
        "positions",
        "max_mistakes",
        "tolerance",
    }
    assert torch.equal(library.arguments["positions"], positions)
    assert (library.arguments["max_mistakes"], library.arguments["tolerance"]) == (1, 0.25)


async def test_a_model_reaches_the_library_with_its_options(shared_client, codec, library):
    rope = {"config": LLAMA, "layer": 0, "arithmetic": "float64"}
    message = Message({"inv_freq": torch.ones(4)}, params(rope=rope))
    assert (await post(shared_client, codec, "/v1/diagnose", message)).status_code == 200
    assert library.rope == {**rope, "compat": "5.23"}
    assert (
        rope_core.resolve(library.rope).rope == rope_core.resolve(LLAMA, arithmetic="float64").rope
    )
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    rope = {"config": {**LLAMA, "rope_scaling": scaling}, "length": 5000}
    message = Message({"inv_freq": torch.ones(4)}, params(rope=rope))
    assert (await post(shared_client, codec, "/v1/diagnose", message)).status_code == 200
    assert isinstance(library.rope, Resolved)
    assert dict(library.rope.rope.parameters)["length"] == 5000


ATTENTION = {"causal": False, "softcap": 2.0, "rotate": "q", "q_offset": 3, "k_offset": 1}


async def test_attention_reaches_the_library_in_its_own_layout(shared_client, codec, library):
    heads = torch.randn(1, H, T, D)
    tensors = {**dict.fromkeys(("q", "k", "v", "out"), heads), "lse": heads[..., 0]}
    tensors["positions"] = torch.arange(T)
    library.found = Diagnosis(
        verdict="agrees", error=FOUND.error, tensors={"expected": heads.transpose(1, 2)}
    )
    message = Message(
        tensors, params(rope={"config": LLAMA}, tensor_layout="bhsd", window=4, **ATTENTION)
    )
    response = await post(shared_client, codec, "/v1/diagnose", message, as_base64=True)
    assert response.status_code == 200, response.text
    assert torch.equal(read_answer(codec, response.content).tensors["expected"], heads)
    got = library.arguments
    for name in ("q", "k", "v", "out"):
        assert torch.equal(got[name], heads.transpose(1, 2)), name
    assert torch.equal(got["lse"], heads[..., 0].transpose(1, 2))
    assert got["attention"] == AttentionConfig(causal=False, softcap=2.0, window=4)
    assert got["rotate"] == "q"
    assert "k_positions" not in got, "positions are those of the side that rotates"
    assert torch.equal(got["q_positions"], torch.arange(T))
    assert got["q_index"].tolist() == [3, 4, 5, 6, 7]
    assert got["k_index"].tolist() == [1, 2, 3, 4, 5]


async def test_an_attention_without_a_rope_is_diagnosed(shared_client, codec, library):
    tensors = dict.fromkeys(("q", "k", "v", "out"), HEADS)
    message = Message(tensors, params(rope=None))
    assert (await post(shared_client, codec, "/v1/diagnose", message)).status_code == 200
    assert library.rope is None
    assert library.arguments["attention"] == AttentionConfig()


B = HEADS[None]
REFUSED = [
    ({"before": B, "after": B}, {}, "config", "rope must be given"),
    ({"before": B, "after": B}, {"rope": {}, "causal": True}, "config", "causal must be absent"),
    ({"cos": B, "sin": B}, {"rope": {"head_dim": 8}, "scale": 1.0}, "config", "scale must be abse"),
    ({"before": B, "after": B}, {"rope": {}, "tensor_layout": "bhsd"}, "config", "tensor_layout"),
    ({"before": B, "after": B, "mask": B}, {"rope": {}}, "shape", "mask must be absent"),
    (
        {"before": B, "after": B},
        {"rope": {}, "max_mistakes": 3},
        "config",
        "max_mistakes must be 1",
    ),
    (
        {"before": B, "after": B},
        {"rope": {}, "tolerance": 0.0},
        "config",
        "tolerance must be great",
    ),
    ({"before": B, "after": B}, {"rope": "gemma-3-1b-it"}, "config", "rope.layer_type"),
    ({"cos": B, "sin": B}, {"rope": {}}, "config", "rope.head_dim must be given"),
    ({"before": B, "after": B, "x": B}, {"rope": {}}, "unknown", "tensor x"),
    ({"before": B, "after": B}, {"rope": {}, "other": {}}, "unknown", "parameter other"),
    ({"q": B, "k": B, "v": B, "out": B}, {"rope": {}, "backend": "eager"}, "config", "backend"),
    (
        {"q": B, "k": B, "v": B, "out": HEADS},
        {"rope": {}, "tensor_layout": "bhsd"},
        "shape",
        "out must be [B, H, S, Dv]",
    ),
    (
        {"q": B, "k": B, "v": B, "out": B, "positions": B, "q_positions": B},
        {"rope": {}},
        "shape",
        "'positions' cannot be combined",
    ),
]


@pytest.mark.parametrize(("tensors", "values", "code", "text"), REFUSED, ids=lambda x: str(x)[:20])
async def test_what_is_refused(shared_client, codec, library, tensors, values, code, text):
    message = Message(tensors, params(**values))
    response = await post(shared_client, codec, "/v1/diagnose", message, as_base64=True)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code), problem
    assert text in problem["detail"]


async def test_an_error_of_the_library_is_the_answer(shared_client, codec, library):
    def refuse(*_, **__):
        raise ShapeError("after", "of the shape of before", [1])

    library.__class__.__call__, kept = refuse, library.__class__.__call__
    try:
        message = Message({"before": HEADS, "after": HEADS}, params(rope={}))
        response = await post(shared_client, codec, "/v1/diagnose", message)
    finally:
        library.__class__.__call__ = kept
    assert response.status_code == 422
    assert response.json()["detail"] == "after must be of the shape of before, got [1]"


async def test_a_comparison(shared_client, codec):
    values = {"rope": {"config": LLAMA}, "other": {"theta": 1e4}}
    response = await post(shared_client, codec, "/v1/compare", Message({}, params(**values)))
    answer = read_answer(codec, response.content)
    library = rope_core.compare({"config": LLAMA}, {"theta": 1e4, "head_dim": 8})
    told = answer.params.values
    assert told["summary"] == library.summary
    assert (told["same"], told["first_position"]) == (False, library.first_position)
    theta = next(each for each in told["differences"] if each["parameter"] == "theta")
    assert theta == {"parameter": "theta", "rope": 5e5, "other": 1e4, "config_key": "rope_theta"}
    assert [each["position"] for each in told["angles"]] == [
        each.position for each in library.angles
    ]
    for name, tensor in library.tensors.items():
        assert torch.equal(answer.tensors[name], tensor)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rope": {"head_dim": 8}}, "other must be given"),
        ({"rope": {}, "other": {}}, "head_dim must be given"),
        ({"rope": {"head_dim": 8}, "other": "no-such"}, "other.preset must be"),
        ({"rope": {"head_dim": 8}, "other": "gemma-3-1b-it"}, "other.layer_type must be"),
    ],
    ids=["one", "no width", "preset", "layer"],
)
async def test_a_comparison_that_is_refused(shared_client, codec, values, text):
    response = await post(shared_client, codec, "/v1/compare", Message({}, params(**values)))
    assert response.status_code == 422
    assert text in response.json()["detail"]
