"""Read the presets as the models' own code does; written from the models' code, not the product's.

Kinds of ropes that `rope.Rope` cannot compute are left out, with the reason in `LEFT_OUT`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.diagnosis_oracle.frequencies import yarn_magnitude
from tests.diagnosis_oracle.rope import Rope

FOLDER = Path(__file__).parents[2] / "rope_core" / "presets"
LEFT_OUT = {
    "baichuan2-13b-chat": "ALiBi",
    "mpt-7b": "ALiBi",
    "gte-multilingual-base": "its own mix of NTK",
    "qwen-7b": "its own dynamic alpha",
    "mistral-large-3-675b-instruct-2512": "params.json",
    "phi-3-small-8k-instruct": "block-sparse attention",
    "glm-4-9b-chat-1m": "remote code",
    "openelm-1_1b": "heads differ by layer",
    "qwen-image": "positions of its own",
}
INTERLEAVED = [
    "cohere",
    "cohere2",
    "llama4_text",
    "deepseek_v2",
    "ernie4_5",
    "ernie4_5_moe",
    "glm",
    "glm4",
    "gptj",
    "helium",
    "flux",
]
READ_INTERLEAVED = ["deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa"]
THETA = {"gemma3_text": 1e6, "eurobert": 250_000.0, "cohere2": 50_000.0}
SHARE = {"glm": 0.5, "glm4": 0.5, "gpt_neox": 0.25}
DEEPSEEK = ["deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2"]
NOT_CAUSAL = ["esm", "eurobert", "modernbert", "nomic_bert", "flux"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How a layer attends."""

    causal: bool = True
    window: int | None = None
    window_ahead: int = 0
    chunk: int | None = None
    softcap: float | None = None
    scale: float | None = None
    """None: width ** -0.5."""

    sinks: bool = False
    has_mscale: bool = False
    """The scale has YaRN's factor (DeepSeek)."""

    width: int = 0
    """Of a query; of MLA wider than what rotates, which is last. 0 for the rope's."""

    value_width: int = 0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a preset, as a request names the layer."""

    name: str
    given: Any
    """What `rope_core.diagnose` is given as the rope."""

    rope: Rope
    rotates: bool = True
    attention: Attention = Attention()
    types: Mapping[str, Rope] = field(default_factory=dict)
    """Ropes of the other layer types of the model, if they differ."""


def rope_of(config: Mapping[str, Any], model: str) -> Rope:
    """Return the rope of a config without layer types."""
    heads = config.get("num_attention_heads") or config.get("n_head") or config.get("n_heads")
    hidden = config.get("hidden_size") or config.get("n_embd") or config.get("d_model")
    head_dim = config.get("qk_rope_head_dim") or config.get("head_dim") or hidden // heads  # type: ignore[operator]
    block = dict(config.get("rope_parameters") or {}) | dict(config.get("rope_scaling") or {})
    inner = config.get("attn_config") or {}
    theta = block.get("rope_theta") or config.get("rope_theta") or inner.get("rope_theta")
    theta = theta or config.get("rotary_emb_base") or config.get("global_rope_theta")
    theta = theta or THETA.get(model, 10_000.0)
    share = block.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    share = share or config.get("rotary_pct") or SHARE.get(model, 1.0)
    if config.get("qk_rope_head_dim"):
        share = 1.0
    pairs = "interleaved" if model in INTERLEAVED else "half"
    pairs = "interleaved_to_half" if model in READ_INTERLEAVED else pairs
    most = config.get("max_position_embeddings") or 0
    rope = Rope(
        head_dim=head_dim,
        rotary_dim=config.get("rotary_dim") or int(head_dim * share),
        theta=float(theta),
        pairs=pairs,
        most=most,
    )
    kind = block.get("rope_type") or block.get("type") or "default"
    if "mrope_section" in block:
        scheme = "mrope_interleaved" if block.get("mrope_interleaved") else "mrope"
        return replace(rope, scheme=scheme, sections=tuple(block["mrope_section"]))
    if kind == "default":
        return rope
    if model == "hunyuan_v1_dense":
        return replace(rope, kind="ntk_alpha", numbers={"alpha": block["alpha"]})
    numbers = {name: value for name, value in block.items() if name not in ("rope_theta", "type")}
    trained = config.get("original_max_position_embeddings")
    if trained is not None:
        numbers["original_max_position_embeddings"] = trained
    if most:
        numbers["max_position_embeddings"] = most
    return replace(rope, kind=kind, numbers=numbers)


def layers_of(name: str) -> Iterator[Layer]:
    """Return the layers of a preset that differ."""
    config = json.loads((FOLDER / f"{name}.json").read_text())["config"]
    config = config | config.get("text_config", {})
    model = config.get("model_type", "flux")
    model = {"gemma3": "gemma3_text", "mistral3": "ministral3", "llama4": "llama4_text"}.get(
        model, model
    )
    if model == "flux":
        sections = (16, 56, 56)
        rope = Rope(
            head_dim=128, rotary_dim=128, pairs="interleaved", scheme="axial", sections=sections
        )
        yield Layer(name=name, given=name, rope=rope, attention=_attention(config, rope, model))
        return
    rope = rope_of(config, model)
    local = _local(config, rope, model)
    if local is not None:
        ropes = {"full_attention": rope, "sliding_attention": local}
        for kind, one in ropes.items():
            sliding = kind == "sliding_attention"
            yield Layer(
                name=f"{name} {kind}",
                given={"preset": name, "layer_type": kind},
                rope=one,
                attention=_attention(config, one, model, sliding),
                types={other: ropes[other] for other in ropes if other != kind},
            )
        return
    silent = {"cohere2": 3, "exaone4": 3, "llama4_text": 3, "smollm3": 3}.get(model)
    attention = _attention(config, rope, model, silent is not None)
    if silent is not None:
        given = {"preset": name, "layer": 0}
        yield Layer(name=f"{name} 0", given=given, rope=rope, attention=attention)
        given = {"preset": name, "layer": silent}
        yield Layer(
            name=f"{name} {silent}",
            given=given,
            rope=replace(rope, times=0),
            rotates=False,
            attention=_attention(config, rope, model),
        )
        return
    yield Layer(name=name, given=name, rope=rope, attention=attention)


def _local(config: Mapping[str, Any], rope: Rope, model: str) -> Rope | None:
    """Return the rope of sliding layers, if they have another."""
    plain = replace(rope, kind="default", numbers={})
    match model:
        case "gemma3_text":
            return replace(plain, theta=float(config.get("rope_local_base_freq", 10_000.0)))
        case "modernbert":
            return replace(plain, theta=float(config["local_rope_theta"]))
        case "olmo3":
            return plain
    return None


def _attention(
    config: Mapping[str, Any], rope: Rope, model: str, sliding: bool = False
) -> Attention:
    width = rope.head_dim + (config.get("qk_nope_head_dim") or 0)
    scale = config.get("attention_multiplier") or width**-0.5
    every = rope.numbers.get("mscale_all_dim")
    has_mscale = bool(every) and model in DEEPSEEK
    if has_mscale:
        scale *= yarn_magnitude(rope.numbers["factor"], every) ** 2  # type: ignore[arg-type]
    if config.get("query_pre_attn_scalar"):
        scale = config["query_pre_attn_scalar"] ** -0.5
    window = config.get("sliding_window") if sliding else None
    if model == "modernbert" and sliding:
        window = config["local_attention"] // 2 + 1
    return Attention(
        causal=model not in NOT_CAUSAL,
        has_mscale=has_mscale,
        width=width,
        value_width=config.get("v_head_dim") or rope.head_dim,
        softcap=config.get("attn_logit_softcapping"),
        scale=scale,
        sinks=model == "gpt_oss",
        window=window,
        window_ahead=64 if model == "modernbert" and sliding else 0,
    )


@cache
def all_layers() -> tuple[Layer, ...]:
    """Return the layers of all presets that can be computed."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    return tuple(layer for name in names if name not in LEFT_OUT for layer in layers_of(name))
