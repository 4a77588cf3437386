"""Models without rotary embedding: their table, their switches, and how they attend."""

import datetime
import json
import math
from importlib.resources import files

import pytest
import torch

from rope_core import AttentionConfig, ConfigError, Rotate, attend, resolve, rotate
from rope_core.functional.arguments import RopeWarning
from rope_core.hf.families import (
    composites,
    families,
    families_without_rope,
    model_type_aliases,
    models_without_rope,
)
from rope_core.hf.find_family import is_known
from tests.core.oracle import randn

TABLE = json.loads((files("rope_core.hf") / "no_rope.json").read_text())

KINDS = {
    "ALiBi": "bloom mpt",
    "learned absolute": "bert roberta electra xlm-roberta gpt2 gpt_bigcode gpt_neo openai-gpt opt "
    "bart mbart whisper vit clip_text_model clip_vision_model siglip_vision_model dinov2 albert "
    "distilbert biogpt imagegpt longformer layoutlm trocr semantic dpr lxmert",
    "sinusoidal": "m2m_100 marian pegasus xglm speech_to_text musicgen_decoder ctrl fsmt",
    "relative": "t5 mt5 umt5 longt5 switch_transformers xlnet mpnet swin layoutlmv3 beit "
    "wavlm sam_vision_model speecht5 parakeet_encoder inkling_text",
    "convolutional": "wav2vec2 hubert data2vec-audio",
    "none": "jamba zamba nemotron_h kimi_linear glm5_next_text moshi_depth resnet convnext",
    "state space": "mamba mamba2 falcon_mamba rwkv xlstm",
}
"""What the code of some models does, by reading it."""


def test_the_table_is_of_a_version_and_a_day():
    assert TABLE["made_by"] == "tools/no_rope.py"
    assert TABLE["transformers"] == "5.23.0"
    assert datetime.date.fromisoformat(TABLE["date"])
    for rows in (TABLE["model_types"], TABLE["composites"]):
        assert [*rows] == sorted(rows)
        assert len(rows) > 150


def test_a_model_type_is_in_one_table():
    with_rope = {*families(), *model_type_aliases()}
    assert not with_rope & {*families_without_rope()}
    assert not {*families_without_rope()} & {*composites()}
    assert {*models_without_rope()} == {*KINDS}


def test_parts_of_composites_are_known():
    """Those of timm can be any model of timm."""
    parts = {part.model_type for row in composites().values() for part in row.values()} - {"", None}
    unknown = {name for name in parts if not is_known(name) and name not in composites()}
    assert {name for name in unknown if "timm" not in name} <= {"gemma3n_vision"}


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [(kind, name) for kind, names in KINDS.items() for name in names.split()],
)
def test_kinds(kind, model_type):
    resolved = resolve({"model_type": model_type})
    assert (resolved.rope, resolved.inv_freq) == (None, None)
    assert resolved.nope == f"no rotary embedding: {kind}"
    assert resolved.model_type == model_type
    assert not any("unknown" in text for text in resolved.warnings)
    without_attention = "{} has no queries and keys".format
    assert all(
        group.nope in (resolved.nope, without_attention(group.layer_type))
        for group in resolved.layers
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "falcon"}, None),
        ({"model_type": "falcon", "alibi": False}, None),
        ({"model_type": "falcon", "alibi": True}, "ALiBi (alibi is true)"),
        ({"model_type": "esm", "position_embedding_type": "rotary"}, None),
        ({"model_type": "esm"}, "learned absolute (position_embedding_type is 'absolute')"),
        (
            {"model_type": "esm", "position_embedding_type": None},
            "none (position_embedding_type is None)",
        ),
        ({"model_type": "evolla_saprot"}, None),
        ({"model_type": "wav2vec2-conformer", "position_embeddings_type": "rotary"}, None),
        (
            {"model_type": "wav2vec2-conformer"},
            "relative (position_embeddings_type is 'relative')",
        ),
        (
            {"model_type": "wav2vec2-conformer", "position_embeddings_type": None},
            "none (position_embeddings_type is None)",
        ),
        (
            {"model_type": "wav2vec2-bert"},
            "relative (position_embeddings_type is 'relative_key')",
        ),
        ({"model_type": "seamless_m4t", "position_embeddings_type": "rotary"}, None),
        ({"model_type": "clvp_encoder"}, None),
        (
            {"model_type": "clvp_encoder", "use_rotary_embedding": False},
            "none (use_rotary_embedding is False)",
        ),
        ({"model_type": "deberta-v2", "relative_attention": True}, "relative"),
        ({"model_type": "deberta-v2"}, "learned absolute"),
        ({"model_type": "zamba2"}, "none (use_mem_rope is false)"),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["attention"]},
            "none (position_embedding_type is 'nope', not rope)",
        ),
        ({"model_type": "gpt_neox", "rotary_pct": 0.0}, "none (rotary_pct is 0)"),
        ({"model_type": "phi", "partial_rotary_factor": 0}, "none (partial_rotary_factor is 0)"),
        (
            {"model_type": "glm", "rope_parameters": {"partial_rotary_factor": 0}},
            "none (partial_rotary_factor is 0)",
        ),
    ],
)
def test_switches(config, kind):
    resolved = resolve(config)
    assert resolved.nope == (None if kind is None else f"no rotary embedding: {kind}")
    assert (resolved.rope is None) == (kind is not None)


LLAVA = {"model_type": "llava"}
GPT2, OPT, CLIP = ({"model_type": name} for name in ("gpt2", "opt", "clip_vision_model"))
LEARNED = "no rotary embedding: learned absolute"


@pytest.mark.parametrize(
    ("config", "part", "model_type", "nope"),
    [
        # the class has a Llama as its text part, and CLIP as its vision part
        (LLAVA | {"text_config": {"hidden_size": 64}}, None, "llama", None),
        (LLAVA | {"text_config": OPT, "vision_config": CLIP}, None, "opt", LEARNED),
        (LLAVA | {"text_config": {}, "vision_config": CLIP}, "vision", CLIP["model_type"], LEARNED),
        (LLAVA | {"vision_config": {}}, "vision", CLIP["model_type"], LEARNED),
        ({"model_type": "blip-2", "text_config": {}}, None, "opt", LEARNED),
        ({"model_type": "colpali"}, None, "gemma", None),
        ({"model_type": "chmv2", "backbone_config": {"hidden_size": 96}}, None, "dinov3_vit", None),
        ({"model_type": "encoder-decoder", "decoder": GPT2}, None, "gpt2", LEARNED),
        ({"model_type": "gemma3", "vision_config": {}}, "vision", "siglip_vision_model", LEARNED),
    ],
)
def test_a_composite_has_the_rotation_of_its_part(config, part, model_type, nope):
    resolved = resolve(config, part=part)
    assert resolved.model_type == model_type
    assert resolved.nope == nope


def test_an_unknown_text_part_of_a_composite_is_unknown():
    text = {"model_type": "grok-9", "hidden_size": 64, "num_attention_heads": 4}
    resolved = resolve({"model_type": "llava", "text_config": text})
    assert (resolved.model_type, resolved.rope.head_dim) == ("unknown", 16)


@pytest.mark.parametrize(
    ("config", "causal", "scale"),
    [
        ({"model_type": "bert"}, False, None),
        ({"model_type": "bert", "is_decoder": True}, True, None),
        ({"model_type": "vit"}, False, None),
        ({"model_type": "opt"}, True, None),
        ({"model_type": "bart"}, True, None),
        ({"model_type": "t5"}, True, 1.0),
        ({"model_type": "gpt_neo"}, True, 1.0),
        ({"model_type": "gpt2", "scale_attn_weights": False}, True, 1.0),
        ({"model_type": "mpt", "attn_config": {"softmax_scale": 0.5}}, True, 0.5),
        ({"model_type": "mpt", "attn_config": {"softmax_scale": None}}, True, None),
        # heads are twice as wide as hidden_size / heads, and the scale does not count that
        ({"model_type": "zamba", "hidden_size": 64, "num_attention_heads": 4}, True, 16**-0.5),
        ({"model_type": "zamba2", "hidden_size": 64, "num_attention_heads": 4}, True, 16**-0.5),
        ({"model_type": "inkling_text", "head_dim": 64}, True, 1 / 64),
        (
            {"model_type": "deberta-v2", "hidden_size": 64, "num_attention_heads": 4}
            | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
            False,
            (16 * 3) ** -0.5,
        ),
        (
            {"model_type": "deberta", "hidden_size": 64, "num_attention_heads": 4}
            | {"pos_att_type": "c2p|p2c"},
            False,
            (16 * 3) ** -0.5,
        ),
    ],
)
def test_attention_of_models_without_rope(config, causal, scale):
    attention = resolve(config).attention
    assert attention.causal is causal
    assert attention.scale == (scale and pytest.approx(scale, rel=1e-12))


def test_gpt2_divides_the_scale_by_the_number_of_the_layer():
    config = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 6}
    config |= {"scale_attn_by_inverse_layer_idx": True}
    assert resolve(config, layer=2).attention.scale == pytest.approx(16**-0.5 / 3)
    assert any("name the layer" in text for text in resolve(config).warnings)
    with pytest.raises(ConfigError, match=r"layer must be in \[0, 5\], got 6"):
        resolve(config, layer=6)


@pytest.mark.parametrize("attn_config", [{"softmax_scale": "1"}, {"softmax_scale": math.nan}])
def test_a_scale_that_is_no_number_is_refused(attn_config):
    with pytest.raises(ConfigError, match=r"attn_config\.softmax_scale must be a number"):
        resolve({"model_type": "mpt", "attn_config": attn_config})
    with pytest.raises(ConfigError, match="pos_att_type must be a list of texts"):
        resolve({"model_type": "deberta", "pos_att_type": 3})


def test_rotate_refuses_a_model_without_rope():
    refusal = r"got one that does not: no rotary embedding: ALiBi \(model_type bloom\)"
    with pytest.warns(RopeWarning, match="ALiBi"), pytest.raises(ConfigError, match=refusal):
        rotate(randn(1, 3, 2, 8), rope={"model_type": "bloom"}, positions=torch.arange(3))


def softmax_attention(q, k, v, bias, scale):
    """Return attention of `[B, S, H, D]`, one query after the other, with the bias of a pair."""
    out = torch.zeros_like(q, dtype=torch.float64)
    for b, i, h in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        scores = [float(q[b, i, h] @ k[b, j, h]) * scale + bias(h, i, j) for j in range(k.shape[1])]
        weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
        out[b, i, h] = (weights[:, None] * v[b, :, h]).sum(0)
    return out


SLOPES = {
    4: [2**-2, 2**-4, 2**-6, 2**-8],
    # those of 4 heads, then the first and the third of 8
    6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
}
"""Slopes of ALiBi, as Press et al. (2022) list them."""


def slopes_of_the_warning(num_heads):
    """Return the slopes that the warning describes."""
    below = 2 ** int(math.log2(num_heads))
    own, double = (
        [2 ** (-8 * (h + 1) / total) for h in range(total)] for total in (below, 2 * below)
    )
    return [*own, *double[::2]][:num_heads]


@pytest.mark.parametrize("num_heads", SLOPES)
def test_alibi_sent_as_a_mask(num_heads):
    q, k, v = (randn(2, 5, num_heads, 8, dtype=torch.float64, seed=seed) for seed in range(3))
    slopes = slopes_of_the_warning(num_heads)
    assert slopes == SLOPES[num_heads]
    mask = torch.tensor(slopes)[None, :, None, None] * torch.arange(5.0)
    with pytest.warns(RopeWarning, match=r"ALiBi biases are not added.*Send them as mask"):
        out = attend(q.float(), k.float(), v.float(), rope={"model_type": "bloom"}, mask=mask)

    def bias(h, i, j):
        return -SLOPES[num_heads][h] * (i - j) if j <= i else -math.inf

    expected = softmax_attention(q, k, v, bias, 8**-0.5)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::rope_core.functional.arguments.RopeWarning")
@pytest.mark.parametrize(("model_type", "scale"), [("bert", 8**-0.5), ("t5", 1.0)])
def test_models_without_rope_attend_without_rotation(model_type, scale):
    q, k, v = (randn(1, 4, 2, 8, dtype=torch.float64, seed=seed) for seed in range(3))
    rope = resolve({"model_type": model_type})
    at = torch.arange(7, 11)  # positions rotate nothing
    out = attend(q.float(), k.float(), v.float(), rope=rope, positions=at)

    def bias(h, i, j):
        return -math.inf if model_type == "t5" and j > i else 0.0

    expected = softmax_attention(q, k, v, bias, scale)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_what_scores_lack_is_told():
    warnings = {
        name: " ".join(resolve({"model_type": name}).warnings) for name in ("t5", "mamba", "bert")
    }
    assert "biases of relative positions" in warnings["t5"]
    assert "layers of the encoder are not causal" in warnings["t5"]
    assert "no attention, but a state" in warnings["mamba"]
    assert warnings["bert"] == ""
    kimi = resolve({"model_type": "kimi_linear", "mla_use_nope": False})
    assert kimi.nope == "no rotary embedding: none"
    assert kimi.warnings == (
        "mla_use_nope is false, but the class does not read it: no layer rotates",
    )
    falcon = " ".join(resolve({"model_type": "falcon", "alibi": True}).warnings)
    assert "Falcon multiplies ALiBi biases by the softmax scale" in falcon


@pytest.mark.parametrize(
    ("config", "depends"),
    [
        *(({"model_type": name}, False) for name in ("t5", "umt5", "swin", "layoutlmv3", "beit")),
        *(({"model_type": name}, True) for name in ("xlnet", "wavlm", "sam_vision_model")),
        ({"model_type": "deberta-v2", "relative_attention": True}, True),
        ({"model_type": "wav2vec2-conformer"}, True),
    ],
)
def test_whether_relative_positions_depend_on_contents_is_told(config, depends):
    text = resolve(config).warnings[0]
    assert ("depend on the contents" in text) == depends
    assert ("biases of relative positions are weights" in text) != depends


def test_a_share_of_0_rotates_nothing_in_the_class():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 3}
    config = transformers.GPTNeoXConfig(**sizes, intermediate_size=8, rotary_pct=0.0)
    model = transformers.GPTNeoXModel(config).eval()
    tokens, at = torch.tensor([[0, 1, 2]]), torch.tensor([[5, 90, 7]])
    torch.testing.assert_close(*(model(tokens, position_ids=p)[0] for p in (None, at)))


def test_lightglue_rotates_by_learned_frequencies():
    """Each pair (2i, 2i + 1) turns by the angle x * w[0, i] + y * w[1, i]."""
    rope = resolve({"model_type": "lightglue", "descriptor_dim": 16, "num_attention_heads": 2}).rope
    q, keypoints, weights = randn(1, 5, 2, 8), randn(2, 1, 5, seed=1), randn(2, 1, 4, seed=2)
    frequencies = weights.expand(2, 2, 4).contiguous()
    rotated = rotate(Rotate(q, None, rope, keypoints, frequencies=frequencies)).q
    angles = torch.einsum("abs,ahi->bshi", keypoints.double(), weights.double())
    pairs = torch.view_as_complex(q.double().unflatten(-1, (4, 2)))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones(()).double(), angles)).flatten(-2)
    torch.testing.assert_close(rotated.double(), expected, rtol=1e-5, atol=1e-6)
    assert resolve({"model_type": "lightglue"}).attention == AttentionConfig(causal=False)
