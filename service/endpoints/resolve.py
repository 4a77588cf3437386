"""`/v1/resolve`: the parameters that a rope resolves to, and where each comes from."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from torch import Tensor

from rope_core.calls import TakenLength, taken_length
from rope_core.own_frequencies import implied_rope_type
from rope_core.pairs import channel_pairs, pair_axis
from rope_core.scaling import scaling, unscaled
from rope_core.sentences import summary
from rope_core.sources import without_model
from service.endpoints.params import ResolveParams
from service.endpoints.rope_params import Rope
from service.endpoints.rope_resolver import RopeResolver
from service.wire import Message, Parameters

_MODEL_FIELDS = (
    *("nope", "model_type", "layer_type", "parameters"),
    *("keys_read", "keys_ignored", "position_keys_not_applied", "warnings"),
)


def answer_resolve(
    _: Mapping[str, Tensor], params: ResolveParams, resolver: RopeResolver
) -> Message:
    """Return frequencies and pairs as tensors, and everything else about the rope as parameters."""
    resolved = resolver.resolve(params.rope, None, None)
    config, model = resolved.config, resolved.model
    facts = without_model(config) if model is None else replace(model, rope=config)
    why = facts.why if model is not None else _why(params.rope, resolved.provenance)
    values: dict[str, Any] = {
        "summary": summary(facts),
        "rotates": config is not None,
        "provenance": dict(resolved.provenance),
        "why": dict(why),
        "lengths": asdict(facts.lengths),
    }
    if model is not None:
        values |= {name: getattr(model, name) for name in _MODEL_FIELDS}
        values["attention"] = asdict(model.attention)
        values["layers"] = [asdict(layers) for layers in model.layers]
    if config is None:
        return Message({}, Parameters.of(values))
    rope = {field.name: getattr(config, field.name) for field in fields(config) if field.init}
    rope |= dict(rope.pop("parameters")) | dict(rope.pop("axes_parameters"))
    if config.rope_type == "inv_freq":
        del rope["theta"]  # not read
    scale = model.attention.scale if model is not None else None
    values |= {
        "rope": rope,
        "attention_scaling": config.attention_scaling,
        "num_axes": config.num_axes,
        "scaling": asdict(scaling(config)),
        "softmax_scale": config.head_dim**-0.5 if scale is None else scale,
    }
    if resolved.length is not None:
        rope["length"] = resolved.length.value  # the library has one value for equal rotations
    if (dependence := config.length_dependence) is not None:
        length = resolved.length or taken_length(config, lambda: TakenLength(0, "no call"))
        values |= length_params("length", length)
        values["length_dependence"] = {
            "above": dependence.above,
            "parameter": dependence.parameter,
            "change": dependence.change,
        }
    tensors = {
        "inv_freq": config.frequency_table.inv_freq,
        "inv_freq_unscaled": unscaled(config).frequency_table.inv_freq,
        "pairs": channel_pairs(config),
        "pair_axis": pair_axis(config),
    }
    return Message(tensors, Parameters.of(values))


def _why(rope: object, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return where the value of each parameter of a rope comes from, in words."""
    assert isinstance(rope, Rope), "every other form has a model"
    listed = implied_rope_type(rope.model_extra or {})
    width = "rope.head_dim" if rope.head_dim is not None else "rope.rotary_dim"
    width = width if listed == "default" else f"2 * length of rope.{listed}"
    derived = {"head_dim": width, "rotary_dim": width}
    derived |= {} if listed == "default" else {"rope_type": f"rope.{listed}"}
    given = {name: f"rope.{name}" for name, source in provenance.items() if source == "given"}
    return dict.fromkeys(provenance, "default") | derived | given


def length_params(name: str, length: TakenLength) -> dict[str, int | str]:
    """Return the parameters of an answer that tell a length, and what decided it."""
    return {name: length.value, f"{name}_source": length.source}
