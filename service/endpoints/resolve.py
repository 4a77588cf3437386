"""`/v1/resolve`: the parameters that a rope resolves to, and where each comes from."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from rope_core.calls import TakenLength, taken_length
from service.endpoints.params import ResolveParams
from service.endpoints.rope_resolver import RopeResolver
from service.wire import Message, Parameters

_MODEL_FIELDS = (
    *("nope", "model_type", "layer_type", "parameters"),
    *("keys_read", "keys_ignored", "position_keys_not_applied", "warnings"),
)


def answer_resolve(
    tensors: Mapping[str, Tensor], params: ResolveParams, resolver: RopeResolver
) -> Message:
    """Return `inv_freq` as a tensor, and everything else about the rope as parameters."""
    resolved = resolver.resolve(params.rope, None, None)
    config, model = resolved.config, resolved.model
    values: dict[str, Any] = {
        "rotates": config is not None,
        "provenance": dict(resolved.provenance),
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
    return Message({"inv_freq": config.frequency_table.inv_freq}, Parameters.of(values))


def length_params(name: str, length: TakenLength) -> dict[str, int | str]:
    """Return the parameters of an answer that tell a length, and what decided it."""
    return {name: length.value, f"{name}_source": length.source}
