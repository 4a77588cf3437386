"""Every way to say `rope` over HTTP: the library's own bits, or a text that says why not."""

import asyncio
import gc
import json
import weakref

import httpx
import pytest
import torch

import rope_core
from rope_core import (
    SCHEMES,
    VARIANTS,
    Attend,
    AttentionConfig,
    ConfigError,
    CosSin,
    RopeConfig,
    Rotate,
    Shift,
    positions,
    resolve,
)
from rope_core.presets import built_in
from service.endpoints.rope_params import Rope
from service.endpoints.rope_resolver import MAX_KNOWN, RopeResolver
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from service.wire import CODECS, Codec, Message, Parameters
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.test_routes import params

pytestmark = every_test_in_one_loop

D, TOKENS = 16, 5
ORIGINAL = {"original_max_position_embeddings": 64}
OF_VARIANTS = {
    "default": {},
    "linear": {"factor": 4},
    "ntk": {"factor": 4.0},
    "ntk_alpha": {"alpha": 1000},
    "dynamic": {"factor": 2, "max_position_embeddings": 64},
    "yarn": {"factor": 4, "beta_fast": 20, **ORIGINAL},
    "longrope": {
        "short_factor": [1] * 7 + [2],
        "long_factor": list(range(1, 9)),
        "factor": 8,
        **ORIGINAL,
    },
    "llama3": {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, **ORIGINAL},
    "proportional": {"partial_rotary_factor": 0.5},
    "xpos": {"scale_base": 100},
}
OF_SCHEMES = {
    "mrope": {"mrope_section": [2, 3, 3]},
    "mrope_interleaved": {"mrope_section": [4, 2, 2]},
    "mrope_hw_t": {"mrope_section": [3, 3, 2]},
    "alternating": {},
    "xdrope": {"xdrope_section": [2, 2, 2, 2]},
    "axial": {"axes_dim": [4, 8, 4], "axes_order": [2, 0, 1]},
    "axial_ntk": {"axes_dim": [4, 6, 6], "rope_scale": [1.0, 2.0, 3.0]},
    "axial_alternating": {"axes_order": [1, 0]},
    "axial_split": {},
    "axial_centred": {},
    "axial_log": {"rotary_dim": 12},
    "axial_pixel": {"max_freq": 10},
    "atoms": {
        "num_spatial_pairs": 2,
        "num_uid_pairs": 1,
        "spatial_theta": 100.0,
        "uid_theta": 10.0,
    },
    "timestamps": {},
    "interpolated": {"interpolate_factor": 2.0},
}
PARAMETERS = [
    *({"rope_type": name, **own} for name, own in OF_VARIANTS.items()),
    *({"axes": name, **own} for name, own in OF_SCHEMES.items()),
    {"axes": "mrope", "rope_type": "linear", "factor": 2, "mrope_section": [2, 3, 3]},
    {"theta": 500.0, "rotary_dim": 6, "trailing": True, "negative": True},
    *({"layout": layout} for layout in ("interleaved", "interleaved_to_half", "interleaved_tiled")),
    {"rope_type": "yarn", "factor": 4, "layout": "interleaved", "arithmetic": "hf", **ORIGINAL},
]

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
LLAMA |= {"max_position_embeddings": 2048, "num_hidden_layers": 4}
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"short_factor": [1] * 8, "long_factor": [1] * 8}
GEMMA = {"model_type": "gemma3_text", "head_dim": D, "num_hidden_layers": 12}
GEMMA |= {"hidden_size": 64, "num_attention_heads": 4, "sliding_window": 3}
MODELS = {
    "4.x": {"config": LLAMA | {"rope_theta": 5e5, "rope_scaling": SCALED | ORIGINAL}},
    "5.x": {"config": LLAMA | {"rope_parameters": SCALED | ORIGINAL | {"rope_theta": 5e5}}},
    "float64": {"config": LLAMA, "arithmetic": "float64"},
    "layer": {"config": GEMMA, "layer": 5},
    "layer type": {"config": GEMMA, "layer_type": "sliding_attention"},
    "4.57": {"config": GEMMA, "layer": 0, "compat": "4.57"},
    "model type": {"config": {**LLAMA, "model_type": None}, "model_type": "gpt_neox"},
    "nested": {"config": {"model_type": "gemma3", "text_config": GEMMA}, "layer": 5},
    "length": {
        "config": LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "length": 5000,
    },
    "axes": {
        "config": {
            "model_type": "qwen2_vl",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        }
    },
}


def library(given: dict, num_axes: int | None = None) -> RopeConfig:
    """Return what the library makes of a rope, told by its own functions."""
    if "config" not in given:
        rounding = {"rounding": "activation"} if given.get("arithmetic") == "hf" else {}
        return RopeConfig.of(D, **given, **rounding)
    asked = {name: each for name, each in given.items() if name != "length"}
    rope = resolve(asked.pop("config"), **asked, head_dim=D, num_axes=num_axes).rope
    return rope.at(given["length"]) if "length" in given else rope


def heads(num_heads: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_heads)
    return torch.randn(TOKENS, num_heads, D, generator=generator).to(dtype)


def places(rope: RopeConfig) -> torch.Tensor:
    shape = (TOKENS,) if rope.num_axes == 1 else (rope.num_axes, TOKENS)
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))


def named(given: object) -> str:
    return json.dumps(given)[:60] if isinstance(given, dict) else str(given)


def read(codec: Codec, content: bytes) -> Message:
    """Read an answer; what is a list in JSON is no tensor, but a parameter."""
    if codec.media_type != "application/json":
        return codec.decode(content).message
    members = json.loads(content)
    tensors = {n: each for n, each in members.items() if isinstance(each, dict) and "data" in each}
    others = {n: each for n, each in members.items() if n not in tensors}
    return Message(codec.decode(params(**tensors).key).message.tensors, params(**others))


async def answered(
    client: httpx.AsyncClient, codec: Codec, path: str, message: Message, as_base64: bool = False
) -> Message:
    response = await post(client, codec, path, message, as_base64)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == codec.media_type
    return read(codec, response.content)


@pytest.fixture
def client(shared_client):
    return shared_client


def warnings(message: Message) -> list[str]:
    return message.params.values.get("warnings", [])


async def test_each_variant_and_each_scheme_has_a_case():
    assert OF_VARIANTS.keys() == VARIANTS.keys()
    assert OF_SCHEMES.keys() == SCHEMES.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [*PARAMETERS, *MODELS.values()], ids=named)
async def test_every_form_answers_the_librarys_bits(client, codec, given, dtype):
    rope = library(given, 3 if given is MODELS["axes"] else 1)
    q, k, at = heads(4, dtype), heads(2, dtype), places(rope)
    tensors = {"q": q, "k": k, "positions": at}
    for inverse in (False, True):
        text = params(rope=given, inverse=inverse)
        answer = await answered(client, codec, "/v1/rotate", Message(tensors, text), True)
        expected = rope_core.rotate(Rotate(q, k, rope, at, inverse=inverse))
        assert torch.equal(answer.tensors["q"], expected.q)
        assert torch.equal(answer.tensors["k"], expected.k)

    told = {"rope": given, "causal": True, "window": None, "scale": 0.3}
    message = Message(tensors | {"v": k}, params(**told))
    answer = await answered(client, codec, "/v1/attention", message)
    expected = rope_core.attend(Attend(q, k, k, rope, AttentionConfig(scale=0.3), at, at))
    assert torch.equal(answer.tensors["out"], expected.out)

    wide = given if "config" in given else {"head_dim": D, **given}
    message = Message({"positions": at}, params(rope=wide))
    answer = await answered(client, codec, "/v1/cos_sin", message)
    table = rope_core.cos_sin(CosSin(at, rope))
    assert torch.equal(answer.tensors["cos"], table.cos)
    assert torch.equal(answer.tensors["sin"], table.sin)
    assert ("scale" in answer.tensors) == (table.scale is not None)
    if table.scale is not None:
        assert torch.equal(answer.tensors["scale"], table.scale)
    assert answer.params.values["attention_scaling"] == table.attention_scaling

    answer = await answered(client, codec, "/v1/resolve", Message({}, params(rope=wide)))
    resolved = library(given)  # of no call: its length is none
    assert torch.equal(answer.tensors["inv_freq"], resolved.columns.inv_freq)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "qwen2.5-7b-instruct-yarn"])
async def test_a_preset_is_its_config(client, codec, name):
    at = torch.tensor([0, 3, 40_000])
    resolved = resolve(built_in()[name].config)
    expected = rope_core.cos_sin(CosSin(at, resolved.rope))
    for rope in (name, {"preset": name}, {"config": dict(built_in()[name].config)}):
        message = Message({"positions": at}, params(rope=rope))
        answer = await answered(client, codec, "/v1/cos_sin", message)
        assert torch.equal(answer.tensors["cos"], expected.cos)
        assert torch.equal(answer.tensors["sin"], expected.sin)


async def test_learned_frequencies(client, codec):
    rope = {"config": {"_class_name": "MochiTransformer3DModel", "attention_head_dim": D}}
    learned = torch.randn(3, 4, D // 2, generator=torch.Generator().manual_seed(0))
    q, at = heads(4), torch.randint(0, 9, (3, TOKENS)).float()
    tensors = {"q": q, "positions": at, "frequencies": learned}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    config = resolve(rope["config"], head_dim=D, num_axes=3).rope
    expected = rope_core.rotate(Rotate(q, None, config, at, frequencies=learned))
    assert torch.equal(answer.tensors["q"], expected.q)
    table = {"positions": at, "frequencies": learned}
    answer = await answered(client, codec, "/v1/cos_sin", Message(table, params(rope=rope)))
    expected = rope_core.cos_sin(CosSin(at, config, learned))
    assert torch.equal(answer.tensors["cos"], expected.cos)

    del tensors["frequencies"]
    refusal = await post(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    check(refusal, "frequencies must be given")
    unasked = {"q": q, "frequencies": learned}
    check(await post(client, codec, "/v1/rotate", Message(unasked)), "frequencies must be absent")


async def test_keys_move_to_the_frequencies_of_another_rope(client, codec):
    k, at, delta = heads(2), torch.arange(TOKENS) + 50, torch.tensor(-7)
    to = {"rope_type": "yarn", "factor": 4, **ORIGINAL}
    tensors = {"k": k, "delta": delta, "positions": at}
    answer = await answered(client, codec, "/v1/shift", Message(tensors, params(to=to)))
    expected = rope_core.shift(Shift(k, delta, RopeConfig.of(D), at, library(to)))
    assert torch.equal(answer.tensors["k"], expected.k)
    for wrong, names in (
        ({"base": 3}, "to.base"),
        ({"config": {}}, "to.hidden_size"),
        ({"preset": "x"}, "to.preset"),
        ({"theta": "x"}, "to.theta"),
        (5, "to must be an object or the name of a preset"),
    ):
        refusal = await post(client, codec, "/v1/shift", Message(tensors, params(to=wrong)))
        check(refusal, names)


def check(response: httpx.Response, *names: str) -> None:
    """The answer is a 422 whose text has all of these."""
    problem = response.json()
    assert response.status_code == 422, problem
    for name in names:
        assert name in problem["detail"]
    assert len(response.content) < 4096


async def resolved(client: httpx.AsyncClient, rope: object) -> httpx.Response:
    return await client.post("/v1/resolve", json={"rope": rope})


# what section 12 of the reference on variants refuses: key, value and rule
REFUSED = [
    ({"config": {**LLAMA, "head_dim": 7}}, "rope.head_dim", "7", "even"),
    ({"config": {**LLAMA, "head_dim": 0}}, "rope.head_dim", "0", "whole number above 0"),
    (
        {"config": {**LLAMA, "model_type": "gpt_neox", "rotary_pct": 1.5}},
        *("rope.", "rotary_pct", "1.5"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "short_factor": [1]}}},
        *("rope.rope_scaling.short_factor", "8 numbers", "got 1"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "long_factor": [0] * 8}}},
        *("rope.rope_scaling.long_factor", "positive numbers"),
    ),
    (
        {"config": {**MODELS["axes"]["config"], "rope_scaling": {"mrope_section": [2, 3, 2]}}},
        *("rope.rope_scaling.mrope_section", "add up to 8", "[2, 3, 2]"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"rope_type": "yarm", "factor": 2}}},
        *("rope.rope_scaling.rope_type", "'yarm'", "one of", "'yarn'"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2}}},
        *("rope.rope_scaling.type", "'linear'", "'yarn'"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 0.5}}},
        *("rope.rope_scaling.factor", "at least 1", "0.5"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "factor": 0.5}}},
        *("rope.rope_scaling.factor", "at least 1", "0.5"),
    ),
    (
        {"config": {**LLAMA, "head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}}},
        *("rope.head_dim", "above 2", "dynamic", "got 2"),
    ),
    ({"config": GEMMA}, "rope.layer_type", "full_attention", "sliding_attention", "none"),
    ({"config": GEMMA, "layer_type": "local"}, "rope.layer_type", "full_attention", "'local'"),
    (
        {"config": {**LLAMA, "num_attention_heads": 5}},
        *("rope.head_dim must be given", "hidden_size 64", "5 heads"),
    ),
    ({"config": LLAMA, "layer": 4}, "rope.layer", "[0, 3]", "got 4"),
    ({"config": {}}, "rope.hidden_size", "given", "none"),
    ({"config": {**LLAMA, "rope_theta": "1e4"}}, "rope.rope_theta", "number", "'1e4'"),
    ({"config": {**LLAMA, "rope_scaling": "yarn"}}, "rope.rope_scaling", "object", "'yarn'"),
    ({"config": "llama"}, "rope.config", "object", "llama"),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "length": -1},
        *("rope.length", "0 or more", "-1"),
    ),
    ({"config": LLAMA, "length": 9}, "rope.length", "absent", "9"),
    ({"config": LLAMA, "compat": "4.56"}, "rope.compat", "'5.23' or '4.57'", "4.56"),
    ({"config": LLAMA, "theta": 1}, "unknown parameter rope.theta", "config", "layer_type"),
    ({"config": LLAMA, "preset": "x"}, "unknown parameter rope.preset"),
    ({"preset": "x"}, "rope.preset", "/v1/presets", "'x'"),
    ({"preset": 5}, "rope.preset", "string", "5"),
    ({"preset": "llama-3.1-8b", "head_dim": 4}, "unknown parameter rope.head_dim", "arithmetic"),
    ({"preset": "llama-3.1-8b", "part": "video"}, "rope.part", "'vision'", "video"),
    ("llama-3.1-8c", "rope.preset", "'llama-3.1-8c'"),
    (5, "rope must be an object or the name of a preset", "5"),
    (None, "rope must be an object or the name of a preset", "null"),
    ({"head_dim": 8, "rope_type": "yarm"}, "rope.rope_type", "yarm"),
    ({"head_dim": 8, "rope_type": "linear"}, "rope.factor", "given for linear"),
    ({"head_dim": 8, "rope_type": "linear", "factor": "4"}, "rope.factor", "a number", "'4'"),
    ({"head_dim": 8, "rope_type": "linear", "factr": 4}, "unknown parameter rope.factr", "factor"),
    ({"head_dim": 8, "factor": 4}, "unknown parameter rope.factor"),
    ({"head_dim": 8, "axes": "axiall"}, "rope.axes", "axiall"),
    ({"head_dim": 8, "axes": "axial", "axes_dim": [3, 5]}, "rope.axes_dim", "even", "[3, 5]"),
    ({"head_dim": 8, "axes": "mrope", "mrope_section": [1]}, "rope.mrope_section", "[1]"),
    ({"head_dim": 8, "arithmetic": "exact"}, "rope.arithmetic", "'hf'", "exact"),
    ({"head_dim": 8, "blocks": 2}, "unknown parameter rope.blocks"),
    ({}, "rope.head_dim", "given"),
]


@pytest.mark.parametrize(("rope", "names"), [(each[0], each[1:]) for each in REFUSED], ids=named)
async def test_what_is_refused_is_named_with_its_value_and_the_rule(client, rope, names):
    check(await resolved(client, rope), *names)


WARNED = [
    ({**SCALED, "low_freq_factor": 4.0, **ORIGINAL}, "high_freq_factor"),
    ({**SCALED, "low_freq_factor": 8.0, **ORIGINAL}, "high_freq_factor"),
    ({**SCALED, "original_max_position_embeddings": 2048}, "original_max_position_embeddings"),
    ({"type": "linear", "factor": 0.5}, "factor is below 1"),
    ({"type": "linear", "factor": 2.0, "facter": 4.0}, "rope_scaling.facter is ignored"),
]


@pytest.mark.parametrize(("block", "names"), WARNED, ids=named)
async def test_what_is_warned_of_is_in_every_answer(client, codec, block, names):
    rope = {"config": {**LLAMA, "rope_scaling": block}}
    at = torch.arange(TOKENS)
    for path, tensors in (
        ("/v1/resolve", {}),
        ("/v1/rotate", {"q": heads(2)}),
        ("/v1/attention", dict.fromkeys("qkv", heads(2))),
        ("/v1/cos_sin", {"positions": at}),
        ("/v1/shift", {"k": heads(2), "delta": torch.tensor(1)}),
    ):
        answer = await answered(client, codec, path, Message(tensors, params(rope=rope)))
        (warning,) = warnings(answer)
        assert names in warning


async def test_an_unknown_model_is_read_as_a_llama_and_said_so(client):
    answer = (await resolved(client, {"config": {**LLAMA, "model_type": "newest"}})).json()
    assert answer["rotates"]
    assert "'newest' is unknown" in answer["warnings"][0]


NOPE = {"preset": "smollm3-3b", "layer": 3}


async def test_a_layer_without_rope(client, codec):
    said = (await answered(client, codec, "/v1/resolve", message(rope=NOPE))).params.values
    assert (said["rotates"], said["nope"]) == (False, "no_rope_layers[3] is 0")
    q, k = heads(4), heads(2)
    for path, tensors in (
        ("/v1/rotate", {"q": q}),
        ("/v1/cos_sin", {"positions": torch.arange(3)}),
        ("/v1/shift", {"k": k, "delta": torch.tensor(1)}),
    ):
        refusal = await post(client, codec, path, Message(tensors, params(rope=NOPE)))
        check(refusal, "rope must be of a layer that rotates", "no_rope_layers[3] is 0")

    tensors = {"q": q, "k": k, "v": k}
    answer = await answered(client, codec, "/v1/attention", Message(tensors, params(rope=NOPE)))
    expected = rope_core.attend(Attend(q, k, k, None))
    assert torch.equal(answer.tensors["out"], expected.out)


def message(**named: object) -> Message:
    return Message({}, params(**named))


async def test_what_resolve_tells(client, codec):
    config = {**LLAMA, "rope_theta": 5e5, "rope_scaling": SCALED | ORIGINAL, "use_cache": True}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": config}))
    told = answer.params.values
    expected = resolve(config)
    assert told["parameters"] == dict(expected.parameters)
    assert told["parameters"]["rope_theta"] == 5e5
    assert told["provenance"] == dict(expected.provenance)
    assert told["provenance"]["rope_theta"] == told["provenance"]["factor"] == "given"
    assert told["provenance"]["head_dim"] == "derived"
    assert set(told["provenance"].values()) <= {"given", "class default", "derived"}
    assert "use_cache" in told["keys_ignored"]
    assert {"rope_theta", "rope_scaling", "hidden_size"} <= set(told["keys_read"])
    assert told["rope"]["head_dim"] == told["rope"]["rotary_dim"] == D
    assert told["rope"]["arithmetic"] == "hf"
    assert told["softmax_scale"] == D**-0.5
    assert (told["num_axes"], told["attention_scaling"]) == (1, 1.0)
    assert (told["model_type"], told["layer_type"], told["nope"]) == ("llama", None, None)

    silent = {name: each for name, each in config.items() if name != "rope_theta"}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": silent}))
    told = answer.params.values
    assert told["provenance"]["rope_theta"] == "class default"

    compact = {"head_dim": D, "rope_type": "linear", "factor": 4}
    told = (await answered(client, codec, "/v1/resolve", message(rope=compact))).params.values
    assert told["provenance"]["factor"] == told["provenance"]["head_dim"] == "given"
    assert told["provenance"]["theta"] == "default"
    assert (told["rope"]["factor"], told["rope"]["theta"]) == (4, 10_000.0)


async def test_attention_is_as_the_model_has_it_unless_told(client, codec):
    q, k = heads(4), heads(2)
    config = {**GEMMA, "query_pre_attn_scalar": 64, "rope_local_base_freq": 100.0}
    rope = {"config": config, "layer": 0}
    own = resolve(config, layer=0, head_dim=D)
    assert (own.attention.window, own.attention.scale) == (3, 0.125)
    for asked, attention in (
        ({}, own.attention),
        ({"window": None}, AttentionConfig(scale=0.125)),
        ({"scale": None, "causal": False}, AttentionConfig(causal=False, window=3)),
        ({"softcap": 5.0}, AttentionConfig(window=3, scale=0.125, softcap=5.0)),
    ):
        body = Message({"q": q, "k": k, "v": k}, params(rope=rope, **asked))
        answer = await answered(client, codec, "/v1/attention", body)
        expected = rope_core.attend(Attend(q, k, k, own.rope, attention))
        assert torch.equal(answer.tensors["out"], expected.out)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, "2048"), (torch.bfloat16, "256")], ids=str
)
async def test_positions_in_half_precision_are_refused_with_what_is_lost(
    client, codec, dtype, most
):
    at = torch.arange(TOKENS).to(dtype)
    for path, tensors in (
        ("/v1/rotate", {"q": heads(2), "positions": at}),
        ("/v1/attention", dict.fromkeys("qkv", heads(2)) | {"q_positions": at}),
        ("/v1/cos_sin", {"positions": at}),
    ):
        rope = {"head_dim": D}
        refusal = await post(client, codec, path, Message(tensors, params(rope=rope)))
        check(refusal, "positions must be int64", f"whole numbers apart only up to {most}")


@pytest.mark.parametrize(("most", "warned"), [(2**24, False), (2**24 + 1, True), (2**31, True)])
async def test_far_positions_are_exact_or_warned_of(client, codec, most, warned):
    at = torch.tensor([0, 1, most])
    exact = at.double()[:, None] * 5e5 ** -(torch.arange(0, D, 2).double() / D)
    for arithmetic in ("hf", "float64"):
        rope = {"config": {**LLAMA, "rope_theta": 5e5}, "arithmetic": arithmetic}
        for sign in (1, -1):
            body = Message({"positions": sign * at}, params(rope=rope))
            answer = await answered(client, codec, "/v1/cos_sin", body)
            assert any("2**24" in text for text in warnings(answer)) == (
                warned and arithmetic == "hf"
            )
            if arithmetic == "float64":
                off = {"rtol": 0, "atol": 2e-7}
                torch.testing.assert_close(answer.tensors["cos"], exact.cos().float(), **off)
                sines = sign * exact.sin().float()
                torch.testing.assert_close(answer.tensors["sin"], sines, **off)


async def test_the_lowest_position_there_is_is_warned_of(client):
    body = {"positions": [-(2**63)], "rope": {"config": LLAMA}}
    assert (await client.post("/v1/cos_sin", json=body)).json()["warnings"]


async def test_negative_positions_turn_back(client, codec):
    q, at = heads(2), torch.arange(TOKENS)
    for rope in ({"theta": 500.0}, {"config": LLAMA}):
        body = Message({"q": q, "positions": -at}, params(rope=rope))
        back = await answered(client, codec, "/v1/rotate", body)
        body = Message({"q": q, "positions": at}, params(rope=rope, inverse=True))
        inverse = await answered(client, codec, "/v1/rotate", body)
        torch.testing.assert_close(back.tensors["q"], inverse.tensors["q"])


async def test_positions_that_a_table_has_not_are_refused(client, codec):
    rope = {"config": {"model_type": "gptj", "n_embd": 64, "n_head": 4, "rotary_dim": 8}}
    at = torch.tensor([0, 1, 2, 3.5, 4])
    body = Message({"q": heads(2), "positions": at}, params(rope=rope))
    check(await post(client, codec, "/v1/rotate", body), "positions must be whole", "table")


# -- positions

BUILT = [
    ("grid_positions", {"sizes": [2, 3], "start": 1}, {}),
    ("flux_positions", {"sizes": [2, 2], "text_tokens": 3}, {}),
    ("interpolated_positions", {"length": 4, "factor": 2}, {}),
    ("centred_positions", {"sizes": [[1, 2, 2], [1, 4, 2]], "text_tokens": 2}, {}),
    ("crop_positions", {"sizes": [2, 3, 4], "crop_start": [0, 0], "crop_stop": [3, 4]}, {}),
    ("self_extend_positions", {"length": 6, "window": 2, "group": 2}, {}),
    ("streaming_positions", {"length": 9, "sink_tokens": 2, "recent_tokens": 3}, {}),
    ("packed_positions", {}, {"cu_seqlens": [0, 2, 5]}),
    ("mask_positions", {"padding": 1}, {"attention_mask": [[0, 1, 1], [1, 1, 0]]}),
    (
        "mrope_index",
        {"family": "qwen2_5_vl"},
        {
            "token_types": [0, 2, 2, 2, 2, 0],
            "video_grid_thw": [[1, 4, 4]],
            "second_per_grid_ts": torch.tensor([1.0]),
        },
    ),
    ("token_types", {"image_token_id": 7}, {"input_ids": [[1, 7], [7, 2]]}),
    ("atom_positions", {}, {"xyz": torch.rand(4, 3), "uid": [1, 1, 2, 2]}),
]


@pytest.mark.parametrize(("name", "arguments", "tensors"), BUILT, ids=[each[0] for each in BUILT])
async def test_builders_build_as_the_library_does(client, codec, name, arguments, tensors):
    tensors = {n: torch.as_tensor(each) for n, each in tensors.items()}
    body = Message(tensors, params(builder=name, arguments=arguments))
    answer = await answered(client, codec, "/v1/positions", body)
    built = positions.BUILDERS[name].function(**arguments, **tensors)
    expected = {"positions": built} if isinstance(built, torch.Tensor) else vars(built)
    assert answer.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert answer.tensors[key].dtype == tensor.dtype
        assert torch.equal(answer.tensors[key], tensor)


async def test_tensors_of_builders_are_integers_where_a_person_writes_them(client):
    for name, arguments, tensors in BUILT:
        plain = {n: torch.as_tensor(each).tolist() for n, each in tensors.items()}
        body = {"builder": name, "arguments": arguments, **plain}
        answer = await client.post("/v1/positions", json=body)
        assert answer.status_code == 200, answer.text


async def test_positions_that_were_built_rotate(client, codec):
    body = message(builder="grid_positions", arguments={"sizes": [1, TOKENS]})
    built = await answered(client, codec, "/v1/positions", body)
    rope = {"axes": "axial", "axes_dim": [8, 8]}
    tensors = {"q": heads(2), **built.tensors}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    expected = rope_core.rotate(Rotate(heads(2), None, library(rope), built.tensors["positions"]))
    assert torch.equal(answer.tensors["q"], expected.q)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, ["builder must be given"]),
        ({"builder": "grid"}, ["builder must be", "grid"]),
        ({"builder": "grid_positions"}, ["sizes must be given for grid_positions"]),
        ({"builder": "packed_positions"}, ["cu_seqlens must be a tensor of the message"]),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2], "size": 3}},
            ["unknown argument size", "sizes, start"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2]}, "uid": [1]},
            ["unknown argument uid"],
        ),
        (
            {"builder": "packed_positions", "arguments": {"cu_seqlens": [0, 2]}},
            ["cu_seqlens must be a tensor of the message, not one of arguments", "[0, 2]"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": "23"}},
            ["arguments.sizes must be a list", "23"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2, True]}},
            ["arguments.sizes.1", "integer", "True"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2, 0]}},
            ["sizes must be an integer from 1", "got 0"],
        ),
        (
            {"builder": "grid_positions", "arguments": {"sizes": [2**13, 2**13]}},
            ["sizes must be of at most 16777216 positions"],
        ),
        (
            {"builder": "mrope_index", "token_types": [0, 1], "arguments": {"family": "qwen9"}},
            ["family must be one of", "qwen2_vl", "qwen9"],
        ),
        (
            {"builder": "mrope_index", "token_types": [1, 1], "image_grid_thw": [[1, 4, 4]]},
            ["token_types must be of 4 image tokens", "got 2"],
        ),
        (
            {"builder": "mrope_index", "token_types": [0.5]},
            ["token_types must be of integers"],
        ),
        ({"builder": "grid_positions", "arguments": None}, ["arguments must be an object", "null"]),
    ],
    ids=named,
)
async def test_bad_arguments_of_builders_are_named(client, body, names):
    check(await client.post("/v1/positions", json=body), *names)


async def test_positions_that_would_be_too_large_an_answer(client, codec):
    body = message(builder="offset_positions", arguments={"length": 2**20})
    refusal = await post(client, codec, "/v1/positions", body)
    assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large")


# -- configs of any depth and size


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [50, 150, 190, 230, 260, 2_000, 20_000])
async def test_deep_configs(client, codec, depth):
    config = json.dumps(LLAMA)[:-1] + f', "deep": {nested(depth)}}}'
    text = f'{{"rope": {{"config": {config}}}}}'.encode()
    if codec.media_type == "application/json":
        headers = {"content-type": codec.media_type}
        answer = await client.post("/v1/resolve", content=text, headers=headers)
    else:
        answer = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, text)))
    if depth < 200:
        assert answer.status_code == 200
        assert "deep" in read(codec, answer.content).params.values["keys_ignored"]
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


async def test_large_configs(client, codec):
    huge = {f"key_{i}": i for i in range(5_000)}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": LLAMA | huge}))
    assert len(answer.params.values["keys_ignored"]) >= 5_000
    for spoilt in (
        {"rope_scaling": {"rope_type": "x" * 50_000}},
        {"rope_scaling": ["x" * 50_000]},
        {"layer_types": ["x"] * 20_000},
        {"num_hidden_layers": 10**9, "model_type": "gemma3_text"},
        {"model_type": "x" * 50_000, "hidden_size": None},
    ):
        rope = {"config": LLAMA | spoilt, "layer": 1}
        refusal = await post(client, codec, "/v1/resolve", message(rope=rope))
        assert refusal.status_code in (200, 422)
        assert refusal.status_code == 200 or len(refusal.content) < 4096


async def test_what_json_has_not_is_refused_in_configs(client):
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"rope": {{"config": {{"rope_theta": {number}}}}}}}'
        headers = {"content-type": "application/json"}
        answer = await client.post("/v1/resolve", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


# -- presets


async def test_presets_and_variants_are_listed(client):
    presets = (await client.get("/v1/presets")).json()["presets"]
    assert [each["name"] for each in presets] == list(built_in())
    known = (await client.get("/v1/variants")).json()
    assert [each["name"] for each in known["variants"]] == list(VARIANTS)
    assert [each["name"] for each in known["schemes"]] == list(SCHEMES)
    assert [each["name"] for each in known["builders"]] == list(positions.BUILDERS)
    (yarn,) = [each for each in known["variants"] if each["name"] == "yarn"]
    (factor,) = [each for each in yarn["parameters"] if each["name"] == "factor"]
    assert (factor["type"], factor["required"]) == ("number or null", False)
    truth, theirs = (known["largest_error_of_cos"][name] for name in ("float64", "hf"))
    assert max(truth.values()) < 1e-7 < theirs["131071"]


@pytest.mark.parametrize("name", built_in())
async def test_every_preset_resolves(client, name):
    answer = await resolved(client, {"preset": name, "layer": 0})
    if answer.status_code == 422 and "layer" in answer.json()["detail"]:
        answer = await resolved(client, name)
    assert answer.status_code == 200, answer.text


def in_folder(folder, monkeypatch):
    monkeypatch.setenv("ROPE_PRESETS_DIR", str(folder))
    return create_app(Settings(device="cpu", log_level="error"), Lifecycle())


async def test_presets_of_the_operator(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(LLAMA | {"rope_theta": 77.0}))
    (tmp_path / "ours").mkdir()
    unwritable = {"time_step_limit": [0.0, float("inf")]}  # as Mamba's files have it
    (tmp_path / "ours" / "config.json").write_text(json.dumps(LLAMA | unwritable))
    (tmp_path / "llama-3.1-8b.json").write_text(json.dumps(LLAMA))
    app = in_folder(tmp_path, monkeypatch)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        said = (await resolved(client, "mine")).json()
        assert said["rope"]["theta"] == 77.0
        assert (await resolved(client, {"preset": "ours"})).json()["rope"]["head_dim"] == D
        said = (await resolved(client, "llama-3.1-8b")).json()
        assert said["rope"]["head_dim"] == D, "the operator's wins"
        listed = (await client.get("/v1/presets")).json()["presets"]
        presets = {each["name"]: each for each in listed}
        assert presets["mine"]["config"]["rope_theta"] == 77.0
        assert presets["ours"]["config"]["time_step_limit"] == [0.0, None]
        assert presets["ours"]["source"] == "ours/config.json"
        assert presets.keys() > built_in().keys()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("bad.json", "{", "bad.json must be a JSON object"),
        ("list.json", "[]", "list.json must be a JSON object"),
        ("Bad Name.json", "{}", "named like"),
        (".json/config.json", "{}", None),
    ],
)
async def test_a_bad_folder_of_presets_stops_the_start(tmp_path, monkeypatch, name, text, why):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    if why is None:
        in_folder(tmp_path, monkeypatch)
        return
    with pytest.raises(SystemExit, match=f"presets_dir: .*{why}"):
        in_folder(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"presets_dir: .* must be readable"):
        in_folder(tmp_path / "nowhere", monkeypatch)


async def test_the_process_says_so_and_ends(tmp_path, serve):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RuntimeError, match=r"presets_dir: bad.json must be"):
        serve(ROPE_PRESETS_DIR=str(tmp_path)).__enter__()


# -- what is kept of what was read


async def test_what_was_read_is_kept_as_long_as_its_parameters(monkeypatch):
    rope_resolver, given = RopeResolver(built_in()), Rope(theta=3.0)
    found = rope_resolver.read(given, 8, None)
    assert rope_resolver.read(given, 8, None) is found
    assert rope_resolver.read(given, 4, None) is not found
    assert rope_resolver.read("llama-3.1-8b", None, None) is rope_resolver.read(
        "llama-3.1-8b", None, None
    )
    for head_dim in range(2, 1000, 2):
        rope_resolver.read(given, head_dim, None)
    assert len(given.known) <= MAX_KNOWN
    other = RopeResolver({})
    with pytest.raises(ConfigError):  # presets are those of the service that is asked
        other.read("llama-3.1-8b", None, None)
    key = weakref.ref(given)
    del given
    gc.collect()
    assert key() is None, "nothing is kept of parameters that are gone"


async def test_ropes_of_one_batch_do_not_mix(client):
    async def rotated(rope):
        body = Message({"q": heads(2)}, params(rope=rope))
        return (await answered(client, CODECS[1], "/v1/rotate", body)).tensors["q"]

    rope_resolver = [*PARAMETERS[:10], MODELS["4.x"], MODELS["layer"]]
    together = await asyncio.gather(*map(rotated, rope_resolver * 3))
    for rope, answer in zip(rope_resolver * 3, together, strict=True):
        expected = rope_core.rotate(Rotate(heads(2), None, library(rope)))
        assert torch.equal(answer, expected.q)


@pytest.mark.parametrize("preset", ["gpt-oss-20b", "gemma-2-9b", "command-r7b-12-2024"])
async def test_attention_of_a_model_whose_layers_differ_needs_to_know_which(client, preset):
    told = await client.post("/v1/resolve", json={"rope": preset})
    assert "layers differ" in str(told.json()["warnings"])
    width = told.json()["rope"]["head_dim"]
    heads = {name: [[[0.5] * width]] for name in "qkv"}
    refused = await client.post("/v1/attention", json={**heads, "rope": preset})
    assert refused.status_code == 422
    assert "rope.layer must be given, or layer_type" in refused.json()["detail"]
    model = {"preset": preset, "layer": 0}
    assert (await client.post("/v1/attention", json={**heads, "rope": model})).status_code == 200


async def test_of_ever_so_many_ignored_keys_some_are_told(client):
    block = {"type": "linear", "factor": 2.0, **{f"key{i}": i for i in range(12_000)}}
    asked = {"rope": {"config": {**LLAMA, "rope_scaling": block}}}
    told = await client.post("/v1/resolve", json=asked)
    assert told.status_code == 200
    assert len(told.json()["warnings"]) < 20
    block |= {f"more{i}": i for i in range(20_000)}
    asked["rope"]["config"]["rope_scaling"] = block
    assert (await client.post("/v1/resolve", json=asked)).status_code == 413
