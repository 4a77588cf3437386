"""Strategies of hypothesis: bodies of every route, good and broken."""

import math

from hypothesis import strategies as st

from rope_core import SCHEMES, VARIANTS
from rope_core.hf.families import diffusers_classes, families
from rope_core.presets import built_in
from service.endpoints.table import ENDPOINTS
from service.oip.infer.models import MODELS as OIP_MODELS

TENSOR_NAMES = sorted({name for endpoint in ENDPOINTS for name in endpoint.names})
PARAM_NAMES = sorted({name for endpoint in ENDPOINTS for name in endpoint.params.model_fields})
PATHS = st.sampled_from([endpoint.path for endpoint in ENDPOINTS])
NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([0, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 1e-320, 1e308, -1, 0.5]),
)
SMALL = st.integers(0, 3)


@st.composite
def tensors(draw: st.DrawFn) -> object:
    """Something like a tensor: nested, flat or in base64; mostly of shapes that may fit."""
    shape = draw(st.lists(SMALL, min_size=0, max_size=5) | st.just([1, 2, 2, 4]))
    if draw(st.integers(0, 9)) == 0:  # empty, with the largest sizes that a shape may have
        huge = st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64 - 1])
        shape = [0, *draw(st.lists(huge, max_size=3))]
        return {"shape": shape, "dtype": "float32", "data": []}
    count = 1
    for size in shape:
        count *= size
    if draw(st.booleans()):
        nested: object = draw(NUMBERS | st.booleans())
        for size in reversed(shape):
            nested = [nested] * size
        return nested
    dtype = draw(
        st.sampled_from(
            ["float32", "float16", "bfloat16", "float64", "int64", "int32", "bool", "x"]
        )
    )
    flat = {"shape": shape, "dtype": dtype}
    if draw(st.booleans()):
        return flat | {
            "data": [draw(NUMBERS | st.booleans())] * (count + draw(st.sampled_from([0, 0, 0, 1])))
        }
    size = {"float16": 4, "bfloat16": 4, "float64": 11, "int64": 11, "bool": 4}.get(dtype, 6)
    return flat | {"data": "A" * (size * count // 4 * 4), "encoding": "base64"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["shape", "data", "dtype", "theta", "head_dim"]), inner)
    ),
    max_leaves=6,
)
JUNK = (
    NUMBERS
    | st.sampled_from([None, True, False, "", "x", "half", 1e30, 10**7, 2.5, [], {}, [[]], [None]])
    | st.lists(st.integers(-1, 4) | st.just("x"), max_size=4)
    | st.dictionaries(st.sampled_from(["rope_type", "factor", "full_attention"]), NUMBERS)
    | ANYTHING
)
VARIANT_PARAM_NAMES = sorted(
    {p for e in (*VARIANTS.values(), *SCHEMES.values()) for p in e.parameters}
)
PARAMETER_ROPES = st.fixed_dictionaries(
    {},
    optional={
        "theta": NUMBERS,
        "head_dim": NUMBERS,
        "rotary_dim": NUMBERS,
        "layout": st.sampled_from(["half", "interleaved", "interleaved_tiled", "x"]),
        "rope_type": st.sampled_from([*VARIANTS, "x"]),
        "axes": st.sampled_from([*SCHEMES, "x"]),
        "arithmetic": st.sampled_from(["hf", "float64"]),
        "trailing": st.booleans(),
    },
).flatmap(
    lambda params: st.dictionaries(
        st.sampled_from(VARIANT_PARAM_NAMES),
        NUMBERS | st.lists(SMALL, max_size=4) | JUNK,
        max_size=4,
    ).map(lambda more: params | more)
)
PRESETS = built_in()
BLOCK_KEYS = sorted(
    {*VARIANT_PARAM_NAMES, "type", "rope_type", "rope_theta", "llama_4_scaling_beta"}
)
DEFAULT_KEYS = {key for family in families().values() for key in family.defaults}
CONFIG_KEYS = sorted(
    {key for preset in PRESETS.values() for key in preset.config}
    | {*DEFAULT_KEYS, "no_rope_layers", "layer_rope_theta", "rope_parameters", "rope_scaling"}
    | {"text_config", "vision_config", "thinker_config", "model_type", "_class_name", "head_dim"}
    | {"partial_rotary_factor", "rotary_pct", "rotary_dim", "dim", "axes_dim", "axes_dims_rope"}
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, object]:
    """A config that a model may have, with some of its keys broken."""
    if draw(st.booleans()):
        config: dict[str, object] = dict(PRESETS[draw(st.sampled_from(sorted(PRESETS)))].config)
    else:
        config = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
        config |= {"model_type": draw(st.sampled_from(sorted(families())))}
        if draw(st.integers(0, 4)) == 0:
            config |= {
                "model_type": None,
                "_class_name": draw(st.sampled_from([*diffusers_classes()])),
            }
    block = draw(st.dictionaries(st.sampled_from(BLOCK_KEYS), JUNK, max_size=4))
    if draw(st.booleans()):
        block |= {"rope_type": draw(st.sampled_from([*VARIANTS, "su", "mrope", "xdrope"]))}
    match draw(st.integers(0, 4)):
        case 0:
            config["rope_scaling"] = block
        case 1:
            config["rope_parameters"] = block
        case 2:
            kinds = st.sampled_from(["full_attention", "sliding_attention", "x"])
            config["rope_parameters"] = draw(st.dictionaries(kinds, st.just(block) | JUNK))
    if draw(st.integers(0, 4)) == 0:
        config = {draw(st.sampled_from(["text_config", "vision_config"])): config}
    return config | draw(st.dictionaries(st.sampled_from(CONFIG_KEYS), JUNK, max_size=3))


CONFIG_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "layer": st.integers(-1, 5) | JUNK,
        "layer_type": st.sampled_from(["full_attention", "sliding_attention", "x"]) | JUNK,
        "part": st.sampled_from(["text", "vision", "audio", "indexer"]),
        "compat": st.sampled_from(["5.23", "4.57"]),
        "arithmetic": st.sampled_from(["hf", "float64"]),
        "length": NUMBERS,
    },
)
CONFIG_ROPES = st.builds(
    lambda config, options: {"config": config} | options, configs(), CONFIG_OPTIONS
)
PRESET_NAMES = st.sampled_from([*PRESETS, "x"])
PRESET_ROPES = PRESET_NAMES | st.builds(
    lambda name, options: {"preset": name} | options, PRESET_NAMES, CONFIG_OPTIONS
)
ROPES = PARAMETER_ROPES | CONFIG_ROPES | PRESET_ROPES | JUNK
HEADS = [[[[1, 2, 3, 4]], [[5, 6, 7, 8]]]]  # [1, 2, 1, 4]
GOOD_BODIES = {
    "/v1/rotate": {"q": HEADS, "k": HEADS},
    "/v1/attention": {**dict.fromkeys("qkv", HEADS), "sinks": [1], "mask": [[True, False]]},
    "/v1/cos_sin": {"positions": [0, 1], "rope": {"head_dim": 4}},
    "/v1/shift": {"k": HEADS, "delta": 1},
    "/v1/merge": {"out": HEADS, "lse": [[[1], [2]]]},
    "/v1/resolve": {"rope": "llama-3.1-8b"},
    "/v1/compare": {"rope": "llama-3.1-8b", "other": "llama-3-8b"},
    "/v1/diagnose": {"rope": {"head_dim": 4}, "inv_freq": [1, 0.01]},
    "/v1/positions": {"builder": "grid_positions", "arguments": {"sizes": [2, 2]}},
}
TENSOR_CHANGES = st.just({}) | st.dictionaries(
    st.sampled_from(TENSOR_NAMES), tensors() | st.just(HEADS) | st.just([0, 2]), max_size=2
)
EXTRA_PARAMS = st.just({}) | st.dictionaries(
    st.sampled_from(PARAM_NAMES), ANYTHING | ROPES | NUMBERS | st.booleans(), max_size=2
)


INDICES = st.integers(-3, 9) | st.sampled_from([-(2**63), -(2**62), 2**62 - 1, 2**62, 2**63 - 1])


@st.composite
def inferences(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A request of the Open Inference Protocol, some of its members broken."""
    model = draw(st.sampled_from([*OIP_MODELS.values()]))
    inputs = []
    for slot in model.inputs:
        if slot.optional and draw(st.integers(0, 5)):
            continue
        shape = [1, 2, 1, 4][: len(slot.dims)] if len(slot.dims) > 1 else [2]
        good = {
            "name": slot.name,
            "shape": shape,
            "datatype": slot.datatype,
            "data": [slot.datatype == "BOOL" or 1] * math.prod(shape),
        }
        broken = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])
        if draw(st.integers(0, 4)) == 0:
            good[draw(broken)] = draw(JUNK | NUMBERS | tensors())
        inputs.append(good)
    body: dict[str, object] = {"inputs": inputs, "parameters": {"head_dim": 4}}
    members = st.sampled_from(["inputs", "outputs", "parameters", "id"])
    more = st.dictionaries(
        st.sampled_from([*PARAM_NAMES, *VARIANT_PARAM_NAMES]), NUMBERS | JUNK, max_size=2
    )
    if draw(st.integers(0, 2)) == 0:
        body["parameters"] = draw(more)
    if draw(st.integers(0, 4)) == 0:
        body[draw(members)] = draw(JUNK | ANYTHING)
    return model.name, body
